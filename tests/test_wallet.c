/* The wallet against an issuer in this process: what is bought, taken, given back, and what is left after a crash. */
#include "base/file.h"
#include "expect.h"
#include "issuer_make.h"
#include "service/wallet.h"

#include <fcntl.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <sys/wait.h>

static struct issuing s;
static char file[128];
static int n_file;

static int set_up(void **state)
{
    (void)state;
    issuing_open(&s, 1 << 20, 0);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    issuing_close(&s);
    return 0;
}

/* A wallet of its own for every test. */
static void new_file(void)
{
    snprintf(file, sizeof file, "%s/wallet%d.db", s.dir, n_file++);
}

static struct st_wallet *open_wallet(const struct st_wallet_opts *more)
{
    struct st_err e;
    struct st_wallet *w;
    struct st_wallet_opts o = more ? *more : (struct st_wallet_opts){0};
    o.file = file;
    o.issuer_url = o.issuer_url ? o.issuer_url : st_role_url(st_issuer_role(s.issuer));
    o.account_file = o.account_file ? o.account_file : s.account_file;
    o.clock = test_clock;
    assert_ok(st_wallet_open(s.http, &o, &w, &e), &e);
    return w;
}

static struct st_wallet *open_with_keys(const struct st_wallet_opts *more)
{
    struct st_err e;
    struct st_wallet *w = open_wallet(more);
    assert_ok(st_wallet_keys(w, s.keys, test_clock(), &e), &e);
    return w;
}

struct got {
    int n;
    struct st_token t;
    struct st_err e;
};

static void on_taken(void *arg, const struct st_token *t, const struct st_err *e)
{
    struct got *g = arg;
    g->n++;
    if (t)
        g->t = *t;
    else
        g->e = *e;
}

static void turn(int ms)
{
    const struct timeval tv = {ms / 1000, ms % 1000 * 1000};
    event_base_loopexit(s.base, &tv);
    event_base_dispatch(s.base);
}

/* Takes a token and waits for it. */
static void take(struct st_wallet *w, uint32_t units, struct got *g)
{
    struct st_err e;
    struct st_wallet_take *ticket;
    *g = (struct got){0};
    int rc = st_wallet_take(w, units, on_taken, g, &ticket, &e);
    if (rc) {
        assert_int_equal(g->n, 0);
        g->e = e;
        return;
    }
    while (!g->n) /* what it waits for ends, one way or the other */
        event_base_loop(s.base, EVLOOP_ONCE);
    assert_int_equal(g->n, 1);
}

static void take_good(struct st_wallet *w, uint32_t units, uint32_t want, struct got *g)
{
    struct st_err e;
    take(w, units, g);
    assert_ok(g->e.code, &g->e);
    assert_int_equal(g->t.units, want);
    struct st_blind_rsa *k = issuing_key(&s, g->t.day, g->t.units);
    assert_ok(st_token_verify(&g->t, k, &e), &e);
    st_blind_rsa_free(k);
}

static void settle(struct st_wallet *w, uint64_t units)
{
    for (int i = 0; i < 2000 && st_wallet_units(w) != units; i++)
        turn(5);
    assert_int_equal(st_wallet_units(w), units);
}

static void a_wallet_buys_when_it_is_empty_and_each_token_is_good(void **state)
{
    (void)state;
    struct got g;
    struct stat sb;
    uint8_t seen[20][32];
    new_file();
    struct st_wallet *w = open_with_keys(NULL);
    assert_int_equal(st_wallet_units(w), 0);
    for (int i = 0; i < 20; i++) {
        take_good(w, 5, 8, &g);
        st_token_digest(&g.t, seen[i]);
        for (int j = 0; j < i; j++)
            assert_memory_not_equal(seen[i], seen[j], 32);
    }
    assert_int_equal(stat(file, &sb), 0);
    assert_int_equal(sb.st_mode & 0777, 0600);
    st_wallet_close(w);
}

static void a_wallet_buys_ahead_when_half_of_a_batch_is_gone(void **state)
{
    (void)state;
    struct got g;
    new_file();
    struct st_wallet *w = open_with_keys(NULL);
    take_good(w, 64, 64, &g);
    settle(w, 7 * 64);
    take_good(w, 64, 64, &g);
    take_good(w, 64, 64, &g);
    settle(w, 5 * 64);
    take_good(w, 64, 64, &g);
    settle(w, 12 * 64);
    st_wallet_close(w);
}

