#include "base/buf.h"
#include "protect/covariant/frame.h"

#include <cblas.h>
#include <lapacke.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The condition of B is 2.4 at lambda .3 whatever d; at lambda 1 it is a matter of luck (70 to 5000). */
#define CONDITION_MAX 500.0
#define DRAWS_MAX 16
#define POWER_STEPS 40

/* Working memory of one frame; all [rows, columns] row-major. */
struct draw {
    uint32_t d, h, wide;
    double *b, *inverse; /* [d, d] */
    double *e, *f;       /* [d, h], [h, d] */
    double *c;           /* [d, h] */
    double *n_e, *n_f;   /* [h/2, h]: rows span {v : E v = 0} and {v : v F = 0} */
    double *z;           /* [wide, wide] */
    double *left;        /* [d, wide]: [B C E], then [B^-T F^T 0] */
};

static void normals(struct st_stream *s, double std, double *out, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out[i] = std * st_stream_normal(s);
}

/* c [m, n] = a b, with a [m, k] and b [k, n] or their transposes. */
static void product(CBLAS_TRANSPOSE ta, CBLAS_TRANSPOSE tb, uint32_t m, uint32_t n, uint32_t k, const double *a,
                    uint32_t lda, const double *b, uint32_t ldb, double *c, uint32_t ldc)
{
    cblas_dgemm(CblasRowMajor, ta, tb, (int)m, (int)n, (int)k, 1, a, (int)lda, b, (int)ldb, 0, c, (int)ldc);
}

/* Largest singular value of m [n, n], from below, by power iteration on m^T m. x, y [n]. */
static double largest(const double *m, uint32_t n, double *x, double *y)
{
    double norm = 0;
    for (uint32_t i = 0; i < n; i++)
        x[i] = 1 + (i % 7) * 0.1; /* any start that no singular vector is likely to be orthogonal to */
    for (int step = 0; step < POWER_STEPS; step++) {
        double len = cblas_dnrm2((int)n, x, 1);
        cblas_dscal((int)n, 1 / len, x, 1);
        cblas_dgemv(CblasRowMajor, CblasNoTrans, (int)n, (int)n, 1, m, (int)n, x, 1, 0, y, 1);
        norm = cblas_dnrm2((int)n, y, 1);
        cblas_dgemv(CblasRowMajor, CblasTrans, (int)n, (int)n, 1, m, (int)n, y, 1, 0, x, 1);
    }
    return norm;
}

/* inverse = b^-1. False when b is singular. */
static bool invert(const struct draw *w, int *pivots)
{
    int n = (int)w->d;
    memcpy(w->inverse, w->b, (size_t)w->d * w->d * sizeof *w->b);
    return LAPACKE_dgetrf(LAPACK_ROW_MAJOR, n, n, w->inverse, n, pivots) == 0 &&
           LAPACKE_dgetri(LAPACK_ROW_MAJOR, n, w->inverse, n, pivots) == 0;
}

/* B = U + lambda V, drawn again while its condition is bad. */
static int draw_b(struct draw *w, double lambda, struct st_stream *s, struct st_err *e)
{
    size_t size = (size_t)w->d * w->d;
    double *x = NULL;
    int *pivots = NULL;
    double condition = INFINITY;
    int rc = st_cov_doubles(&x, 2 * (size_t)w->d, "frame matrix", e);
    if (!rc)
        rc = st_alloc(&pivots, w->d, sizeof *pivots, "frame matrix", e);
    for (int i = 0; !rc && i < DRAWS_MAX && !(condition <= CONDITION_MAX); i++) {
        rc = st_cov_haar(s, w->d, w->b, e);
        for (size_t j = 0; !rc && lambda > 0 && j < size; j++)
            w->b[j] += lambda / sqrt(w->d) * st_stream_normal(s);
        if (!rc && invert(w, pivots))
            condition = largest(w->b, w->d, x, x + w->d) * largest(w->inverse, w->d, x, x + w->d);
    }
    if (!rc && !(condition <= CONDITION_MAX))
        rc = st_fail(e, ST_USAGE,
                     "lambda %g: no well-conditioned key matrix of %u in %d draws; want a smaller one (0.3 is the "
                     "paper's)",
                     lambda, w->d, DRAWS_MAX);
    st_cov_doubles_free(x, 2 * (size_t)w->d);
    free(pivots);
    return rc;
}

/* out [h/2, h]: an orthonormal basis of what is orthogonal to the h/2 columns of a [h, h/2]: the last columns of the
 * full Q of its QR. square [h, h] is working memory. */
static int null_rows(uint32_t h, const double *a, uint32_t a_row, uint32_t a_col, double *square, double *out,
                     struct st_err *e)
{
    uint32_t half = h / 2;
    double *tau;
    int rc = st_cov_doubles(&tau, half, "frame matrix", e);
    if (rc)
        return rc;
    for (uint32_t i = 0; i < h; i++)
        for (uint32_t j = 0; j < half; j++)
            square[(size_t)j * h + i] = a[i * (size_t)a_row + j * (size_t)a_col]; /* by columns, as LAPACK wants it */
    int n = (int)h, k = (int)half;
    int bad = LAPACKE_dgeqrf(LAPACK_COL_MAJOR, n, k, square, n, tau);
    if (!bad)
        bad = LAPACKE_dorgqr(LAPACK_COL_MAJOR, n, n, k, square, n, tau);
    if (bad)
        rc = st_fail(e, ST_MEMORY, "null space of %u: LAPACK error %d", h, bad);
    else
        cblas_dcopy(n * k, square + (size_t)half * h, 1, out, 1);
    st_cov_doubles_free(tau, half);
    return rc;
}

