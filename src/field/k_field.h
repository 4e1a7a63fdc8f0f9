/* The loops of kernels.h, written plainly for the compiler to vectorise; ST_FIELD_TABLE names the table that the
 * including file defines. */
#include "field/fq.h"
#include "field/kernels.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif
#include <math.h>

/* 1/q mod 2^32; R = 2^32 is the Montgomery radix. */
#define Q_INVERSE 0x100001u
_Static_assert((uint32_t)(ST_FQ *Q_INVERSE) == 1, "q times its inverse is 1");

/* a b / R mod q. */
static inline uint32_t montgomery(uint32_t a, uint32_t b)
{
    uint64_t t = (uint64_t)a * b;
    uint64_t n = (uint64_t)((uint32_t)t * Q_INVERSE) * ST_FQ;
    return st_fq_sub((uint32_t)(t >> 32), (uint32_t)(n >> 32));
}

/* a + b for 32-bit lanes: the sum wraps, or reaches q, exactly when q must be taken away. */
static inline uint32_t add(uint32_t a, uint32_t b)
{
    uint32_t s = a + b;
    return s - (ST_FQ & (0 - ((uint32_t)(s < a) | (uint32_t)(s >= ST_FQ))));
}

/* Vectors of 64-bit lanes, and the products of their lower halves: compilers make a full 64-bit product of it, which
 * costs three times as much. */
#if defined(__AVX512F__)
typedef uint64_t wide __attribute__((vector_size(64), aligned(4), may_alias));
#define LOW_PRODUCT(a, b) ((wide)_mm512_mul_epu32((__m512i)(a), (__m512i)(b)))
#elif defined(__AVX2__)
typedef uint64_t wide __attribute__((vector_size(32), aligned(4), may_alias));
#define LOW_PRODUCT(a, b) ((wide)_mm256_mul_epu32((__m256i)(a), (__m256i)(b)))
#else
typedef uint64_t wide __attribute__((vector_size(16), aligned(4), may_alias));
#define LOW_PRODUCT(a, b) (((a)&0xffffffff) * ((b)&0xffffffff))
#endif
#define WIDE (sizeof(wide) / sizeof(uint64_t))

/* Sums of products modulo 2^64, and of their upper halves, n < 2^32 of which fit: they give the sums of the lower
 * halves, and so everything. */
static uint32_t dot(const uint32_t *a, const uint32_t *b, size_t n)
{
    wide sum[2] = {{0}}, high[2] = {{0}};
    uint64_t all = 0, upper = 0;
    size_t i = 0;
    for (; i + 2 * WIDE <= n; i += 2 * WIDE) {
        wide x = *(const wide *)(a + i), y = *(const wide *)(b + i);
        wide even = LOW_PRODUCT(x, y), odd = LOW_PRODUCT(x >> 32, y >> 32);
        sum[0] += even;
        sum[1] += odd;
        high[0] += even >> 32;
        high[1] += odd >> 32;
    }
    for (size_t l = 0; l < WIDE; l++) {
        all += sum[0][l] + sum[1][l];
        upper += high[0][l] + high[1][l];
    }
    for (; i < n; i++) {
        uint64_t p = (uint64_t)a[i] * b[i];
        all += p;
        upper += p >> 32;
    }
    return st_fq_add(st_fq_reduce(all - (upper << 32)), st_fq_mul(st_fq_reduce(upper), (1u << 20) - 1));
}

static void add_scaled(int64_t *sum, const int8_t *w, int32_t c, size_t n)
{
    for (size_t i = 0; i < n; i++)
        sum[i] += (int64_t)w[i] * c;
}

static uint32_t most(const uint32_t *x, size_t n)
{
    uint32_t y = 0;
    for (size_t i = 0; i < n; i++)
        y = x[i] > y ? x[i] : y;
    return y;
}

/* The products are exact in double; sixteen sums, so that all tables add in the same order. */
static double square(const float *x, size_t n)
{
    double sum[16] = {0}, total = 0;
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (size_t l = 0; l < 16; l++)
            sum[l] += (double)x[i + l] * x[i + l];
    for (; i < n; i++)
        sum[i % 16] += (double)x[i] * x[i];
    for (size_t l = 0; l < 16; l++)
        total += sum[l];
    return total;
}

static void split(const uint32_t *x, size_t n, uint32_t more, uint32_t n_limb, uint8_t *p)
{
    for (uint32_t l = 0; l < n_limb; l++)
        for (size_t i = 0; i < n; i++)
            p[l * n + i] = (uint8_t)((x[i] + more) >> 8 * (l + 4 - n_limb));
}

/* |sum| < 2^31, so |value| < 2^31 * (1 + 2^8 + 2^16 + 2^24) < 2^56; q 2^24 makes it positive and stays below 2^57. Each
 * fold replaces 2^32 by 2^20 - 1: below 2^57 -> 2^46 -> 2^35 -> 2^32 + 2^23 < 2q. */
