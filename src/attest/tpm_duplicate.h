/* A sealed object made for a TPM without that TPM: it holds a secret, hangs below the storage key of one TPM and is
 * unsealed under a policy only. What TPM2_Import takes (attest/tpm_storage.h), with no inner wrapping.
 *
 * Whoever knows a storage key can make objects for it: that one opens proves nothing about who made it. And a storage
 * key is worth what is known of it: to a key that a program made up, this encrypts just as well.
 * Source: TCG, TPM 2.0 Library, Part 1, section 23.3 (duplication); Part 2, sections 12.2.4 (TPMT_PUBLIC) and 12.3.2.4
 * (TPMT_SENSITIVE). */
#ifndef ST_ATTEST_TPM_DUPLICATE_H
#define ST_ATTEST_TPM_DUPLICATE_H

#include "attest/tpm_key.h"
#include "base/secret.h"

#define ST_TPM_DUPLICATE_SECRET 128 /* bytes at most */

struct st_tpm_duplicate {
    uint8_t public_area[2 + 14 + 32 + 2 + 2 + 32];                               /* TPM2B_PUBLIC */
    uint8_t private_area[2 + 34 + 2 + 2 + 2 + 34 + 2 + ST_TPM_DUPLICATE_SECRET]; /* TPM2B_PRIVATE */
    uint8_t seed[512]; /* contents of TPM2B_ENCRYPTED_SECRET */
    size_t public_len, private_len, seed_len;
};
/* policy: SHA-256 digest (attest/tpm_policy.h). VERIFY: not a storage key that stays in its TPM; INPUT: one of another
 * kind than st_tpm_protect() has. */
int st_tpm_duplicate_make(const struct st_tpm_key *storage, const uint8_t policy[32], const struct st_secret *secret,
                          struct st_tpm_duplicate *out, struct st_err *e) ST_MUST_CHECK;
/* Whether it is a restricted decryption key that no other TPM can hold; else VERIFY. Of what the key itself says. */
int st_tpm_key_check_storage(const struct st_tpm_key *k, struct st_err *e) ST_MUST_CHECK;

#endif
