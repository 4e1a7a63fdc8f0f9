/* The verified nodes of one gateway: the log's directory is asked on a timer, each node's evidence is fetched and
 * judged ahead of need (service/conf_node.h), and requests pick one of the good ones, all alike.
 *
 * Gateway key, prices and issuer keys of the directory are handed on to *way and its wallet. A node whose listed bundle
 * changed goes on with the one before until the new one is judged. Nothing is picked when the witnesses' time is older
 * than the policy's max_age_s, or when fewer nodes than the policy's min_nodes are good: then the fault says why.
 * Everything runs on the thread of the event base. */
#ifndef ST_SERVICE_CONF_NODES_H
#define ST_SERVICE_CONF_NODES_H

#include "service/conf_node.h"

#define ST_CONF_MAX_MODELS 64

struct st_conf_nodes;
struct st_conf_nodes_opts {
    struct st_conf_way *way;        /* kept */
    const struct st_policy *policy; /* kept; names a log */
    const char *log_url, *state_file;
    const char *gateway, *issuer; /* names in the directory; NULL = the only one; kept */
    const char *const *tags;      /* that a node must have; kept */
    size_t n_tag;
    bool challenge;
    uint32_t stock; /* units that the wallet should hold */
};

int st_conf_nodes_new(const struct st_conf_nodes_opts *o, struct st_conf_nodes **out, struct st_err *e) ST_MUST_CHECK;
void st_conf_nodes_free(struct st_conf_nodes *c);

/* What a request needs of a node; copied, so that it outlives the node. */
struct st_conf_pick {
    uint8_t id[ST_NODE_ID], bundle[32];
    struct st_ohttp_config key;
    uint8_t receipt_key[32], model[32];
};
/* One of the good nodes that offer the model (NULL or "" = any), uniformly, but none of tried. On error *fault says
 * what kind. */
int st_conf_nodes_pick(struct st_conf_nodes *c, const char *model, const uint8_t (*tried)[ST_NODE_ID], size_t n_tried,
                       struct st_conf_pick *out, enum st_passage_fault *fault, struct st_err *e) ST_MUST_CHECK;
/* A reply of this node did not verify. */
void st_conf_nodes_doubt(struct st_conf_nodes *c, const uint8_t id[ST_NODE_ID], const char *why);
/* Something may have changed over there: asks the log, and for evidence that could not be fetched, soon. */
void st_conf_nodes_look(struct st_conf_nodes *c);
/* The bundle of evidence that a pick rests on, as JSON, and the checkpoint that its nonce is the digest of, empty when
 * the nonce was ours; false when it is not there any more. */
bool st_conf_nodes_bundle(const struct st_conf_nodes *c, const uint8_t digest[32], struct st_buf *out,
                          struct st_buf *note);

/* Names of models that good nodes offer (tags model=NAME), each once; borrowed until the next call. */
size_t st_conf_nodes_models(struct st_conf_nodes *c, const char **out[]);
const char *st_conf_nodes_scheme(const struct st_conf_nodes *c); /* kinds of evidence of the first good node */
void st_conf_nodes_counts(const struct st_conf_nodes *c, uint64_t *verified, uint64_t *failed);
/* "ok", or the word of what is missing, and why; borrowed. */
const char *st_conf_nodes_state(struct st_conf_nodes *c, const char **why);
/* Adds "log", "directory" and "nodes" to o. */
void st_conf_nodes_detail(struct st_conf_nodes *c, json_t *o);

#endif
