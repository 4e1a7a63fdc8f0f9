#include "net/http_server.h"
#include "base/hooks.h"
#include "base/log.h"
#include "net/http_parse.h"
#include "net/listen.h"
#include "net/tls.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/bufferevent_ssl.h>
#include <event2/listener.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    READ_HIGH = 256 << 10, /* unread bytes per connection before its socket is left alone */
    READ_BODY = 32 << 10,
    OUT_KEPT = 4 << 10,  /* room that a reply keeps from one piece to the next */
    OUT_HIGH = 32 << 10, /* what is gathered of a reply before it leaves at once */
    DRAIN_LOW = 16 << 10,
    HEAD = 512, /* bytes of most replies' */
};
#define LINGER_S 2.0

enum conn_state {
    RECEIVING, /* between requests, or within one */
    ANSWERING, /* the handler owns the exchange */
    CLOSING,   /* the last reply leaves */
    LINGERING, /* all sent; what still comes is read over, so that no reset destroys the reply */
};

struct st_http_conn {
    struct st_http_server *server;
    struct st_http_conn *prev, *next;
    struct st_http_conn *next_gathered;
    struct bufferevent *bev;
    struct st_http_parser in;
    struct st_buf out; /* of the reply, until the event loop comes around */
    struct st_http_watch watch;
    enum conn_state state;
    bool streaming, chunked, head_only, close_after, told_continue, head_asked, processing, saw_eof, gathered;
    double deadline; /* 0 = none */
    size_t held;     /* bytes of the body that count in the server's */
    size_t unsent;   /* likewise of the reply */
    char peer[64];
};

struct st_http_server {
    struct event_base *base;
    struct st_http_server_opts o;
    struct evconnlistener *listener;
    struct event *sweep;
    SSL_CTX *tls;
    struct st_http_conn *conns;
    size_t n_conn;
    size_t held, unsent; /* bytes of bodies and of replies, all connections together */
    int64_t date_of;     /* the second that `date` is of */
    char date[64];
    int port;
};

/* An event loop has one thread, and its connections are told apart by nothing else. */
static _Thread_local struct {
    unsigned depth;
    struct st_http_conn *first;
} gathering;

static void conn_process(struct st_http_conn *c);

/* Counts the body anew; false when the server holds more than it may. */
static bool hold(struct st_http_conn *c)
{
    struct st_http_server *s = c->server;
    s->held += c->in.body.len - c->held;
    c->held = c->in.body.len;
    return !s->o.max_held || s->held <= s->o.max_held;
}

static void parser_reset(struct st_http_conn *c)
{
    st_http_parser_reset(&c->in);
    (void)hold(c);
}

/* close_notify, best effort: the other side's is not waited for. */
static void tls_goodbye(struct st_http_conn *c)
{
    SSL *ssl = c->server->tls ? bufferevent_openssl_get_ssl(c->bev) : NULL;
    if (!ssl)
        return;
    SSL_shutdown(ssl);
    ERR_clear_error();
}

/* The one that the link points at. */
static void ungather(struct st_http_conn **at)
{
    struct st_http_conn *c = *at;
    *at = c->next_gathered;
    c->gathered = false;
}

static void conn_free(struct st_http_conn *c)
{
    struct st_http_server *s = c->server;
    struct st_http_watch w = c->watch;
    c->watch = (struct st_http_watch){0};
    if (c->state == ANSWERING && w.gone)
        w.gone(w.arg);
    *(c->prev ? &c->prev->next : &s->conns) = c->next;
    if (c->next)
        c->next->prev = c->prev;
    s->n_conn--;
    for (struct st_http_conn **at = &gathering.first; c->gathered; at = &(*at)->next_gathered)
        if (*at == c) {
            ungather(at);
            break;
        }
    if (c->state != LINGERING)
        tls_goodbye(c);
    s->unsent -= c->unsent;
    bufferevent_free(c->bev);
    parser_reset(c);
    st_buf_free(&c->out);
    free(c);
}

static struct evbuffer *output(const struct st_http_conn *c)
{
    return bufferevent_get_output(c->bev);
}

