/* How llama.cpp names architectures, fields and tensors, and what it cannot run: facts of its loaders (src/models/,
 * llama-arch.cpp; gguf-py). What it would run differently from the source is refused by name, never written.
 *
 *     LlamaForCausalLM, MistralForCausalLM, MixtralForCausalLM, Qwen2ForCausalLM -> llama, pairs (2i, 2i+1)
 *     Qwen3ForCausalLM -> qwen3, Qwen3MoeForCausalLM -> qwen3moe, pairs (i, i + m)
 *     DeepseekV2ForCausalLM, DeepseekV3ForCausalLM -> deepseek2, pairs (2i, 2i+1), kv_b in two parts (out_split.h)
 * A sliding window becomes the context length: the llama loader knows none. */
#ifndef ST_PROTECT_COVARIANT_GGUF_ARCH_H
#define ST_PROTECT_COVARIANT_GGUF_ARCH_H

#include "model/config.h"
#include "model/plan.h"
#include "protect/covariant/gguf.h"

/* UNSUPPORTED: names what llama.cpp has not. Otherwise *interleaved is how the rotary pairs of the result must lie. */
int st_cov_gguf_check(const struct st_config *c, bool *interleaved, struct st_err *e) ST_MUST_CHECK;
/* Architecture and tokenizer (passthrough words). c is the config of the result; norm_eps its in double. */
void st_cov_gguf_metadata(struct st_gguf *g, const struct st_config *c, double norm_eps);
/* "blk.3.attn_q.weight"; all experts of a layer share one name. UNSUPPORTED: a role without a name. */
int st_cov_gguf_name(const struct st_plan_weight *w, char *out, size_t cap, struct st_err *e) ST_MUST_CHECK;
/* Factors by which Llama 3 divides its frequencies, [rope_dim / 2]; false when the config has none. */
bool st_cov_gguf_rope_factors(const struct st_config *c, float *out);

#endif