/* 100 at once: purchases grow, so that there are few of them. */
static void who_needs_many_buys_more_at_a_time(void **state)
{
    (void)state;
    struct st_err e;
    struct got g[100] = {{0}};
    struct st_wallet_take *ticket;
    int done = 0;
    new_file();
    struct st_wallet *w = open_with_keys(NULL);
    for (int i = 0; i < 100; i++)
        assert_ok(st_wallet_take(w, 1, on_taken, &g[i], &ticket, &e), &e);
    while (done < 100) {
        event_base_loop(s.base, EVLOOP_ONCE);
        for (done = 0; done < 100 && g[done].n; done++)
            assert_ok(g[done].e.code, &g[done].e);
    }
    /* 8, 16, 32 and 64 make 120. */
    settle(w, 20);
    st_wallet_close(w);
}

static void a_stock_is_bought_in_the_background_with_few_tokens(void **state)
{
    (void)state;
    struct got g;
    new_file();
    struct st_wallet *w = open_with_keys(NULL);
    st_wallet_stock(w, 600);
    settle(w, 600);
    take_good(w, 3, 8, &g);
    take_good(w, 9, 64, &g);
    take_good(w, 100000, 512, &g);
    st_wallet_close(w);
}

static void a_token_that_never_left_is_put_back(void **state)
{
    (void)state;
    struct st_err e;
    struct got g, again;
    const struct st_wallet_opts one = {.batch = 1};
    new_file();
    struct st_wallet *w = open_with_keys(&one);
    take_good(w, 512, 512, &g);
    assert_ok(st_wallet_return(w, &g.t, &e), &e);
    assert_ok(st_wallet_return(w, &g.t, &e), &e); /* twice is once */
    settle(w, 512);
    take_good(w, 512, 512, &again);
    assert_memory_equal(again.t.random, g.t.random, 32);
    st_wallet_close(w);
}

static void a_wallet_is_opened_once_and_a_file_of_others_not_at_all(void **state)
{
    (void)state;
    struct st_err e;
    struct st_wallet *second;
    new_file();
    struct st_wallet *w = open_with_keys(NULL);
    const struct st_wallet_opts o = {.file = file, .issuer_url = "http://127.0.0.1:1", .account_file = s.account_file};
    expect_refusal(st_wallet_open(s.http, &o, &second, &e), &e, ST_IO, "in use");
    st_wallet_close(w);
    assert_int_equal(chmod(file, 0644), 0);
    expect_refusal(st_wallet_open(s.http, &o, &second, &e), &e, ST_POLICY, "readable by others");
    const struct st_wallet_opts far = {
        .file = ":memory:", .issuer_url = "http://192.0.2.1", .account_file = s.account_file};
    expect_refusal(st_wallet_open(s.http, &far, &second, &e), &e, ST_POLICY, "https");
}

static void change_comes_back_as_tokens_and_what_is_no_signature_does_not(void **state)
{
    (void)state;
    struct st_err e;
    struct st_wallet_change *c;
    struct st_change_ask ask;
    struct st_change_answer a = {.n = 0};
    uint8_t signature[ST_CHANGE_MAX][256];
    uint16_t place[ST_CHANGE_MAX];
    uint32_t units;
    struct got g;
    new_file();
    struct st_wallet *w = open_with_keys(NULL);
    assert_ok(st_wallet_change_begin(w, 512, &c, &ask, &e), &e);
    assert_int_equal(ask.n, 22);
    /* The issuer's private keys, to sign as it would. */
    size_t n = st_change_pick(&ask, 129, place);
    assert_int_equal(n, 3);
    struct st_issuer_keys *keys;
    const struct st_issuer_keys_opts ko = {.db = s.db, .clock = test_clock};
    assert_ok(st_issuer_keys_new(&ko, &keys, &e), &e);
    for (size_t i = 0; i < n; i++) {
        size_t p = place[i];
        const struct st_issuer_key *k = st_issuer_keys_take(keys, ask.of[p].day, ask.of[p].units);
        assert_ok(st_blind_rsa_sign(k->rsa, ask.of[p].blinded.p, 256, signature[i], &e), &e);
        st_issuer_keys_give(keys, k);
        a.of[a.n].place = place[i];
        a.of[a.n++].signature = (struct st_span){signature[i], 256};
    }
    st_issuer_keys_free(keys);
    signature[2][100] ^= 1;
    expect_refusal(st_wallet_change_take(w, c, &a, &units, &e), &e, ST_VERIFY, "issuer's answer");
    assert_int_equal(units, 128);
    assert_int_equal(st_wallet_units(w), 128);
    signature[2][100] ^= 1;
    assert_ok(st_wallet_change_take(w, c, &a, &units, &e), &e);
    assert_int_equal(st_wallet_units(w), 129); /* the others were there already */
    a.of[0].place = 23;
    expect_refusal(st_wallet_change_take(w, c, &a, &units, &e), &e, ST_VERIFY, "nothing that was asked");
    st_wallet_change_free(c);
    take_good(w, 1, 1, &g);
    assert_ok(st_wallet_change_begin(w, 1, &c, &ask, &e), &e);
    assert_int_equal(ask.n, 1);
    st_wallet_change_free(c);
    st_wallet_close(w);
}

