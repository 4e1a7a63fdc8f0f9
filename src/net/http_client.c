#include "net/http_client.h"
#include "net/http_server.h"
#include "net/listen.h"

#include <curl/curl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#define MAX_HEADERS (256u << 10)

struct st_http_call {
    struct st_http_client *client;
    struct st_http_call *prev, *next;
    CURL *easy;
    struct curl_slist *fields;
    struct st_buf body;
    struct st_http_call_opts o; /* callbacks, limits */
    size_t n_header, n_reply;
    bool cancelled, failed;
    struct st_err err; /* what ended it, if failed */
    char curl_error[CURL_ERROR_SIZE];
};

/* libcurl's interest in one socket. */
struct watch {
    struct event *ev;
};

struct st_http_client {
    struct event_base *base;
    CURLM *multi;
    struct event *timer;
    struct st_http_call *calls;
    CURL *spare;                 /* made ahead for the next call; NULL = none */
    bool unsent;                 /* of the call that ends */
    bool in_curl, any_cancelled; /* libcurl refuses to be called from its own callbacks */
    bool starting;               /* a call, from elsewhere */
    char *ca_bundle;
    double connect_s;
};

static void call_free(struct st_http_call *call)
{
    struct st_http_client *c = call->client;
    *(call->prev ? &call->prev->next : &c->calls) = call->next;
    if (call->next)
        call->next->prev = call->prev;
    if (call->easy) {
        curl_multi_remove_handle(c->multi, call->easy);
        curl_easy_cleanup(call->easy);
    }
    curl_slist_free_all(call->fields);
    st_buf_wipe(&call->body);
    free(call);
}

static size_t on_data(char *p, size_t size, size_t n, void *arg)
{
    struct st_http_call *call = arg;
    size_t len = size * n;
    long status = 0;
    if (call->cancelled)
        return CURL_WRITEFUNC_ERROR;
    call->n_reply += len;
    if (call->n_reply > call->o.max_reply) {
        call->failed = true;
        st_fail(&call->err, ST_VERIFY, "the reply is longer than the %zu bytes that it may have", call->o.max_reply);
        return CURL_WRITEFUNC_ERROR;
    }
    curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &status);
    if (call->o.data && call->o.data(call->o.arg, (int)status, p, len, &call->err)) {
        call->failed = true;
        return CURL_WRITEFUNC_ERROR;
    }
    return len;
}

static size_t on_header(char *p, size_t size, size_t n, void *arg)
{
    struct st_http_call *call = arg;
    (void)p;
    call->n_header += size * n;
    return call->n_header > MAX_HEADERS ? 0 : size * n;
}

