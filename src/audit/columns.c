#include "audit/columns.h"
#include "base/buf.h"
#include "base/hooks.h"

#include <lapacke.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ROUNDS 8
#define LEAST_COLUMNS 20  /* of a layer that rows are estimated from */
#define LEAST_ROWS 150    /* that columns are matched over */
#define MOST_COLUMNS 4096 /* that rows are estimated from, or four times d */
#define RESIDUAL 1024     /* rows, and columns, that the residual is taken over */
#define SETTLED .001      /* share of rows that still move in the last round */

struct em {
    struct st_pool *pool;
    const struct st_view *base, *seen;
    const struct st_columns_opts *o;
    struct st_columns_found *out;
    size_t d, n_layer;
    double noise; /* deviation of the rows' noise, at least a thousandth of theirs */
    double sigma;
    double v; /* variance of a product about its estimate */
    double *prior, *mean;
    size_t n_row;           /* rows of the seen view that take part in the rounds */
    struct st_dense sample; /* [n_row][d'] */
    struct st_dense *y;     /* [n_layer] their products */
    struct st_dense a, b;   /* [K][d] columns of the base, [K][d'] those of seen, that rows are estimated from */
    double *posterior;      /* [d][d] */
    struct st_dense gain;   /* [d'][d]: estimate = row of seen * gain + offset */
    double *offset;         /* [d] */
    struct st_dense metric; /* [d][d] */
    uint32_t *row;          /* [n_row] of the base */
    float *first, *second;  /* [n_row] distances */
    size_t moved;
};

static int cancelled(const struct em *m, struct st_err *e)
{
    bool stop = st_pool_cancelled(m->pool) || (m->o->cancel && *m->o->cancel);
    return stop ? st_fail(e, ST_IO, "cancelled") : 0;
}

static void show(const struct em *m, double share)
{
    if (m->o->progress)
        m->o->progress(m->o->arg, share);
}

/* ---- small dense helpers in double ---- */

static int invert(double *c, size_t n, struct st_err *e)
{
    lapack_int bad = LAPACKE_dpotrf(LAPACK_ROW_MAJOR, 'L', (lapack_int)n, c, (lapack_int)n);
    if (!bad)
        bad = LAPACKE_dpotri(LAPACK_ROW_MAJOR, 'L', (lapack_int)n, c, (lapack_int)n);
    if (bad)
        return st_fail(e, ST_INPUT, "columns first: the covariance of %zu values is not positive definite", n);
    for (size_t i = 0; i < n; i++)
        for (size_t j = i + 1; j < n; j++)
            c[i * n + j] = c[j * n + i];
    return 0;
}

/* (cov(rows) + noise^2 I)^-1 and the mean row. */
static int prior(struct em *m, struct st_err *e)
{
    const struct st_dense *rows = &m->base->rows;
    size_t d = m->d, n = rows->n_row;
    if (st_alloc(&m->prior, d * d, sizeof *m->prior, "columns first", e) ||
        st_alloc(&m->mean, d, sizeof *m->mean, "columns first", e) || st_view_moments(m->pool, rows, m->prior, e))
        return e->code;
    for (size_t r = 0; r < n; r++)
        for (size_t k = 0; k < d; k++)
            m->mean[k] += st_dense_row(rows, r)[k] / (double)n;
    for (size_t i = 0; i < d; i++)
        for (size_t j = 0; j < d; j++)
            m->prior[i * d + j] = (m->prior[i * d + j] - (double)n * m->mean[i] * m->mean[j]) / (double)(n - 1) +
                                  (i == j ? m->noise * m->noise : 0);
    return invert(m->prior, d, e);
}

/* ---- first columns ---- */

