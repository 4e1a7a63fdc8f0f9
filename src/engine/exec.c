#include "engine/exec.h"
#include "base/buf.h"
#include "engine/attend_outside.h"
#include "engine/stored.h"
#include "tensor/lora.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TAIL_BYTES ((size_t)16 << 20)
#define MIN_TAIL_ROWS 8

struct st_exec {
    const struct st_model *m;
    const struct st_kv *kv;
    struct st_boundary *boundary;
    struct st_compute *compute;
    struct st_area *body; /* [n_slot] */
    struct st_area *tail; /* [n_slot], rows of the tail ops */
    bool *gathered;       /* [n_slot] slots that the tail reads from the body */
    float *inv_freq;
    float rope_gain;
    float scale; /* of attention scores */
    struct st_route route;
    uint32_t *chosen; /* [max_row] rows that take the expert whose section runs; NULL without experts */
    int n_body;       /* ops before the tail */
    /* Adapters: rows of each in the step, and in what runs of it (a section of an expert, a part of the tail); both
     * [n_adapter + 2]; room for the low-rank values of ops that run together. */
    const uint32_t *step_row;
    uint32_t *part_row;
    struct st_area low_rank;
    struct st_attend_outside *outside; /* NULL: attention stays here */
    const struct st_tap *tap;
    const struct st_store *store;
};

uint32_t st_exec_tail_rows(const struct st_config *c, uint32_t max_row)
{
    size_t n = TAIL_BYTES / ((size_t)c->n_vocab * sizeof(float));
    if (n < MIN_TAIL_ROWS)
        n = MIN_TAIL_ROWS;
    return n < max_row ? (uint32_t)n : max_row;
}

/* Marks the slots that ops [from, to) touch. */
static void touched(const struct st_plan *p, int from, int to, bool *slot)
{
    for (int i = from; i < to; i++) {
        const struct st_plan_op *op = &p->ops[i];
        const int used[] = {op->in, op->in2, op->in3, op->out};
        for (size_t k = 0; k < sizeof used / sizeof *used; k++)
            if (used[k] >= 0)
                slot[used[k]] = true;
    }
}

static int body_len(const struct st_plan *p)
{
    int n = 0;
    while (n < p->n_op && !p->ops[n].last_row_only)
        n++;
    return n;
}

/* Ops of one adapter from i on that read one slot: they run together. */
static int lora_len(const struct st_plan *p, int i, int end)
{
    const struct st_plan_op *op = &p->ops[i];
    int n = 1;
    while (n < ST_LORA_JOBS && i + n < end && op[n].op == ST_OP_LORA && op[n].adapter == op->adapter &&
           op[n].in == op->in)
        n++;
    return n;
}

/* Values per row of all low-rank results of ops that run together, at most. */
static size_t low_rank_width(const struct st_plan *p)
{
    size_t most = 0;
    for (int i = 0, n; i < p->n_op; i += n) {
        size_t sum = 0;
        n = p->ops[i].op == ST_OP_LORA ? lora_len(p, i, p->n_op) : 1;
        for (int k = 0; p->ops[i].op == ST_OP_LORA && k < n; k++)
            sum += p->weights[p->ops[i + k].weight].n_out;
        most = sum > most ? sum : most;
    }
    return most;
}

size_t st_exec_bytes(const struct st_model *m, uint32_t max_row)
{
    const struct st_plan *p = &m->plan;
    size_t bytes = max_row * low_rank_width(p) * sizeof(float), tail_rows = st_exec_tail_rows(&m->config, max_row);
    for (int s = 0; s < p->n_slot; s++) {
        bool in_body = false, in_tail = false;
        for (int i = 0; i < p->n_op; i++) {
            const struct st_plan_op *op = &p->ops[i];
            if (op->in == s || op->in2 == s || op->in3 == s || op->out == s)
                *(op->last_row_only ? &in_tail : &in_body) = true;
        }
        bytes += p->slot_width[s] * sizeof(float) * (in_body * (size_t)max_row + in_tail * tail_rows);
    }
    return bytes;
}