size_t st_http_unsent(const struct st_http_conn *c)
{
    return evbuffer_get_length(output(c)) + c->out.len;
}

/* To the kernel; what that does not take waits in libevent's buffer, which costs system calls of its own. */
static void flush(struct st_http_conn *c)
{
    if (c->out.failed) /* a reply with a hole: the other side must not take it for whole */
        shutdown(bufferevent_getfd(c->bev), SHUT_RDWR);
    else if (c->out.len) {
        ssize_t n = send(bufferevent_getfd(c->bev), c->out.p, c->out.len, MSG_NOSIGNAL | MSG_DONTWAIT);
        size_t gone = n > 0 ? (size_t)n : 0;
        if (gone < c->out.len) {
            evbuffer_add(output(c), c->out.p + gone, c->out.len - gone);
            /* From here on a reader that stands still is dropped after send_s. */
            if (c->state == ANSWERING)
                c->deadline = st_now() + c->server->o.send_s;
        }
    }
    if (c->state == ANSWERING && !c->out.failed && c->out.cap <= OUT_KEPT)
        st_buf_clear(&c->out);
    else
        st_buf_free(&c->out);
}

/* Sees to it that what is put into the reply leaves: when the event loop comes around, or with st_http_pass(). */
static void leaves_soon(struct st_http_conn *c)
{
    if (c->gathered)
        return;
    if (gathering.depth) {
        c->gathered = true;
        c->next_gathered = gathering.first;
        gathering.first = c;
    } else
        bufferevent_trigger(c->bev, EV_WRITE, BEV_TRIG_IGNORE_WATERMARKS | BEV_TRIG_DEFER_CALLBACKS);
}

/* Leaves later, together with what else there is by then. */
static void put(struct st_http_conn *c, const void *p, size_t len)
{
    if (c->server->tls || evbuffer_get_length(output(c)) > 0) {
        if (evbuffer_get_length(output(c)) == 0 && c->state == ANSWERING)
            c->deadline = st_now() + c->server->o.send_s;
        evbuffer_add(output(c), p, len);
        return;
    }
    if (c->out.len == 0)
        leaves_soon(c);
    st_buf_add(&c->out, p, len);
    if (c->out.len > OUT_HIGH)
        flush(c);
}

/* All of the last reply is in the kernel: tell the other side, then wait a little for its end. */
static void linger(struct st_http_conn *c)
{
    c->state = LINGERING;
    c->deadline = st_now() + LINGER_S;
    tls_goodbye(c);
    shutdown(bufferevent_getfd(c->bev), SHUT_WR);
    evbuffer_drain(bufferevent_get_input(c->bev), SIZE_MAX);
}

static void reply_done(struct st_http_conn *c)
{
    c->watch = (struct st_http_watch){0};
    c->streaming = false;
    double now = st_now();
    if (c->close_after || c->saw_eof) {
        c->state = CLOSING;
        c->deadline = now + c->server->o.send_s;
        parser_reset(c);
        if (st_http_unsent(c) == 0)
            bufferevent_trigger(c->bev, EV_WRITE, BEV_TRIG_DEFER_CALLBACKS);
        return;
    }
    c->state = RECEIVING;
    c->deadline = now + c->server->o.idle_s;
    c->told_continue = c->head_asked = false;
    parser_reset(c);
    /* A pipelined request may be waiting; it is looked at from the event loop, so that stacks never nest. */
    if (!c->processing)
        bufferevent_trigger(c->bev, EV_READ, BEV_TRIG_IGNORE_WATERMARKS | BEV_TRIG_DEFER_CALLBACKS);
}

static const char *reason(int status)
{
    switch (status) {
    case 200:
        return "OK";
    case 204:
        return "No Content";
    case 400:
        return "Bad Request";
    case 401:
        return "Unauthorized";
    case 403:
        return "Forbidden";
    case 404:
        return "Not Found";
    case 405:
        return "Method Not Allowed";
    case 413:
        return "Content Too Large";
    case 415:
        return "Unsupported Media Type";
    case 429:
        return "Too Many Requests";
    case 500:
        return "Internal Server Error";
    case 502:
        return "Bad Gateway";
    case 503:
        return "Service Unavailable";
    default:
        return "Error";
    }
}

