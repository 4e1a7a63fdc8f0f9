#include "net/link.h"

#include "base/hooks.h"
#include "net/address.h"
#include "net/link_tls.h"
#include "net/listen.h"
#include "net/shm.h"
#include "net/wait.h"
#include "net/worker_frame.h"

#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Read ahead of what was asked for, so that a frame's head and a small payload come with one call. */
#define AHEAD (32u << 10)

struct st_link {
    int fd;               /* of tcp, unix, tls; -1 with shared memory */
    struct st_shm *shm;   /* or NULL */
    struct st_tls *tls;   /* or NULL */
    uint8_t ahead[AHEAD]; /* bytes [at, end) are received and not taken yet; tcp and unix */
    size_t at, end;
};

static int connect_fd(const struct sockaddr *a, socklen_t len, double deadline, int *out, struct st_err *e)
{
    int why = 0;
    socklen_t size = sizeof why;
    int fd = socket(a->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return st_fail(e, ST_IO, "no socket: %s", strerror(errno));
    if (connect(fd, a, len) != 0) {
        if (errno != EINPROGRESS)
            st_fail(e, ST_IO, "%s", errno == EAGAIN ? "too many wait to be connected" : strerror(errno));
        else if (st_net_wait(fd, POLLOUT, deadline, e) == 0 &&
                 (getsockopt(fd, SOL_SOCKET, SO_ERROR, &why, &size) != 0 || why != 0))
            st_fail(e, ST_IO, "%s", strerror(why ? why : errno));
        if (e->code) {
            close(fd);
            return e->code;
        }
    }
    *out = fd;
    return 0;
}

/* All addresses of the host in turn; what the last one said when none answers. */
static int connect_host(const struct st_address *a, double deadline, int *out, struct st_err *e)
{
    char service[16];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV | AI_ADDRCONFIG}, *list = NULL;
    snprintf(service, sizeof service, "%d", a->port);
    int rc = getaddrinfo(a->host, service, &hints, &list);
    if (rc == EAI_ADDRFAMILY || rc == EAI_NONAME) {
        hints.ai_flags = AI_NUMERICSERV; /* on a machine that has its loopback addresses alone */
        rc = getaddrinfo(a->host, service, &hints, &list);
    }
    if (rc != 0)
        return st_fail(e, ST_IO, "%s: %s", a->host, gai_strerror(rc));
    int n = 0, code = ST_IO;
    for (const struct addrinfo *i = list; i; i = i->ai_next)
        n++;
    for (const struct addrinfo *i = list; i && code; i = i->ai_next, n--) {
        double now = st_now();
        *e = (struct st_err){0};
        code = connect_fd(i->ai_addr, i->ai_addrlen, now + (deadline - now) / n, out, e);
    }
    freeaddrinfo(list);
    if (!code)
        st_net_tune(*out);
    return code;
}

int st_link_open(const char *address, const char *tls_ca, double deadline, struct st_link **out, struct st_err *e)
{
    struct st_address a;
    struct st_link *l;
    int fd = -1;
    *out = NULL;
    *e = (struct st_err){0};
    if (st_address_parse(address, ST_WORKER_PORT, &a, e) || st_alloc(&l, 1, sizeof *l, "connection", e))
        return e->code;
    l->fd = -1;
    if (a.kind == ST_ADDRESS_TCP || a.kind == ST_ADDRESS_TLS)
        connect_host(&a, deadline, &fd, e);
    else
        connect_fd((const struct sockaddr *)&a.path, sizeof a.path, deadline, &fd, e);
    if (e->code)
        goto fail;
    if (a.kind == ST_ADDRESS_SHM) {
        if (st_shm_take(fd, deadline, &l->shm, e))
            goto fail;
    } else {
        l->fd = fd;
        if (a.kind == ST_ADDRESS_TLS && st_tls_open(fd, a.host, tls_ca, deadline, &l->tls, e))
            goto fail;
    }
    *out = l;
    return 0;
fail:
    st_link_close(l);
    return e->code;
}

