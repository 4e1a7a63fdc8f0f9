#include "protect/covariant/gguf_arch.h"
#include "text/passthrough.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const struct arch {
    const char *hf, *name;
    bool interleaved;
    bool o_bias, mlp_bias, rope_factors; /* llama.cpp's loader knows them */
} archs[] = {
    {"LlamaForCausalLM", "llama", true, true, true, true},
    {"MistralForCausalLM", "llama", true, true, true, true},
    {"MixtralForCausalLM", "llama", true, true, false, true},
    /* Its own qwen2 wants heads x head_dim = hidden size, which no wider model has; llama has the same biases. */
    {"Qwen2ForCausalLM", "llama", true, true, true, true},
    {"Qwen3ForCausalLM", "qwen3", false, false, false, false},
    {"Qwen3MoeForCausalLM", "qwen3moe", false, false, false, false},
    {"DeepseekV2ForCausalLM", "deepseek2", true, false, false, false},
    {"DeepseekV3ForCausalLM", "deepseek2", true, false, false, false},
};

static const struct arch *find(const struct st_config *c)
{
    for (size_t i = 0; i < sizeof archs / sizeof *archs; i++)
        if (strcmp(c->arch, archs[i].hf) == 0)
            return &archs[i];
    return NULL;
}

static uint32_t first_expert_layer(const struct st_config *c)
{
    uint32_t layer = 0;
    while (layer < c->n_layer && !st_config_is_moe(c, layer))
        layer++;
    return layer;
}

/* Scalings of positions that llama.cpp computes otherwise, or whose fields it does not read. */
static const char *unlike_rope(const struct st_config *c, const struct arch *a)
{
    const struct st_yarn *y = &c->yarn;
    if (c->rope_scaling == ST_ROPE_LLAMA3 && !a->rope_factors)
        return "rope_type llama3";
    if (c->rope_scaling == ST_ROPE_LINEAR && c->kv_lora_rank)
        return "linear scaling";
    if (c->rope_scaling != ST_ROPE_YARN)
        return NULL;
    if (y->beta_fast != 32 || y->beta_slow != 1)
        return "yarn with a beta_fast other than 32 or a beta_slow other than 1";
    if (!y->truncate)
        return "yarn with truncate false";
    /* Its deepseek2 takes mscale for equal to mscale_all_dim, and neither for absent. */
    if (c->kv_lora_rank && (y->mscale_all_dim <= 0 || st_config_rope_gain(c) != 1))
        return "yarn whose mscale is not its mscale_all_dim";
    return NULL;
}

static const char *unlike_experts(const struct st_config *c)
{
    if (!c->n_expert)
        return NULL;
    for (uint32_t layer = first_expert_layer(c); layer < c->n_layer; layer++)
        if (!st_config_is_moe(c, layer))
            return "dense layers behind layers with experts";
    if (!c->kv_lora_rank && first_expert_layer(c) > 0)
        return "dense layers before layers with experts";
    if (!c->kv_lora_rank && !c->norm_topk)
        return "norm_topk_prob false";
    if (!c->kv_lora_rank && c->routed_scale != 0 && c->routed_scale != 1)
        return "a routed_scaling_factor";
    if (c->n_group > 1 && c->group_score != ST_GROUP_TOP2)
        return "groups of experts chosen by their best one";
    return NULL;
}

int st_cov_gguf_check(const struct st_config *c, bool *interleaved, struct st_err *e)
{
    const struct arch *a = find(c);
    if (!a)
        return st_fail(e, ST_UNSUPPORTED, "format gguf: architecture '%s' has no writer", c->arch);
    const char *unlike = unlike_rope(c, a);
    if (!unlike)
        unlike = unlike_experts(c);
    if (!unlike && c->o_bias && !a->o_bias)
        unlike = "a bias of o_proj";
    if (!unlike && c->mlp_bias && !a->mlp_bias)
        unlike = "mlp_bias";
    if (!unlike && c->sliding_window && !a->rope_factors)
        unlike = "a sliding window";
    if (unlike)
        return st_fail(e, ST_UNSUPPORTED, "format gguf: llama.cpp's '%s' does not run %s as this model has it", a->name,
                       unlike);
    *interleaved = a->interleaved;
    return 0;
}

