/* Credential activation, the challenger's half: a secret that only the TPM with this endorsement key can open, and only
 * for an attestation key of this name that it holds itself. Whoever gets the secret back knows that the key sits in
 * that TPM, without a certificate for it; what the endorsement key is worth, its own certificate says.
 *
 * The TPM's half is TPM2_ActivateCredential. Not part of a verdict: it takes a conversation with the TPM, and a bundle
 * is none. An operator who certifies attestation keys of his own machines uses it before he signs. Source: TCG, TPM 2.0
 * Library, Part 1, sections 11.4.10 (KDFa), 24 (credential protection) and annex B.10.3 (OAEP); for endorsement keys of
 * the EK Credential Profile: RSA with name algorithm SHA-256 and AES-128 in CFB mode. */
#ifndef ST_ATTEST_TPM_CREDENTIAL_H
#define ST_ATTEST_TPM_CREDENTIAL_H

#include "attest/tpm_key.h"

#define ST_TPM_CREDENTIAL_SECRET 32

struct st_tpm_credential {
    uint8_t blob[2 + 32 + 2 + ST_TPM_CREDENTIAL_SECRET]; /* contents of TPM2B_ID_OBJECT */
    uint8_t seed[512];                                   /* contents of TPM2B_ENCRYPTED_SECRET */
    size_t seed_len;
};
/* ak as TPMT_PUBLIC, for it must have a name. INPUT: no name, or ek is not RSA of 2048 to 4096 bits. */
int st_tpm_credential_make(EVP_PKEY *ek, const struct st_tpm_key *ak, const uint8_t secret[ST_TPM_CREDENTIAL_SECRET],
                           struct st_tpm_credential *out, struct st_err *e) ST_MUST_CHECK;

#endif
