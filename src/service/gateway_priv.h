/* What the files of the gateway share; private to them. All on the event thread.
 *   gateway.c            life, routes, counters
 *   gateway_request.c    the inner request
 *   gateway_reply.c      the outer reply
 *   gateway_forward.c    a paid request: token, node, reply, change
 *   gateway_change.c     asking the issuer for change
 *   gateway_nodes.c      nodes, their evidence and health
 *   gateway_directory.c  log, own keys, issuer's keys, the part of the directory */
#ifndef ST_SERVICE_GATEWAY_PRIV_H
#define ST_SERVICE_GATEWAY_PRIV_H

#include "attest/policy.h"
#include "channel/ohttp.h"
#include "net/http_client.h"
#include "service/gateway.h"
#include "service/gateway_request.h"
#include "service/log_client.h"

struct st_gateway_nodes;
struct st_gateway_directory;
struct st_gateway_trip;

struct st_gateway {
    struct st_gateway_opts o;
    struct st_role *role;
    struct event_base *base;
    struct st_http_client *http;
    struct st_keyring *keys;
    struct st_policy *policy;
    struct st_spent *spent;
    struct st_gateway_nodes *nodes;
    struct st_gateway_directory *directory;
    char *log_url, *refund_url;
    struct st_buf log_key, issuer_key; /* bearer keys; wiped at the end */
    struct st_gateway_trip *trips;
    uint32_t n_trip;
    bool issuer_away;        /* said in the log */
    struct st_buf text, out; /* scratch of replies */
    struct {
        uint64_t opened, unopened, wrong, lists, bundles, paid, challenges, token_bad, token_spent, token_small, busy,
            spent_failed, node_failed, cut, broken, gone, units, changes, changes_failed, bytes_in, bytes_out;
    } n;
};

/* ---- gateway_reply.c: everything goes through g->out to the connection ---- */

/* The exchange of one client: its connection, and the two directions of its encapsulation. */
struct st_gateway_exchange {
    struct st_gateway *g;
    struct st_http_conn *conn;
    struct st_ohttp x;
    bool begun; /* a reply of pieces */
};

/* One sealed reply, padded to a bucket; ends the exchange with the connection. */
struct st_gateway_answer {
    unsigned status;
    const char *type; /* NULL = application/json */
    struct st_span content;
    struct st_bhttp_fields fields, trailers; /* fields: beside the type */
};
void st_gateway_answer(struct st_gateway_exchange *ex, const struct st_gateway_answer *a);
/* {"error": {"code": WORD}} */
void st_gateway_refuse(struct st_gateway_exchange *ex, unsigned status, const char *word,
                       struct st_bhttp_fields trailers);
/* The node's sealed reply as content of one of ours, in pieces that leave at once; then its end. After an error only
 * st_http_stream_cut() is left. */
int st_gateway_piece(struct st_gateway_exchange *ex, struct st_span piece, struct st_err *e) ST_MUST_CHECK;
void st_gateway_pieces_end(struct st_gateway_exchange *ex, struct st_bhttp_fields trailers);

/* ---- gateway_forward.c ---- */

/* Takes the exchange and the request over (both are left empty). */
void st_gateway_forward(struct st_gateway_exchange *ex, struct st_gateway_request *r);
/* The log was looked at: requests that waited for a key of the issuer's go on or end. */
void st_gateway_forward_keys(struct st_gateway *g);

/* ---- gateway_change.c ---- */

struct st_gateway_change; /* asking */
/* Has `units` given back on the blanks of ask. done is called once, later: the answer as it goes into the trailer, or
 * NULL when the issuer did not give it. NULL: nothing can be asked for, and done is not called. */
struct st_gateway_change *st_gateway_change(struct st_gateway *g, const struct st_token *t,
                                            const struct st_change_ask *ask, uint32_t units,
                                            void (*done)(void *arg, const struct st_buf *answer), void *arg);
