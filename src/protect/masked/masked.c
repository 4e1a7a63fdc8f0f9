#include "protect/masked/masked.h"
#include "base/buf.h"
#include "base/hooks.h"
#include "base/mem.h"
#include "field/fq.h"
#include "field/kernels.h"
#include "field/mask_kernels.h"
#include "protect/masked/attention_packed.h"
#include "protect/masked/check.h"
#include "protect/masked/groups.h"
#include "protect/masked/planner.h"
#include "protect/masked/rows.h"

#include <math.h>
#include <openssl/crypto.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEEP_ROWS 32 /* where nothing could be measured */
#define MAX_FLIGHT 32
/* Of what one reply needs and of the next masks, as much as is brought into the second cache while it is waited for:
 * half of a small one. */
#define WARM ((size_t)512 << 10)

/* One exchange between enter and leave. Buffers grow to the largest exchange they saw and are used again. */
struct flight {
    bool used;
    uint64_t id;
    int group;
    uint32_t n_row;
    uint32_t *u; /* [n_row][d] as sent */
    float *alpha;
    uint32_t **pads;                  /* [n_row] */
    uint32_t (*want)[ST_FREIVALDS_N]; /* [n_row] what the check expects of the reply */
    bool expecting;                   /* want is filled in */
    size_t wiped;                     /* words of each pad, from its front */
    size_t cap_u, cap_row;
};

struct st_masked {
    struct st_masked_opts o;
    const struct st_model *model;
    struct st_mask_groups groups;
    struct st_mask_checks checks;
    double *slack; /* [groups.n] what masks take of the range */
    void *scheme;
    struct st_pads *pads;
    bool integrity, may_keep, redraw;
    struct st_mask_costs costs; /* n is 0 when they were not measured */
    struct flight flights[MAX_FLIGHT];
    struct st_attention_packed *attention; /* NULL: stays here */
    struct st_protection_hooks hooks;
    pthread_mutex_t lock; /* of stats */
    struct st_masked_stats stats;
    char describe[256];
    struct st_buf plan_text;
};

static const struct st_mask_group *group_of(const struct st_masked *m, const struct flight *f)
{
    return &m->groups.g[f->group];
}

static int at_site(const struct st_masked *m, int group, struct st_err *e)
{
    char site[ST_MASK_SITE];
    return st_err_prefix(e, "%s", st_mask_site(m->groups.plan, &m->groups.g[group], site));
}

/* Exchanges in flight. */

static int grow(void *p, size_t n, size_t size, struct st_err *e)
{
    void *more;
    if (st_alloc(&more, n, size, "masked rows", e))
        return e->code;
    free(*(void **)p);
    *(void **)p = more;
    return 0;
}

static int reserve(struct flight *f, size_t n_row, size_t n_value, struct st_err *e)
{
    if (n_row > f->cap_row) {
        f->cap_row = 0;
        if (grow(&f->alpha, n_row, sizeof *f->alpha, e) || grow(&f->pads, n_row, sizeof *f->pads, e) ||
            grow(&f->want, n_row, sizeof *f->want, e))
            return e->code;
        f->cap_row = n_row;
    }
    if (n_value > f->cap_u) {
        f->cap_u = 0;
        if (grow(&f->u, n_value, sizeof *f->u, e))
            return e->code;
        f->cap_u = n_value;
    }
    return 0;
}

static struct flight *find_flight(struct st_masked *m, const struct st_exchange *x)
{
    for (int i = 0; i < MAX_FLIGHT; i++)
        if (m->flights[i].used && m->flights[i].id == x->id)
            return &m->flights[i];
    return NULL;
}

/* Pads and scales of an exchange are gone afterwards, whatever became of it. */
static void forget(struct st_masked *m, struct flight *f)
{
    st_pads_done(m->pads, f->group, f->n_row, f->pads, f->wiped);
    OPENSSL_cleanse(f->alpha, f->n_row * sizeof *f->alpha);
    OPENSSL_cleanse(f->want, f->n_row * sizeof *f->want);
    f->used = false;
}

/* Way out. */

