/* The passage of `sotto proxy --protect confidential`: finds nodes, judges their evidence, pays, seals, opens, checks
 * receipts. Nothing of a request leaves before log, directory, evidence and policy are all in order; see
 * docs/confidential.md for the protocol, service/conf_nodes.h for how nodes are chosen.
 *
 * A request goes to one node. When that cannot be reached, or breaks off before the first byte of its answer, another
 * one is tried; after that byte never. What does not verify is never tried again: it is an error `integrity`. How much
 * a token should be worth: price.request and, for each token that the reply may have (max_tokens times n), one chunk of
 * a stream or 8 bytes of a whole reply; 64 units when nothing is said; change comes back. A client that leaves before
 * the end of its reply forfeits the change. */
#ifndef ST_SERVICE_CONF_CLIENT_H
#define ST_SERVICE_CONF_CLIENT_H

#include "service/passage.h"

#define ST_CONF_MAX_BODY                                                                                               \
    (((size_t)2 << 20) - 4096) /* of a request, so that what is sealed around it stays in limits                       \
                                */

struct st_conf_client_opts {
    const char *policy;                /* file; must name a log */
    const char *relay;                 /* URL */
    const char *log;                   /* URL; NULL = through the relay */
    const char *issuer;                /* URL */
    const char *account_file;          /* the account's key at the issuer */
    const char *wallet;                /* file, ":memory:" */
    const char *log_state;             /* file: the log's last checkpoint; NULL = not kept */
    const char *gateway, *issuer_name; /* names in the directory; NULL = the only one; kept */
    const char *const *tags;           /* that nodes must have, "model=demo"; kept */
    size_t n_tag;
    const char *ca_bundle; /* for TLS; NULL = the system's */
    const char *receipts;  /* directory for receipts and what they are about; NULL = not kept; kept */
    bool challenge;        /* ask each node for evidence with a nonce of ours, too */
    bool show_egress;      /* print what leaves on standard error */
    double stall_s;        /* nothing comes for so long: 0 = 300 */
    uint32_t n_retry;      /* other nodes to try */
    uint32_t max_live;     /* requests at once; 0 = 1024 */
};
/* For st_passage_source. USAGE, IO, INPUT; POLICY for a policy that judges signatures only, or names no log. */
int st_conf_client_open(const void *opts, struct event_base *base, struct st_passage_ref *out, struct st_err *e);

#endif
