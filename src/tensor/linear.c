/* Linear layers: which kernel, and who does which rows of W. */
#include "tensor/compute.h"
#include "tensor/compute_priv.h"

#include <string.h>

/* Fewer bytes of W than this are read by one thread sooner than the others wake up. */
#define MIN_PARALLEL_BYTES 32768

/* Bytes of W in one chunk of work, and rows of W in a chunk of GEMV: a multiple of what any kernel does at a time. */
#define CHUNK_BYTES 65536
#define CHUNK_STEP 12

struct step {
    struct st_compute *c;
    const struct st_linear_job *jobs; /* same dtype and n_in */
    int n_job;
    const struct st_gemv_kernel *gemv;
    const float *x;
    uint32_t row0, n_row; /* the rows of this step */
    size_t n_unit;        /* rows (GEMV) or tiles (GEMM) of W, of all jobs in a row */
    size_t chunk;         /* units */
    uint32_t k0, n_k;     /* GEMM: the columns of this step */
};

/* Every thread starts with a contiguous share of W: one sequential stream through memory each. */
static void deal(struct step *s)
{
    struct st_compute *c = s->c;
    size_t n_chunk = (s->n_unit + s->chunk - 1) / s->chunk;
    for (int t = 0; t < c->n_threads; t++) {
        size_t lo;
        st_pool_part(n_chunk, 1, t, c->n_threads, &lo, &c->shares[t].end);
        atomic_store_explicit(&c->shares[t].next, lo, memory_order_relaxed);
    }
}

/* The next chunk for thread t, of its own share or, once that is done, of another's: a thread that shares its CPU with
 * another process does not hold up the rest. `*from` starts at 0. */
static bool take(const struct step *s, int t, int *from, size_t *lo, size_t *hi)
{
    struct st_compute *c = s->c;
    for (; *from < c->n_threads; ++*from) {
        struct st_share *share = &c->shares[(t + *from) % c->n_threads];
        size_t i = atomic_fetch_add_explicit(&share->next, 1, memory_order_relaxed);
        if (i < share->end) {
            *lo = i * s->chunk;
            *hi = *lo + s->chunk < s->n_unit ? *lo + s->chunk : s->n_unit;
            return true;
        }
    }
    return false;
}

static size_t ldy(const struct st_linear_job *job)
{
    return job->ldy ? job->ldy : job->w->n_out;
}

static void gemv_rows(const struct step *s, size_t lo, size_t hi)
{
    const struct st_compute *c = s->c;
    size_t first = 0;
    for (int j = 0; j < s->n_job && first < hi; j++) {
        const struct st_linear_job *job = &s->jobs[j];
        size_t n = job->w->n_out, a = lo > first ? lo - first : 0, b = hi - first < n ? hi - first : n;
        if (a < b) {
            struct st_gemv g = {.w = job->w,
                                .bias = job->bias,
                                .x = c->x_rows,
                                .ldx = st_gemv_row_bytes(job->w->n_in),
                                .x_scale = c->x_scale,
                                .n_row = s->n_row,
                                .y = job->y + s->row0 * ldy(job),
                                .ldy = ldy(job)};
            s->gemv->run(&g, (uint32_t)a, (uint32_t)b);
        }
        first += n;
    }
}

static void gemv_part(void *arg, int t, int n_threads)
{
    const struct step *s = arg;
    int from = 0;
    size_t lo, hi;
    (void)n_threads;
    while (take(s, t, &from, &lo, &hi))
        gemv_rows(s, lo, hi);
}

static void gemv(struct step *s, uint32_t n_row)
{
    struct st_compute *c = s->c;
    enum st_dtype dtype = s->jobs[0].w->dtype;
    uint32_t n_in = s->jobs[0].w->n_in;
    size_t ldx = st_gemv_row_bytes(n_in), w_row = n_in * st_dtype_size(dtype);
    for (int j = 0; j < s->n_job; j++)
        s->n_unit += s->jobs[j].w->n_out;
    s->chunk = (CHUNK_BYTES / w_row / CHUNK_STEP + 1) * CHUNK_STEP;
    for (s->row0 = 0; s->row0 < n_row; s->row0 += s->n_row) {
        s->n_row = n_row - s->row0 < ST_GEMV_ROWS ? n_row - s->row0 : ST_GEMV_ROWS;
        for (uint32_t r = 0; r < s->n_row; r++)
            s->gemv->prep(s->x + (size_t)(s->row0 + r) * n_in, n_in, c->x_rows + r * ldx, &c->x_scale[r]);
        if (s->n_unit * w_row < MIN_PARALLEL_BYTES) {
            gemv_rows(s, 0, s->n_unit);
            continue;
        }
        deal(s);
        st_pool_run(c->pool, gemv_part, s);
    }
}

static void pack_part(void *arg, int t, int n_threads)
{
    const struct step *s = arg;
    struct st_compute *c = s->c;
    uint32_t n_in = s->jobs[0].w->n_in;
    const struct st_gemm_kernel *g = c->k.gemm[s->jobs[0].w->dtype];
    size_t lo, hi, panel_bytes = st_gemm_panel_bytes(g, s->n_k);
    st_pool_part(s->n_row, g->nr, t, n_threads, &lo, &hi);
    for (size_t r = lo; r < hi; r += g->nr) {
        uint32_t n = hi - r < g->nr ? (uint32_t)(hi - r) : g->nr;
        g->pack(s->x + (s->row0 + r) * n_in + s->k0, n_in, n, s->n_k, c->panels + r / g->nr * panel_bytes);
    }
}