/* In f32 rows are brought to deviation 1, which masks are made for. */
static int float_alpha(const float *x, uint32_t d, float *alpha, struct st_err *e)
{
    double square = x ? st_mask_kernels()->square(x, d) : 1;
    if (!isfinite(square) || square > 0x1p190)
        return st_fail(e, ST_VERIFY, "a row holds a value that is not finite");
    *alpha = square < 0x1p-190 ? 0x1p96f : (float)sqrt(d / square);
    return 0;
}

static int scales(struct st_masked *m, struct flight *f, const struct st_trusted *in, struct st_err *e)
{
    const struct st_mask_group *g = group_of(m, f);
    for (uint32_t r = 0; r < f->n_row; r++) {
        const float *x = in->ids ? NULL : in->p + (size_t)r * g->d;
        if (in->ids && in->ids[r] >= g->d)
            return st_fail(e, ST_INTERNAL, "a one-hot row beyond %u values", g->d);
        int rc = m->o.scheme->domain == ST_MASK_FIELD
                     ? st_rows_alpha(x, g->d, g->norm, m->slack[f->group], &f->alpha[r], e)
                     : float_alpha(x, g->d, &f->alpha[r], e);
        if (rc)
            return rc;
    }
    return 0;
}

/* A one-hot row costs the same for every id, and reads the same memory. */
static void mask_id(uint32_t id, float alpha, const uint32_t *pad, uint32_t *u, uint32_t d)
{
    uint32_t value = (uint32_t)rintf(alpha);
    for (uint32_t i = 0; i < d; i++)
        u[i] = st_fq_add(pad[i], value & (0 - (uint32_t)(i == id)));
}

static void mask_float(const float *x, uint32_t id, float alpha, const float *pad, float *u, uint32_t d)
{
    for (uint32_t i = 0; i < d; i++)
        u[i] = pad[i] + alpha * (x ? x[i] : (float)(i == id));
}

static void mask_rows(struct st_masked *m, struct flight *f, const struct st_trusted *in)
{
    uint32_t d = group_of(m, f)->d;
    for (uint32_t r = 0; r < f->n_row; r++) {
        uint32_t *u = f->u + (size_t)r * d, id = in->ids ? in->ids[r] : 0;
        const float *x = in->ids ? NULL : in->p + (size_t)r * d;
        if (m->o.scheme->domain == ST_MASK_F32)
            mask_float(x, id, f->alpha[r], (const float *)f->pads[r], (float *)u, d);
        else if (x)
            st_mask_kernels()->mask(x, f->alpha[r], f->pads[r], u, d);
        else
            mask_id(id, f->alpha[r], f->pads[r], u, d);
        explicit_bzero(f->pads[r], d * sizeof *u);
    }
    f->wiped = d;
}

/* After a reject: the answers to it may have told something about s. When it fails there is no check, and replies to
 * what is still in flight do not pass. */
static int redraw(struct st_masked *m, struct st_err *e)
{
    st_mask_checks_wipe(&m->checks);
    for (int i = 0; i < MAX_FLIGHT; i++)
        m->flights[i].expecting = false;
    if (st_mask_checks_init(&m->checks, &m->groups, m->o.scheme_opts.preparer, m->o.scheme_opts.pool, false, e))
        return e->code;
    m->redraw = false;
    pthread_mutex_lock(&m->lock);
    m->stats.n_redraw++;
    pthread_mutex_unlock(&m->lock);
    return 0;
}

