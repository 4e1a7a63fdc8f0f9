#include "audit/regress.h"
#include "audit/match.h"
#include "audit/views.h"
#include "base/buf.h"

#include <cblas.h>
#include <lapacke.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define HELD 4    /* every fourth pair judges the maps */
#define PANEL 256 /* pairs whose products are summed at a time */

static const double ridges[] = {1, 10, 100, 1000};
#define N_RIDGE (sizeof ridges / sizeof *ridges)

/* ---- rows ---- */

int st_centre_rows(struct st_dense *rows, struct st_err *e)
{
    double *mean;
    if (st_alloc(&mean, rows->n_col, sizeof *mean, "rows", e))
        return e->code;
    for (size_t r = 0; r < rows->n_row; r++)
        for (size_t k = 0; k < rows->n_col; k++)
            mean[k] += st_dense_row(rows, r)[k];
    for (size_t r = 0; r < rows->n_row; r++)
        for (size_t k = 0; k < rows->n_col; k++)
            st_dense_row(rows, r)[k] -= (float)(mean[k] / (double)rows->n_row);
    free(mean);
    return 0;
}

void st_unit_rows(struct st_dense *rows)
{
    for (size_t r = 0; r < rows->n_row; r++) {
        float *x = st_dense_row(rows, r);
        double square = 0;
        for (size_t k = 0; k < rows->n_col; k++)
            square += (double)x[k] * x[k];
        float by = square > 0 ? (float)(1 / sqrt(square)) : 0;
        for (size_t k = 0; k < rows->n_col; k++)
            x[k] *= by;
    }
}

static void turn_signs(struct st_dense *rows)
{
    for (size_t k = 0; k < rows->n_col; k++) {
        double third = 0;
        for (size_t r = 0; r < rows->n_row; r++) {
            double x = st_dense_row(rows, r)[k];
            third += x * x * x;
        }
        for (size_t r = 0; third < 0 && r < rows->n_row; r++)
            st_dense_row(rows, r)[k] = -st_dense_row(rows, r)[k];
    }
}

/* Directions [k][d] over their deviations, from the covariance c [d][d], which becomes its eigenvectors. */
static int strongest(double *c, size_t d, size_t k, double add, struct st_dense *w, struct st_err *e)
{
    double *value;
    if (st_alloc(&value, d, sizeof *value, "whitening", e))
        return e->code;
    if (LAPACKE_dsyevd(LAPACK_ROW_MAJOR, 'V', 'U', (lapack_int)d, c, (lapack_int)d, value))
        st_fail(e, ST_INPUT, "whitening: %zu directions were not found; the rows are not finite", d);
    else {
        double least = 1e-9 * value[d - 1] + 1e-30;
        for (size_t i = 0; i < k; i++) {
            double by = 1 / sqrt(fmax(value[d - 1 - i], least) + add);
            for (size_t j = 0; j < d; j++)
                st_dense_row(w, i)[j] = (float)(by * c[j * d + d - 1 - i]);
        }
        e->code = 0;
    }
    free(value);
    return e->code;
}

int st_whiten_rows(struct st_pool *pool, const struct st_dense *rows, size_t k, double add, struct st_dense *out,
                   struct st_err *e)
{
    size_t d = rows->n_col;
    double *c = NULL;
    struct st_dense x = {0}, w = {0};
    *out = (struct st_dense){0};
    e->code = 0;
    if (st_dense_new(&x, rows->n_row, d, "whitening", e) || st_dense_new(&w, k, d, "whitening", e) ||
        st_alloc(&c, d * d, sizeof *c, "whitening", e))
        goto out;
    memcpy(x.p, rows->p, rows->n_row * d * sizeof *x.p);
    if (st_centre_rows(&x, e) || st_view_moments(pool, &x, c, e))
        goto out;
    for (size_t i = 0; i < d * d; i++)
        c[i] /= (double)rows->n_row;
    if (strongest(c, d, k, add, &w, e) || st_dense_new(out, rows->n_row, k, "whitening", e))
        goto out;
    st_dense_product(pool, &x, &w, true, out);
    turn_signs(out);
out:
    st_dense_free(&x);
    st_dense_free(&w);
    free(c);
    return e->code;
}

/* ---- maps ---- */

/* Rows of pairs in double, one panel of them. */
static void gather(const struct st_dense *from, const uint32_t *row, size_t n, double *out)
{
    for (size_t p = 0; p < n; p++)
        for (size_t k = 0; k < from->n_col; k++)
            out[p * from->n_col + k] = st_dense_row(from, row[p])[k];
}

/* out [a.n_col][b.n_col] = sums over the pairs of a's row by b's. */
static int pair_sums(const struct st_dense *a, const uint32_t *row_a, const struct st_dense *b, const uint32_t *row_b,
                     size_t n, double *out, struct st_err *e)
{
    double *x = NULL, *y = NULL;
    e->code = 0;
    memset(out, 0, a->n_col * b->n_col * sizeof *out);
    if (st_alloc(&x, PANEL * a->n_col, sizeof *x, "pairs", e) || st_alloc(&y, PANEL * b->n_col, sizeof *y, "pairs", e))
        goto out;
    openblas_set_num_threads(1);
    for (size_t at = 0; at < n; at += PANEL) {
        size_t m = n - at < PANEL ? n - at : PANEL;
        gather(a, row_a + at, m, x);
        gather(b, row_b + at, m, y);
        cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)a->n_col, (int)b->n_col, (int)m, 1, x, (int)a->n_col,
                    y, (int)b->n_col, 1, out, (int)b->n_col);
    }
