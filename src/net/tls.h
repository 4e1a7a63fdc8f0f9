/* TLS contexts from certificate files, for the servers of this folder. TLS 1.2 or later. */
#ifndef ST_NET_TLS_H
#define ST_NET_TLS_H

#include "base/err.h"

#include <openssl/ssl.h>

/* cert: chain in PEM; key: its private key in PEM, without a passphrase. *out is owned: SSL_CTX_free. IO: unreadable;
 * INPUT: names the file that is wrong. */
int st_tls_server(const char *cert, const char *key, SSL_CTX **out, struct st_err *e) ST_MUST_CHECK;

#endif
