/* Terms under which a TPM gives out what it holds, computed without one: values that its PCRs must have, a counter that
 * must not have passed a limit. Policy digests are SHA-256.
 * Source: TCG, TPM 2.0 Library, Part 3, sections 23.7 (PolicyPCR) and 23.9 (PolicyNV); names of NV indices: Part 1,
 * section 16, and Part 2, section 13.5 (TPMS_NV_PUBLIC). */
#ifndef ST_ATTEST_TPM_POLICY_H
#define ST_ATTEST_TPM_POLICY_H

#include "attest/tpm_key.h"

#define ST_TPM_N_PCR 24
#define ST_TPM_NAME_LEN 34 /* u16 algorithm (SHA-256) and digest */

struct st_tpm_pcrs {
    uint32_t bank; /* TPM_ALG_ID: SHA-1, SHA-256 or SHA-384; 0 = none */
    uint32_t mask; /* bit i: PCR i */
};
/* A bank and at least one PCR. */
bool st_tpm_pcrs_ok(const struct st_tpm_pcrs *p);
/* "sha256:7,11". USAGE names `what`. */
int st_tpm_pcrs_parse(const char *text, const char *what, struct st_tpm_pcrs *out, struct st_err *e) ST_MUST_CHECK;
void st_tpm_pcrs_text(const struct st_tpm_pcrs *p, struct st_buf *out);
/* "sha256" and so on; 0 for other words, "" for other banks. */
uint32_t st_tpm_bank(const char *name);
const char *st_tpm_bank_name(uint32_t bank);

struct st_tpm_values {
    struct st_tpm_pcrs pcrs;
    uint8_t of[ST_TPM_N_PCR][48]; /* st_tpm_hash_len(bank) bytes of each that is in the mask */
};

/* A counter in NV memory is an index that only this file describes, so that its name follows from its handle: 8 bytes,
 * counting, read and raised by whoever may use the TPM. It is written: nobody has read it before. */
#define ST_TPM_COUNTER_FIRST 0x01800000u /* the owner's range (TCG, Registry of Reserved TPM 2.0 Handles) */
#define ST_TPM_COUNTER_LAST 0x01bfffffu
#define ST_TPM_COUNTER_ATTRIBUTES 0x02060014u /* NO_DA, OWNERREAD, AUTHREAD, AUTHWRITE, a counter */
#define ST_TPM_COUNTER_WRITTEN 0x20000000u
int st_tpm_counter_name(uint32_t index, uint8_t name[ST_TPM_NAME_LEN], struct st_err *e) ST_MUST_CHECK;

/* digest [32] is that of a policy so far, zeros at first; afterwards it asks for this, too. INTERNAL. */
int st_tpm_policy_pcrs(uint8_t digest[32], const struct st_tpm_values *v, struct st_err *e) ST_MUST_CHECK;
/* The counter stands at `limit` at most. */
int st_tpm_policy_counter(uint8_t digest[32], uint32_t index, uint64_t limit, struct st_err *e) ST_MUST_CHECK;

#endif
