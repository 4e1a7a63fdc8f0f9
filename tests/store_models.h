/* Models that differ in what a store has to hand out: biases, a tied head, experts, latent attention. */
#ifndef TESTS_STORE_MODELS_H
#define TESTS_STORE_MODELS_H

#include "harness.h"

static const struct {
    const char *name;
    struct tiny t;
} models[] = {
    {"llama", {.n_ctx = 256, .seed = 1}},
    {"llama, tied head", {.n_ctx = 256, .tied = true, .dtype = ST_DTYPE_BF16, .seed = 2}},
    {"qwen2", {.arch = "Qwen2ForCausalLM", .n_ctx = 256, .dtype = ST_DTYPE_F16, .seed = 3}},
    {"mixtral",
     {.arch = "MixtralForCausalLM",
      .n_ctx = 256,
      .dtype = ST_DTYPE_BF16,
      .extra = "\"num_local_experts\": 4, \"num_experts_per_tok\": 2",
      .seed = 4}},
    {"deepseek",
     {.arch = "DeepseekV2ForCausalLM",
      .n_kv_head = 4,
      .n_ctx = 256,
      .extra = "\"q_lora_rank\": 24, \"kv_lora_rank\": 20, \"first_k_dense_replace\": 1, \"n_routed_experts\": 6, "
               "\"num_experts_per_tok\": 2, \"moe_intermediate_size\": 16, \"n_shared_experts\": 1, "
               "\"qk_nope_head_dim\": 12, \"qk_rope_head_dim\": 8, \"v_head_dim\": 10",
      .seed = 5}},
};
enum { N_MODEL = sizeof models / sizeof models[0] };

#endif
