/* Linear inversion (IMA with ridge): a map from obfuscated embedding rows to plain ones, learned by least squares, then
 * the nearest plain row.
 *   pairs given   learned from a share of the victim's own rows, whose plain ids are known: fair
 *   own keys      learned from rows that the adversary made himself under another key, as the published attack trains
 *                 its model: the victim's key is another one, so failure is built in and says nothing
 * Also the mean cosine of recovered rows and true ones. The ridge is the best of five for pairs held out.
 * Sources: arXiv 2603.01499, section 6 (IMA); the published reproduction with known rows (papers/attacks.md A3, A7). */
#include "audit/features.h"
#include "audit/known.h"
#include "audit/match.h"
#include "audit/metrics.h"
#include "audit/views.h"
#include "base/buf.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HELD 4       /* every fourth pair judges the ridge, */
#define HELD_MAX 512 /* and no more than these */

struct ridge {
    const struct st_audit *a;
    struct st_dense x, y, map, at, table; /* plain and seen rows about their means; seen rows mapped */
    double noise;                         /* deviation of the embedding's, which the method makes public */
    uint32_t *guess;
};

static int copy_rows(const struct st_model *m, struct st_dense *out, struct st_err *e)
{
    struct st_dense rows = {0};
    int rc = st_view_rows(m, ST_ROLE_EMBED, &rows, e);
    if (!rc)
        rc = st_dense_new(out, rows.n_row, rows.n_col, "ridge", e);
    if (!rc)
        memcpy(out->p, rows.p, rows.n_row * rows.n_col * sizeof *out->p);
    st_dense_free(&rows);
    return rc ? rc : st_centre_rows(out, e);
}

static int open_rows(struct ridge *r, struct st_err *e)
{
    const struct st_pair *p = &r->a->target->pair;
    double sigma;
    if (copy_rows(p->base, &r->x, e) || copy_rows(p->seen, &r->y, e) || st_view_spread(r->a->pool, &r->x, &sigma, e) ||
        st_dense_new(&r->map, r->y.n_col, r->x.n_col, "ridge", e) ||
        st_dense_new(&r->at, r->y.n_row, r->x.n_col, "ridge", e) ||
        st_dense_new(&r->table, r->x.n_row, r->x.n_col, "ridge", e) ||
        st_alloc(&r->guess, r->y.n_row, sizeof *r->guess, "ridge", e))
        return e->code;
    r->noise = p->noise.embed * sigma;
    return 0;
}

/* Squared distance of mapped rows and plain ones, over pairs held out. */
static double held_out(const struct ridge *r, const struct st_dense *y, const struct st_pairs *p)
{
    double sum = 0;
    size_t d = r->x.n_col;
    for (size_t i = 0; i < p->n && i < HELD * HELD_MAX; i += HELD)
        for (size_t j = 0; j < d; j++) {
            double got = 0;
            for (size_t k = 0; k < y->n_col; k++)
                got += (double)st_dense_row(y, p->seen[i])[k] * st_dense_row(&r->map, k)[j];
            got -= st_dense_row(&r->x, p->base[i])[j];
            sum += got * got;
        }
    return sum;
}

/* The map from rows y of pairs to plain rows. Ridges are shares of a row's mean square. */
static int learn(struct ridge *r, const struct st_dense *y, const struct st_pairs *p, struct st_err *e)
{
    static const double shares[] = {1e-4, 1e-3, 1e-2, .1, 1};
    double square = 0, least = INFINITY, best = shares[0];
    uint32_t *seen = NULL, *base = NULL;
    size_t n = 0;
    e->code = 0;
    if (st_alloc(&seen, p->n, sizeof *seen, "ridge", e) || st_alloc(&base, p->n, sizeof *base, "ridge", e))
        goto out;
    for (size_t i = 0; i < p->n; i++) {
        for (size_t k = 0; k < y->n_col; k++)
            square += (double)st_dense_row(y, p->seen[i])[k] * st_dense_row(y, p->seen[i])[k];
        if (i % HELD) {
            seen[n] = p->seen[i];
            base[n++] = p->base[i];
        }
    }
    square = square / (double)y->n_col + 1e-30;
    const struct st_pairs part = {seen, base, n};
    for (size_t i = 0; i < sizeof shares / sizeof *shares; i++) {
        if (st_fit_ridge(y, &r->x, &part, shares[i] * square, &r->map, e))
            goto out;
        double far = held_out(r, y, p);
        if (far < least) {
            least = far;
            best = shares[i];
        }
    }
    if (st_fit_ridge(y, &r->x, p, best * square, &r->map, e))
        goto out;
out:
    free(seen);
    free(base);
    return e->code;
}

