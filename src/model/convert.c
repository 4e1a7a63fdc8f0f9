#include "model/convert.h"
#include "base/buf.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* Source bytes per parallel step: what is mapped at a time beside the result. */
#define STEP_BYTES (32u << 20)

/* Rows that a thread takes at a time, of those that are left: a thread that the system holds up takes fewer. */
#define ROWS_TAKEN 8u

struct step {
    const struct st_convert_job *job;
    uint32_t row0, n_row;
    atomic_uint taken; /* of n_row */
    uint8_t *scratch;  /* per thread: a row of f32, then a row as stored */
    size_t row_cap;    /* values */
};

/* The row in f32, its columns multiplied: `wide`, or the source when nothing is to be done. */
static const float *widen(const struct st_convert_job *j, const void *src, float *wide)
{
    if (j->src->dtype == ST_DTYPE_F32 && !j->columns)
        return src;
    st_convert(j->src->dtype, src, ST_DTYPE_F32, wide, j->n_in);
    for (uint32_t i = 0; j->columns && i < j->n_in; i++)
        wide[i] *= j->columns[i];
    return wide;
}

/* One row: through an aligned copy when the file has it unaligned, through f32 when it is to be multiplied or
 * quantised. */
static void convert_row(const struct st_convert_job *j, uint32_t row, float *wide, uint8_t *aligned)
{
    size_t n = j->n_in, in = st_dtype_size(j->src->dtype), to = st_dtype_size(j->dtype);
    const uint8_t *src = (const uint8_t *)j->src->data + row * n * in;
    uint8_t *dst = (uint8_t *)j->dst + row * n * to;
    if (j->src->dtype == j->dtype && !j->columns) {
        memcpy(dst, src, n * in);
        return;
    }
    if ((uintptr_t)src % in) {
        memcpy(aligned, src, n * in);
        src = aligned;
    }
    if (j->dtype == ST_DTYPE_I8)
        j->scale[row] = st_quantize_row(widen(j, src, wide), n, (int8_t *)dst);
    else if (j->columns)
        st_convert(ST_DTYPE_F32, widen(j, src, wide), j->dtype, dst, n);
    else
        st_convert(j->src->dtype, src, j->dtype, dst, n);
}

static void convert_part(void *arg, int thread, int n_threads)
{
    struct step *s = arg;
    float *wide = (float *)(void *)(s->scratch + (size_t)thread * s->row_cap * 8);
    (void)n_threads;
    for (uint32_t lo; (lo = atomic_fetch_add(&s->taken, ROWS_TAKEN)) < s->n_row;) {
        uint32_t hi = s->n_row - lo < ROWS_TAKEN ? s->n_row : lo + ROWS_TAKEN;
        for (uint32_t i = lo; i < hi; i++)
            convert_row(s->job, s->row0 + i, wide, (uint8_t *)(wide + s->row_cap));
    }
}

/* The rows [row0, row0 + n) of a job's source, as a tensor to give advice about. */
static struct st_tensor rows_of(const struct st_convert_job *j, uint32_t row0, uint32_t n)
{
    struct st_tensor t = *j->src;
    size_t row_bytes = (size_t)j->n_in * st_dtype_size(t.dtype);
    t.data = (const uint8_t *)t.data + row0 * row_bytes;
    t.bytes = n * row_bytes;
    return t;
}

static uint32_t rows_per_step(const struct st_convert_job *j)
{
    size_t n = STEP_BYTES / ((size_t)j->n_in * st_dtype_size(j->src->dtype));
    return n ? (uint32_t)n : 1;
}

int st_convert_all(const struct st_ckpt *ckpt, const struct st_convert_job *jobs, size_t n, int n_threads,
                   bool progress, struct st_err *e)
{
    struct st_pool *pool = NULL;
    struct step s = {0};
    struct st_progress bar;
    uint64_t total = 0, done = 0;
    for (size_t i = 0; i < n; i++) {
        total += jobs[i].src->bytes;
        if (jobs[i].n_in > s.row_cap)
            s.row_cap = (jobs[i].n_in + 15u) & ~15u; /* whole cache lines */
    }
    int rc = st_pool_new(n_threads, &pool, e);
    if (!rc)
        rc = st_alloc(&s.scratch, s.row_cap * 8, (size_t)st_pool_size(pool), "conversion of weights", e);
    if (rc)
        goto out;

    st_progress_start(&bar, "Converting weights", "B", total);
    for (size_t i = 0; i < n; i++) {
        const struct st_convert_job *j = &jobs[i];
        uint32_t step = rows_per_step(j);
        if (i + 1 < n)
            st_ckpt_prefetch(ckpt, jobs[i + 1].src);
        s.job = j;
        for (s.row0 = 0; s.row0 < j->n_out; s.row0 += s.n_row) {
            s.n_row = j->n_out - s.row0 < step ? j->n_out - s.row0 : step;
            atomic_store(&s.taken, 0);
            st_pool_run(pool, convert_part, &s);
            struct st_tensor used = rows_of(j, s.row0, s.n_row);
            st_ckpt_release(ckpt, &used);
            done += used.bytes;
            if (progress)
                st_progress_update(&bar, done);
        }
    }
    if (progress)
        st_progress_end(&bar);
out:
    free(s.scratch);
    st_pool_free(pool);
    return rc;
}
