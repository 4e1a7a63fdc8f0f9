/* Token frequency matching (A9, TFMA): the ids of a text by how often they occur, beside the ids of public text by how
 * often they do; the ids at the same rank are taken for the same. Top 10 and top 100: the truth is among the ids
 * nearest in rank. Depends on neither noise nor keys; only homophones, padding and new keys act on it.
 *
 * Source: arXiv 2603.01499, section 6. That top k means nearness in rank is our reading. */
#include "audit/atk_frequency.h"
#include "audit/heard.h"
#include "audit/metrics.h"
#include "base/buf.h"

#include <stdio.h>
#include <stdlib.h>

void st_frequency_match(const struct st_ranking *sent, const struct st_ranking *prior, uint32_t k, uint32_t *out)
{
    for (uint32_t r = 0; r < sent->n_used; r++) {
        uint32_t *at = out + (size_t)r * k;
        st_ranking_near(r, prior->n, k, at);
        for (uint32_t j = 0; j < k; j++)
            at[j] = prior->id[at[j]];
    }
}

static int report_top(const struct st_heard *h, const struct st_ranking *sent, const struct st_ranking *prior,
                      const char *name, uint32_t k, struct st_rows *rows, struct st_err *e)
{
    struct st_row row = {.metric = "truth among so many guesses, share of the token types that were heard",
                         .unprotected = 1,
                         .cost = NAN};
    uint32_t *guess = NULL, *truth = NULL;
    if (k > prior->n)
        return 0;
    int rc = st_alloc(&guess, (size_t)sent->n_used * k, sizeof *guess, "frequency matching", e);
    if (!rc)
        rc = st_alloc(&truth, sent->n_used, sizeof *truth, "frequency matching", e);
    if (!rc) {
        st_frequency_match(sent, prior, k, guess);
        for (uint32_t r = 0; r < sent->n_used; r++)
            truth[r] = h->truth[sent->id[r]];
        st_score_top_k(&row, guess, k, truth, sent->n_used, h->n_plain, NULL);
        row.chance = (double)k / h->n_plain;
        snprintf(row.variant, sizeof row.variant, "%s: top %u", name, k);
        rc = st_rows_add(rows, &row, e);
    }
    free(guess);
    free(truth);
    return rc;
}

static int report(const struct st_heard *h, const struct st_ranking *sent, const struct st_ranking *prior,
                  const char *name, struct st_rows *rows, struct st_err *e)
{
    uint32_t *guess;
    int rc = st_alloc(&guess, h->n_id, sizeof *guess, "frequency matching", e);
    if (rc)
        return rc;
    for (uint32_t i = 0; i < h->n_id; i++) {
        uint32_t place = sent->place[i];
        guess[i] = sent->count[i] && place < prior->n ? prior->id[place] : h->n_plain;
    }
    rc = st_heard_report(h, name, guess, rows, e);
    free(guess);
    if (!rc)
        rc = report_top(h, sent, prior, name, 10, rows, e);
    return rc ? rc : report_top(h, sent, prior, name, 100, rows, e);
}

static int run(const struct st_audit *a, struct st_rows *rows, struct st_err *e)
{
    struct st_heard h = {0};
    struct st_ranking sent = {0};
    int rc = st_heard_check(a, e);
    if (!rc)
        rc = st_heard_open(a, SIZE_MAX, &h, e);
    if (!rc)
        rc = st_ranking_new(&h.sent, h.n_id, &sent, e);
    for (int p = 0; !rc && p < ST_PRIOR_COUNT; p++) {
        struct st_text_made made;
        struct st_texts_ids text;
        struct st_ranking prior = {0};
        rc = st_prior_open(a, (enum st_prior)p, &made, &text, e);
        if (!rc)
            rc = st_ranking_new(&text, h.n_plain, &prior, e);
        if (!rc)
            rc = report(&h, &sent, &prior, st_prior_name((enum st_prior)p), rows, e);
        st_ranking_free(&prior);
        st_text_free(&made);
    }
    st_ranking_free(&sent);
    st_heard_free(&h);
    return rc;
}

const struct st_attack st_atk_frequency = {
    .name = "frequency",
    .title = "Token frequencies",
    .metric = "share of token types and of the text recovered",
    .source = "arXiv 2603.01499, section 6 (TFMA)",
    .adversary = ST_ADVERSARY_OBSERVER,
    .needs = ST_TARGET_PAIR,
    .run = run,
};
