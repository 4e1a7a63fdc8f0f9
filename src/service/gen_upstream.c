#include "service/gen_upstream.h"
#include "base/hooks.h"
#include "base/log.h"
#include "net/http_client.h"
#include "service/api_keys.h"
#include "service/upstream_probe.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <openssl/crypto.h>

enum {
    ERROR_BODY_MAX = 16 << 10,
    LINGER_S = 2, /* a reply is complete, and the upstream still has the connection open */
    BACKOFF_MS = 200,
};

struct live {
    struct st_gen *g;
    struct live *prev, *next;
    struct st_http_call *call; /* NULL once it ended */
    struct st_gen_events ev;
    void *arg;
    struct st_upstream_reply reply;
    uint32_t *stop_ids;
    struct st_buf body; /* of the request, while it may have to be sent again */
    struct st_buf error_body;
    size_t max_reply;
    double heard;       /* when this try started (or will), or the last token came */
    struct event *wait; /* before it is sent again */
    uint32_t n_retry;
    bool cancelled, told; /* told: `end` was called */
};

struct st_gen {
    struct event_base *base;
    struct st_http_client *client;
    struct st_upstream_probe *probe;
    const struct st_cov_cipher *cipher;
    struct st_stream *choice;      /* of homophones, from fresh entropy; NULL without */
    struct st_gen_upstream_opts o; /* strings in it are not kept, but for scheme */
    char *url, *wanted_model;      /* url: without /v1 and slashes */
    struct st_buf key;
    uint32_t *eos;
    struct live *lives;
    uint32_t n_live;
    struct event *sweep; /* `end` of cancelled requests, connections that are not needed any more */
    struct event *tick;  /* once a second: requests that wait too long */
};

static void live_free(struct live *l)
{
    struct st_gen *g = l->g;
    *(l->prev ? &l->prev->next : &g->lives) = l->next;
    if (l->next)
        l->next->prev = l->prev;
    g->n_live--;
    if (l->call)
        st_http_call_cancel(l->call);
    if (l->wait)
        event_free(l->wait);
    st_upstream_reply_wipe(&l->reply);
    st_buf_wipe(&l->body);
    st_buf_wipe(&l->error_body);
    free(l->stop_ids);
    free(l);
}

static void tell_end(struct live *l, enum st_gen_finish finish, const struct st_err *e)
{
    if (l->told)
        return;
    l->told = true;
    l->ev.end(l->arg, finish, e);
}

static void on_token(void *arg, const struct st_sampled *tok)
{
    struct live *l = arg;
    l->heard = st_now();
    if (l->reply.n_tok == 1)
        st_buf_wipe(&l->body); /* too late for a second try */
    if (!l->cancelled)
        l->ev.token(l->arg, tok);
}

static int on_data(void *arg, int status, const void *p, size_t len, struct st_err *e)
{
    struct live *l = arg;
    struct st_gen *g = l->g;
    if (g->o.tap)
        g->o.tap(g->o.arg, false, p, len);
    if (status != 200) {
        if (l->error_body.len < ERROR_BODY_MAX)
            st_buf_add(&l->error_body, p, len < ERROR_BODY_MAX ? len : ERROR_BODY_MAX);
        return 0;
    }
    if (l->told)
        return 0;
    int rc = st_upstream_reply_feed(&l->reply, p, len, e);
    /* The client need not wait for the upstream to close. */
    if (!rc && l->reply.finished && !l->cancelled) {
        tell_end(l, l->reply.finish, NULL);
        if (l->reply.hang_up)
            event_active(g->sweep, EV_TIMEOUT, 0);
    }
    return rc;
}

/* What a status other than 200 means to our client. The upstream's own text is not passed on: it may say anything. */
static enum st_gen_finish from_status(const struct live *l, int status, struct st_err *e)
{
    char code[48];
    if (status == 429 || status == 503)
        return ST_GEN_BUSY;
    st_upstream_error_code(l->error_body.p, l->error_body.len, code);
    const char *sep = *code ? ", " : "";
    if (status == 400 || status == 413 || status == 422)
        st_fail(e, ST_INPUT, "the upstream refuses this request: status %d%s%s", status, sep, code);
    else if (status == 401 || status == 403)
        st_fail(e, ST_IO, "the upstream refuses the proxy's API key: status %d%s%s", status, sep, code);
    else
        st_fail(e, ST_IO, "the upstream answers with status %d%s%s", status, sep, code);
    return ST_GEN_ERROR;
}

