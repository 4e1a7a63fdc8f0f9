/* The trusted side's end of the worker protocol against workers that are honest, slow, broken, gone, or lie. What a lie
 * within the form of the protocol is worth is not judged here: the client hands it on as it came. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "expect.h"
#include "fake_worker.h"
#include "service/worker_client.h"

#include <signal.h>
#include <sys/wait.h>

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
#define SHORT_S 0.3

static struct fake make_fake(const enum act *acts, int n_act)
{
    struct fake f = {.acts = acts, .n_act = n_act, .weights = listed, .n_weight = 4, .max_row = 1 << 20};
    memcpy(f.digest, digest, 32);
    return f;
}
#define FAKE(...) make_fake((const enum act[]){__VA_ARGS__}, sizeof((enum act[]){__VA_ARGS__}) / sizeof(enum act))

static struct st_worker_client *connect_to(const char *const *addresses, int n, double timeout_s)
{
    struct st_worker_client *c;
    struct st_err e = {0};
    struct st_worker_client_opts o = {.addresses = addresses, .n_address = n, .digest = digest, .timeout_s = timeout_s};
    if (st_worker_client_new(&o, &c, &e))
        fail_msg("%s", e.msg);
    return c;
}

static struct st_worker_client *connect_fake(struct fake *f, double timeout_s)
{
    const char *address = f->address;
    return connect_to(&address, 1, timeout_s);
}

/* One exchange of the group, or of the embedding, with rows made from a seed. */
struct trip {
    struct st_exchange x;
    struct st_exposed rows, reply;
    struct st_buf in, expected;
    struct st_err e;
};

static void trip_init(struct trip *t, int op, uint32_t n_row, uint64_t id, enum st_exposed_format format)
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

static void trip_free(struct trip *t)
{
    st_buf_free(&t->in);
    st_buf_free(&t->expected);
}

static int trip_submit(struct st_worker_client *c, struct trip *t)
{
    const struct st_transport *w = st_worker_client_transport(c);
    return w->submit(w->ctx, &t->x, &t->rows, &t->e);
}

static int trip_complete(struct st_worker_client *c, struct trip *t)
{
    const struct st_transport *w = st_worker_client_transport(c);
    return w->complete(w->ctx, &t->x, &t->reply, &t->e);
}

static bool trip_right(const struct trip *t)
{
    return t->reply.len == t->expected.len && t->reply.format == t->rows.format &&
           memcmp(t->reply.p, t->expected.p, t->reply.len) == 0;
}

static int trip_run(struct st_worker_client *c, struct trip *t)
{
    return trip_submit(c, t) ? t->e.code : trip_complete(c, t);
}

/* A whole exchange of one row; 0 and a right result, or the error in *e. */
static int once(struct st_worker_client *c, struct st_err *e)
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

static void must_work(struct st_worker_client *c)
{
    struct st_err e;
    if (once(c, &e))
        fail_msg("%s", e.msg);
}

static void products_come_back_over_every_transport(void **state)
{
    (void)state;
    static const char *const kinds[] = {"tcp", "unix", "shm"};
    for (int k = 0; k < 3; k++) {
        struct fake f = FAKE(HONEST);
        fake_open(&f, kinds[k]);
        fake_start(&f);
        struct st_worker_client *c = connect_fake(&f, 10);
        static const struct {
            int op;
            uint32_t n_row;
            enum st_exposed_format format;
        } cases[] = {{0, 1, ST_EXPOSED_FIELD},
                     {0, 3, ST_EXPOSED_F32},
                     {2, 2, ST_EXPOSED_FIELD},
                     {0, 30000, ST_EXPOSED_FIELD}, /* more than a ring or a socket holds */
                     {0, 2, ST_EXPOSED_FIELD}};
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            struct trip t;
            trip_init(&t, cases[i].op, cases[i].n_row, i, cases[i].format);
            if (trip_run(c, &t))
                fail_msg("%s: %s", kinds[k], t.e.msg);
            assert_true(trip_right(&t));
            assert_int_equal((uintptr_t)t.reply.p % 64, 0);
            trip_free(&t);
        }
        assert_int_equal(f.n_conn, 1);
        st_worker_client_free(c);
        fake_stop(&f);
    }
}

static void several_exchanges_are_answered_in_any_order(void **state)
{
    (void)state;
    struct fake f = FAKE(HONEST, REORDERED, HONEST, REORDERED, HONEST, HONEST);
    fake_open(&f, "unix");
    fake_start(&f);
    struct st_worker_client *c = connect_fake(&f, 10);
    struct trip t[6];
    for (int i = 0; i < 6; i++) {
        trip_init(&t[i], i == 3 ? 2 : 0, (uint32_t)i + 1, (uint64_t)i, ST_EXPOSED_FIELD);
        assert_int_equal(trip_submit(c, &t[i]), 0);
    }
    static const int order[] = {5, 0, 3, 4, 1, 2};
    for (int i = 0; i < 6; i++) {
        struct trip *one = &t[order[i]];
        if (trip_complete(c, one))
            fail_msg("%s", one->e.msg);
        assert_true(trip_right(one));
        trip_free(one);
    }
    st_worker_client_free(c);
    fake_stop(&f);
}

