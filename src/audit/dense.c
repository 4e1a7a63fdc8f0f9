#include "audit/dense.h"
#include "base/buf.h"

#include <cblas.h>
#include <float.h>
#include <lapacke.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define ROWS 128    /* of the left matrix in one block of work */
#define COLUMNS 512 /* rows of the right matrix that distances are held of at a time */

int st_dense_new(struct st_dense *d, size_t n_row, size_t n_col, const char *what, struct st_err *e)
{
    size_t n;
    *d = (struct st_dense){0};
    if (!st_mul_size(n_row, n_col, &n))
        return st_fail(e, ST_MEMORY, "%s: %zu times %zu values are too many", what, n_row, n_col);
    if (st_area_new(&d->area, n ? n : 1, sizeof(float), what, e))
        return e->code;
    d->p = d->area.p;
    d->n_row = n_row;
    d->n_col = n_col;
    return 0;
}

void st_dense_free(struct st_dense *d)
{
    st_area_free(&d->area);
    *d = (struct st_dense){0};
}

/* ---- blocks of rows, dealt to the threads as they come ---- */

struct blocks {
    struct st_pool *pool;
    atomic_size_t next;
    size_t n_row, step;
    void (*run)(void *arg, size_t row, size_t n);
    void *arg;
};

static void block_part(void *arg, int t, int n_threads)
{
    struct blocks *b = arg;
    (void)t;
    (void)n_threads;
    for (size_t row; !st_pool_cancelled(b->pool) && (row = atomic_fetch_add(&b->next, b->step)) < b->n_row;)
        b->run(b->arg, row, b->n_row - row < b->step ? b->n_row - row : b->step);
}

void st_dense_blocks(struct st_pool *pool, size_t n_row, size_t step, void (*run)(void *, size_t, size_t), void *arg)
{
    struct blocks b = {.pool = pool, .n_row = n_row, .step = step, .run = run, .arg = arg};
    atomic_init(&b.next, 0);
    openblas_set_num_threads(1);
    st_pool_run(pool, block_part, &b);
}

/* ---- products ---- */

struct product {
    const struct st_dense *a, *b;
    bool transposed;
    struct st_dense *c;
};

static void product_rows(void *arg, size_t row, size_t n)
{
    const struct product *p = arg;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, p->transposed ? CblasTrans : CblasNoTrans, (int)n, (int)p->c->n_col,
                (int)p->a->n_col, 1, st_dense_row(p->a, row), (int)p->a->n_col, p->b->p, (int)p->b->n_col, 0,
                st_dense_row(p->c, row), (int)p->c->n_col);
}

void st_dense_product(struct st_pool *pool, const struct st_dense *a, const struct st_dense *b, bool b_transposed,
                      struct st_dense *c)
{
    struct product p = {.a = a, .b = b, .transposed = b_transposed, .c = c};
    st_dense_blocks(pool, a->n_row, ROWS, product_rows, &p);
}

/* ---- distances ---- */

static int shift(struct st_dense *a, struct st_dense *b, struct st_err *e)
{
    double *mean;
    if (st_alloc(&mean, b->n_col, sizeof *mean, "distances", e))
        return e->code;
    for (size_t r = 0; r < b->n_row; r++)
        for (size_t k = 0; k < b->n_col; k++)
            mean[k] += st_dense_row(b, r)[k];
    struct st_dense *both[] = {b, a};
    for (int i = 0; i < (a == b ? 1 : 2); i++)
        for (size_t r = 0; r < both[i]->n_row; r++)
            for (size_t k = 0; k < b->n_col; k++)
                st_dense_row(both[i], r)[k] -= (float)(mean[k] / (double)b->n_row);
    free(mean);
    return 0;
}

static float *squares(const struct st_dense *a, struct st_err *e)
{
    float *out;
    if (st_alloc(&out, a->n_row, sizeof *out, "distances", e))
        return NULL;
    for (size_t r = 0; r < a->n_row; r++) {
        double sum = 0;
        for (size_t k = 0; k < a->n_col; k++)
            sum += (double)st_dense_row(a, r)[k] * st_dense_row(a, r)[k];
        out[r] = (float)sum;
    }
    return out;
}

struct distances {
    const struct st_dense *a, *b;
    const float *aa, *bb; /* squares of the rows */
    struct st_dense *out; /* or */
    uint32_t *best;
    float *first, *second;
};

