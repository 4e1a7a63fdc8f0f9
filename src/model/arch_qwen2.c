/* Qwen2 and Qwen2.5 (arXiv 2407.10671, 2412.15115): Llama's layers with biases on q, k and v only. */
#include "model/arch.h"
#include "model/blocks.h"

static int config(const json_t *json, const char *where, struct st_config *c, struct st_err *e)
{
    c->qkv_bias = true;
    return st_arch_qwen_window(json, where, c, e);
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

const struct st_arch st_arch_qwen2 = {"Qwen2ForCausalLM", config, plan};
