#include "audit/known.h"
#include "audit/metrics.h"
#include "base/buf.h"
#include "base/hooks.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct rank {
    uint32_t id;
    uint64_t key; /* larger first */
};

static int by_key(const void *a, const void *b)
{
    const struct rank *x = a, *y = b;
    return x->key < y->key ? 1 : x->key > y->key ? -1 : x->id < y->id ? -1 : x->id > y->id;
}

/* Plain ids, those that he is given first. */
static int rank_ids(const struct st_audit *a, bool common, struct rank *out, uint32_t n, struct st_err *e)
{
    const struct st_texts_ids *prior = &a->target->prior;
    struct st_rng rng;
    if (common && !st_texts_len(prior))
        return st_fail(e, ST_UNSUPPORTED, "the adversary has no prior text, whose commonest ids would be known");
    st_rng_seed(&rng, a->seed ^ 0x6b6e6f776eU);
    for (uint32_t i = 0; i < n; i++)
        out[i] = (struct rank){i, common ? 0 : st_rng_next(&rng)};
    for (size_t i = 0; common && i < st_texts_len(prior); i++)
        if (prior->ids[i] < n)
            out[prior->ids[i]].key++;
    qsort(out, n, sizeof *out, by_key);
    return 0;
}

int st_known_pick(const struct st_audit *a, size_t n, bool common, struct st_known *out, struct st_err *e)
{
    const struct st_pair *p = &a->target->pair;
    uint32_t n_plain = p->base->config.n_vocab, n_seen = p->seen->config.n_vocab;
    struct rank *ranks = NULL;
    uint32_t *first = NULL;
    e->code = 0;
    *out = (struct st_known){0};
    n = n < n_plain ? n : n_plain;
    if (st_alloc(&ranks, n_plain, sizeof *ranks, "pairs", e) || st_alloc(&first, n_plain, sizeof *first, "pairs", e) ||
        st_alloc(&out->seen, n, sizeof *out->seen, "pairs", e) ||
        st_alloc(&out->base, n, sizeof *out->base, "pairs", e) || rank_ids(a, common, ranks, n_plain, e))
        goto out;
    for (uint32_t i = 0; i < n_plain; i++)
        first[i] = n_seen;
    for (uint32_t i = n_seen; i-- > 0;)
        if (p->truth[i] < n_plain)
            first[p->truth[i]] = i;
    for (uint32_t i = 0; i < n_plain && out->n < n; i++)
        if (first[ranks[i].id] < n_seen) {
            out->seen[out->n] = first[ranks[i].id];
            out->base[out->n++] = ranks[i].id;
        }
out:
    free(ranks);
    free(first);
    if (e->code)
        st_known_free(out);
    return e->code;
}

void st_known_free(struct st_known *k)
{
    free(k->seen);
    free(k->base);
    *k = (struct st_known){0};
}

static int add(struct st_row *row, const char *variant, const char *what, const char *metric, struct st_rows *rows,
               struct st_err *e)
{
    row->metric = metric;
    snprintf(row->variant, sizeof row->variant, "%s: %s", variant, what);
    return st_rows_add(rows, row, e);
}

int st_known_report(const struct st_audit *a, const char *variant, const uint32_t *guess, const struct st_known *k,
                    const char *note, struct st_rows *rows, struct st_err *e)
{
    const struct st_pair *p = &a->target->pair;
    const struct st_texts_ids *text = &a->target->text;
    uint32_t n_plain = p->base->config.n_vocab, n_seen = p->seen->config.n_vocab;
    bool *used = NULL, *right = NULL;
    struct st_row row = {.unprotected = 1, .in_clear = true, .cost = NAN};
    struct st_score_weights w;
    e->code = 0;
    snprintf(row.note, sizeof row.note, "%s", note ? note : "");
    if (st_alloc(&used, n_plain, sizeof *used, "scores", e) || st_alloc(&right, n_plain, sizeof *right, "scores", e))
        goto out;
    st_score_used(text, used, n_plain);
    for (size_t i = 0; i < k->n; i++)
        used[k->base[i]] = false;
    st_score_right(guess, p->truth, n_seen, n_plain, right, n_plain);
    if (st_score_weigh(text->ids, st_texts_len(text), n_plain, used, &w, e))
        goto out;
    if (!w.n) {
        st_fail(e, ST_UNSUPPORTED, "the text has no ids but the %zu that the adversary was given", k->n);
        goto out;
    }
    row.chance = 1.0 / (double)(n_plain - k->n);
    st_score_types(&row, guess, p->truth, n_seen, n_plain, used);
    if (add(&row, variant, "types", "share of the token types of the text recovered that were not given", rows, e))
        goto out;
    if (!st_score_table_text(&row, right, text, used, n_plain, e))
        add(&row, variant, "text", "share of the tokens of the text recovered that were not given", rows, e);
out:
    free(used);
    free(right);
    return e->code;
}
