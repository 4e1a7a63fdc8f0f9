#include "service/role.h"
#include "base/hooks.h"
#include "base/log.h"
#include "base/priority.h"
#include "net/http_client.h"
#include "net/listen.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

struct st_role {
    struct event_base *base;
    struct st_http_server *http;
    struct st_role_opts o;
    struct event *sig_term, *sig_int, *wake, *grace;
    int wake_fd; /* written by st_role_stop */
    bool draining, started;
    double grace_end;
    char url[320];
    pthread_t thread;
};

void st_role_refuse(struct st_http_conn *c, int status)
{
    st_http_reply(c, status, "Cache-Control: no-store\r\n", NULL, NULL, 0);
}

void st_role_count(struct st_buf *b, const char *name, const char *type, const char *help, uint64_t value)
{
    st_buf_addf(b, "# HELP %s %s\n# TYPE %s %s\n%s %" PRIu64 "\n", name, help, name, type, name, value);
}

static void put_health(struct st_role *r, struct st_http_conn *c)
{
    bool ready = !r->draining && (!r->o.ready || r->o.ready(r->o.arg));
    const char *word = r->draining ? "{\"status\":\"draining\"}"
                       : ready     ? "{\"status\":\"ok\"}"
                                   : "{\"status\":\"starting\"}";
    st_http_reply(c, ready ? 200 : 503, "Cache-Control: no-store\r\n", "application/json", word, strlen(word));
}

static void put_metrics(struct st_role *r, struct st_http_conn *c)
{
    struct st_buf b = {0};
    r->o.metrics(r->o.arg, &b);
    if (b.failed)
        st_role_refuse(c, 503);
    else
        st_http_reply(c, 200, NULL, "text/plain; version=0.0.4; charset=utf-8", b.p, b.len);
    st_buf_free(&b);
}

static bool is_get(const struct st_http_conn *c, const char *path)
{
    const char *method = st_http_method(c);
    return strcmp(st_http_path(c), path) == 0 && (strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0);
}

bool st_role_is_local(const struct st_http_conn *c)
{
    const char *peer = st_http_peer(c);
    return strncmp(peer, "127.", 4) == 0 || strcmp(peer, "[::1]") == 0;
}

static void on_request(void *arg, struct st_http_conn *c)
{
    struct st_role *r = arg;
    const char *why;
    int bad = st_http_bad(c, &why);
    if (r->draining || bad)
        st_http_close_after(c);
    if (bad)
        st_role_refuse(c, bad);
    else if (is_get(c, "/health"))
        put_health(r, c);
    else if (r->o.metrics && st_role_is_local(c) && is_get(c, "/metrics"))
        put_metrics(r, c);
    else if (r->draining)
        st_role_refuse(c, 503);
    else
        r->o.request(r->o.arg, c);
}

static bool refuses_head(void *arg, const struct st_http_conn *c)
{
    const struct st_role *r = arg;
    return r->draining || (r->o.refuses_head && r->o.refuses_head(r->o.arg, c));
}

/* ---- life ---- */

static void on_wake(evutil_socket_t fd, short what, void *arg)
{
    struct st_role *r = arg;
    (void)fd;
    (void)what;
    event_base_loopbreak(r->base);
}

/* While draining: leaves the loop once nothing runs, or the time of grace is over. */
static void on_grace(evutil_socket_t fd, short what, void *arg)
{
    struct st_role *r = arg;
    (void)fd;
    (void)what;
    if (!r->http || st_http_server_busy(r->http) == 0 || st_now() > r->grace_end)
        event_base_loopbreak(r->base);
}

static void on_signal(evutil_socket_t sig, short what, void *arg)
{
    struct st_role *r = arg;
    const struct timeval often = {0, 20 * 1000};
    (void)sig;
    (void)what;
    if (r->draining) {
        event_base_loopbreak(r->base);
        return;
    }
    r->draining = true;
    r->grace_end = st_now() + r->o.grace_s;
    size_t busy = r->http ? st_http_server_busy(r->http) : 0;
    if (busy)
        st_log(ST_LOG_INFO, "draining: %zu requests may finish within %.0f s; a second signal ends them", busy,
               r->o.grace_s);
    event_add(r->grace, &often);
}

int st_role_new(struct st_role **out, struct st_err *e)
{
    struct st_role *r = NULL;
    *out = NULL;
    if (st_alloc(&r, 1, sizeof *r, "server", e))
        return e->code;
    r->base = event_base_new();
    r->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (r->base && r->wake_fd >= 0 && event_base_priority_init(r->base, ST_HTTP_N_PRIORITY) == 0) {
        r->wake = event_new(r->base, r->wake_fd, EV_READ, on_wake, r);
        r->grace = event_new(r->base, -1, EV_PERSIST, on_grace, r);
        r->sig_term = evsignal_new(r->base, SIGTERM, on_signal, r);
        r->sig_int = evsignal_new(r->base, SIGINT, on_signal, r);
    }
    if (!r->wake || !r->grace || !r->sig_term || !r->sig_int || event_add(r->wake, NULL) != 0) {
        st_fail(e, ST_IO, "event loop: %s", strerror(errno));
        st_role_free(r);
        return e->code;
    }
    st_priority_answer(); /* of this thread, and of the one that may be started for the loop */
    *out = r;
    return 0;
}