/* Rows [o, o + n_w) of W in columns [k0, k0 + n_k) as the kernel wants them: in place, or expanded into `buf`. */
static void find_tile(const struct step *s, const struct st_mat *m, uint32_t o, struct st_gemm_tile *tile, uint8_t *buf)
{
    enum st_dtype elem = s->c->k.gemm[m->dtype]->elem;
    size_t w_size = st_dtype_size(m->dtype), e_size = st_dtype_size(elem);
    const uint8_t *w = (const uint8_t *)m->data + ((size_t)o * m->n_in + s->k0) * w_size;
    /* The last pair of an odd row would read past the matrix. */
    if (m->dtype == elem && (s->n_k % 2 == 0 || elem == ST_DTYPE_F32)) {
        tile->w = w;
        tile->ldw = m->n_in;
        tile->n_k = s->n_k;
        return;
    }
    tile->w = buf;
    tile->ldw = tile->n_k = (s->n_k + 1) & ~1u;
    for (uint32_t i = 0; i < tile->n_w; i++) {
        const uint8_t *from = w + (size_t)i * m->n_in * w_size;
        uint8_t *to = buf + i * tile->ldw * e_size;
        if (m->dtype == ST_DTYPE_I8)
            s->c->k.gemm[m->dtype]->widen_i8((const int8_t *)from, s->n_k, to);
        else
            st_convert(m->dtype, from, elem, to, s->n_k);
        if (s->n_k % 2)
            memset(to + s->n_k * e_size, 0, e_size);
    }
}

static size_t n_tile(const struct st_linear_job *job, const struct st_gemm_kernel *g)
{
    return (job->w->n_out + g->mr - 1) / g->mr;
}

/* Rows [o, o + mr) of one matrix times all panels. */
static void gemm_tile(const struct step *s, const struct st_linear_job *job, uint32_t o, uint8_t *buf)
{
    const struct st_mat *m = job->w;
    const struct st_gemm_kernel *g = s->c->k.gemm[m->dtype];
    size_t panel_bytes = st_gemm_panel_bytes(g, s->n_k);
    struct st_gemm_tile tile = {.n_w = m->n_out - o < g->mr ? m->n_out - o : g->mr,
                                .w_scale = m->dtype == ST_DTYPE_I8 ? m->scale + o : NULL,
                                .bias = job->bias ? job->bias + o : NULL,
                                .first = s->k0 == 0,
                                .ldy = ldy(job)};
    find_tile(s, m, o, &tile, buf);
    for (uint32_t r = 0; r < s->n_row; r += g->nr) {
        tile.n_row = s->n_row - r < g->nr ? s->n_row - r : g->nr;
        tile.panel = s->c->panels + r / g->nr * panel_bytes;
        tile.y = job->y + (s->row0 + r) * tile.ldy + o;
        g->tile(&tile);
    }
}

static void gemm_part(void *arg, int t, int n_threads)
{
    const struct step *s = arg;
    const struct st_gemm_kernel *g = s->c->k.gemm[s->jobs[0].w->dtype];
    uint8_t *buf = s->c->w_tile + (size_t)t * ST_GEMM_MR_MAX * ST_GEMM_K * sizeof(float);
    int from = 0;
    size_t lo, hi;
    (void)n_threads;
    while (take(s, t, &from, &lo, &hi)) {
        const struct st_linear_job *job = s->jobs;
        size_t first = 0;
        for (size_t i = lo; i < hi; i++) {
            for (; i - first >= n_tile(job, g); job++)
                first += n_tile(job, g);
            gemm_tile(s, job, (uint32_t)(i - first) * g->mr, buf);
        }
    }
}

static void gemm(struct step *s, uint32_t n_row)
{
    struct st_compute *c = s->c;
    const struct st_gemm_kernel *g = c->k.gemm[s->jobs[0].w->dtype];
    uint32_t n_in = s->jobs[0].w->n_in;
    for (int j = 0; j < s->n_job; j++)
        s->n_unit += n_tile(&s->jobs[j], g);
    for (s->row0 = 0; s->row0 < n_row; s->row0 += s->n_row) {
        s->n_row = n_row - s->row0 < c->gemm_rows ? n_row - s->row0 : c->gemm_rows;
        for (s->k0 = 0; s->k0 < n_in; s->k0 += s->n_k) {
            s->n_k = n_in - s->k0 < ST_GEMM_K ? n_in - s->k0 : ST_GEMM_K;
            /* Many rows: a tile is work enough. Few rows: as many bytes of W as a chunk of GEMV. */
            s->chunk = s->n_row > 64 ? 1 : CHUNK_BYTES / ((size_t)s->n_k * g->mr) + 1;
            st_pool_run(c->pool, pack_part, s);
            deal(s);
            st_pool_run(c->pool, gemm_part, s);
        }
    }
}

void st_linear(struct st_compute *c, const struct st_linear_job *jobs, int n_job, const float *x, uint32_t n_row)
{
    bool exact = c->deterministic;
    for (int j = 0, n; j < n_job; j += n) {
        enum st_dtype dtype = jobs[j].w->dtype;
        for (n = 1; j + n < n_job && jobs[j + n].w->dtype == dtype; n++)
            ;
        struct step s = {.c = c, .jobs = jobs + j, .n_job = n, .gemv = c->k.gemv[dtype], .x = x};
        if (!exact && n_row > ST_GEMV_ROWS / 2 && n_row <= ST_GEMV_ROWS && c->k.gemv_many[dtype])
            s.gemv = c->k.gemv_many[dtype];
        if (!exact && n_row > c->k.gemv_most[dtype] && c->k.gemm[dtype])
            gemm(&s, n_row);
        else
            gemv(&s, n_row);
    }
}