static int enter(void *ctx, const struct st_exchange *x, const struct st_trusted *in, struct st_exposed *out,
                 struct st_err *e)
{
    struct st_masked *m = ctx;
    struct flight *f = m->flights;
    int group;
    double start = st_now();
    while (f < m->flights + MAX_FLIGHT && f->used)
        f++;
    if (f == m->flights + MAX_FLIGHT)
        return st_fail(e, ST_INTERNAL, "masked: more than %d exchanges are outstanding", MAX_FLIGHT);
    if (st_mask_groups_find(&m->groups, x, &group, e) || (m->redraw && redraw(m, e)))
        return e->code;
    f->group = group;
    f->n_row = in->n_row;
    f->id = x->id;
    f->expecting = false;
    f->wiped = 0;
    const struct st_mask_group *g = group_of(m, f);
    size_t n = (size_t)in->n_row * g->d;
    if (in->width != g->d)
        return st_fail(e, ST_INTERNAL, "masked: rows of %u values, want %u", in->width, g->d);
    if (reserve(f, in->n_row, n, e))
        return e->code;
    if (scales(m, f, in, e))
        return at_site(m, group, e);
    double before = st_now();
    if (st_pads_take(m->pads, group, in->n_row, f->pads, e))
        return at_site(m, group, e);
    double waited = st_now() - before;
    f->used = true;
    mask_rows(m, f, in);
    *out = (struct st_exposed){.p = f->u,
                               .len = n * sizeof *f->u,
                               .format = m->o.scheme->domain == ST_MASK_F32 ? ST_EXPOSED_F32 : ST_EXPOSED_FIELD};
    pthread_mutex_lock(&m->lock);
    m->stats.mask_s += st_now() - start - waited;
    pthread_mutex_unlock(&m->lock);
    return 0;
}

/* While the worker computes. */

static void expect(const struct st_masked *m, struct flight *f)
{
    if (f->expecting || !m->checks.of)
        return;
    st_freivalds_expect(&m->checks.of[f->group], f->u, f->n_row, f->want);
    f->expecting = true;
}

/* Asks for p as far as *left goes. */
static void warm(const void *p, size_t len, size_t *left)
{
    len = len < *left ? len : *left;
    st_warm(p, len);
    *left -= len;
}

/* What leave reads: the secrets of the check and the scales, which serve all rows, and the rest of the pads; then the
 * masks of the group that comes next in the plan. */
static void warm_up(struct st_masked *m, const struct flight *f)
{
    const struct st_mask_group *g = group_of(m, f);
    int next = (f->group + 1) % m->groups.n;
    size_t left = WARM, mask = m->groups.g[next].d * sizeof(uint32_t);
    for (int i = 0; m->integrity && m->checks.of && i < ST_FREIVALDS_N; i++)
        warm(m->checks.secret.s[i], g->n * sizeof(uint32_t), &left);
    warm(g->scale, g->n * sizeof *g->scale, &left);
    for (uint32_t r = 0; r < f->n_row; r++)
        warm(f->pads[r] + g->d, g->n * sizeof(uint32_t), &left);
    uint32_t n = left / mask < f->n_row ? (uint32_t)(left / mask) : f->n_row;
    st_pads_warm(m->pads, next, n, m->groups.g[next].d);
}

static void meanwhile(void *ctx, const struct st_exchange *x)
{
    struct st_masked *m = ctx;
    struct flight *f = find_flight(m, x);
    double start = st_now();
    if (!f)
        return;
    if (m->integrity)
        expect(m, f);
    warm_up(m, f);
    pthread_mutex_lock(&m->lock);
    m->stats.meanwhile_s += st_now() - start;
    pthread_mutex_unlock(&m->lock);
}

/* Way back. */

static bool all_finite(const float *v, size_t n)
{
    uint32_t bad = 0;
    for (size_t i = 0; i < n; i++)
        bad |= !isfinite(v[i]);
    return !bad;
}

/* One verdict on all matrices and rows, before anything of the reply is used. */
static bool passes(const struct st_masked *m, struct flight *f, const void *reply)
{
    const struct st_mask_group *g = group_of(m, f);
    const uint32_t *v = reply;
    if (m->o.scheme->domain == ST_MASK_F32)
        return all_finite(reply, (size_t)f->n_row * g->n);
    if (!m->integrity)
        return st_field_kernels()->most(v, (size_t)f->n_row * g->n) < ST_FQ;
    expect(m, f);
    return f->expecting &&
           st_freivalds_meets(&m->checks.of[f->group], (const uint32_t(*)[ST_FREIVALDS_N])f->want, v, f->n_row);
}

/* This worker has given a wrong reply. */
static void let_go(struct st_masked *m)
{
    if (m->o.quarantine)
        m->o.quarantine(m->o.quarantine_ctx);
    pthread_mutex_lock(&m->lock);
    m->stats.n_reject++;
    pthread_mutex_unlock(&m->lock);
}

