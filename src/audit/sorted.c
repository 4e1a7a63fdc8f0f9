#include "audit/sorted.h"
#include "base/buf.h"

#include <cblas.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>

#define ROWS 64 /* of one block of work */

struct sorting {
    const struct st_dense *rows, *columns;
    bool absolute;
    struct st_dense *out;
    atomic_bool failed;
};

static void sort_block(void *arg, size_t row, size_t n)
{
    struct sorting *s = arg;
    size_t f = s->columns->n_row, d = s->rows->n_col, k = s->out->n_col;
    struct st_err e;
    float *y = NULL;
    uint32_t *spare = NULL;
    if (st_alloc(&y, n * f, sizeof *y, "sorting", &e) || st_alloc(&spare, 2 * f, sizeof *spare, "sorting", &e)) {
        atomic_store(&s->failed, true);
        free(y);
        return;
    }
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)n, (int)f, (int)d, 1, st_dense_row(s->rows, row), (int)d,
                s->columns->p, (int)d, 0, y, (int)f);
    for (size_t i = 0; s->absolute && i < n * f; i++)
        y[i] = fabsf(y[i]);
    for (size_t r = 0; r < n; r++) {
        st_dense_sort(y + r * f, f, spare);
        for (size_t p = 0; p < k; p++)
            st_dense_row(s->out, row + r)[p] = y[r * f + (k > 1 ? p * (f - 1) / (k - 1) : 0)];
    }
    free(y);
    free(spare);
}

int st_sorted_rows(struct st_pool *pool, const struct st_dense *rows, const struct st_dense *columns, bool absolute,
                   struct st_dense *out, struct st_err *e)
{
    struct sorting s = {.rows = rows, .columns = columns, .absolute = absolute, .out = out};
    size_t f = columns->n_row;
    atomic_init(&s.failed, false);
    if (st_dense_new(out, rows->n_row, f < ST_SORTED_PLACES ? f : ST_SORTED_PLACES, "sorted rows", e))
        return e->code;
    st_dense_blocks(pool, rows->n_row, ROWS, sort_block, &s);
    if (!atomic_load(&s.failed) && !st_pool_cancelled(pool))
        return 0;
    st_dense_free(out);
    if (st_pool_cancelled(pool))
        return st_fail(e, ST_IO, "cancelled");
    return st_fail(e, ST_MEMORY, "sorted rows: no memory for a block of %d", ROWS);
}

double st_sorted_spread(const struct st_dense *points)
{
    double all = 0;
    for (size_t k = 0; k < points->n_col; k++) {
        double sum = 0, squares = 0;
        for (size_t r = 0; r < points->n_row; r++) {
            double x = st_dense_row(points, r)[k];
            sum += x;
            squares += x * x;
        }
        sum /= (double)points->n_row;
        all += fmax(squares / (double)points->n_row - sum * sum, 0);
    }
    return sqrt(all);
}
