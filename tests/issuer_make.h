/* An issuer in this process, with an account and a gateway, and a client of it. Include expect.h first. */
#ifndef ST_TESTS_ISSUER_MAKE_H
#define ST_TESTS_ISSUER_MAKE_H

#include "attest/directory.h"
#include "base/file.h"
#include "base/hooks.h"
#include "crypto/digest.h"
#include "net/http_client.h"
#include "service/issuer.h"
#include "service/issuer_ledger.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct issuing {
    char dir[64], db[96], account_file[96];
    char account[65], gateway[65]; /* bearer keys */
    struct st_issuer *issuer;
    struct event_base *base;
    struct st_http_client *http;
    struct st_directory *directory; /* its part; [1] */
    const struct st_directory_issuer *keys;
};

/* Seconds that this test's clock is ahead: set while nothing runs. */
static int64_t clock_ahead;
static inline int64_t test_clock(void)
{
    return st_unix_time() + clock_ahead;
}

static inline uint32_t test_today(void)
{
    return (uint32_t)(test_clock() / ST_TOKEN_DAY_S);
}

struct reply {
    int status;
    bool ended;
    struct st_err error; /* code 0 = a whole reply came */
    struct st_buf body;
};

static inline int reply_data(void *arg, int status, const void *p, size_t len, struct st_err *e)
{
    struct reply *r = arg;
    (void)status;
    (void)e;
    st_buf_add(&r->body, p, len);
    return 0;
}

static inline void reply_end(void *arg, int status, const struct st_err *e)
{
    struct reply *r = arg;
    r->status = status;
    r->ended = true;
    if (e)
        r->error = *e;
}

/* body NULL = GET. */
static inline void ask_at(struct st_http_client *http, const char *base_url, const char *path, const char *bearer,
                          const char *body, struct reply *r)
{
    struct st_err e;
    struct st_http_call *call;
    struct st_buf b = {0};
    char url[400];
    *r = (struct reply){0};
    snprintf(url, sizeof url, "%s%s", base_url, path);
    if (body)
        st_buf_add_str(&b, body);
    const struct st_http_call_opts o = {.url = url,
                                        .bearer = bearer,
                                        .body = body ? &b : NULL,
                                        .stall_s = 20,
                                        .max_reply = 1 << 20,
                                        .data = reply_data,
                                        .end = reply_end,
                                        .arg = r};
    assert_ok(st_http_call_start(http, &o, &call, &e), &e);
    while (!r->ended)
        event_base_loop(st_http_client_base(http), EVLOOP_ONCE);
}

static inline void ask(struct issuing *s, const char *path, const char *bearer, const char *body, struct reply *r)
{
    ask_at(s->http, st_role_url(st_issuer_role(s->issuer)), path, bearer, body, r);
}

static inline void expect_status(struct reply *r, int status, const char *says)
{
    if (r->error.code || r->status != status || (says && (!r->body.p || !strstr(r->body.p, says))))
        fail_msg("want %d %s, got %d %.200s (%s)", status, says ? says : "", r->status, r->body.p ? r->body.p : "",
                 r->error.msg);
    st_buf_free(&r->body);
}

static inline void member_add(struct issuing *s, enum st_ledger_kind kind, const char *name, int64_t units,
                              int64_t daily, char key[65])
{
    struct st_err e;
    struct st_ledger *l;
    struct st_ledger_member m = {.units = units, .daily = daily};
    uint8_t random[32], digest[32];
    snprintf(m.name, sizeof m.name, "%s", name);
    assert_ok(st_random(random, sizeof random, &e), &e);
    st_hex(random, sizeof random, key);
    st_sha256(key, 64, digest);
    assert_ok(st_ledger_open(s->db, &l, &e), &e);
    assert_ok(st_ledger_add(l, kind, &m, digest, &e), &e);
    st_ledger_close(l);
}

