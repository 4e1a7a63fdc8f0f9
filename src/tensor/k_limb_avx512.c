#include "tensor/k_avx512.h"

#define STEP 64

/* The lanes of each of four vectors, added up. */
static ST_INLINE __m128i sum4(__m512i a, __m512i b, __m512i c, __m512i d)
{
    __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    __m512i s = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    __m256i h = _mm256_add_epi32(_mm512_castsi512_si256(s), _mm512_extracti64x4_epi64(s, 1));
    return _mm_add_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
}

static ST_INLINE void block(const struct st_limb_tile *t, const int n_s, const int n_u)
{
    __m512i sum[ST_LIMB_S][ST_LIMB_U], u[ST_LIMB_U];
    uint32_t k = 0;
    ST_UNROLL
    for (int i = 0; i < n_s; i++)
        ST_UNROLL
    for (int j = 0; j < ST_LIMB_U; j++)
        sum[i][j] = _mm512_setzero_si512();
    for (; k < t->n_k; k += STEP) {
        __mmask64 have = t->n_k - k >= STEP ? ~(__mmask64)0 : ((__mmask64)1 << (t->n_k - k)) - 1;
        ST_UNROLL
        for (int j = 0; j < n_u; j++)
            u[j] = _mm512_maskz_loadu_epi8(have, t->u + (size_t)j * t->ldu + k);
        ST_UNROLL
        for (int i = 0; i < n_s; i++) {
            __m512i s = _mm512_maskz_loadu_epi8(have, t->s + (size_t)i * t->lds + k);
            ST_HOLD(s);
            ST_UNROLL
            for (int j = 0; j < n_u; j++)
                sum[i][j] = _mm512_dpbusd_epi32(sum[i][j], u[j], s);
        }
    }
    ST_UNROLL
    for (int i = 0; i < n_s; i++) {
        __m128i *out = (__m128i *)(t->sum + i * ST_LIMB_U);
        _mm_storeu_si128(out, _mm_add_epi32(_mm_loadu_si128(out), sum4(sum[i][0], sum[i][1], sum[i][2], sum[i][3])));
    }
}

#define CASE(n_u)                                                                                                      \
    case n_u:                                                                                                          \
        switch (t->n_s) {                                                                                              \
        case 1:                                                                                                        \
            block(t, 1, n_u);                                                                                          \
            return;                                                                                                    \
        case 2:                                                                                                        \
            block(t, 2, n_u);                                                                                          \
            return;                                                                                                    \
        case 3:                                                                                                        \
            block(t, 3, n_u);                                                                                          \
            return;                                                                                                    \
        default:                                                                                                       \
            block(t, 4, n_u);                                                                                          \
            return;                                                                                                    \
        }

void st_limb_dot_avx512(const struct st_limb_tile *t)
{
    switch (t->n_u) {
        CASE(1)
        CASE(2)
        CASE(3)
        CASE(4)
    }
}
