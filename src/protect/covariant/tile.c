#include "protect/covariant/tile.h"
#include "base/buf.h"
#include "protect/covariant/noise.h"
#include "protect/covariant/out_cast.h"

#include <cblas.h>
#include <math.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

#define TILE 256u
#define TILE_LARGE 512u /* of tensors with at least LARGE vectors of at most LARGE values: less copying in sgemm */
#define LARGE 4096u
#define BLOCK 32u /* of quantised formats */
#define CACHE_LINE 64
#define WRITE_BYTES (8u << 20) /* of one call */

static uint32_t width_of(const struct st_cov_job *j)
{
    return j->frame ? j->frame->wide : j->len;
}

static uint32_t gcd(uint32_t a, uint32_t b)
{
    return b ? gcd(b, a % b) : a;
}

uint32_t st_cov_tile_vectors(const struct st_cov_job *j)
{
    uint32_t tile = j->n >= LARGE && width_of(j) <= LARGE && j->len <= LARGE ? TILE_LARGE : TILE;
    uint32_t step = j->unit / gcd(j->unit, BLOCK) * BLOCK;
    if (step > 4 * TILE)
        step = j->unit;
    return step < tile ? tile / step * step : step;
}

size_t st_cov_tile_scratch(const struct st_cov_job *j)
{
    uint32_t tile = st_cov_tile_vectors(j), wide = width_of(j), widest = wide > j->len ? wide : j->len;
    size_t n = (size_t)tile * widest;
    if (j->side == ST_COV_WRITES_COLUMNS && n < (size_t)tile * ST_COV_ROWS)
        n = (size_t)tile * ST_COV_ROWS;
    if (j->side == ST_COV_READS && n < (size_t)ST_COV_FOLD * j->frame->spare)
        n = (size_t)ST_COV_FOLD * j->frame->spare;
    return n;
}

/* Bytes of a row of the result. */
static uint64_t row_bytes(const struct st_cov_job *j)
{
    return st_cov_out_bytes(j->out, j->side == ST_COV_WRITES_COLUMNS ? j->n : width_of(j));
}

bool st_cov_part_gathers(const struct st_cov_job *j)
{
    return j->order && j->side != ST_COV_WRITES_COLUMNS && !j->out->split;
}

uint64_t st_cov_part_bytes(const struct st_cov_job *j, uint32_t n_row)
{
    uint64_t bytes = sizeof(struct st_cov_part), n_unit = (j->n + j->unit - 1) / j->unit;
    if (j->mix)
        bytes += (n_unit + j->mix_share - 1) / j->mix_share * j->unit * j->unit * sizeof(float);
    if (j->order)
        bytes += 2 * n_unit * sizeof(uint32_t);
    if (j->side == ST_COV_READS)
        bytes += (uint64_t)j->len * width_of(j) * sizeof(float);
    if (j->side == ST_COV_WRITES_COLUMNS)
        bytes += (uint64_t)j->n_src * j->len * st_dtype_size(j->src_dtype);
    return bytes + n_row * row_bytes(j);
}

double st_cov_part_flop(const struct st_cov_part *p)
{
    const struct st_cov_job *j = &p->job;
    if (!j->frame)
        return 0;
    double n = j->n, len = j->len, wide = j->side == ST_COV_WRITES_COLUMNS ? p->n_row : j->frame->wide;
    double flop = 2 * n * len * wide;
    if (j->side == ST_COV_READS)
        flop += 2 * len * j->frame->spare * wide;
    if (j->mix)
        flop += 2 * n * len * j->unit;
    return flop;
}

/* ---- parts ---- */

/* New units sorted by the old ones they come from: the source is then read from front to back. */
static int sort_units(struct st_cov_part *p, struct st_err *e)
{
    const struct st_cov_job *j = &p->job;
    uint32_t n = j->n / j->unit, n_old = j->n_src / j->unit + (j->extra != NULL);
    uint32_t *at = NULL;
    int rc = st_alloc(&p->visit, n, sizeof *p->visit, "order of rows", e);
    if (!rc)
        rc = st_alloc(&at, (size_t)n_old + 1, sizeof *at, "order of rows", e);
    for (uint32_t u = 0; !rc && u < n; u++)
        at[j->order[u] + 1]++;
    for (uint32_t u = 0; !rc && u < n_old; u++)
        at[u + 1] += at[u];
    for (uint32_t u = 0; !rc && u < n; u++)
        p->visit[at[j->order[u]]++] = u;
    if (at)
        OPENSSL_cleanse(at, ((size_t)n_old + 1) * sizeof *at);
    free(at);
    return rc;
}

