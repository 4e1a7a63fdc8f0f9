/* Bytes encrypted to a TPM's storage or endorsement key, without that TPM: what credentials (TPM2_ActivateCredential)
 * and imported objects (TPM2_Import) have in common. A fresh seed goes to the key; from it come an AES-128 key and a
 * MAC key, both bound to the name of what it belongs to. Keys: RSA of 2048 to 4096 bits, or ECC on P-256, with name
 * algorithm SHA-256 and AES-128 in CFB mode, as the profiles of TCG have them.
 * Source: TCG, TPM 2.0 Library, Part 1, sections 11.4.10 (KDFa, KDFe), 23.3 (duplication), 24 (credential protection),
 * annexes B.10 (OAEP) and C.6 (ECDH). */
#ifndef ST_ATTEST_TPM_PROTECT_H
#define ST_ATTEST_TPM_PROTECT_H

#include "base/buf.h"
#include "base/err.h"

#include <openssl/evp.h>

#define ST_TPM_PROTECT_MAX 512  /* bytes that are encrypted */
#define ST_TPM_PROTECT_MORE 34  /* that the blob is longer: TPM2B with the integrity value */
#define ST_TPM_PROTECT_SEED 512 /* bytes of the encrypted seed at most */

struct st_tpm_protected {
    uint8_t blob[ST_TPM_PROTECT_MORE + ST_TPM_PROTECT_MAX]; /* TPM2B integrity | ciphertext */
    size_t blob_len;
    uint8_t seed[ST_TPM_PROTECT_SEED]; /* contents of TPM2B_ENCRYPTED_SECRET */
    size_t seed_len;
};

enum st_tpm_protect_as { ST_TPM_CREDENTIAL, ST_TPM_DUPLICATE };
/* text: with its own length in front (a TPM2B). INPUT: a key of another kind. */
int st_tpm_protect(EVP_PKEY *to, enum st_tpm_protect_as as, struct st_span name, struct st_span text,
                   struct st_tpm_protected *out, struct st_err *e) ST_MUST_CHECK;

#endif
