/* Traffic analysis of masked outsourcing. Masks hide what rows hold, not how many there are and when they come: a
 * worker counts a prompt's rows and a reply's steps, and knows which of several known prompts was asked when their
 * lengths differ. No scheme changes that (docs/masked.md, Limits).
 *
 * A recording has no times; a worker that keeps them also tells requests of one token apart (st_steps_split()).
 *
 * Source: counting; the same channel in encrypted streams of tokens: arXiv 2403.09751. */
#include "audit/atk_record_traffic.h"
#include "audit/seen.h"
#include "base/buf.h"
#include "engine/record.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROUND 32  /* rows of an exchange are cut at multiples of it */
#define PAUSE 5.0 /* times the median between two single rows */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Median time between a single row and the one before it; NAN without times, or without memory for them. */
static double usual_step(const struct st_step_seen *steps, size_t n)
{
    struct st_err e;
    double *gaps, median = NAN;
    size_t n_gap = 0;
    if (st_alloc(&gaps, n ? n : 1, sizeof *gaps, "times", &e))
        return NAN;
    for (size_t i = 1; i < n; i++)
        if (steps[i].n_row == 1 && isfinite(steps[i].time) && isfinite(steps[i - 1].time))
            gaps[n_gap++] = steps[i].time - steps[i - 1].time;
    if (n_gap) {
        qsort(gaps, n_gap, sizeof *gaps, by_value);
        median = gaps[n_gap / 2];
    }
    free(gaps);
    return median;
}

size_t st_steps_split(const struct st_step_seen *steps, size_t n, uint32_t piece, struct st_request_seen *out)
{
    size_t n_out = 0;
    double usual = usual_step(steps, n);
    for (size_t i = 0; i < n; i++) {
        /* One single row behind a full piece is the prompt's last; of several the first is taken for the reply's. */
        bool alone = i + 1 == n || steps[i + 1].n_row > 1;
        bool more = i && piece && steps[i - 1].n_row == piece && (steps[i].n_row > 1 || alone);
        bool pause = i && steps[i].n_row == 1 && steps[i].time - steps[i - 1].time > PAUSE * usual;
        if (n_out == 0 || (steps[i].n_row > 1 && !more) || pause)
            out[n_out++] = (struct st_request_seen){.prompt = steps[i].n_row, .start = steps[i].time};
        else if (more)
            out[n_out - 1].prompt += steps[i].n_row;
        else
            out[n_out - 1].reply++;
    }
    return n_out;
}

/* ---- on a recording ---- */

/* Exchanges are cut at a round number of rows: the most that is seen, when it is one. */
static uint32_t piece_of(const struct st_step_seen *steps, size_t n)
{
    uint32_t most = 0;
    for (size_t i = 0; i < n; i++)
        most = steps[i].n_row > most ? steps[i].n_row : most;
    return most % ROUND ? 0 : most;
}

struct steps {
    struct st_buf buf; /* of struct st_step_seen */
    int layer;         /* of the first exchange */
    char roles[ST_RECORD_ROLES];
    bool any;
};

static void take_entry(struct steps *s, const struct st_record_entry *entry)
{
    if (entry->kind != ST_RECORD_OUT || entry->id >= ST_SEEN_ASKED || entry->layer < 0)
        return;
    if (!s->any) {
        s->any = true;
        s->layer = entry->layer;
        memcpy(s->roles, entry->roles, sizeof s->roles);
    }
    if (entry->layer != s->layer || strcmp(entry->roles, s->roles) != 0)
        return;
    struct st_step_seen step = {.n_row = entry->n_row, .time = NAN};
    st_buf_add(&s->buf, &step, sizeof step);
}

static int read_steps(const char *path, struct steps *s, struct st_err *e)
{
    struct st_record *record;
    struct st_record_entry entry;
    int rc;
    if (st_record_open(path, &record, e))
        return e->code;
    while ((rc = st_record_next(record, &entry, e)) == 0 && entry.kind != ST_RECORD_END)
        take_entry(s, &entry);
    st_record_close(record);
    if (!rc && s->buf.failed)
        rc = st_fail(e, ST_MEMORY, "recording %s: no memory for its steps", path);
    if (!rc && !s->any)
        rc = st_fail(e, ST_INPUT, "recording %s: no rows of a layer", path);
    return rc;
}

