/* Which ops of a sealed model's plan leave for a worker. */
#include "protect/sealed/place.h"

/* Whether the worker could hold it. */
static bool lies_outside(const struct st_plan *plan, int weight, const struct st_container *c)
{
    int tied = plan->weights[weight].tied_to;
    const struct st_container_entry *n = st_container_find(c, plan->weights[tied >= 0 ? tied : weight].name);
    return n && n->place == ST_CONTAINER_OUTSIDE;
}

void st_sealed_place(struct st_plan *plan, const struct st_container *c, bool every_expert)
{
    struct st_plan_op *gather = NULL;
    for (int i = 0; i < plan->n_op; i++) {
        struct st_plan_op *op = &plan->ops[i];
        if (op->op == ST_OP_GATHER)
            gather = op;
        if (op->op != ST_OP_LINEAR || op->role == ST_ROLE_ROUTER || !lies_outside(plan, op->weight, c))
            continue;
        if (op->expert >= 0 && !every_expert)
            continue;
        op->place = ST_PLACE_UNTRUSTED;
        if (op->expert >= 0)
            gather->every_row = true;
    }
    st_plan_split(plan);
}
