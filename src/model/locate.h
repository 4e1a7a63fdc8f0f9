/* Where the tokenizer of a model is. */
#ifndef ST_MODEL_LOCATE_H
#define ST_MODEL_LOCATE_H

#include "base/file.h"

/* The file: tokenizer.json, tokenizer.model or tokenizer.bin in a directory (IO when there is none), tokenizer.bin or
 * tok512.bin beside a llama2.c .bin file (USAGE when there is none). */
int st_locate_tokenizer(const char *model_path, char out[ST_PATH_MAX], struct st_err *e) ST_MUST_CHECK;

#endif
