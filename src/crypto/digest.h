/* SHA-256, and the model digest: SHA-256 over the lines `sha256 size name\n`, sorted by name, of a model's config,
 * tokenizer, template and weight files. */
#ifndef ST_CRYPTO_DIGEST_H
#define ST_CRYPTO_DIGEST_H

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

void st_sha256(const void *p, size_t len, uint8_t out[32]);
void st_hex(const uint8_t *p, size_t len, char *out /* 2 * len + 1 */);

/* A directory, not recursive: config.json, generation_config.json, tokenizer.json, tokenizer.model,
 * tokenizer_config.json, special_tokens_map.json, added_tokens.json, vocab.json, merges.txt, chat_template.jinja,
 * chat_template.json,
 * *.safetensors and *.safetensors.index.json. Or one file, which counts as `model.bin` whatever its name, so that a
 * renamed model stays the same model. Reads every byte. IO; INPUT when a directory holds none of these files. */
int st_model_digest(const char *path, uint8_t out[32], struct st_err *e) ST_MUST_CHECK;

#endif
