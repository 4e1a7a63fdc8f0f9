#include "protect/covariant/transform.h"
#include "protect/covariant/out_cast.h"

#include <cblas.h>
#include <math.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

#define TILE 256
/* OpenBLAS keeps a fixed number of work areas and ends the process when more threads ask. */
#define THREADS_MAX 64

/* Working memory of one thread; holds plain weights and key products. */
struct scratch {
    double *a, *b, *c; /* [tile, wide] */
    float *f;          /* the same as floats, and as the dtypes of source and result */
    uint8_t *raw;
    struct st_err err;
};

struct st_cov_run {
    const struct st_cov_out *out;
    const volatile sig_atomic_t *cancel;
    struct st_pool *pool;
    struct scratch *scratch; /* [n_thread] */
    int n_thread;
    uint32_t width_max, tile_max;
    uint64_t done; /* bytes of finished jobs */
    /* The job under way. */
    const struct st_cov_job *job;
    struct st_progress *progress;
    uint32_t tile, n_tile; /* vectors per tile, tiles */
    atomic_uint next;
    atomic_int failed;
};

static size_t tile_values(const struct st_cov_run *r)
{
    return (size_t)r->tile_max * r->width_max;
}

static int scratch_init(struct scratch *s, const struct st_cov_run *r, struct st_err *e)
{
    size_t n = tile_values(r);
    int rc = st_cov_doubles(&s->a, n, "tile", e);
    if (!rc)
        rc = st_cov_doubles(&s->b, n, "tile", e);
    if (!rc)
        rc = st_cov_doubles(&s->c, n, "tile", e);
    if (!rc)
        rc = st_alloc(&s->f, n, sizeof *s->f, "tile", e);
    if (!rc)
        rc = st_alloc(&s->raw, n, sizeof *s->f, "tile", e);
    return rc;
}

static void scratch_wipe(struct scratch *s, size_t n)
{
    st_cov_doubles_free(s->a, n);
    st_cov_doubles_free(s->b, n);
    st_cov_doubles_free(s->c, n);
    if (s->f)
        OPENSSL_cleanse(s->f, n * sizeof *s->f);
    if (s->raw)
        OPENSSL_cleanse(s->raw, n * sizeof *s->f);
    free(s->f);
    free(s->raw);
}

int st_cov_run_new(uint32_t max_width, uint32_t max_unit, const struct st_cov_out *out, int n_threads,
                   const volatile sig_atomic_t *cancel, struct st_cov_run **run, struct st_err *e)
{
    *run = NULL;
    struct st_cov_run *r = calloc(1, sizeof *r);
    if (!r)
        return st_fail(e, ST_MEMORY, "transform: out of memory");
    r->out = out;
    r->cancel = cancel;
    r->width_max = max_width;
    r->tile_max = max_unit > TILE ? max_unit : TILE;
    int rc = st_pool_new(n_threads, &r->pool, e);
    if (!rc && st_pool_size(r->pool) > THREADS_MAX) {
        st_pool_free(r->pool);
        r->pool = NULL;
        rc = st_pool_new(THREADS_MAX, &r->pool, e);
    }
    if (!rc) {
        r->n_thread = st_pool_size(r->pool);
        rc = st_alloc(&r->scratch, (size_t)r->n_thread, sizeof *r->scratch, "tile", e);
    }
    for (int i = 0; !rc && i < r->n_thread; i++)
        rc = scratch_init(&r->scratch[i], r, e);
    if (rc)
        st_cov_run_free(r);
    else
        *run = r;
    return rc;
}

void st_cov_run_free(struct st_cov_run *r)
{
    if (!r)
        return;
    for (int i = 0; r->scratch && i < r->n_thread; i++)
        scratch_wipe(&r->scratch[i], tile_values(r));
    free(r->scratch);
    st_pool_free(r->pool);
    free(r);
}

