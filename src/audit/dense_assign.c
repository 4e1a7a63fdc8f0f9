/* Jonker and Volgenant, "A shortest augmenting path algorithm for dense and sparse linear assignment problems",
 * Computing 38, 1987: column reduction, augmenting row reduction, then shortest paths for the rows that are left. */
#include "audit/dense.h"
#include "base/buf.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define NONE SIZE_MAX
#define LANES 16
#define TURNS                                                                                                          \
    8 /* of row reduction, on average over the rows: rounding could let two rows outbid each other for ever            \
       */

/* Prices of columns are such that every row that has a column has none that costs less by cost - price. */
struct assignment {
    const struct st_dense *cost;
    size_t n;
    size_t *column; /* [n] of each row */
    size_t *row;    /* [n] of each column */
    size_t *list;   /* [n] rows without a column */
    double *from;   /* [n] row before a column on the shortest path: as wide as the lengths it is chosen by */
    double *price;  /* [n] of columns */
    double *least;  /* [n] length of the shortest path to a column whose path is open, infinite for others */
    double *open;   /* [n] price of such a column, minus infinity for others */
    double *final;  /* [n] length of a path that is settled */
    size_t *done;   /* [n] columns whose path is settled, in that order */
};

/* Every column at the least that a row pays; every row takes its cheapest column where that is free. */
static size_t take_cheapest(struct assignment *s)
{
    size_t n_free = 0;
    for (size_t j = 0; j < s->n; j++) {
        s->price[j] = INFINITY;
        s->row[j] = NONE;
    }
    for (size_t i = 0; i < s->n; i++)
        for (size_t j = 0; j < s->n; j++) {
            double c = st_dense_row(s->cost, i)[j];
            s->price[j] = c < s->price[j] ? c : s->price[j];
        }
    for (size_t i = 0; i < s->n; i++) {
        const float *c = st_dense_row(s->cost, i);
        size_t at = 0;
        for (size_t j = 1; j < s->n; j++)
            if (c[j] - s->price[j] < c[at] - s->price[at])
                at = j;
        if (s->row[at] == NONE) {
            s->row[at] = i;
            s->column[i] = at;
        } else
            s->list[n_free++] = i;
    }
    return n_free;
}

/* The two cheapest columns of a row. */
static void two_best(const struct assignment *s, size_t i, size_t at[2], double pays[2])
{
    const float *c = st_dense_row(s->cost, i);
    pays[0] = pays[1] = INFINITY;
    at[0] = at[1] = 0;
    for (size_t j = 0; j < s->n; j++) {
        double x = c[j] - s->price[j];
        if (x >= pays[1])
            continue;
        if (x < pays[0]) {
            pays[1] = pays[0];
            at[1] = at[0];
            pays[0] = x;
            at[0] = j;
        } else {
            pays[1] = x;
            at[1] = j;
        }
    }
}

/* A row without a column takes its cheapest one, which then costs as much as its second: the row that had it comes
 * next, or, when nothing was gained, is left for later. Says how many are left. */
static size_t reduce_rows(struct assignment *s, size_t n_free, size_t *turns)
{
    size_t n_left = 0;
    for (size_t k = 0; k < n_free; k++) {
        size_t i = s->list[k];
        while (i != NONE) {
            size_t at[2];
            double pays[2];
            two_best(s, i, at, pays);
            bool gain = pays[0] < pays[1];
            size_t to = !gain && s->row[at[0]] != NONE ? at[1] : at[0], before = s->row[to];
            if (gain)
                s->price[to] -= pays[1] - pays[0];
            s->row[to] = i;
            s->column[i] = to;
            i = before;
            if (i != NONE && (!gain || ++*turns > TURNS * s->n)) {
                s->list[n_left++] = i;
                i = NONE;
            }
        }
    }
    return n_left;
}

/* Paths to all open columns by way of one row, and the open column whose path is shortest. No branches, so that
 * compilers make vectors of it: most of an assignment's time goes here. */
