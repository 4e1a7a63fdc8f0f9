#include "field/freivalds.h"
#include "base/buf.h"
#include "field/fq.h"
#include "field/mask_kernels.h"

#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(ST_FREIVALDS_N == 2, "the kernel takes two vectors at once");

static void wipe(void *p, size_t bytes)
{
    if (p)
        OPENSSL_cleanse(p, bytes);
    free(p);
}

int st_freivalds_secret_init(struct st_freivalds_secret *s, uint32_t n, struct st_stream *random, struct st_err *e)
{
    *s = (struct st_freivalds_secret){.n = n};
    for (int i = 0; i < ST_FREIVALDS_N; i++) {
        if (st_alloc(&s->s[i], n, sizeof *s->s[i], "integrity check", e)) {
            st_freivalds_secret_wipe(s);
            return e->code;
        }
        for (uint32_t j = 0; j < n; j++)
            s->s[i][j] = (uint32_t)st_stream_below(random, ST_FQ);
    }
    return 0;
}

void st_freivalds_secret_wipe(struct st_freivalds_secret *s)
{
    for (int i = 0; i < ST_FREIVALDS_N; i++)
        wipe(s->s[i], s->n * sizeof *s->s[i]);
    *s = (struct st_freivalds_secret){0};
}

/* sum [n_in] += W^T s; |w s| < 2^38, so 2^24 rows fit 63 bits. */
static void multiply(const struct st_freivalds_matrix *w, uint32_t n_in, const uint32_t *s, int64_t *sum)
{
    const struct st_mask_kernels *k = st_mask_kernels();
    for (uint32_t j = 0; j < w->n_out; j++)
        k->add_scaled(sum, w->w + (size_t)j * n_in, st_fq_centre(s[j]), n_in);
}

static void reduce(const int64_t *sum, uint32_t *ws, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        uint64_t sign = 0 - (uint64_t)(sum[i] < 0), size = ((uint64_t)sum[i] ^ sign) - sign;
        uint32_t r = st_fq_reduce(size), minus = st_fq_sub(0, r);
        ws[i] = (r & (uint32_t)~sign) | (minus & (uint32_t)sign);
    }
}

/* Shapes and room for the products. */
static int lay_out(struct st_freivalds *f, const uint32_t *n_out, uint32_t n_matrix, uint32_t n_in,
                   const struct st_freivalds_secret *s, struct st_err *e)
{
    uint64_t n = 0;
    *f = (struct st_freivalds){.n_in = n_in, .n_matrix = n_matrix, .secret = s};
    for (uint32_t k = 0; k < n_matrix && k < ST_FREIVALDS_MAX; k++)
        n += f->n_out[k] = n_out[k];
    if (n_matrix > ST_FREIVALDS_MAX || n >= 1u << 24 || n > s->n)
        return st_fail(e, ST_UNSUPPORTED, "integrity check: %u matrices of %llu outputs, want at most %d of %u",
                       n_matrix, (unsigned long long)n, ST_FREIVALDS_MAX, s->n);
    for (int i = 0; i < ST_FREIVALDS_N; i++)
        if (st_alloc(&f->ws[i], n_in, sizeof *f->ws[i], "integrity check", e)) {
            st_freivalds_wipe(f);
            return e->code;
        }
    return 0;
}

int st_freivalds_take(struct st_freivalds *f, const uint32_t *n_out, uint32_t n_matrix, uint32_t n_in,
                      const uint32_t *ws, const struct st_freivalds_secret *s, struct st_err *e)
{
    if (lay_out(f, n_out, n_matrix, n_in, s, e))
        return e->code;
    for (size_t i = 0; i < ST_FREIVALDS_N; i++)
        memcpy(f->ws[i], ws + i * n_in, n_in * sizeof *ws);
    return 0;
}

int st_freivalds_init(struct st_freivalds *f, const struct st_freivalds_matrix *w, uint32_t n_matrix, uint32_t n_in,
                      const struct st_freivalds_secret *s, struct st_err *e)
{
    int64_t *sum = NULL;
    uint32_t n_out[ST_FREIVALDS_MAX];
    for (uint32_t k = 0; k < n_matrix && k < ST_FREIVALDS_MAX; k++)
        n_out[k] = w[k].n_out;
    if (lay_out(f, n_out, n_matrix, n_in, s, e))
        return e->code;
    int rc = st_alloc(&sum, n_in, sizeof *sum, "integrity check", e);
    for (int i = 0; i < ST_FREIVALDS_N && !rc; i++) {
        const uint32_t *part = s->s[i];
        memset(sum, 0, n_in * sizeof *sum);
        for (uint32_t k = 0; k < n_matrix; part += w[k++].n_out)
            multiply(&w[k], n_in, part, sum);
        reduce(sum, f->ws[i], n_in);
    }
    wipe(sum, n_in * sizeof *sum);
    if (rc)
        st_freivalds_wipe(f);
    return rc;
}

void st_freivalds_wipe(struct st_freivalds *f)
{
    for (int i = 0; i < ST_FREIVALDS_N; i++)
        wipe(f->ws[i], f->n_in * sizeof *f->ws[i]);
    *f = (struct st_freivalds){0};
}

void st_freivalds_expect(const struct st_freivalds *f, const uint32_t *u, uint32_t n_row,
                         uint32_t (*want)[ST_FREIVALDS_N])
{
    for (uint32_t r = 0; r < n_row; r++)
        st_mask_kernels()->dots(u + (size_t)r * f->n_in, f->ws[0], f->ws[1], f->n_in, want[r]);
}

/* Not 0: row r is not what is wanted, or holds a residue that is not canonical. */
static uint32_t differs(const struct st_freivalds *f, const uint32_t want[ST_FREIVALDS_N], const uint32_t *v,
                        uint32_t n_row, uint32_t r)
{
    uint32_t got[ST_FREIVALDS_N] = {0}, part[ST_FREIVALDS_N], at = 0, bad = 0;
    for (uint32_t k = 0; k < f->n_matrix; k++) {
        uint32_t n = f->n_out[k];
        bad |= st_mask_kernels()->dots(v + (size_t)r * n, f->secret->s[0] + at, f->secret->s[1] + at, n, part);
        for (int i = 0; i < ST_FREIVALDS_N; i++)
            got[i] = st_fq_add(got[i], part[i]);
        v += (size_t)n_row * n;
        at += n;
    }
    for (int i = 0; i < ST_FREIVALDS_N; i++)
        bad |= got[i] ^ want[i];
    return bad;
}

bool st_freivalds_meets(const struct st_freivalds *f, const uint32_t (*want)[ST_FREIVALDS_N], const uint32_t *v,
                        uint32_t n_row)
{
    uint32_t bad = 0;
    for (uint32_t r = 0; r < n_row; r++)
        bad |= differs(f, want[r], v, n_row, r);
    return bad == 0;
}

bool st_freivalds_check(const struct st_freivalds *f, const uint32_t *u, const uint32_t *v, uint32_t n_row)
{
    uint32_t bad = 0;
    for (uint32_t r = 0; r < n_row; r++) {
        uint32_t want[1][ST_FREIVALDS_N];
        st_freivalds_expect(f, u + (size_t)r * f->n_in, 1, want);
        bad |= differs(f, want[0], v, n_row, r);
    }
    return bad == 0;
}
