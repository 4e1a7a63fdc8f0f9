/* The trusted side's end of the worker protocol: a transport for the boundary over one of several workers, and a source
 * of hints. Blocking, with a deadline on every exchange; used by the engine's thread (hints: before it starts).
 *
 * A worker that is gone, late, or speaks nonsense is closed and its exchange fails; the next exchange connects again or
 * goes to the next address. One that refuses an exchange keeps its connection when it is the only one; else the next
 * exchange goes elsewhere. One that returned a wrong product is quarantined: never used again by this process. When
 * none is left, exchanges fail with a line that says so.
 *
 * Where one side must prove what it runs, that is done anew for every connection, before anything else passes
 * (service/proof.h). */
#ifndef ST_SERVICE_WORKER_CLIENT_H
#define ST_SERVICE_WORKER_CLIENT_H

#include "engine/boundary.h"
#include "model/hints.h"
#include "net/worker_frame.h"
#include "service/proof.h"

struct st_worker_client;

struct st_worker_client_opts {
    const char *const *addresses; /* tcp://HOST:PORT, tls://HOST:PORT, unix:PATH, shm:PATH */
    int n_address;
    const char *tls_ca; /* PEM; NULL = the system's */
    const uint8_t
        *digest;      /* [32] of the model; another one is refused by name. Zeros = any (to ask what a worker has) */
    double timeout_s; /* of submit (connecting included), and of complete; 0 = 30 */
    struct st_proof_sides proof; /* policy: of workers. Borrowed until free */
    bool private_weights;        /* refuse workers that do not ask what this side runs */
    bool preparer;               /* it is one: see st_worker_client_product() */
};

/* Connects to the first worker that answers. IO: names each address and why; VERIFY: another model, or evidence that is
 * not good on either side; POLICY: the same by the policy, or a proof that is not given; UNSUPPORTED: another protocol
 * version; INPUT: nonsense. */
int st_worker_client_new(const struct st_worker_client_opts *o, struct st_worker_client **out,
                         struct st_err *e) ST_MUST_CHECK;
void st_worker_client_free(struct st_worker_client *c);
/* Matrices are found by name; an op EMBED means the embedding's transposed one (model/served.h). Up to 64 exchanges may
 * be outstanding. Replies come whole and in the shape that was asked for (else INPUT), copied out of the worker's
 * reach; whether they are right is for the caller to check. */
const struct st_transport *st_worker_client_transport(const struct st_worker_client *c);
/* INPUT `missing hints`: the worker has none; USAGE, POLICY: of a parameter set that this side does not know or
 * refuses. Several pieces are asked for ahead. Kept by c. */
int st_worker_client_hints(struct st_worker_client *c, const struct st_hint_source **out,
                           struct st_err *e) ST_MUST_CHECK;
/* Scales and norms alone (m = 0), of a preparer. Kept by c. */
const struct st_hint_source *st_worker_client_scales(struct st_worker_client *c);
/* One product of a preparer, at once: residues [x->n_row][n_in] into out, for each op [x->n_row][n_out]; or with
 * ST_WORKER_OUTPUTS residues over the outputs of all ops, [x->n_row][outputs], into out [x->n_row][n_in]. Not for rows
 * of a conversation: what is sent is read there. VERIFY: what came back is no residues. */
int st_worker_client_product(struct st_worker_client *c, struct st_exchange *x, enum st_worker_format format,
                             const uint32_t *rows, size_t n_value, uint32_t *out, size_t n_out,
                             struct st_err *e) ST_MUST_CHECK;
/* Whether a worker is there for the next exchange; tries for at most `seconds` to connect when none is. */
bool st_worker_client_ready(struct st_worker_client *c, double seconds);
/* Rows that the worker takes in one exchange: for st_boundary.max_row. */
uint32_t st_worker_client_max_row(const struct st_worker_client *c);
/* True when the worker multiplies pairs of matrices that both come from here (st_exchange.pair). */
bool st_worker_client_pairs(const struct st_worker_client *c);
/* True when the worker has that matrix in that shape. */
bool st_worker_client_has(const struct st_worker_client *c, const char *name, uint32_t n_out, uint32_t n_in);
/* The worker whose reply was completed last is never used again. */
void st_worker_client_quarantine(struct st_worker_client *c);

struct st_worker_client_stats {
    uint64_t n_exchange, n_failed, bytes_up, bytes_down;
    double wait_s; /* from the first byte sent to the last received */
    double work_s; /* of it what the worker says it computed */
    int n_quarantined;
    char address[256]; /* of the current one */
};
void st_worker_client_stats(const struct st_worker_client *c, struct st_worker_client_stats *out);

#endif