static void an_account_that_cannot_afford_a_batch_buys_what_it_can(void **state)
{
    (void)state;
    struct st_err e;
    struct got g;
    char key[65], path[128];
    snprintf(path, sizeof path, "%s/poor", s.dir);
    member_add(&s, ST_LEDGER_ACCOUNT, "bob", 75, 0, key);
    assert_ok(st_file_write(path, key, 64, 0600, false, &e), &e);
    const struct st_wallet_opts poor = {.account_file = path};
    new_file();
    struct st_wallet *w = open_with_keys(&poor);
    take_good(w, 500, 64, &g); /* 11 are left */
    take_good(w, 8, 8, &g);
    take_good(w, 1, 1, &g);
    take_good(w, 1, 1, &g);
    take_good(w, 1, 1, &g);
    take(w, 1, &g);
    expect_refusal(g.e.code, &g.e, ST_POLICY, "0 units left");
    st_wallet_close(w);
}

static void buying_ahead_does_not_turn_the_rest_of_an_account_into_tokens(void **state)
{
    (void)state;
    struct st_err e;
    struct got g;
    char key[65], path[128];
    snprintf(path, sizeof path, "%s/erin", s.dir);
    member_add(&s, ST_LEDGER_ACCOUNT, "erin", 2 * 512 + 100, 0, key);
    assert_ok(st_file_write(path, key, 64, 0600, false, &e), &e);
    const struct st_wallet_opts two = {.account_file = path, .batch = 2};
    new_file();
    struct st_wallet *w = open_with_keys(&two);
    take_good(w, 512, 512, &g);
    take_good(w, 512, 512, &g); /* none is left, and no other can be paid */
    settle(w, 64);
    for (double until = st_now() + 1.5; st_now() < until; usleep(10 * 1000))
        event_base_loop(s.base, EVLOOP_NONBLOCK);
    assert_int_equal(st_wallet_units(w), 64); /* 36 stay on the account */
    st_wallet_close(w);
}

static void an_unknown_account_a_dead_issuer_and_missing_keys_are_told_apart(void **state)
{
    (void)state;
    struct st_err e;
    struct got g;
    char path[128];
    snprintf(path, sizeof path, "%s/nobody", s.dir);
    assert_ok(st_file_write(path, "nobodys-key", 11, 0600, false, &e), &e);
    const struct st_wallet_opts nobody = {.account_file = path}, dead = {.issuer_url = "http://127.0.0.1:1"};
    new_file();
    struct st_wallet *w = open_with_keys(&nobody);
    take(w, 1, &g);
    expect_refusal(g.e.code, &g.e, ST_POLICY, "does not know the account");
    st_wallet_close(w);
    new_file();
    w = open_with_keys(&dead);
    take(w, 1, &g);
    expect_refusal(g.e.code, &g.e, ST_IO, "127.0.0.1");
    st_wallet_close(w);
    /* What could not be sent is bought with the next start. */
    w = open_wallet(NULL);
    take_good(w, 1, 1, &g);
    st_wallet_close(w);
    new_file();
    w = open_wallet(NULL);
    take(w, 1, &g);
    expect_refusal(g.e.code, &g.e, ST_POLICY, "no key");
    st_wallet_close(w);
}

