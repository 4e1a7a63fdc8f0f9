/* Vocabulary matching by sorted rows, with layer voting (A1). Needs the base and the obfuscated weights, no more.
 *   one layer        nearest row by the sorted products with the first layer's gates
 *   vote of layers   the plain id that most layers' gates say; of several the one nearest over all layers
 *   all together     gates, ups, downs and logits of all layers, each id used once; sorted values of both sides divided
 *                    by their own deviation, which takes out what noise adds to it: ours, and much stronger
 * Sources: Lin et al., EMNLP 2024, pp. 2100-2104; arXiv 2505.18332; arXiv 2603.01499, appendix F.1. */
#include "audit/match.h"
#include "audit/sorted.h"
#include "base/buf.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LOGITS_MAX 8192 /* ids up to which the n x n products of embedding and head are sorted as well */

/* Sorted rows of one layer of both sides, in one scale. */
static int sort_both(const struct st_audit *a, const struct st_view *base, const struct st_view *seen, uint32_t l,
                     struct st_dense both[2], struct st_err *e)
{
    both[0] = both[1] = (struct st_dense){0};
    if (base->columns[l].n_row != seen->columns[l].n_row)
        return st_fail(e, ST_INPUT, "layer %u of the base has %zu columns, of the obfuscated model %zu", l,
                       base->columns[l].n_row, seen->columns[l].n_row);
    if (st_sorted_rows(a->pool, &base->rows, &base->columns[l], base->scaled, &both[0], e) ||
        st_sorted_rows(a->pool, &seen->rows, &seen->columns[l], seen->scaled, &both[1], e)) {
        st_dense_free(&both[0]);
        return e->code;
    }
    double spread = st_sorted_spread(&both[0]);
    for (int i = 0; i < 2; i++)
        for (size_t k = 0; k < both[i].n_row * both[i].n_col; k++)
            both[i].p[k] = (float)(both[i].p[k] / (spread + 1e-30));
    return 0;
}

/* All points [n][k] of both sides, behind those that are there; grows. */
static int join(struct st_dense all[2], const struct st_dense more[2], struct st_err *e)
{
    for (int i = 0; i < 2; i++) {
        struct st_dense wide;
        size_t at = 0;
        if (st_dense_new(&wide, more[i].n_row, all[i].n_col + more[i].n_col, "sorted rows", e))
            return e->code;
        if (all[i].p)
            st_match_append(&wide, &at, &all[i], 1);
        st_match_append(&wide, &at, &more[i], 1);
        st_dense_free(&all[i]);
        all[i] = wide;
    }
    return 0;
}

/* by [n_col]: what a's values are multiplied by. */
static double distance(const struct st_dense *a, const float *by, size_t i, const struct st_dense *b, size_t j)
{
    double sum = 0;
    for (size_t k = 0; k < a->n_col; k++) {
        double x = (double)by[k] * st_dense_row(a, i)[k] - st_dense_row(b, j)[k];
        sum += x * x;
    }
    return sum;
}

/* said [n_layer][n]: what each layer says; out [n]. */
static void vote(const uint32_t *said, size_t n_layer, const struct st_dense all[2], const float *by, uint32_t *out)
{
    size_t n = all[1].n_row;
    for (size_t i = 0; i < n; i++) {
        size_t most = 0;
        double least = INFINITY;
        for (size_t l = 0; l < n_layer; l++) {
            size_t votes = 0;
            for (size_t k = 0; k < n_layer; k++)
                votes += said[k * n + i] == said[l * n + i];
            double far = votes < most ? INFINITY : distance(&all[1], by, i, &all[0], said[l * n + i]);
            if (votes > most || (votes == most && far < least)) {
                most = votes;
                least = far;
                out[i] = said[l * n + i];
            }
        }
    }
}

struct row_sort {
    const struct st_audit *a;
    struct st_rows *rows;
    struct st_dense all[2]; /* points of base and seen */
    uint32_t *said;         /* [n_layer][n_seen] by the gates */
    uint32_t *guess;        /* [n_seen] */
    size_t n_layer;
    double *widened; /* [n_layer] by how much noise widens what is seen of the gates */
    size_t *places;  /* [n_layer] values of theirs in a row */
};