/* Both sides have much to say at once: whoever only sent would stand still. */
static void long_requests_go_out_while_long_replies_come_in(void **state)
{
    (void)state;
    static const char *const kinds[] = {"unix", "shm"};
    for (int k = 0; k < 2; k++) {
        struct fake f = FAKE(HONEST);
        fake_open(&f, kinds[k]);
        fake_start(&f);
        struct st_worker_client *c = connect_fake(&f, 10);
        struct trip t[4];
        for (int i = 0; i < 4; i++) {
            trip_init(&t[i], 0, 20000, (uint64_t)i, ST_EXPOSED_FIELD);
            if (trip_submit(c, &t[i]))
                fail_msg("%s", t[i].e.msg);
        }
        for (int i = 0; i < 4; i++) {
            assert_int_equal(trip_complete(c, &t[i]), 0);
            assert_true(trip_right(&t[i]));
            trip_free(&t[i]);
        }
        st_worker_client_free(c);
        fake_stop(&f);
    }
}

static void memory_of_replies_is_used_again(void **state)
{
    (void)state;
    struct fake f = FAKE(HONEST);
    const void *seen[2] = {NULL, NULL};
    fake_open(&f, "unix");
    fake_start(&f);
    struct st_worker_client *c = connect_fake(&f, 10);
    for (int i = 0; i < 50; i++) {
        struct trip t;
        trip_init(&t, 0, i % 2 ? 1 : 40, (uint64_t)i, ST_EXPOSED_FIELD);
        assert_int_equal(trip_run(c, &t), 0);
        assert_true(trip_right(&t));
        if (i >= 4 && i < 6)
            seen[i - 4] = t.reply.p;
        else if (i >= 6)
            assert_true(t.reply.p == seen[0] || t.reply.p == seen[1]);
        trip_free(&t);
    }
    st_worker_client_free(c);
    fake_stop(&f);
}

static void nonsense_ends_the_exchange_and_the_next_one_works(void **state)
{
    (void)state;
    static const struct {
        enum act act;
        int code;
        const char *says;
    } cases[] = {
        {GARBAGE, ST_INPUT, "not a frame"},
        {SHORT, ST_INPUT, "reply of 44 bytes, want 48"},
        {LONG, ST_INPUT, "reply of 52 bytes, want 48"},
        {OVERSIZED, ST_INPUT, "oversized frame"},
        {LARGE, ST_INPUT, "reply of 536870912 bytes, want 48"},
        {OTHER_TYPE, ST_INPUT, "type"},
        {OTHER_FORMAT, ST_INPUT, "format"},
        {OTHER_ROWS, ST_INPUT, "rows"},
        {OTHER_COUNT, ST_INPUT, "matrices"},
        {OTHER_ID, ST_INPUT, "not outstanding"},
        {REPLAYED, ST_INPUT, "not outstanding"},
        {FAILURE_TOO_LONG, ST_INPUT, "FAILURE of 100000 bytes"},
        {FAILS_ALL, ST_MEMORY, "it says: no? memory"},
        {HANGS_UP, ST_IO, "closed the connection"},
    };
    static const char *const kinds[] = {"unix", "shm"};
    for (size_t i = 0; i < 2 * sizeof cases / sizeof *cases; i++) {
        struct fake f = FAKE(HONEST, cases[i / 2].act, HONEST);
        struct st_err e;
        struct st_worker_client_stats stats;
        fake_open(&f, kinds[i % 2]);
        fake_start(&f);
        struct st_worker_client *c = connect_fake(&f, 10);
        must_work(c);
        int rc = once(c, &e);
        if (rc != cases[i / 2].code || !strstr(e.msg, cases[i / 2].says) || !strstr(e.msg, f.address))
            fail_msg("act %d: %d %s", (int)cases[i / 2].act, rc, e.msg);
        assert_null(strpbrk(e.msg, "\n\x07"));
        must_work(c);
        must_work(c);
        assert_int_equal(f.n_conn, 2);
        st_worker_client_stats(c, &stats);
        assert_int_equal(stats.n_exchange, 3);
        assert_int_equal(stats.n_failed, 1);
        st_worker_client_free(c);
        fake_stop(&f);
    }
}

