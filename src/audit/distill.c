#include "audit/distill.h"
#include "base/buf.h"

#include <cblas.h>
#include <lapacke.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double ridges[] = {1e-4, 1e-2, 1};

#define N_RIDGE (sizeof ridges / sizeof *ridges)

uint32_t st_distill_largest(const float *row, size_t v)
{
    size_t best = 0;
    for (size_t i = 1; i < v; i++)
        if (row[i] > row[best])
            best = i;
    return (uint32_t)best;
}

/* ---- the space of logits ---- */

/* Withheld values one below the least that was given, mean 0. */
static void centre(const float *row, size_t v, double *out)
{
    double least = INFINITY, mean = 0;
    for (size_t i = 0; i < v; i++)
        least = isfinite(row[i]) && row[i] < least ? row[i] : least;
    for (size_t i = 0; i < v; i++) {
        out[i] = isfinite(row[i]) ? row[i] : isfinite(least) ? least - 1 : 0;
        mean += out[i] / (double)v;
    }
    for (size_t i = 0; i < v; i++)
        out[i] -= mean;
}

int st_distill_span(const struct st_dense *logits, size_t d, double *basis, double *singular, struct st_err *e)
{
    size_t n = logits->n_row, v = logits->n_col, k = n < v ? n : v;
    double *m = NULL, *vt = NULL, *u = NULL;
    openblas_set_num_threads(1);
    int rc = st_alloc(&m, n, v * sizeof *m, "logits", e);
    if (!rc)
        rc = st_alloc(&vt, k, v * sizeof *vt, "logits", e);
    if (!rc)
        rc = st_alloc(&u, n, k * sizeof *u, "logits", e);
    if (!rc) {
        for (size_t r = 0; r < n; r++)
            centre(st_dense_row(logits, r), v, m + r * v);
        memset(singular, 0, n * sizeof *singular);
        if (LAPACKE_dgesdd(LAPACK_ROW_MAJOR, 'S', (lapack_int)n, (lapack_int)v, m, (lapack_int)v, singular, u,
                           (lapack_int)k, vt, (lapack_int)v))
            rc = st_fail(e, ST_MEMORY, "logits: no decomposition of %zu rows of %zu values", n, v);
    }
    if (!rc) {
        memset(basis, 0, d * v * sizeof *basis);
        memcpy(basis, vt, (d < k ? d : k) * v * sizeof *basis);
    }
    free(m);
    free(vt);
    free(u);
    return rc;
}

size_t st_distill_width(const double *singular, size_t n)
{
    size_t best = 0;
    double step = 0;
    for (size_t i = 0; i + 1 < n; i++) {
        double s = singular[i] / (singular[i + 1] + 1e-12 * singular[0] + 1e-300);
        if (s > step) {
            step = s;
            best = i + 1;
        }
    }
    return best;
}

int st_distill_shares(const double *basis, const struct st_dense *head, double *shares, struct st_err *e)
{
    size_t v = head->n_row, d = head->n_col;
    double *q = NULL, *tau = NULL, *c = NULL;
    int rc = st_alloc(&q, v, d * sizeof *q, "the last layer", e);
    if (!rc)
        rc = st_alloc(&tau, d, sizeof *tau, "the last layer", e);
    if (!rc)
        rc = st_alloc(&c, d, d * sizeof *c, "the last layer", e);
    for (size_t k = 0; !rc && k < d; k++) {
        double mean = 0;
        for (size_t r = 0; r < v; r++)
            mean += st_dense_row(head, r)[k] / (double)v;
        for (size_t r = 0; r < v; r++)
            q[r * d + k] = st_dense_row(head, r)[k] - mean;
    }
    if (!rc && (LAPACKE_dgeqrf(LAPACK_ROW_MAJOR, (lapack_int)v, (lapack_int)d, q, (lapack_int)d, tau) ||
                LAPACKE_dorgqr(LAPACK_ROW_MAJOR, (lapack_int)v, (lapack_int)d, (lapack_int)d, q, (lapack_int)d, tau)))
        rc = st_fail(e, ST_MEMORY, "the last layer: no basis of %zu columns", d);
    if (!rc) {
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)d, (int)d, (int)v, 1, basis, (int)v, q, (int)d, 0,
                    c, (int)d);
        for (size_t i = 0; i < d; i++)
            shares[i] = cblas_ddot((int)d, c + i * d, 1, c + i * d, 1);
    }
    free(q);
    free(tau);
    free(c);
    return rc;
}

/* ---- a student ---- */

void st_distill_residual(const float *base, float *reply, size_t v)
{
    double shift = 0;
    float least = INFINITY;
    size_t given = 0;
    for (size_t i = 0; i < v; i++)
        if (isfinite(reply[i])) {
            shift += (double)base[i] - (double)reply[i];
            given++;
        }
    shift = given ? shift / (double)given : 0;
    for (size_t i = 0; i < v; i++)
        if (isfinite(reply[i]) && reply[i] < least)
            least = reply[i];
    for (size_t i = 0; i < v; i++) {
        double now = base[i], least_now = (double)least + shift;
        if (isfinite(reply[i]))
            reply[i] = (float)((double)reply[i] + shift - now);
        else
            reply[i] = given && now > least_now ? (float)(least_now - now) : 0;
    }
}

