/* How an end of a worker's connection proves what it runs: the other side sends a nonce, and evidence of the platform
 * comes back that holds for that nonce, this connection, this end of it and this model, and for nothing else.
 *
 * The binding (attest/binding.h) has the suite of key release, the nonce, the model's digest, and
 *   hpke_key    = SHA-256(label || role || exporter), each with its length as u32 before it
 *   receipt_key = SHA-256("sotto worker connection v1")
 * with the exporter of the TLS 1.3 connection (RFC 8446, 7.5; label ST_PROOF_EXPORTER), which somebody who ends TLS in
 * the middle does not have. Neither is anybody's key: a node's evidence (a key of HPKE and one of receipts) and an
 * enclave's that asks for a model's key (zeros) are not taken here, and none of these is taken there.
 *
 * A client that works from a kit (model/kit.h) has the model's digest from a line of text in it. So its binding holds
 * the digest of the kit's own files, too, in the field for an engine's (st_kit_measure()), which the policy pins
 * ("engine"): embedding, norms and biases of somebody else's making would have a genuine program tell the weights.
 *
 * It proves what was started on that machine, as far as the policy pins it; not that it has no holes. */
#ifndef ST_SERVICE_PROOF_H
#define ST_SERVICE_PROOF_H

#include "attest/collector.h"
#include "attest/policy.h"
#include "net/tls.h"

#define ST_PROOF_EXPORTER "EXPERIMENTAL-sotto-worker-proof"
#define ST_PROOF_NONCE 32

enum st_proof_role { ST_PROOF_CLIENT, ST_PROOF_WORKER, ST_PROOF_PREPARER };

/* What a proof is about. */
struct st_proof {
    enum st_proof_role role; /* of who proves itself */
    uint8_t nonce[ST_PROOF_NONCE], exporter[ST_TLS_EXPORTER], digest[32];
    const uint8_t *kit; /* [32] making, of a client: its kit's; NULL = has none */
    int64_t asked;      /* judging: when the nonce came into being */
};

/* The bundle's JSON is appended. VERIFY: the machine is no longer what it was when the collection was opened. Blocks.
 */
int st_proof_make(struct st_collection *c, const struct st_proof *p, struct st_buf *out,
                  struct st_err *e) ST_MUST_CHECK;
/* INPUT, VERIFY, POLICY: what is wrong, of evidence that the other side sent; for one's own log, not for the peer. */
int st_proof_judge(const struct st_policy *policy, const struct st_proof *p, struct st_span evidence,
                   struct st_err *e) ST_MUST_CHECK;

/* A policy file that something is given away on: POLICY: it judges signatures alone, or pins no measurements that say
 * which system and program run, so that any program on such a machine would get `what` ("the key"). */
int st_proof_policy(const char *path, const char *what, struct st_policy **out, struct st_err *e) ST_MUST_CHECK;
/* The same of clients that get weights: POLICY also when it does not say which kit they may have. */
int st_proof_client_policy(const char *path, struct st_policy **out, struct st_err *e) ST_MUST_CHECK;
/* 0 when the verdict is good; else its first check that did not pass. */
int st_proof_verdict(const struct st_policy *p, const struct st_verdict *v, struct st_err *e) ST_MUST_CHECK;

/* What one end of a connection asks of the other and can say of itself. Borrowed by those that are given it. */
struct st_proof_sides {
    const struct st_policy *policy;   /* the other side proves itself by it; NULL = need not */
    struct st_collection *collection; /* proves this side; NULL = cannot */
    const uint8_t *kit;               /* [32] of a client: st_kit_measure() of what it works from; NULL = none */
};

#endif