static void a_failure_of_one_exchange_leaves_the_connection(void **state)
{
    (void)state;
    struct fake f = FAKE(FAILS, HONEST);
    struct trip a, b;
    fake_open(&f, "unix");
    fake_start(&f);
    struct st_worker_client *c = connect_fake(&f, 10);
    trip_init(&a, 0, 1, 0, ST_EXPOSED_FIELD);
    trip_init(&b, 0, 1, 1, ST_EXPOSED_FIELD);
    assert_int_equal(trip_submit(c, &a), 0);
    assert_int_equal(trip_submit(c, &b), 0);
    assert_int_equal(trip_complete(c, &b), 0);
    assert_true(trip_right(&b));
    assert_int_equal(trip_complete(c, &a), ST_MEMORY);
    assert_non_null(strstr(a.e.msg, "it says: no? memory"));
    assert_int_equal(trip_complete(c, &a), ST_INTERNAL); /* forgotten */
    must_work(c);
    assert_int_equal(f.n_conn, 1);
    trip_free(&a);
    trip_free(&b);
    st_worker_client_free(c);
    fake_stop(&f);
}

static void when_the_connection_ends_all_that_waits_on_it_fails(void **state)
{
    (void)state;
    struct fake f = FAKE(HONEST, GARBAGE, HONEST);
    struct trip t[3];
    fake_open(&f, "unix");
    fake_start(&f);
    struct st_worker_client *c = connect_fake(&f, 10);
    for (int i = 0; i < 3; i++) {
        trip_init(&t[i], 0, 1, (uint64_t)i, ST_EXPOSED_FIELD);
        assert_int_equal(trip_submit(c, &t[i]), 0);
    }
    assert_int_equal(trip_complete(c, &t[2]), ST_INPUT);
    assert_int_equal(trip_complete(c, &t[0]), 0); /* was there before */
    assert_true(trip_right(&t[0]));
    assert_int_equal(trip_complete(c, &t[1]), ST_INPUT);
    must_work(c);
    for (int i = 0; i < 3; i++)
        trip_free(&t[i]);
    st_worker_client_free(c);
    fake_stop(&f);
}

static void a_reply_cut_at_any_length_is_an_error(void **state)
{
    (void)state;
    static const char *const kinds[] = {"unix", "shm"};
    for (int k = 0; k < 2; k++) {
        struct fake f = FAKE(CUT);
        struct st_err e;
        fake_open(&f, kinds[k]);
        fake_start(&f);
        struct st_worker_client *c = connect_fake(&f, 10);
        for (size_t cut = 0; cut < ROUND; cut++) {
            f.cut = cut;
            int rc = once(c, &e);
            if (rc != ST_IO || !strstr(e.msg, "closed the connection"))
                fail_msg("%zu bytes: %d %s", cut, rc, e.msg);
        }
        st_worker_client_free(c);
        fake_stop(&f);
    }
}

static void a_worker_that_stops_half_way_is_given_up(void **state)
{
    (void)state;
    static const size_t cuts[] = {0, 1, ST_WORKER_HEAD, ST_WORKER_HEAD + 16, ROUND - 1};
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
        struct fake f = FAKE(CUT_AND_WAIT, HONEST);
        struct st_err e;
        f.cut = cuts[i];
        fake_open(&f, i % 2 ? "shm" : "tcp");
        fake_start(&f);
        struct st_worker_client *c = connect_fake(&f, 0.1);
        assert_int_equal(once(c, &e), ST_IO);
        assert_non_null(strstr(e.msg, "timed out"));
        must_work(c);
        st_worker_client_free(c);
        fake_stop(&f);
    }
}

static void a_late_or_trickling_worker_is_left_in_time(void **state)
{
    (void)state;
    static const enum act acts[] = {LATE, TRICKLE, LATE, TRICKLE};
    for (int i = 0; i < 4; i++) {
        struct fake f = FAKE(HONEST, acts[i]);
        struct st_err e;
        fake_open(&f, i < 2 ? "tcp" : "shm");
        fake_start(&f);
        struct st_worker_client *c = connect_fake(&f, 0.5);
        must_work(c);
        double start = st_now();
        assert_int_equal(once(c, &e), ST_IO);
        assert_non_null(strstr(e.msg, "timed out"));
        assert_true(st_now() - start >= 0.45 && st_now() - start < 1.0);
        st_worker_client_free(c);
        fake_stop(&f);
    }
}