static int first_columns(struct em *m, struct st_err *e)
{
    struct st_noise_table table = {0};
    size_t least = m->base->rows.n_row > m->d ? m->base->rows.n_row : m->d;
    if (st_noise_table_new(&table, least, m->o->seed, e))
        return e->code;
    for (size_t l = 0; l < m->n_layer && !cancelled(m, e); l++) {
        const struct st_dense *w = &m->base->columns[l];
        struct st_dense seen = {0}, sims = {0};
        double square = 0;
        for (size_t i = 0; i < w->n_row * w->n_col; i++)
            square += (double)w->p[i] * w->p[i];
        struct st_mark_noise noise = {.table = &table,
                                      .rows = m->o->rows * m->sigma,
                                      .columns = m->o->columns * sqrt(square / (double)(w->n_row * w->n_col)),
                                      .seed = (m->o->seed + l) << 24};
        if (!st_column_marks(m->pool, &m->seen->rows, &m->seen->columns[l], m->base->scaled, NULL, &seen, e) &&
            !st_column_marks(m->pool, &m->base->rows, w, m->base->scaled, &noise, &sims, e) &&
            !st_match_marks(m->pool, &seen, &sims, m->base->scaled, &m->out->columns[l], e))
            m->out->n_layer++;
        st_dense_free(&seen);
        st_dense_free(&sims);
        if (m->out->n_layer <= l)
            break;
        show(m, .4 * (double)(l + 1) / (double)m->n_layer);
    }
    st_noise_table_free(&table);
    return m->out->n_layer == m->n_layer ? 0 : e->code;
}

/* ---- rows ---- */

struct sure {
    float sure;
    uint32_t at;
};

static int by_sureness(const void *a, const void *b)
{
    const struct sure *x = a, *y = b;
    return x->sure != y->sure ? (x->sure < y->sure ? 1 : -1) : (x->at > y->at) - (x->at < y->at);
}

/* The first k of what is surest. */
static int surest(const float *sure, size_t n, uint32_t *out, size_t k, struct st_err *e)
{
    struct sure *s;
    if (st_alloc(&s, n, sizeof *s, "columns first", e))
        return e->code;
    for (size_t i = 0; i < n; i++)
        s[i] = (struct sure){sure[i], (uint32_t)i};
    qsort(s, n, sizeof *s, by_sureness);
    for (size_t i = 0; i < k; i++)
        out[i] = s[i].at;
    free(s);
    return 0;
}

static size_t layer_share(const struct em *m, size_t l, double part)
{
    size_t n = m->out->columns[l].n, k = (size_t)(part * (double)n);
    size_t most = (MOST_COLUMNS > 4 * m->d ? MOST_COLUMNS : 4 * m->d) / m->n_layer;
    k = k < most ? k : most;
    k = k > LEAST_COLUMNS ? k : LEAST_COLUMNS;
    return k < n ? k : n;
}

/* a, b: the surest columns of all layers. */
static int choose(struct em *m, double part, struct st_err *e)
{
    size_t all = 0, at = 0;
    uint32_t *pick = NULL;
    e->code = 0;
    for (size_t l = 0; l < m->n_layer; l++)
        all += layer_share(m, l, part);
    st_dense_free(&m->a);
    st_dense_free(&m->b);
    if (st_dense_new(&m->a, all, m->d, "columns first", e) ||
        st_dense_new(&m->b, all, m->seen->rows.n_col, "columns first", e))
        return e->code;
    for (size_t l = 0; l < m->n_layer; l++) {
        const struct st_column_match *c = &m->out->columns[l];
        size_t n = layer_share(m, l, part);
        if (st_alloc(&pick, n, sizeof *pick, "columns first", e) || surest(c->sure, c->n, pick, n, e))
            break;
        for (size_t i = 0; i < n; i++, at++) {
            const float *b = st_dense_row(&m->seen->columns[l], pick[i]);
            memcpy(st_dense_row(&m->a, at), st_dense_row(&m->base->columns[l], c->column[pick[i]]),
                   m->d * sizeof(float));
            for (size_t j = 0; j < m->b.n_col; j++)
                st_dense_row(&m->b, at)[j] = c->sign[pick[i]] * b[j];
        }
        free(pick);
        pick = NULL;
    }
    free(pick);
    return e->code;
}

/* c [d'][d] = b^T a of the chosen columns: what turns a row of the seen view into products with the
 * base's columns. */
static int cross(const struct em *m, struct st_dense *c, struct st_err *e)
{
    struct st_dense t;
    if (st_dense_new(&t, m->b.n_col, m->b.n_row, "columns first", e))
        return e->code;
    for (size_t j = 0; j < m->b.n_row; j++)
        for (size_t k = 0; k < m->b.n_col; k++)
            st_dense_row(&t, k)[j] = st_dense_row(&m->b, j)[k];
    st_dense_product(m->pool, &t, &m->a, false, c);
    st_dense_free(&t);
    return 0;
}

