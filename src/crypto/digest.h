/* SHA-256, and the model digest: SHA-256 over the sorted lines `sha256 size name` of a model's config, tokenizer, template and
 * weight files. */
#ifndef ST_CRYPTO_DIGEST_H
#define ST_CRYPTO_DIGEST_H

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

void st_sha256(const void *p, size_t len, uint8_t out[32]);
void st_hex(const uint8_t *p, size_t len, char *out /* 2 * len + 1 */);
/* A directory (files of the kinds above, not recursive) or one .bin file. IO, INPUT. */
int st_model_digest(const char *path, uint8_t out[32], struct st_err *e) ST_MUST_CHECK;

#endif
