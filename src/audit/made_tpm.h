/* TPM evidence made in software below a root of the audit's own, right or wrong in one place: what attacks on verifiers
 * are made of. It proves nothing about any machine. Layouts: TCG, TPM 2.0 Library, Part 2, sections 10 to 12. */
#ifndef ST_AUDIT_MADE_TPM_H
#define ST_AUDIT_MADE_TPM_H

#include "attest/evidence.h"

#include <openssl/evp.h>

#define ST_MADE_PCR_MODEL 12
#define ST_MADE_SELECTED 0x1fffu /* PCRs 0 to 12 */
#define ST_MADE_AK 0x00050072u   /* fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, restricted, sign */

struct st_made_authority {
    EVP_PKEY *root, *ak, *other; /* P-256; other: of a TPM that nobody certified */
    struct st_buf roots, certs;  /* PEM */
};
int st_made_authority_new(struct st_made_authority *a, int64_t now, struct st_err *e) ST_MUST_CHECK;
void st_made_authority_free(struct st_made_authority *a);

/* How the evidence is made; zeros and the constants above are right. */
struct st_made_tpm {
    uint32_t selected, told; /* PCRs quoted, and those of which a value is handed over */
    uint32_t attributes;     /* of the attestation key */
    bool other_model;        /* was loaded: PCR 12 has another value */
    bool edited;             /* the value of PCR 12 that is handed over is the good one all the same */
    bool sha1;               /* the bank that is quoted */
    bool other_key;          /* signs, in the name of this one */
    bool uncertified;        /* its certificate is left out */
    uint8_t nonce[32];
    bool key_exchanged, nonce_exchanged; /* in the binding, behind the TPM's back */
};
struct st_made_evidence {
    struct st_bundle bundle; /* points into the rest */
    struct st_buf quote, signature, area, pcrs;
};
int st_made_tpm(const struct st_made_authority *a, const struct st_made_tpm *m, struct st_made_evidence *out,
                struct st_err *e) ST_MUST_CHECK;
void st_made_evidence_free(struct st_made_evidence *ev);
/* The value of a PCR of the right machine. */
void st_made_pcr(unsigned n, uint8_t out[32]);

#endif
