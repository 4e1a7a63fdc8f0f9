/* Blocks that decoder-only transformers share, for architecture files: each call appends its ops and weights to the
 * plan. Tensor names are Hugging Face's. What differs between architectures (biases, QK-norm, tied head) is read from
 * the config. Slots are made by st_blocks_begin() and reused by every layer. */
#ifndef ST_MODEL_BLOCKS_H
#define ST_MODEL_BLOCKS_H

#include "model/plan.h"

struct st_blocks {
    const struct st_config *c;
    struct st_plan *p;
    int x;          /* residual stream [n_row, d_model] */
    int h;          /* what a norm puts out, and what a block adds to x [n_row, d_model] */
    int q, k, v, a; /* queries, keys, values, attention's output before `o` */
    int gate, up;   /* [n_row, d_ff] */
    int w_embed;
    uint32_t group; /* last exchange group used */
};

/* Slots, and x = embed(ids). */
void st_blocks_begin(struct st_blocks *b, const struct st_config *c, struct st_plan *p);
/* x += o(attention(rope(q), rope(k), v)) on h = attn_norm(x); q, k, v are one exchange group. */
void st_blocks_attention(struct st_blocks *b, int layer);
/* x += down(silu(gate) * up) on h = ffn_norm(x); gate, up are one exchange group. */
void st_blocks_mlp(struct st_blocks *b, int layer);
/* logits = head(final_norm(x)). */
void st_blocks_end(struct st_blocks *b);

#endif
