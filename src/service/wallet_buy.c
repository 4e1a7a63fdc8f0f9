#include "base/hooks.h"
#include "base/log.h"
#include "service/wallet_priv.h"

#include <inttypes.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

enum { RETRY_MIN_S = 1, RETRY_MAX_S = 300 };

/* ---- what to buy ---- */

/* Who waits comes first, then a batch of what runs out, then the stock. False: nothing. */
static bool what_next(struct st_wallet *w, uint32_t *units, size_t *n)
{
    uint64_t have = st_wallet_units(w);
    if (w->waiting) {
        *units = st_wallet_denomination(w->waiting->units);
        *n = st_wallet_level(w, true);
    } else if (w->more_of) {
        *units = w->more_of;
        *n = st_wallet_level(w, false);
    } else if (have < w->stock) {
        uint64_t missing = w->stock - have;
        *units = st_token_units[0];
        for (size_t i = 0; i < ST_TOKEN_N_UNITS; i++)
            if (st_token_units[i] <= missing)
                *units = st_token_units[i];
        *n = (size_t)(missing / *units);
    } else
        return false;
    *n = *n < ST_ISSUE_MAX ? *n : ST_ISSUE_MAX;
    return true;
}

/* The most of it that an account with `left` units can buy: in the same denomination, or in the largest below that it
 * can pay. */
static bool affordable(int64_t left, uint32_t *units, size_t *n)
{
    int64_t wanted = (int64_t)*n * *units;
    for (size_t i = ST_TOKEN_N_UNITS; i-- > 0;) {
        int64_t each = st_token_units[i];
        if (each > *units || each > left)
            continue;
        int64_t most = (wanted < left ? wanted : left) / each;
        *units = st_token_units[i];
        *n = most < ST_ISSUE_MAX ? (size_t)most : ST_ISSUE_MAX;
        return true;
    }
    return false;
}

/* ---- one purchase ---- */

static int send_batch(struct st_wallet *w, struct st_err *e);
static void on_retry(evutil_socket_t fd, short what, void *arg);

static int begin_batch(struct st_wallet *w, uint32_t units, size_t n, struct st_err *e)
{
    struct st_wallet_batch *b = &w->batch_out;
    if (st_alloc(&b->blanks, n, sizeof *b->blanks, "a purchase", e) || st_random(b->id, sizeof b->id, e))
        return e->code;
    for (b->n = 0; b->n < n; b->n++)
        if (st_wallet_blanks_take(w->blanks, units, &b->blanks[b->n], e))
            return e->code;
    /* Yesterday's key can still be the newest of a wallet that has not heard of today's. */
    if (b->blanks[0].token.day < st_wallet_first_day(w))
        return st_fail(e, ST_POLICY, "wallet: no key of the issuer's is good today");
    return st_wallet_store_begin(w->store, b, e);
}

static void later(struct st_wallet *w)
{
    w->retry_s = w->retry_s ? (2 * w->retry_s < RETRY_MAX_S ? 2 * w->retry_s : RETRY_MAX_S) : RETRY_MIN_S;
    const struct timeval tv = {w->retry_s, 0};
    if (!w->retry)
        w->retry = evtimer_new(st_http_client_base(w->http), on_retry, w);
    if (w->retry)
        event_add(w->retry, &tv);
}

static void failed(struct st_wallet *w, const struct st_err *e)
{
    w->trouble = *e;
    if (!w->retry_s)
        st_log(ST_LOG_WARN, "wallet: cannot buy: %s", e->msg);
    later(w);
    st_wallet_fail(w, e);
}

static void go_on(struct st_wallet *w)
{
    struct st_err e;
    if (st_wallet_buy(w, &e))
        failed(w, &e);
}

/* Nothing came of it and nothing was paid. */
static int drop_batch(struct st_wallet *w, struct st_err *e)
{
    return st_wallet_store_end(w->store, w->batch_out.id, NULL, 0, e);
}

static int take_answer(struct st_wallet *w, struct st_err *e)
{
    const struct st_wallet_batch *b = &w->batch_out;
    struct st_issue_answer a;
    struct st_token *t = NULL;
    size_t n = 0;
    int bad = 0;
    struct st_err why;
    int rc = st_issue_answer_parse((struct st_span){(const uint8_t *)w->reply.p, w->reply.len}, b->n, &a, e);
    if (!rc)
        rc = st_alloc(&t, b->n, sizeof *t, "tokens", e);
    for (size_t i = 0; !rc && i < b->n; i++) {
        const struct st_wallet_key *k = st_wallet_find_key(w, b->blanks[i].token.day, b->blanks[i].token.units);
        if (!k)
            bad = st_fail(&why, ST_POLICY, "wallet: the key of a purchase is gone");
        else if (st_token_finish(&b->blanks[i], k->rsa, a.signature[i], &t[n], &why))
            bad = why.code;
        else
            n++;
    }
    /* An issuer signs the same thing the same way: to ask again would not help. */
    if (!rc)
        rc = st_wallet_store_end(w->store, b->id, t, n, e);
    if (t)
        OPENSSL_cleanse(t, b->n * sizeof *t);
    free(t);
    st_issue_answer_wipe(&a);
    return rc ? rc : bad ? st_fail(e, bad, "%s", why.msg) : 0;
}

