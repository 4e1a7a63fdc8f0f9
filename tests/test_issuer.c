/* The issuer over HTTP: what is sold and given back, to whom, and that nothing it keeps can be matched with a token. */
#include "channel/issue.h"
#include "expect.h"
#include "issuer_make.h"
#include "service/database.h"

static struct issuing s;

static int set_up(void **state)
{
    (void)state;
    issuing_open(&s, 1000, 0);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    issuing_close(&s);
    return 0;
}

/* A purchase in the making. */
struct buying {
    struct st_token_blank blanks[ST_ISSUE_MAX];
    struct st_issue ask;
    struct st_buf body;
};

static void prepare(struct buying *b, uint32_t day, uint32_t units, size_t n)
{
    struct st_err e;
    struct st_blind_rsa *k = issuing_key(&s, day, units);
    b->ask = (struct st_issue){.kind = ST_ISSUE_PURCHASE, .n = n};
    assert_ok(st_random(b->ask.id, sizeof b->ask.id, &e), &e);
    for (size_t i = 0; i < n; i++) {
        assert_ok(st_token_begin(k, day, units, &b->blanks[i], &e), &e);
        b->ask.of[i].day = day;
        b->ask.of[i].units = units;
        b->ask.of[i].blinded = (struct st_span){b->blanks[i].blinded, b->blanks[i].len};
    }
    st_blind_rsa_free(k);
}

static void send_ask(struct buying *b, const char *path, const char *bearer, struct reply *r)
{
    st_buf_clear(&b->body);
    st_issue_write(&b->ask, &b->body);
    ask(&s, path, bearer, b->body.p, r);
}

/* The tokens of an answer. */
static void finish(const struct buying *b, struct reply *r, struct st_token *t)
{
    struct st_err e;
    struct st_issue_answer a;
    if (r->status != 200)
        fail_msg("answer %d %s", r->status, r->body.p ? r->body.p : "");
    assert_ok(st_issue_answer_parse((struct st_span){(uint8_t *)r->body.p, r->body.len}, b->ask.n, &a, &e), &e);
    for (size_t i = 0; i < b->ask.n; i++) {
        struct st_blind_rsa *k = issuing_key(&s, b->ask.of[i].day, b->ask.of[i].units);
        assert_ok(st_token_finish(&b->blanks[i], k, a.signature[i], &t[i], &e), &e);
        st_blind_rsa_free(k);
    }
    st_issue_answer_wipe(&a);
    st_buf_free(&r->body);
}

static void buy(const char *bearer, uint32_t day, uint32_t units, size_t n, struct st_token *t)
{
    struct buying *b = calloc(1, sizeof *b);
    struct reply r;
    prepare(b, day, units, n);
    send_ask(b, "/issue", bearer, &r);
    finish(b, &r, t);
    st_buf_free(&b->body);
    free(b);
}

static int64_t units_left(const char *key)
{
    struct st_err e;
    struct st_ledger *l;
    struct st_ledger_member m;
    bool found;
    uint8_t digest[32];
    st_sha256(key, 64, digest);
    assert_ok(st_ledger_open(s.db, &l, &e), &e);
    assert_ok(st_ledger_find(l, ST_LEDGER_ACCOUNT, digest, test_today(), &m, &found, &e), &e);
    assert_true(found);
    st_ledger_close(l);
    return m.units + (m.daily > m.used ? m.daily - m.used : 0);
}

static void a_purchase_is_signed_and_charged_and_the_same_again_costs_nothing(void **state)
{
    (void)state;
    struct buying *b = calloc(1, sizeof *b);
    struct reply r, again;
    struct st_token t[8], u[8];
    int64_t before = units_left(s.account);
    prepare(b, test_today(), 8, 8);
    send_ask(b, "/issue", s.account, &r);
    send_ask(b, "/issue", s.account, &again);
    assert_int_equal(r.body.len, again.body.len);
    assert_memory_equal(r.body.p, again.body.p, r.body.len);
    finish(b, &r, t);
    finish(b, &again, u);
    assert_memory_equal(t, u, sizeof t);
    assert_int_equal(units_left(s.account), before - 64);
    /* The same id for something else. */
    uint8_t id[16];
    memcpy(id, b->ask.id, sizeof id);
    prepare(b, test_today(), 8, 8);
    memcpy(b->ask.id, id, sizeof id);
    send_ask(b, "/issue", s.account, &r);
    expect_status(&r, 409, "\"id\"");
    assert_int_equal(units_left(s.account), before - 64);
    st_buf_free(&b->body);
    free(b);
}

