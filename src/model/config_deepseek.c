/* What the configs of DeepSeek-V2 and V3 have in common: latent attention, and which layers have experts. */
#include "model/arch.h"

#include <string.h>

/* A size that must be given. */
static int need_size(const json_t *json, const char *where, const char *key, int64_t min, int64_t max, uint32_t *out,
                     struct st_err *e)
{
    int64_t v = 0;
    int rc = st_json_need(json, where, key, e);
    if (!rc)
        rc = st_json_int(json, where, key, min, max, &v, e);
    if (!rc)
        *out = (uint32_t)v;
    return rc;
}

int st_arch_latent(const json_t *json, const char *where, struct st_config *c, struct st_err *e)
{
    int64_t q_rank = 0;
    uint32_t plain = 0;
    bool bias = false;
    /* Ranks from 2: a matrix of one column could not be told from a vector. */
    int rc = 0;
    if (!json_object_get(json, "q_lora_rank"))
        return st_fail(e, ST_INPUT, "%s: q_lora_rank: missing; null means that queries are not compressed", where);
    rc = st_json_int(json, where, "q_lora_rank", 2, ST_MAX_WIDTH, &q_rank, e);
    if (!rc)
        rc = need_size(json, where, "kv_lora_rank", 2, ST_MAX_WIDTH, &c->kv_lora_rank, e);
    if (!rc)
        rc = need_size(json, where, "qk_nope_head_dim", 1, ST_MAX_HEAD_DIM, &plain, e);
    if (!rc)
        rc = need_size(json, where, "qk_rope_head_dim", 1, ST_MAX_HEAD_DIM, &c->rope_dim, e);
    if (!rc)
        rc = need_size(json, where, "v_head_dim", 1, ST_MAX_HEAD_DIM, &c->v_head_dim, e);
    if (!rc)
        rc = st_json_bool(json, where, "attention_bias", &bias, e);
    if (rc)
        return rc;
    c->q_lora_rank = (uint32_t)q_rank;
    c->head_dim = plain + c->rope_dim; /* config.json may have a head_dim of another meaning */
    c->qkv_bias = c->o_bias = bias;
    if (c->n_kv_head != c->n_head)
        return st_fail(e, ST_UNSUPPORTED, "%s: num_key_value_heads: want num_attention_heads = %u, got %u", where,
                       c->n_head, c->n_kv_head);
    return 0;
}

/* Fields of the original configs that transformers does not read, because its code does what they say in all published
 * checkpoints. */
static int check_fixed(const json_t *json, const char *where, const char *score, struct st_err *e)
{
    const char *given = score;
    int64_t freq = 1;
    int rc = st_json_str(json, where, "scoring_func", &given, e);
    if (!rc && strcmp(given, score) != 0)
        rc =
            st_fail(e, ST_UNSUPPORTED, "%s: scoring_func '%.40s' is not supported; supported: %s", where, given, score);
    if (!rc)
        rc = st_json_int(json, where, "moe_layer_freq", 1, ST_MAX_LAYERS, &freq, e);
    if (!rc && freq != 1)
        rc = st_fail(e, ST_UNSUPPORTED, "%s: moe_layer_freq %d is not supported; supported: 1", where, (int)freq);
    return rc;
}

int st_arch_deepseek_experts(const json_t *json, const char *where, const char *key2, uint32_t n_dense,
                             const char *score, struct st_config *c, struct st_err *e)
{
    int64_t dense = n_dense;
    double scale = 1;
    int rc = st_json_int(json, where, "first_k_dense_replace", 0, UINT32_MAX, &dense, e);
    if (rc || dense >= (int64_t)c->n_layer)
        return rc;
    rc = st_arch_experts(json, where, "n_routed_experts", key2, c, e);
    if (!rc)
        rc = need_size(json, where, "moe_intermediate_size", 2, ST_MAX_FF, &c->moe_d_ff, e);
    if (!rc)
        rc = need_size(json, where, "n_shared_experts", 1, ST_ROUTE_MAX_EXPERTS, &c->n_shared_expert, e);
    if (!rc)
        rc = st_json_real(json, where, "routed_scaling_factor", 1e-6, 1e6, &scale, e);
    if (!rc)
        rc = check_fixed(json, where, score, e);
    for (uint32_t l = 0; !rc && l < dense; l++)
        st_config_set_dense(c, l);
    c->routed_scale = (float)scale;
    return rc;
}

int st_arch_deepseek_groups(const json_t *json, const char *where, struct st_config *c, struct st_err *e)
{
    int rc = need_size(json, where, "n_group", 1, ST_ROUTE_MAX_EXPERTS, &c->n_group, e);
    return rc ? rc : need_size(json, where, "topk_group", 1, ST_ROUTE_MAX_EXPERTS, &c->n_group_used, e);
}

int st_arch_switch(const json_t *json, const char *where, const char *key, bool *out, struct st_err *e)
{
    const json_t *v = json_object_get(json, key);
    if (v && json_is_null(v))
        *out = false;
    return st_json_bool(json, where, key, out, e);
}
