#include "model/blocks.h"

static void norm(struct st_blocks *b, enum st_role role, int layer, int in, int out, uint32_t head, int weight)
{
    struct st_plan_op *op = st_plan_add(b->p, ST_OP_NORM, role, layer);
    op->in = in;
    op->out = out;
    op->weight = weight;
    op->head = head;
}

static struct st_plan_op *linear(struct st_blocks *b, enum st_role role, int layer, int in, int out, uint32_t group,
                                 int weight, int bias)
{
    struct st_plan_op *op = st_plan_add(b->p, ST_OP_LINEAR, role, layer);
    op->in = in;
    op->out = out;
    op->group = group;
    op->weight = weight;
    op->bias = bias;
    return op;
}

/* One projection of a layer: weight `model.layers.L.PART.weight`, and its bias when the config has one. */
static void project(struct st_blocks *b, enum st_role role, enum st_role bias_role, int layer, const char *part, int in,
                    int out, uint32_t group, bool has_bias)
{
    uint32_t n_in = b->p->failed ? 0 : b->p->slot_width[in];
    uint32_t n_out = b->p->failed ? 0 : b->p->slot_width[out];
    int w = st_plan_weight(b->p, role, layer, n_out, n_in, "model.layers.%d.%s.weight", layer, part);
    int bias = -1;
    if (has_bias)
        bias = st_plan_weight(b->p, bias_role, layer, n_out, 1, "model.layers.%d.%s.bias", layer, part);
    linear(b, role, layer, in, out, group, w, bias);
}

static void add(struct st_blocks *b, enum st_role role, int layer)
{
    struct st_plan_op *op = st_plan_add(b->p, ST_OP_ADD, role, layer);
    op->in = b->h;
    op->out = b->x;
}

void st_blocks_begin(struct st_blocks *b, const struct st_config *c, struct st_plan *p)
{
    *b = (struct st_blocks){.c = c, .p = p};
    b->x = st_plan_slot(p, c->d_model);
    b->h = st_plan_slot(p, c->d_model);
    b->q = st_plan_slot(p, c->n_head * c->head_dim);
    b->k = st_plan_slot(p, c->n_kv_head * c->head_dim);
    b->v = st_plan_slot(p, c->n_kv_head * c->head_dim);
    b->a = st_plan_slot(p, c->n_head * c->head_dim);
    b->gate = st_plan_slot(p, c->d_ff);
    b->up = st_plan_slot(p, c->d_ff);
    b->w_embed = st_plan_weight(p, ST_ROLE_EMBED, -1, c->n_vocab, c->d_model, "model.embed_tokens.weight");
    struct st_plan_op *op = st_plan_add(p, ST_OP_EMBED, ST_ROLE_EMBED, -1);
    op->out = b->x;
    op->weight = b->w_embed;
}

static void rope(struct st_blocks *b, enum st_role role, int layer, int slot)
{
    struct st_plan_op *op = st_plan_add(b->p, ST_OP_ROPE, role, layer);
    op->in = slot;
    op->out = slot;
    op->head = b->c->head_dim;
}

void st_blocks_attention(struct st_blocks *b, int layer)
{
    const struct st_config *c = b->c;
    struct st_plan *p = b->p;
    int w = st_plan_weight(p, ST_ROLE_ATTN_NORM, layer, c->d_model, 1, "model.layers.%d.input_layernorm.weight", layer);
    norm(b, ST_ROLE_ATTN_NORM, layer, b->x, b->h, 0, w);

    uint32_t group = ++b->group;
    project(b, ST_ROLE_Q, ST_ROLE_Q_BIAS, layer, "self_attn.q_proj", b->h, b->q, group, c->qkv_bias);
    project(b, ST_ROLE_K, ST_ROLE_K_BIAS, layer, "self_attn.k_proj", b->h, b->k, group, c->qkv_bias);
    project(b, ST_ROLE_V, ST_ROLE_V_BIAS, layer, "self_attn.v_proj", b->h, b->v, group, c->qkv_bias);

    if (c->qk_norm) {
        w = st_plan_weight(p, ST_ROLE_Q_NORM, layer, c->head_dim, 1, "model.layers.%d.self_attn.q_norm.weight", layer);
        norm(b, ST_ROLE_Q_NORM, layer, b->q, b->q, c->head_dim, w);
        w = st_plan_weight(p, ST_ROLE_K_NORM, layer, c->head_dim, 1, "model.layers.%d.self_attn.k_norm.weight", layer);
        norm(b, ST_ROLE_K_NORM, layer, b->k, b->k, c->head_dim, w);
    }
    rope(b, ST_ROLE_Q, layer, b->q);
    rope(b, ST_ROLE_K, layer, b->k);

    struct st_plan_op *op = st_plan_add(p, ST_OP_ATTEND, ST_ROLE_NONE, layer);
    op->in = b->q;
    op->in2 = b->k;
    op->in3 = b->v;
    op->out = b->a;
    op->head = c->head_dim;

    project(b, ST_ROLE_O, ST_ROLE_O_BIAS, layer, "self_attn.o_proj", b->a, b->h, 0, c->o_bias);
    add(b, ST_ROLE_O, layer);
}

void st_blocks_mlp(struct st_blocks *b, int layer)
{
    const struct st_config *c = b->c;
    int w = st_plan_weight(b->p, ST_ROLE_FFN_NORM, layer, c->d_model, 1,
                           "model.layers.%d.post_attention_layernorm.weight", layer);
    norm(b, ST_ROLE_FFN_NORM, layer, b->x, b->h, 0, w);

    uint32_t group = ++b->group;
    project(b, ST_ROLE_GATE, ST_ROLE_GATE_BIAS, layer, "mlp.gate_proj", b->h, b->gate, group, c->mlp_bias);
    project(b, ST_ROLE_UP, ST_ROLE_UP_BIAS, layer, "mlp.up_proj", b->h, b->up, group, c->mlp_bias);

    struct st_plan_op *op = st_plan_add(b->p, ST_OP_SILU_MUL, ST_ROLE_NONE, layer);
    op->in = b->gate;
    op->in2 = b->up;
    op->out = b->gate;

    project(b, ST_ROLE_DOWN, ST_ROLE_DOWN_BIAS, layer, "mlp.down_proj", b->gate, b->h, 0, c->mlp_bias);
    add(b, ST_ROLE_DOWN, layer);
}

void st_blocks_end(struct st_blocks *b)
{
    const struct st_config *c = b->c;
    int w = st_plan_weight(b->p, ST_ROLE_FINAL_NORM, -1, c->d_model, 1, "model.norm.weight");
    norm(b, ST_ROLE_FINAL_NORM, -1, b->x, b->h, 0, w);
    if (!b->p->failed)
        b->p->ops[b->p->n_op - 1].last_row_only = true;

    int logits = st_plan_slot(b->p, c->n_vocab);
    int head = st_plan_weight(b->p, ST_ROLE_HEAD, -1, c->n_vocab, c->d_model, "lm_head.weight");
    if (c->tied_head && !b->p->failed)
        b->p->weights[head].tied_to = b->w_embed;
    linear(b, ST_ROLE_HEAD, -1, b->h, logits, 0, head, -1)->last_row_only = true;
}