int st_cov_part_init(struct st_cov_part *p, struct st_err *e)
{
    const struct st_cov_job *j = &p->job;
    int rc = 0;
    p->tile = st_cov_tile_vectors(j);
    p->n_tile = (j->n + p->tile - 1) / p->tile;
    atomic_init(&p->left, p->n_tile);
    if (j->mix) {
        uint32_t n_unit = j->n_src / j->unit;
        p->n_mix = (size_t)((n_unit + j->mix_share - 1) / j->mix_share) * j->unit * j->unit;
        rc = st_alloc(&p->mix, p->n_mix, sizeof *p->mix, "head keys", e);
        for (size_t i = 0; !rc && i < p->n_mix; i++)
            p->mix[i] = (float)j->mix[i];
    }
    if (!rc && j->order && j->side != ST_COV_WRITES_COLUMNS)
        rc = sort_units(p, e);
    if (!rc && j->side == ST_COV_READS) {
        p->n_fold = (j->len + ST_COV_FOLD - 1) / ST_COV_FOLD;
        rc = st_alloc(&p->reader, (size_t)j->len * j->frame->wide, sizeof *p->reader, "reader matrix", e);
    }
    if (!rc && p->n_row)
        rc = st_alloc(&p->panel, p->n_row, row_bytes(j), "rows of the result", e);
    if (!rc && p->n_sum)
        rc = st_alloc(&p->sums, p->n_sum, sizeof *p->sums, "hashes", e);
    return rc;
}

void st_cov_part_wipe(struct st_cov_part *p)
{
    const struct st_cov_job *j = &p->job;
    st_cov_floats_free(p->mix, p->n_mix);
    if (p->reader)
        st_cov_floats_free(p->reader, (size_t)j->len * j->frame->wide);
    if (p->visit)
        OPENSSL_cleanse(p->visit, j->n / j->unit * sizeof *p->visit);
    free(p->visit);
    free(p->panel); /* what the server gets */
    free(p->sums);
    *p = (struct st_cov_part){0};
}

int st_cov_scratch_init(struct st_cov_scratch *s, size_t n, struct st_err *e)
{
    s->n = n;
    int rc = st_alloc(&s->a, n, sizeof *s->a, "tile", e);
    if (!rc)
        rc = st_alloc(&s->b, n, sizeof *s->b, "tile", e);
    if (!rc)
        rc = st_alloc(&s->c, n, sizeof *s->c, "tile", e);
    if (!rc)
        rc = st_alloc(&s->raw, n, sizeof *s->c, "tile", e);
    return rc;
}

void st_cov_scratch_wipe(struct st_cov_scratch *s)
{
    st_cov_floats_free(s->a, s->n);
    st_cov_floats_free(s->b, s->n);
    st_cov_floats_free(s->c, s->n);
    if (s->raw)
        OPENSSL_cleanse(s->raw, s->n * sizeof *s->c);
    free(s->raw);
    *s = (struct st_cov_scratch){0};
}

/* ---- folding ---- */

/* Rows of Q^T = [I R^T] reader, times the norm's weight: y = (x / rms(x)) diag(norm) W reads it from Q. */
static int fold(const struct st_cov_run_opts *o, struct st_cov_part *p, uint32_t piece, struct st_cov_scratch *s)
{
    const struct st_cov_job *j = &p->job;
    const struct st_cov_frame *f = j->frame;
    uint32_t lo = piece * ST_COV_FOLD, n = j->len - lo < ST_COV_FOLD ? j->len - lo : ST_COV_FOLD;
    float *q = p->reader + (size_t)lo * f->wide;
    memcpy(q, f->reader32 + (size_t)lo * f->wide, (size_t)n * f->wide * sizeof *q);
    if (f->spare) {
        struct st_stream *r;
        int rc = st_cov_noise_open(o->key, o->digest, "expand", j->name, &r, &s->err);
        if (rc)
            return rc;
        st_cov_frame_expand(f, r, lo, n, s->a);
        st_stream_free(r);
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)n, (int)f->wide, (int)f->spare, 1, s->a,
                    (int)f->spare, f->reader32 + (size_t)f->d * f->wide, (int)f->wide, 1, q, (int)f->wide);
    }
    for (uint32_t i = 0; i < n; i++) {
        float gain = (float)(j->gain * (j->norm ? (double)j->norm[lo + i] : 1));
        for (uint32_t c = 0; c < f->wide; c++)
            q[(size_t)i * f->wide + c] *= gain;
    }
    return 0;
}

