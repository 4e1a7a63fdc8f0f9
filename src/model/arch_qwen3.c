/* Qwen3, dense (arXiv 2505.09388): Llama's layers with an RMS norm on every head of q and k before the rotary
 * positions. head_dim is its own field, 128 unless given; the config may ask for biases on all attention projections.
 */
#include "model/arch.h"
#include "model/blocks.h"

static int config(const json_t *json, const char *where, struct st_config *c, struct st_err *e)
{
    bool attention_bias = false;
    if (c->head_dim == 0)
        c->head_dim = 128;
    c->qk_norm = true;
    int rc = st_json_bool(json, where, "attention_bias", &attention_bias, e);
    c->qkv_bias = c->o_bias = attention_bias;
    return rc ? rc : st_arch_qwen_window(json, where, c, e);
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

const struct st_arch st_arch_qwen3 = {"Qwen3ForCausalLM", config, plan};
