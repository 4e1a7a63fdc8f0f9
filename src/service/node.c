#include "service/node.h"
#include "base/hooks.h"
#include "base/log.h"
#include "base/sandbox.h"
#include "channel/confidential.h"
#include "model/measure.h"
#include "service/node_priv.h"
#include "service/node_request.h"
#include "service/node_stream.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- POST /attest ---- */

struct asking {
    struct st_node_asker asker; /* first */
    struct st_node *node;
    struct st_http_conn *conn;
};

static void on_asker_gone(void *arg)
{
    struct asking *a = arg;
    st_node_evidence_withdraw(a->node->evidence, &a->asker);
    free(a);
}

static void on_answer(struct st_node_asker *asker, const struct st_buf *json)
{
    struct asking *a = (struct asking *)asker;
    struct st_http_conn *c = a->conn;
    free(a);
    if (json)
        st_http_reply(c, 200, "Cache-Control: no-store\r\n", "application/json", json->p, json->len);
    else
        st_http_reply(c, 503, "Cache-Control: no-store\r\nRetry-After: 1\r\n", NULL, NULL, 0);
}

/* {"nonce": HEX of 32 bytes} and nothing else. */
static int read_nonce(const struct st_http_conn *c, uint8_t out[ST_NODE_NONCE])
{
    struct st_span body = st_http_body(c);
    struct st_err e;
    json_t *v;
    if (st_json_parse(body.p, body.len, "attest", &v, &e))
        return -1;
    const char *hex = json_string_value(json_object_get(v, "nonce"));
    int rc = json_object_size(v) == 1 && hex ? st_unhex(hex, strlen(hex), out, ST_NODE_NONCE, "nonce", &e) : -1;
    json_decref(v);
    return rc;
}

static void attest(struct st_node *n, struct st_http_conn *c)
{
    struct asking *a = NULL;
    uint8_t nonce[ST_NODE_NONCE];
    struct st_err e;
    if (read_nonce(c, nonce)) {
        st_role_refuse(c, 400);
        return;
    }
    if (st_alloc(&a, 1, sizeof *a, "a question", &e)) {
        st_role_refuse(c, 503);
        return;
    }
    a->node = n;
    a->conn = c;
    a->asker.answer = on_answer;
    memcpy(a->asker.nonce, nonce, sizeof nonce);
    const struct st_http_watch w = {on_asker_gone, NULL, a};
    st_http_watch(c, &w);
    st_node_evidence_ask(n->evidence, &a->asker);
}

/* ---- routes ---- */

static bool is_post(const struct st_http_conn *c, const char *path)
{
    return strcmp(st_http_path(c), path) == 0 && strcmp(st_http_method(c), "POST") == 0;
}

static void on_request(void *arg, struct st_http_conn *c)
{
    struct st_node *n = arg;
    if (is_post(c, ST_NODE_PATH_INFER))
        st_node_exchange_start(n, c);
    else if (is_post(c, ST_NODE_PATH_ATTEST))
        attest(n, c);
    else
        st_role_refuse(c, 404);
}

static bool refuses_head(void *arg, const struct st_http_conn *c)
{
    (void)arg;
    return !is_post(c, ST_NODE_PATH_INFER) && !is_post(c, ST_NODE_PATH_ATTEST);
}

static bool ready(void *arg)
{
    const struct st_node *n = arg;
    return n->serving && st_node_engine_ready(n->engine);
}

static void put_metrics(void *arg, struct st_buf *b)
{
    const struct st_node *n = arg;
    const struct st_node_counts *c = &n->counts;
    st_role_count(b, "sotto_node_requests_total", "counter", "Sealed requests that opened.", c->requests);
    st_role_count(b, "sotto_node_refused_total", "counter", "Messages that did not open.", c->refused);
    st_role_count(b, "sotto_node_faulty_total", "counter", "Requests refused under the seal.", c->faulty);
    st_role_count(b, "sotto_node_engine_failures_total", "counter", "Requests that the engine did not finish.",
                  c->engine_failed);
    st_role_count(b, "sotto_node_gone_total", "counter", "Requests whose other side left.", c->gone);
    st_role_count(b, "sotto_node_requests_running", "gauge", "Requests being answered.", c->running);
    st_role_count(b, "sotto_node_bundles_total", "counter", "Evidence bundles collected.",
                  st_node_evidence_count(n->evidence));
    st_role_count(b, "sotto_node_rotations_total", "counter", "Keys replaced.", n->keys.n_rotations);
    st_role_count(b, "sotto_node_engine_ready", "gauge", "1 when the engine is usable.",
                  st_node_engine_ready(n->engine));
}

/* ---- keys live and die ---- */