/* A request is sent again when nothing of a reply has come and the failure is of the way to the model, not of the
 * request: no connection, a connection that was closed, or a gateway without a server behind it. Asking twice changes
 * nothing over there; the same bytes are sent. */
static bool may_retry(const struct live *l, int status, const struct st_err *e)
{
    if (l->told || l->cancelled || !l->body.len || l->reply.n_tok || l->n_retry >= l->g->o.n_retry)
        return false;
    if (e)
        return e->code == ST_IO && (status == 0 || status == 200);
    return status == 200 || status == 502 || status == 503 || status == 504;
}

static void retry_later(struct live *l)
{
    int ms = BACKOFF_MS << l->n_retry++;
    struct timeval tv = {ms / 1000, ms % 1000 * 1000};
    l->heard = st_now() + ms / 1e3; /* our own pause is not the upstream's */
    st_log(ST_LOG_DEBUG, "upstream: trying again in %d ms", ms);
    st_buf_clear(&l->error_body);
    st_upstream_reply_wipe(&l->reply);
    st_upstream_reply_init(&l->reply, l->reply.sse.max);
    event_add(l->wait, &tv);
}

static void on_end(void *arg, int status, const struct st_err *e)
{
    struct live *l = arg;
    struct st_err err = {0};
    l->call = NULL;
    if (may_retry(l, status, e)) {
        retry_later(l);
        return;
    }
    if (!l->told && !l->cancelled) {
        enum st_gen_finish f = ST_GEN_ERROR;
        if (e) {
            err = *e;
            if (err.code == ST_IO && strncmp(err.msg, "upstream", 8) != 0)
                st_err_prefix(&err, "upstream");
        } else if (status != 200)
            f = from_status(l, status, &err);
        else
            st_fail(&err, ST_IO, "upstream: the reply ended early");
        tell_end(l, f, f == ST_GEN_ERROR ? &err : NULL);
    } else if (l->cancelled)
        tell_end(l, ST_GEN_CANCELLED, NULL);
    live_free(l);
}

static int check_request(const struct st_gen *g, const struct st_gen_request *r, struct st_err *e)
{
    uint32_t n = g->cipher->n_vocab;
    if (g->n_live >= g->o.max_live)
        return st_fail(e, ST_POLICY, "%u requests are in progress", g->n_live);
    if (!st_upstream_probe_state(g->probe)->ready)
        return st_fail(e, ST_IO, "upstream: not reachable");
    if (!r->n_predict)
        return st_fail(e, ST_INPUT, "max_tokens: needed, because the upstream does not say how long its context is");
    bool fits = true;
    for (size_t i = 0; i < r->n_ids; i++)
        fits = fits && r->ids[i] < n;
    for (size_t i = 0; i < r->n_stop_ids; i++)
        fits = fits && r->stop_ids[i] < n;
    for (uint32_t i = 0; i < r->sampling.n_bias; i++)
        fits = fits && r->sampling.bias[i].id < n;
    return fits ? 0 : st_fail(e, ST_INPUT, "a token id outside the vocabulary of %" PRIu32, n);
}

static int send_body(struct live *l, struct st_err *e)
{
    struct st_gen *g = l->g;
    struct st_buf url = {0}, body = {0};
    st_buf_addf(&url, "%s%s", g->url, l->reply.dialect->path);
    st_buf_add(&body, l->body.p, l->body.len);
    if (url.failed || body.failed) {
        st_buf_free(&url);
        st_buf_wipe(&body);
        return st_fail(e, ST_MEMORY, "no memory for the request");
    }
    if (g->o.tap)
        g->o.tap(g->o.arg, true, body.p, body.len);
    if (g->o.show_egress)
        fprintf(stderr, "egress: POST %s\n%.*s\n", url.p, (int)body.len, body.p);
    struct st_http_call_opts o = {.url = url.p,
                                  .bearer = g->key.p,
                                  .body = &body,
                                  .max_reply = l->max_reply,
                                  .data = on_data,
                                  .end = on_end,
                                  .arg = l};
    int rc = st_http_call_start(g->client, &o, &l->call, e);
    st_buf_free(&url);
    st_buf_wipe(&body);
    return rc;
}

static void on_wait(evutil_socket_t fd, short what, void *arg)
{
    struct live *l = arg;
    struct st_err e;
    (void)fd;
    (void)what;
    if (!l->cancelled && send_body(l, &e)) {
        tell_end(l, ST_GEN_ERROR, &e);
        live_free(l);
    }
}

