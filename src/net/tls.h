/* TLS contexts from certificate files, for the servers of this folder (TLS 1.2 or later); what binds to a connection.
 */
#ifndef ST_NET_TLS_H
#define ST_NET_TLS_H

#include "base/err.h"

#include <openssl/ssl.h>
#include <stdint.h>

/* cert: chain in PEM; key: its private key in PEM, without a passphrase. *out is owned: SSL_CTX_free. IO: unreadable;
 * INPUT: names the file that is wrong. */
int st_tls_server(const char *cert, const char *key, SSL_CTX **out, struct st_err *e) ST_MUST_CHECK;

#define ST_TLS_EXPORTER 32
/* Bytes that both ends of this one connection can derive, and nobody else: not who stands between two connections, nor
 * either end for another connection (RFC 8446, 7.5). For what must hold on this connection alone, as evidence.
 * UNSUPPORTED: not TLS 1.3, or hands are not shaken yet. */
int st_tls_exporter(SSL *ssl, const char *label, uint8_t out[ST_TLS_EXPORTER], struct st_err *e) ST_MUST_CHECK;

#endif
