/* The worker: serves linear layers on masked rows to many clients. Untrusted by them: it holds no key and no
 * protection, and sees residues that look uniform. One event thread for the connections, one thread for the device; but
 * while one client alone is connected and nothing else waits, its product is computed on the event thread, which then
 * stays awake for 150 us for the next one: handing a product to the other thread and back took longer than a small one.
 *
 * Products that wait for the same matrices are computed together (dynamic batching), whoever they are from; requests of
 * one client keep their order, and clients have their turn one after the other. A client with max_pending requests, or
 * whose next request finds no memory, is not read for a while (back-pressure). A request that cannot be served is
 * answered by a FAILURE with its id; a frame that breaks the protocol ends its connection after a FAILURE with id 0.
 * SIGTERM drains: no new connection, running requests finish within grace_s. Logs and metrics count; they never hold
 * rows.
 *
 * Weights that clients may not learn: with proof.policy a client gets no product and no hint before its evidence was
 * good, for this connection; what it hears of a refusal is always the same. With proof.collection the worker proves
 * itself to clients that ask. A preparer is a worker that clients trust by such a proof: it tells scales and norms of
 * columns, and multiplies secrets of theirs with the weights and with the transposed weights; a request's memory is
 * overwritten when its reply has left (not what the device and TLS copied of it). When evidence of this side does not
 * hold any more, all connections end. All of these want TLS 1.3 on every listener. */
#ifndef ST_SERVICE_WORKER_H
#define ST_SERVICE_WORKER_H

#include "field/backend.h"
#include "model/hints.h"
#include "service/proof.h"

struct st_worker_opts {
    const struct st_served *served; /* borrowed */
    const uint8_t *digest;          /* [32] */
    const struct st_hints *hints;   /* NULL = none */
    const struct st_backend *backend;
    void *device;              /* of the backend */
    const char *const *listen; /* tcp://HOST:PORT, tls://HOST:PORT, unix:PATH, shm:PATH */
    int n_listen;
    const char *tls_cert, *tls_key; /* make tcp listeners tls ones; NULL = plain */
    struct st_proof_sides proof;    /* borrowed; policy: of clients */
    bool preparer;                  /* needs proof.collection, and takes no hints */
    bool pairs;          /* multiplies two matrices of a client's (PAIR); no preparer, and a device that can */
    const char *metrics; /* HOST:PORT for /health and /metrics; NULL = none */
    uint32_t max_row;    /* rows of one product, all clients together, at most the device's; 0 = 512 */
    uint32_t max_conn, max_pending; /* 0 = 256, 8 */
    size_t max_memory; /* of requests and replies, a batch side by side not included; 0 = a quarter of what is free */
    /* Without a request; for a frame to arrive, and a reply to leave (longer for long ones); to drain. 0 = 600, 30, 30,
     * 30. */
    double idle_s, receive_s, send_s, grace_s;
    /* Each address once it listens, as a client writes it; the metrics' URL. May be NULL. */
    void (*ready)(void *arg, const char *listening);
    void *arg;
};
/* Runs until SIGTERM or SIGINT. IO, USAGE: names the address; VERIFY: hints of another model, or its evidence does not
 * hold any more. */
int st_worker_run(const struct st_worker_opts *o, struct st_err *e) ST_MUST_CHECK;

#endif