static void who_does_not_wait_any_more_is_not_called(void **state)
{
    (void)state;
    struct st_err e;
    struct got g = {0}, h = {0};
    struct st_wallet_take *first, *second;
    new_file();
    struct st_wallet *w = open_with_keys(NULL);
    assert_ok(st_wallet_take(w, 1, on_taken, &g, &first, &e), &e);
    assert_ok(st_wallet_take(w, 1, on_taken, &h, &second, &e), &e);
    assert_non_null(first);
    st_wallet_cancel(first);
    settle(w, 7);
    assert_int_equal(g.n, 0);
    assert_int_equal(h.n, 1);
    assert_ok(h.e.code, &h.e);
    /* Closing drops who waits. */
    assert_ok(st_wallet_take(w, 64, on_taken, &g, &first, &e), &e);
    st_wallet_close(w);
    assert_int_equal(g.n, 0);
}

static void another_key_for_a_day_or_another_issuer_is_refused(void **state)
{
    (void)state;
    struct st_err e;
    struct st_directory_issuer *other = malloc(sizeof *other);
    new_file();
    struct st_wallet *w = open_with_keys(NULL);
    *other = *s.keys;
    struct st_span k = other->keys[0].key;
    other->keys[0].key = other->keys[1].key;
    expect_refusal(st_wallet_keys(w, other, test_clock(), &e), &e, ST_POLICY, "another one than before");
    other->keys[0].key = k;
    strcpy(other->name, "mallory");
    expect_refusal(st_wallet_keys(w, other, test_clock(), &e), &e, ST_POLICY, "another issuer");
    st_wallet_close(w);
    w = open_wallet(NULL); /* it is remembered */
    expect_refusal(st_wallet_keys(w, other, test_clock(), &e), &e, ST_POLICY, "another issuer");
    st_wallet_close(w);
    free(other);
}

static void tokens_of_days_that_are_gone_are_dropped(void **state)
{
    (void)state;
    struct st_err e;
    struct got g;
    new_file();
    struct st_wallet *w = open_with_keys(NULL);
    take_good(w, 1, 1, &g);
    settle(w, 7);
    assert_ok(st_wallet_keys(w, s.keys, test_clock() + ST_TOKEN_DAY_S, &e), &e);
    assert_int_equal(st_wallet_units(w), 7); /* good for a day more */
    assert_ok(st_wallet_keys(w, s.keys, test_clock() + 2 * ST_TOKEN_DAY_S, &e), &e);
    assert_int_equal(st_wallet_units(w), 0);
    st_wallet_close(w);
}

/* ---- crashes ---- */

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
    st_ledger_close(l);
    assert_true(found);
    return m.units;
}

/* The issuer has charged and signed; its answer never arrives. */
static void a_purchase_whose_answer_was_lost_is_charged_once(void **state)
{
    (void)state;
    struct st_err e;
    struct got g = {0};
    struct st_wallet_take *ticket;
    char key[65], path[128];
    snprintf(path, sizeof path, "%s/dave", s.dir);
    member_add(&s, ST_LEDGER_ACCOUNT, "dave", 100, 0, key);
    assert_ok(st_file_write(path, key, 64, 0600, false, &e), &e);
    const struct st_wallet_opts dave = {.account_file = path};
    new_file();
    struct st_wallet *w = open_with_keys(&dave);
    assert_ok(st_wallet_take(w, 8, on_taken, &g, &ticket, &e), &e);
    /* Sends, and stops to listen when the issuer has charged. */
    for (int i = 0; i < 4000 && units_left(key) == 100 && !g.n; i++)
        event_base_loop(s.base, EVLOOP_NONBLOCK);
    bool lost = g.n == 0;
    st_wallet_close(w);
    assert_int_equal(units_left(key), 36);
    issuing_stop(&s); /* and it has been started anew since */
    issuing_start(&s, NULL);
    w = open_with_keys(&dave);
    st_wallet_stock(w, 1);
    settle(w, lost ? 64 : 56);
    assert_int_equal(units_left(key), 36);
    st_wallet_close(w);
}

static int64_t run_sql(const char *sql)
{
    sqlite3 *db;
    sqlite3_stmt *q;
    assert_int_equal(sqlite3_open_v2(file, &db, SQLITE_OPEN_READWRITE, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &q, NULL), SQLITE_OK);
    int64_t n = sqlite3_step(q) == SQLITE_ROW ? sqlite3_column_int64(q, 0) : 0;
    sqlite3_finalize(q);
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
    return n;
}

