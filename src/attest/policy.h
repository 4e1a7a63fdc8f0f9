/* The client's policy, and the one place that judges. A policy is a JSON file of the client's; it never comes from a
 * server. Every check of every item and every demand of the policy is one line of the verdict; the verdict is good only
 * when all of them passed, and starts as bad.
 *
 * {"version": 1,
 *  "require": ["tdx", "nvgpu"] or "any",        kinds that must be there (any: one of those this build knows, never
 * sim) "allow": ["tpm"],                            further kinds that may be there; others are refused "measurements":
 * {"tdx.mrtd": [HEX, ...], "tpm.pcr.7": [HEX], ...},   claim: allowed values "tcb": {"tdx": ["UpToDate",
 * "SWHardeningNeeded"], ...},              allowed status; default UpToDate only "minimum": {"snp.tcb.microcode": 209,
 * ...},  numbers: at least "debug": false,                              default; true allows debug guests, for
 * development "snp_policy": {...}, "gpu": true, "model": [HEX, ...], "max_age_s": N, "revocation": "required" (default)
 * or "if_present", "sim_root": PEM,                             only with it is evidence of kind sim accepted
 *  "signature_only": true}                      chain and signature alone, for `sotto attest verify` only
 * Unknown fields are refused; "comment" is allowed anywhere. docs/attestation.md is the whole schema. */
#ifndef ST_ATTEST_POLICY_H
#define ST_ATTEST_POLICY_H

#include "attest/verifier.h"

struct st_policy;
int st_policy_parse(const void *p, size_t len, const char *where, struct st_policy **out,
                    struct st_err *e) ST_MUST_CHECK;
void st_policy_free(struct st_policy *p);
bool st_policy_signature_only(const struct st_policy *p);

struct st_verdict {
    bool good;
    struct st_appraisal found; /* all items, then the policy's own checks */
    bool model_verified;       /* the model digest counts: launch measurements of an image are pinned */
};
struct st_judge {
    const struct st_policy *policy;
    const struct st_bundle *bundle;
    int64_t time;
    struct st_span
        nonce; /* expected in the evidence's report data (as SHA-512 padded, or as given); len 0 = not asked */
};
/* Returns an error only when nothing could be judged (INPUT, MEMORY); a bad verdict is no error. */
int st_policy_judge(const struct st_judge *j, struct st_verdict *out, struct st_err *e) ST_MUST_CHECK;
void st_verdict_wipe(struct st_verdict *v);

#endif
