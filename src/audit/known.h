/* What an adversary was given: pairs of a plain id and its cipher id. Special ids and the words of a chat template are
 * fixed, text that he planted is known, and the commonest ids of public text are soon guessed. Scores count the ids
 * that he was not given. */
#ifndef ST_AUDIT_KNOWN_H
#define ST_AUDIT_KNOWN_H

#include "audit/attack.h"
#include "audit/regress.h"

struct st_known {
    uint32_t *seen, *base; /* [n] */
    size_t n;
};
/* n pairs at most: of the ids that the prior text has most of (common), or drawn by the seed; of an id with several
 * cipher ids the first. */
int st_known_pick(const struct st_audit *a, size_t n, bool common, struct st_known *out,
                  struct st_err *e) ST_MUST_CHECK;
void st_known_free(struct st_known *k);
static inline struct st_pairs st_known_pairs(const struct st_known *k)
{
    return (struct st_pairs){k->seen, k->base, k->n};
}

/* Rows "variant: types" and "variant: text" of the ids that were not given. UNSUPPORTED: the text has no others. */
int st_known_report(const struct st_audit *a, const char *variant, const uint32_t *guess, const struct st_known *k,
                    const char *note, struct st_rows *rows, struct st_err *e) ST_MUST_CHECK;

#endif
