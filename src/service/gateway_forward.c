/* A paid request: its token is verified and spent, then it goes to the node, and the reply comes back chunk by chunk
 * until it ends or the token is used up; what is left of the token is asked back from the issuer. */
#include "channel/confidential.h"
#include "service/gateway_priv.h"
#include "service/gateway_split.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    UNSENT_HIGH = 64 << 10, /* bytes that the relay has not taken: the node waits */
    MAX_BUNDLE = ST_EVIDENCE_MAX_BYTES,
};
#define MAX_REPLY ((size_t)ST_CHUNKS_MAX + (ST_CHUNKS_MAX >> 4))
#define TEXT(z) ((struct st_span){(const uint8_t *)(z), strlen(z)})

struct st_gateway_trip {
    struct st_gateway_exchange ex;
    struct st_gateway_request r;
    struct st_gateway_trip *prev, *next;
    struct st_gateway_node *node;
    struct st_spent_take *take;
    struct st_http_call *call;
    struct st_gateway_change *change;
    struct st_gateway_split split;
    struct st_buf bundle; /* of a challenge */
    uint64_t n_sealed;    /* bytes of the node's reply that were passed on */
    uint32_t charged;
    bool paused, dead; /* dead: sealing failed in the middle of the reply */
    const char *error; /* why the reply ends early, NULL = it does not */
};

static void trip_free(struct st_gateway_trip *t)
{
    struct st_gateway *g = t->ex.g;
    if (t->take)
        st_spent_cancel(t->take);
    if (t->call)
        st_http_call_cancel(t->call);
    if (t->change)
        st_gateway_change_cancel(t->change);
    *(t->prev ? &t->prev->next : &g->trips) = t->next;
    if (t->next)
        t->next->prev = t->prev;
    g->n_trip--;
    st_gateway_request_wipe(&t->r);
    st_gateway_split_wipe(&t->split);
    st_buf_wipe(&t->bundle);
    st_ohttp_wipe(&t->ex.x);
    free(t);
}

/* What `bytes` of a sealed reply cost. */
static uint64_t cost(const struct st_gateway *g, uint64_t bytes)
{
    return g->o.price_request + bytes / g->o.unit_bytes + (bytes % g->o.unit_bytes != 0);
}

static void refuse(struct st_gateway_trip *t, unsigned status, const char *word)
{
    st_gateway_refuse(&t->ex, status, word, (struct st_bhttp_fields){0});
    trip_free(t);
}

/* ---- the end: what was charged, and change ---- */

static void finish(struct st_gateway_trip *t, const struct st_buf *change)
{
    struct st_bhttp_field fields[3];
    char charged[16];
    size_t n = 0;
    snprintf(charged, sizeof charged, "%u", t->charged);
    fields[n++] = (struct st_bhttp_field){TEXT(ST_GATEWAY_FIELD_CHARGED), TEXT(charged)};
    if (change)
        fields[n++] = (struct st_bhttp_field){TEXT(ST_GATEWAY_FIELD_CHANGE), {(uint8_t *)change->p, change->len}};
    if (t->error && t->ex.begun)
        fields[n++] = (struct st_bhttp_field){TEXT(ST_GATEWAY_FIELD_ERROR), TEXT(t->error)};
    const struct st_bhttp_fields trailers = {fields, n};
    t->ex.g->n.units += t->charged;
    if (t->ex.begun)
        st_gateway_pieces_end(&t->ex, trailers);
    else if (t->error)
        st_gateway_refuse(&t->ex, 502, t->error, trailers);
    else
        st_gateway_answer(&t->ex, &(struct st_gateway_answer){.status = 200,
                                                              .content = {(uint8_t *)t->bundle.p, t->bundle.len},
                                                              .trailers = trailers});
    trip_free(t);
}

static void on_change(void *arg, const struct st_buf *answer)
{
    struct st_gateway_trip *t = arg;
    t->change = NULL;
    finish(t, answer);
}

