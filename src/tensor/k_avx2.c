#include "tensor/k_avx2.h"

#define LANES 8
#define WEIGH_VECS 2
static void transpose_keys(const float *k, uint32_t head_dim, float *t);
#include "tensor/k_ops.h"

static void transpose_keys(const float *k, uint32_t head_dim, float *t)
{
    for (uint32_t d = 0; d < head_dim; d += 8) {
        vec v[8];
        ST_UNROLL
        for (uint32_t i = 0; i < 8; i++)
            v[i] = load(k + (size_t)i * head_dim + d);
        st_transpose8(v);
        ST_UNROLL
        for (uint32_t i = 0; i < 8; i++)
            store(t + (size_t)(d + i) * 8, v[i]);
    }
}

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

size_t st_max_abs_avx2(const float *w, size_t n, float *max)
{
    __m256 sign = _mm256_set1_ps(-0.0f), m = _mm256_set1_ps(*max);
    size_t i = 0;
    /* MAXPS gives its second operand when the first is NaN. */
    for (; i + 8 <= n; i += 8)
        m = _mm256_max_ps(_mm256_andnot_ps(sign, _mm256_loadu_ps(w + i)), m);
    float lane[8];
    _mm256_storeu_ps(lane, m);
    for (int j = 0; j < 8; j++)
        *max = lane[j] > *max ? lane[j] : *max;
    return i;
}

/* Eight values as integers in [-127, 127]; NaN becomes -127, as in the scalar code. */
static __m256i quantize8(const float *w, __m256 scale)
{
    __m256 q = _mm256_div_ps(_mm256_loadu_ps(w), scale);
    q = _mm256_round_ps(q, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    q = _mm256_max_ps(_mm256_min_ps(_mm256_set1_ps(127), q), _mm256_set1_ps(-127));
    return _mm256_cvtps_epi32(q);
}

size_t st_quantize_avx2(const float *w, size_t n, float scale, int8_t *out)
{
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7); /* undoes the packing by halves */
    __m256 s = _mm256_set1_ps(scale);
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        __m256i a = _mm256_packs_epi32(quantize8(w + i, s), quantize8(w + i + 8, s));
        __m256i b = _mm256_packs_epi32(quantize8(w + i + 16, s), quantize8(w + i + 24, s));
        __m256i q = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(a, b), order);
        _mm256_storeu_si256((__m256i *)(out + i), q);
    }
    return i;
}

const struct st_kernels st_kernels_avx2 = {
    .isa = "avx2",
    .limb = &st_limb_avx2,
    OPS,
    .gemv = {[ST_DTYPE_F32] = &st_gemv_f32_avx2,
             [ST_DTYPE_F16] = &st_gemv_f16_avx2,
             [ST_DTYPE_BF16] = &st_gemv_bf16_avx2,
             [ST_DTYPE_I8] = &st_gemv_i8_avx2},
    .gemm = {[ST_DTYPE_F32] = &st_gemm_f32_avx2,
             [ST_DTYPE_F16] = &st_gemm_f32_avx2,
             [ST_DTYPE_BF16] = &st_gemm_f32_avx2,
             [ST_DTYPE_I8] = &st_gemm_f32_avx2},
    .gemv_i8_f32 = &st_gemv_i8_f32_avx2,
    .gemm_i8_f32 = &st_gemm_f32_avx2,
    .gemv_most = {[ST_DTYPE_F32] = 8, [ST_DTYPE_F16] = 16, [ST_DTYPE_BF16] = 16, [ST_DTYPE_I8] = 32},
};