static void on_second(evutil_socket_t fd, short what, void *arg)
{
    struct st_node *n = arg;
    struct st_err e;
    bool rotated;
    (void)fd;
    (void)what;
    if (n->failed.code)
        return;
    if (st_node_keys_tick(&n->keys, &rotated, &e))
        st_log(ST_LOG_WARN, "keys: not replaced: %s", e.msg);
    else if (rotated)
        st_node_evidence_rotated(n->evidence);
}

/* At once: every reply is cut, the keys are overwritten, the loop ends. */
static void die(struct st_node *n, const struct st_err *why)
{
    if (n->failed.code)
        return;
    n->failed = *why;
    st_role_close(n->role);
    st_node_exchanges_free(n);
    st_node_keys_wipe(&n->keys);
    /* Not at once: libevent closes connections on its way out of the loop. */
    event_base_loopexit(st_role_base(n->role), NULL);
}

static void on_lost(void *arg, const struct st_err *why)
{
    struct st_err e = *why;
    e.code = ST_VERIFY;
    st_err_prefix(&e, "the evidence does not hold any more, the keys are gone");
    die(arg, &e);
}

static void on_checked(void *arg)
{
    st_node_exchanges_checked(arg);
}

static void on_soon(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    st_node_exchanges_prepare(arg);
}

static void on_last_words(evutil_socket_t fd, short what, void *arg)
{
    struct st_node *n = arg;
    (void)fd;
    (void)what;
    die(n, &n->ended);
}

/* Replies that it broke off are told so before the node ends with it. */
static void on_child_ended(void *arg, const struct st_err *why)
{
    const struct timeval moment = {0, 500 * 1000};
    struct st_node *n = arg;
    n->ended = *why;
    if (!n->serving || event_base_once(st_role_base(n->role), -1, EV_TIMEOUT, on_last_words, n, &moment) != 0)
        die(n, why);
}

/* ---- the start ---- */

static void on_judged(void *arg, const struct st_err *e)
{
    struct st_node *n = arg;
    n->refused = e ? *e : (struct st_err){0};
}

static int wait_for_engine(struct st_node *n, struct st_err *e)
{
    const double end = st_now() + n->o.engine_wait_s;
    double tell = st_now() + 2;
    while (!st_node_engine_ready(n->engine)) {
        if (n->failed.code || n->refused.code) {
            *e = n->failed.code ? n->failed : n->refused;
            return e->code;
        }
        if (st_now() > end)
            return st_fail(e, ST_IO, "%.200s: no engine within %.0f s: %.200s", n->o.upstream, n->o.engine_wait_s,
                           st_node_engine_why(n->engine)->msg);
        if (st_now() > tell) {
            st_log(ST_LOG_INFO, "waiting for the engine at %.200s", n->o.upstream);
            tell = end + 1;
        }
        event_base_loop(st_role_base(n->role), EVLOOP_ONCE);
    }
    return 0;
}

static int open_engine(struct st_node *n, struct st_err *e)
{
    const struct st_node_engine_opts o = {
        .base = st_role_base(n->role), .upstream = n->o.upstream, .judged = on_judged, .arg = n};
    if (st_node_engine_new(&o, &n->engine, e))
        return e->code;
    if (n->o.model && st_model_measure(n->o.model, n->o.progress, n->model, e))
        return e->code;
    if (n->o.command) {
        if (st_node_child_start(o.base, n->o.command, on_child_ended, n, &n->child, e))
            return e->code;
        st_node_child_digest(n->child, n->command);
    }
    return wait_for_engine(n, e);
}

static int open_evidence(struct st_node *n, struct st_err *e)
{
    struct st_node_evidence_opts o = {.base = st_role_base(n->role),
                                      .kinds = n->o.kinds,
                                      .n_kind = n->o.n_kind,
                                      .collect = &n->o.collect,
                                      .keys = &n->keys,
                                      .lost = on_lost,
                                      .checked = on_checked,
                                      .arg = n};
    o.states.has_model = n->o.model != NULL;
    o.states.has_engine = n->child != NULL;
    memcpy(o.states.model, n->model, sizeof n->model);
    memcpy(o.states.engine, n->command, sizeof n->command);
    if (st_node_keys_init(&n->keys, n->o.max_requests, n->o.rotate_s, n->o.key_grace_s, e) ||
        st_node_evidence_new(&o, &n->evidence, e))
        return e->code;
    return st_node_evidence_try(n->evidence, e);
}

static int listen_there(struct st_node *n, struct st_err *e)
{
    struct st_role_opts r = n->o.listen;
    r.max_body = ST_CONFIDENTIAL_MAX_REQUEST;
    r.max_head = 8 << 10;
    r.grace_s = r.grace_s > 0 ? r.grace_s : 10;
    r.request = on_request;
    r.refuses_head = refuses_head;
    r.metrics = put_metrics;
    r.ready = ready;
    r.arg = n;
    return st_role_listen(n->role, &r, e);
}

