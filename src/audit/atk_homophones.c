/* Homophone collapse. Further ids of frequent tokens are against counting; here the server counts them as one again.
 *   linked     without the base: copies are the ids whose head rows are alike, each belongs to the id whose embedding
 *              row is nearest
 *   counts     share of the text's tokens whose count comes out right when linked ids are counted as one
 *   by base    column-first matching with the base: copies that were read
 * Source: ours. Limits of the first two: a hidden-state key that turns (preset tight); under one that stretches,
 * nearest rows are only roughly so. */
#include "audit/columns.h"
#include "audit/homophones.h"
#include "audit/match.h"
#include "audit/metrics.h"
#include "base/buf.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct collapse {
    const struct st_audit *a;
    const struct st_pair *p;
    uint32_t n_plain, n_seen;
    bool *copy;
    uint32_t *original, *times; /* [n_seen]; [n_plain] cipher ids of a token */
    size_t n_copy;              /* true ones */
};

static int open_collapse(struct collapse *c, struct st_err *e)
{
    if (!c->p->homophones || c->n_seen <= c->n_plain)
        return st_fail(e, ST_UNSUPPORTED, "homophones: the checkpoint has none");
    if (st_alloc(&c->copy, c->n_seen, sizeof *c->copy, "homophones", e) ||
        st_alloc(&c->original, c->n_seen, sizeof *c->original, "homophones", e) ||
        st_alloc(&c->times, c->n_plain, sizeof *c->times, "homophones", e))
        return e->code;
    for (uint32_t i = 0; i < c->n_seen; i++)
        if (c->p->truth[i] < c->n_plain)
            c->n_copy += c->times[c->p->truth[i]]++ > 0;
    return c->n_copy ? 0 : st_fail(e, ST_UNSUPPORTED, "homophones: the checkpoint has none");
}

static struct st_row row_of(const struct collapse *c, const char *variant, const char *metric, double chance)
{
    struct st_row row = {.chance = chance, .unprotected = 1, .in_clear = true, .cost = NAN, .metric = metric};
    snprintf(row.variant, sizeof row.variant, "%s", variant);
    snprintf(row.note, sizeof row.note, "%u further ids for each frequent token", c->p->homophones);
    return row;
}

static int add(const struct collapse *c, const char *variant, const char *metric, uint64_t hits, uint64_t n,
               double chance, struct st_rows *rows, struct st_err *e)
{
    struct st_row row = row_of(c, variant, metric, chance);
    st_row_share(&row, hits, n);
    return st_rows_add(rows, &row, e);
}

/* Tokens of the text all of whose ids, and no others, are linked. */
static int add_counts(const struct collapse *c, struct st_rows *rows, struct st_err *e)
{
    const struct st_texts_ids *text = &c->a->target->text;
    const uint32_t *truth = c->p->truth;
    uint32_t *group = NULL; /* [n_plain] the id that a token's ids are linked to; n_seen = not one */
    uint64_t hits = 0, single = 0, n = st_texts_len(text);
    e->code = 0;
    if (st_alloc(&group, c->n_plain, sizeof *group, "homophones", e))
        return e->code;
    memset(group, 0xff, c->n_plain * sizeof *group);
    for (uint32_t i = 0; i < c->n_seen; i++) {
        if (truth[i] >= c->n_plain)
            continue;
        uint32_t *g = &group[truth[i]];
        *g = *g == UINT32_MAX || *g == c->original[i] ? c->original[i] : c->n_seen;
    }
    for (uint32_t i = 0; i < c->n_seen; i++) { /* a stranger among them */
        uint32_t to = truth[c->original[i]];
        if (to < c->n_plain && truth[i] != to)
            group[to] = c->n_seen;
    }
    for (size_t i = 0; i < n; i++) {
        hits += group[text->ids[i]] < c->n_seen;
        single += c->times[text->ids[i]] == 1;
    }
    free(group);
    struct st_score_weights w;
    if (st_score_weigh(text->ids, n, c->n_plain, NULL, &w, e))
        return e->code;
    struct st_row row = row_of(c, "counts", "share of the text's tokens whose counts come out right",
                               n ? (double)single / (double)n : 0);
    st_row_share_of(&row, hits, n, w.independent);
    return st_rows_add(rows, &row, e);
}

