#include "service/server.h"
#include "base/hooks.h"
#include "base/log.h"
#include "base/priority.h"
#include "model/adapter.h"
#include "net/http_client.h"
#include "net/listen.h"
#include "service/serve.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

struct st_server {
    struct st_service s;
    struct event *sig_term, *sig_int, *wake, *grace;
    int wake_fd; /* written by st_server_stop */
    double grace_end;
    int port;
    char url[320];
    pthread_t thread;
};

void st_service_info(struct st_service *s, struct st_gen_info *out)
{
    if (s->passage.vt)
        st_passing_info(s, out);
    else
        s->gen.vt->info(s->gen.g, out);
}

void st_service_fields(struct st_service *s, struct st_buf *b)
{
    struct st_gen_info info = {0};
    st_service_info(s, &info);
    st_buf_clear(b);
    st_buf_addf(b, "Sotto-Protection: %s\r\nSotto-Scheme: %s\r\nSotto-Verified: %s\r\nCache-Control: no-store\r\n",
                info.protection, info.scheme, info.verified);
}

void st_service_reply(struct st_service *s, struct st_http_conn *c, enum st_metric_route route, double t0, int status,
                      const char *extra, const char *type, const struct st_buf *body)
{
    struct st_buf fields = {0};
    st_service_fields(s, &fields);
    if (extra)
        st_buf_add_str(&fields, extra);
    if (s->draining)
        st_http_close_after(c);
    bool failed = fields.failed || (body && body->failed);
    if (failed)
        st_http_reply(c, 503, NULL, NULL, NULL, 0);
    else
        st_http_reply(c, status, fields.p, type, body ? body->p : NULL, body ? body->len : 0);
    st_metrics_request(&s->metrics, route, failed ? 503 : status, st_now() - t0);
    st_buf_free(&fields);
}

static void reply_error(struct st_service *s, struct st_http_conn *c, enum st_metric_route route, double t0,
                        const struct st_oai_error *err, const char *extra)
{
    struct st_buf b = {0};
    st_oai_error_json(err, &b);
    st_service_reply(s, c, route, t0, err->status, extra, "application/json", &b);
    st_buf_free(&b);
}

void st_service_error(struct st_service *s, struct st_http_conn *c, enum st_metric_route route, double t0,
                      const struct st_oai_error *err)
{
    reply_error(s, c, route, t0, err, err->status == 429 || err->status == 503 ? "Retry-After: 1\r\n" : NULL);
}

struct st_client *st_client_take(struct st_service *s, const char *name, uint32_t n)
{
    struct st_client *cl = s->clients;
    uint32_t max = s->o.limits.max_client;
    while (cl && strcmp(cl->name, name) != 0)
        cl = cl->next;
    if (max && (n > max || (cl && cl->n > max - n)))
        return NULL;
    if (!cl) {
        struct st_err e;
        if (st_alloc(&cl, 1, sizeof *cl, "client", &e))
            return NULL;
        snprintf(cl->name, sizeof cl->name, "%s", name);
        cl->next = s->clients;
        s->clients = cl;
    }
    cl->n += n;
    return cl;
}

void st_client_give(struct st_service *s, struct st_client *client, uint32_t n)
{
    client->n -= n;
    if (client->n)
        return;
    struct st_client **at = &s->clients;
    while (*at != client)
        at = &(*at)->next;
    *at = client->next;
    free(client);
}

/* ---- who may ask ---- */

/* Length of the host part of "host[:port]"; 0 when it is none, such as "localhost:80@evil.example". */
static size_t host_len(const char *h)
{
    const char *end = *h == '[' ? strchr(h, ']') : NULL;
    size_t n = end ? (size_t)(end - h) + 1 : strcspn(h, ":");
    const char *port = h + n;
    if (*port == ':')
        port += 1 + strspn(port + 1, "0123456789");
    return *port ? 0 : n;
}

static bool same_host(const char *a, const char *b)
{
    size_t n = host_len(a);
    return n && n == host_len(b) && strncasecmp(a, b, n) == 0;
}

/* Against DNS rebinding: a browser always says which name it believes to talk to. A request without any Host (HTTP/1.0)
 * does not come from a browser. */
