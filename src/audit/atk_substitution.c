/* Deciphering of a substitution (A10, SDA): ids are read with a language model of public text (audit/decipher.h), by
 * how near that text is, by how much was heard, and by how many homophones frequent tokens have. The published attack
 * trains a transformer on recurrence encodings; this one needs a minute at most and fits itself to the text that was
 * heard, as a patient observer would.
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
#define TYPES 640           /* frequent ids that are looked at */
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

static int decipher(const struct st_trial *t, struct turn *turn, uint32_t **guess, struct st_err *e)
{
    const struct st_audit *a = turn->a;
    const struct st_heard *h = &t->heard;
    struct st_decipher d = {.sent = &h->sent,
                            .prior = &t->prior,
                            .n_id = h->n_id,
                            .n_plain = h->n_plain,
                            .n_type = a->thorough ? TYPES_THOROUGH : TYPES,
                            .copies = t->copies,
                            .cancel = a->cancel,
                            .progress = progress,
                            .arg = turn};
    while (d.n_type > 64 && st_decipher_bytes(&d) > a->memory)
        d.n_type /= 2;
    int rc = st_alloc(guess, h->n_id, sizeof **guess, "deciphering", e);
    if (!rc)
        rc = st_decipher(a->pool, &d, *guess, e);
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
    struct st_row row = {
        .metric = "BLEU-4 of the recovered text", .unprotected = 1, .in_clear = true, .cost = NAN, .n = n};
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

/* ---- one run of it ---- */

static int run_prior(struct turn *turn, enum st_prior p, struct st_rows *rows, struct st_err *e)
{
    const char *name = st_prior_name(p);
    char variant[64];
    struct st_trial t;
    uint32_t *guess = NULL;
    int rc = st_trial_open(turn->a, p, SIZE_MAX, &t, e);
    if (!rc)
        rc = decipher(&t, turn, &guess, e);
    if (!rc)
        rc = st_heard_report(&t.heard, name, guess, rows, e);
    if (!rc)
        rc = report_bleu(&t.heard, name, guess, rows, e);
    if (!rc && p == ST_PRIOR_OWN) {
        size_t n = st_texts_len(&t.heard.text);
        snprintf(variant, sizeof variant, "%s, %zu tokens", name, n);
        rc = st_heard_point(&t.heard, variant, "tokens heard", (double)n, guess, rows, e);
        if (!rc && !t.copies)
            rc = st_heard_point(&t.heard, ST_HOMOPHONES " 0", ST_HOMOPHONES, 0, guess, rows, e);
    }
    free(guess);
    st_trial_close(&t);
    return rc;
}

static int run_amount(struct turn *turn, size_t amount, struct st_rows *rows, struct st_err *e)
{
    char variant[64];
    struct st_trial t;
    uint32_t *guess = NULL;
    int rc = st_trial_open(turn->a, ST_PRIOR_OWN, amount, &t, e);
    if (!rc)
        rc = decipher(&t, turn, &guess, e);
    snprintf(variant, sizeof variant, "%s, %zu tokens", st_prior_name(ST_PRIOR_OWN), amount);
    if (!rc)
        rc = st_heard_point(&t.heard, variant, "tokens heard", (double)amount, guess, rows, e);
    free(guess);
    st_trial_close(&t);
    return rc;
}

static int run_spread(struct turn *turn, uint32_t n_copy, struct st_rows *rows, struct st_err *e)
{
    char variant[32];
    struct st_trial t;
    uint32_t *guess = NULL;
    int rc = st_trial_spread(turn->a, n_copy, &t, e);
    if (!rc)
        rc = decipher(&t, turn, &guess, e);
    snprintf(variant, sizeof variant, ST_HOMOPHONES " %u", n_copy);
    if (!rc)
        rc = st_heard_point(&t.heard, variant, ST_HOMOPHONES, n_copy, guess, rows, e);
    free(guess);
    st_trial_close(&t);
    return rc;
}

/* Amounts well below the whole text: n of them. */
static const size_t amounts[] = {1000, 10000, 100000, 1000000};
#define N_AMOUNT (sizeof amounts / sizeof *amounts)

static size_t n_amount(const struct st_audit *a)
{
    size_t n = 0;
    while (n < N_AMOUNT && amounts[n] < st_texts_len(&a->target->text) / 2)
        n++;
    return n;
}

static int run(const struct st_audit *a, struct st_rows *rows, struct st_err *e)
{
    uint32_t n_copy[ST_SPREADS];
    size_t n = n_amount(a), n_spread = st_spreads(a, n_copy);
    struct turn turn = {.a = a, .n = ST_PRIOR_COUNT + n + n_spread};
    int rc = st_heard_check(a, e);
    for (size_t i = 0; !rc && i < n; i++)
        rc = run_amount(&turn, amounts[i], rows, e);
    for (int p = 0; !rc && p < ST_PRIOR_COUNT; p++)
        if (p != ST_PRIOR_SAME || a->target->text.n > 1)
            rc = run_prior(&turn, (enum st_prior)p, rows, e);
    for (size_t i = 0; !rc && i < n_spread; i++)
        rc = run_spread(&turn, n_copy[i], rows, e);
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
