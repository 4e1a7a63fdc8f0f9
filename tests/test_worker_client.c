/* The trusted side's end of the worker protocol against workers that are honest, slow, broken, gone, or lie. What a lie
 * within the form of the protocol is worth is not judged here: the client hands it on as it came. */
#include "expect.h"

#include "worker_trip.h"

#include <signal.h>

static void products_come_back_over_every_transport(void **state)
{
    (void)state;
    static const char *const kinds[] = {"tcp", "unix", "shm"};
    for (int k = 0; k < 3; k++) {
        struct fake f = FAKE(HONEST);
        struct st_worker_client *c = start_and_connect(&f, kinds[k], 10);
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
    struct st_worker_client *c = start_and_connect(&f, "unix", 10);
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
        struct st_worker_client *c = start_and_connect(&f, kinds[k], 10);
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
    struct st_worker_client *c = start_and_connect(&f, "unix", 10);
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
        {FAILS_ALL, ST_MEMORY, "it says: no? memory??1A"},
        {HANGS_UP, ST_IO, "closed the connection"},
    };
    static const char *const kinds[] = {"unix", "shm"};
    for (size_t i = 0; i < 2 * sizeof cases / sizeof *cases; i++) {
        struct fake f = FAKE(HONEST, cases[i / 2].act, HONEST);
        struct st_err e;
        struct st_worker_client_stats stats;
        struct st_worker_client *c = start_and_connect(&f, kinds[i % 2], 10);
        must_work(c);
        int rc = once(c, &e);
        expect_named(rc, &e, cases[i / 2].code, cases[i / 2].says, f.address);
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
    struct st_worker_client *c = start_and_connect(&f, "unix", 10);
    trip_init(&a, 0, 1, 0, ST_EXPOSED_FIELD);
    trip_init(&b, 0, 1, 1, ST_EXPOSED_FIELD);
    assert_int_equal(trip_submit(c, &a), 0);
    assert_int_equal(trip_submit(c, &b), 0);
    assert_int_equal(trip_complete(c, &b), 0);
    assert_true(trip_right(&b));
    assert_int_equal(trip_complete(c, &a), ST_MEMORY);
    assert_non_null(strstr(a.e.msg, "it says: no? memory??1A"));
    assert_int_equal(trip_complete(c, &a), ST_INTERNAL); /* forgotten */
    must_work(c);
    assert_int_equal(f.n_conn, 1);
    trip_free(&a);
    trip_free(&b);
    st_worker_client_free(c);
    fake_stop(&f);
}

static void a_refusal_in_the_middle_of_a_request_is_heard(void **state)
{
    (void)state;
    static const char *const kinds[] = {"unix", "shm"};
    for (int k = 0; k < 2; k++) {
        struct fake f = FAKE(REFUSES, HONEST);
        struct trip t;
        struct st_worker_client *c = start_and_connect(&f, kinds[k], 10);
        trip_init(&t, 0, 100000, 0, ST_EXPOSED_FIELD); /* far more than is taken before the refusal */
        assert_int_equal(trip_run(c, &t), ST_IO);
        if (!strstr(t.e.msg, "it says: not now"))
            fail_msg("%s: %s", kinds[k], t.e.msg);
        must_work(c);
        trip_free(&t);
        st_worker_client_free(c);
        fake_stop(&f);
    }
}

static void when_the_connection_ends_all_that_waits_on_it_fails(void **state)
{
    (void)state;
    struct fake f = FAKE(HONEST, GARBAGE, HONEST);
    struct trip t[3];
    struct st_worker_client *c = start_and_connect(&f, "unix", 10);
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
        struct st_worker_client *c = start_and_connect(&f, kinds[k], 10);
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
        struct st_worker_client *c = start_and_connect(&f, i % 2 ? "shm" : "tcp", 0.3);
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
        struct st_worker_client *c = start_and_connect(&f, i < 2 ? "tcp" : "shm", 0.5);
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
    struct st_worker_client *c = start_and_connect(&f, "unix", 10);
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
    struct st_worker_client *c = start_and_connect(&f, "unix", 10);
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
    struct st_worker_client *c = start_and_connect(&f, "unix", 0.05);
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
        {GREET_HUNG_UP, ST_IO, "closed the connection instead of a greeting"},
        {GREET_SILENCE, ST_IO, "timed out"},
    };
    static const char *const kinds[] = {"tcp", "unix", "shm"};
    for (size_t i = 0; i < 3 * sizeof cases / sizeof *cases; i++) {
        struct fake f = FAKE(HONEST);
        struct st_err e = {0};
        f.greeting = cases[i / 3].greeting;
        int rc = greeted(&f, kinds[i % 3], f.greeting == GREET_SILENCE ? 0.2 : 10, &e);
        expect_named(rc, &e, cases[i / 3].code, cases[i / 3].says, f.address);
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
        struct st_worker_client *c = start_and_connect(&f, "unix", 10);
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
    struct st_worker_client *c = start_and_connect(&f, "unix", 10);
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
    struct st_worker_client *c = start_and_connect(&f, "unix", 10);
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
        cmocka_unit_test(a_refusal_in_the_middle_of_a_request_is_heard),
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
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
