#include "audit/homophones.h"
#include "base/buf.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct near {
    uint32_t row;
    float far;
};

static int by_far(const void *a, const void *b)
{
    const struct near *x = a, *y = b;
    return x->far > y->far ? 1 : x->far < y->far ? -1 : x->row < y->row ? -1 : x->row > y->row;
}

static int copy_rows(const struct st_dense *from, const bool *but, struct st_dense *out, struct st_err *e)
{
    size_t n = 0;
    for (size_t r = 0; r < from->n_row; r++)
        n += !but || !but[r];
    if (st_dense_new(out, n, from->n_col, "homophones", e))
        return e->code;
    n = 0;
    for (size_t r = 0; r < from->n_row; r++)
        if (!but || !but[r])
            memcpy(st_dense_row(out, n++), st_dense_row(from, r), from->n_col * sizeof *from->p);
    return 0;
}

/* Rows as seen from the one whose n-th nearest row is nearest. */
static void closest(const struct st_dense *distances, size_t n, struct near *row, struct near *best)
{
    size_t v = distances->n_row;
    float least = FLT_MAX;
    for (size_t r = 0; r < v; r++) {
        for (size_t i = 0; i < v; i++)
            row[i] = (struct near){(uint32_t)i, i == r ? -1 : st_dense_row(distances, r)[i]};
        qsort(row, v, sizeof *row, by_far);
        if (row[n - 1].far < least) {
            least = row[n - 1].far;
            memcpy(best, row, n * sizeof *row);
        }
    }
}

int st_homophones_find(struct st_pool *pool, const struct st_dense *head, size_t n_copy, bool *copy, struct st_err *e)
{
    size_t v = head->n_row;
    struct st_dense x = {0}, y = {0}, distances = {0};
    struct near *row = NULL, *best = NULL;
    e->code = 0;
    memset(copy, 0, v * sizeof *copy);
    if (v > ST_HOMOPHONES_MAX)
        return st_fail(e, ST_UNSUPPORTED, "homophones: %zu ids; this audit compares %d", v, ST_HOMOPHONES_MAX);
    if (n_copy < 2 || n_copy > v)
        return st_fail(e, ST_UNSUPPORTED, "homophones: %zu of %zu ids cannot be told apart", n_copy, v);
    if (copy_rows(head, NULL, &x, e) || copy_rows(head, NULL, &y, e) ||
        st_dense_new(&distances, v, v, "homophones", e) || st_alloc(&row, v, sizeof *row, "homophones", e) ||
        st_alloc(&best, n_copy, sizeof *best, "homophones", e) || st_dense_distances(pool, &x, &y, &distances, e))
        goto out;
    closest(&distances, n_copy, row, best);
    for (size_t i = 0; i < n_copy; i++)
        copy[best[i].row] = true;
out:
    st_dense_free(&x);
    st_dense_free(&y);
    st_dense_free(&distances);
    free(row);
    free(best);
    return e->code;
}

int st_homophones_link(struct st_pool *pool, const struct st_dense *rows, const bool *copy, uint32_t *original,
                       struct st_err *e)
{
    struct st_dense all = {0}, others = {0};
    uint32_t *number = NULL, *nearest = NULL;
    e->code = 0;
    if (copy_rows(rows, NULL, &all, e) || copy_rows(rows, copy, &others, e) ||
        st_alloc(&number, rows->n_row, sizeof *number, "homophones", e) ||
        st_alloc(&nearest, rows->n_row, sizeof *nearest, "homophones", e))
        goto out;
    for (size_t r = 0, n = 0; r < rows->n_row; r++)
        if (!copy[r])
            number[n++] = (uint32_t)r;
    if (!others.n_row) {
        st_fail(e, ST_UNSUPPORTED, "homophones: no id is left that is none");
        goto out;
    }
    if (st_dense_nearest(pool, &all, &others, nearest, NULL, NULL, e))
        goto out;
    for (size_t r = 0; r < rows->n_row; r++)
        original[r] = copy[r] ? number[nearest[r]] : (uint32_t)r;
out:
    st_dense_free(&all);
    st_dense_free(&others);
    free(number);
    free(nearest);
    return e->code;
}
