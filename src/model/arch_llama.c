/* Llama 2 and 3 (arXiv 2307.09288, 2407.21783): pre-norm decoder with rotary positions, grouped queries and SwiGLU.
 * The config may ask for biases on all attention or all MLP projections. */
#include "model/arch.h"
#include "model/blocks.h"

static int config(const json_t *json, const char *where, struct st_config *c, struct st_err *e)
{
    bool attention_bias = false;
    int rc = st_json_bool(json, where, "attention_bias", &attention_bias, e);
    if (!rc)
        rc = st_json_bool(json, where, "mlp_bias", &c->mlp_bias, e);
    c->qkv_bias = c->o_bias = attention_bias;
    return rc;
}

static void plan(const struct st_config *c, struct st_plan *p)
{
    struct st_blocks b;
    st_blocks_begin(&b, c, p);
    for (int layer = 0; layer < (int)c->n_layer; layer++) {
        st_blocks_attention(&b, layer);
        st_blocks_mlp(&b, layer);
    }
    st_blocks_end(&b);
}

const struct st_arch st_arch_llama = {"LlamaForCausalLM", config, plan};