static const char *date(struct st_http_server *s)
{
    int64_t now = st_unix_time();
    if (now != s->date_of) {
        time_t t = (time_t)now;
        struct tm tm;
        gmtime_r(&t, &tm);
        strftime(s->date, sizeof s->date, "%a, %d %b %Y %H:%M:%S GMT", &tm);
        s->date_of = now;
    }
    return s->date;
}

static void put_head(struct st_http_conn *c, int status, const char *fields, const char *type, size_t len, bool stream)
{
    struct st_buf b = {0};
    c->chunked = stream && !c->in.http10;
    if (!c->in.keep_alive || (stream && !c->chunked))
        c->close_after = true;
    st_buf_reserve(&b, HEAD);
    st_buf_addf(&b, "HTTP/1.1 %d %s\r\nDate: %s\r\n", status, reason(status), date(c->server));
    if (type)
        st_buf_addf(&b, "Content-Type: %s\r\n", type);
    if (c->chunked)
        st_buf_add_str(&b, "Transfer-Encoding: chunked\r\n");
    else if (!stream && status != 204)
        st_buf_addf(&b, "Content-Length: %zu\r\n", len);
    st_buf_add_str(&b, c->close_after ? "Connection: close\r\n" : "Connection: keep-alive\r\n");
    st_buf_add_str(&b, fields ? fields : "");
    st_buf_add_str(&b, "\r\n");
    put(c, b.p, b.len);
    c->out.failed |= b.failed;
    st_buf_free(&b);
    c->head_only = strcmp(c->in.method, "HEAD") == 0;
}

void st_http_reply(struct st_http_conn *c, int status, const char *fields, const char *type, const void *body,
                   size_t len)
{
    put_head(c, status, fields, type, len, false);
    if (!c->head_only && len)
        put(c, body, len);
    reply_done(c);
}

void st_http_stream_begin(struct st_http_conn *c, int status, const char *fields, const char *type)
{
    put_head(c, status, fields, type, 0, true);
    c->streaming = true;
}

/* By hand: printf() costs as much as the rest of a piece. */
static void put_chunk_size(struct st_http_conn *c, size_t len)
{
    char line[18] = {[16] = '\r', [17] = '\n'};
    size_t at = 16;
    for (; len; len >>= 4)
        line[--at] = "0123456789abcdef"[len & 15];
    put(c, line + at, sizeof line - at);
}

void st_http_stream_send(struct st_http_conn *c, const void *p, size_t len)
{
    if (c->head_only || len == 0)
        return;
    if (c->chunked)
        put_chunk_size(c, len);
    put(c, p, len);
    if (c->chunked)
        put(c, "\r\n", 2);
}

void st_http_stream_end(struct st_http_conn *c)
{
    if (c->chunked && !c->head_only)
        put(c, "0\r\n\r\n", 5);
    reply_done(c);
}

void st_http_stream_cut(struct st_http_conn *c)
{
    c->close_after = true;
    reply_done(c);
}

void st_http_close_after(struct st_http_conn *c)
{
    c->close_after = true;
}

/* Whoever asks for much and takes little must not use the memory up: before another reply is made the largest that
 * waits goes. */
static void make_way(struct st_http_conn *c)
{
    struct st_http_server *s = c->server;
    while (s->o.max_unsent && s->unsent > s->o.max_unsent) {
        struct st_http_conn *most = NULL;
        for (struct st_http_conn *x = s->conns; x; x = x->next)
            if (x != c && x->unsent && (!most || x->unsent > most->unsent))
                most = x;
        if (!most)
            return;
        conn_free(most);
    }
}

static void conn_answer(struct st_http_conn *c)
{
    make_way(c);
    c->state = ANSWERING;
    c->deadline = 0;
    c->server->o.request(c->server->o.arg, c);
}

