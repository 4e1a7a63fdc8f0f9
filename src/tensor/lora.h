/* Low-rank additions to linear layers (LoRA, arXiv 2106.09685, equation 3): y += (x A^T) (scale B)^T. B is packed once,
 * with the scale in it, so that rows of a step run over it as attention's kernels do over values. A row's result does
 * not depend on the rows beside it when those of A do not (compute.h, deterministic).
 * Not thread-safe, like compute.h; nothing allocates. */
#ifndef ST_TENSOR_LORA_H
#define ST_TENSOR_LORA_H

#include "tensor/compute.h"

#define ST_LORA_TILE 64 /* outputs of one tile of packed B: [n_out / 64, rounded up][rank][64], zeros behind n_out */

/* Values of packed B. */
static inline size_t st_lora_packed(uint32_t n_out, uint32_t rank)
{
    return ((size_t)n_out + ST_LORA_TILE - 1) / ST_LORA_TILE * ST_LORA_TILE * rank;
}
/* B [n_out, rank] of F32, F16 or BF16, aligned, times scale, to `to`; row: scratch [rank]. */
void st_lora_pack(enum st_dtype dtype, const void *b, uint32_t n_out, uint32_t rank, float scale, float *row,
                  float *to);

struct st_lora_job {
    const struct st_mat *a; /* [rank, n_in] */
    const float *b;         /* packed, of n_out */
    uint32_t n_out;
    float *z; /* scratch [n_row, rank] */
    float *y; /* [n_row, n_out] */
};
#define ST_LORA_JOBS 16
/* Several on the same rows x [n_row, n_in], at most ST_LORA_JOBS. */
void st_lora(struct st_compute *c, const struct st_lora_job *jobs, int n_job, const float *x, uint32_t n_row);

#endif