out:
    free(x);
    free(y);
    return e->code;
}

static void take_map(const double *from, struct st_dense *map)
{
    for (size_t i = 0; i < map->n_row * map->n_col; i++)
        map->p[i] = (float)from[i];
}

int st_fit_ridge(const struct st_dense *y, const struct st_dense *x, const struct st_pairs *p, double ridge,
                 struct st_dense *map, struct st_err *e)
{
    size_t n = y->n_col, m = x->n_col;
    double *a = NULL, *b = NULL;
    e->code = 0;
    if (st_alloc(&a, n * n, sizeof *a, "ridge", e) || st_alloc(&b, n * m, sizeof *b, "ridge", e))
        goto out;
    if (pair_sums(y, p->seen, y, p->seen, p->n, a, e) || pair_sums(y, p->seen, x, p->base, p->n, b, e))
        goto out;
    for (size_t i = 0; i < n; i++)
        a[i * n + i] += ridge;
    if (LAPACKE_dposv(LAPACK_ROW_MAJOR, 'L', (lapack_int)n, (lapack_int)m, a, (lapack_int)n, b, (lapack_int)m))
        st_fail(e, ST_INPUT, "ridge: %zu pairs give no map; the rows are not finite", p->n);
    else
        take_map(b, map);
out:
    free(a);
    free(b);
    return e->code;
}

int st_fit_turn(const struct st_dense *y, const struct st_dense *x, const struct st_pairs *p, struct st_dense *map,
                struct st_err *e)
{
    size_t n = y->n_col;
    double *a = NULL, *u = NULL, *s = NULL, *vt = NULL;
    e->code = 0;
    if (st_alloc(&a, n * n, sizeof *a, "rotation", e) || st_alloc(&u, n * n, sizeof *u, "rotation", e) ||
        st_alloc(&s, n, sizeof *s, "rotation", e) || st_alloc(&vt, n * n, sizeof *vt, "rotation", e))
        goto out;
    if (pair_sums(y, p->seen, x, p->base, p->n, a, e))
        goto out;
    lapack_int d = (lapack_int)n;
    if (LAPACKE_dgesdd(LAPACK_ROW_MAJOR, 'A', d, d, a, d, s, u, d, vt, d)) {
        st_fail(e, ST_INPUT, "rotation: %zu pairs give none; the rows are not finite", p->n);
        goto out;
    }
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, d, d, d, 1, u, d, vt, d, 0, a, d);
    take_map(a, map);
out:
    free(a);
    free(u);
    free(s);
    free(vt);
    return e->code;
}

/* ---- matching ---- */

struct matching {
    struct st_pool *pool;
    const struct st_dense *y, *x;
    struct st_dense map, at, table; /* at: y mapped; table: x at length 1 */
    float *first, *second;
    uint32_t *seen, *base; /* pairs of a round */
};

static int matching_new(struct matching *m, size_t n_known, struct st_err *e)
{
    size_t n = m->y->n_row + n_known, k = m->y->n_col;
    if (st_dense_new(&m->map, k, k, "pairs", e) || st_dense_new(&m->at, m->y->n_row, k, "pairs", e) ||
        st_dense_new(&m->table, m->x->n_row, k, "pairs", e) || st_alloc(&m->first, n, sizeof *m->first, "pairs", e) ||
        st_alloc(&m->second, n, sizeof *m->second, "pairs", e) || st_alloc(&m->seen, n, sizeof *m->seen, "pairs", e) ||
        st_alloc(&m->base, n, sizeof *m->base, "pairs", e))
        return e->code;
    return 0;
}

static void matching_free(struct matching *m)
{
    st_dense_free(&m->map);
    st_dense_free(&m->at);
    st_dense_free(&m->table);
    free(m->first);
    free(m->second);
    free(m->seen);
    free(m->base);
}

/* By angle. one: one to one; otherwise first and second are filled. Distances shift the rows, so both are made anew. */
static int by_angle(struct matching *m, bool mapped, bool one, uint32_t *guess, struct st_err *e)
{
    if (mapped)
        st_dense_product(m->pool, m->y, &m->map, false, &m->at);
    else
        memcpy(m->at.p, m->y->p, m->y->n_row * m->y->n_col * sizeof *m->at.p);
    memcpy(m->table.p, m->x->p, m->x->n_row * m->x->n_col * sizeof *m->table.p);
    st_unit_rows(&m->at);
    st_unit_rows(&m->table);
    if (one)
        return st_match_points(m->pool, &m->at, &m->table, true, guess, e);
    return st_dense_nearest(m->pool, &m->at, &m->table, guess, m->first, m->second, e);
}

