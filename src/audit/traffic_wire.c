/* One request on each kind of wire: sealed as proxy and node seal it, cut into pieces and let go as
 * service/node_stream.c does, with the clock of an engine that is simulated (audit/traffic.h). */
#include "audit/traffic.h"
#include "base/hooks.h"
#include "channel/confidential.h"
#include "channel/receipt.h"
#include "channel/reply.h"
#include "channel/token.h"
#include "service/conf_sealed.h"
#include "text/json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PREFILL_S 0.0004 /* per token of a prompt */
#define STEP_S 0.025     /* per step of the engine, of up to AT_ONCE tokens */
#define AT_ONCE 4
#define BETWEEN_S 0.0003 /* two events of one step */
#define ENGINE_SHARE 0.05
#define NETWORK_S 0.002
#define TLS_RECORD 22 /* bytes that TLS 1.3 adds to a record */
#define HTTP_HEAD 200

struct st_traffic_keys {
    struct st_keyring *node, *gateway;
};

int st_traffic_keys_new(struct st_traffic_keys **out, struct st_err *e)
{
    static const struct st_keyring_opts o = {
        .kem = ST_HPKE_KEM_X25519, .aeads = {ST_AEAD_AES_128_GCM}, .n_aeads = 1, .max_requests = 1 << 16};
    struct st_traffic_keys *k = calloc(1, sizeof *k);
    *out = NULL;
    if (!k)
        return st_fail(e, ST_MEMORY, "traffic: no memory");
    if (st_keyring_new(&o, &k->node, e) || st_keyring_new(&o, &k->gateway, e)) {
        st_traffic_keys_free(k);
        return e->code;
    }
    *out = k;
    return 0;
}

void st_traffic_keys_free(struct st_traffic_keys *k)
{
    if (!k)
        return;
    st_keyring_free(k->node);
    st_keyring_free(k->gateway);
    free(k);
}

/* ---- the request ---- */

static struct st_span span_of(const char *s)
{
    return (struct st_span){(const uint8_t *)s, strlen(s)};
}

/* Every body has the length that it has in base64, whatever it holds. */
static int pay(struct st_buf *token, struct st_buf *change, struct st_err *e)
{
    struct st_change_ask ask;
    const size_t n = 256; /* of a modulus of 2048 bits */
    st_change_plan(64, 0, &ask);
    size_t lens[] = {(20 + ST_TOKEN_RANDOM + n + 2) / 3 * 4, (2 + ask.n * (10 + n) + 2) / 3 * 4};
    struct st_buf *bufs[] = {token, change};
    for (int i = 0; i < 2; i++) {
        char *p = st_buf_room(bufs[i], lens[i]);
        if (!p)
            return st_fail(e, ST_MEMORY, "traffic: no memory");
        memset(p, 'A', lens[i]);
    }
    return 0;
}

static int seal_for_node(const struct st_traffic_keys *k, struct st_span body, struct st_buf *out, struct st_err *e)
{
    static const char salt[] = "00000000000000000000000000000000";
    const struct st_bhttp_field fields[] = {{span_of("content-type"), span_of("application/json")},
                                            {span_of(ST_NODE_FIELD_SALT), span_of(salt)}};
    const struct st_sealed_request r = {
        .method = "POST", .authority = "node", .path = "/v1/chat/completions", .fields = {fields, 2}, .content = body};
    struct st_sealed s;
    int rc = st_sealed_begin(&s, NULL, st_keyring_current(k->node), &r, 1 << 20, out, e);
    if (!rc)
        st_sealed_wipe(&s);
    return rc;
}

static int seal_for_gateway(const struct st_traffic_keys *k, struct st_span sealed, struct st_buf *out,
                            struct st_err *e)
{
    struct st_buf token = {0}, change = {0};
    struct st_sealed s;
    int rc = pay(&token, &change, e);
    const struct st_bhttp_field fields[] = {
        {span_of(ST_GATEWAY_FIELD_TOKEN), {(const uint8_t *)token.p, token.len}},
        {span_of(ST_GATEWAY_FIELD_CHANGE), {(const uint8_t *)change.p, change.len}}};
    const struct st_sealed_request r = {.method = "POST",
                                        .authority = ST_GATEWAY_AUTHORITY,
                                        .path = ST_GATEWAY_PATH_NODES "/00000000000000000000000000000000",
                                        .fields = {fields, 2},
                                        .content = sealed};
    if (!rc)
        rc = st_sealed_begin(&s, NULL, st_keyring_current(k->gateway), &r, 1 << 20, out, e);
    if (!rc)
        st_sealed_wipe(&s);
    st_buf_free(&token);
    st_buf_free(&change);
    return rc;
}

