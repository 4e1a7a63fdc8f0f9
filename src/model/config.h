/* What config.json (or a llama2.c header) says about a model, checked: every size is in range and divides as it must,
 * so that products of two sizes fit 64 bits everywhere below. Hostile input. A field that would change the mathematics
 * and that we do not implement is refused by name; fields that do not touch inference (dropout, initializer_range, ...)
 * are not read. */
#ifndef ST_MODEL_CONFIG_H
#define ST_MODEL_CONFIG_H

#include "base/err.h"
#include "tensor/route.h"
#include "tensor/tensor.h"

#include <stdbool.h>

#define ST_MAX_EOS 8

/* Limits of what is accepted. */
#define ST_MAX_WIDTH (1u << 17) /* d_model, n_head * head_dim */
#define ST_MAX_FF (1u << 20)    /* d_ff */
#define ST_MAX_VOCAB (1u << 22)
#define ST_MAX_LAYERS 1024u
#define ST_MAX_HEADS 1024u
#define ST_MAX_HEAD_DIM 256u /* of queries and keys, and of values */
#define ST_MAX_CTX (1u << 24)
#define ST_MAX_LAYER_EXPERTS (1u << 16) /* n_layer * n_expert: each has its records in the plan */

enum st_rope_scaling { ST_ROPE_NONE, ST_ROPE_LINEAR, ST_ROPE_LLAMA3, ST_ROPE_YARN };

/* What yarn (arXiv 2309.00071) has beside rope_factor and rope_original_ctx. As in transformers, with its defaults in
 * place of absent values. */
struct st_yarn {
    double beta_fast, beta_slow;   /* rotations between which frequencies are mixed */
    double mscale, mscale_all_dim; /* 0 = not given */
    double attention_factor;       /* of sines and cosines; 0 = follows from the others */
    bool truncate;                 /* the borders of the mixed part are whole numbers */
};

struct st_config {
    char arch[64];       /* "LlamaForCausalLM", ... */
    char model_type[32]; /* "llama", ...; may be empty */
    uint32_t d_model, n_layer, n_head, n_kv_head, d_ff, n_vocab, n_ctx;
    uint32_t head_dim;   /* of queries and keys */
    uint32_t v_head_dim; /* of values; head_dim but for latent attention */
    uint32_t rope_dim;   /* the last rope_dim values of a query or key head are rotated; head_dim but for latent
                            attention, where config.json calls it qk_rope_head_dim */
    /* Latent attention (DeepSeek): ranks of the compressed queries (0 = not compressed) and of the keys and values;
     * kv_lora_rank 0 = another kind of attention. */
    uint32_t q_lora_rank, kv_lora_rank;
    uint32_t n_mtp_layer; /* layers behind the last one that only guess further tokens: their tensors are not used */
    float norm_eps;
    float rope_theta;
    enum st_rope_scaling rope_scaling;
    float rope_factor, rope_low_freq_factor, rope_high_freq_factor;
    uint32_t rope_original_ctx;
    struct st_yarn yarn;
    bool rope_interleaved;   /* pairs (2i, 2i+1): llama2.c files, DeepSeek */
    uint32_t sliding_window; /* of every layer; 0 = none */
    bool tied_head, qkv_bias, o_bias, mlp_bias, qk_norm;

    /* Mixture of experts in the layers of st_config_is_moe(); n_expert 0 = none, and the rest counts for nothing. */
    uint32_t n_expert, n_expert_used; /* routed experts, and how many of them a token takes */
    uint32_t moe_d_ff;                /* width of one expert */
    uint32_t n_shared_expert;         /* as one MLP of n_shared_expert * moe_d_ff that every token takes */
    uint64_t dense_layers[(ST_MAX_LAYERS + 63) / 64]; /* bit l: layer l has an ordinary MLP; st_config_set_dense() */
    enum st_score score;
    bool router_bias;               /* a bias that counts in the choice of experts, not in their weights */
    uint32_t n_group, n_group_used; /* experts stand in n_group groups, of which n_group_used are open; 0, 0 = none */
    enum st_group_score group_score;
    bool norm_topk;     /* the weights of the chosen experts sum to 1 ... */
    float routed_scale; /* ... before this factor; 0 counts as 1 */

    enum st_dtype dtype; /* of the stored matrices; known once the checkpoint is open (st_model_open), F32 before */
    int64_t bos, pad;    /* -1 = none; a pad id outside the vocabulary counts as none */
    int64_t eos[ST_MAX_EOS];
    int n_eos;
};

/* config.json from memory. INPUT names `where` and the field; UNSUPPORTED names what is not implemented. */
int st_config_parse(const void *p, size_t len, const char *where, struct st_config *out,
                    struct st_err *e) ST_MUST_CHECK;
/* generation_config.json from memory: its eos ids join those of *c. */
int st_config_parse_generation(const void *p, size_t len, const char *where, struct st_config *c,
                               struct st_err *e) ST_MUST_CHECK;
/* config.json of a directory or a sealed container, and generation_config.json when present. */
int st_config_read(const char *path, struct st_config *out, struct st_err *e) ST_MUST_CHECK;
struct st_texts;
int st_config_read_in(const struct st_texts *t, struct st_config *out, struct st_err *e) ST_MUST_CHECK;
/* The checks that hold for every source of a config (also for llama2.c headers): ranges and divisibility. */
int st_config_check(const struct st_config *c, const char *where, struct st_err *e) ST_MUST_CHECK;

/* Its part on mixtures of experts. */
int st_config_check_moe(const struct st_config *c, const char *where, struct st_err *e) ST_MUST_CHECK;

bool st_config_is_moe(const struct st_config *c, uint32_t layer);
void st_config_set_dense(struct st_config *c, uint32_t layer); /* layer < ST_MAX_LAYERS */

/* Inverse rotary frequencies after scaling, [rope_dim / 2]. In float32 step by step, as the reference computes them:
 * at position p an error of one ulp in a frequency becomes p ulps in the angle. */
void st_config_inv_freq(const struct st_config *c, float *out);
/* Factor of all sines and cosines. */
float st_config_rope_gain(const struct st_config *c);
/* Factor of the attention scores before the softmax. */
float st_config_attn_scale(const struct st_config *c);

#endif