static bool host_allowed(const struct st_service *s, const struct st_http_conn *c)
{
    const char *h = st_http_host(c);
    char local[64], listen[280];
    st_http_local(c, local, sizeof local);
    bool bare_v6 = s->o.host[0] != '[' && strchr(s->o.host, ':');
    snprintf(listen, sizeof listen, bare_v6 ? "[%s]" : "%s", s->o.host);
    if (!*h || same_host(h, "localhost") || same_host(h, "127.0.0.1") || same_host(h, "[::1]") ||
        same_host(h, listen) || same_host(h, local))
        return true;
    for (size_t i = 0; i < s->o.n_allowed_host; i++)
        if (same_host(h, s->o.allowed_hosts[i]))
            return true;
    return false;
}

/* Name under which a client's slots are counted; false = the key is wrong or missing. */
static bool identify(const struct st_service *s, const struct st_http_conn *c, char name[72])
{
    if (!s->keys.n) {
        snprintf(name, 72, "%s", st_http_peer(c));
        return true;
    }
    int i = st_api_keys_check(&s->keys, st_http_field(c, "Authorization"));
    snprintf(name, 72, "key %d", i);
    return i >= 0;
}

/* ---- routes ---- */

/* What requests may name; of the generator, its own name and those of its adapters. Borrowed until the next call. */
static size_t list_models(struct st_service *s, const struct st_gen_info *info, const char **own,
                          const char *const **names)
{
    size_t n = 0;
    if (s->passage.vt)
        return st_passing_models(s, names);
    *names = own;
    if (info->model[0])
        own[n++] = info->model;
    for (uint32_t i = 0; n && i < info->n_adapter && n <= ST_ADAPTERS_MAX; i++)
        own[n++] = info->adapters[i];
    return n;
}

static void put_model(const struct st_service *s, const char *name, uint32_t n_ctx, struct st_buf *b)
{
    st_buf_add_str(b, "{\"id\":");
    st_json_quote(b, name, strlen(name));
    st_buf_addf(b, ",\"object\":\"model\",\"created\":%" PRId64 ",\"owned_by\":\"sotto\"", s->created);
    if (n_ctx)
        st_buf_addf(b, ",\"max_model_len\":%" PRIu32, n_ctx);
    st_buf_add_str(b, "}");
}

static void do_models(struct st_service *s, struct st_http_conn *c, double t0)
{
    struct st_gen_info info = {0};
    struct st_buf b = {0};
    const char *one = st_http_path(c) + strlen("/v1/models"), *own[ST_ADAPTERS_MAX + 1], *const * names;
    size_t at = 0;
    st_service_info(s, &info);
    size_t n = list_models(s, &info, own, &names);
    while (*one && at < n && strcmp(one + 1, names[at]) != 0)
        at++;
    if (*one && at == n) {
        struct st_oai_error err;
        st_oai_fail(&err, 404, "invalid_request_error", "model_not_found", "model",
                    n > 1 ? "model: this server has '%s' and others (/v1/models)" : "model: this server has '%s' only",
                    n ? names[0] : "");
        st_service_error(s, c, ST_ROUTE_MODELS, t0, &err);
        return;
    }
    if (*one)
        put_model(s, names[at], info.n_ctx, &b);
    else {
        st_buf_add_str(&b, "{\"object\":\"list\",\"data\":[");
        for (size_t i = 0; i < n; i++) {
            st_buf_add_str(&b, i ? "," : "");
            put_model(s, names[i], info.n_ctx, &b);
        }
        st_buf_add_str(&b, "]}");
    }
    st_service_reply(s, c, ST_ROUTE_MODELS, t0, 200, NULL, "application/json", &b);
    st_buf_free(&b);
}

static void do_health(struct st_service *s, struct st_http_conn *c, double t0)
{
    struct st_gen_info info = {0};
    struct st_buf b = {0};
    st_service_info(s, &info);
    bool ready = info.ready && !s->draining;
    st_buf_addf(&b, "{\"status\":\"%s\",\"ready\":%s,\"protection\":\"%s\",\"scheme\":\"%s\",\"verified\":\"%s\"",
                s->draining    ? "draining"
                : info.ready   ? "ok"
                : info.state   ? info.state
                : info.watched ? "no worker"
                               : "starting",
                ready ? "true" : "false", info.protection, info.scheme, info.verified);
    if (info.watched)
        st_buf_addf(&b,
                    ",\"pads_ready\":%" PRIu64 ",\"pad_waits\":%" PRIu64 ",\"exchanges\":%" PRIu64
                    ",\"rejects\":%" PRIu64 ",\"workers_quarantined\":%d",
                    info.watch.pads_ready, info.watch.pad_waits, info.watch.exchanges, info.watch.rejects,
                    info.watch.quarantined);
    st_buf_add_str(&b, ",\"model\":");
    st_json_quote(&b, info.model, strlen(info.model));
    st_buf_add_str(&b, "}");
    st_service_reply(s, c, ST_ROUTE_HEALTH, t0, ready ? 200 : 503, NULL, "application/json", &b);
    st_buf_free(&b);
}

