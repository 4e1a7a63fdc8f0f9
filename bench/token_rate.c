/* What tokens cost: the steps one by one on one thread, in processor time, and whole requests to an issuer in this
 * process over HTTP on loopback, with its ledger on disk, in wall time. Usage: token_rate [seconds per row]. Prints
 * CSV: what, microseconds, per second. */
#include "base/hooks.h"
#include "channel/issue.h"
#include "crypto/digest.h"
#include "net/http_client.h"
#include "service/issuer.h"
#include "service/issuer_ledger.h"
#include "service/wallet_store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { N_AT_ONCE = 16 };

static double seconds = 1;

static void die(const char *what)
{
    fprintf(stderr, "token_rate: %s\n", what);
    exit(1);
}

static void check(int rc, const struct st_err *e)
{
    if (rc)
        die(e->msg);
}

static double cpu(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

static void row(const char *what, double us)
{
    printf("%s,%.1f,%.0f\n", what, us, 1e6 / us);
    fflush(stdout);
}

/* ---- steps ---- */

struct steps {
    struct st_blind_rsa *rsa;
    struct st_token_blank blank, blanks[ST_BLIND_RSA_JOBS];
    uint8_t answer[ST_BLIND_RSA_MAX];
    struct st_token token;
    struct st_wallet_store *store;
};

static int step_blind(struct steps *s, struct st_err *e)
{
    return st_token_begin(s->rsa, 1, 1, &s->blank, e);
}

static int step_blind_many(struct steps *s, struct st_err *e)
{
    return st_token_begin_many(s->rsa, 1, 1, s->blanks, ST_BLIND_RSA_JOBS, e);
}

static int step_sign(struct steps *s, struct st_err *e)
{
    return st_blind_rsa_sign(s->rsa, s->blank.blinded, s->blank.len, s->answer, e);
}

static int step_finish(struct steps *s, struct st_err *e)
{
    return st_token_finish(&s->blank, s->rsa, (struct st_span){s->answer, s->blank.len}, &s->token, e);
}

static int step_verify(struct steps *s, struct st_err *e)
{
    return st_token_verify(&s->token, s->rsa, e);
}

#define TAKEN 8 /* as many as a wallet marks at once */

static int step_wallet(struct steps *s, struct st_err *e)
{
    struct st_token t[TAKEN];
    bool found;
    for (int i = 0; i < TAKEN; i++) {
        t[i] = s->token;
        t[i].random[0] = (uint8_t)i;
    }
    int rc = st_wallet_store_add(s->store, t, TAKEN, e);
    if (!rc)
        rc = st_wallet_store_mark(s->store, 1, 0, e);
    for (int i = 0; !rc && i < TAKEN; i++)
        rc = st_wallet_store_take(s->store, 1, false, 0, &t[i], &found, e);
    return rc;
}

/* each: what one step makes. */
static void time_step(const char *what, int (*step)(struct steps *s, struct st_err *e), struct steps *s, int each,
                      double (*clock)(void))
{
    struct st_err e;
    uint64_t n = 0;
    double t0 = clock(), t = t0;
    for (; t - t0 < seconds; t = clock())
        for (int i = 0; i < 16; i++, n++)
            check(step(s, &e), &e);
    row(what, (t - t0) * 1e6 / (double)n / each);
}

/* ---- an issuer ---- */

struct load {
    struct st_http_client *http;
    struct event_base *base;
    const char *bearer;
    char url[400];
    struct st_issue ask;
    struct st_token *tokens; /* of refunds, each used once */
    size_t n_token, used;
    size_t open, done;
    double end;
};

static void begin(struct load *l);

static void on_end(void *arg, int status, const struct st_err *e)
{
    struct load *l = arg;
    if (e || status != 200)
        die(e ? e->msg : "the issuer refused");
    l->open--;
    l->done++;
    if (st_now() < l->end && l->used < l->n_token)
        begin(l);
}

static void begin(struct load *l)
{
    struct st_err e;
    struct st_http_call *call;
    struct st_buf body = {0};
    if (l->ask.kind == ST_ISSUE_REFUND)
        l->ask.token = l->tokens[l->used++];
    else
        check(st_random(l->ask.id, sizeof l->ask.id, &e), &e);
    st_issue_write(&l->ask, &body);
    const struct st_http_call_opts o = {
        .url = l->url, .bearer = l->bearer, .body = &body, .max_reply = 1 << 20, .end = on_end, .arg = l};
    check(st_http_call_start(l->http, &o, &call, &e), &e);
    l->open++;
}

static void time_requests(struct load *l, const char *what, size_t n_signature)
{
    double t0 = st_now();
    l->end = t0 + seconds;
    l->done = 0;
    for (int i = 0; i < N_AT_ONCE && l->used < l->n_token; i++)
        begin(l);
    while (l->open)
        event_base_loop(l->base, EVLOOP_ONCE);
    double us = (st_now() - t0) * 1e6;
    char name[96];
    row(what, us / (double)l->done);
    snprintf(name, sizeof name, "%s per signature", what);
    row(name, us / (double)(l->done * n_signature));
}

static void add_member(const char *db, enum st_ledger_kind kind, char key[65])
{
    struct st_err e;
    struct st_ledger *l;
    uint8_t random[32], digest[32];
    const struct st_ledger_member m = {.name = "bench", .units = ST_LEDGER_MAX_UNITS};
    check(st_random(random, sizeof random, &e), &e);
    st_hex(random, sizeof random, key);
    st_sha256(key, 64, digest);
    check(st_ledger_open(db, &l, &e), &e);
    check(st_ledger_add(l, kind, &m, digest, &e), &e);
    st_ledger_close(l);
}

/* Tokens of 64 units of today, signed by the ledger's own key. */
static void make_tokens(struct load *l, const struct st_blind_rsa *k, uint32_t day)
{
    struct st_err e;
    struct st_token_blank b;
    uint8_t answer[ST_BLIND_RSA_MAX];
    l->n_token = (size_t)(400 * seconds);
    check(st_alloc(&l->tokens, l->n_token, sizeof *l->tokens, "tokens", &e), &e);
    for (size_t i = 0; i < l->n_token; i++) {
        check(st_token_begin(k, day, 64, &b, &e), &e);
        check(st_blind_rsa_sign(k, b.blinded, b.len, answer, &e), &e);
        check(st_token_finish(&b, k, (struct st_span){answer, b.len}, &l->tokens[i], &e), &e);
    }
}

/* n blanks of one denomination: the same for every request, which changes no time. */
static void fill(struct st_issue *ask, enum st_issue_kind kind, const struct st_blind_rsa *k, uint32_t day,
                 uint32_t units, size_t n)
{
    static struct st_token_blank b[ST_ISSUE_MAX];
    struct st_err e;
    *ask = (struct st_issue){.kind = kind, .n = n};
    for (size_t i = 0; i < n; i++) {
        check(st_token_begin(k, day, units, &b[i], &e), &e);
        ask->of[i].day = day;
        ask->of[i].units = units;
        ask->of[i].blinded = (struct st_span){b[i].blinded, b[i].len};
    }
}

static void run_issuer(const char *dir)
{
    struct st_err e;
    struct st_issuer *issuer;
    struct st_issuer_keys *keys;
    char db[128], account[65], gateway[65];
    snprintf(db, sizeof db, "%s/issuer.db", dir);
    add_member(db, ST_LEDGER_ACCOUNT, account);
    add_member(db, ST_LEDGER_GATEWAY, gateway);
    const struct st_issuer_opts o = {.db = db, .rate = 1u << 20};
    check(st_issuer_new(&o, &issuer, &e), &e);
    check(st_role_start(st_issuer_role(issuer), &e), &e);
    const struct st_issuer_keys_opts ko = {.db = db};
    check(st_issuer_keys_new(&ko, &keys, &e), &e);
    uint32_t day = st_issuer_keys_today(keys);
    const struct st_issuer_key *k1, *k8, *k64;
    while (!(k64 = st_issuer_keys_take(keys, day, 64)) || !st_issuer_keys_ready(keys))
        usleep(10000);
    k1 = st_issuer_keys_take(keys, day, 1);
    k8 = st_issuer_keys_take(keys, day, 8);
    sleep(3); /* tomorrow's keys are made meanwhile */
    struct load l = {.base = event_base_new(), .n_token = SIZE_MAX, .bearer = account};
    const struct st_http_client_opts ho = {.connect_s = 10, .max_idle = N_AT_ONCE};
    check(st_http_client_new(l.base, &ho, &l.http, &e), &e);
    snprintf(l.url, sizeof l.url, "%s/issue", st_role_url(st_issuer_role(issuer)));
    fill(&l.ask, ST_ISSUE_PURCHASE, k8->rsa, day, 8, 64);
    time_requests(&l, "purchase of 64", 64);
    fill(&l.ask, ST_ISSUE_PURCHASE, k1->rsa, day, 1, 1);
    time_requests(&l, "purchase of 1", 1);
    make_tokens(&l, k64->rsa, day);
    l.bearer = gateway;
    snprintf(l.url, sizeof l.url, "%s/refund", st_role_url(st_issuer_role(issuer)));
    fill(&l.ask, ST_ISSUE_REFUND, k8->rsa, day, 8, 7);
    time_requests(&l, "refund of 7", 7);
    st_http_client_free(l.http);
    event_base_free(l.base);
    free(l.tokens);
    const struct st_issuer_key *all[] = {k1, k8, k64};
    for (size_t i = 0; i < 3; i++)
        st_issuer_keys_give(keys, all[i]);
    st_issuer_keys_free(keys);
    st_issuer_free(issuer);
}

int main(int argc, char **argv)
{
    struct st_err e;
    struct steps s = {0};
    char dir[] = "/tmp/sotto_token_rate_XXXXXX", path[128], command[128];
    if (argc > 1)
        seconds = atof(argv[1]);
    setenv("no_proxy", "*", 1);
    if (seconds <= 0 || !mkdtemp(dir))
        die("usage: token_rate [seconds per row]");
    snprintf(path, sizeof path, "%s/wallet.db", dir);
    check(st_wallet_store_open(path, &s.store, &e), &e);
    check(st_blind_rsa_new(2048, &s.rsa, &e), &e);
    puts("what,us,per_s");
    time_step("blind", step_blind, &s, 1, cpu);
    time_step("blind (16 together)", step_blind_many, &s, ST_BLIND_RSA_JOBS, cpu);
    time_step("sign", step_sign, &s, 1, cpu);
    time_step("unblind and verify", step_finish, &s, 1, cpu);
    time_step("verify", step_verify, &s, 1, cpu);
    time_step("wallet: in and out (8 share a sync)", step_wallet, &s, TAKEN, st_now);
    st_wallet_store_close(s.store);
    st_blind_rsa_free(s.rsa);
    run_issuer(dir);
    snprintf(command, sizeof command, "rm -r '%s'", dir);
    return system(command) ? 1 : 0;
}
