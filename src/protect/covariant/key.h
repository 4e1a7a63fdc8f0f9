/* The covariant master key: 32 random bytes (the seed) in a 0600 file. Everything secret of an obfuscated model is
 * derived from it by labelled HKDF sub-streams bound to the source model's digest, so one key file serves many models,
 * and whoever holds seed and source can make the checkpoint again.
 *
 * The file, little-endian:
 *     magic[8] "SOTTOKEY" | u32 version = 2 | id[16] | u32 wrap | salt[16] | i64 created (Unix seconds)
 *     | u32 n <= 2048 | blob[n] | sha256[32] over all before it
 * The first 56 bytes, up to `created`, are the head. The blob by wrap:
 *     0 none         seed[32]
 *     1 passphrase   u32 passes | u32 memory (KiB) | u32 lanes | nonce[12] | sealed[48]
 *                    sealed = AES-256-GCM(seed) and its tag; key = Argon2id (version 0x13) of passphrase and salt, 32
 *                    bytes; associated data = head || passes || memory || lanes
 *     2 TPM          u32 bank (TPM_ALG_ID of the PCRs; 0 = none) | u32 PCRs (bit i: PCR i) | TPM2B_PUBLIC
 *                    | TPM2B_PRIVATE (the TPM's own big-endian forms): an object sealed under the primary key of
 *                    key_tpm.c that holds seed || SHA-256(head || bank || PCRs)
 * Version 1 (read, no longer written) is always 120 bytes: `wrap` is 0, and seed[32] and sha256[32] follow the head.
 *
 * Limits. The checksum finds damage, not tampering: whoever can write the file can replace the key. A wrap protects the
 * file at rest; a program that has opened it holds the seed in locked memory. A passphrase is as strong as it is hard
 * to guess. A TPM gives the seed to any program that may use it (and, with PCRs, that started this machine); its
 * sessions are encrypted against listeners on the bus, not against a device that replaces the TPM. A key sealed by a
 * lost or reset TPM is lost. */
#ifndef ST_PROTECT_COVARIANT_KEY_H
#define ST_PROTECT_COVARIANT_KEY_H

#include "attest/tpm_policy.h"
#include "base/file.h"
#include "base/secret.h"
#include "crypto/passphrase.h"
#include "crypto/stream.h"

enum st_cov_wrap { ST_COV_WRAP_NONE, ST_COV_WRAP_PASSPHRASE, ST_COV_WRAP_TPM, ST_COV_WRAP_COUNT };

/* How a new key file is wrapped, and what opens one that is. Borrowed for the call. */
struct st_cov_lock {
    enum st_cov_wrap wrap;              /* of a new file; opening goes by the file */
    const struct st_secret *passphrase; /* 1..ST_PASSPHRASE_MAX bytes, or NULL */
    struct st_argon2 cost;              /* of a new file; zeros = ST_ARGON2_DEFAULT */
    const char *tcti;                   /* how to reach the TPM (tpm2-tss's NAME:CONF); NULL = ST_TPM_TCTI_DEFAULT */
    struct st_tpm_pcrs pcrs;            /* of a new file: they must have today's values when it is opened */
};

/* What a key file says without being opened. */
struct st_cov_key_info {
    uint32_t version;
    uint8_t id[16];
    int64_t created; /* Unix seconds */
    enum st_cov_wrap wrap;
    struct st_argon2 cost;   /* PASSPHRASE */
    struct st_tpm_pcrs pcrs; /* TPM */
};

struct st_cov_key {
    uint8_t id[16];        /* public */
    int64_t created;       /* Unix seconds */
    struct st_secret seed; /* 32 bytes */
};

/* A fresh key in a new file; refuses to overwrite (IO). On disk when it returns. lock NULL = not wrapped.
 * USAGE: a cost or passphrase out of range; UNSUPPORTED: no TPM, or a build without tpm2-tss. */
int st_cov_key_create(const char *path, const struct st_cov_lock *lock, struct st_err *e) ST_MUST_CHECK;
/* lock NULL = neither passphrase nor special way to the TPM. INPUT: not a key file, truncated, damaged; UNSUPPORTED:
 * version, wrap, no TPM; POLICY: readable by others (mode & 077); USAGE: wrapped by a passphrase and none given, or the
 * other way round; VERIFY: wrong passphrase, another TPM, other PCR values, a changed head. */
int st_cov_key_load(const char *path, const struct st_cov_lock *lock, struct st_cov_key *out,
                    struct st_err *e) ST_MUST_CHECK;
/* The same checks of the file, nothing opened. */
int st_cov_key_show(const char *path, struct st_cov_key_info *out, struct st_err *e) ST_MUST_CHECK;
/* A fresh seed and id take FILE's place in one step, wrapped as before (`lock` opens the old one and wraps the new
 * one); the old file stays as FILE.<old id>, whose path goes to `old`. Nothing changes on failure, but FILE.<old id>
 * may be there already, equal to FILE. Errors of load and create; IO: a copy that differs from FILE, another rotation
 * of FILE under way. */
int st_cov_key_rotate(const char *path, const struct st_cov_lock *lock, char old[ST_PATH_MAX],
                      struct st_err *e) ST_MUST_CHECK;
void st_cov_key_wipe(struct st_cov_key *k);

/* The bytes of a key file; `where` names them in errors. */
int st_cov_key_read(const uint8_t *p, size_t len, const char *where, struct st_cov_key_info *out,
                    struct st_err *e) ST_MUST_CHECK;
int st_cov_key_open(const uint8_t *p, size_t len, const char *where, const struct st_cov_lock *lock,
                    struct st_cov_key *out, struct st_err *e) ST_MUST_CHECK;

/* SHA-256 commitment over key id, seed, model digest and `facts` (what else it binds; ""), hex. Hides them: the seed
 * has 256 bits. Without the seed nobody can make one. */
int st_cov_key_commit(const struct st_cov_key *k, const uint8_t model_digest[32], const char *facts, char hex[65],
                      struct st_err *e) ST_MUST_CHECK;
/* Sub-stream for one label ("layer.3.rope", "tau", ...). */
int st_cov_key_stream(const struct st_cov_key *k, const uint8_t model_digest[32], const char *label,
                      struct st_stream **out, struct st_err *e) ST_MUST_CHECK;

#endif
