/* Pairs for attacks on covariant checkpoints: a base and what a key makes of it, as plain arrays without any key left
 * in memory but the permutation, which is the truth. */
#ifndef ST_TESTS_PAIR_MAKE_H
#define ST_TESTS_PAIR_MAKE_H

#include "audit/views.h"
#include "base/hooks.h"
#include "expect.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static inline struct st_pool *pool_of(int n)
{
    struct st_pool *p;
    struct st_err e;
    assert_ok(st_pool_new(n, &p, &e), &e);
    return p;
}

static inline float deviate(struct st_rng *rng)
{
    double r = sqrt(-2 * log(1 - st_rng_unit(rng)));
    return (float)(r * cos(2 * M_PI * st_rng_unit(rng)));
}

static inline struct st_dense random_dense(struct st_rng *rng, size_t n, size_t m, double scale)
{
    struct st_dense d;
    struct st_err e;
    assert_ok(st_dense_new(&d, n, m, "test", &e), &e);
    for (size_t i = 0; i < n * m; i++)
        d.p[i] = (float)scale * deviate(rng);
    return d;
}

static inline void shuffle(struct st_rng *rng, uint32_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        p[i] = (uint32_t)i;
    for (size_t i = n; i > 1; i--) {
        size_t j = st_rng_next(rng) % i;
        uint32_t x = p[i - 1];
        p[i - 1] = p[j];
        p[j] = x;
    }
}

struct pair {
    struct st_view base, seen;
    uint32_t *truth;   /* [n] plain id of each cipher id */
    uint32_t **column; /* [n_layer][f] column of the base */
};

/* Rows as embeddings are: clusters, a spectrum, norms and a common mean. */
static inline struct st_dense embedding(struct st_rng *rng, size_t n, size_t d)
{
    struct st_dense x = random_dense(rng, n, d, 1), centre = random_dense(rng, 40, d, .7);
    for (size_t r = 0; r < n; r++) {
        const float *c = st_dense_row(&centre, st_rng_next(rng) % 40);
        double by = .6 + .4 * -log(1 - st_rng_unit(rng));
        for (size_t k = 0; k < d; k++)
            st_dense_row(&x, r)[k] =
                (float)(.02 * (by * (st_dense_row(&x, r)[k] + c[k]) * pow((double)k + 1, -.35) + (k % 3 ? 0 : .3)));
    }
    st_dense_free(&centre);
    return x;
}

/* What the server sees of a view: rows in another order and noisy, columns in another order, scaled where a key may,
 * both wider by an eighth and turned by reflections so that neither looks like itself (products are as without). */
static inline void obfuscate_view(struct st_rng *rng, struct pair *p, double noise)
{
    struct st_err e;
    const struct st_dense *rows = &p->base.rows;
    size_t n = rows->n_row, d = rows->n_col, wide = d + d / 8;
    double sigma;
    struct st_pool *pool = pool_of(1);
    assert_ok(st_view_spread(pool, rows, &sigma, &e), &e);
    st_pool_free(pool);
    p->seen = (struct st_view){.n_layer = p->base.n_layer, .scaled = p->base.scaled};
    p->truth = malloc(n * sizeof *p->truth);
    p->column = calloc(p->base.n_layer, sizeof *p->column);
    p->seen.columns = calloc(p->base.n_layer, sizeof *p->seen.columns);
    assert_true(p->truth && p->column && p->seen.columns);
    shuffle(rng, p->truth, n);
    assert_ok(st_dense_new(&p->seen.rows, n, wide, "test", &e), &e);
    for (size_t r = 0; r < n; r++)
        for (size_t k = 0; k < d; k++)
            st_dense_row(&p->seen.rows, r)[k] =
                st_dense_row(rows, p->truth[r])[k] + (float)(noise > 0 ? noise * sigma * deviate(rng) : 0);
    for (uint32_t l = 0; l < p->base.n_layer; l++) {
        const struct st_dense *w = &p->base.columns[l];
        p->column[l] = malloc(w->n_row * sizeof **p->column);
        assert_non_null(p->column[l]);
        shuffle(rng, p->column[l], w->n_row);
        assert_ok(st_dense_new(&p->seen.columns[l], w->n_row, wide, "test", &e), &e);
        for (size_t j = 0; j < w->n_row; j++) {
            double s = p->base.scaled ? (st_rng_unit(rng) < .5 ? -1 : 1) * (.5 + 1.5 * st_rng_unit(rng)) : 1;
            for (size_t k = 0; k < d; k++)
                st_dense_row(&p->seen.columns[l], j)[k] = (float)(s * st_dense_row(w, p->column[l][j])[k]);
        }
    }
    struct st_dense v = random_dense(rng, 3, wide, 1);
    for (size_t i = 0; i < 3; i++) {
        double square = 0;
        for (size_t k = 0; k < wide; k++)
            square += (double)st_dense_row(&v, i)[k] * st_dense_row(&v, i)[k];
        for (uint32_t l = 0; l <= p->seen.n_layer; l++) {
            struct st_dense *x = l < p->seen.n_layer ? &p->seen.columns[l] : &p->seen.rows;
            for (size_t r = 0; r < x->n_row; r++) {
                double dot = 0;
                for (size_t k = 0; k < wide; k++)
                    dot += (double)st_dense_row(x, r)[k] * st_dense_row(&v, i)[k];
                for (size_t k = 0; k < wide; k++)
                    st_dense_row(x, r)[k] -= (float)(2 * dot / square * st_dense_row(&v, i)[k]);
            }
        }
    }
    st_dense_free(&v);
}

static inline struct pair make_pair(uint64_t seed, size_t n, size_t d, size_t f, uint32_t n_layer, bool scaled,
                                    double noise)
{
    struct st_rng rng;
    struct pair p = {.base = {.n_layer = n_layer, .scaled = scaled}};
    st_rng_seed(&rng, seed);
    p.base.rows = embedding(&rng, n, d);
    p.base.columns = calloc(n_layer, sizeof *p.base.columns);
    assert_non_null(p.base.columns);
    for (uint32_t l = 0; l < n_layer; l++) {
        p.base.columns[l] = random_dense(&rng, f, d, .02);
        for (size_t j = 0; j < f; j++) {
            float by = (float)(.8 + .4 * st_rng_unit(&rng));
            for (size_t k = 0; k < d; k++)
                st_dense_row(&p.base.columns[l], j)[k] *= by;
        }
    }
    obfuscate_view(&rng, &p, noise);
    return p;
}

static inline void free_pair(struct pair *p)
{
    for (uint32_t l = 0; l < p->base.n_layer; l++)
        free(p->column[l]);
    free(p->column);
    free(p->truth);
    st_view_free(&p->base);
    st_view_free(&p->seen);
}

static inline double hits(const uint32_t *guess, const uint32_t *truth, size_t n)
{
    size_t right = 0;
    for (size_t i = 0; i < n; i++)
        right += guess[i] == truth[i];
    return (double)right / (double)n;
}

#endif