/* What passes the form is handed on as it came; the integrity check above must catch it. */
static void wrong_values_in_the_right_form_are_handed_on_unchanged(void **state)
{
    (void)state;
    struct fake f = FAKE(HONEST, ANOTHER_MATRIX, STALE_WITH_OUR_ID, HONEST);
    struct trip first, t;
    fake_open(&f, "unix");
    fake_start(&f);
    struct st_worker_client *c = connect_fake(&f, 10);
    trip_init(&first, 0, 1, 0, ST_EXPOSED_FIELD);
    assert_int_equal(trip_run(c, &first), 0);

    trip_init(&t, 0, 1, 1, ST_EXPOSED_FIELD);
    st_buf_clear(&t.expected);
    fake_multiply(&listed[3], 103, false, (const uint8_t *)t.in.p, 1, &t.expected);
    fake_multiply(&listed[0], 100, false, (const uint8_t *)t.in.p, 1, &t.expected);
    assert_int_equal(trip_run(c, &t), 0);
    assert_true(trip_right(&t));

    struct trip u;
    trip_init(&u, 0, 1, 2, ST_EXPOSED_FIELD);
    assert_int_equal(trip_run(c, &u), 0);
    assert_false(trip_right(&u));
    assert_memory_equal(u.reply.p, t.expected.p, u.reply.len);
    must_work(c);
    trip_free(&first);
    trip_free(&t);
    trip_free(&u);
    st_worker_client_free(c);
    fake_stop(&f);
}

static void a_second_reply_to_one_request_ends_the_connection(void **state)
{
    (void)state;
    struct fake f = FAKE(TWICE, HONEST);
    struct st_err e;
    fake_open(&f, "unix");
    fake_start(&f);
    struct st_worker_client *c = connect_fake(&f, 10);
    must_work(c);
    assert_int_equal(once(c, &e), ST_INPUT);
    assert_non_null(strstr(e.msg, "not outstanding"));
    must_work(c);
    st_worker_client_free(c);
    fake_stop(&f);
}

static void flipped_bits_cause_errors_or_the_form_that_was_asked_for(void **state)
{
    (void)state;
    struct fake f = FAKE(FLIPPED);
    int n_error = 0;
    fake_open(&f, "unix");
    fake_start(&f);
    struct st_worker_client *c = connect_fake(&f, 0.05);
    for (int i = 0; i < 300; i++) {
        struct trip t;
        trip_init(&t, 0, 1, (uint64_t)i, ST_EXPOSED_FIELD);
        if (trip_run(c, &t) == 0)
            assert_true(trip_right(&t)); /* the time that it says it took was hit */
        else
            n_error += t.e.code == ST_INPUT || t.e.code == ST_UNSUPPORTED || t.e.code == ST_IO;
        trip_free(&t);
    }
    assert_true(n_error > 200);
    st_worker_client_free(c);
    fake_stop(&f);
}

static int greeted(struct fake *f, const char *kind, double timeout_s, struct st_err *e)
{
    struct st_worker_client *c;
    const char *address = f->address;
    struct st_worker_client_opts o = {.addresses = &address, .n_address = 1, .digest = digest, .timeout_s = timeout_s};
    fake_open(f, kind);
    fake_start(f);
    int rc = st_worker_client_new(&o, &c, e);
    if (!rc)
        st_worker_client_free(c);
    fake_stop(f);
    return rc;
}

static void wrong_greetings_are_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        enum greeting greeting;
        int code;
        const char *says;
    } cases[] = {
        {GREET_WRONG_DIGEST, ST_VERIFY, "another model: want digest 0102030000000000..., got 0102030000000000..."},
        {GREET_WRONG_VERSION, ST_UNSUPPORTED, "worker protocol version 2; this side has 1"},
        {GREET_GARBAGE, ST_INPUT, "not a frame"},
        {GREET_FAILURE, ST_VERIFY, "it says: no?such ?[31mmodel"},
        {GREET_WITH_PRODUCT, ST_INPUT, "instead of a WELCOME"},
        {GREET_TWICE_THE_SAME, ST_INPUT, "lists b.weight twice"},
        {GREET_HUGE, ST_INPUT, "oversized frame"},
        {GREET_HUNG_UP, ST_IO, "closed the connection"},
        {GREET_SILENCE, ST_IO, "timed out"},
    };
    static const char *const kinds[] = {"tcp", "unix", "shm"};
    for (size_t i = 0; i < 3 * sizeof cases / sizeof *cases; i++) {
        struct fake f = FAKE(HONEST);
        struct st_err e = {0};
        f.greeting = cases[i / 3].greeting;
        int rc = greeted(&f, kinds[i % 3], f.greeting == GREET_SILENCE ? 0.2 : 10, &e);
        if (rc != cases[i / 3].code || !strstr(e.msg, cases[i / 3].says) || !strstr(e.msg, f.address))
            fail_msg("greeting %d over %s: %d %s", (int)f.greeting, kinds[i % 3], rc, e.msg);
    }
}

static void a_greeting_cut_at_any_length_is_an_error(void **state)
{
    (void)state;
    struct fake model = FAKE(HONEST);
    struct st_buf b = {0};
    fake_welcome(&model, &b);
    for (size_t cut = 0; cut < b.len; cut++) {
        struct fake f = FAKE(HONEST);
        struct st_err e = {0};
        f.greeting = GREET_CUT;
        f.cut = cut;
        int rc = greeted(&f, "unix", 10, &e);
        if (rc != ST_IO || !strstr(e.msg, "closed the connection"))
            fail_msg("%zu bytes: %d %s", cut, rc, e.msg);
    }
    st_buf_free(&b);
}

