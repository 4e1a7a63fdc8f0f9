#include "model/convert.h"
#include "base/buf.h"
#include "base/locked.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* Source bytes per parallel step: what is mapped at a time beside the result. */
#define STEP_BYTES (32u << 20)

/* Rows that a thread takes at a time of what is mapped: one that the system holds up takes fewer. */
#define ROWS_TAKEN 8u

struct step {
    const struct st_convert_job *job;
    const struct st_source *source; /* NULL: the job's data are mapped */
    uint32_t row0, n_row, n_taken;  /* rows of the step; that a thread takes at a time */
    atomic_uint taken;              /* of n_row */
    uint8_t *scratch;               /* per thread: a row of f32, a row as stored, a block of the source */
    size_t row_cap, block_cap;      /* values; bytes */
    atomic_bool failed;
    struct st_err err; /* of the thread that set it */
};

static size_t scratch_bytes(const struct step *s)
{
    return s->row_cap * 8 + s->block_cap;
}

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
static void convert_row(const struct st_convert_job *j, uint32_t row, const uint8_t *src, float *wide, uint8_t *aligned)
{
    size_t n = j->n_in, in = st_dtype_size(j->src->dtype), to = st_dtype_size(j->dtype);
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

/* Bytes of the source's rows lo..hi to dst. False: another thread failed, or this one. */
static bool fetch(struct step *s, uint32_t lo, uint32_t hi, void *dst)
{
    const struct st_convert_job *j = s->job;
    const size_t row = (size_t)j->n_in * st_dtype_size(j->src->dtype);
    struct st_err e;
    if (atomic_load(&s->failed))
        return false;
    if (s->source->read(s->source->ctx, j->src, lo * row, (hi - lo) * row, dst, &e)) {
        if (!atomic_exchange(&s->failed, true))
            s->err = e;
        return false;
    }
    return true;
}

static void convert_rows(struct step *s, uint32_t lo, uint32_t hi, uint8_t *scratch)
{
    const struct st_convert_job *j = s->job;
    const size_t row = (size_t)j->n_in * st_dtype_size(j->src->dtype);
    float *wide = (float *)(void *)scratch;
    uint8_t *aligned = scratch + s->row_cap * 4, *block = scratch + s->row_cap * 8;
    const uint8_t *src = s->source ? block : (const uint8_t *)j->src->data + lo * row;
    if (s->source && j->src->dtype == j->dtype && !j->columns) {
        fetch(s, lo, hi, (uint8_t *)j->dst + lo * row);
        return;
    }
    if (s->source && !fetch(s, lo, hi, block))
        return;
    for (uint32_t i = lo; i < hi; i++)
        convert_row(j, i, src + (i - lo) * row, wide, aligned);
}

static void convert_part(void *arg, int thread, int n_threads)
{
    struct step *s = arg;
    uint8_t *scratch = s->scratch + (size_t)thread * scratch_bytes(s);
    (void)n_threads;
    for (uint32_t lo; (lo = atomic_fetch_add(&s->taken, s->n_taken)) < s->n_row;) {
        uint32_t hi = s->n_row - lo < s->n_taken ? s->n_row : lo + s->n_taken;
        convert_rows(s, s->row0 + lo, s->row0 + hi, scratch);
    }
}

/* The rows [row0, row0 + n) of a job's source, as a tensor to give advice about. */
static struct st_tensor rows_of(const struct st_convert_job *j, uint32_t row0, uint32_t n)
{
    struct st_tensor t = *j->src;
    size_t row_bytes = (size_t)j->n_in * st_dtype_size(t.dtype);
    t.data = t.data ? (const uint8_t *)t.data + row0 * row_bytes : NULL;
    t.bytes = n * row_bytes;
    return t;
}

/* Rows of a block of the source: what is cheapest to read at a time. */
static uint32_t block_rows(const struct st_convert_job *j, const struct st_source *source)
{
    size_t n = source->block(source->ctx, j->src) / ((size_t)j->n_in * st_dtype_size(j->src->dtype));
    return n ? (uint32_t)n : 1;
}

/* Whole blocks, where there are any. */
static uint32_t rows_per_step(const struct st_convert_job *j, uint32_t n_taken)
{
    size_t n = STEP_BYTES / ((size_t)j->n_in * st_dtype_size(j->src->dtype)) / n_taken * n_taken;
    return n ? (uint32_t)n : n_taken;
}

static int run_job(struct step *s, struct st_pool *pool, const struct st_ckpt *ckpt, const struct st_convert_opts *o,
                   struct st_progress *bar, uint64_t *done, struct st_err *e)
{
    const struct st_convert_job *j = s->job;
    s->source = j->src->data ? NULL : o->source;
    s->n_taken = s->source ? block_rows(j, s->source) : ROWS_TAKEN;
    const uint32_t step = rows_per_step(j, s->n_taken);
    for (s->row0 = 0; s->row0 < j->n_out; s->row0 += s->n_row) {
        s->n_row = j->n_out - s->row0 < step ? j->n_out - s->row0 : step;
        atomic_store(&s->taken, 0);
        st_pool_run(pool, convert_part, s);
        if (atomic_load(&s->failed)) {
            *e = s->err;
            return e->code;
        }
        struct st_tensor used = rows_of(j, s->row0, s->n_row);
        st_ckpt_release(ckpt, &used);
        *done += used.bytes;
        if (o->progress)
            st_progress_update(bar, *done);
    }
    return 0;
}

/* Room for the longest row and block; locked when any of the sources is secret. */
static int make_scratch(struct step *s, const struct st_convert_job *jobs, size_t n, int n_threads,
                        const struct st_convert_opts *o, struct st_locked *locked, struct st_err *e)
{
    bool secret = false;
    for (size_t i = 0; i < n; i++) {
        size_t row = (jobs[i].n_in + 15u) & ~15u; /* whole cache lines */
        s->row_cap = row > s->row_cap ? row : s->row_cap;
        if (jobs[i].src->data)
            continue;
        size_t block = (size_t)block_rows(&jobs[i], o->source) * jobs[i].n_in * st_dtype_size(jobs[i].src->dtype);
        block = (block + 63) & ~(size_t)63;
        s->block_cap = block > s->block_cap ? block : s->block_cap;
        secret = secret || o->source->secret(o->source->ctx, jobs[i].src);
    }
    if (!secret)
        return st_alloc(&s->scratch, scratch_bytes(s), (size_t)n_threads, "conversion of weights", e);
    const struct st_locked_opts lo = {
        .what = "conversion of weights", .allow_unlocked = o->allow_unlocked, .secretmem = true};
    int rc = st_locked_new(locked, scratch_bytes(s) * (size_t)n_threads, &lo, e);
    s->scratch = locked->p;
    return rc;
}

int st_convert_all(const struct st_ckpt *ckpt, const struct st_convert_job *jobs, size_t n,
                   const struct st_convert_opts *o, struct st_err *e)
{
    struct st_pool *pool = NULL;
    struct st_locked locked = {0};
    struct step s = {0};
    struct st_progress bar;
    uint64_t total = 0, done = 0;
    for (size_t i = 0; i < n; i++)
        total += jobs[i].src->bytes;
    int rc = st_pool_new(o->n_threads, &pool, e);
    if (!rc)
        rc = make_scratch(&s, jobs, n, st_pool_size(pool), o, &locked, e);
    if (rc)
        goto out;

    st_progress_start(&bar, "Converting weights", "B", total);
    for (size_t i = 0; !rc && i < n; i++) {
        if (i + 1 < n)
            st_ckpt_prefetch(ckpt, jobs[i + 1].src);
        s.job = &jobs[i];
        rc = run_job(&s, pool, ckpt, o, &bar, &done, e);
    }
    if (o->progress)
        st_progress_end(&bar);
out:
    if (!locked.p)
        free(s.scratch);
    st_locked_free(&locked);
    st_pool_free(pool);
    return rc;
}
