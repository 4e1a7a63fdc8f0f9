/* The loops of mask_kernels.h, written plainly for the compiler to vectorise; ST_MASK_TABLE names the table that the
 * including file defines. */
#include "field/fq.h"
#include "field/k_wide.h"
#include "field/mask_kernels.h"

#include <math.h>

/* a + b for 32-bit lanes: the sum wraps, or reaches q, exactly when q must be taken away. */
static inline uint32_t add(uint32_t a, uint32_t b)
{
    uint32_t s = a + b;
    return s - (ST_FQ & (0 - ((uint32_t)(s < a) | (uint32_t)(s >= ST_FQ))));
}

/* Sums of products modulo 2^64, and of their upper halves, n < 2^32 of which fit: they give the sums of the lower
 * halves, and so everything. */
struct sums {
    wide all, upper;
};

static inline void add_products(struct sums *s, wide even, wide odd)
{
    s->all += even;
    s->all += odd;
    s->upper += even >> 32;
    s->upper += odd >> 32;
}

/* The sums, and n products more. */
static inline uint32_t total(const struct sums *s, const uint32_t *a, const uint32_t *b, size_t n)
{
    uint64_t all = 0, upper = 0;
    for (size_t l = 0; l < WIDE; l++) {
        all += s->all[l];
        upper += s->upper[l];
    }
    for (size_t i = 0; i < n; i++) {
        uint64_t p = (uint64_t)a[i] * b[i];
        all += p;
        upper += p >> 32;
    }
    return st_fq_add(st_fq_reduce(all - (upper << 32)), st_fq_mul(st_fq_reduce(upper), (1u << 20) - 1));
}

static bool dots(const uint32_t *x, const uint32_t *a, const uint32_t *b, size_t n, uint32_t out[2])
{
    struct sums sa = {{0}, {0}}, sb = {{0}, {0}};
    words high = {0};
    uint32_t any = 0;
    size_t i = 0;
    for (; i + 2 * WIDE <= n; i += 2 * WIDE) {
        words v = *(const words *)(x + i);
        wide even = (wide)v, odd = even >> 32, y = *(const wide *)(a + i), z = *(const wide *)(b + i);
        high |= (words)(v >= ST_FQ);
        add_products(&sa, LOW_PRODUCT(even, y), LOW_PRODUCT(odd, y >> 32));
        add_products(&sb, LOW_PRODUCT(even, z), LOW_PRODUCT(odd, z >> 32));
    }
    out[0] = total(&sa, x + i, a + i, n - i);
    out[1] = total(&sb, x + i, b + i, n - i);
    for (; i < n; i++)
        any |= x[i] >= ST_FQ;
    for (size_t l = 0; l < 2 * WIDE; l++)
        any |= high[l];
    return any != 0;
}

static void add_scaled(int64_t *sum, const int8_t *w, int32_t c, size_t n)
{
    for (size_t i = 0; i < n; i++)
        sum[i] += (int64_t)w[i] * c;
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

#if defined(__AVX512F__)
/* The thresholds as a search tree in registers: node h has children 2h and 2h + 1, so that the seven comparisons of a
 * sample take h from 1 to 128 + the number of thresholds reached. */
struct tree {
    _Alignas(64) uint32_t node[128];
};

static void plant(struct tree *t, const uint32_t *threshold, size_t n)
{
    t->node[0] = UINT32_MAX;
    for (uint32_t level = 0; level < 7; level++)
        for (uint32_t i = 0; i < 1u << level; i++) {
            uint32_t at = (2 * i + 1) * (64u >> level) - 1;
            t->node[(1u << level) + i] = at < n ? threshold[at] : UINT32_MAX; /* which nothing reaches */
        }
}

static inline __m512i descend(__m512i h, __m512i r, __m512i node)
{
    return _mm512_mask_add_epi32(_mm512_slli_epi32(h, 1), _mm512_cmpge_epu32_mask(r, node), _mm512_slli_epi32(h, 1),
                                 _mm512_set1_epi32(1));
}

static void sample(const uint32_t *r, size_t n, const uint32_t *threshold, size_t n_threshold, int8_t *out)
{
    struct tree t;
    plant(&t, threshold, n_threshold);
    const __m512i *node = (const __m512i *)t.node;
    for (size_t at = 0; at < n; at += 16) {
        __mmask16 have = n - at < 16 ? (__mmask16)((1u << (n - at)) - 1) : 0xffff;
        __m512i draw = _mm512_maskz_loadu_epi32(have, r + at), high = _mm512_srli_epi32(draw, 1);
        __m512i h = _mm512_set1_epi32(1);
        for (int level = 0; level < 5; level++)
            h = descend(h, high, _mm512_permutex2var_epi32(node[0], h, node[1]));
        h = descend(h, high, _mm512_permutex2var_epi32(node[2], h, node[3]));
        __m512i left = _mm512_permutex2var_epi32(node[4], h, node[5]);
        __m512i right = _mm512_permutex2var_epi32(node[6], h, node[7]);
        h = descend(h, high, _mm512_mask_mov_epi32(left, _mm512_test_epi32_mask(h, _mm512_set1_epi32(32)), right));
        h = _mm512_sub_epi32(h, _mm512_set1_epi32(128));
        __mmask16 minus = _mm512_test_epi32_mask(draw, _mm512_set1_epi32(1));
        h = _mm512_mask_sub_epi32(h, minus, _mm512_setzero_si512(), h);
        _mm512_mask_cvtepi32_storeu_epi8(out + at, have, h);
    }
}
#else
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
#endif

const struct st_mask_kernels ST_MASK_TABLE = {dots, add_scaled, square, mask, unmask, sample};
