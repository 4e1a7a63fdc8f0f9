/* Azure's paravisor (HCL): it holds the virtual TPM of a confidential VM, and puts the digest of "runtime data" into
 * the report data of the platform's report: a JSON text with the public part of the TPM's attestation key. A file of
 * it, as the TPM's NV index 0x01400001 gives it, is
 *
 *    0  "HCLA"  u32 version, report size, request type 2 (SNP), status, three zeros     all little-endian
 *   32  the SEV-SNP report [1184]
 * 1216  u32 size, version, report type 2, hash type 1 (SHA-256), length of the JSON text
 * 1236  the JSON text, then zeros
 *
 * Only the JSON text is covered by the report; the rest must be exactly so, or the file is refused.
 * Source: the layouts in Azure/confidential-computing-cvm-guest-attestation. */
#ifndef ST_ATTEST_RUNTIME_DATA_H
#define ST_ATTEST_RUNTIME_DATA_H

#include "base/buf.h"

#include <openssl/evp.h>

/* True when it begins like such a file. */
bool st_hcl_recognise(const uint8_t *p, size_t len);
/* The report and the JSON text in it; borrowed. INPUT, UNSUPPORTED. */
int st_hcl_split(const uint8_t *p, size_t len, struct st_span *report, struct st_span *json,
                 struct st_err *e) ST_MUST_CHECK;

struct st_runtime_data {
    EVP_PKEY *ak; /* HCLAkPub, RSA; owned */
    bool secure_boot, has_secure_boot;
    uint8_t user_data[64]; /* what the guest put in through the TPM's NV index 0x01400002 */
    size_t user_data_len;
};
int st_runtime_data_parse(const uint8_t *p, size_t len, struct st_runtime_data *out, struct st_err *e) ST_MUST_CHECK;
void st_runtime_data_free(struct st_runtime_data *r);

#endif
