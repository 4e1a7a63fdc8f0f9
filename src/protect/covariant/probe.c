#include "protect/covariant/probe.h"
#include "base/buf.h"
#include "base/hooks.h"
#include "base/pool.h"
#include "protect/covariant/noise.h"
#include "protect/covariant/out_cast.h"

#include <cblas.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define K 4        /* probes; a matrix of probes is [width, K] */
#define BLOCK 32   /* values of a q8_0 block */
#define TILE 128   /* a multiple of it */
#define CHUNK 1024 /* too */
#define SEED 0x50726f6265ull
#define NO_NOISE UINT64_MAX /* the row of j->extra */

/* Working memory of one thread. */
struct scratch {
    float *f;  /* [TILE, CHUNK] */
    double *a; /* the same */
    struct st_err err;
};

struct st_cov_probe {
    const struct st_cov_key *key;
    const uint8_t *digest;
    const volatile sig_atomic_t *cancel;
    struct st_pool *pool;
    struct scratch *scratch; /* [n_thread] */
    int n_thread;
    struct st_rng rng;
};

/* n vectors of len values: rows of a matrix, or its columns. */
struct vectors {
    const void *data;
    enum st_dtype dtype;
    bool q8_0;
    uint32_t n, len;
    bool columns;
};

/* A product of vectors and probes under way. */
struct product {
    struct st_cov_probe *p;
    struct vectors v;
    const double *x; /* [len, K] */
    double *y;       /* [n, K] */
    double *square;  /* [n], see add_squares(); or NULL */
    const struct st_cov_job *noise;
    double std;          /* of the noise */
    const uint64_t *row; /* [n] of the noise, by vector */
};

/* ---- products ---- */

/* Values c..c+w of vectors v..v+n as doubles: [n, w], or [w, n] of columns. */
static void load(const struct vectors *s, uint32_t v, uint32_t n, uint32_t c, uint32_t w, struct scratch *t)
{
    size_t rows = s->columns ? w : n, width = s->columns ? n : w;
    for (size_t i = 0; i < rows; i++) {
        size_t at = s->columns ? (c + i) * s->n + v : (v + i) * s->len + c;
        st_cov_out_uncast(s->dtype, s->q8_0, s->data, at, width, t->f + i * width);
    }
    for (size_t i = 0; i < rows * width; i++)
        t->a[i] = (double)t->f[i];
}

/* Adds up what rounding goes by, for values c..c+w of vectors lo..lo+n: the values (floating point), or the steps of
 * their blocks, which small values share with large ones (q8_0). */
static void add_squares(const struct product *m, uint32_t lo, uint32_t n, uint32_t c, uint32_t w,
                        const struct scratch *t)
{
    const struct vectors *s = &m->v;
    size_t rows = s->columns ? w : n, width = s->columns ? n : w;
    for (size_t i = 0; i < rows; i++) {
        size_t at = s->columns ? (c + i) * s->n + lo : (lo + i) * s->len + c;
        double step = 0;
        for (size_t k = 0; k < width; k++) {
            if (s->q8_0 && k % BLOCK == 0)
                step = st_cov_out_step(s->data, at + k);
            double a = s->q8_0 ? step : t->a[i * width + k];
            m->square[lo + (s->columns ? k : i)] += a * a;
        }
    }
}

static void multiply(const struct product *m, uint32_t lo, uint32_t n, struct scratch *t)
{
    const struct vectors *s = &m->v;
    for (uint32_t c = 0; c < s->len; c += CHUNK) {
        int w = (int)(s->len - c < CHUNK ? s->len - c : CHUNK), rows = (int)n;
        load(s, lo, n, c, (uint32_t)w, t);
        cblas_dgemm(CblasRowMajor, s->columns ? CblasTrans : CblasNoTrans, CblasNoTrans, rows, K, w, 1, t->a,
                    s->columns ? rows : w, m->x + (size_t)c * K, K, 1, m->y + (size_t)lo * K, K);
        if (m->square)
            add_squares(m, lo, n, c, (uint32_t)w, t);
    }
}

