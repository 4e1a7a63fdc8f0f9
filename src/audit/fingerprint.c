#include "audit/fingerprint.h"
#include "base/buf.h"
#include "base/hooks.h"

#include <cblas.h>
#include <float.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define BINS 4096        /* of the histogram that quantiles are read from */
#define BLOCK (1u << 22) /* products of one block of work; by the vocabulary alone, so that no thread count shows */

static const double places[ST_MARKS - 2] = {.0005, .002, .01, .05, .1, .25, .5, .75, .9, .95, .99, .998, .9995};

/* ---- marks ---- */

/* Quantiles from a histogram: the value of a rank (0..n-1, with a fraction) lies in its bin as far as its rank does. */
static void read_quantiles(const uint32_t *count, size_t n, float low, float width, float *out)
{
    double before = 0;
    int b = 0;
    for (size_t q = 0; q < ST_MARKS - 2; q++) {
        double rank = places[q] * (double)(n - 1);
        while (b < BINS - 1 && before + count[b] <= rank)
            before += count[b++];
        out[q] = low + width * (float)(b + (count[b] ? (rank - before + .5) / count[b] : .5));
    }
}

void st_marks(const float *values, size_t n, float out[ST_MARKS])
{
    uint32_t count[BINS] = {0};
    float low = FLT_MAX, high = -FLT_MAX;
    double sum = 0, squares = 0;
    for (size_t i = 0; i < n; i++) {
        low = values[i] < low ? values[i] : low;
        high = values[i] > high ? values[i] : high;
        sum += values[i];
        squares += (double)values[i] * values[i];
    }
    double mean = sum / (double)n;
    out[0] = (float)mean;
    out[1] = (float)sqrt(fmax(squares / (double)n - mean * mean, 0));
    float by = high > low ? BINS / (high - low) : 0, width = (high - low) / BINS;
    for (size_t i = 0; i < n; i++) {
        float x = (values[i] - low) * by;
        count[x > 0 ? (x < BINS - 1 ? (int)x : BINS - 1) : 0]++;
    }
    read_quantiles(count, n, low, width, out + 2);
}

/* ---- of every column ---- */

struct marking {
    const struct st_dense *rows, *columns;
    bool each;
    const struct st_mark_noise *noise;
    struct st_dense *out;
    atomic_bool failed;
};

static void mark(const struct marking *m, float *values, size_t row)
{
    size_t n = m->rows->n_row;
    if (m->each) {
        double sum = 0;
        for (size_t i = 0; i < n; i++)
            sum += (double)values[i] * values[i];
        float by = sum > 0 ? (float)sqrt((double)n / sum) : 0;
        for (size_t i = 0; i < n; i++)
            values[i] *= by;
    }
    st_marks(values, n, st_dense_row(m->out, row));
}

static void products(const struct marking *m, const float *columns, size_t n, float *out)
{
    int d = (int)m->rows->n_col, v = (int)m->rows->n_row;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)n, v, d, 1, columns, d, m->rows->p, d, 0, out, v);
}

/* One draw: values of n columns from `column` on, which are in y unless the columns have noise too. */
static void simulate(const struct marking *m, size_t column, size_t n, size_t sim, const float *y, float *own,
                     float *values)
{
    size_t d = m->rows->n_col, v = m->rows->n_row;
    const float *w = st_dense_row(m->columns, column);
    if (m->noise->columns > 0) {
        for (size_t j = 0; j < n; j++) {
            const float *z =
                st_noise_pick(m->noise->table, m->noise->seed ^ ((column + j) * 2 * ST_MARK_SIMS + 2 * sim + 1), d);
            for (size_t k = 0; k < d; k++)
                own[j * d + k] = w[j * d + k] + (float)m->noise->columns * z[k];
        }
        products(m, own, n, values);
    } else
        memcpy(values, y, n * v * sizeof *values);
    for (size_t j = 0; j < n; j++) {
        const float *z =
            st_noise_pick(m->noise->table, m->noise->seed ^ ((column + j) * 2 * ST_MARK_SIMS + 2 * sim), v);
        const float *of = m->noise->columns > 0 ? own : w;
        double square = 0;
        for (size_t k = 0; k < d; k++)
            square += (double)of[j * d + k] * of[j * d + k];
        float by = (float)(m->noise->rows * sqrt(square));
        for (size_t i = 0; i < v; i++)
            values[j * v + i] += by * z[i];
        mark(m, values + j * v, (column + j) * ST_MARK_SIMS + sim);
    }
}

