/* What the AVX-512 files share. Include only from *_avx512.c. */
#ifndef ST_TENSOR_K_AVX512_H
#define ST_TENSOR_K_AVX512_H

#include "tensor/kernels.h"
#include "tensor/unroll.h"

#include <immintrin.h>

extern const struct st_gemv_kernel st_gemv_f32_avx512, st_gemv_f16_avx512, st_gemv_bf16_avx512, st_gemv_i8_avx512,
    st_gemv_i8_f32_avx512, st_gemv_bf16_many_avx512;
extern const struct st_gemm_kernel st_gemm_f32_avx512, st_gemm_bf16_avx512;

typedef float st_unaligned_f32 __attribute__((aligned(1), may_alias));

/* The first n of 16 lanes; all when n >= 16. */
static inline __mmask16 st_mask16(size_t n)
{
    return n >= 16 ? 0xffff : (__mmask16)((1u << n) - 1);
}
static inline __mmask32 st_mask32(size_t n)
{
    return n >= 32 ? 0xffffffff : (1u << n) - 1;
}

/* Rows become columns: 16 x 16 values of 32 bits. */
static ST_INLINE void st_transpose16(__m512 v[16])
{
    __m512 t[16];
    ST_UNROLL
    for (int i = 0; i < 16; i += 4) {
        __m512 a = _mm512_unpacklo_ps(v[i], v[i + 1]), b = _mm512_unpackhi_ps(v[i], v[i + 1]);
        __m512 c = _mm512_unpacklo_ps(v[i + 2], v[i + 3]), d = _mm512_unpackhi_ps(v[i + 2], v[i + 3]);
        t[i] = _mm512_shuffle_ps(a, c, 0x44);
        t[i + 1] = _mm512_shuffle_ps(a, c, 0xee);
        t[i + 2] = _mm512_shuffle_ps(b, d, 0x44);
        t[i + 3] = _mm512_shuffle_ps(b, d, 0xee);
    }
    ST_UNROLL
    for (int i = 0; i < 4; i++) {
        __m512 a = _mm512_shuffle_f32x4(t[i], t[i + 4], 0x88), b = _mm512_shuffle_f32x4(t[i], t[i + 4], 0xdd);
        __m512 c = _mm512_shuffle_f32x4(t[i + 8], t[i + 12], 0x88), d = _mm512_shuffle_f32x4(t[i + 8], t[i + 12], 0xdd);
        v[i] = _mm512_shuffle_f32x4(a, c, 0x88);
        v[i + 4] = _mm512_shuffle_f32x4(b, d, 0x88);
        v[i + 8] = _mm512_shuffle_f32x4(a, c, 0xdd);
        v[i + 12] = _mm512_shuffle_f32x4(b, d, 0xdd);
    }
}

#endif