static int check_op(const struct st_model *m, int i, struct st_err *e)
{
    const struct st_config *c = &m->config;
    const struct st_plan *p = &m->plan;
    const struct st_plan_op *op = &p->ops[i];
    const uint32_t *width = p->slot_width;
    uint32_t n_q = c->n_head * c->head_dim, n_k = c->n_kv_head * c->head_dim;
    uint32_t n_v = c->n_kv_head * c->v_head_dim, n_out = c->n_head * c->v_head_dim;
    switch (op->op) {
    case ST_OP_ROPE:
        if (op->rotated != c->rope_dim)
            return st_fail(e, ST_INTERNAL, "plan: op %d rotates %u values per head, want %u", i, op->rotated,
                           c->rope_dim);
        return 0;
    case ST_OP_ATTEND:
        if (op->layer < 0 || (uint32_t)op->layer >= c->n_layer)
            return st_fail(e, ST_INTERNAL, "plan: op %d attends in layer %d of %u", i, op->layer, c->n_layer);
        if (width[op->in] != n_q || width[op->in2] != n_k || width[op->in3] != n_v || width[op->out] != n_out)
            return st_fail(e, ST_INTERNAL, "plan: op %d attends with widths %u, %u, %u, %u, want %u, %u, %u, %u", i,
                           width[op->in], width[op->in2], width[op->in3], width[op->out], n_q, n_k, n_v, n_out);
        return 0;
    case ST_OP_ROUTE:
        if (width[op->out] != c->n_expert)
            return st_fail(e, ST_INTERNAL, "plan: op %d routes to %u experts, want %u", i, width[op->out], c->n_expert);
        return 0;
    default:
        return 0;
    }
}

/* What st_plan_check() cannot know: the tail stands at the end and gives logits, heads are those of the config. */
static int check_plan(const struct st_model *m, const struct st_boundary *b, const struct st_store *store,
                      struct st_err *e)
{
    const struct st_plan *p = &m->plan;
    if (st_plan_check(p, e) || st_boundary_check(b, p, e))
        return e->code;
    for (int i = 0; i < p->n_op; i++) {
        const struct st_plan_op *op = &p->ops[i];
        bool here = op->weight < 0 || m->mats[op->weight].data || (store && store->has(store->ctx, op->weight));
        if (op->place == ST_PLACE_TRUSTED && !here)
            return st_fail(e, ST_INPUT, "%s: is not in this checkpoint, and no worker is to compute with it%s",
                           p->weights[op->weight].name, op->op == ST_OP_EMBED ? " (--embedding remote)" : "");
    }
    int n_body = body_len(p);
    for (int i = n_body; i < p->n_op; i++)
        if (!p->ops[i].last_row_only)
            return st_fail(e, ST_INTERNAL, "plan: op %d for all rows stands behind op %d for wanted rows", i, n_body);
    if (n_body == 0 || n_body == p->n_op)
        return st_fail(e, ST_INTERNAL, "plan: want ops for all rows, then ops for wanted rows; op %d of %d is the cut",
                       n_body, p->n_op);
    for (int i = 0; i < p->n_op; i++)
        if (check_op(m, i, e))
            return e->code;
    for (int i = n_body; i < p->n_op; i++)
        if (p->ops[i].op != ST_OP_NORM && p->ops[i].op != ST_OP_LINEAR && p->ops[i].op != ST_OP_LORA)
            return st_fail(e, ST_INTERNAL, "plan: op %d (%s) cannot run for wanted rows alone", i,
                           st_role_name(p->ops[i].role));
    const struct st_plan_op *head = &p->ops[p->n_op - 1];
    if (p->slot_width[head->out] != m->config.n_vocab)
        return st_fail(e, ST_INTERNAL, "plan: the last op gives %u values, want %u logits", p->slot_width[head->out],
                       m->config.n_vocab);
    return 0;
}