static void settle(struct st_gateway_trip *t, uint64_t charged, const char *error)
{
    uint32_t units = t->r.token.units;
    t->charged = charged < units ? (uint32_t)charged : units;
    t->error = error;
    t->change = st_gateway_change(t->ex.g, &t->r.token, &t->r.change, units - t->charged, on_change, t);
    if (!t->change)
        finish(t, NULL);
}

/* The node gave nothing that could be passed on: all comes back. */
static void node_failed(struct st_gateway_trip *t, const char *word)
{
    t->ex.g->n.node_failed++;
    settle(t, 0, word);
}

/* ---- the node's reply ----
 * What ends it early is an error of on_chunks(), so that the call is over when on_chunks_end() settles: no other call
 * can be started from within. */

static int pass_on(struct st_gateway_trip *t, struct st_span piece, struct st_err *e)
{
    struct st_gateway *g = t->ex.g;
    if (cost(g, t->n_sealed + piece.len) > t->r.token.units) {
        t->error = t->n_sealed ? "deposit" : "token_small";
        return st_fail(e, ST_POLICY, "the token is used up");
    }
    if (st_gateway_piece(&t->ex, piece, e)) {
        t->dead = true;
        return e->code;
    }
    t->n_sealed += piece.len;
    return 0;
}

static int on_chunks(void *arg, int status, const void *p, size_t len, struct st_err *e)
{
    struct st_gateway_trip *t = arg;
    struct st_span in = {p, len}, piece;
    const char *type = t->n_sealed || status != 200 ? NULL : st_http_call_type(t->call);
    if (!t->n_sealed && (!type || strcmp(type, st_ohttp_reply_type(ST_OHTTP_CHUNKED)) != 0))
        return st_fail(e, ST_INPUT, "no sealed reply");
    while (in.len)
        if (st_gateway_split_next(&t->split, &in, &piece, e) || (piece.len && pass_on(t, piece, e)))
            return e->code;
    if (!t->paused && st_http_unsent(t->ex.conn) > UNSENT_HIGH) {
        t->paused = true;
        st_http_call_pause(t->call, true);
    }
    return 0;
}

static void broken_off(struct st_gateway_trip *t, int status)
{
    struct st_gateway *g = t->ex.g;
    g->n.cut += t->error != NULL;
    g->n.broken += !t->error && t->n_sealed;
    if (t->dead) {
        if (t->ex.begun)
            st_http_stream_cut(t->ex.conn);
        else
            st_role_refuse(t->ex.conn, 503);
        trip_free(t);
    } else if (t->n_sealed)
        settle(t, cost(g, t->n_sealed), t->error ? t->error : "node");
    else if (t->error)
        settle(t, 0, t->error);
    else
        node_failed(t, status ? "node_refused" : "node_unreachable");
}

static void on_chunks_end(void *arg, int status, const struct st_err *err)
{
    struct st_gateway_trip *t = arg;
    struct st_span piece;
    struct st_err e;
    t->call = NULL;
    if (err || status != 200 || st_gateway_split_end(&t->split, &piece, &e) || pass_on(t, piece, &e))
        broken_off(t, status);
    else
        settle(t, cost(t->ex.g, t->n_sealed), NULL);
}

/* ---- a challenge ---- */

static int on_bundle(void *arg, int status, const void *p, size_t len, struct st_err *e)
{
    struct st_gateway_trip *t = arg;
    (void)status;
    st_buf_add(&t->bundle, p, len);
    return t->bundle.failed ? st_fail(e, ST_MEMORY, "no memory") : 0;
}

static void on_bundle_end(void *arg, int status, const struct st_err *err)
{
    struct st_gateway_trip *t = arg;
    struct st_err e;
    t->call = NULL;
    if (err || status != 200)
        node_failed(t, status ? "node_refused" : "node_unreachable");
    else if (st_gateway_node_same_keys(t->node, (struct st_span){(uint8_t *)t->bundle.p, t->bundle.len}, &e))
        node_failed(t, "node_refused");
    else
        settle(t, cost(t->ex.g, t->bundle.len), NULL);
}

/* ---- the way there ---- */