static void do_metrics(struct st_service *s, struct st_http_conn *c, double t0)
{
    struct st_gen_info info = {0};
    struct st_buf b = {0};
    st_service_info(s, &info);
    if (s->passage.vt)
        st_passing_metrics(s, &info, &b);
    else
        st_metrics_put(&s->metrics, &info, &b);
    st_service_reply(s, c, ST_ROUTE_METRICS, t0, 200, NULL, "text/plain; version=0.0.4; charset=utf-8", &b);
    st_buf_free(&b);
}

/* All that is known about who answers, and why it is believed. */
static void do_status(struct st_service *s, struct st_http_conn *c, double t0)
{
    struct st_gen_info info = {0};
    struct st_buf b = {0};
    st_service_info(s, &info);
    st_buf_addf(&b, "{\"protection\":\"%s\",\"scheme\":\"%s\",\"verified\":\"%s\",\"ready\":%s", info.protection,
                info.scheme, info.verified, info.ready ? "true" : "false");
    if (s->passage.vt)
        st_passing_status(s, &b);
    if (s->o.status)
        s->o.status(s->o.arg, &b);
    st_buf_add_str(&b, "}");
    st_service_reply(s, c, ST_ROUTE_OTHER, t0, 200, NULL, "application/json", &b);
    st_buf_free(&b);
}

static const struct route {
    const char *path;
    bool subtree; /* path/NAME too */
    bool post;    /* else GET and HEAD */
    enum st_metric_route metric;
    void (*get)(struct st_service *s, struct st_http_conn *c, double t0);
    enum st_oai_endpoint endpoint; /* 0 = refused by name */
} routes[] = {
    {"/v1/models", true, false, ST_ROUTE_MODELS, do_models, 0},
    {"/health", false, false, ST_ROUTE_HEALTH, do_health, 0},
    {"/metrics", false, false, ST_ROUTE_METRICS, do_metrics, 0},
    {"/sotto/status", false, false, ST_ROUTE_OTHER, do_status, 0},
    {"/v1/chat/completions", false, true, ST_ROUTE_CHAT, NULL, ST_OAI_CHAT},
    {"/v1/completions", false, true, ST_ROUTE_TEXT, NULL, ST_OAI_TEXT},
    /* Known endpoints of the API that are not served: clients get told so by name. */
    {"/v1/responses", true, true, ST_ROUTE_OTHER, NULL, 0},
    {"/v1/embeddings", true, true, ST_ROUTE_OTHER, NULL, 0},
    {"/v1/audio", true, true, ST_ROUTE_OTHER, NULL, 0},
    {"/v1/images", true, true, ST_ROUTE_OTHER, NULL, 0},
    {"/v1/files", true, true, ST_ROUTE_OTHER, NULL, 0},
    {"/v1/batches", true, true, ST_ROUTE_OTHER, NULL, 0},
    {"/v1/moderations", true, true, ST_ROUTE_OTHER, NULL, 0},
    {"/v1/assistants", true, true, ST_ROUTE_OTHER, NULL, 0},
    {"/v1/threads", true, true, ST_ROUTE_OTHER, NULL, 0},
    {"/v1/fine_tuning", true, true, ST_ROUTE_OTHER, NULL, 0},
};

static const struct route *find_route(const char *path)
{
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++) {
        const struct route *r = &routes[i];
        size_t n = strlen(r->path);
        if (strncmp(path, r->path, n) == 0 && (!path[n] || (r->subtree && path[n] == '/' && path[n + 1])))
            return r;
    }
    return NULL;
}

