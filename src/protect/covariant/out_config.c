#include "protect/covariant/out_config.h"
#include "text/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GENERATION "generation_config.json"
#define GENERATION_BYTES_MAX 65536

static int64_t encipher(const struct st_cov_cipher *c, int64_t id)
{
    return id < 0 ? -1 : (int64_t)c->to[id];
}

static int by_id(const void *a, const void *b)
{
    const int64_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

void st_cov_config(const struct st_config *plain, uint32_t h, const struct st_cov_cipher *cipher, struct st_config *out)
{
    *out = *plain;
    out->n_vocab = st_cov_cipher_size(cipher);
    out->d_model = plain->d_model + 2 * h;
    out->tied_head = false;
    /* Hugging Face's layout: pairs (i, i + m), except where config.json says otherwise. */
    out->rope_interleaved = plain->kv_lora_rank && plain->rope_interleaved;
    out->n_mtp_layer = 0;
    out->bos = encipher(cipher, plain->bos);
    out->pad = encipher(cipher, plain->pad);
    for (int i = 0; i < plain->n_eos; i++)
        out->eos[i] = encipher(cipher, plain->eos[i]);
    /* In an order that does not tell which is which. */
    qsort(out->eos, (size_t)out->n_eos, sizeof *out->eos, by_id);
}

int st_cov_write_json(const struct st_cov_out *o, const char *name, json_t *v, struct st_err *e)
{
    char *text = v ? json_dumps(v, JSON_INDENT(2) | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(17)) : NULL;
    struct st_buf b = {0};
    if (text)
        st_buf_addf(&b, "%s\n", text);
    int rc =
        text && !b.failed ? st_cov_out_file(o, name, b.p, b.len, e) : st_fail(e, ST_MEMORY, "%s: out of memory", name);
    st_buf_free(&b);
    free(text);
    json_decref(v);
    return rc;
}

/* ---- fields; a failed allocation leaves one out, and `set` remembers it ---- */

struct object {
    json_t *v;
    bool failed;
};

static void set(struct object *o, const char *key, json_t *v)
{
    o->failed = json_object_set_new(o->v, key, v) != 0 || o->failed;
}

static void set_int(struct object *o, const char *key, int64_t v)
{
    set(o, key, json_integer(v));
}

static void set_real(struct object *o, const char *key, double v)
{
    set(o, key, json_real(v));
}

static void set_bool(struct object *o, const char *key, bool v)
{
    set(o, key, json_boolean(v));
}

static void set_str(struct object *o, const char *key, const char *v)
{
    set(o, key, json_string(v));
}

static void set_id(struct object *o, const char *key, int64_t id)
{
    set(o, key, id < 0 ? json_null() : json_integer(id));
}

static void set_ids(struct object *o, const struct st_config *c)
{
    set_id(o, "bos_token_id", c->bos);
    if (c->n_eos < 2) {
        set_id(o, "eos_token_id", c->n_eos ? c->eos[0] : -1);
    } else {
        json_t *list = json_array();
        for (int i = 0; i < c->n_eos; i++)
            o->failed = json_array_append_new(list, json_integer(c->eos[i])) != 0 || o->failed;
        set(o, "eos_token_id", list);
    }
    set_id(o, "pad_token_id", c->pad);
}

/* ---- parts of config.json ---- */

static void put_yarn(struct object *o, const struct st_yarn *y)
{
    set_real(o, "beta_fast", y->beta_fast);
    set_real(o, "beta_slow", y->beta_slow);
    set_bool(o, "truncate", y->truncate);
    const struct {
        const char *name;
        double value;
    } given[] = {{"mscale", y->mscale}, {"attention_factor", y->attention_factor}};
    for (size_t i = 0; i < sizeof given / sizeof *given; i++)
        if (given[i].value > 0)
            set_real(o, given[i].name, given[i].value);
}

/* rope_theta beside rope_scaling: the spelling that every version of every engine reads. */
static void put_rope(struct object *o, const struct st_config *c)
{
    static const char *const names[] = {
        [ST_ROPE_LINEAR] = "linear", [ST_ROPE_LLAMA3] = "llama3", [ST_ROPE_YARN] = "yarn"};
    struct object s = {0};
    set_real(o, "rope_theta", (double)c->rope_theta);
    if (c->rope_scaling == ST_ROPE_NONE) {
        set(o, "rope_scaling", json_null());
        return;
    }
    s.v = json_object();
    set_str(&s, "rope_type", names[c->rope_scaling]);
    set_real(&s, "factor", (double)c->rope_factor);
    if (c->rope_scaling != ST_ROPE_LINEAR)
        set_int(&s, "original_max_position_embeddings", c->rope_original_ctx);
    if (c->rope_scaling == ST_ROPE_LLAMA3) {
        set_real(&s, "low_freq_factor", (double)c->rope_low_freq_factor);
        set_real(&s, "high_freq_factor", (double)c->rope_high_freq_factor);
    }
    if (c->rope_scaling == ST_ROPE_YARN)
        put_yarn(&s, &c->yarn);
    if (c->yarn.mscale_all_dim > 0) /* latent attention reads it under any scaling */
        set_real(&s, "mscale_all_dim", c->yarn.mscale_all_dim);
    o->failed = o->failed || s.failed;
    set(o, "rope_scaling", s.v);
}

static void put_window(struct object *o, const struct st_config *c)
{
    if (strncmp(c->model_type, "qwen", 4) == 0) {
        set_bool(o, "use_sliding_window", c->sliding_window > 0);
        /* Every layer has it: the count from which layers do is 0. */
        if (c->sliding_window)
            set_int(o, "max_window_layers", 0);
    }
    if (c->sliding_window)
        set_int(o, "sliding_window", c->sliding_window);
    else if (strncmp(c->model_type, "mi", 2) == 0 || strncmp(c->model_type, "qwen", 4) == 0)
        set(o, "sliding_window", json_null()); /* absent has a default there */
}

static void put_latent(struct object *o, const struct st_config *c)
{
    set(o, "q_lora_rank", c->q_lora_rank ? json_integer(c->q_lora_rank) : json_null());
    set_int(o, "kv_lora_rank", c->kv_lora_rank);
    set_int(o, "qk_nope_head_dim", c->head_dim - c->rope_dim);
    set_int(o, "qk_rope_head_dim", c->rope_dim);
    set_int(o, "v_head_dim", c->v_head_dim);
    if (strcmp(c->model_type, "deepseek_v3") == 0)
        set_bool(o, "rope_interleave", c->rope_interleaved);
}

static uint32_t n_dense_before(const struct st_config *c)
{
    uint32_t n = 0;
    while (n < c->n_layer && !st_config_is_moe(c, n))
        n++;
    return n;
}

static void put_deepseek_experts(struct object *o, const struct st_config *c)
{
    bool v3 = strcmp(c->model_type, "deepseek_v3") == 0;
    set_int(o, "first_k_dense_replace", n_dense_before(c));
    if (!c->n_expert)
        return;
    set_int(o, "n_routed_experts", c->n_expert);
    set_int(o, "n_shared_experts", c->n_shared_expert);
    set_real(o, "routed_scaling_factor", c->routed_scale != 0 ? (double)c->routed_scale : 1);
    set_str(o, "scoring_func", v3 ? "sigmoid" : "softmax");
    set_str(o, "topk_method", v3 ? "noaux_tc" : c->n_group ? "group_limited_greedy" : "greedy");
    set_bool(o, "norm_topk_prob", c->norm_topk);
    set_int(o, "moe_layer_freq", 1);
    if (c->n_group) {
        set_int(o, "n_group", c->n_group);
        set_int(o, "topk_group", c->n_group_used);
    }
}

static void put_qwen_experts(struct object *o, const struct st_config *c)
{
    json_t *dense = json_array();
    for (uint32_t l = 0; l < c->n_layer; l++)
        if (!st_config_is_moe(c, l))
            o->failed = json_array_append_new(dense, json_integer(l)) != 0 || o->failed;
    set_int(o, "num_experts", c->n_expert);
    set_bool(o, "norm_topk_prob", c->norm_topk);
    set_int(o, "decoder_sparse_step", 1);
    set(o, "mlp_only_layers", dense);
}

static void put_experts(struct object *o, const struct st_config *c)
{
    if (c->kv_lora_rank)
        put_deepseek_experts(o, c);
    if (!c->n_expert)
        return;
    set_int(o, "num_experts_per_tok", c->n_expert_used);
    if (strcmp(c->model_type, "mixtral") == 0) {
        set_int(o, "num_local_experts", c->n_expert);
        return;
    }
    set_int(o, "moe_intermediate_size", c->moe_d_ff);
    if (!c->kv_lora_rank)
        put_qwen_experts(o, c);
}

static json_t *config_json(const struct st_config *c, double norm_eps)
{
    struct object o = {.v = json_object()};
    set(&o, "architectures", json_pack("[s]", c->arch));
    set_str(&o, "model_type", c->model_type);
    set_str(&o, "hidden_act", "silu");
    set_int(&o, "hidden_size", c->d_model);
    set_int(&o, "intermediate_size", c->d_ff);
    set_int(&o, "num_hidden_layers", c->n_layer);
    set_int(&o, "num_attention_heads", c->n_head);
    set_int(&o, "num_key_value_heads", c->n_kv_head);
    if (c->kv_lora_rank)
        put_latent(&o, c);
    else
        set_int(&o, "head_dim", c->head_dim);
    set_int(&o, "vocab_size", c->n_vocab);
    set_int(&o, "max_position_embeddings", c->n_ctx);
    set_real(&o, "rms_norm_eps", norm_eps);
    put_rope(&o, c);
    put_window(&o, c);
    set_bool(&o, "attention_bias", c->qkv_bias);
    set_bool(&o, "mlp_bias", c->mlp_bias);
    put_experts(&o, c);
    set_bool(&o, "tie_word_embeddings", false);
    set_str(&o, "torch_dtype",
            c->dtype == ST_DTYPE_F32   ? "float32"
            : c->dtype == ST_DTYPE_F16 ? "float16"
                                       : "bfloat16");
    set_ids(&o, c);
    if (o.failed) {
        json_decref(o.v);
        return NULL;
    }
    return o.v;
}

/* ---- generation_config.json ---- */

/* Numbers and switches that say how to sample and name no token. */
static void keep_sampling(struct object *o, const json_t *source)
{
    static const char *const keys[] = {"do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        json_t *v = json_object_get(source, keys[i]);
        if (json_is_number(v) || json_is_boolean(v))
            set(o, keys[i], json_incref(v));
    }
}

static int write_generation(const struct st_cov_out *o, const struct st_config *c, const char *src, struct st_err *e)
{
    char path[ST_PATH_MAX];
    json_t *source = NULL;
    struct object v = {.v = json_object()};
    int rc = st_path_join(path, sizeof path, src, GENERATION, e);
    if (!rc && st_path_is_dir(src) && st_path_exists(path))
        rc = st_json_read_file(path, GENERATION_BYTES_MAX, &source, e);
    set_ids(&v, c);
    if (!rc)
        keep_sampling(&v, source);
    json_decref(source);
    if (!rc && !v.failed)
        return st_cov_write_json(o, GENERATION, v.v, e);
    json_decref(v.v);
    return rc ? rc : st_fail(e, ST_MEMORY, GENERATION ": out of memory");
}

int st_cov_write_config(const struct st_cov_out *o, const struct st_config *c, double norm_eps, const char *src,
                        struct st_err *e)
{
    int rc = st_cov_write_json(o, "config.json", config_json(c, norm_eps), e);
    return rc ? rc : write_generation(o, c, src, e);
}
