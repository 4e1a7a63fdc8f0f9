/* Tensors of a checkpoint by name: safetensors (one file or a sharded index) or a llama2.c v0 file. Hostile input: headers,
 * offsets, shapes and overlaps are checked before any byte of data is touched. Views are valid until st_ckpt_close. */
#ifndef ST_MODEL_CHECKPOINT_H
#define ST_MODEL_CHECKPOINT_H

#include "base/err.h"
#include "model/config.h"

#include <stdbool.h>

#define ST_MAX_DIMS 8

struct st_ckpt;

struct st_tensor {
    const char *name;
    enum st_dtype dtype;
    int n_dim;
    uint64_t dim[ST_MAX_DIMS];
    const void *data;
    size_t bytes;
};

/* `path`: directory with model.safetensors or model.safetensors.index.json, or a .safetensors file. */
int st_ckpt_open(const char *path, struct st_ckpt **out, struct st_err *e) ST_MUST_CHECK;
/* llama2.c v0; fills *config from the header and names tensors as Hugging Face does. */
int st_ckpt_open_llama2c(const char *path, struct st_ckpt **out, struct st_config *config, struct st_err *e) ST_MUST_CHECK;
void st_ckpt_close(struct st_ckpt *c);

size_t st_ckpt_count(const struct st_ckpt *c);
const struct st_tensor *st_ckpt_at(const struct st_ckpt *c, size_t i); /* sorted by name */
/* NULL if absent. */
const struct st_tensor *st_ckpt_find(const struct st_ckpt *c, const char *name);
/* Tells the kernel that the tensor's pages are not needed again. */
void st_ckpt_release(const struct st_ckpt *c, const struct st_tensor *t);

/* config.json of a directory, checked; also generation_config.json's eos ids when present. */
int st_config_read(const char *dir, struct st_config *out, struct st_err *e) ST_MUST_CHECK;

#endif
