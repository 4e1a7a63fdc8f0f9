/* A plan: what the engine executes for one step of rows, as a list of op records. An architecture file writes it; a
 * protection may rewrite it (places, weights); the engine reads it. The plan knows no engine, and the engine no
 * architecture.
 *
 * Values flow through slots: slot s is a f32 array [n_row, slot_width[s]]. Slot 0 is the residual stream.
 * Ops of one exchange group (q,k,v; gate,up) share their input slot, stand next to each other and leave the trusted
 * side together, as one exchange.
 *
 * A mixture of experts is LINEAR (role router), ROUTE, then one section per expert in ascending order: GATHER, ordinary
 * LINEAR, LORA and SILU_MUL ops with the same `expert`, SCATTER. Inside a section slots hold only the rows that take
 * the expert, as many as there are; without any the whole section is skipped. */
#ifndef ST_MODEL_PLAN_H
#define ST_MODEL_PLAN_H

#include "model/config.h"
#include "tensor/compute.h"

enum st_op {
    ST_OP_EMBED,  /* out = rows of weight by token id */
    ST_OP_NORM,   /* out = rmsnorm(in) * weight over the slot's width, or over heads of `head` values when head != 0 */
    ST_OP_LINEAR, /* out = in W^T + bias */
    ST_OP_ROPE,   /* in place on `in`: `rotated` values from `rotate_at` of each head of `head` values */
    ST_OP_COPY,   /* pieces of in to out; the rest of out stays */
    ST_OP_ATTEND, /* out = attention(q = in, k = in2, v = in3); stores k and v in the cache of `layer`. Heads of q and k
                     have `head` values, those of v and out what the widths say. UNTRUSTED: its two products leave */
    ST_OP_SILU_MUL, /* out = silu(in) * in2, out == in */
    ST_OP_ADD,      /* out += in */
    ST_OP_ROUTE,   /* in place on the router's logits [n_row, n_expert]: the weight of each expert, 0 for those that the
                      row does not take; bias = router_bias */
    ST_OP_GATHER,  /* begins the section of `expert`: out = the rows of `in` that take it, in2 = the weights of ROUTE */
    ST_OP_SCATTER, /* ends it: out += weight * in for those rows, in2 = the weights of ROUTE */
    ST_OP_LORA,    /* out += (in A^T) B^T for the rows that take `adapter`; A = weight, B = weight2 (model/adapter.h) */
};

#define ST_ROLES(X)                                                                                                    \
    X(EMBED, "embed")                                                                                                  \
    X(ATTN_NORM, "attn_norm")                                                                                          \
    X(FFN_NORM, "ffn_norm")                                                                                            \
    X(FINAL_NORM, "final_norm")                                                                                        \
    X(Q, "q")                                                                                                          \
    X(K, "k")                                                                                                          \
    X(V, "v")                                                                                                          \
    X(O, "o")                                                                                                          \
    X(Q_BIAS, "q_bias")                                                                                                \
    X(K_BIAS, "k_bias")                                                                                                \
    X(V_BIAS, "v_bias")                                                                                                \
    X(O_BIAS, "o_bias")                                                                                                \
    X(Q_NORM, "q_norm")                                                                                                \
    X(K_NORM, "k_norm")                                                                                                \
    X(Q_A, "q_a")                                                                                                      \
    X(Q_A_BIAS, "q_a_bias")                                                                                            \
    X(Q_A_NORM, "q_a_norm")                                                                                            \
    X(Q_B, "q_b")                                                                                                      \
    X(KV_A, "kv_a")                                                                                                    \
    X(KV_A_BIAS, "kv_a_bias")                                                                                          \
    X(KV_A_NORM, "kv_a_norm")                                                                                          \
    X(KV_B, "kv_b")                                                                                                    \
    X(GATE, "gate")                                                                                                    \
    X(UP, "up")                                                                                                        \
    X(DOWN, "down")                                                                                                    \
    X(GATE_BIAS, "gate_bias")                                                                                          \
    X(UP_BIAS, "up_bias")                                                                                              \
    X(DOWN_BIAS, "down_bias")                                                                                          \
    X(HEAD, "head")                                                                                                    \
    X(ROUTER, "router")                                                                                                \
    X(ROUTER_BIAS, "router_bias")                                                                                      \
    X(EXPERT_GATE, "expert_gate")                                                                                      \
    X(EXPERT_UP, "expert_up")                                                                                          \
    X(EXPERT_DOWN, "expert_down")                                                                                      \
    X(SHARED_GATE, "shared_gate")                                                                                      \
    X(SHARED_UP, "shared_up")                                                                                          \
    X(SHARED_DOWN, "shared_down")                                                                                      \
    X(LORA_A, "lora_a")                                                                                                \
    X(LORA_B, "lora_b")