/* Mean cosine of what the map makes of rows that were not given. */
static int add_cosine(struct ridge *r, const char *variant, const struct st_known *k, struct st_rows *rows,
                      struct st_err *e)
{
    const struct st_pair *p = &r->a->target->pair;
    uint32_t none = p->base->config.n_vocab;
    struct st_row row = {
        .chance = 0, .unprotected = 1, .cost = NAN, .metric = "mean cosine of recovered and true rows"};
    double *cosine = NULL;
    bool *used = NULL;
    size_t n = 0;
    e->code = 0;
    if (st_alloc(&cosine, r->y.n_row, sizeof *cosine, "ridge", e) || st_alloc(&used, none, sizeof *used, "ridge", e))
        goto out;
    st_score_used(&r->a->target->text, used, none);
    for (size_t i = 0; i < k->n; i++)
        used[k->base[i]] = false;
    for (size_t i = 0; i < r->y.n_row; i++)
        if (p->truth[i] < none && used[p->truth[i]])
            cosine[n++] = st_score_cosine(st_dense_row(&r->at, i), st_dense_row(&r->x, p->truth[i]), r->x.n_col);
    if (n) {
        snprintf(row.variant, sizeof row.variant, "%s: cosine", variant);
        st_row_mean(&row, cosine, n, r->a->seed);
        if (st_rows_add(rows, &row, e))
            goto out;
    }
out:
    free(cosine);
    free(used);
    return e->code;
}

/* The map is there: what it makes of the victim's rows. Distances shift rows, so the plain ones are copied. */
static int score(struct ridge *r, const char *variant, const char *note, const struct st_known *k, struct st_rows *rows,
                 struct st_err *e)
{
    st_dense_product(r->a->pool, &r->y, &r->map, false, &r->at);
    if (add_cosine(r, variant, k, rows, e))
        return e->code;
    memcpy(r->table.p, r->x.p, r->x.n_row * r->x.n_col * sizeof *r->table.p);
    if (st_match_points(r->a->pool, &r->at, &r->table, false, r->guess, e))
        return e->code;
    return st_known_report(r->a, variant, r->guess, k, note, rows, e);
}

static int with_pairs(struct ridge *r, size_t n, struct st_rows *rows, struct st_err *e)
{
    struct st_known k;
    char name[40], note[80];
    if (st_known_pick(r->a, n, false, &k, e))
        return e->code;
    const struct st_pairs p = st_known_pairs(&k);
    snprintf(name, sizeof name, "%zu pairs", k.n);
    snprintf(note, sizeof note, "given %zu pairs of ids, drawn by chance", k.n);
    int rc = learn(r, &r->y, &p, e);
    if (!rc)
        rc = score(r, name, note, &k, rows, e);
    st_known_free(&k);
    return rc;
}

/* All rows with noise of his own, through a random map of his own to the width that the victim's have. */
static int own_rows(struct ridge *r, const struct st_noise_table *t, struct st_dense *out, struct st_err *e)
{
    size_t d = r->x.n_col, wide = r->y.n_col;
    struct st_dense key = {0}, noisy = {0};
    e->code = 0;
    if (st_dense_new(&key, d, wide, "ridge", e) || st_dense_new(out, r->x.n_row, wide, "ridge", e) ||
        st_noisy_rows(&r->x, t, r->noise, r->a->seed, &noisy, e))
        goto out;
    for (size_t i = 0; i < d; i++) {
        const float *z = st_noise_pick(t, r->a->seed * 31 + 7 + i, wide);
        for (size_t k = 0; k < wide; k++)
            st_dense_row(&key, i)[k] = (float)(z[k] / sqrt((double)wide));
    }
    st_dense_product(r->a->pool, &noisy, &key, false, out);
out:
    st_dense_free(&key);
    st_dense_free(&noisy);
    return e->code;
}

static int own_keys(struct ridge *r, struct st_rows *rows, struct st_err *e)
{
    struct st_noise_table t = {0};
    struct st_dense own = {0};
    struct st_known none = {.n = 0};
    uint32_t *same = NULL;
    e->code = 0;
    if (st_noise_table_new(&t, r->x.n_row > r->y.n_col ? r->x.n_row : r->y.n_col, r->a->seed, e) ||
        own_rows(r, &t, &own, e) || st_alloc(&same, own.n_row, sizeof *same, "ridge", e))
        goto out;
    for (uint32_t i = 0; i < own.n_row; i++)
        same[i] = i;
    const struct st_pairs p = {same, same, own.n_row};
    if (learn(r, &own, &p, e) || score(r, "own keys", "learned under another key: failure is built in", &none, rows, e))
        goto out;
out:
    st_noise_table_free(&t);
    st_dense_free(&own);
    free(same);
    return e->code;
}

static int run(const struct st_audit *a, struct st_rows *rows, struct st_err *e)
{
    struct ridge r = {.a = a};
    uint32_t n = a->target->pair.base->config.n_vocab;
    e->code = 0;
    if (st_match_check(a, e) || st_match_fits(a, st_match_embed_bytes(a), e) || open_rows(&r, e) ||
        with_pairs(&r, n / 4, rows, e) || (a->thorough && with_pairs(&r, n / 2, rows, e)) || own_keys(&r, rows, e))
        goto out;
out:
    st_dense_free(&r.x);
    st_dense_free(&r.y);
    st_dense_free(&r.map);
    st_dense_free(&r.at);
    st_dense_free(&r.table);
    free(r.guess);
    return e->code;
}

const struct st_attack st_atk_ridge = {
    .name = "ima-ridge",
    .title = "Linear inversion of the embedding",
    .metric = "share of token types and of the text recovered that were not given",
    .source = "arXiv 2603.01499, section 6; a published reproduction",
    .adversary = ST_ADVERSARY_SERVER,
    .needs = ST_TARGET_PAIR,
    .run = run,
};
