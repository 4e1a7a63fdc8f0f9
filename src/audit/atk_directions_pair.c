/* Matching by direction (ArrowMatch) on a covariant checkpoint: which feed-forward unit is which. Found units give the
 * key of a layer's inner order, not the text by themselves.
 *   as it is      vectors of the up projection as they are stored, the values that both have: the naive form. They were
 *                 turned by the key of the hidden state, so that their directions say nothing
 *   correlations  between all units of a layer over the vocabulary: w C w'^T, C the second moments of the embedding,
 *                 which no key of the hidden state changes; each unit by its sorted row of them
 * The truth follows from the permutation of tokens: outputs of both layers for the same tokens agree up to a factor.
 * Sources: "Game of Arrows", USENIX Security 2025; correlations ours. */
#include "audit/directions.h"
#include "audit/match.h"
#include "audit/sorted.h"
#include "audit/views.h"
#include "base/buf.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LAYERS 2
#define TOKENS 1024 /* whose outputs tell the truth */
#define ASSIGN 1024 /* units matched one to one at most */
#define TUNED 0.1

enum form { AS_IT_IS, CORRELATIONS, N_FORM };
static const char *const names[] = {"as it is", "correlations"};

struct layer {
    const struct st_dense *base, *seen; /* [n][d] each: units of the up projection */
    struct st_dense rows[2];            /* the embeddings */
    uint32_t *truth, *guess;            /* [seen->n_row] */
};

/* Tokens that both have: rows of the embeddings [n][d], in the base's and in the obfuscated model. */
static int token_rows(const struct st_audit *a, const struct st_dense rows[2], struct st_dense out[2], struct st_err *e)
{
    const struct st_pair *p = &a->target->pair;
    uint32_t n_plain = p->base->config.n_vocab, n_seen = p->seen->config.n_vocab;
    size_t n = 0, most = n_plain < TOKENS ? n_plain : TOKENS;
    if (st_dense_new(&out[0], most, rows[0].n_col, "directions", e) ||
        st_dense_new(&out[1], most, rows[1].n_col, "directions", e))
        return e->code;
    for (uint32_t c = 0; c < n_seen && n < most; c++) {
        if (p->truth[c] >= n_plain)
            continue;
        memcpy(st_dense_row(&out[0], n), st_dense_row(&rows[0], p->truth[c]), rows[0].n_col * sizeof(float));
        memcpy(st_dense_row(&out[1], n), st_dense_row(&rows[1], c), rows[1].n_col * sizeof(float));
        n++;
    }
    out[0].n_row = out[1].n_row = n;
    return n ? 0 : st_fail(e, ST_INPUT, "the obfuscated model has no token of its base");
}

static int find_truth(const struct st_audit *a, struct layer *l, struct st_err *e)
{
    struct st_dense tokens[2] = {{0}}, outputs[2] = {{0}};
    int rc = token_rows(a, l->rows, tokens, e);
    const struct st_dense *units[] = {l->base, l->seen};
    for (int i = 0; !rc && i < 2; i++) {
        rc = st_dense_new(&outputs[i], units[i]->n_row, tokens[i].n_row, "directions", e);
        if (!rc)
            st_dense_product(a->pool, units[i], &tokens[i], true, &outputs[i]);
    }
    if (!rc)
        rc = st_directions_match(a->pool, &outputs[1], &outputs[0], l->truth, e);
    for (int i = 0; i < 2; i++) {
        st_dense_free(&tokens[i]);
        st_dense_free(&outputs[i]);
    }
    return rc;
}

static int as_it_is(const struct st_audit *a, const struct layer *l, struct st_err *e)
{
    const struct st_dense *from[] = {l->base, l->seen};
    struct st_dense cut[2] = {{0}};
    size_t d = l->base->n_col < l->seen->n_col ? l->base->n_col : l->seen->n_col;
    int rc = 0;
    for (int i = 0; !rc && i < 2; i++) {
        rc = st_dense_new(&cut[i], from[i]->n_row, d, "directions", e);
        for (size_t r = 0; !rc && r < from[i]->n_row; r++)
            memcpy(st_dense_row(&cut[i], r), st_dense_row(from[i], r), d * sizeof(float));
    }
    if (!rc)
        rc = st_directions_match(a->pool, &cut[1], &cut[0], l->guess, e);
    st_dense_free(&cut[0]);
    st_dense_free(&cut[1]);
    return rc;
}

/* Sorted correlations of each unit with all others: of units u [n][d] and embedding rows, |u C u'^T| over their
 * deviations. */
static int correlations(const struct st_audit *a, const struct st_dense *units, const struct st_dense *rows,
                        struct st_dense *out, struct st_err *e)
{
    size_t n = units->n_row, d = units->n_col;
    struct st_dense moments = {0}, turned = {0};
    double *sums = NULL;
    int rc = st_alloc(&sums, d * d, sizeof *sums, "directions", e);
    if (!rc)
        rc = st_view_moments(a->pool, rows, sums, e);
    if (!rc)
        rc = st_dense_new(&moments, d, d, "directions", e);
    if (!rc)
        rc = st_dense_new(&turned, n, d, "directions", e);
    if (!rc) {
        for (size_t i = 0; i < d * d; i++)
            moments.p[i] = (float)(sums[i] / (double)rows->n_row);
        st_dense_product(a->pool, units, &moments, true, &turned);
        rc = st_sorted_rows(a->pool, units, &turned, true, out, e);
    }
    free(sums);
    st_dense_free(&moments);
    st_dense_free(&turned);
    return rc;
}

