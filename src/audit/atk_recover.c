/* What a worker can learn of weights that lie inside, or of an adapter to weights that it has: with the inputs of a
 * layer and its outputs, y - x W^T = x (s B A)^T gives s B A by least squares from as many independent rows as the
 * layer is wide, and y = x W^T gives a whole matrix. A worker sees inputs behind masks and no outputs of what is
 * computed inside. Here outputs are leaked to it on purpose, in the clear; inputs are those of the recording. The
 * unprotected score is the same with inputs in the clear. The layer is the first one's query projection; the adapter is
 * invented, a tenth of the matrix in size.
 *
 *   adapter   rank 8 is known; W is public
 *   matrix    W is sealed
 *
 * Chance is what outputs in a wrong order get on the mean, and the interval is the spread of such attempts: behind
 * fresh masks the right order is but one of them. The cosines of one attempt are no independent draws (its inputs
 * err in the same way for all outputs, and those of an adapter lie in 8 directions), so that drawing among them again
 * would tell an interval that is too narrow.
 *
 * Source: papers on partitioned inference (SecureInfer, arXiv 2510.19979) leave this open; the attack is ours. */
#include "audit/atk_recover.h"
#include "audit/attack.h"
#include "audit/fingerprint.h"
#include "audit/seen.h"
#include "base/buf.h"
#include "base/hooks.h"

#include <cblas.h>
#include <lapacke.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RANK 8
#define SIZE 0.1    /* of the adapter, over the matrix */
#define OUTPUTS 128 /* of the layer that are looked at */
#define POSITIONS 4 /* rows over width at most */
#define WIDEST 1024 /* without `thorough` */
#define SHUFFLES 40
#define Z 1.959963984540054 /* of 95 % */
#define TINY 1e-9           /* singular values below that share of the largest are none */

/* Thin decomposition of m [n][d], which it destroys: u [n][k], s [k], vt [k][d], k = min(n, d). */
static int decompose(double *m, size_t n, size_t d, double **u, double **s, double **vt, struct st_err *e)
{
    size_t k = n < d ? n : d;
    for (size_t i = 0; i < n * d; i++)
        if (!isfinite(m[i]))
            return st_fail(e, ST_INPUT, "weight recovery: value %zu is not finite", i);
    *u = *s = *vt = NULL;
    openblas_set_num_threads(1);
    if (st_alloc(u, n, k * sizeof **u, "weight recovery", e) || st_alloc(s, k, sizeof **s, "weight recovery", e) ||
        st_alloc(vt, k, d * sizeof **vt, "weight recovery", e))
        return e->code;
    if (LAPACKE_dgesdd(LAPACK_ROW_MAJOR, 'S', (lapack_int)n, (lapack_int)d, m, (lapack_int)d, *s, *u, (lapack_int)k,
                       *vt, (lapack_int)d))
        return st_fail(e, ST_MEMORY, "weight recovery: no decomposition of %zu rows of %zu values", n, d);
    return 0;
}

int st_recover_inverse(const double *x, size_t n, size_t d, double *inverse, struct st_err *e)
{
    double *copy, *u = NULL, *s = NULL, *vt = NULL;
    size_t k = n < d ? n : d;
    if (st_alloc(&copy, n, d * sizeof *copy, "weight recovery", e))
        return e->code;
    memcpy(copy, x, n * d * sizeof *copy);
    int rc = decompose(copy, n, d, &u, &s, &vt, e);
    if (!rc) {
        for (size_t i = 0; i < k; i++) {
            double by = s[i] > TINY * s[0] ? 1 / s[i] : 0;
            for (size_t j = 0; j < d; j++)
                vt[i * d + j] *= by;
        }
        cblas_dgemm(CblasRowMajor, CblasTrans, CblasTrans, (int)d, (int)n, (int)k, 1, vt, (int)d, u, (int)k, 0, inverse,
                    (int)n);
    }
    free(copy);
    free(u);
    free(s);
    free(vt);
    return rc;
}

void st_recover(const double *inverse, const double *y, size_t n, size_t d, size_t d_out, double *out)
{
    cblas_dgemm(CblasRowMajor, CblasTrans, CblasTrans, (int)d_out, (int)d, (int)n, 1, y, (int)d_out, inverse, (int)n, 0,
                out, (int)d);
}

int st_recover_truncate(double *m, size_t d_out, size_t d, size_t rank, struct st_err *e)
{
    double *u = NULL, *s = NULL, *vt = NULL;
    size_t k = d_out < d ? d_out : d;
    int rc = decompose(m, d_out, d, &u, &s, &vt, e);
    if (!rc) {
        for (size_t i = 0; i < k; i++)
            for (size_t j = 0; j < d; j++)
                vt[i * d + j] *= i < rank ? s[i] : 0;
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)d_out, (int)d, (int)k, 1, u, (int)k, vt, (int)d, 0,
                    m, (int)d);
    }
    free(u);
    free(s);
    free(vt);
    return rc;
}

