/* Shared memory between a client and a worker on one machine: a byte stream in each direction through a ring, so that
 * everything above is the same as over a socket. The worker makes a memfd (sealed against shrinking and growing) and
 * passes it over a connected Unix socket; afterwards the socket carries only doorbells, one byte each, and its end says
 * that the peer is gone, however it died. The doorbells are socket bytes and no eventfds because each call on a socket
 * chooses not to block, while a peer could make a shared eventfd blocking under our hands.
 *
 * Each end keeps its own counters and reads only those of the other, checked against its own at every call: a counter
 * that goes back or beyond the ring is INPUT, and the stream is dead. Bytes are copied out before anybody looks at
 * them. A hostile peer can withhold doorbells (deadlines and idle time-outs are the caller's), never cause a fault: the
 * taker refuses memory that its maker could cut or that is no ordinary one. One thread per end. x86-64.
 *
 * The worker with libevent: watch st_shm_fd() for reading; on an event st_shm_wake(), then read, work and write until
 * st_shm_arm() says that there is nothing to do. */
#ifndef ST_NET_SHM_H
#define ST_NET_SHM_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ST_SHM_RING (4u << 20)      /* bytes of one direction unless told; pages are taken when first used */
#define ST_SHM_MIN_RING (64u << 10) /* rings are powers of two */
#define ST_SHM_MAX_RING (256u << 20)

struct st_shm;

/* The worker's end, on an accepted Unix socket; ring 0 = ST_SHM_RING. Never blocks. The client's end waits for the
 * offer until the deadline (st_now()). Both take fd over, also when they fail. IO: peer gone or late; INPUT: a wrong
 * offer; UNSUPPORTED: another version; MEMORY. */
int st_shm_offer(int fd, uint32_t ring, struct st_shm **out, struct st_err *e) ST_MUST_CHECK;
int st_shm_take(int fd, double deadline, struct st_shm **out, struct st_err *e) ST_MUST_CHECK;
void st_shm_close(struct st_shm *s);

/* The socket, non-blocking, to be watched for reading only. */
int st_shm_fd(const struct st_shm *s);
/* Takes the doorbells that have rung. */
void st_shm_wake(struct st_shm *s);
/* The peer has closed or died: seen by wake, arm and wait. What it wrote before can still be read. */
bool st_shm_gone(const struct st_shm *s);

/* Copy as much as there is, or as there is room for, and ring when the peer sleeps. *n may be 0. INPUT: the peer's
 * counters are out of bounds. */
int st_shm_read(struct st_shm *s, void *p, size_t len, size_t *n, struct st_err *e) ST_MUST_CHECK;
int st_shm_write(struct st_shm *s, const void *p, size_t len, size_t *n, struct st_err *e) ST_MUST_CHECK;

/* Asks to be rung when there are bytes to read (read) or room to write (write). True: there are already, or the peer
 * is gone, or its counters are wrong (the next call says so): do not sleep. */
bool st_shm_arm(struct st_shm *s, bool read, bool write);
/* Blocks until then: a brief spin, then sleep. IO `timed out` at the deadline. 0 when the peer is gone, too. */
int st_shm_wait(struct st_shm *s, bool read, bool write, double deadline, struct st_err *e) ST_MUST_CHECK;

#endif
