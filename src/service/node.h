/* sotto-node: beside an engine inside of a trusted execution environment, where sealed requests are opened. Makes its
 * keys, proves them by evidence (attest/binding.h), opens what is sealed for them, hands the engine the fields that it
 * knows, seals the reply in chunks of one size and signs a receipt. docs/confidential.md has the protocol.
 *
 * Who reaches its port sees sealed bytes, their sizes and times, evidence and counters. Nothing of a request is
 * written, logged or kept. Keys live in memory, are replaced every rotate_s, and die with the process: on SIGTERM after
 * running replies had their grace, and at once, every reply cut, when the evidence they stand on does not hold any
 * more. Whatever does not open gets 400 without a body, always the same.
 * Limits: requests of ST_CONFIDENTIAL_MAX_REQUEST sealed bytes; text only; one engine; what the engine itself writes or
 * logs is the measured image's affair. */
#ifndef ST_SERVICE_NODE_H
#define ST_SERVICE_NODE_H

#include "attest/collector.h"
#include "service/role.h"

struct st_node_opts {
    struct st_role_opts listen; /* host, port, TLS, connections, grace; the rest is the node's */
    const char *upstream;       /* service/node_engine.h */
    const char *model;          /* file or directory whose digest is stated; NULL = none is */
    char *const *command;     /* NULL-ended: the engine, as a child whose digest is stated; NULL = it runs by itself */
    const char *const *kinds; /* of evidence */
    size_t n_kind;
    struct st_collect_opts collect;
    size_t chunk;         /* 0 = ST_CONFIDENTIAL_CHUNK */
    size_t max_requests;  /* of one pair of keys; 0 = 2^20 */
    double rotate_s;      /* 0 = 3600 */
    double key_grace_s;   /* of the pair before; 0 = 600 */
    double cadence_s;     /* service/node_stream.h; 0 = as produced */
    double engine_wait_s; /* until the engine answers, at the start; 0 = 600 */
    bool sandbox;         /* gives up what it does not need any more (base/sandbox.h): for a process of its own */
    bool progress;        /* draw a bar while the model is read */
};

struct st_node;
/* Reads the model, starts the engine and waits for it, makes keys and one bundle, opens the port. POLICY: an engine
 * elsewhere, or one that cannot keep clients apart; UNSUPPORTED: evidence that this machine does not have; USAGE,
 * INPUT, IO. *o and what it points at are kept. */
int st_node_new(const struct st_node_opts *o, struct st_node **out, struct st_err *e) ST_MUST_CHECK;
/* Ends what runs; keys are overwritten. */
void st_node_free(struct st_node *n);

struct st_node_about {
    const char *url;
    int port;
    const char *engine, *cache;                  /* its name; what keeps clients apart */
    const uint8_t *model_digest, *engine_digest; /* [32]; NULL = not stated */
    const char *sandbox;                         /* "" = none */
};
void st_node_about(const struct st_node *n, struct st_node_about *out);

/* Until SIGTERM: 0. VERIFY: the evidence does not hold any more; IO: the engine that it started has ended. */
int st_node_run(struct st_node *n, struct st_err *e) ST_MUST_CHECK;
/* The same in a thread of its own, without signals; stop returns what run would have. */
int st_node_start(struct st_node *n, struct st_err *e) ST_MUST_CHECK;
int st_node_stop(struct st_node *n, struct st_err *e) ST_MUST_CHECK;

#endif
