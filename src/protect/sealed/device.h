/* What a publisher needs to know of a device to seal for its TPM alone: the storage key, values of PCRs, and a counter
 * for versions. Read on the device (`sotto seal device`), taken to the publisher as JSON:
 *
 *   {"version": 1, "storage_key": TPMT_PUBLIC in base64, "bank": "sha256", "pcrs": {"0": HEX, "7": HEX, ...},
 *    "counter": {"index": "0x01800000", "value": N, "version": V},
 *    "certified": {"statement": TPMS_ATTEST, "signature": TPMT_SIGNATURE, "certificates": PEM}}
 *
 * The PCRs' values are those of the day. Who knows better what the device will have measured when it opens the
 * container (the owner of its image) writes that. Of the counter, which may be absent, `value` is what stands for
 * `version` of the model: 0 from `sotto seal device`, or the number from which versions are to be counted.
 *
 * Only `certified`, which may be absent, says that there is a TPM behind the key, to whoever checks it against roots of
 * his own (attest/tpm_certify.h). Without that the key is believed as it is handed over: read it on the device
 * yourself, for whoever can change it can name a key that a program holds. Hostile input otherwise. */
#ifndef ST_PROTECT_SEALED_DEVICE_H
#define ST_PROTECT_SEALED_DEVICE_H

#include "attest/tpm_certify.h"
#include "attest/tpm_storage.h"
#include "text/json.h"

#define ST_SEALED_DEVICE_MAX ((size_t)64 << 10) /* bytes of JSON */
#define ST_SEALED_PCRS "sha256:0,2,4,7,11"      /* firmware, its extensions, boot loader, secure boot, unified kernel */

struct st_sealed_device {
    struct st_tpm_key storage;
    enum st_tpm_storage_key kind;
    struct st_tpm_values values;
    uint32_t counter;                                 /* index; 0 = none */
    uint64_t value, from_version;                     /* of the counter */
    struct st_buf statement, signature, certificates; /* empty: not certified */
};

struct st_sealed_device_opts {
    const char *tcti; /* NULL = the default */
    enum st_tpm_storage_key kind;
    struct st_tpm_pcrs pcrs;
    bool counter;
    uint32_t index;              /* of the counter, made if it is not there; 0 = a new one */
    const char *ak;              /* persistent handle of the attestation key; NULL = the one of attest/tpm_device.h */
    struct st_span certificates; /* of it; len 0: nothing is certified */
};
/* Appends the JSON for the TPM that is reached. Errors of attest/tpm_storage.h. */
int st_sealed_device_read(const struct st_sealed_device_opts *o, struct st_buf *out, struct st_err *e) ST_MUST_CHECK;
/* INPUT; VERIFY: not a storage key of a TPM. */
int st_sealed_device_parse(struct st_span text, const char *where, struct st_sealed_device *out,
                           struct st_err *e) ST_MUST_CHECK;
/* Whether the storage key is certified below one of these roots (PEM); else VERIFY. */
int st_sealed_device_check(const struct st_sealed_device *d, struct st_span roots, int64_t now,
                           struct st_err *e) ST_MUST_CHECK;
void st_sealed_device_free(struct st_sealed_device *d);

/* Fields `bank` and `pcrs`, in a device and in a recipient alike. INPUT. */
int st_sealed_values_parse(const json_t *o, const char *where, struct st_tpm_values *out,
                           struct st_err *e) ST_MUST_CHECK;
int st_sealed_values_add(const struct st_tpm_values *v, json_t *o, struct st_err *e) ST_MUST_CHECK;
/* A field `index` of a counter. INPUT. */
int st_sealed_index_parse(const json_t *o, const char *where, uint32_t *out, struct st_err *e) ST_MUST_CHECK;

#endif
