/* Mixtral (arXiv 2401.04088): Mistral's attention; the MLP of every layer is a mixture of experts, of which a token
 * takes num_experts_per_tok by softmax, their weights scaled to sum to 1. */
#include "model/arch.h"
#include "model/blocks.h"

static const struct st_moe_names names = {"block_sparse_moe", "w1", "w3", "w2"};

/* Mixtral's default theta is not the 10000 of the others. */
static bool has_theta(const json_t *json)
{
    return json_object_get(json, "rope_theta") ||
           json_object_get(json_object_get(json, "rope_parameters"), "rope_theta") ||
           json_object_get(json_object_get(json, "rope_scaling"), "rope_theta");
}

static int config(const json_t *json, const char *where, struct st_config *c, struct st_err *e)
{
    int64_t window = 0;
    if (!has_theta(json))
        c->rope_theta = 1e6f;
    /* Fields whose defaults, too, differ from what an absent field means elsewhere. */
    int rc = st_json_need(json, where, "num_key_value_heads", e);
    if (!rc)
        rc = st_json_need(json, where, "rms_norm_eps", e);
    if (!rc)
        rc = st_json_int(json, where, "sliding_window", 1, UINT32_MAX, &window, e);
    c->sliding_window = (uint32_t)window;
    c->score = ST_SCORE_SOFTMAX;
    c->norm_topk = true;
    c->moe_d_ff = c->d_ff;
    return rc ? rc : st_arch_experts(json, where, "num_local_experts", "num_experts", c, e);
}

static void plan(const struct st_config *c, struct st_plan *p)
{
    struct st_blocks b;
    st_blocks_begin(&b, c, p);
    for (int layer = 0; layer < (int)c->n_layer; layer++) {
        st_blocks_attention(&b, layer);
        st_blocks_moe(&b, layer, &names);
    }
    st_blocks_end(&b);
}

const struct st_arch st_arch_mixtral = {"MixtralForCausalLM", config, plan};
