#include "protect/masked/groups.h"
#include "base/buf.h"
#include "base/log.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Ops from i on that leave together (as the executor cuts them). */
static int group_len(const struct st_plan *p, int i)
{
    int n = 1;
    const struct st_plan_op *op = &p->ops[i];
    while (op->op == ST_OP_LINEAR && op->group && i + n < p->n_op && op[n].op == ST_OP_LINEAR &&
           op[n].group == op->group && op[n].last_row_only == op->last_row_only)
        n++;
    return n;
}

/* The served matrix of an op, or -1. The embedding stands there transposed. */
static int served_of(const struct st_served *s, const struct st_plan *p, const struct st_plan_op *op)
{
    const struct st_plan_weight *w = &p->weights[op->weight];
    char name[sizeof s->weights->name];
    snprintf(name, sizeof name, "%s%s", w->name, op->op == ST_OP_EMBED ? "^T" : "");
    return st_served_find(s, name);
}

static int fill(struct st_mask_group *g, const struct st_plan *p, const struct st_served *s, bool *used,
                struct st_err *e)
{
    for (int k = 0; k < g->n_op; k++) {
        const struct st_plan_op *op = &p->ops[g->op + k];
        const struct st_plan_weight *w = &p->weights[op->weight];
        bool turned = op->op == ST_OP_EMBED;
        uint32_t n_in = turned ? w->n_out : w->n_in, n_out = turned ? w->n_in : w->n_out;
        if (op->place != ST_PLACE_UNTRUSTED)
            return st_fail(e, ST_INTERNAL, "exchange group %u mixes trusted and untrusted layers", op->group);
        int at = g->served[k] = served_of(s, p, op);
        if (at < 0)
            return st_fail(e, ST_INPUT, "%s: placed on the worker, which does not serve it", w->name);
        if (s->weights[at].n_in != n_in || s->weights[at].n_out != n_out || (k && n_in != g->d))
            return st_fail(e, ST_INPUT, "%s: want [%u,%u], the worker serves [%u,%u]", w->name, n_out, n_in,
                           s->weights[at].n_out, s->weights[at].n_in);
        if (used[at])
            return st_fail(e, ST_UNSUPPORTED, "%s: two layers read it", w->name);
        used[at] = true;
        g->d = n_in;
        g->n += n_out;
    }
    return 0;
}

static int find_groups(struct st_mask_groups *g, const struct st_served *s, bool *used, struct st_err *e)
{
    const struct st_plan *p = g->plan;
    if (st_alloc(&g->g, (size_t)p->n_op, sizeof *g->g, "exchange groups", e) ||
        st_alloc(&g->of_op, (size_t)p->n_op, sizeof *g->of_op, "exchange groups", e))
        return e->code;
    size_t n_column = 0;
    for (int i = 0; i < p->n_op; i++)
        g->of_op[i] = -1;
    for (int i = 0, len; i < p->n_op; i += len) {
        len = group_len(p, i);
        if (p->ops[i].place != ST_PLACE_UNTRUSTED || p->ops[i].op == ST_OP_ATTEND)
            continue;
        if (len > ST_MAX_GROUP)
            return st_fail(e, ST_INTERNAL, "exchange group %u has %d layers, want 1 to %d", p->ops[i].group, len,
                           ST_MAX_GROUP);
        struct st_mask_group *one = &g->g[g->n];
        *one = (struct st_mask_group){.op = i, .n_op = len};
        if (fill(one, p, s, used, e))
            return e->code;
        n_column += one->n;
        g->of_op[i] = g->n++;
    }
    if (st_area_new(&g->scale, n_column, sizeof(float), "scales", e))
        return e->code;
    st_area_huge(&g->scale);
    float *scale = g->scale.p;
    for (int i = 0; i < g->n; scale += g->g[i++].n)
        g->g[i].scale = scale;
    return 0;
}

/* Largest sum of squares of a column. */
static uint64_t largest_square(const struct st_served_weight *w)
{
    uint64_t most = 0;
    for (uint32_t j = 0; j < w->n_out; j++) {
        uint64_t sum = st_served_square(w->w + (size_t)j * w->n_in, w->n_in);
        most = sum > most ? sum : most;
    }
    return most;
}

struct filling {
    struct st_mask_groups *g;
    const struct st_served *served;
};

static int fill_norm(void *ctx, int group, struct st_err *e)
{
    const struct filling *f = ctx;
    struct st_mask_group *g = &f->g->g[group];
    float *scale = g->scale;
    (void)e;
    g->norm = 1;
    for (int k = 0; k < g->n_op; k++) {
        const struct st_served_weight *w = &f->served->weights[g->served[k]];
        g->norm = fmax(g->norm, st_served_norm(largest_square(w)));
        memcpy(scale, w->scale, w->n_out * sizeof *scale);
        scale += w->n_out;
    }
    return 0;
}

int st_mask_groups_init(struct st_mask_groups *g, const struct st_plan *plan, const struct st_served *served,
                        struct st_pool *pool, struct st_err *e)
{
    bool *used = NULL;
    *g = (struct st_mask_groups){.plan = plan, .weights = true, .served = served};
    int rc = st_alloc(&used, served->n, sizeof *used, "exchange groups", e);
    if (!rc)
        rc = find_groups(g, served, used, e);
    free(used);
    for (int i = 0; i < g->n && !rc; i++)
        for (int k = 0; k < g->g[i].n_op; k++)
            g->weights = g->weights && served->weights[g->g[i].served[k]].w;
    if (!rc && g->weights)
        rc = st_mask_groups_each(g, pool, NULL, fill_norm, &(struct filling){g, served}, e);
    if (rc)
        st_mask_groups_free(g);
    return rc;
}

