/* Public keys as TPMs and their users write them. Hostile input.
 * Source: TCG, TPM 2.0 Library, Part 2: Structures, sections 10.4 (TPM2B), 11.2 and 12.2 (TPMT_PUBLIC); names: Part 1,
 * section 16. All numbers of a TPM are big-endian. */
#ifndef ST_ATTEST_TPM_KEY_H
#define ST_ATTEST_TPM_KEY_H

#include "base/buf.h"

#include <openssl/evp.h>

#define ST_TPM_SHA1 0x0004
#define ST_TPM_SHA256 0x000b
#define ST_TPM_SHA384 0x000c
#define ST_TPM_SHA512 0x000d
/* "SHA256" and so on as OpenSSL knows it, NULL for what is neither of the four; its length in bytes, 0. */
const char *st_tpm_hash_name(unsigned alg);
static inline size_t st_tpm_hash_len(unsigned alg)
{
    return alg == ST_TPM_SHA1 ? 20 : alg >= ST_TPM_SHA256 && alg <= ST_TPM_SHA512 ? 32 + 16 * (alg - ST_TPM_SHA256) : 0;
}

/* A reader of big-endian fields: it stops at the end, and remembers that it had to. */
struct st_tpm_reader {
    const uint8_t *p, *end;
    bool failed;
};
uint64_t st_tpm_number(struct st_tpm_reader *r, size_t n /* 1..8 */);
struct st_span st_tpm_bytes(struct st_tpm_reader *r, size_t n);
struct st_span st_tpm_sized(struct st_tpm_reader *r); /* TPM2B: u16 length, then bytes */

struct st_tpm_key {
    EVP_PKEY *key; /* RSA, or ECC on P-256 or P-384; owned */
    bool has_name; /* it came as the TPM writes it, with attributes; the name is the hash of all of it */
    uint32_t attributes;
    uint8_t name[2 + 64];
    size_t name_len;
};
#define ST_TPMA_FIXED_TPM (1u << 1)
#define ST_TPMA_FIXED_PARENT (1u << 4)
#define ST_TPMA_SENSITIVE_DATA_ORIGIN (1u << 5)
#define ST_TPMA_ADMIN_WITH_POLICY (1u << 7)
#define ST_TPMA_RESTRICTED (1u << 16)
#define ST_TPMA_DECRYPT (1u << 17)
#define ST_TPMA_SIGN (1u << 18)
/* TPM2B_PUBLIC or TPMT_PUBLIC, or SubjectPublicKeyInfo as DER or PEM. INPUT; UNSUPPORTED: another kind of key. */
int st_tpm_key_parse(const uint8_t *p, size_t len, struct st_tpm_key *out, struct st_err *e) ST_MUST_CHECK;
/* A key that signs nothing but what the TPM says of itself, and that no other TPM can hold; else VERIFY. */
int st_tpm_key_check_signing(const struct st_tpm_key *k, struct st_err *e) ST_MUST_CHECK;
void st_tpm_key_free(struct st_tpm_key *k);

/* An RSA key from modulus and exponent, big-endian. INPUT. */
int st_rsa_key(struct st_span n, struct st_span exponent, EVP_PKEY **out, struct st_err *e) ST_MUST_CHECK;
/* SHA-256 of a key's SubjectPublicKeyInfo (DER): how claims name a key. */
int st_key_digest(EVP_PKEY *key, uint8_t out[32], struct st_err *e) ST_MUST_CHECK;

#endif
