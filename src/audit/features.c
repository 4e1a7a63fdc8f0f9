#include "audit/features.h"
#include "base/buf.h"

#include <cblas.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>

#define ROWS 256   /* of one block of work */
#define FLOOR 1e-3 /* of a leverage over its mean: below it noise alone decides */

/* ---- means over neurons ---- */

struct means {
    const struct st_dense *rows, *columns;
    struct st_dense *out;
    size_t at;    /* column of out for the means */
    size_t apart; /* from there to that of the squares; 0 = none */
    atomic_bool failed;
};

static void mean_rows(void *arg, size_t row, size_t n)
{
    struct means *m = arg;
    size_t f = m->columns->n_row, d = m->rows->n_col;
    struct st_err e;
    float *y;
    if (st_alloc(&y, n * f, sizeof *y, "features", &e)) {
        atomic_store(&m->failed, true);
        return;
    }
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)n, (int)f, (int)d, 1, st_dense_row(m->rows, row), (int)d,
                m->columns->p, (int)d, 0, y, (int)f);
    for (size_t r = 0; r < n; r++) {
        double sum = 0, squares = 0;
        for (size_t j = 0; j < f; j++) {
            sum += y[r * f + j];
            squares += (double)y[r * f + j] * y[r * f + j];
        }
        st_dense_row(m->out, row + r)[m->at] = (float)(sum / (double)f);
        if (m->apart)
            st_dense_row(m->out, row + r)[m->at + m->apart] = (float)(squares / (double)f);
    }
    free(y);
}

int st_neuron_means(struct st_pool *pool, const struct st_view *v, const struct st_dense *rows, bool squares,
                    struct st_dense *out, struct st_err *e)
{
    if (st_dense_new(out, rows->n_row, (squares ? 2 : 1) * (size_t)v->n_layer, "features", e))
        return e->code;
    for (uint32_t l = 0; l < v->n_layer; l++) {
        struct means m = {.rows = rows, .columns = &v->columns[l], .out = out, .at = l};
        m.apart = squares ? v->n_layer : 0;
        atomic_init(&m.failed, false);
        st_dense_blocks(pool, rows->n_row, ROWS, mean_rows, &m);
        if (st_pool_cancelled(pool) || atomic_load(&m.failed)) {
            st_dense_free(out);
            if (st_pool_cancelled(pool))
                return st_fail(e, ST_IO, "cancelled");
            return st_fail(e, ST_MEMORY, "features: no memory for a block of %d rows", ROWS);
        }
    }
    return 0;
}

/* ---- leverages ---- */

int st_pair_leverages(struct st_pool *pool, const struct st_dense *rows, const struct st_dense *columns, uint32_t head,
                      bool interleaved, struct st_dense *out, struct st_err *e)
{
    size_t n = rows->n_row, n_pair = columns->n_row / 2, half = head / 2;
    struct st_dense y;
    if (!half || head % 2 || columns->n_row % head)
        return st_fail(e, ST_UNSUPPORTED, "%zu columns are not whole heads of %u with pairs in them", columns->n_row,
                       head);
    if (st_dense_new(&y, n, columns->n_row, "features", e))
        return e->code;
    if (st_dense_new(out, n, n_pair, "features", e)) {
        st_dense_free(&y);
        return e->code;
    }
    st_dense_product(pool, rows, columns, true, &y);
    for (size_t p = 0; p < n_pair; p++) {
        size_t i = p / half * head + (interleaved ? 2 * (p % half) : p % half), j = i + (interleaved ? 1 : half);
        double a = 0, b = 0, c = 0;
        for (size_t r = 0; r < n; r++) {
            double x = st_dense_row(&y, r)[i], z = st_dense_row(&y, r)[j];
            a += x * x;
            b += x * z;
            c += z * z;
        }
        double det = a * c - b * b, by = det > 0 ? (double)n / (2 * det) : 0;
        for (size_t r = 0; r < n; r++) {
            double x = st_dense_row(&y, r)[i], z = st_dense_row(&y, r)[j];
            st_dense_row(out, r)[p] = (float)log(by * fmax(c * x * x - 2 * b * x * z + a * z * z, 0) + FLOOR);
        }
    }
    st_dense_free(&y);
    return 0;
}

int st_noisy_rows(const struct st_dense *rows, const struct st_noise_table *t, double deviation, uint64_t draw,
                  struct st_dense *out, struct st_err *e)
{
    if (st_dense_new(out, rows->n_row, rows->n_col, "noise", e))
        return e->code;
    for (size_t r = 0; r < rows->n_row; r++) {
        const float *z = st_noise_pick(t, draw * 0x9e3779b97f4a7c15U + r, rows->n_col);
        for (size_t k = 0; k < rows->n_col; k++)
            st_dense_row(out, r)[k] = st_dense_row(rows, r)[k] + (float)deviation * z[k];
    }
    return 0;
}