/* Everything of a request that is kept. */
static int fill(struct live *l, const struct st_gen_request *r, struct st_err *e)
{
    struct st_gen *g = l->g;
    const struct st_upstream_state *up = st_upstream_probe_state(g->probe);
    int rc = st_alloc(&l->stop_ids, r->n_stop_ids, sizeof *r->stop_ids, "stop ids", e);
    if (rc)
        return rc;
    if (r->n_stop_ids)
        memcpy(l->stop_ids, r->stop_ids, r->n_stop_ids * sizeof *r->stop_ids);
    l->heard = st_now();
    l->max_reply = st_upstream_max_reply(up->dialect, r);
    l->wait = event_new(g->base, -1, 0, on_wait, l);
    l->reply = (struct st_upstream_reply){.dialect = up->dialect,
                                          .cipher = g->cipher,
                                          .ends = l->stop_ids,
                                          .n_end = r->n_stop_ids,
                                          .more_ends = g->eos,
                                          .n_more_end = r->ignore_eos ? 0 : g->o.n_eos,
                                          .max_tokens = r->n_predict,
                                          .n_logprobs = r->sampling.n_logprobs,
                                          .token = on_token,
                                          .arg = l};
    st_upstream_reply_init(&l->reply, st_upstream_max_event(up->dialect, r));
    up->dialect->put(&(struct st_upstream_ask){r, g->cipher, up->model, g->choice}, &l->body);
    return l->wait && !l->body.failed ? 0 : st_fail(e, ST_MEMORY, "no memory for the request");
}

static int gen_start(struct st_gen *g, const struct st_gen_request *r, const struct st_gen_events *ev, void *arg,
                     void **handle, struct st_err *e)
{
    struct live *l = NULL;
    int rc = check_request(g, r, e);
    if (rc)
        return rc;
    rc = st_alloc(&l, 1, sizeof *l, "request", e);
    if (rc)
        return rc;
    l->g = g;
    l->ev = *ev;
    l->arg = arg;
    l->next = g->lives;
    if (l->next)
        l->next->prev = l;
    g->lives = l;
    g->n_live++;
    rc = fill(l, r, e);
    if (!rc)
        rc = send_body(l, e);
    if (rc)
        live_free(l);
    else
        *handle = l;
    return rc;
}

static void gen_cancel(struct st_gen *g, void *handle)
{
    struct live *l = handle;
    l->cancelled = true;
    event_active(g->sweep, EV_TIMEOUT, 0);
}

static void on_sweep(evutil_socket_t fd, short what, void *arg)
{
    struct st_gen *g = arg;
    (void)fd;
    (void)what;
    for (struct live *l = g->lives, *next; l; l = next) {
        next = l->next;
        if (!l->cancelled && !(l->told && l->reply.hang_up))
            continue;
        tell_end(l, ST_GEN_CANCELLED, NULL);
        live_free(l);
    }
}

/* Bytes alone do not count as life: a server can trickle comments for ever. */
static void on_tick(evutil_socket_t fd, short what, void *arg)
{
    struct st_gen *g = arg;
    double now = st_now();
    (void)fd;
    (void)what;
    for (struct live *l = g->lives, *next; l; l = next) {
        struct st_err e;
        next = l->next;
        if (now - l->heard < (l->told ? LINGER_S : g->o.stall_s))
            continue;
        st_fail(&e, ST_IO, "upstream: no token for %.0f s", g->o.stall_s);
        tell_end(l, ST_GEN_ERROR, &e);
        live_free(l);
    }
}

/* With homophones the server takes one token's ids for different tokens. */
static const struct st_gen_refusal refused_with_homophones[] = {
    {"repetition_penalty", "the server cannot tell that homophones of the prompt are one token"},
    {0},
};

static void gen_info(struct st_gen *g, struct st_gen_info *out)
{
    const struct st_upstream_state *up = st_upstream_probe_state(g->probe);
    *out = (struct st_gen_info){.n_ctx = up->n_ctx,
                                .n_vocab = g->cipher->n_vocab,
                                .ready = up->ready,
                                .protection = "covariant",
                                .scheme = g->o.scheme,
                                .verified = "no",
                                .n_running = g->n_live,
                                .refused = {up->dialect->refused, g->choice ? refused_with_homophones : NULL}};
    snprintf(out->model, sizeof out->model, "%s", up->model);
}