void st_cov_part_fold(const struct st_cov_run_opts *o, struct st_cov_part *p, uint32_t piece, struct st_cov_scratch *s)
{
    (void)!fold(o, p, piece, s);
}

/* ---- loading: vectors of the source, noised, scaled and mixed ---- */

struct tile {
    uint32_t lo, n; /* vectors: in the order of visits (rows) or of the result (columns) */
    float *v;       /* where they are: rows [n, len], columns [len, n] */
};

/* New unit that is visited u-th. */
static uint32_t visited(const struct st_cov_part *p, uint32_t u)
{
    return p->visit ? p->visit[u] : u;
}

static uint32_t old_unit(const struct st_cov_job *j, uint32_t new_unit)
{
    return j->order ? j->order[new_unit] : new_unit;
}

/* Old vector of the v-th of the tile's. */
static uint32_t old_vector(const struct st_cov_part *p, const struct tile *t, uint32_t v)
{
    const struct st_cov_job *j = &p->job;
    uint32_t u = (t->lo + v) / j->unit;
    if (j->side != ST_COV_WRITES_COLUMNS)
        u = visited(p, u);
    return old_unit(j, u) * j->unit + (t->lo + v) % j->unit;
}

/* How many of the visits before this one went to the same old vector. */
static uint64_t copy_of(const struct st_cov_part *p, const struct tile *t, uint32_t v, uint32_t old)
{
    const struct st_cov_job *j = &p->job;
    uint64_t copy = 0;
    if (!p->visit)
        return 0;
    for (uint32_t u = (t->lo + v) / j->unit; u > 0 && j->order[p->visit[u - 1]] == old / j->unit; u--)
        copy++;
    return copy;
}

/* Adds the tile's noise; z [len] is working memory. */
static int add_noise(const struct st_cov_run_opts *o, const struct st_cov_part *p, const struct tile *t, float *z,
                     struct st_err *e)
{
    const struct st_cov_job *j = &p->job;
    bool rows = j->side != ST_COV_WRITES_COLUMNS;
    float std = (float)p->noise;
    struct st_stream *s;
    int rc = st_cov_noise_added(o->key, o->digest, j->noise, j->name, &s, e);
    for (uint32_t v = 0; !rc && v < t->n; v++) {
        uint32_t old = old_vector(p, t, v);
        if (old == j->n_src) /* j->extra */
            continue;
        st_cov_noise_row(s, old + copy_of(p, t, v, old) * j->n_src, z, j->len);
        float *to = t->v + (rows ? (size_t)v * j->len : v);
        size_t step = rows ? 1 : t->n;
        for (uint32_t i = 0; i < j->len; i++)
            to[i * step] += std * z[i];
    }
    if (!rc)
        st_stream_free(s);
    return rc;
}

static void load_rows(const struct st_cov_part *p, const struct tile *t)
{
    const struct st_cov_job *j = &p->job;
    size_t row = (size_t)j->len * st_dtype_size(j->src_dtype);
    /* As many rows at once as follow one another in the source. */
    for (uint32_t v = 0, run; v < t->n; v += run) {
        uint32_t old = old_vector(p, t, v);
        if (old == j->n_src) {
            memcpy(t->v + (size_t)v * j->len, j->extra, j->len * sizeof *t->v);
            run = 1;
            continue;
        }
        for (run = j->unit; v + run < t->n && old + run < j->n_src && old_vector(p, t, v + run) == old + run;
             run += j->unit)
            ;
        st_convert(j->src_dtype, (const uint8_t *)j->src + old * row, ST_DTYPE_F32, t->v + (size_t)v * j->len,
                   (size_t)run * j->len);
    }
}

/* Part of one row of the source, in the order of the result. */
static void gather(const struct st_cov_job *j, const struct tile *t, const uint8_t *row, size_t width, uint8_t *to)
{
    if (!j->order) {
        memcpy(to, row + t->lo * width, t->n * width);
        return;
    }
    const uint32_t *order = j->order + t->lo / j->unit;
    if (j->unit == 1 && width == 2) {
        for (uint32_t v = 0; v < t->n; v++)
            memcpy(to + 2 * (size_t)v, row + 2 * (size_t)order[v], 2);
        return;
    }
    size_t unit = j->unit * width;
    for (uint32_t u = 0; u < t->n / j->unit; u++)
        memcpy(to + u * unit, row + order[u] * unit, unit);
}

