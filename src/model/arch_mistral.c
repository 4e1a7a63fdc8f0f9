/* Mistral 7B and its successors (arXiv 2310.06825): Llama's layers, and every layer may see only the last
 * `sliding_window` positions. No biases. */
#include "model/arch.h"
#include "model/blocks.h"

static int config(const json_t *json, const char *where, struct st_config *c, struct st_err *e)
{
    /* transformers: absent means 4096, null means none. */
    const json_t *given = json_object_get(json, "sliding_window");
    int64_t window = given && json_is_null(given) ? 0 : 4096;
    int rc = st_json_int(json, where, "sliding_window", 1, UINT32_MAX, &window, e);
    if (!rc)
        c->sliding_window = (uint32_t)window;
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

const struct st_arch st_arch_mistral = {"MistralForCausalLM", config, plan};
