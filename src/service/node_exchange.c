/* One request: opened, checked, asked of the engine, answered under the seal. */
#include "base/log.h"
#include "service/node_priv.h"
#include "service/node_request.h"
#include "service/node_stream.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum {
    HIGH = 256 << 10, /* bytes that wait for a slow reader before the engine is not read any more */
    LOW = 64 << 10,
    WHOLE_MAX = 32 << 20,   /* bytes of a reply that is no stream */
    STREAM_MAX = 512 << 20, /* and of one that is */
    STALL_S = 900,          /* an engine with a long queue says nothing for a while */
    SOON_US = 2000,         /* by then a request has left for the engine */
};

struct st_node_exchange {
    struct st_node_exchange *prev, *next;
    struct st_node *node;
    struct st_http_conn *conn;
    struct st_ohttp x;
    struct st_node_request request;
    struct st_node_signer *signer;
    struct st_node_stream stream;
    struct st_http_call *call;
    int slot;            /* st_node_engine_left() */
    struct st_buf whole; /* of a reply that is no stream */
    bool waiting;        /* for a look at the evidence */
    bool paused;
    int fault; /* of taking the engine's reply, this side's */
};

static void exchange_free(struct st_node_exchange *q)
{
    struct st_node *n = q->node;
    *(q->prev ? &q->prev->next : &n->exchanges) = q->next;
    if (q->next)
        q->next->prev = q->prev;
    n->counts.running--;
    if (q->call)
        st_http_call_cancel(q->call);
    st_node_engine_left(n->engine, q->slot);
    st_node_stream_wipe(&q->stream);
    st_node_request_wipe(&q->request);
    st_ohttp_wipe(&q->x);
    st_node_signer_release(q->signer);
    st_buf_wipe(&q->whole);
    free(q);
}

static void on_gone(void *arg)
{
    struct st_node_exchange *q = arg;
    q->node->counts.gone++;
    exchange_free(q);
}

/* Before a byte of the reply: whatever the reason was, the other side learns no more than this. */
static void refuse(struct st_node_exchange *q)
{
    struct st_http_conn *c = q->conn;
    q->node->counts.refused++;
    exchange_free(q);
    st_role_refuse(c, 400);
}

/* This side cannot finish what it has begun. */
static void cut(struct st_node_exchange *q)
{
    struct st_http_conn *c = q->conn;
    const bool begun = q->stream.begun;
    exchange_free(q);
    if (begun)
        st_http_stream_cut(c);
    else
        st_role_refuse(c, 503);
}

/* ---- the reply ---- */

static void make_room(struct st_node_exchange *q)
{
    const size_t waiting = st_node_stream_waiting(&q->stream);
    const bool stop = q->paused ? waiting > LOW : waiting > HIGH;
    if (!q->call || stop == q->paused)
        return;
    q->paused = stop;
    st_http_call_pause(q->call, stop); /* may bring data, and the end of the exchange, before it returns */
}

static void on_room(void *arg)
{
    make_room(arg);
}

static void on_ended(void *arg)
{
    exchange_free(arg);
}

static int begin(struct st_node_exchange *q, int status, const char *type, struct st_err *e)
{
    const struct st_node *n = q->node;
    const struct st_node_stream_opts o = {.base = st_role_base(n->role),
                                          .x = &q->x,
                                          .conn = q->conn,
                                          .chunk = n->o.chunk,
                                          .cadence_s = n->o.cadence_s,
                                          .ended = on_ended,
                                          .room = on_room,
                                          .arg = q};
    return st_node_stream_begin(&q->stream, &o, status, type, e);
}

/* The exchange may be gone afterwards. */
static void finish(struct st_node_exchange *q)
{
    struct st_receipt r = {0};
    struct st_err e;
    memcpy(r.request, q->request.hash, sizeof r.request);
    memcpy(r.model, q->node->model, sizeof r.model);
    if (st_node_stream_end(&q->stream, &r, q->signer->key, &e))
        cut(q);
}

/* A reply that is one value. */
static void reply_whole(struct st_node_exchange *q, int status, const char *type, const struct st_buf *value)
{
    struct st_err e;
    if (value->failed || begin(q, status, type, &e) || st_node_stream_whole(&q->stream, value->p, value->len, &e))
        cut(q);
    else
        finish(q);
}

static void reply_error(struct st_node_exchange *q, const struct st_node_error *err)
{
    struct st_buf b = {0};
    st_node_error_json(err, &b);
    reply_whole(q, err->status, "application/json", &b);
    st_buf_free(&b);
}

/* ---- the engine ---- */

static bool is_type(const char *type, const char *want)
{
    const size_t n = strlen(want);
    return type && strncasecmp(type, want, n) == 0 && (!type[n] || strchr("; \t", type[n]));
}

static int on_data(void *arg, int status, const void *p, size_t len, struct st_err *e)
{
    struct st_node_exchange *q = arg;
    if (!q->stream.begun && (status != 200 || !is_type(st_http_call_type(q->call), "text/event-stream"))) {
        st_buf_add(&q->whole, p, len);
        if (q->whole.failed || q->whole.len > WHOLE_MAX)
            q->fault = st_fail(e, ST_IO, "a reply that is longer than this node passes on");
        return q->fault;
    }
    if (!q->stream.begun)
        q->fault = begin(q, status, "text/event-stream", e);
    if (!q->fault)
        q->fault = st_node_stream_events(&q->stream, p, len, e);
    if (!q->fault)
        make_room(q);
    return q->fault;
}

