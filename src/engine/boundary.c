#include "engine/boundary.h"

static bool attached(const struct st_boundary *b)
{
    return b->hooks && b->hooks->enter && b->hooks->leave && b->transport && b->transport->submit &&
           b->transport->complete;
}

static int refuse(const struct st_plan *plan, const struct st_plan_op *op, struct st_err *e)
{
    return st_fail(e, ST_POLICY, "%s: placed on the untrusted side, but no protection is attached",
                   op->weight >= 0 ? plan->weights[op->weight].name : st_role_name(op->role));
}

uint32_t st_boundary_rows(const struct st_boundary *b, uint32_t width)
{
    size_t n = ST_EXCHANGE_BYTES / ((size_t)width * sizeof(float));
    if (b->max_row && n > b->max_row)
        n = b->max_row;
    return n > UINT32_MAX ? UINT32_MAX : n ? (uint32_t)n : 1;
}

int st_boundary_check(const struct st_boundary *b, const struct st_plan *plan, struct st_err *e)
{
    bool every_row = false; /* of the open section of an expert */
    for (int i = 0; i < plan->n_op; i++) {
        const struct st_plan_op *op = &plan->ops[i];
        if (op->op == ST_OP_GATHER)
            every_row = op->every_row;
        if (op->place == ST_PLACE_TRUSTED)
            continue;
        if (op->op == ST_OP_ATTEND) {
            if (!attached(b) || !b->hooks->enter_pair || !b->hooks->leave_pair)
                return st_fail(e, ST_POLICY,
                               "layer %d attention: placed on the untrusted side, but no protection lets it leave",
                               op->layer);
            continue;
        }
        if (op->op != ST_OP_LINEAR && op->op != ST_OP_EMBED)
            return st_fail(e, ST_POLICY, "plan: op %d (%s) is no linear layer and cannot leave the trusted side", i,
                           st_role_name(op->role));
        if (op->expert >= 0 && !every_row)
            return st_fail(e, ST_POLICY, "%s: leaves with the rows that take expert %d alone, which tells the routing",
                           plan->weights[op->weight].name, op->expert);
        if (!attached(b))
            return refuse(plan, op, e);
    }
    return 0;
}

/* The exchange failed on its way: names the place, and drops the protection's secrets. Whatever a worker says or does
 * wrong is IO here: it is no fault of who asked. */
static int failed(const struct st_boundary *b, const struct st_exchange *x, struct st_err *e)
{
    if (e->code == ST_INPUT || e->code == ST_USAGE || e->code == ST_UNSUPPORTED)
        e->code = ST_IO;
    if (x->pair.n_inner)
        st_err_prefix(e, "layer %d (%s)", x->ops[0].layer, x->pair.what);
    else
        st_err_prefix(e, "%s", x->plan->weights[x->ops[0].weight].name);
    if (b->hooks->drop)
        b->hooks->drop(b->hooks->ctx, x);
    return e->code;
}

int st_boundary_submit(struct st_boundary *b, struct st_exchange *x, const struct st_trusted *in, struct st_err *e)
{
    struct st_exposed rows = {0};
    for (int i = 0; i < x->n_op; i++)
        if (x->ops[i].place != ST_PLACE_UNTRUSTED)
            return st_fail(e, ST_INTERNAL, "exchange group %u mixes trusted and untrusted layers", x->ops[0].group);
    if (!attached(b))
        return refuse(x->plan, x->ops, e);
    x->id = b->next_id++;
    x->n_row = in->n_row;
    if (b->hooks->enter(b->hooks->ctx, x, in, &rows, e))
        return e->code;
    if (b->transport->submit(b->transport->ctx, x, &rows, e))
        return failed(b, x, e);
    if (b->hooks->meanwhile)
        b->hooks->meanwhile(b->hooks->ctx, x);
    return 0;
}

static void add_bias(const float *bias, const struct st_trusted *t)
{
    for (uint32_t r = 0; r < t->n_row; r++) {
        float *row = t->p + (size_t)r * t->width;
        for (uint32_t i = 0; i < t->width; i++)
            row[i] += bias[i];
    }
}

int st_boundary_complete(struct st_boundary *b, const struct st_exchange *x, const struct st_mat *mats,
                         struct st_trusted *outs, struct st_err *e)
{
    struct st_exposed reply = {0};
    if (b->transport->complete(b->transport->ctx, x, &reply, e))
        return failed(b, x, e);
    if (b->hooks->leave(b->hooks->ctx, x, &reply, outs, e))
        return e->code;
    for (int i = 0; i < x->n_op; i++)
        if (x->ops[i].bias >= 0)
            add_bias(mats[x->ops[i].bias].data, &outs[i]);
    b->n_exchange++;
    return 0;
}