static struct st_dense part(const struct st_dense *of, size_t row, size_t n)
{
    return (struct st_dense){.p = st_dense_row(of, row), .n_row = n, .n_col = of->n_col};
}

struct sums {
    const struct st_dense *x, *r;
    struct st_dense *out; /* [v][d] = r^T x */
};

static void sum_columns(void *arg, size_t row, size_t n)
{
    const struct sums *s = arg;
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)n, (int)s->x->n_col, (int)s->x->n_row, 1, s->r->p + row,
                (int)s->r->n_col, s->x->p, (int)s->x->n_col, 0, st_dense_row(s->out, row), (int)s->x->n_col);
}

/* delta = (r^T x) (x^T x + ridge I)^-1. */
static int solve(struct st_pool *pool, const struct st_dense *x, const struct st_dense *r, double ridge,
                 struct st_dense *delta, struct st_err *e)
{
    size_t d = x->n_col;
    float *gram = NULL;
    double trace = 0;
    struct sums s = {.x = x, .r = r, .out = delta};
    if (st_alloc(&gram, d, d * sizeof *gram, "student", e))
        return e->code;
    openblas_set_num_threads(1);
    cblas_ssyrk(CblasRowMajor, CblasUpper, CblasTrans, (int)d, (int)x->n_row, 1, x->p, (int)d, 0, gram, (int)d);
    for (size_t k = 0; k < d; k++)
        trace += gram[k * d + k];
    for (size_t k = 0; k < d; k++)
        gram[k * d + k] += (float)(ridge * trace / (double)d + 1e-12);
    st_dense_blocks(pool, delta->n_row, 64, sum_columns, &s);
    int rc = 0;
    /* Rows of delta are right sides: of the column-major system its transpose. */
    if (LAPACKE_sposv(LAPACK_COL_MAJOR, 'L', (lapack_int)d, (lapack_int)delta->n_row, gram, (lapack_int)d, delta->p,
                      (lapack_int)d))
        rc = st_fail(e, ST_INPUT, "student: hidden states with no inverse");
    free(gram);
    return rc;
}

struct answers {
    const struct st_dense *x, *own, *delta;
    uint32_t *got;
    float *scratch; /* [block][v], as own */
};

static void answer_rows(void *arg, size_t row, size_t n)
{
    const struct answers *a = arg;
    size_t v = a->own->n_col, d = a->x->n_col;
    for (size_t r = row; r < row + n; r++) {
        const float *z = st_dense_row(a->own, r);
        if (a->delta) {
            float *t = a->scratch + r * v;
            memcpy(t, z, v * sizeof *t);
            cblas_sgemv(CblasRowMajor, CblasNoTrans, (int)v, (int)d, 1, a->delta->p, (int)d, st_dense_row(a->x, r), 1,
                        1, t, 1);
            z = t;
        }
        a->got[r] = st_distill_largest(z, v);
    }
}

int st_distill_answers(struct st_pool *pool, const struct st_dense *x, const struct st_dense *own,
                       const struct st_dense *delta, uint32_t *got, struct st_err *e)
{
    struct st_dense scratch = {0};
    struct answers a = {.x = x, .own = own, .delta = delta, .got = got};
    if (delta && st_dense_new(&scratch, own->n_row, own->n_col, "student", e))
        return e->code;
    a.scratch = scratch.p;
    st_dense_blocks(pool, own->n_row, 32, answer_rows, &a);
    st_dense_free(&scratch);
    return 0;
}

static int agreement(struct st_pool *pool, const struct st_distill_rows *rows, size_t from,
                     const struct st_dense *delta, uint32_t *got, size_t *hits, struct st_err *e)
{
    size_t n = rows->x->n_row - from;
    struct st_dense x = part(rows->x, from, n), own = part(rows->own, from, n);
    int rc = st_distill_answers(pool, &x, &own, delta, got, e);
    *hits = 0;
    for (size_t i = 0; !rc && i < n; i++)
        *hits += got[i] == rows->best[from + i];
    return rc;
}

int st_distill_fit(struct st_pool *pool, const struct st_distill_rows *rows, struct st_dense *delta, double *ridge,
                   struct st_err *e)
{
    size_t n = rows->x->n_row, from = n - n / 5, most, hits;
    struct st_dense x = part(rows->x, 0, from), r = part(rows->r, 0, from);
    uint32_t *got;
    *ridge = INFINITY;
    if (st_alloc(&got, n - from ? n - from : 1, sizeof *got, "student", e))
        return e->code;
    int rc = agreement(pool, rows, from, NULL, got, &most, e);
    for (size_t i = 0; !rc && i < N_RIDGE; i++) {
        rc = solve(pool, &x, &r, ridges[i], delta, e);
        if (!rc)
            rc = agreement(pool, rows, from, delta, got, &hits, e);
        if (!rc && hits > most) {
            most = hits;
            *ridge = ridges[i];
        }
    }
    if (!rc && isfinite(*ridge))
        rc = solve(pool, rows->x, rows->r, *ridge, delta, e);
    else if (!rc)
        memset(delta->p, 0, delta->n_row * delta->n_col * sizeof *delta->p);
    free(got);
    return rc;
}
