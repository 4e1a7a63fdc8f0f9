/* Spent tokens: each is taken once, whoever asks, whatever dies; and two gateways on one PostgreSQL. */
#include "base/log.h"
#include "expect.h"
#include "gateway_world.h"
#include "postgres_make.h"

#include <sqlite3.h>
#include <sys/stat.h>

/* ---- one store ---- */

struct ask {
    struct st_spent_take *take;
    int answers, fresh;
    enum st_spent_answer last;
};

static void on_fresh(void *arg)
{
    struct ask *q = arg;
    assert_int_equal(q->answers, 0);
    q->fresh++;
}

static void on_taken(void *arg, enum st_spent_answer a)
{
    struct ask *q = arg;
    q->answers++;
    q->last = a;
    assert_int_equal(q->fresh, a == ST_SPENT_TAKEN ? 1 : a == ST_SPENT_BEFORE ? 0 : q->fresh);
}

static int take(struct st_spent *s, const uint8_t digest[32], struct ask *q, struct st_err *e)
{
    const struct st_spent_events ev = {.fresh = on_fresh, .done = on_taken, .arg = q};
    return st_spent_take(s, digest, 20000, &ev, &q->take, e);
}

static struct event_base *base;

static struct st_spent *open_store(const char *where)
{
    struct st_err e;
    struct st_spent *s;
    assert_ok(st_spent_open(base, &(struct st_spent_opts){.where = where}, &s, &e), &e);
    return s;
}

static void digest_of(unsigned i, uint8_t out[32])
{
    st_sha256(&i, sizeof i, out);
}

/* Asks for tokens 0..n-1 at once and waits; how many were taken. */
static int take_many(struct st_spent *s, unsigned n, enum st_spent_answer want)
{
    struct ask *q = calloc(n, sizeof *q);
    struct st_err e;
    int done = 0, hits = 0;
    for (unsigned i = 0; i < n; i++) {
        uint8_t d[32];
        digest_of(i, d);
        assert_ok(take(s, d, &q[i], &e), &e);
    }
    while (done < (int)n) {
        event_base_loop(base, EVLOOP_ONCE);
        done = 0;
        for (unsigned i = 0; i < n; i++)
            done += q[i].answers;
    }
    for (unsigned i = 0; i < n; i++)
        hits += q[i].last == want;
    free(q);
    return hits;
}

static void expect_once(const char *where, bool durable)
{
    struct st_spent *s = open_store(where);
    assert_int_equal(take_many(s, 1000, ST_SPENT_TAKEN), 1000);
    assert_int_equal(take_many(s, 1001, ST_SPENT_TAKEN), 1);
    st_spent_close(s);
    if (!durable)
        return;
    s = open_store(where);
    assert_int_equal(take_many(s, 1002, ST_SPENT_TAKEN), 1);
    st_spent_close(s);
}

/* One token in one batch many times: the first alone has it. */
static void expect_one_of_a_batch(const char *where)
{
    struct st_spent *s = open_store(where);
    struct ask q[300] = {{0}};
    struct st_err e;
    uint8_t d[32];
    int done = 0, taken = 0;
    digest_of(123456, d);
    for (int i = 0; i < 300; i++)
        assert_ok(take(s, d, &q[i], &e), &e);
    while (done < 300) {
        event_base_loop(base, EVLOOP_ONCE);
        done = taken = 0;
        for (int i = 0; i < 300; i++) {
            done += q[i].answers;
            taken += q[i].answers && q[i].last == ST_SPENT_TAKEN;
        }
    }
    assert_int_equal(taken, 1);
    assert_int_equal(q[0].last, ST_SPENT_TAKEN);
    st_spent_close(s);
}

static void sqlite_takes_each_token_once_over_a_restart(void **state)
{
    struct made_dir d = made_dir();
    char path[96];
    (void)state;
    snprintf(path, sizeof path, "%s/spent.db", d.path);
    expect_once(path, true);
    expect_one_of_a_batch(path);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    expect_once(":memory:", false);
    made_dir_remove(&d);
}

static void wait_for(const struct ask *q)
{
    while (!q->answers)
        event_base_loop(base, EVLOOP_ONCE);
}

