#include "audit/heard.h"

#include "audit/general.h"
#include "audit/metrics.h"
#include "audit/ranking.h"
#include "base/hooks.h"
#include "protect/covariant/homophones.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void st_heard_free(struct st_heard *h)
{
    free(h->truth);
    free(h->ids);
    free(h->ends);
    *h = (struct st_heard){0};
}

/* The first max tokens, with ends of our own; items that lie in them. */
static int cut(const struct st_texts_ids *text, size_t max, struct st_heard *h, struct st_err *e)
{
    size_t n = 0;
    if (st_alloc(&h->ends, text->n + 1, sizeof *h->ends, "ids heard", e))
        return e->code;
    while (n < text->n && (n == 0 || h->ends[n - 1] < max)) {
        h->ends[n] = text->ends[n] < max ? text->ends[n] : max;
        n++;
    }
    h->text = *text;
    h->text.n = n;
    h->text.ends = h->ends;
    while (h->text.n_item && h->text.items[h->text.n_item - 1].hi > st_texts_len(&h->text))
        h->text.n_item--;
    return 0;
}

/* Ids by the plain id that they stand for: those of plain id p are of[from[p]] to of[from[p + 1]]. */
struct homophones {
    uint32_t *from, *of;
};

static int group(const uint32_t *truth, uint32_t n_id, uint32_t n_plain, struct homophones *g, struct st_err *e)
{
    if (st_alloc(&g->from, (size_t)n_plain + 2, sizeof *g->from, "ids heard", e) ||
        st_alloc(&g->of, n_id, sizeof *g->of, "ids heard", e))
        return e->code;
    for (uint32_t i = 0; i < n_id; i++)
        if (truth[i] < n_plain)
            g->from[truth[i] + 2]++;
    for (uint32_t p = 0; p < n_plain; p++)
        g->from[p + 2] += g->from[p + 1];
    for (uint32_t i = 0; i < n_id; i++) /* from[p + 1] walks to the end of p's, where p + 1's begin */
        if (truth[i] < n_plain)
            g->of[g->from[truth[i] + 1]++] = i;
    return 0;
}

static int send(struct st_heard *h, const uint32_t *truth, const struct homophones *g, uint64_t seed, struct st_err *e)
{
    struct st_rng rng;
    st_rng_seed(&rng, seed);
    for (size_t i = 0, n = st_texts_len(&h->text); i < n; i++) {
        uint32_t p = h->text.ids[i];
        uint32_t many = p < h->n_plain ? g->from[p + 1] - g->from[p] : 0;
        if (!many)
            return st_fail(e, ST_INPUT, "id %u of the text has no id in the obfuscated model", p);
        uint32_t id = g->of[g->from[p] + (many > 1 ? st_rng_next(&rng) % many : 0)];
        h->ids[i] = id;
        h->truth[id] = truth[id];
    }
    h->sent = (struct st_texts_ids){.ids = h->ids, .ends = h->ends, .n = h->text.n};
    return 0;
}

int st_heard_new(const struct st_texts_ids *text, const uint32_t *truth, uint32_t n_id, uint32_t n_plain,
                 size_t max_token, uint64_t seed, struct st_heard *out, struct st_err *e)
{
    struct homophones g = {0};
    *out = (struct st_heard){.n_plain = n_plain, .n_id = n_id};
    int rc = cut(text, max_token, out, e);
    if (!rc)
        rc = st_alloc(&out->ids, st_texts_len(&out->text) + 1, sizeof *out->ids, "ids heard", e);
    if (!rc)
        rc = st_alloc(&out->truth, n_id, sizeof *out->truth, "ids heard", e);
    for (uint32_t i = 0; !rc && i < n_id; i++)
        out->truth[i] = n_plain;
    if (!rc)
        rc = group(truth, n_id, n_plain, &g, e);
    if (!rc)
        rc = send(out, truth, &g, seed, e);
    free(g.from);
    free(g.of);
    if (rc)
        st_heard_free(out);
    return rc;
}

int st_heard_check(const struct st_audit *a, struct st_err *e)
{
    const struct st_target *t = a->target;
    if (t->x_name && t->x > 0 && !t->pair.homophones)
        return st_fail(e, ST_UNSUPPORTED, "ids are the same at every %s: see the row at 0", t->x_name);
    if (t->ids_as)
        return st_fail(e, ST_UNSUPPORTED, "ids are hidden as those of %s: see its rows", t->ids_as);
    if (!t->prior.n || !t->text.n)
        return st_fail(e, ST_UNSUPPORTED, "needs a text that was sent, and one that the observer has read (--prior)");
    return 0;
}

/* ---- trials ---- */

const char *st_prior_name(enum st_prior p)
{
    static const char *const names[] = {"general text", "prior", "same text"};
    return names[p];
}

static int made_new(struct st_text_made *m, size_t n_doc, size_t n_item, struct st_err *e)
{
    int rc = st_alloc(&m->ends, n_doc + 1, sizeof *m->ends, "text", e);
    return rc ? rc : st_alloc(&m->items, n_item + 1, sizeof *m->items, "text", e);
}

