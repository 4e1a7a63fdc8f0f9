#include "protect/covariant/transform.h"
#include "base/buf.h"
#include "base/mem.h"
#include "protect/covariant/noise.h"
#include "protect/covariant/tile.h"

#include <cblas.h>
#include <stdlib.h>

/* OpenBLAS keeps a fixed number of work areas and ends the process when more threads ask. */
#define THREADS_MAX 64
/* What OpenBLAS touches of a thread's work area beyond its copy of a slice of the right matrix (slices of at most
 * BLAS_DEPTH rows). */
#define BLAS_BYTES ((uint64_t)4 << 20)
#define BLAS_DEPTH 512
#define PARTS_MAX 1024

struct st_cov_run {
    struct st_cov_run_opts o;
    struct st_pool *pool;
    int n_thread; /* of the pool; `active` of them have work, as memory allows */
    int active;
    struct st_cov_scratch *scratch; /* [n_thread], all of the same size */
    size_t scratch_n;
    uint64_t per_thread;       /* bytes */
    struct st_cov_part *parts; /* [PARTS_MAX], the window */
    int n_part;
    struct st_cov_part *order[PARTS_MAX]; /* in which they run */
    uint64_t parts_bytes;
    const struct st_cov_out_tensor *settle[PARTS_MAX]; /* that the window before this one finished */
    int n_settle;
    uint64_t done; /* bytes of finished tensors */
    double flop;
    enum step { STEP_FOLD, STEP_PRODUCT, STEP_HASH, STEP_WIPE } step; /* under way */
    atomic_uint next;
    atomic_bool failed;
};

int st_cov_run_new(const struct st_cov_run_opts *o, struct st_cov_run **run, struct st_err *e)
{
    struct st_cov_run *r;
    *run = NULL;
    int rc = st_alloc(&r, 1, sizeof *r, "transform", e);
    if (rc)
        return rc;
    r->o = *o;
    rc = st_alloc(&r->parts, PARTS_MAX, sizeof *r->parts, "transform", e);
    if (!rc)
        rc = st_pool_new(o->n_threads, &r->pool, e);
    if (!rc && st_pool_size(r->pool) > THREADS_MAX) {
        st_pool_free(r->pool);
        r->pool = NULL;
        rc = st_pool_new(THREADS_MAX, &r->pool, e);
    }
    if (!rc) {
        r->n_thread = st_pool_size(r->pool);
        rc = st_alloc(&r->scratch, (size_t)r->n_thread, sizeof *r->scratch, "tile", e);
    }
    if (rc)
        st_cov_run_free(r);
    else
        *run = r;
    return rc;
}

static void drop_parts(struct st_cov_run *r)
{
    while (r->n_part)
        st_cov_part_wipe(&r->parts[--r->n_part]);
    r->parts_bytes = 0;
}

void st_cov_run_free(struct st_cov_run *r)
{
    if (!r)
        return;
    if (r->parts)
        drop_parts(r);
    for (int i = 0; r->scratch && i < r->n_thread; i++)
        st_cov_scratch_wipe(&r->scratch[i]);
    free(r->scratch);
    free(r->parts);
    st_pool_free(r->pool);
    free(r);
}

void st_cov_run_skip(struct st_cov_run *r, const struct st_cov_out_tensor *t)
{
    r->done += t->bytes;
    st_progress_update(r->o.progress, r->done);
}

double st_cov_run_flop(const struct st_cov_run *r)
{
    return r->flop;
}

/* ---- running the window ---- */

/* The window's products so far, as a share of its bytes. */
static void show_progress(const struct st_cov_run *r)
{
    uint64_t bytes = 0, tiles = 0, next = atomic_load(&r->next);
    for (int p = 0; p < r->n_part; p++) {
        tiles += r->parts[p].n_tile;
        bytes += r->parts[p].last ? r->parts[p].job.out->bytes : 0;
    }
    st_progress_update(r->o.progress, r->done + (next < tiles ? bytes * next / tiles : bytes));
}

static uint32_t pieces_of(enum step step, const struct st_cov_part *p)
{
    switch (step) {
    case STEP_FOLD:
        return p->n_fold;
    case STEP_PRODUCT:
        return p->n_tile;
    case STEP_HASH:
        return p->n_sum;
    case STEP_WIPE:
        break;
    }
    return 1;
}