static void who_has_no_right_key_gets_the_same_refusal(void **state)
{
    (void)state;
    struct buying *b = calloc(1, sizeof *b);
    struct reply r;
    static const char *const paths[] = {"/issue", "/refund"};
    const char *const wrong[] = {NULL, "", "nobody", s.gateway};
    prepare(b, test_today(), 1, 1);
    for (size_t i = 0; i < 4; i++) {
        send_ask(b, "/issue", wrong[i], &r);
        assert_int_equal(r.body.len, 0);
        expect_status(&r, 401, NULL);
    }
    /* A whole refund by an account. */
    b->ask.kind = ST_ISSUE_REFUND;
    buy(s.account, test_today(), 1, 1, &b->ask.token);
    send_ask(b, "/refund", s.account, &r);
    assert_int_equal(r.body.len, 0);
    expect_status(&r, 401, NULL);
    for (size_t i = 0; i < 2; i++) {
        ask(&s, paths[i], NULL, "{}", &r);
        assert_int_equal(r.body.len, 0);
        expect_status(&r, 401, NULL);
    }
    ask(&s, "/elsewhere", s.account, "{}", &r);
    expect_status(&r, 404, NULL);
    st_buf_free(&b->body);
    free(b);
}

static void an_account_buys_no_more_than_it_has_and_its_allowance_comes_first(void **state)
{
    (void)state;
    struct buying *b = calloc(1, sizeof *b);
    struct reply r;
    struct st_token t[8];
    char key[65];
    member_add(&s, ST_LEDGER_ACCOUNT, "bob", 10, 8, key);
    buy(key, test_today(), 1, 6, t); /* of the allowance */
    assert_int_equal(units_left(key), 12);
    prepare(b, test_today(), 8, 2);
    send_ask(b, "/issue", key, &r);
    expect_status(&r, 402, "\"units\":12");
    assert_int_equal(units_left(key), 12);
    buy(key, test_today(), 8, 1, t); /* 2 of the allowance, 6 of its own */
    assert_int_equal(units_left(key), 4);
    st_buf_free(&b->body);
    free(b);
}

static void requests_that_are_none_are_refused_and_cost_nothing(void **state)
{
    (void)state;
    struct buying *b = calloc(1, sizeof *b);
    struct reply r;
#define ID "00112233445566778899aabbccddeeff"
    static const char *const bad[] = {
        "",
        "x",
        "[]",
        "{}",
        "{\"version\":1}",
        ("{\"version\":1,\"id\":\"" ID "\",\"tokens\":[]}"),
        "{\"version\":1,\"id\":\"0011\",\"tokens\":[{\"day\":1,\"units\":1,\"blinded\":\"AAAA\"}]}",
        ("{\"version\":1,\"id\":\"" ID "\",\"tokens\":[{\"day\":1,\"units\":1,\"blinded\":\"AAAA\"}]}"),
        ("{\"version\":1,\"id\":\"" ID "\",\"tokens\":7,\"more\":1}"),
    };
    int64_t before = units_left(s.account);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        ask(&s, "/issue", s.account, bad[i], &r);
        expect_status(&r, 400, "\"request\"");
        ask(&s, "/refund", s.gateway, bad[i], &r);
        expect_status(&r, 400, "\"request\"");
    }
    prepare(b, test_today(), 1, 2);
    b->ask.of[1].day = test_today() + 40;
    send_ask(b, "/issue", s.account, &r);
    expect_status(&r, 400, "\"day\"");
    b->ask.of[1].day = test_today();
    b->ask.of[1].units = 2; /* no denomination */
    send_ask(b, "/issue", s.account, &r);
    expect_status(&r, 400, "\"day\"");
    b->ask.of[1].units = 1;
    memset(b->blanks[1].blinded, 0xff, 256); /* not below any modulus */
    send_ask(b, "/issue", s.account, &r);
    expect_status(&r, 400, "\"blinded\"");
    b->ask.of[1].blinded.len = 384;
    send_ask(b, "/issue", s.account, &r);
    expect_status(&r, 400, "\"blinded\"");
    assert_int_equal(units_left(s.account), before);
    st_buf_free(&b->body);
    free(b);
}

