/* One connection of a client to a worker: the handshake, the worker's list of matrices, whole frames out and in.
 * Frames that arrive while one is sent are taken meanwhile, so that two sides that both wait to be read cannot stand
 * still. What the worker says is checked before memory is taken for it. Any error ends the connection: the caller
 * closes it. One thread. */
#ifndef ST_SERVICE_WORKER_CONN_H
#define ST_SERVICE_WORKER_CONN_H

#include "net/link.h"
#include "net/worker_frame.h"
#include "service/proof.h"

/* The matrices of a worker, to be found by name. */
struct st_worker_list {
    struct st_worker_welcome welcome;
    uint32_t *sorted; /* [welcome.n] ids in the order of names */
};
/* INPUT: two have one name. Takes the welcome's weights over. */
int st_worker_list_init(struct st_worker_list *l, struct st_worker_welcome *w, struct st_err *e) ST_MUST_CHECK;
void st_worker_list_free(struct st_worker_list *l);
/* An id, or -1. */
int64_t st_worker_list_find(const struct st_worker_list *l, const char *name);

struct st_worker_conn;

/* What to do with frames of the worker. Both return 0, or an error that ends the connection. */
struct st_worker_taker {
    /* Memory for the payload, h->len bytes, kept until `arrived`. */
    int (*place)(void *arg, const struct st_worker_head *h, void **payload, struct st_err *e);
    int (*arrived)(void *arg, const struct st_worker_head *h, struct st_span payload, struct st_err *e);
    void *arg;
};

/* What is asked of every connection. */
struct st_worker_terms {
    const char *tls_ca;          /* PEM; NULL = the system's */
    const uint8_t *digest;       /* [32] of the model that the worker must have; zeros = any */
    struct st_proof_sides proof; /* policy: of the worker; it proves itself first, then this side does if it must */
    bool private_weights;        /* a worker that does not ask this side for evidence is refused */
    bool preparer;               /* it must be one */
};
/* Greets, and lets both sides prove what they must. Fills list, which the caller frees. IO, VERIFY, UNSUPPORTED, INPUT
 * as of st_worker_client_new(), POLICY also; messages do not name the address. */
int st_worker_conn_open(const char *address, const struct st_worker_terms *terms, double deadline,
                        const struct st_worker_taker *taker, struct st_worker_conn **out, struct st_worker_list *list,
                        struct st_err *e) ST_MUST_CHECK;
void st_worker_conn_close(struct st_worker_conn *c);
/* Sends head, then body, whole. */
int st_worker_conn_send(struct st_worker_conn *c, struct st_span head, struct st_span body, double deadline,
                        struct st_err *e) ST_MUST_CHECK;
/* Takes frames until *stop is true. IO `timed out`. */
int st_worker_conn_take(struct st_worker_conn *c, const bool *stop, double deadline, struct st_err *e) ST_MUST_CHECK;
/* Nothing was received that nobody asked for, and the worker has not closed. */
bool st_worker_conn_quiet(struct st_worker_conn *c);

/* The payload of a FAILURE into said: `it says: TEXT`, with a code that a worker may give: VERIFY (another model) in
 * greeting alone. INPUT: it is none. */
int st_worker_says(struct st_span payload, bool greeting, struct st_err *said, struct st_err *e) ST_MUST_CHECK;

#endif
