/* The trusted side's end towards an attested preparer: a `sotto-worker --preparer` of the weights' owner, which proves
 * by evidence what it runs (service/proof.h) before it is sent anything, for every connection anew. It makes what the
 * worker that computes must never make for this side: products of pads (it sees the masks), and W^T s of the secrets
 * of the integrity check; and it tells scales and norms. Hands them to the masks (struct st_preparer).
 *
 * What it is sent, and what comes back, passes through OpenSSL's buffers and memory of the connection, which are not
 * locked: that of a reply is wiped when the call ends, well or not, that of the last record sent when the connection
 * does. Copies of masks and secrets made here are locked where
 * the limit allows it, and wiped. Calls block, one after the other, however many threads ask; at most timeout_s each.
 */
#ifndef ST_SERVICE_PREPARER_H
#define ST_SERVICE_PREPARER_H

#include "protect/masked/scheme.h"
#include "service/worker_client.h"

struct st_preparer_client;
struct st_preparer_opts {
    const char *address; /* tls://HOST:PORT */
    const char *tls_ca;
    const uint8_t *digest;       /* [32] */
    const struct st_plan *plan;  /* placed; borrowed until free */
    struct st_proof_sides proof; /* policy: of the preparer, must be; collection: of this side, if it asks */
    double timeout_s;            /* 0 = 30 */
};
/* Errors of st_worker_client_new(), after `preparer`; USAGE: no tls:// address; INPUT: it does not serve a matrix that
 * leaves. */
int st_preparer_client_new(const struct st_preparer_opts *o, struct st_preparer_client **out,
                           struct st_err *e) ST_MUST_CHECK;
void st_preparer_client_free(struct st_preparer_client *c);
/* NULL for NULL. */
const struct st_preparer *st_preparer_client(const struct st_preparer_client *c);

#endif
