/* What config.json (or a llama2.c header) says about a model, checked: every size is in range and divides as it must. */
#ifndef ST_MODEL_CONFIG_H
#define ST_MODEL_CONFIG_H

#include "base/err.h"
#include "tensor/tensor.h"

#include <stdbool.h>

#define ST_MAX_EOS 8

enum st_rope_scaling { ST_ROPE_NONE, ST_ROPE_LINEAR, ST_ROPE_LLAMA3 };

struct st_config {
    char arch[64];       /* "LlamaForCausalLM", ... */
    char model_type[32]; /* "llama", ... */
    uint32_t d_model, n_layer, n_head, n_kv_head, head_dim, d_ff, n_vocab, n_ctx;
    float norm_eps;
    float rope_theta;
    enum st_rope_scaling rope_scaling;
    float rope_factor, rope_low_freq_factor, rope_high_freq_factor;
    uint32_t rope_original_ctx;
    bool rope_interleaved; /* pairs (2i, 2i+1): llama2.c files */
    uint32_t sliding_window;   /* 0 = none */
    bool tied_head, qkv_bias, o_bias, mlp_bias, qk_norm;
    enum st_dtype dtype; /* of the stored matrices */
    int64_t bos, pad;    /* -1 = none */
    int64_t eos[ST_MAX_EOS];
    int n_eos;
};

/* Inverse rotary frequencies after scaling, [head_dim / 2]. */
void st_config_inv_freq(const struct st_config *c, float *out);

#endif
