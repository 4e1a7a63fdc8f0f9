/* Functional fingerprint (A11). Runs both models on every single token and compares what they say and what their gates
 * do: no weight is read, and what survives in accuracy survives as a fingerprint.
 *   sorted     sorted log-probabilities of the next token, nearest row
 *   whitened   sorted log-probabilities and gates of all layers, each in the metric of the noise, which the adversary
 *              simulates on the base; each id used once
 *   two-sided  rows and columns of the log-probabilities carry the same permutation: from the last match on, unsorted,
 *              in turns until nothing moves
 * Limits: vocabularies of ST_MATCH_ASSIGN ids; of experts no gates; two-sided without homophones.
 * Source: ours (papers/attacks.md A11). */
#include "audit/behave.h"
#include "audit/fingerprint.h"
#include "audit/match.h"
#include "audit/sorted.h"
#include "audit/views.h"
#include "base/buf.h"

#include <cblas.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LEAST_NOISE 1e-3 /* simulated where the victim has none */
#define SHRINK .05       /* of the correlations, towards none */
#define ROUNDS 8
#define STRONG 512 /* columns and rows that the two-sided match looks at: of 2048, all did worse */

struct function {
    const struct st_audit *a;
    struct st_behaviour seen, base; /* base: without noise */
    struct st_behaviour sims[ST_MARK_SIMS];
    struct st_dense points[2]; /* of base and seen: squared distances add up */
    uint32_t *guess;
};

static int run_models(struct function *f, struct st_err *e)
{
    const struct st_audit *a = f->a;
    const struct st_pair *p = &a->target->pair;
    struct st_pair_noise noise = p->noise;
    int n = st_pool_size(a->pool);
    noise.embed = fmax(noise.embed, LEAST_NOISE);
    noise.head = fmax(noise.head, LEAST_NOISE);
    if (st_behave(p->seen, n, a->cancel, &f->seen, e) || st_behave(p->base, n, a->cancel, &f->base, e))
        return e->code;
    for (uint64_t s = 0; s < ST_MARK_SIMS; s++) {
        struct st_noisy_model m;
        if (a->progress)
            a->progress(a->arg, "function", (double)(s + 2) / (ST_MARK_SIMS + 3));
        if (st_noisy_model_new(p->base, &noise, a->pool, a->seed * 1000003 + s, &m, e))
            return e->code;
        int rc = st_behave(&m.model, n, a->cancel, &f->sims[s], e);
        st_noisy_model_free(&m);
        if (rc)
            return rc;
    }
    return 0;
}

/* The `top` largest values of each row, ascending, evenly by rank at most ST_SORTED_PLACES of them. Homophones are
 * never said and so stand below. */
static int sort_top(struct st_pool *pool, const struct st_dense *rows, size_t top, struct st_dense *out,
                    struct st_err *e)
{
    struct st_dense all;
    size_t k = top < ST_SORTED_PLACES ? top : ST_SORTED_PLACES;
    if (st_dense_new(&all, rows->n_row, rows->n_col, "sorted rows", e))
        return e->code;
    memcpy(all.p, rows->p, rows->n_row * rows->n_col * sizeof *all.p);
    if (!st_dense_sort_rows(pool, &all, e) && !st_dense_new(out, rows->n_row, k, "sorted rows", e))
        for (size_t r = 0; r < rows->n_row; r++)
            for (size_t i = 0; i < k; i++)
                st_dense_row(out, r)[i] =
                    st_dense_row(&all, r)[rows->n_col - top + (k > 1 ? i * (top - 1) / (k - 1) : 0)];
    st_dense_free(&all);
    return e->code;
}

