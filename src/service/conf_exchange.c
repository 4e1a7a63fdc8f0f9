#include "service/conf_exchange.h"
#include "base/log.h"
#include "channel/confidential.h"
#include "service/conf_sealed.h"
#include "text/base64.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/crypto.h>

#define SHOWN 24 /* bytes of a sealed message that --show-egress prints */

struct st_conf_exchange {
    struct st_conf_way *way;
    struct st_conf_exchange_opts o;
    char *method, *path;
    struct st_buf content;
    struct st_wallet_take *ticket; /* while a token is waited for */
    struct st_wallet_change *change;
    struct st_token token;
    bool held;    /* `token` is out of the wallet and has not left */
    bool charged; /* the gateway said what it took of it */
    struct st_sealed sealed;
    struct st_http_call *call;
    struct event *later; /* tells what went wrong before the call began */
    struct st_err failed;
};

static void exchange_free(struct st_conf_exchange *x)
{
    struct st_err e;
    if (x->ticket)
        st_wallet_cancel(x->ticket);
    if (x->call)
        st_http_call_cancel(x->call);
    if (x->held && st_wallet_return(x->way->wallet, &x->token, &e))
        st_log(ST_LOG_WARN, "wallet: %s", e.msg);
    if (x->change)
        st_wallet_change_free(x->change);
    if (x->later)
        event_free(x->later);
    OPENSSL_cleanse(&x->token, sizeof x->token);
    st_sealed_wipe(&x->sealed);
    st_buf_wipe(&x->content);
    free(x->method);
    free(x->path);
    free(x);
}

static void on_later(evutil_socket_t fd, short what, void *arg)
{
    struct st_conf_exchange *x = arg;
    (void)fd;
    (void)what;
    x->o.end(x->o.arg, 0, &x->failed);
    exchange_free(x);
}

static void fail_later(struct st_conf_exchange *x, const struct st_err *e)
{
    x->failed = *e;
    event_active(x->later, EV_TIMEOUT, 0);
}

/* ---- the reply ---- */

static int on_piece(void *arg, struct st_span piece, struct st_err *e)
{
    struct st_conf_exchange *x = arg;
    return x->o.data ? x->o.data(x->o.arg, st_sealed_status(&x->sealed), piece, e) : 0;
}

static int on_data(void *arg, int status, const void *p, size_t len, struct st_err *e)
{
    struct st_conf_exchange *x = arg;
    const char *type = st_http_call_type(x->call);
    x->way->bytes_down += len;
    if (status != 200)
        return 0;
    if (!type || strcmp(type, st_ohttp_reply_type(ST_OHTTP_CHUNKED)) != 0)
        return st_fail(e, ST_IO, "the relay's reply is no sealed message");
    return st_sealed_feed(&x->sealed, p, len, on_piece, x, e);
}

/* A decimal number of units; 0 for anything else. */
static uint64_t read_units(struct st_span s)
{
    uint64_t v = 0;
    for (size_t i = 0; i < s.len; i++) {
        if (s.p[i] < '0' || s.p[i] > '9' || i == 9)
            return 0;
        v = 10 * v + (uint64_t)(s.p[i] - '0');
    }
    return v;
}

/* What was not used up. A gateway that gives it wrongly costs money, not secrets: the reply stands. */
static void take_change(struct st_conf_exchange *x)
{
    struct st_span field;
    struct st_buf bytes = {0};
    struct st_change_answer answer;
    uint32_t units = 0;
    struct st_err e;
    if (st_conf_exchange_field(x, true, ST_GATEWAY_FIELD_CHARGED, &field)) {
        x->way->units_charged += read_units(field);
        x->charged = true;
    }
    if (!x->change || !st_conf_exchange_field(x, true, ST_GATEWAY_FIELD_CHANGE, &field))
        return;
    int rc = st_base64_decode((const char *)field.p, field.len, &bytes)
                 ? st_change_answer_parse((struct st_span){(uint8_t *)bytes.p, bytes.len}, &answer, &e)
                 : st_fail(&e, ST_INPUT, "is not base64");
    if (!rc)
        rc = st_wallet_change_take(x->way->wallet, x->change, &answer, &units, &e);
    if (rc)
        st_log(ST_LOG_WARN, "gateway: change: %s", e.msg);
    st_buf_wipe(&bytes);
}

