/* The gateway: the target of clients' Oblivious HTTP (docs/confidential.md). It lists nodes whose evidence its own
 * policy accepts, takes a blind token for each request, passes the sealed request to the node that the client chose and
 * the sealed reply back, chunk by chunk, and has the issuer give change.
 *
 * It sees tokens (day and denomination), which node, sizes and times. It sees no client's address (its peer is a relay)
 * and no content, and it holds no key that opens any. It writes down the digests of spent tokens and nothing of a
 * request; log and metrics count.
 *
 * Its own key is made in memory at start and rotated; a new one is in the directory before any client uses it, and the
 * old one is taken until the directory has moved on and a time of grace has passed (two epochs, when somebody fills the
 * set of requests that a key has seen). Node evidence is fetched at every
 * refresh with the newest checkpoint as nonce. A node whose evidence is refused leaves the list at once.
 *
 * A request goes to its node once nobody else can have its token, and the reply's first byte leaves once the token is
 * spent durably. When the database of spent tokens is away everything paid is refused. Whoever is refused after that,
 * because the node cannot be reached, gets all of it back as change, as long as the issuer can be reached.
 * One thread, and one for the database. */
#ifndef ST_SERVICE_GATEWAY_H
#define ST_SERVICE_GATEWAY_H

#include "service/role.h"
#include "service/spent.h"

struct st_gateway;

struct st_gateway_opts {
    struct st_role_opts listen; /* where; limits of bodies, handlers and arg are the gateway's own */
    const char *name;           /* in the directory */
    const char *const *nodes;   /* "URL [TAG...]" each */
    size_t n_node;
    const char *policy;                         /* file: which nodes are accepted, and the log that is believed */
    const char *log, *log_key_file, *log_state; /* base URL; a submitter's key; NULL = remembered while it runs */
    const char *issuer, *issuer_key_file;       /* base URL; a gateway's key there */
    const char *issuer_name;                    /* in the directory; NULL = the only one there */
    const char *ca_bundle;                      /* PEM; NULL = the system's */
    uint32_t price_request;                     /* units of a request */
    uint64_t unit_bytes;                        /* sealed bytes of a reply that one further unit pays for; 0 = 64 KiB */
    struct st_spent_opts spent;
    double refresh_s;            /* log and evidence are looked at; 0 = 60 */
    double evidence_s;           /* good evidence is replaced in the directory when it is so old; 0 = 300 */
    double attest_s;             /* all nodes together may take so long for evidence; 0 = 60 */
    double health_s;             /* 0 = 5 */
    double rotate_s, keep_key_s; /* of the gateway's key; the old one is kept so long; 0 = a day, an hour */
    uint32_t max_streams;        /* paid requests at once; 0 = 4096 */
    uint32_t max_requests;       /* of one key before it rotates early; 0 = 2^20 */
    double connect_s, stall_s;   /* to nodes; no byte of a reply for so long ends it; 0 = 3, 300 */
};

/* Opens the port; asks log and nodes once it runs. Strings of *o are kept until st_gateway_free(). Errors: files;
 * POLICY (a policy of signatures alone or without a log, keys over plain HTTP beyond loopback); USAGE; st_spent_open();
 * st_role_listen(). */
int st_gateway_new(const struct st_gateway_opts *o, struct st_gateway **out, struct st_err *e) ST_MUST_CHECK;
struct st_role *st_gateway_role(struct st_gateway *g); /* to run it */
void st_gateway_free(struct st_gateway *g);

#endif
