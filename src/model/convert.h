/* Copies of matrices in another dtype, made in parallel at load. */
#ifndef ST_MODEL_CONVERT_H
#define ST_MODEL_CONVERT_H

#include "base/log.h"
#include "base/pool.h"
#include "model/checkpoint.h"

struct st_convert_job {
    const struct st_tensor *src; /* [n_out, n_in] of F32, F16 or BF16, aligned or not */
    enum st_dtype dtype;         /* what to make */
    uint32_t n_out, n_in;
    void *dst;
    float *scale;         /* [n_out], I8 only */
    const float *columns; /* [n_in] each column is multiplied by its number before it is converted; NULL = none */
};

/* Does jobs in order on n_threads threads (0 = all), reading ahead, and gives the source's pages back as they are used
 * up. Peak memory beyond the destination: two rows per thread and a few MiB of mapped source. */
int st_convert_all(const struct st_ckpt *ckpt, const struct st_convert_job *jobs, size_t n, int n_threads,
                   bool progress, struct st_err *e) ST_MUST_CHECK;

#endif
