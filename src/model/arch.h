/* Architectures: one file, one const struct, one row in archs.def. */
#ifndef ST_MODEL_ARCH_H
#define ST_MODEL_ARCH_H

#include "model/plan.h"
#include "text/json.h"

struct st_arch {
    const char *name; /* "LlamaForCausalLM" */
    /* Reads what is special to this architecture from config.json (common fields are already read; head_dim is 0 when
     * absent and then becomes d_model / n_head, unless this sets it). */
    int (*config)(const json_t *json, const char *where, struct st_config *c, struct st_err *e);
    /* Writes the plan. */
    void (*plan)(const struct st_config *c, struct st_plan *p);
};

/* UNSUPPORTED: architecture 'X' is not supported; supported: A, B, C */
int st_arch_find(const char *name, const struct st_arch **out, struct st_err *e) ST_MUST_CHECK;

/* For architectures whose config has use_sliding_window, max_window_layers and layer_types (the Qwen family): sets
 * sliding_window when every layer has it; UNSUPPORTED when layers differ. */
int st_arch_qwen_window(const json_t *json, const char *where, struct st_config *c, struct st_err *e) ST_MUST_CHECK;

/* For mixtures of experts: n_expert from field `key`, or `key2` as another version of transformers writes it (INPUT
 * when they differ), and n_expert_used from num_experts_per_tok. */
int st_arch_experts(const json_t *json, const char *where, const char *key, const char *key2, struct st_config *c,
                    struct st_err *e) ST_MUST_CHECK;

/* For the DeepSeek family. Sizes and biases of latent attention; UNSUPPORTED when key/value heads are fewer than heads.
 */
int st_arch_latent(const json_t *json, const char *where, struct st_config *c, struct st_err *e) ST_MUST_CHECK;
/* Experts in the layers behind the first first_k_dense_replace (n_dense when absent): their number (key2 as in
 * st_arch_experts()), sizes and scale; none of it is read when all layers are dense. UNSUPPORTED when scores are not
 * made by `score`. */
int st_arch_deepseek_experts(const json_t *json, const char *where, const char *key2, uint32_t n_dense,
                             const char *score, struct st_config *c, struct st_err *e) ST_MUST_CHECK;
/* A switch that the reference takes for off when it is null. */
int st_arch_switch(const json_t *json, const char *where, const char *key, bool *out, struct st_err *e) ST_MUST_CHECK;
/* n_group and topk_group. */
int st_arch_deepseek_groups(const json_t *json, const char *where, struct st_config *c, struct st_err *e) ST_MUST_CHECK;

#endif
