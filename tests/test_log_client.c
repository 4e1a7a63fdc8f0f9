/* The client of a log against a log that answers what the test wants: rollback, forks, a directory that is not the
 * last entry, missing witnesses and old ones are refused, and what was known before stays. */
#include "expect.h"
#include "log_world.h"
#include "mutate.h"
#include "service/log_client.h"
#include "service/role.h"

#include <unistd.h>

struct rig {
    struct log_world w;
    struct st_role *role;
    struct st_http_client *http;
    struct st_log_client *client;
    struct st_buf answer;
    int status;
    char query[64]; /* of the last request */
    int n_done;
    struct st_err result;
};

static void on_request(void *arg, struct st_http_conn *c)
{
    struct rig *r = arg;
    assert_string_equal(st_http_path(c), "/directory");
    snprintf(r->query, sizeof r->query, "%s", st_http_query(c));
    st_http_reply(c, r->status, NULL, "application/json", r->answer.p, r->answer.len);
}

static void client_open(struct rig *r, const char *state, int64_t max_age)
{
    struct st_err e;
    const struct st_log_client_opts o = {.url = st_role_url(r->role),
                                         .state_file = state ? log_path(&r->w, state) : NULL,
                                         .keys = r->w.keys,
                                         .max_age_s = max_age,
                                         .stall_s = 5};
    st_log_client_free(r->client);
    assert_ok(st_log_client_new(r->http, &o, &r->client, &e), &e);
}

static void rig_open(struct rig *r)
{
    struct st_err e;
    *r = (struct rig){.status = 200};
    log_world_open(&r->w);
    assert_ok(st_role_new(&r->role, &e), &e);
    const struct st_http_client_opts ho = {.connect_s = 5, .max_idle = 2};
    assert_ok(st_http_client_new(st_role_base(r->role), &ho, &r->http, &e), &e);
    const struct st_role_opts o = {.request = on_request, .arg = r};
    assert_ok(st_role_listen(r->role, &o, &e), &e);
}

static void rig_close(struct rig *r)
{
    st_log_client_free(r->client);
    st_role_close(r->role);
    st_http_client_free(r->http);
    st_role_free(r->role);
    st_buf_free(&r->answer);
    log_world_close(&r->w);
}

static void on_done(void *arg, const struct st_err *e)
{
    struct rig *r = arg;
    r->n_done++;
    r->result = e ? *e : (struct st_err){0};
}

/* One refresh; what came of it is in r->result. */
static void refresh(struct rig *r)
{
    int before = r->n_done;
    struct st_err e;
    if (st_log_client_refresh(r->client, on_done, r, &e)) {
        r->result = e;
        return;
    }
    while (r->n_done == before)
        event_base_loop(st_role_base(r->role), EVLOOP_ONCE);
}

static void set_answer(struct rig *r, const struct st_log_reply *a)
{
    st_buf_clear(&r->answer);
    st_log_reply_write(a, &r->answer);
}

/* Appends a directory, commits, and lets the log answer with it. */
static void answer_with(struct rig *r, struct st_log_store *s, const char *directory, uint64_t from)
{
    struct st_log_reply a;
    log_append(s, directory);
    log_answer(&r->w, s, directory, from, st_unix_time(), 2, &a);
    set_answer(r, &a);
    st_log_reply_wipe(&a);
}

static void the_newest_directory_is_believed_and_remembered(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r);
    client_open(&r, "state", 600);
    struct st_log_store *s = log_store_new(&r.w, "log");
    assert_null(st_log_client_directory(r.client));
    log_append(s, "a release");
    answer_with(&r, s, log_directory(100, "east"), 0);
    refresh(&r);
    assert_ok(r.result.code, &r.result);
    assert_string_equal(r.query, "from=0");
    assert_string_equal(st_log_client_directory(r.client)->gateways[0].name, "east");
    assert_int_equal(st_log_client_checkpoint(r.client)->checkpoint.size, 2);
    assert_true(st_log_client_note(r.client).len > 0);

    answer_with(&r, s, log_directory(101, "west"), 2);
    refresh(&r);
    assert_ok(r.result.code, &r.result);
    assert_string_equal(r.query, "from=2");
    assert_string_equal(st_log_client_directory(r.client)->gateways[0].name, "west");

    client_open(&r, "state", 600); /* starts again */
    assert_null(st_log_client_directory(r.client));
    answer_with(&r, s, log_directory(102, "north"), 3);
    refresh(&r);
    assert_string_equal(r.query, "from=3");
    assert_ok(r.result.code, &r.result);
    st_log_store_close(s);
    rig_close(&r);
}

