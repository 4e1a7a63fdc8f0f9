/* Invariants of the rotary pairs (A5, "Attn-IA"): the leverage of a token's query in a pair of one head, likewise of
 * its key (audit/features.h), over all pairs, heads and layers. sorted    each layer's leverages sorted: heads and
 * pairs may have changed places aligned   pairs matched first, by how their leverages spread over the vocabulary, then
 * by correlation over the rows that match; nearest neighbour of what is then in one order Sources: arXiv 2603.01499,
 * appendix F.1 (which prints e where q must stand); the alignment is ours. */
#include "audit/features.h"
#include "audit/match.h"
#include "base/buf.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ROUNDS 4

/* Leverages of one projection of one layer. */
struct part {
    struct st_dense base, seen; /* [n][n_pair] */
    struct st_column_match match;
};

struct attn {
    const struct st_audit *a;
    struct part *parts;
    size_t n_part, n_pair; /* n_pair: of all parts together */
    uint32_t *guess;
};

/* Columns of features, as rows: what their marks and correlations are taken of. */
static int turn(const struct st_dense *x, struct st_dense *out, struct st_err *e)
{
    if (st_dense_new(out, x->n_col, x->n_row, "pairs", e))
        return e->code;
    for (size_t r = 0; r < x->n_row; r++)
        for (size_t k = 0; k < x->n_col; k++)
            st_dense_row(out, k)[r] = st_dense_row(x, r)[k];
    return 0;
}

static int marks_of(const struct st_dense *x, struct st_dense *to, size_t first, size_t step, struct st_err *e)
{
    struct st_dense t;
    if (turn(x, &t, e))
        return e->code;
    for (size_t k = 0; k < t.n_row; k++)
        st_marks(st_dense_row(&t, k), t.n_col, st_dense_row(to, first + k * step));
    st_dense_free(&t);
    return 0;
}

/* Pairs by their marks, those of the base under draws of noise. */
static int first_pairs(struct attn *s, struct part *p, const struct st_view *base, uint32_t l,
                       const struct st_noise_table *table, double noise, struct st_err *e)
{
    const struct st_config *c = &s->a->target->pair.base->config;
    struct st_dense seen = {0}, sims = {0};
    e->code = 0;
    if (st_dense_new(&seen, p->seen.n_col, ST_MARKS, "pairs", e) ||
        st_dense_new(&sims, p->base.n_col * ST_MARK_SIMS, ST_MARKS, "pairs", e) || marks_of(&p->seen, &seen, 0, 1, e))
        goto out;
    for (size_t d = 0; d < ST_MARK_SIMS; d++) {
        struct st_dense rows = {0}, f = {0};
        int rc = st_noisy_rows(&base->rows, table, noise, s->a->seed + d, &rows, e);
        if (!rc)
            rc = st_pair_leverages(s->a->pool, &rows, &base->columns[l], c->head_dim, c->rope_interleaved, &f, e);
        if (!rc)
            rc = marks_of(&f, &sims, d, ST_MARK_SIMS, e);
        st_dense_free(&rows);
        st_dense_free(&f);
        if (rc)
            goto out;
    }
    if (st_match_marks(s->a->pool, &seen, &sims, false, &p->match, e))
        goto out;
out:
    st_dense_free(&seen);
    st_dense_free(&sims);
    return e->code;
}