void st_recover_cosines(const double *got, const double *want, size_t n_row, size_t n_col, double *cosines)
{
    int n = (int)n_col;
    for (size_t r = 0; r < n_row; r++) {
        const double *g = got + r * n_col, *w = want + r * n_col;
        double size = cblas_dnrm2(n, g, 1) * cblas_dnrm2(n, w, 1);
        cosines[r] = size > 0 ? cblas_ddot(n, g, 1, w, 1) / size : 0;
    }
}

/* ---- on a recording ---- */

struct stage {
    const struct st_audit *a;
    size_t n, d, d_out;
    double *clear, *masked, *inverse;  /* [n][d], [n][d]; [d][n] */
    double *public, *adapter, *both;   /* [d_out][d] the layer's matrix, the invented adapter, their sum */
    double *y, *mixed, *got, *cosines; /* y: true outputs; mixed: those of an attempt */
};

static void stage_free(struct stage *s)
{
    double *all[] = {s->clear, s->masked, s->inverse, s->public, s->adapter,
                     s->both,  s->y,      s->mixed,   s->got,    s->cosines};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

static int stage_alloc(struct stage *s, struct st_err *e)
{
    size_t n = s->n, d = s->d, m = s->d_out;
    struct {
        double **p;
        size_t n;
    } all[] = {{&s->clear, n * d}, {&s->masked, n * d}, {&s->inverse, n * d}, {&s->public, m * d}, {&s->adapter, m * d},
               {&s->both, m * d},  {&s->y, n * m},      {&s->mixed, n * m},   {&s->got, m * d},    {&s->cosines, m}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (st_alloc(all[i].p, all[i].n, sizeof(double), "weight recovery", e))
            return e->code;
    return 0;
}

/* Inputs of the first rows, as they are and as they were seen; those at the same mean square. */
static void take_rows(struct stage *s, const struct st_seen_text *t)
{
    double sum = 0;
    for (size_t i = 0; i < s->n; i++)
        for (size_t k = 0; k < s->d; k++) {
            s->clear[i * s->d + k] = st_dense_row(&t->table, s->a->target->text.ids[i])[k];
            s->masked[i * s->d + k] = t->seen.rows[i * s->d + k];
            sum += s->masked[i * s->d + k] * s->masked[i * s->d + k];
        }
    double by = sum > 0 ? sqrt((double)(s->n * s->d) / sum) : 0;
    for (size_t i = 0; i < s->n * s->d; i++)
        s->masked[i] *= by;
}

static double length(const double *p, size_t n)
{
    return cblas_dnrm2((int)n, p, 1);
}

static int make_adapter(struct stage *s, struct st_err *e)
{
    struct st_noise_table table;
    size_t d = s->d, m = s->d_out, n = m * d;
    if (st_noise_table_new(&table, RANK * (m > d ? m : d), s->a->seed, e))
        return e->code;
    const float *rows = st_noise_pick(&table, 1, RANK * d), *outs = st_noise_pick(&table, 2, RANK * m);
    for (size_t i = 0; i < n; i++)
        for (size_t r = 0; r < RANK; r++)
            s->adapter[i] += (double)outs[i / d * RANK + r] * rows[r * d + i % d];
    st_noise_table_free(&table);
    double by = SIZE * length(s->public, n) / (length(s->adapter, n) + 1e-300);
    for (size_t i = 0; i < n; i++) {
        s->adapter[i] *= by;
        s->both[i] = s->public[i] + s->adapter[i];
    }
    return 0;
}

/* y = x w^T, and what there is in y already when `to` is 1. */
static void multiply(const struct stage *s, const double *x, const double *w, double by, double to, double *y)
{
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)s->n, (int)s->d_out, (int)s->d, by, x, (int)s->d, w,
                (int)s->d, to, y, (int)s->d_out);
}

/* Mean cosine of what outputs `mixed` beside inputs x give; those of the public matrix are known, and taken away. */
static int attempt(struct stage *s, const double *x, bool adapter, double *mean, struct st_err *e)
{
    const double *want = adapter ? s->adapter : s->public;
    if (adapter)
        multiply(s, x, s->public, -1, 1, s->mixed);
    st_recover(s->inverse, s->mixed, s->n, s->d, s->d_out, s->got);
    if (adapter && st_recover_truncate(s->got, s->d_out, s->d, RANK, e))
        return e->code;
    st_recover_cosines(s->got, want, s->d_out, s->d, s->cosines);
    *mean = 0;
    for (size_t i = 0; i < s->d_out; i++)
        *mean += s->cosines[i] / (double)s->d_out;
    return 0;
}

