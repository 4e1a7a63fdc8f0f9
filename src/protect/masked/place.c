/* Which ops of a plan leave for the worker: every linear layer with weights of the model, but routers, whose f32 scores
 * decide about experts and would not stand the rounding. */
#include "protect/masked/masked.h"

/* Routed experts stay, or every one of them sees every row. */
static int place_expert(struct st_plan *plan, struct st_plan_op *gather, struct st_plan_op *op,
                        const struct st_masked_place *o, struct st_err *e)
{
    if (o->experts == ST_MASKED_EXPERTS_ALL) {
        gather->every_row = true;
        op->place = ST_PLACE_UNTRUSTED;
        return 0;
    }
    if (o->no_weights)
        return st_fail(e, ST_POLICY,
                       "%s: its weights are not here, and a worker that is asked for the experts of a row alone reads "
                       "the routing; want the weights here, or every expert on every row (--experts all)",
                       plan->weights[op->weight].name);
    return 0;
}

int st_masked_place_attention(struct st_plan *plan, struct st_err *e)
{
    for (int i = 0; i < plan->n_weight; i++)
        if (plan->weights[i].role == ST_ROLE_KV_B)
            return st_fail(e, ST_UNSUPPORTED,
                           "%s: keys and values are made of one latent vector (MLA), whose attention does not leave",
                           plan->weights[i].name);
    for (int i = 0; i < plan->n_op; i++)
        if (plan->ops[i].op == ST_OP_ATTEND)
            plan->ops[i].place = ST_PLACE_UNTRUSTED;
    return 0;
}

int st_masked_place(struct st_plan *plan, const struct st_masked_place *o, struct st_err *e)
{
    struct st_plan_op *gather = NULL;
    for (int i = 0; i < plan->n_op; i++) {
        struct st_plan_op *op = &plan->ops[i];
        if (op->op == ST_OP_GATHER)
            gather = op;
        else if (op->op == ST_OP_EMBED && o->embedding)
            op->place = ST_PLACE_UNTRUSTED;
        if (op->op != ST_OP_LINEAR || op->role == ST_ROLE_ROUTER)
            continue;
        if (op->expert < 0)
            op->place = ST_PLACE_UNTRUSTED;
        else if (place_expert(plan, gather, op, o, e))
            return e->code;
    }
    return o->attention ? st_masked_place_attention(plan, e) : 0;
}