/* ---- the sandbox ---- */

static int enter_sandbox(struct st_node *n, struct st_err *e)
{
    uint16_t ports[2] = {st_node_engine_port(n->engine)};
    struct st_collect_needs needs;
    struct st_sandbox_state state;
    size_t n_port = ports[0] != 0;
    st_node_evidence_needs(n->evidence, &needs);
    if (needs.port)
        ports[n_port++] = needs.port;
    const struct st_sandbox s = {.read = needs.read,
                                 .n_read = needs.n_read,
                                 .write = needs.write,
                                 .n_write = needs.n_write,
                                 .ports = ports,
                                 .n_port = n_port,
                                 .unix_sockets = st_node_engine_port(n->engine) == 0,
                                 .nvidia = needs.nvidia};
    if (st_sandbox_enter(&s, &state, e))
        return e->code;
    snprintf(n->sandbox, sizeof n->sandbox, "seccomp %s, Landlock %s", state.syscalls ? "on" : "off", state.landlock);
    return 0;
}

/* ---- life ---- */

static void set_defaults(struct st_node_opts *o)
{
    o->chunk = o->chunk ? o->chunk : ST_CONFIDENTIAL_CHUNK;
    o->max_requests = o->max_requests ? o->max_requests : (size_t)1 << 20;
    o->rotate_s = o->rotate_s > 0 ? o->rotate_s : 3600;
    o->key_grace_s = o->key_grace_s > 0 ? o->key_grace_s : 600;
    o->engine_wait_s = o->engine_wait_s > 0 ? o->engine_wait_s : 600;
}

int st_node_new(const struct st_node_opts *o, struct st_node **out, struct st_err *e)
{
    const struct timeval second = {1, 0};
    struct st_node *n = NULL;
    *out = NULL;
    if (st_alloc(&n, 1, sizeof *n, "node", e))
        return e->code;
    n->o = *o;
    set_defaults(&n->o);
    int rc = 0;
    if (n->o.chunk < ST_NODE_CHUNK_MIN || n->o.chunk > ST_CHUNK_TEXT_MAX)
        rc = st_fail(e, ST_USAGE, "--chunk: want %d to %d bytes, got %zu", ST_NODE_CHUNK_MIN, ST_CHUNK_TEXT_MAX,
                     n->o.chunk);
    if (!rc)
        rc = st_role_new(&n->role, e);
    if (!rc)
        rc = open_engine(n, e);
    if (!rc)
        rc = open_evidence(n, e);
    if (!rc)
        rc = listen_there(n, e);
    if (!rc && n->o.sandbox)
        rc = enter_sandbox(n, e);
    if (!rc)
        rc = st_node_evidence_start(n->evidence, e);
    if (!rc) {
        n->second = event_new(st_role_base(n->role), -1, EV_PERSIST, on_second, n);
        n->soon = evtimer_new(st_role_base(n->role), on_soon, n);
        if (!n->soon || !n->second || event_add(n->second, &second) != 0)
            rc = st_fail(e, ST_MEMORY, "timer: no memory");
    }
    if (rc) {
        st_node_free(n);
        return rc;
    }
    if (n->child)
        st_node_child_hush(n->child);
    n->serving = true;
    *out = n;
    return 0;
}

void st_node_about(const struct st_node *n, struct st_node_about *out)
{
    *out = (struct st_node_about){.url = st_role_url(n->role),
                                  .port = st_role_port(n->role),
                                  .engine = st_node_engine_name(n->engine),
                                  .cache = st_node_engine_cache(n->engine),
                                  .model_digest = n->o.model ? n->model : NULL,
                                  .engine_digest = n->child ? n->command : NULL,
                                  .sandbox = n->sandbox};
}

static int ending(const struct st_node *n, struct st_err *e)
{
    if (n->failed.code)
        *e = n->failed;
    return n->failed.code;
}

int st_node_run(struct st_node *n, struct st_err *e)
{
    int rc = st_role_run(n->role, e);
    return rc ? rc : ending(n, e);
}

int st_node_start(struct st_node *n, struct st_err *e)
{
    return st_role_start(n->role, e);
}

int st_node_stop(struct st_node *n, struct st_err *e)
{
    st_role_stop(n->role);
    return ending(n, e);
}

void st_node_free(struct st_node *n)
{
    if (!n)
        return;
    st_role_close(n->role);
    st_node_exchanges_free(n);
    st_node_keys_wipe(&n->keys);
    if (n->second)
        event_free(n->second);
    if (n->soon)
        event_free(n->soon);
    st_node_evidence_free(n->evidence);
    st_node_engine_free(n->engine);
    st_node_child_free(n->child);
    st_role_free(n->role);
    free(n);
}