void st_link_close(struct st_link *l)
{
    if (!l)
        return;
    st_tls_close(l->tls);
    st_shm_close(l->shm);
    if (l->fd >= 0)
        close(l->fd);
    free(l);
}

static int closed(struct st_err *e)
{
    return st_fail(e, ST_IO, "closed the connection");
}

static int shm_send(struct st_shm *s, const struct iovec *v, int n, size_t *sent, struct st_err *e)
{
    for (int i = 0; i < n; i++) {
        size_t some;
        if (st_shm_write(s, v[i].iov_base, v[i].iov_len, &some, e))
            return e->code;
        *sent += some;
        if (some < v[i].iov_len)
            break;
    }
    return st_shm_gone(s) ? closed(e) : 0;
}

static int fd_send(int fd, const struct iovec *v, int n, size_t *sent, struct st_err *e)
{
    struct msghdr m = {.msg_iov = (struct iovec *)(uintptr_t)v, .msg_iovlen = (size_t)n};
    ssize_t some = sendmsg(fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (some >= 0)
        *sent = (size_t)some;
    else if (errno == EPIPE || errno == ECONNRESET)
        return closed(e);
    else if (errno != EAGAIN && errno != EINTR && errno != ENOBUFS)
        return st_fail(e, ST_IO, "cannot send: %s", strerror(errno));
    return 0;
}

int st_link_send(struct st_link *l, const struct iovec *v, int n, size_t *sent, struct st_err *e)
{
    *sent = 0;
    if (l->shm)
        return shm_send(l->shm, v, n, sent, e);
    if (l->tls)
        return st_tls_send(l->tls, v, n, sent, e);
    return fd_send(l->fd, v, n, sent, e);
}

static int fd_recv(int fd, void *p, size_t len, size_t *got, struct st_err *e)
{
    ssize_t n = recv(fd, p, len, MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno == ECONNRESET))
        return closed(e);
    if (n > 0)
        *got = (size_t)n;
    else if (errno != EAGAIN && errno != EINTR)
        return st_fail(e, ST_IO, "cannot receive: %s", strerror(errno));
    return 0;
}

int st_link_recv(struct st_link *l, void *p, size_t len, size_t *got, struct st_err *e)
{
    *got = 0;
    if (l->shm) {
        if (st_shm_read(l->shm, p, len, got, e))
            return e->code;
        return *got == 0 && st_shm_gone(l->shm) ? closed(e) : 0;
    }
    if (l->tls)
        return st_tls_recv(l->tls, p, len, got, e);
    if (l->at == l->end && len >= AHEAD)
        return fd_recv(l->fd, p, len, got, e);
    if (l->at == l->end) {
        l->at = l->end = 0;
        if (fd_recv(l->fd, l->ahead, AHEAD, &l->end, e))
            return e->code;
    }
    *got = l->end - l->at < len ? l->end - l->at : len;
    memcpy(p, l->ahead + l->at, *got);
    l->at += *got;
    return 0;
}

int st_link_wait(struct st_link *l, bool reading, bool writing, double deadline, struct st_err *e)
{
    if (l->shm)
        return st_shm_wait(l->shm, reading, writing, deadline, e);
    if (reading && (l->tls ? st_tls_pending(l->tls) : l->at < l->end))
        return 0;
    short events = (short)((reading ? POLLIN : 0) | (writing ? POLLOUT : 0));
    if (l->tls)
        events = st_tls_events(l->tls, reading, writing);
    return st_net_wait(l->fd, events, deadline, e);
}

int st_link_exporter(struct st_link *l, const char *label, uint8_t out[32], struct st_err *e)
{
    if (!l->tls)
        return st_fail(e, ST_UNSUPPORTED, "nothing can be bound to this connection: want tls://");
    return st_tls_exported(l->tls, label, out, e);
}

bool st_link_quiet(struct st_link *l)
{
    struct st_err e = {0};
    uint8_t byte;
    size_t got;
    if (l->shm)
        st_shm_wake(l->shm);
    return st_link_recv(l, &byte, 1, &got, &e) == 0 && got == 0;
}