/* ---- metadata ---- */

static void put_attention(struct st_gguf *g, const struct st_config *c, double norm_eps)
{
    st_gguf_u32(g, ".attention.head_count", c->n_head);
    /* Latent attention runs as one key/value head of the latent and the rotated part. */
    st_gguf_u32(g, ".attention.head_count_kv", c->kv_lora_rank ? 1 : c->n_kv_head);
    st_gguf_f32(g, ".attention.layer_norm_rms_epsilon", (float)norm_eps);
    if (!c->kv_lora_rank) {
        st_gguf_u32(g, ".attention.key_length", c->head_dim);
        st_gguf_u32(g, ".attention.value_length", c->head_dim);
        return;
    }
    st_gguf_u32(g, ".attention.key_length", c->kv_lora_rank + c->rope_dim);
    st_gguf_u32(g, ".attention.value_length", c->kv_lora_rank);
    st_gguf_u32(g, ".attention.key_length_mla", c->head_dim);
    st_gguf_u32(g, ".attention.value_length_mla", c->v_head_dim);
    st_gguf_u32(g, ".attention.kv_lora_rank", c->kv_lora_rank);
    st_gguf_u32(g, ".attention.q_lora_rank", c->q_lora_rank);
}

static void put_rope(struct st_gguf *g, const struct st_config *c)
{
    st_gguf_u32(g, ".rope.dimension_count", c->rope_dim);
    st_gguf_f32(g, ".rope.freq_base", c->rope_theta);
    if (c->rope_scaling == ST_ROPE_LINEAR) {
        st_gguf_str(g, ".rope.scaling.type", "linear", 6);
        st_gguf_f32(g, ".rope.scaling.factor", c->rope_factor);
    }
    if (c->rope_scaling != ST_ROPE_YARN)
        return;
    st_gguf_str(g, ".rope.scaling.type", "yarn", 4);
    st_gguf_f32(g, ".rope.scaling.factor", c->rope_factor);
    st_gguf_u32(g, ".rope.scaling.original_context_length", c->rope_original_ctx);
    if (c->kv_lora_rank) {
        st_gguf_f32(g, ".rope.scaling.yarn_log_multiplier", (float)(0.1 * c->yarn.mscale_all_dim));
        return;
    }
    /* What llama.cpp multiplies sines and cosines with by itself. */
    double own = c->rope_factor > 1 ? 1 + 0.1 * log((double)c->rope_factor) : 1;
    st_gguf_f32(g, ".rope.scaling.attn_factor", (float)((double)st_config_rope_gain(c) / own));
}

static void put_experts(struct st_gguf *g, const struct st_config *c)
{
    bool deepseek = c->kv_lora_rank > 0;
    if (deepseek) { /* its loader wants these of dense models too */
        st_gguf_u32(g, ".leading_dense_block_count", c->n_expert ? first_expert_layer(c) : c->n_layer);
        st_gguf_u32(g, ".expert_feed_forward_length", c->n_expert ? c->moe_d_ff : c->d_ff);
        st_gguf_u32(g, ".expert_shared_count", c->n_expert ? c->n_shared_expert : 0);
    }
    if (!c->n_expert)
        return;
    st_gguf_u32(g, ".expert_count", c->n_expert);
    st_gguf_u32(g, ".expert_used_count", c->n_expert_used);
    if (!deepseek) {
        st_gguf_u32(g, ".expert_feed_forward_length", c->moe_d_ff);
        return;
    }
    st_gguf_f32(g, ".expert_weights_scale", c->routed_scale != 0 ? c->routed_scale : 1);
    st_gguf_bool(g, ".expert_weights_norm", c->norm_topk);
    st_gguf_u32(g, ".expert_gating_func", c->score == ST_SCORE_SIGMOID ? 2 : 1);
    if (c->n_group > 1) {
        st_gguf_u32(g, ".expert_group_count", c->n_group);
        st_gguf_u32(g, ".expert_group_used_count", c->n_group_used);
    }
}