/* Wrong host, unknown path, wrong method, no key: everything that is decided from the head. */
static int check_head(const struct st_service *s, const struct st_http_conn *c, const struct route *r, char client[72],
                      struct st_oai_error *err)
{
    const char *why, *type = "invalid_request_error";
    int bad = st_http_bad(c, &why);
    if (bad)
        return st_oai_fail(err, bad, type, bad == 413 ? "body_too_large" : "bad_request", NULL, "%s", why);
    if (!host_allowed(s, c))
        return st_oai_fail(err, 403, type, "host_not_allowed", NULL,
                           "the Host header names a host that is not allowed here (--allow-host adds one)");
    if ((!r || r->metric != ST_ROUTE_HEALTH) && !identify(s, c, client))
        return st_oai_fail(err, 401, "authentication_error", "invalid_api_key", NULL,
                           "want a valid API key in the Authorization header: Bearer KEY");
    if (!r)
        return st_oai_fail(err, 404, type, "not_found", NULL, "no such endpoint");
    if (!r->get && !r->endpoint)
        return st_oai_fail(err, 404, type, "unsupported", NULL,
                           "%s is not supported: it is not protected yet; use /v1/chat/completions or /v1/completions",
                           r->path);
    return 0;
}

/* Before the body: a client without a key must not make the server hold megabytes for it. */
static bool refuses_head(void *arg, const struct st_http_conn *c)
{
    struct st_oai_error err;
    char client[72];
    return check_head(arg, c, find_route(st_http_path(c)), client, &err) != 0;
}

/* CORS: nothing is granted, so pages from other origins get no further than the preflight. */
static void do_options(struct st_service *s, struct st_http_conn *c, const struct route *r, double t0)
{
    const char *allow = r->post ? "Allow: POST, OPTIONS\r\n" : "Allow: GET, HEAD, OPTIONS\r\n";
    st_service_reply(s, c, r->metric, t0, 204, allow, NULL, NULL);
}

static void on_request(void *arg, struct st_http_conn *c)
{
    struct st_service *s = arg;
    struct st_oai_error err;
    char client[72];
    double t0 = st_now();
    const char *method = st_http_method(c), *type = st_http_field(c, "Content-Type");
    const struct route *r = find_route(st_http_path(c));
    enum st_metric_route metric = r ? r->metric : ST_ROUTE_OTHER;
    if (check_head(s, c, r, client, &err)) {
        reply_error(s, c, metric, t0, &err, err.status == 401 ? "WWW-Authenticate: Bearer\r\n" : NULL);
    } else if (strcmp(method, "OPTIONS") == 0) {
        do_options(s, c, r, t0);
    } else if (r->post ? strcmp(method, "POST") != 0 : strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0) {
        st_oai_fail(&err, 405, "invalid_request_error", "method_not_allowed", NULL, "%s: want %s", r->path,
                    r->post ? "POST" : "GET");
        reply_error(s, c, metric, t0, &err, r->post ? "Allow: POST, OPTIONS\r\n" : "Allow: GET, HEAD, OPTIONS\r\n");
    } else if (!r->post) {
        r->get(s, c, t0);
    } else if (!type || strncasecmp(type, "application/json", 16) != 0 || (type[16] && !strchr("; \t", type[16]))) {
        /* A page of another origin can post text/plain without asking; it cannot post JSON. */
        st_oai_fail(&err, 415, "invalid_request_error", "content_type", NULL, "want Content-Type: application/json");
        st_service_error(s, c, metric, t0, &err);
    } else if (s->draining) {
        st_oai_fail(&err, 503, "server_error", "shutting_down", NULL, "the server is shutting down");
        st_service_error(s, c, metric, t0, &err);
    } else if (s->passage.vt)
        st_passing_start(s, c, r->endpoint, client, t0);
    else
        st_completion_start(s, c, r->endpoint, client, t0);
}

/* ---- life ---- */

static void on_wake(evutil_socket_t fd, short what, void *arg)
{
    struct st_server *sv = arg;
    (void)fd;
    (void)what;
    event_base_loopbreak(sv->s.base);
}

/* While draining: leaves the loop once nothing runs, or the time of grace is over. */
static void on_grace(evutil_socket_t fd, short what, void *arg)
{
    struct st_server *sv = arg;
    (void)fd;
    (void)what;
    if (st_http_server_busy(sv->s.http) == 0 || st_now() > sv->grace_end)
        event_base_loopbreak(sv->s.base);
}

