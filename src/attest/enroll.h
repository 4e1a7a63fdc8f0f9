/* Certificates for the attestation keys of one's own machines. A quote is worth what is known of the key that signed
 * it; clouds certify theirs, on other machines the owner does it: with a certificate authority of his own (a directory:
 * ca.pem, which goes into policies as "roots": {"tpm": PEM}, and ca.key, 0600), for a key that sits in a TPM he knows.
 *
 * Three steps, of which the first and the last run on the machine with the TPM:
 *   request  the TPM's endorsement key (EK), the certificate that its maker gave it, and the attestation key (AK)
 *   grant    the authority certifies the AK and seals the certificate so that only this EK's TPM can open it, and only
 *            while it holds this AK (attest/tpm_credential.h)
 *   accept   the TPM opens it
 * Nobody gets a usable certificate for a key outside the TPM, and the authority keeps no state. What the EK is worth is
 * for the caller to say: the maker's root certificates, or the digest of an EK seen before (on the machine itself).
 *
 * Messages are JSON: request {"version": 1, "ek": TPMT_PUBLIC, "ak": TPMT_PUBLIC, "ek_certificate": DER}, the last one
 * optional; grant {"version": 1, "credential": BYTES, "seed": BYTES, "certificate": sealed PEM}; bytes in base64. */
#ifndef ST_ATTEST_ENROLL_H
#define ST_ATTEST_ENROLL_H

#include "attest/tpm_device.h"

#include <openssl/x509.h>

#define ST_ENROLL_MAX ((size_t)64 << 10) /* bytes of a message */

struct st_enroll_ca {
    X509 *cert;
    EVP_PKEY *key;
};
/* make: a new authority (good for ten years) when the directory has none; the directory itself is made too. Its files
 * are never overwritten. IO, INPUT. */
int st_enroll_ca_open(const char *dir, bool make, struct st_enroll_ca *out, struct st_err *e) ST_MUST_CHECK;
void st_enroll_ca_free(struct st_enroll_ca *ca);

int st_enroll_request(struct st_tpm_device *d, struct st_buf *out, struct st_err *e) ST_MUST_CHECK;

/* Which endorsement keys are believed; one that any of both vouches for. */
struct st_enroll_trust {
    struct st_span roots;  /* PEM, root and intermediate certificates of TPM makers; len 0 = none */
    const uint8_t *digest; /* SHA-256 of the EK's SubjectPublicKeyInfo; NULL = none */
};
/* INPUT: not a request; VERIFY: the EK is not believed, or the AK is not a restricted signing key of its TPM. */
int st_enroll_grant(const struct st_enroll_ca *ca, const void *request, size_t len, const struct st_enroll_trust *t,
                    int64_t now, unsigned days, struct st_buf *out, struct st_err *e) ST_MUST_CHECK;
/* Digest of the EK in a request, as trust is given by. */
int st_enroll_ek_digest(const void *request, size_t len, uint8_t out[32], struct st_err *e) ST_MUST_CHECK;

/* Appends the certificate (PEM). VERIFY: granted to another TPM or another key. */
int st_enroll_accept(struct st_tpm_device *d, const void *grant, size_t len, struct st_buf *pem,
                     struct st_err *e) ST_MUST_CHECK;

#endif
