/* The one weight that GGUF stores as two tensors: DeepSeek's kv_b [n_head (nope + v), rank]. llama.cpp wants, per head,
 * the key part transposed (attn_k_b [n_head, rank, nope]) and the value part as it is (attn_v_b [n_head, v, rank]). The
 * values are collected in memory as f32, 64 MiB for the largest model there is, and laid out when all are there. */
#ifndef ST_PROTECT_COVARIANT_OUT_SPLIT_H
#define ST_PROTECT_COVARIANT_OUT_SPLIT_H

#include "protect/covariant/out.h"

struct st_cov_split {
    uint32_t n_head, nope, v, rank;
    /* How the parts are stored; the key part is at the tensor's own offset, with its `bytes`. */
    struct st_cov_out_tensor key, value;
    uint64_t at, bytes; /* of the value part */
    float *all;         /* [n_head (nope + v), rank]; NULL until the first write */
};

/* t is the tensor that owns the split; at and len in bytes of f32. MEMORY. From any thread. */
int st_cov_split_take(const struct st_cov_out_tensor *t, uint64_t at, const void *p, size_t len,
                      struct st_err *e) ST_MUST_CHECK;
/* Writes both parts to the file and frees the memory. */
int st_cov_split_flush(const struct st_cov_out *o, const struct st_cov_out_tensor *t, struct st_err *e) ST_MUST_CHECK;

#endif