/* Columns of one matrix as they come. */
struct telling {
    struct st_mask_group *g;
    const struct st_served_weight *w;
    float *scale; /* of the matrix, in its group */
    uint32_t next;
};

static int take_scales(void *arg, const struct st_hint_columns *c, struct st_err *e)
{
    struct telling *t = arg;
    const double most = 128 * sqrt(t->g->d);
    if (c->first != t->next || c->n > t->w->n_out - t->next)
        return st_fail(e, ST_INPUT, "scales of %s: want columns from %u on, got %u from %u", t->w->name, t->next, c->n,
                       c->first);
    for (uint32_t j = 0; j < c->n; j++) {
        if (!isfinite(c->scale[j]) || c->scale[j] < 0 || !(c->norm[j] >= 0 && c->norm[j] <= most))
            return st_fail(e, ST_INPUT, "scales of %s: column %u has no valid scale and norm", t->w->name, t->next + j);
        t->scale[t->next + j] = c->scale[j];
        t->g->norm = fmax(t->g->norm, c->norm[j]);
    }
    t->next += c->n;
    return 0;
}

int st_mask_groups_scales(struct st_mask_groups *g, const struct st_hint_source *from, struct st_err *e)
{
    for (int i = 0; i < g->n; i++) {
        struct telling t = {.g = &g->g[i], .scale = g->g[i].scale};
        g->g[i].norm = 1;
        for (int k = 0; k < g->g[i].n_op; k++, t.scale += t.w->n_out) {
            t.w = &g->served->weights[g->g[i].served[k]];
            t.next = 0;
            if (from->read(from->ctx, t.w->name, t.w->n_out, t.w->n_in, take_scales, &t, e))
                return e->code;
            if (t.next != t.w->n_out)
                return st_fail(e, ST_INPUT, "scales of %s: want %u columns, got %u", t.w->name, t.w->n_out, t.next);
        }
    }
    return 0;
}

void st_mask_groups_free(struct st_mask_groups *g)
{
    free(g->g);
    free(g->of_op);
    st_area_free(&g->scale);
    *g = (struct st_mask_groups){0};
}

int st_mask_groups_find(const struct st_mask_groups *g, const struct st_exchange *x, int *out, struct st_err *e)
{
    ptrdiff_t op = x->plan == g->plan ? x->ops - x->plan->ops : -1;
    *out = op >= 0 && op < g->plan->n_op ? g->of_op[op] : -1;
    if (*out < 0 || g->g[*out].n_op != x->n_op)
        return st_fail(e, ST_INTERNAL, "masked: an exchange that the plan does not have");
    return 0;
}

const char *st_mask_site(const struct st_plan *plan, const struct st_mask_group *g, char out[ST_MASK_SITE])
{
    const struct st_plan_op *op = &plan->ops[g->op];
    char where[64] = "";
    if (op->layer >= 0 && op->expert >= 0)
        snprintf(where, sizeof where, "layer %d expert %d (", op->layer, op->expert);
    else if (op->layer >= 0)
        snprintf(where, sizeof where, "layer %d (", op->layer);
    int at = snprintf(out, ST_MASK_SITE, "%s", where);
    for (int k = 0; k < g->n_op; k++)
        at += snprintf(out + at, (size_t)(ST_MASK_SITE - at), "%s%s", k ? ", " : "", st_role_name(op[k].role));
    snprintf(out + at, (size_t)(ST_MASK_SITE - at), "%s", *where ? ")" : "");
    return out;
}

struct each {
    const struct st_mask_groups *g;
    int (*fn)(void *ctx, int group, struct st_err *e);
    void *ctx;
    atomic_int next; /* counted from the end */
    atomic_ullong done;
    atomic_flag failing;
    atomic_bool failed;
    struct st_err err;
    struct st_progress *bar;
};

static uint64_t group_bytes(const struct st_mask_group *g)
{
    return (uint64_t)g->d * g->n;
}

static void each_part(void *arg, int thread, int n_threads)
{
    struct each *w = arg;
    (void)n_threads;
    for (int i; !atomic_load(&w->failed) && (i = atomic_fetch_sub(&w->next, 1)) >= 0;) {
        struct st_err e = {0};
        if (w->fn(w->ctx, i, &e)) {
            if (!atomic_flag_test_and_set(&w->failing))
                w->err = e;
            atomic_store(&w->failed, true);
            return;
        }
        uint64_t bytes = group_bytes(&w->g->g[i]), done = atomic_fetch_add(&w->done, bytes) + bytes;
        if (thread == 0 && w->bar)
            st_progress_update(w->bar, done);
    }
}

int st_mask_groups_each(const struct st_mask_groups *g, struct st_pool *pool, const char *label,
                        int (*fn)(void *ctx, int group, struct st_err *e), void *ctx, struct st_err *e)
{
    struct st_progress bar;
    struct each w = {.g = g, .fn = fn, .ctx = ctx, .failing = ATOMIC_FLAG_INIT};
    uint64_t total = 0;
    for (int i = 0; i < g->n; i++)
        total += group_bytes(&g->g[i]);
    atomic_init(&w.next, g->n - 1);
    if (label) {
        st_progress_start(&bar, label, "B", total);
        w.bar = &bar;
    }
    if (pool)
        st_pool_run(pool, each_part, &w);
    else
        each_part(&w, 0, 1);
    if (label)
        st_progress_end(&bar);
    if (atomic_load(&w.failed))
        *e = w.err;
    return atomic_load(&w.failed) ? e->code : 0;
}