static void load_columns(const struct st_cov_part *p, const struct tile *t, struct st_cov_scratch *s)
{
    const struct st_cov_job *j = &p->job;
    size_t width = st_dtype_size(j->src_dtype), row = (size_t)j->n_src * width;
    for (uint32_t i = 0; i < j->len; i++) {
        const uint8_t *from = (const uint8_t *)j->src + i * row;
        /* Single values from all over a row: no hardware guesses that order, so the next row is fetched meanwhile. */
        for (size_t at = 0; j->order && j->unit == 1 && i + 1 < j->len && at < row; at += CACHE_LINE)
            __builtin_prefetch(from + row + at);
        gather(j, t, from, width, s->raw + (size_t)i * t->n * width);
    }
    st_convert(j->src_dtype, s->raw, ST_DTYPE_F32, t->v, (size_t)j->len * t->n);
}

/* scale [n] is working memory. */
static void scale_vectors(const struct st_cov_part *p, const struct tile *t, float *scale)
{
    const struct st_cov_job *j = &p->job;
    for (uint32_t v = 0; v < t->n; v++)
        scale[v] = (float)j->scale[old_vector(p, t, v)];
    if (j->side != ST_COV_WRITES_COLUMNS) {
        for (uint32_t v = 0; v < t->n; v++)
            for (uint32_t i = 0; i < j->len; i++)
                t->v[(size_t)v * j->len + i] *= scale[v];
        return;
    }
    for (uint32_t i = 0; i < j->len; i++)
        for (uint32_t v = 0; v < t->n; v++)
            t->v[(size_t)i * t->n + v] *= scale[v];
}

/* b = mix a, unit by unit; the tile is in b then. */
static void mix_units(const struct st_cov_part *p, struct tile *t, float *b)
{
    const struct st_cov_job *j = &p->job;
    int unit = (int)j->unit, len = (int)j->len, n = (int)t->n;
    for (uint32_t v = 0; v < t->n; v += j->unit) {
        uint32_t old = old_vector(p, t, v) / j->unit;
        const float *m = p->mix + (size_t)(old / j->mix_share) * j->unit * j->unit;
        if (j->side == ST_COV_WRITES_COLUMNS) {
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, len, unit, unit, 1, t->v + v, n, m, unit, 0, b + v, n);
        } else {
            size_t at = (size_t)v * j->len;
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, unit, len, unit, 1, m, unit, t->v + at, len, 0,
                        b + at, len);
        }
    }
    t->v = b;
}

static int load(const struct st_cov_run_opts *o, const struct st_cov_part *p, struct tile *t, struct st_cov_scratch *s)
{
    const struct st_cov_job *j = &p->job;
    bool columns = j->side == ST_COV_WRITES_COLUMNS;
    int rc = 0;
    t->v = s->a;
    if (!j->src) {
        for (size_t i = 0; i < (size_t)t->n * j->len; i++)
            s->a[i] = j->fill;
        return 0;
    }
    if (columns)
        load_columns(p, t, s);
    else
        load_rows(p, t);
    if (p->noise > 0)
        rc = add_noise(o, p, t, s->c, &s->err);
    if (!rc && p->mix)
        mix_units(p, t, s->b);
    else if (!rc && j->scale)
        scale_vectors(p, t, s->c);
    return rc;
}

/* ---- results ---- */

/* The n values of c into raw, as the tensor stores them. */
static int cast(const struct st_cov_out_tensor *t, const float *c, size_t n, uint8_t *raw, struct st_err *e)
{
    float max = (float)st_cov_out_max(t);
    int bad = 0;
    for (size_t i = 0; i < n; i++)
        bad |= !(fabsf(c[i]) <= max);
    if (bad)
        return st_fail(e, ST_INPUT, "%s: a value is not finite or too large for %s", t->name,
                       t->q8_0 ? "q8_0" : st_dtype_name(t->dtype));
    st_cov_out_cast(t, c, n, raw);
    return 0;
}

