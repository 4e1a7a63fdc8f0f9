/* What a TPM 2.0 keeps for its owner: objects sealed under its storage key, and counters that only go up. Kept open:
 * one connection, the storage key, and a session salted with it, so that whoever listens between processor and TPM
 * learns neither session key nor what is unsealed. (Whoever can send commands of his own can ask the TPM himself.)
 *
 * Nothing but counters is stored in the TPM: the storage key is a primary key under the owner hierarchy, ECC on P-256
 * or RSA of 2048 bits, made anew from its template; the same TPM makes the same key until it is cleared. Objects are
 * keyed hashes that hold up to 128 bytes. They are made here (st_tpm_storage_seal) or, without the TPM, for its storage
 * key (st_tpm_duplicate). The owner hierarchy's authorization is empty, as it is unless somebody set it. tpm2-tss
 * copies what is sealed through buffers of its own, which it does not wipe. Source: TCG, TPM 2.0 Library, Part 3:
 * Commands; Part 1, sections 23 (protected storage) and 37.2 (NV counters). Errors: UNSUPPORTED: no TPM there, or this
 * build has no tpm2-tss; IO: it answers with an error, which is named. */
#ifndef ST_ATTEST_TPM_STORAGE_H
#define ST_ATTEST_TPM_STORAGE_H

#include "attest/tpm_link.h"
#include "base/secret.h"

#define ST_TPM_SEALED_MAX 128
#define ST_TPM_COUNTER_STEPS 4096 /* that a counter is raised by at a time: each is a write to its memory */

struct st_tpm_storage;
/* tcti: NULL = ST_TPM_TCTI_DEFAULT (attest/tpm_link.h). */
int st_tpm_storage_open(const char *tcti, enum st_tpm_storage_key key, struct st_tpm_storage **out,
                        struct st_err *e) ST_MUST_CHECK;
void st_tpm_storage_close(struct st_tpm_storage *s);
/* TPMT_PUBLIC of the storage key; lives as long as s. */
struct st_span st_tpm_storage_area(const struct st_tpm_storage *s);
/* Today's values. UNSUPPORTED: not all of these PCRs are in that bank. */
int st_tpm_storage_pcrs(struct st_tpm_storage *s, const struct st_tpm_pcrs *p, struct st_tpm_values *out,
                        struct st_err *e) ST_MUST_CHECK;

/* An object: TPM2B_PUBLIC and TPM2B_PRIVATE, and the contents of TPM2B_ENCRYPTED_SECRET when it was made elsewhere. */
struct st_tpm_object {
    struct st_span public_area, private_area, seed;
};
/* The policy that it was sealed under, for the session that meets it. */
struct st_tpm_terms {
    struct st_tpm_pcrs pcrs; /* bank 0: none, and no policy at all */
    uint32_t counter;        /* 0: none */
    uint64_t limit;
};
/* Appends TPM2B_PUBLIC and TPM2B_PRIVATE. values: that PCRs must have; NULL = whoever may use the TPM unseals. */
int st_tpm_storage_seal(struct st_tpm_storage *s, struct st_span secret, const struct st_tpm_values *values,
                        struct st_buf *out, struct st_err *e) ST_MUST_CHECK;
/* VERIFY: made for another TPM or changed, the PCRs have other values, the counter passed the limit or is not there;
 * INPUT: not an object of a TPM. out is made here. */
int st_tpm_storage_unseal(struct st_tpm_storage *s, const struct st_tpm_object *o, const struct st_tpm_terms *t,
                          struct st_secret *out, struct st_err *e) ST_MUST_CHECK;

/* A counter (attest/tpm_policy.h). index 0: a new one, at the first free index, which goes to *made. Otherwise that
 * one, made if it is not there; POLICY: something else is. A new counter starts above all that the TPM ever had. */
int st_tpm_counter_make(struct st_tpm_storage *s, uint32_t index, uint32_t *made, struct st_err *e) ST_MUST_CHECK;
/* VERIFY: no such counter is there. */
int st_tpm_counter_read(struct st_tpm_storage *s, uint32_t index, uint64_t *value, struct st_err *e) ST_MUST_CHECK;
/* Up to `to`; nothing if it is there already. POLICY: over ST_TPM_COUNTER_STEPS away. */
int st_tpm_counter_raise(struct st_tpm_storage *s, uint32_t index, uint64_t to, struct st_err *e) ST_MUST_CHECK;

#endif