/* offset = prior mean times prior times S: what is estimated of a row before anything is seen of it. */
static void make_offset(struct em *m)
{
    size_t d = m->d;
    for (size_t i = 0; i < d; i++)
        m->offset[i] = 0;
    for (size_t i = 0; i < d; i++) {
        double pull = 0;
        for (size_t k = 0; k < d; k++)
            pull += m->mean[k] * m->prior[k * d + i];
        for (size_t j = 0; j < d; j++)
            m->offset[j] += pull * m->posterior[i * d + j];
    }
}

/* The estimator of a row from its products with the chosen columns, and the metric in which it is compared:
 * posterior S = (prior + A^T A / v)^-1, estimate (y A / v + prior mean) S with products y = row B^T, so of a row
 * row (B^T A) S / v + offset; an estimate differs from its row by the noise, and by S. */
static int estimator(struct em *m, struct st_err *e)
{
    size_t d = m->d;
    struct st_dense s = {0}, c = {0};
    double *metric = NULL;
    e->code = 0;
    if ((!m->posterior && st_alloc(&m->posterior, d * d, sizeof *m->posterior, "columns first", e)) ||
        (!m->offset && st_alloc(&m->offset, d, sizeof *m->offset, "columns first", e)))
        return e->code;
    st_dense_free(&m->gain);
    st_dense_free(&m->metric);
    if (st_view_moments(m->pool, &m->a, m->posterior, e))
        return e->code;
    for (size_t i = 0; i < d * d; i++)
        m->posterior[i] = m->posterior[i] / m->v + m->prior[i];
    if (cancelled(m, e) || invert(m->posterior, d, e) || st_dense_new(&s, d, d, "columns first", e) ||
        st_dense_new(&c, m->b.n_col, d, "columns first", e) || st_dense_new(&m->metric, d, d, "columns first", e) ||
        st_dense_new(&m->gain, m->b.n_col, d, "columns first", e) ||
        st_alloc(&metric, d * d, sizeof *metric, "columns first", e) || cross(m, &c, e))
        goto out;
    for (size_t i = 0; i < d * d; i++) {
        s.p[i] = (float)(m->posterior[i] / m->v);
        metric[i] = m->posterior[i];
    }
    for (size_t i = 0; i < d; i++)
        metric[i * d + i] += m->noise * m->noise;
    st_dense_product(m->pool, &c, &s, false, &m->gain);
    make_offset(m);
    if (st_dense_whitener(metric, d, &m->metric, e))
        goto out;
out:
    free(metric);
    st_dense_free(&s);
    st_dense_free(&c);
    return e->code;
}

/* Mean square of what the estimates of some rows leave of their products with some columns. */
static int residual_of(const struct em *m, const struct st_dense *rows, const struct st_dense *guess, double *out,
                       struct st_err *e)
{
    size_t n = rows->n_row < RESIDUAL ? rows->n_row : RESIDUAL, k = m->a.n_row < RESIDUAL ? m->a.n_row : RESIDUAL;
    struct st_dense a = {0}, b = {0}, y = {0}, again = {0};
    const struct st_dense some = {.p = rows->p, .n_row = n, .n_col = rows->n_col},
                          first = {.p = guess->p, .n_row = n, .n_col = guess->n_col};
    double sum = 0;
    e->code = 0;
    if (st_dense_new(&a, k, m->a.n_col, "columns first", e) || st_dense_new(&b, k, m->b.n_col, "columns first", e) ||
        st_dense_new(&y, n, k, "columns first", e) || st_dense_new(&again, n, k, "columns first", e))
        goto out;
    for (size_t i = 0; i < k; i++) {
        size_t from = i * m->a.n_row / k; /* of all layers, the less sure of each too */
        memcpy(st_dense_row(&a, i), st_dense_row(&m->a, from), a.n_col * sizeof *a.p);
        memcpy(st_dense_row(&b, i), st_dense_row(&m->b, from), b.n_col * sizeof *b.p);
    }
    st_dense_product(m->pool, &some, &b, true, &y);
    st_dense_product(m->pool, &first, &a, true, &again);
    for (size_t i = 0; i < n * k; i++)
        sum += ((double)y.p[i] - again.p[i]) * ((double)y.p[i] - again.p[i]);
    *out = sum / (double)(n * k);
out:
    st_dense_free(&a);
    st_dense_free(&b);
    st_dense_free(&y);
    st_dense_free(&again);
    return e->code;
}