static void a_second_question_waits_for_the_same_answer(void **state)
{
    (void)state;
    struct rig r;
    struct st_err e;
    rig_open(&r);
    client_open(&r, NULL, 0);
    struct st_log_store *s = log_store_new(&r.w, "log");
    answer_with(&r, s, log_directory(100, "east"), 0);
    assert_ok(st_log_client_refresh(r.client, on_done, &r, &e), &e);
    assert_ok(st_log_client_refresh(r.client, on_done, &r, &e), &e);
    while (r.n_done < 2)
        event_base_loop(st_role_base(r.role), EVLOOP_ONCE);
    assert_ok(r.result.code, &r.result);
    st_log_store_close(s);
    rig_close(&r);
}

static void free_client(void *arg, const struct st_err *e)
{
    struct rig *r = arg;
    (void)e;
    r->n_done++;
    st_log_client_free(r->client);
    r->client = NULL;
}

static void a_client_may_be_freed_by_its_answer(void **state)
{
    (void)state;
    struct rig r;
    struct st_err e;
    rig_open(&r);
    client_open(&r, NULL, 0);
    r.status = 503;
    assert_ok(st_log_client_refresh(r.client, free_client, &r, &e), &e);
    assert_ok(st_log_client_refresh(r.client, on_done, &r, &e), &e);
    while (r.n_done == 0)
        event_base_loop(st_role_base(r.role), EVLOOP_ONCE);
    event_base_loop(st_role_base(r.role), EVLOOP_NONBLOCK);
    assert_int_equal(r.n_done, 1);
    rig_close(&r);
}

static void a_smaller_tree_is_a_rollback(void **state)
{
    (void)state;
    struct rig r;
    struct st_log_reply old;
    rig_open(&r);
    client_open(&r, "state", 600);
    struct st_log_store *s = log_store_new(&r.w, "log");
    log_append(s, log_directory(100, "east"));
    log_answer(&r.w, s, log_directory(100, "east"), 0, st_unix_time(), 2, &old);
    answer_with(&r, s, log_directory(101, "west"), 0);
    refresh(&r);
    assert_ok(r.result.code, &r.result);
    client_open(&r, "state", 600);
    set_answer(&r, &old);
    refresh(&r);
    expect_refusal(r.result.code, &r.result, ST_VERIFY, "rollback: size 1, it was 2");
    st_log_reply_wipe(&old);
    st_log_store_close(s);
    rig_close(&r);
}

static void two_trees_of_one_size_are_a_fork_until_somebody_looks(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r);
    client_open(&r, "state", 600);
    struct st_log_store *s = log_store_new(&r.w, "log"), *other = log_store_new(&r.w, "other");
    answer_with(&r, s, log_directory(100, "east"), 0);
    refresh(&r);
    answer_with(&r, other, log_directory(100, "evil"), 0);
    refresh(&r);
    expect_refusal(r.result.code, &r.result, ST_VERIFY, "fork: another tree of size 1");
    assert_string_equal(st_log_client_directory(r.client)->gateways[0].name, "east");

    answer_with(&r, s, log_directory(101, "west"), 1); /* the first tree again: no more */
    refresh(&r);
    expect_refusal(r.result.code, &r.result, ST_VERIFY, "fork: it has shown two trees");
    client_open(&r, "state", 600);
    refresh(&r);
    expect_refusal(r.result.code, &r.result, ST_VERIFY, "state.fork holds both, signed");
    assert_int_equal(unlink(log_path(&r.w, "state.fork")), 0);
    refresh(&r);
    assert_ok(r.result.code, &r.result);

    client_open(&r, NULL, 600); /* without a file */
    answer_with(&r, s, log_directory(102, "west"), 0);
    refresh(&r);
    assert_ok(r.result.code, &r.result);
    log_append(other, "x");
    answer_with(&r, other, log_directory(103, "evil"), 3);
    refresh(&r);
    expect_refusal(r.result.code, &r.result, ST_VERIFY, "fork: another tree of size 3");
    refresh(&r);
    expect_refusal(r.result.code, &r.result, ST_VERIFY, "fork: it has shown two trees");
    st_log_store_close(s);
    st_log_store_close(other);
    rig_close(&r);
}

