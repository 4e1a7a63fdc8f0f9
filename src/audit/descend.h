/* Gradient inversion of internal states: a soft input is sought, one vector for each token, that makes the base model
 * hold the states that were seen, by descending from a random start. Its nearest embedding rows are then the guess.
 * Hidden states come mapped into the base's space; products q.k are taken head by head as they stand, as published
 * (sorted over heads, which no order of heads changes, the descent found next to nothing on the base itself). Source:
 * arXiv 2603.01499, app. F (papers/attacks.md A8). */
#ifndef ST_AUDIT_DESCEND_H
#define ST_AUDIT_DESCEND_H

#include "audit/blocks.h"

#include <signal.h>

struct st_descent {
    const struct st_blocks *blocks; /* the layers up to the one that was seen */
    uint32_t n;                     /* tokens */
    const float *hidden;            /* [n][d] after the last of the layers, or NULL: */
    const float *scores;            /* [n_head][n][n] of it, row: the query; those of later keys count not */
    const float *first;             /* [d] the first token's row, which is known */
    double spread;                  /* deviation of embedding rows' values: where the descent begins, and its steps */
    uint32_t n_step;
    uint64_t seed;
    const volatile sig_atomic_t *cancel; /* may be NULL */
};
/* x [n][d] is what was found. IO: cancelled; MEMORY. */
int st_descend(const struct st_descent *d, float *x, struct st_err *e) ST_MUST_CHECK;

#endif
