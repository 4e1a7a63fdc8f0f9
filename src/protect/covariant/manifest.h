/* The manifest of an obfuscated checkpoint: what was done to it, for whoever has the key, and nothing that helps to
 * undo it. JSON: the file sotto.json of a Hugging Face directory, or the string `sotto.manifest` in the metadata of a
 * GGUF file.
 *     {"version": 3, "protection": "covariant", "preset": "tight", "h": 32,
 *      "parameters": {"lambda": 0, "alpha_e": 0, "alpha_h": 0, "noise_all": 0, "beta": 0, "gamma": 1000,
 *      "homophones": 0}, "format": "hf", "dtype": "f32", "commitment": "64 hex digits"}
 * and, with homophones, "frequent": which tokens have them, sealed.
 * dtype is the option as given (keep: each tensor as in the source). The commitment is that of key.h over key, source
 * and all other fields, as JSON without spaces and with sorted keys: who has the key and the source notices when
 * somebody without them changes a field. */
#ifndef ST_PROTECT_COVARIANT_MANIFEST_H
#define ST_PROTECT_COVARIANT_MANIFEST_H

#include "protect/covariant/homophones.h"
#include "protect/covariant/out.h"

#include <jansson.h>

#define ST_COV_MANIFEST "sotto.json"
#define ST_COV_MANIFEST_GGUF "sotto.manifest"

struct st_cov_manifest {
    /* How it was made: preset, expand (as chosen), noise, pairs, homophones, format and dtype; the rest is zero. */
    struct st_cov_opts made;
    char commitment[65];                 /* hex; of st_cov_manifest_commit() */
    char frequent[ST_COV_FREQUENT_TEXT]; /* st_cov_frequent_seal(); "" without homophones */
};
/* NULL when out of memory. */
json_t *st_cov_manifest_json(const struct st_cov_manifest *m);
/* Fills in the commitment. */
int st_cov_manifest_commit(struct st_cov_manifest *m, const struct st_cov_key *key, const uint8_t digest[32],
                           struct st_err *e) ST_MUST_CHECK;
/* VERIFY: it is not of this source and key, or was changed. */
int st_cov_manifest_check(const struct st_cov_manifest *m, const struct st_cov_key *key, const uint8_t digest[32],
                          struct st_err *e) ST_MUST_CHECK;
/* Of a checkpoint in either form, or the file itself (a name that ends in .json). Its options pass st_cov_opts_check().
 * IO, INPUT, UNSUPPORTED (version, protection).
 */
int st_cov_read_manifest(const char *path, struct st_cov_manifest *m, struct st_err *e) ST_MUST_CHECK;

#endif