/* Points [n][d] of rows of the seen view. residual may be NULL: gets the mean square of what the estimate leaves. */
static int estimate(const struct em *m, const struct st_dense *rows, struct st_dense *points, double *residual,
                    struct st_err *e)
{
    struct st_dense guess;
    if (st_dense_new(&guess, rows->n_row, m->d, "columns first", e))
        return e->code;
    st_dense_product(m->pool, rows, &m->gain, false, &guess);
    for (size_t r = 0; r < guess.n_row; r++)
        for (size_t k = 0; k < m->d; k++)
            st_dense_row(&guess, r)[k] += (float)m->offset[k];
    st_dense_product(m->pool, &guess, &m->metric, false, points);
    int rc = residual ? residual_of(m, rows, &guess, residual, e) : 0;
    st_dense_free(&guess);
    return rc;
}

static int match_rows(struct em *m, struct st_err *e)
{
    struct st_dense points = {0}, rows = {0};
    uint32_t *before = NULL;
    double residual = 0;
    if (estimator(m, e) || st_dense_new(&points, m->n_row, m->d, "columns first", e) ||
        st_dense_new(&rows, m->base->rows.n_row, m->d, "columns first", e) ||
        st_alloc(&before, m->n_row, sizeof *before, "columns first", e) ||
        estimate(m, &m->sample, &points, &residual, e))
        goto out;
    memcpy(before, m->row, m->n_row * sizeof *before);
    st_dense_product(m->pool, &m->base->rows, &m->metric, false, &rows);
    m->v = fmax(residual, 1e-9);
    if (st_dense_nearest(m->pool, &points, &rows, m->row, m->first, m->second, e))
        goto out;
    m->moved = 0;
    for (size_t r = 0; r < m->n_row; r++)
        m->moved += m->row[r] != before[r];
out:
    free(before);
    st_dense_free(&points);
    st_dense_free(&rows);
    return e->code;
}

/* ---- columns again ---- */

/* best [n]: rows of the sample that are sure. */
static int match_layer(struct em *m, size_t l, const uint32_t *best, size_t n, struct st_err *e)
{
    const struct st_dense *w = &m->base->columns[l];
    struct st_column_match *c = &m->out->columns[l];
    struct st_dense rows = {0}, x = {0}, y = {0}, cor = {0};
    e->code = 0;
    if (st_dense_new(&rows, n, m->d, "columns first", e) || st_dense_new(&x, w->n_row, n, "columns first", e) ||
        st_dense_new(&y, c->n, n, "columns first", e) || st_dense_new(&cor, c->n, w->n_row, "columns first", e))
        goto out;
    for (size_t i = 0; i < n; i++) {
        memcpy(st_dense_row(&rows, i), st_dense_row(&m->base->rows, m->row[best[i]]), m->d * sizeof(float));
        for (size_t j = 0; j < c->n; j++)
            st_dense_row(&y, j)[i] = st_dense_row(&m->y[l], best[i])[j];
    }
    st_dense_product(m->pool, w, &rows, true, &x);
    st_dense_standardise(&x);
    st_dense_standardise(&y);
    st_dense_product(m->pool, &y, &x, true, &cor);
    if (cancelled(m, e))
        goto out;
    /* Costs: 2 less the correlation, or less its absolute value; what is left of the sign is looked up after. */
    for (size_t i = 0; i < c->n * w->n_row; i++)
        cor.p[i] = 2 - (m->base->scaled ? fabsf(cor.p[i]) : cor.p[i]);
    if (st_choose_columns(&cor, c->column, c->sure, e))
        goto out;
    for (size_t j = 0; j < c->n; j++) {
        double dot = 0;
        for (size_t i = 0; i < n; i++)
            dot += (double)st_dense_row(&y, j)[i] * st_dense_row(&x, c->column[j])[i];
        c->sign[j] = m->base->scaled && dot < 0 ? -1 : 1;
    }
out:
    st_dense_free(&rows);
    st_dense_free(&x);
    st_dense_free(&y);
    st_dense_free(&cor);
    return e->code;
}

