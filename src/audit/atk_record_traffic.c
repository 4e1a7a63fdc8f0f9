/* Traffic analysis of masked outsourcing. Masks hide what rows hold, not how many there are and when they come: a
 * worker counts a prompt's rows and a reply's steps, and knows which of several known prompts was asked when their
 * lengths differ. No scheme changes that (docs/masked.md, Limits). Times would tell some of it if numbers of rows were
 * hidden: how well the time of a step goes with its rows, and that of a token with how much stands before it, which no
 * number shows when a conversation goes on with its cache.
 *
 * Source: counting; the same channel in encrypted streams of tokens: arXiv 2403.09751. */
#include "audit/atk_record_traffic.h"
#include "audit/seen.h"
#include "base/buf.h"
#include "engine/record.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROUND 32        /* rows of an exchange are cut at multiples of it */
#define PAUSE 5.0       /* times the median between two single rows */
#define PAUSE_LEAST 1.0 /* seconds */
#define LEAST_POINTS 8  /* for a line */

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
    double least = fmax(PAUSE_LEAST, PAUSE * usual_step(steps, n));
    for (size_t i = 0; i < n; i++) {
        /* One single row behind a full piece is the prompt's last; of several the first is taken for the reply's. */
        bool alone = i + 1 == n || steps[i + 1].n_row > 1;
        bool more = i && piece && steps[i - 1].n_row == piece && (steps[i].n_row > 1 || alone);
        bool pause = i && steps[i].n_row == 1 && steps[i].time - steps[i - 1].time - steps[i - 1].busy > least;
        if (n_out == 0 || (steps[i].n_row > 1 && !more) || pause)
            out[n_out++] = (struct st_request_seen){.prompt = steps[i].n_row, .start = steps[i].time};
        else if (more)
            out[n_out - 1].prompt += steps[i].n_row;
        else
            out[n_out - 1].reply++;
    }
    return n_out;
}