static double length(const struct st_dense *x)
{
    double sum = 0;
    for (size_t i = 0; i < x->n_row * x->n_col; i++)
        sum += (double)x->p[i] * x->p[i];
    return sqrt(sum);
}

/* Both sides in one scale, for which the noise counts nothing. The published form leaves out that noise widens what is
 * seen: of the gates (says) s->widened gets by how much it does. */
static int normalise(struct row_sort *s, struct st_view view[2], bool says, struct st_err *e)
{
    const struct st_pair_noise *noise = &s->a->target->pair.noise;
    double sigma;
    if (says && (st_view_spread(s->a->pool, &view[0].rows, &sigma, e) ||
                 st_view_normalise(s->a->pool, &view[0], noise->embed * sigma, noise->all, e)))
        return e->code;
    for (uint32_t l = 0; says && l < view[0].n_layer; l++)
        s->widened[l] = 1 / (length(&view[0].columns[l]) + 1e-30);
    if (st_view_normalise(s->a->pool, &view[0], 0, 0, e) || st_view_normalise(s->a->pool, &view[1], 0, 0, e))
        return e->code;
    for (uint32_t l = 0; says && l < view[0].n_layer; l++)
        s->widened[l] *= length(&view[0].columns[l]);
    return 0;
}

/* What one layer says, in the published form. */
static int say(struct row_sort *s, uint32_t l, struct st_dense both[2], struct st_err *e)
{
    for (size_t k = 0; k < both[1].n_row * both[1].n_col; k++)
        both[1].p[k] = (float)(s->widened[l] * both[1].p[k]);
    s->places[l] = both[1].n_col;
    return st_match_points(s->a->pool, &both[1], &both[0], false, s->said + l * both[1].n_row, e);
}

/* says: each layer also says what it finds, in the published form. */
static int add_view(struct row_sort *s, struct st_view view[2], bool says, struct st_err *e)
{
    if (normalise(s, view, says, e))
        return e->code;
    for (uint32_t l = 0; l < view[0].n_layer && l < view[1].n_layer; l++) {
        struct st_dense both[2];
        if (s->a->cancel && *s->a->cancel)
            return st_fail(e, ST_IO, "cancelled");
        if (sort_both(s->a, &view[0], &view[1], l, both, e))
            return e->code;
        int rc = join(s->all, both, e);
        if (!rc && says)
            rc = say(s, l, both, e);
        st_dense_free(&both[0]);
        st_dense_free(&both[1]);
        if (rc)
            return rc;
    }
    return 0;
}

/* Points of three families, of both sides, and once more of one side while others join them; views of one family. */
static uint64_t takes(const struct st_audit *a, enum st_view_family f, uint32_t n)
{
    const struct st_pair *p = &a->target->pair;
    uint64_t points = 9 * sizeof(float) * ST_SORTED_PLACES * (uint64_t)p->seen->config.n_vocab;
    return n * points + st_view_size(p->base, f, n).bytes + st_view_size(p->seen, f, n).bytes;
}

static int add_family(struct row_sort *s, enum st_view_family f, bool says, struct st_err *e)
{
    struct st_view view[2] = {0};
    const struct st_pair *p = &s->a->target->pair;
    uint32_t n = p->base->config.n_layer;
    while (n > 1 && takes(s->a, f, n) > s->a->memory)
        n--;
    int rc = st_match_fits(s->a, takes(s->a, f, n), e);
    if (!rc)
        rc = st_view_of_model(p->base, f, n, &view[0], e);
    if (!rc)
        rc = st_view_of_model(p->seen, f, n, &view[1], e);
    if (!rc && view[0].n_layer != view[1].n_layer)
        rc = st_fail(e, ST_INPUT, "the base has %u such layers, the obfuscated model %u", view[0].n_layer,
                     view[1].n_layer);
    if (!rc && says) {
        s->n_layer = view[0].n_layer;
        rc = st_alloc(&s->said, s->n_layer * p->seen->config.n_vocab, sizeof *s->said, "row sort", e);
        if (!rc)
            rc = st_alloc(&s->widened, s->n_layer, sizeof *s->widened, "row sort", e);
        if (!rc)
            rc = st_alloc(&s->places, s->n_layer, sizeof *s->places, "row sort", e);
    }
    if (!rc)
        rc = add_view(s, view, says, e);
    st_view_free(&view[0]);
    st_view_free(&view[1]);
    return rc;
}