/* mean [n][k] of the simulations' points, and W [k][k] that whitens what they differ by. */
static int whitener(const struct st_dense sims[ST_MARK_SIMS], struct st_dense *mean, struct st_dense *w,
                    struct st_err *e)
{
    size_t n = sims[0].n_row, k = sims[0].n_col;
    double *c = NULL, *std = NULL;
    float *x = NULL, *sums = NULL;
    e->code = 0;
    if (st_dense_new(mean, n, k, "whitening", e) || st_dense_new(w, k, k, "whitening", e) ||
        st_alloc(&c, k * k, sizeof *c, "whitening", e) || st_alloc(&std, k, sizeof *std, "whitening", e) ||
        st_alloc(&x, n * k, sizeof *x, "whitening", e) || st_alloc(&sums, k * k, sizeof *sums, "whitening", e))
        goto out;
    openblas_set_num_threads(1);
    for (size_t s = 0; s < ST_MARK_SIMS; s++)
        for (size_t i = 0; i < n * k; i++)
            mean->p[i] += sims[s].p[i] / ST_MARK_SIMS;
    for (size_t s = 0; s < ST_MARK_SIMS; s++)
        for (size_t i = 0; i < n * k; i++) {
            double rest = (double)sims[s].p[i] - mean->p[i];
            std[i % k] += rest * rest / (double)(n * ST_MARK_SIMS);
        }
    for (size_t i = 0; i < k; i++)
        std[i] = sqrt(std[i]) + 1e-4;
    for (size_t s = 0; s < ST_MARK_SIMS; s++) {
        for (size_t i = 0; i < n * k; i++)
            x[i] = (float)(((double)sims[s].p[i] - mean->p[i]) / std[i % k]);
        cblas_ssyrk(CblasRowMajor, CblasLower, CblasTrans, (int)k, (int)n, 1.0F / (float)(n * (ST_MARK_SIMS - 1)), x,
                    (int)k, s > 0, sums, (int)k);
    }
    for (size_t i = 0; i < k; i++)
        for (size_t j = 0; j <= i; j++)
            c[i * k + j] = c[j * k + i] = sums[i * k + j] + (i == j ? SHRINK : 0);
    if (st_dense_whitener(c, k, w, e))
        goto out;
    for (size_t i = 0; i < k; i++)
        for (size_t j = 0; j < k; j++)
            st_dense_row(w, i)[j] = (float)(st_dense_row(w, i)[j] / std[i]);
out:
    free(c);
    free(std);
    free(x);
    free(sums);
    return e->code;
}

/* Whitened points beside those that are there. */
static int add_points(struct function *f, const struct st_dense *mean, const struct st_dense *seen,
                      const struct st_dense *w, struct st_err *e)
{
    const struct st_dense *rows[2] = {mean, seen};
    for (int i = 0; i < 2; i++) {
        struct st_dense white = {0}, wide = {0};
        size_t at = 0;
        if (st_dense_new(&white, rows[i]->n_row, w->n_col, "fingerprints", e) ||
            st_dense_new(&wide, rows[i]->n_row, f->points[i].n_col + w->n_col, "fingerprints", e)) {
            st_dense_free(&white);
            return e->code;
        }
        st_dense_product(f->a->pool, rows[i], w, false, &white);
        if (f->points[i].p)
            st_match_append(&wide, &at, &f->points[i], 1);
        st_match_append(&wide, &at, &white, 1);
        st_dense_free(&white);
        st_dense_free(&f->points[i]);
        f->points[i] = wide;
    }
    return 0;
}

/* gate < 0: log-probabilities. */
static const struct st_dense *family(const struct st_behaviour *b, int gate)
{
    return gate < 0 ? &b->said : &b->gates[gate];
}

static int add_family(struct function *f, int gate, struct st_err *e)
{
    size_t top = family(&f->base, gate)->n_col;
    struct st_dense sims[ST_MARK_SIMS] = {0}, seen = {0}, mean = {0}, w = {0};
    e->code = 0;
    if (family(&f->seen, gate)->n_col < top) {
        st_fail(e, ST_INPUT, "gates of the base have %zu values, of the obfuscated model %zu", top,
                family(&f->seen, gate)->n_col);
        goto out;
    }
    if (sort_top(f->a->pool, family(&f->seen, gate), top, &seen, e))
        goto out;
    for (size_t s = 0; s < ST_MARK_SIMS; s++)
        if (sort_top(f->a->pool, family(&f->sims[s], gate), top, &sims[s], e))
            goto out;
    if (whitener(sims, &mean, &w, e) || add_points(f, &mean, &seen, &w, e))
        goto out;
out:
    for (size_t s = 0; s < ST_MARK_SIMS; s++)
        st_dense_free(&sims[s]);
    st_dense_free(&seen);
    st_dense_free(&mean);
    st_dense_free(&w);
    return e->code;
}