int st_boundary_pair(struct st_boundary *b, const struct st_plan *plan, const struct st_plan_op *op,
                     const struct st_factors *shape, const float *a_rows, const float *b_rows, float *out,
                     struct st_err *e)
{
    struct st_exchange x = {.plan = plan, .ops = op, .n_op = 1, .id = b->next_id++, .pair = *shape};
    struct st_exposed rows = {0}, reply = {0};
    if (shape->n_a < 1 || shape->n_b < 1 || shape->n_a > ST_PAIR_ROWS || shape->n_b > ST_PAIR_ROWS ||
        shape->n_inner < 1 || shape->n_inner > ST_PAIR_INNER)
        return st_fail(e, ST_INTERNAL, "layer %d (%s): a product of [%u,%u] and [%u,%u]", op->layer, shape->what,
                       shape->n_a, shape->n_inner, shape->n_b, shape->n_inner);
    if (b->hooks->enter_pair(b->hooks->ctx, &x, a_rows, b_rows, &rows, e))
        return e->code;
    x.n_row = x.pair.n_a + x.pair.n_b;
    if (b->transport->submit(b->transport->ctx, &x, &rows, e) ||
        b->transport->complete(b->transport->ctx, &x, &reply, e))
        return failed(b, &x, e);
    if (b->hooks->leave_pair(b->hooks->ctx, &x, &reply, out, e))
        return e->code;
    b->n_exchange++;
    return 0;
}

/* Rows [at, at + n) of t. */
static struct st_trusted part(const struct st_trusted *t, uint32_t at, uint32_t n)
{
    return (struct st_trusted){.p = t->p ? t->p + (size_t)at * t->width : NULL,
                               .n_row = n,
                               .width = t->width,
                               .ids = t->ids ? t->ids + at : NULL};
}

static int run_outside(struct st_boundary *b, const struct st_plan *plan, const struct st_plan_op *ops, int n_op,
                       const struct st_mat *mats, const struct st_trusted *in, const struct st_trusted *outs,
                       struct st_err *e)
{
    uint32_t max = st_boundary_rows(b, in->width);
    for (uint32_t at = 0, n; at < in->n_row; at += n) {
        struct st_exchange x = {.plan = plan, .ops = ops, .n_op = n_op};
        struct st_trusted rows, parts[ST_MAX_GROUP];
        n = in->n_row - at < max ? in->n_row - at : max;
        rows = part(in, at, n);
        for (int i = 0; i < n_op; i++)
            parts[i] = part(&outs[i], at, n);
        if (st_boundary_submit(b, &x, &rows, e) || st_boundary_complete(b, &x, mats, parts, e))
            return e->code;
    }
    return 0;
}

static int run_here(struct st_compute *c, const struct st_plan *plan, const struct st_plan_op *ops, int n_op,
                    const struct st_mat *mats, const struct st_trusted *in, struct st_trusted *outs, struct st_err *e)
{
    struct st_linear_job jobs[ST_MAX_GROUP];
    for (int i = 0; i < n_op; i++) {
        const struct st_mat *w = &mats[ops[i].weight];
        if (!w->data)
            return st_fail(e, ST_INTERNAL, "%s: to be computed here, but its weights are not here",
                           plan->weights[ops[i].weight].name);
        jobs[i] =
            (struct st_linear_job){.w = w, .bias = ops[i].bias >= 0 ? mats[ops[i].bias].data : NULL, .y = outs[i].p};
    }
    if (in->ids)
        st_embed(c, jobs[0].w, in->ids, in->n_row, jobs[0].y);
    else
        st_linear(c, jobs, n_op, in->p, in->n_row);
    return 0;
}

int st_boundary_linear(struct st_boundary *b, struct st_compute *c, const struct st_plan *plan,
                       const struct st_plan_op *ops, int n_op, const struct st_mat *mats, const struct st_trusted *in,
                       struct st_trusted *outs, struct st_err *e)
{
    if (n_op < 1 || n_op > ST_MAX_GROUP)
        return st_fail(e, ST_INTERNAL, "exchange group %u has %d layers, want 1 to %d", ops[0].group, n_op,
                       ST_MAX_GROUP);
    bool trusted = true;
    for (int i = 0; i < n_op; i++)
        trusted = trusted && ops[i].place == ST_PLACE_TRUSTED;
    if (!trusted && !(b->hooks && b->hooks->keep && b->hooks->keep(b->hooks->ctx, plan, ops, n_op, in->n_row)))
        return run_outside(b, plan, ops, n_op, mats, in, outs, e);
    return run_here(c, plan, ops, n_op, mats, in, outs, e);
}