/* What is on disk while the wallet is open is what a program that dies leaves behind: goes on with a copy of it. */
static void go_on_with_a_copy(void)
{
    static const char *const parts[] = {"", "-wal"};
    struct st_err e;
    char from[192], to[192];
    int n = n_file++;
    for (size_t i = 0; i < 2; i++) {
        struct st_buf b = {0};
        snprintf(from, sizeof from, "%s%s", file, parts[i]);
        snprintf(to, sizeof to, "%s/wallet%d.db%s", s.dir, n, parts[i]);
        assert_ok(st_file_read(from, 1 << 24, &b, &e), &e);
        assert_ok(st_file_write(to, b.p, b.len, 0600, false, &e), &e);
        st_buf_free(&b);
    }
    snprintf(file, sizeof file, "%s/wallet%d.db", s.dir, n);
}

/* What was taken just before a power cut may be in the file still: none of the tokens it could be comes out again. */
static void after_the_machine_has_died_marked_tokens_are_dropped_and_others_stay(void **state)
{
    (void)state;
    struct got g;
    const struct st_wallet_opts many = {.batch = 40};
    new_file();
    struct st_wallet *w = open_with_keys(&many);
    take_good(w, 1, 1, &g);
    settle(w, 39);
    turn(100);
    go_on_with_a_copy();
    st_wallet_close(w);
    int64_t marked = run_sql("SELECT count(*) FROM tokens WHERE marked = 1");
    assert_in_range(marked, 7, 8);
    w = open_with_keys(&many); /* this program alone had died */
    assert_int_equal(st_wallet_units(w), 39);
    go_on_with_a_copy();
    st_wallet_close(w);
    (void)run_sql("UPDATE boot SET id = x'00'");
    w = open_with_keys(&many);
    assert_int_equal(st_wallet_units(w), 39 - marked);
    take_good(w, 1, 1, &g);
    st_wallet_close(w);
}

static void a_wallet_that_was_closed_loses_nothing_when_the_machine_starts_anew(void **state)
{
    (void)state;
    struct got g;
    new_file();
    struct st_wallet *w = open_with_keys(NULL);
    take_good(w, 1, 1, &g);
    settle(w, 7);
    st_wallet_close(w);
    assert_int_equal(run_sql("SELECT count(*) FROM tokens WHERE marked = 1"), 0);
    (void)run_sql("UPDATE boot SET id = x'00'");
    w = open_with_keys(NULL);
    assert_int_equal(st_wallet_units(w), 7);
    st_wallet_close(w);
}

static void a_token_that_came_back_is_marked_so_that_the_next_request_need_not_wait_for_the_disk(void **state)
{
    (void)state;
    struct got g;
    struct st_err e;
    new_file();
    struct st_wallet *w = open_with_keys(NULL);
    take_good(w, 8, 8, &g);
    settle(w, 7 * 8);
    assert_ok(st_wallet_return(w, &g.t, &e), &e);
    go_on_with_a_copy();
    assert_int_equal(run_sql("SELECT count(*) FROM tokens WHERE marked = 1 AND units = 8"), 8);
    st_wallet_close(w);
}

/* This program once more: opens the wallet and takes tokens, each of which it reports on standard output, until it is
 * killed. argv: url, wallet, key file. */
static int spend(char **argv)
{
    struct st_err e;
    struct got g;
    struct reply r;
    struct st_directory *d;
    struct st_wallet *w;
    const struct st_http_client_opts o = {.connect_s = 10, .max_idle = 4};
    const struct st_wallet_opts wo = {.file = argv[1], .issuer_url = argv[0], .account_file = argv[2]};
    s.base = event_base_new();
    if (st_http_client_new(s.base, &o, &s.http, &e) || st_alloc(&d, 1, sizeof *d, "directory", &e))
        return 2;
    ask_at(s.http, argv[0], "/keys", NULL, NULL, &r);
    if (st_directory_parse_part(r.body.p, r.body.len, "keys", d, &e) || st_wallet_open(s.http, &wo, &w, &e) ||
        st_wallet_keys(w, &d->issuers[0], st_unix_time(), &e))
        return 3;
    for (;;) {
        take(w, 1, &g);
        if (g.e.code || write(1, g.t.random, 32) != 32)
            return 4;
    }
}

static pid_t start_spender(const char *key_file, int *report)
{
    int ends[2];
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    pid_t child = fork();
    if (child == 0) {
        char url[320];
        snprintf(url, sizeof url, "%s", st_role_url(st_issuer_role(s.issuer)));
        dup2(ends[1], 1);
        execl("/proc/self/exe", "spend", url, file, key_file, (char *)NULL);
        _exit(9);
    }
    close(ends[1]);
    *report = ends[0];
    return child;
}