static int by_correlations(const struct st_audit *a, const struct layer *l, struct st_err *e)
{
    struct st_dense points[2] = {{0}};
    int rc = correlations(a, l->base, &l->rows[0], &points[0], e);
    if (!rc)
        rc = correlations(a, l->seen, &l->rows[1], &points[1], e);
    if (!rc && points[0].n_col != points[1].n_col)
        rc = st_fail(e, ST_UNSUPPORTED, "layers of %zu and %zu units give nothing to compare", l->base->n_row,
                     l->seen->n_row);
    if (!rc)
        rc = st_match_points(a->pool, &points[1], &points[0], l->base->n_row <= ASSIGN, l->guess, e);
    st_dense_free(&points[0]);
    st_dense_free(&points[1]);
    return rc;
}

/* The published attack on what it was made for. */
static int without_keys(const struct st_audit *a, const struct layer *l, double *share, struct st_err *e)
{
    struct st_dense bare = {0};
    uint32_t *order = NULL, *guess = NULL;
    size_t n = l->base->n_row, hits = 0;
    int rc = st_alloc(&order, n, sizeof *order, "directions", e);
    if (!rc)
        rc = st_alloc(&guess, n, sizeof *guess, "directions", e);
    if (!rc)
        rc = st_directions_shuffle(l->base, TUNED, a->seed, &bare, order, e);
    if (!rc)
        rc = st_directions_match(a->pool, &bare, l->base, guess, e);
    for (size_t i = 0; !rc && i < n; i++)
        hits += guess[i] == order[i];
    *share = (double)hits / (double)n;
    st_dense_free(&bare);
    free(order);
    free(guess);
    return rc;
}

struct tried {
    uint64_t hits[N_FORM], n;
    double chance, bare;
    uint32_t n_layer;
};

static int try_layer(const struct st_audit *a, struct layer *l, struct tried *t, struct st_err *e)
{
    size_t n = l->seen->n_row;
    double bare = 0;
    int rc = st_alloc(&l->truth, n, sizeof *l->truth, "directions", e);
    if (!rc)
        rc = st_alloc(&l->guess, n, sizeof *l->guess, "directions", e);
    if (!rc)
        rc = find_truth(a, l, e);
    for (int form = 0; !rc && form < N_FORM; form++) {
        rc = form == AS_IT_IS ? as_it_is(a, l, e) : by_correlations(a, l, e);
        for (size_t i = 0; !rc && i < n; i++)
            t->hits[form] += l->guess[i] == l->truth[i];
    }
    if (!rc)
        rc = without_keys(a, l, &bare, e);
    t->n += n;
    t->chance += 1.0 / (double)l->base->n_row;
    t->bare += bare;
    t->n_layer++;
    free(l->truth);
    free(l->guess);
    return rc;
}

static int add(const struct tried *t, struct st_rows *rows, struct st_err *e)
{
    for (int form = 0; form < N_FORM; form++) {
        struct st_row row = {.chance = t->chance / t->n_layer, .unprotected = t->bare / t->n_layer};
        st_row_share(&row, t->hits[form], t->n);
        snprintf(row.variant, sizeof row.variant, "%s", names[form]);
        snprintf(row.note, sizeof row.note, "Units of %u layers. Found units are no text by themselves.", t->n_layer);
        if (st_rows_add(rows, &row, e))
            return e->code;
    }
    return 0;
}

static int run(const struct st_audit *a, struct st_rows *rows, struct st_err *e)
{
    const struct st_pair *p = &a->target->pair;
    struct st_view v[2] = {{.n_layer = 0}};
    struct tried t = {.n_layer = 0};
    uint64_t d = p->seen->config.d_model;
    uint32_t fits = st_match_layers(a, 24 * d * d), most = a->thorough ? fits : fits < LAYERS ? fits : LAYERS;
    if (st_match_check(a, e) || st_view_of_model(p->base, ST_VIEW_UP, most, &v[0], e))
        return e->code;
    int rc = st_view_of_model(p->seen, ST_VIEW_UP, most, &v[1], e);
    for (int i = 0; !rc && i < 2; i++)
        rc = st_view_normalise(a->pool, &v[i], 0, 0, e);
    for (uint32_t l = 0; !rc && l < v[0].n_layer && l < v[1].n_layer; l++) {
        struct layer layer = {.base = &v[0].columns[l], .seen = &v[1].columns[l], .rows = {v[0].rows, v[1].rows}};
        rc = a->cancel && *a->cancel ? st_fail(e, ST_IO, "cancelled") : try_layer(a, &layer, &t, e);
        if (a->progress)
            a->progress(a->arg, st_atk_directions_pair.name, (double)l / v[0].n_layer);
    }
    if (!rc)
        rc = add(&t, rows, e);
    st_view_free(&v[0]);
    st_view_free(&v[1]);
    return rc;
}

const struct st_attack st_atk_directions_pair = {.name = "unit-directions",
                                                 .title = "Matching feed-forward units by direction",
                                                 .metric = "share of the feed-forward units matched with the base's",
                                                 .source = "Game of Arrows, USENIX Security 2025; correlations ours",
                                                 .adversary = ST_ADVERSARY_SERVER,
                                                 .needs = ST_TARGET_PAIR,
                                                 .run = run};