/* Adds documents first, first + step, ... with the items in them; `to` has room. */
static int take(const struct st_texts_ids *t, size_t first, size_t step, struct st_text_made *to, struct st_err *e)
{
    struct st_texts_ids *v = &to->view;
    for (size_t d = first; d < t->n; d += step) {
        size_t lo = d ? t->ends[d - 1] : 0, hi = t->ends[d], at = to->ids.len;
        for (size_t i = lo; i < hi; i++)
            st_ids_add(&to->ids, t->ids[i]);
        for (size_t i = 0; i < t->n_item; i++)
            if (t->items[i].lo >= lo && t->items[i].hi <= hi)
                to->items[v->n_item++] = (struct st_text_item){t->items[i].lo - lo + at, t->items[i].hi - lo + at};
        to->ends[v->n++] = to->ids.len;
    }
    v->ids = to->ids.p;
    v->ends = to->ends;
    v->items = to->items;
    return to->ids.failed ? st_fail(e, ST_MEMORY, "no memory for a text") : 0;
}

/* Every second document is heard; the others were read, behind the prior. */
static int split(const struct st_target *t, struct st_trial *out, struct st_err *e)
{
    if (t->text.n < 2)
        return st_fail(e, ST_UNSUPPORTED, "needs a text of two documents at least");
    int rc = made_new(&out->said, t->text.n, t->text.n_item, e);
    if (!rc)
        rc = made_new(&out->read, t->text.n + t->prior.n, t->text.n_item + t->prior.n_item, e);
    if (!rc)
        rc = take(&t->text, 0, 2, &out->said, e);
    if (!rc)
        rc = take(&t->prior, 0, 1, &out->read, e);
    if (!rc)
        rc = take(&t->text, 1, 2, &out->read, e);
    return rc;
}

/* copies [n_plain] = n_copy at the tokens that the protection takes for frequent; the number of homophones. */
static int list_copies(const struct st_model *base, uint32_t n_copy, uint32_t *copies, uint32_t *n, struct st_err *e)
{
    struct st_cov_frequent frequent;
    struct st_cov_opts o;
    st_cov_opts_init(&o, ST_COV_PRESET_TIGHT);
    int rc = st_cov_frequent_choose(base, base->path, &o, &frequent, e);
    for (uint32_t i = 0; !rc && i < frequent.n; i++)
        copies[frequent.ids[i]] = n_copy;
    *n = frequent.n * n_copy;
    st_cov_frequent_wipe(&frequent);
    return rc;
}

static int rank_copies(const struct st_trial *t, uint32_t n_copy, uint32_t n_frequent, struct st_err *e)
{
    struct st_ranking prior = {0};
    int rc = st_ranking_new(&t->prior, t->heard.n_plain, &prior, e);
    for (uint32_t r = 0; !rc && r < t->heard.n_plain; r++)
        t->copies[prior.id[r]] = r < n_frequent ? n_copy : 0;
    st_ranking_free(&prior);
    return rc;
}

static int know_copies(const struct st_audit *a, struct st_trial *t, struct st_err *e)
{
    uint32_t n_copy = a->target->pair.homophones, more = t->heard.n_id - t->heard.n_plain, n = 0;
    if (!n_copy)
        return 0;
    int rc = st_alloc(&t->copies, t->heard.n_plain, sizeof *t->copies, "homophones", e);
    if (!rc)
        rc = list_copies(a->target->base, n_copy, t->copies, &n, e);
    return rc || n == more ? rc : rank_copies(t, n_copy, more / n_copy, e);
}

int st_trial_open(const struct st_audit *a, enum st_prior p, size_t max_token, struct st_trial *out, struct st_err *e)
{
    const struct st_target *t = a->target;
    const struct st_pair *pair = &t->pair;
    int rc = 0;
    *out = (struct st_trial){.prior = t->prior};
    if (p == ST_PRIOR_GENERAL)
        rc = st_text_parse(st_general_text, strlen(st_general_text), "general text", t->base, t->tokenizer,
                           t->base->config.n_ctx, &out->read, e);
    if (p == ST_PRIOR_SAME)
        rc = split(t, out, e);
    if (p != ST_PRIOR_OWN)
        out->prior = out->read.view;
    if (!rc)
        rc = st_heard_new(p == ST_PRIOR_SAME ? &out->said.view : &t->text, pair->truth, pair->seen->config.n_vocab,
                          pair->base->config.n_vocab, max_token, a->seed, &out->heard, e);
    if (!rc)
        rc = know_copies(a, out, e);
    if (rc)
        st_trial_close(out);
    return rc;
}

void st_trial_close(struct st_trial *t)
{
    st_heard_free(&t->heard);
    st_text_free(&t->read);
    st_text_free(&t->said);
    free(t->copies);
    *t = (struct st_trial){.copies = NULL};
}