static int match_columns(struct em *m, double part, struct st_err *e)
{
    size_t n = (size_t)(part * (double)m->n_row);
    uint32_t *best = NULL;
    float *sure = NULL;
    n = n < LEAST_ROWS ? LEAST_ROWS : n;
    n = n < m->n_row ? n : m->n_row;
    e->code = 0;
    if (!st_alloc(&best, n, sizeof *best, "columns first", e) &&
        !st_alloc(&sure, m->n_row, sizeof *sure, "columns first", e)) {
        for (size_t r = 0; r < m->n_row; r++)
            sure[r] = m->second[r] - m->first[r];
        if (!surest(sure, m->n_row, best, n, e))
            for (size_t l = 0; l < m->n_layer && !match_layer(m, l, best, n, e); l++)
                ;
    }
    free(best);
    free(sure);
    return e->code;
}

/* ---- all ---- */

/* Rows that take part in the rounds, and their products. */
static int take_sample(struct em *m, struct st_err *e)
{
    const struct st_dense *rows = &m->seen->rows;
    struct st_rng rng;
    uint32_t *order = NULL;
    m->n_row = rows->n_row < ST_COLUMNS_ROWS ? rows->n_row : ST_COLUMNS_ROWS;
    if (st_dense_new(&m->sample, m->n_row, rows->n_col, "columns first", e) ||
        st_alloc(&m->y, m->n_layer, sizeof *m->y, "columns first", e) ||
        st_alloc(&m->row, m->n_row, sizeof *m->row, "columns first", e) ||
        st_alloc(&m->first, m->n_row, sizeof *m->first, "columns first", e) ||
        st_alloc(&m->second, m->n_row, sizeof *m->second, "columns first", e) ||
        st_alloc(&order, rows->n_row, sizeof *order, "columns first", e))
        goto out;
    st_rng_seed(&rng, m->o->seed + 1);
    for (size_t i = 0; i < rows->n_row; i++)
        order[i] = (uint32_t)i;
    for (size_t i = 0; i < m->n_row; i++) {
        size_t j = i + st_rng_next(&rng) % (rows->n_row - i);
        uint32_t x = order[i];
        order[i] = order[j];
        order[j] = x;
        memcpy(st_dense_row(&m->sample, i), st_dense_row(rows, order[i]), rows->n_col * sizeof(float));
    }
    e->code = 0;
    for (size_t l = 0; l < m->n_layer; l++) {
        if (st_dense_new(&m->y[l], m->n_row, m->seen->columns[l].n_row, "columns first", e))
            break;
        st_dense_product(m->pool, &m->sample, &m->seen->columns[l], true, &m->y[l]);
    }
out:
    free(order);
    return e->code;
}

static int rounds(struct em *m, struct st_err *e)
{
    uint32_t n = m->o->n_round ? m->o->n_round : ROUNDS;
    for (uint32_t it = 0; it < n; it++) {
        double part = fmin(1, .3 + .1 * it), length = 0;
        if (cancelled(m, e) || choose(m, part, e))
            return e->code;
        for (size_t i = 0; !it && i < m->a.n_row * m->d; i++)
            length += (double)m->a.p[i] * m->a.p[i];
        if (!it)
            m->v = m->sigma * m->sigma * (m->o->columns * m->o->columns + .3) * length / (double)m->a.n_row;
        if (match_rows(m, e) || match_columns(m, part, e))
            return e->code;
        show(m, .4 + .4 * (it + 1) / n);
        if (it && (double)m->moved <= SETTLED * (double)m->n_row)
            break;
    }
    return 0;
}

/* Every row, by all columns. */
static int finish(struct em *m, struct st_err *e)
{
    struct st_columns_found *f = m->out;
    const struct st_dense *rows = &m->seen->rows;
    if (choose(m, 1, e) || estimator(m, e) || st_dense_new(&f->guess, rows->n_row, m->d, "columns first", e) ||
        st_dense_new(&f->rows, m->base->rows.n_row, m->d, "columns first", e))
        return e->code;
    for (size_t at = 0; at < rows->n_row; at += ST_COLUMNS_ROWS) {
        size_t n = rows->n_row - at < ST_COLUMNS_ROWS ? rows->n_row - at : ST_COLUMNS_ROWS;
        struct st_dense some = {.p = st_dense_row(rows, at), .n_row = n, .n_col = rows->n_col};
        struct st_dense to = {.p = st_dense_row(&f->guess, at), .n_row = n, .n_col = m->d};
        if (cancelled(m, e) || estimate(m, &some, &to, NULL, e))
            return e->code;
    }
    st_dense_product(m->pool, &m->base->rows, &m->metric, false, &f->rows);
    show(m, 1);
    return cancelled(m, e);
}

