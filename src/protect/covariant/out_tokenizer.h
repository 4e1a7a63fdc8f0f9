/* The tokenizer of an obfuscated checkpoint: passthrough words (text/passthrough.h), one per id, so that servers that
 * take and give text only carry ids. It knows no special token, adds none and has no chat template. */
#ifndef ST_PROTECT_COVARIANT_OUT_TOKENIZER_H
#define ST_PROTECT_COVARIANT_OUT_TOKENIZER_H

#include "model/config.h"
#include "protect/covariant/out.h"

/* tokenizer.json (a WordLevel model: text that is no word is an error there, not an unknown token) and
 * tokenizer_config.json, into a Hugging Face directory. */
int st_cov_write_tokenizer(const struct st_cov_out *o, const struct st_config *c, struct st_err *e) ST_MUST_CHECK;

#endif