/* Adds what the noise of vectors lo.. gives with the probes. */
static int add_noise(const struct product *m, uint32_t lo, uint32_t n, struct scratch *t)
{
    const struct st_cov_job *j = m->noise;
    struct st_stream *s;
    float *z;
    int rc = st_cov_noise_added(m->p->key, m->p->digest, j->noise, j->name, &s, &t->err);
    if (rc)
        return rc;
    rc = st_alloc(&z, j->len, sizeof *z, "noise", &t->err);
    for (uint32_t v = lo; !rc && v < lo + n; v++) {
        if (m->row[v] == NO_NOISE)
            continue;
        st_cov_noise_row(s, m->row[v], z, j->len);
        for (uint32_t i = 0; i < j->len; i++)
            for (int k = 0; k < K; k++)
                m->y[(size_t)v * K + (size_t)k] += m->std * (double)z[i] * m->x[(size_t)i * K + (size_t)k];
    }
    st_cov_floats_free(z, rc ? 0 : j->len);
    st_stream_free(s);
    return rc;
}

static void work(void *arg, int thread, int n_threads)
{
    const struct product *m = arg;
    struct scratch *t = &m->p->scratch[thread];
    size_t lo, hi;
    st_pool_part(m->v.n, TILE, thread, n_threads, &lo, &hi);
    for (size_t v = lo; v < hi && !t->err.code; v += TILE) {
        uint32_t n = (uint32_t)(hi - v < TILE ? hi - v : TILE);
        if (m->p->cancel && *m->p->cancel)
            st_fail(&t->err, ST_IO, "cancelled");
        else if (m->noise)
            (void)!add_noise(m, (uint32_t)v, n, t);
        else
            multiply(m, (uint32_t)v, n, t);
    }
}

static int run(struct product *m, struct st_err *e)
{
    struct st_cov_probe *p = m->p;
    for (int i = 0; i < p->n_thread; i++)
        p->scratch[i].err.code = 0;
    st_pool_run(p->pool, work, m);
    for (int i = 0; i < p->n_thread; i++)
        if (p->scratch[i].err.code) {
            *e = p->scratch[i].err;
            return e->code;
        }
    return 0;
}

/* ---- probes ---- */

/* What one tensor's check works with. */
struct check {
    const struct st_cov_job *j;
    bool columns;
    uint32_t width;       /* of a stored vector */
    double *plain, *wide; /* the probes: [len, K] for the source, [width, K] for the result */
    double *old;          /* [n_src + 1, K] products of the source's vectors, and of j->extra */
    double *want, *got;   /* [n, K] */
    double *square;       /* [n] */
    uint64_t *row;        /* [n] of the noise */
};

static void check_free(struct check *c)
{
    const struct st_cov_job *j = c->j;
    st_cov_doubles_free(c->plain, (size_t)j->len * K);
    st_cov_doubles_free(c->wide, (size_t)c->width * K);
    st_cov_doubles_free(c->old, ((size_t)j->n_src + 1) * K);
    st_cov_doubles_free(c->want, (size_t)j->n * K);
    st_cov_doubles_free(c->got, (size_t)j->n * K);
    st_cov_doubles_free(c->square, j->n);
    free(c->row);
}

static int check_init(struct check *c, struct st_err *e)
{
    const struct st_cov_job *j = c->j;
    int rc = st_cov_doubles(&c->plain, (size_t)j->len * K, "probe", e);
    if (!rc)
        rc = st_cov_doubles(&c->wide, (size_t)c->width * K, "probe", e);
    if (!rc)
        rc = st_cov_doubles(&c->old, ((size_t)j->n_src + 1) * K, "probe", e);
    if (!rc)
        rc = st_cov_doubles(&c->want, (size_t)j->n * K, "probe", e);
    if (!rc)
        rc = st_cov_doubles(&c->got, (size_t)j->n * K, "probe", e);
    if (!rc)
        rc = st_cov_doubles(&c->square, j->n, "probe", e);
    if (!rc)
        rc = st_alloc(&c->row, j->n, sizeof *c->row, "probe", e);
    return rc;
}

static double sign(struct st_rng *r)
{
    return st_rng_next(r) >> 63 ? 1 : -1;
}

/* Fills plain, and wide as the plain probe looks from the other side. */
static int draw(struct st_cov_probe *p, struct check *c, struct st_err *e)
{
    const struct st_cov_job *j = c->j;
    const struct st_cov_frame *f = j->frame;
    size_t inner = f ? f->d + (j->side == ST_COV_READS ? 0 : f->spare) : j->len;
    double *x;
    int rc = st_cov_doubles(&x, inner * K, "probe", e);
    if (rc)
        return rc;
    for (size_t i = 0; i < inner * K; i++)
        x[i] = sign(&p->rng);
    memcpy(c->plain, x, (size_t)j->len * K * sizeof *x);
    if (j->side == ST_COV_READS)
        for (size_t i = 0; i < (size_t)j->len * K; i++)
            c->plain[i] *= j->gain * (j->norm ? (double)j->norm[i / K] : 1);
    if (f)
        cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)f->wide, K, (int)inner, 1,
                    j->side == ST_COV_READS ? f->writer : f->reader, (int)f->wide, x, K, 0, c->wide, K);
    else
        memcpy(c->wide, x, (size_t)c->width * K * sizeof *x);
    st_cov_doubles_free(x, inner * K);
    return 0;
}

