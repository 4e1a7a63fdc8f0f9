/* What the AVX-512 files share. Include only from *_avx512.c. */
#ifndef ST_TENSOR_K_AVX512_H
#define ST_TENSOR_K_AVX512_H

#include "tensor/kernels.h"

#include <immintrin.h>

extern const struct st_gemv_kernel st_gemv_f32_avx512, st_gemv_f16_avx512, st_gemv_bf16_avx512, st_gemv_i8_avx512;
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

#endif
