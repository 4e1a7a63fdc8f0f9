/* Qwen3, mixtures of experts (arXiv 2505.09388): Qwen3's attention; the layers that decoder_sparse_step and
 * mlp_only_layers leave to it have a mixture of experts, the others an ordinary MLP of intermediate_size. */
#include "model/arch.h"
#include "model/blocks.h"

/* mlp_only_layers: numbers of layers. */
static int read_mlp_only(const json_t *json, const char *where, struct st_config *c, struct st_err *e)
{
    const json_t *list = json_object_get(json, "mlp_only_layers");
    if (!list || json_is_null(list))
        return 0;
    if (!json_is_array(list))
        return st_fail(e, ST_INPUT, "%s: mlp_only_layers: want a list of layers", where);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *v = json_array_get(list, i);
        if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) >= (json_int_t)c->n_layer)
            return st_fail(e, ST_INPUT, "%s: mlp_only_layers: want layers in 0..%u", where, c->n_layer - 1);
        st_config_set_dense(c, (uint32_t)json_integer_value(v));
    }
    return 0;
}

static int read_experts(const json_t *json, const char *where, struct st_config *c, struct st_err *e)
{
    int64_t width = 0, step = 1;
    c->score = ST_SCORE_SOFTMAX;
    int rc = st_arch_experts(json, where, "num_experts", "num_local_experts", c, e);
    if (!rc)
        rc = st_json_need(json, where, "moe_intermediate_size", e);
    if (!rc)
        rc = st_json_int(json, where, "moe_intermediate_size", 2, ST_MAX_FF, &width, e);
    if (!rc)
        rc = st_json_bool(json, where, "norm_topk_prob", &c->norm_topk, e);
    if (!rc)
        rc = st_json_int(json, where, "decoder_sparse_step", 1, ST_MAX_LAYERS, &step, e);
    c->moe_d_ff = (uint32_t)width;
    for (uint32_t layer = 0; !rc && layer < c->n_layer; layer++)
        if ((layer + 1) % step)
            st_config_set_dense(c, layer);
    return rc ? rc : read_mlp_only(json, where, c, e);
}

static int config(const json_t *json, const char *where, struct st_config *c, struct st_err *e)
{
    bool attention_bias = false, use_window = false;
    int64_t window = 4096; /* transformers: absent means 4096, null means none */
    const json_t *given = json_object_get(json, "sliding_window");
    c->qk_norm = true;
    int rc = st_json_bool(json, where, "attention_bias", &attention_bias, e);
    if (!rc)
        rc = st_json_bool(json, where, "use_sliding_window", &use_window, e);
    if (!rc)
        rc = st_json_int(json, where, "sliding_window", 1, UINT32_MAX, &window, e);
    c->qkv_bias = c->o_bias = attention_bias;
    /* Unlike the dense Qwen3, all layers have it or none. */
    c->sliding_window = use_window && !(given && json_is_null(given)) ? (uint32_t)window : 0;
    return rc ? rc : read_experts(json, where, c, e);
}

static void plan(const struct st_config *c, struct st_plan *p)
{
    struct st_blocks b;
    st_blocks_begin(&b, c, p);
    for (int layer = 0; layer < (int)c->n_layer; layer++) {
        st_blocks_attention(&b, layer);
        if (st_config_is_moe(c, (uint32_t)layer))
            st_blocks_moe(&b, layer, &st_moe_names);
        else
            st_blocks_mlp(&b, layer);
    }
    st_blocks_end(&b);
}

const struct st_arch st_arch_qwen3_moe = {"Qwen3MoeForCausalLM", config, plan};