/* A handle with what all calls of this client have in common. */
static CURL *new_handle(const struct st_http_client *c)
{
    CURL *h = curl_easy_init();
    if (!h)
        return NULL;
    curl_easy_setopt(h, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(h, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    curl_easy_setopt(h, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, on_data);
    curl_easy_setopt(h, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(h, CURLOPT_CONNECTTIMEOUT_MS, (long)(c->connect_s * 1000));
    curl_easy_setopt(h, CURLOPT_TCP_NODELAY, 1L);
    if (c->ca_bundle)
        curl_easy_setopt(h, CURLOPT_CAINFO, c->ca_bundle);
    return h;
}

static void call_end(struct st_http_call *call, CURLcode code)
{
    long status = 0, sent = 0;
    struct st_http_call_opts o = call->o;
    curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_getinfo(call->easy, CURLINFO_REQUEST_SIZE, &sent);
    call->client->unsent = sent == 0;
    if (code != CURLE_OK && !call->failed) {
        call->failed = true;
        st_fail(&call->err, ST_IO, "%s", call->curl_error[0] ? call->curl_error : curl_easy_strerror(code));
    }
    struct st_err err = call->err;
    bool failed = call->failed, silent = call->cancelled;
    struct st_http_client *c = call->client;
    call_free(call);
    if (!silent)
        o.end(o.arg, (int)status, failed ? &err : NULL);
    if (!c->spare) /* now that nobody waits for it */
        c->spare = new_handle(c);
}

/* After libcurl has run: what ended, and what was cancelled meanwhile. */
static void collect(struct st_http_client *c)
{
    CURLMsg *m;
    int left;
    while ((m = curl_multi_info_read(c->multi, &left)))
        if (m->msg == CURLMSG_DONE) {
            struct st_http_call *call = NULL;
            curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (char **)&call);
            call_end(call, m->data.result);
        }
    if (!c->any_cancelled)
        return;
    c->any_cancelled = false;
    for (struct st_http_call *call = c->calls, *next; call; call = next) {
        next = call->next;
        if (call->cancelled)
            call_free(call);
    }
}

static void act(struct st_http_client *c, curl_socket_t fd, int mask)
{
    int running;
    st_http_gather();
    c->in_curl = true;
    curl_multi_socket_action(c->multi, fd, mask, &running);
    c->in_curl = false;
    collect(c);
    st_http_pass();
}

static void on_socket_event(evutil_socket_t fd, short what, void *arg)
{
    act(arg, fd, (what & EV_READ ? CURL_CSELECT_IN : 0) | (what & EV_WRITE ? CURL_CSELECT_OUT : 0));
}

static void on_timer_event(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    act(arg, CURL_SOCKET_TIMEOUT, 0);
}

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *per_socket)
{
    struct st_http_client *c = arg;
    struct watch *w = per_socket;
    (void)easy;
    if (w) {
        event_free(w->ev);
        if (what == CURL_POLL_REMOVE) {
            free(w);
            return 0;
        }
    } else if (what == CURL_POLL_REMOVE || !(w = malloc(sizeof *w)))
        return 0;
    short kind = (short)((what & CURL_POLL_IN ? EV_READ : 0) | (what & CURL_POLL_OUT ? EV_WRITE : 0) | EV_PERSIST);
    w->ev = event_new(c->base, fd, kind, on_socket_event, c);
    if (!w->ev || event_add(w->ev, NULL) != 0) {
        if (w->ev)
            event_free(w->ev);
        free(w);
        curl_multi_assign(c->multi, fd, NULL);
        return -1;
    }
    curl_multi_assign(c->multi, fd, w);
    return 0;
}

static int on_timer(CURLM *multi, long ms, void *arg)
{
    struct st_http_client *c = arg;
    (void)multi;
    struct timeval tv = {ms / 1000, ms % 1000 * 1000};
    if (ms < 0)
        event_del(c->timer);
    else if (ms == 0 && c->starting) /* before anything else that the loop has to do */
        event_active(c->timer, EV_TIMEOUT, 0);
    else
        event_add(c->timer, &tv);
    return 0;
}

static void init_curl(void)
{
    curl_global_init(CURL_GLOBAL_DEFAULT);
}

int st_http_client_new(struct event_base *base, const struct st_http_client_opts *o, struct st_http_client **out,
                       struct st_err *e)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    struct st_http_client *c = NULL;
    *out = NULL;
    if (o->ca_bundle && access(o->ca_bundle, R_OK) != 0)
        return st_fail(e, ST_IO, "%s: cannot open", o->ca_bundle);
    int rc = st_alloc(&c, 1, sizeof *c, "HTTP client", e);
    if (rc)
        return rc;
    pthread_once(&once, init_curl);
    c->base = base;
    c->connect_s = o->connect_s;
    c->ca_bundle = o->ca_bundle ? strdup(o->ca_bundle) : NULL;
    c->multi = curl_multi_init();
    c->timer = event_new(base, -1, 0, on_timer_event, c);
    if (!c->multi || !c->timer || (o->ca_bundle && !c->ca_bundle)) {
        st_http_client_free(c);
        return st_fail(e, ST_MEMORY, "HTTP client: no memory");
    }
    if (event_base_get_npriorities(base) == ST_HTTP_N_PRIORITY)
        event_priority_set(c->timer, 0);
    curl_multi_setopt(c->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
    curl_multi_setopt(c->multi, CURLMOPT_SOCKETDATA, c);
    curl_multi_setopt(c->multi, CURLMOPT_TIMERFUNCTION, on_timer);
    curl_multi_setopt(c->multi, CURLMOPT_TIMERDATA, c);
    curl_multi_setopt(c->multi, CURLMOPT_MAXCONNECTS, (long)o->max_idle);
    *out = c;
    return 0;
}

struct event_base *st_http_client_base(const struct st_http_client *c)
{
    return c->base;
}

void st_http_client_free(struct st_http_client *c)
{
    if (!c)
        return;
    while (c->calls)
        call_free(c->calls);
    if (c->spare)
        curl_easy_cleanup(c->spare);
    if (c->multi)
        curl_multi_cleanup(c->multi);
    if (c->timer)
        event_free(c->timer);
    free(c->ca_bundle);
    free(c);
}

static void set_options(struct st_http_call *call, const char *url)
{
    CURL *h = call->easy;
    curl_easy_setopt(h, CURLOPT_URL, url);
    curl_easy_setopt(h, CURLOPT_PRIVATE, call);
    curl_easy_setopt(h, CURLOPT_ERRORBUFFER, call->curl_error);
    curl_easy_setopt(h, CURLOPT_HTTPHEADER, call->fields);
    curl_easy_setopt(h, CURLOPT_WRITEDATA, call);
    curl_easy_setopt(h, CURLOPT_HEADERDATA, call);
    curl_easy_setopt(h, CURLOPT_LOW_SPEED_LIMIT, call->o.stall_s > 0 ? 1L : 0L);
    curl_easy_setopt(h, CURLOPT_LOW_SPEED_TIME, (long)call->o.stall_s);
    if (call->o.unix_path)
        curl_easy_setopt(h, CURLOPT_UNIX_SOCKET_PATH, call->o.unix_path);
    if (call->o.direct || call->o.unix_path)
        curl_easy_setopt(h, CURLOPT_PROXY, "");
    if (call->o.body) {
        curl_easy_setopt(h, CURLOPT_POST, 1L);
        curl_easy_setopt(h, CURLOPT_POSTFIELDS, call->body.p ? call->body.p : "");
        curl_easy_setopt(h, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)call->body.len);
    }
}

