/* The loops of kernels.h, written plainly for the compiler to vectorise; ST_FIELD_TABLE names the table that the
 * including file defines. */
#include "field/fq.h"
#include "field/k_wide.h"
#include "field/kernels.h"

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

static uint32_t most(const uint32_t *x, size_t n)
{
    uint32_t y = 0;
    for (size_t i = 0; i < n; i++)
        y = x[i] > y ? x[i] : y;
    return y;
}

static void split(const uint32_t *x, size_t n, uint32_t more, uint32_t n_limb, uint8_t *p)
{
    for (uint32_t l = 0; l < n_limb; l++)
        for (size_t i = 0; i < n; i++)
            p[l * n + i] = (uint8_t)((x[i] + more) >> 8 * (l + 4 - n_limb));
}

/* Centred, |x| < 2^31 - 2^18: the upper digit fits. */
static void digits(const uint8_t *p, size_t ld, uint32_t n_limb, size_t n, int16_t *low, int16_t *high)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t x = p[i] | (uint32_t)p[i + ld] << 8 | (uint32_t)p[i + 2 * ld] << 16;
        x = n_limb == 4 ? x | (uint32_t)p[i + (n_limb - 1) * ld] << 24 : x << 8;
        int32_t centred = st_fq_centre(x);
        low[i] = (int16_t)centred;
        high[i] = (int16_t)((centred - low[i]) >> 16);
    }
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

const struct st_field_kernels ST_FIELD_TABLE = {most, split, digits, join, ntt, ntt_inverse, ntt_multiply};
