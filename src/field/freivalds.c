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

int st_freivalds_init(struct st_freivalds *f, const int8_t *w, uint32_t n_out, uint32_t n_in, struct st_stream *s,
                      struct st_err *e)
{
    int rc = n_out < 1u << 24 ? 0 : st_fail(e, ST_UNSUPPORTED, "integrity check: more than 2^24 outputs");
    *f = (struct st_freivalds){.n_in = n_in, .n_out = n_out};
    for (int i = 0; i < ST_FREIVALDS_N && !rc; i++) {
        rc = st_alloc(&f->s[i], n_out, sizeof *f->s[i], "integrity check", e);
        if (!rc)
            rc = st_alloc(&f->ws[i], n_in, sizeof *f->ws[i], "integrity check", e);
        for (uint32_t j = 0; !rc && j < n_out; j++)
            f->s[i][j] = (uint32_t)st_stream_below(s, ST_FQ);
        if (!rc)
            rc = multiply(w, n_out, n_in, f->s[i], f->ws[i], e);
    }
    if (rc)
        st_freivalds_wipe(f);
    return rc;
}

void st_freivalds_wipe(struct st_freivalds *f)
{
    for (int i = 0; i < ST_FREIVALDS_N; i++) {
        wipe(f->s[i], f->n_out * sizeof *f->s[i]);
        wipe(f->ws[i], f->n_in * sizeof *f->ws[i]);
    }
    *f = (struct st_freivalds){0};
}

bool st_freivalds_check(const struct st_freivalds *f, const uint32_t *u, const uint32_t *v, uint32_t n_row)
{
    const struct st_field_kernels *k = st_field_kernels();
    uint32_t bad = 0;
    for (uint32_t r = 0; r < n_row; r++) {
        uint32_t got[ST_FREIVALDS_N], want[ST_FREIVALDS_N];
        bad |= k->dots(v + (size_t)r * f->n_out, f->s[0], f->s[1], f->n_out, got);
        k->dots(u + (size_t)r * f->n_in, f->ws[0], f->ws[1], f->n_in, want);
        for (int i = 0; i < ST_FREIVALDS_N; i++)
            bad |= got[i] ^ want[i];
    }
    return bad == 0;
}