/* The head is in, the body is not: whoever may not ask at all need not send it. */
static bool is_refused_early(struct st_http_conn *c)
{
    const struct st_http_server_opts *o = &c->server->o;
    bool asked = c->head_asked;
    c->head_asked = true;
    return !asked && o->refuses_head && o->refuses_head(o->arg, c);
}

/* The parser was fed: an answer when a request is complete, or cannot be. */
static void conn_fed(struct st_http_conn *c, bool was_idle)
{
    if (was_idle && !st_http_parser_idle(&c->in))
        c->deadline = st_now() + c->server->o.receive_s;
    enum st_http_state st = c->in.state;
    if (!hold(c) && st != ST_HTTP_BAD) {
        st_http_parser_refuse(&c->in, 503, "too many requests at once");
        conn_answer(c);
    } else if ((st == ST_HTTP_BODY || st == ST_HTTP_CHUNK) && is_refused_early(c)) {
        c->close_after = true;
        conn_answer(c);
    } else if ((st == ST_HTTP_BODY || st == ST_HTTP_CHUNK) && c->in.expect_continue && !c->told_continue) {
        c->told_continue = true;
        static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
        put(c, go_on, sizeof go_on - 1);
    } else if (st == ST_HTTP_DONE || st == ST_HTTP_BAD)
        conn_answer(c);
}

/* Feeds the parser until the input is empty or a request is complete. */
static void conn_process(struct st_http_conn *c)
{
    struct evbuffer *in = bufferevent_get_input(c->bev);
    c->processing = true;
    while (c->state == RECEIVING && st_http_unsent(c) < DRAIN_LOW) {
        struct evbuffer_iovec v;
        if (evbuffer_peek(in, -1, NULL, &v, 1) < 1 || v.iov_len == 0)
            break;
        bool was_idle = st_http_parser_idle(&c->in);
        evbuffer_drain(in, st_http_parser_feed(&c->in, v.iov_base, v.iov_len));
        conn_fed(c, was_idle);
    }
    c->processing = false;
}

/* libevent reads 4 KiB at a time, with three system calls; what has come of the rest of a body is read at once. */
static void read_body(struct st_http_conn *c)
{
    uint8_t b[READ_BODY];
    c->processing = true;
    while (!c->server->tls && c->state == RECEIVING && c->in.state == ST_HTTP_BODY &&
           evbuffer_get_length(bufferevent_get_input(c->bev)) == 0) {
        size_t want = c->in.left < sizeof b ? (size_t)c->in.left : sizeof b;
        ssize_t n = recv(bufferevent_getfd(c->bev), b, want, MSG_DONTWAIT);
        if (n <= 0) /* an end or an error, libevent meets it too */
            break;
        (void)st_http_parser_feed(&c->in, b, (size_t)n);
        conn_fed(c, false);
    }
    c->processing = false;
}

static void on_read(struct bufferevent *bev, void *arg)
{
    struct st_http_conn *c = arg;
    if (c->state == CLOSING || c->state == LINGERING) {
        evbuffer_drain(bufferevent_get_input(bev), SIZE_MAX);
        return;
    }
    conn_process(c);
    read_body(c);
}

static void on_write(struct bufferevent *bev, void *arg)
{
    struct st_http_conn *c = arg;
    (void)bev;
    flush(c);
    size_t unsent = st_http_unsent(c);
    if (c->state == CLOSING) {
        if (unsent == 0 && c->saw_eof)
            conn_free(c);
        else if (unsent == 0)
            linger(c);
    } else if (c->state == ANSWERING && c->watch.drained)
        c->watch.drained(c->watch.arg);
    else if (c->state == RECEIVING)
        conn_process(c);
}

void st_http_gather(void)
{
    gathering.depth++;
}

void st_http_pass(void)
{
    if (--gathering.depth)
        return;
    while (gathering.first) { /* any of them may free others */
        struct st_http_conn *c = gathering.first;
        ungather(&gathering.first);
        on_write(c->bev, c);
    }
}

