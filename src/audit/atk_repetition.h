/* What repeats in messages of ids: what all begin and end with, which are alike, which one goes on. Arithmetic of
 * atk_repetition.c on plain arrays; messages are the documents of a text. */
#ifndef ST_AUDIT_ATK_REPETITION_H
#define ST_AUDIT_ATK_REPETITION_H

#include "audit/text.h"

/* How many first places (last ones, counted from the end) of all messages hold at most `kinds` different ids each: 1
 * for what is always the same, more where tokens have so many ids. A place at which a message has ended is none. */
int st_repeat_frame(const struct st_texts_ids *t, bool at_end, uint32_t kinds, size_t *n,
                    struct st_err *e) ST_MUST_CHECK;

/* The share of the places of message a that hold the same id in message b, the first b begins with as many: 0 when b is
 * shorter. `skip` first places count for nothing: all have them. */
double st_repeat_share(const struct st_texts_ids *t, size_t a, size_t b, size_t skip);

/* For each message the other one of the same length that is most like it, and for each the longest shorter one that it
 * begins with; t->n = none. A share counts from `least` on. out [t->n]. */
void st_repeat_equal(const struct st_texts_ids *t, size_t skip, double least, size_t *out);
void st_repeat_before(const struct st_texts_ids *t, size_t skip, double least, size_t *out);

#endif
