#include "protect/covariant/frame.h"
#include "base/buf.h"

#include <cblas.h>
#include <lapacke.h>
#include <math.h>
#include <openssl/crypto.h>
#include <stdlib.h>

int st_cov_doubles(double **out, size_t n, const char *what, struct st_err *e)
{
    return st_alloc(out, n, sizeof **out, what, e);
}

void st_cov_doubles_free(double *p, size_t n)
{
    if (p)
        OPENSSL_cleanse(p, n * sizeof *p);
    free(p);
}

/* The Q of a Gaussian matrix is Haar-distributed once the signs of R's diagonal, which LAPACK leaves open, are taken
 * into its columns. LAPACK stores by columns, so `out` read by rows is the transpose: Haar-distributed as well. */
int st_cov_haar(struct st_stream *s, uint32_t n, double *out, struct st_err *e)
{
    size_t size = (size_t)n * n;
    double *tau = NULL, *sign = NULL;
    int rc = st_cov_doubles(&tau, n, "orthogonal matrix", e);
    if (!rc)
        rc = st_cov_doubles(&sign, n, "orthogonal matrix", e);
    if (rc)
        goto out;
    for (size_t i = 0; i < size; i++)
        out[i] = st_stream_normal(s);
    int bad = LAPACKE_dgeqrf(LAPACK_COL_MAJOR, (int)n, (int)n, out, (int)n, tau);
    for (uint32_t i = 0; i < n; i++)
        sign[i] = out[(size_t)i * n + i] < 0 ? -1 : 1;
    if (!bad)
        bad = LAPACKE_dorgqr(LAPACK_COL_MAJOR, (int)n, (int)n, (int)n, out, (int)n, tau);
    if (bad)
        rc = st_fail(e, ST_MEMORY, "orthogonal matrix of %u: LAPACK error %d", n, bad);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++)
            out[(size_t)i * n + j] *= sign[i];
out:
    st_cov_doubles_free(tau, n);
    st_cov_doubles_free(sign, n);
    return rc;
}

int st_cov_frame_init(struct st_cov_frame *f, uint32_t d, uint32_t h, struct st_stream *s, struct st_err *e)
{
    *f = (struct st_cov_frame){.d = d, .wide = d + 2 * h};
    int rc = st_cov_doubles(&f->w, (size_t)f->wide * f->wide, "frame matrix", e);
    if (!rc)
        rc = st_cov_haar(s, f->wide, f->w, e);
    if (rc)
        st_cov_frame_wipe(f);
    return rc;
}

void st_cov_frame_wipe(struct st_cov_frame *f)
{
    st_cov_doubles_free(f->w, (size_t)f->wide * f->wide);
    *f = (struct st_cov_frame){0};
}

int st_cov_frame_expand(const struct st_cov_frame *f, struct st_stream *s, double **r, struct st_err *e)
{
    size_t n = (size_t)(f->wide - f->d) * f->d;
    int rc = st_cov_doubles(r, n, "frame matrix", e);
    if (rc)
        return rc;
    double scale = 1 / sqrt(f->d);
    for (size_t i = 0; i < n; i++)
        (*r)[i] = scale * st_stream_normal(s);
    return 0;
}

void st_cov_frame_extend(const struct st_cov_frame *f, const double *r, double *rows, uint32_t n)
{
    int d = (int)f->d, wide = (int)f->wide;
    if (r)
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)n, wide - d, d, 1, rows, wide, r, d, 0, rows + d,
                    wide);
}

void st_cov_frame_rows(const struct st_cov_frame *f, bool reader, const double *rows, uint32_t n, double *out)
{
    int wide = (int)f->wide, k = reader ? wide : (int)f->d;
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)n, wide, k, 1, rows, wide, f->w, wide, 0, out, wide);
}

void st_cov_frame_columns(const struct st_cov_frame *f, const double *rows, uint32_t n, double *out)
{
    int wide = (int)f->wide;
    cblas_dgemm(CblasRowMajor, CblasTrans, CblasTrans, wide, (int)n, (int)f->d, 1, f->w, wide, rows, wide, 0, out,
                (int)n);
}
