#include "tensor/k_avx512.h"

const struct st_kernels st_kernels_avx512 = {
    .isa = "avx512",
    .gemv = {[ST_DTYPE_F32] = &st_gemv_f32_avx512,
             [ST_DTYPE_F16] = &st_gemv_f16_avx512,
             [ST_DTYPE_BF16] = &st_gemv_bf16_avx512,
             [ST_DTYPE_I8] = &st_gemv_i8_avx512},
    .gemm = {[ST_DTYPE_F32] = &st_gemm_f32_avx512,
             [ST_DTYPE_F16] = &st_gemm_f32_avx512,
             [ST_DTYPE_BF16] = &st_gemm_bf16_avx512,
             [ST_DTYPE_I8] = &st_gemm_bf16_avx512},
    .gemv_most = {[ST_DTYPE_F32] = 8, [ST_DTYPE_F16] = 32, [ST_DTYPE_BF16] = 8, [ST_DTYPE_I8] = 32},
};