static int alloc_slots(struct st_exec *x, uint32_t max_row, struct st_err *e)
{
    const struct st_plan *p = &x->m->plan;
    uint32_t tail_rows = st_exec_tail_rows(&x->m->config, max_row);
    bool *in_body = NULL, *in_tail = NULL, *written = NULL;
    size_t n = (size_t)p->n_slot;
    if (st_alloc(&x->body, n, sizeof *x->body, "slots", e) || st_alloc(&x->tail, n, sizeof *x->tail, "slots", e) ||
        st_alloc(&x->gathered, n, sizeof *x->gathered, "slots", e) ||
        st_alloc(&in_body, n, sizeof *in_body, "slots", e) || st_alloc(&in_tail, n, sizeof *in_tail, "slots", e) ||
        st_alloc(&written, n, sizeof *written, "slots", e))
        goto out;
    touched(p, 0, x->n_body, in_body);
    touched(p, x->n_body, p->n_op, in_tail);
    for (int i = x->n_body; i < p->n_op; i++) {
        const struct st_plan_op *op = &p->ops[i];
        if (!written[op->in])
            x->gathered[op->in] = true;
        written[op->out] = true;
    }
    for (int s = 0; s < p->n_slot; s++) {
        size_t row = p->slot_width[s] * sizeof(float);
        if (in_body[s] && st_area_new(&x->body[s], max_row, row, "activations", e))
            goto out;
        if (in_tail[s] && st_area_new(&x->tail[s], tail_rows, row, "activations", e))
            goto out;
        if (x->gathered[s] && !in_body[s]) {
            st_fail(e, ST_INTERNAL, "plan: the ops for wanted rows read slot %d, which nothing writes", s);
            goto out;
        }
    }
    e->code = 0;
out:
    free(in_body);
    free(in_tail);
    free(written);
    return e->code;
}

static int alloc_adapters(struct st_exec *x, uint32_t max_row, struct st_err *e)
{
    size_t width = low_rank_width(&x->m->plan);
    if (!width)
        return 0;
    if (st_alloc(&x->part_row, (size_t)x->m->n_adapter + 2, sizeof *x->part_row, "rows of adapters", e))
        return e->code;
    return st_area_new(&x->low_rank, max_row, width * sizeof(float), "adapters", e);
}

/* What attention needs whose products leave, where the plan has it. */
static int alloc_outside(struct st_exec *x, struct st_err *e)
{
    const struct st_plan *p = &x->m->plan;
    for (int i = 0; i < p->n_op; i++)
        if (p->ops[i].op == ST_OP_ATTEND && p->ops[i].place == ST_PLACE_UNTRUSTED)
            return st_attend_outside_new(&x->m->config, (size_t)x->kv->n_block * ST_KV_BLOCK, &x->outside, e);
    return 0;
}

int st_exec_new(const struct st_model *m, const struct st_kv *kv, struct st_boundary *b, const struct st_exec_opts *o,
                struct st_exec **out, struct st_err *e)
{
    const struct st_config *c = &m->config;
    struct st_exec *x;
    if (check_plan(m, b, o->store, e))
        return e->code;
    if (st_alloc(&x, 1, sizeof *x, "executor", e))
        return e->code;
    *x = (struct st_exec){
        .m = m, .kv = kv, .boundary = b, .n_body = body_len(&m->plan), .tap = o->tap, .store = o->store};
    x->scale = st_config_attn_scale(c);
    x->rope_gain = st_config_rope_gain(c);
    x->route = (struct st_route){.n_expert = c->n_expert,
                                 .n_used = c->n_expert_used,
                                 .score = c->score,
                                 .n_group = c->n_group,
                                 .n_group_used = c->n_group_used,
                                 .group_score = c->group_score,
                                 .norm = c->norm_topk,
                                 .scale = c->routed_scale != 0 ? c->routed_scale : 1};
    struct st_compute_opts co = {.n_threads = o->n_threads,
                                 .isa = o->isa,
                                 .max_row = o->max_row,
                                 .deterministic = o->deterministic,
                                 .secret = o->secret,
                                 .allow_unlocked = o->allow_unlocked};
    for (int s = 0; s < m->plan.n_slot; s++)
        if (m->plan.slot_width[s] > co.max_width)
            co.max_width = m->plan.slot_width[s];
    if (st_alloc(&x->inv_freq, c->rope_dim / 2, sizeof *x->inv_freq, "rotary frequencies", e) ||
        (c->n_expert && st_alloc(&x->chosen, o->max_row, sizeof *x->chosen, "rows of an expert", e)) ||
        alloc_slots(x, o->max_row, e) || alloc_adapters(x, o->max_row, e) || alloc_outside(x, e) ||
        st_compute_new(&co, &x->compute, e)) {
        st_exec_free(x);
        return e->code;
    }
    st_config_inv_freq(c, x->inv_freq);
    *out = x;
    return 0;
}

