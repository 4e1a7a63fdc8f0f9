/* A node's evidence: bundles for its current keys and a nonce of the asker's, collected on a thread of its own, and the
 * watch over what they stand on. More than once a second, on another thread, every collector is asked whether what it
 * said still holds; the moment it does not, `lost` is called, and the node's keys must die. A caller that needs to know
 * now, for a request, asks st_node_evidence_sure().
 * Limits: MAX_WAITING askers wait, CACHED bundles of the current keys are kept (node_evidence.c). Event thread. */
#ifndef ST_SERVICE_NODE_EVIDENCE_H
#define ST_SERVICE_NODE_EVIDENCE_H

#include "attest/collector.h"
#include "service/node_keys.h"

#include <event2/event.h>

#define ST_NODE_NONCE 32

struct st_node_evidence;
struct st_node_evidence_opts {
    struct event_base *base;
    const char *const *kinds;
    size_t n_kind;
    const struct st_collect_opts *collect; /* read while it is made */
    const struct st_node_keys *keys;       /* kept */
    struct st_binding states;              /* engine and model digest, if they are stated */
    void (*lost)(void *arg, const struct st_err *why);
    void (*checked)(void *arg); /* all holds, as of now */
    void *arg;
};
/* UNSUPPORTED, INPUT, USAGE as st_collection_open(). */
int st_node_evidence_new(const struct st_node_evidence_opts *o, struct st_node_evidence **out,
                         struct st_err *e) ST_MUST_CHECK;
void st_node_evidence_free(struct st_node_evidence *v);
/* One bundle at once, for nobody: whether this machine gives evidence at all. Blocks; before the start only. */
int st_node_evidence_try(struct st_node_evidence *v, struct st_err *e) ST_MUST_CHECK;

/* For the sandbox. */
void st_node_evidence_needs(const struct st_node_evidence *v, struct st_collect_needs *out);
/* Starts the two threads; nothing below may be called before. */
int st_node_evidence_start(struct st_node_evidence *v, struct st_err *e) ST_MUST_CHECK;

/* Who waits for a bundle. Its memory is the caller's until `answer`, which is called once (now or later) unless it is
 * withdrawn. json NULL: it cannot be had now. */
struct st_node_asker {
    struct st_node_asker *next;
    uint8_t nonce[ST_NODE_NONCE];
    void (*answer)(struct st_node_asker *a, const struct st_buf *json);
};
void st_node_evidence_ask(struct st_node_evidence *v, struct st_node_asker *a);
void st_node_evidence_withdraw(struct st_node_evidence *v, struct st_node_asker *a);
/* The current keys are others: what is cached is of no use any more. */
void st_node_evidence_rotated(struct st_node_evidence *v);
/* True when the last check is at most a second old; otherwise one is under way, and `checked` or `lost` will be
 * called. */
bool st_node_evidence_sure(struct st_node_evidence *v);
uint64_t st_node_evidence_count(const struct st_node_evidence *v); /* bundles collected */

#endif
