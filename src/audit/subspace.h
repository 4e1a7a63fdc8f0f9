/* Rows that hide behind a mask of low rank, seen from outside the mask: the directions in which masks are weakest, rows
 * in those directions, and the nearest of known rows there. In double where masks cancel, for they are much larger than
 * what they hide. Shapes are the caller's to get right.
 *
 * Source: null space of a known factor, papers on ReMO (arXiv 2603.00196); strongest directions of traffic are
 * principal components. Both are one computation: of rows that span the masks, or are dominated by them. */
#ifndef ST_AUDIT_SUBSPACE_H
#define ST_AUDIT_SUBSPACE_H

#include "audit/dense.h"

/* The d - m orthonormal directions rest [d - m][d] in which rows [n][d] are weakest, m <= d: the null space of m rows,
 * or what is left when the m strongest directions of many are taken away. MEMORY; INPUT when the rows are not finite.
 */
int st_subspace_rest(const double *rows, size_t n, size_t d, size_t m, double *rest, struct st_err *e) ST_MUST_CHECK;

/* Of each row [n][d] the number of the row of table [v][d] that is nearest in the directions rest [k][d]. by_angle:
 * lengths say nothing (rows at an unknown scale). With k = 0 everything is as near: row 0. */
int st_subspace_match(struct st_pool *pool, const double *rows, size_t n, const struct st_dense *table,
                      const double *rest, size_t k, bool by_angle, uint32_t *got, struct st_err *e) ST_MUST_CHECK;

/* out [n][k] = rows [n][d] in the directions rest [k][d]. */
void st_subspace_project(const double *rows, size_t n, size_t d, const double *rest, size_t k, float *out);

#endif