/* Products of embedding and head: n values a row. */
static int add_logits(struct row_sort *s, struct st_err *e)
{
    const struct st_model *m[2] = {s->a->target->pair.base, s->a->target->pair.seen};
    struct st_view view[2] = {0};
    struct st_dense heads[2] = {0};
    int rc = 0;
    if (m[0]->config.n_vocab > LOGITS_MAX || m[0]->config.n_vocab != m[1]->config.n_vocab)
        return 0;
    for (int i = 0; !rc && i < 2; i++) {
        struct st_dense h = {0};
        rc = st_view_rows(m[i], ST_ROLE_EMBED, &view[i].rows, e);
        if (!rc)
            rc = st_view_rows(m[i], ST_ROLE_HEAD, &h, e);
        if (!rc)
            rc = st_dense_new(&heads[i], h.n_row, h.n_col, "row sort", e);
        if (!rc)
            memcpy(heads[i].p, h.p, h.n_row * h.n_col * sizeof *h.p);
        st_dense_free(&h);
        view[i].columns = &heads[i];
        view[i].n_layer = 1;
    }
    if (!rc)
        rc = add_view(s, view, false, e);
    for (int i = 0; i < 2; i++) {
        st_dense_free(&view[i].rows);
        st_dense_free(&heads[i]);
    }
    return rc;
}

static int published(struct row_sort *s, struct st_err *e)
{
    const struct st_audit *a = s->a;
    float *by;
    if (add_family(s, ST_VIEW_GATE, true, e) || st_match_report(a, "one layer", s->said, NULL, s->rows, e) ||
        st_alloc(&by, s->all[1].n_col, sizeof *by, "row sort", e))
        return e->code;
    for (size_t l = 0, k = 0; l < s->n_layer; l++)
        for (size_t end = k + s->places[l]; k < end; k++)
            by[k] = (float)s->widened[l];
    vote(s->said, s->n_layer, s->all, by, s->guess);
    free(by);
    return st_match_report(a, "vote of layers", s->guess, NULL, s->rows, e);
}

static int run(const struct st_audit *a, struct st_rows *rows, struct st_err *e)
{
    struct row_sort s = {.a = a, .rows = rows};
    e->code = 0;
    if (st_match_check(a, e) ||
        st_alloc(&s.guess, a->target->pair.seen->config.n_vocab, sizeof *s.guess, "row sort", e))
        return e->code;
    if (published(&s, e) || add_family(&s, ST_VIEW_UP, false, e) || add_family(&s, ST_VIEW_DOWN, false, e) ||
        add_logits(&s, e) || st_match_points(a->pool, &s.all[1], &s.all[0], true, s.guess, e) ||
        st_match_report(a, "all together", s.guess, NULL, rows, e))
        goto out;
    e->code = 0;
out:
    st_dense_free(&s.all[0]);
    st_dense_free(&s.all[1]);
    free(s.said);
    free(s.widened);
    free(s.places);
    free(s.guess);
    return e->code;
}

const struct st_attack st_atk_row_sort = {
    .name = "vma-row-sort",
    .title = "Row sort with layer voting",
    .metric = "share of token types and of the text recovered",
    .source = "Lin et al., EMNLP 2024; arXiv 2505.18332; arXiv 2603.01499, app. F.1",
    .adversary = ST_ADVERSARY_SERVER,
    .needs = ST_TARGET_PAIR,
    .run = run,
};