/* Every byte that leaves puts the deadline of a slow reader off. */
static void on_output(struct evbuffer *b, const struct evbuffer_cb_info *info, void *arg)
{
    struct st_http_conn *c = arg;
    const struct st_http_server_opts *o = &c->server->o;
    c->server->unsent += evbuffer_get_length(b) - c->unsent;
    c->unsent = evbuffer_get_length(b);
    if (info->n_deleted == 0)
        return;
    if (c->state == ANSWERING)
        c->deadline = evbuffer_get_length(b) ? st_now() + o->send_s : 0;
    else if (c->state == CLOSING)
        c->deadline = st_now() + o->send_s;
    else if (c->state == RECEIVING && st_http_parser_idle(&c->in))
        c->deadline = st_now() + o->idle_s;
}

static void on_event(struct bufferevent *bev, short what, void *arg)
{
    struct st_http_conn *c = arg;
    (void)bev;
    if (what & BEV_EVENT_CONNECTED)
        return;
    bool eof = (what & BEV_EVENT_EOF) != 0;
    /* An orderly end of the client's side while the last reply leaves: let it leave. */
    if (eof && (c->state == CLOSING || (c->state == RECEIVING && st_http_unsent(c) > 0))) {
        c->saw_eof = true;
        c->state = CLOSING;
        c->deadline = st_now() + c->server->o.send_s;
        return;
    }
    conn_free(c);
}

/* Once a second: connections that are over their time. */
static void on_sweep(evutil_socket_t fd, short what, void *arg)
{
    struct st_http_server *s = arg;
    (void)fd;
    (void)what;
    double now = st_now();
    for (struct st_http_conn *c = s->conns, *next; c; c = next) {
        next = c->next;
        if (c->deadline > 0 && now > c->deadline)
            conn_free(c);
    }
}

/* Whoever opens many connections and says nothing must not keep others out: the one that has waited longest for a
 * request goes. Running replies stay. */
static bool make_room(struct st_http_server *s)
{
    struct st_http_conn *old = NULL;
    for (struct st_http_conn *c = s->conns; c; c = c->next)
        if ((c->state == LINGERING || (c->state == RECEIVING && st_http_unsent(c) == 0)) &&
            (!old || c->deadline < old->deadline))
            old = c;
    if (old)
        conn_free(old);
    return old != NULL;
}

void st_http_server_adopt(struct st_http_server *s, int fd, const char *peer)
{
    struct st_http_conn *c = NULL;
    struct st_err e;
    if ((s->n_conn >= s->o.max_conn && !make_room(s)) || st_alloc(&c, 1, sizeof *c, "connection", &e)) {
        close(fd);
        return;
    }
    int flags = BEV_OPT_CLOSE_ON_FREE;
    SSL *ssl = s->tls ? SSL_new(s->tls) : NULL;
    if (s->tls)
        c->bev = ssl ? bufferevent_openssl_socket_new(s->base, fd, ssl, BUFFEREVENT_SSL_ACCEPTING, flags) : NULL;
    else
        c->bev = bufferevent_socket_new(s->base, fd, flags);
    if (!c->bev) {
        SSL_free(ssl);
        close(fd);
        free(c);
        return;
    }
    if (ssl)
        bufferevent_openssl_set_allow_dirty_shutdown(c->bev, 1);
    st_net_tune(fd);
    c->server = s;
    c->state = RECEIVING;
    c->deadline = st_now() + s->o.receive_s;
    snprintf(c->peer, sizeof c->peer, "%s", peer);
    st_http_parser_init(&c->in, s->o.max_head, s->o.max_body);
    c->next = s->conns;
    if (s->conns)
        s->conns->prev = c;
    s->conns = c;
    s->n_conn++;
    bufferevent_setcb(c->bev, on_read, on_write, on_event, c);
    evbuffer_add_cb(output(c), on_output, c);
    bufferevent_setwatermark(c->bev, EV_READ, 0, READ_HIGH);
    bufferevent_setwatermark(c->bev, EV_WRITE, DRAIN_LOW, 0);
    bufferevent_enable(c->bev, EV_READ | EV_WRITE);
}

static void on_accept(struct evconnlistener *l, evutil_socket_t fd, struct sockaddr *addr, int len, void *arg)
{
    char peer[64];
    (void)l;
    st_net_name(addr, (socklen_t)len, peer, sizeof peer);
    st_http_server_adopt(arg, fd, peer);
}

