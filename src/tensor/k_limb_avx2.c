#include "tensor/kernels.h"
#include "tensor/unroll.h"

#include <immintrin.h>

/* The byte product of AVX2 (maddubs) saturates at 16 bits; widened to 16 bits first, nothing does. */
#define STEP 16

static ST_INLINE int32_t add_up(__m256i v)
{
    __m128i x = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    x = _mm_add_epi32(x, _mm_shuffle_epi32(x, 0x4e));
    x = _mm_add_epi32(x, _mm_shuffle_epi32(x, 0xb1));
    return _mm_cvtsi128_si32(x);
}

static ST_INLINE void block(const int8_t *s, size_t lds, const struct st_limb_dot *t, int32_t *out, const int n_s,
                            const int n_u)
{
    __m256i sum[2][ST_LIMB_U], u[ST_LIMB_U];
    uint32_t k = 0;
    ST_UNROLL
    for (int i = 0; i < n_s; i++)
        ST_UNROLL
    for (int j = 0; j < n_u; j++)
        sum[i][j] = _mm256_setzero_si256();
    for (; k + STEP <= t->n_k; k += STEP) {
        ST_UNROLL
        for (int j = 0; j < n_u; j++)
            u[j] = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(t->u + (size_t)j * t->ldu + k)));
        ST_UNROLL
        for (int i = 0; i < n_s; i++) {
            __m256i v = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(s + (size_t)i * lds + k)));
            ST_UNROLL
            for (int j = 0; j < n_u; j++)
                sum[i][j] = _mm256_add_epi32(sum[i][j], _mm256_madd_epi16(u[j], v));
        }
    }
    ST_UNROLL
    for (int i = 0; i < n_s; i++)
        ST_UNROLL
    for (int j = 0; j < n_u; j++) {
        int32_t more = add_up(sum[i][j]);
        for (uint32_t r = k; r < t->n_k; r++)
            more += s[(size_t)i * lds + r] * t->u[(size_t)j * t->ldu + r];
        out[i * ST_LIMB_U + j] += more;
    }
}

#define CASE(n_u)                                                                                                      \
    case n_u:                                                                                                          \
        if (left == 1)                                                                                                 \
            block(s, t->lds, t, out, 1, n_u);                                                                          \
        else                                                                                                           \
            block(s, t->lds, t, out, 2, n_u);                                                                          \
        break;

/* Two vectors of s at a time: their sums fit the registers. */
static void dot(const struct st_limb_dot *t)
{
    for (uint32_t i = 0; i < t->n_s; i += 2) {
        const int8_t *s = t->s + i * t->lds;
        int32_t *out = t->sum + i * ST_LIMB_U;
        uint32_t left = t->n_s - i;
        switch (t->n_u) {
            CASE(1)
            CASE(2)
            CASE(3)
            CASE(4)
        }
    }
}

const struct st_limb_kernels st_limb_avx2 = {dot, NULL, NULL};