/* The node's side: opens it, and begins to reply. */
static int open_at_node(const struct st_traffic_keys *k, const struct st_buf *sealed, struct st_ohttp *x,
                        struct st_err *e)
{
    struct st_span in = {(const uint8_t *)sealed->p, sealed->len}, text;
    int rc = 0;
    st_ohttp_server(x, ST_OHTTP_CHUNKED, k->node, 0);
    while (!rc && in.len)
        rc = st_ohttp_open(x, &in, &text, e);
    return rc ? rc : st_ohttp_open_end(x, &text, e);
}

/* ---- the reply: what leaves when ---- */

struct wire {
    enum st_traffic_wire kind;
    struct st_rng *rng;
    struct st_buf pieces; /* of struct st_traffic_piece */
    struct st_ohttp x;
    struct st_reply reply;
    struct st_buf sealed; /* that has not left yet */
    size_t nonce_len;     /* in it, before the first piece */
    double tick, cadence_s;
};

static double wait_about(struct st_rng *rng, double mean)
{
    return -mean * log(1 - st_rng_unit(rng));
}

static void leave(struct wire *w, size_t size, double time)
{
    const struct st_traffic_piece p = {.size = (uint32_t)size, .time = time + wait_about(w->rng, NETWORK_S)};
    st_buf_add(&w->pieces, &p, sizeof p);
}

/* As first_chunk() of service/node_stream.c. */
static void leave_first(struct wire *w, double time)
{
    const uint8_t *p = (const uint8_t *)w->sealed.p + w->nonce_len;
    const uint64_t len = st_varint_get(p);
    const size_t n = len ? w->nonce_len + st_varint_len(*p) + (size_t)len : w->sealed.len;
    leave(w, n, time);
    st_buf_drop(&w->sealed, n);
    w->nonce_len = 0;
}

/* Every tick up to now has something to send. */
static int tick(struct wire *w, double now, struct st_err *e)
{
    int rc = 0;
    while (!rc && w->kind == ST_TRAFFIC_CADENCE && w->tick <= now) {
        if (w->sealed.len == w->nonce_len)
            rc = st_reply_tick(&w->reply, &w->sealed, e);
        if (!rc)
            leave_first(w, w->tick);
        w->tick += w->cadence_s;
    }
    return rc;
}

/* All that is sealed: now, or tick by tick. */
static void leave_all(struct wire *w, double now)
{
    while (w->sealed.len > w->nonce_len) {
        leave_first(w, w->kind == ST_TRAFFIC_CADENCE ? w->tick : now);
        w->tick += w->cadence_s;
    }
}

static int begin(struct wire *w, struct st_err *e)
{
    const struct st_bhttp_field type = {span_of("content-type"), span_of("text/event-stream")};
    const struct st_bhttp_head head = {.status = 200, .fields = {&type, 1}};
    if (w->kind == ST_TRAFFIC_OPEN)
        return 0;
    int rc = st_reply_begin(&w->reply, &w->x, ST_CONFIDENTIAL_CHUNK, &head, &w->sealed, e);
    w->nonce_len = w->sealed.len;
    return rc;
}

static int event(struct wire *w, const struct st_buf *text, double now, struct st_err *e)
{
    if (w->kind == ST_TRAFFIC_OPEN) {
        leave(w, text->len + TLS_RECORD, now);
        return 0;
    }
    int rc = tick(w, now, e);
    if (!rc)
        rc = st_reply_content(&w->reply, text->p, text->len, &w->sealed, e);
    if (!rc && w->kind == ST_TRAFFIC_STREAM) {
        rc = st_reply_flush(&w->reply, &w->sealed, e);
        if (!rc)
            leave_all(w, now);
    }
    return rc;
}

static int end(struct wire *w, double now, struct st_err *e)
{
    char hex[2 * ST_RECEIPT_LEN];
    memset(hex, '0', sizeof hex);
    const struct st_bhttp_field receipt = {span_of(ST_RECEIPT_FIELD), {(const uint8_t *)hex, sizeof hex}};
    if (w->kind == ST_TRAFFIC_OPEN)
        return 0;
    int rc = tick(w, now, e);
    if (!rc)
        rc = st_reply_end(&w->reply, (struct st_bhttp_fields){&receipt, 1}, &w->sealed, e);
    if (!rc)
        leave_all(w, now);
    return rc;
}

/* ---- the engine ---- */

