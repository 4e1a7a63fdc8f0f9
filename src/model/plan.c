#include "model/plan.h"
#include "base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *st_role_name(enum st_role r)
{
    static const char *const names[ST_ROLE_COUNT] = {[ST_ROLE_NONE] = "none",
#define X(id, name) [ST_ROLE_##id] = name,
                                                     ST_ROLES(X)
#undef X
    };
    return (unsigned)r < ST_ROLE_COUNT ? names[r] : "none";
}

static const char *op_name(enum st_op op)
{
    static const char *const names[] = {"embed",    "norm", "linear", "rope",   "copy",    "attend",
                                        "silu_mul", "add",  "route",  "gather", "scatter", "lora"};
    return (unsigned)op < sizeof names / sizeof names[0] ? names[op] : "unknown";
}

void st_plan_free(struct st_plan *p)
{
    free(p->ops);
    free(p->weights);
    free(p->slot_width);
    *p = (struct st_plan){0};
}

/* Makes room for one more element; remembers a failure in the plan. */
static bool grow(struct st_plan *p, void *list, int n, int *cap, size_t size)
{
    void **at = list;
    if (p->failed)
        return false;
    if (n < *cap)
        return true;
    int more = *cap ? *cap * 2 : 64;
    void *bigger = more > 0 && more < (1 << 24) ? realloc(*at, (size_t)more * size) : NULL;
    if (!bigger) {
        p->failed = true;
        return false;
    }
    *at = bigger;
    *cap = more;
    return true;
}

int st_plan_slot(struct st_plan *p, uint32_t width)
{
    if (!grow(p, &p->slot_width, p->n_slot, &p->cap_slot, sizeof *p->slot_width))
        return -1;
    p->slot_width[p->n_slot] = width;
    return p->n_slot++;
}

int st_plan_weight(struct st_plan *p, enum st_role role, int layer, uint32_t n_out, uint32_t n_in, const char *fmt, ...)
{
    if (!grow(p, &p->weights, p->n_weight, &p->cap_weight, sizeof *p->weights))
        return -1;
    struct st_plan_weight *w = &p->weights[p->n_weight];
    *w = (struct st_plan_weight){
        .role = role, .layer = layer, .expert = -1, .n_out = n_out, .n_in = n_in, .tied_to = -1};
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(w->name, sizeof w->name, fmt, ap);
    va_end(ap);
    if (n < 0 || (size_t)n >= sizeof w->name) {
        p->failed = true;
        return -1;
    }
    return p->n_weight++;
}

struct st_plan_op *st_plan_add(struct st_plan *p, enum st_op op, enum st_role role, int layer)
{
    struct st_plan_op *to = &p->sink;
    if (grow(p, &p->ops, p->n_op, &p->cap_op, sizeof *p->ops))
        to = &p->ops[p->n_op++];
    *to = (struct st_plan_op){.op = op,
                              .role = role,
                              .place = ST_PLACE_TRUSTED,
                              .layer = layer,
                              .expert = -1,
                              .in = -1,
                              .in2 = -1,
                              .in3 = -1,
                              .out = -1,
                              .weight = -1,
                              .bias = -1,
                              .weight2 = -1};
    return to;
}

/* What the kinds of op use. */
struct use {
    bool in, in2, in3, weight, bias_ok, weight2;
};
static struct use op_use(enum st_op op)
{
    switch (op) {
    case ST_OP_EMBED:
        return (struct use){.weight = true};
    case ST_OP_NORM:
        return (struct use){.in = true, .weight = true};
    case ST_OP_LINEAR:
        return (struct use){.in = true, .weight = true, .bias_ok = true};
    case ST_OP_LORA:
        return (struct use){.in = true, .weight = true, .weight2 = true};
    case ST_OP_ATTEND:
        return (struct use){.in = true, .in2 = true, .in3 = true};
    case ST_OP_SILU_MUL:
    case ST_OP_GATHER:
    case ST_OP_SCATTER:
        return (struct use){.in = true, .in2 = true};
    case ST_OP_ROUTE:
        return (struct use){.in = true, .bias_ok = true};
    case ST_OP_ROPE:
    case ST_OP_COPY:
    case ST_OP_ADD:
        return (struct use){.in = true};
    }
    return (struct use){0};
}

static bool index_ok(int i, bool used, int n)
{
    return used ? i >= 0 && i < n : i == -1;
}