static void engine_failed(struct st_node_exchange *q)
{
    struct st_node_error err;
    struct st_buf event = {0};
    struct st_err e;
    q->node->counts.engine_failed++;
    if (!q->fault)
        st_node_engine_doubt(q->node->engine);
    st_node_fail(&err, 502, "engine", NULL, "the engine did not finish its reply");
    if (!q->stream.begun) {
        reply_error(q, &err);
        return;
    }
    st_buf_add_str(&event, "data: ");
    st_node_error_json(&err, &event);
    st_buf_add_str(&event, "\n\n");
    int rc = event.failed || st_node_stream_whole(&q->stream, event.p, event.len, &e);
    st_buf_free(&event);
    if (rc)
        cut(q);
    else
        finish(q);
}

static void on_end(void *arg, int status, const struct st_err *failed)
{
    struct st_node_exchange *q = arg;
    q->call = NULL;
    st_node_engine_left(q->node->engine, q->slot);
    q->slot = -1;
    if (q->fault && q->fault != ST_IO)
        cut(q);
    else if (failed || (!q->stream.begun && (status < 200 || status > 599)))
        engine_failed(q);
    else if (q->stream.begun)
        finish(q);
    else
        reply_whole(q, status, "application/json", &q->whole);
}

static int ask_engine(struct st_node_exchange *q, struct st_node_error *err)
{
    struct st_node_request *r = &q->request;
    struct st_node_engine *g = q->node->engine;
    struct st_buf body = {0};
    struct st_err e;
    struct st_http_call_opts o = {
        .body = &body, .stall_s = STALL_S, .max_reply = STREAM_MAX, .data = on_data, .end = on_end, .arg = q};
    if (!st_node_engine_ready(g)) {
        q->node->counts.engine_failed++;
        return st_node_fail(err, 503, "engine", NULL, "the engine is not ready");
    }
    int rc = st_node_engine_apart(g, r->body, r->salt, &q->slot, &e);
    if (!rc)
        st_json_dump(r->body, &body);
    json_decref(r->body);
    r->body = NULL;
    if (!rc)
        rc = st_node_engine_call(g, r->path, &o, &q->call, &e);
    st_buf_wipe(&body);
    return rc ? st_node_fail(err, 503, "memory", NULL, "no memory for this request") : 0;
}

/* ---- the request ---- */

/* Opens the sealed body; *good says whether nothing is wrong inside, *err what. Not 0: it does not open. */
static int open_request(struct st_node_exchange *q, bool *good, struct st_node_error *err, struct st_err *e)
{
    struct st_span in = st_http_body(q->conn), text;
    *good = true;
    if (st_node_request_init(&q->request, in.len, e))
        return e->code;
    st_ohttp_server(&q->x, ST_OHTTP_CHUNKED, q->node->keys.ring, 0);
    while (in.len) {
        if (st_ohttp_open(&q->x, &in, &text, e))
            return e->code;
        *good = *good && st_node_request_add(&q->request, text, err) == 0;
    }
    if (st_ohttp_open_end(&q->x, &text, e))
        return e->code;
    *good = *good && st_node_request_add(&q->request, text, err) == 0;
    *good = *good && st_node_request_end(&q->request, err) == 0;
    q->signer = st_node_keys_signer(&q->node->keys, q->x.serial);
    return q->signer ? 0 : st_fail(e, ST_INTERNAL, "receipt key: none for this pair");
}

static void go_on(struct st_node_exchange *q)
{
    const struct timeval soon = {0, SOON_US};
    struct st_node *n = q->node;
    struct st_node_error err;
    struct st_err e;
    bool good;
    q->waiting = false;
    if (open_request(q, &good, &err, &e)) {
        refuse(q);
        return;
    }
    st_http_body_drop(q->conn);
    n->counts.requests++;
    if (!good) {
        n->counts.faulty++;
        reply_error(q, &err);
    } else if (ask_engine(q, &err))
        reply_error(q, &err);
    else if (!evtimer_pending(n->soon, NULL))
        event_add(n->soon, &soon);
}

void st_node_exchange_start(struct st_node *n, struct st_http_conn *c)
{
    struct st_node_exchange *q = NULL;
    struct st_err e;
    const char *type = st_http_field(c, "Content-Type");
    if (!type || strcmp(type, st_ohttp_request_type(ST_OHTTP_CHUNKED)) != 0) {
        n->counts.refused++;
        st_role_refuse(c, 400);
        return;
    }
    if (st_alloc(&q, 1, sizeof *q, "request", &e)) {
        st_role_refuse(c, 503);
        return;
    }
    q->node = n;
    q->conn = c;
    q->slot = -1;
    q->next = n->exchanges;
    if (q->next)
        q->next->prev = q;
    n->exchanges = q;
    n->counts.running++;
    const struct st_http_watch w = {on_gone, on_room, q};
    st_http_watch(c, &w);
    q->waiting = !st_node_evidence_sure(n->evidence);
    if (!q->waiting)
        go_on(q);
}

void st_node_exchanges_prepare(struct st_node *n)
{
    for (struct st_node_exchange *q = n->exchanges; q; q = q->next)
        if (!q->waiting && !q->stream.begun)
            st_ohttp_reply_ahead(&q->x);
}

void st_node_exchanges_checked(struct st_node *n)
{
    for (struct st_node_exchange *q = n->exchanges, *next; q; q = next) {
        next = q->next;
        if (q->waiting)
            go_on(q);
    }
}

void st_node_exchanges_free(struct st_node *n)
{
    while (n->exchanges)
        exchange_free(n->exchanges);
}
