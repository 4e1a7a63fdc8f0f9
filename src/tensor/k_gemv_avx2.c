#include "tensor/k_avx2.h"

#define LANES 8
#define SOME 2
#define MANY 1
#define MANY_I8 1
#include "tensor/k_vec.h"

static ST_INLINE void widen_bf16(const uint8_t *w, vec out[2])
{
    __m256i a = _mm256_loadu_si256((const __m256i *)w);
    out[0] = (vec)_mm256_slli_epi32(a, 16);
    out[1] = (vec)_mm256_and_si256(a, _mm256_set1_epi32((int)0xffff0000));
}

static ST_INLINE void widen_f16(const uint8_t *w, vec out[2])
{
    out[0] = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)w));
    out[1] = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(w + 16)));
}

static ST_INLINE ivec widen_i8(const uint8_t *w)
{
    return (ivec)_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)w));
}

static ST_INLINE vec widen_i8_f32(const uint8_t *w)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)w)));
}

static ST_INLINE ivec dot_i16(ivec sum, ivec w, ivec x)
{
    return sum + (ivec)_mm256_madd_epi16((__m256i)w, (__m256i)x);
}

static ST_INLINE void sum4(vec a, vec b, vec c, vec d, float out[4])
{
    __m256 ab = _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
    __m256 cd = _mm256_add_ps(_mm256_permute2f128_ps(c, d, 0x20), _mm256_permute2f128_ps(c, d, 0x31));
    __m256 s = _mm256_hadd_ps(ab, cd); /* in each half: two pairs of one, two pairs of the other */
    s = _mm256_hadd_ps(s, s);
    const __m256i pick = _mm256_set_epi32(0, 0, 0, 0, 5, 1, 4, 0);
    _mm_storeu_ps(out, _mm256_castps256_ps128(_mm256_permutevar8x32_ps(s, pick)));
}

#include "tensor/k_gemv.h"

const struct st_gemv_kernel st_gemv_f32_avx2 = {prep_plain, run_f32};
const struct st_gemv_kernel st_gemv_f16_avx2 = {prep_plain, run_f16};
const struct st_gemv_kernel st_gemv_bf16_avx2 = {prep_bf16, run_bf16};
const struct st_gemv_kernel st_gemv_i8_avx2 = {prep_i16, run_i8};
const struct st_gemv_kernel st_gemv_i8_f32_avx2 = {prep_plain, run_i8_f32};
