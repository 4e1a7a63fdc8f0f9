/* A small masked model whole: its plan placed outside, the worker, masks, and the integer reference. The structure
 * stays where it is: threads that make pads read it. */
#ifndef ST_TESTS_MASKED_SETUP_H
#define ST_TESTS_MASKED_SETUP_H

#include "masked_make.h"

static const uint8_t setup_digest[32] = {4, 5, 6};

struct setup {
    const char *scheme; /* of the last options() */
    struct st_model *m;
    struct st_served served;
    struct fake_worker worker;
    struct fake_hints hints;
    struct st_masked *masked;
    struct st_masked_reference *reference;
    struct st_boundary b, ref;
    int n_quarantine;
};

static inline void quarantine(void *ctx)
{
    (*(int *)ctx)++;
}

static inline struct st_model *open_int8(const struct tiny *t)
{
    char dir[64];
    struct st_model *m;
    struct st_model_opts o = {.n_threads = 1, .dtype = ST_LOAD_INT8, .fold_norms = true};
    struct st_err e;
    tiny_mkdir(dir);
    tiny_write(t, dir);
    tiny_check(st_model_open(dir, &o, &m, &e), &e);
    tiny_rmdir(dir);
    return m;
}

/* A placed model and its worker. */
static inline void plant(struct setup *s, const struct tiny *t, const struct st_masked_place *place)
{
    struct st_err e;
    *s = (struct setup){.m = open_int8(t)};
    assert_ok(st_masked_place(&s->m->plan, place, &e), &e);
    assert_ok(st_served_init(&s->served, s->m, place->embedding, &e), &e);
    worker_init(&s->worker, &s->served);
}

static inline struct st_masked_opts options(struct setup *s, const char *scheme)
{
    struct st_err e;
    struct st_masked_opts o = {.offload = ST_MASKED_OFFLOAD_ALL,
                               .quarantine = quarantine,
                               .quarantine_ctx = &s->n_quarantine,
                               .pads = {.max_row = 64, .batch = 16, .memory = (size_t)4 << 20}};
    assert_ok(st_scheme_find(scheme, &o.scheme, &e), &e);
    s->scheme = o.scheme->name;
    o.scheme_opts.served = &s->served;
    o.scheme_opts.digest = setup_digest;
    o.scheme_opts.plan = &s->m->plan;
    o.scheme_opts.transport = &s->worker.transport;
    o.no_integrity = o.scheme->domain == ST_MASK_F32;
    if (strcmp(scheme, "lwe") == 0) {
        if (!s->hints.source.read) {
            const struct st_lwe_params *p;
            assert_ok(st_lwe_params_find(NULL, &p, &e), &e);
            hints_init(&s->hints, &s->served, p, setup_digest);
        }
        o.scheme_opts.hints = &s->hints.source;
        o.scheme_opts.check_hints = true;
    }
    return o;
}

static inline void mask(struct setup *s, const struct st_masked_opts *o)
{
    struct st_err e;
    assert_ok(st_masked_new(s->m, o, &s->masked, &e), &e);
    s->b = (struct st_boundary){
        .hooks = st_masked_hooks(s->masked), .transport = &s->worker.transport, .max_row = o->pads.max_row};
}

static inline void with_reference(struct setup *s)
{
    struct st_err e;
    assert_ok(st_masked_reference_new(s->m, &s->served, &s->reference, &e), &e);
    s->ref = (struct st_boundary){.hooks = st_masked_reference_hooks(s->reference),
                                  .transport = st_masked_reference_transport(s->reference)};
}

static inline void set_up(struct setup *s, const struct tiny *t, const char *scheme)
{
    plant(s, t, &(struct st_masked_place){0});
    struct st_masked_opts o = options(s, scheme);
    mask(s, &o);
}

static inline void tear_down(struct setup *s)
{
    st_masked_free(s->masked);
    st_masked_reference_free(s->reference);
    worker_free(&s->worker);
    if (s->hints.source.read)
        st_lwe_basis_free(&s->hints.basis);
    st_served_free(&s->served);
    st_model_close(s->m);
}

/* The n-th exchange group of the plan: its first op and number of ops. */
static const struct st_plan_op *group_at(const struct st_plan *p, int n, int *n_op)
{
    for (int i = 0; i < p->n_op; i += *n_op) {
        *n_op = 1;
        while (p->ops[i].group && i + *n_op < p->n_op && p->ops[i + *n_op].group == p->ops[i].group)
            (*n_op)++;
        if (p->ops[i].place == ST_PLACE_UNTRUSTED && n-- == 0)
            return &p->ops[i];
    }
    return NULL;
}

/* Random rows for one group, and room for what comes back. */
struct rows {
    const struct st_plan_op *ops;
    int n_op;
    uint32_t ids[64];
    struct st_trusted in, outs[ST_MAX_GROUP], want[ST_MAX_GROUP];
};

static inline void rows_make(struct rows *r, const struct setup *s, int group, uint32_t n_row, uint64_t seed)
{
    const struct st_plan *p = &s->m->plan;
    struct st_rng rng;
    st_rng_seed(&rng, seed);
    r->ops = group_at(p, group, &r->n_op);
    assert_non_null(r->ops);
    bool embed = r->ops->op == ST_OP_EMBED;
    uint32_t d = embed ? p->weights[r->ops->weight].n_out : p->slot_width[r->ops->in];
    r->in = (struct st_trusted){.n_row = n_row, .width = d, .ids = embed ? r->ids : NULL};
    if (!embed)
        r->in.p = malloc((size_t)n_row * d * sizeof(float));
    for (uint32_t i = 0; i < n_row; i++) {
        float size = ldexpf(1, (int)(st_rng_next(&rng) % 40) - 20);
        r->ids[i] = (uint32_t)(st_rng_next(&rng) % d);
        for (uint32_t k = 0; k < d && !embed; k++)
            r->in.p[(size_t)i * d + k] = i == 1 ? 0 : size * (float)(st_rng_unit(&rng) - 0.5);
    }
    for (int k = 0; k < r->n_op; k++) {
        uint32_t width = p->slot_width[r->ops[k].out];
        r->outs[k] = (struct st_trusted){.p = calloc((size_t)n_row * width, 4), .n_row = n_row, .width = width};
        r->want[k] = (struct st_trusted){.p = calloc((size_t)n_row * width, 4), .n_row = n_row, .width = width};
    }
}

static inline void rows_free(struct rows *r)
{
    free(r->in.p);
    for (int k = 0; k < r->n_op; k++) {
        free(r->outs[k].p);
        free(r->want[k].p);
    }
}

static inline int send(struct setup *s, struct st_boundary *b, struct rows *r, struct st_trusted *outs,
                       struct st_err *e)
{
    struct st_exchange x = {.plan = &s->m->plan, .ops = r->ops, .n_op = r->n_op};
    if (st_boundary_submit(b, &x, &r->in, e))
        return e->code;
    return st_boundary_complete(b, &x, s->m->mats, outs, e);
}

static inline struct st_masked_stats stats_of(struct setup *s)
{
    struct st_masked_stats st;
    st_masked_stats(s->masked, &st);
    return st;
}

static inline void assert_all_wiped(struct setup *s)
{
    struct st_masked_stats st = stats_of(s);
    assert_int_equal(st.pads.taken, st.pads.wiped);
}

#endif