void st_exec_free(struct st_exec *x)
{
    if (!x)
        return;
    for (int s = 0; s < x->m->plan.n_slot; s++) {
        if (x->body)
            st_area_free(&x->body[s]);
        if (x->tail)
            st_area_free(&x->tail[s]);
    }
    free(x->body);
    free(x->tail);
    free(x->gathered);
    free(x->inv_freq);
    free(x->chosen);
    free(x->part_row);
    if (x->low_rank.p)
        st_area_free(&x->low_rank);
    st_attend_outside_free(x->outside);
    st_compute_free(x->compute);
    free(x);
}

const struct st_compute *st_exec_compute(const struct st_exec *x)
{
    return x->compute;
}

/* Number of ops from i on that leave together. */
static int group_len(const struct st_plan *p, int i, int end)
{
    uint32_t group = p->ops[i].group;
    int n = 1;
    while (group && i + n < end && p->ops[i + n].op == ST_OP_LINEAR && p->ops[i + n].group == group)
        n++;
    return n;
}

/* Whether weights of a group that stays here come from the store. */
static bool is_stored(const struct st_exec *x, const struct st_plan_op *ops, int n_op)
{
    bool stored = false;
    for (int i = 0; x->store && i < n_op; i++)
        stored = stored || (ops[i].place == ST_PLACE_TRUSTED && !x->m->mats[ops[i].weight].data);
    return stored;
}

static int run_linear(struct st_exec *x, const struct st_area *slot, int i, int n_op, uint32_t n_row, struct st_err *e)
{
    const struct st_plan *p = &x->m->plan;
    const struct st_plan_op *ops = &p->ops[i];
    struct st_trusted in = {.p = slot[ops->in].p, .n_row = n_row, .width = p->slot_width[ops->in]};
    struct st_trusted outs[ST_MAX_GROUP];
    for (int k = 0; k < n_op && k < ST_MAX_GROUP; k++)
        outs[k] = (struct st_trusted){.p = slot[ops[k].out].p, .n_row = n_row, .width = p->slot_width[ops[k].out]};
    if (is_stored(x, ops, n_op))
        return st_stored_linear(x->store, x->compute, ops, n_op, x->m->mats, &in, outs, e);
    if (x->store && ops->place == ST_PLACE_UNTRUSTED)
        x->store->away(x->store->ctx);
    return st_boundary_linear(x->boundary, x->compute, p, ops, n_op, x->m->mats, &in, outs, e);
}

/* Rows of the embedding: looked up here, or fetched through the door as a product with one-hot rows. */
static int run_embed(struct st_exec *x, const struct st_area *slot, const struct st_plan_op *op, const uint32_t *ids,
                     uint32_t n_row, struct st_err *e)
{
    const struct st_plan *p = &x->m->plan;
    struct st_trusted in = {.ids = ids, .n_row = n_row, .width = p->weights[op->weight].n_out};
    struct st_trusted out = {.p = slot[op->out].p, .n_row = n_row, .width = p->slot_width[op->out]};
    if (is_stored(x, op, 1))
        return st_stored_embed(x->store, x->compute, op, &in, &out, e);
    return st_boundary_linear(x->boundary, x->compute, p, op, 1, x->m->mats, &in, &out, e);
}

static void run_norm(struct st_exec *x, const struct st_area *slot, const struct st_plan_op *op, uint32_t n_row)
{
    uint32_t width = x->m->plan.slot_width[op->out], head = op->head ? op->head : width;
    float eps = op->eps > 0 ? op->eps : x->m->config.norm_eps;
    st_rmsnorm(x->compute, slot[op->in].p, x->m->mats[op->weight].data, eps, n_row * (width / head), head,
               slot[op->out].p);
}

static void run_rope(struct st_exec *x, const struct st_area *slot, const struct st_plan_op *op, uint32_t n_row,
                     const uint32_t *pos)
{
    struct st_rotary r = {.inv_freq = x->inv_freq,
                          .n_pair = op->rotated / 2,
                          .first = op->rotate_at,
                          .gain = x->rope_gain,
                          .interleaved = x->m->config.rope_interleaved};
    st_rope(x->compute, slot[op->in].p, n_row, x->m->plan.slot_width[op->in] / op->head, op->head, pos, &r);
}

