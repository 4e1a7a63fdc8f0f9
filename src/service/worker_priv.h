/* What the files of the worker share. Event thread: everything but the inside of a queue's running batch. A request is
 * one object from the frame that asks to the reply that has left; its memory is reused. */
#ifndef ST_SERVICE_WORKER_PRIV_H
#define ST_SERVICE_WORKER_PRIV_H

#include "net/accepted.h"
#include "net/worker_frame.h"
#include "service/worker.h"

#include <event2/event.h>

struct st_worker;
struct st_worker_peer;
struct st_worker_queue;

/* Requests of one client keep their order: the queue's mark while it chooses a batch. */
struct st_worker_lane {
    uint64_t passed_over;
    uint64_t served; /* turn of the last batch with one of its requests */
};

struct st_worker_request {
    struct st_worker_request *next;
    struct st_worker_peer *conn; /* NULL: the client is gone */
    struct st_worker_lane *lane;
    uint64_t id;
    struct st_worker_multiply what; /* rows unused; of a PAIR what its reply is like: n_a rows of one matrix */
    struct st_worker_pair pair;     /* n_inner 0: it is a MULTIPLY; rows unused */
    void *memory;                   /* rows, then values */
    size_t cap;
    uint32_t *rows; /* [n_row][n_in], residues or f32 */
    size_t rows_len;
    uint8_t *values; /* per weight [n_row][n_out] */
    size_t values_len;
    struct st_err err;            /* code 0: values are there */
    uint32_t work_us, batch_rows; /* of its batch; batch_rows 0 but in the first of a batch */
    struct st_buf head;           /* the reply: this, then body */
    struct st_span body;
    size_t sent;
};

/* worker_memory.c: requests and their memory, within a budget. ----------------------------------------------------- */
struct st_worker_memory {
    size_t budget, total; /* bytes of all requests, idle ones too */
    bool wipe;            /* overwrite what comes back */
    struct st_worker_request *idle;
};
/* Room for rows and values. *out NULL: not now. */
int st_worker_memory_take(struct st_worker_memory *m, size_t rows_len, size_t values_len,
                          struct st_worker_request **out, struct st_err *e) ST_MUST_CHECK;
void st_worker_memory_give(struct st_worker_memory *m, struct st_worker_request *r);
void st_worker_memory_free(struct st_worker_memory *m);
size_t st_worker_memory_need(size_t rows_len, size_t values_len);

/* worker_queue.c: requests that wait, and the device's thread. ----------------------------------------------------- */
int st_worker_queue_new(const struct st_worker_opts *o, uint32_t max_row, struct st_worker_queue **out,
                        struct st_err *e) ST_MUST_CHECK;
/* Ends the thread after its current batch. All requests come back in a list. */
struct st_worker_request *st_worker_queue_free(struct st_worker_queue *q);
/* Readable when requests are done. */
int st_worker_queue_fd(const struct st_worker_queue *q);
/* here: when nothing waits and nothing runs, compute it on this thread, which saves two wake-ups. */
void st_worker_queue_push(struct st_worker_queue *q, struct st_worker_request *r, bool here);
struct st_worker_request *st_worker_queue_done(struct st_worker_queue *q);
/* The client leaves: its waiting requests come back in a list, those being computed lose it. */
struct st_worker_request *st_worker_queue_forget(struct st_worker_queue *q, const struct st_worker_peer *c);

/* worker_proof.c: what the two ends of a connection prove to each other (service/proof.h). --------------------------
 */
struct st_worker_proving;
struct st_worker_wait { /* a place in a list */
    struct st_worker_wait *next;
    struct st_worker_proving *of;
};
struct st_worker_proving { /* of one client */
    struct st_worker_wait collecting, place;
    struct st_worker_peer *conn;
    struct st_accepted *stream;
    uint64_t source;   /* st_net_source() of its address */
    uint8_t *evidence; /* as it arrives */
    size_t evidence_len;
    bool waits, has_place;         /* for one of the few that may send evidence at a time; is one of them */
    uint8_t nonce[ST_PROOF_NONCE]; /* of this side's challenge */
    uint8_t theirs[ST_PROOF_NONCE];
    int64_t asked;  /* unix time of this side's */
    double until;   /* its answer must be here by then */
    bool has_asked; /* theirs has come */
};
struct st_worker_proofs;
int st_worker_proofs_new(struct st_worker *w, struct st_err *e) ST_MUST_CHECK;
void st_worker_proofs_free(struct st_worker_proofs *p);
/* Once a second: whether the machine is still what this side's evidence says. When it is not, w->lost says so and the
 * loop breaks. */
