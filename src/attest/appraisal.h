/* What was found out about evidence: checks (was it signed, by whom, when, is anything revoked) and claims (what the
 * signed part says). Verifiers fill it, one evidence item at a time; they decide nothing. Only policy_judge.c judges.
 *
 * A check starts as FAIL and is set good on one line. Names are stable words, KIND first: "tdx.tcb_info". Every kind
 * has KIND.signature (this evidence was signed by that key) and KIND.chain (that key is the vendor's); KIND.revocation
 * where there are lists. A claim stands here only if it lies inside what a signature covers; what does not is a claim
 * whose name ends in "_unsigned". Claims that it knows by name:
 *
 *   KIND.report_data  HEX   what the owner put in: report data (tdx, sgx, snp, sim), qualifying data (tpm),
 *                           nonce of the request (nvgpu)
 *   KIND.debug        BOOL  a debugger can look inside (tdx, sgx, snp, sim)
 *   KIND.migratable   BOOL  a service of the owner's may move the guest (tdx)
 *   KIND.tcb_status   TEXT  the vendor's word for the platform's patch level, worst of all parts (tdx, sgx)
 *   snp.policy.NAME   BOOL or NUMBER; snp.vmpl NUMBER
 *   tpm.ak            HEX   SHA-256 of the attestation key's SubjectPublicKeyInfo (DER)
 *   KIND.runtime_ak   HEX   the same of the key that the runtime data names (Azure: HCLAkPub), when report_data is
 *                           the digest of that runtime data. Equal to tpm.ak it stands for tpm.chain */
#ifndef ST_ATTEST_APPRAISAL_H
#define ST_ATTEST_APPRAISAL_H

#include "base/buf.h"

#include <stdbool.h>

#define ST_APPRAISAL_MAX 512 /* checks, and claims, of one appraisal */

enum st_check_result {
    ST_CHECK_FAIL,
    ST_CHECK_PASS,
    ST_CHECK_ABSENT, /* what it needs was not given: no collateral, no CRL, no event log */
};
/* What a check is about: how far a policy may do without it. */
enum st_check_area {
    ST_AREA_SIGNATURE,  /* form, signatures, chains: must pass under every policy */
    ST_AREA_REVOCATION, /* revocation lists: ABSENT passes where the policy says "if_present" */
    ST_AREA_STATUS,     /* vendors' statements on patch levels, reference values, event logs, links between items */
    ST_AREA_POLICY,     /* the policy's own demands; policy_judge.c only */
};
struct st_check {
    char name[80];
    enum st_check_area area; /* the strictest unless set */
    enum st_check_result result;
    char detail[256]; /* value and what was wanted; one line, no control characters */
};

enum st_claim_type { ST_CLAIM_TEXT, ST_CLAIM_HEX, ST_CLAIM_NUMBER, ST_CLAIM_BOOL, ST_CLAIM_TIME };
struct st_claim {
    char name[64]; /* "tdx.mrtd", "tdx.report_data", "tpm.pcr.7", "nvgpu.driver" */
    enum st_claim_type type;
    char *text;      /* TEXT: control characters as '?'; HEX: lower-case digits; owned */
    uint64_t number; /* NUMBER, BOOL; TIME: seconds since 1970 */
};

struct st_appraisal {
    struct st_check *checks;
    struct st_claim *claims;
    size_t n_check, n_claim;
    int64_t until; /* seconds since 1970 from which on a check may no longer pass, by dates alone; 0 = no date counts */
    bool failed;   /* no memory, or more than ST_APPRAISAL_MAX: then nothing of it may be believed */
};
void st_appraisal_wipe(struct st_appraisal *a);
/* Adds a check that fails until its result is set; the pointer is valid until the next one is added, never NULL. */
struct st_check *st_appraisal_check(struct st_appraisal *a, const char *name, const char *fmt, ...) ST_PRINTF(3, 4);
/* Replaces its detail. */
void st_check_detail(struct st_check *c, const char *fmt, ...) ST_PRINTF(2, 3);
void st_appraisal_text(struct st_appraisal *a, const char *name, const char *text);
void st_appraisal_hex(struct st_appraisal *a, const char *name, const void *p, size_t len);
void st_appraisal_number(struct st_appraisal *a, const char *name, uint64_t v);
void st_appraisal_bool(struct st_appraisal *a, const char *name, bool v);
void st_appraisal_time(struct st_appraisal *a, const char *name, int64_t unix_time);
/* NULL when it is not there. */
const struct st_check *st_appraisal_find_check(const struct st_appraisal *a, const char *name);
const struct st_claim *st_appraisal_find_claim(const struct st_appraisal *a, const char *name);

#endif
