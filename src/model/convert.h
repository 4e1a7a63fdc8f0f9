/* Copies of matrices, mostly in another dtype, made in parallel at load. What they are made of is mapped, or handed out
 * by a source (model/weights.h). */
#ifndef ST_MODEL_CONVERT_H
#define ST_MODEL_CONVERT_H

#include "base/log.h"
#include "base/pool.h"
#include "model/checkpoint.h"
#include "model/weights.h"

struct st_convert_job {
    const struct st_tensor *src; /* [n_out, n_in] of F32, F16 or BF16, aligned or not; data NULL: ask the source */
    enum st_dtype dtype;         /* what to make */
    uint32_t n_out, n_in;
    void *dst;
    float *scale;         /* [n_out], I8 only */
    const float *columns; /* [n_in] each column is multiplied by its number before it is converted; NULL = none */
};

struct st_convert_opts {
    int n_threads; /* 0 = all */
    bool progress;
    const struct st_source *source; /* for jobs without data; NULL = there are none */
    bool allow_unlocked;            /* base/locked.h: scratch of what is secret */
};
/* Does jobs in order, reading ahead, and gives the pages of mapped ones back as they are used up. Peak memory beyond
 * the destination: per thread two rows and a block of the source (a MiB), and a few MiB of mapped data. Whatever the
 * source fails with. */
int st_convert_all(const struct st_ckpt *ckpt, const struct st_convert_job *jobs, size_t n,
                   const struct st_convert_opts *o, struct st_err *e) ST_MUST_CHECK;

#endif