static int reject(struct st_masked *m, int group, struct st_err *e)
{
    m->redraw = m->integrity;
    let_go(m);
    return at_site(m, group, e);
}

static void unmask_float(const float *v, const float *pad, float alpha, float *y, uint32_t n)
{
    float back = 1 / alpha;
    for (uint32_t i = 0; i < n; i++)
        y[i] = (v[i] - pad[i]) * back;
}

/* Pads are wiped as they are used up: their lines are in the cache now. */
static void unmask_rows(const struct st_masked *m, struct flight *f, const uint32_t *v, struct st_trusted *outs)
{
    const struct st_mask_group *g = group_of(m, f);
    uint32_t column = 0;
    for (int k = 0; k < g->n_op; k++) {
        uint32_t n_out = outs[k].width;
        for (uint32_t r = 0; r < f->n_row; r++, v += n_out) {
            uint32_t *pad = f->pads[r] + g->d + column;
            float *y = outs[k].p + (size_t)r * n_out;
            if (m->o.scheme->domain == ST_MASK_F32)
                unmask_float((const float *)v, (const float *)pad, f->alpha[r], y, n_out);
            else
                st_mask_kernels()->unmask(v, pad, g->scale + column, 1 / f->alpha[r], y, n_out);
            explicit_bzero(pad, n_out * sizeof *pad);
        }
        column += n_out;
    }
    f->wiped = (size_t)g->d + column;
}

/* Outputs have the shapes of the served matrices. */
static int check_outs(const struct st_masked *m, const struct flight *f, const struct st_trusted *outs,
                      struct st_err *e)
{
    const struct st_mask_group *g = group_of(m, f);
    for (int k = 0; k < g->n_op; k++)
        if (outs[k].width != m->o.scheme_opts.served->weights[g->served[k]].n_out || outs[k].n_row != f->n_row)
            return st_fail(e, ST_INTERNAL, "masked: output %d has another shape than its matrix", k);
    return 0;
}

static int open_reply(struct st_masked *m, struct flight *f, const struct st_exposed *reply, struct st_trusted *outs,
                      struct st_err *e)
{
    size_t want = (size_t)f->n_row * group_of(m, f)->n * sizeof(uint32_t);
    enum st_exposed_format format = m->o.scheme->domain == ST_MASK_F32 ? ST_EXPOSED_F32 : ST_EXPOSED_FIELD;
    double start = st_now();
    if (check_outs(m, f, outs, e))
        return e->code;
    if (reply->format != format || reply->len != want) {
        st_fail(e, ST_VERIFY, "the worker's reply has %zu bytes%s, want %zu", reply->len,
                reply->format != format ? " of another format" : "", want);
        return reject(m, f->group, e);
    }
    if (m->integrity && !m->checks.of) { /* nothing is known of this worker: it is not to blame */
        st_fail(e, ST_IO, "the reply cannot be checked: the secrets of the check could not be made anew");
        return at_site(m, f->group, e);
    }
    if (!passes(m, f, reply->p)) {
        st_fail(e, ST_VERIFY, "the worker's reply is not the product that was asked for");
        return reject(m, f->group, e);
    }
    double checked = st_now();
    unmask_rows(m, f, reply->p, outs);
    pthread_mutex_lock(&m->lock);
    m->stats.n_exchange++;
    m->stats.n_row += f->n_row;
    m->stats.check_s += checked - start;
    m->stats.unmask_s += st_now() - checked;
    pthread_mutex_unlock(&m->lock);
    return 0;
}

static int leave(void *ctx, const struct st_exchange *x, const struct st_exposed *reply, struct st_trusted *outs,
                 struct st_err *e)
{
    struct st_masked *m = ctx;
    struct flight *f = find_flight(m, x);
    if (!f)
        return st_fail(e, ST_INTERNAL, "masked: a reply to an exchange that nobody began");
    int rc = open_reply(m, f, reply, outs, e);
    forget(m, f);
    return rc;
}

static void drop(void *ctx, const struct st_exchange *x)
{
    struct st_masked *m = ctx;
    struct flight *f = find_flight(m, x);
    if (x->pair.n_inner)
        st_attention_packed_forget(m->attention);
    else if (f)
        forget(m, f);
}

/* Attention, where it leaves. */

