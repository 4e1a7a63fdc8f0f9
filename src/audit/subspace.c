#include "audit/subspace.h"
#include "base/buf.h"

#include <cblas.h>
#include <lapacke.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK 512 /* rows that are turned to double and projected at a time */

int st_subspace_rest(const double *rows, size_t n, size_t d, size_t m, double *rest, struct st_err *e)
{
    double *gram = NULL, *value = NULL;
    if (st_alloc(&gram, d, d * sizeof *gram, "directions of masks", e) ||
        st_alloc(&value, d, sizeof *value, "directions of masks", e)) {
        free(gram);
        return e->code;
    }
    openblas_set_num_threads(1);
    cblas_dsyrk(CblasRowMajor, CblasUpper, CblasTrans, (int)d, (int)n, 1, rows, (int)d, 0, gram, (int)d);
    /* Eigenvalues ascend, and the rows of the transposed result are their vectors: column-major saves the turn. */
    lapack_int bad = LAPACKE_dsyevd(LAPACK_COL_MAJOR, 'V', 'L', (lapack_int)d, gram, (lapack_int)d, value);
    int rc = bad ? st_fail(e, ST_INPUT, "directions of masks: rows of %zu values are not finite", d) : 0;
    if (!rc)
        memcpy(rest, gram, (d - m) * d * sizeof *rest);
    free(gram);
    free(value);
    return rc;
}

void st_subspace_project(const double *rows, size_t n, size_t d, const double *rest, size_t k, float *out)
{
    for (size_t r = 0; r < n; r++)
        for (size_t i = 0; i < k; i++)
            out[r * k + i] = (float)cblas_ddot((int)d, rows + r * d, 1, rest + i * d, 1);
}

static void to_length_one(struct st_dense *a)
{
    for (size_t r = 0; r < a->n_row; r++) {
        float *p = st_dense_row(a, r);
        float size = cblas_snrm2((int)a->n_col, p, 1);
        if (size > 0)
            cblas_sscal((int)a->n_col, 1 / size, p, 1);
    }
}

/* The table has no masks in it: f32 does. */
static int project_table(struct st_pool *pool, const struct st_dense *table, const double *rest, size_t k,
                         struct st_dense *out, struct st_err *e)
{
    struct st_dense q;
    if (st_dense_new(&q, k, table->n_col, "directions of masks", e))
        return e->code;
    for (size_t i = 0; i < k * table->n_col; i++)
        q.p[i] = (float)rest[i];
    int rc = st_dense_new(out, table->n_row, k, "known rows", e);
    if (!rc)
        st_dense_product(pool, table, &q, true, out);
    st_dense_free(&q);
    return rc;
}

static int project_rows(const double *rows, size_t n, size_t d, const double *rest, size_t k, struct st_dense *out,
                        struct st_err *e)
{
    double *wide;
    if (st_dense_new(out, n, k, "masked rows", e) || st_alloc(&wide, BLOCK, k * sizeof *wide, "masked rows", e))
        return e->code;
    for (size_t at = 0; at < n; at += BLOCK) {
        size_t some = n - at < BLOCK ? n - at : BLOCK;
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)some, (int)k, (int)d, 1, rows + at * d, (int)d, rest,
                    (int)d, 0, wide, (int)k);
        for (size_t i = 0; i < some * k; i++)
            out->p[at * k + i] = (float)wide[i];
    }
    free(wide);
    return 0;
}

int st_subspace_match(struct st_pool *pool, const double *rows, size_t n, const struct st_dense *table,
                      const double *rest, size_t k, bool by_angle, uint32_t *got, struct st_err *e)
{
    struct st_dense seen = {0}, known = {0};
    memset(got, 0, n * sizeof *got);
    if (k == 0 || n == 0)
        return 0;
    int rc = project_rows(rows, n, table->n_col, rest, k, &seen, e);
    if (!rc)
        rc = project_table(pool, table, rest, k, &known, e);
    if (!rc && by_angle) {
        to_length_one(&seen);
        to_length_one(&known);
    }
    if (!rc)
        rc = st_dense_nearest(pool, &seen, &known, got, NULL, NULL, e);
    st_dense_free(&seen);
    st_dense_free(&known);
    return rc;
}