static void what_the_worker_has_not_is_refused_before_it_is_sent(void **state)
{
    (void)state;
    static const struct {
        enum greeting greeting;
        uint32_t n_row;
        const char *says;
    } cases[] = {{GREET_FEW_ROWS, 2, "takes 1 rows at a time, want 2"},
                 {GREET_OTHER_SHAPE, 1, "b.weight: want [5,4], it has [6,4]"},
                 {GREET, 1, "has no matrix c.weight"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct fake f = FAKE(HONEST);
        struct trip t;
        f.greeting = cases[i].greeting;
        fake_open(&f, "unix");
        fake_start(&f);
        struct st_worker_client *c = connect_fake(&f, 10);
        trip_init(&t, 0, cases[i].n_row, 0, ST_EXPOSED_FIELD);
        plan_weights[0].name[0] = f.greeting == GREET ? 'c' : 'a';
        assert_int_equal(trip_run(c, &t), ST_INPUT);
        plan_weights[0].name[0] = 'a';
        if (!strstr(t.e.msg, cases[i].says))
            fail_msg("%s", t.e.msg);
        assert_int_equal(f.n_request, 0);
        assert_true(st_worker_client_has(c, "a.weight", 3, 4));
        assert_false(st_worker_client_has(c, "a.weight", 4, 3));
        assert_false(st_worker_client_has(c, "c.weight", 3, 4));
        assert_int_equal(st_worker_client_max_row(c), f.greeting == GREET_FEW_ROWS ? 1 : 1 << 20);
        trip_free(&t);
        st_worker_client_free(c);
        fake_stop(&f);
    }
}

static void a_connection_that_ended_while_idle_costs_no_exchange(void **state)
{
    (void)state;
    struct fake f = FAKE(LAST);
    fake_open(&f, "unix");
    fake_start(&f);
    struct st_worker_client *c = connect_fake(&f, 10);
    for (int i = 0; i < 3; i++) {
        must_work(c);
        usleep(150000);
    }
    st_worker_client_free(c);
    fake_stop(&f);
}

static void abandoned_exchanges_do_not_fill_the_table(void **state)
{
    (void)state;
    struct fake f = FAKE(HONEST);
    struct trip t[64], more;
    fake_open(&f, "unix");
    fake_start(&f);
    struct st_worker_client *c = connect_fake(&f, 10);
    for (int i = 0; i < 200; i++) { /* one number again and again, never completed */
        trip_init(&more, 0, 1, 7, ST_EXPOSED_FIELD);
        assert_int_equal(trip_submit(c, &more), 0);
        if (i < 199)
            trip_free(&more);
        if (i % 10 == 0)
            must_work(c);
    }
    assert_int_equal(trip_complete(c, &more), 0);
    assert_true(trip_right(&more));
    trip_free(&more);
    for (int i = 0; i < 64; i++) {
        trip_init(&t[i], 0, 1, 1000 + (uint64_t)i, ST_EXPOSED_FIELD);
        if (i < 63) /* one is lent */
            assert_int_equal(trip_submit(c, &t[i]), 0);
    }
    assert_int_equal(trip_submit(c, &t[63]), ST_INTERNAL);
    for (int i = 0; i < 64; i++) {
        if (i < 63) {
            assert_int_equal(trip_complete(c, &t[i]), 0);
            assert_true(trip_right(&t[i]));
        }
        trip_free(&t[i]);
    }
    st_worker_client_free(c);
    fake_stop(&f);
}

static void the_second_address_takes_over_and_stays(void **state)
{
    (void)state;
    struct fake one = FAKE(HONEST, HANGS_UP, HONEST), two = FAKE(HONEST, HONEST, GARBAGE, HONEST);
    struct st_worker_client_stats stats;
    struct st_err e;
    fake_open(&one, "tcp");
    fake_open(&two, "shm");
    fake_start(&one);
    fake_start(&two);
    struct st_worker_client *c = connect_to((const char *const[]){one.address, two.address}, 2, 10);
    must_work(c);
    assert_int_equal(once(c, &e), ST_IO);
    must_work(c);
    must_work(c);
    assert_int_equal(two.n_request, 2);
    st_worker_client_stats(c, &stats);
    assert_string_equal(stats.address, two.address);
    assert_int_equal(once(c, &e), ST_INPUT); /* and back to the first */
    must_work(c);
    assert_int_equal(one.n_request, 3);
    st_worker_client_free(c);
    fake_stop(&one);
    fake_stop(&two);
}

static void every_address_and_why_is_named_when_none_answers(void **state)
{
    (void)state;
    struct fake f = FAKE(HONEST);
    struct st_err e = {0};
    struct st_worker_client *c;
    f.greeting = GREET_WRONG_VERSION;
    fake_open(&f, "unix");
    fake_start(&f);
    const char *addresses[] = {"unix:/nonexistent/worker", f.address, "tcp://127.0.0.1:1"};
    struct st_worker_client_opts o = {.addresses = addresses, .n_address = 3, .digest = digest, .timeout_s = 5};
    assert_int_equal(st_worker_client_new(&o, &c, &e), ST_IO);
    assert_non_null(strstr(e.msg, "worker unix:/nonexistent/worker: No such file or directory"));
    assert_non_null(strstr(e.msg, "worker protocol version 2; this side has 1"));
    assert_non_null(strstr(e.msg, "worker tcp://127.0.0.1:1: Connection refused"));
    o.n_address = 0;
    assert_int_equal(st_worker_client_new(&o, &c, &e), ST_USAGE);
    addresses[0] = "http://worker";
    o.n_address = 1;
    assert_int_equal(st_worker_client_new(&o, &c, &e), ST_USAGE);
    fake_stop(&f);
}

static void a_quarantined_worker_is_never_used_again(void **state)
{
    (void)state;
    struct fake one = FAKE(HONEST, ANOTHER_MATRIX, HONEST), two = FAKE(HONEST, HONEST, ANOTHER_MATRIX);
    struct st_worker_client_stats stats;
    struct st_err e;
    struct trip t;
    fake_open(&one, "unix");
    fake_open(&two, "unix");
    fake_start(&one);
    fake_start(&two);
    /* The first one under two numbers. */
    struct st_worker_client *c = connect_to((const char *const[]){one.address, two.address, one.address}, 3, 10);
    st_worker_client_quarantine(c); /* none has answered yet */
    must_work(c);
    trip_init(&t, 0, 1, 99, ST_EXPOSED_FIELD);
    assert_int_equal(trip_run(c, &t), 0);
    assert_false(trip_right(&t));
    st_worker_client_quarantine(c);
    must_work(c);
    must_work(c);
    assert_int_equal(one.n_request, 2);
    st_worker_client_stats(c, &stats);
    assert_int_equal(stats.n_quarantined, 2);
    assert_int_equal(trip_run(c, &t), 0);
    assert_false(trip_right(&t));
    st_worker_client_quarantine(c);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(once(c, &e), ST_VERIFY);
        assert_non_null(strstr(e.msg, "no worker is left: 3 of 3 returned wrong results"));
    }
    assert_int_equal(one.n_request + two.n_request, 5);
    trip_free(&t);
    st_worker_client_free(c);
    fake_stop(&one);
    fake_stop(&two);
}

