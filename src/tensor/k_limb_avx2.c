#include "tensor/k_avx2.h"

/* The byte product of AVX2 (maddubs) saturates at 16 bits; the product of 16-bit pairs does not, and needs two digits
 * in the place of four limbs. */
#define STEP 16
#define LINE 64

/* K of a sum in 32-bit lanes: each step adds two products to a lane, 252 * 2 * 128 * 32768 < 2^31. */
#define BLOCK (252 * STEP)

static ST_INLINE int64_t add_up(__m256i v)
{
    __m256i x = _mm256_add_epi64(_mm256_cvtepi32_epi64(_mm256_castsi256_si128(v)),
                                 _mm256_cvtepi32_epi64(_mm256_extracti128_si256(v, 1)));
    __m128i y = _mm_add_epi64(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    return _mm_cvtsi128_si64(y) + _mm_extract_epi64(y, 1);
}

static ST_INLINE void step(const int8_t *s, size_t lds, const int16_t *u, size_t ldu, const int n_s,
                           __m256i sum[ST_LIMB_S][2])
{
    __m256i low = _mm256_loadu_si256((const __m256i *)u), high = _mm256_loadu_si256((const __m256i *)(u + ldu));
    ST_UNROLL
    for (int i = 0; i < n_s; i++) {
        __m256i v = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(s + (size_t)i * lds)));
        ST_HOLD(v);
        sum[i][0] = _mm256_add_epi32(sum[i][0], _mm256_madd_epi16(low, v));
        sum[i][1] = _mm256_add_epi32(sum[i][1], _mm256_madd_epi16(high, v));
    }
}

/* Vectors [at, at + n_s) of s in [k, end), a length of at most BLOCK. */
static ST_INLINE void block(const struct st_limb_dot16 *t, uint32_t at, uint32_t k, uint32_t end, const int n_s)
{
    const int8_t *s = t->s + at * t->lds, *ahead = s + (size_t)n_s * t->lds + (size_t)n_s * k;
    __m256i sum[ST_LIMB_S][2];
    ST_UNROLL
    for (int i = 0; i < n_s; i++)
        sum[i][0] = sum[i][1] = _mm256_setzero_si256();
    for (; k + LINE <= end; k += LINE, ahead += n_s * LINE) {
        if (t->stream) {
            /* As GEMV does (k_gemv.h): one stream in the order of memory, each line asked for four times. */
            ST_UNROLL
            for (int far = 0; far < 4; far++)
                ST_UNROLL
            for (int i = 0; i < n_s; i++)
                __builtin_prefetch(ahead + far * 2048 + i * LINE, 0, 2);
        }
        ST_UNROLL
        for (int part = 0; part < LINE; part += STEP)
            step(s + k + part, t->lds, t->u + k + part, t->ldu, n_s, sum);
    }
    for (; k + STEP <= end; k += STEP)
        step(s + k, t->lds, t->u + k, t->ldu, n_s, sum);
    ST_UNROLL
    for (int i = 0; i < n_s; i++) {
        int64_t low = add_up(sum[i][0]), high = add_up(sum[i][1]);
        for (uint32_t r = k; r < end; r++) {
            low += s[(size_t)i * t->lds + r] * t->u[r];
            high += s[(size_t)i * t->lds + r] * t->u[t->ldu + r];
        }
        t->sum[(at + (uint32_t)i) * 2] += low;
        t->sum[(at + (uint32_t)i) * 2 + 1] += high;
    }
}

static void dot16(const struct st_limb_dot16 *t)
{
    uint32_t i = 0;
    for (; i + ST_LIMB_S <= t->n_s; i += ST_LIMB_S)
        for (uint32_t k = 0; k < t->n_k; k += BLOCK)
            block(t, i, k, t->n_k - k < BLOCK ? t->n_k : k + BLOCK, ST_LIMB_S);
    for (; i < t->n_s; i++)
        for (uint32_t k = 0; k < t->n_k; k += BLOCK)
            block(t, i, k, t->n_k - k < BLOCK ? t->n_k : k + BLOCK, 1);
}

const struct st_limb_kernels st_limb_avx2 = {.dot16 = dot16};