static int add_family(struct attn *s, enum st_view_family f, struct st_err *e)
{
    const struct st_pair *pair = &s->a->target->pair;
    const struct st_config *b = &pair->base->config, *c = &pair->seen->config;
    struct st_view base = {0}, seen = {0};
    struct st_noise_table table = {0};
    double sigma;
    /* Leverages of both sides of queries and keys, and once more side by side. */
    uint32_t n = st_match_layers(s->a, 4 * sizeof(float) * (uint64_t)c->n_vocab * (b->n_head + b->n_kv_head) *
                                           (b->head_dim / 2));
    e->code = 0;
    if (st_match_fits(s->a, st_view_size(pair->base, f, n).bytes + st_view_size(pair->seen, f, n).bytes, e) ||
        st_view_of_model(pair->base, f, n, &base, e) || st_view_of_model(pair->seen, f, n, &seen, e) ||
        st_view_spread(s->a->pool, &base.rows, &sigma, e) || st_noise_table_new(&table, base.rows.n_col, s->a->seed, e))
        goto out;
    for (uint32_t l = 0; l < base.n_layer && l < seen.n_layer; l++) {
        struct part *p = &s->parts[s->n_part];
        if (s->a->cancel && *s->a->cancel) {
            st_fail(e, ST_IO, "cancelled");
            goto out;
        }
        if (base.columns[l].n_row != seen.columns[l].n_row) {
            st_fail(e, ST_INPUT, "layer %u of the base has %zu columns, of the obfuscated model %zu", l,
                    base.columns[l].n_row, seen.columns[l].n_row);
            goto out;
        }
        s->n_part++;
        if (st_pair_leverages(s->a->pool, &base.rows, &base.columns[l], b->head_dim, b->rope_interleaved, &p->base,
                              e) ||
            st_pair_leverages(s->a->pool, &seen.rows, &seen.columns[l], c->head_dim, c->rope_interleaved, &p->seen,
                              e) ||
            first_pairs(s, p, &base, l, &table, pair->noise.embed * sigma, e))
            goto out;
        s->n_pair += p->base.n_col;
    }
out:
    st_noise_table_free(&table);
    st_view_free(&base);
    st_view_free(&seen);
    return e->code;
}

/* Points of both sides: features in the order of the base's pairs, the sure ones alone. */
static int match_rows(struct attn *s, double part, struct st_err *e)
{
    struct st_dense x = {0}, y = {0};
    size_t at = 0;
    e->code = 0;
    if (st_dense_new(&x, s->parts->seen.n_row, s->n_pair, "pairs", e) ||
        st_dense_new(&y, s->parts->base.n_row, s->n_pair, "pairs", e))
        goto out;
    for (size_t i = 0; i < s->n_part; i++) {
        const struct part *p = &s->parts[i];
        for (size_t k = 0; k < p->seen.n_col; k++) {
            /* Less sure than how many others: those count for nothing yet. */
            size_t surer = 0;
            for (size_t j = 0; j < p->seen.n_col; j++)
                surer += p->match.sure[j] > p->match.sure[k];
            if ((double)surer >= part * (double)p->seen.n_col)
                continue;
            for (size_t r = 0; r < x.n_row; r++)
                st_dense_row(&x, r)[at] = st_dense_row(&p->seen, r)[k];
            for (size_t r = 0; r < y.n_row; r++)
                st_dense_row(&y, r)[at] = st_dense_row(&p->base, r)[p->match.column[k]];
            at++;
        }
    }
    if (st_match_points(s->a->pool, &x, &y, part >= 1, s->guess, e))
        goto out;
out:
    st_dense_free(&x);
    st_dense_free(&y);
    return e->code;
}

/* Pairs again, by correlation over the matched rows. */
static int match_pairs(struct attn *s, struct part *p, struct st_err *e)
{
    struct st_dense rows = {0}, x = {0}, y = {0}, cost = {0};
    e->code = 0;
    if (st_dense_new(&rows, p->seen.n_row, p->base.n_col, "pairs", e) ||
        st_dense_new(&cost, p->seen.n_col, p->base.n_col, "pairs", e))
        goto out;
    for (size_t r = 0; r < rows.n_row; r++)
        memcpy(st_dense_row(&rows, r), st_dense_row(&p->base, s->guess[r]), rows.n_col * sizeof(float));
    if (turn(&rows, &x, e) || turn(&p->seen, &y, e))
        goto out;
    st_dense_standardise(&x);
    st_dense_standardise(&y);
    st_dense_product(s->a->pool, &y, &x, true, &cost);
    for (size_t i = 0; i < cost.n_row * cost.n_col; i++)
        cost.p[i] = 2 - cost.p[i];
    if (st_choose_columns(&cost, p->match.column, p->match.sure, e))
        goto out;
out:
    st_dense_free(&rows);
    st_dense_free(&x);
    st_dense_free(&y);
    st_dense_free(&cost);
    return e->code;
}

