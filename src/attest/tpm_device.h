/* A TPM 2.0 that is at hand, through tpm2-tss's ESAPI: what attestation asks of it. Kept open: one connection, with the
 * attestation key (AK) loaded. A TPM that serves one client at a time (swtpm's socket) serves no other until close.
 *
 * Keys come out of templates, so nothing is stored: the same TPM makes the same key each time, until its endorsement
 * seed is replaced.
 *   AK  restricted signing key, ECDSA on P-256 with SHA-256, primary under the endorsement hierarchy: the counters in
 *       its quotes are the TPM's own (Part 1, section 36.7: keys elsewhere get them obscured). Or a persistent handle.
 *   EK  RSA of 2048 bits as TCG's EK Credential Profile 2.x, template L-1, has it: the key that the TPM's maker
 *       certified. Made when it is asked for, and dropped.
 * The endorsement hierarchy's authorization is empty, as it is unless somebody set it.
 * Source: TCG, TPM 2.0 Library, Part 3: Commands. Errors: UNSUPPORTED: no TPM there, or this build has no tpm2-tss;
 * IO: it answers with an error, which is named. */
#ifndef ST_ATTEST_TPM_DEVICE_H
#define ST_ATTEST_TPM_DEVICE_H

#include "attest/tpm_link.h"

#define ST_TPM_QUOTED_PCRS 15 /* 0 to 14: firmware, boot loader, kernel, and what systemd and shim add */
#define ST_TPM_SECRET_MAX 64

struct st_tpm_device;
/* tcti: NULL = ST_TPM_TCTI_DEFAULT (attest/tpm_link.h). ak: NULL, or a persistent handle as "0x81000003". */
int st_tpm_device_open(const char *tcti, const char *ak, struct st_tpm_device **out, struct st_err *e) ST_MUST_CHECK;
void st_tpm_device_close(struct st_tpm_device *d);

/* The TCP port that tpm2-tss connects to again for each command (swtpm's, Microsoft's simulator); 0: none, what it uses
 * stays open. */
uint16_t st_tpm_device_port(const char *tcti);

/* TPMT_PUBLIC of the AK; lives as long as the device. */
struct st_span st_tpm_device_ak(const struct st_tpm_device *d);
/* Appends TPMT_PUBLIC of the EK, and the certificate (DER) that its maker put into the TPM; nothing when there is none.
 */
int st_tpm_device_ek(struct st_tpm_device *d, struct st_buf *area, struct st_buf *certificate,
                     struct st_err *e) ST_MUST_CHECK;

/* What a boot is known by: the PCRs of the SHA-256 bank, and the two counters of which one moves whenever the TPM
 * starts anew or wakes up. UNSUPPORTED: the bank is not there. */
struct st_tpm_state {
    uint8_t pcrs[ST_TPM_QUOTED_PCRS][32];
    uint32_t reset_count, restart_count;
};
int st_tpm_device_state(struct st_tpm_device *d, struct st_tpm_state *out, struct st_err *e) ST_MUST_CHECK;

/* A quote over these PCRs with qualifying data [len, 1..32]: TPMS_ATTEST and TPMT_SIGNATURE, appended. digest: that of
 * the PCRs, as the quote states it. */
int st_tpm_device_quote(struct st_tpm_device *d, const uint8_t *data, size_t len, struct st_buf *attest,
                        struct st_buf *signature, uint8_t digest[32], struct st_err *e) ST_MUST_CHECK;

/* That the storage key (attest/tpm_storage.h) is in the TPM that holds the AK: TPMS_ATTEST of type certify and
 * TPMT_SIGNATURE, appended (attest/tpm_certify.h). */
int st_tpm_device_certify(struct st_tpm_device *d, enum st_tpm_storage_key key, struct st_buf *attest,
                          struct st_buf *signature, struct st_err *e) ST_MUST_CHECK;

/* Opens a credential (attest/tpm_credential.h) that was made for this EK and this AK. VERIFY: it is for others, or was
 * changed. *len: room in secret, then what came. */
int st_tpm_device_activate(struct st_tpm_device *d, struct st_span blob, struct st_span seed, uint8_t *secret,
                           size_t *len, struct st_err *e) ST_MUST_CHECK;

#endif
