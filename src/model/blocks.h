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
    int q_a;        /* compressed queries [n_row, q_lora_rank]; this and the next two only in latent attention */
    int kv_a, kv;   /* compressed keys and values with the shared key [n_row, kv_lora_rank + rope_dim], without it */
    int kv_b;       /* per head the key before rotation and the value [n_row, n_head * (head_dim - rope_dim +
                       v_head_dim)] */
    int gate, up;   /* [n_row, d_ff] */
    int routed;     /* router logits, then weights [n_row, n_expert] */
    int e_h, e_gate, e_up;      /* of one expert: its rows, and what it makes of them [., moe_d_ff] */
    int shared_gate, shared_up; /* [n_row, n_shared_expert * moe_d_ff] */
    int w_embed;
    uint32_t group; /* last exchange group used */
};

/* Slots, and x = embed(ids). */
void st_blocks_begin(struct st_blocks *b, const struct st_config *c, struct st_plan *p);
/* x += o(attention(rope(q), rope(k), v)) on h = attn_norm(x); q, k, v are one exchange group. */
void st_blocks_attention(struct st_blocks *b, int layer);
/* The same with latent attention (MLA, arXiv 2405.04434 section 2.1): queries (when q_lora_rank) and keys and values
 * come from compressed rows, one rotated key part is shared by all heads. Compressing q and kv is one exchange group;
 * q_b and kv_b stand alone. */
void st_blocks_latent_attention(struct st_blocks *b, int layer);
/* x += down(silu(gate) * up) on h = ffn_norm(x); gate, up are one exchange group. */
void st_blocks_mlp(struct st_blocks *b, int layer);
/* How checkpoints name the parts: model.layers.L.BLOCK.gate.weight is the router,
 * model.layers.L.BLOCK.experts.E.GATE.weight and so on an expert; shared experts are
 * model.layers.L.BLOCK.shared_experts.GATE.weight. */
struct st_moe_names {
    const char *block, *gate, *up, *down;
};
extern const struct st_moe_names st_moe_names; /* mlp, gate_proj, up_proj, down_proj: all but Mixtral */
/* The same place as st_blocks_mlp, for layers of st_config_is_moe(): x += the weighted sum of the experts that the
 * router takes on h = ffn_norm(x), then x += shared experts on h. Reads of the config: n_expert, moe_d_ff,
 * n_shared_expert, and router_bias (weight model.layers.L.BLOCK.gate.e_score_correction_bias); the executor reads the
 * other fields of routing. */
void st_blocks_moe(struct st_blocks *b, int layer, const struct st_moe_names *names);
/* logits = head(final_norm(x)). */
void st_blocks_end(struct st_blocks *b);

#endif
