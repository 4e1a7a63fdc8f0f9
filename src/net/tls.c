#include "net/tls.h"

#include <errno.h>
#include <openssl/err.h>
#include <string.h>
#include <unistd.h>

/* OpenSSL would ask on the terminal, and a service without one would hang. */
static int no_passphrase(char *buf, int size, int writing, void *arg)
{
    (void)buf;
    (void)size;
    (void)writing;
    (void)arg;
    return -1;
}

int st_tls_server(const char *cert, const char *key, SSL_CTX **out, struct st_err *e)
{
    SSL_CTX *tls = SSL_CTX_new(TLS_server_method());
    *out = NULL;
    if (!tls)
        return st_fail(e, ST_MEMORY, "TLS: no memory");
    SSL_CTX_set_min_proto_version(tls, TLS1_2_VERSION);
    SSL_CTX_set_mode(tls, SSL_MODE_RELEASE_BUFFERS);
    /* A client that changes its keys without end must not hold one SSL_read() for ever: others wait for that thread. */
    SSL_CTX_clear_mode(tls, SSL_MODE_AUTO_RETRY);
    SSL_CTX_set_default_passwd_cb(tls, no_passphrase);
    int rc = 0;
    if (access(cert, R_OK) != 0)
        rc = st_fail(e, ST_IO, "%s: cannot open: %s", cert, strerror(errno));
    else if (access(key, R_OK) != 0)
        rc = st_fail(e, ST_IO, "%s: cannot open: %s", key, strerror(errno));
    else if (SSL_CTX_use_certificate_chain_file(tls, cert) != 1)
        rc = st_fail(e, ST_INPUT, "%s: want a PEM certificate chain", cert);
    else if (SSL_CTX_use_PrivateKey_file(tls, key, SSL_FILETYPE_PEM) != 1 || SSL_CTX_check_private_key(tls) != 1)
        rc = st_fail(e, ST_INPUT, "%s: want the PEM private key of %s, without a passphrase", key, cert);
    ERR_clear_error();
    if (rc)
        SSL_CTX_free(tls);
    else
        *out = tls;
    return rc;
}

int st_tls_exporter(SSL *ssl, const char *label, uint8_t out[ST_TLS_EXPORTER], struct st_err *e)
{
    /* Before 1.3 two connections can be made to share these bytes (RFC 7627). */
    if (SSL_version(ssl) != TLS1_3_VERSION || !SSL_is_init_finished(ssl) ||
        SSL_export_keying_material(ssl, out, ST_TLS_EXPORTER, label, strlen(label), NULL, 0, 0) != 1) {
        ERR_clear_error();
        return st_fail(e, ST_UNSUPPORTED, "nothing can be bound to this connection: want TLS 1.3");
    }
    return 0;
}