static void a_spent_token_gives_change_once_to_a_gateway(void **state)
{
    (void)state;
    struct buying *b = calloc(1, sizeof *b);
    struct reply r, again;
    struct st_token t, change[8];
    buy(s.account, test_today(), 64, 1, &t);
    prepare(b, test_today(), 8, 8);
    b->ask.kind = ST_ISSUE_REFUND;
    b->ask.token = t;
    int64_t before = units_left(s.account);
    send_ask(b, "/refund", s.gateway, &r);
    send_ask(b, "/refund", s.gateway, &again);
    assert_int_equal(r.body.len, again.body.len);
    assert_memory_equal(r.body.p, again.body.p, r.body.len);
    st_buf_free(&again.body);
    finish(b, &r, change);
    assert_int_equal(units_left(s.account), before);
    /* Something else for the same token: another signature of it is the same token. */
    b->ask.n = 7;
    send_ask(b, "/refund", s.gateway, &r);
    expect_status(&r, 409, "\"token\"");
    /* Change is a token like others. */
    prepare(b, test_today(), 1, 8);
    b->ask.kind = ST_ISSUE_REFUND;
    b->ask.token = change[3];
    send_ask(b, "/refund", s.gateway, &r);
    finish(b, &r, change);
    /* More than it was worth, and what is no token. */
    b->ask.token = change[0];
    b->ask.n = 2;
    send_ask(b, "/refund", s.gateway, &r);
    expect_status(&r, 400, "\"request\"");
    b->ask.n = 1;
    b->ask.token.signature[7] ^= 1;
    send_ask(b, "/refund", s.gateway, &r);
    expect_status(&r, 400, "\"token\"");
    b->ask.token.signature[7] ^= 1;
    b->ask.token.units = 8; /* signed as 1 */
    send_ask(b, "/refund", s.gateway, &r);
    expect_status(&r, 400, "\"token\"");
    st_buf_free(&b->body);
    free(b);
}

static bool holds(struct st_span in, const uint8_t *what, size_t len)
{
    return in.len >= len && memmem(in.p, in.len, what, len) != NULL;
}

