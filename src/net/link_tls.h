/* The TLS kind of a client's link (net/link.h): OpenSSL on a non-blocking socket that the link owns. */
#ifndef ST_NET_LINK_TLS_H
#define ST_NET_LINK_TLS_H

#include "base/buf.h"

#include <sys/uio.h>

struct st_tls;

/* Shakes hands and verifies chain and name (or IP address) of the certificate. ca: PEM; NULL = the system's. VERIFY,
 * IO, INPUT as of st_link_open(). */
int st_tls_open(int fd, const char *host, const char *ca, double deadline, struct st_tls **out,
                struct st_err *e) ST_MUST_CHECK;
void st_tls_close(struct st_tls *t);
int st_tls_send(struct st_tls *t, const struct iovec *v, int n, size_t *sent, struct st_err *e) ST_MUST_CHECK;
int st_tls_recv(struct st_tls *t, void *p, size_t len, size_t *got, struct st_err *e) ST_MUST_CHECK;
/* As st_tls_exporter() of net/tls.h. */
int st_tls_exported(struct st_tls *t, const char *label, uint8_t out[32], struct st_err *e) ST_MUST_CHECK;
/* Bytes are decrypted already: there is nothing to wait for. */
bool st_tls_pending(const struct st_tls *t);
/* What poll(2) should wait for. */
short st_tls_events(const struct st_tls *t, bool read, bool write);

#endif
