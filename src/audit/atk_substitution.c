/* Deciphering of a substitution (A10, SDA): ids are read with a language model of public text (audit/decipher.h), by
 * how near that text is, and by how much was heard. The published attack trains a transformer on recurrence encodings;
 * this one needs a minute at most and fits itself to the text that was heard, as a patient observer would.
 *
 * Sources: arXiv 2603.01499, section 6 (SDA); Aldarrab and May, EMNLP 2021; what we do instead: audit/decipher.h. */
#include "audit/decipher.h"
#include "audit/heard.h"
#include "audit/metrics.h"
#include "base/buf.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define NAME "substitution"
#define TYPES 768           /* frequent ids that are looked at */
#define TYPES_THOROUGH 4096 /* with --thorough */
#define PARTS 20            /* of the text, for the interval of BLEU-4 */

struct turn { /* which part of the work runs */
    const struct st_audit *a;
    size_t at, n;
};

static void progress(void *arg, double part)
{
    const struct turn *t = arg;
    if (t->a->progress)
        t->a->progress(t->a->arg, NAME, ((double)t->at + part) / (double)t->n);
}

/* How many tokens have homophones: what the vocabulary has grown by, over the copies of each. */
static uint32_t n_frequent(const struct st_audit *a, const struct st_heard *h)
{
    uint32_t n_copy = a->target->pair.homophones;
    return n_copy && h->n_id > h->n_plain ? (h->n_id - h->n_plain) / n_copy : 0;
}

static int decipher(const struct st_audit *a, const struct st_heard *h, const struct st_texts_ids *prior,
                    struct turn *turn, uint32_t *guess, struct st_err *e)
{
    struct st_decipher d = {.sent = &h->sent,
                            .prior = prior,
                            .n_id = h->n_id,
                            .n_plain = h->n_plain,
                            .n_type = a->thorough ? TYPES_THOROUGH : TYPES,
                            .n_frequent = n_frequent(a, h),
                            .n_copy = a->target->pair.homophones,
                            .cancel = a->cancel,
                            .progress = progress,
                            .arg = turn};
    while (d.n_type > 64 && st_decipher_bytes(d.n_type) > a->memory)
        d.n_type /= 2;
    int rc = st_decipher(a->pool, &d, guess, e);
    turn->at++;
    return rc;
}

/* ---- BLEU-4 ---- */

struct kept {
    uint32_t *ids;
    size_t *ends;
};

/* The documents of a text but for those of one part in PARTS. */
static struct st_texts_ids without(const struct st_texts_ids *t, size_t part, const struct kept *to)
{
    size_t at = 0, n = 0;
    for (size_t d = 0; d < t->n; d++) {
        if (d % PARTS == part)
            continue;
        for (size_t k = d ? t->ends[d - 1] : 0; k < t->ends[d]; k++)
            to->ids[at++] = t->ids[k];
        to->ends[n++] = at;
    }
    return (struct st_texts_ids){.ids = to->ids, .ends = to->ends, .n = n};
}

static void bleu_interval(const struct st_texts_ids *got, const struct st_texts_ids *want, const struct kept to[2],
                          struct st_row *row)
{
    double sum = 0, squares = 0;
    row->low = 0;
    row->high = 1;
    if (want->n < PARTS)
        return;
    for (size_t k = 0; k < PARTS; k++) {
        struct st_texts_ids a = without(got, k, &to[0]), b = without(want, k, &to[1]);
        double left = st_score_bleu4(&a, &b);
        sum += left;
        squares += left * left;
    }
    double mean = sum / PARTS, half = 1.96 * sqrt(fmax(0, squares - PARTS * mean * mean) * (PARTS - 1) / PARTS);
    row->low = fmax(0, row->score - half);
    row->high = fmin(1, row->score + half);
}

/* Corpus BLEU-4; its interval by leaving out one part of the documents after the other (jackknife). */
static int report_bleu(const struct st_heard *h, const char *name, const uint32_t *guess, struct st_rows *rows,
                       struct st_err *e)
{
    size_t n = st_texts_len(&h->text), n_doc = h->text.n;
    struct st_row row = {.metric = "BLEU-4 of the recovered text", .unprotected = 1, .cost = NAN, .n = n};
    struct st_texts_ids got = {.ends = h->text.ends, .n = n_doc};
    uint32_t *ids = NULL;
    size_t *ends = NULL;
    int rc = st_alloc(&ids, 3 * n + 1, sizeof *ids, "scores", e);
    if (!rc)
        rc = st_alloc(&ends, 2 * n_doc + 1, sizeof *ends, "scores", e);
    if (!rc) {
        const struct kept to[2] = {{ids + n, ends}, {ids + 2 * n, ends + n_doc}};
        st_heard_read(h, guess, ids);
        got.ids = ids;
        row.score = st_score_bleu4(&got, &h->text);
        bleu_interval(&got, &h->text, to, &row);
        snprintf(row.variant, sizeof row.variant, "%s: BLEU-4", name);
        rc = st_rows_add(rows, &row, e);
    }
    free(ids);
    free(ends);
    return rc;
}