/* E = E1 E2 and F = F1 F2 of rank h/2 with entries of variance 1/d, their null spaces, and C = s G N_F. */
static int draw_low_rank(struct draw *w, struct st_stream *s, struct st_err *e)
{
    uint32_t d = w->d, h = w->h, half = h / 2;
    size_t tall = (size_t)d * half, small = (size_t)half * h, n = 2 * tall + 2 * small + (size_t)h * h;
    double *work, std = 1 / sqrt(d);
    int rc = st_cov_doubles(&work, n, "frame matrix", e);
    if (rc)
        return rc;
    double *e1 = work, *f2 = e1 + tall, *e2 = f2 + tall, *f1 = e2 + small, *square = f1 + small;
    normals(s, std, work, 2 * tall + 2 * small);
    product(CblasNoTrans, CblasNoTrans, d, h, half, e1, half, e2, h, w->e, h);
    product(CblasNoTrans, CblasNoTrans, h, d, half, f1, half, f2, d, w->f, d);
    rc = null_rows(h, e2, 1, h, square, w->n_e, e); /* E v = 0 where E2 v = 0: orthogonal to the rows of E2 */
    if (!rc)
        rc = null_rows(h, f1, half, 1, square, w->n_f, e); /* v F = 0 where v F1 = 0: to the columns of F1 */
    if (!rc) {
        normals(s, std, e1, tall); /* s G */
        product(CblasNoTrans, CblasNoTrans, d, h, half, e1, half, w->n_f, h, w->c, h);
    }
    st_cov_doubles_free(work, n);
    return rc;
}

static int allocate(struct draw *w, struct st_err *e)
{
    size_t d = w->d, h = w->h, wide = w->wide;
    int rc = st_cov_doubles(&w->b, d * d, "frame matrix", e);
    if (!rc)
        rc = st_cov_doubles(&w->inverse, d * d, "frame matrix", e);
    if (!rc)
        rc = st_cov_doubles(&w->e, d * h, "frame matrix", e);
    if (!rc)
        rc = st_cov_doubles(&w->f, d * h, "frame matrix", e);
    if (!rc)
        rc = st_cov_doubles(&w->c, d * h, "frame matrix", e);
    if (!rc)
        rc = st_cov_doubles(&w->n_e, h * h / 2, "frame matrix", e);
    if (!rc)
        rc = st_cov_doubles(&w->n_f, h * h / 2, "frame matrix", e);
    if (!rc)
        rc = st_cov_doubles(&w->z, wide * wide, "frame matrix", e);
    if (!rc)
        rc = st_cov_doubles(&w->left, d * wide, "frame matrix", e);
    return rc;
}

static void wipe(struct draw *w)
{
    size_t d = w->d, h = w->h, wide = w->wide;
    st_cov_doubles_free(w->b, d * d);
    st_cov_doubles_free(w->inverse, d * d);
    st_cov_doubles_free(w->e, d * h);
    st_cov_doubles_free(w->f, d * h);
    st_cov_doubles_free(w->c, d * h);
    st_cov_doubles_free(w->n_e, h * h / 2);
    st_cov_doubles_free(w->n_f, h * h / 2);
    st_cov_doubles_free(w->z, wide * wide);
    st_cov_doubles_free(w->left, d * wide);
}

/* writer = [B C E] Z; reader = [[B^-T F^T 0] Z ; [0 0 N_E] Z]. */
static void assemble(struct st_cov_frame *f, struct draw *w)
{
    uint32_t d = w->d, h = w->h, wide = w->wide;
    for (uint32_t i = 0; i < d; i++) {
        double *row = w->left + (size_t)i * wide;
        cblas_dcopy((int)d, w->b + (size_t)i * d, 1, row, 1);
        cblas_dcopy((int)h, w->c + (size_t)i * h, 1, row + d, 1);
        cblas_dcopy((int)h, w->e + (size_t)i * h, 1, row + d + h, 1);
    }
    product(CblasNoTrans, CblasNoTrans, d, wide, wide, w->left, wide, w->z, wide, f->writer, wide);
    for (uint32_t i = 0; i < d; i++) {
        double *row = w->left + (size_t)i * wide;
        cblas_dcopy((int)d, w->inverse + i, (int)d, row, 1);
        cblas_dcopy((int)h, w->f + i, (int)d, row + d, 1);
    }
    product(CblasNoTrans, CblasNoTrans, d, wide, d + h, w->left, wide, w->z, wide, f->reader, wide);
    product(CblasNoTrans, CblasNoTrans, h / 2, wide, h, w->n_e, h, w->z + (size_t)(d + h) * wide, wide,
            f->reader + (size_t)d * wide, wide);
}

int st_cov_frame_paper(struct st_cov_frame *f, uint32_t h, double lambda, struct st_stream *s, struct st_err *e)
{
    struct draw w = {.d = f->d, .h = h, .wide = f->wide};
    if (h % 2)
        return st_fail(e, ST_USAGE, "h: preset paper wants an even one, got %u", h);
    f->spare = h / 2;
    f->spread = 1 / sqrtf((float)f->d);
    int rc = st_cov_doubles(&f->writer, (size_t)f->d * f->wide, "frame matrix", e);
    if (!rc)
        rc = st_cov_doubles(&f->reader, (size_t)(f->d + f->spare) * f->wide, "frame matrix", e);
    if (!rc)
        rc = allocate(&w, e);
    if (!rc)
        rc = draw_b(&w, lambda, s, e);
    if (!rc)
        rc = draw_low_rank(&w, s, e);
    if (!rc)
        rc = st_cov_haar(s, w.wide, w.z, e);
    if (!rc)
        assemble(f, &w);
    wipe(&w);
    return rc;
}