/* Whoever else writes into the file is waited for by the store's thread, never by the caller's. */
static void another_writer_of_the_file_does_not_stop_the_event_loop(void **state)
{
    struct made_dir d = made_dir();
    char path[96];
    sqlite3 *other;
    struct st_err e;
    struct ask first = {0}, second = {0}, again = {0};
    uint8_t one[32], two[32];
    (void)state;
    digest_of(1, one);
    digest_of(2, two);
    snprintf(path, sizeof path, "%s/spent.db", d.path);
    struct st_spent *s = open_store(path);
    assert_int_equal(sqlite3_open(path, &other), SQLITE_OK);
    assert_ok(take(s, one, &first, &e), &e);
    wait_for(&first);
    assert_int_equal(first.last, ST_SPENT_TAKEN);
    assert_int_equal(sqlite3_exec(other, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    double asked = st_now();
    assert_ok(take(s, two, &second, &e), &e);
    assert_ok(take(s, one, &again, &e), &e);
    assert_true(st_now() - asked < 5); /* SQLite itself would wait for ten seconds */
    assert_int_equal(second.fresh + again.fresh, 0);
    assert_int_equal(sqlite3_exec(other, "COMMIT", NULL, NULL, NULL), SQLITE_OK);
    wait_for(&second);
    wait_for(&again);
    assert_int_equal(second.last, ST_SPENT_TAKEN);
    assert_int_equal(again.last, ST_SPENT_BEFORE);
    sqlite3_close(other);
    st_spent_close(s);
    made_dir_remove(&d);
}

static void days_that_are_gone_are_dropped_and_others_stay(void **state)
{
    struct st_spent *s = open_store(":memory:");
    (void)state;
    assert_int_equal(take_many(s, 3000, ST_SPENT_TAKEN), 3000);
    st_spent_forget(s, 20000);
    usleep(50 * 1000);
    assert_int_equal(take_many(s, 3000, ST_SPENT_BEFORE), 3000);
    st_spent_forget(s, 20001);
    int again = 0;
    for (int i = 0; i < 100 && again == 0; i++) {
        usleep(20 * 1000);
        again = take_many(s, 1, ST_SPENT_TAKEN);
    }
    assert_int_equal(again, 1);
    st_spent_close(s);
}

static void a_file_of_something_else_is_refused(void **state)
{
    struct made_dir d = made_dir();
    struct st_spent *s;
    struct st_err e;
    (void)state;
    const char *path = made_file(&d, "text", "this is a text of some length, and no database at all, as anybody sees");
    assert_int_equal(chmod(path, 0600), 0);
    expect_refusal(st_spent_open(base, &(struct st_spent_opts){.where = path}, &s, &e), &e, ST_INPUT, path);
    assert_int_equal(chmod(path, 0644), 0);
    expect_refusal(st_spent_open(base, &(struct st_spent_opts){.where = path}, &s, &e), &e, ST_POLICY, "readable");
    expect_refusal(st_spent_open(base, &(struct st_spent_opts){.where = "/nowhere/x"}, &s, &e), &e, ST_IO, "/nowhere");
    made_dir_remove(&d);
}

static void more_than_can_wait_are_refused_at_once(void **state)
{
    struct st_spent *s;
    struct st_err e;
    struct ask q[4] = {{0}};
    uint8_t d[32];
    (void)state;
    assert_ok(st_spent_open(base, &(struct st_spent_opts){.where = ":memory:", .max_waiting = 3}, &s, &e), &e);
    for (unsigned i = 0; i < 3; i++) {
        digest_of(i, d);
        assert_ok(take(s, d, &q[i], &e), &e);
    }
    expect_refusal(take(s, d, &q[3], &e), &e, ST_POLICY, "wait for the database");
    st_spent_cancel(q[0].take);
    while (q[2].answers == 0)
        event_base_loop(base, EVLOOP_ONCE);
    assert_int_equal(q[0].answers, 0);
    st_spent_close(s);
}

/* ---- kill -9 ---- */

/* Another process: takes tokens one by one and says each on standard output once it is taken. */
static int take_for_ever(const char *path)
{
    base = event_base_new();
    struct st_spent *s = open_store(path);
    for (unsigned i = 0;; i++) {
        struct ask q = {0};
        struct st_err e;
        uint8_t d[32];
        digest_of(i, d);
        if (take(s, d, &q, &e))
            return 1;
        while (!q.answers)
            event_base_loop(base, EVLOOP_ONCE);
        if (q.last == ST_SPENT_TAKEN && write(1, &i, sizeof i) != sizeof i)
            return 1;
    }
}

static pid_t taker(const char *path, int *from)
{
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(fds[1], 1);
        execl("/proc/self/exe", "test_spent", "take", path, (char *)NULL);
        _exit(127);
    }
    close(fds[1]);
    *from = fds[0];
    return pid;
}

static void what_was_said_to_be_taken_outlives_kill_9(void **state)
{
    struct made_dir d = made_dir();
    char path[96];
    unsigned last = 0, i;
    (void)state;
    snprintf(path, sizeof path, "%s/spent.db", d.path);
    for (int round = 0; round < 3; round++) {
        int fd, status;
        unsigned n = 0;
        pid_t pid = taker(path, &fd);
        while (n < 60 && read(fd, &i, sizeof i) == sizeof i) {
            assert_true(round == 0 || n > 0 || i > last); /* nothing is taken a second time */
            last = i;
            n++;
        }
        kill(pid, SIGKILL);
        waitpid(pid, &status, 0);
        while (read(fd, &i, sizeof i) == sizeof i)
            last = i;
        close(fd);
        struct st_spent *s = open_store(path);
        assert_true(take_many(s, last + 1, ST_SPENT_BEFORE) == (int)last + 1);
        st_spent_close(s);
    }
    made_dir_remove(&d);
}

/* ---- PostgreSQL ---- */

static struct postgres pg;
static bool have_pg;

static void postgres_takes_each_token_once(void **state)
{
    (void)state;
    if (!have_pg)
        skip();
    expect_once(pg.url, true);
    expect_one_of_a_batch(pg.url);
}

static void a_dead_postgres_refuses_everything_until_it_is_back(void **state)
{
    (void)state;
    if (!have_pg)
        skip();
    struct st_spent *s = open_store(pg.url);
    assert_int_equal(take_many(s, 2000, ST_SPENT_TAKEN) > 0, true);
    postgres_stop(&pg, SIGQUIT);
    assert_int_equal(take_many(s, 2100, ST_SPENT_FAILED), 2100);
    assert_int_equal(take_many(s, 10, ST_SPENT_FAILED), 10);
    postgres_run(&pg);
    int ok = 0;
    for (int i = 0; i < 600 && !ok; i++) {
        usleep(50 * 1000);
        ok = take_many(s, 1, ST_SPENT_BEFORE);
    }
    assert_int_equal(ok, 1);
    assert_int_equal(take_many(s, 2000, ST_SPENT_BEFORE), 2000);
    st_spent_close(s);
}

/* Stops the server's processes where they are, or lets them go on. */
static void postgres_signal(int sig)
{
    char path[64];
    int child;
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)pg.pid, (int)pg.pid);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    while (fscanf(f, "%d", &child) == 1)
        kill(child, sig);
    fclose(f);
}