/* ---- by the amount heard ---- */

static const size_t amounts[] = {1000, 10000, 100000, 1000000};
#define N_AMOUNT (sizeof amounts / sizeof *amounts)

static size_t n_amount(const struct st_audit *a)
{
    size_t n = 0;
    while (n < N_AMOUNT && amounts[n] < st_texts_len(&a->target->text))
        n++;
    return n;
}

static int add_point(const struct st_heard *h, const uint32_t *guess, struct st_rows *rows, struct st_err *e)
{
    size_t n = st_texts_len(&h->text);
    struct st_row row = {.metric = "share of the tokens of the text recovered",
                         .chance = 1.0 / h->n_plain,
                         .unprotected = 1,
                         .sweep = true,
                         .x_name = "tokens heard",
                         .x = (double)n,
                         .cost = NAN};
    uint32_t *got;
    int rc = st_alloc(&got, n + 1, sizeof *got, "scores", e);
    if (rc)
        return rc;
    st_heard_read(h, guess, got);
    st_score_positions(&row, got, &h->text);
    snprintf(row.variant, sizeof row.variant, "%s, %zu tokens", st_prior_name(ST_PRIOR_OWN), n);
    rc = st_rows_add(rows, &row, e);
    free(got);
    return rc;
}

static int run_amounts(const struct st_audit *a, struct turn *turn, uint32_t *guess, struct st_rows *rows,
                       struct st_err *e)
{
    int rc = 0;
    for (size_t i = 0; !rc && i < n_amount(a); i++) {
        struct st_heard h;
        rc = st_heard_open(a, amounts[i], &h, e);
        if (!rc)
            rc = decipher(a, &h, &a->target->prior, turn, guess, e);
        if (!rc)
            rc = add_point(&h, guess, rows, e);
        st_heard_free(&h);
    }
    return rc;
}

static int run_prior(const struct st_audit *a, const struct st_heard *h, enum st_prior p, struct turn *turn,
                     uint32_t *guess, struct st_rows *rows, struct st_err *e)
{
    struct st_text_made made;
    struct st_texts_ids prior;
    int rc = st_prior_open(a, p, &made, &prior, e);
    if (!rc)
        rc = decipher(a, h, &prior, turn, guess, e);
    if (!rc)
        rc = st_heard_report(h, st_prior_name(p), guess, rows, e);
    if (!rc)
        rc = report_bleu(h, st_prior_name(p), guess, rows, e);
    if (!rc && p == ST_PRIOR_OWN)
        rc = add_point(h, guess, rows, e);
    st_text_free(&made);
    return rc;
}

static int run(const struct st_audit *a, struct st_rows *rows, struct st_err *e)
{
    struct st_heard h = {0};
    uint32_t *guess = NULL;
    struct turn turn = {.a = a};
    int rc = st_heard_check(a, e);
    if (!rc)
        rc = st_heard_open(a, SIZE_MAX, &h, e);
    if (!rc)
        rc = st_alloc(&guess, h.n_id, sizeof *guess, "deciphering", e);
    turn.n = ST_PRIOR_COUNT + n_amount(a);
    if (!rc)
        rc = run_amounts(a, &turn, guess, rows, e);
    for (int p = 0; !rc && p < ST_PRIOR_COUNT; p++)
        rc = run_prior(a, &h, (enum st_prior)p, &turn, guess, rows, e);
    free(guess);
    st_heard_free(&h);
    return rc;
}

const struct st_attack st_atk_substitution = {
    .name = NAME,
    .title = "Deciphering with a language model",
    .metric = "share of token types and of the text recovered; BLEU-4",
    .source = "arXiv 2603.01499, section 6 (SDA); Knight et al., ACL 2006",
    .adversary = ST_ADVERSARY_OBSERVER,
    .needs = ST_TARGET_PAIR,
    .run = run,
};
