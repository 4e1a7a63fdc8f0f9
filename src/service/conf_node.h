/* One node as a client knows it: its evidence is fetched through relay and gateway, must be the bundle that the
 * directory names, and is judged by the policy; only then its keys are worth anything. The nonce of that evidence must
 * be the digest of a checkpoint that log and witnesses have signed, whose time is its age (passport). With `challenge`
 * the node is asked once more, paid, for evidence with a nonce of our own, for the same keys.
 *
 * A good verdict stands as long as attest/verdict_cache.h says; st_conf_node_stands() looks again whenever it is asked.
 * Everything runs on the thread of the event base. */
#ifndef ST_SERVICE_CONF_NODE_H
#define ST_SERVICE_CONF_NODE_H

#include "attest/directory.h"
#include "attest/verdict_cache.h"
#include "service/conf_exchange.h"
#include "service/passage.h"

/* What all nodes share; kept by its owner while there is any. */
struct st_conf_judge {
    struct st_conf_way *way;
    const struct st_policy *policy;
    struct st_verdict_cache *cache;
    bool challenge;
    uint64_t n_verified, n_failed; /* judgements, not looks into the cache */
    uint32_t n_busy;               /* nodes that are being fetched */
};

enum st_conf_state {
    ST_CONF_WANTED, /* to be fetched, from retry_at on */
    ST_CONF_FETCHING,
    ST_CONF_CHALLENGING,
    ST_CONF_GOOD,
    ST_CONF_BAD, /* the policy's word; stays until the directory names another bundle, or time changes it */
};

struct st_conf_node {
    struct st_conf_judge *j;
    struct st_directory_node listed;
    bool in_directory, replaced; /* replaced: another bundle of this node is listed, and not judged yet */
    bool was_good;               /* once, under this or an earlier bundle */
    enum st_conf_state state;
    double retry_at; /* st_now() */
    unsigned n_try;
    struct st_conf_exchange *x;
    struct st_buf body;      /* being fetched */
    uint8_t digest[32];      /* of the bundle below */
    struct st_bundle bundle; /* what is judged; has_binding once it was read */
    struct st_buf note;      /* the checkpoint whose digest is its nonce; empty of a challenged one */
    uint8_t nonce[32];
    int64_t nonce_time, judged;  /* judged: st_unix_time() */
    struct st_ohttp_config key;  /* of a good one */
    char scheme[64];             /* kinds of evidence, "tdx+nvgpu" */
    json_t *checks;              /* of the last verdict; NULL before */
    enum st_passage_fault fault; /* why it is not good */
    char why[256];
    void (*done)(void *arg, struct st_conf_node *n); /* after a fetch, in whatever state it left the node */
    void *arg;
};

/* d is copied. */
int st_conf_node_new(struct st_conf_judge *j, const struct st_directory_node *d, struct st_conf_node **out,
                     struct st_err *e) ST_MUST_CHECK;
void st_conf_node_free(struct st_conf_node *n);
/* Begins the fetch of a WANTED node; `done` tells its end, not before this returns. */
void st_conf_node_fetch(struct st_conf_node *n);
/* True for a GOOD node whose verdict still stands; one that has run out is judged again, and changes its state. */
bool st_conf_node_stands(struct st_conf_node *n);
/* Judges what is there again: a BAD one may have become good with time, or the other way round. */
void st_conf_node_again(struct st_conf_node *n);
/* Its answers do not verify: it is fetched and judged anew before it is used again. */
void st_conf_node_doubt(struct st_conf_node *n, const char *why);

#endif