/* ---- what is wanted ---- */

static uint32_t old_vector(const struct st_cov_job *j, uint32_t v)
{
    return j->order ? j->order[v / j->unit] * j->unit + v % j->unit : v;
}

/* Which noise each new vector has: that of its old one, or of the old one's next copy. */
static int noise_rows(struct check *c, struct st_err *e)
{
    const struct st_cov_job *j = c->j;
    uint32_t *seen;
    int rc = st_alloc(&seen, (size_t)j->n_src + 1, sizeof *seen, "probe", e);
    for (uint32_t v = 0; !rc && v < j->n; v++) {
        uint32_t old = old_vector(j, v);
        c->row[v] = old == j->n_src ? NO_NOISE : old + (uint64_t)seen[old] * j->n_src;
        seen[old]++;
    }
    free(seen);
    return rc;
}

static int noise(struct st_cov_probe *p, struct check *c, struct st_err *e)
{
    const struct st_cov_job *j = c->j;
    const struct st_mat m = {.data = j->src,
                             .dtype = j->src_dtype,
                             .n_out = c->columns ? j->len : j->n_src,
                             .n_in = c->columns ? j->n_src : j->len};
    struct product d = {
        .p = p, .v = {.n = j->n, .len = j->len}, .x = c->plain, .y = c->want, .noise = j, .row = c->row};
    int rc = noise_rows(c, e);
    if (!rc)
        rc = st_cov_noise_std(&m, j->noise_trained, p->pool, &d.std, e);
    d.std *= j->noise;
    return rc ? rc : run(&d, e);
}

/* The keys of the layer, on the products in the place of the vectors; `want` has the noise. Where units are mixed,
 * rounding is that of a whole unit. */
static void apply_units(struct check *c, double *tmp)
{
    const struct st_cov_job *j = c->j;
    for (uint32_t v = 0; v < j->n; v += j->unit) {
        uint32_t old = old_vector(j, v);
        double *want = c->want + (size_t)v * K, mean = 0;
        for (uint32_t i = 0; i < j->unit; i++)
            for (int k = 0; k < K; k++) {
                double y = want[i * K + (uint32_t)k] + c->old[(size_t)(old + i) * K + (size_t)k];
                want[i * K + (uint32_t)k] = !j->mix && j->scale ? y * j->scale[old + i] : y;
            }
        if (!j->mix)
            continue;
        const double *mix = j->mix + (size_t)(old / j->unit / j->mix_share) * j->unit * j->unit;
        memcpy(tmp, want, (size_t)j->unit * K * sizeof *tmp);
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)j->unit, K, (int)j->unit, 1, mix, (int)j->unit, tmp,
                    K, 0, want, K);
        for (uint32_t i = 0; i < j->unit; i++)
            mean += c->square[v + i] / j->unit;
        for (uint32_t i = 0; i < j->unit; i++)
            c->square[v + i] = fmax(c->square[v + i], mean);
    }
}

static int expect(struct st_cov_probe *p, struct check *c, struct st_err *e)
{
    const struct st_cov_job *j = c->j;
    double *tmp;
    struct product d = {
        .p = p, .v = {j->src, j->src_dtype, false, j->n_src, j->len, c->columns}, .x = c->plain, .y = c->old};
    int rc = run(&d, e);
    for (size_t i = 0; j->extra && i < (size_t)j->len * K; i++)
        c->old[(size_t)j->n_src * K + i % K] += (double)j->extra[i / K] * c->plain[i];
    if (!rc && j->noise > 0)
        rc = noise(p, c, e);
    if (rc)
        return rc;
    rc = st_cov_doubles(&tmp, (size_t)j->unit * K, "probe", e);
    if (!rc)
        apply_units(c, tmp);
    st_cov_doubles_free(tmp, (size_t)j->unit * K);
    return rc;
}

/* ---- the verdict ---- */

