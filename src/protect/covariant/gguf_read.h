/* A GGUF file, version 3 (layout: gguf.h), mapped and read as hostile input: every length is checked against the file
 * when it is opened, so that what is found later can be used. Views are valid until it is closed. Only the types that
 * gguf.h names are known for tensors. */
#ifndef ST_PROTECT_COVARIANT_GGUF_READ_H
#define ST_PROTECT_COVARIANT_GGUF_READ_H

#include "base/file.h"
#include "protect/covariant/gguf.h"

struct st_gguf_file {
    struct st_map map;             /* when it was opened by its path */
    struct st_span bytes;          /* the whole file */
    struct st_span pairs, tensors; /* metadata, and the list of tensors, as they lie in the file */
    uint64_t n_pair, n_tensor;
    size_t data; /* where the data begins */
};

struct st_gguf_view {
    enum st_gguf_type type;
    int n_dim;       /* 1..4 */
    uint64_t dim[4]; /* slowest first */
    const uint8_t *data;
    uint64_t bytes;
};

/* IO; INPUT: no GGUF file of version 3, damaged; UNSUPPORTED: a tensor of another type. */
int st_gguf_open(const char *path, struct st_gguf_file *f, struct st_err *e) ST_MUST_CHECK;
/* The same of a file in memory, which is kept; `where` names it in errors. */
int st_gguf_parse(struct st_span bytes, const char *where, struct st_gguf_file *f, struct st_err *e) ST_MUST_CHECK;
void st_gguf_close(struct st_gguf_file *f);
bool st_gguf_find(const struct st_gguf_file *f, const char *name, struct st_gguf_view *out);
/* The string `key` of the metadata. */
bool st_gguf_find_str(const struct st_gguf_file *f, const char *key, struct st_span *out);
/* The key of the pair that holds byte `at` of a list of n pairs (as f->pairs, or as a writer built it). */
bool st_gguf_key_at(struct st_span pairs, uint64_t n, size_t at, struct st_span *key);

#endif