static void a_worker_is_blamed_for_its_own_reply_only(void **state)
{
    (void)state;
    struct fake one = FAKE(HONEST, HANGS_UP), two = FAKE(HONEST);
    struct trip a, b, d;
    fake_open(&one, "unix");
    fake_open(&two, "unix");
    fake_start(&one);
    fake_start(&two);
    struct st_worker_client *c = connect_to((const char *const[]){one.address, two.address}, 2, 10);
    trip_init(&a, 0, 1, 0, ST_EXPOSED_FIELD);
    trip_init(&b, 0, 1, 1, ST_EXPOSED_FIELD);
    trip_init(&d, 0, 1, 2, ST_EXPOSED_FIELD);
    assert_int_equal(trip_submit(c, &a), 0);
    assert_int_equal(trip_submit(c, &b), 0);
    assert_int_equal(trip_complete(c, &b), ST_IO);
    assert_int_equal(trip_submit(c, &d), 0); /* to the second */
    assert_int_equal(trip_complete(c, &a), 0);
    st_worker_client_quarantine(c); /* of the first, whose reply that was */
    assert_int_equal(trip_complete(c, &d), 0);
    assert_true(trip_right(&d));
    must_work(c);
    assert_int_equal(two.n_conn, 1);
    trip_free(&a);
    trip_free(&b);
    trip_free(&d);
    st_worker_client_free(c);
    fake_stop(&one);
    fake_stop(&two);
}

/* An honest worker as a process of its own. */
static pid_t spawn(struct fake *f)
{
    pid_t pid = fork();
    if (pid == 0) {
        fake_run(f);
        _exit(0);
    }
    assert_true(pid > 0);
    close(f->fd);
    return pid;
}