/* 402: what it can afford is tried once. 0: that is on its way. */
static int buy_less(struct st_wallet *w, int64_t left, struct st_err *e)
{
    uint32_t units = w->batch_out.blanks[0].token.units;
    size_t n = w->batch_out.n;
    if (drop_batch(w, e))
        return e->code;
    st_wallet_batch_wipe(&w->batch_out);
    if (w->smaller || !affordable(left, &units, &n))
        return st_fail(e, ST_POLICY, "issuer: the account has %" PRId64 " units left", left);
    w->smaller = true;
    if (begin_batch(w, units, n, e))
        return e->code;
    return send_batch(w, e);
}

/* 0: tokens came, or something smaller is on its way. */
static int judge(struct st_wallet *w, int status, struct st_err *e)
{
    char word[ST_ISSUE_WORD] = "";
    int64_t left = 0;
    struct st_err ignored;
    if (status == 200)
        return take_answer(w, e);
    if (st_issue_refusal_parse((struct st_span){(const uint8_t *)w->reply.p, w->reply.len}, word, &left, &ignored))
        word[0] = 0;
    if (status == 402)
        return buy_less(w, left, e);
    if (status == 401)
        return st_fail(e, ST_POLICY, "issuer: does not know the account's key");
    if (status == 400 || status == 409) {
        int rc = drop_batch(w, e);
        return rc ? rc
                  : st_fail(e, ST_POLICY, "issuer: refused the purchase (%d%s%s)", status, *word ? ", " : "", word);
    }
    return st_fail(e, ST_IO, "issuer: answered %d", status);
}

static int on_data(void *arg, int status, const void *p, size_t len, struct st_err *e)
{
    struct st_wallet *w = arg;
    (void)status;
    st_buf_add(&w->reply, p, len);
    return w->reply.failed ? st_fail(e, ST_MEMORY, "wallet: out of memory") : 0;
}

static void on_end(void *arg, int status, const struct st_err *e)
{
    struct st_wallet *w = arg;
    struct st_err why;
    w->call = NULL;
    int rc = e ? st_fail(&why, e->code, "%s", e->msg) : judge(w, status, &why);
    st_buf_wipe(&w->reply);
    if (!rc && w->call)
        return;
    /* What an account cannot afford is not tried again in the background: all that is left on it would become tokens,
     * smaller ones each time, which nobody needs and which do not last. */
    if (w->smaller || (w->batch_out.n && !rc && w->batch_out.blanks[0].token.units == w->more_of))
        w->more_of = 0;
    st_wallet_batch_wipe(&w->batch_out);
    if (rc) {
        failed(w, &why);
        return;
    }
    w->retry_s = 0;
    w->trouble.code = 0;
    w->bought_at = st_now();
    st_wallet_serve(w);
    if (!w->smaller) {
        go_on(w);
        return;
    }
    /* The account cannot afford what they asked for. */
    st_fail(&why, ST_POLICY, "issuer: the account has too few units left");
    failed(w, &why);
}

static int send_batch(struct st_wallet *w, struct st_err *e)
{
    const struct st_wallet_batch *b = &w->batch_out;
    struct st_issue ask = {.kind = ST_ISSUE_PURCHASE, .n = b->n};
    struct st_buf body = {0};
    memcpy(ask.id, b->id, sizeof ask.id);
    for (size_t i = 0; i < b->n; i++) {
        ask.of[i].day = b->blanks[i].token.day;
        ask.of[i].units = b->blanks[i].token.units;
        ask.of[i].blinded = (struct st_span){b->blanks[i].blinded, b->blanks[i].len};
    }
    st_issue_write(&ask, &body);
    const struct st_http_call_opts o = {.url = w->url.p,
                                        .bearer = w->bearer.p,
                                        .body = &body,
                                        .stall_s = w->stall_s,
                                        .max_reply = ST_ISSUE_MAX_BYTES,
                                        .data = on_data,
                                        .end = on_end,
                                        .arg = w};
    int rc =
        body.failed ? st_fail(e, ST_MEMORY, "wallet: out of memory") : st_http_call_start(w->http, &o, &w->call, e);
    st_buf_free(&body);
    return rc;
}

/* ---- from outside ---- */

int st_wallet_buy(struct st_wallet *w, struct st_err *e)
{
    uint32_t units;
    size_t n;
    if (w->call)
        return 0;
    if (!w->http)
        return st_fail(e, ST_POLICY, "wallet: open to look into only");
    if (w->retry)
        event_del(w->retry);
    w->smaller = false;
    /* A purchase that was on its way when this wallet was closed, or its answer lost, comes first. */
    int rc = st_wallet_store_pending(w->store, &w->batch_out, e);
    if (!rc && !w->batch_out.n) {
        if (!what_next(w, &units, &n)) {
            w->retry_s = 0;
            return 0;
        }
        rc = begin_batch(w, units, n, e);
    }
    if (!rc)
        rc = send_batch(w, e);
    if (rc)
        st_wallet_batch_wipe(&w->batch_out);
    return rc;
}

static void on_retry(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    go_on(arg);
}

void st_wallet_buy_close(struct st_wallet *w)
{
    if (w->call)
        st_http_call_cancel(w->call);
    if (w->retry)
        event_free(w->retry);
    st_wallet_batch_wipe(&w->batch_out);
    st_buf_wipe(&w->reply);
}
