/* Inside of the checkpoint readers: bytes in memory to a list of tensors. No file is opened here, so that the parsers
 * can be fuzzed. `where` names the file in errors. Tensor data points into the bytes given; names are owned by the
 * list. */
#ifndef ST_MODEL_CKPT_H
#define ST_MODEL_CKPT_H

#include "model/checkpoint.h"
#include "text/json.h"

#define ST_SAFETENSORS_HEADER_MAX (100u << 20) /* as the reference implementation */
#define ST_SHARDS_MAX 1024u

struct st_tensors {
    struct st_tensor *at;
    size_t n, cap;
};

/* Appends an empty tensor with that name; NULL and a MEMORY error when there is no room. */
struct st_tensor *st_tensors_add(struct st_tensors *l, const char *name, struct st_err *e);
void st_tensors_sort(struct st_tensors *l); /* by name */
void st_tensors_free(struct st_tensors *l);

/* Appends the tensors of one safetensors file. */
int st_safetensors_parse(const uint8_t *p, size_t len, const char *where, struct st_tensors *out,
                         struct st_err *e) ST_MUST_CHECK;

/* The format's own word for a dtype, which lives for ever, its size and what it is here; NULL: it has no such word. */
const char *st_stored_dtype(const char *word, enum st_dtype *as, unsigned *bits);
/* A list of non-negative integers into out[max]; returns how many, or -1. */
int st_stored_list(const json_t *list, int max, uint64_t *out);

/* model.safetensors.index.json. Owns `json`; the rest points into it. */
struct st_ckpt_index {
    json_t *json;
    const json_t *map;  /* tensor name -> file name, all strings */
    const char **files; /* [n_file], each once; plain names inside the directory of the index */
    size_t n_file;
};
int st_ckpt_index_parse(const void *p, size_t len, const char *where, struct st_ckpt_index *out,
                        struct st_err *e) ST_MUST_CHECK;
void st_ckpt_index_free(struct st_ckpt_index *x);
/* Whether the tensors l->at[from..] are those that the index places in `file`. */
int st_ckpt_index_check(const struct st_ckpt_index *x, const struct st_tensors *l, size_t from, const char *file,
                        const char *where, struct st_err *e) ST_MUST_CHECK;

#define ST_LLAMA2C_HEADER 28
/* The first ST_LLAMA2C_HEADER bytes of a llama2.c v0 file. */
int st_llama2c_config(const uint8_t *p, const char *where, struct st_config *c, struct st_err *e) ST_MUST_CHECK;
/* A llama2.c v0 file. */
int st_llama2c_parse(const uint8_t *p, size_t len, const char *where, struct st_config *c, struct st_tensors *out,
                     struct st_err *e) ST_MUST_CHECK;

#endif
