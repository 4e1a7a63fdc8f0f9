/* The covariant master key: 32 random bytes in a 0600 file {magic, version, id, kdf, salt, seed}. Everything secret of an obfuscated
 * model is derived from it by labelled HKDF sub-streams bound to the source model's digest, so one key file serves many models
 * and the same key and source give the same checkpoint bit for bit. */
#ifndef ST_PROTECT_COVARIANT_KEY_H
#define ST_PROTECT_COVARIANT_KEY_H

#include "base/secret.h"
#include "crypto/stream.h"

#include <stdbool.h>

struct st_cov_key {
    uint8_t id[16]; /* public */
    struct st_secret seed; /* 32 bytes */
};

/* Refuses to overwrite (IO). */
int st_cov_key_create(const char *path, struct st_err *e) ST_MUST_CHECK;
/* INPUT: not a key file, truncated; UNSUPPORTED: version; POLICY: readable by others (mode & 077). */
int st_cov_key_load(const char *path, struct st_cov_key *out, struct st_err *e) ST_MUST_CHECK;
void st_cov_key_wipe(struct st_cov_key *k);
/* SHA-256 commitment over key id and seed and model digest, hex; goes into the manifest beside the checkpoint. */
int st_cov_key_commit(const struct st_cov_key *k, const uint8_t model_digest[32], char hex[65], struct st_err *e) ST_MUST_CHECK;
/* Sub-stream for one label ("layer.3.rope", "tau", ...). */
int st_cov_key_stream(const struct st_cov_key *k, const uint8_t model_digest[32], const char *label, struct st_stream **out,
                      struct st_err *e) ST_MUST_CHECK;

#endif