/* What guessing the commonest length gets. */
static double commonest(const size_t *lengths, size_t n)
{
    size_t most = 0;
    for (size_t i = 0; i < n; i++) {
        size_t as_long = 0;
        for (size_t j = 0; j < n; j++)
            as_long += lengths[j] == lengths[i];
        most = as_long > most ? as_long : most;
    }
    return (double)most / (double)n;
}

static int add_rows(const struct st_audit *a, const struct st_request_seen *seen, size_t n_seen, size_t *lengths,
                    double *tells, struct st_rows *rows, struct st_err *e)
{
    const struct st_texts_ids *text = &a->target->text;
    uint64_t hits = 0;
    for (size_t i = 0; i < text->n; i++)
        lengths[i] = text->ends[i] - (i ? text->ends[i - 1] : 0);
    for (size_t i = 0; i < text->n; i++)
        hits += i < n_seen && seen[i].prompt == lengths[i];
    struct st_row row = {.metric = "share of prompts whose length is told exactly", .unprotected = 1};
    snprintf(row.variant, sizeof row.variant, "prompt length");
    snprintf(row.note, sizeof row.note, "%zu requests counted, %zu were made. Masks do not hide numbers of rows.",
             n_seen, text->n);
    st_row_share(&row, hits, text->n);
    row.chance = commonest(lengths, text->n);
    if (st_rows_add(rows, &row, e))
        return e->code;
    struct st_row which = {.metric = "chance to name the prompt, of those known, by its length", .unprotected = 1};
    for (size_t i = 0; i < text->n; i++) {
        size_t as_long = 0;
        for (size_t j = 0; j < text->n; j++)
            as_long += i < n_seen && lengths[j] == seen[i].prompt;
        tells[i] = i < n_seen && seen[i].prompt == lengths[i] ? 1 / (double)as_long : 0;
    }
    st_row_mean(&which, tells, text->n, a->seed);
    snprintf(which.variant, sizeof which.variant, "which of %zu prompts", text->n);
    which.chance = 1 / (double)text->n;
    return st_rows_add(rows, &which, e);
}

static int run(const struct st_audit *a, struct st_rows *rows, struct st_err *e)
{
    struct steps s = {0};
    struct st_request_seen *seen = NULL;
    size_t *lengths = NULL, n = a->target->text.n;
    double *tells = NULL;
    if (!a->target->recording || n == 0)
        return st_fail(e, ST_UNSUPPORTED, "needs a recording and the text that was asked");
    int rc = read_steps(a->target->recording, &s, e);
    size_t n_step = s.buf.len / sizeof(struct st_step_seen);
    if (!rc)
        rc = st_alloc(&seen, n_step, sizeof *seen, "requests", e);
    if (!rc)
        rc = st_alloc(&lengths, n, sizeof *lengths, "requests", e);
    if (!rc)
        rc = st_alloc(&tells, n, sizeof *tells, "requests", e);
    if (!rc) {
        const struct st_step_seen *steps = (const void *)s.buf.p;
        rc = add_rows(a, seen, st_steps_split(steps, n_step, piece_of(steps, n_step), seen), lengths, tells, rows, e);
    }
    st_buf_free(&s.buf);
    free(seen);
    free(lengths);
    free(tells);
    return rc;
}

const struct st_attack st_atk_record_traffic = {.name = "row-counts",
                                                .traffic = true,
                                                .title = "Numbers of rows and exchanges",
                                                .metric = "share of prompts whose length is told exactly",
                                                .source = "counting; compare arXiv 2403.09751",
                                                .adversary = ST_ADVERSARY_WORKER,
                                                .needs = ST_TARGET_RECORD,
                                                .run = run};