/* Waits until the keys of its today are there, and reads them. */
static inline void issuing_keys(struct issuing *s)
{
    struct st_err e;
    struct reply r;
    uint32_t today = test_today();
    for (int i = 0; i < 1000; i++) {
        ask(s, "/keys", NULL, NULL, &r);
        st_directory_wipe(s->directory);
        if (r.status == 200) {
            assert_ok(st_directory_parse_part(r.body.p, r.body.len, "keys", s->directory, &e), &e);
            s->keys = &s->directory->issuers[0];
        }
        st_buf_free(&r.body);
        bool all = s->keys && st_directory_find_key(s->keys, today + 1, 512);
        for (size_t u = 0; all && u < ST_TOKEN_N_UNITS; u++)
            all = st_directory_find_key(s->keys, today, st_token_units[u]);
        if (all)
            return;
        usleep(20000);
    }
    fail_msg("the issuer has made no keys");
}

static inline void issuing_start(struct issuing *s, const struct st_issuer_opts *more)
{
    struct st_err e;
    struct st_issuer_opts o = more ? *more : (struct st_issuer_opts){0};
    o.db = s->db;
    o.clock = test_clock;
    assert_ok(st_issuer_new(&o, &s->issuer, &e), &e);
    assert_ok(st_role_start(st_issuer_role(s->issuer), &e), &e);
    issuing_keys(s);
}

static inline void issuing_stop(struct issuing *s)
{
    st_issuer_free(s->issuer);
    s->issuer = NULL;
}

/* Signing keys of days that the issuer would make itself, in less time: those of later days are the first day's again,
 * but for one. */
static inline void issuing_fill(const char *db, uint32_t first, uint32_t last)
{
    struct st_err e;
    struct st_ledger *l;
    struct st_blind_rsa *k;
    uint8_t der[ST_BLIND_RSA_DER_MAX];
    size_t len;
    assert_ok(st_ledger_open(db, &l, &e), &e);
    for (size_t i = 0; i <= ST_TOKEN_N_UNITS; i++) {
        assert_ok(st_blind_rsa_new(2048, &k, &e), &e);
        assert_ok(st_blind_rsa_write_private(k, der, &len, &e), &e);
        st_blind_rsa_free(k);
        for (uint32_t day = first; day <= (i ? last : first); day++) /* one that is there already stays */
            assert_ok(st_ledger_key_add(l, day, i ? st_token_units[i - 1] : 64, (struct st_span){der, len}, &e), &e);
    }
    st_ledger_close(l);
}

static inline void issuing_open(struct issuing *s, int64_t units, int64_t daily)
{
    struct st_err e;
    const struct st_http_client_opts o = {.connect_s = 10, .max_idle = 4};
    *s = (struct issuing){.dir = "/tmp/sotto_issuer_XXXXXX"};
    clock_ahead = 0;
    setenv("no_proxy", "*", 1);
    assert_non_null(mkdtemp(s->dir));
    snprintf(s->db, sizeof s->db, "%s/issuer.db", s->dir);
    snprintf(s->account_file, sizeof s->account_file, "%s/account", s->dir);
    member_add(s, ST_LEDGER_ACCOUNT, "alice", units, daily, s->account);
    member_add(s, ST_LEDGER_GATEWAY, "gateway", 0, 0, s->gateway);
    issuing_fill(s->db, test_today(), test_today() + 2);
    assert_ok(st_file_write(s->account_file, s->account, 64, 0600, false, &e), &e);
    s->base = event_base_new();
    assert_non_null(s->base);
    assert_ok(st_http_client_new(s->base, &o, &s->http, &e), &e);
    assert_ok(st_alloc(&s->directory, 1, sizeof *s->directory, "directory", &e), &e);
    issuing_start(s, NULL);
}

static inline void issuing_close(struct issuing *s)
{
    char command[128];
    issuing_stop(s);
    st_http_client_free(s->http);
    event_base_free(s->base);
    st_directory_wipe(s->directory);
    free(s->directory);
    snprintf(command, sizeof command, "rm -r '%s'", s->dir);
    assert_int_equal(system(command), 0);
}

static inline struct st_blind_rsa *issuing_key(const struct issuing *s, uint32_t day, uint32_t units)
{
    struct st_err e;
    struct st_blind_rsa *k;
    const struct st_directory_key *d = st_directory_find_key(s->keys, day, units);
    assert_non_null(d);
    assert_ok(st_blind_rsa_parse_public(d->key.p, d->key.len, &k, &e), &e);
    return k;
}

#endif