static void on_signal(evutil_socket_t sig, short what, void *arg)
{
    struct st_server *sv = arg;
    (void)sig;
    (void)what;
    if (sv->s.draining) {
        event_base_loopbreak(sv->s.base);
        return;
    }
    sv->s.draining = true;
    sv->grace_end = st_now() + sv->s.o.limits.grace_s;
    size_t busy = st_http_server_busy(sv->s.http);
    if (busy)
        st_log(ST_LOG_INFO, "draining: %zu requests may finish within %.0f s; a second signal ends them", busy,
               sv->s.o.limits.grace_s);
    struct timeval often = {0, 20 * 1000};
    event_add(sv->grace, &often);
}

static void server_free(struct st_server *sv)
{
    if (!sv)
        return;
    struct st_service *s = &sv->s;
    st_http_server_free(s->http); /* cancels what runs */
    if (s->gen.vt)
        s->gen.vt->free(s->gen.g);
    if (s->passage.vt)
        s->passage.vt->free(s->passage.p);
    st_completion_free_all(s);
    struct event *events[] = {sv->sig_term, sv->sig_int, sv->wake, sv->grace};
    for (size_t i = 0; i < sizeof events / sizeof *events; i++)
        if (events[i])
            event_free(events[i]);
    if (sv->wake_fd >= 0)
        close(sv->wake_fd);
    while (s->clients)
        st_client_give(s, s->clients, s->clients->n);
    st_api_keys_free(&s->keys);
    st_buf_wipe(&s->piece);
    st_buf_wipe(&s->text);
    st_buf_wipe(&s->event);
    if (s->base)
        event_base_free(s->base);
    free(sv);
}

#define MAX_DEFAULT_BODY ((size_t)8 << 20)

static void set_defaults(struct st_server_opts *o)
{
    struct st_server_limits *l = &o->limits;
    if (!o->host)
        o->host = "127.0.0.1";
    l->max_header = l->max_header ? l->max_header : 32u << 10;
    l->max_conn = l->max_conn ? l->max_conn : 4096;
    l->idle_s = l->idle_s > 0 ? l->idle_s : 75;
    l->receive_s = l->receive_s > 0 ? l->receive_s : 60;
    l->send_s = l->send_s > 0 ? l->send_s : 120;
    l->grace_s = l->grace_s > 0 ? l->grace_s : 30;
}

/* A body is parsed and tokenised on the event thread: one that cannot fit the context must not hold the others up. */
static size_t default_body(const struct st_service *s)
{
    struct st_gen_info info = {0};
    if (s->passage.vt)
        return MAX_DEFAULT_BODY;
    s->gen.vt->info(s->gen.g, &info);
    size_t n = ((size_t)256 << 10) + 64 * (size_t)info.n_ctx;
    return info.n_ctx && n < MAX_DEFAULT_BODY ? n : MAX_DEFAULT_BODY;
}

static int open_http(struct st_server *sv, struct st_err *e)
{
    struct st_service *s = &sv->s;
    struct st_server_limits *l = &s->o.limits;
    l->max_body = l->max_body ? l->max_body : default_body(s);
    struct st_http_server_opts h = {.host = s->o.host,
                                    .port = s->o.port,
                                    .tls_cert = s->o.tls_cert,
                                    .tls_key = s->o.tls_key,
                                    .max_head = l->max_header,
                                    .max_body = l->max_body,
                                    .max_conn = l->max_conn,
                                    .idle_s = l->idle_s,
                                    .receive_s = l->receive_s,
                                    .send_s = l->send_s,
                                    .request = on_request,
                                    .refuses_head = refuses_head,
                                    .arg = s};
    int rc = st_http_server_new(s->base, &h, &s->http, e);
    if (rc)
        return rc;
    sv->port = st_http_server_port(s->http);
    bool v6 = s->o.host[0] != '[' && strchr(s->o.host, ':');
    snprintf(sv->url, sizeof sv->url, v6 ? "%s://[%s]:%d" : "%s://%s:%d", s->o.tls_cert ? "https" : "http", s->o.host,
             sv->port);
    return 0;
}

