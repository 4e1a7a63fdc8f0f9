/* Ids by how often they occur in a text: all that a substitution of ids leaves as it is, when nothing else is looked
 * at. */
#ifndef ST_AUDIT_RANKING_H
#define ST_AUDIT_RANKING_H

#include "audit/text.h"

struct st_ranking {
    uint32_t *id;    /* [n] by falling count, ties by id: in a vocabulary of merges lower ids are the commoner ones */
    uint32_t *place; /* [n] of each id */
    uint64_t *count; /* [n] of each id */
    uint32_t n, n_used;
    uint64_t total;
};
/* Ids of the text below n. MEMORY; INPUT: an id that is not below n. */
int st_ranking_new(const struct st_texts_ids *t, uint32_t n, struct st_ranking *out, struct st_err *e) ST_MUST_CHECK;
void st_ranking_free(struct st_ranking *r);

/* The k places nearest to `place` of n, the nearest first, k <= n. */
void st_ranking_near(uint32_t place, uint32_t n, uint32_t k, uint32_t *out);

#endif
