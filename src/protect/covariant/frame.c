#include "protect/covariant/frame.h"
#include "base/buf.h"
#include "protect/covariant/noise.h"

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

void st_cov_floats_free(float *p, size_t n)
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

static int cast(const double *from, size_t n, float **to, struct st_err *e)
{
    int rc = st_alloc(to, n, sizeof **to, "frame matrix", e);
    for (size_t i = 0; !rc && i < n; i++)
        (*to)[i] = (float)from[i];
    return rc;
}

int st_cov_frame_init(struct st_cov_frame *f, enum st_cov_preset preset, uint32_t d, uint32_t h, double lambda,
                      struct st_stream *s, struct st_err *e)
{
    *f = (struct st_cov_frame){.d = d, .wide = d + 2 * h};
    int rc = preset == ST_COV_PRESET_PAPER ? st_cov_frame_paper(f, h, lambda, s, e) : st_cov_frame_tight(f, h, s, e);
    if (!rc)
        rc = cast(f->reader, (size_t)(f->d + f->spare) * f->wide, &f->reader32, e);
    if (!rc && f->writer == f->reader)
        f->writer32 = f->reader32;
    else if (!rc)
        rc = cast(f->writer, (size_t)f->d * f->wide, &f->writer32, e);
    if (rc)
        st_cov_frame_wipe(f);
    return rc;
}

void st_cov_frame_wipe(struct st_cov_frame *f)
{
    size_t writer = (size_t)f->d * f->wide, reader = (size_t)(f->d + f->spare) * f->wide;
    if (f->writer != f->reader)
        st_cov_doubles_free(f->writer, writer);
    if (f->writer32 != f->reader32)
        st_cov_floats_free(f->writer32, writer);
    st_cov_doubles_free(f->reader, reader);
    st_cov_floats_free(f->reader32, reader);
    *f = (struct st_cov_frame){0};
}

uint64_t st_cov_frame_bytes(const struct st_cov_frame *f)
{
    uint64_t rows = (uint64_t)f->d + f->spare + (f->writer == f->reader ? 0 : f->d);
    return rows * f->wide * (sizeof(double) + sizeof(float));
}

void st_cov_frame_expand(const struct st_cov_frame *f, struct st_stream *s, uint32_t lo, uint32_t n, float *rt)
{
    for (uint32_t i = 0; i < n; i++) {
        float *row = rt + (size_t)i * f->spare;
        st_cov_noise_row(s, lo + i, row, f->spare);
        for (uint32_t j = 0; j < f->spare; j++)
            row[j] *= f->spread;
    }
}
