#include "tensor/kernels.h"

#include <immintrin.h>

/* bf16 bits of 8 floats, in the low halves of 32-bit lanes. */
static __m256i narrow_bf16(__m256 f)
{
    __m256i u = _mm256_castps_si256(f);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    __m256i r = _mm256_srli_epi32(_mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
    __m256i nan = _mm256_or_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(0x40));
    return _mm256_blendv_epi8(r, nan, _mm256_castps_si256(_mm256_cmp_ps(f, f, _CMP_UNORD_Q)));
}

static __m256 widen_bf16(const uint16_t *p)
{
    __m128i h = _mm_loadu_si128((const __m128i *)p);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}

static __m256 load8(enum st_dtype t, const void *p, size_t i)
{
    if (t == ST_DTYPE_F32)
        return _mm256_loadu_ps((const float *)p + i);
    if (t == ST_DTYPE_BF16)
        return widen_bf16((const uint16_t *)p + i);
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)((const uint16_t *)p + i)));
}

static void store8(enum st_dtype t, void *p, size_t i, __m256 f)
{
    if (t == ST_DTYPE_F32) {
        _mm256_storeu_ps((float *)p + i, f);
        return;
    }
    __m128i h;
    if (t == ST_DTYPE_BF16) {
        __m256i u = narrow_bf16(f);
        h = _mm_packus_epi32(_mm256_castsi256_si128(u), _mm256_extracti128_si256(u, 1));
    } else {
        h = _mm256_cvtps_ph(f, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    }
    _mm_storeu_si128((__m128i *)((uint16_t *)p + i), h);
}

size_t st_convert_avx2(enum st_dtype from, const void *src, enum st_dtype to, void *dst, size_t n)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        store8(to, dst, i, load8(from, src, i));
    return i;
}

const struct st_kernels st_kernels_avx2 = {.isa = "avx2"};
