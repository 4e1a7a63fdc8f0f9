/* A paid request. Its token is verified and taken; once nobody else can have the token, the request goes to the node,
 * and once the token is durably spent, the reply is passed on, chunk by chunk, until it ends or the token is used up.
 * So the disk is waited for while the node works, and a machine that dies in between has given nothing away. What is
 * left of the token is asked back from the issuer. */
#include "channel/confidential.h"
#include "service/gateway_priv.h"
#include "service/gateway_split.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    UNSENT_HIGH = 64 << 10, /* bytes that the relay has not taken: the node waits */
    EARLY_HIGH = 64 << 10,  /* bytes of a reply that waits for its token to be spent */
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
    struct st_buf early;  /* what the node said before the token was spent */
    struct {
        bool is;
        int status;
        struct st_err err; /* code 0: a whole reply */
    } ended;               /* the node's reply, before the token was spent */
    uint64_t n_sealed;     /* bytes of the node's reply that were passed on */
    uint32_t charged;
    bool paused, dead; /* dead: sealing failed in the middle of the reply */
    bool wants_key;    /* its issuer's key is not known yet */
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
    st_buf_wipe(&t->early);
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

static int pass_all(struct st_gateway_trip *t, struct st_span in, struct st_err *e)
{
    struct st_span piece;
    while (in.len)
        if (st_gateway_split_next(&t->split, &in, &piece, e) || (piece.len && pass_on(t, piece, e)))
            return e->code;
    return 0;
}

static void pause_node(struct st_gateway_trip *t)
{
    if (!t->paused)
        st_http_call_pause(t->call, true);
    t->paused = true;
}

static int hold_back(struct st_gateway_trip *t, const void *p, size_t len, struct st_err *e)
{
    st_buf_add(&t->early, p, len);
    if (t->early.len > EARLY_HIGH)
        pause_node(t);
    return t->early.failed ? st_fail(e, ST_MEMORY, "no memory") : 0;
}

static int on_chunks(void *arg, int status, const void *p, size_t len, struct st_err *e)
{
    struct st_gateway_trip *t = arg;
    bool first = !t->n_sealed && !t->early.len;
    const char *type = first && status == 200 ? st_http_call_type(t->call) : NULL;
    if (first && (!type || strcmp(type, st_ohttp_reply_type(ST_OHTTP_CHUNKED)) != 0))
        return st_fail(e, ST_INPUT, "no sealed reply");
    if (t->take)
        return hold_back(t, p, len, e);
    if (pass_all(t, (struct st_span){p, len}, e))
        return e->code;
    if (st_http_unsent(t->ex.conn) > UNSENT_HIGH)
        pause_node(t);
    return 0;
}

/* True when the token is not spent yet: the end is kept until it is. */
static bool ends_early(struct st_gateway_trip *t, int status, const struct st_err *err)
{
    if (!t->take)
        return false;
    t->ended.is = true;
    t->ended.status = status;
    t->ended.err = err ? *err : (struct st_err){0};
    return true;
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
        settle(t, g->o.price_request, t->error);
    else if (status / 100 == 4) {
        g->n.node_failed++;
        settle(t, g->o.price_request, "node_refused");
    } else
        node_failed(t, status ? "node_refused" : "node_unreachable");
}

static void on_chunks_end(void *arg, int status, const struct st_err *err)
{
    struct st_gateway_trip *t = arg;
    struct st_span piece;
    struct st_err e;
    t->call = NULL;
    if (ends_early(t, status, err))
        return;
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
    if (ends_early(t, status, err))
        return;
    if (err || status != 200)
        node_failed(t, status ? "node_refused" : "node_unreachable");
    else if (st_gateway_node_same_keys(t->node, (struct st_span){(uint8_t *)t->bundle.p, t->bundle.len}, &e))
        node_failed(t, "node_refused");
    else
        settle(t, cost(t->ex.g, t->bundle.len), NULL);
}

