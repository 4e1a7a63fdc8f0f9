/* Credential activation, the challenger's half: a secret that only the TPM with this endorsement key can open, and only
 * for an attestation key of this name that it holds itself. Whoever gets the secret back knows that the key sits in
 * that TPM, without a certificate for it; what the endorsement key is worth, its own certificate says.
 *
 * The TPM's half is TPM2_ActivateCredential. Not part of a verdict: it takes a conversation with the TPM, and a bundle
 * is none. An operator who certifies attestation keys of his own machines uses it before he signs. Source: TCG, TPM 2.0
 * Library, Part 1, section 24 (credential protection). */
#ifndef ST_ATTEST_TPM_CREDENTIAL_H
#define ST_ATTEST_TPM_CREDENTIAL_H

#include "attest/tpm_key.h"
#include "attest/tpm_protect.h"

#define ST_TPM_CREDENTIAL_SECRET 32

/* out: contents of TPM2B_ID_OBJECT and of TPM2B_ENCRYPTED_SECRET. ak as TPMT_PUBLIC, for it must have a name. INPUT: no
 * name, or a kind of ek that st_tpm_protect() does not have. */
int st_tpm_credential_make(EVP_PKEY *ek, const struct st_tpm_key *ak, const uint8_t secret[ST_TPM_CREDENTIAL_SECRET],
                           struct st_tpm_protected *out, struct st_err *e) ST_MUST_CHECK;

#endif
