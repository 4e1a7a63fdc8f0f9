/* One tensor from plain to obfuscated, tile by tile on all threads. Every tensor is a list of vectors: the rows of a
 * matrix that reads the hidden state (or of the embedding), the columns of one that writes it, the single values of a
 * bias. A tile is a fixed range of them, so the result does not depend on the number of threads; all algebra is in
 * double. */
#ifndef ST_PROTECT_COVARIANT_TRANSFORM_H
#define ST_PROTECT_COVARIANT_TRANSFORM_H

#include "base/log.h"
#include "base/pool.h"
#include "protect/covariant/frame.h"
#include "protect/covariant/out.h"

#include <signal.h>
#include <stdatomic.h>

enum st_cov_side {
    ST_COV_READS,          /* vectors are rows [n, d] -> [n, wide], through Q */
    ST_COV_WRITES_ROWS,    /* vectors are rows [n, d] -> [n, wide], through P */
    ST_COV_WRITES_COLUMNS, /* vectors are columns [d, n] -> [wide, n], through P */
    ST_COV_NO_FRAME,       /* vectors are single values [n] -> [n] */
};

struct st_cov_job {
    enum st_cov_side side;
    const struct st_cov_frame *frame; /* of the hidden state, or of a latent; NULL for NO_FRAME */
    const void *src;
    enum st_dtype src_dtype;
    uint32_t n, len;       /* vectors, and values in each */
    uint32_t unit;         /* vectors that stay together: head_dim, or 1 */
    const uint32_t *order; /* new unit -> old unit; NULL: as they are */
    const double *mix;     /* [old unit / mix_share][unit, unit], applied to the vectors of a unit; or NULL */
    uint32_t mix_share;
    const double *scale;  /* [n], by old vector, when mix is NULL; or NULL */
    const float *norm;    /* [len]: weight of the norm that is folded in; or NULL */
    double gain;          /* all values */
    const double *expand; /* R of the frame, for READS */
    const struct st_cov_out_tensor *out;
};

struct st_cov_run;

/* The smallest number of vectors that are whole units, and whole q8_0 blocks of 32 when they lie across. */
static inline uint32_t st_cov_run_step(uint32_t unit, bool blocks)
{
    uint32_t step = unit;
    while (blocks && step % 32)
        step += unit;
    return step;
}

/* Takes the pool's threads and working memory. out and cancel are kept until st_cov_run_free. max_width >= every len
 * and every frame's width, max_unit >= every unit; with q8_0, >=
 * st_cov_run_step() of every unit. */
int st_cov_run_new(uint32_t max_width, uint32_t max_unit, const struct st_cov_out *out, int n_threads,
                   const volatile sig_atomic_t *cancel, struct st_cov_run **run, struct st_err *e) ST_MUST_CHECK;
void st_cov_run_free(struct st_cov_run *r);
/* INPUT: a value is not finite, or outside the dtype's range; names the tensor. */
int st_cov_run_job(struct st_cov_run *r, const struct st_cov_job *job, struct st_progress *progress,
                   struct st_err *e) ST_MUST_CHECK;

/* A tensor that needs no job: counts in the progress. */
void st_cov_run_skip(struct st_cov_run *r, const struct st_cov_out_tensor *t, struct st_progress *progress);

#endif
