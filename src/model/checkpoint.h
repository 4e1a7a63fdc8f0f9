/* Tensors of a checkpoint by name: safetensors (one file or a sharded index) or a llama2.c v0 file. Hostile input:
 * headers, offsets, shapes and overlaps are checked before any byte of data is touched. Views are valid until
 * st_ckpt_close. Limit: a file that another process shortens while it is mapped kills this one (SIGBUS); checkpoints
 * are not to be edited in place. Format: https://huggingface.co/docs/safetensors (header), transformers (index). */
#ifndef ST_MODEL_CHECKPOINT_H
#define ST_MODEL_CHECKPOINT_H

#include "base/err.h"
#include "model/config.h"

#include <stdbool.h>

#define ST_MAX_DIMS 8

struct st_ckpt;

struct st_tensor {
    const char *name;
    enum st_dtype dtype; /* F32, F16, BF16; ST_DTYPE_COUNT for all others, which no matrix may have */
    const char *stored;  /* the file's word for the dtype: "BF16", "I64", "F8_E4M3", ... */
    int n_dim;
    uint64_t dim[ST_MAX_DIMS];
    const void *data; /* may be unaligned for its dtype: a safetensors header has any length; NULL: not mapped */
    size_t bytes;
};

/* `path`: directory with model.safetensors or model.safetensors.index.json, or a .safetensors file.
 * IO: cannot read; INPUT: malformed, names file and tensor; UNSUPPORTED: another kind of checkpoint. */
int st_ckpt_open(const char *path, struct st_ckpt **out, struct st_err *e) ST_MUST_CHECK;
/* llama2.c v0; fills *config from the header and names tensors as Hugging Face does. Rows of q and k are in the order
 * of interleaved rotary pairs (config->rope_interleaved). */
int st_ckpt_open_llama2c(const char *path, struct st_ckpt **out, struct st_config *config,
                         struct st_err *e) ST_MUST_CHECK;
/* The tensors of a sealed container, without data: a source (model/weights.h) hands them out. */
struct st_container;
int st_ckpt_open_container(const struct st_container *from, struct st_ckpt **out, struct st_err *e) ST_MUST_CHECK;
void st_ckpt_close(struct st_ckpt *c);

size_t st_ckpt_count(const struct st_ckpt *c);
const struct st_tensor *st_ckpt_at(const struct st_ckpt *c, size_t i); /* sorted by name */
/* NULL if absent. */
const struct st_tensor *st_ckpt_find(const struct st_ckpt *c, const char *name);
/* Tells the kernel that the tensor's pages will be needed soon (starts reading them), or not again (they leave the
 * resident set; a later access reads them anew). */
void st_ckpt_prefetch(const struct st_ckpt *c, const struct st_tensor *t);
void st_ckpt_release(const struct st_ckpt *c, const struct st_tensor *t);
/* The same for bytes at..at + len of it, which lie inside. */
void st_ckpt_release_part(const struct st_ckpt *c, const struct st_tensor *t, size_t at, size_t len);

#endif
