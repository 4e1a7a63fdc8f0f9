/* The trusted side's client with several workers, with workers that are stopped, killed and started again, and with
 * hints that come over the wire. */
#include "expect.h"

#include "worker_trip.h"

#include <signal.h>
#include <sys/wait.h>

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

static void a_worker_that_refuses_makes_room_for_the_next_one(void **state)
{
    (void)state;
    struct fake one = FAKE(HONEST, FAILS, HONEST), two = FAKE(HONEST);
    struct st_err e;
    struct trip t;
    fake_open(&one, "unix");
    fake_open(&two, "unix");
    fake_start(&one);
    fake_start(&two);
    struct st_worker_client *c = connect_to((const char *const[]){one.address, two.address}, 2, 10);
    must_work(c);
    assert_int_equal(once(c, &e), ST_MEMORY);
    must_work(c);
    must_work(c);
    assert_int_equal(two.n_request, 2);
    st_worker_client_free(c);
    /* One that takes fewer rows than it said at first. */
    one.greeting = GREET_FEW_ROWS;
    c = connect_to((const char *const[]){one.address, two.address}, 2, 10);
    trip_init(&t, 0, 40, 7, ST_EXPOSED_FIELD);
    assert_int_equal(trip_run(c, &t), ST_INPUT);
    assert_int_equal(trip_run(c, &t), 0);
    assert_true(trip_right(&t));
    trip_free(&t);
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
        struct st_worker_client *c = connect_to((const char *const[]){f.address, two.address}, 2, 0.6);
        must_work(c);
        kill(pid, SIGSTOP);
        double start = st_now();
        assert_int_equal(once(c, &e), ST_IO);
        assert_non_null(strstr(e.msg, "timed out"));
        must_work(c);
        assert_true(st_now() - start < 5);
        kill(second, SIGSTOP); /* now none */
        assert_int_equal(once(c, &e), ST_IO);
        start = st_now();
        assert_int_equal(once(c, &e), ST_IO);
        assert_true(st_now() - start < 5);
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
        struct st_worker_client *c = start_and_connect(&f, kinds[k], 10);
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
        struct st_worker_client *c = start_and_connect(&f, "unix", cases[i].act == CUT_AND_WAIT ? 0.5 : 10);
        assert_int_equal(st_worker_client_hints(c, &s, &e), 0);
        int rc = s->read(s->ctx, "a.weight", 3, 4, take_hints, &g, &e);
        expect_refusal(rc, &e, cases[i].code, cases[i].says);
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
        struct st_worker_client *c = start_and_connect(&f, "unix", 10);
        int rc = st_worker_client_hints(c, &s, &e);
        expect_named(rc, &e, cases[i].code, cases[i].says, f.address);
        st_worker_client_free(c);
        fake_stop(&f);
    }
}

int main(void)
{
    signal(SIGPIPE, SIG_DFL); /* no call of the client may raise it */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_second_address_takes_over_and_stays),
        cmocka_unit_test(every_address_and_why_is_named_when_none_answers),
        cmocka_unit_test(a_quarantined_worker_is_never_used_again),
        cmocka_unit_test(a_worker_is_blamed_for_its_own_reply_only),
        cmocka_unit_test(a_worker_that_refuses_makes_room_for_the_next_one),
        cmocka_unit_test(killed_and_restarted_workers_are_found_again),
        cmocka_unit_test(a_stopped_worker_is_left_for_the_second_one),
        cmocka_unit_test(hints_come_whole_and_in_order),
        cmocka_unit_test(wrong_hints_are_refused),
        cmocka_unit_test(missing_and_unknown_hints_are_said_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