static int sorted(struct function *f, struct st_rows *rows, struct st_err *e)
{
    struct st_dense seen = {0}, base = {0};
    size_t top = f->base.said.n_col;
    e->code = 0;
    if (sort_top(f->a->pool, &f->seen.said, top, &seen, e) || sort_top(f->a->pool, &f->base.said, top, &base, e) ||
        st_match_points(f->a->pool, &seen, &base, false, f->guess, e) ||
        st_match_report(f->a, "sorted", f->guess, NULL, rows, e))
        goto out;
out:
    st_dense_free(&seen);
    st_dense_free(&base);
    return e->code;
}

static int whitened(struct function *f, struct st_rows *rows, struct st_err *e)
{
    if (add_family(f, -1, e))
        return e->code;
    for (uint32_t g = 0; g < f->base.n_gate; g++)
        if (add_family(f, (int)g, e))
            return e->code;
    if (st_match_points(f->a->pool, &f->points[1], &f->points[0], true, f->guess, e))
        return e->code;
    return st_match_report(f->a, "whitened", f->guess, NULL, rows, e);
}

/* ---- two-sided ---- */

struct sides {
    struct st_dense mean;    /* [n][n] of the simulations' log-probabilities */
    double *by_col, *by_row; /* [n] one over the deviation of a column, of a row */
    uint32_t *col, *row;     /* [m] those that tell most ids apart for their noise */
    size_t m;
    uint32_t *order, *before; /* [n] plain id -> cipher id; the last guess */
    struct st_dense x, y;     /* [n][2m] */
};

struct strength {
    uint32_t at;
    double value;
};

static int stronger(const void *a, const void *b)
{
    const struct strength *x = a, *y = b;
    return x->value < y->value ? 1 : x->value > y->value ? -1 : x->at < y->at ? -1 : x->at > y->at;
}

/* The m columns (or rows) of `mean` with the most variance over their noise's. */
static int pick_strong(const struct st_dense *mean, bool rows, const double *by, size_t m, uint32_t *out,
                       struct st_err *e)
{
    size_t n = mean->n_row;
    struct strength *s;
    if (st_alloc(&s, n, sizeof *s, "two-sided", e))
        return e->code;
    for (size_t j = 0; j < n; j++) {
        double sum = 0, squares = 0;
        for (size_t i = 0; i < n; i++) {
            double x = rows ? st_dense_row(mean, j)[i] : st_dense_row(mean, i)[j];
            sum += x;
            squares += x * x;
        }
        s[j] = (struct strength){(uint32_t)j, (squares - sum * sum / (double)n) * by[j] * by[j]};
    }
    qsort(s, n, sizeof *s, stronger);
    for (size_t i = 0; i < m; i++)
        out[i] = s[i].at;
    free(s);
    return 0;
}

static int open_sides(const struct function *f, struct sides *s, struct st_err *e)
{
    size_t n = f->base.said.n_row, m = n < STRONG ? n : STRONG;
    s->m = m;
    if (st_dense_new(&s->mean, n, n, "two-sided", e) || st_dense_new(&s->x, n, 2 * m, "two-sided", e) ||
        st_dense_new(&s->y, n, 2 * m, "two-sided", e) || st_alloc(&s->col, m, sizeof *s->col, "two-sided", e) ||
        st_alloc(&s->row, m, sizeof *s->row, "two-sided", e) ||
        st_alloc(&s->by_col, n, sizeof *s->by_col, "two-sided", e) ||
        st_alloc(&s->by_row, n, sizeof *s->by_row, "two-sided", e) ||
        st_alloc(&s->order, n, sizeof *s->order, "two-sided", e) ||
        st_alloc(&s->before, n, sizeof *s->before, "two-sided", e))
        return e->code;
    for (size_t k = 0; k < ST_MARK_SIMS; k++)
        for (size_t i = 0; i < n * n; i++)
            s->mean.p[i] += f->sims[k].said.p[i] / ST_MARK_SIMS;
    for (size_t k = 0; k < ST_MARK_SIMS; k++)
        for (size_t i = 0; i < n * n; i++) {
            double rest = (double)f->sims[k].said.p[i] - s->mean.p[i];
            rest *= rest / (double)(n * (ST_MARK_SIMS - 1));
            s->by_row[i / n] += rest;
            s->by_col[i % n] += rest;
        }
    for (size_t i = 0; i < n; i++) {
        s->by_row[i] = 1 / sqrt(s->by_row[i] + 1e-4);
        s->by_col[i] = 1 / sqrt(s->by_col[i] + 1e-4);
    }
    if (pick_strong(&s->mean, false, s->by_col, m, s->col, e) || pick_strong(&s->mean, true, s->by_row, m, s->row, e))
        return e->code;
    return 0;
}

