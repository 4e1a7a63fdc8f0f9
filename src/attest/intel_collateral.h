/* Collateral: what Intel publishes about the makers of quotes, collected from the endorsements of one item. Revocation
 * lists, and statements in JSON (TCB info, QE identity) with an ECDSA P-256 signature over the exact bytes of the inner
 * object as received; their issuer is "Intel SGX TCB Signing" below the pinned root.
 *
 * Forms: a dcap-qvl file ("collateral") with everything in it: pck_crl_issuer_chain, root_ca_crl, pck_crl,
 * tcb_info_issuer_chain, tcb_info, tcb_info_signature, qe_identity_issuer_chain, qe_identity, qe_identity_signature,
 * all strings, CRLs as hexadecimal DER; or replies of Intel's service ("tcb_info", "qe_identity": {"tcbInfo": {...},
 * "signature": HEX}) with issuers as "certs" and lists as "crl". Hostile input, bounded. */
#ifndef ST_ATTEST_INTEL_COLLATERAL_H
#define ST_ATTEST_INTEL_COLLATERAL_H

#include "attest/evidence.h"
#include "crypto/x509.h"

#define ST_INTEL_MAX_STATEMENTS 8 /* of each kind */

struct st_intel_statement {
    struct st_span json; /* the bytes that are signed */
    uint8_t signature[64];
};
struct st_intel_statements {
    struct st_intel_statement list[ST_INTEL_MAX_STATEMENTS];
    size_t n;
};
struct st_intel_collateral {
    struct st_certs certs; /* issuers, in any order */
    struct st_crls crls;
    struct st_intel_statements tcb_info, qe_identity;
    void *files[ST_EVIDENCE_MAX_ENDORSEMENTS]; /* json_t of collateral files, which statements point into */
    size_t n_file;
};

/* Reads all that Intel evidence can use. INPUT names the endorsement and the field. Spans stay valid until _free and
 * as long as the evidence. */
int st_intel_collateral_read(const struct st_evidence *ev, struct st_intel_collateral *out,
                             struct st_err *e) ST_MUST_CHECK;
void st_intel_collateral_free(struct st_intel_collateral *c);

/* One CN, and it is this. */
bool st_intel_is(X509_NAME *name, const char *cn);

/* The statement is signed by a TCB Signing certificate of `certs` that leads to `roots` at `time`; *signer (borrowed)
 * is that certificate, until as in st_x509_verify. VERIFY. */
int st_intel_statement_verify(const struct st_intel_statement *s, const struct st_certs *certs,
                              const struct st_certs *roots, int64_t time, X509 **signer, int64_t *until,
                              struct st_err *e) ST_MUST_CHECK;

#endif
