#include "net/accepted.h"
#include "base/buf.h"
#include "net/listen.h"
#include "net/shm.h"
#include "net/tls.h"

#include <errno.h>
#include <limits.h>
#include <openssl/err.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct st_accepted {
    int fd; /* of shm: borrowed */
    SSL *ssl;
    struct st_shm *shm;
    bool read_wants_write, write_wants_read; /* TLS: what the last call waited for */
};

static int gone(struct st_err *e)
{
    return st_fail(e, ST_IO, "the peer has closed the connection");
}

int st_accepted_socket(int fd, SSL_CTX *tls, struct st_accepted **out, struct st_err *e)
{
    struct st_accepted *s = NULL;
    *out = NULL;
    if (st_alloc(&s, 1, sizeof *s, "connection", e)) {
        close(fd);
        return e->code;
    }
    s->fd = fd;
    if (tls) {
        s->ssl = SSL_new(tls);
        if (!s->ssl || SSL_set_fd(s->ssl, fd) != 1) {
            st_accepted_free(s);
            return st_fail(e, ST_MEMORY, "TLS: no memory");
        }
        SSL_set_mode(s->ssl, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
        SSL_set_options(s->ssl, SSL_OP_NO_RENEGOTIATION);
        SSL_set_accept_state(s->ssl);
    }
    st_net_tune(fd);
    *out = s;
    return 0;
}

int st_accepted_shm(int fd, struct st_accepted **out, struct st_err *e)
{
    struct st_accepted *s = NULL;
    struct st_shm *shm = NULL;
    *out = NULL;
    if (st_shm_offer(fd, 0, &shm, e))
        return e->code;
    if (st_alloc(&s, 1, sizeof *s, "connection", e)) {
        st_shm_close(shm);
        return e->code;
    }
    s->shm = shm;
    s->fd = st_shm_fd(shm);
    *out = s;
    return 0;
}

void st_accepted_free(struct st_accepted *s)
{
    if (!s)
        return;
    if (s->shm)
        st_shm_close(s->shm);
    else {
        SSL_free(s->ssl);
        close(s->fd);
    }
    free(s);
}

int st_accepted_fd(const struct st_accepted *s)
{
    return s->fd;
}

void st_accepted_wake(struct st_accepted *s)
{
    if (s->shm)
        st_shm_wake(s->shm);
}

bool st_accepted_gone(const struct st_accepted *s)
{
    return s->shm && st_shm_gone(s->shm);
}

/* Result of an SSL call that moved nothing: 0 when it only has to wait. */
static int tls_result(struct st_accepted *s, int rc, bool *other, bool writing, struct st_err *e)
{
    int why = SSL_get_error(s->ssl, rc);
    ERR_clear_error();
    *other = why == (writing ? SSL_ERROR_WANT_READ : SSL_ERROR_WANT_WRITE);
    return why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE ? 0 : gone(e);
}

static int int_len(size_t len)
{
    return len < INT_MAX ? (int)len : INT_MAX;
}

int st_accepted_read(struct st_accepted *s, void *p, size_t len, size_t *n, struct st_err *e)
{
    *n = 0;
    if (s->shm) {
        if (st_shm_read(s->shm, p, len, n, e))
            return e->code;
        return *n == 0 && st_shm_gone(s->shm) ? gone(e) : 0;
    }
    if (s->ssl) {
        int got = SSL_read(s->ssl, p, int_len(len));
        if (got <= 0)
            return tls_result(s, got, &s->read_wants_write, false, e);
        s->read_wants_write = false;
        *n = (size_t)got;
        return 0;
    }
    ssize_t got = recv(s->fd, p, len, MSG_DONTWAIT);
    if (got == 0)
        return gone(e);
    if (got < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : st_fail(e, ST_IO, "cannot receive: %s", strerror(errno));
    *n = (size_t)got;
    return 0;
}

static int write_one(struct st_accepted *s, const struct iovec *v, size_t *n, struct st_err *e)
{
    *n = 0;
    if (s->shm)
        return st_shm_write(s->shm, v->iov_base, v->iov_len, n, e);
    int put = SSL_write(s->ssl, v->iov_base, int_len(v->iov_len));
    if (put <= 0)
        return tls_result(s, put, &s->write_wants_read, true, e);
    s->write_wants_read = false;
    *n = (size_t)put;
    return 0;
}

int st_accepted_write(struct st_accepted *s, const struct iovec *v, int n_v, size_t *n, struct st_err *e)
{
    *n = 0;
    if (!s->shm && !s->ssl) {
        struct msghdr m = {.msg_iov = (struct iovec *)(uintptr_t)v, .msg_iovlen = (size_t)n_v};
        ssize_t put = sendmsg(s->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (put < 0)
            return errno == EAGAIN || errno == EINTR ? 0 : st_fail(e, ST_IO, "cannot send: %s", strerror(errno));
        *n = (size_t)put;
        return 0;
    }
    for (int i = 0; i < n_v; i++) {
        size_t done = 0;
        while (done < v[i].iov_len) {
            struct iovec rest = {(uint8_t *)v[i].iov_base + done, v[i].iov_len - done};
            size_t put;
            if (write_one(s, &rest, &put, e))
                return e->code;
            if (put == 0)
                return 0;
            done += put;
            *n += put;
        }
    }
    return 0;
}

bool st_accepted_arm(struct st_accepted *s, bool read, bool write, bool *watch_read, bool *watch_write)
{
    *watch_read = read;
    *watch_write = write;
    if (s->shm) {
        *watch_read = true; /* doorbells */
        *watch_write = false;
        return st_shm_arm(s->shm, read, write);
    }
    if (!s->ssl)
        return false;
    *watch_read = read || (write && s->write_wants_read);
    *watch_write = (write && !s->write_wants_read) || (read && s->read_wants_write);
    return read && SSL_pending(s->ssl) > 0;
}

int st_accepted_exporter(struct st_accepted *s, const char *label, uint8_t out[ST_TLS_EXPORTER], struct st_err *e)
{
    if (!s->ssl)
        return st_fail(e, ST_UNSUPPORTED, "nothing can be bound to this connection: want TLS");
    return st_tls_exporter(s->ssl, label, out, e);
}

bool st_accepted_finish(struct st_accepted *s)
{
    if (s->shm)
        return false;
    if (s->ssl) {
        SSL_shutdown(s->ssl);
        ERR_clear_error();
    }
    return shutdown(s->fd, SHUT_WR) == 0;
}