static void on_end(void *arg, int status, const struct st_err *e)
{
    struct st_conf_exchange *x = arg;
    struct st_err err;
    int rc = 0;
    x->call = NULL;
    if (e) {
        x->held = x->o.units && st_http_client_unsent(x->way->http);
        err = *e;
        rc = e->code;
        if (rc == ST_IO && strncmp(err.msg, "the relay", 9) != 0)
            st_err_prefix(&err, "relay");
    } else if (status == 400)
        rc = st_fail(&err, ST_IO, "the gateway refuses what was sealed for it: its key may have changed just now");
    else if (status != 200)
        rc = st_fail(&err, ST_IO, "the relay answers with status %d", status);
    else
        rc = st_sealed_end(&x->sealed, on_piece, x, &err);
    if (!rc)
        take_change(x);
    x->o.end(x->o.arg, st_sealed_status(&x->sealed), rc ? &err : NULL);
    exchange_free(x);
}

/* ---- the request ---- */

/* "egress: 8471 bytes to http://relay/, sealed for the gateway: 3a 00 20 ..": all that the relay gets. */
static void print_egress(const struct st_conf_way *way, const struct st_buf *sealed)
{
    fprintf(stderr, "egress: POST %s/, %zu bytes, %s:", way->relay, sealed->len,
            st_ohttp_request_type(ST_OHTTP_CHUNKED));
    for (size_t i = 0; i < SHOWN && i < sealed->len; i++)
        fprintf(stderr, " %02x", (unsigned)(uint8_t)sealed->p[i]);
    fputs(sealed->len > SHOWN ? " ...\n" : "\n", stderr);
}

/* Token and blanks as fields; the buffers hold their text. */
static int put_payment(struct st_conf_exchange *x, struct st_buf *token, struct st_buf *change, struct st_err *e)
{
    struct st_change_ask ask;
    struct st_buf bytes = {0};
    int rc = st_wallet_change_begin(x->way->wallet, x->token.units, &x->change, &ask, e);
    if (rc)
        return rc;
    st_token_write(&x->token, &bytes);
    st_base64_encode(bytes.p, bytes.len, token);
    bool failed = bytes.failed;
    st_buf_wipe(&bytes);
    st_change_ask_write(&ask, &bytes);
    st_base64_encode(bytes.p, bytes.len, change);
    failed = failed || bytes.failed || token->failed || change->failed;
    st_buf_wipe(&bytes);
    return failed ? st_fail(e, ST_MEMORY, "no memory for the request") : 0;
}

static int send_sealed(struct st_conf_exchange *x, struct st_buf *sealed, struct st_err *e)
{
    struct st_conf_way *way = x->way;
    struct st_buf url = {0};
    if (sealed->len > ST_CONFIDENTIAL_MAX_REQUEST)
        return st_fail(e, ST_INPUT, "the request is too long: %zu bytes sealed, at most %zu", sealed->len,
                       ST_CONFIDENTIAL_MAX_REQUEST);
    if (way->show_egress)
        print_egress(way, sealed);
    size_t len = sealed->len;
    st_buf_addf(&url, "%s/", way->relay);
    const struct st_http_call_opts o = {.url = url.p,
                                        .body = sealed,
                                        .type = st_ohttp_request_type(ST_OHTTP_CHUNKED),
                                        .stall_s = way->stall_s,
                                        .max_reply = SIZE_MAX,
                                        .data = on_data,
                                        .end = on_end,
                                        .arg = x};
    int rc = url.failed ? st_fail(e, ST_MEMORY, "no memory for the request")
                        : st_http_call_start(way->http, &o, &x->call, e);
    st_buf_free(&url);
    if (rc)
        return rc;
    x->held = false;
    way->n_sent++;
    way->bytes_up += len;
    return 0;
}