static int at_pair(const struct st_exchange *x, struct st_err *e)
{
    return st_err_prefix(e, "layer %d (%s)", x->ops->layer, x->pair.what);
}

static int enter_pair(void *ctx, struct st_exchange *x, const float *a, const float *b, struct st_exposed *rows,
                      struct st_err *e)
{
    struct st_masked *m = ctx;
    return st_attention_packed_enter(m->attention, x, a, b, rows, e) ? at_pair(x, e) : 0;
}

static int leave_pair(void *ctx, const struct st_exchange *x, const struct st_exposed *reply, float *out,
                      struct st_err *e)
{
    struct st_masked *m = ctx;
    if (st_attention_packed_leave(m->attention, reply, out, e)) {
        let_go(m);
        return at_pair(x, e);
    }
    pthread_mutex_lock(&m->lock);
    m->stats.n_pair++;
    pthread_mutex_unlock(&m->lock);
    return 0;
}

static bool keep(void *ctx, const struct st_plan *plan, const struct st_plan_op *ops, int n_op, uint32_t n_row)
{
    struct st_masked *m = ctx;
    (void)plan;
    (void)n_op;
    if (!m->may_keep || ops->op == ST_OP_EMBED || n_row < m->o.keep_rows)
        return false;
    pthread_mutex_lock(&m->lock);
    m->stats.n_kept++;
    pthread_mutex_unlock(&m->lock);
    return true;
}

/* Set-up. */

static bool same_roles(const struct st_plan *p, const struct st_mask_group *a, const struct st_mask_group *b)
{
    bool same = a->n_op == b->n_op;
    for (int k = 0; same && k < a->n_op; k++)
        same = p->ops[a->op + k].role == p->ops[b->op + k].role;
    return same;
}

#define MAX_KINDS 32

/* "24 x q, k, v; 24 x o; head": groups of the same roles, counted. */
static void say_groups(const struct st_masked *m, struct st_buf *b)
{
    const struct st_plan *p = m->groups.plan;
    struct kind {
        const struct st_mask_group *first;
        int n;
    } kinds[MAX_KINDS];
    int n_kind = 0;
    for (int i = 0; i < m->groups.n; i++) {
        int at = 0;
        while (at < n_kind && !same_roles(p, kinds[at].first, &m->groups.g[i]))
            at++;
        if (at == MAX_KINDS)
            continue;
        if (at == n_kind)
            kinds[n_kind++] = (struct kind){&m->groups.g[i], 0};
        kinds[at].n++;
    }
    for (int at = 0; at < n_kind; at++) {
        st_buf_add_str(b, at ? "; " : ": ");
        if (kinds[at].n > 1)
            st_buf_addf(b, "%d x ", kinds[at].n);
        for (int k = 0; k < kinds[at].first->n_op; k++)
            st_buf_addf(b, "%s%s", k ? ", " : "", st_role_name(p->ops[kinds[at].first->op + k].role));
    }
}

/* What stays here, and why: the figures of the first number of rows that does, else of the largest that was measured.
 */
static void say_kept(const struct st_masked *m, struct st_buf *b)
{
    const struct st_mask_costs *c = &m->costs;
    uint32_t keep = m->o.keep_rows;
    if (keep == UINT32_MAX)
        st_buf_add_str(b, "here: nothing, the worker is quicker");
    else
        st_buf_addf(b, "here: exchanges of %u rows or more, with this side's weights", keep);
    if (c->n) {
        char site[ST_MASK_SITE];
        int i = 0;
        while (i < c->n - 1 && 1u << i < keep)
            i++;
        st_buf_addf(b, "; measured: %u rows of %s take %.2f ms here, %.2f ms elsewhere (pads %.2f, exchange %.2f)",
                    1u << i, st_mask_site(m->groups.plan, &m->groups.g[c->group], site), c->here_s[i] * 1e3,
                    (c->pads_s[i] + c->exchange_s[i]) * 1e3, c->pads_s[i] * 1e3, c->exchange_s[i] * 1e3);
    }
    st_buf_add_str(b, "; the number of rows alone decides\n");
}

