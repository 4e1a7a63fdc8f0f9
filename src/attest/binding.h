/* What ties a node's keys to its evidence, without a circle. The node makes its keys, then asks each part of its
 * platform to sign a hash of them:
 *
 *   gpu_nonce   = SHA-256(label || suite || HPKE key || receipt key || nonce)
 *   report_data = SHA-512(label || suite || HPKE key || receipt key || nonce || digest of every other item, in order
 *                         || engine digest || model digest)
 *
 * every field with its length as u32 (little-endian) before it; suite = KEM, KDF and AEAD as u16 (big-endian), as in an
 * OHTTP key configuration; a digest that is not stated is a field of length 0. The labels differ.
 *
 * One item, the carrier, holds report_data; every other one holds gpu_nonce, and the carrier signs the digests of these
 * as well. The carrier is the first of tdx, snp, sgx, tpm, sim that is there; but where the platform fills the report
 * data itself (an item with runtime data: Azure), that item holds neither and the carrier is the tpm. The qualifying
 * data of a TPM has no room for 64 bytes everywhere: as the carrier it holds SHA-256(report_data).
 * That CPU and GPU sit in one machine rests on the measured guest, which alone asked both. */
#ifndef ST_ATTEST_BINDING_H
#define ST_ATTEST_BINDING_H

#include "attest/evidence.h"

#define ST_REPORT_DATA 64
#define ST_GPU_NONCE 32

int st_binding_gpu_nonce(const struct st_binding *b, uint8_t out[ST_GPU_NONCE], struct st_err *e) ST_MUST_CHECK;
/* Index of the carrier, -1 when no item can be one. Needs the items' kinds and endorsements only. */
int st_binding_carrier(const struct st_bundle *b);
/* Needs kind and data of every item but the carrier. */
int st_binding_report_data(const struct st_bundle *b, int carrier, uint8_t out[ST_REPORT_DATA],
                           struct st_err *e) ST_MUST_CHECK;
/* What the claim KIND.report_data of an item has to begin with; what follows it there must be zeros. *len = 0: nothing,
 * its platform fills it. INPUT: the bundle has no carrier. */
int st_binding_expected(const struct st_bundle *b, size_t item, uint8_t out[ST_REPORT_DATA], size_t *len,
                        struct st_err *e) ST_MUST_CHECK;

#endif
