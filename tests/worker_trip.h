/* A client of the worker protocol in front of fake workers: a plan, exchanges, and what must come back. Include
 * expect.h first; one test program each. */
#ifndef ST_TESTS_WORKER_TRIP_H
#define ST_TESTS_WORKER_TRIP_H

#include "fake_worker.h"
#include "service/worker_client.h"

/* The plan: a group of two matrices, and the embedding. */
static struct st_plan_weight plan_weights[] = {
    {.name = "a.weight", .role = ST_ROLE_Q, .n_out = 3, .n_in = 4, .tied_to = -1},
    {.name = "b.weight", .role = ST_ROLE_K, .n_out = 5, .n_in = 4, .tied_to = -1},
    {.name = "embed.weight", .role = ST_ROLE_EMBED, .n_out = 6, .n_in = 4, .tied_to = -1},
};
static struct st_plan_op plan_ops[] = {
    {.op = ST_OP_LINEAR, .weight = 0, .bias = -1, .group = 1},
    {.op = ST_OP_LINEAR, .weight = 1, .bias = -1, .group = 1},
    {.op = ST_OP_EMBED, .weight = 2, .bias = -1},
};
static const struct st_plan plan = {.ops = plan_ops, .weights = plan_weights, .n_op = 3, .n_weight = 3};

/* What workers list, in an order of their own. */
static struct st_worker_weight listed[] = {{"b.weight", 5, 4, false},
                                           {"embed.weight^T", 4, 6, false},
                                           {"other.weight", 7, 7, true},
                                           {"a.weight", 3, 4, false}};
static const uint8_t digest[32] = {1, 2, 3};

#define GROUP_REPLY ((3 + 5) * 4)
#define ROUND (ST_WORKER_HEAD + 16 + GROUP_REPLY) /* bytes of the reply to one row */

static inline struct fake make_fake(const enum act *acts, int n_act)
{
    struct fake f = {.acts = acts, .n_act = n_act, .weights = listed, .n_weight = 4, .max_row = 1 << 20};
    memcpy(f.digest, digest, 32);
    return f;
}
#define FAKE(...) make_fake((const enum act[]){__VA_ARGS__}, sizeof((enum act[]){__VA_ARGS__}) / sizeof(enum act))

static inline struct st_worker_client *connect_to(const char *const *addresses, int n, double timeout_s)
{
    struct st_worker_client *c;
    struct st_err e = {0};
    struct st_worker_client_opts o = {.addresses = addresses, .n_address = n, .digest = digest, .timeout_s = timeout_s};
    if (st_worker_client_new(&o, &c, &e))
        fail_msg("%s", e.msg);
    return c;
}

static inline struct st_worker_client *connect_fake(struct fake *f, double timeout_s)
{
    const char *address = f->address;
    return connect_to(&address, 1, timeout_s);
}

/* The fake worker at an address of this kind, and its client. */
static inline struct st_worker_client *start_and_connect(struct fake *f, const char *kind, double timeout_s)
{
    fake_open(f, kind);
    fake_start(f);
    return connect_fake(f, timeout_s);
}

/* A refusal that says what it must, and of which worker. */
static inline void expect_named(int rc, const struct st_err *e, int code, const char *says, const char *address)
{
    expect_refusal(rc, e, code, says);
    expect_refusal(rc, e, code, address);
}

/* One exchange of the group, or of the embedding, with rows made from a seed. */
struct trip {
    struct st_exchange x;
    struct st_exposed rows, reply;
    struct st_buf in, expected;
    struct st_err e;
};

static inline void trip_init(struct trip *t, int op, uint32_t n_row, uint64_t id, enum st_exposed_format format)
{
    bool embed = op == 2;
    uint32_t n_in = embed ? 6 : 4;
    struct st_rng r;
    *t = (struct trip){.x = {.plan = &plan, .ops = &plan_ops[op], .n_op = embed ? 1 : 2, .n_row = n_row, .id = id}};
    st_rng_seed(&r, id + 1);
    for (uint32_t i = 0; i < n_row * n_in; i++) {
        uint32_t u = (uint32_t)(st_rng_next(&r) % ST_FQ);
        float f = (float)(int)(st_rng_next(&r) % 100) - 50;
        st_buf_add(&t->in, format == ST_EXPOSED_F32 ? (void *)&f : (void *)&u, 4);
    }
    t->rows = (struct st_exposed){.p = t->in.p, .len = t->in.len, .format = format};
    for (int i = 0; i < t->x.n_op; i++) {
        uint32_t id_there = embed ? 1 : i == 0 ? 3 : 0;
        fake_multiply(&listed[id_there], id_there, format == ST_EXPOSED_F32, (const uint8_t *)t->in.p, n_row,
                      &t->expected);
    }
}

static inline void trip_free(struct trip *t)
{
    st_buf_free(&t->in);
    st_buf_free(&t->expected);
}

static inline int trip_submit(struct st_worker_client *c, struct trip *t)
{
    const struct st_transport *w = st_worker_client_transport(c);
    return w->submit(w->ctx, &t->x, &t->rows, &t->e);
}

static inline int trip_complete(struct st_worker_client *c, struct trip *t)
{
    const struct st_transport *w = st_worker_client_transport(c);
    return w->complete(w->ctx, &t->x, &t->reply, &t->e);
}

static inline bool trip_right(const struct trip *t)
{
    return t->reply.len == t->expected.len && t->reply.format == t->rows.format &&
           memcmp(t->reply.p, t->expected.p, t->reply.len) == 0;
}

static inline int trip_run(struct st_worker_client *c, struct trip *t)
{
    return trip_submit(c, t) ? t->e.code : trip_complete(c, t);
}

/* A whole exchange of one row; 0 and a right result, or the error in *e. */
static inline int once(struct st_worker_client *c, struct st_err *e)
{
    static uint64_t id;
    struct trip t;
    trip_init(&t, 0, 1, id++, ST_EXPOSED_FIELD);
    int rc = trip_run(c, &t);
    if (!rc)
        assert_true(trip_right(&t));
    *e = t.e;
    trip_free(&t);
    return rc;
}

static inline void must_work(struct st_worker_client *c)
{
    struct st_err e;
    if (once(c, &e))
        fail_msg("%s", e.msg);
}

#endif
