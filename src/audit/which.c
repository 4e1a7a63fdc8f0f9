#include "audit/which.h"
#include "audit/tell.h"

#include <stdio.h>
#include <stdlib.h>

/* Whole rounds of all prompts. */
static size_t known(const struct st_traffic_asked *t)
{
    return t->n_request / t->n_prompt / 2 * t->n_prompt;
}

/* values [n_request - known]. */
static int tell_all(const struct st_traffic_asked *t, const struct st_which *q, enum st_traffic_wire w, double *values,
                    struct st_err *e)
{
    const size_t n_figure = q->count(t, w), n_known = known(t);
    struct st_tell tell = {0};
    double *x = NULL;
    uint32_t *prompt = NULL;
    if (n_known == 0)
        return st_fail(e, ST_UNSUPPORTED, "needs each prompt asked twice");
    int rc = st_alloc(&x, t->n_request, n_figure * sizeof *x, "figures", e);
    if (!rc)
        rc = st_alloc(&prompt, t->n_request, sizeof *prompt, "figures", e);
    for (size_t i = 0; !rc && i < t->n_request; i++) {
        prompt[i] = t->wires[w][i].prompt;
        q->figures(t, w, i, x + i * n_figure);
    }
    if (!rc)
        rc = st_tell_learn(x, prompt, n_known, t->n_prompt, n_figure, &tell, e);
    for (size_t i = n_known; !rc && i < t->n_request; i++)
        values[i - n_known] = st_tell_right(&tell, x + i * n_figure, prompt[i]);
    st_tell_free(&tell);
    free(x);
    free(prompt);
    return rc;
}

/* Fills score, interval, chance and unprotected. */
static int fill_row(const struct st_traffic_asked *t, const struct st_which *q, uint64_t seed, struct st_row *row,
                    struct st_err *e)
{
    const size_t n = t->n_request - known(t);
    double *values = NULL;
    struct st_row open = {0};
    int rc = st_alloc(&values, n, sizeof *values, "figures", e);
    if (!rc)
        rc = tell_all(t, q, q->open, values, e);
    if (!rc) {
        st_row_mean(&open, values, n, seed);
        rc = tell_all(t, q, q->wire, values, e);
    }
    if (!rc) {
        st_row_mean(row, values, n, seed);
        row->unprotected = open.score;
        row->chance = 1 / (double)t->n_prompt;
        row->traffic = true;
    }
    free(values);
    return rc;
}

static int add_rows(const struct st_audit *a, const struct st_traffic_asked *t, bool ran,
                    const struct st_which *questions, size_t n, struct st_rows *rows, struct st_err *e)
{
    int rc = 0;
    for (size_t i = 0; !rc && i < n; i++) {
        const struct st_which *q = &questions[i];
        struct st_row row = {0};
        if (!t->wires[q->wire] || !t->wires[q->open] || !q->count(t, q->wire) || !q->count(t, q->open))
            continue; /* not recorded, or replies too short for the question */
        snprintf(row.variant, sizeof row.variant, "%s%s", ran ? "running: " : "", q->variant);
        snprintf(row.note, sizeof row.note, "%s %s", q->note,
                 ran ? "Recorded before relay and engine, every role a process of its own."
                     : "Sealed by the real code, in one process; the clock is simulated.");
        rc = a->cancel && *a->cancel ? st_fail(e, ST_IO, "cancelled") : fill_row(t, q, a->seed, &row, e);
        if (!rc)
            rc = st_rows_add(rows, &row, e);
    }
    return rc;
}

int st_which_rows(const struct st_audit *a, const struct st_which *questions, size_t n, struct st_rows *rows,
                  struct st_err *e)
{
    const struct st_traffic *t = a->target->traffic;
    if (!t)
        return st_fail(e, ST_UNSUPPORTED, "needs the traffic of a set-up");
    const size_t before = rows->n;
    int rc = add_rows(a, &t->made, false, questions, n, rows, e);
    if (!rc && t->ran.n_request)
        rc = add_rows(a, &t->ran, true, questions, n, rows, e);
    return rc || rows->n > before ? rc : st_fail(e, ST_UNSUPPORTED, "needs replies of some length");
}
