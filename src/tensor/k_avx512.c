#define LANES 16
#define WEIGH_VECS 4
#include "tensor/k_avx512.h"

static void transpose_keys(const float *k, uint32_t head_dim, float *t);
#include "tensor/k_ops.h"

static void transpose_keys(const float *k, uint32_t head_dim, float *t)
{
    for (uint32_t d = 0; d < head_dim; d += 16) {
        __m512 v[16];
        ST_UNROLL
        for (uint32_t i = 0; i < 16; i++)
            v[i] = _mm512_loadu_ps(k + (size_t)i * head_dim + d);
        st_transpose16(v);
        ST_UNROLL
        for (uint32_t i = 0; i < 16; i++)
            _mm512_store_ps(t + (size_t)(d + i) * 16, v[i]);
    }
}

const struct st_kernels st_kernels_avx512 = {
    .isa = "avx512",
    .limb = &st_limb_avx512,
    OPS,
    .gemv = {[ST_DTYPE_F32] = &st_gemv_f32_avx512,
             [ST_DTYPE_F16] = &st_gemv_f16_avx512,
             [ST_DTYPE_BF16] = &st_gemv_bf16_avx512,
             [ST_DTYPE_I8] = &st_gemv_i8_avx512},
    .gemv_many = {[ST_DTYPE_BF16] = &st_gemv_bf16_many_avx512},
    .gemm = {[ST_DTYPE_F32] = &st_gemm_f32_avx512,
             [ST_DTYPE_F16] = &st_gemm_f32_avx512,
             [ST_DTYPE_BF16] = &st_gemm_bf16_avx512,
             [ST_DTYPE_I8] = &st_gemm_bf16_avx512},
    .gemv_i8_f32 = &st_gemv_i8_f32_avx512,
    .gemm_i8_f32 = &st_gemm_f32_avx512,
    .gemv_most = {[ST_DTYPE_F32] = 8, [ST_DTYPE_F16] = 32, [ST_DTYPE_BF16] = 8, [ST_DTYPE_I8] = 32},
};
