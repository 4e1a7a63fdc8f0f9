#include "model/blocks.h"

static struct st_plan_op *norm(struct st_blocks *b, enum st_role role, int layer, int in, int out, uint32_t head,
                               int weight)
{
    struct st_plan_op *op = st_plan_add(b->p, ST_OP_NORM, role, layer);
    op->in = in;
    op->out = out;
    op->weight = weight;
    op->head = head;
    return op;
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
    b->v = st_plan_slot(p, c->n_kv_head * c->v_head_dim);
    b->a = st_plan_slot(p, c->n_head * c->v_head_dim);
    if (c->q_lora_rank)
        b->q_a = st_plan_slot(p, c->q_lora_rank);
    if (c->kv_lora_rank) {
        b->kv_a = st_plan_slot(p, c->kv_lora_rank + c->rope_dim);
        b->kv = st_plan_slot(p, c->kv_lora_rank);
        b->kv_b = st_plan_slot(p, c->n_head * (c->head_dim - c->rope_dim + c->v_head_dim));
    }
    b->gate = st_plan_slot(p, c->d_ff);
    b->up = st_plan_slot(p, c->d_ff);
    if (c->n_expert) {
        b->routed = st_plan_slot(p, c->n_expert);
        b->e_h = st_plan_slot(p, c->d_model);
        b->e_gate = st_plan_slot(p, c->moe_d_ff);
        b->e_up = st_plan_slot(p, c->moe_d_ff);
    }
    if (c->n_expert && c->n_shared_expert) {
        b->shared_gate = st_plan_slot(p, c->n_shared_expert * c->moe_d_ff);
        b->shared_up = st_plan_slot(p, c->n_shared_expert * c->moe_d_ff);
    }
    b->w_embed = st_plan_weight(p, ST_ROLE_EMBED, -1, c->n_vocab, c->d_model, "model.embed_tokens.weight");
    struct st_plan_op *op = st_plan_add(p, ST_OP_EMBED, ST_ROLE_EMBED, -1);
    op->out = b->x;
    op->weight = b->w_embed;
}

/* The last rope_dim values of heads of `head` values. */
static void rope(struct st_blocks *b, enum st_role role, int layer, int slot, uint32_t head)
{
    struct st_plan_op *op = st_plan_add(b->p, ST_OP_ROPE, role, layer);
    op->in = slot;
    op->out = slot;
    op->head = head;
    op->rotated = b->c->rope_dim;
    op->rotate_at = head - op->rotated;
}

static void attend_and_project(struct st_blocks *b, int layer)
{
    struct st_plan_op *op = st_plan_add(b->p, ST_OP_ATTEND, ST_ROLE_NONE, layer);
    op->in = b->q;
    op->in2 = b->k;
    op->in3 = b->v;
    op->out = b->a;
    op->head = b->c->head_dim;
    project(b, ST_ROLE_O, ST_ROLE_O_BIAS, layer, "self_attn.o_proj", b->a, b->h, 0, b->c->o_bias);
    add(b, ST_ROLE_O, layer);
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
    rope(b, ST_ROLE_Q, layer, b->q, c->head_dim);
    rope(b, ST_ROLE_K, layer, b->k, c->head_dim);
    attend_and_project(b, layer);
}

/* The reference gives the norms of compressed rows this epsilon, whatever rms_norm_eps says. */
#define LATENT_NORM_EPS 1e-6f

static void latent_norm(struct st_blocks *b, enum st_role role, int layer, const char *part, int slot, uint32_t n)
{
    int w = st_plan_weight(b->p, role, layer, n, 1, "model.layers.%d.self_attn.%s.weight", layer, part);
    norm(b, role, layer, slot, slot, 0, w)->eps = LATENT_NORM_EPS;
}

static void copy(struct st_blocks *b, enum st_role role, int layer, int from, int to, struct st_pieces pieces)
{
    struct st_plan_op *op = st_plan_add(b->p, ST_OP_COPY, role, layer);
    op->in = from;
    op->out = to;
    op->pieces = pieces;
}

