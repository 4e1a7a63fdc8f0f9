#include "protect/masked/planner.h"
#include "base/buf.h"
#include "base/hooks.h"
#include "field/fq.h"

#include <openssl/crypto.h>
#include <stdlib.h>
#include <time.h>

#define REPEAT 2 /* the faster counts: the first one finds cold caches */
#define FIRST_ID (UINT64_C(1) << 62)

/* The most weights in one group of the layers, or of all groups where there are no layers. */
static int largest(const struct st_mask_groups *g)
{
    int best = 0;
    uint64_t most = 0;
    for (int i = 0; i < g->n; i++) {
        const struct st_plan_op *op = &g->plan->ops[g->g[i].op];
        uint64_t size = (uint64_t)g->g[i].d * g->g[i].n * (op->layer >= 0 ? 2 : 1);
        if (op->op != ST_OP_EMBED && size > most) {
            most = size;
            best = i;
        }
    }
    return best;
}

/* Here */

static int measure_here(const struct st_mask_costs_opts *o, struct st_mask_costs *c, struct st_err *e)
{
    const struct st_mask_group *g = &o->groups->g[c->group];
    const struct st_compute_opts co = {
        .n_threads = o->n_threads, .max_row = 1u << (ST_MASK_COSTS - 1), .max_width = g->d};
    struct st_compute *compute = NULL;
    struct st_linear_job jobs[ST_MAX_GROUP];
    float *x = NULL, *y = NULL;
    uint32_t most = 1u << (c->n - 1);
    int rc = st_compute_new(&co, &compute, e);
    if (!rc)
        rc = st_alloc(&x, (size_t)most * g->d, sizeof *x, "planner", e);
    if (!rc)
        rc = st_alloc(&y, (size_t)most * g->n, sizeof *y, "planner", e);
    for (size_t i = 0; !rc && i < (size_t)most * g->d; i++)
        x[i] = (float)(i % 7) - 3;
    for (int i = 0; !rc && i < c->n; i++)
        for (int again = 0; again < REPEAT; again++) {
            float *to = y;
            for (int k = 0; k < g->n_op; k++) {
                const struct st_mat *w = &o->model->mats[o->groups->plan->ops[g->op + k].weight];
                jobs[k] = (struct st_linear_job){.w = w, .y = to};
                to += (size_t)w->n_out << i;
            }
            double start = st_now();
            st_linear(compute, jobs, g->n_op, x, 1u << i);
            double took = st_now() - start;
            c->here_s[i] = again && c->here_s[i] < took ? c->here_s[i] : took;
        }
    st_compute_free(compute);
    free(x);
    free(y);
    return rc;
}

/* Elsewhere */

static double thread_seconds(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

/* Pads of one batch, which are thrown away. */
static int measure_pads(const struct st_mask_costs_opts *o, struct st_mask_costs *c, struct st_stream *random,
                        struct st_err *e)
{
    const struct st_mask_group *g = &o->groups->g[c->group];
    const uint32_t batch = 1u << (ST_MASK_COSTS - 1);
    struct st_locked pads;
    double each = 0;
    if (st_locked_new(&pads, (size_t)batch * (g->d + g->n) * sizeof(uint32_t), &st_scheme_scratch, e))
        return e->code;
    int rc = 0;
    for (int again = 0; again < REPEAT && !rc; again++) {
        double start = thread_seconds();
        rc = o->scheme->make(o->state, c->group, batch, random, (uint32_t *)pads.p, e);
        double took = (thread_seconds() - start) / batch;
        each = again && each < took ? each : took;
    }
    st_locked_free(&pads);
    for (int i = 0; i < c->n; i++)
        c->pads_s[i] = each * (1u << i) / (o->n_pad_threads > 1 ? o->n_pad_threads : 1);
    return rc;
}

static int measure_exchanges(const struct st_mask_costs_opts *o, struct st_mask_costs *c, struct st_stream *random,
                             struct st_err *e)
{
    const struct st_mask_group *g = &o->groups->g[c->group];
    const struct st_transport *t = o->transport;
    size_t n = (size_t)g->d << (c->n - 1);
    uint64_t id = FIRST_ID;
    uint32_t *u;
    if (st_alloc(&u, n, sizeof *u, "planner", e))
        return e->code;
    for (size_t i = 0; i < n; i++)
        u[i] = (uint32_t)st_stream_below(random, ST_FQ);
    int rc = 0;
    for (int i = 0; i < c->n; i++)
        for (int again = 0; again < REPEAT && !rc; again++, id++) {
            struct st_exchange x = {.plan = o->groups->plan,
                                    .ops = &o->groups->plan->ops[g->op],
                                    .n_op = g->n_op,
                                    .n_row = 1u << i,
                                    .id = id};
            const struct st_exposed rows = {u, (sizeof *u * g->d) << i, ST_EXPOSED_FIELD};
            struct st_exposed reply;
            double start = st_now();
            rc = t->submit(t->ctx, &x, &rows, e) || t->complete(t->ctx, &x, &reply, e) ? e->code : 0;
            double took = st_now() - start;
            c->exchange_s[i] = again && c->exchange_s[i] < took ? c->exchange_s[i] : took;
        }
    free(u);
    return rc;
}

int st_mask_costs_measure(const struct st_mask_costs_opts *o, struct st_mask_costs *out, struct st_err *e)
{
    struct st_stream *random = NULL;
    uint8_t seed[32];
    *out = (struct st_mask_costs){.group = largest(o->groups)};
    while (out->n < ST_MASK_COSTS && (out->n == 0 || 1u << out->n <= o->max_row))
        out->n++;
    int rc = st_random(seed, sizeof seed, e);
    if (!rc)
        rc = st_stream_new(seed, sizeof seed, NULL, 0, "masked planner", &random, e);
    OPENSSL_cleanse(seed, sizeof seed);
    if (!rc)
        rc = measure_exchanges(o, out, random, e);
    if (!rc)
        rc = measure_here(o, out, e);
    if (!rc)
        rc = measure_pads(o, out, random, e);
    st_stream_free(random);
    return rc;
}

uint32_t st_mask_costs_keep(const struct st_mask_costs *c)
{
    uint32_t keep = UINT32_MAX;
    for (int i = c->n - 1; i > 0 && c->here_s[i] <= c->pads_s[i] + c->exchange_s[i]; i--)
        keep = 1u << i;
    return keep;
}