uint64_t st_columns_bytes(size_t n, size_t d, size_t wide, size_t n_column, size_t widest)
{
    uint64_t sample = n < ST_COLUMNS_ROWS ? n : ST_COLUMNS_ROWS;
    uint64_t values = n_column * sample;                             /* products of the sample */
    values += n_column * (d + 2 * (uint64_t)wide);                   /* columns that are chosen */
    values += (uint64_t)d * (14 * (uint64_t)d + 3 * (uint64_t)wide); /* covariances in double, estimator, metric */
    values += sample * (2 * (uint64_t)wide + 4 * (uint64_t)d) + 3 * (uint64_t)n * d; /* rows, guesses */
    values += 2 * widest * sample + 5 * (uint64_t)widest * widest;                   /* one layer against the other */
    uint64_t block = 256 * (uint64_t)n < 1U << 22 ? 256 * (uint64_t)n : 1U << 22;    /* of marks, three a thread */
    return sizeof(float) * (values + 3 * 16 * block);
}

static int check(const struct st_view *base, const struct st_view *seen, struct st_err *e)
{
    if (base->n_layer != seen->n_layer)
        return st_fail(e, ST_INPUT, "columns first: the base has %u layers, the obfuscated model %u", base->n_layer,
                       seen->n_layer);
    if (base->rows.n_row < 2 || seen->rows.n_row < 2)
        return st_fail(e, ST_INPUT, "columns first: a vocabulary of %zu", seen->rows.n_row);
    for (uint32_t l = 0; l < base->n_layer; l++)
        if (base->columns[l].n_row != seen->columns[l].n_row)
            return st_fail(e, ST_INPUT,
                           "columns first: layer %u of the base has %zu columns, of the obfuscated model %zu", l,
                           base->columns[l].n_row, seen->columns[l].n_row);
    return 0;
}

int st_columns_first(struct st_pool *pool, struct st_view *base, struct st_view *seen, const struct st_columns_opts *o,
                     struct st_columns_found *out, struct st_err *e)
{
    struct em m = {.pool = pool, .base = base, .seen = seen, .o = o, .out = out, .d = base->rows.n_col};
    *out = (struct st_columns_found){0};
    m.n_layer = base->n_layer;
    if (check(base, seen, e) || st_view_spread(pool, &base->rows, &m.sigma, e) ||
        st_alloc(&out->columns, m.n_layer, sizeof *out->columns, "columns first", e))
        goto out;
    m.noise = fmax(o->rows, 1e-3) * m.sigma;
    if (st_view_normalise(pool, base, o->rows * m.sigma, o->columns, e) || st_view_normalise(pool, seen, 0, 0, e) ||
        prior(&m, e) || first_columns(&m, e) || take_sample(&m, e) || rounds(&m, e) || finish(&m, e))
        goto out;
    e->code = 0;
out:
    for (size_t l = 0; m.y && l < m.n_layer; l++)
        st_dense_free(&m.y[l]);
    struct st_dense *all[] = {&m.sample, &m.a, &m.b, &m.gain, &m.metric};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        st_dense_free(all[i]);
    void *more[] = {m.y, m.prior, m.mean, m.posterior, m.offset, m.row, m.first, m.second};
    for (size_t i = 0; i < sizeof more / sizeof *more; i++)
        free(more[i]);
    if (e->code)
        st_columns_found_free(out);
    return e->code;
}

void st_columns_found_free(struct st_columns_found *f)
{
    for (uint32_t l = 0; l < f->n_layer; l++)
        st_column_match_free(&f->columns[l]);
    free(f->columns);
    st_dense_free(&f->guess);
    st_dense_free(&f->rows);
    *f = (struct st_columns_found){0};
}
