/* The loops of kernels.h, written plainly for the compiler to vectorise; ST_FIELD_TABLE names the table that the
 * including file defines. */
#include "field/fq.h"
#include "field/kernels.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif
#include <math.h>

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
typedef uint32_t words __attribute__((vector_size(64), aligned(4), may_alias));
#define LOW_PRODUCT(a, b) ((wide)_mm512_mul_epu32((__m512i)(a), (__m512i)(b)))
#elif defined(__AVX2__)
typedef uint64_t wide __attribute__((vector_size(32), aligned(4), may_alias));
typedef uint32_t words __attribute__((vector_size(32), aligned(4), may_alias));
#define LOW_PRODUCT(a, b) ((wide)_mm256_mul_epu32((__m256i)(a), (__m256i)(b)))
#else
typedef uint64_t wide __attribute__((vector_size(16), aligned(4), may_alias));
typedef uint32_t words __attribute__((vector_size(16), aligned(4), may_alias));
#define LOW_PRODUCT(a, b) (((a)&0xffffffff) * ((b)&0xffffffff))
#endif
#define WIDE (sizeof(wide) / sizeof(uint64_t))

#define WORDS (sizeof(words) / sizeof(uint32_t))

/* x + y and x - y of vectors where the condition holds, else x. Comparisons give all ones, which is -1; on AVX-512
 * compilers do not see that they need not be spelt out. */
#if defined(__AVX512F__)
#define ADD_IF(x, condition, y) ((words)_mm512_mask_add_epi32((__m512i)(x), condition, (__m512i)(x), (__m512i)(y)))
#define SUB_IF(x, condition, y) ((words)_mm512_mask_sub_epi32((__m512i)(x), condition, (__m512i)(x), (__m512i)(y)))
#define BELOW(a, b) _mm512_cmplt_epu32_mask((__m512i)(a), (__m512i)(b))
#define NOT_ZERO(a) _mm512_test_epi32_mask((__m512i)(a), (__m512i)(a))
/* The lower halves of products of the even and of the odd lanes, and the upper ones. */
#define LOW_HALVES(even, odd) ((words)_mm512_mask_shuffle_epi32((__m512i)(even), 0xaaaa, (__m512i)(odd), _MM_PERM_CCAA))
#define HIGH_HALVES(even, odd)                                                                                         \
    ((words)_mm512_mask_shuffle_epi32((__m512i)(odd), 0x5555, (__m512i)(even), _MM_PERM_DDBB))
#else
#define ADD_IF(x, condition, y) ((x) + ((y) & (words)(condition)))
#define SUB_IF(x, condition, y) ((x) - ((y) & (words)(condition)))
#define BELOW(a, b) ((a) < (b))
#define NOT_ZERO(a) ((a) != 0)
#define LOW_HALVES(even, odd) ((words)((even & 0xffffffff) | odd << 32))
#define HIGH_HALVES(even, odd) ((words)(even >> 32 | (odd & ~UINT64_C(0xffffffff))))
#endif

static inline words all(uint32_t x)
{
    return x - (words){0};
}

static inline words add_words(words a, words b)
{
    words s = a + b;
    return SUB_IF(s, BELOW(s, a) | ~BELOW(s, all(ST_FQ)), all(ST_FQ));
}

static inline words sub_words(words a, words b)
{
    return ADD_IF(a - b, BELOW(a, b), all(ST_FQ));
}

_Static_assert((uint32_t)(ST_FQ * 0x100001u) == 1, "2^20 + 1 is 1/q mod 2^32");

/* a b / R mod q, R = 2^32 the Montgomery radix. With n = low half of a b / q mod R, n q has the same low half as a b,
 * and the difference of the high halves is what is wanted. n q = n 2^32 - (n 2^20 - n), whose high half takes no
 * multiplication: n - (n >> 12), one more when the low half of n 2^20 is below n, one less when n is not 0. */
static inline words montgomery(words a, uint32_t b)
{
    wide even = LOW_PRODUCT((wide)a, (wide)all(b)), odd = LOW_PRODUCT((wide)a >> 32, (wide)all(b));
    words low = LOW_HALVES(even, odd), high = HIGH_HALVES(even, odd), n = low + (low << 20);
    words upper = ADD_IF(n - (n >> 12), BELOW(n << 20, n), all(1));
    return sub_words(high, SUB_IF(upper, NOT_ZERO(n), all(1)));
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
                for (uint32_t l = 0; l < ST_NTT_LANES; l += WORDS) {
                    words *low = (words *)&x[j][l], *high = (words *)&x[j + half][l];
                    words a = *low, b = montgomery(*high, table[m + i]);
                    *low = add_words(a, b);
                    *high = sub_words(a, b);
                }
}

static void ntt_inverse(uint32_t (*x)[ST_NTT_LANES], const uint32_t table[ST_NTT_N])
{
    for (uint32_t half = 1, m = ST_NTT_N / 2; m >= 1; m /= 2, half *= 2)
        for (uint32_t i = 0; i < m; i++)
            for (uint32_t j = 2 * i * half; j < (2 * i + 1) * half; j++)
                for (uint32_t l = 0; l < ST_NTT_LANES; l += WORDS) {
                    words *low = (words *)&x[j][l], *high = (words *)&x[j + half][l];
                    words a = *low, b = *high;
                    *low = add_words(a, b);
                    *high = montgomery(sub_words(a, b), table[m + i]);
                }
}

static void ntt_multiply(uint32_t (*sum)[ST_NTT_LANES], uint32_t (*x)[ST_NTT_LANES], const uint32_t b[ST_NTT_N])
{
    for (uint32_t i = 0; i < ST_NTT_N; i++)
        for (uint32_t l = 0; l < ST_NTT_LANES; l += WORDS) {
            words *to = (words *)&sum[i][l];
            *to = add_words(*to, montgomery(*(words *)&x[i][l], b[i]));
        }
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

const struct st_field_kernels ST_FIELD_TABLE = {dots, most,   add_scaled, square,      split,        join,
                                                mask, unmask, ntt,        ntt_inverse, ntt_multiply, sample};