static inline __attribute__((always_inline)) size_t relax_all(struct assignment *s, size_t row, double by)
{
    const float *restrict c = st_dense_row(s->cost, row);
    double *restrict least = s->least, *restrict from = s->from;
    const double *restrict open = s->open;
    double name = (double)row, low[LANES], lowest = INFINITY;
    size_t n = s->n, j = 0;
    for (size_t k = 0; k < LANES; k++)
        low[k] = INFINITY;
    for (; j + LANES <= n; j += LANES)
        for (size_t k = 0; k < LANES; k++) {
            double length = c[j + k] - open[j + k] + by;
            from[j + k] = length < least[j + k] ? name : from[j + k];
            least[j + k] = length < least[j + k] ? length : least[j + k];
            low[k] = least[j + k] < low[k] ? least[j + k] : low[k];
        }
    for (; j < n; j++) {
        double length = c[j] - open[j] + by;
        from[j] = length < least[j] ? name : from[j];
        least[j] = length < least[j] ? length : least[j];
        lowest = least[j] < lowest ? least[j] : lowest;
    }
    for (size_t k = 0; k < LANES; k++)
        lowest = low[k] < lowest ? low[k] : lowest;
    for (j = 0; j + 1 < n && least[j] != lowest; j++)
        ;
    return j;
}

static size_t relax_plain(struct assignment *s, size_t row, double by)
{
    return relax_all(s, row, by);
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static size_t relax_wide(struct assignment *s, size_t row, double by)
{
    return relax_all(s, row, by);
}
#endif

static size_t relax(struct assignment *s, size_t row, double by)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2"))
        return relax_wide(s, row, by);
#endif
    return relax_plain(s, row, by);
}

/* Shortest path (Dijkstra on reduced costs) from a free row to a free column; the rows on it change columns. */
static void augment(struct assignment *s, size_t free_row)
{
    size_t row = free_row, n_done = 0, end;
    double walked = 0, pays = 0; /* what the row pays now: 0 for the first */
    memcpy(s->open, s->price, s->n * sizeof *s->open);
    for (size_t j = 0; j < s->n; j++)
        s->least[j] = INFINITY;
    for (;;) {
        end = relax(s, row, walked - pays);
        walked = s->final[end] = s->least[end];
        s->least[end] = INFINITY;
        s->open[end] = -INFINITY;
        s->done[n_done++] = end;
        if (s->row[end] == NONE)
            break;
        row = s->row[end];
        pays = st_dense_row(s->cost, row)[end] - s->price[end];
    }
    for (size_t k = 0; k < n_done; k++)
        s->price[s->done[k]] += s->final[s->done[k]] - walked;
    while (end != NONE) {
        size_t i = (size_t)s->from[end], before = i == free_row ? NONE : s->column[i];
        s->row[end] = i;
        s->column[i] = end;
        end = before;
    }
}

int st_dense_assign(const struct st_dense *cost, uint32_t *column, struct st_err *e)
{
    struct assignment s = {.cost = cost, .n = cost->n_row};
    size_t **counts[] = {&s.column, &s.row, &s.list, &s.done}, turns = 0;
    double **reals[] = {&s.price, &s.least, &s.open, &s.final, &s.from};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        if (st_alloc(counts[i], s.n, sizeof **counts[i], "assignment", e))
            goto out;
    for (size_t i = 0; i < sizeof reals / sizeof *reals; i++)
        if (st_alloc(reals[i], s.n, sizeof **reals[i], "assignment", e))
            goto out;
    for (size_t i = 0; i < s.n * s.n; i++)
        if (!isfinite(cost->p[i])) {
            st_fail(e, ST_INPUT, "assignment: the cost of row %zu and column %zu is not finite", i / s.n, i % s.n);
            goto out;
        }
    size_t n_free = take_cheapest(&s);
    for (int i = 0; i < 2; i++)
        n_free = reduce_rows(&s, n_free, &turns);
    for (size_t k = 0; k < n_free; k++)
        augment(&s, s.list[k]);
    for (size_t i = 0; i < s.n; i++)
        column[i] = (uint32_t)s.column[i];
    e->code = 0;
out:
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        free(*counts[i]);
    for (size_t i = 0; i < sizeof reals / sizeof *reals; i++)
        free(*reals[i]);
    return e->code;
}