static inline uint32_t join_one(const int32_t *sum, size_t limb, uint32_t n_limb)
{
    int64_t x = (int64_t)ST_FQ << 24;
    for (uint32_t l = 0; l < n_limb; l++)
        x += (int64_t)sum[l * limb] * ((int64_t)1 << 8 * (l + 4 - n_limb));
    uint64_t y = (uint64_t)x;
    for (int fold = 0; fold < 3; fold++)
        y = (y & 0xffffffff) + ((y >> 32) << 20) - (y >> 32);
    uint64_t z = y - ST_FQ;
    return (uint32_t)(z < y ? z : y);
}

static void join(const int32_t *sum, size_t n, size_t step, size_t limb, uint32_t n_limb, uint32_t *out)
{
    if (step == 1 && n_limb == 3)
        for (size_t i = 0; i < n; i++)
            out[i] = join_one(sum + i, limb, 3);
    else if (step == 1 && n_limb == 4)
        for (size_t i = 0; i < n; i++)
            out[i] = join_one(sum + i, limb, 4);
    else if (step == 4 && limb == 1 && n_limb == 4)
        for (size_t i = 0; i < n; i++)
            out[i] = join_one(sum + 4 * i, 1, 4);
    else
        for (size_t i = 0; i < n; i++)
            out[i] = join_one(sum + i * step, limb, n_limb);
}

static void mask(const float *x, float alpha, const uint32_t *pad, uint32_t *u, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int32_t v = (int32_t)rintf(alpha * x[i]);
        uint32_t r = (uint32_t)v + (ST_FQ & (0 - (uint32_t)(v < 0)));
        u[i] = add(r, pad[i]);
    }
}

static void unmask(const uint32_t *v, const uint32_t *h, const float *scale, float inv_alpha, float *y, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = (float)st_fq_centre(st_fq_sub(v[i], h[i])) * (scale[i] * inv_alpha);
}

/* Cooley-Tukey, natural order in, bit-reversed order out; Gentleman-Sande back. Negacyclic: the powers of a 2N-th root
 * are in the table. */
static void ntt(uint32_t (*x)[ST_NTT_LANES], const uint32_t table[ST_NTT_N])
{
    for (uint32_t half = ST_NTT_N / 2, m = 1; m < ST_NTT_N; m *= 2, half /= 2)
        for (uint32_t i = 0; i < m; i++)
            for (uint32_t j = 2 * i * half; j < (2 * i + 1) * half; j++)
                for (uint32_t l = 0; l < ST_NTT_LANES; l++) {
                    uint32_t a = x[j][l], b = montgomery(x[j + half][l], table[m + i]);
                    x[j][l] = add(a, b);
                    x[j + half][l] = st_fq_sub(a, b);
                }
}

static void ntt_inverse(uint32_t (*x)[ST_NTT_LANES], const uint32_t table[ST_NTT_N])
{
    for (uint32_t half = 1, m = ST_NTT_N / 2; m >= 1; m /= 2, half *= 2)
        for (uint32_t i = 0; i < m; i++)
            for (uint32_t j = 2 * i * half; j < (2 * i + 1) * half; j++)
                for (uint32_t l = 0; l < ST_NTT_LANES; l++) {
                    uint32_t a = x[j][l], b = x[j + half][l];
                    x[j][l] = add(a, b);
                    x[j + half][l] = montgomery(st_fq_sub(a, b), table[m + i]);
                }
}

static void ntt_multiply(uint32_t (*sum)[ST_NTT_LANES], uint32_t (*x)[ST_NTT_LANES], const uint32_t b[ST_NTT_N])
{
    for (uint32_t i = 0; i < ST_NTT_N; i++)
        for (uint32_t l = 0; l < ST_NTT_LANES; l++)
            sum[i][l] = add(sum[i][l], montgomery(x[i][l], b[i]));
}

static void sample(const uint32_t *r, size_t n, const uint32_t *threshold, size_t n_threshold, int8_t *out)
{
    for (size_t at = 0; at < n; at += 64) {
        int32_t value[64] = {0};
        size_t m = n - at < 64 ? n - at : 64;
        for (size_t t = 0; t < n_threshold; t++)
            for (size_t i = 0; i < m; i++)
                value[i] += (int32_t)(r[at + i] >> 1) >= (int32_t)threshold[t];
        for (size_t i = 0; i < m; i++) {
            int32_t sign = -(int32_t)(r[at + i] & 1);
            out[at + i] = (int8_t)((value[i] ^ sign) - sign);
        }
    }
}

const struct st_field_kernels ST_FIELD_TABLE = {dot,  most,   add_scaled, square,      split,        join,
                                                mask, unmask, ntt,        ntt_inverse, ntt_multiply, sample};
