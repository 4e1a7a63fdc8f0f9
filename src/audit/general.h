/* Ordinary English for an adversary who knows nothing of what is written: openings of books and speeches of the 18th
 * and 19th century, all in the public domain. Documents are separated by empty lines. */
#ifndef ST_AUDIT_GENERAL_H
#define ST_AUDIT_GENERAL_H

extern const char st_general_text[];

#endif
