/* Linear inversion (IMA with ridge): a map from obfuscated embedding rows to plain ones, learned by least squares, then
 * the nearest plain row.
 *   pairs given   learned from a share of the victim's own rows, whose plain ids are known: fair
 *   own keys      learned from rows that the adversary made himself under another key, as the published attack trains
 *                 its model: the victim's key is another one, so failure is built in and says nothing
 * Also the mean cosine of recovered rows and true ones. All rows share one map, so that the interval is not that of the
 * rows: it is the spread of maps learned from the same rows in a wrong order (their mean is the chance), of `own keys`
 * that of maps under further keys as well. The ridge is the best of five for pairs held out.
 * Sources: arXiv 2603.01499, section 6 (IMA); the published reproduction with known rows (papers/attacks.md A3, A7). */
#include "audit/features.h"
#include "audit/known.h"
#include "audit/match.h"
#include "audit/metrics.h"
#include "audit/views.h"
#include "base/buf.h"
#include "base/hooks.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HELD 4       /* every fourth pair judges the ridge, */
#define HELD_MAX 512 /* and no more than these */
#define DRAWS 8      /* maps of luck */

struct ridge {
    const struct st_audit *a;
    struct st_dense x, y, map, at, table; /* plain and seen rows about their means; seen rows mapped */
    double noise;                         /* deviation of the embedding's, which the method makes public */
    double ridge;                         /* the best of those tried */
    uint32_t *guess;
    double *cosine; /* [rows of y] */
    bool *used;     /* [n_vocab] ids of the text that were not given */
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
        st_alloc(&r->guess, r->y.n_row, sizeof *r->guess, "ridge", e) ||
        st_alloc(&r->cosine, r->y.n_row, sizeof *r->cosine, "ridge", e) ||
        st_alloc(&r->used, r->x.n_row, sizeof *r->used, "ridge", e))
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
    r->ridge = best * square;
    if (st_fit_ridge(y, &r->x, p, r->ridge, &r->map, e))
        goto out;
out:
    free(seen);
    free(base);
    return e->code;
}

/* Cosines of what the map makes of rows that were not given, and their mean. */
static double mean_cosine(struct ridge *r, size_t *n)
{
    const struct st_pair *p = &r->a->target->pair;
    uint32_t none = p->base->config.n_vocab;
    double sum = 0;
    *n = 0;
    st_dense_product(r->a->pool, &r->y, &r->map, false, &r->at);
    for (size_t i = 0; i < r->y.n_row; i++)
        if (p->truth[i] < none && r->used[p->truth[i]])
            sum += r->cosine[(*n)++] =
                st_score_cosine(st_dense_row(&r->at, i), st_dense_row(&r->x, p->truth[i]), r->x.n_col);
    return *n ? sum / (double)*n : 0;
}

/* Maps from rows y to plain rows that are not theirs. */
static int wrong_order(struct ridge *r, const struct st_dense *y, const struct st_pairs *p, double luck[DRAWS],
                       struct st_err *e)
{
    struct st_rng rng;
    uint32_t *base;
    size_t n;
    if (st_alloc(&base, p->n, sizeof *base, "ridge", e))
        return e->code;
    const struct st_pairs wrong = {p->seen, base, p->n};
    int rc = 0;
    memcpy(base, p->base, p->n * sizeof *base);
    st_rng_seed(&rng, r->a->seed ^ 0x7269646765U);
    for (size_t k = 0; k < DRAWS && !rc; k++) {
        for (size_t i = p->n; i > 1; i--) {
            size_t j = st_rng_next(&rng) % i;
            uint32_t x = base[i - 1];
            base[i - 1] = base[j];
            base[j] = x;
        }
        rc = r->a->cancel && *r->a->cancel ? st_fail(e, ST_IO, "cancelled")
                                           : st_fit_ridge(y, &r->x, &wrong, r->ridge, &r->map, e);
        if (!rc)
            luck[k] = mean_cosine(r, &n);
    }
    free(base);
    return rc;
}