void st_blocks_latent_attention(struct st_blocks *b, int layer)
{
    const struct st_config *c = b->c;
    struct st_plan *p = b->p;
    uint32_t rank = c->kv_lora_rank, rotated = c->rope_dim, plain = c->head_dim - rotated, value = c->v_head_dim;
    int w = st_plan_weight(p, ST_ROLE_ATTN_NORM, layer, c->d_model, 1, "model.layers.%d.input_layernorm.weight", layer);
    norm(b, ST_ROLE_ATTN_NORM, layer, b->x, b->h, 0, w);

    uint32_t group = ++b->group;
    if (c->q_lora_rank)
        project(b, ST_ROLE_Q_A, ST_ROLE_Q_A_BIAS, layer, "self_attn.q_a_proj", b->h, b->q_a, group, c->qkv_bias);
    else
        project(b, ST_ROLE_Q, ST_ROLE_NONE, layer, "self_attn.q_proj", b->h, b->q, group, false);
    project(b, ST_ROLE_KV_A, ST_ROLE_KV_A_BIAS, layer, "self_attn.kv_a_proj_with_mqa", b->h, b->kv_a, group,
            c->qkv_bias);
    if (c->q_lora_rank) {
        latent_norm(b, ST_ROLE_Q_A_NORM, layer, "q_a_layernorm", b->q_a, c->q_lora_rank);
        project(b, ST_ROLE_Q_B, ST_ROLE_NONE, layer, "self_attn.q_b_proj", b->q_a, b->q, 0, false);
    }
    copy(b, ST_ROLE_KV_A, layer, b->kv_a, b->kv, (struct st_pieces){.n_head = 1, .len = rank});
    latent_norm(b, ST_ROLE_KV_A_NORM, layer, "kv_a_layernorm", b->kv, rank);
    project(b, ST_ROLE_KV_B, ST_ROLE_NONE, layer, "self_attn.kv_b_proj", b->kv, b->kv_b, 0, false);

    rope(b, ST_ROLE_Q, layer, b->q, c->head_dim);
    rope(b, ST_ROLE_K, layer, b->kv_a, rank + rotated);
    /* A head's key is its own part, then the shared one. */
    struct st_pieces own = {.n_head = c->n_head, .len = plain, .from_step = plain + value, .to_step = c->head_dim};
    struct st_pieces shared = {
        .n_head = c->n_head, .len = rotated, .from_at = rank, .to_at = plain, .to_step = c->head_dim};
    struct st_pieces values = {
        .n_head = c->n_head, .len = value, .from_at = plain, .from_step = plain + value, .to_step = value};
    copy(b, ST_ROLE_K, layer, b->kv_b, b->k, own);
    copy(b, ST_ROLE_K, layer, b->kv_a, b->k, shared);
    copy(b, ST_ROLE_V, layer, b->kv_b, b->v, values);
    attend_and_project(b, layer);
}

static void ffn_norm(struct st_blocks *b, int layer)
{
    int w = st_plan_weight(b->p, ST_ROLE_FFN_NORM, layer, b->c->d_model, 1,
                           "model.layers.%d.post_attention_layernorm.weight", layer);
    norm(b, ST_ROLE_FFN_NORM, layer, b->x, b->h, 0, w);
}

static struct st_plan_op *silu_mul(struct st_blocks *b, int layer, int gate, int up)
{
    struct st_plan_op *op = st_plan_add(b->p, ST_OP_SILU_MUL, ST_ROLE_NONE, layer);
    op->in = gate;
    op->in2 = up;
    op->out = gate;
    return op;
}

void st_blocks_mlp(struct st_blocks *b, int layer)
{
    const struct st_config *c = b->c;
    ffn_norm(b, layer);
    uint32_t group = ++b->group;
    project(b, ST_ROLE_GATE, ST_ROLE_GATE_BIAS, layer, "mlp.gate_proj", b->h, b->gate, group, c->mlp_bias);
    project(b, ST_ROLE_UP, ST_ROLE_UP_BIAS, layer, "mlp.up_proj", b->h, b->up, group, c->mlp_bias);

    silu_mul(b, layer, b->gate, b->up);
    project(b, ST_ROLE_DOWN, ST_ROLE_DOWN_BIAS, layer, "mlp.down_proj", b->gate, b->h, 0, c->mlp_bias);
    add(b, ST_ROLE_DOWN, layer);
}

