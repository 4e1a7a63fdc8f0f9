/* Short letters with invented personal data (names of syllables, telephone numbers, dates, addresses), seeded. Nobody
 * is meant by them. For the share of personal items that an attack recovers whole. */
#ifndef ST_AUDIT_RECORDS_H
#define ST_AUDIT_RECORDS_H

#include "base/buf.h"
#include "base/hooks.h"

#define ST_RECORD_ITEMS 8
struct st_letter {
    char text[512];
    struct {
        size_t lo, hi; /* bytes */
    } items[ST_RECORD_ITEMS];
    size_t n_item;
};
void st_letter_make(struct st_rng *rng, struct st_letter *out);

#endif