static bool add_field(struct st_http_call *call, const char *line)
{
    struct curl_slist *l = curl_slist_append(call->fields, line);
    if (l)
        call->fields = l;
    return l != NULL;
}

int st_http_call_start(struct st_http_client *c, const struct st_http_call_opts *o, struct st_http_call **out,
                       struct st_err *e)
{
    struct st_http_call *call = NULL;
    *out = NULL;
    int rc = st_alloc(&call, 1, sizeof *call, "HTTP call", e);
    if (rc)
        return rc;
    call->client = c;
    call->o = *o;
    call->next = c->calls;
    if (call->next)
        call->next->prev = call;
    c->calls = call;
    if (o->body) {
        call->body = *o->body;
        *o->body = (struct st_buf){0};
    }
    bool ok = !call->body.failed;
    if (o->bearer) {
        struct st_buf b = {0};
        st_buf_addf(&b, "Authorization: Bearer %s", o->bearer);
        ok = ok && !b.failed && add_field(call, b.p);
        st_buf_wipe(&b);
    }
    if (o->body) {
        struct st_buf b = {0};
        st_buf_addf(&b, "Content-Type: %s", o->type ? o->type : "application/json");
        ok = ok && !b.failed && add_field(call, b.p) && add_field(call, "Expect:");
        st_buf_free(&b);
    }
    for (const char *const *f = o->fields; ok && f && *f; f++)
        ok = add_field(call, *f);
    if (ok) {
        call->easy = c->spare ? c->spare : new_handle(c);
        c->spare = NULL;
    }
    if (call->easy)
        set_options(call, o->url);
    c->starting = !c->in_curl;
    ok = call->easy && curl_multi_add_handle(c->multi, call->easy) == CURLM_OK;
    c->starting = false;
    if (!ok) {
        if (call->easy)
            curl_easy_cleanup(call->easy);
        call->easy = NULL;
        call_free(call);
        return st_fail(e, ST_MEMORY, "HTTP call: no memory");
    }
    *out = call;
    return 0;
}

void st_http_call_cancel(struct st_http_call *call)
{
    struct st_http_client *c = call->client;
    call->cancelled = true;
    if (c->in_curl)
        c->any_cancelled = true;
    else
        call_free(call);
}

void st_http_call_pause(struct st_http_call *call, bool stop)
{
    struct st_http_client *c = call->client;
    bool inside = c->in_curl;
    if (call->cancelled)
        return;
    c->in_curl = true;
    curl_easy_pause(call->easy, stop ? CURLPAUSE_RECV : CURLPAUSE_CONT);
    c->in_curl = inside;
    if (!inside)
        collect(c);
}

bool st_http_client_unsent(const struct st_http_client *c)
{
    return c->unsent;
}

const char *st_http_call_type(const struct st_http_call *call)
{
    char *type = NULL;
    curl_easy_getinfo(call->easy, CURLINFO_CONTENT_TYPE, &type);
    return type;
}

int st_http_base(const char *what, const char *url, char **out, struct st_err *e)
{
    size_t n = strlen(url);
    *out = NULL;
    if ((strncasecmp(url, "http://", 7) != 0 && strncasecmp(url, "https://", 8) != 0) || strpbrk(url, " \r\n\t?#"))
        /* With an '@' it may hold a password. */
        return strchr(url, '@') ? st_fail(e, ST_USAGE, "%s: want http(s)://host:port", what)
                                : st_fail(e, ST_USAGE, "%s: want http(s)://host:port, got '%.100s'", what, url);
    const char *authority = strchr(url, ':') + 3;
    if (memchr(authority, '@', strcspn(authority, "/")))
        return st_fail(e, ST_USAGE, "%s: want no password in the URL; keys are read from files", what);
    while (n && url[n - 1] == '/')
        n--;
    *out = strndup(url, n);
    return *out ? 0 : st_fail(e, ST_MEMORY, "%s: no memory", what);
}

int st_http_base_for_key(const char *what, const char *url, char **out, struct st_err *e)
{
    char host[256];
    int rc = st_http_base(what, url, out, e);
    if (rc || strncasecmp(url, "http://", 7) != 0)
        return rc;
    const char *h = url + 7;
    size_t n = *h == '[' ? strcspn(h, "]") + 1 : strcspn(h, ":/");
    snprintf(host, sizeof host, "%.*s", (int)n, h);
    if (n < sizeof host && st_net_is_loopback(host))
        return 0;
    free(*out);
    *out = NULL;
    return st_fail(e, ST_POLICY, "%s: beyond loopback a key would travel in the open; want https://", what);
}