static bool indices_ok(const struct st_plan *p, const struct st_plan_op *op)
{
    struct use u = op_use(op->op);
    return index_ok(op->in, u.in, p->n_slot) && index_ok(op->in2, u.in2, p->n_slot) &&
           index_ok(op->in3, u.in3, p->n_slot) && index_ok(op->out, true, p->n_slot) &&
           index_ok(op->weight, u.weight, p->n_weight) && index_ok(op->weight2, u.weight2, p->n_weight) &&
           (op->bias == -1 || (u.bias_ok && op->bias >= 0 && op->bias < p->n_weight));
}

static uint32_t width(const struct st_plan *p, int slot)
{
    return p->slot_width[slot];
}

static const char *rope_shapes(const struct st_plan_op *op, uint32_t out)
{
    if (op->in != op->out || !op->head || out % op->head)
        return "head size";
    bool inside = op->rotate_at <= op->head && op->rotated <= op->head - op->rotate_at;
    return inside && op->rotated && op->rotated % 2 == 0 ? NULL : "rotated part";
}

/* Keys and queries have heads of one size, values and the output of another, which follows from the widths. */
static const char *attend_shapes(const struct st_plan *p, const struct st_plan_op *op)
{
    uint32_t q = width(p, op->in), k = width(p, op->in2), v = width(p, op->in3);
    if (op->layer < 0 || !op->head || q % op->head || k % op->head)
        return "head size";
    uint32_t n_head = q / op->head, n_kv = k / op->head;
    if (n_head % n_kv || v % n_kv)
        return "key and value heads";
    return (uint64_t)n_head * (v / n_kv) == width(p, op->out) ? NULL : "width of the values";
}

static bool piece_fits(const struct st_pieces *c, uint32_t at, uint32_t step, uint32_t row)
{
    return (uint64_t)at + (uint64_t)(c->n_head - 1) * step + c->len <= row;
}

static const char *copy_shapes(const struct st_plan *p, const struct st_plan_op *op)
{
    const struct st_pieces *c = &op->pieces;
    if (op->in == op->out || !c->n_head || !c->len || (c->n_head > 1 && c->to_step < c->len))
        return "copy";
    return piece_fits(c, c->from_at, c->from_step, width(p, op->in)) &&
                   piece_fits(c, c->to_at, c->to_step, width(p, op->out))
               ? NULL
               : "piece";
}

static const char *lora_shapes(const struct st_plan *p, const struct st_plan_op *op)
{
    const struct st_plan_weight *a = &p->weights[op->weight], *b = &p->weights[op->weight2];
    if (a->role != ST_ROLE_LORA_A || b->role != ST_ROLE_LORA_B || op->adapter < 1)
        return "role of the adapter's matrices";
    return op->in != op->out && a->n_in == width(p, op->in) && b->n_in == a->n_out && b->n_out == width(p, op->out)
               ? NULL
               : "shape of the adapter's matrices";
}

/* Whether slot widths and weight shapes of one op fit together; NULL, or what does not. Indices are already checked. */
static const char *shapes(const struct st_plan *p, const struct st_plan_op *op)
{
    const struct st_plan_weight *w = op->weight >= 0 ? &p->weights[op->weight] : NULL;
    const struct st_plan_weight *b = op->bias >= 0 ? &p->weights[op->bias] : NULL;
    uint32_t out = width(p, op->out);
    switch (op->op) {
    case ST_OP_EMBED:
        return w->n_in == out ? NULL : "width of the embedding";
    case ST_OP_NORM:
        if (width(p, op->in) != out || w->n_in != 1 || w->n_out != (op->head ? op->head : out))
            return "width of the norm";
        return op->head && out % op->head ? "head size" : NULL;
    case ST_OP_LINEAR:
        if (op->in == op->out || w->n_in != width(p, op->in) || w->n_out != out)
            return "shape of the matrix";
        return b && (b->n_in != 1 || b->n_out != out) ? "length of the bias" : NULL;
    case ST_OP_LORA:
        return lora_shapes(p, op);
    case ST_OP_ROPE:
        return rope_shapes(op, out);
    case ST_OP_COPY:
        return copy_shapes(p, op);
    case ST_OP_ATTEND:
        return attend_shapes(p, op);
    case ST_OP_SILU_MUL:
        return op->in == op->out && op->in2 != op->in && width(p, op->in2) == out ? NULL : "width of gate and up";
    case ST_OP_ADD:
        return op->in != op->out && width(p, op->in) == out ? NULL : "width of the sum";
    case ST_OP_ROUTE:
        if (op->in != op->out || out > ST_ROUTE_MAX_EXPERTS)
            return "number of experts";
        return b && (b->n_in != 1 || b->n_out != out) ? "length of the bias" : NULL;
    case ST_OP_GATHER:
    case ST_OP_SCATTER:
        if (op->in == op->out || op->in2 == op->in || op->in2 == op->out || width(p, op->in) != out)
            return "width of the rows";
        return op->expert >= 0 && (uint32_t)op->expert < width(p, op->in2) ? NULL : "number of the expert";
    }
    return "kind of op";
}