static void killed_and_restarted_workers_are_found_again(void **state)
{
    (void)state;
    static const char *const kinds[] = {"unix", "shm"};
    for (int k = 0; k < 2; k++) {
        struct fake f = FAKE(HONEST);
        struct st_err e;
        struct trip t;
        fake_open(&f, kinds[k]);
        pid_t pid = spawn(&f);
        struct st_worker_client *c = connect_fake(&f, 5);
        must_work(c);
        kill(pid, SIGSTOP);
        trip_init(&t, 0, 1, 5, ST_EXPOSED_FIELD);
        assert_int_equal(trip_submit(c, &t), 0);
        kill(pid, SIGKILL); /* while its answer is awaited */
        waitpid(pid, NULL, 0);
        assert_int_equal(trip_complete(c, &t), ST_IO);
        assert_non_null(strstr(t.e.msg, "closed the connection"));
        trip_free(&t);
        assert_int_equal(once(c, &e), ST_IO);
        assert_non_null(strstr(e.msg, "Connection refused"));
        f.fd = fake_listen_unix(f.path);
        pid = spawn(&f);
        must_work(c);
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        unlink(f.path);
        st_worker_client_free(c);
    }
}

static void a_stopped_worker_is_left_for_the_second_one(void **state)
{
    (void)state;
    for (int k = 0; k < 2; k++) {
        struct fake f = FAKE(HONEST), two = FAKE(HONEST);
        struct st_err e;
        fake_open(&f, k ? "shm" : "unix");
        fake_open(&two, "unix");
        pid_t pid = spawn(&f), second = spawn(&two);
        struct st_worker_client *c = connect_to((const char *const[]){f.address, two.address}, 2, SHORT_S);
        must_work(c);
        kill(pid, SIGSTOP);
        double start = st_now();
        assert_int_equal(once(c, &e), ST_IO);
        assert_non_null(strstr(e.msg, "timed out"));
        must_work(c);
        assert_true(st_now() - start < 3);
        kill(second, SIGSTOP); /* now none */
        assert_int_equal(once(c, &e), ST_IO);
        start = st_now();
        assert_int_equal(once(c, &e), ST_IO);
        assert_true(st_now() - start < 3);
        kill(pid, SIGCONT);
        must_work(c);
        kill(pid, SIGKILL);
        kill(second, SIGKILL);
        waitpid(pid, NULL, 0);
        waitpid(second, NULL, 0);
        unlink(f.path);
        unlink(two.path);
        st_worker_client_free(c);
    }
}

/* What a sink was given. */
struct given {
    uint32_t weight, n_in, next;
    uint32_t fail_at;
};

static int take_hints(void *arg, const struct st_hint_columns *c, struct st_err *e)
{
    struct given *g = arg;
    assert_int_equal(c->first, g->next);
    assert_int_equal(c->m, FAKE_M);
    for (uint32_t i = 0; i < c->n; i++) {
        uint32_t column = c->first + i;
        assert_true(c->scale[i] == 0.5f + (float)column && c->norm[i] == 1.0f + (float)column);
        for (uint32_t j = 0; j < c->m; j += 97)
            assert_int_equal(c->h[(size_t)i * c->m + j], fake_hint(g->weight, column, j));
    }
    g->next += c->n;
    if (g->fail_at && g->next >= g->fail_at)
        return st_fail(e, ST_VERIFY, "the sink has had enough");
    return 0;
}

static void hints_come_whole_and_in_order(void **state)
{
    (void)state;
    static const char *const kinds[] = {"unix", "shm"};
    struct st_worker_weight wide[4];
    memcpy(wide, listed, sizeof wide);
    wide[2].n_out = 2000; /* other.weight, in ten pieces */
    for (int k = 0; k < 2; k++) {
        struct fake f = FAKE(HONEST, HONEST, HONEST, REORDERED, HONEST);
        const struct st_hint_source *s;
        struct given g = {.weight = 2}, h = {.weight = 3}, stops = {.weight = 2, .fail_at = 300};
        struct st_err e = {0};
        f.weights = wide;
        fake_open(&f, kinds[k]);
        fake_start(&f);
        struct st_worker_client *c = connect_fake(&f, 10);
        assert_int_equal(st_worker_client_hints(c, &s, &e), 0);
        assert_string_equal(s->params, "lwe-1280-12.8");
        assert_memory_equal(s->digest, digest, 32);
        if (s->read(s->ctx, "other.weight", 2000, 7, take_hints, &g, &e))
            fail_msg("%s", e.msg);
        assert_int_equal(g.next, 2000);
        assert_int_equal(s->read(s->ctx, "a.weight", 3, 4, take_hints, &h, &e), 0);
        assert_int_equal(h.next, 3);
        /* A sink that fails ends it; the connection stays good. */
        assert_int_equal(s->read(s->ctx, "other.weight", 2000, 7, take_hints, &stops, &e), ST_VERIFY);
        assert_string_equal(e.msg, "the sink has had enough");
        must_work(c);
        assert_int_equal(s->read(s->ctx, "a.weight", 4, 4, take_hints, &h, &e), ST_INPUT);
        assert_non_null(strstr(e.msg, "has no matrix a.weight [4,4]"));
        assert_int_equal(f.n_conn, 1);
        st_worker_client_free(c);
        fake_stop(&f);
    }
}