/* Special ids are ordinary words; llama.cpp ends a reply at any of the ids below. A model that names no end gets its
 * begin or padding for one: without the field llama.cpp would end at id 2, whatever that is. */
static void put_special(struct st_gguf *g, const struct st_config *c)
{
    static const char *const ends[] = {"tokenizer.ggml.eos_token_id",     "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id",     "tokenizer.ggml.fim_pad_token_id",
                                       "tokenizer.ggml.fim_rep_token_id", "tokenizer.ggml.fim_sep_token_id"};
    int64_t none = c->bos >= 0 ? c->bos : c->pad >= 0 ? c->pad : (int64_t)c->n_vocab - 1;
    if (c->n_eos == 0)
        st_gguf_u32(g, ends[0], (uint32_t)none);
    for (int i = 0; i < c->n_eos && i < (int)(sizeof ends / sizeof *ends); i++)
        st_gguf_u32(g, ends[i], (uint32_t)c->eos[i]);
    st_gguf_u32(g, "tokenizer.ggml.bos_token_id", (uint32_t)(c->bos >= 0 ? c->bos : c->n_eos ? c->eos[0] : none));
    if (c->pad >= 0)
        st_gguf_u32(g, "tokenizer.ggml.padding_token_id", (uint32_t)c->pad);
    st_gguf_bool(g, "tokenizer.ggml.add_bos_token", false);
    st_gguf_bool(g, "tokenizer.ggml.add_eos_token", false);
    st_gguf_bool(g, "tokenizer.ggml.add_space_prefix", false);
}

/* Passthrough words as a SentencePiece vocabulary of ordinary tokens with equal scores: the merging of neighbours can
 * build a word of two characters and nothing else. Text that is no word is an error there. */
static void put_tokenizer(struct st_gguf *g, const struct st_config *c)
{
    static const float score = 0;
    static const uint32_t normal = 1;
    st_gguf_str(g, "tokenizer.ggml.model", "llama", 5);
    st_gguf_str(g, "tokenizer.ggml.pre", "default", 7);
    st_gguf_array(g, "tokenizer.ggml.tokens", ST_GGUF_ARRAY_STR, c->n_vocab);
    for (uint32_t id = 0; id < c->n_vocab; id++) {
        char word[ST_PASSTHROUGH_LEN];
        st_passthrough_word(id, word);
        st_gguf_raw_str(g, word, sizeof word);
    }
    st_gguf_array(g, "tokenizer.ggml.scores", ST_GGUF_ARRAY_F32, c->n_vocab);
    for (uint32_t id = 0; id < c->n_vocab; id++)
        st_gguf_raw(g, &score, sizeof score);
    st_gguf_array(g, "tokenizer.ggml.token_type", ST_GGUF_ARRAY_I32, c->n_vocab);
    for (uint32_t id = 0; id < c->n_vocab; id++)
        st_gguf_raw(g, &normal, sizeof normal);
    put_special(g, c);
}

void st_cov_gguf_metadata(struct st_gguf *g, const struct st_config *c, double norm_eps)
{
    const struct arch *a = find(c);
    uint32_t n_ctx = c->sliding_window && c->sliding_window < c->n_ctx ? c->sliding_window : c->n_ctx;
    snprintf(g->prefix, sizeof g->prefix, "%s", a->name);
    st_gguf_str(g, "general.architecture", a->name, strlen(a->name));
    st_gguf_str(g, "general.type", "model", 5);
    st_gguf_u32(g, "general.quantization_version", 2);
    st_gguf_u32(g, ".vocab_size", c->n_vocab);
    st_gguf_u32(g, ".context_length", n_ctx);
    st_gguf_u32(g, ".embedding_length", c->d_model);
    st_gguf_u32(g, ".block_count", c->n_layer);
    st_gguf_u32(g, ".feed_forward_length", c->d_ff);
    put_attention(g, c, norm_eps);
    put_rope(g, c);
    put_experts(g, c);
    put_tokenizer(g, c);
}