static void free_sides(struct sides *s)
{
    st_dense_free(&s->mean);
    st_dense_free(&s->x);
    st_dense_free(&s->y);
    free(s->by_col);
    free(s->by_row);
    free(s->col);
    free(s->row);
    free(s->order);
    free(s->before);
}

/* What each id says, and what says it, in the order of the last guess. */
static void fill_sides(const struct function *f, struct sides *s)
{
    size_t n = s->mean.n_row;
    for (size_t i = 0; i < n; i++)
        s->order[f->guess[i]] = (uint32_t)i;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < s->m; j++) {
            uint32_t col = s->col[j], row = s->row[j];
            st_dense_row(&s->x, i)[j] = (float)(st_dense_row(&s->mean, i)[col] * s->by_col[col]);
            st_dense_row(&s->x, i)[s->m + j] = (float)(st_dense_row(&s->mean, row)[i] * s->by_row[row]);
            st_dense_row(&s->y, i)[j] = (float)(st_dense_row(&f->seen.said, i)[s->order[col]] * s->by_col[col]);
            st_dense_row(&s->y, i)[s->m + j] = (float)(st_dense_row(&f->seen.said, s->order[row])[i] * s->by_row[row]);
        }
}

static int two_sided(struct function *f, struct st_rows *rows, struct st_err *e)
{
    struct sides s = {0};
    size_t n = f->base.said.n_row;
    if (f->seen.said.n_row != n)
        return st_rows_leave_out(rows, "two-sided", "with homophones rows and columns carry no permutation", e);
    e->code = 0;
    if (open_sides(f, &s, e))
        goto out;
    for (int round = 0; round < ROUNDS; round++) {
        if (f->a->cancel && *f->a->cancel) {
            st_fail(e, ST_IO, "cancelled");
            goto out;
        }
        fill_sides(f, &s);
        memcpy(s.before, f->guess, n * sizeof *s.before);
        if (st_match_points(f->a->pool, &s.y, &s.x, true, f->guess, e))
            goto out;
        if (memcmp(s.before, f->guess, n * sizeof *s.before) == 0)
            break;
    }
    if (st_match_report(f->a, "two-sided", f->guess, NULL, rows, e))
        goto out;
out:
    free_sides(&s);
    return e->code;
}

static int check(const struct st_audit *a, struct st_err *e)
{
    uint64_t n = a->target->pair.seen->config.n_vocab;
    if (st_match_check(a, e))
        return e->code;
    if (n > ST_MATCH_ASSIGN)
        return st_fail(e, ST_UNSUPPORTED, "functional fingerprint: %llu ids; it compares all with all of %d at most",
                       (unsigned long long)n, ST_MATCH_ASSIGN);
    return st_match_fits(a, (ST_MARK_SIMS + 7) * n * n * sizeof(float), e);
}

static int run(const struct st_audit *a, struct st_rows *rows, struct st_err *e)
{
    struct function f = {.a = a};
    e->code = 0;
    if (check(a, e) || st_alloc(&f.guess, a->target->pair.seen->config.n_vocab, sizeof *f.guess, "fingerprints", e))
        return e->code;
    if (run_models(&f, e) || sorted(&f, rows, e) || whitened(&f, rows, e) || two_sided(&f, rows, e))
        goto out;
out:
    st_behaviour_free(&f.seen);
    st_behaviour_free(&f.base);
    for (size_t s = 0; s < ST_MARK_SIMS; s++)
        st_behaviour_free(&f.sims[s]);
    st_dense_free(&f.points[0]);
    st_dense_free(&f.points[1]);
    free(f.guess);
    return e->code;
}

const struct st_attack st_atk_function = {
    .name = "function",
    .title = "What single tokens make both models say",
    .metric = "share of token types and of the text recovered",
    .source = "ours",
    .adversary = ST_ADVERSARY_SERVER,
    .needs = ST_TARGET_PAIR,
    .run = run,
};
