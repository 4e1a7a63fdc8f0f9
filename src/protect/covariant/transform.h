/* Tensors from plain to obfuscated. A tensor is a list of vectors: the rows of a matrix that reads the hidden state (or
 * of the embedding), the columns of one that writes it, the single values of a bias. Jobs are collected into a window
 * as far as memory goes and then run together, tile by tile on all threads, so that no thread waits at the end of a
 * tensor. What a window does:
 *     1  fold      Q^T = [I R^T] reader of each reading tensor, the weight of its norm multiplied in      [len, wide]
 *     2  product   a tile of vectors is read, noised, keyed (f32), multiplied (sgemm) and cast
 *     3  write     rows go to their place in the file in runs. What changes their order is gathered in memory, if there
 *                  is room for all of it, and so is a writing tensor, whose rows cross all tiles: the last tile writes
 *                  it in one piece
 *     4  hash      what is whole is read back in pieces, hashed, and noted in the journal (st_cov_out_finish); a window
 *                  later the disk has it, and its page cache serves what comes next (base/stage.h)
 *     5  wipe      what the products needed is overwritten
 * Products are single precision: the keys were drawn in double and cast once, and each weight passes one key matrix
 * (and one of its head). Measured on logits: 1e-6 relative (docs/covariant.md).
 *
 * Tiles and products have shapes that depend on the tensor alone, so the result depends neither on threads nor on
 * memory. Memory beyond the frame stays under `memory`, mapped source pages and what OpenBLAS takes included; pages of
 * the source are given back as tiles are done. */
#ifndef ST_PROTECT_COVARIANT_TRANSFORM_H
#define ST_PROTECT_COVARIANT_TRANSFORM_H

#include "base/log.h"
#include "model/model.h"
#include "protect/covariant/frame.h"
#include "protect/covariant/out.h"

#include <signal.h>

enum st_cov_side {
    ST_COV_READS,          /* vectors are rows [n, d] -> [n, wide], through Q */
    ST_COV_WRITES_ROWS,    /* vectors are rows [n, d] -> [n, wide], through P */
    ST_COV_WRITES_COLUMNS, /* vectors are columns [d, n] -> [wide, n], through P */
    ST_COV_NO_FRAME,       /* vectors are rows [n, len] -> [n, len] */
};

struct st_cov_job {
    enum st_cov_side side;
    const struct st_cov_frame *frame; /* of the hidden state, or of a latent; NULL for NO_FRAME */
    const char *name;                 /* of the source's tensor: labels its random streams */
    const void *src;                  /* NULL: every value is `fill` (NO_FRAME) */
    enum st_dtype src_dtype;
    float fill;
    int weight;            /* of the source model, whose pages are given back; -1 = src is something else */
    uint32_t n, len;       /* vectors of the result, and values in each */
    uint32_t n_src;        /* vectors of the source */
    uint32_t unit;         /* vectors that stay together: head_dim, or 1 */
    const uint32_t *order; /* new unit -> old unit; NULL: as they are. An old unit may come more than once */
    const float *extra;    /* [len], READS: old unit n_src (unit is 1), as given and without noise; or NULL */
    const double *mix;     /* [old unit / mix_share][unit, unit], applied to the vectors of a unit; or NULL */
    uint32_t mix_share;
    const double *scale; /* [n_src], by old vector, when mix is NULL; or NULL */
    const float *norm;   /* [len], READS: weight of the norm that is folded in; or NULL */
    double gain;         /* READS: all values */
    /* Added to the plain vectors, before everything else, in standard deviations of the source. The c-th copy (from 0)
     * of old vector v takes row v + c * n_src of the tensor's noise. */
    double noise;
    bool noise_trained; /* ... of the source's trained rows */
    const struct st_cov_out_tensor *out;
};

struct st_cov_run;

struct st_cov_run_opts {
    const struct st_model *model; /* the source */
    const struct st_cov_key *key;
    const uint8_t *digest; /* [32] of the source */
    struct st_cov_out *out;
    int n_threads;
    uint64_t memory;
    struct st_progress *progress;
    const volatile sig_atomic_t *cancel;
};

/* Starts the threads. What the options point to is kept until st_cov_run_free. */
int st_cov_run_new(const struct st_cov_run_opts *o, struct st_cov_run **run, struct st_err *e) ST_MUST_CHECK;
void st_cov_run_free(struct st_cov_run *r);
/* Takes a job into the window; runs the window first when there is no more room for it. What the job points to is kept
 * until the next flush. MEMORY: says what the tensor needs. Errors of st_cov_run_flush. */
int st_cov_run_add(struct st_cov_run *r, const struct st_cov_job *job, struct st_err *e) ST_MUST_CHECK;
/* Runs what is in the window and has finished tensors noted (st_cov_out_finish). INPUT: a value is not finite, or
 * outside the dtype's range; names the tensor. IO. */
int st_cov_run_flush(struct st_cov_run *r, struct st_err *e) ST_MUST_CHECK;
/* A tensor that needs no job: counts in the progress. */
void st_cov_run_skip(struct st_cov_run *r, const struct st_cov_out_tensor *t);
/* Floating-point operations of all products so far, as needed by the algebra. */
double st_cov_run_flop(const struct st_cov_run *r);

#endif