/* A table of plain ids and their homophones in an order that tells nothing. */
static int shuffled(const uint32_t *copies, uint32_t n_plain, uint32_t n, uint64_t seed, uint32_t **truth,
                    struct st_err *e)
{
    struct st_rng rng;
    uint32_t at = 0;
    if (st_alloc(truth, n, sizeof **truth, "homophones", e))
        return e->code;
    for (uint32_t p = 0; p < n_plain; p++)
        for (uint32_t k = 0; k <= copies[p]; k++)
            (*truth)[at++] = p;
    st_rng_seed(&rng, seed);
    for (uint32_t i = n; i > 1; i--) {
        uint32_t j = (uint32_t)(st_rng_next(&rng) % i), x = (*truth)[i - 1];
        (*truth)[i - 1] = (*truth)[j];
        (*truth)[j] = x;
    }
    return 0;
}

int st_trial_spread(const struct st_audit *a, uint32_t n_copy, struct st_trial *out, struct st_err *e)
{
    uint32_t n_plain = a->target->base->config.n_vocab, more = 0, *truth = NULL;
    *out = (struct st_trial){.prior = a->target->prior};
    int rc = st_alloc(&out->copies, n_plain, sizeof *out->copies, "homophones", e);
    if (!rc)
        rc = list_copies(a->target->base, n_copy, out->copies, &more, e);
    if (!rc)
        rc = shuffled(out->copies, n_plain, n_plain + more, a->seed, &truth, e);
    if (!rc)
        rc = st_heard_new(&a->target->text, truth, n_plain + more, n_plain, SIZE_MAX, a->seed, &out->heard, e);
    free(truth);
    if (rc)
        st_trial_close(out);
    return rc;
}

size_t st_spreads(const struct st_audit *a, uint32_t n_copy[ST_SPREADS])
{
    static const uint32_t some[ST_SPREADS] = {4, 16, 1, 2, 64};
    size_t n = a->target->pair.homophones ? 0 : a->thorough ? ST_SPREADS : 2;
    for (size_t i = 0; i < n; i++)
        n_copy[i] = some[i];
    return n;
}

/* ---- scores ---- */

void st_heard_read(const struct st_heard *h, const uint32_t *guess, uint32_t *got)
{
    for (size_t i = 0, n = st_texts_len(&h->sent); i < n; i++)
        got[i] = guess[h->sent.ids[i]];
}

static int add(struct st_row *row, const char *variant, const char *what, const char *metric, struct st_rows *rows,
               struct st_err *e)
{
    row->metric = metric;
    snprintf(row->variant, sizeof row->variant, "%s: %s", variant, what);
    return st_rows_add(rows, row, e);
}

/* Tokens that were sent as one id are right or wrong together. */
static int score_text(const struct st_heard *h, const uint32_t *got, struct st_row *row, struct st_err *e)
{
    size_t n = st_texts_len(&h->text);
    uint64_t hits = 0;
    struct st_score_weights plain, sent;
    if (st_score_weigh(h->text.ids, n, h->n_plain, NULL, &plain, e) ||
        st_score_weigh(h->sent.ids, n, h->n_id, NULL, &sent, e))
        return e->code;
    for (size_t i = 0; i < n; i++)
        hits += got[i] == h->text.ids[i];
    st_row_share_of(row, hits, n, sent.independent);
    row->chance = plain.commonest;
    return 0;
}

int st_heard_report(const struct st_heard *h, const char *variant, const uint32_t *guess, struct st_rows *rows,
                    struct st_err *e)
{
    struct st_row row = {.chance = 1.0 / h->n_plain, .unprotected = 1, .in_clear = true, .cost = NAN};
    uint32_t *got;
    int rc = st_alloc(&got, st_texts_len(&h->text) + 1, sizeof *got, "scores", e);
    if (rc)
        return rc;
    st_heard_read(h, guess, got);
    st_score_types(&row, guess, h->truth, h->n_id, h->n_plain, NULL);
    rc = add(&row, variant, "types", "share of the token types that were heard recovered", rows, e);
    if (!rc)
        rc = score_text(h, got, &row, e);
    if (!rc)
        rc = add(&row, variant, "text", "share of the tokens of the text recovered", rows, e);
    if (!rc && h->text.n_item) {
        st_score_position_items(&row, got, &h->text);
        row.chance = 0;
        rc = add(&row, variant, "items", "share of personal items recovered whole", rows, e);
    }
    free(got);
    return rc;
}

int st_heard_point(const struct st_heard *h, const char *variant, const char *x_name, double x, const uint32_t *guess,
                   struct st_rows *rows, struct st_err *e)
{
    struct st_row row = {.metric = "share of the tokens of the text recovered",
                         .unprotected = 1,
                         .in_clear = true,
                         .sweep = true,
                         .x_name = x_name,
                         .x = x,
                         .cost = NAN};
    uint32_t *got;
    int rc = st_alloc(&got, st_texts_len(&h->text) + 1, sizeof *got, "scores", e);
    if (rc)
        return rc;
    st_heard_read(h, guess, got);
    rc = score_text(h, got, &row, e);
    snprintf(row.variant, sizeof row.variant, "%s", variant);
    if (!rc)
        rc = st_rows_add(rows, &row, e);
    free(got);
    return rc;
}