const struct st_moe_names st_moe_names = {"mlp", "gate_proj", "up_proj", "down_proj"};

/* One matrix of expert e. */
static void expert_linear(struct st_blocks *b, enum st_role role, int layer, int e, const struct st_moe_names *names,
                          const char *part, int in, int out, uint32_t group)
{
    struct st_plan *p = b->p;
    if (p->failed)
        return;
    int w = st_plan_weight(p, role, layer, p->slot_width[out], p->slot_width[in],
                           "model.layers.%d.%s.experts.%d.%s.weight", layer, names->block, e, part);
    if (w >= 0)
        p->weights[w].expert = e;
    linear(b, role, layer, in, out, group, w, -1)->expert = e;
}

/* x += weight of e * down(silu(gate) * up) on the rows that take e. */
static void expert(struct st_blocks *b, int layer, int e, const struct st_moe_names *names)
{
    struct st_plan_op *op = st_plan_add(b->p, ST_OP_GATHER, ST_ROLE_NONE, layer);
    op->expert = e;
    op->in = b->h;
    op->in2 = b->routed;
    op->out = b->e_h;

    uint32_t group = ++b->group;
    expert_linear(b, ST_ROLE_EXPERT_GATE, layer, e, names, names->gate, b->e_h, b->e_gate, group);
    expert_linear(b, ST_ROLE_EXPERT_UP, layer, e, names, names->up, b->e_h, b->e_up, group);
    silu_mul(b, layer, b->e_gate, b->e_up)->expert = e;
    expert_linear(b, ST_ROLE_EXPERT_DOWN, layer, e, names, names->down, b->e_gate, b->e_h, 0);

    op = st_plan_add(b->p, ST_OP_SCATTER, ST_ROLE_NONE, layer);
    op->expert = e;
    op->in = b->e_h;
    op->in2 = b->routed;
    op->out = b->x;
}

/* One matrix of the shared experts. */
static void shared_linear(struct st_blocks *b, enum st_role role, int layer, const struct st_moe_names *names,
                          const char *part, int in, int out, uint32_t group)
{
    uint32_t n_in = b->p->failed ? 0 : b->p->slot_width[in];
    uint32_t n_out = b->p->failed ? 0 : b->p->slot_width[out];
    int w = st_plan_weight(b->p, role, layer, n_out, n_in, "model.layers.%d.%s.shared_experts.%s.weight", layer,
                           names->block, part);
    linear(b, role, layer, in, out, group, w, -1);
}

void st_blocks_moe(struct st_blocks *b, int layer, const struct st_moe_names *names)
{
    const struct st_config *c = b->c;
    ffn_norm(b, layer);
    int w = st_plan_weight(b->p, ST_ROLE_ROUTER, layer, c->n_expert, c->d_model, "model.layers.%d.%s.gate.weight",
                           layer, names->block);
    linear(b, ST_ROLE_ROUTER, layer, b->h, b->routed, 0, w, -1);

    int bias = -1;
    if (c->router_bias)
        bias = st_plan_weight(b->p, ST_ROLE_ROUTER_BIAS, layer, c->n_expert, 1,
                              "model.layers.%d.%s.gate.e_score_correction_bias", layer, names->block);
    struct st_plan_op *op = st_plan_add(b->p, ST_OP_ROUTE, ST_ROLE_ROUTER, layer);
    op->in = b->routed;
    op->out = b->routed;
    op->bias = bias;

    for (int e = 0; e < (int)c->n_expert && !b->p->failed; e++)
        expert(b, layer, e, names);
    if (c->n_shared_expert) {
        uint32_t group = ++b->group;
        shared_linear(b, ST_ROLE_SHARED_GATE, layer, names, names->gate, b->h, b->shared_gate, group);
        shared_linear(b, ST_ROLE_SHARED_UP, layer, names, names->up, b->h, b->shared_up, group);
        silu_mul(b, layer, b->shared_gate, b->shared_up);
        shared_linear(b, ST_ROLE_SHARED_DOWN, layer, names, names->down, b->shared_gate, b->h, 0);
        add(b, ST_ROLE_SHARED_DOWN, layer);
    }
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