/* The old index of new vector v. */
static uint32_t source_of(const struct st_cov_job *j, uint32_t v)
{
    return j->order ? j->order[v / j->unit] * j->unit + v % j->unit : v;
}

/* Rows of the source as they are wanted, scaled: a [n, wide], the first len columns. */
static void load_rows(const struct st_cov_job *j, uint32_t lo, uint32_t n, uint32_t wide, struct scratch *s)
{
    size_t width = st_dtype_size(j->src_dtype);
    for (uint32_t v = 0; v < n; v++) {
        uint32_t old = source_of(j, lo + v);
        double scale = j->scale ? j->gain * j->scale[old] : j->gain;
        double *row = s->a + (size_t)v * wide;
        st_convert(j->src_dtype, (const uint8_t *)j->src + (size_t)old * j->len * width, ST_DTYPE_F32, s->f, j->len);
        for (uint32_t i = 0; i < j->len; i++)
            row[i] = scale * (double)s->f[i] * (j->norm ? (double)j->norm[i] : 1);
    }
}

/* The same for columns. A source row is read only where it is wanted. */
static void load_columns(const struct st_cov_job *j, uint32_t lo, uint32_t n, uint32_t wide, struct scratch *s)
{
    size_t width = st_dtype_size(j->src_dtype);
    uint8_t *to = s->raw;
    for (uint32_t i = 0; i < j->len; i++) {
        const uint8_t *row = (const uint8_t *)j->src + (size_t)i * j->n * width;
        for (uint32_t v = 0; v < n; v++, to += width)
            memcpy(to, row + source_of(j, lo + v) * width, width);
    }
    st_convert(j->src_dtype, s->raw, ST_DTYPE_F32, s->f, (size_t)j->len * n);
    for (uint32_t v = 0; v < n; v++) {
        double scale = j->scale ? j->scale[source_of(j, lo + v)] : 1;
        for (uint32_t i = 0; i < j->len; i++)
            s->a[(size_t)v * wide + i] = scale * (double)s->f[(size_t)i * n + v];
    }
}

/* b = mix a, unit by unit; returns where the result is. lo and n are multiples of unit. */
static double *mix_units(const struct st_cov_job *j, uint32_t lo, uint32_t n, uint32_t wide, struct scratch *s)
{
    if (!j->mix)
        return s->a;
    int unit = (int)j->unit, len = (int)j->len;
    for (uint32_t v = 0; v < n; v += j->unit) {
        uint32_t old = source_of(j, lo + v) / j->unit;
        const double *m = j->mix + (size_t)(old / j->mix_share) * j->unit * j->unit;
        size_t at = (size_t)v * wide;
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, unit, len, unit, 1, m, unit, s->a + at, (int)wide, 0,
                    s->b + at, (int)wide);
    }
    return s->b;
}

/* Casts the n values of c into raw. */
static int cast(const struct st_cov_out_tensor *t, size_t n, struct scratch *s)
{
    double max = st_cov_out_max(t);
    for (size_t i = 0; i < n; i++) {
        if (!(fabs(s->c[i]) <= max))
            return st_fail(&s->err, ST_INPUT, "%s: a value is not finite or too large for %s", t->name,
                           t->q8_0 ? "q8_0" : st_dtype_name(t->dtype));
        s->f[i] = (float)s->c[i];
    }
    st_cov_out_cast(t, s->f, n, s->raw);
    return 0;
}

/* c [n] to value `at` of the tensor; whole rows. */
static int emit(const struct st_cov_run *r, const struct st_cov_job *j, size_t n, uint64_t at, struct scratch *s)
{
    int rc = cast(j->out, n, s);
    return rc ? rc
              : st_cov_out_write(r->out, j->out, st_cov_out_bytes(j->out, at), s->raw, st_cov_out_bytes(j->out, n),
                                 &s->err);
}