void st_worker_proofs_watch(struct st_worker *w);
/* A nonce for the client. */
int st_worker_proofs_challenge(struct st_worker_proving *c, struct st_err *e) ST_MUST_CHECK;
/* Memory for len bytes of the client's evidence, c->evidence. *there false: not now, st_worker_peer_retry() will come.
 * Few have it at a time; addresses have their turn one after the other. */
int st_worker_proofs_place(struct st_worker *w, struct st_worker_proving *c, size_t len, bool *there,
                           struct st_err *e) ST_MUST_CHECK;
/* The client sends no evidence any more. */
void st_worker_proofs_leave(struct st_worker *w, struct st_worker_proving *c);
/* c->evidence is whole; it is taken over. Then st_worker_peer_judged(); the log says what was wrong. */
void st_worker_proofs_judge(struct st_worker *w, struct st_worker_proving *c);
/* Collects evidence for `theirs`: then st_worker_peer_proved(). One at a time, the addresses by turns. */
void st_worker_proofs_ask(struct st_worker *w, struct st_worker_proving *c);
void st_worker_proofs_forget(struct st_worker *w, struct st_worker_proving *c);

/* worker_metrics.c ------------------------------------------------------------------------------------------------- */
struct st_http_server;
enum { ST_WORKER_N_BUCKET = 11 };
struct st_worker_counts {
    uint64_t connections_total, requests, hints, failures, rows, batches, bytes_in, bytes_out;
    uint64_t admitted, refused;             /* clients that proved what they run, or did not */
    uint64_t batch[ST_WORKER_N_BUCKET + 1]; /* by rows: 1, 2, 4 ... 1024, more */
    double work_s;
};
void st_worker_count_batch(struct st_worker_counts *n, uint32_t rows, double seconds);
int st_worker_metrics_new(struct st_worker *w, const char *address, struct st_http_server **out,
                          struct st_err *e) ST_MUST_CHECK;

/* worker_listen.c: the addresses. ---------------------------------------------------------------------------------- */
struct st_worker_listener;
int st_worker_listen(struct st_worker *w, const char *address, struct st_worker_listener **out,
                     struct st_err *e) ST_MUST_CHECK;
/* Removes the socket file, too. */
void st_worker_unlisten(struct st_worker_listener *l);
/* "tcp://127.0.0.1:7790", as a client would write it. */
const char *st_worker_listening(const struct st_worker_listener *l);

/* worker_peer.c: one client. --------------------------------------------------------------------------------------- */
/* Takes the stream over; source: st_net_source() of its address. Over max_conn: a connection that has not said HELLO
 * gives way, or one that has not proved what it must, else this one is refused. So it is when many from there have
 * proved nothing yet. */
void st_worker_peer_new(struct st_worker *w, struct st_accepted *s, uint64_t source);
void st_worker_peer_free(struct st_worker_peer *c);
/* A request of this client is done: send the reply. */
void st_worker_peer_reply(struct st_worker_peer *c, struct st_worker_request *r);
/* This side's evidence for the client's challenge; NULL: there is none, the log says why. */
void st_worker_peer_proved(struct st_worker_peer *c, const struct st_buf *evidence);
/* The verdict on its evidence. */
void st_worker_peer_judged(struct st_worker_peer *c, bool good);
/* Memory came back: try again. */
void st_worker_peer_retry(struct st_worker_peer *c);
/* All clients: no further request; each ends when its last reply has left. */
void st_worker_peer_drain(struct st_worker *w);
/* Ends those that are over their time. Once a second. */
void st_worker_peer_sweep(struct st_worker *w);

struct st_worker {
    struct st_worker_opts o; /* no zeros */
    uint64_t max_payload;
    struct event_base *base;
    SSL_CTX *tls;
    struct st_worker_memory memory;
    struct st_worker_queue *queue;
    struct st_worker_proofs *proofs; /* NULL: nobody proves anything */
    float **norms;                   /* of a preparer: [served->n][n_out] */
    struct st_buf welcome;           /* the whole frame */
    struct st_worker_counts n;
    struct st_worker_peer *conns, *waiting; /* waiting: for memory, the longest first */
    uint32_t n_conn;
    bool draining;
    double awake_until; /* the event loop does not sleep before */
    struct st_err lost; /* code not 0: this side's evidence does not hold any more */
};

#endif
