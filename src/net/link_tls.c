#include "net/link_tls.h"

#include "base/hooks.h"
#include "net/tls.h"
#include "net/wait.h"

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* A record holds at most so much. Pieces shorter than that are put together, so that a frame's head does not travel in
 * a record and a packet of its own. */
#define RECORD (16u << 10)

struct st_tls {
    SSL_CTX *ctx;
    SSL *ssl;
    BIO_METHOD *method;
    short read_waits, write_waits; /* for these events before it can go on */
    uint8_t stage[RECORD];
};

/* OpenSSL's own socket BIO calls write(2), which raises SIGPIPE. */
static int bio_write(BIO *b, const char *p, int len)
{
    ssize_t n = send((int)(intptr_t)BIO_get_data(b), p, (size_t)len, MSG_DONTWAIT | MSG_NOSIGNAL);
    BIO_clear_retry_flags(b);
    if (n < 0 && (errno == EAGAIN || errno == EINTR || errno == ENOBUFS))
        BIO_set_retry_write(b);
    return (int)n;
}

static int bio_read(BIO *b, char *p, int len)
{
    ssize_t n = recv((int)(intptr_t)BIO_get_data(b), p, (size_t)len, MSG_DONTWAIT);
    BIO_clear_retry_flags(b);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        BIO_set_retry_read(b);
    return (int)n;
}

static long bio_control(BIO *b, int what, long number, void *p)
{
    (void)b;
    (void)number;
    (void)p;
    return what == BIO_CTRL_FLUSH;
}

static int memory(struct st_err *e)
{
    return st_fail(e, ST_MEMORY, "TLS: no memory");
}

static int load_roots(struct st_tls *t, const char *ca, struct st_err *e)
{
    SSL_CTX_set_verify(t->ctx, SSL_VERIFY_PEER, NULL);
    int ok = ca ? SSL_CTX_load_verify_locations(t->ctx, ca, NULL) : SSL_CTX_set_default_verify_paths(t->ctx);
    if (ok == 1)
        return 0;
    return ca ? st_fail(e, ST_INPUT, "%s: want certificates in PEM", ca)
              : st_fail(e, ST_IO, "the system's certificates cannot be read");
}

/* The name that the certificate must carry. */
static int expect_host(SSL *ssl, const char *host, struct st_err *e)
{
    uint8_t address[sizeof(struct in6_addr)];
    X509_VERIFY_PARAM *param = SSL_get0_param(ssl);
    if (inet_pton(AF_INET, host, address) == 1 || inet_pton(AF_INET6, host, address) == 1)
        return X509_VERIFY_PARAM_set1_ip_asc(param, host) == 1 ? 0 : memory(e);
    SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    if (SSL_set1_host(ssl, host) != 1 || SSL_set_tlsext_host_name(ssl, host) != 1)
        return st_fail(e, ST_INPUT, "%s: no name of a host", host);
    return 0;
}