static int send_request(struct st_conf_exchange *x, struct st_err *e)
{
    struct st_buf token = {0}, change = {0}, sealed = {0};
    int rc = x->o.units ? put_payment(x, &token, &change, e) : 0;
    const struct st_bhttp_field pay[] = {
        {{(const uint8_t *)ST_GATEWAY_FIELD_TOKEN, strlen(ST_GATEWAY_FIELD_TOKEN)}, {(uint8_t *)token.p, token.len}},
        {{(const uint8_t *)ST_GATEWAY_FIELD_CHANGE, strlen(ST_GATEWAY_FIELD_CHANGE)},
         {(uint8_t *)change.p, change.len}},
    };
    const struct st_sealed_request r = {.method = x->method,
                                        .authority = ST_GATEWAY_AUTHORITY,
                                        .path = x->path,
                                        .fields = {pay, x->o.units ? 2 : 0},
                                        .content = {(uint8_t *)x->content.p, x->content.len}};
    if (!rc)
        rc = st_sealed_begin(&x->sealed, x->way->spares, &x->way->gateway, &r, x->o.max_reply, &sealed, e);
    if (!rc)
        rc = send_sealed(x, &sealed, e);
    st_buf_wipe(&token);
    st_buf_wipe(&change);
    st_buf_wipe(&sealed);
    st_buf_wipe(&x->content);
    return rc;
}

static void on_token(void *arg, const struct st_token *t, const struct st_err *e)
{
    struct st_conf_exchange *x = arg;
    struct st_err err;
    int rc;
    x->ticket = NULL;
    if (!t) {
        err = *e;
        rc = st_err_prefix(&err, "tokens");
    } else {
        x->token = *t;
        x->held = true;
        rc = t->units < x->way->price_request
                 ? st_fail(&err, ST_POLICY, "tokens: the largest has %" PRIu32 " units, and a request costs %" PRIu32,
                           t->units, x->way->price_request)
                 : send_request(x, &err);
    }
    if (rc)
        fail_later(x, &err);
}

static int set_up(struct st_conf_exchange *x, struct st_err *e)
{
    if (x->o.content) {
        x->content = *x->o.content;
        *x->o.content = (struct st_buf){0};
    }
    x->method = strdup(x->o.method);
    x->path = strdup(x->o.path);
    x->later = event_new(x->way->base, -1, 0, on_later, x);
    if (!x->method || !x->path || !x->later)
        return st_fail(e, ST_MEMORY, "no memory for the request");
    if (!x->way->has_gateway)
        return st_fail(e, ST_IO, "the gateway's key is not known yet");
    return 0;
}

int st_conf_exchange_start(struct st_conf_way *way, const struct st_conf_exchange_opts *o,
                           struct st_conf_exchange **out, struct st_err *e)
{
    struct st_conf_exchange *x = NULL;
    *out = NULL;
    int rc = st_alloc(&x, 1, sizeof *x, "exchange", e);
    if (rc)
        return rc;
    x->way = way;
    x->o = *o;
    rc = set_up(x, e);
    if (!rc && o->units)
        rc = st_wallet_take(way->wallet, o->units, on_token, x, &x->ticket, e);
    else if (!rc)
        rc = send_request(x, e);
    if (rc)
        exchange_free(x);
    else
        *out = x;
    return rc;
}

void st_conf_exchange_cancel(struct st_conf_exchange *x)
{
    exchange_free(x);
}

void st_conf_exchange_pause(struct st_conf_exchange *x, bool stop)
{
    if (x->call)
        st_http_call_pause(x->call, stop);
}

bool st_conf_exchange_field(const struct st_conf_exchange *x, bool trailer, const char *name, struct st_span *value)
{
    const struct st_bhttp_head *h = st_bhttp_head(&x->sealed.reader);
    if (trailer)
        return st_bhttp_find(st_bhttp_trailers(&x->sealed.reader), name, value);
    return h && st_bhttp_find(h->fields, name, value);
}

bool st_conf_exchange_settled(const struct st_conf_exchange *x)
{
    return !x->o.units || x->held || x->charged;
}
