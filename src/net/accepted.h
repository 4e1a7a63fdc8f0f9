/* An accepted connection as a byte stream that never blocks: over a socket, TLS, or shared memory. For an event loop:
 * watch st_accepted_fd(), on an event st_accepted_wake(), then read and write until both give nothing, then
 * st_accepted_arm(). One thread. */
#ifndef ST_NET_ACCEPTED_H
#define ST_NET_ACCEPTED_H

#include "base/err.h"

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/uio.h>

struct st_accepted;

/* Both take fd over, also when they fail. tls NULL = plain; kept until free. The TLS handshake is part of the first
 * reads. */
int st_accepted_socket(int fd, SSL_CTX *tls, struct st_accepted **out, struct st_err *e) ST_MUST_CHECK;
/* fd: an accepted Unix socket (net/shm.h). */
int st_accepted_shm(int fd, struct st_accepted **out, struct st_err *e) ST_MUST_CHECK;
void st_accepted_free(struct st_accepted *s);

int st_accepted_fd(const struct st_accepted *s);
void st_accepted_wake(struct st_accepted *s);
/* The peer is known to be gone. Seen without reading over shared memory only; elsewhere reading and writing say it. */
bool st_accepted_gone(const struct st_accepted *s);
/* *n 0 = nothing now. IO: the peer is gone or the network failed; INPUT: it broke the transport. */
int st_accepted_read(struct st_accepted *s, void *p, size_t len, size_t *n, struct st_err *e) ST_MUST_CHECK;
int st_accepted_write(struct st_accepted *s, const struct iovec *v, int n_v, size_t *n, struct st_err *e) ST_MUST_CHECK;
/* Before waiting to read, to write, both or neither: what to watch the descriptor for. True: something can be done
 * already, do not wait. */
bool st_accepted_arm(struct st_accepted *s, bool read, bool write, bool *watch_read, bool *watch_write);
/* Bytes that bind to this connection (net/tls.h), once something was read. UNSUPPORTED: no TLS, or none that can. */
int st_accepted_exporter(struct st_accepted *s, const char *label, uint8_t out[32], struct st_err *e) ST_MUST_CHECK;
/* Nothing will be written any more. True: what the peer still sends should be read over for a while, until its end, so
 * that a reset does not destroy what it has not read yet. */
bool st_accepted_finish(struct st_accepted *s);

#endif