void st_gateway_change_cancel(struct st_gateway_change *c);

/* ---- gateway_nodes.c ---- */

#define ST_GATEWAY_KEPT 4 /* bundles of one node: clients may know an older directory */
struct st_gateway_bundle {
    struct st_buf bytes, note; /* note: of the checkpoint whose digest is the nonce */
    uint8_t digest[32], hpke_key[ST_HPKE_PUBLIC_MAX], receipt_key[32];
    size_t hpke_key_len;
    double since;
};
struct st_gateway_node {
    struct st_gateway_nodes *of;
    uint8_t id[ST_NODE_ID];
    char *url, *infer_url, *attest_url, *health_url;
    char tags[ST_NODE_MAX_TAGS][ST_NODE_MAX_TAG + 1];
    size_t n_tag;
    struct st_gateway_bundle kept[ST_GATEWAY_KEPT]; /* the newest first */
    size_t n_kept;
    bool listed;     /* its evidence is good: it has bundles, and requests may go there */
    bool healthy;    /* answers */
    unsigned missed; /* refreshes in a row that did not reach it */
    char why[256];   /* it is not listed */
    struct st_http_call *asking, *health;
    struct st_buf reply;
};
struct st_gateway_nodes {
    struct st_gateway *g;
    struct st_gateway_node *node; /* [n] */
    size_t n, n_asking;
    struct event *timer; /* of health */
    struct event *late;  /* ends a round of evidence */
    uint8_t nonce[32];
    int64_t nonce_time;
    struct st_buf note;
    void (*done)(void *arg);
    void *arg;
};
int st_gateway_nodes_new(struct st_gateway *g, struct st_gateway_nodes **out, struct st_err *e) ST_MUST_CHECK;
void st_gateway_nodes_free(struct st_gateway_nodes *ns);
/* Asks every node for evidence made after this checkpoint; done is called when all have answered or failed. Nothing
 * while the last round runs. */
void st_gateway_nodes_attest(struct st_gateway_nodes *ns, const struct st_witnessed *w, struct st_span note,
                             void (*done)(void *arg), void *arg);
/* A listed node, or NULL. */
struct st_gateway_node *st_gateway_node_find(struct st_gateway_nodes *ns, const uint8_t id[ST_NODE_ID]);
/* INPUT unless these bytes are a bundle with the keys of one of this node's. */
int st_gateway_node_same_keys(const struct st_gateway_node *n, struct st_span bytes, struct st_err *e) ST_MUST_CHECK;
void st_gateway_nodes_list(const struct st_gateway_nodes *ns, const struct st_gateway_request *r, struct st_buf *out);
void st_gateway_nodes_status(const struct st_gateway_nodes *ns, struct st_buf *out);
/* Fills rows of a directory: [n] of *out, which is the caller's. */
size_t st_gateway_nodes_rows(const struct st_gateway_nodes *ns, struct st_directory_node *out);
size_t st_gateway_nodes_up(const struct st_gateway_nodes *ns, size_t *listed);

/* ---- gateway_directory.c ---- */

int st_gateway_directory_new(struct st_gateway *g, struct st_gateway_directory **out, struct st_err *e) ST_MUST_CHECK;
void st_gateway_directory_free(struct st_gateway_directory *d);
/* The issuer's key of a day and denomination that is good today, or NULL. */
const struct st_blind_rsa *st_gateway_token_key(const struct st_gateway_directory *d, uint32_t day, uint32_t units);
/* False for days and denominations that no issuer has a key for today. */
bool st_gateway_token_may_have_key(uint32_t day, uint32_t units);
/* Looks at the log, if that has not just been done; st_gateway_forward_keys() is called then, later. False: no. */
bool st_gateway_directory_look(struct st_gateway_directory *d);
/* The directory that the log shows has this gateway with a key that it takes and at least one node. */
bool st_gateway_directory_ready(const struct st_gateway_directory *d);

#endif