static void wrong_hints_are_refused(void **state)
{
    (void)state;
    static const struct {
        enum act act;
        int code;
        const char *says;
    } cases[] = {
        {OTHER_COLUMNS, ST_INPUT, "other columns"},
        {NOT_CANONICAL, ST_INPUT, "a.weight: hints of column 0"},
        {NOT_A_NUMBER, ST_INPUT, "a.weight: hints of column 0"},
        {GARBAGE, ST_INPUT, "not a frame"},
        {CUT, ST_IO, "closed the connection"},
        {CUT_AND_WAIT, ST_IO, "timed out"},
        {FAILS, ST_MEMORY, "it says: no? memory"},
        {OTHER_TYPE, ST_INPUT, "reply of type 2"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct fake f = FAKE(cases[i].act, HONEST);
        const struct st_hint_source *s;
        struct given g = {.weight = 3};
        struct st_err e = {0};
        f.cut = 5000;
        fake_open(&f, "unix");
        fake_start(&f);
        struct st_worker_client *c = connect_fake(&f, cases[i].act == CUT_AND_WAIT ? 0.2 : 10);
        assert_int_equal(st_worker_client_hints(c, &s, &e), 0);
        int rc = s->read(s->ctx, "a.weight", 3, 4, take_hints, &g, &e);
        if (rc != cases[i].code || !strstr(e.msg, cases[i].says))
            fail_msg("act %d: %d %s", (int)cases[i].act, rc, e.msg);
        must_work(c);
        st_worker_client_free(c);
        fake_stop(&f);
    }
}

static void missing_and_unknown_hints_are_said_so(void **state)
{
    (void)state;
    static const struct {
        enum greeting greeting;
        int code;
        const char *says;
    } cases[] = {{GREET_WITHOUT_HINTS, ST_INPUT, "missing hints"}, {GREET_UNKNOWN_HINTS, ST_USAGE, "lwe-1"}};
    for (int i = 0; i < 2; i++) {
        struct fake f = FAKE(HONEST);
        const struct st_hint_source *s;
        struct st_err e = {0};
        f.greeting = cases[i].greeting;
        fake_open(&f, "unix");
        fake_start(&f);
        struct st_worker_client *c = connect_fake(&f, 10);
        int rc = st_worker_client_hints(c, &s, &e);
        if (rc != cases[i].code || !strstr(e.msg, cases[i].says) || !strstr(e.msg, f.address))
            fail_msg("%d %s", rc, e.msg);
        st_worker_client_free(c);
        fake_stop(&f);
    }
}

int main(void)
{
    signal(SIGPIPE, SIG_DFL); /* no call of the client may raise it */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_come_back_over_every_transport),
        cmocka_unit_test(several_exchanges_are_answered_in_any_order),
        cmocka_unit_test(long_requests_go_out_while_long_replies_come_in),
        cmocka_unit_test(memory_of_replies_is_used_again),
        cmocka_unit_test(nonsense_ends_the_exchange_and_the_next_one_works),
        cmocka_unit_test(a_failure_of_one_exchange_leaves_the_connection),
        cmocka_unit_test(when_the_connection_ends_all_that_waits_on_it_fails),
        cmocka_unit_test(a_reply_cut_at_any_length_is_an_error),
        cmocka_unit_test(a_worker_that_stops_half_way_is_given_up),
        cmocka_unit_test(a_late_or_trickling_worker_is_left_in_time),
        cmocka_unit_test(wrong_values_in_the_right_form_are_handed_on_unchanged),
        cmocka_unit_test(a_second_reply_to_one_request_ends_the_connection),
        cmocka_unit_test(flipped_bits_cause_errors_or_the_form_that_was_asked_for),
        cmocka_unit_test(wrong_greetings_are_refused_by_name),
        cmocka_unit_test(a_greeting_cut_at_any_length_is_an_error),
        cmocka_unit_test(what_the_worker_has_not_is_refused_before_it_is_sent),
        cmocka_unit_test(a_connection_that_ended_while_idle_costs_no_exchange),
        cmocka_unit_test(abandoned_exchanges_do_not_fill_the_table),
        cmocka_unit_test(the_second_address_takes_over_and_stays),
        cmocka_unit_test(every_address_and_why_is_named_when_none_answers),
        cmocka_unit_test(a_quarantined_worker_is_never_used_again),
        cmocka_unit_test(a_worker_is_blamed_for_its_own_reply_only),
        cmocka_unit_test(killed_and_restarted_workers_are_found_again),
        cmocka_unit_test(a_stopped_worker_is_left_for_the_second_one),
        cmocka_unit_test(hints_come_whole_and_in_order),
        cmocka_unit_test(wrong_hints_are_refused),
        cmocka_unit_test(missing_and_unknown_hints_are_said_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
