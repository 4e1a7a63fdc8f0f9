/* A client's byte stream to a worker: TCP, TLS, a Unix socket or shared memory behind one interface. Sending and
 * receiving take what goes at once; only opening and waiting block, until a deadline (seconds of st_now()), so that a
 * caller can go on receiving while the other side does not take what it sends. One thread. Raises no SIGPIPE.
 *
 * Limits: host names are looked up by the system's resolver, whose own time-outs apply. TLS 1.2 or later, the
 * certificate and the name in it are always verified. */
#ifndef ST_NET_LINK_H
#define ST_NET_LINK_H

#include "base/buf.h"

#include <sys/uio.h>

struct st_link;

/* address: as in net/address.h. tls_ca: PEM file; NULL = the system's. USAGE: no such form of address; IO: cannot be
 * reached by the deadline, and why; VERIFY: its certificate; INPUT: it does not speak TLS, or offers no shared memory.
 * Messages do not name the address. */
int st_link_open(const char *address, const char *tls_ca, double deadline, struct st_link **out,
                 struct st_err *e) ST_MUST_CHECK;
void st_link_close(struct st_link *l);

/* As many bytes of v[0..n) as go now, possibly none. After a call that did not take all, the next one begins with the
 * byte behind the last that was taken. IO: `closed the connection` and the like. */
int st_link_send(struct st_link *l, const struct iovec *v, int n, size_t *sent, struct st_err *e) ST_MUST_CHECK;
/* As many bytes as are there now, possibly none. IO when the stream has ended. */
int st_link_recv(struct st_link *l, void *p, size_t len, size_t *got, struct st_err *e) ST_MUST_CHECK;
/* Waits until there may be something to receive (read) or room to send (write). IO `timed out` at the deadline. */
int st_link_wait(struct st_link *l, bool read, bool write, double deadline, struct st_err *e) ST_MUST_CHECK;
/* Bytes that bind to this connection (st_tls_exporter() in net/tls.h). UNSUPPORTED: no TLS, or none that can. */
int st_link_exporter(struct st_link *l, const char *label, uint8_t out[32], struct st_err *e) ST_MUST_CHECK;
/* True when nothing was received that nobody asked for and the other side has not closed: good for another use. */
bool st_link_quiet(struct st_link *l);

#endif