/* The part that holds piece `i` of the step, and the piece's number in it; NULL after the last. */
static struct st_cov_part *find_piece(const struct st_cov_run *r, uint32_t i, uint32_t *piece)
{
    for (int p = 0; p < r->n_part; p++) {
        uint32_t n = pieces_of(r->step, r->order[p]);
        if (i < n) {
            *piece = i;
            return r->order[p];
        }
        i -= n;
    }
    return NULL;
}

static void run_piece(struct st_cov_run *r, struct st_cov_part *p, uint32_t piece, struct st_cov_scratch *s)
{
    switch (r->step) {
    case STEP_FOLD:
        st_cov_part_fold(&r->o, p, piece, s);
        break;
    case STEP_PRODUCT:
        st_cov_part_tile(&r->o, p, piece, s);
        break;
    case STEP_HASH:
        (void)!st_cov_out_hash(r->o.out, p->job.out, piece, p->sums[piece], &s->err);
        break;
    case STEP_WIPE:
        st_cov_part_wipe(p);
        break;
    }
}

static void work(void *arg, int thread, int n_threads)
{
    struct st_cov_run *r = arg;
    struct st_cov_scratch *s = &r->scratch[thread];
    struct st_cov_part *p;
    uint32_t piece;
    (void)n_threads;
    if (thread >= r->active)
        return;
    while (!atomic_load(&r->failed) && (p = find_piece(r, atomic_fetch_add(&r->next, 1), &piece))) {
        if (r->o.cancel && *r->o.cancel && r->step != STEP_WIPE)
            (void)!st_fail(&s->err, ST_IO, "cancelled");
        else
            run_piece(r, p, piece, s);
        if (s->err.code)
            atomic_store(&r->failed, true);
        else if (thread == 0 && r->step == STEP_PRODUCT)
            show_progress(r);
    }
}

static int run_step(struct st_cov_run *r, enum step step, struct st_err *e)
{
    r->step = step;
    atomic_store(&r->next, 0);
    atomic_store(&r->failed, false);
    for (int i = 0; i < r->n_thread; i++)
        r->scratch[i].err.code = 0;
    st_pool_run(r->pool, work, r);
    for (int i = 0; i < r->n_thread; i++)
        if (r->scratch[i].err.code) {
            *e = r->scratch[i].err;
            return e->code;
        }
    return 0;
}

/* Of the window before: the disk had the time of a window for it. */
static int settle(struct st_cov_run *r, struct st_err *e)
{
    int rc = 0;
    for (int i = 0; !rc && i < r->n_settle; i++)
        rc = st_cov_out_settle(r->o.out, r->settle[i], e);
    r->n_settle = 0;
    return rc;
}

/* Reads back what is whole and notes it. */
static int finish_parts(struct st_cov_run *r, struct st_err *e)
{
    int rc = 0;
    for (int i = 0; !rc && i < r->n_part; i++)
        if (r->parts[i].last)
            rc = st_cov_out_flush(r->o.out, r->parts[i].job.out, e);
    if (!rc)
        rc = run_step(r, STEP_HASH, e);
    if (!rc)
        rc = settle(r, e);
    for (int i = 0; !rc && i < r->n_part; i++) {
        const struct st_cov_part *p = &r->parts[i];
        r->flop += st_cov_part_flop(p);
        if (!p->last)
            continue;
        rc = st_cov_out_finish(r->o.out, p->job.out, (const uint8_t(*)[32])p->sums, e);
        r->done += p->job.out->bytes;
        r->settle[r->n_settle++] = p->job.out;
    }
    return rc;
}

/* The most work first: while a large part is written, the other threads have products left, and at the end they wait
 * for a small one. */
static int by_work(const void *a, const void *b)
{
    const struct st_cov_part *const *x = a, *const *y = b;
    double p = st_cov_part_flop(*x), q = st_cov_part_flop(*y);
    return (p < q) - (p > q);
}

int st_cov_run_flush(struct st_cov_run *r, struct st_err *e)
{
    struct st_err wiping; /* cannot fail */
    for (int i = 0; i < r->n_part; i++)
        r->order[i] = &r->parts[i];
    qsort(r->order, (size_t)r->n_part, sizeof *r->order, by_work);
    int rc = run_step(r, STEP_FOLD, e);
    if (!rc)
        rc = run_step(r, STEP_PRODUCT, e);
    if (!rc)
        rc = finish_parts(r, e);
    st_progress_update(r->o.progress, r->done);
    (void)!run_step(r, STEP_WIPE, &wiping);
    drop_parts(r);
    return rc;
}

/* ---- the window ---- */

