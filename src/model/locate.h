/* Where the tokenizer of a model is. */
#ifndef ST_MODEL_LOCATE_H
#define ST_MODEL_LOCATE_H

#include "model/texts.h"

#define ST_LOCATE_NONE "no tokenizer.json, tokenizer.model or tokenizer.bin"

/* The file: tokenizer.json, tokenizer.model or tokenizer.bin in a directory (IO when there is none), tokenizer.bin or
 * tok512.bin beside a llama2.c .bin file (USAGE when there is none); a sealed container itself, which holds it. */
int st_locate_tokenizer(const char *model_path, char out[ST_PATH_MAX], struct st_err *e) ST_MUST_CHECK;
/* The first of these names that is there; NULL when none is. */
const char *st_locate_tokenizer_in(const struct st_texts *t);

#endif
