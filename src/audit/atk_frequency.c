/* Token frequency matching (A9, TFMA): the ids of a text by how often they occur, beside the ids of public text by how
 * often they do; the ids at the same rank are taken for the same. Top 10 and top 100: the truth is among the ids
 * nearest in rank. Depends on neither noise nor keys; only homophones, padding and new keys act on it. That a token has
 * homophones is public: then it stands in the order as often as it has ids.
 *
 * Source: arXiv 2603.01499, section 6. That top k means nearness in rank is our reading. */
#include "audit/atk_frequency.h"
#include "audit/heard.h"
#include "audit/metrics.h"
#include "base/buf.h"

#include <stdio.h>
#include <stdlib.h>

struct expected {
    double count;
    uint32_t place, id; /* place in the prior's ranking */
};

static int by_expected(const void *a, const void *b)
{
    const struct expected *x = a, *y = b;
    if (x->count != y->count)
        return x->count < y->count ? 1 : -1;
    return (x->place > y->place) - (x->place < y->place);
}

int st_frequency_order(const struct st_ranking *prior, const uint32_t *copies, uint32_t **order, uint32_t *n,
                       struct st_err *e)
{
    struct expected *all = NULL;
    uint32_t at = 0;
    *n = prior->n;
    for (uint32_t p = 0; copies && p < prior->n; p++)
        *n += copies[p];
    int rc = st_alloc(order, *n, sizeof **order, "frequency matching", e);
    if (!rc)
        rc = st_alloc(&all, *n, sizeof *all, "frequency matching", e);
    for (uint32_t r = 0; !rc && r < prior->n; r++) {
        uint32_t id = prior->id[r], n_id = 1 + (copies ? copies[id] : 0);
        for (uint32_t k = 0; k < n_id; k++)
            all[at++] = (struct expected){(double)prior->count[id] / n_id, r, id};
    }
    if (!rc)
        qsort(all, *n, sizeof *all, by_expected);
    for (uint32_t i = 0; !rc && i < *n; i++)
        (*order)[i] = all[i].id;
    free(all);
    return rc;
}

void st_frequency_match(const struct st_ranking *sent, const uint32_t *order, uint32_t n, uint32_t k, uint32_t *out)
{
    for (uint32_t r = 0; r < sent->n_used; r++) {
        uint32_t *at = out + (size_t)r * k;
        st_ranking_near(r, n, k, at);
        for (uint32_t j = 0; j < k; j++)
            at[j] = order[at[j]];
    }
}

/* ---- rows ---- */

struct match {
    const struct st_heard *heard;
    struct st_ranking sent, prior;
    uint32_t *order, n_order;
    uint32_t *guess; /* [n_id] the plain id at the same place */
};

static void match_free(struct match *m)
{
    st_ranking_free(&m->sent);
    st_ranking_free(&m->prior);
    free(m->order);
    free(m->guess);
}

static int match_new(const struct st_trial *t, struct match *m, struct st_err *e)
{
    const struct st_heard *h = &t->heard;
    *m = (struct match){.heard = h};
    int rc = st_ranking_new(&h->sent, h->n_id, &m->sent, e);
    if (!rc)
        rc = st_ranking_new(&t->prior, h->n_plain, &m->prior, e);
    if (!rc)
        rc = st_frequency_order(&m->prior, t->copies, &m->order, &m->n_order, e);
    if (!rc)
        rc = st_alloc(&m->guess, h->n_id, sizeof *m->guess, "frequency matching", e);
    for (uint32_t i = 0; !rc && i < h->n_id; i++) {
        uint32_t place = m->sent.place[i];
        m->guess[i] = m->sent.count[i] && place < m->n_order ? m->order[place] : h->n_plain;
    }
    if (rc)
        match_free(m);
    return rc;
}

static int report_top(const struct match *m, const char *name, uint32_t k, struct st_rows *rows, struct st_err *e)
{
    struct st_row row = {.metric = "truth among so many guesses, share of the token types that were heard",
                         .unprotected = 1,
                         .in_clear = true,
                         .cost = NAN};
    const struct st_heard *h = m->heard;
    uint32_t *guess = NULL, *truth = NULL;
    if (k > m->n_order)
        return 0;
    int rc = st_alloc(&guess, (size_t)m->sent.n_used * k, sizeof *guess, "frequency matching", e);
    if (!rc)
        rc = st_alloc(&truth, m->sent.n_used, sizeof *truth, "frequency matching", e);
    if (!rc) {
        st_frequency_match(&m->sent, m->order, m->n_order, k, guess);
        for (uint32_t r = 0; r < m->sent.n_used; r++)
            truth[r] = h->truth[m->sent.id[r]];
        st_score_top_k(&row, guess, k, truth, m->sent.n_used, h->n_plain, NULL);
        row.chance = (double)k / h->n_plain;
        snprintf(row.variant, sizeof row.variant, "%s: top %u", name, k);
        rc = st_rows_add(rows, &row, e);
    }
    free(guess);
    free(truth);
    return rc;
}

static int run_prior(const struct st_audit *a, enum st_prior p, struct st_rows *rows, struct st_err *e)
{
    const char *name = st_prior_name(p);
    struct st_trial t;
    struct match m;
    if (st_trial_open(a, p, SIZE_MAX, &t, e))
        return e->code;
    int rc = match_new(&t, &m, e);
    if (!rc) {
        rc = st_heard_report(&t.heard, name, m.guess, rows, e);
        if (!rc)
            rc = report_top(&m, name, 10, rows, e);
        if (!rc)
            rc = report_top(&m, name, 100, rows, e);
        if (!rc && p == ST_PRIOR_OWN && !t.copies)
            rc = st_heard_point(&t.heard, ST_HOMOPHONES " 0", ST_HOMOPHONES, 0, m.guess, rows, e);
        match_free(&m);
    }
    st_trial_close(&t);
    return rc;
}

static int run_spread(const struct st_audit *a, uint32_t n_copy, struct st_rows *rows, struct st_err *e)
{
    char variant[32];
    struct st_trial t;
    struct match m;
    if (st_trial_spread(a, n_copy, &t, e))
        return e->code;
    int rc = match_new(&t, &m, e);
    if (!rc) {
        snprintf(variant, sizeof variant, ST_HOMOPHONES " %u", n_copy);
        rc = st_heard_point(&t.heard, variant, ST_HOMOPHONES, n_copy, m.guess, rows, e);
        match_free(&m);
    }
    st_trial_close(&t);
    return rc;
}

static int run(const struct st_audit *a, struct st_rows *rows, struct st_err *e)
{
    uint32_t n_copy[ST_SPREADS];
    int rc = st_heard_check(a, e);
    for (int p = 0; !rc && p < ST_PRIOR_COUNT; p++)
        if (p != ST_PRIOR_SAME || a->target->text.n > 1)
            rc = run_prior(a, (enum st_prior)p, rows, e);
    size_t n = st_spreads(a, n_copy);
    for (size_t i = 0; !rc && i < n; i++)
        rc = run_spread(a, n_copy[i], rows, e);
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
