#include "audit/heard.h"

#include "audit/general.h"
#include "audit/metrics.h"
#include "base/hooks.h"

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

int st_heard_open(const struct st_audit *a, size_t max_token, struct st_heard *out, struct st_err *e)
{
    const struct st_pair *p = &a->target->pair;
    return st_heard_new(&a->target->text, p->truth, p->seen->config.n_vocab, p->base->config.n_vocab, max_token,
                        a->seed, out, e);
}

int st_heard_check(const struct st_audit *a, struct st_err *e)
{
    const struct st_target *t = a->target;
    if (t->x_name && t->x > 0 && !t->pair.homophones)
        return st_fail(e, ST_UNSUPPORTED, "ids are the same at every %s: see the row at 0", t->x_name);
    if (!t->prior.n || !t->text.n)
        return st_fail(e, ST_UNSUPPORTED, "needs a text that was sent, and one that the observer has read (--prior)");
    return 0;
}

const char *st_prior_name(enum st_prior p)
{
    return p == ST_PRIOR_GENERAL ? "general text" : "prior";
}

int st_prior_open(const struct st_audit *a, enum st_prior p, struct st_text_made *made, struct st_texts_ids *out,
                  struct st_err *e)
{
    const struct st_target *t = a->target;
    *made = (struct st_text_made){.cap_end = 0};
    if (p == ST_PRIOR_OWN) {
        *out = t->prior;
        return 0;
    }
    int rc = st_text_parse(st_general_text, strlen(st_general_text), "general text", t->base, t->tokenizer,
                           t->base->config.n_ctx, made, e);
    *out = made->view;
    return rc;
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

int st_heard_report(const struct st_heard *h, const char *variant, const uint32_t *guess, struct st_rows *rows,
                    struct st_err *e)
{
    struct st_row row = {.chance = 1.0 / h->n_plain, .unprotected = 1, .cost = NAN};
    uint32_t *got;
    int rc = st_alloc(&got, st_texts_len(&h->text) + 1, sizeof *got, "scores", e);
    if (rc)
        return rc;
    st_heard_read(h, guess, got);
    st_score_types(&row, guess, h->truth, h->n_id, h->n_plain, NULL);
    rc = add(&row, variant, "types", "share of the token types that were heard recovered", rows, e);
    if (!rc) {
        st_score_positions(&row, got, &h->text);
        rc = add(&row, variant, "text", "share of the tokens of the text recovered", rows, e);
    }
    if (!rc && h->text.n_item) {
        st_score_position_items(&row, got, &h->text);
        row.chance = 0;
        rc = add(&row, variant, "items", "share of personal items recovered whole", rows, e);
    }
    free(got);
    return rc;
}
