/* The covariant master key: 32 random bytes in a 0600 file. Everything secret of an obfuscated model is derived from it
 * by labelled HKDF sub-streams bound to the source model's digest, so one key file serves many models, and whoever
 * holds key and source can make the checkpoint again.
 *
 * The file, 120 bytes, little-endian:
 *     magic[8] "SOTTOKEY" | u32 version = 1 | id[16] | u32 kdf = 0 (seed not wrapped) | salt[16] (random; for a kdf)
 *     | i64 created (Unix seconds) | seed[32] | sha256[32] over all before it
 * The checksum finds damage, not tampering: whoever can write the file can replace the key. */
#ifndef ST_PROTECT_COVARIANT_KEY_H
#define ST_PROTECT_COVARIANT_KEY_H

#include "base/secret.h"
#include "crypto/stream.h"

#include <stdbool.h>

#define ST_COV_KEY_FILE_LEN 120

struct st_cov_key {
    uint8_t id[16];        /* public */
    int64_t created;       /* Unix seconds */
    struct st_secret seed; /* 32 bytes */
};

/* Refuses to overwrite (IO). On disk when it returns. */
int st_cov_key_create(const char *path, struct st_err *e) ST_MUST_CHECK;
/* INPUT: not a key file, truncated, damaged; UNSUPPORTED: version, kdf; POLICY: readable by others (mode & 077). */
int st_cov_key_load(const char *path, struct st_cov_key *out, struct st_err *e) ST_MUST_CHECK;
/* The bytes of a key file; `where` names them in errors. */
int st_cov_key_parse(const uint8_t *p, size_t len, const char *where, struct st_cov_key *out,
                     struct st_err *e) ST_MUST_CHECK;
void st_cov_key_wipe(struct st_cov_key *k);
/* SHA-256 commitment over key id and seed and model digest, hex; goes into the manifest beside the checkpoint. Hides
 * both: the seed has 256 bits. */
int st_cov_key_commit(const struct st_cov_key *k, const uint8_t model_digest[32], char hex[65],
                      struct st_err *e) ST_MUST_CHECK;
/* Sub-stream for one label ("layer.3.rope", "tau", ...). */
int st_cov_key_stream(const struct st_cov_key *k, const uint8_t model_digest[32], const char *label,
                      struct st_stream **out, struct st_err *e) ST_MUST_CHECK;

#endif