double st_explained(const double *x, const double *y, size_t n, double *low, double *high)
{
    double mx = 0, my = 0, xx = 0, yy = 0, xy = 0;
    for (size_t i = 0; i < n; i++) {
        mx += x[i] / (double)n;
        my += y[i] / (double)n;
    }
    for (size_t i = 0; i < n; i++) {
        xx += (x[i] - mx) * (x[i] - mx);
        yy += (y[i] - my) * (y[i] - my);
        xy += (x[i] - mx) * (y[i] - my);
    }
    double r = xx > 0 && yy > 0 ? fabs(xy) / sqrt(xx * yy) : 0;
    double z = atanh(fmin(r, 1 - 1e-12)), half = n > 3 ? 1.96 / sqrt((double)n - 3) : INFINITY;
    *low = pow(tanh(fmax(0, z - half)), 2);
    *high = pow(tanh(z + half), 2);
    return r * r;
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

/* Of a text exchange: begins a step, or goes on with the last. */
static void take_entry(struct steps *s, const struct st_record_entry *entry)
{
    double now = (double)entry->time_ns * 1e-9;
    size_t n = s->buf.failed ? 0 : s->buf.len / sizeof(struct st_step_seen);
    if (entry->id >= ST_SEEN_ASKED || entry->kind == ST_RECORD_FULL || st_record_is_pair(entry))
        return;
    if (entry->kind == ST_RECORD_OUT && entry->layer >= 0 && !s->any) {
        s->any = true;
        s->layer = entry->layer;
        memcpy(s->roles, entry->roles, sizeof s->roles);
    }
    if (s->any && entry->kind == ST_RECORD_OUT && entry->layer == s->layer && !strcmp(entry->roles, s->roles)) {
        struct st_step_seen step = {.n_row = entry->n_row, .time = now};
        st_buf_add(&s->buf, &step, sizeof step);
    } else if (n && entry->kind == ST_RECORD_IN) {
        struct st_step_seen *last = (struct st_step_seen *)(void *)s->buf.p + n - 1;
        last->busy = now - last->time;
    }
}

static int read_steps(const struct st_audit *a, struct steps *s, struct st_err *e)
{
    const char *path = a->target->recording;
    struct st_record *record;
    struct st_record_entry entry;
    int rc;
    if (st_record_open(path, &record, e))
        return e->code;
    while ((rc = st_record_next(record, &entry, e)) == 0 && entry.kind != ST_RECORD_END) {
        take_entry(s, &entry);
        if (a->cancel && *a->cancel) {
            rc = st_fail(e, ST_IO, "cancelled");
            break;
        }
    }
    st_record_close(record);
    if (!rc && s->buf.failed)
        rc = st_fail(e, ST_MEMORY, "recording %s: no memory for its steps", path);
    if (!rc && !s->any)
        rc = st_fail(e, ST_INPUT, "recording %s: no rows of a layer", path);
    return rc;
}

static int by_length(const void *a, const void *b)
{
    size_t x = *(const size_t *)a, y = *(const size_t *)b;
    return (x > y) - (x < y);
}

/* Where `length` would stand in n ascending ones, before all that are the same. */
static size_t place_of(const size_t *ascending, size_t n, size_t length)
{
    size_t lo = 0;
    while (n) {
        size_t half = n / 2;
        if (ascending[lo + half] < length) {
            lo += half + 1;
            n -= half + 1;
        } else {
            n = half;
        }
    }
    return lo;
}

/* What was asked, and what of it was seen. */
struct view {
    const struct st_audit *a;
    const struct st_step_seen *steps;
    size_t n_step;
    struct st_request_seen *seen; /* [n_step], n_seen of them */
    size_t n_seen;
    size_t *prompts, *replies; /* [n] of the text's documents, then of what was asked behind them; true ones */
    size_t n_text, n;
    size_t *ascending; /* [n] scratch */
    double *x, *y;     /* [n_step + n] scratch */
};

/* What guessing the commonest of these lengths gets. */
static double commonest(const struct view *v, const size_t *lengths, size_t n)
{
    size_t most = 0;
    memcpy(v->ascending, lengths, n * sizeof *lengths);
    qsort(v->ascending, n, sizeof *v->ascending, by_length);
    for (size_t i = 0, next; i < n; i = next) {
        next = i + place_of(v->ascending + i, n - i, v->ascending[i] + 1);
        most = next - i > most ? next - i : most;
    }
    return (double)most / (double)n;
}

static int report_lengths(const struct view *v, bool replies, struct st_rows *rows, struct st_err *e)
{
    const size_t *want = replies ? v->replies + v->n_text : v->prompts;
    size_t from = replies ? v->n_text : 0, n = v->n - from;
    uint64_t hits = 0;
    struct st_row row = {.unprotected = 1, .in_clear = true, .cost = NAN};
    if (n == 0)
        return 0;
    for (size_t i = 0; i < n && from + i < v->n_seen; i++)
        hits += (replies ? v->seen[from + i].reply + 1 : v->seen[i].prompt) == want[i];
    row.metric =
        replies ? "share of replies whose length is told exactly" : "share of prompts whose length is told exactly";
    snprintf(row.variant, sizeof row.variant, "%s", replies ? "reply length" : "prompt length");
    snprintf(row.note, sizeof row.note, "%zu requests counted, %zu were made. Masks do not hide numbers of rows.",
             v->n_seen, v->n);
    st_row_share(&row, hits, n);
    row.chance = commonest(v, want, n);
    return st_rows_add(rows, &row, e);
}

static int report_which(const struct view *v, struct st_rows *rows, struct st_err *e)
{
    struct st_row row = {.metric = "chance to name the prompt, of those known, by its length",
                         .unprotected = 1,
                         .in_clear = true,
                         .cost = NAN};
    memcpy(v->ascending, v->prompts, v->n_text * sizeof *v->prompts);
    qsort(v->ascending, v->n_text, sizeof *v->ascending, by_length);
    for (size_t i = 0; i < v->n_text; i++) {
        size_t as_long =
            place_of(v->ascending, v->n_text, v->prompts[i] + 1) - place_of(v->ascending, v->n_text, v->prompts[i]);
        v->x[i] = i < v->n_seen && v->seen[i].prompt == v->prompts[i] ? 1 / (double)as_long : 0;
    }
    st_row_mean(&row, v->x, v->n_text, v->a->seed);
    snprintf(row.variant, sizeof row.variant, "which of %zu prompts", v->n_text);
    row.chance = 1 / (double)v->n_text;
    return st_rows_add(rows, &row, e);
}

/* Times of steps against their rows; or of single rows against the rows of the request so far. */
static int report_times(const struct view *v, bool tokens, struct st_rows *rows, struct st_err *e)
{
    struct st_row row = {.metric = "share of the variance that times explain (r^2)", .unprotected = NAN, .cost = NAN};
    size_t n = 0, before = 0;
    for (size_t i = 0; i < v->n_step; i++) {
        const struct st_step_seen *s = &v->steps[i];
        if (s->n_row > 1 && !tokens) {
            v->x[n] = s->n_row;
            v->y[n++] = s->busy;
        }
        if (s->n_row == 1 && tokens) {
            v->x[n] = (double)before;
            v->y[n++] = s->busy;
        }
        before = s->n_row > 1 ? s->n_row : before + 1;
    }
    if (n < LEAST_POINTS)
        return 0;
    row.score = st_explained(v->x, v->y, n, &row.low, &row.high);
    row.chance = 1 / (double)(n - 1);
    row.n = n;
    snprintf(row.variant, sizeof row.variant, "%s",
             tokens ? "what stands before a token, by its time" : "rows of a prompt, by their time");
    snprintf(row.note, sizeof row.note, "What times would tell if numbers of rows were hidden; of this machine.");
    return st_rows_add(rows, &row, e);
}

static void true_lengths(struct view *v)
{
    const struct st_target *t = v->a->target;
    for (size_t i = 0; i < v->n; i++) {
        bool text = i < v->n_text;
        v->prompts[i] = text ? t->text.ends[i] - (i ? t->text.ends[i - 1] : 0) : t->asked[i - v->n_text].prompt;
        v->replies[i] = text ? 0 : t->asked[i - v->n_text].reply;
    }
}

static int look(struct view *v, struct st_rows *rows, struct st_err *e)
{
    int rc = st_alloc(&v->seen, v->n_step, sizeof *v->seen, "requests", e);
    if (!rc)
        rc = st_alloc(&v->prompts, 3 * v->n, sizeof *v->prompts, "requests", e);
    if (!rc)
        rc = st_alloc(&v->x, 2 * (v->n_step + v->n), sizeof *v->x, "times", e);
    if (rc)
        return rc;
    v->replies = v->prompts + v->n;
    v->ascending = v->replies + v->n;
    v->y = v->x + v->n_step + v->n;
    v->n_seen = st_steps_split(v->steps, v->n_step, piece_of(v->steps, v->n_step), v->seen);
    true_lengths(v);
    rc = report_lengths(v, false, rows, e);
    if (!rc)
        rc = report_which(v, rows, e);
    if (!rc)
        rc = report_lengths(v, true, rows, e);
    if (!rc)
        rc = report_times(v, false, rows, e);
    return rc ? rc : report_times(v, true, rows, e);
}

static int run(const struct st_audit *a, struct st_rows *rows, struct st_err *e)
{
    const struct st_target *t = a->target;
    struct steps s = {0};
    if (!t->recording || t->text.n == 0)
        return st_fail(e, ST_UNSUPPORTED, "needs a recording and the text that was asked");
    int rc = read_steps(a, &s, e);
    struct view v = {.a = a,
                     .steps = (const void *)s.buf.p,
                     .n_step = s.buf.len / sizeof(struct st_step_seen),
                     .n_text = t->text.n,
                     .n = t->text.n + t->n_asked};
    if (!rc)
        rc = look(&v, rows, e);
    st_buf_free(&s.buf);
    free(v.seen);
    free(v.prompts);
    free(v.x);
    return rc;
}

const struct st_attack st_atk_record_traffic = {.name = "row-counts",
                                                .traffic = true,
                                                .title = "Numbers and times of exchanges",
                                                .metric = "share of prompts and replies whose length is told exactly",
                                                .source = "counting; compare arXiv 2403.09751",
                                                .adversary = ST_ADVERSARY_WORKER,
                                                .needs = ST_TARGET_RECORD,
                                                .run = run};