static int set_up(struct st_tls *t, int fd, const char *host, const char *ca, struct st_err *e)
{
    t->ctx = SSL_CTX_new(TLS_client_method());
    t->method = BIO_meth_new(BIO_TYPE_SOURCE_SINK, "socket without signals");
    if (!t->ctx || !t->method)
        return memory(e);
    SSL_CTX_set_min_proto_version(t->ctx, TLS1_2_VERSION);
    SSL_CTX_set_options(t->ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
    SSL_CTX_set_mode(t->ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    /* A peer that sends tickets or new keys without end must not hold one call for ever: deadlines are ours. */
    SSL_CTX_clear_mode(t->ctx, SSL_MODE_AUTO_RETRY);
    SSL_CTX_set_session_cache_mode(t->ctx, SSL_SESS_CACHE_OFF);
    if (load_roots(t, ca, e))
        return e->code;
    BIO_meth_set_write(t->method, bio_write);
    BIO_meth_set_read(t->method, bio_read);
    BIO_meth_set_ctrl(t->method, bio_control);
    BIO *b = BIO_new(t->method);
    t->ssl = b ? SSL_new(t->ctx) : NULL;
    if (!t->ssl) {
        BIO_free(b);
        return memory(e);
    }
    BIO_set_data(b, (void *)(intptr_t)fd);
    BIO_set_init(b, 1);
    SSL_set_bio(t->ssl, b, b);
    return expect_host(t->ssl, host, e);
}

static bool unknown_issuer(long verdict)
{
    return verdict == X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY || verdict == X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN ||
           verdict == X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT;
}

/* After a call that did not do its work: 0 and what to wait for, or the error. */
static int stalled(struct st_tls *t, int rc, short *waits, struct st_err *e)
{
    switch (SSL_get_error(t->ssl, rc)) {
    case SSL_ERROR_WANT_READ:
        *waits = POLLIN;
        return 0;
    case SSL_ERROR_WANT_WRITE:
        *waits = POLLOUT;
        return 0;
    case SSL_ERROR_ZERO_RETURN:
        return st_fail(e, ST_IO, "closed the connection");
    }
    long verdict = SSL_get_verify_result(t->ssl);
    if (verdict != X509_V_OK)
        return st_fail(e, ST_VERIFY, "certificate: %s%s", X509_verify_cert_error_string(verdict),
                       unknown_issuer(verdict) ? " (an authority of your own: --worker-ca FILE)" : "");
    unsigned long why = ERR_peek_last_error();
    if (ERR_GET_REASON(why) == SSL_R_WRONG_VERSION_NUMBER)
        return st_fail(e, ST_INPUT, "TLS: what listens there does not speak it (tcp:// in the place of tls://?)");
    if (why && ERR_GET_REASON(why) != SSL_R_UNEXPECTED_EOF_WHILE_READING)
        return st_fail(e, ST_INPUT, "TLS: %s", ERR_reason_error_string(why) ? ERR_reason_error_string(why) : "failed");
    return st_fail(e, ST_IO, "closed the connection");
}

int st_tls_open(int fd, const char *host, const char *ca, double deadline, struct st_tls **out, struct st_err *e)
{
    struct st_tls *t;
    *out = NULL;
    if (st_alloc(&t, 1, sizeof *t, "TLS", e))
        return e->code;
    ERR_clear_error();
    int rc = set_up(t, fd, host, ca, e);
    while (!rc) {
        short waits = 0;
        ERR_clear_error();
        int done = SSL_connect(t->ssl);
        if (done == 1)
            break;
        rc = stalled(t, done, &waits, e);
        if (!rc && st_now() >= deadline) /* also of a peer that always has a little more to say */
            rc = st_fail(e, ST_IO, "timed out");
        if (!rc)
            rc = st_net_wait(fd, waits, deadline, e);
    }
    ERR_clear_error();
    if (rc) {
        st_tls_close(t);
        return rc;
    }
    *out = t;
    return 0;
}

void st_tls_close(struct st_tls *t)
{
    if (!t)
        return;
    if (t->ssl && SSL_is_init_finished(t->ssl))
        SSL_shutdown(t->ssl); /* says goodbye if that goes at once */
    SSL_free(t->ssl);
    BIO_meth_free(t->method);
    SSL_CTX_free(t->ctx);
    ERR_clear_error();
    OPENSSL_cleanse(t->stage, sizeof t->stage); /* the last record may have been a secret */
    free(t);
}

/* The next record's bytes: n pieces of which `skip` bytes are gone already. Long ones are not copied. */
static size_t next_record(struct st_tls *t, const struct iovec *v, int n, size_t skip, const void **p)
{
    size_t len = 0;
    *p = t->stage;
    for (int i = 0; i < n && len < RECORD; i++) {
        if (skip >= v[i].iov_len) {
            skip -= v[i].iov_len;
            continue;
        }
        const uint8_t *from = (const uint8_t *)v[i].iov_base + skip;
        size_t some = v[i].iov_len - skip;
        skip = 0;
        if (len == 0 && some >= RECORD) {
            *p = from;
            return RECORD;
        }
        if (some > RECORD - len)
            some = RECORD - len;
        memcpy(t->stage + len, from, some);
        len += some;
    }
    return len;
}

int st_tls_send(struct st_tls *t, const struct iovec *v, int n, size_t *sent, struct st_err *e)
{
    for (;;) {
        const void *p;
        size_t len = next_record(t, v, n, *sent, &p);
        if (len == 0)
            return 0;
        ERR_clear_error();
        int done = SSL_write(t->ssl, p, (int)len);
        if (done <= 0)
            return stalled(t, done, &t->write_waits, e);
        *sent += (size_t)done;
        t->write_waits = 0;
    }
}

int st_tls_recv(struct st_tls *t, void *p, size_t len, size_t *got, struct st_err *e)
{
    while (*got < len) {
        size_t ask = len - *got < INT_MAX ? len - *got : INT_MAX;
        ERR_clear_error();
        int n = SSL_read(t->ssl, (uint8_t *)p + *got, (int)ask);
        if (n <= 0) { /* an error behind bytes comes again with the next call */
            struct st_err why = {0};
            if (stalled(t, n, &t->read_waits, &why) && *got == 0)
                *e = why;
            return *got == 0 ? why.code : 0;
        }
        *got += (size_t)n;
        t->read_waits = 0;
    }
    return 0;
}

int st_tls_exported(struct st_tls *t, const char *label, uint8_t out[ST_TLS_EXPORTER], struct st_err *e)
{
    return st_tls_exporter(t->ssl, label, out, e);
}

bool st_tls_pending(const struct st_tls *t)
{
    return SSL_pending(t->ssl) > 0;
}

short st_tls_events(const struct st_tls *t, bool reading, bool writing)
{
    short events = 0;
    if (reading)
        events |= t->read_waits ? t->read_waits : POLLIN;
    if (writing)
        events |= t->write_waits ? t->write_waits : POLLOUT;
    return events;
}
