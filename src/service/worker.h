/* The worker: serves linear layers on masked rows to many clients. Untrusted by them: it holds no key and no
 * protection, and sees residues that look uniform. One event thread for the connections, one thread for the device.
 *
 * Products that wait for the same matrices are computed together (dynamic batching), whoever they are from. A client
 * with max_pending requests, or with more than max_unsent bytes not taken, is not read until it has fewer
 * (back-pressure). A frame that breaks the protocol ends its connection after a FAILURE. SIGTERM drains: no new
 * connection, running requests finish within grace_s. */
#ifndef ST_SERVICE_WORKER_H
#define ST_SERVICE_WORKER_H

#include "field/backend.h"
#include "model/hints.h"

struct st_worker_opts {
    const struct st_served *served; /* borrowed */
    const uint8_t *digest;          /* [32] */
    const struct st_hints *hints;   /* NULL = none */
    const struct st_backend *backend;
    void *device;              /* of the backend */
    const char *const *listen; /* tcp://HOST:PORT, unix:PATH, shm:PATH */
    int n_listen;
    const char *tls_cert, *tls_key;                  /* of tcp listeners; NULL = plain */
    const char *metrics;                             /* HOST:PORT for /health and /metrics; NULL = none */
    uint32_t max_row;                                /* rows of one product, all clients together; 0 = 512 */
    uint32_t max_conn, max_pending;                  /* 0 = 256, 8 */
    double idle_s, grace_s;                          /* 0 = 600, 30 */
    void (*ready)(void *arg, const char *listening); /* each address once it listens; may be NULL */
    void *arg;
};
/* Runs until SIGTERM or SIGINT. */
int st_worker_run(const struct st_worker_opts *o, struct st_err *e) ST_MUST_CHECK;

#endif
