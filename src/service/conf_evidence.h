/* A node's evidence as it comes through relay and gateway: whether it is the bundle that the directory names, binds
 * keys that we can use, and is made from a checkpoint that log and witnesses have signed. What remains to be judged
 * then is the policy's (attest/policy.h). Hostile input. */
#ifndef ST_SERVICE_CONF_EVIDENCE_H
#define ST_SERVICE_CONF_EVIDENCE_H

#include "attest/policy.h"

struct st_conf_evidence {
    struct st_bundle bundle; /* with a binding */
    uint8_t digest[32];      /* of its bytes */
    uint8_t nonce[32];       /* the digest of the checkpoint */
    int64_t nonce_time;      /* the witnesses' time of it; 0 = not known */
};

/* A bundle whose binding has a nonce of 32 bytes and keys of our suite. INPUT, VERIFY. */
int st_conf_bundle_read(struct st_span bytes, struct st_bundle *out, struct st_err *e) ST_MUST_CHECK;
/* listed: what the directory names; note: the checkpoint in base64, as the field of the reply. INPUT, VERIFY. On
 * success out->bundle is to be freed. */
int st_conf_evidence_open(struct st_span bytes, const uint8_t listed[32], struct st_span note,
                          const struct st_policy *policy, int64_t now, struct st_conf_evidence *out,
                          struct st_err *e) ST_MUST_CHECK;

#endif
