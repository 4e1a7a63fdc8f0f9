/* Change: blind signatures of the issuer on blanks that the client sent along. */
#include "base/log.h"
#include "channel/confidential.h"
#include "service/gateway_priv.h"
#include "text/base64.h"
#include "text/json.h"

#include <stdlib.h>
#include <string.h>

#define STALL_S 10
#define MAX_REPLY (64u << 10)

struct st_gateway_change {
    struct st_gateway *g;
    struct st_http_call *call;
    struct st_buf reply;
    uint16_t place[ST_CHANGE_MAX];
    size_t n;
    void (*done)(void *arg, const struct st_buf *answer);
    void *arg;
};

static void add_base64(struct st_buf *b, const void *p, size_t len)
{
    st_buf_add(b, "\"", 1);
    st_base64_encode(p, len, b);
    st_buf_add(b, "\"", 1);
}

static void write_ask(const struct st_token *t, const struct st_change_ask *ask, const uint16_t *place, size_t n,
                      struct st_buf *out)
{
    struct st_buf token = {0};
    st_token_write(t, &token);
    st_buf_add_str(out, "{\"version\":1,\"token\":");
    add_base64(out, token.p, token.len);
    st_buf_add_str(out, ",\"change\":[");
    for (size_t i = 0; i < n; i++) {
        st_buf_addf(out, "%s{\"day\":%u,\"units\":%u,\"blinded\":", i ? "," : "", ask->of[place[i]].day,
                    ask->of[place[i]].units);
        add_base64(out, ask->of[place[i]].blinded.p, ask->of[place[i]].blinded.len);
        st_buf_add(out, "}", 1);
    }
    st_buf_add_str(out, "]}");
    out->failed |= token.failed;
    st_buf_wipe(&token);
}

/* {"version": 1, "signatures": [BASE64]}, as many as were asked for and in their order. The client verifies them. */
static int read_answer(const struct st_gateway_change *c, struct st_buf *out, struct st_err *e)
{
    static const char where[] = "the issuer's change", *const names[] = {"version", "signatures", NULL};
    struct st_buf bytes = {0};
    struct st_change_answer a = {.n = c->n};
    size_t at[ST_CHANGE_MAX + 1] = {0};
    json_t *o = NULL, *list = NULL;
    int64_t version = 0;
    int rc = st_json_parse(c->reply.p, c->reply.len, where, &o, e);
    if (!rc)
        rc = st_json_only(o, where, names, e);
    if (!rc)
        rc = st_json_int(o, where, "version", 1, 1, &version, e);
    list = rc ? NULL : json_object_get(o, "signatures");
    if (!rc && (!json_is_array(list) || json_array_size(list) != c->n))
        rc = st_fail(e, ST_INPUT, "%s: signatures: want %zu of them", where, c->n);
    for (size_t i = 0; !rc && i < c->n; i++) {
        const json_t *s = json_array_get(list, i);
        if (!json_is_string(s) || !st_base64_decode(json_string_value(s), json_string_length(s), &bytes) ||
            bytes.len - at[i] > ST_BLIND_RSA_MAX)
            rc = st_fail(e, ST_INPUT, "%s: signatures: want base64 of at most %d bytes", where, ST_BLIND_RSA_MAX);
        at[i + 1] = bytes.len;
    }
    for (size_t i = 0; !rc && i < c->n; i++) {
        a.of[i].place = c->place[i];
        a.of[i].signature = (struct st_span){(uint8_t *)bytes.p + at[i], at[i + 1] - at[i]};
    }
    if (!rc) {
        struct st_buf binary = {0};
        st_change_answer_write(&a, &binary);
        st_base64_encode(binary.p, binary.len, out);
        rc = binary.failed || bytes.failed || out->failed ? st_fail(e, ST_MEMORY, "no memory") : 0;
        st_buf_free(&binary);
    }
    json_decref(o);
    st_buf_free(&bytes);
    return rc;
}

static int on_data(void *arg, int status, const void *p, size_t len, struct st_err *e)
{
    struct st_gateway_change *c = arg;
    (void)status;
    st_buf_add(&c->reply, p, len);
    return c->reply.failed ? st_fail(e, ST_MEMORY, "no memory") : 0;
}

static void change_free(struct st_gateway_change *c)
{
    st_buf_free(&c->reply);
    free(c);
}

/* Why change could not be had is the operator's business, and said once until it works again. */
static void note(struct st_gateway *g, int rc, const struct st_err *e)
{
    if (rc && !g->issuer_away)
        st_log(ST_LOG_ERROR, "no change from the issuer: %s; replies go without it", e->msg);
    if (!rc && g->issuer_away)
        st_log(ST_LOG_INFO, "the issuer gives change again");
    g->issuer_away = rc != 0;
    g->n.changes += rc == 0;
    g->n.changes_failed += rc != 0;
}

static void on_end(void *arg, int status, const struct st_err *err)
{
    struct st_gateway_change *c = arg;
    struct st_buf answer = {0};
    struct st_err e;
    int rc = err ? st_fail(&e, ST_IO, "%s", err->msg) : 0;
    if (!rc && status != 200)
        rc = st_fail(&e, ST_IO, "status %d", status);
    if (!rc)
        rc = read_answer(c, &answer, &e);
    note(c->g, rc, &e);
    void (*done)(void *, const struct st_buf *) = c->done;
    void *to = c->arg;
    change_free(c);
    done(to, rc ? NULL : &answer);
    st_buf_free(&answer);
}

struct st_gateway_change *st_gateway_change(struct st_gateway *g, const struct st_token *t,
                                            const struct st_change_ask *ask, uint32_t units,
                                            void (*done)(void *arg, const struct st_buf *answer), void *arg)
{
    struct st_err e;
    struct st_buf body = {0};
    struct st_gateway_change *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    *c = (struct st_gateway_change){.g = g, .done = done, .arg = arg};
    c->n = units ? st_change_pick(ask, units, c->place) : 0;
    if (!c->n) {
        free(c);
        return NULL;
    }
    write_ask(t, ask, c->place, c->n, &body);
    const struct st_http_call_opts o = {.url = g->refund_url,
                                        .bearer = g->issuer_key.p,
                                        .body = &body,
                                        .stall_s = STALL_S,
                                        .max_reply = MAX_REPLY,
                                        .data = on_data,
                                        .end = on_end,
                                        .arg = c};
    int rc = st_http_call_start(g->http, &o, &c->call, &e);
    st_buf_wipe(&body);
    if (!rc)
        return c;
    note(g, rc, &e);
    change_free(c);
    return NULL;
}

void st_gateway_change_cancel(struct st_gateway_change *c)
{
    st_http_call_cancel(c->call);
    change_free(c);
}
