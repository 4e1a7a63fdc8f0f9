#include "base/log.h"
#include "net/address.h"
#include "net/listen.h"
#include "service/worker_priv.h"

#include <errno.h>
#include <event2/listener.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct st_worker_listener {
    struct st_worker *worker;
    struct evconnlistener *events;
    struct st_address address;
    bool has_file; /* of a Unix socket, ours while it is this inode */
    dev_t dev;
    ino_t ino;
    char text[sizeof(struct sockaddr_un) + 320];
};

static void on_accept(struct evconnlistener *ev, evutil_socket_t fd, struct sockaddr *addr, int len, void *arg)
{
    struct st_worker_listener *l = arg;
    struct st_accepted *s = NULL;
    struct st_err e;
    (void)ev;
    bool shm = l->address.kind == ST_ADDRESS_SHM, tls = l->address.kind == ST_ADDRESS_TLS;
    if (shm ? st_accepted_shm(fd, &s, &e) : st_accepted_socket(fd, tls ? l->worker->tls : NULL, &s, &e))
        st_log(ST_LOG_DEBUG, "%s: %s", l->text, e.msg);
    else
        st_worker_peer_new(l->worker, s, st_net_source(addr, (socklen_t)len));
}

/* Out of descriptors, most likely: without a pause the loop would spin on the same error. */
static void on_accept_error(struct evconnlistener *ev, void *arg)
{
    struct st_worker_listener *l = arg;
    struct timespec pause = {0, 10 * 1000 * 1000};
    (void)ev;
    st_log(ST_LOG_WARN, "%s: cannot accept a connection: %s", l->text, strerror(errno));
    nanosleep(&pause, NULL);
}

/* A socket file that nobody answers on is left over from a worker that was killed. */
static int clear_stale(const struct sockaddr_un *path, const char *text, struct st_err *e)
{
    struct stat st;
    if (lstat(path->sun_path, &st) != 0)
        return 0;
    if (!S_ISSOCK(st.st_mode))
        return st_fail(e, ST_IO, "%s: there is a file that is no socket", text);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return st_fail(e, ST_IO, "%s: %s", text, strerror(errno));
    bool dead = connect(fd, (const struct sockaddr *)path, sizeof *path) != 0 && errno == ECONNREFUSED;
    close(fd);
    if (!dead)
        return st_fail(e, ST_IO, "%s: address already in use", text);
    return unlink(path->sun_path) == 0 ? 0 : st_fail(e, ST_IO, "%s: %s", text, strerror(errno));
}

static int listen_file(struct st_worker_listener *l, int *out, struct st_err *e)
{
    const struct sockaddr_un *path = &l->address.path;
    struct stat st;
    if (clear_stale(path, l->text, e))
        return e->code;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    /* The mode of the socket becomes that of its file: it is 0600 from the first moment. */
    if (fd < 0 || fchmod(fd, 0600) != 0 || bind(fd, (const struct sockaddr *)path, sizeof *path) != 0 ||
        listen(fd, 1024) != 0 || stat(path->sun_path, &st) != 0) {
        st_fail(e, ST_IO, "%s: %s", l->text, strerror(errno));
        if (fd >= 0)
            close(fd);
        return e->code;
    }
    l->has_file = true;
    l->dev = st.st_dev;
    l->ino = st.st_ino;
    *out = fd;
    return 0;
}

static int listen_port(struct st_worker_listener *l, int *out, struct st_err *e)
{
    struct st_address *a = &l->address;
    int bound = 0;
    if (a->kind == ST_ADDRESS_TLS && !l->worker->tls)
        return st_fail(e, ST_USAGE, "%s: want a certificate (--tls-cert, --tls-key)", l->text);
    if (l->worker->tls)
        a->kind = ST_ADDRESS_TLS;
    if (st_net_listen(a->host, a->port, out, &bound, e))
        return e->code;
    snprintf(l->text, sizeof l->text, strchr(a->host, ':') ? "%s://[%s]:%d" : "%s://%s:%d",
             a->kind == ST_ADDRESS_TLS ? "tls" : "tcp", a->host, bound);
    if (a->kind == ST_ADDRESS_TCP && !st_net_is_loopback(a->host))
        st_log(ST_LOG_WARN,
               "%s is open to the network without TLS: rows are masked, but nothing authenticates who "
               "sends or answers",
               l->text);
    const struct st_worker_opts *o = &l->worker->o;
    if ((o->hints || o->preparer) && !o->proof.policy && !st_net_is_loopback(a->host))
        st_log(ST_LOG_WARN, "%s: whoever reaches it gets %s", l->text,
               o->preparer ? "the weights, row by row (no --client-policy)"
                           : "the hints, from which the weights follow");
    return 0;
}

int st_worker_listen(struct st_worker *w, const char *address, struct st_worker_listener **out, struct st_err *e)
{
    struct st_worker_listener *l = NULL;
    int fd = -1;
    *out = NULL;
    if (st_alloc(&l, 1, sizeof *l, "a listener", e))
        return e->code;
    l->worker = w;
    snprintf(l->text, sizeof l->text, "%s", address);
    int rc = st_address_parse(address, ST_WORKER_PORT, &l->address, e);
    bool file = l->address.kind == ST_ADDRESS_UNIX || l->address.kind == ST_ADDRESS_SHM;
    if (!rc && w->proofs && (file || !w->tls))
        rc = st_fail(e, ST_USAGE,
                     "%s: what is proved is bound to a TLS connection: want tls://HOST:PORT (--tls-cert, --tls-key)",
                     address);
    if (!rc)
        rc = file ? listen_file(l, &fd, e) : listen_port(l, &fd, e);
    if (!rc) {
        l->events = evconnlistener_new(w->base, on_accept, l, LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC, 0, fd);
        if (!l->events) {
            close(fd);
            rc = st_fail(e, ST_MEMORY, "%s: no memory", l->text);
        } else
            evconnlistener_set_error_cb(l->events, on_accept_error);
    }
    if (rc)
        st_worker_unlisten(l);
    else
        *out = l;
    return rc;
}

void st_worker_unlisten(struct st_worker_listener *l)
{
    struct stat st;
    if (!l)
        return;
    if (l->events)
        evconnlistener_free(l->events);
    const char *path = l->address.path.sun_path;
    if (l->has_file && lstat(path, &st) == 0 && st.st_dev == l->dev && st.st_ino == l->ino)
        unlink(path);
    free(l);
}

const char *st_worker_listening(const struct st_worker_listener *l)
{
    return l->text;
}