static int run_attend(struct st_exec *x, const struct st_plan_op *op, const struct st_exec_step *step, struct st_err *e)
{
    const struct st_config *c = &x->m->config;
    const struct st_kv_layer *kv = &x->kv->layers[op->layer];
    st_kv_store(x->compute, kv, step->seqs, step->n_seq, x->body[op->in2].p, x->body[op->in3].p);
    if (op->place == ST_PLACE_UNTRUSTED) {
        const struct st_attention a = {.plan = &x->m->plan,
                                       .op = op,
                                       .kv = kv,
                                       .seqs = step->seqs,
                                       .n_seq = step->n_seq,
                                       .n_head = c->n_head,
                                       .scale = x->scale,
                                       .window = c->sliding_window};
        if (x->store)
            x->store->away(x->store->ctx);
        return st_attend_outside(x->outside, x->boundary, &a, x->body[op->in].p, x->body[op->out].p, e);
    }
    st_attend(x->compute, kv, step->seqs, step->n_seq, x->body[op->in].p, c->n_head, x->scale, c->sliding_window,
              x->body[op->out].p);
    return 0;
}

static uint32_t run_gather(struct st_exec *x, const struct st_plan_op *op, uint32_t n_row)
{
    const struct st_area *slot = x->body;
    uint32_t n = n_row;
    if (!op->every_row)
        n = st_route_rows(slot[op->in2].p, n_row, x->route.n_expert, (uint32_t)op->expert, x->chosen);
    for (uint32_t r = 0; op->every_row && r < n; r++)
        x->chosen[r] = r;
    st_gather(x->compute, slot[op->in].p, x->chosen, n, x->m->plan.slot_width[op->out], slot[op->out].p);
    return n;
}

static void run_scatter(struct st_exec *x, const struct st_plan_op *op, uint32_t n)
{
    const struct st_area *slot = x->body;
    st_scatter(x->compute, slot[op->in].p, x->chosen, n, x->m->plan.slot_width[op->out], slot[op->in2].p,
               x->route.n_expert, (uint32_t)op->expert, slot[op->out].p);
}

/* Ops of one adapter on its own rows, `row` [n_adapter + 2] as in st_exec_step. */
static void run_lora(struct st_exec *x, const struct st_area *slot, const struct st_plan_op *ops, int n_op,
                     const uint32_t *row)
{
    const struct st_plan *p = &x->m->plan;
    const uint32_t lo = row[ops->adapter], n_row = row[ops->adapter + 1] - lo;
    struct st_lora_job jobs[ST_LORA_JOBS];
    float *z = x->low_rank.p;
    if (n_row == 0)
        return;
    for (int k = 0; k < n_op; k++) {
        const struct st_mat *a = &x->m->mats[ops[k].weight];
        uint32_t n_out = p->slot_width[ops[k].out];
        jobs[k] = (struct st_lora_job){.a = a,
                                       .b = x->m->mats[ops[k].weight2].data,
                                       .n_out = n_out,
                                       .z = z,
                                       .y = (float *)slot[ops[k].out].p + (size_t)lo * n_out};
        z += (size_t)n_row * a->n_out;
    }
    st_lora(x->compute, jobs, n_op, (const float *)slot[ops->in].p + (size_t)lo * p->slot_width[ops->in], n_row);
}

/* Of rows [n], ascending rows of the step, those of each adapter. */
static const uint32_t *adapter_part(struct st_exec *x, const uint32_t *rows, uint32_t n)
{
    if (!x->part_row || !x->step_row)
        return x->step_row;
    for (uint32_t a = 0, at = 0; a < x->m->n_adapter + 2; a++) {
        while (at < n && rows[at] < x->step_row[a])
            at++;
        x->part_row[a] = at;
    }
    return x->part_row;
}