/* Rows [n, wide] to their places, in the panel or in the file. */
static int emit_rows(const struct st_cov_run_opts *o, const struct st_cov_part *p, const struct tile *t,
                     const float *rows, struct st_cov_scratch *s)
{
    const struct st_cov_job *j = &p->job;
    size_t row = row_bytes(j);
    int rc = cast(j->out, rows, (size_t)t->n * width_of(j), s->raw, &s->err);
    for (uint32_t v = 0, run; !rc && v < t->n; v += run) {
        uint32_t u = (t->lo + v) / j->unit, to = visited(p, u);
        for (run = j->unit; v + run < t->n && visited(p, u + run / j->unit) == to + run / j->unit; run += j->unit)
            ;
        if (p->panel)
            memcpy(p->panel + (size_t)to * j->unit * row, s->raw + v * row, run * row);
        else
            rc = st_cov_out_write(o->out, j->out, (uint64_t)to * j->unit * row, s->raw + v * row, run * row, &s->err);
    }
    return rc;
}

static int tile_rows(const struct st_cov_run_opts *o, const struct st_cov_part *p, struct tile *t,
                     struct st_cov_scratch *s)
{
    const struct st_cov_job *j = &p->job;
    int rc = load(o, p, t, s);
    if (rc)
        return rc;
    if (j->side == ST_COV_NO_FRAME)
        return emit_rows(o, p, t, t->v, s);
    const float *key = j->side == ST_COV_READS ? p->reader : j->frame->writer32;
    int wide = (int)j->frame->wide, len = (int)j->len;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)t->n, wide, len, 1, t->v, len, key, wide, 0, s->c,
                wide);
    rc = emit_rows(o, p, t, s->c, s);
    if (!rc && j->weight >= 0) { /* a tile's rows stand together in the source */
        uint32_t first = old_vector(p, t, 0), end = old_vector(p, t, t->n - 1) + 1;
        if (first < j->n_src)
            st_model_release_rows(o->model, j->weight, first, (end < j->n_src ? end : j->n_src) - first);
    }
    return rc;
}

/* Some columns of the rows of this part, into its panel. */
static int tile_columns(const struct st_cov_run_opts *o, const struct st_cov_part *p, struct tile *t,
                        struct st_cov_scratch *s)
{
    const struct st_cov_job *j = &p->job;
    size_t piece = st_cov_out_bytes(j->out, t->n), row = row_bytes(j);
    uint8_t *to = p->panel + st_cov_out_bytes(j->out, t->lo);
    int wide = (int)j->frame->wide, len = (int)j->len, n = (int)t->n;
    int rc = load(o, p, t, s);
    for (uint32_t i = 0; !rc && i < p->n_row; i += ST_COV_ROWS) {
        uint32_t m = p->n_row - i < ST_COV_ROWS ? p->n_row - i : ST_COV_ROWS;
        cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)m, n, len, 1, j->frame->writer32 + p->row0 + i, wide,
                    t->v, n, 0, s->c, n);
        rc = cast(j->out, s->c, (size_t)m * t->n, s->raw, &s->err);
        for (uint32_t r = 0; !rc && r < m; r++)
            memcpy(to + (i + r) * row, s->raw + r * piece, piece);
    }
    return rc;
}

static int write_panel(const struct st_cov_run_opts *o, const struct st_cov_part *p, struct st_err *e)
{
    const struct st_cov_job *j = &p->job;
    size_t row = row_bytes(j), len = p->n_row * row;
    int rc = 0;
    for (size_t at = 0; !rc && at < len; at += WRITE_BYTES)
        rc = st_cov_out_write(o->out, j->out, p->row0 * row + at, p->panel + at,
                              len - at < WRITE_BYTES ? len - at : WRITE_BYTES, e);
    return rc;
}

void st_cov_part_tile(const struct st_cov_run_opts *o, struct st_cov_part *p, uint32_t tile, struct st_cov_scratch *s)
{
    const struct st_cov_job *j = &p->job;
    struct tile t = {.lo = tile * p->tile};
    t.n = j->n - t.lo < p->tile ? j->n - t.lo : p->tile;
    bool columns = j->side == ST_COV_WRITES_COLUMNS;
    int rc = columns ? tile_columns(o, p, &t, s) : tile_rows(o, p, &t, s);
    if (rc || atomic_fetch_sub(&p->left, 1) > 1)
        return;
    if (p->panel)
        (void)!write_panel(o, p, &s->err);
    if (j->weight >= 0)
        st_model_release(o->model, j->weight);
}
