/* The file of a sealed model, read by who owns disk and accelerator: a worker is given no more than what lies outside
 * in the same file. Every tensor's bytes are taken for values and compared with the source, vector by vector (a row of
 * a matrix, or a whole norm or bias).
 *
 *   all weights   what the policy leaves outside is in the open, by design: the score is its share
 *   inside        must be nothing
 *
 * Source: ours. */
#include "audit/atk_weights.h"
#include "audit/attack.h"
#include "audit/sealed_view.h"
#include "audit/views.h"
#include "base/buf.h"
#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>

void st_weights_count(const float *got, const float *want, size_t n_row, size_t n_col, uint64_t *hits, uint64_t *n)
{
    for (size_t r = 0; r < n_row; r++) {
        double error = 0, square = 0;
        for (size_t k = 0; k < n_col; k++) {
            double w = want[r * n_col + k], off = got[r * n_col + k] - w;
            error += off * off;
            square += w * w;
        }
        if (square > 0) {
            ++*n;
            *hits += error <= ST_WEIGHTS_ERROR * ST_WEIGHTS_ERROR * square;
        }
    }
}

struct counts {
    uint64_t hits, n, n_weight;
};

static int look_at(const struct st_audit *a, int i, float *values, struct counts places[2], struct st_err *e)
{
    const struct st_target *t = a->target;
    const struct st_plan_weight *w = &t->base->plan.weights[i];
    const struct st_container_entry *n;
    size_t n_row = w->n_in == 1 ? 1 : w->n_out, n_col = w->n_in == 1 ? w->n_out : w->n_in;
    struct st_dense want;
    if (st_sealed_entry(t, w, &n, e) || !n || st_view_weight(t->base, i, &want, e))
        return e->code;
    int rc = st_sealed_values(t->container, n, n_row * n_col, values, e);
    struct counts *c = &places[n->place == ST_CONTAINER_INSIDE];
    if (!rc) {
        st_weights_count(values, want.p, n_row, n_col, &c->hits, &c->n);
        c->n_weight++;
    }
    st_dense_free(&want);
    return rc;
}

static size_t most_values(const struct st_plan *p)
{
    size_t most = 1;
    for (int i = 0; i < p->n_weight; i++) {
        size_t n = (size_t)p->weights[i].n_out * p->weights[i].n_in;
        most = n > most ? n : most;
    }
    return most;
}

static int add(const struct counts places[2], struct st_rows *rows, struct st_err *e)
{
    const struct counts *out = &places[0], *in = &places[1];
    struct st_row row = {.chance = 0, .unprotected = 1, .in_clear = true};
    st_row_share(&row, out->hits + in->hits, out->n + in->n);
    snprintf(row.variant, sizeof row.variant, "all weights");
    snprintf(row.note, sizeof row.note, "The policy leaves %llu of %llu tensors outside, in the open.",
             (unsigned long long)out->n_weight, (unsigned long long)(out->n_weight + in->n_weight));
    if (st_rows_add(rows, &row, e) || !in->n)
        return e->code;
    st_row_share(&row, in->hits, in->n);
    snprintf(row.variant, sizeof row.variant, "inside");
    snprintf(row.note, sizeof row.note, "Ciphertext read as values, beside the source.");
    return st_rows_add(rows, &row, e);
}

static int run(const struct st_audit *a, struct st_rows *rows, struct st_err *e)
{
    const struct st_target *t = a->target;
    struct counts places[2] = {{0}};
    struct st_area values;
    e->code = 0;
    if (!t->container || !t->base)
        return st_fail(e, ST_UNSUPPORTED, "needs a sealed model and its source");
    size_t most = most_values(&t->base->plan);
    if (most > a->memory / sizeof(float))
        return st_fail(e, ST_MEMORY, "one tensor takes more than the memory that the audit has");
    if (st_area_new(&values, most, sizeof(float), "values of a sealed file", e))
        return e->code;
    int rc = 0, n = t->base->plan.n_weight;
    for (int i = 0; !rc && i < n; i++) {
        rc = a->cancel && *a->cancel ? st_fail(e, ST_IO, "cancelled") : look_at(a, i, values.p, places, e);
        if (a->progress)
            a->progress(a->arg, st_atk_weights.name, (double)i / n);
    }
    if (!rc)
        rc = add(places, rows, e);
    st_area_free(&values);
    return rc;
}

const struct st_attack st_atk_weights = {.name = "sealed-weights",
                                         .title = "Weights read in the sealed file",
                                         .metric = "share of the vectors of weights recovered",
                                         .source = "ours",
                                         .adversary = ST_ADVERSARY_DEVICE,
                                         .needs = ST_TARGET_SEALED,
                                         .run = run};
