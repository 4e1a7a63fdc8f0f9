#include "service/relay.h"
#include "base/hooks.h"
#include "base/log.h"
#include "channel/confidential.h"
#include "channel/ohttp.h"
#include "net/http_client.h"

#include <arpa/inet.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    N_BUCKET = 1024,
    UNSENT_HIGH = 64 << 10, /* bytes that a client has not taken: the gateway's reply waits */
    MAX_LOG_REPLY = 4 << 20,
    MAX_IDLE = 1024, /* connections to the gateway and the log */
    MAX_TYPE = 128,
    /* What encapsulation adds to a request: head, chunk lengths and tags. */
    MAX_SEALING = 64 << 10,
};
#define MAX_REPLY ((size_t)1 << 30)

/* An address with requests under way. */
struct origin {
    struct origin *next;
    uint8_t address[16];
    uint32_t n;
};

enum target { GATEWAY, LOG };

struct trip {
    struct st_relay *relay;
    struct trip *prev, *next;
    struct st_http_conn *conn;
    struct st_http_call *call;
    struct origin *origin;
    enum target target;
    size_t held; /* bytes of its body */
    bool begun, paused;
};

struct st_relay {
    struct st_role *role;
    struct st_relay_opts o;
    struct st_http_client *http;
    char *base[2]; /* URLs, by enum target */
    struct origin *origins[N_BUCKET];
    uint64_t seed;
    struct trip *trips;
    size_t held;
    bool down[2]; /* the last try did not reach it */
    struct {
        uint64_t requests[2], refused, limited, failed, cut, gone, bytes_up, bytes_down, open;
    } n;
};

/* ---- how many at once ---- */

/* The address as 16 bytes; of IPv6 the /64, which is what one client has. */
static void address_of(const struct st_http_conn *c, uint8_t out[16])
{
    char text[64];
    const char *peer = st_http_peer(c);
    memset(out, 0, 16);
    if (*peer != '[') {
        memset(out + 10, 0xff, 2);
        (void)inet_pton(AF_INET, peer, out + 12);
        return;
    }
    snprintf(text, sizeof text, "%s", peer + 1);
    text[strcspn(text, "]%")] = 0;
    (void)inet_pton(AF_INET6, text, out);
    memset(out + 8, 0, 8);
}

/* Seeded, so that nobody can choose addresses that share a bucket. */
static struct origin **bucket(struct st_relay *r, const uint8_t address[16])
{
    struct st_rng mix;
    uint64_t half[2];
    memcpy(half, address, sizeof half);
    st_rng_seed(&mix, r->seed ^ half[0]);
    st_rng_seed(&mix, st_rng_next(&mix) ^ half[1]);
    return &r->origins[st_rng_next(&mix) % N_BUCKET];
}

static struct origin *find_origin(struct st_relay *r, const struct st_http_conn *c)
{
    uint8_t address[16];
    address_of(c, address);
    struct origin *o = *bucket(r, address);
    while (o && memcmp(o->address, address, sizeof address) != 0)
        o = o->next;
    return o;
}

/* NULL: it has too many under way, or there is no memory. */
static struct origin *take_origin(struct st_relay *r, const struct st_http_conn *c)
{
    struct st_err e;
    struct origin *o = find_origin(r, c);
    if (o && o->n >= r->o.max_client)
        return NULL;
    if (!o) {
        if (st_alloc(&o, 1, sizeof *o, "an address", &e))
            return NULL;
        address_of(c, o->address);
        struct origin **at = bucket(r, o->address);
        o->next = *at;
        *at = o;
    }
    o->n++;
    return o;
}

static void give_origin(struct st_relay *r, struct origin *o)
{
    if (--o->n)
        return;
    struct origin **at = bucket(r, o->address);
    while (*at != o)
        at = &(*at)->next;
    *at = o->next;
    OPENSSL_cleanse(o, sizeof *o);
    free(o);
}

/* ---- one trip ---- */

static void trip_free(struct trip *t)
{
    struct st_relay *r = t->relay;
    *(t->prev ? &t->prev->next : &r->trips) = t->next;
    if (t->next)
        t->next->prev = t->prev;
    give_origin(r, t->origin);
    r->held -= t->held;
    r->n.open--;
    free(t);
}

static void on_gone(void *arg)
{
    struct trip *t = arg;
    t->relay->n.gone++;
    st_http_call_cancel(t->call);
    trip_free(t);
}

static void on_drained(void *arg)
{
    struct trip *t = arg;
    if (t->paused) {
        t->paused = false;
        st_http_call_pause(t->call, false);
    }
}

/* Statuses that gateways and logs give; anything else is a broken gateway. */
static int status_of(int status)
{
    static const int known[] = {200, 400, 404, 405, 413, 415, 429, 503};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i] == status)
            return status;
    return 502;
}

/* A content type as it may stand in a header line. */
static const char *type_of(const struct trip *t, char out[MAX_TYPE])
{
    const char *type = st_http_call_type(t->call);
    if (!type || strlen(type) >= MAX_TYPE)
        return NULL;
    for (const char *p = type; *p; p++)
        if (*p < 0x20 || *p > 0x7e)
            return NULL;
    snprintf(out, MAX_TYPE, "%s", type);
    return out;
}

