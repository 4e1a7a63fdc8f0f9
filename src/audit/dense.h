/* Arithmetic of attacks on dense f32 matrices, row-major: products, distances, sorted rows, nearest rows, assignment,
 * whitening. Over OpenBLAS and LAPACK, which run on one thread each inside our pool. Work is cut into blocks of fixed
 * size, so results do not depend on the number of threads. Shapes are the caller's to get right. */
#ifndef ST_AUDIT_DENSE_H
#define ST_AUDIT_DENSE_H

#include "base/mem.h"
#include "base/pool.h"

#include <stdbool.h>
#include <stdint.h>

struct st_dense {
    float *p; /* [n_row][n_col] */
    size_t n_row, n_col;
    struct st_area area;
};
/* Zeros. MEMORY names `what`. */
int st_dense_new(struct st_dense *d, size_t n_row, size_t n_col, const char *what, struct st_err *e) ST_MUST_CHECK;
void st_dense_free(struct st_dense *d);
static inline float *st_dense_row(const struct st_dense *d, size_t r)
{
    return d->p + r * d->n_col;
}

/* run(arg, row, n) for every block of at most `step` rows of n_row, dealt to the threads as they come. A pool that is
 * cancelled (base/pool.h) leaves blocks out: what returns an error here is then IO, what returns nothing leaves values
 * as they were, and whoever goes on must ask. */
void st_dense_blocks(struct st_pool *pool, size_t n_row, size_t step, void (*run)(void *arg, size_t row, size_t n),
                     void *arg);

/* c = a b, or a b^T; c's shape is checked by assertion of the caller's: [a.n_row][b.n_col or b.n_row]. */
void st_dense_product(struct st_pool *pool, const struct st_dense *a, const struct st_dense *b, bool b_transposed,
                      struct st_dense *c);
/* Values ascending, in place; spare [2 n]. */
void st_dense_sort(float *values, size_t n, uint32_t *spare);
/* Each row ascending, in place. MEMORY. */
int st_dense_sort_rows(struct st_pool *pool, struct st_dense *a, struct st_err *e) ST_MUST_CHECK;
/* Each row less its mean, divided by its norm: products of two such rows are correlations. */
void st_dense_standardise(struct st_dense *a);
/* Squared distances [a.n_row][b.n_row], never negative. Both are shifted by the mean of b's rows first (their values
 * change), which keeps f32 exact enough. */
int st_dense_distances(struct st_pool *pool, struct st_dense *a, struct st_dense *b, struct st_dense *out,
                       struct st_err *e) ST_MUST_CHECK;

/* Of each row of a the nearest row of b, and the squared distances to it and to the second nearest, without the whole
 * matrix of distances. first, second may be NULL. */
int st_dense_nearest(struct st_pool *pool, struct st_dense *a, struct st_dense *b, uint32_t *best, float *first,
                     float *second, struct st_err *e) ST_MUST_CHECK;

/* One column for each row so that the sum of cost [n][n] is least (Jonker and Volgenant, Computing 38, 1987): O(n^3) at
 * worst, n to a few thousand. INPUT: a cost that is not finite; MEMORY. */
int st_dense_assign(const struct st_dense *cost, uint32_t *column, struct st_err *e) ST_MUST_CHECK;

/* W [n][n] with W W^T = C^-1, for rows: x W is white when x has covariance C [n][n] (double, symmetric, changed).
 * INPUT when C is not positive definite. */
int st_dense_whitener(double *c, size_t n, struct st_dense *w, struct st_err *e) ST_MUST_CHECK;

#endif