/* ---- the way there ---- */

/* Nobody else can have the token. */
static void call_node(void *arg)
{
    struct st_gateway_trip *t = arg;
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
        (void)ends_early(t, 0, &e);
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

/* What the node said before the token was spent goes out. */
static void release(struct st_gateway_trip *t)
{
    struct st_err e;
    struct st_buf early = t->early;
    t->early = (struct st_buf){0};
    int rc = pass_all(t, (struct st_span){(uint8_t *)early.p, early.len}, &e);
    st_buf_wipe(&early);
    if (rc) {
        if (t->call)
            st_http_call_cancel(t->call);
        t->call = NULL;
        broken_off(t, 200);
    } else if (t->ended.is) {
        const struct st_err err = t->ended.err, *why = err.code ? &err : NULL;
        if (t->r.what == ST_GATEWAY_ATTEST)
            on_bundle_end(t, t->ended.status, why);
        else
            on_chunks_end(t, t->ended.status, why);
    } else if (t->paused)
        on_drained(t);
    else if (!t->ex.begun) /* the node is at work: time for what its first piece needs */
        st_ohttp_reply_ahead(&t->ex.x);
}

static void on_spent(void *arg, enum st_spent_answer a)
{
    struct st_gateway_trip *t = arg;
    struct st_gateway *g = t->ex.g;
    t->take = NULL;
    if (a == ST_SPENT_TAKEN) {
        release(t);
        return;
    }
    g->n.token_spent += a == ST_SPENT_BEFORE;
    g->n.spent_failed += a == ST_SPENT_FAILED;
    if (a == ST_SPENT_BEFORE)
        refuse(t, 402, "token_spent");
    else
        refuse(t, 503, "unavailable");
}

/* ---- tokens ---- */

/* NULL, or why not. *later: the issuer's key of that day and denomination is not known, and there may be one. */
static const char *check_token(struct st_gateway *g, const struct st_token *t, bool *later)
{
    struct st_err e;
    const struct st_blind_rsa *key = st_gateway_token_key(g->directory, t->day, t->units);
    *later = !key && st_gateway_token_may_have_key(t->day, t->units);
    if (!key || st_token_verify(t, key, &e))
        return "token_bad";
    return cost(g, 1) > t->units ? "token_small" : NULL; /* any reply has a byte */
}

static void count_refusal(struct st_gateway *g, const char *why)
{
    g->n.token_small += strcmp(why, "token_small") == 0;
    g->n.token_bad += strcmp(why, "token_bad") == 0;
}

static void take_token(struct st_gateway_trip *t)
{
    struct st_gateway *g = t->ex.g;
    const struct st_spent_events ev = {.fresh = call_node, .done = on_spent, .arg = t};
    uint8_t digest[32];
    struct st_err e;
    st_token_digest(&t->r.token, digest);
    if (st_spent_take(g->spent, digest, t->r.token.day, &ev, &t->take, &e)) {
        g->n.busy++;
        refuse(t, 503, "busy");
    }
}

void st_gateway_forward_keys(struct st_gateway *g)
{
    bool later;
    for (struct st_gateway_trip *t = g->trips, *next; t; t = next) {
        next = t->next;
        if (!t->wants_key)
            continue;
        t->wants_key = false;
        const char *no = check_token(g, &t->r.token, &later);
        if (no) {
            count_refusal(g, no);
            refuse(t, 402, no);
        } else
            take_token(t);
    }
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
    bool later = false;
    const char *no = node ? check_token(g, &r->token, &later) : "no_such_node";
    later = later && st_gateway_directory_look(g->directory);
    if (no && !later) {
        count_refusal(g, no);
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
    t->wants_key = later;
    st_http_body_drop(t->ex.conn);
    const struct st_http_watch w = {.gone = on_gone, .drained = on_drained, .arg = t};
    st_http_watch(t->ex.conn, &w);
    if (!later)
        take_token(t);
}
