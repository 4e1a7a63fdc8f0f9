#include "service/preparer.h"
#include "net/address.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct st_preparer_client {
    struct st_worker_client *client;
    const struct st_plan *plan;
    struct st_preparer face;
    struct st_hint_source scales;
    const struct st_hint_source *inner;
    pthread_mutex_t lock; /* of client */
};

static struct st_exchange exchange_of(const struct st_preparer_client *c, const struct st_mask_group *g, uint32_t n_row)
{
    return (struct st_exchange){.plan = c->plan, .ops = &c->plan->ops[g->op], .n_op = g->n_op, .n_row = n_row};
}

/* The matrix of one op of a plan as it is served. */
static void shape_of(const struct st_plan *plan, const struct st_plan_op *op, char name[ST_PLAN_NAME + 2],
                     uint32_t *n_out, uint32_t *n_in)
{
    const struct st_plan_weight *w = &plan->weights[op->weight];
    bool fetch = op->op == ST_OP_EMBED;
    snprintf(name, ST_PLAN_NAME + 2, fetch ? "%s^T" : "%s", w->name);
    *n_out = fetch ? w->n_in : w->n_out;
    *n_in = fetch ? w->n_out : w->n_in;
}

/* values: of each matrix [n][n_out], as they come; into the pads, behind the masks. */
static void spread(const struct st_preparer_client *c, const struct st_mask_group *g, const uint32_t *values,
                   uint32_t n, uint32_t *pads)
{
    const size_t stride = (size_t)g->d + g->n;
    uint32_t column = g->d;
    for (int k = 0; k < g->n_op; k++) {
        char name[ST_PLAN_NAME + 2];
        uint32_t n_out, n_in;
        shape_of(c->plan, &c->plan->ops[g->op + k], name, &n_out, &n_in);
        for (uint32_t i = 0; i < n; i++, values += n_out)
            memcpy(pads + i * stride + column, values, n_out * sizeof *values);
        column += n_out;
    }
}

static int fill_some(struct st_preparer_client *c, const struct st_mask_group *g, uint32_t n, uint32_t *pads,
                     uint32_t *rows, struct st_err *e)
{
    const size_t stride = (size_t)g->d + g->n, n_value = (size_t)n * g->d;
    struct st_exchange x = exchange_of(c, g, n);
    for (uint32_t i = 0; i < n; i++)
        memcpy(rows + (size_t)i * g->d, pads + i * stride, g->d * sizeof *rows);
    pthread_mutex_lock(&c->lock);
    int rc =
        st_worker_client_product(c->client, &x, ST_WORKER_FIELD, rows, n_value, rows + n_value, (size_t)n * g->n, e);
    pthread_mutex_unlock(&c->lock);
    if (!rc)
        spread(c, g, rows + n_value, n, pads);
    return rc;
}

static int fill(void *ctx, const struct st_mask_group *g, uint32_t n, uint32_t *pads, struct st_err *e)
{
    struct st_preparer_client *c = ctx;
    struct st_locked scratch;
    const size_t stride = (size_t)g->d + g->n;
    pthread_mutex_lock(&c->lock);
    uint32_t most = st_worker_client_max_row(c->client);
    pthread_mutex_unlock(&c->lock);
    most = most < n ? most : n;
    if (st_locked_new(&scratch, most * stride * sizeof *pads, &st_scheme_scratch, e))
        return e->code;
    int rc = 0;
    for (uint32_t at = 0, some; at < n && !rc; at += some) {
        some = n - at < most ? n - at : most;
        rc = fill_some(c, g, some, pads + at * stride, (uint32_t *)(void *)scratch.p, e);
    }
    st_locked_free(&scratch);
    return rc ? st_err_prefix(e, "preparer") : 0;
}

static int combine(void *ctx, const struct st_mask_group *g, const uint32_t *s, uint32_t n_vec, uint32_t *ws,
                   struct st_err *e)
{
    struct st_preparer_client *c = ctx;
    struct st_exchange x = exchange_of(c, g, n_vec);
    pthread_mutex_lock(&c->lock);
    int rc = st_worker_client_product(c->client, &x, ST_WORKER_OUTPUTS, s, (size_t)n_vec * g->n, ws,
                                      (size_t)n_vec * g->d, e);
    pthread_mutex_unlock(&c->lock);
    return rc ? st_err_prefix(e, "preparer") : 0;
}

static int read_scales(void *ctx, const char *name, uint32_t n_out, uint32_t n_in,
                       int (*sink)(void *arg, const struct st_hint_columns *c, struct st_err *e), void *arg,
                       struct st_err *e)
{
    struct st_preparer_client *c = ctx;
    pthread_mutex_lock(&c->lock);
    int rc = c->inner->read(c->inner->ctx, name, n_out, n_in, sink, arg, e);
    pthread_mutex_unlock(&c->lock);
    return rc ? st_err_prefix(e, "preparer") : 0;
}

static int check_matrices(const struct st_preparer_client *c, struct st_err *e)
{
    for (int i = 0; i < c->plan->n_op; i++) {
        const struct st_plan_op *op = &c->plan->ops[i];
        char name[ST_PLAN_NAME + 2];
        uint32_t n_out, n_in;
        if (op->place != ST_PLACE_UNTRUSTED)
            continue;
        shape_of(c->plan, op, name, &n_out, &n_in);
        if (!st_worker_client_has(c->client, name, n_out, n_in))
            return st_fail(e, ST_INPUT, "does not serve %s%s", name,
                           op->op == ST_OP_EMBED ? " for --embedding remote (sotto-worker --embedding)" : "");
    }
    return 0;
}

int st_preparer_client_new(const struct st_preparer_opts *o, struct st_preparer_client **out, struct st_err *e)
{
    const struct st_worker_client_opts co = {.addresses = &o->address,
                                             .n_address = 1,
                                             .tls_ca = o->tls_ca,
                                             .digest = o->digest,
                                             .timeout_s = o->timeout_s,
                                             .proof = o->proof,
                                             .preparer = true};
    struct st_preparer_client *c;
    struct st_address a;
    *out = NULL;
    if (!o->proof.policy)
        return st_fail(e, ST_INTERNAL, "preparer: no policy that it must prove itself by");
    if (st_address_parse(o->address, ST_WORKER_PORT, &a, e))
        return e->code;
    if (a.kind != ST_ADDRESS_TLS)
        return st_fail(e, ST_USAGE, "preparer %s: what it proves is bound to a TLS connection: want tls://HOST:PORT",
                       o->address);
    if (st_alloc(&c, 1, sizeof *c, "preparer", e))
        return e->code;
    c->plan = o->plan;
    pthread_mutex_init(&c->lock, NULL);
    if (st_worker_client_new(&co, &c->client, e) || check_matrices(c, e)) {
        st_preparer_client_free(c);
        return st_err_prefix(e, "preparer");
    }
    c->inner = st_worker_client_scales(c->client);
    c->scales = *c->inner;
    c->scales.read = read_scales;
    c->scales.ctx = c;
    c->face = (struct st_preparer){.fill = fill, .combine = combine, .scales = &c->scales, .ctx = c};
    *out = c;
    return 0;
}

void st_preparer_client_free(struct st_preparer_client *c)
{
    if (!c)
        return;
    if (c->client)
        st_worker_client_free(c->client);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

const struct st_preparer *st_preparer_client(const struct st_preparer_client *c)
{
    return c ? &c->face : NULL;
}
