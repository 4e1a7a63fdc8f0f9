#include "tensor/k_avx512.h"

#define LANES 16
#define SOME 4
#define MANY 3
#define MANY_I8 2 /* the compiler needs more registers here */
#include "tensor/k_vec.h"

static ST_INLINE void widen_bf16(const uint8_t *w, vec out[2])
{
    __m512i a = _mm512_loadu_si512(w);
    out[0] = (vec)_mm512_slli_epi32(a, 16);
    out[1] = (vec)_mm512_and_si512(a, _mm512_set1_epi32((int)0xffff0000));
}

static ST_INLINE void widen_f16(const uint8_t *w, vec out[2])
{
    out[0] = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)w));
    out[1] = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(w + 32)));
}

static ST_INLINE ivec widen_i8(const uint8_t *w)
{
    return (ivec)_mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)w));
}

static ST_INLINE ivec dot_i16(ivec sum, ivec w, ivec x)
{
    return (ivec)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)w, (__m512i)x);
}

static ST_INLINE void sum4(vec a, vec b, vec c, vec d, float out[4])
{
    __m512 ab = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
    __m512 cd = _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xee));
    __m512 s = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
    s = _mm512_add_ps(s, _mm512_permute_ps(s, 0x4e));
    s = _mm512_add_ps(s, _mm512_permute_ps(s, 0xb1));
    const __m512i pick = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 8, 4, 0);
    _mm_storeu_ps(out, _mm512_castps512_ps128(_mm512_permutexvar_ps(pick, s)));
}

#include "tensor/k_gemv.h"

const struct st_gemv_kernel st_gemv_f32_avx512 = {prep_plain, run_f32};
const struct st_gemv_kernel st_gemv_f16_avx512 = {prep_plain, run_f16};
const struct st_gemv_kernel st_gemv_bf16_avx512 = {prep_bf16, run_bf16};
const struct st_gemv_kernel st_gemv_i8_avx512 = {prep_i16, run_i8};
