#include "model/adapter_priv.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct work {
    const struct st_adapter *a;
    int index;
    struct st_plan *p;
    bool *used;        /* [n_pair] */
    uint32_t n_expert; /* of the layer whose sections are being copied */
};

/* "model.layers.0.self_attn.q_proj" of "model.layers.0.self_attn.q_proj.weight". */
static void module_of(const char *weight, char out[ST_PLAN_NAME])
{
    static const char tail[] = ".weight";
    size_t n = strlen(weight);
    snprintf(out, ST_PLAN_NAME, "%s", weight);
    if (n >= sizeof tail && strcmp(weight + n - (sizeof tail - 1), tail) == 0)
        out[n - (sizeof tail - 1)] = 0;
}

/* A [rows, columns] and its share of what the tensor holds. */
static int check_shape(const struct st_adapter *a, const struct st_tensor *t, uint64_t rows, uint64_t columns,
                       struct st_err *e)
{
    if (t->dim[0] == rows && t->dim[1] == columns)
        return 0;
    return st_fail(e, ST_INPUT,
                   "%s: %.200s: this base wants [%" PRIu64 ",%" PRIu64 "], got [%" PRIu64 ",%" PRIu64
                   "]; the adapter is of another base",
                   a->path, t->name, rows, columns, t->dim[0], t->dim[1]);
}

static int check_part(const struct work *w, const struct st_adapter_part *part, const struct st_plan_op *linear,
                      struct st_err *e)
{
    const struct st_plan_weight *base = &w->p->weights[linear->weight];
    const struct st_adapter_pair *p = part->pair;
    if (!part->shared && p->a->dim[0] != part->rank)
        return st_fail(e, ST_INPUT, "%s: %.200s: want rank %" PRIu32 " (adapter_config.json), got %" PRIu64, w->a->path,
                       p->a->name, part->rank, p->a->dim[0]);
    uint64_t rank = part->rank * (uint64_t)(part->shared ? w->n_expert : 1);
    return check_shape(w->a, p->a, rank, base->n_in, e) ||
                   check_shape(w->a, p->b, (uint64_t)base->n_out * part->halves, rank, e)
               ? e->code
               : 0;
}

/* The op behind a linear layer that the adapter changes. */
static int add_op(struct work *w, const struct st_plan_op *linear, const char *module,
                  const struct st_adapter_part *part, struct st_err *e)
{
    const struct st_plan_weight base = w->p->weights[linear->weight];
    if (check_part(w, part, linear, e))
        return e->code;
    if (strlen(module) + sizeof "base_model.model..lora_A.weight" > ST_PLAN_NAME)
        return st_fail(e, ST_INPUT, "%s: %s: its name is longer than %d bytes", w->a->path, module, ST_PLAN_NAME - 1);
    int a = st_plan_weight(w->p, ST_ROLE_LORA_A, base.layer, part->rank, base.n_in, "base_model.model.%s.lora_A.weight",
                           module);
    int b = st_plan_weight(w->p, ST_ROLE_LORA_B, base.layer, base.n_out, part->rank,
                           "base_model.model.%s.lora_B.weight", module);
    if (a >= 0 && b >= 0)
        w->p->weights[a].expert = w->p->weights[b].expert = base.expert;
    struct st_plan_op *op = st_plan_add(w->p, ST_OP_LORA, ST_ROLE_LORA_A, linear->layer);
    op->in = linear->in;
    op->out = linear->out;
    op->weight = a;
    op->weight2 = b;
    op->adapter = w->index;
    op->expert = linear->expert;
    op->last_row_only = linear->last_row_only;
    return 0;
}

/* A layer that the config names and whose tensors are not there. Routers and routed experts are no layers of their own
 * for everybody (transformers 5 holds them as plain parameters), so that a list of names does not mean them. */
static int check_missing(const struct work *w, const struct st_plan_op *linear, const char *module, struct st_err *e)
{
    bool named;
    if (linear->expert >= 0 || linear->role == ST_ROLE_ROUTER)
        return 0;
    if (st_adapter_config_targets(w->a->config, module, linear->layer, &named, e))
        return e->code;
    return named ? st_fail(e, ST_INPUT, "%s: base_model.model.%s.lora_A.weight: missing; adapter_config.json names it",
                           w->a->path, module)
                 : 0;
}

static int add_layer(struct work *w, const struct st_plan_op *linear, struct st_err *e)
{
    char module[ST_PLAN_NAME];
    struct st_adapter_part part;
    module_of(w->p->weights[linear->weight].name, module);
    if (st_adapter_part(w->a, module, linear->layer, &part, e))
        return e->code;
    if (!part.pair)
        return check_missing(w, linear, module, e);
    w->used[part.pair - w->a->pairs] = true;
    return add_op(w, linear, module, &part, e);
}

/* Copies the ops over, and puts the adapter's behind the exchange group, or the single layer, whose output they change:
 * there the group's input is still what it was. */
static int add_ops(struct work *w, const struct st_plan_op *ops, int n_op, struct st_err *e)
{
    int first = 0; /* of the current group */
    for (int i = 0; i < n_op; i++) {
        const struct st_plan_op *op = &ops[i];
        *st_plan_add(w->p, op->op, op->role, op->layer) = *op;
        if (op->op == ST_OP_GATHER)
            w->n_expert = w->p->slot_width[op->in2];
        if (op->op != ST_OP_LINEAR || !op->group || ops[first].group != op->group)
            first = i;
        if (op->op != ST_OP_LINEAR || (op->group && i + 1 < n_op && ops[i + 1].group == op->group))
            continue;
        for (int k = first; k <= i; k++)
            if (add_layer(w, &ops[k], e))
                return e->code;
    }
    return 0;
}

static int check_used(const struct work *w, struct st_err *e)
{
    for (size_t i = 0; i < w->a->n_pair; i++)
        if (!w->used[i])
            return st_fail(e, ST_INPUT, "%s: %.200s: the base has no such linear layer", w->a->path,
                           w->a->pairs[i].a->name);
    return 0;
}

int st_adapter_plan(const struct st_adapter *a, int index, struct st_plan *plan, struct st_err *e)
{
    struct work w = {.a = a, .index = index, .p = plan};
    struct st_plan_op *ops = plan->ops;
    int n_op = plan->n_op;
    if (st_alloc(&w.used, a->n_pair, sizeof *w.used, a->path, e))
        return e->code;
    plan->ops = NULL;
    plan->n_op = plan->cap_op = 0;
    int rc = add_ops(&w, ops, n_op, e);
    if (!rc)
        rc = check_used(&w, e);
    free(ops);
    free(w.used);
    return rc;
}
