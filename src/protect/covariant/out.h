/* Writes a checkpoint that appears whole or not at all, and that a killed run goes on with: in the staging directory
 * DST.partial (base/stage.h), whose journal notes a hash of every finished tensor; `result` is a directory
 * (Hugging Face) or a file (GGUF). Space is reserved before the first tensor, so a full disk shows at the start. A
 * tensor here is one weight of the source's plan; several may fill one tensor of the file (stacked experts). Layouts:
 * out_hf.c (safetensors: one file, or several and their index when they exceed the shard size) and out_gguf.c. */
#ifndef ST_PROTECT_COVARIANT_OUT_H
#define ST_PROTECT_COVARIANT_OUT_H

#include "base/stage.h"
#include "model/journal.h"
#include "model/plan.h"
#include "tensor/tensor.h"

struct st_cov_out_tensor {
    char name[120]; /* of the weight in the source's plan, as Hugging Face writes it */
    enum st_dtype dtype;
    bool q8_0; /* stored in blocks of 32 values: an f16 scale, 32 int8 (GGUF); dtype is F32 then */
    int n_dim; /* 1 or 2 */
    uint32_t dim[2];
    const struct st_plan_weight *weight; /* GGUF names tensors by role, layer and expert; kept until close */
    /* Filled by the layout. */
    uint64_t bytes;
    uint64_t at; /* offset in its file */
    int shard;   /* its file */
    struct st_cov_split *split;
};

/* What the staging directory is begun for. */
struct st_cov_binding {
    char commitment[65], source[65]; /* of key and source (key.h); the model digest */
    char options[512];               /* "name=value name=value"; no newline */
};

struct st_cov_out {
    struct st_stage stage;
    int *fd; /* [n_shard] */
    int n_shard;
    struct st_journal journal;
};

/* Bytes of n values; for q8_0 n is a multiple of 32. */
uint64_t st_cov_out_bytes(const struct st_cov_out_tensor *t, uint64_t n);

/* Makes or finds the staging directory and locks it. IO: dst exists; its parent cannot be written; another run has the
 * staging directory; something else is there under its name. */
int st_cov_out_open(struct st_cov_out *o, const char *dst, struct st_err *e) ST_MUST_CHECK;
/* Begins the journal, or takes up the one that is there. USAGE when it was begun for something else: says for what;
 * then `restart` throws away what is there. Without it nothing can be resumed. */
int st_cov_out_bind(struct st_cov_out *o, const struct st_cov_binding *b, struct st_cov_out_tensor *const *t, int n,
                    bool restart, struct st_err *e) ST_MUST_CHECK;
/* Safetensors: lays the tensors out and writes headers and index. A tensor larger than shard_bytes gets a file of its
 * own. Called once; so is st_cov_out_plan_gguf() (out_gguf.h), its alternative. */
int st_cov_out_plan(struct st_cov_out *o, struct st_cov_out_tensor **t, int n, uint64_t shard_bytes,
                    struct st_err *e) ST_MUST_CHECK;
/* Bytes of one tensor at an offset in it; from any thread. */
int st_cov_out_write(const struct st_cov_out *o, const struct st_cov_out_tensor *t, uint64_t at, const void *p,
                     size_t len, struct st_err *e) ST_MUST_CHECK;
/* All bytes are handed over: lays out what was collected (out_split.h). */
int st_cov_out_flush(const struct st_cov_out *o, const struct st_cov_out_tensor *t, struct st_err *e) ST_MUST_CHECK;
/* The tensor is read back in pieces, each of which has a hash; 0 when there is no journal to note them in. */
uint32_t st_cov_out_pieces(const struct st_cov_out *o, const struct st_cov_out_tensor *t);
/* Also begins to bring the piece to disk. From any thread. IO. */
int st_cov_out_hash(const struct st_cov_out *o, const struct st_cov_out_tensor *t, uint32_t piece, uint8_t sum[32],
                    struct st_err *e) ST_MUST_CHECK;
/* sums [pieces]: notes the tensor in the journal. */
int st_cov_out_finish(struct st_cov_out *o, const struct st_cov_out_tensor *t, const uint8_t (*sums)[32],
                      struct st_err *e) ST_MUST_CHECK;
/* Waits until the tensor is on disk and gives back its pages: some time after it was finished. IO. */
int st_cov_out_settle(const struct st_cov_out *o, const struct st_cov_out_tensor *t, struct st_err *e) ST_MUST_CHECK;
/* Whether an earlier run finished the tensor and its bytes are still those (they are hashed). */
bool st_cov_out_done(const struct st_cov_out *o, const struct st_cov_out_tensor *t);
/* A small file of the directory; replaces one of an earlier run. */
int st_cov_out_file(const struct st_cov_out *o, const char *name, const void *p, size_t len,
                    struct st_err *e) ST_MUST_CHECK;
/* Syncs and renames. IO when dst has come into being meanwhile. */
int st_cov_out_publish(struct st_cov_out *o, struct st_err *e) ST_MUST_CHECK;
/* Closes; removes the staging directory, unless `keep`. */
void st_cov_out_close(struct st_cov_out *o);

/* For layouts. */
int st_cov_out_make_dir(struct st_cov_out *o, struct st_err *e) ST_MUST_CHECK; /* result is a directory */
/* Adds a weight file of `total` bytes that begins with `header`; name NULL: result itself is the file. o->fd has room.
 */
int st_cov_out_make_file(struct st_cov_out *o, const char *name, const struct st_buf *header, uint64_t total,
                         struct st_err *e) ST_MUST_CHECK;

#endif
