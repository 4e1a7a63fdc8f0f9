#include "field/freivalds.h"
#include "base/buf.h"
#include "field/fq.h"
#include "field/kernels.h"

#include <openssl/crypto.h>
#include <stdlib.h>

_Static_assert(ST_FREIVALDS_N == 2, "the kernel takes two vectors at once");

static void wipe(void *p, size_t bytes)
{
    if (p)
        OPENSSL_cleanse(p, bytes);
    free(p);
}

/* sum [n_in] += W^T s; |w s| < 2^38, so 2^24 rows fit 63 bits. */
static int multiply(const int8_t *w, uint32_t n_out, uint32_t n_in, const uint32_t *s, uint32_t *ws, struct st_err *e)
{
    const struct st_field_kernels *k = st_field_kernels();
    int64_t *sum;
    int rc = st_alloc(&sum, n_in, sizeof *sum, "integrity check", e);
    if (rc)
        return rc;
    for (uint32_t j = 0; j < n_out; j++)
        k->add_scaled(sum, w + (size_t)j * n_in, st_fq_centre(s[j]), n_in);
    for (uint32_t i = 0; i < n_in; i++) {
        uint64_t sign = 0 - (uint64_t)(sum[i] < 0), size = ((uint64_t)sum[i] ^ sign) - sign;
        uint32_t r = st_fq_reduce(size), minus = st_fq_sub(0, r);
        ws[i] = (r & (uint32_t)~sign) | (minus & (uint32_t)sign);
    }
    wipe(sum, n_in * sizeof *sum);
    return 0;
}

int st_freivalds_draw(uint32_t *s[ST_FREIVALDS_N], uint32_t n, struct st_stream *random, struct st_err *e)
{
    int rc = 0;
    for (int i = 0; i < ST_FREIVALDS_N; i++)
        s[i] = NULL;
    for (int i = 0; i < ST_FREIVALDS_N && !rc; i++) {
        rc = st_alloc(&s[i], n, sizeof *s[i], "integrity check", e);
        for (uint32_t j = 0; !rc && j < n; j++)
            s[i][j] = (uint32_t)st_stream_below(random, ST_FQ);
    }
    if (rc)
        st_freivalds_free_s(s, n);
    return rc;
}

void st_freivalds_free_s(uint32_t *s[ST_FREIVALDS_N], uint32_t n)
{
    for (int i = 0; i < ST_FREIVALDS_N; i++) {
        wipe(s[i], n * sizeof *s[i]);
        s[i] = NULL;
    }
}

int st_freivalds_init_shared(struct st_freivalds *f, const int8_t *w, uint32_t n_out, uint32_t n_in,
                             uint32_t *const s[ST_FREIVALDS_N], uint32_t at, struct st_err *e)
{
    int rc = n_out < 1u << 24 ? 0 : st_fail(e, ST_UNSUPPORTED, "integrity check: more than 2^24 outputs");
    *f = (struct st_freivalds){.n_in = n_in, .n_out = n_out, .shared = true};
    for (int i = 0; i < ST_FREIVALDS_N && !rc; i++) {
        f->s[i] = s[i] + at;
        rc = st_alloc(&f->ws[i], n_in, sizeof *f->ws[i], "integrity check", e);
        if (!rc)
            rc = multiply(w, n_out, n_in, f->s[i], f->ws[i], e);
    }
    if (rc)
        st_freivalds_wipe(f);
    return rc;
}

int st_freivalds_init(struct st_freivalds *f, const int8_t *w, uint32_t n_out, uint32_t n_in, struct st_stream *random,
                      struct st_err *e)
{
    uint32_t *s[ST_FREIVALDS_N];
    *f = (struct st_freivalds){0};
    if (st_freivalds_draw(s, n_out, random, e))
        return e->code;
    if (st_freivalds_init_shared(f, w, n_out, n_in, s, 0, e)) {
        st_freivalds_free_s(s, n_out);
        return e->code;
    }
    f->shared = false;
    return 0;
}

int st_freivalds_join(struct st_freivalds *f, const struct st_freivalds *const *parts, int n, struct st_err *e)
{
    int rc = 0;
    *f = (struct st_freivalds){.n_in = parts[0]->n_in, .shared = true};
    for (int k = 0; k < n && !rc; k++) {
        if (parts[k]->n_in != f->n_in || parts[k]->s[0] != parts[0]->s[0] + f->n_out)
            rc = st_fail(e, ST_INTERNAL, "integrity check: matrices that do not belong together");
        f->n_out += parts[k]->n_out;
    }
    for (int i = 0; i < ST_FREIVALDS_N && !rc; i++) {
        f->s[i] = parts[0]->s[i];
        rc = st_alloc(&f->ws[i], f->n_in, sizeof *f->ws[i], "integrity check", e);
        for (int k = 0; k < n && !rc; k++)
            for (uint32_t j = 0; j < f->n_in; j++)
                f->ws[i][j] = st_fq_add(f->ws[i][j], parts[k]->ws[i][j]);
    }
    if (rc)
        st_freivalds_wipe(f);
    return rc;
}

void st_freivalds_wipe(struct st_freivalds *f)
{
    for (int i = 0; i < ST_FREIVALDS_N; i++) {
        if (!f->shared)
            wipe(f->s[i], f->n_out * sizeof *f->s[i]);
        wipe(f->ws[i], f->n_in * sizeof *f->ws[i]);
    }
    *f = (struct st_freivalds){0};
}

bool st_freivalds_check_parts(const struct st_freivalds *f, const uint32_t *n_out, int n, const uint32_t *u,
                              const uint32_t *v, uint32_t n_row)
{
    const struct st_field_kernels *kernels = st_field_kernels();
    uint32_t bad = 0;
    for (uint32_t r = 0; r < n_row; r++) {
        uint32_t got[ST_FREIVALDS_N] = {0}, want[ST_FREIVALDS_N], part[ST_FREIVALDS_N], at = 0;
        const uint32_t *of_matrix = v;
        kernels->dots(u + (size_t)r * f->n_in, f->ws[0], f->ws[1], f->n_in, want);
        for (int k = 0; k < n; k++) {
            bad |= kernels->dots(of_matrix + (size_t)r * n_out[k], f->s[0] + at, f->s[1] + at, n_out[k], part);
            for (int i = 0; i < ST_FREIVALDS_N; i++)
                got[i] = st_fq_add(got[i], part[i]);
            at += n_out[k];
            of_matrix += (size_t)n_row * n_out[k];
        }
        for (int i = 0; i < ST_FREIVALDS_N; i++)
            bad |= got[i] ^ want[i];
    }
    return bad == 0;
}

bool st_freivalds_check(const struct st_freivalds *f, const uint32_t *u, const uint32_t *v, uint32_t n_row)
{
    return st_freivalds_check_parts(f, &f->n_out, 1, u, v, n_row);
}
