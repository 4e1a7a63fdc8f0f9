/* Matching vectors of weights by direction: what permuting and scaling rows does not hide from whoever has the public
 * weights that they were fine-tuned from. On plain arrays.
 * Source: "Game of Arrows" (ArrowMatch), USENIX Security 2025. */
#ifndef ST_AUDIT_DIRECTIONS_H
#define ST_AUDIT_DIRECTIONS_H

#include "audit/dense.h"

/* For each row of seen [n][d] the row of base [m][d] whose direction it has, or the opposite one. Lengths say nothing;
 * rows of zeros match something. MEMORY. */
int st_directions_match(struct st_pool *pool, const struct st_dense *seen, const struct st_dense *base, uint32_t *guess,
                        struct st_err *e) ST_MUST_CHECK;
/* The same order for the inputs of the matrix behind: column j of seen [n][m] goes to column guess[j] of out [n][m];
 * where several go to one, the last stays. */
void st_directions_follow(const struct st_dense *seen, const uint32_t *guess, struct st_dense *out);

/* What such schemes do: row i of out is row order[i] of base times a factor between 1/2 and 2 of either sign, plus
 * noise of `tuned` times the deviation of base's values: the fine-tune. order [n] is made here. */
int st_directions_shuffle(const struct st_dense *base, double tuned, uint64_t seed, struct st_dense *out,
                          uint32_t *order, struct st_err *e) ST_MUST_CHECK;

#endif
