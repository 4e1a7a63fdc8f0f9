/* Hints of the LWE masks: for each served matrix W [n_out][n_in] and each output column j the vector B W_j in Z_q^m,
 * with the column's scale and norm. Made once by the owner of the weights (`sotto-worker prepare`), served by the
 * worker or handed over as a file, read by the trusted side. They are public as far as prompts go; they reveal the
 * weights (docs/masked.md).
 *
 * File, little-endian: magic "STHINTS\0", u32 version 1, u32 number of matrices, model digest [32], parameter set as
 * u32-length-prefixed text; a table of matrices {name (prefixed), u32 n_out, u32 n_in, u64 offset of the columns,
 * sha256 of them}, no name twice; sha256 of all before it; then in the same order per matrix n_out records of {f32
 * scale, f32 norm, u32 h[m]}, each matrix at the next multiple of 64 bytes, zeros between; nothing behind the last.
 *
 * The file is hostile: all lengths are checked against its size before use; a residue that is not canonical, a scale or
 * norm that is negative, not finite, or larger than int8 columns allow, and columns that do not have their hash are
 * refused. The hashes find damage; that hints belong to the weights is for whoever holds the weights to check (H s = B
 * (W s)). */
#ifndef ST_MODEL_HINTS_H
#define ST_MODEL_HINTS_H

#include "field/lwe.h"
#include "model/served.h"

struct st_hint_columns { /* n consecutive output columns of one matrix */
    uint32_t first, n, m;
    const float *scale; /* [n] */
    const float *norm;  /* [n] Euclidean norm of the int8 column, rounded upwards */
    const uint32_t *h;  /* [n][m] */
};

/* Where hints come from: a file (below) or a worker (service/worker_client.h). */
struct st_hint_source {
    const uint8_t *digest; /* [32] of the model */
    const char *params;    /* name of the parameter set */
    /* Gives all columns of one matrix in ascending order, in pieces; they are valid for that call. INPUT, IO, VERIFY
     * name the matrix: what the sink got before is worth nothing then. sink may fail, which ends it. Missing matrix, or
     * one of another shape: INPUT. One thread. */
    int (*read)(void *ctx, const char *name, uint32_t n_out, uint32_t n_in,
                int (*sink)(void *arg, const struct st_hint_columns *c, struct st_err *e), void *arg, struct st_err *e);
    void *ctx;
};

/* An open hints file, memory-mapped. INPUT names file and field; UNSUPPORTED: another version or an unknown parameter
 * set; POLICY: a set that is too weak. The columns are not read yet. */
struct st_hints;
int st_hints_open(const char *path, struct st_hints **out, struct st_err *e) ST_MUST_CHECK;
/* The same from bytes in memory, which are kept until close; `where` names them in errors. */
int st_hints_parse(const uint8_t *p, size_t len, const char *where, struct st_hints **out,
                   struct st_err *e) ST_MUST_CHECK;
void st_hints_close(struct st_hints *h);
const struct st_hint_source *st_hints_source(const struct st_hints *h);
/* Columns [first, first + n) of a matrix, straight from the map and unchecked, for a worker that serves them. INPUT: no
 * such matrix, or out of range. */
int st_hints_columns(const struct st_hints *h, const char *name, uint32_t first, uint32_t n, const void **records,
                     size_t *len, struct st_err *e) ST_MUST_CHECK;

struct st_hints_make {
    const struct st_served *served;
    const struct st_lwe_params *params;
    const uint8_t *digest; /* [32] */
    int n_threads;         /* 0 = all */
    bool progress;
};
/* Bytes of the file. */
uint64_t st_hints_bytes(const struct st_hints_make *o);
/* Writes the file atomically (a temporary file beside it, then a link), never over another. Memory: the basis, and a
 * few MiB per thread. INPUT: a matrix without weights, or with weights that are not finite. IO, MEMORY. */
int st_hints_write(const char *path, const struct st_hints_make *o, struct st_err *e) ST_MUST_CHECK;

#endif