static uint64_t thread_bytes(const struct st_cov_job *j, size_t n)
{
    uint64_t wide = j->frame ? j->frame->wide : 1;
    return 4 * n * sizeof(float) + BLAS_BYTES + BLAS_DEPTH * wide * sizeof(float);
}

/* Working memory for the job on as many threads as half of the budget holds, at least one. */
static int grow_scratch(struct st_cov_run *r, const struct st_cov_job *j, struct st_err *e)
{
    size_t n = st_cov_tile_scratch(j);
    uint64_t bytes = thread_bytes(j, n);
    if (n <= r->scratch_n && bytes <= r->per_thread)
        return 0;
    int rc = st_cov_run_flush(r, e);
    n = n > r->scratch_n ? n : r->scratch_n;
    r->per_thread = bytes > r->per_thread ? bytes : r->per_thread;
    uint64_t fits = r->o.memory / 2 / r->per_thread;
    r->active = fits < 1 ? 1 : fits < (uint64_t)r->n_thread ? (int)fits : r->n_thread;
    for (int i = 0; !rc && i < r->n_thread; i++) {
        st_cov_scratch_wipe(&r->scratch[i]);
        if (i < r->active)
            rc = st_cov_scratch_init(&r->scratch[i], n, e);
    }
    r->scratch_n = rc ? 0 : n;
    return rc;
}

static int too_small(const struct st_cov_run *r, const struct st_cov_job *j, uint64_t need, struct st_err *e)
{
    char a[ST_MEM_TEXT], b[ST_MEM_TEXT];
    return st_fail(e, ST_MEMORY, "%s: needs %s of working memory, %s are allowed (--memory)", j->name,
                   st_mem_text(need + (uint64_t)r->active * r->per_thread, a), st_mem_text(r->o.memory, b));
}

static int add_part(struct st_cov_run *r, struct st_cov_part *part, struct st_err *e)
{
    struct st_cov_part *p = &r->parts[r->n_part];
    *p = *part;
    p->n_sum = p->last ? st_cov_out_pieces(r->o.out, p->job.out) : 0;
    r->n_part++;
    r->parts_bytes += st_cov_part_bytes(&p->job, p->n_row);
    return st_cov_part_init(p, e);
}

/* Rows of a writing tensor that fit into `room`: all, or whole products. 0 = not even one product. */
static uint32_t rows_that_fit(const struct st_cov_job *j, uint64_t room, uint32_t wanted)
{
    while (wanted && st_cov_part_bytes(j, wanted) > room)
        wanted = wanted > ST_COV_ROWS ? (wanted - 1) / ST_COV_ROWS * ST_COV_ROWS : 0;
    return wanted;
}

int st_cov_run_add(struct st_cov_run *r, const struct st_cov_job *job, struct st_err *e)
{
    struct st_cov_part part = {.job = *job, .last = true};
    bool columns = job->side == ST_COV_WRITES_COLUMNS, gathers = st_cov_part_gathers(job);
    uint32_t wide = columns ? job->frame->wide : 0, row = 0;
    int rc = grow_scratch(r, job, e);
    if (!rc && job->noise > 0) {
        const struct st_mat m = {.data = job->src,
                                 .dtype = job->src_dtype,
                                 .n_out = columns ? job->len : job->n_src,
                                 .n_in = columns ? job->n_src : job->len};
        rc = st_cov_noise_std(&m, job->noise_trained, r->pool, &part.noise, e);
        part.noise *= job->noise;
    }
    if (rc)
        return rc;
    uint64_t used = (uint64_t)r->active * r->per_thread, room = r->o.memory > used ? r->o.memory - used : 0;
    for (bool more = true; !rc && more;) {
        uint64_t left = room > r->parts_bytes ? room - r->parts_bytes : 0;
        part.row0 = row;
        part.n_row = columns ? rows_that_fit(job, left, wide - row) : gathers ? job->n : 0;
        bool fits = columns ? part.n_row > 0 : st_cov_part_bytes(job, part.n_row) <= left;
        if (!fits && !r->n_part && !columns) {
            part.n_row = 0;
            fits = st_cov_part_bytes(job, 0) <= left;
        }
        if (r->n_part && (!fits || r->n_part == PARTS_MAX)) {
            rc = st_cov_run_flush(r, e);
            continue;
        }
        if (!fits)
            return too_small(r, job, st_cov_part_bytes(job, wide < ST_COV_ROWS ? wide : ST_COV_ROWS), e);
        row += columns ? part.n_row : 0;
        part.last = row == wide;
        more = row < wide;
        rc = add_part(r, &part, e);
    }
    return rc;
}
