/* The client's policy, and the one place that judges. A policy is a JSON file of the client's; it never comes from a
 * server. Every check of every item and every demand of the policy is one line of the verdict; the verdict is good only
 * when all of them passed, and starts as bad.
 *
 * {"version": 1,
 *  "require": ["tdx", "nvgpu"] or "any",         kinds that must be there; "any": one that hardware signs
 *  "allow": ["tpm"],                             further kinds that may be there; others are refused
 *  "measurements": {"tdx.mrtd": [HEX, ...], ..}, claim: allowed values
 *  "image": true,                                the measurements pin an image that measures engine and model
 *  "tcb": {"tdx": ["UpToDate", ...], ...},       allowed status; default UpToDate only
 *  "minimum": {"snp.tcb.microcode": 209, ...},   claim: at least
 *  "debug": false,                               default; true allows debug guests, for development
 *  "snp_policy": {"migrate_ma": false, ...},     claim snp.policy.NAME: value; and "vmpl"
 *  "gpu": true, "model": [HEX, ...], "engine": [HEX, ...], "max_age_s": N,
 *  "revocation": "required" (default) or "if_present",
 *  "optional": ["nvgpu.rim.driver", ...],        checks that may be absent, by name
 *  "roots": {"tpm": PEM, ...},                   root certificates in place of the vendor's, of your own machines
 *  "log": {"origin", "key", "witnesses": [..], "quorum": N}, the log that is believed
 *  "logged": ["tdx.mrtd", ...],                  claims whose allowed values must stand in that log
 * (attest/statement.h), "proofs": [{"entry", "index", "hashes", "checkpoint"}, ...], as these prove
 * (attest/log_proof.h) "min_nodes": N,                               so many verified nodes to choose from; default 1
 *  "sim_root": HEX,                              Ed25519 key; only with it is evidence of kind sim accepted
 *  "signature_only": true}                       signatures and chains alone, for `sotto attest verify` only
 * Unknown fields are refused; "comment" is allowed anywhere. docs/attestation.md is the whole schema. */
#ifndef ST_ATTEST_POLICY_H
#define ST_ATTEST_POLICY_H

#include "attest/checkpoint.h"
#include "attest/verifier.h"

#define ST_POLICY_MAX_BYTES ((size_t)1 << 20)
#define ST_POLICY_MAX_NODES 256

struct st_policy;
/* INPUT, UNSUPPORTED, MEMORY; VERIFY for a proof that does not hold. */
int st_policy_parse(const void *p, size_t len, const char *where, struct st_policy **out,
                    struct st_err *e) ST_MUST_CHECK;
void st_policy_free(struct st_policy *p);
/* True: only signatures and chains are judged. Whoever means to rely on evidence refuses such a policy. */
bool st_policy_signature_only(const struct st_policy *p);

/* The log of the policy, NULL when it names none; borrowed. */
const struct st_tlog_keys *st_policy_log(const struct st_policy *p);
unsigned st_policy_min_nodes(const struct st_policy *p);
int64_t st_policy_max_age(const struct st_policy *p); /* seconds; -1 = any age */
/* False: any software on such a platform passes. Whoever means to send prompts there refuses that. */
bool st_policy_pins(const struct st_policy *p);
/* Measurements are pinned that together say which system and program run there, as "image" needs them, or the simulated
 * one. False: any guest passes on a machine with the right firmware. */
bool st_policy_pins_image(const struct st_policy *p);
bool st_policy_pins_engine(const struct st_policy *p); /* the digest of the engine must be one of "engine" */

struct st_verdict {
    bool good;
    /* What is wrong when it is not good: ST_VERIFY when a check of the evidence failed or is missing, ST_POLICY when
     * only demands of the policy are not met. 0 when good. */
    int code;
    struct st_appraisal found; /* all items, then the policy's own checks */
    bool model_stated;         /* the bundle names a model */
    bool model_verified;       /* its digest counts: launch measurements of an image are pinned ("image") and hold */
};
struct st_judge {
    const struct st_policy *policy;
    const struct st_bundle *bundle;
    int64_t time;
    /* Expected in the binding; in a bundle without one, in the report data of every item, as it is or hashed (SHA-512,
     * or SHA-256 where there is room for 32 bytes only). len 0 = not asked. */
    struct st_span nonce;
    int64_t
        nonce_time; /* when the nonce came into being, by the caller's own knowledge; for max_age_s. 0 = not known */
};
/* True when the policy can live without this check's passing. */
bool st_policy_tolerates(const struct st_policy *p, const struct st_check *c);
/* Returns an error only when nothing could be judged (MEMORY, INTERNAL); a bad verdict is no error. */
int st_policy_judge(const struct st_judge *j, struct st_verdict *out, struct st_err *e) ST_MUST_CHECK;
void st_verdict_wipe(struct st_verdict *v);

#endif