static void tell_tap(const struct st_exec *x, const struct st_area *slot, const struct st_plan_op *op, int n_op,
                     uint32_t n_row)
{
    for (int i = 0; x->tap && i < n_op; i++) {
        bool same_rows = op[i].op != ST_OP_EMBED && op[i].op != ST_OP_GATHER && op[i].op != ST_OP_SCATTER;
        x->tap->fn(x->tap->ctx, &op[i], same_rows ? slot[op[i].in].p : NULL, slot[op[i].out].p, n_row);
    }
}

/* Runs ops [from, to) on n_all rows of `slot`, of which all_of are those of the adapters. step is NULL in the tail,
 * which has no op that needs it. */
static int run_ops(struct st_exec *x, const struct st_area *slot, int from, int to, uint32_t n_all,
                   const uint32_t *all_of, const struct st_exec_step *step, struct st_err *e)
{
    uint32_t n_row = n_all; /* fewer inside the section of an expert */
    const uint32_t *rows_of = all_of;
    const struct st_plan *p = &x->m->plan;
    const struct st_mat *mats = x->m->mats;
    struct st_compute *k = x->compute;
    for (int i = from; i < to; i++) {
        const struct st_plan_op *op = &p->ops[i];
        uint32_t width = p->slot_width[op->out];
        int n_op = 1;
        switch (op->op) {
        case ST_OP_EMBED:
            if (run_embed(x, slot, op, step->ids, n_row, e))
                return e->code;
            break;
        case ST_OP_NORM:
            run_norm(x, slot, op, n_row);
            break;
        case ST_OP_LINEAR:
            n_op = group_len(p, i, to);
            if (run_linear(x, slot, i, n_op, n_row, e))
                return e->code;
            i += n_op - 1;
            break;
        case ST_OP_ROPE:
            run_rope(x, slot, op, n_row, step->pos);
            break;
        case ST_OP_COPY:
            st_copy(k, &op->pieces, slot[op->in].p, p->slot_width[op->in], slot[op->out].p, width, n_row);
            break;
        case ST_OP_ATTEND:
            if (run_attend(x, op, step, e))
                return e->code;
            break;
        case ST_OP_SILU_MUL:
            st_silu_mul(k, slot[op->out].p, slot[op->in2].p, (size_t)n_row * width);
            break;
        case ST_OP_ADD:
            st_add(k, slot[op->out].p, slot[op->in].p, (size_t)n_row * width);
            break;
        case ST_OP_ROUTE:
            st_route(k, &x->route, op->bias >= 0 ? mats[op->bias].data : NULL, slot[op->out].p, n_row);
            break;
        case ST_OP_GATHER:
            n_row = run_gather(x, op, n_all);
            while (n_row == 0 && p->ops[i].op != ST_OP_SCATTER)
                i++;
            if (n_row == 0) { /* nobody wanted this expert */
                n_row = n_all;
                n_op = 0;
                break;
            }
            rows_of = adapter_part(x, x->chosen, n_row);
            break;
        case ST_OP_SCATTER:
            run_scatter(x, op, n_row);
            n_row = n_all;
            rows_of = all_of;
            break;
        case ST_OP_LORA:
            n_op = lora_len(p, i, to);
            if (rows_of)
                run_lora(x, slot, op, n_op, rows_of);
            i += n_op - 1;
            break;
        }
        tell_tap(x, slot, op, n_op, n_row);
    }
    return 0;
}

int st_exec_body(struct st_exec *x, const struct st_exec_step *step, struct st_err *e)
{
    x->step_row = step->adapter_row;
    return run_ops(x, x->body, 0, x->n_body, step->n_row, x->step_row, step, e);
}

int st_exec_tail(struct st_exec *x, const uint32_t *rows, uint32_t n, float **logits, struct st_err *e)
{
    const struct st_plan *p = &x->m->plan;
    for (int s = 0; s < p->n_slot; s++) {
        size_t width = p->slot_width[s];
        if (!x->gathered[s])
            continue;
        for (uint32_t r = 0; r < n; r++)
            memcpy((float *)x->tail[s].p + r * width, (const float *)x->body[s].p + rows[r] * width,
                   width * sizeof(float));
    }
    *logits = x->tail[p->ops[p->n_op - 1].out].p;
    return run_ops(x, x->tail, x->n_body, p->n_op, n, adapter_part(x, rows, n), NULL, e);
}
