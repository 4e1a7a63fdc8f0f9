/* The operations of a transformer on f32 activations, over a thread pool, with the best kernels that this CPU has
 * (or those forced by `isa`). Shapes are checked by the caller (plan); nothing here allocates after st_compute_new.
 *
 * Linear layers: few rows go to GEMV kernels (bound by memory: the weight is read once for every 8 rows), more rows to
 * GEMM tiles. Activations stay f32, with two exceptions: for int8 weights GEMV quantises them per row to 16 bits, and
 * on AVX-512 GEMM rounds them to bf16 when the weights are bf16 or int8 (products and sums are f32); `exact_rows` keeps
 * them f32 for int8 weights in both. With `deterministic` all rows go through GEMV, and the result of a row does not
 * depend on which other rows are in the batch.
 *
 * Not thread-safe: one caller at a time. */
#ifndef ST_TENSOR_COMPUTE_H
#define ST_TENSOR_COMPUTE_H

#include "base/pool.h"
#include "tensor/tensor.h"

#include <stdbool.h>

/* Limits of attention; a model beyond them must be refused before it comes here. */
#define ST_ATTN_MAX_HEAD_DIM 256
#define ST_ATTN_MAX_GROUP 64 /* query heads per kv head */

struct st_compute;

struct st_compute_opts {
    int n_threads;      /* 0 = all */
    const char *isa;    /* NULL = best; "ref", "avx2", "avx512"; UNSUPPORTED if this CPU lacks it */
    uint32_t max_row;   /* largest n_row that will be passed */
    uint32_t max_width; /* largest n_in (n_out, such as the vocabulary, does not count) */
    bool deterministic;
    bool exact_rows;
    bool secret;         /* weights are: what holds copies of them lies in locked memory (base/locked.h) */
    bool allow_unlocked; /* even where that cannot be locked */
};

int st_compute_new(const struct st_compute_opts *o, struct st_compute **out, struct st_err *e) ST_MUST_CHECK;
void st_compute_free(struct st_compute *c);
const char *st_compute_isa(const struct st_compute *c);
int st_compute_threads(const struct st_compute *c);
struct st_pool *st_compute_pool(struct st_compute *c);

/* Several linear layers on the same rows (q, k, v; gate, up): y_j = x W_j^T + b_j.
 * x [n_row, n_in]; job.y [n_row, job.w->n_out]; all n_in equal. A matrix may be cut between rows into several jobs: the
 * results are the same to the bit. */
struct st_linear_job {
    const struct st_mat *w;
    const float *bias; /* [n_out] or NULL */
    float *y;
    size_t ldy; /* values from one row of y to the next; 0 = w->n_out */
};
void st_linear(struct st_compute *c, const struct st_linear_job *jobs, int n_job, const float *x, uint32_t n_row);

/* y [n, d] = rows `ids` of table [n_vocab, d] in f32 (any dtype). */
void st_embed(struct st_compute *c, const struct st_mat *table, const uint32_t *ids, uint32_t n, float *y);

/* y = x / rms(x) * w, rms over each row of d values with eps inside the root; y may be x. Also per head: n_row = rows *
 * heads. */
void st_rmsnorm(struct st_compute *c, const float *x, const float *w, float eps, uint32_t n_row, uint32_t d, float *y);

/* Which values of a head are rotated, and how: the 2 * n_pair values from `first` on. Pairs are (i, i + n_pair), or
 * (2i, 2i+1) when `interleaved`, counted from `first`. */
struct st_rotary {
    const float *inv_freq; /* [n_pair], after any scaling */
    uint32_t n_pair;       /* at most ST_ATTN_MAX_HEAD_DIM / 2 */
    uint32_t first;
    float gain; /* factor of all sines and cosines; 1 but for yarn */
    bool interleaved;
};
/* Rotates x [n_row, n_head, head_dim] in place; pos [n_row]. */
void st_rope(struct st_compute *c, float *x, uint32_t n_row, uint32_t n_head, uint32_t head_dim, const uint32_t *pos,
             const struct st_rotary *rotary);

/* Pieces of `len` values, one per head, that are copied inside each row: head h from from_at + h * from_step to
 * to_at + h * to_step. from_step 0 gives every head the same piece. Destinations do not overlap. */
struct st_pieces {
    uint32_t n_head, len;
    uint32_t from_at, from_step;
    uint32_t to_at, to_step;
};
/* from [n_row, from_width], to [n_row, to_width], different memory. */
void st_copy(struct st_compute *c, const struct st_pieces *p, const float *from, uint32_t from_width, float *to,
             uint32_t to_width, uint32_t n_row);

/* gate = silu(gate) * up;  x += y. n values. */
void st_silu_mul(struct st_compute *c, float *gate, const float *up, size_t n);
void st_add(struct st_compute *c, float *x, const float *y, size_t n);

/* The paged key/value cache of one layer. A block holds `block_len` tokens; inside a block K is
 * [n_kv_head][block_len][head_dim] and V [n_kv_head][block_len][v_head_dim], of dtype F32 or BF16. Block b of K starts
 * at k + b * block_stride values, of V at v + b * block_stride. */
struct st_kv_layer {
    void *k, *v;
    size_t block_stride; /* values, at least n_kv_head * block_len * the larger head size (more: a block of all layers
                            is one piece) */
    uint32_t block_len;
    uint32_t n_kv_head, head_dim, v_head_dim;
    enum st_dtype dtype;
};
/* Consecutive rows of one sequence: rows [row0, row0 + n_row) stand at positions [pos0, pos0 + n_row).
 * blocks[i] holds positions [i * block_len, (i+1) * block_len). */
struct st_attn_seq {
    const uint32_t *blocks;
    uint32_t row0, n_row, pos0;
};
/* Writes k [n_row_total, n_kv_head, head_dim] and v [.., v_head_dim] of all sequences into the cache. */
void st_kv_store(struct st_compute *c, const struct st_kv_layer *kv, const struct st_attn_seq *seqs, uint32_t n_seq,
                 const float *k, const float *v);
/* q [.., n_head, head_dim] -> out [.., n_head, v_head_dim] = softmax(scale q k^T) v, causal: position p sees (p -
 * window, p], window 0 = all. Query head h reads kv head h / (n_head / n_kv_head). The cache already holds the rows'
 * own keys. */
void st_attend(struct st_compute *c, const struct st_kv_layer *kv, const struct st_attn_seq *seqs, uint32_t n_seq,
               const float *q, uint32_t n_head, float scale, uint32_t window, float *out);

#endif
