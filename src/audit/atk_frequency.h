/* Frequency matching on plain arrays: arithmetic of atk_frequency.c. */
#ifndef ST_AUDIT_ATK_FREQUENCY_H
#define ST_AUDIT_ATK_FREQUENCY_H

#include "audit/ranking.h"

/* The k plain ids whose rank in the prior is nearest to that of each id that was heard: out [sent->n_used][k], in the
 * order of the ranks of sent. k is at most prior->n. */
void st_frequency_match(const struct st_ranking *sent, const struct st_ranking *prior, uint32_t k, uint32_t *out);

#endif
