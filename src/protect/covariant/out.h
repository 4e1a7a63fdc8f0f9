/* Writes a Hugging Face directory that appears whole or not at all: everything goes into DST.partial-XXXXXX beside it,
 * is synced, and the directory is renamed at the end. Weights are safetensors: one file, or several and their index
 * when they exceed the shard size. Space is reserved before the first tensor, so a full disk shows at the start. */
#ifndef ST_PROTECT_COVARIANT_OUT_H
#define ST_PROTECT_COVARIANT_OUT_H

#include "base/file.h"
#include "tensor/tensor.h"

struct st_cov_out_tensor {
    char name[120];
    enum st_dtype dtype;
    int n_dim; /* 1 or 2 */
    uint32_t dim[2];
    /* Filled by st_cov_out_plan(). */
    uint64_t bytes;
    uint64_t at; /* offset in its shard's file */
    int shard;
};

struct st_cov_out {
    char final[ST_PATH_MAX];
    char stage[ST_PATH_MAX];
    int *fd; /* [n_shard] */
    int n_shard;
};

/* Makes the staging directory. IO: dst exists, or its parent cannot be written. */
int st_cov_out_open(struct st_cov_out *o, const char *dst, struct st_err *e) ST_MUST_CHECK;
/* Lays the tensors out and writes headers and index. A tensor larger than shard_bytes gets a file of its own. Called
 * once. */
int st_cov_out_plan(struct st_cov_out *o, struct st_cov_out_tensor **t, int n, uint64_t shard_bytes,
                    struct st_err *e) ST_MUST_CHECK;
/* Bytes of one tensor at an offset in it; from any thread. */
int st_cov_out_write(const struct st_cov_out *o, const struct st_cov_out_tensor *t, uint64_t at, const void *p,
                     size_t len, struct st_err *e) ST_MUST_CHECK;
/* A small file of the directory. */
int st_cov_out_file(const struct st_cov_out *o, const char *name, const void *p, size_t len,
                    struct st_err *e) ST_MUST_CHECK;
/* Syncs and renames. IO when dst has come into being meanwhile. */
int st_cov_out_publish(struct st_cov_out *o, struct st_err *e) ST_MUST_CHECK;
/* Closes; removes the staging directory unless it was published. */
void st_cov_out_close(struct st_cov_out *o);

#endif
