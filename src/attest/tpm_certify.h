/* That a key is in a TPM: TPM2_Certify, signed by an attestation key that is certified below a pinned root (by the
 * operator himself: attest/enroll.h; or by a cloud). Says nothing of what the machine has started. Hostile input.
 * Source: TCG, TPM 2.0 Library, Part 2, section 10.12.3 (TPMS_CERTIFY_INFO). */
#ifndef ST_ATTEST_TPM_CERTIFY_H
#define ST_ATTEST_TPM_CERTIFY_H

#include "attest/tpm_key.h"

struct st_tpm_certified {
    struct st_span statement, signature; /* TPMS_ATTEST, TPMT_SIGNATURE */
    struct st_span certificates;         /* of the attestation key, and what is between it and the root: PEM or DER */
};
/* roots: PEM. now: seconds since 1970. INPUT: roots; VERIFY: anything else, in one line. */
int st_tpm_certified_check(const struct st_tpm_certified *c, const struct st_tpm_key *key, struct st_span roots,
                           int64_t now, struct st_err *e) ST_MUST_CHECK;

#endif