static void a_postgres_that_stands_still_refuses_everything_in_time(void **state)
{
    struct st_err e;
    struct st_spent *s;
    (void)state;
    if (!have_pg)
        skip();
    assert_ok(st_spent_open(base, &(struct st_spent_opts){.where = pg.url, .answer_s = 0.2}, &s, &e), &e);
    assert_int_equal(take_many(s, 10, ST_SPENT_FAILED), 0);
    postgres_signal(SIGSTOP);
    assert_int_equal(take_many(s, 1, ST_SPENT_FAILED), 1);
    postgres_signal(SIGCONT);
    int ok = 0;
    for (int i = 0; i < 100 && !ok; i++) {
        usleep(50 * 1000);
        ok = take_many(s, 1, ST_SPENT_BEFORE);
    }
    assert_int_equal(ok, 1);
    st_spent_close(s);
}

/* ---- two gateways ---- */

#define AT_ONCE 200

struct shot {
    struct sealed s;
    struct answer a;
    CURL *h;
    struct curl_slist *fields;
};

static void aim(struct shot *t, CURLM *multi, const char *url, const struct question *q)
{
    memset(t, 0, sizeof *t);
    seal(q, &t->s);
    t->h = curl_easy_init();
    t->fields = curl_slist_append(curl_slist_append(NULL, "Content-Type: message/ohttp-chunked-req"), "Expect:");
    curl_easy_setopt(t->h, CURLOPT_URL, url);
    curl_easy_setopt(t->h, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(t->h, CURLOPT_TIMEOUT, 30L);
    curl_easy_setopt(t->h, CURLOPT_HTTPHEADER, t->fields);
    curl_easy_setopt(t->h, CURLOPT_POSTFIELDS, t->s.body.p);
    curl_easy_setopt(t->h, CURLOPT_POSTFIELDSIZE, (long)t->s.body.len);
    curl_easy_setopt(t->h, CURLOPT_WRITEFUNCTION, add_reply);
    curl_easy_setopt(t->h, CURLOPT_WRITEDATA, &t->a.raw);
    curl_multi_add_handle(multi, t->h);
}

static void fire(CURLM *multi)
{
    int running = 1;
    while (running) {
        curl_multi_perform(multi, &running);
        curl_multi_poll(multi, NULL, 0, 100, NULL);
    }
}

/* What came of one shot, which ends. */
static void land(struct shot *t, CURLM *multi, int *taken, int *spent)
{
    curl_easy_getinfo(t->h, CURLINFO_RESPONSE_CODE, &t->a.outer);
    assert_int_equal(t->a.outer, 200);
    unseal(&t->s, &t->a);
    *taken += t->a.status == 200;
    *spent += t->a.status == 402 && strcmp(t->a.code, "token_spent") == 0;
    curl_multi_remove_handle(multi, t->h);
    curl_easy_cleanup(t->h);
    curl_slist_free_all(t->fields);
    sealed_wipe(&t->s);
    answer_wipe(&t->a);
}

static void expect_one_token_once(struct rig *a, struct rig *b)
{
    static struct shot shots[2 * AT_ONCE];
    struct st_token t;
    int taken = 0, spent = 0;
    new_token(today(), 8, &t);
    CURLM *multi = curl_multi_init();
    for (int i = 0; i < 2 * AT_ONCE; i++) {
        int other = b ? i % 2 : 0;
        const struct question q = {"POST", path_at(other, 0, ""), &t, false, some_request(), NULL, other};
        aim(&shots[i], multi, st_role_url(st_gateway_role((other ? b : a)->g)), &q);
    }
    fire(multi);
    for (int i = 0; i < 2 * AT_ONCE; i++)
        land(&shots[i], multi, &taken, &spent);
    curl_multi_cleanup(multi);
    assert_int_equal(taken, 1);
    assert_int_equal(spent, 2 * AT_ONCE - 1);
    assert_int_equal(world.n_asked[0], 1);
}

static void one_token_many_times_at_once_is_spent_once_in_sqlite(void **state)
{
    struct rig r;
    struct made_dir d = made_dir();
    char path[96];
    (void)state;
    snprintf(path, sizeof path, "%s/spent.db", d.path);
    rig_opts(&r, 1, path);
    rig_open(&r);
    wait_health(&r, 200);
    expect_one_token_once(&r, NULL);
    rig_stop(&r);
    made_dir_remove(&d);
}

static void one_token_at_two_gateways_at_once_is_spent_once_in_postgres(void **state)
{
    struct rig a, b;
    (void)state;
    if (!have_pg)
        skip();
    rig_opts(&a, 1, pg.url);
    rig_opts(&b, 1, pg.url);
    b.o.name = "eu2";
    rig_open(&a);
    rig_open(&b);
    wait_health(&a, 200);
    wait_health(&b, 200);
    for (int round = 0; round < 3; round++) {
        world.n_asked[0] = 0;
        expect_one_token_once(&a, &b);
    }
    rig_stop(&a);
    rig_stop(&b);
}

static void without_the_database_nothing_paid_is_served(void **state)
{
    struct rig r;
    (void)state;
    if (!have_pg)
        skip();
    rig_opts(&r, 1, pg.url);
    rig_open(&r);
    wait_health(&r, 200);
    postgres_stop(&pg, SIGQUIT);
    struct answer a = pay(&r, 8, true);
    assert_int_equal(a.status, 503);
    assert_string_equal(a.code, "unavailable");
    assert_int_equal(world.n_asked[0], 0);
    answer_wipe(&a);
    a = ask(&r, &(struct question){"GET", "/nodes", NULL, false, {0}, NULL, 0});
    assert_int_equal(a.status, 200);
    answer_wipe(&a);
    postgres_run(&pg);
    rig_stop(&r);
}

static int set_up(void **state)
{
    (void)state;
    st_log_set_level(ST_LOG_ERROR);
    curl_global_init(CURL_GLOBAL_DEFAULT);
    base = event_base_new();
    have_pg = postgres_open(&pg);
    world_open();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    world_close();
    if (have_pg)
        postgres_close(&pg);
    event_base_free(base);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "take") == 0)
        return take_for_ever(argv[2]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_said_to_be_taken_outlives_kill_9),
        cmocka_unit_test(sqlite_takes_each_token_once_over_a_restart),
        cmocka_unit_test(another_writer_of_the_file_does_not_stop_the_event_loop),
        cmocka_unit_test(days_that_are_gone_are_dropped_and_others_stay),
        cmocka_unit_test(a_file_of_something_else_is_refused),
        cmocka_unit_test(more_than_can_wait_are_refused_at_once),
        cmocka_unit_test(postgres_takes_each_token_once),
        cmocka_unit_test(a_dead_postgres_refuses_everything_until_it_is_back),
        cmocka_unit_test(one_token_many_times_at_once_is_spent_once_in_sqlite),
        cmocka_unit_test(a_postgres_that_stands_still_refuses_everything_in_time),
        cmocka_unit_test(one_token_at_two_gateways_at_once_is_spent_once_in_postgres),
        cmocka_unit_test(without_the_database_nothing_paid_is_served),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
