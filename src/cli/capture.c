#include "cli/capture.h"
#include "base/hooks.h"
#include "net/listen.h"

#include <arpa/inet.h>
#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/listener.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { HIGH = 1 << 20 }; /* unsent bytes after which a side is not read for a while */

struct pair {
    struct st_capture *capture;
    struct pair *next;
    struct bufferevent *side[2]; /* who connected, and the target */
    bool ended[2];
};

struct st_capture {
    struct event_base *base;
    struct evconnlistener *listener;
    struct event *wake;
    int wake_fd, to, port;
    bool started;
    pthread_t thread;
    pthread_mutex_t lock; /* of `seen` */
    struct st_captured seen;
    struct pair *pairs;
};

static void pair_free(struct pair *p)
{
    struct pair **at = &p->capture->pairs;
    while (*at != p)
        at = &(*at)->next;
    *at = p->next;
    for (int i = 0; i < 2; i++)
        if (p->side[i])
            bufferevent_free(p->side[i]);
    free(p);
}

static void keep(struct st_capture *c, bool down, const void *p, size_t len)
{
    pthread_mutex_lock(&c->lock);
    struct st_buf *b = down ? &c->seen.down : &c->seen.up;
    *(down ? &c->seen.down_bytes : &c->seen.up_bytes) += len;
    if (b->len < ST_CAPTURE_MAX)
        st_buf_add(b, p, len < ST_CAPTURE_MAX - b->len ? len : ST_CAPTURE_MAX - b->len);
    if (down) {
        const struct st_traffic_mark mark = {b->len, st_now()};
        st_buf_add(&c->seen.marks, &mark, sizeof mark);
    }
    pthread_mutex_unlock(&c->lock);
}

static void on_read(struct bufferevent *from, void *arg)
{
    struct pair *p = arg;
    bool down = from == p->side[1];
    struct bufferevent *to = p->side[!down];
    struct evbuffer *in = bufferevent_get_input(from);
    char piece[16384];
    for (int n; (n = evbuffer_remove(in, piece, sizeof piece)) > 0;) {
        keep(p->capture, down, piece, (size_t)n);
        bufferevent_write(to, piece, (size_t)n);
    }
    if (evbuffer_get_length(bufferevent_get_output(to)) > HIGH)
        bufferevent_disable(from, EV_READ);
}

/* All is sent: the other side may be read again, or its end be passed on. */
static void on_write(struct bufferevent *to, void *arg)
{
    struct pair *p = arg;
    bool down = to == p->side[0];
    if (!p->ended[down])
        bufferevent_enable(p->side[down], EV_READ);
    else if (p->ended[!down])
        pair_free(p);
    else
        shutdown(bufferevent_getfd(to), SHUT_WR);
}

static void on_event(struct bufferevent *from, short what, void *arg)
{
    struct pair *p = arg;
    bool down = from == p->side[1];
    if (what & BEV_EVENT_CONNECTED)
        return;
    p->ended[down] = true;
    bufferevent_disable(from, EV_READ);
    if (!(what & BEV_EVENT_EOF))
        pair_free(p); /* a reset passes on as an end */
    else if (evbuffer_get_length(bufferevent_get_output(p->side[!down])) == 0)
        on_write(p->side[!down], p);
}

static void on_accept(struct evconnlistener *l, evutil_socket_t fd, struct sockaddr *from, int len, void *arg)
{
    struct st_capture *c = arg;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)c->to)};
    struct pair *p = calloc(1, sizeof *p);
    (void)l;
    (void)from;
    (void)len;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (!p) {
        close(fd);
        return;
    }
    p->capture = c;
    p->next = c->pairs;
    c->pairs = p;
    p->side[0] = bufferevent_socket_new(c->base, fd, BEV_OPT_CLOSE_ON_FREE);
    p->side[1] = bufferevent_socket_new(c->base, -1, BEV_OPT_CLOSE_ON_FREE);
    if (!p->side[0])
        close(fd);
    if (!p->side[0] || !p->side[1] || bufferevent_socket_connect(p->side[1], (struct sockaddr *)&a, sizeof a) != 0) {
        pair_free(p);
        return;
    }
    st_net_tune(fd);
    st_net_tune(bufferevent_getfd(p->side[1]));
    for (int i = 0; i < 2; i++) {
        bufferevent_setcb(p->side[i], on_read, on_write, on_event, p);
        bufferevent_enable(p->side[i], EV_READ | EV_WRITE);
    }
}

static void on_wake(evutil_socket_t fd, short what, void *arg)
{
    struct st_capture *c = arg;
    (void)fd;
    (void)what;
    event_base_loopbreak(c->base);
}

static void *thread_main(void *arg)
{
    struct st_capture *c = arg;
    event_base_dispatch(c->base);
    return NULL;
}

static int set_up(struct st_capture *c, struct st_err *e)
{
    int fd;
    c->base = event_base_new();
    c->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (c->base && c->wake_fd >= 0)
        c->wake = event_new(c->base, c->wake_fd, EV_READ, on_wake, c);
    if (!c->wake || event_add(c->wake, NULL) != 0)
        return st_fail(e, ST_IO, "event loop: %s", strerror(errno));
    if (st_net_listen("127.0.0.1", 0, &fd, &c->port, e))
        return e->code;
    c->listener = evconnlistener_new(c->base, on_accept, c, LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC, 0, fd);
    if (!c->listener) {
        close(fd);
        return st_fail(e, ST_MEMORY, "listener: no memory");
    }
    /* Signals belong to the program's own threads. */
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    c->started = pthread_create(&c->thread, NULL, thread_main, c) == 0;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return c->started ? 0 : st_fail(e, ST_IO, "no thread for a forwarder");
}

int st_capture_start(int to, struct st_capture **out, struct st_err *e)
{
    struct st_capture *c = NULL;
    *out = NULL;
    if (st_alloc(&c, 1, sizeof *c, "a forwarder", e))
        return e->code;
    c->wake_fd = -1;
    c->to = to;
    pthread_mutex_init(&c->lock, NULL);
    if (set_up(c, e)) {
        st_capture_stop(c);
        return e->code;
    }
    *out = c;
    return 0;
}

int st_capture_port(const struct st_capture *c)
{
    return c->port;
}

void st_capture_take(struct st_capture *c, struct st_captured *out)
{
    pthread_mutex_lock(&c->lock);
    *out = c->seen;
    c->seen = (struct st_captured){0};
    pthread_mutex_unlock(&c->lock);
}

void st_captured_wipe(struct st_captured *k)
{
    st_buf_wipe(&k->up);
    st_buf_wipe(&k->down);
    st_buf_free(&k->marks);
}

void st_capture_stop(struct st_capture *c)
{
    const uint64_t one = 1;
    if (!c)
        return;
    if (c->started) {
        while (write(c->wake_fd, &one, sizeof one) < 0 && errno == EINTR)
            ;
        pthread_join(c->thread, NULL);
    }
    while (c->pairs)
        pair_free(c->pairs);
    if (c->listener)
        evconnlistener_free(c->listener);
    if (c->wake)
        event_free(c->wake);
    if (c->wake_fd >= 0)
        close(c->wake_fd);
    if (c->base)
        event_base_free(c->base);
    pthread_mutex_destroy(&c->lock);
    st_captured_wipe(&c->seen);
    free(c);
}