static void begin(struct trip *t, int status)
{
    char type[MAX_TYPE];
    t->begun = true;
    st_http_stream_begin(t->conn, status_of(status), "Cache-Control: no-store\r\n", type_of(t, type));
}

static int on_data(void *arg, int status, const void *p, size_t len, struct st_err *e)
{
    struct trip *t = arg;
    (void)e;
    if (!t->begun)
        begin(t, status);
    t->relay->n.bytes_down += len;
    st_http_stream_send(t->conn, p, len);
    if (!t->paused && st_http_unsent(t->conn) > UNSENT_HIGH) {
        t->paused = true;
        st_http_call_pause(t->call, true);
    }
    return 0;
}

/* Says once when the other side is gone, and once when it is back: nothing of single requests. */
static void note_reach(struct st_relay *r, enum target target, const struct st_err *e)
{
    static const char *const names[] = {"gateway", "log"};
    bool down = e != NULL;
    if (down && !r->down[target])
        st_log(ST_LOG_WARN, "the %s cannot be reached: %s", names[target], e->msg);
    else if (!down && r->down[target])
        st_log(ST_LOG_INFO, "the %s is reached again", names[target]);
    r->down[target] = down;
}

static void on_end(void *arg, int status, const struct st_err *e)
{
    struct trip *t = arg;
    struct st_relay *r = t->relay;
    if (t->begun || !e)
        note_reach(r, t->target, NULL);
    else
        note_reach(r, t->target, e);
    if (t->begun && e) {
        r->n.cut++;
        st_http_stream_cut(t->conn);
    } else if (t->begun)
        st_http_stream_end(t->conn);
    else {
        r->n.failed += e != NULL;
        st_role_refuse(t->conn, e ? 502 : status_of(status));
    }
    trip_free(t);
}

static void refuse(struct st_relay *r, struct st_http_conn *c, int status)
{
    r->n.refused++;
    st_role_refuse(c, status);
}

static int start(struct trip *t, const char *url, struct st_buf *body, struct st_err *e)
{
    const struct st_relay *r = t->relay;
    const struct st_http_watch watch = {.gone = on_gone, .drained = on_drained, .arg = t};
    struct st_http_call_opts o = {.url = url,
                                  .body = body,
                                  .type = st_ohttp_request_type(ST_OHTTP_CHUNKED),
                                  .stall_s = r->o.stall_s,
                                  .max_reply = t->target == LOG ? MAX_LOG_REPLY : MAX_REPLY,
                                  .data = on_data,
                                  .end = on_end,
                                  .arg = t};
    if (st_http_call_start(r->http, &o, &t->call, e))
        return e->code;
    st_http_watch(t->conn, &watch);
    return 0;
}

/* body: NULL = GET; taken over. */
static void go(struct st_relay *r, struct st_http_conn *c, enum target target, const char *url, struct st_buf *body)
{
    struct st_err e;
    struct trip *t = NULL;
    struct origin *origin = take_origin(r, c);
    if (!origin) {
        r->n.limited++;
        st_role_refuse(c, 429);
        return;
    }
    if (st_alloc(&t, 1, sizeof *t, "a request", &e)) {
        give_origin(r, origin);
        st_role_refuse(c, 503);
        return;
    }
    *t = (struct trip){.relay = r, .conn = c, .origin = origin, .target = target, .held = body ? body->len : 0};
    t->next = r->trips;
    if (t->next)
        t->next->prev = t;
    r->trips = t;
    r->held += t->held;
    r->n.open++;
    r->n.requests[target]++;
    r->n.bytes_up += t->held;
    if (start(t, url, body, &e)) {
        trip_free(t);
        st_role_refuse(c, 503);
    }
}

/* ---- routes ---- */

static void to_gateway(struct st_relay *r, struct st_http_conn *c)
{
    struct st_span in = st_http_body(c);
    struct st_buf body = {0}, url = {0};
    const char *type = st_http_field(c, "Content-Type");
    if (!type || strcmp(type, st_ohttp_request_type(ST_OHTTP_CHUNKED)) != 0 || in.len == 0 || *st_http_query(c)) {
        refuse(r, c, 400);
        return;
    }
    if (r->held + in.len > r->o.max_memory) {
        r->n.limited++;
        st_role_refuse(c, 503);
        return;
    }
    st_buf_add(&body, in.p, in.len);
    st_buf_addf(&url, "%s/", r->base[GATEWAY]);
    st_http_body_drop(c);
    if (body.failed || url.failed)
        st_role_refuse(c, 503);
    else
        go(r, c, GATEWAY, url.p, &body);
    st_buf_free(&body);
    st_buf_free(&url);
}

/* Paths of tiles, checkpoints and directories need no more than these; "..", "//" and "%" lead elsewhere. */
static bool plain(const char *s, const char *also)
{
    for (const char *p = s; *p; p++)
        if (!((*p >= 'a' && *p <= 'z') || (*p >= '0' && *p <= '9') || strchr(also, *p)))
            return false;
    return !strstr(s, "..") && !strstr(s, "//");
}