static void gen_free(struct st_gen *g)
{
    while (g->lives)
        live_free(g->lives);
    st_upstream_probe_free(g->probe);
    st_http_client_free(g->client);
    if (g->sweep)
        event_free(g->sweep);
    if (g->tick)
        event_free(g->tick);
    st_stream_free(g->choice);
    st_buf_wipe(&g->key);
    free(g->url);
    free(g->wanted_model);
    free(g->eos);
    free(g);
}

static const struct st_generator vtable = {gen_start, gen_cancel, gen_info, gen_free};

/* "http://host:8000", ".../v1" and either with a slash give the same. */
static int set_url(struct st_gen *g, const char *url, struct st_err *e)
{
    if (st_http_base("upstream", url, &g->url, e))
        return e->code;
    size_t n = strlen(g->url);
    if (n >= 3 && strcmp(g->url + n - 3, "/v1") == 0)
        g->url[n - 3] = 0;
    return 0;
}

/* NULL for `auto`. */
static int find_dialect(const char *name, const struct st_upstream_dialect **out, struct st_err *e)
{
    char names[128];
    *out = NULL;
    if (!name || strcmp(name, "auto") == 0 || (*out = st_upstream_named(name)) != NULL)
        return 0;
    st_upstream_names(names, sizeof names);
    return st_fail(e, ST_USAGE, "upstream dialect: want auto, %s, got '%s'", names, name);
}

static int open_choice(struct st_gen *g, struct st_err *e)
{
    uint8_t seed[32];
    if (!g->cipher->n_frequent)
        return 0;
    int rc = st_random(seed, sizeof seed, e);
    if (!rc)
        rc = st_stream_new(seed, sizeof seed, NULL, 0, "homophones", &g->choice, e);
    OPENSSL_cleanse(seed, sizeof seed);
    return rc;
}

static int set_up(struct st_gen *g, const struct st_gen_upstream_opts *o, struct st_err *e)
{
    const struct st_upstream_dialect *dialect;
    struct st_http_client_opts h = {.ca_bundle = o->ca_bundle, .connect_s = g->o.connect_s, .max_idle = 64};
    int rc = set_url(g, o->url, e);
    if (!rc)
        rc = find_dialect(o->dialect, &dialect, e);
    if (!rc && o->api_key_file)
        rc = st_api_key_first(o->api_key_file, &g->key, e);
    if (!rc && o->n_eos) {
        rc = st_alloc(&g->eos, o->n_eos, sizeof *g->eos, "end ids", e);
        if (!rc)
            memcpy(g->eos, o->eos, o->n_eos * sizeof *g->eos);
    }
    if (!rc && o->model && !(g->wanted_model = strdup(o->model)))
        rc = st_fail(e, ST_MEMORY, "upstream: no memory");
    if (!rc)
        rc = open_choice(g, e);
    if (!rc)
        rc = st_http_client_new(g->base, &h, &g->client, e);
    if (rc)
        return rc;
    g->sweep = event_new(g->base, -1, 0, on_sweep, g);
    g->tick = event_new(g->base, -1, EV_PERSIST, on_tick, g);
    if (!g->sweep || !g->tick || event_add(g->tick, &(struct timeval){1, 0}) != 0)
        return st_fail(e, ST_MEMORY, "upstream: no memory");
    struct st_upstream_probe_opts p = {.base = g->base,
                                       .client = g->client,
                                       .url = g->url,
                                       .bearer = g->key.p,
                                       .model = g->wanted_model,
                                       .dialect = dialect,
                                       .n_ctx = o->n_ctx};
    return st_upstream_probe_new(&p, &g->probe, e);
}

int st_gen_upstream_open(const void *opts, struct event_base *base, struct st_gen_ref *out, struct st_err *e)
{
    const struct st_gen_upstream_opts *o = opts;
    struct st_gen *g = NULL;
    int rc = st_alloc(&g, 1, sizeof *g, "generator", e);
    if (rc)
        return rc;
    g->base = base;
    g->cipher = o->cipher;
    g->o = *o;
    g->o.connect_s = o->connect_s > 0 ? o->connect_s : 10;
    g->o.stall_s = o->stall_s >= 1 ? o->stall_s : 300;
    g->o.max_live = o->max_live ? o->max_live : 1024;
    g->o.scheme = o->scheme ? o->scheme : "unknown";
    rc = set_up(g, o, e);
    if (rc)
        gen_free(g);
    else
        *out = (struct st_gen_ref){&vtable, g};
    return rc;
}