static void mark_columns(void *arg, size_t column, size_t n)
{
    struct marking *m = arg;
    size_t v = m->rows->n_row, d = m->rows->n_col;
    struct st_err e;
    float *y = NULL, *own = NULL, *values = NULL;
    if (st_alloc(&y, n * v, sizeof *y, "columns", &e) ||
        (m->noise && (st_alloc(&own, n * d, sizeof *own, "columns", &e) ||
                      st_alloc(&values, n * v, sizeof *values, "columns", &e))))
        atomic_store(&m->failed, true);
    else {
        products(m, st_dense_row(m->columns, column), n, y);
        for (size_t s = 0; m->noise && s < ST_MARK_SIMS; s++)
            simulate(m, column, n, s, y, own, values);
        for (size_t j = 0; !m->noise && j < n; j++)
            mark(m, y + j * v, column + j);
    }
    free(y);
    free(own);
    free(values);
}

int st_column_marks(struct st_pool *pool, const struct st_dense *rows, const struct st_dense *columns, bool each,
                    const struct st_mark_noise *noise, struct st_dense *out, struct st_err *e)
{
    struct marking m = {.rows = rows, .columns = columns, .each = each, .noise = noise, .out = out};
    atomic_init(&m.failed, false);
    if (st_dense_new(out, columns->n_row * (noise ? ST_MARK_SIMS : 1), ST_MARKS, "marks", e))
        return e->code;
    size_t some = BLOCK / (rows->n_row ? rows->n_row : 1);
    some = some < 16 ? 16 : some > 256 ? 256 : some;
    st_dense_blocks(pool, columns->n_row, some, mark_columns, &m);
    if (!atomic_load(&m.failed) && !st_pool_cancelled(pool))
        return 0;
    st_dense_free(out);
    if (st_pool_cancelled(pool))
        return st_fail(e, ST_IO, "cancelled");
    return st_fail(e, ST_MEMORY, "columns of a product: no memory for a block of %zu", some);
}

/* ---- matching ---- */

int st_column_match_new(struct st_column_match *m, size_t n, struct st_err *e)
{
    *m = (struct st_column_match){.n = n};
    if (st_alloc(&m->column, n, sizeof *m->column, "columns", e) ||
        st_alloc(&m->sign, n, sizeof *m->sign, "columns", e) || st_alloc(&m->sure, n, sizeof *m->sure, "columns", e)) {
        st_column_match_free(m);
        return e->code;
    }
    return 0;
}

void st_column_match_free(struct st_column_match *m)
{
    free(m->column);
    free(m->sign);
    free(m->sure);
    *m = (struct st_column_match){0};
}

int st_choose_columns(const struct st_dense *cost, uint32_t *column, float *margin, struct st_err *e)
{
    for (size_t i = 0; i < cost->n_row; i++) {
        const float *c = st_dense_row(cost, i);
        float first = FLT_MAX, second = FLT_MAX;
        for (size_t j = 0; j < cost->n_col; j++)
            if (c[j] < first) {
                second = first;
                first = c[j];
                column[i] = (uint32_t)j;
            } else if (c[j] < second)
                second = c[j];
        margin[i] = second - first;
    }
    if (cost->n_row == cost->n_col && cost->n_row <= ST_ASSIGN_MAX)
        return st_dense_assign(cost, column, e);
    return 0;
}

int st_whiten_draws(const struct st_dense *draws, struct st_dense *mean, struct st_dense *w, struct st_err *e)
{
    size_t m = draws->n_row / ST_MARK_SIMS, n = draws->n_col;
    double *c = NULL, *middle = NULL, between = 0;
    e->code = 0;
    *mean = *w = (struct st_dense){0};
    if (st_dense_new(mean, m, n, "draws", e) || st_dense_new(w, n, n, "draws", e) ||
        st_alloc(&c, n * n, sizeof *c, "draws", e) || st_alloc(&middle, n, sizeof *middle, "draws", e))
        goto out;
    for (size_t j = 0; j < m; j++)
        for (size_t k = 0; k < n; k++) {
            double sum = 0;
            for (size_t s = 0; s < ST_MARK_SIMS; s++)
                sum += st_dense_row(draws, j * ST_MARK_SIMS + s)[k];
            st_dense_row(mean, j)[k] = (float)(sum / ST_MARK_SIMS);
            middle[k] += sum / ST_MARK_SIMS / (double)m;
        }
    for (size_t j = 0; j < m; j++) {
        const float *at = st_dense_row(mean, j);
        for (size_t k = 0; k < n; k++)
            between += (at[k] - middle[k]) * (at[k] - middle[k]) / (double)(m * n);
        for (size_t s = 0; s < ST_MARK_SIMS; s++) {
            const float *x = st_dense_row(draws, j * ST_MARK_SIMS + s);
            for (size_t i = 0; i < n; i++)
                for (size_t k = 0; k < n; k++)
                    c[i * n + k] += (double)(x[i] - at[i]) * (x[k] - at[k]);
        }
    }
    for (size_t i = 0; i < n * n; i++)
        c[i] /= (double)(m * (ST_MARK_SIMS - 1));
    for (size_t i = 0; i < n; i++)
        c[i * n + i] += 1e-6 * between + 1e-12;
    if (st_dense_whitener(c, n, w, e))
        goto out;
out:
    free(c);
    free(middle);
    if (e->code) {
        st_dense_free(mean);
        st_dense_free(w);
    }
    return e->code;
}