static int say_plan(struct st_masked *m, struct st_err *e)
{
    char up[ST_MEM_TEXT], down[ST_MEM_TEXT], kept[ST_MEM_TEXT];
    struct st_buf *b = &m->plan_text;
    if (m->attention)
        st_buf_add_str(b, "attention: its products leave in TwinShield's packing, which is BREAKABLE: the worker can "
                          "read prompts and replies\n");
    size_t n_up = 0, n_down = 0;
    bool embedding = false;
    for (int i = 0; i < m->groups.n; i++) {
        const struct st_mask_group *g = &m->groups.g[i];
        n_up += g->d * sizeof(uint32_t);
        n_down += g->n * sizeof(uint32_t);
        embedding = embedding || m->groups.plan->ops[g->op].op == ST_OP_EMBED;
    }
    st_buf_addf(b, "worker: %d exchanges per token, %s up, %s down", m->groups.n, st_mem_text(n_up, up),
                st_mem_text(n_down, down));
    say_groups(m, b);
    st_buf_addf(b, "\nembedding: %s\n", embedding ? "fetched from the worker by one-hot rows" : "table of this side");
    if (m->may_keep)
        say_kept(m, b);
    else
        st_buf_addf(b, "here: nothing, %s\n",
                    m->groups.weights ? "as was asked for" : "since this side has no weights");
    st_buf_addf(b, "kept for masks: %s\n", st_mem_text(m->o.scheme->bytes(m->scheme), kept));
    return b->failed ? st_fail(e, ST_MEMORY, "masked: text of the plan") : 0;
}

static int check_policy(const struct st_masked *m, struct st_err *e)
{
    const struct st_masked_opts *o = &m->o;
    if (!m->groups.n)
        return st_fail(e, ST_USAGE, "masked: the plan sends nothing to a worker");
    if (o->no_integrity)
        return 0;
    if (o->scheme->domain == ST_MASK_F32)
        return st_fail(e, ST_POLICY,
                       "%s: replies are floats, which no exact check can verify: refused without --no-integrity",
                       o->scheme->name);
    if (!m->groups.weights && !o->scheme_opts.preparer)
        return st_fail(e, ST_POLICY,
                       "%s: this side has no weights, so it cannot check replies: refused without --preparer or "
                       "--no-integrity",
                       o->scheme->name);
    return 0;
}

/* The slack of each group, and whether its matrices fit the field at all. */
static int set_slack(struct st_masked *m, struct st_err *e)
{
    if (st_alloc(&m->slack, (size_t)m->groups.n, sizeof *m->slack, "masked", e))
        return e->code;
    for (int i = 0; i < m->groups.n && m->o.scheme->domain == ST_MASK_FIELD; i++) {
        float alpha;
        m->slack[i] = m->o.scheme->slack(m->scheme, i);
        if (st_rows_alpha(NULL, m->groups.g[i].d, m->groups.g[i].norm, m->slack[i], &alpha, e))
            return at_site(m, i, e);
    }
    return 0;
}

/* From how many rows on exchanges stay here. A worker that fails now may be replaced by the time that it is needed. */
static void plan_rows(struct st_masked *m)
{
    const struct st_scheme_opts *so = &m->o.scheme_opts;
    const struct st_mask_costs_opts co = {.model = m->model,
                                          .groups = &m->groups,
                                          .scheme = m->o.scheme,
                                          .state = m->scheme,
                                          .transport = so->transport,
                                          .n_threads = m->o.n_threads,
                                          .n_pad_threads = m->o.pads.n_threads,
                                          .max_row = m->o.pads.max_row};
    struct st_err e = {0};
    if (m->o.keep_rows || !m->may_keep)
        return;
    if (m->o.scheme->domain == ST_MASK_FIELD && st_mask_costs_measure(&co, &m->costs, &e) == 0)
        m->o.keep_rows = st_mask_costs_keep(&m->costs);
    else {
        m->o.keep_rows = KEEP_ROWS;
        m->costs.n = 0;
    }
}

static bool attention_leaves(const struct st_plan *p)
{
    bool leaves = false;
    for (int i = 0; i < p->n_op; i++)
        leaves = leaves || (p->ops[i].op == ST_OP_ATTEND && p->ops[i].place == ST_PLACE_UNTRUSTED);
    return leaves;
}

