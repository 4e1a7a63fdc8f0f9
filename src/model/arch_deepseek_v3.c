/* DeepSeek-V3 and R1 (arXiv 2412.19437): DeepSeek-V2's attention, and the config says how rotary pairs lie; experts are
 * chosen by sigmoid scores plus a learned bias, from the groups with the best two. Layers that guess further tokens
 * (MTP) may be stored behind the last one and are not used. */
#include "model/arch.h"
#include "model/blocks.h"

#include <string.h>

static int read_choice(const json_t *json, const char *where, struct st_config *c, struct st_err *e)
{
    const char *method = "noaux_tc";
    c->score = ST_SCORE_SIGMOID;
    c->group_score = ST_GROUP_TOP2;
    c->router_bias = c->norm_topk = true;
    int rc = st_json_str(json, where, "topk_method", &method, e);
    if (!rc && strcmp(method, "noaux_tc") != 0)
        rc = st_fail(e, ST_UNSUPPORTED, "%s: topk_method '%.40s' is not supported; supported: noaux_tc", where, method);
    if (!rc)
        rc = st_arch_switch(json, where, "norm_topk_prob", &c->norm_topk, e);
    return rc ? rc : st_arch_deepseek_groups(json, where, c, e);
}

static int config(const json_t *json, const char *where, struct st_config *c, struct st_err *e)
{
    int64_t n_mtp = 0;
    c->rope_interleaved = true;
    int rc = st_arch_switch(json, where, "rope_interleave", &c->rope_interleaved, e);
    if (!rc)
        rc = st_json_int(json, where, "num_nextn_predict_layers", 0, ST_MAX_LAYERS, &n_mtp, e);
    c->n_mtp_layer = (uint32_t)n_mtp;
    if (!rc)
        rc = st_arch_latent(json, where, c, e);
    if (!rc)
        rc = st_arch_deepseek_experts(json, where, "num_local_experts", 3, "sigmoid", c, e);
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

const struct st_arch st_arch_deepseek_v3 = {"DeepseekV3ForCausalLM", config, plan};
