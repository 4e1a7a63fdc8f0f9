/* The inside of struct st_compute, shared by compute.c, linear.c, attend.c and route.c. */
#ifndef ST_TENSOR_COMPUTE_PRIV_H
#define ST_TENSOR_COMPUTE_PRIV_H

#include "base/locked.h"
#include "tensor/compute.h"
#include "tensor/kernels.h"

#include <stdatomic.h>

/* Query vectors and keys in one tile of attention. */
#define ST_ATTN_TILE 64

/* Rows of x packed together by the GEMM; more rows read W again. */
#define ST_GEMM_ROWS 512

/* One thread's workspace for attention. */
struct st_attn_scratch {
    _Alignas(64) float q[ST_ATTN_TILE * ST_ATTN_MAX_HEAD_DIM];
    float kv[ST_ATTN_TILE * ST_ATTN_MAX_HEAD_DIM];
    float o[ST_ATTN_TILE * ST_ATTN_MAX_HEAD_DIM];
    float s[ST_ATTN_TILE * ST_ATTN_TILE];
    float max[ST_ATTN_TILE], sum[ST_ATTN_TILE];
};

/* Result of one item's part of the keys, merged afterwards. */
struct st_attn_part {
    _Alignas(64) float o[ST_ATTN_TILE * ST_ATTN_MAX_HEAD_DIM];
    float max[ST_ATTN_TILE], sum[ST_ATTN_TILE];
};

/* One thread's share of the chunks of a step. */
struct st_share {
    _Alignas(64) atomic_size_t next;
    size_t end;
};

struct st_compute {
    struct st_kernels k;
    struct st_pool *pool;
    int n_threads;
    bool deterministic;
    uint32_t max_width;
    atomic_size_t next; /* next item of the step that is running */

    struct st_share *shares; /* per thread, linear layers */
    uint8_t *x_rows;         /* ST_GEMV_ROWS rows of st_gemv_row_bytes(max_width), made by prep */
    float x_scale[ST_GEMV_ROWS];

    uint32_t gemm_rows;      /* rows of x packed at a time, a multiple of ST_GEMM_NR_MAX */
    uint8_t *panels;         /* gemm_rows * ST_GEMM_K values */
    uint8_t *w_tile;         /* per thread ST_GEMM_MR_MAX * ST_GEMM_K floats */
    struct st_locked locked; /* holds w_tile when weights are secret */

    struct st_attn_scratch *attn;
    struct st_attn_part *part; /* 2 * n_threads */

    /* Rotary angles of the rows of this step: the same for every layer, so that they are made once. */
    uint32_t max_row;
    uint32_t rope_rows, rope_pairs; /* valid part of the tables; 0 = none */
    float rope_gain;
    uint32_t *rope_pos;         /* [max_row] */
    float *rope_freq;           /* [ST_ATTN_MAX_HEAD_DIM / 2] */
    float *rope_cos, *rope_sin; /* [max_row, ST_ATTN_MAX_HEAD_DIM / 2] */
};

/* Runs fn on all threads, or on this one alone when waking the others would take longer than n_values values. */
void st_spread(struct st_compute *c, size_t n_values, st_pool_fn *fn, void *arg);

#endif