/* number: N_RIDGE = the rotation. */
static int fit(struct matching *m, size_t number, const struct st_pairs *p, struct st_err *e)
{
    return number < N_RIDGE ? st_fit_ridge(m->y, m->x, p, ridges[number], &m->map, e)
                            : st_fit_turn(m->y, m->x, p, &m->map, e);
}

/* Of the pairs that are held out, how many the map finds: their rows alone are mapped. */
static int judge(struct matching *m, const struct st_pairs *p, uint32_t *guess, size_t *hits, struct st_err *e)
{
    struct st_dense rows = {0}, at = {0};
    size_t n = (p->n + HELD - 1) / HELD;
    *hits = 0;
    e->code = 0;
    if (st_dense_new(&rows, n, m->y->n_col, "pairs", e) || st_dense_new(&at, n, m->x->n_col, "pairs", e))
        goto out;
    for (size_t i = 0; i < n; i++)
        memcpy(st_dense_row(&rows, i), st_dense_row(m->y, p->seen[i * HELD]), rows.n_col * sizeof *rows.p);
    st_dense_product(m->pool, &rows, &m->map, false, &at);
    memcpy(m->table.p, m->x->p, m->x->n_row * m->x->n_col * sizeof *m->table.p);
    st_unit_rows(&at);
    st_unit_rows(&m->table);
    if (st_dense_nearest(m->pool, &at, &m->table, guess, NULL, NULL, e))
        goto out;
    for (size_t i = 0; i < n; i++)
        *hits += guess[i] == p->base[i * HELD];
out:
    st_dense_free(&rows);
    st_dense_free(&at);
    return e->code;
}

static int choose(struct matching *m, const struct st_pairs *p, uint32_t *guess, size_t *number, struct st_err *e)
{
    size_t n = 0, best = 0;
    *number = N_RIDGE;
    for (size_t i = 0; i < p->n; i++)
        if (i % HELD) {
            m->seen[n] = p->seen[i];
            m->base[n++] = p->base[i];
        }
    const struct st_pairs part = {m->seen, m->base, n};
    for (size_t k = N_RIDGE + 1; p->n >= HELD && k-- > 0;) {
        size_t hits;
        if (fit(m, k, &part, e) || judge(m, p, guess, &hits, e))
            return e->code;
        if (hits > best) {
            best = hits;
            *number = k;
        }
    }
    return 0;
}

struct sure {
    uint32_t row;
    float margin;
};

static int by_margin(const void *a, const void *b)
{
    const struct sure *x = a, *y = b;
    return x->margin < y->margin ? 1 : x->margin > y->margin ? -1 : x->row < y->row ? -1 : x->row > y->row;
}

/* Pairs of the next round: those that are known, and the surest share of all guesses. */
static int grow(struct matching *m, const struct st_pairs *known, const uint32_t *guess, double share,
                struct st_pairs *out, struct st_err *e)
{
    size_t n = m->y->n_row, take = (size_t)(share * (double)n);
    struct sure *s;
    if (st_alloc(&s, n, sizeof *s, "pairs", e))
        return e->code;
    for (size_t i = 0; i < n; i++)
        s[i] = (struct sure){(uint32_t)i, m->second[i] - m->first[i]};
    for (size_t i = 0; i < known->n; i++)
        s[known->seen[i]].margin = -1; /* they come by themselves */
    qsort(s, n, sizeof *s, by_margin);
    for (size_t i = 0; i < known->n; i++) {
        m->seen[i] = known->seen[i];
        m->base[i] = known->base[i];
    }
    size_t at = known->n;
    for (size_t i = 0; i < take && s[i].margin >= 0; i++) {
        m->seen[at] = s[i].row;
        m->base[at++] = guess[s[i].row];
    }
    free(s);
    *out = (struct st_pairs){m->seen, m->base, at};
    return 0;
}

static void fill_known(const struct st_pairs *p, uint32_t *guess)
{
    for (size_t i = 0; i < p->n; i++)
        guess[p->seen[i]] = p->base[i];
}

int st_pairs_match(struct st_pool *pool, const struct st_dense *y, const struct st_dense *x, const struct st_pairs *p,
                   unsigned n_round, uint32_t *before, uint32_t *guess, struct st_err *e)
{
    struct matching m = {.pool = pool, .y = y, .x = x};
    size_t number;
    e->code = 0;
    if (matching_new(&m, p->n, e))
        goto out;
    if (p->n && (choose(&m, p, guess, &number, e) || fit(&m, number, p, e)))
        goto out;
    if (by_angle(&m, p->n > 0, false, guess, e))
        goto out;
    if (before) {
        memcpy(before, guess, y->n_row * sizeof *guess);
        fill_known(p, before);
    }
    for (unsigned r = 0; r < n_round; r++) {
        struct st_pairs more;
        if (grow(&m, p, guess, (double)(r + 1) / n_round, &more, e) || st_fit_turn(y, x, &more, &m.map, e) ||
            by_angle(&m, true, r + 1 == n_round, guess, e))
            goto out;
    }
    fill_known(p, guess);
out:
    matching_free(&m);
    return e->code;
}