struct event_base *st_role_base(struct st_role *r)
{
    return r->base;
}

static void set_defaults(struct st_role_opts *o)
{
    o->host = o->host ? o->host : "127.0.0.1";
    o->max_head = o->max_head ? o->max_head : 16u << 10;
    o->max_body = o->max_body ? o->max_body : 64u << 10;
    o->max_held = o->max_held ? o->max_held : (size_t)256 << 20;
    o->max_unsent = o->max_unsent ? o->max_unsent : (size_t)512 << 20;
    o->max_conn = o->max_conn ? o->max_conn : 4096;
    o->idle_s = o->idle_s > 0 ? o->idle_s : 75;
    o->receive_s = o->receive_s > 0 ? o->receive_s : 30;
    o->send_s = o->send_s > 0 ? o->send_s : 60;
    o->grace_s = o->grace_s > 0 ? o->grace_s : 30;
}

static void raise_file_limit(void)
{
    struct rlimit rl;
    if (getrlimit(RLIMIT_NOFILE, &rl) == 0 && rl.rlim_cur < rl.rlim_max) {
        rl.rlim_cur = rl.rlim_max;
        setrlimit(RLIMIT_NOFILE, &rl);
    }
}

int st_role_listen(struct st_role *r, const struct st_role_opts *o, struct st_err *e)
{
    r->o = *o;
    set_defaults(&r->o);
    if (!r->o.tls_cert != !r->o.tls_key)
        return st_fail(e, ST_USAGE, "TLS: want both a certificate and a key file (--tls-cert, --tls-key)");
    if (r->o.bearer && !r->o.tls_cert && !st_net_is_loopback(r->o.host))
        return st_fail(e, ST_POLICY, "%s: beyond loopback keys would travel in the open; want --tls-cert and --tls-key",
                       r->o.host);
    signal(SIGPIPE, SIG_IGN);
    raise_file_limit();
    const struct st_http_server_opts h = {.host = r->o.host,
                                          .port = r->o.port,
                                          .tls_cert = r->o.tls_cert,
                                          .tls_key = r->o.tls_key,
                                          .max_head = r->o.max_head,
                                          .max_body = r->o.max_body,
                                          .max_held = r->o.max_held,
                                          .max_unsent = r->o.max_unsent,
                                          .max_conn = r->o.max_conn,
                                          .idle_s = r->o.idle_s,
                                          .receive_s = r->o.receive_s,
                                          .send_s = r->o.send_s,
                                          .request = on_request,
                                          .refuses_head = refuses_head,
                                          .arg = r};
    if (st_http_server_new(r->base, &h, &r->http, e))
        return e->code;
    bool v6 = r->o.host[0] != '[' && strchr(r->o.host, ':');
    snprintf(r->url, sizeof r->url, v6 ? "%s://[%s]:%d" : "%s://%s:%d", r->o.tls_cert ? "https" : "http", r->o.host,
             st_http_server_port(r->http));
    return 0;
}

int st_role_port(const struct st_role *r)
{
    return st_http_server_port(r->http);
}

const char *st_role_url(const struct st_role *r)
{
    return r->url;
}

int st_role_run(struct st_role *r, struct st_err *e)
{
    if (event_add(r->sig_term, NULL) != 0 || event_add(r->sig_int, NULL) != 0)
        return st_fail(e, ST_IO, "event loop: cannot watch signals");
    event_base_dispatch(r->base);
    return 0;
}

static void *thread_main(void *arg)
{
    struct st_role *r = arg;
    event_base_dispatch(r->base);
    return NULL;
}

int st_role_start(struct st_role *r, struct st_err *e)
{
    /* Signals belong to the program's own threads. */
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int err = pthread_create(&r->thread, NULL, thread_main, r);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (err)
        return st_fail(e, ST_IO, "thread: %s", strerror(err));
    r->started = true;
    return 0;
}

void st_role_stop(struct st_role *r)
{
    const uint64_t one = 1;
    if (!r || !r->started)
        return;
    while (write(r->wake_fd, &one, sizeof one) < 0 && errno == EINTR)
        ;
    pthread_join(r->thread, NULL);
    r->started = false;
}

void st_role_close(struct st_role *r)
{
    if (!r)
        return;
    st_http_server_free(r->http);
    r->http = NULL;
}

void st_role_free(struct st_role *r)
{
    if (!r)
        return;
    st_role_close(r);
    struct event *events[] = {r->sig_term, r->sig_int, r->wake, r->grace};
    for (size_t i = 0; i < sizeof events / sizeof *events; i++)
        if (events[i])
            event_free(events[i]);
    if (r->wake_fd >= 0)
        close(r->wake_fd);
    if (r->base) {
        /* What is left of connections that had something to say when they were closed. */
        event_base_loop(r->base, EVLOOP_NONBLOCK);
        event_base_free(r->base);
    }
    free(r);
}