static void a_tree_that_does_not_begin_with_the_remembered_one_is_refused_and_kept(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r);
    client_open(&r, "state", 600);
    struct st_log_store *s = log_store_new(&r.w, "log"), *other = log_store_new(&r.w, "other");
    answer_with(&r, s, log_directory(100, "east"), 0);
    refresh(&r);
    log_append(other, "something else");
    answer_with(&r, other, log_directory(101, "evil"), 1);
    refresh(&r);
    expect_refusal(r.result.code, &r.result, ST_VERIFY, "fork, or a wrong proof");
    assert_true(access(log_path(&r.w, "state.doubt"), F_OK) == 0);
    answer_with(&r, s, log_directory(101, "west"), 1);
    refresh(&r);
    assert_ok(r.result.code, &r.result);
    st_log_store_close(s);
    st_log_store_close(other);
    rig_close(&r);
}

static void a_directory_that_is_not_the_last_entry_is_refused(void **state)
{
    (void)state;
    struct rig r;
    struct st_log_reply a;
    struct st_err e;
    rig_open(&r);
    client_open(&r, NULL, 600);
    struct st_log_store *s = log_store_new(&r.w, "log");
    log_append(s, log_directory(100, "east"));
    log_append(s, "a release");
    log_answer(&r.w, s, log_directory(100, "east"), 0, st_unix_time(), 2, &a);
    set_answer(&r, &a); /* says that it is the last, which it is not */
    refresh(&r);
    expect_refusal(r.result.code, &r.result, ST_VERIFY, "log " LOG_ORIGIN);
    struct st_merkle_source source = st_log_store_source(s);
    assert_ok(st_merkle_prove_inclusion(&source, 0, 2, &a.inclusion, &e), &e);
    a.index = 0;
    set_answer(&r, &a);
    refresh(&r);
    expect_refusal(r.result.code, &r.result, ST_VERIFY, "the directory is entry 0 of 2, want the last one");
    st_log_reply_wipe(&a);
    log_answer(&r.w, s, "a release", 0, st_unix_time(), 2, &a); /* the last entry is no directory */
    set_answer(&r, &a);
    refresh(&r);
    expect_refusal(r.result.code, &r.result, ST_INPUT, "directory: not valid JSON");
    assert_null(st_log_client_directory(r.client));
    st_log_reply_wipe(&a);
    st_log_store_close(s);
    rig_close(&r);
}

static void two_directories_of_one_epoch_or_an_older_one_are_refused_after_a_restart_too(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r);
    client_open(&r, "state", 600);
    struct st_log_store *s = log_store_new(&r.w, "log");
    answer_with(&r, s, log_directory(100, "east"), 0);
    refresh(&r);
    client_open(&r, "state", 600);
    answer_with(&r, s, log_directory(100, "west"), 1);
    refresh(&r);
    expect_refusal(r.result.code, &r.result, ST_VERIFY, "two directories of epoch 100");
    answer_with(&r, s, log_directory(99, "west"), 1);
    refresh(&r);
    expect_refusal(r.result.code, &r.result, ST_VERIFY, "is of epoch 99, one of 100 was seen");
    answer_with(&r, s, log_directory((uint64_t)st_unix_time() / 60 + 100, "west"), 1);
    refresh(&r);
    expect_refusal(r.result.code, &r.result, ST_VERIFY, "s ahead of our clock");
    answer_with(&r, s, log_directory(101, "west"), 1);
    refresh(&r);
    assert_ok(r.result.code, &r.result);
    st_log_store_close(s);
    rig_close(&r);
}

