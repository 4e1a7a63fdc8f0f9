#include "model/fold.h"
#include "base/buf.h"

#include <stdlib.h>

static int refuse(const struct st_plan *p, int norm, struct st_err *e)
{
    return st_fail(e, ST_UNSUPPORTED, "%s: cannot be folded: not only linear layers read what it makes",
                   p->weights[norm].name);
}

/* Whether the op leaves a part of what was in its output, or adds to it. */
static bool keeps_output(const struct st_plan *p, const struct st_plan_op *op)
{
    if (op->op == ST_OP_COPY)
        return (uint64_t)op->pieces.n_head * op->pieces.len != p->slot_width[op->out];
    return op->op == ST_OP_ADD || op->op == ST_OP_SCATTER || op->op == ST_OP_LORA;
}

/* One op: held [n_slot] is the norm whose output a slot holds, -1 = none. */
static int follow(struct st_fold *f, const struct st_plan *p, const struct st_plan_op *op, int *held, struct st_err *e)
{
    const int reads[] = {op->in, op->in2, op->in3};
    int norm = op->in >= 0 ? held[op->in] : -1;
    bool passes_on = op->op == ST_OP_LINEAR || op->op == ST_OP_LORA || op->op == ST_OP_GATHER;
    for (int i = passes_on ? 1 : 0; i < 3; i++)
        if (reads[i] >= 0 && held[reads[i]] >= 0)
            return refuse(p, held[reads[i]], e);
    if (keeps_output(p, op) && held[op->out] >= 0)
        return refuse(p, held[op->out], e);

    held[op->out] = op->op == ST_OP_GATHER ? norm : -1;
    if (op->op == ST_OP_NORM && op->head == 0) {
        held[op->out] = op->weight;
        f->unit[op->weight] = true;
    }
    if (op->op == ST_OP_LINEAR) {
        f->norm[op->weight] = norm;
        f->linear[op->weight] = op->role != ST_ROLE_ROUTER;
    }
    if (op->op == ST_OP_LORA)
        f->norm[op->weight] = norm;
    return 0;
}

int st_fold_init(struct st_fold *f, const struct st_plan *p, struct st_err *e)
{
    size_t n = (size_t)p->n_weight;
    int *held = NULL;
    *f = (struct st_fold){0};
    int rc = st_alloc(&held, (size_t)p->n_slot, sizeof *held, "folding of norms", e);
    if (!rc)
        rc = st_alloc(&f->norm, n, sizeof *f->norm, "folding of norms", e);
    if (!rc)
        rc = st_alloc(&f->unit, n, sizeof *f->unit, "folding of norms", e);
    if (!rc)
        rc = st_alloc(&f->linear, n, sizeof *f->linear, "folding of norms", e);
    for (int i = 0; !rc && i < p->n_slot; i++)
        held[i] = -1;
    for (size_t i = 0; !rc && i < n; i++)
        f->norm[i] = -1;
    for (int i = 0; !rc && i < p->n_op; i++)
        rc = follow(f, p, &p->ops[i], held, e);
    free(held);
    if (rc)
        st_fold_free(f);
    return rc;
}

void st_fold_free(struct st_fold *f)
{
    free(f->norm);
    free(f->unit);
    free(f->linear);
    *f = (struct st_fold){0};
}
