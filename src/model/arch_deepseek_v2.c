/* DeepSeek-V2 (arXiv 2405.04434): latent attention with rotary pairs (2i, 2i+1); dense layers, then experts beside
 * shared ones, chosen by softmax scores, from all or from the groups with the best experts. */
#include "model/arch.h"
#include "model/blocks.h"

#include <string.h>

static int read_choice(const json_t *json, const char *where, struct st_config *c, struct st_err *e)
{
    const char *method = "greedy";
    bool norm = false;
    int rc = st_json_str(json, where, "topk_method", &method, e);
    if (!rc)
        rc = st_json_bool(json, where, "norm_topk_prob", &norm, e);
    /* The original code and transformers differ here, and no published checkpoint asks for it. */
    if (!rc && norm)
        rc = st_fail(e, ST_UNSUPPORTED, "%s: norm_topk_prob true is not supported; supported: false", where);
    if (!rc && c->mlp_bias)
        rc = st_fail(e, ST_UNSUPPORTED, "%s: mlp_bias true is not supported in layers with experts; supported: false",
                     where);
    if (rc || strcmp(method, "greedy") == 0)
        return rc;
    if (strcmp(method, "group_limited_greedy") != 0)
        return st_fail(e, ST_UNSUPPORTED,
                       "%s: topk_method '%.40s' is not supported; supported: greedy, group_limited_greedy", where,
                       method);
    return st_arch_deepseek_groups(json, where, c, e);
}

static int config(const json_t *json, const char *where, struct st_config *c, struct st_err *e)
{
    c->rope_interleaved = true;
    int rc = st_json_bool(json, where, "mlp_bias", &c->mlp_bias, e);
    if (!rc)
        rc = st_arch_latent(json, where, c, e);
    if (!rc)
        rc = st_arch_deepseek_experts(json, where, "num_experts", 0, "softmax", c, e);
    return rc || !c->n_expert ? rc : read_choice(json, where, c, e);
}

static void plan(const struct st_config *c, struct st_plan *p)
{
    struct st_blocks b;
    st_blocks_begin(&b, c, p);
    for (int layer = 0; layer < (int)c->n_layer; layer++) {
        st_blocks_latent_attention(&b, layer);
        if (st_config_is_moe(c, (uint32_t)layer))
            st_blocks_moe(&b, layer, &st_moe_names);
        else
            st_blocks_mlp(&b, layer);
    }
    st_blocks_end(&b);
}

const struct st_arch st_arch_deepseek_v2 = {"DeepseekV2ForCausalLM", config, plan};
