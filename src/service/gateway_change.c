/* Change: blind signatures of the issuer on blanks that the client sent along. */
#include "base/log.h"
#include "channel/issue.h"
#include "service/gateway_priv.h"
#include "text/base64.h"

#include <stdlib.h>
#include <string.h>

#define STALL_S 10

struct st_gateway_change {
    struct st_gateway *g;
    struct st_http_call *call;
    struct st_buf reply;
    uint16_t place[ST_CHANGE_MAX];
    size_t n;
    void (*done)(void *arg, const struct st_buf *answer);
    void *arg;
};

static void write_ask(const struct st_token *t, const struct st_change_ask *ask, const uint16_t *place, size_t n,
                      struct st_buf *out)
{
    struct st_issue r = {.kind = ST_ISSUE_REFUND, .token = *t, .n = n};
    for (size_t i = 0; i < n; i++) {
        r.of[i].day = ask->of[place[i]].day;
        r.of[i].units = ask->of[place[i]].units;
        r.of[i].blinded = ask->of[place[i]].blinded;
    }
    st_issue_write(&r, out);
    st_issue_wipe(&r);
}

/* As many signatures as were asked for, in their order; the client verifies them. */
static int read_answer(const struct st_gateway_change *c, struct st_buf *out, struct st_err *e)
{
    struct st_issue_answer from = {0};
    struct st_change_answer to = {.n = c->n};
    struct st_buf binary = {0};
    int rc = st_issue_answer_parse((struct st_span){(uint8_t *)c->reply.p, c->reply.len}, c->n, &from, e);
    for (size_t i = 0; !rc && i < c->n; i++) {
        to.of[i].place = c->place[i];
        to.of[i].signature = from.signature[i];
    }
    if (!rc) {
        st_change_answer_write(&to, &binary);
        st_base64_encode(binary.p, binary.len, out);
        rc = binary.failed || out->failed ? st_fail(e, ST_MEMORY, "no memory") : 0;
    }
    st_buf_free(&binary);
    st_issue_answer_wipe(&from);
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

/* Blanks that no key fits are the client's own doing: counted, and no word in the log that clients could fill with it.
 */
static bool is_clients_fault(int status)
{
    return status == 400 || status == 409;
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
        rc = st_fail(&e, ST_IO, "status %d%s", status,
                     status == 401 ? " (is the key of --issuer-key-file a gateway's there?)" : "");
    if (!rc)
        rc = read_answer(c, &answer, &e);
    if (!err && is_clients_fault(status))
        c->g->n.changes_failed++;
    else
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
                                        .max_reply = ST_ISSUE_MAX_BYTES,
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
