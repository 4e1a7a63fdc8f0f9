/* The model digest, which names a model everywhere: SHA-256 over the lines `sha256 size name\n`, sorted by name, of its
 * files. */
#ifndef ST_MODEL_MEASURE_H
#define ST_MODEL_MEASURE_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

/* Config, tokenizer and template files that a model's directory may hold; NULL behind the last. */
extern const char *const st_model_texts[];

/* Whether a file of that name in a model's directory counts. */
bool st_model_counts(const char *name);
/* A directory, not recursive: st_model_texts, *.safetensors and *.safetensors.index.json. Or one file, which counts as
 * `model.bin` whatever its name, so that a renamed model stays the same model; its tokenizer is named apart from it and
 * does not count. What lies there counts, whatever it says of itself.
 *
 * Reads every byte, one thread per file. progress: draw a bar. IO; INPUT when a directory holds none of these files. */
int st_model_measure(const char *path, bool progress, uint8_t out[32], struct st_err *e) ST_MUST_CHECK;

#endif