static void write_event(struct st_buf *out, struct st_span piece)
{
    st_buf_clear(out);
    st_buf_add_str(out, "data: {\"id\":\"chatcmpl-000000000000000000000000\",\"object\":\"chat.completion.chunk\","
                        "\"created\":1700000000,\"model\":\"demo\",\"choices\":[{\"index\":0,\"delta\":{\"content\":");
    st_json_quote(out, (const char *)piece.p, piece.len);
    st_buf_add_str(out, "},\"finish_reason\":null}]}\n\n");
}

/* Words are foreseen once begun. */
static bool begins_step(struct st_span piece, size_t in_step)
{
    return in_step == AT_ONCE || piece.len == 0 || piece.p[0] == ' ' || piece.p[0] == '\n';
}

static int reply(struct wire *w, const struct st_traffic_opts *o, size_t n_prompt, size_t lo, size_t hi,
                 struct st_err *e)
{
    struct st_buf text = {0};
    double now = PREFILL_S * (double)n_prompt;
    size_t in_step = AT_ONCE;
    int rc = begin(w, e);
    for (size_t i = lo; !rc && i < hi; i++) {
        struct st_span piece = st_tokenizer_piece(o->tokenizer, o->text->ids[i]);
        if (begins_step(piece, in_step)) {
            now += STEP_S * (1 - ENGINE_SHARE) + wait_about(w->rng, STEP_S * ENGINE_SHARE);
            in_step = 0;
        } else
            now += BETWEEN_S;
        in_step++;
        write_event(&text, piece);
        rc = event(w, &text, now, e);
    }
    if (!rc)
        rc = end(w, now, e);
    if (!rc && (text.failed || w->pieces.failed || w->sealed.failed))
        rc = st_fail(e, ST_MEMORY, "traffic: no memory");
    st_buf_free(&text);
    return rc;
}

/* ---- all of it ---- */

static void write_body(const struct st_traffic_opts *o, size_t lo, size_t hi, struct st_buf *out)
{
    struct st_buf text = {0};
    st_traffic_prompt(o->text, o->tokenizer, lo, hi, &text);
    st_buf_add_str(out, "{\"model\":\"demo\",\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":");
    st_json_quote(out, text.p ? text.p : "", text.len);
    st_buf_add_str(out, "}]}");
    out->failed = out->failed || text.failed;
    st_buf_free(&text);
}

static int on_wire(struct st_traffic *t, const struct st_traffic_opts *o, const struct st_traffic_keys *k,
                   const struct st_buf *sealed, struct wire *w, size_t lo, size_t hi, struct st_err *e)
{
    const size_t middle = lo + (hi - lo) / 2;
    int rc = w->kind == ST_TRAFFIC_OPEN ? 0 : open_at_node(k, sealed, &w->x, e);
    w->tick = w->cadence_s = t->cadence_s;
    if (!rc)
        rc = reply(w, o, middle - lo, middle, hi, e);
    st_reply_wipe(&w->reply);
    st_ohttp_wipe(&w->x);
    st_buf_free(&w->sealed);
    return rc;
}

int st_traffic_request(struct st_traffic *t, const struct st_traffic_opts *o, struct st_traffic_keys *k, size_t i,
                       size_t lo, size_t hi, struct st_err *e)
{
    int rc = 0;
    for (int kind = 0; !rc && kind < ST_TRAFFIC_WIRES; kind++) {
        struct st_buf body = {0}, inner = {0}, outer = {0};
        struct st_rng rng;
        struct wire w = {.kind = (enum st_traffic_wire)kind, .rng = &rng};
        struct st_traffic_request *r = &t->made.wires[kind][i];
        st_rng_seed(&rng, o->seed ^ (i * ST_TRAFFIC_WIRES + (size_t)kind + 1) * 0x9e3779b97f4a7c15u);
        write_body(o, lo, hi, &body);
        rc = body.failed ? st_fail(e, ST_MEMORY, "traffic: no memory") : 0;
        if (!rc && kind != ST_TRAFFIC_OPEN)
            rc = seal_for_node(k, (struct st_span){(const uint8_t *)body.p, body.len}, &inner, e);
        if (!rc && kind != ST_TRAFFIC_OPEN)
            rc = seal_for_gateway(k, (struct st_span){(const uint8_t *)inner.p, inner.len}, &outer, e);
        if (!rc)
            rc = on_wire(t, o, k, &inner, &w, lo, hi, e);
        r->prompt = (uint32_t)(i % t->made.n_prompt);
        r->up = (uint32_t)(kind == ST_TRAFFIC_OPEN ? body.len + HTTP_HEAD + TLS_RECORD : outer.len);
        r->pieces = (void *)w.pieces.p; /* handed over */
        r->n_piece = w.pieces.len / sizeof *r->pieces;
        st_buf_free(&body);
        st_buf_free(&inner);
        st_buf_free(&outer);
    }
    return rc;
}