static int linked(struct collapse *c, struct st_rows *rows, struct st_err *e)
{
    struct st_dense head = {0}, embed = {0};
    uint64_t hits = 0;
    e->code = 0;
    if (st_view_rows(c->p->seen, ST_ROLE_HEAD, &head, e) || st_view_rows(c->p->seen, ST_ROLE_EMBED, &embed, e) ||
        st_homophones_find(c->a->pool, &head, c->n_seen - c->n_plain, c->copy, e) ||
        st_homophones_link(c->a->pool, &embed, c->copy, c->original, e))
        goto out;
    for (uint32_t i = 0; i < c->n_seen; i++)
        hits += c->copy[i] && c->p->truth[i] < c->n_plain && c->p->truth[i] == c->p->truth[c->original[i]];
    if (add(c, "linked", "share of homophones linked with their token", hits < c->n_copy ? hits : c->n_copy, c->n_copy,
            1.0 / c->n_plain, rows, e))
        goto out;
    add_counts(c, rows, e);
out:
    st_dense_free(&head);
    st_dense_free(&embed);
    return e->code;
}

/* Rows of the head and copies of them, all their distances; then rows of the embedding. */
static uint64_t linking_takes(const struct collapse *c)
{
    uint64_t n = c->n_seen, d = c->p->seen->config.d_model;
    return sizeof(float) * (n * (n + 4 * d + 8));
}

/* Views of both, and their matching. */
static uint64_t columns_take(const struct collapse *c, uint32_t n_layer)
{
    const struct st_model *base = c->p->base, *seen = c->p->seen;
    struct st_view_size b = st_view_size(base, ST_VIEW_GATE, n_layer), s = st_view_size(seen, ST_VIEW_GATE, n_layer);
    return b.bytes + s.bytes +
           st_columns_bytes(c->n_seen, base->config.d_model, seen->config.d_model, b.columns, b.widest);
}

static int by_base(struct collapse *c, struct st_rows *rows, struct st_err *e)
{
    const struct st_columns_opts o = {
        .rows = c->p->noise.embed, .columns = c->p->noise.all, .seed = c->a->seed, .cancel = c->a->cancel};
    struct st_columns_found found = {0};
    struct st_view base = {0}, seen = {0};
    uint32_t *guess = NULL, n_layer = c->p->base->config.n_layer;
    uint64_t hits = 0, n = 0;
    while (n_layer > 1 && columns_take(c, n_layer) > c->a->memory)
        n_layer--;
    e->code = 0;
    if (st_match_fits(c->a, columns_take(c, n_layer), e) ||
        st_alloc(&guess, c->n_seen, sizeof *guess, "homophones", e) ||
        st_view_of_model(c->p->base, ST_VIEW_GATE, n_layer, &base, e) ||
        st_view_of_model(c->p->seen, ST_VIEW_GATE, n_layer, &seen, e) ||
        st_columns_first(c->a->pool, &base, &seen, &o, &found, e) ||
        st_match_points(c->a->pool, &found.guess, &found.rows, false, guess, e))
        goto out;
    for (uint32_t i = 0; i < c->n_seen; i++)
        if (c->p->truth[i] < c->n_plain && c->times[c->p->truth[i]] > 1) {
            n++;
            hits += guess[i] == c->p->truth[i];
        }
    add(c, "by base", "share of the ids of tokens with homophones that were read", hits, n, 1.0 / c->n_plain, rows, e);
out:
    free(guess);
    st_view_free(&base);
    st_view_free(&seen);
    st_columns_found_free(&found);
    return e->code;
}

static int run(const struct st_audit *a, struct st_rows *rows, struct st_err *e)
{
    struct collapse c = {.a = a, .p = &a->target->pair};
    e->code = 0;
    if (st_match_check(a, e))
        return e->code;
    c.n_plain = c.p->base->config.n_vocab;
    c.n_seen = c.p->seen->config.n_vocab;
    if (open_collapse(&c, e) || st_match_fits(a, linking_takes(&c), e) || linked(&c, rows, e))
        goto out;
    if (by_base(&c, rows, e) == ST_MEMORY && !st_rows_leave_out(rows, "by base", e->msg, e))
        e->code = 0;
out:
    free(c.copy);
    free(c.original);
    free(c.times);
    return e->code;
}

const struct st_attack st_atk_homophones = {
    .name = "homophones",
    .title = "Homophones counted as one again",
    .metric = "share of homophones linked with their token",
    .source = "ours",
    .adversary = ST_ADVERSARY_SERVER,
    .needs = ST_TARGET_PAIR,
    .run = run,
};