/* Members of a group stand next to each other, read one slot, write different slots and are placed together.
 * `first` is the group's first op before `op`, or NULL. */
static bool group_ok(const struct st_plan_op *first, const struct st_plan_op *op)
{
    if (op->op != ST_OP_LINEAR)
        return false;
    for (const struct st_plan_op *m = first; m && m < op; m++)
        if (m->group != op->group || m->in != op->in || m->out == op->out || m->place != op->place ||
            m->last_row_only != op->last_row_only)
            return false;
    return true;
}

static int check_weights(const struct st_plan *p, struct st_err *e)
{
    for (int i = 0; i < p->n_slot; i++)
        if (p->slot_width[i] == 0)
            return st_fail(e, ST_INTERNAL, "plan: slot %d has no width", i);
    for (int i = 0; i < p->n_weight; i++) {
        const struct st_plan_weight *w = &p->weights[i];
        const struct st_plan_weight *t = w->tied_to >= 0 && w->tied_to < i ? &p->weights[w->tied_to] : NULL;
        if (w->n_out == 0 || w->n_in == 0 || w->name[0] == 0)
            return st_fail(e, ST_INTERNAL, "plan: weight %d '%s' has no name or no size", i, w->name);
        if (w->tied_to != -1 && (!t || t->tied_to != -1 || t->n_out != w->n_out || t->n_in != w->n_in))
            return st_fail(e, ST_INTERNAL, "plan: %s cannot share data with weight %d", w->name, w->tied_to);
    }
    return 0;
}

/* Where the walk over the ops stands among the sections of experts. */
struct sections {
    int *made_in;    /* [n_slot] GATHER of the section that wrote the slot last, -1 = none: it holds all rows */
    int gather;      /* of the open section, or -1 */
    int routed;      /* slot of the weights that the sections use, or -1 */
    int last_expert; /* of the sections since then, or -1 */
};

/* Inside a section everything read was written there, outside nothing was: a slot never changes its number of rows
 * unseen. */
static bool rows_ok(const struct sections *s, const struct st_plan_op *op)
{
    int all = op->op == ST_OP_GATHER ? -1 : s->gather; /* GATHER reads all rows, and SCATTER adds to all */
    const int in[] = {op->in, op->op == ST_OP_GATHER || op->op == ST_OP_SCATTER ? -1 : op->in2, op->in3};
    for (size_t i = 0; i < sizeof in / sizeof *in; i++)
        if (in[i] >= 0 && s->made_in[in[i]] != all)
            return false;
    if (op->op == ST_OP_LORA) /* adds to what the section's own layer wrote */
        return s->made_in[op->out] == s->gather;
    bool keeps = op->op == ST_OP_ADD || op->op == ST_OP_COPY || op->op == ST_OP_SCATTER; /* what is in out */
    return !keeps || s->made_in[op->out] == -1;
}

/* NULL, or what is wrong with op i among the sections; then takes it into account. */
static const char *step_section(const struct st_plan *p, struct sections *s, int i)
{
    const struct st_plan_op *op = &p->ops[i];
    bool open = s->gather >= 0;
    if (op->op == ST_OP_GATHER) {
        if (open || op->in2 != s->routed || op->expert <= s->last_expert)
            return "section begins out of order";
        if (!rows_ok(s, op))
            return "rows of another expert are read";
        s->gather = i;
        s->last_expert = op->expert;
    } else if (open) {
        const struct st_plan_op *g = &p->ops[s->gather];
        if (op->expert != g->expert || op->layer != g->layer || op->last_row_only ||
            (op->op != ST_OP_LINEAR && op->op != ST_OP_LORA && op->op != ST_OP_SILU_MUL && op->op != ST_OP_SCATTER))
            return "section of an expert holds another op";
        if (!rows_ok(s, op) || (op->op == ST_OP_SCATTER && op->in2 != s->routed))
            return "rows of another expert are read";
    } else if (op->op == ST_OP_SCATTER || op->expert != -1) {
        return "op stands outside the section of its expert";
    } else if (!rows_ok(s, op)) {
        return "rows of one expert are read";
    }
    if (op->op == ST_OP_SCATTER) {
        s->gather = -1;
        return NULL;
    }
    if (op->op == ST_OP_ROUTE) {
        s->routed = op->out;
        s->last_expert = -1;
    } else if (op->out == s->routed) {
        s->routed = -1;
    }
    s->made_in[op->out] = s->gather;
    return NULL;
}

