/* Matching by direction (ArrowMatch): schemes that give an accelerator permuted and scaled private weights fall to
 * whoever has the public base, since a fine-tune hardly turns a vector. Of a sealed file the accelerator has ciphertext
 * instead: its bytes are taken for values and matched all the same. The unprotected score is that of the source's rows
 * in a secret order, scaled, after a fine-tune (noise of a tenth of their deviation).
 *
 * Only matrices inside are tried: the others are in the open. The first layers, every layer with `thorough`.
 * Source: "Game of Arrows", USENIX Security 2025. */
#include "audit/attack.h"
#include "audit/directions.h"
#include "audit/sealed_view.h"
#include "audit/views.h"
#include "base/buf.h"

#include <stdio.h>
#include <stdlib.h>

#define TUNED 0.1
#define LAYERS 2
#define ROWS 16384 /* of one matrix: those of an embedding are more than it takes to tell */

struct tried {
    uint64_t hits, bare_hits, n, n_matrix;
    double chance; /* summed over rows */
};

static int match_one(const struct st_audit *a, const struct st_dense *base, const struct st_dense *seen,
                     struct tried *t, struct st_err *e)
{
    struct st_dense bare = {0};
    uint32_t *guess = NULL, *order = NULL;
    size_t n = base->n_row;
    int rc = st_alloc(&guess, n, sizeof *guess, "directions", e);
    if (!rc)
        rc = st_alloc(&order, n, sizeof *order, "directions", e);
    if (!rc)
        rc = st_directions_match(a->pool, seen, base, guess, e);
    for (size_t i = 0; !rc && i < n; i++)
        t->hits += guess[i] == i;
    if (!rc)
        rc = st_directions_shuffle(base, TUNED, a->seed + t->n_matrix, &bare, order, e);
    if (!rc)
        rc = st_directions_match(a->pool, &bare, base, guess, e);
    for (size_t i = 0; !rc && i < n; i++)
        t->bare_hits += guess[i] == order[i];
    t->n += n;
    t->n_matrix++;
    t->chance += 1;
    st_dense_free(&bare);
    free(guess);
    free(order);
    return rc;
}

/* Whether it is one to look at, and its entry. */
static int wanted(const struct st_audit *a, int i, const struct st_container_entry **n, struct st_err *e)
{
    const struct st_plan_weight *w = &a->target->base->plan.weights[i];
    if (st_sealed_entry(a->target, w, n, e))
        return e->code;
    bool fits = *n && (*n)->place == ST_CONTAINER_INSIDE && w->n_in > 1 && w->n_out > 1 && w->n_out <= ROWS &&
                (a->thorough || w->layer < LAYERS) && 8 * (uint64_t)w->n_out * w->n_in * sizeof(float) <= a->memory;
    *n = fits ? *n : NULL;
    return 0;
}

static int try_one(const struct st_audit *a, int i, struct tried *t, struct st_err *e)
{
    const struct st_container_entry *n;
    struct st_dense base, seen;
    if (wanted(a, i, &n, e) || !n || st_view_weight(a->target->base, i, &base, e))
        return e->code;
    int rc = st_dense_new(&seen, base.n_row, base.n_col, "values of a sealed file", e);
    if (!rc) {
        rc = st_sealed_values(a->target->container, n, base.n_row * base.n_col, seen.p, e);
        if (!rc)
            rc = match_one(a, &base, &seen, t, e);
        st_dense_free(&seen);
    }
    st_dense_free(&base);
    return rc;
}

static int run(const struct st_audit *a, struct st_rows *rows, struct st_err *e)
{
    struct tried t = {0};
    struct st_row row = {.variant = "inside"};
    int rc = 0;
    e->code = 0;
    if (!a->target->container || !a->target->base)
        return st_fail(e, ST_UNSUPPORTED, "needs a sealed model and its source");
    int n = a->target->base->plan.n_weight;
    for (int i = 0; !rc && i < n; i++) {
        rc = a->cancel && *a->cancel ? st_fail(e, ST_IO, "cancelled") : try_one(a, i, &t, e);
        if (a->progress)
            a->progress(a->arg, st_atk_directions.name, (double)i / n);
    }
    if (rc)
        return rc;
    if (!t.n)
        return st_fail(e, ST_UNSUPPORTED, "no matrix lies inside, or none that fits the memory given");
    st_row_share(&row, t.hits, t.n);
    row.chance = t.chance / (double)t.n;
    row.unprotected = (double)t.bare_hits / (double)t.n;
    snprintf(row.note, sizeof row.note,
             "%llu matrices. Unprotected: the same vectors in a secret order, scaled, after a fine-tune.",
             (unsigned long long)t.n_matrix);
    return st_rows_add(rows, &row, e);
}

const struct st_attack st_atk_directions = {.name = "directions",
                                            .title = "Matching vectors of weights by direction",
                                            .metric = "share of the vectors of weights matched with the base's",
                                            .source = "Game of Arrows, USENIX Security 2025",
                                            .adversary = ST_ADVERSARY_DEVICE,
                                            .needs = ST_TARGET_SEALED,
                                            .run = run};