static int server_new(const struct st_server_opts *o, struct st_server **out, struct st_err *e)
{
    struct st_server *sv = NULL;
    *out = NULL;
    int rc = st_alloc(&sv, 1, sizeof *sv, "server", e);
    if (rc)
        return rc;
    struct st_service *s = &sv->s;
    sv->wake_fd = -1;
    s->o = *o;
    s->created = st_unix_time();
    set_defaults(&s->o);
    if (!o->tls_cert != !o->tls_key)
        rc = st_fail(e, ST_USAGE, "TLS: want both a certificate and a key file");
    else if (!o->api_key_file && !st_net_is_loopback(s->o.host))
        rc = st_fail(e, ST_POLICY, "%s: beyond loopback an API key is required (--api-key-file)", s->o.host);
    else if (o->api_key_file)
        rc = st_api_keys_load(o->api_key_file, &s->keys, e);
    if (rc)
        goto out;
    signal(SIGPIPE, SIG_IGN);
    s->base = event_base_new();
    sv->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (s->base && sv->wake_fd >= 0 && event_base_priority_init(s->base, ST_HTTP_N_PRIORITY) == 0) {
        sv->wake = event_new(s->base, sv->wake_fd, EV_READ, on_wake, sv);
        sv->grace = event_new(s->base, -1, EV_PERSIST, on_grace, sv);
    }
    if (!sv->wake || !sv->grace || event_add(sv->wake, NULL) != 0) {
        rc = st_fail(e, ST_IO, "event loop: %s", strerror(errno));
        goto out;
    }
    rc = o->passage.open ? o->passage.open(o->passage.opts, s->base, &s->passage, e)
                         : o->source.open(o->source.opts, s->base, &s->gen, e);
    if (!rc && o->chat && o->tokenizer)
        s->n_chat_stop =
            st_chat_stops(o->chat, o->tokenizer, s->chat_stops, sizeof s->chat_stops / sizeof *s->chat_stops);
    if (!rc)
        rc = open_http(sv, e);
    if (!rc && o->settle)
        rc = o->settle(o->arg, e);
out:
    if (rc)
        server_free(sv);
    else
        *out = sv;
    return rc;
}

static void run_loop(struct st_server *sv)
{
    if (sv->s.o.on_listen)
        sv->s.o.on_listen(sv->s.o.arg, sv->url, sv->port);
    st_priority_answer();
    event_base_dispatch(sv->s.base);
}

int st_server_run(const struct st_server_opts *o, struct st_err *e)
{
    struct st_server *sv;
    struct rlimit rl;
    if (getrlimit(RLIMIT_NOFILE, &rl) == 0 && rl.rlim_cur < rl.rlim_max) {
        rl.rlim_cur = rl.rlim_max;
        setrlimit(RLIMIT_NOFILE, &rl);
    }
    int rc = server_new(o, &sv, e);
    if (rc)
        return rc;
    sv->sig_term = evsignal_new(sv->s.base, SIGTERM, on_signal, sv);
    sv->sig_int = evsignal_new(sv->s.base, SIGINT, on_signal, sv);
    if (!sv->sig_term || !sv->sig_int || event_add(sv->sig_term, NULL) != 0 || event_add(sv->sig_int, NULL) != 0)
        rc = st_fail(e, ST_IO, "event loop: cannot watch signals");
    else
        run_loop(sv);
    server_free(sv);
    return rc;
}

static void *thread_main(void *arg)
{
    run_loop(arg);
    return NULL;
}

int st_server_start(const struct st_server_opts *o, struct st_server **out, struct st_err *e)
{
    struct st_server *sv;
    *out = NULL;
    int rc = server_new(o, &sv, e);
    if (rc)
        return rc;
    /* Signals belong to the program's own threads. */
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int err = pthread_create(&sv->thread, NULL, thread_main, sv);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (err) {
        server_free(sv);
        return st_fail(e, ST_IO, "thread: %s", strerror(err));
    }
    *out = sv;
    return 0;
}

int st_server_port(const struct st_server *s)
{
    return s->port;
}

const char *st_server_url(const struct st_server *s)
{
    return s->url;
}

void st_server_stop(struct st_server *s)
{
    if (!s)
        return;
    uint64_t one = 1;
    while (write(s->wake_fd, &one, sizeof one) < 0 && errno == EINTR)
        ;
    pthread_join(s->thread, NULL);
    server_free(s);
}