static int check_sections(const struct st_plan *p, struct st_err *e)
{
    struct sections s = {.gather = -1, .routed = -1, .last_expert = -1};
    if (st_alloc(&s.made_in, (size_t)p->n_slot, sizeof *s.made_in, "plan", e))
        return e->code;
    for (int i = 0; i < p->n_slot; i++)
        s.made_in[i] = -1;
    const char *wrong = NULL;
    int i = 0;
    while (i < p->n_op && !wrong)
        wrong = step_section(p, &s, i++);
    if (!wrong && s.gather >= 0)
        wrong = "section of an expert has no end";
    free(s.made_in);
    if (wrong)
        return st_fail(e, ST_INTERNAL, "plan: op %d (%s, layer %d): %s", i - 1, op_name(p->ops[i - 1].op),
                       p->ops[i - 1].layer, wrong);
    return 0;
}

int st_plan_check(const struct st_plan *p, struct st_err *e)
{
    if (p->failed)
        return st_fail(e, ST_MEMORY, "plan: no memory for %d ops and %d weights", p->n_op, p->n_weight);
    if (p->n_op == 0)
        return st_fail(e, ST_INTERNAL, "plan: empty");
    int rc = check_weights(p, e);
    if (rc)
        return rc;

    const struct st_plan_op *first = NULL; /* of the current group */
    uint32_t last_group = 0;
    bool tail = false;
    for (int i = 0; i < p->n_op; i++) {
        const struct st_plan_op *op = &p->ops[i];
        if (!indices_ok(p, op))
            return st_fail(e, ST_INTERNAL, "plan: op %d (%s): an index is out of range", i, op_name(op->op));
        const char *wrong = shapes(p, op);
        if (wrong)
            return st_fail(e, ST_INTERNAL, "plan: op %d (%s, layer %d): %s does not fit", i, op_name(op->op), op->layer,
                           wrong);
        if (op->place != ST_PLACE_TRUSTED && op->op == ST_OP_LORA)
            return st_fail(e, ST_POLICY, "%s: the weights of an adapter never leave", p->weights[op->weight].name);
        if (op->place != ST_PLACE_TRUSTED && op->op != ST_OP_LINEAR && op->op != ST_OP_EMBED && op->op != ST_OP_ATTEND)
            return st_fail(e, ST_INTERNAL, "plan: op %d (%s): only products can be placed untrusted", i,
                           op_name(op->op));
        /* Rows are dropped once and cannot come back. */
        if (tail && !op->last_row_only)
            return st_fail(e, ST_INTERNAL, "plan: op %d (%s) needs rows that were dropped", i, op_name(op->op));
        tail = op->last_row_only;

        /* Groups are numbered upwards, so that a number cannot come back later. */
        if (!first || op->group != first->group)
            first = op->group ? op : NULL;
        if (op->group && ((first == op && op->group <= last_group) || !group_ok(first, op)))
            return st_fail(e, ST_INTERNAL, "plan: op %d (%s): exchange group %u is torn or mixed", i, op_name(op->op),
                           op->group);
        if (op->group)
            last_group = op->group;
    }
    return check_sections(p, e);
}

/* Puts the UNTRUSTED ones of n ops in front, otherwise in their order; returns how many they are. */
static int outside_first(struct st_plan_op *ops, int n)
{
    int outside = 0;
    for (int i = 0; i < n; i++) {
        struct st_plan_op op = ops[i];
        if (op.place != ST_PLACE_UNTRUSTED)
            continue;
        memmove(ops + outside + 1, ops + outside, (size_t)(i - outside) * sizeof *ops);
        ops[outside++] = op;
    }
    return outside;
}

void st_plan_split(struct st_plan *p)
{
    uint32_t number = 0;
    for (int i = 0, n; i < p->n_op; i += n) {
        uint32_t group = p->ops[i].group;
        for (n = 1; group && i + n < p->n_op && p->ops[i + n].group == group;)
            n++;
        if (!group)
            continue;
        int outside = outside_first(p->ops + i, n);
        for (int k = 0; k < n; k++) {
            number += k == 0 || k == outside;
            p->ops[i + k].group = number;
        }
    }
}

int st_plan_exchanges(const struct st_plan *p)
{
    int n = 0;
    uint32_t group = 0;
    for (int i = 0; i < p->n_op; i++) {
        const struct st_plan_op *op = &p->ops[i];
        if (op->place == ST_PLACE_UNTRUSTED && op->op != ST_OP_ATTEND && (op->group == 0 || op->group != group))
            n++;
        group = op->group;
    }
    return n;
}