static int add_cosine(struct st_row *row, const char *variant, size_t n, struct st_rows *rows, struct st_err *e)
{
    row->n = n;
    row->unprotected = 1;
    row->in_clear = true;
    row->cost = NAN;
    row->metric = "mean cosine of recovered and true rows";
    snprintf(row->variant, sizeof row->variant, "%s: cosine", variant);
    return n ? st_rows_add(rows, row, e) : 0;
}

static void scored(struct ridge *r, const struct st_known *k)
{
    st_score_used(&r->a->target->text, r->used, r->x.n_row);
    for (size_t i = 0; i < k->n; i++)
        r->used[k->base[i]] = false;
}

/* What the map makes of the victim's rows. Distances shift rows, so the plain ones are copied. */
static int guess_rows(struct ridge *r, struct st_err *e)
{
    memcpy(r->table.p, r->x.p, r->x.n_row * r->x.n_col * sizeof *r->table.p);
    return st_match_points(r->a->pool, &r->at, &r->table, false, r->guess, e);
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
    scored(r, &k);
    struct st_row row = {0}, by_rows = {0};
    double luck[DRAWS], mean = 0;
    size_t n_row = 0;
    int rc = learn(r, &r->y, &p, e);
    if (!rc) {
        mean = mean_cosine(r, &n_row);
        st_row_mean(&by_rows, r->cosine, n_row, r->a->seed);
        rc = guess_rows(r, e);
    }
    if (!rc)
        rc = wrong_order(r, &r->y, &p, luck, e);
    if (!rc) {
        st_row_beside(&row, mean, luck, DRAWS);
        row.low = fmin(row.low, by_rows.low);
        row.high = fmin(1, fmax(row.high, by_rows.high));
        rc = add_cosine(&row, name, n_row, rows, e);
    }
    if (!rc)
        rc = st_known_report(r->a, name, r->guess, &k, note, rows, e);
    st_known_free(&k);
    return rc;
}

/* All rows with noise of his own, through a random map of his own to the width that the victim's have; `draw` says
 * which. out is freed first. */
static int own_rows(struct ridge *r, const struct st_noise_table *t, uint64_t draw, struct st_dense *out,
                    struct st_err *e)
{
    size_t d = r->x.n_col, wide = r->y.n_col;
    struct st_dense key = {0}, noisy = {0};
    uint64_t seed = r->a->seed + (draw << 32);
    e->code = 0;
    st_dense_free(out);
    if (st_dense_new(&key, d, wide, "ridge", e) || st_dense_new(out, r->x.n_row, wide, "ridge", e) ||
        st_noisy_rows(&r->x, t, r->noise, seed, &noisy, e))
        goto out;
    for (size_t i = 0; i < d; i++) {
        const float *z = st_noise_pick(t, seed * 31 + 7 + i, wide);
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
    struct st_row row = {0};
    double found[DRAWS], luck[DRAWS];
    size_t n_row = 0;
    uint32_t *same = NULL;
    e->code = 0;
    if (st_noise_table_new(&t, r->x.n_row > r->y.n_col ? r->x.n_row : r->y.n_col, r->a->seed, e) ||
        st_alloc(&same, r->x.n_row, sizeof *same, "ridge", e))
        goto out;
    for (uint32_t i = 0; i < r->x.n_row; i++)
        same[i] = i;
    scored(r, &none);
    const struct st_pairs p = {same, same, r->x.n_row};
    for (size_t k = 0; k < DRAWS; k++) {
        if (own_rows(r, &t, k, &own, e) ||
            (k ? st_fit_ridge(&own, &r->x, &p, r->ridge, &r->map, e) : learn(r, &own, &p, e)))
            goto out;
        found[k] = mean_cosine(r, &n_row);
        if (k == 0 && guess_rows(r, e))
            goto out;
    }
    if (wrong_order(r, &own, &p, luck, e))
        goto out;
    struct st_row keys = {0};
    st_row_attempts(&keys, found, DRAWS);
    st_row_beside(&row, keys.score, luck, DRAWS);
    row.low = fmin(row.low, keys.low);
    row.high = fmax(row.high, keys.high);
    if (add_cosine(&row, "own keys", n_row, rows, e) ||
        st_known_report(r->a, "own keys", r->guess, &none, "learned under another key: failure is built in", rows, e))
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
    free(r.cosine);
    free(r.used);
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