/* c [wide, n] to columns lo.. of the tensor; in q8_0 both are multiples of a block (tile_size). */
static int emit_columns(const struct st_cov_run *r, const struct st_cov_job *j, uint32_t lo, uint32_t n,
                        struct scratch *s)
{
    uint32_t wide = j->frame->wide;
    size_t row = st_cov_out_bytes(j->out, n);
    int rc = cast(j->out, (size_t)wide * n, s);
    for (uint32_t i = 0; !rc && i < wide; i++)
        rc = st_cov_out_write(r->out, j->out, st_cov_out_bytes(j->out, (uint64_t)i * j->n + lo), s->raw + i * row, row,
                              &s->err);
    return rc;
}

static int run_tile(const struct st_cov_run *r, uint32_t tile, struct scratch *s)
{
    const struct st_cov_job *j = r->job;
    uint32_t wide = j->frame ? j->frame->wide : j->len, lo = tile * r->tile,
             n = j->n - lo < r->tile ? j->n - lo : r->tile;
    if (r->cancel && *r->cancel)
        return st_fail(&s->err, ST_IO, "cancelled");
    if (j->side == ST_COV_WRITES_COLUMNS)
        load_columns(j, lo, n, wide, s);
    else
        load_rows(j, lo, n, wide, s);
    double *rows = mix_units(j, lo, n, wide, s);
    switch (j->side) {
    case ST_COV_READS:
        st_cov_frame_extend(j->frame, j->expand, rows, n);
        st_cov_frame_rows(j->frame, true, rows, n, s->c);
        return emit(r, j, (size_t)n * wide, (uint64_t)lo * wide, s);
    case ST_COV_WRITES_ROWS:
        st_cov_frame_rows(j->frame, false, rows, n, s->c);
        return emit(r, j, (size_t)n * wide, (uint64_t)lo * wide, s);
    case ST_COV_WRITES_COLUMNS:
        st_cov_frame_columns(j->frame, rows, n, s->c);
        return emit_columns(r, j, lo, n, s);
    case ST_COV_NO_FRAME:
        break;
    }
    for (uint32_t v = 0; v < n; v++)
        s->c[v] = rows[(size_t)v * wide];
    return emit(r, j, n, lo, s);
}

static void work(void *arg, int thread, int n_threads)
{
    struct st_cov_run *r = arg;
    struct scratch *s = &r->scratch[thread];
    (void)n_threads;
    while (!atomic_load(&r->failed)) {
        uint32_t tile = atomic_fetch_add(&r->next, 1);
        if (tile >= r->n_tile)
            return;
        if (run_tile(r, tile, s))
            atomic_store(&r->failed, 1);
        else if (thread == 0)
            st_progress_update(r->progress, r->done + r->job->out->bytes * (tile + 1) / r->n_tile);
    }
}

/* Whole units; and whole blocks, where blocks lie across the vectors. */
static uint32_t tile_size(const struct st_cov_run *r, const struct st_cov_job *j)
{
    uint32_t step = st_cov_run_step(j->unit, j->out->q8_0 && j->side == ST_COV_WRITES_COLUMNS);
    return r->tile_max / step * step;
}

int st_cov_run_job(struct st_cov_run *r, const struct st_cov_job *job, struct st_progress *progress, struct st_err *e)
{
    r->job = job;
    r->progress = progress;
    r->tile = tile_size(r, job);
    r->n_tile = (job->n + r->tile - 1) / r->tile;
    atomic_store(&r->next, 0);
    atomic_store(&r->failed, 0);
    for (int i = 0; i < r->n_thread; i++)
        r->scratch[i].err.code = 0;
    st_pool_run(r->pool, work, r);
    r->done += job->out->bytes;
    for (int i = 0; i < r->n_thread; i++)
        if (r->scratch[i].err.code) {
            *e = r->scratch[i].err;
            return e->code;
        }
    return 0;
}

void st_cov_run_skip(struct st_cov_run *r, const struct st_cov_out_tensor *t, struct st_progress *progress)
{
    r->done += t->bytes;
    st_progress_update(progress, r->done);
}