/* Outputs in a random order. */
static void shuffle(struct stage *s, struct st_rng *rng)
{
    size_t m = s->d_out;
    memcpy(s->mixed, s->y, s->n * m * sizeof *s->mixed);
    for (size_t i = s->n; i > 1; i--) {
        size_t k = st_rng_next(rng) % i;
        for (size_t j = 0; j < m; j++) {
            double t = s->mixed[(i - 1) * m + j];
            s->mixed[(i - 1) * m + j] = s->mixed[k * m + j];
            s->mixed[k * m + j] = t;
        }
    }
}

/* With inputs x: the score, and mean and spread of what outputs in a wrong order get. */
static int recover(struct stage *s, const double *x, bool adapter, struct st_row *row, struct st_err *e)
{
    struct st_rng rng;
    double mean, sum = 0, squares = 0;
    multiply(s, s->clear, adapter ? s->both : s->public, 1, 0, s->y);
    if (st_recover_inverse(x, s->n, s->d, s->inverse, e))
        return e->code;
    st_rng_seed(&rng, s->a->seed);
    for (int i = 0; i < SHUFFLES; i++) {
        shuffle(s, &rng);
        if (attempt(s, x, adapter, &mean, e))
            return e->code;
        sum += mean;
        squares += mean * mean;
    }
    memcpy(s->mixed, s->y, s->n * s->d_out * sizeof *s->mixed);
    if (attempt(s, x, adapter, &mean, e))
        return e->code;
    double half = Z * sqrt(fmax(0, squares - sum * sum / SHUFFLES) / (SHUFFLES - 1));
    row->n = s->d_out;
    row->chance = sum / SHUFFLES;
    row->score = mean;
    row->low = mean - half;
    row->high = fmin(1, mean + half);
    return 0;
}

static int add(struct stage *s, bool adapter, struct st_rows *rows, struct st_err *e)
{
    struct st_row row = {0};
    if (recover(s, s->clear, adapter, &row, e))
        return e->code;
    row.unprotected = row.score;
    if (recover(s, s->masked, adapter, &row, e))
        return e->code;
    if (adapter)
        snprintf(row.variant, sizeof row.variant, "adapter of rank %d, outputs leaked", RANK);
    else
        snprintf(row.variant, sizeof row.variant, "matrix, outputs leaked");
    snprintf(row.note, sizeof row.note,
             "More than a worker sees: %zu rows of layer 0, their true outputs beside them. Inputs are masked.", s->n);
    return st_rows_add(rows, &row, e);
}

static void take_matrix(struct stage *s, const struct st_view *v)
{
    for (size_t i = 0; i < s->d_out * s->d; i++)
        s->public[i] = v->columns[0].p[i];
}

static int run(const struct st_audit *a, struct st_rows *rows, struct st_err *e)
{
    struct stage s = {.a = a};
    struct st_seen_text text;
    struct st_view view;
    if (st_seen_open(a, 0, &text, e))
        return e->code;
    if (st_view_of_model(a->target->base, ST_VIEW_Q, 1, &view, e)) {
        st_seen_close(&text);
        return e->code;
    }
    s.d = text.seen.d;
    s.n = text.seen.n < POSITIONS * s.d ? text.seen.n : POSITIONS * s.d;
    s.d_out = view.columns[0].n_row < OUTPUTS ? view.columns[0].n_row : OUTPUTS;
    int rc = s.d > RANK && s.d_out > RANK && view.columns[0].n_col == s.d
                 ? 0
                 : st_fail(e, ST_UNSUPPORTED, "a layer of %zu inputs and %zu outputs is too narrow", s.d, s.d_out);
    if (!rc && !a->thorough && s.d > WIDEST)
        rc = st_fail(e, ST_UNSUPPORTED, "rows of %zu values take --thorough", s.d);
    if (!rc && (s.n + s.d_out) * (3 * s.d + 2 * s.d_out) > a->memory / sizeof(double))
        rc = st_fail(e, ST_MEMORY, "%zu rows of %zu values take more than the memory that the audit has", s.n, s.d);
    if (!rc)
        rc = stage_alloc(&s, e);
    if (!rc) {
        take_rows(&s, &text);
        take_matrix(&s, &view);
    }
    if (!rc)
        rc = make_adapter(&s, e);
    if (!rc)
        rc = add(&s, true, rows, e);
    if (!rc)
        rc = a->cancel && *a->cancel ? st_fail(e, ST_IO, "cancelled") : add(&s, false, rows, e);
    stage_free(&s);
    st_view_free(&view);
    st_seen_close(&text);
    return rc;
}

const struct st_attack st_atk_recover = {.name = "weight-recovery",
                                         .title = "Weights from inputs and outputs of a layer",
                                         .metric = "mean cosine of the recovered and the true vectors of weights",
                                         .source = "ours; setting of arXiv 2510.19979",
                                         .adversary = ST_ADVERSARY_WORKER,
                                         .needs = ST_TARGET_RECORD,
                                         .run = run};
