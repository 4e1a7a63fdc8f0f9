/* Maps between rows that were seen and rows of the base, learned from pairs that are known to belong together. Both
 * sides are whitened first, after which what the hidden-state key leaves is a rotation, whatever it did to lengths.
 *
 * Limits: the map has d x d values; about d pairs determine it, fewer only its strongest directions.
 * Source: papers/attacks.md A3; P. Schoenemann, Psychometrika 31, 1966 (Procrustes). */
#ifndef ST_AUDIT_REGRESS_H
#define ST_AUDIT_REGRESS_H

#include "audit/dense.h"

/* out [n][k]: rows minus their mean in their k <= n_col strongest directions, strongest first, each over the root of
 * its variance plus `add` (what noise adds to it on the other side). Signs: positive third moments, so that two
 * sides which differ by a rotation come out alike where the variances are apart. MEMORY; INPUT: not finite. */
int st_whiten_rows(struct st_pool *pool, const struct st_dense *rows, size_t k, double add, struct st_dense *out,
                   struct st_err *e) ST_MUST_CHECK;
/* Each row at length 1, in place; rows of zeros stay. */
void st_unit_rows(struct st_dense *rows);
/* Column means [n_col] are taken away, in place. */
int st_centre_rows(struct st_dense *rows, struct st_err *e) ST_MUST_CHECK;

/* Pairs: row seen[i] of y belongs to row base[i] of x, n of them. */
struct st_pairs {
    const uint32_t *seen, *base;
    size_t n;
};
/* map [y.n_col][x.n_col] = (Y^T Y + ridge I)^-1 Y^T X over the pairs; ridge > 0. */
int st_fit_ridge(const struct st_dense *y, const struct st_dense *x, const struct st_pairs *p, double ridge,
                 struct st_dense *map, struct st_err *e) ST_MUST_CHECK;
/* The rotation U V^T of Y^T X = U S V^T; both sides have as many columns. */
int st_fit_turn(const struct st_dense *y, const struct st_dense *x, const struct st_pairs *p, struct st_dense *map,
                struct st_err *e) ST_MUST_CHECK;

/* For each row of y [n_seen][k] the row of x [n][k] that it is most like by angle after a map from the pairs: the best
 * of a rotation and four ridges, judged by every fourth pair, which the maps are not learned from. n_round > 0: then
 * the surest guesses join the pairs, more of them in each round (bootstrapping), and the last matching is one to one
 * where numbers allow. Without pairs the rows are compared as they are in the first round, which needs st_whiten_rows's
 * signs. guess [n_seen]; before [n_seen]: the guess before the rounds, NULL = not wanted. */
int st_pairs_match(struct st_pool *pool, const struct st_dense *y, const struct st_dense *x, const struct st_pairs *p,
                   unsigned n_round, uint32_t *before, uint32_t *guess, struct st_err *e) ST_MUST_CHECK;

#endif