static int set_up(struct st_masked *m, struct st_err *e)
{
    struct st_masked_opts *o = &m->o;
    struct st_scheme_opts *so = &o->scheme_opts;
    if (st_mask_groups_init(&m->groups, m->groups.plan, so->served, so->pool, e) || check_policy(m, e))
        return e->code;
    m->integrity = !o->no_integrity;
    m->may_keep = o->offload == ST_MASKED_OFFLOAD_AUTO && m->groups.weights;
    if (m->groups.weights)
        so->preparer = NULL;
    else if (so->preparer && st_mask_groups_scales(&m->groups, so->preparer->scales, e))
        return e->code;
    so->check_hints = so->check_hints && (m->groups.weights || so->preparer);
    if ((m->integrity || so->check_hints) &&
        st_mask_checks_init(&m->checks, &m->groups, so->preparer, so->pool, so->progress, e))
        return e->code;
    so->max_row = so->max_row ? so->max_row : o->pads.max_row;
    so->groups = m->groups.g;
    so->n_group = m->groups.n;
    so->checks = m->checks.of;
    if (o->scheme->open(so, &m->scheme, e) || set_slack(m, e))
        return e->code;
    o->pads.scheme = o->scheme;
    o->pads.state = m->scheme;
    o->pads.groups = m->groups.g;
    o->pads.n_group = m->groups.n;
    plan_rows(m);
    snprintf(m->describe, sizeof m->describe, "%s; integrity %s%s", o->scheme->strength(m->scheme),
             m->integrity ? "checked" : "NOT checked",
             so->preparer ? "; prepared by an attested holder of the weights" : "");
    if (attention_leaves(m->groups.plan)) {
        if (st_attention_packed_new(m->integrity, &m->attention, e))
            return e->code;
        m->hooks.enter_pair = enter_pair;
        m->hooks.leave_pair = leave_pair;
        size_t at = strlen(m->describe);
        snprintf(m->describe + at, sizeof m->describe - at,
                 "; attention outside: BREAKABLE, the worker can read prompts and replies");
    }
    return st_pads_new(&o->pads, &m->pads, e) || say_plan(m, e) ? e->code : 0;
}

int st_masked_new(const struct st_model *model, const struct st_masked_opts *o, struct st_masked **out,
                  struct st_err *e)
{
    struct st_masked *m;
    if (st_alloc(&m, 1, sizeof *m, "masked", e))
        return e->code;
    m->o = *o;
    m->model = model;
    m->groups.plan = &model->plan;
    m->hooks = (struct st_protection_hooks){
        .enter = enter, .meanwhile = meanwhile, .leave = leave, .keep = keep, .drop = drop, .ctx = m};
    pthread_mutex_init(&m->lock, NULL);
    if (set_up(m, e)) {
        st_masked_free(m);
        return e->code;
    }
    *out = m;
    return 0;
}

void st_masked_free(struct st_masked *m)
{
    if (!m)
        return;
    for (int i = 0; i < MAX_FLIGHT; i++) {
        struct flight *f = &m->flights[i];
        if (f->used)
            forget(m, f);
        free(f->u);
        free(f->alpha);
        free(f->pads);
        free(f->want);
    }
    st_attention_packed_free(m->attention);
    st_pads_free(m->pads);
    if (m->scheme)
        m->o.scheme->close(m->scheme);
    st_mask_checks_wipe(&m->checks);
    st_mask_groups_free(&m->groups);
    st_buf_free(&m->plan_text);
    pthread_mutex_destroy(&m->lock);
    free(m->slack);
    free(m);
}

const struct st_protection_hooks *st_masked_hooks(const struct st_masked *m)
{
    return &m->hooks;
}

void st_masked_stats(struct st_masked *m, struct st_masked_stats *out)
{
    pthread_mutex_lock(&m->lock);
    *out = m->stats;
    pthread_mutex_unlock(&m->lock);
    st_pads_stats(m->pads, &out->pads);
}

const char *st_masked_describe(const struct st_masked *m)
{
    return m->describe;
}

const char *st_masked_plan_text(const struct st_masked *m)
{
    return m->plan_text.p;
}