enum st_role {
    ST_ROLE_NONE,
#define X(id, name) ST_ROLE_##id,
    ST_ROLES(X)
#undef X
        ST_ROLE_COUNT
};
const char *st_role_name(enum st_role r);

enum st_place { ST_PLACE_TRUSTED, ST_PLACE_UNTRUSTED };

#define ST_PLAN_NAME 120

struct st_plan_weight {
    char name[ST_PLAN_NAME]; /* tensor name in the checkpoint: "model.layers.3.self_attn.q_proj.weight" */
    enum st_role role;
    int layer;            /* -1 outside the layers */
    int expert;           /* -1 outside the routed experts */
    uint32_t n_out, n_in; /* vectors (norms, biases): n_out = length, n_in = 1 */
    int tied_to;          /* index of the weight whose data it shares (tied head), or -1 */
};

struct st_plan_op {
    enum st_op op;
    enum st_role role;
    enum st_place place;
    int layer;        /* -1 outside the layers */
    int expert;       /* -1 outside the sections of experts */
    int in, in2, in3; /* slots, -1 = unused */
    int out;
    int weight, bias;            /* indices into weights, -1 = none */
    int weight2;                 /* LORA: B, packed as tensor/lora.h says, with its scale in it */
    int adapter;                 /* LORA: its number, from 1 */
    uint32_t head;               /* head_dim for per-head ops, else 0 */
    uint32_t rotate_at, rotated; /* ROPE */
    struct st_pieces pieces;     /* COPY */
    float eps;                   /* NORM: 0 = norm_eps of the config */
    uint32_t group;              /* exchange group, 0 = on its own */
    bool every_row; /* GATHER: of all rows, not of those alone that take the expert; its SCATTER adds with weight 0 */
    bool last_row_only; /* final norm and head: only rows whose logits are wanted */
};

struct st_plan {
    struct st_plan_op *ops;
    struct st_plan_weight *weights;
    uint32_t *slot_width;
    int n_op, n_weight, n_slot;
    int cap_op, cap_weight, cap_slot;
    bool failed;            /* an allocation failed, or a name was too long */
    struct st_plan_op sink; /* what st_plan_add hands out after a failure */
};

void st_plan_free(struct st_plan *p);
/* Builders for architecture files. They return the new index, or -1 after a failure, which st_plan_check() reports; so
 * an architecture reads as a straight list. An op starts TRUSTED with slots, weight and bias -1; the pointer is never
 * NULL and is valid until the next st_plan_add. */
int st_plan_slot(struct st_plan *p, uint32_t width);
int st_plan_weight(struct st_plan *p, enum st_role role, int layer, uint32_t n_out, uint32_t n_in, const char *fmt, ...)
    ST_PRINTF(6, 7);
struct st_plan_op *st_plan_add(struct st_plan *p, enum st_op op, enum st_role role, int layer);
/* Checks the whole plan: indices, widths against shapes, groups contiguous and sharing their input, sections of experts
 * whole, in order, and closed: what they write, only they read. */
int st_plan_check(const struct st_plan *p, struct st_err *e) ST_MUST_CHECK;
/* For whoever placed some ops of a group outside and not others: each group that has both places becomes two, those
 * outside first; all groups are numbered anew. Members of a group read one slot and write different ones, so that their
 * order does not matter. */
void st_plan_split(struct st_plan *p);
/* Exchanges with an untrusted side per step: groups and single ops placed UNTRUSTED, but attention, whose number
 * depends on the lengths of what is attended to. */
int st_plan_exchanges(const struct st_plan *p);

#endif