static void call_node(struct st_gateway_trip *t)
{
    struct st_gateway *g = t->ex.g;
    bool challenge = t->r.what == ST_GATEWAY_ATTEST;
    struct st_err e;
    const struct st_http_call_opts o = {.url = challenge ? t->node->attest_url : t->node->infer_url,
                                        .direct = true,
                                        .body = &t->r.content,
                                        .type = challenge ? NULL : st_ohttp_request_type(ST_OHTTP_CHUNKED),
                                        .stall_s = g->o.stall_s,
                                        .max_reply = challenge ? MAX_BUNDLE : MAX_REPLY,
                                        .data = challenge ? on_bundle : on_chunks,
                                        .end = challenge ? on_bundle_end : on_chunks_end,
                                        .arg = t};
    st_gateway_split_init(&t->split, t->r.reply_nonce);
    g->n.paid += !challenge;
    g->n.challenges += challenge;
    if (st_http_call_start(g->http, &o, &t->call, &e))
        node_failed(t, "busy");
}

static void on_spent(void *arg, enum st_spent_answer a)
{
    struct st_gateway_trip *t = arg;
    struct st_gateway *g = t->ex.g;
    t->take = NULL;
    if (a == ST_SPENT_TAKEN) {
        call_node(t);
        return;
    }
    g->n.token_spent += a == ST_SPENT_BEFORE;
    g->n.spent_failed += a == ST_SPENT_FAILED;
    if (a == ST_SPENT_BEFORE)
        refuse(t, 402, "token_spent");
    else
        refuse(t, 503, "unavailable");
}

static void on_gone(void *arg)
{
    struct st_gateway_trip *t = arg;
    t->ex.g->n.gone++;
    trip_free(t);
}

static void on_drained(void *arg)
{
    struct st_gateway_trip *t = arg;
    if (!t->paused || st_http_unsent(t->ex.conn) > UNSENT_HIGH)
        return;
    t->paused = false;
    if (t->call)
        st_http_call_pause(t->call, false); /* may end the trip */
}

/* NULL, or why not. */
static const char *check_token(struct st_gateway *g, const struct st_token *t)
{
    struct st_err e;
    const struct st_blind_rsa *key = st_gateway_token_key(g->directory, t->day, t->units);
    if (!key || st_token_verify(t, key, &e)) {
        g->n.token_bad++;
        return "token_bad";
    }
    if (cost(g, 1) > t->units) { /* any reply has a byte */
        g->n.token_small++;
        return "token_small";
    }
    return NULL;
}

static struct st_gateway_trip *trip_new(struct st_gateway_exchange *ex, struct st_gateway_request *r)
{
    struct st_gateway *g = ex->g;
    struct st_gateway_trip *t = g->n_trip < g->o.max_streams ? calloc(1, sizeof *t) : NULL;
    if (!t)
        return NULL;
    t->ex = *ex;
    t->r = *r;
    *r = (struct st_gateway_request){0};
    memset(&ex->x, 0, sizeof ex->x);
    t->next = g->trips;
    if (t->next)
        t->next->prev = t;
    g->trips = t;
    g->n_trip++;
    return t;
}

void st_gateway_forward(struct st_gateway_exchange *ex, struct st_gateway_request *r)
{
    struct st_gateway *g = ex->g;
    struct st_gateway_node *node = st_gateway_node_find(g->nodes, r->node);
    const char *no = node ? check_token(g, &r->token) : "no_such_node";
    uint8_t digest[32];
    struct st_err e;
    if (no) {
        st_gateway_refuse(ex, node ? 402 : 404, no, (struct st_bhttp_fields){0});
        return;
    }
    struct st_gateway_trip *t = trip_new(ex, r);
    if (!t) {
        g->n.busy++;
        st_gateway_refuse(ex, 503, "busy", (struct st_bhttp_fields){0});
        return;
    }
    t->node = node;
    st_http_body_drop(t->ex.conn);
    const struct st_http_watch w = {.gone = on_gone, .drained = on_drained, .arg = t};
    st_http_watch(t->ex.conn, &w);
    st_token_digest(&t->r.token, digest);
    if (st_spent_take(g->spent, digest, t->r.token.day, on_spent, t, &t->take, &e)) {
        g->n.busy++;
        refuse(t, 503, "busy");
    }
}