/* Each part's leverages sorted by size, row by row. */
static int sort_parts(const struct attn *s, bool seen, struct st_dense *to, struct st_err *e)
{
    size_t at = 0;
    for (size_t i = 0; i < s->n_part; i++) {
        const struct st_dense *x = seen ? &s->parts[i].seen : &s->parts[i].base;
        struct st_dense copy;
        if (st_dense_new(&copy, x->n_row, x->n_col, "pairs", e))
            return e->code;
        memcpy(copy.p, x->p, x->n_row * x->n_col * sizeof *x->p);
        int rc = st_dense_sort_rows(s->a->pool, &copy, e);
        st_match_append(to, &at, &copy, 1);
        st_dense_free(&copy);
        if (rc)
            return rc;
    }
    return 0;
}

static int match_sorted(struct attn *s, struct st_err *e)
{
    struct st_dense x = {0}, y = {0};
    e->code = 0;
    if (st_dense_new(&x, s->parts->seen.n_row, s->n_pair, "pairs", e) ||
        st_dense_new(&y, s->parts->base.n_row, s->n_pair, "pairs", e) || sort_parts(s, true, &x, e) ||
        sort_parts(s, false, &y, e) || st_match_points(s->a->pool, &x, &y, false, s->guess, e))
        goto out;
out:
    st_dense_free(&x);
    st_dense_free(&y);
    return e->code;
}

static int match_aligned(struct attn *s, struct st_err *e)
{
    for (int it = 0; it < ROUNDS; it++) {
        if (s->a->cancel && *s->a->cancel)
            return st_fail(e, ST_IO, "cancelled");
        if (match_rows(s, fmin(1, .4 + .3 * it), e))
            return e->code;
        for (size_t i = 0; it + 1 < ROUNDS && i < s->n_part; i++)
            if (match_pairs(s, &s->parts[i], e))
                return e->code;
    }
    return 0;
}

static int run(const struct st_audit *a, struct st_rows *rows, struct st_err *e)
{
    const struct st_config *c = &a->target->pair.base->config;
    struct attn s = {.a = a};
    e->code = 0;
    if (c->kv_lora_rank)
        return st_fail(e, ST_UNSUPPORTED, "%s: latent attention has no pairs of this kind", a->target->pair.base->name);
    if (st_match_check(a, e) || st_alloc(&s.parts, 2 * (size_t)c->n_layer, sizeof *s.parts, "pairs", e) ||
        st_alloc(&s.guess, a->target->pair.seen->config.n_vocab, sizeof *s.guess, "pairs", e) ||
        add_family(&s, ST_VIEW_Q, e) || add_family(&s, ST_VIEW_K, e))
        goto out;
    if (match_sorted(&s, e) || st_match_report(a, "sorted", s.guess, NULL, rows, e) || match_aligned(&s, e) ||
        st_match_report(a, "aligned", s.guess, NULL, rows, e))
        goto out;
out:
    for (size_t i = 0; i < s.n_part; i++) {
        st_dense_free(&s.parts[i].base);
        st_dense_free(&s.parts[i].seen);
        st_column_match_free(&s.parts[i].match);
    }
    free(s.parts);
    free(s.guess);
    return e->code;
}

const struct st_attack st_atk_attn_ia = {
    .name = "attn-ia",
    .title = "Invariants of the rotary pairs",
    .metric = "share of token types and of the text recovered",
    .source = "arXiv 2603.01499, app. F.1; alignment ours",
    .adversary = ST_ADVERSARY_SERVER,
    .needs = ST_TARGET_PAIR,
    .run = run,
};