/* Distances of rows [row, row + n) of a to rows [at, at + m) of b, n_col values apart. */
static void distance_tile(const struct distances *d, size_t row, size_t n, size_t at, size_t m, float *out,
                          size_t stride)
{
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)n, (int)m, (int)d->a->n_col, -2, st_dense_row(d->a, row),
                (int)d->a->n_col, st_dense_row(d->b, at), (int)d->b->n_col, 0, out, (int)stride);
    for (size_t r = 0; r < n; r++)
        for (size_t c = 0; c < m; c++) {
            float *x = &out[r * stride + c];
            *x += d->aa[row + r] + d->bb[at + c];
            *x = *x > 0 ? *x : 0;
        }
}

static void distance_rows(void *arg, size_t row, size_t n)
{
    const struct distances *d = arg;
    distance_tile(d, row, n, 0, d->b->n_row, st_dense_row(d->out, row), d->out->n_col);
}

static void nearest_rows(void *arg, size_t row, size_t n)
{
    const struct distances *d = arg;
    float tile[ROWS * COLUMNS], first[ROWS], second[ROWS];
    for (size_t r = 0; r < n; r++) {
        first[r] = second[r] = FLT_MAX;
        d->best[row + r] = 0; /* where no distance is a number */
    }
    for (size_t at = 0; at < d->b->n_row; at += COLUMNS) {
        size_t m = d->b->n_row - at < COLUMNS ? d->b->n_row - at : COLUMNS;
        distance_tile(d, row, n, at, m, tile, COLUMNS);
        for (size_t r = 0; r < n; r++)
            for (size_t c = 0; c < m; c++) {
                float x = tile[r * COLUMNS + c];
                if (x < first[r]) {
                    second[r] = first[r];
                    first[r] = x;
                    d->best[row + r] = (uint32_t)(at + c);
                } else if (x < second[r])
                    second[r] = x;
            }
    }
    if (d->first)
        memcpy(d->first + row, first, n * sizeof *first);
    if (d->second)
        memcpy(d->second + row, second, n * sizeof *second);
}

static int measure(struct st_pool *pool, struct distances *d, struct st_dense *a, struct st_dense *b, struct st_err *e)
{
    float *aa = NULL, *bb = NULL;
    if (shift(a, b, e))
        return e->code;
    aa = squares(a, e);
    if (aa)
        bb = squares(b, e);
    if (bb) {
        d->a = a;
        d->b = b;
        d->aa = aa;
        d->bb = bb;
        st_dense_blocks(pool, a->n_row, ROWS, d->out ? distance_rows : nearest_rows, d);
        e->code = 0;
        if (st_pool_cancelled(pool))
            st_fail(e, ST_IO, "cancelled");
    }
    free(aa);
    free(bb);
    return e->code;
}

int st_dense_distances(struct st_pool *pool, struct st_dense *a, struct st_dense *b, struct st_dense *out,
                       struct st_err *e)
{
    struct distances d = {.out = out};
    return measure(pool, &d, a, b, e);
}

int st_dense_nearest(struct st_pool *pool, struct st_dense *a, struct st_dense *b, uint32_t *best, float *first,
                     float *second, struct st_err *e)
{
    struct distances d = {.best = best, .first = first, .second = second};
    return measure(pool, &d, a, b, e);
}

/* ---- whitening ---- */

int st_dense_whitener(double *c, size_t n, struct st_dense *w, struct st_err *e)
{
    /* C = L L^T; W = L^-T. */
    lapack_int bad = LAPACKE_dpotrf(LAPACK_ROW_MAJOR, 'L', (lapack_int)n, c, (lapack_int)n);
    if (!bad)
        bad = LAPACKE_dtrtri(LAPACK_ROW_MAJOR, 'L', 'N', (lapack_int)n, c, (lapack_int)n);
    if (bad)
        return st_fail(e, ST_INPUT, "whitening: the covariance of %zu values is not positive definite", n);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            st_dense_row(w, i)[j] = i <= j ? (float)c[j * n + i] : 0;
    return 0;
}

void st_dense_standardise(struct st_dense *a)
{
    for (size_t r = 0; r < a->n_row; r++) {
        float *p = st_dense_row(a, r);
        double mean = 0, square = 0;
        for (size_t i = 0; i < a->n_col; i++)
            mean += p[i] / (double)a->n_col;
        for (size_t i = 0; i < a->n_col; i++)
            square += (p[i] - mean) * (p[i] - mean);
        for (size_t i = 0; i < a->n_col; i++)
            p[i] = (float)((p[i] - mean) / (sqrt(square) + 1e-12));
    }
}
