/* What a TPM signs (TPMS_ATTEST of type quote) and its signature. Hostile input; nothing is judged here.
 * Source: TCG, TPM 2.0 Library, Part 2: Structures, sections 10.6 to 10.12 and 11.3; Part 1, section 17.5 on the digest
 * of a selection. */
#ifndef ST_ATTEST_TPM_QUOTE_H
#define ST_ATTEST_TPM_QUOTE_H

#include "attest/tpm_key.h"

#define ST_PCR_COUNT 24

/* Values of one bank of platform configuration registers. */
struct st_pcrs {
    unsigned alg; /* ST_TPM_SHA256, ... */
    uint32_t has; /* bit N: value[N] is one */
    uint8_t value[ST_PCR_COUNT][64];
};
/* "sha256" and so on -> ST_TPM_SHA256; 0: none of the three that count. */
unsigned st_pcr_bank(const char *name);
const char *st_pcr_bank_name(unsigned alg);
/* Takes in what {"pcrs": {"sha256": {"0": HEX, ...}}} says about the bank p->alg. INPUT. */
int st_pcrs_parse(const uint8_t *json, size_t len, struct st_pcrs *p, struct st_err *e) ST_MUST_CHECK;

struct st_tpm_quote {
    struct st_span qualified_signer, extra_data, pcr_digest; /* borrowed */
    uint64_t clock, firmware;
    uint32_t reset_count, restart_count;
    bool safe;
    unsigned n_bank;   /* banks of which something is selected */
    unsigned bank;     /* the first of them */
    uint32_t selected; /* its PCRs as bits */
};
/* INPUT names the field. Keeps pointers into p. */
int st_tpm_quote_parse(const uint8_t *p, size_t len, struct st_tpm_quote *out, struct st_err *e) ST_MUST_CHECK;

struct st_tpm_signature {
    unsigned scheme; /* ST_TPM_RSASSA, ...; 0: bytes of an RSA signature with SHA-256 and nothing about it */
    unsigned hash;
    struct st_span rsa, r, s; /* borrowed */
};
#define ST_TPM_RSASSA 0x0014
#define ST_TPM_RSAPSS 0x0016
#define ST_TPM_ECDSA 0x0018
/* TPMT_SIGNATURE, or an RSA signature of 256, 384 or 512 bytes as it is. INPUT, UNSUPPORTED. */
int st_tpm_signature_parse(const uint8_t *p, size_t len, struct st_tpm_signature *out, struct st_err *e) ST_MUST_CHECK;
/* VERIFY. */
int st_tpm_signature_verify(const struct st_tpm_signature *s, EVP_PKEY *key, const uint8_t *p, size_t len,
                            struct st_err *e) ST_MUST_CHECK;

/* The values of exactly the selected PCRs hash to the quoted digest; `hash` is that of the signature. VERIFY says which
 * value is missing. */
int st_tpm_quote_match(const struct st_tpm_quote *q, unsigned hash, const struct st_pcrs *pcrs,
                       struct st_err *e) ST_MUST_CHECK;

#endif
