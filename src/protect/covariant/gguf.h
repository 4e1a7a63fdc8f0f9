/* The head of a GGUF file, version 3: metadata and the list of tensors, built in memory. Little-endian. Errors gather
 * in the buffers (`failed`). magic "GGUF" | u32 3 | u64 tensors | u64 pairs | pairs (string key, u32 type, value) |
 * tensors (string name, u32 dimensions, u64 each, fastest first, u32 type, u64 offset) | zeros up to a multiple of 32 |
 * data A string is a u64 length and its bytes; offsets count from the data's begin and are multiples of 32. Source:
 * https://github.com/ggml-org/ggml/blob/master/docs/gguf.md */
#ifndef ST_PROTECT_COVARIANT_GGUF_H
#define ST_PROTECT_COVARIANT_GGUF_H

#include "base/buf.h"

#define ST_GGUF_ALIGN 32

enum st_gguf_type { ST_GGUF_F32 = 0, ST_GGUF_F16 = 1, ST_GGUF_Q8_0 = 8, ST_GGUF_BF16 = 30 };

struct st_gguf {
    struct st_buf pairs, tensors;
    uint64_t n_pair, n_tensor;
    uint64_t at;     /* end of the data so far */
    char prefix[32]; /* put before keys that begin with a dot: the architecture's name */
};

void st_gguf_u32(struct st_gguf *g, const char *key, uint32_t v);
void st_gguf_f32(struct st_gguf *g, const char *key, float v);
void st_gguf_bool(struct st_gguf *g, const char *key, bool v);
void st_gguf_str(struct st_gguf *g, const char *key, const char *v, size_t len);
/* Begins an array of n values; they follow by st_gguf_raw(), strings by st_gguf_raw_str(). */
enum st_gguf_array { ST_GGUF_ARRAY_I32 = 5, ST_GGUF_ARRAY_F32 = 6, ST_GGUF_ARRAY_STR = 8 };
void st_gguf_array(struct st_gguf *g, const char *key, enum st_gguf_array type, uint64_t n);
void st_gguf_raw(struct st_gguf *g, const void *p, size_t len);
void st_gguf_raw_str(struct st_gguf *g, const char *v, size_t len);

/* Adds a tensor of `bytes` behind the others; returns its offset in the data. dim: slowest first. */
uint64_t st_gguf_tensor(struct st_gguf *g, const char *name, enum st_gguf_type type, int n_dim, const uint64_t *dim,
                        uint64_t bytes);
/* The head up to the first byte of data; MEMORY. */
int st_gguf_head(const struct st_gguf *g, struct st_buf *out, struct st_err *e) ST_MUST_CHECK;
void st_gguf_wipe(struct st_gguf *g);

#endif