/* Every value of every row, whatever its table. */
static void nothing_that_is_kept_can_be_matched_with_a_token(void **state)
{
    (void)state;
    struct buying *b = calloc(1, sizeof *b);
    struct reply r;
    struct st_token t[4], change[8];
    size_t n_value = 0;
    buy(s.account, test_today(), 8, 4, t);
    prepare(b, test_today(), 1, 8);
    b->ask.kind = ST_ISSUE_REFUND;
    b->ask.token = t[0];
    send_ask(b, "/refund", s.gateway, &r);
    finish(b, &r, change);
    static const char *const tables[] = {"SELECT * FROM members", "SELECT * FROM issued", "SELECT * FROM refunds",
                                         "SELECT * FROM keys"};
    sqlite3 *db;
    assert_int_equal(sqlite3_open_v2(s.db, &db, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
        sqlite3_stmt *q;
        assert_int_equal(sqlite3_prepare_v2(db, tables[i], -1, &q, NULL), SQLITE_OK);
        while (sqlite3_step(q) == SQLITE_ROW)
            for (int c = 0; c < sqlite3_column_count(q); c++, n_value++) {
                struct st_span v = st_db_bytes(q, c);
                for (size_t j = 0; j < 12; j++) {
                    const struct st_token *k = j < 4 ? &t[j] : &change[j - 4];
                    assert_false(holds(v, k->random, 8));
                    assert_false(holds(v, k->signature, 8));
                }
                for (size_t j = 0; j < 8; j++)
                    assert_false(holds(v, b->blanks[j].blinded, 8));
                assert_false(holds(v, (const uint8_t *)s.account, 64));
                assert_false(holds(v, (const uint8_t *)s.gateway, 64));
            }
        sqlite3_finalize(q);
    }
    sqlite3_close(db);
    assert_true(n_value > 40);
    st_buf_free(&b->body);
    free(b);
}

static void count_done(void *arg, int status, const struct st_err *e)
{
    int *n = arg;
    n[e ? 2 : status == 200 ? 0 : status == 402 ? 1 : 2]++;
}

/* Many at once, of an account that can pay for some: exactly those are signed. */
static void purchases_at_once_are_each_charged_once(void **state)
{
    (void)state;
    enum { N = 40, CAN = 25 };
    struct st_err e;
    struct buying *b = calloc(N, sizeof *b);
    struct st_http_call *call;
    int n[3] = {0};
    char key[65], url[400];
    member_add(&s, ST_LEDGER_ACCOUNT, "crowd", 2 * CAN, 0, key);
    snprintf(url, sizeof url, "%s/issue", st_role_url(st_issuer_role(s.issuer)));
    for (int i = 0; i < N; i++)
        prepare(&b[i], test_today(), 1, 2);
    for (int i = 0; i < N; i++) {
        st_issue_write(&b[i].ask, &b[i].body);
        const struct st_http_call_opts o = {.url = url,
                                            .bearer = key,
                                            .body = &b[i].body,
                                            .stall_s = 20,
                                            .max_reply = 1 << 20,
                                            .end = count_done,
                                            .arg = n};
        assert_ok(st_http_call_start(s.http, &o, &call, &e), &e);
    }
    while (n[0] + n[1] + n[2] < N)
        event_base_loop(s.base, EVLOOP_ONCE);
    assert_int_equal(n[0], CAN);
    assert_int_equal(n[1], N - CAN);
    assert_int_equal(units_left(key), 0);
    free(b);
}

static void an_account_that_asks_too_often_has_to_wait(void **state)
{
    (void)state;
    struct buying *b = calloc(1, sizeof *b);
    struct reply r;
    const struct st_issuer_opts slow = {.rate = 3};
    char key[65];
    issuing_stop(&s);
    issuing_start(&s, &slow);
    member_add(&s, ST_LEDGER_ACCOUNT, "hasty", 10, 0, key);
    prepare(b, test_today(), 1, 1);
    for (int i = 0; i < 3; i++) {
        send_ask(b, "/issue", key, &r);
        expect_status(&r, 200, NULL);
    }
    send_ask(b, "/issue", key, &r);
    expect_status(&r, 429, "\"rate\"");
    struct st_token t;
    buy(s.account, test_today(), 1, 1, &t); /* others do not */
    issuing_stop(&s);
    issuing_start(&s, NULL);
    st_buf_free(&b->body);
    free(b);
}

/* The private part of a key of the ledger. */
static int keep_key(void *arg, uint32_t day, uint32_t units, struct st_span der, struct st_err *e)
{
    struct st_buf *out = arg;
    (void)e;
    if (day == test_today() && units == 64 && !out->len)
        st_buf_add(out, der.p, der.len);
    return 0;
}

static bool file_holds(const char *path, const struct st_buf *what)
{
    struct st_err e;
    struct st_buf b = {0};
    bool found = st_file_read(path, 1 << 26, &b, &e) == 0 &&
                 holds((struct st_span){(uint8_t *)b.p, b.len}, (const uint8_t *)what->p, what->len);
    st_buf_free(&b);
    return found;
}

static void keys_outlive_a_restart_and_are_gone_from_the_disk_the_day_after_the_next(void **state)
{
    (void)state;
    struct st_err e;
    struct st_ledger *l;
    struct st_buf private = {0};
    struct st_token t, u;
    struct reply r;
    struct buying *b = calloc(1, sizeof *b);
    uint32_t day = test_today();
    char wal[128];
    buy(s.account, day, 64, 1, &t);
    assert_ok(st_ledger_open(s.db, &l, &e), &e);
    assert_ok(st_ledger_keys(l, keep_key, &private, &e), &e);
    st_ledger_close(l);
    assert_true(private.len > 1000);
    assert_true(file_holds(s.db, &private));
    issuing_stop(&s);
    clock_ahead = ST_TOKEN_DAY_S; /* tomorrow: yesterday's tokens are good still */
    issuing_start(&s, NULL);
    struct st_blind_rsa *k = issuing_key(&s, day, 64);
    assert_ok(st_token_verify(&t, k, &e), &e);
    st_blind_rsa_free(k);
    prepare(b, day + 1, 8, 4);
    b->ask.kind = ST_ISSUE_REFUND;
    b->ask.token = t;
    send_ask(b, "/refund", s.gateway, &r);
    expect_status(&r, 200, NULL);
    buy(s.account, day + 1, 64, 1, &u);
    issuing_stop(&s);
    clock_ahead = 2 * ST_TOKEN_DAY_S;
    issuing_start(&s, NULL);
    assert_null(st_directory_find_key(s.keys, day, 64));
    assert_non_null(st_directory_find_key(s.keys, day + 3, 64));
    b->ask.of[0].day = b->ask.of[1].day = b->ask.of[2].day = b->ask.of[3].day = day + 2;
    send_ask(b, "/refund", s.gateway, &r);
    expect_status(&r, 400, "\"token\"");
    issuing_stop(&s);
    snprintf(wal, sizeof wal, "%s-wal", s.db);
    assert_false(file_holds(s.db, &private));
    assert_false(file_holds(wal, &private));
    st_buf_wipe(&private);
    st_buf_free(&b->body);
    free(b);
}

/* ---- the log ---- */

struct log_side {
    struct st_role *role;
    _Atomic int n_post, status;
    char path[128], bearer[64];
    struct st_buf body;
};

static void on_post(void *arg, struct st_http_conn *c)
{
    struct log_side *l = arg;
    const char *bearer = st_http_field(c, "Authorization");
    snprintf(l->path, sizeof l->path, "%s %s", st_http_method(c), st_http_path(c));
    snprintf(l->bearer, sizeof l->bearer, "%s", bearer ? bearer : "");
    st_buf_clear(&l->body);
    st_buf_add(&l->body, st_http_body(c).p, st_http_body(c).len);
    st_role_refuse(c, l->n_post++ == 0 ? 503 : l->status);
}

static void keys_are_handed_to_the_log_until_it_has_logged_them(void **state)
{
    (void)state;
    struct st_err e;
    struct reply r;
    struct log_side l = {.status = 202};
    char key_file[128];
    snprintf(key_file, sizeof key_file, "%s/log-key", s.dir);
    assert_ok(st_file_write(key_file, "logs-key\n", 9, 0600, false, &e), &e);
    assert_ok(st_role_new(&l.role, &e), &e);
    const struct st_role_opts ro = {.max_body = 1 << 20, .request = on_post, .arg = &l};
    assert_ok(st_role_listen(l.role, &ro, &e), &e);
    assert_ok(st_role_start(l.role, &e), &e);
    const struct st_issuer_opts o = {.log = st_role_url(l.role), .log_key_file = key_file, .name = "first-issuer"};
    issuing_stop(&s);
    issuing_start(&s, &o);
    /* Refused once, then taken, then logged. */
    for (int i = 0; i < 1000 && l.n_post < 2; i++)
        usleep(10000);
    assert_true(l.n_post >= 2);
    ask(&s, "/metrics", NULL, NULL, &r);
    expect_status(&r, 200, "sotto_issuer_log_current 0\n");
    l.status = 200;
    int before = l.n_post;
    for (int i = 0; i < 1000 && l.n_post == before; i++)
        usleep(10000);
    for (int i = 0; i < 1000; i++) {
        ask(&s, "/metrics", NULL, NULL, &r);
        if (strstr(r.body.p, "sotto_issuer_log_current 1\n"))
            break;
        st_buf_free(&r.body);
    }
    expect_status(&r, 200, "sotto_issuer_log_current 1\n");
    st_role_stop(l.role);
    assert_string_equal(l.path, "POST /parts/issuer/first-issuer");
    assert_string_equal(l.bearer, "Bearer logs-key");
    struct st_directory *d = calloc(1, sizeof *d);
    assert_ok(st_directory_parse_part(l.body.p, l.body.len, "part", d, &e), &e);
    assert_string_equal(d->issuers[0].name, "first-issuer");
    assert_int_equal(d->issuers[0].n_key, s.keys->n_key);
    st_directory_wipe(d);
    free(d);
    issuing_stop(&s);
    issuing_start(&s, NULL);
    st_role_free(l.role);
    st_buf_free(&l.body);
}

static void what_an_issuer_cannot_work_with_is_said(void **state)
{
    (void)state;
    struct st_err e;
    struct st_issuer *i;
    struct st_issuer_opts o = {.db = "/tmp/no/such/place"};
    expect_refusal(st_issuer_new(&o, &i, &e), &e, ST_IO, "/tmp/no/such/place");
    o = (struct st_issuer_opts){.db = ":memory:", .name = "no/name"};
    expect_refusal(st_issuer_new(&o, &i, &e), &e, ST_USAGE, "--name");
    o = (struct st_issuer_opts){.db = ":memory:", .log = "http://192.0.2.1", .log_key_file = s.account_file};
    expect_refusal(st_issuer_new(&o, &i, &e), &e, ST_POLICY, "https");
    o = (struct st_issuer_opts){.db = s.db, .listen = {.host = "0.0.0.0"}};
    expect_refusal(st_issuer_new(&o, &i, &e), &e, ST_POLICY, "--tls-cert");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_purchase_is_signed_and_charged_and_the_same_again_costs_nothing),
        cmocka_unit_test(who_has_no_right_key_gets_the_same_refusal),
        cmocka_unit_test(an_account_buys_no_more_than_it_has_and_its_allowance_comes_first),
        cmocka_unit_test(requests_that_are_none_are_refused_and_cost_nothing),
        cmocka_unit_test(a_spent_token_gives_change_once_to_a_gateway),
        cmocka_unit_test(nothing_that_is_kept_can_be_matched_with_a_token),
        cmocka_unit_test(purchases_at_once_are_each_charged_once),
        cmocka_unit_test(an_account_that_asks_too_often_has_to_wait),
        cmocka_unit_test(keys_are_handed_to_the_log_until_it_has_logged_them),
        cmocka_unit_test(what_an_issuer_cannot_work_with_is_said),
        /* Last: its clock has gone on. */
        cmocka_unit_test(keys_outlive_a_restart_and_are_gone_from_the_disk_the_day_after_the_next),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