/* Out of descriptors, most likely: without a pause the loop would spin on the same error. */
static void on_accept_error(struct evconnlistener *l, void *arg)
{
    (void)l;
    (void)arg;
    struct timespec pause = {0, 10 * 1000 * 1000};
    st_log(ST_LOG_WARN, "cannot accept a connection: %s", strerror(errno));
    nanosleep(&pause, NULL);
}

int st_http_server_new(struct event_base *base, const struct st_http_server_opts *o, struct st_http_server **out,
                       struct st_err *e)
{
    struct st_http_server *s = NULL;
    *out = NULL;
    int rc = st_alloc(&s, 1, sizeof *s, "server", e);
    if (rc)
        return rc;
    s->base = base;
    s->o = *o;
    if (o->tls_cert && (rc = st_tls_server(o->tls_cert, o->tls_key, &s->tls, e)) != 0)
        goto out;
    int fd;
    if (o->host) {
        if ((rc = st_net_listen(o->host, o->port, &fd, &s->port, e)) != 0)
            goto out;
        s->listener = evconnlistener_new(base, on_accept, s, LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC, 0, fd);
        if (!s->listener) {
            close(fd);
            rc = st_fail(e, ST_MEMORY, "listener: no memory");
            goto out;
        }
        evconnlistener_set_error_cb(s->listener, on_accept_error);
    }
    s->sweep = event_new(base, -1, EV_PERSIST, on_sweep, s);
    struct timeval second = {1, 0};
    if (!s->sweep || event_add(s->sweep, &second) != 0)
        rc = st_fail(e, ST_MEMORY, "timer: no memory");
out:
    if (rc)
        st_http_server_free(s);
    else
        *out = s;
    return rc;
}

void st_http_server_free(struct st_http_server *s)
{
    if (!s)
        return;
    if (s->listener)
        evconnlistener_free(s->listener);
    while (s->conns)
        conn_free(s->conns);
    if (s->sweep)
        event_free(s->sweep);
    SSL_CTX_free(s->tls);
    free(s);
}

int st_http_server_port(const struct st_http_server *s)
{
    return s->port;
}

size_t st_http_server_conns(const struct st_http_server *s)
{
    return s->n_conn;
}

size_t st_http_server_busy(const struct st_http_server *s)
{
    size_t n = 0;
    for (const struct st_http_conn *c = s->conns; c; c = c->next)
        n += c->state == ANSWERING || (c->state != LINGERING && st_http_unsent(c) > 0);
    return n;
}

int st_http_bad(const struct st_http_conn *c, const char **why)
{
    *why = c->in.why;
    return c->in.state == ST_HTTP_BAD ? c->in.status : 0;
}

const char *st_http_method(const struct st_http_conn *c)
{
    return c->in.method;
}

const char *st_http_path(const struct st_http_conn *c)
{
    return c->in.path;
}

const char *st_http_query(const struct st_http_conn *c)
{
    return c->in.query;
}

const char *st_http_host(const struct st_http_conn *c)
{
    return c->in.host;
}

const char *st_http_field(const struct st_http_conn *c, const char *name)
{
    return st_http_parser_field(&c->in, name);
}

struct st_span st_http_body(const struct st_http_conn *c)
{
    return (struct st_span){(const uint8_t *)c->in.body.p, c->in.body.len};
}

void st_http_body_drop(struct st_http_conn *c)
{
    st_buf_wipe(&c->in.body);
    (void)hold(c);
}

const char *st_http_peer(const struct st_http_conn *c)
{
    return c->peer;
}

void st_http_local(const struct st_http_conn *c, char *out, size_t cap)
{
    struct sockaddr_storage a;
    socklen_t len = sizeof a;
    out[0] = 0;
    if (getsockname(bufferevent_getfd(c->bev), (struct sockaddr *)&a, &len) == 0)
        st_net_name((struct sockaddr *)&a, len, out, cap);
}

void st_http_watch(struct st_http_conn *c, const struct st_http_watch *w)
{
    c->watch = *w;
}