static double bound_of(const struct st_cov_out_tensor *out)
{
    enum st_dtype t = out->dtype;
    if (out->q8_0)
        return ST_COV_PROBE_Q8_0;
    return t == ST_DTYPE_F32 ? ST_COV_PROBE_F32 : t == ST_DTYPE_F16 ? ST_COV_PROBE_F16 : ST_COV_PROBE_BF16;
}

static int judge(const struct check *c, double *error, struct st_err *e)
{
    const struct st_cov_job *j = c->j;
    double bound = bound_of(j->out), probe[K] = {0};
    /* f16 loses relative precision below 2^-14. */
    double least = j->out->dtype == ST_DTYPE_F16 ? 0x1p-25 : 0;
    for (size_t i = 0; i < (size_t)c->width * K; i++)
        probe[i % K] += c->wide[i] * c->wide[i];
    for (size_t i = 0; i < (size_t)j->n * K; i++) {
        double size = sqrt(probe[i % K]) * sqrt(c->square[i / K] / c->width);
        double ratio = fabs(c->got[i] - c->want[i]) / (bound * size + 8 * least * sqrt(probe[i % K]) + 1e-300);
        if (!(ratio <= 1))
            return st_fail(
                e, ST_VERIFY,
                "%s: vector %zu is not the source's under this key: off by %.3g, at most %.3g is accepted for %s",
                j->out->name, i / K, ratio * bound, bound, j->out->q8_0 ? "q8_0" : st_dtype_name(j->out->dtype));
        *error = fmax(*error, ratio);
    }
    return 0;
}

static int check_constant(const struct st_cov_job *j, const struct st_cov_stored *stored, struct st_err *e)
{
    const float *x = stored->data;
    for (uint32_t i = 0; i < j->n; i++)
        if (memcmp(&x[i], &j->fill, sizeof *x) != 0)
            return st_fail(e, ST_VERIFY, "%s: value %u: want %.9g, as every value of a norm, got %.9g", j->out->name, i,
                           (double)j->fill, (double)x[i]);
    return 0;
}

int st_cov_probe_tensor(struct st_cov_probe *p, const struct st_cov_job *j, const struct st_cov_stored *stored,
                        double *error, struct st_err *e)
{
    struct check c = {.j = j, .columns = j->side == ST_COV_WRITES_COLUMNS, .width = j->frame ? j->frame->wide : j->len};
    if (!j->src)
        return check_constant(j, stored, e);
    int rc = check_init(&c, e);
    if (!rc)
        rc = draw(p, &c, e);
    struct product d = {.p = p,
                        .v = {stored->data, stored->dtype, stored->q8_0, j->n, c.width, c.columns},
                        .x = c.wide,
                        .y = c.got,
                        .square = c.square};
    if (!rc)
        rc = run(&d, e);
    if (!rc)
        rc = expect(p, &c, e);
    if (!rc)
        rc = judge(&c, error, e);
    check_free(&c);
    return rc;
}

/* ---- */

int st_cov_probe_new(const struct st_cov_key *key, const uint8_t *digest, int n_threads,
                     const volatile sig_atomic_t *cancel, struct st_cov_probe **out, struct st_err *e)
{
    struct st_cov_probe *p;
    *out = NULL;
    int rc = st_alloc(&p, 1, sizeof *p, "probe", e);
    if (rc)
        return rc;
    *p = (struct st_cov_probe){.key = key, .digest = digest, .cancel = cancel};
    st_rng_seed(&p->rng, SEED);
    rc = st_pool_new(n_threads, &p->pool, e);
    if (!rc) {
        p->n_thread = st_pool_size(p->pool);
        rc = st_alloc(&p->scratch, (size_t)p->n_thread, sizeof *p->scratch, "probe", e);
    }
    for (int i = 0; !rc && i < p->n_thread; i++) {
        rc = st_alloc(&p->scratch[i].f, TILE * CHUNK, sizeof *p->scratch->f, "probe", e);
        if (!rc)
            rc = st_cov_doubles(&p->scratch[i].a, TILE * CHUNK, "probe", e);
    }
    if (rc)
        st_cov_probe_free(p);
    else
        *out = p;
    return rc;
}

void st_cov_probe_free(struct st_cov_probe *p)
{
    if (!p)
        return;
    for (int i = 0; p->scratch && i < p->n_thread; i++) {
        st_cov_floats_free(p->scratch[i].f, TILE * CHUNK);
        st_cov_doubles_free(p->scratch[i].a, TILE * CHUNK);
    }
    free(p->scratch);
    st_pool_free(p->pool);
    free(p);
}