#define MAX_SEEN 16384

/* Reads a report and looks whether it is new; false when there is no more. */
static bool one_more(int report, uint8_t (*seen)[32], size_t *n)
{
    if (*n == MAX_SEEN || read(report, seen[*n], 32) != 32)
        return false;
    for (size_t i = 0; i < *n; i++)
        assert_memory_not_equal(seen[i], seen[*n], 32);
    ++*n;
    return true;
}

/* Kills a spender at whatever it is doing, many times: no token is reported twice, and in the end the wallet has, or
 * has handed out, all that the account has paid for, but for those that were taken in the moment of death. */
static void after_kills_no_token_was_handed_out_twice_and_none_that_was_paid_for_is_lost(void **state)
{
    (void)state;
    enum { KILLS = 20 };
    static uint8_t seen[MAX_SEEN][32];
    struct st_err e;
    size_t n_seen = 0;
    char key[65], path[128];
    int64_t paid = 1 << 16;
    snprintf(path, sizeof path, "%s/crashing", s.dir);
    member_add(&s, ST_LEDGER_ACCOUNT, "carol", paid, 0, key);
    assert_ok(st_file_write(path, key, 64, 0600, false, &e), &e);
    new_file();
    for (int at = 0; at < KILLS; at++) {
        int report, status;
        pid_t child = start_spender(path, &report);
        /* From before its first step on to well within its work. */
        size_t until = n_seen + (size_t)(at < 3 ? 0 : at);
        bool more = true;
        while (more && n_seen < until)
            more = one_more(report, seen, &n_seen);
        usleep((useconds_t)(at * 300));
        assert_int_equal(kill(child, SIGKILL), 0);
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status));
        while (one_more(report, seen, &n_seen))
            ;
        close(report);
    }
    assert_true(n_seen > KILLS);
    /* Whatever was under way is asked for again. */
    const struct st_wallet_opts carol = {.account_file = path};
    struct st_wallet *w = open_with_keys(&carol);
    st_wallet_stock(w, 1);
    for (int i = 0; i < 100; i++)
        turn(5);
    uint64_t left = st_wallet_units(w);
    st_wallet_close(w);
    uint64_t bought = (uint64_t)(paid - units_left(key));
    print_message("bought %d, handed out %d, left %d\n", (int)bought, (int)n_seen, (int)left);
    assert_true(n_seen + left <= bought);
    assert_true(n_seen + left + KILLS >= bought);
}

int main(int argc, char **argv)
{
    if (argc == 4)
        return spend(argv + 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_wallet_buys_when_it_is_empty_and_each_token_is_good),
        cmocka_unit_test(a_wallet_buys_ahead_when_half_of_a_batch_is_gone),
        cmocka_unit_test(who_needs_many_buys_more_at_a_time),
        cmocka_unit_test(a_stock_is_bought_in_the_background_with_few_tokens),
        cmocka_unit_test(a_token_that_never_left_is_put_back),
        cmocka_unit_test(a_wallet_is_opened_once_and_a_file_of_others_not_at_all),
        cmocka_unit_test(change_comes_back_as_tokens_and_what_is_no_signature_does_not),
        cmocka_unit_test(an_account_that_cannot_afford_a_batch_buys_what_it_can),
        cmocka_unit_test(buying_ahead_does_not_turn_the_rest_of_an_account_into_tokens),
        cmocka_unit_test(an_unknown_account_a_dead_issuer_and_missing_keys_are_told_apart),
        cmocka_unit_test(who_does_not_wait_any_more_is_not_called),
        cmocka_unit_test(another_key_for_a_day_or_another_issuer_is_refused),
        cmocka_unit_test(tokens_of_days_that_are_gone_are_dropped),
        cmocka_unit_test(a_purchase_whose_answer_was_lost_is_charged_once),
        cmocka_unit_test(after_the_machine_has_died_marked_tokens_are_dropped_and_others_stay),
        cmocka_unit_test(a_wallet_that_was_closed_loses_nothing_when_the_machine_starts_anew),
        cmocka_unit_test(a_token_that_came_back_is_marked_so_that_the_next_request_need_not_wait_for_the_disk),
        cmocka_unit_test(after_kills_no_token_was_handed_out_twice_and_none_that_was_paid_for_is_lost),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
