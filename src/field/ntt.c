#include "field/ntt.h"
#include "field/fq.h"
#include "field/kernels.h"

#include <string.h>

/* x R mod q, R = 2^32. */
static uint32_t to_montgomery(uint32_t x)
{
    return st_fq_reduce((uint64_t)x << 32);
}

static uint32_t reverse8(uint32_t x)
{
    uint32_t y = 0;
    for (int bit = 0; bit < 8; bit++)
        y |= (x >> bit & 1) << (7 - bit);
    return y;
}

/* psi = g^((q-1)/512) for the smallest g that makes psi^256 = -1: a 512-th root of unity. */
static uint32_t root(void)
{
    for (uint32_t g = 2;; g++) {
        uint32_t psi = st_fq_pow(g, (ST_FQ - 1) / (2 * ST_NTT_N));
        if (st_fq_pow(psi, ST_NTT_N) == ST_FQ - 1)
            return psi;
    }
}

void st_ntt_init(struct st_ntt *t)
{
    uint32_t psi = root(), back = st_fq_inverse(psi);
    for (uint32_t i = 0; i < ST_NTT_N; i++) {
        t->forward[i] = to_montgomery(st_fq_pow(psi, reverse8(i)));
        t->inverse[i] = to_montgomery(st_fq_pow(back, reverse8(i)));
    }
}

void st_ntt_forward(const struct st_ntt *t, uint32_t (*x)[ST_NTT_LANES])
{
    st_field_kernels()->ntt(x, t->forward);
}

void st_ntt_inverse(const struct st_ntt *t, uint32_t (*x)[ST_NTT_LANES])
{
    st_field_kernels()->ntt_inverse(x, t->inverse);
}

void st_ntt_factor(const struct st_ntt *t, uint32_t b[ST_NTT_N])
{
    _Alignas(64) uint32_t x[ST_NTT_N][ST_NTT_LANES];
    uint32_t scale = st_fq_inverse(ST_NTT_N);
    memset(x, 0, sizeof x);
    for (uint32_t i = 0; i < ST_NTT_N; i++)
        x[i][0] = b[i];
    st_ntt_forward(t, x);
    for (uint32_t i = 0; i < ST_NTT_N; i++)
        b[i] = to_montgomery(st_fq_mul(x[i][0], scale));
}

void st_ntt_multiply(uint32_t (*sum)[ST_NTT_LANES], uint32_t (*x)[ST_NTT_LANES], const uint32_t b[ST_NTT_N])
{
    st_field_kernels()->ntt_multiply(sum, x, b);
}
