/* Frequency matching on plain arrays: arithmetic of atk_frequency.c. */
#ifndef ST_AUDIT_ATK_FREQUENCY_H
#define ST_AUDIT_ATK_FREQUENCY_H

#include "audit/ranking.h"

/* What is expected to be sent, the commonest first: plain id p of the prior stands 1 + copies[p] times (copies NULL: no
 * homophones), its count divided among them. order [n] is the caller's to free. MEMORY. */
int st_frequency_order(const struct st_ranking *prior, const uint32_t *copies, uint32_t **order, uint32_t *n,
                       struct st_err *e) ST_MUST_CHECK;
/* The k plain ids whose places in that order are nearest to the rank of each id that was heard: out [sent->n_used][k],
 * in the order of the ranks of sent. k is at most n. */
void st_frequency_match(const struct st_ranking *sent, const uint32_t *order, uint32_t n, uint32_t k, uint32_t *out);

#endif
