/* Nearest neighbour (A6): the row of the public embedding that an obfuscated row is most like.
 *   as it is   by cosine, of the first values that both have: the naive form. An embedding that was turned, or is
 *              wider than the public one, looks like nothing; a low score here proves nothing
 *   gram       by the sorted inner products with all other rows of its own matrix, which no rotation of the embedding
 *              changes: the adaptive form
 * Sources: arXiv 2603.01499, section 6 (naive form); gram ours. */
#include "audit/match.h"
#include "audit/sorted.h"
#include "base/buf.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Rows cut to d values, each of length 1. */
static int directions(const struct st_dense *rows, size_t d, struct st_dense *out, struct st_err *e)
{
    if (st_dense_new(out, rows->n_row, d, "nearest neighbour", e))
        return e->code;
    for (size_t r = 0; r < rows->n_row; r++) {
        const float *x = st_dense_row(rows, r);
        double square = 0;
        for (size_t k = 0; k < d; k++)
            square += (double)x[k] * x[k];
        double by = square > 0 ? 1 / sqrt(square) : 0;
        for (size_t k = 0; k < d; k++)
            st_dense_row(out, r)[k] = (float)(by * x[k]);
    }
    return 0;
}

static int as_it_is(const struct st_audit *a, const struct st_dense e_rows[2], uint32_t *guess, struct st_err *e)
{
    struct st_dense x = {0}, y = {0};
    size_t d = e_rows[0].n_col < e_rows[1].n_col ? e_rows[0].n_col : e_rows[1].n_col;
    e->code = 0;
    if (directions(&e_rows[1], d, &x, e) || directions(&e_rows[0], d, &y, e) ||
        st_match_points(a->pool, &x, &y, false, guess, e))
        goto out;
out:
    st_dense_free(&x);
    st_dense_free(&y);
    return e->code;
}

static int gram(const struct st_audit *a, const struct st_dense e_rows[2], uint32_t *guess, struct st_err *e)
{
    struct st_dense points[2] = {0};
    e->code = 0;
    for (int i = 0; i < 2; i++) {
        if (st_sorted_rows(a->pool, &e_rows[i], &e_rows[i], false, &points[i], e))
            goto out;
        double spread = st_sorted_spread(&points[i]);
        for (size_t k = 0; k < points[i].n_row * points[i].n_col; k++)
            points[i].p[k] = (float)(points[i].p[k] / (spread + 1e-30));
    }
    if (points[0].n_col != points[1].n_col) {
        st_fail(e, ST_UNSUPPORTED, "nearest neighbour: vocabularies of %zu and %zu ids give no rows to compare",
                e_rows[0].n_row, e_rows[1].n_row);
        goto out;
    }
    if (st_match_points(a->pool, &points[1], &points[0], true, guess, e))
        goto out;
out:
    st_dense_free(&points[0]);
    st_dense_free(&points[1]);
    return e->code;
}

/* Rows of both as f32, and their directions or sorted products. */
static uint64_t takes(const struct st_audit *a)
{
    uint64_t values = 0;
    const struct st_model *both[] = {a->target->pair.base, a->target->pair.seen};
    for (int i = 0; i < 2; i++)
        values += both[i]->config.n_vocab * (2 * (uint64_t)both[i]->config.d_model + ST_SORTED_PLACES);
    return sizeof(float) * values;
}

static int run(const struct st_audit *a, struct st_rows *rows, struct st_err *e)
{
    const struct st_pair *p = &a->target->pair;
    struct st_dense e_rows[2] = {0};
    uint32_t *guess = NULL;
    e->code = 0;
    if (st_match_check(a, e) || st_match_fits(a, takes(a), e) || st_view_rows(p->base, ST_ROLE_EMBED, &e_rows[0], e) ||
        st_view_rows(p->seen, ST_ROLE_EMBED, &e_rows[1], e) ||
        st_alloc(&guess, e_rows[1].n_row, sizeof *guess, "nearest neighbour", e))
        goto out;
    if (as_it_is(a, e_rows, guess, e) ||
        st_match_report(a, "as it is", guess, "the naive form: a low score proves nothing", rows, e) ||
        gram(a, e_rows, guess, e) || st_match_report(a, "gram", guess, NULL, rows, e))
        goto out;
out:
    free(guess);
    st_dense_free(&e_rows[0]);
    st_dense_free(&e_rows[1]);
    return e->code;
}

const struct st_attack st_atk_nearest = {
    .name = "nearest",
    .title = "Nearest neighbour in the embedding",
    .metric = "share of token types and of the text recovered",
    .source = "arXiv 2603.01499, section 6; gram ours",
    .adversary = ST_ADVERSARY_SERVER,
    .needs = ST_TARGET_PAIR,
    .run = run,
};
