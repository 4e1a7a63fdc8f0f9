/* A kit: the part of a model that a trusted side without the weights needs, as a directory that opens as a MODEL with
 * st_model_opts.no_linear. It holds the source's config, tokenizer and template files, model.safetensors with the
 * embedding (unless its rows are to be fetched from the worker), norms inside heads, biases and routers (f32, norms
 * folded in), and masked.json, which says of which model and for which parameters it was made. All other norms are
 * ones and not stored. Made by the owner of the weights (service/prepare.h); hostile like any checkpoint. */
#ifndef ST_MODEL_KIT_H
#define ST_MODEL_KIT_H

#include "base/err.h"
#include "field/lwe.h"
#include "tensor/tensor.h"

#include <stdbool.h>
#include <stdint.h>

#define ST_KIT_MANIFEST "masked.json"
#define ST_KIT_VERSION 1

struct st_kit {
    uint8_t digest[32];       /* of the source */
    char params[ST_LWE_NAME]; /* parameter set of the hints that were made with it */
    bool embedding;           /* the table is in the kit */
    enum st_dtype dtype;      /* of the source's matrices */
};

/* Whether `path` is a directory with a manifest. */
bool st_kit_is(const char *path);
/* INPUT names the manifest and the field; UNSUPPORTED: another version. */
int st_kit_read(const char *dir, struct st_kit *out, struct st_err *e) ST_MUST_CHECK;
/* The digest that names a kit, whatever it says of itself: SHA-256 of the model digest of its files (model/measure.h)
 * and the SHA-256 of its manifest. Reads every byte. IO, INPUT. */
int st_kit_measure(const char *dir, uint8_t out[32], struct st_err *e) ST_MUST_CHECK;
/* Makes a kit of a model that was opened from a directory with dtype INT8 and fold_norms: in a directory beside `dir`
 * that is renamed when it is whole. kit->dtype is filled in. IO: dir exists already, or cannot be written; UNSUPPORTED:
 * the model is a single file, which has no config to copy. */
struct st_model;
int st_kit_make(const char *dir, const struct st_model *m, struct st_kit *kit, struct st_err *e) ST_MUST_CHECK;
/* The manifest's text; `where` names it. For st_kit_read() and tests. */
int st_kit_parse(const void *p, size_t len, const char *where, struct st_kit *out, struct st_err *e) ST_MUST_CHECK;

#endif