static void too_few_witnesses_and_old_ones_are_refused(void **state)
{
    (void)state;
    struct rig r;
    struct st_log_reply a;
    struct st_err e;
    rig_open(&r);
    client_open(&r, NULL, 600);
    struct st_log_store *s = log_store_new(&r.w, "log");
    log_append(s, log_directory(100, "east"));
    log_answer(&r.w, s, log_directory(100, "east"), 0, st_unix_time(), 1, &a);
    set_answer(&r, &a);
    refresh(&r);
    expect_refusal(r.result.code, &r.result, ST_VERIFY, "cosigned by 1 of 2 witnesses, want 2");
    st_log_reply_wipe(&a);
    log_answer(&r.w, s, log_directory(100, "east"), 0, st_unix_time() - 1000, 2, &a);
    set_answer(&r, &a);
    refresh(&r);
    expect_refusal(r.result.code, &r.result, ST_VERIFY, "stale: a quorum of its witnesses last spoke 100");
    st_log_reply_wipe(&a);
    r.w.keys.quorum = 0;
    const struct st_log_client_opts o = {.url = "http://127.0.0.1:1", .keys = r.w.keys, .max_age_s = 1};
    struct st_log_client *none;
    expect_refusal(st_log_client_new(r.http, &o, &none, &e), &e, ST_USAGE, "want a quorum");
    st_log_store_close(s);
    rig_close(&r);
}

static void other_answers_are_refused_and_what_was_known_stays(void **state)
{
    (void)state;
    struct rig r;
    struct st_rng rng;
    rig_open(&r);
    client_open(&r, NULL, 600);
    struct st_log_store *s = log_store_new(&r.w, "log");
    answer_with(&r, s, log_directory(100, "east"), 0);
    refresh(&r);
    assert_ok(r.result.code, &r.result);
    r.status = 404;
    refresh(&r);
    expect_refusal(r.result.code, &r.result, ST_IO, "it answers with status 404");
    r.status = 200;
    answer_with(&r, s, log_directory(101, "west"), 1);
    struct st_buf good = r.answer;
    st_rng_seed(&rng, 3);
    for (int i = 0; i < 300; i++) {
        size_t len;
        uint8_t *p = mutate(&rng, good.p, good.len, 1, &len);
        bool same = len == good.len && memcmp(p, good.p, len) == 0;
        r.answer = (struct st_buf){.p = (char *)p, .len = len};
        refresh(&r);
        if (r.result.code == 0 || same) { /* damage that means the same: white space, an escape */
            assert_string_equal(st_log_client_directory(r.client)->gateways[0].name, "west");
            client_open(&r, NULL, 600);
        } else if (st_log_client_directory(r.client)) {
            assert_string_equal(st_log_client_directory(r.client)->gateways[0].name, "east");
        }
        free(p);
    }
    r.answer = good;
    st_log_store_close(s);
    rig_close(&r);
}

static void a_state_file_that_was_damaged_is_refused_by_name(void **state)
{
    (void)state;
    struct rig r;
    struct st_err e;
    struct st_log_client *none;
    rig_open(&r);
    FILE *f = fopen(log_path(&r.w, "state"), "w");
    fputs("{\"version\": 1, \"checkpoint\": \"x\", \"epoch\": 1, \"entry\": \"00\"}", f);
    fclose(f);
    const struct st_log_client_opts o = {
        .url = "http://127.0.0.1:1", .state_file = log_path(&r.w, "state"), .keys = r.w.keys};
    expect_refusal(st_log_client_new(r.http, &o, &none, &e), &e, ST_INPUT, "/state: ");
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_newest_directory_is_believed_and_remembered),
        cmocka_unit_test(a_second_question_waits_for_the_same_answer),
        cmocka_unit_test(a_client_may_be_freed_by_its_answer),
        cmocka_unit_test(a_smaller_tree_is_a_rollback),
        cmocka_unit_test(two_trees_of_one_size_are_a_fork_until_somebody_looks),
        cmocka_unit_test(a_tree_that_does_not_begin_with_the_remembered_one_is_refused_and_kept),
        cmocka_unit_test(a_directory_that_is_not_the_last_entry_is_refused),
        cmocka_unit_test(two_directories_of_one_epoch_or_an_older_one_are_refused_after_a_restart_too),
        cmocka_unit_test(too_few_witnesses_and_old_ones_are_refused),
        cmocka_unit_test(other_answers_are_refused_and_what_was_known_stays),
        cmocka_unit_test(a_state_file_that_was_damaged_is_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
