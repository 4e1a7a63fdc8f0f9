/* What all that talk with a TPM through tpm2-tss share. Only files that CMakeLists.txt compiles with SOTTO_TPM see the
 * types of tpm2-tss. */
#ifndef ST_ATTEST_TPM_LINK_H
#define ST_ATTEST_TPM_LINK_H

#include "attest/tpm_policy.h"

#define ST_TPM_TCTI_DEFAULT "device:/dev/tpmrm0"

/* Primary keys under the owner hierarchy: ECC on P-256, RSA of 2048 bits. */
enum st_tpm_storage_key { ST_TPM_STORAGE_ECC, ST_TPM_STORAGE_RSA };
#define ST_TPM_AREA_MAX 1024 /* bytes of a TPMT_PUBLIC */

/* UNSUPPORTED: this build cannot. */
int st_tpm_absent(struct st_err *e) ST_MUST_CHECK;

#ifdef SOTTO_TPM

#include <tss2/tss2_esys.h>
#include <tss2/tss2_rc.h>

struct st_tpm_link {
    TSS2_TCTI_CONTEXT *tcti;
    ESYS_CONTEXT *esys;
};
/* tcti: NULL = ST_TPM_TCTI_DEFAULT. UNSUPPORTED: no TPM there. */
int st_tpm_link_open(const char *tcti, struct st_tpm_link *out, struct st_err *e) ST_MUST_CHECK;
void st_tpm_link_close(struct st_tpm_link *l); /* a zeroed one may be closed */

/* IO: `what` and the TPM's own words. */
int st_tpm_fail(TSS2_RC rc, const char *what, struct st_err *e) ST_MUST_CHECK;
/* Whether the TPM found fault with what it was given (Part 2, section 6.6), not with itself or the connection. */
bool st_tpm_found_fault(TSS2_RC rc);

/* Makes the storage key; the caller flushes it. area: its TPMT_PUBLIC. */
int st_tpm_link_storage(struct st_tpm_link *l, enum st_tpm_storage_key key, ESYS_TR *out, uint8_t area[ST_TPM_AREA_MAX],
                        size_t *area_len, struct st_err *e) ST_MUST_CHECK;

TPML_PCR_SELECTION st_tpm_selection(const struct st_tpm_pcrs *p);
/* Today's values. UNSUPPORTED: not all of these PCRs are in that bank. */
int st_tpm_link_pcrs(struct st_tpm_link *l, const struct st_tpm_pcrs *p, struct st_tpm_values *out,
                     struct st_err *e) ST_MUST_CHECK;
/* The first handle of this kind from `from` on that is in use, 0 if none is, or the TPM does not say. */
TPM2_HANDLE st_tpm_link_handle(struct st_tpm_link *l, TPM2_HANDLE from);

#endif
#endif
