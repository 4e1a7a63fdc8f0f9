/* What the AVX2 files share. Include only from *_avx2.c. */
#ifndef ST_TENSOR_K_AVX2_H
#define ST_TENSOR_K_AVX2_H

#include "tensor/kernels.h"
#include "tensor/unroll.h"

#include <immintrin.h>

extern const struct st_gemv_kernel st_gemv_f32_avx2, st_gemv_f16_avx2, st_gemv_bf16_avx2, st_gemv_i8_avx2,
    st_gemv_i8_f32_avx2;
extern const struct st_gemm_kernel st_gemm_f32_avx2;

/* Rows become columns: 8 x 8 values of 32 bits. */
static ST_INLINE void st_transpose8(__m256 v[8])
{
    __m256 t[8];
    ST_UNROLL
    for (int i = 0; i < 8; i += 4) {
        __m256 a = _mm256_unpacklo_ps(v[i], v[i + 1]), b = _mm256_unpackhi_ps(v[i], v[i + 1]);
        __m256 c = _mm256_unpacklo_ps(v[i + 2], v[i + 3]), d = _mm256_unpackhi_ps(v[i + 2], v[i + 3]);
        t[i] = _mm256_shuffle_ps(a, c, 0x44);
        t[i + 1] = _mm256_shuffle_ps(a, c, 0xee);
        t[i + 2] = _mm256_shuffle_ps(b, d, 0x44);
        t[i + 3] = _mm256_shuffle_ps(b, d, 0xee);
    }
    ST_UNROLL
    for (int i = 0; i < 4; i++) {
        v[i] = _mm256_permute2f128_ps(t[i], t[i + 4], 0x20);
        v[i + 4] = _mm256_permute2f128_ps(t[i], t[i + 4], 0x31);
    }
}

#endif