/* The marks of the column times -1. */
static void mirror(const float *in, float *out)
{
    out[0] = -in[0];
    out[1] = in[1];
    for (size_t q = 0; q < ST_MARKS - 2; q++)
        out[2 + q] = -in[ST_MARKS - 1 - q];
}

/* cost [n][m], and where the mirrored marks were nearer the sign -1. */
static int mark_costs(struct st_pool *pool, const struct st_dense *seen, const struct st_dense *mean,
                      const struct st_dense *w, bool scaled, struct st_dense *cost, struct st_err *e)
{
    size_t n = seen->n_row, m = mean->n_row;
    struct st_dense both = {0}, a = {0}, b = {0}, wide = {0};
    if (st_dense_new(&both, scaled ? 2 * n : n, ST_MARKS, "marks", e) ||
        st_dense_new(&a, both.n_row, ST_MARKS, "marks", e) || st_dense_new(&b, m, ST_MARKS, "marks", e) ||
        st_dense_new(&wide, both.n_row, m, "marks", e) || st_dense_new(cost, n, m, "marks", e))
        goto out;
    memcpy(both.p, seen->p, n * ST_MARKS * sizeof *both.p);
    for (size_t i = 0; scaled && i < n; i++)
        mirror(st_dense_row(seen, i), st_dense_row(&both, n + i));
    st_dense_product(pool, &both, w, false, &a);
    st_dense_product(pool, mean, w, false, &b);
    if (st_dense_distances(pool, &a, &b, &wide, e))
        goto out;
    /* The sign of the cost carries which was nearer: distances are never negative. */
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < m; j++) {
            float x = st_dense_row(&wide, i)[j], y = scaled ? st_dense_row(&wide, n + i)[j] : FLT_MAX;
            st_dense_row(cost, i)[j] = y < x ? -y : x;
        }
out:
    st_dense_free(&both);
    st_dense_free(&a);
    st_dense_free(&b);
    st_dense_free(&wide);
    return e->code;
}

int st_match_marks(struct st_pool *pool, const struct st_dense *seen, const struct st_dense *sims, bool scaled,
                   struct st_column_match *out, struct st_err *e)
{
    size_t m = sims->n_row / ST_MARK_SIMS;
    struct st_dense mean = {0}, w = {0}, cost = {0};
    uint8_t *turned = NULL;
    e->code = 0;
    *out = (struct st_column_match){0};
    if (st_whiten_draws(sims, &mean, &w, e) || mark_costs(pool, seen, &mean, &w, scaled, &cost, e) ||
        st_alloc(&turned, seen->n_row * m, 1, "marks", e) || st_column_match_new(out, seen->n_row, e))
        goto out;
    for (size_t i = 0; i < seen->n_row * m; i++) {
        turned[i] = signbit(cost.p[i]) != 0;
        cost.p[i] = fabsf(cost.p[i]);
    }
    if (st_choose_columns(&cost, out->column, out->sure, e))
        goto out;
    for (size_t i = 0; i < out->n; i++) {
        out->sign[i] = turned[i * m + out->column[i]] ? -1 : 1;
        out->sure[i] /= st_dense_row(&cost, i)[out->column[i]] + 1e-9F;
    }
out:
    free(turned);
    st_dense_free(&mean);
    st_dense_free(&w);
    st_dense_free(&cost);
    if (e->code)
        st_column_match_free(out);
    return e->code;
}