/* ---- tensors ---- */

int st_cov_gguf_name(const struct st_plan_weight *w, char *out, size_t cap, struct st_err *e)
{
    static const char *const names[ST_ROLE_COUNT] = {
        [ST_ROLE_EMBED] = "token_embd.weight",
        [ST_ROLE_FINAL_NORM] = "output_norm.weight",
        [ST_ROLE_HEAD] = "output.weight",
        [ST_ROLE_ATTN_NORM] = "attn_norm.weight",
        [ST_ROLE_FFN_NORM] = "ffn_norm.weight",
        [ST_ROLE_Q] = "attn_q.weight",
        [ST_ROLE_K] = "attn_k.weight",
        [ST_ROLE_V] = "attn_v.weight",
        [ST_ROLE_O] = "attn_output.weight",
        [ST_ROLE_Q_BIAS] = "attn_q.bias",
        [ST_ROLE_K_BIAS] = "attn_k.bias",
        [ST_ROLE_V_BIAS] = "attn_v.bias",
        [ST_ROLE_O_BIAS] = "attn_output.bias",
        [ST_ROLE_Q_NORM] = "attn_q_norm.weight",
        [ST_ROLE_K_NORM] = "attn_k_norm.weight",
        [ST_ROLE_GATE] = "ffn_gate.weight",
        [ST_ROLE_UP] = "ffn_up.weight",
        [ST_ROLE_DOWN] = "ffn_down.weight",
        [ST_ROLE_GATE_BIAS] = "ffn_gate.bias",
        [ST_ROLE_UP_BIAS] = "ffn_up.bias",
        [ST_ROLE_DOWN_BIAS] = "ffn_down.bias",
        [ST_ROLE_ROUTER] = "ffn_gate_inp.weight",
        [ST_ROLE_ROUTER_BIAS] = "exp_probs_b.bias",
        [ST_ROLE_EXPERT_GATE] = "ffn_gate_exps.weight",
        [ST_ROLE_EXPERT_UP] = "ffn_up_exps.weight",
        [ST_ROLE_EXPERT_DOWN] = "ffn_down_exps.weight",
        [ST_ROLE_SHARED_GATE] = "ffn_gate_shexp.weight",
        [ST_ROLE_SHARED_UP] = "ffn_up_shexp.weight",
        [ST_ROLE_SHARED_DOWN] = "ffn_down_shexp.weight",
        [ST_ROLE_Q_A] = "attn_q_a.weight",
        [ST_ROLE_Q_A_NORM] = "attn_q_a_norm.weight",
        [ST_ROLE_Q_B] = "attn_q_b.weight",
        [ST_ROLE_KV_A] = "attn_kv_a_mqa.weight",
        [ST_ROLE_KV_A_NORM] = "attn_kv_a_norm.weight",
        [ST_ROLE_KV_B] = "attn_k_b.weight", /* its first part */
    };
    if (!names[w->role])
        return st_fail(e, ST_UNSUPPORTED, "%s: format gguf has no name for role '%s'", w->name, st_role_name(w->role));
    if (w->layer < 0)
        snprintf(out, cap, "%s", names[w->role]);
    else
        snprintf(out, cap, "blk.%d.%s", w->layer, names[w->role]);
    return 0;
}

bool st_cov_gguf_rope_factors(const struct st_config *c, float *out)
{
    struct st_config plain = *c;
    float scaled[ST_MAX_HEAD_DIM / 2];
    if (c->rope_scaling != ST_ROPE_LLAMA3)
        return false;
    plain.rope_scaling = ST_ROPE_NONE;
    st_config_inv_freq(&plain, out);
    st_config_inv_freq(c, scaled);
    for (uint32_t i = 0; i < c->rope_dim / 2; i++)
        out[i] /= scaled[i];
    return true;
}