static void to_log(struct st_relay *r, struct st_http_conn *c)
{
    const char *path = st_http_path(c) + strlen(ST_RELAY_PATH_LOG), *query = st_http_query(c);
    struct st_buf url = {0};
    if (!plain(path, "/._-") || !plain(query, "=")) {
        refuse(r, c, 404);
        return;
    }
    st_buf_addf(&url, "%s%s%s%s", r->base[LOG], path, *query ? "?" : "", query);
    if (url.failed)
        st_role_refuse(c, 503);
    else
        go(r, c, LOG, url.p, NULL);
    st_buf_free(&url);
}

static bool is_log(const struct st_http_conn *c)
{
    return strncmp(st_http_path(c), ST_RELAY_PATH_LOG "/", strlen(ST_RELAY_PATH_LOG) + 1) == 0;
}

static void on_request(void *arg, struct st_http_conn *c)
{
    struct st_relay *r = arg;
    const char *method = st_http_method(c);
    if (strcmp(st_http_path(c), "/") == 0 && strcmp(method, "POST") == 0)
        to_gateway(r, c);
    else if (is_log(c) && strcmp(method, "GET") == 0)
        to_log(r, c);
    else
        refuse(r, c, 404);
}

/* A client that has all its requests under way, and one that posts elsewhere, need not send the next body. */
static bool refuses_head(void *arg, const struct st_http_conn *c)
{
    struct st_relay *r = arg;
    const struct origin *o = find_origin(r, c);
    return strcmp(st_http_path(c), "/") != 0 || strcmp(st_http_method(c), "POST") != 0 ||
           (o && o->n >= r->o.max_client);
}

static void put_metrics(void *arg, struct st_buf *b)
{
    const struct st_relay *r = arg;
    st_role_count(b, "sotto_relay_requests_total", "counter", "Requests passed on to the gateway.",
                  r->n.requests[GATEWAY]);
    st_role_count(b, "sotto_relay_log_requests_total", "counter", "Requests passed on to the log.", r->n.requests[LOG]);
    st_role_count(b, "sotto_relay_open", "gauge", "Requests under way.", r->n.open);
    st_role_count(b, "sotto_relay_refused_total", "counter", "Requests that are none for a relay.", r->n.refused);
    st_role_count(b, "sotto_relay_limited_total", "counter", "Requests over a limit.", r->n.limited);
    st_role_count(b, "sotto_relay_failed_total", "counter", "Requests that did not reach their goal.", r->n.failed);
    st_role_count(b, "sotto_relay_cut_total", "counter", "Replies that broke.", r->n.cut);
    st_role_count(b, "sotto_relay_gone_total", "counter", "Clients that left before the end.", r->n.gone);
    st_role_count(b, "sotto_relay_received_bytes_total", "counter", "Bytes of requests.", r->n.bytes_up);
    st_role_count(b, "sotto_relay_sent_bytes_total", "counter", "Bytes of replies.", r->n.bytes_down);
}

/* ---- life ---- */

static int set_up(struct st_relay *r, struct st_err *e)
{
    struct st_relay_opts *o = &r->o;
    o->max_client = o->max_client ? o->max_client : 256;
    o->max_memory = o->max_memory ? o->max_memory : (size_t)256 << 20;
    o->stall_s = o->stall_s > 0 ? o->stall_s : 300;
    o->listen.max_body = ST_CONFIDENTIAL_MAX_REQUEST + MAX_SEALING;
    o->listen.max_held = o->max_memory;
    o->listen.request = on_request;
    o->listen.refuses_head = refuses_head;
    o->listen.metrics = put_metrics;
    o->listen.arg = r;
    const struct st_http_client_opts h = {
        .ca_bundle = o->ca_bundle, .connect_s = o->connect_s > 0 ? o->connect_s : 10, .max_idle = MAX_IDLE};
    if (st_random(&r->seed, sizeof r->seed, e) || st_http_base("--gateway", o->gateway, &r->base[GATEWAY], e) ||
        st_http_base("--log", o->log, &r->base[LOG], e) || st_role_new(&r->role, e) ||
        st_http_client_new(st_role_base(r->role), &h, &r->http, e))
        return e->code;
    return st_role_listen(r->role, &o->listen, e);
}

int st_relay_new(const struct st_relay_opts *o, struct st_relay **out, struct st_err *e)
{
    struct st_relay *r = NULL;
    *out = NULL;
    if (st_alloc(&r, 1, sizeof *r, "relay", e))
        return e->code;
    r->o = *o;
    if (set_up(r, e)) {
        st_relay_free(r);
        return e->code;
    }
    *out = r;
    return 0;
}

struct st_role *st_relay_role(struct st_relay *r)
{
    return r->role;
}

void st_relay_free(struct st_relay *r)
{
    if (!r)
        return;
    st_role_close(r->role); /* every trip goes with its connection */
    st_http_client_free(r->http);
    st_role_free(r->role);
    free(r->base[GATEWAY]);
    free(r->base[LOG]);
    free(r);
}
