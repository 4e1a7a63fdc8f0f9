#include "audit/rows.h"
#include "base/hooks.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define DRAWS 1000
#define Z 1.959963984540054 /* of 95 % */

int st_rows_add(struct st_rows *r, const struct st_row *row, struct st_err *e)
{
    if (r->n == r->cap) {
        size_t cap = r->cap ? 2 * r->cap : 64;
        struct st_row *at = realloc(r->at, cap * sizeof *at);
        if (!at)
            return st_fail(e, ST_MEMORY, "%s: no memory for its rows", row->attack);
        r->at = at;
        r->cap = cap;
    }
    r->at[r->n++] = *row;
    return 0;
}

void st_rows_free(struct st_rows *r)
{
    free(r->at);
    *r = (struct st_rows){0};
}

void st_row_share(struct st_row *row, uint64_t hits, uint64_t n)
{
    row->n = n;
    row->score = row->low = 0;
    row->high = 1;
    if (!n)
        return;
    double m = (double)n, p = (double)hits / m, z2 = Z * Z;
    double middle = (p + z2 / (2 * m)) / (1 + z2 / m);
    double half = Z / (1 + z2 / m) * sqrt(p * (1 - p) / m + z2 / (4 * m * m));
    row->score = p;
    row->low = hits ? fmax(0, middle - half) : 0;
    row->high = hits < n ? fmin(1, middle + half) : 1;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void st_row_mean(struct st_row *row, const double *values, size_t n, uint64_t seed)
{
    double means[DRAWS];
    struct st_rng rng;
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += values[i];
    row->n = n;
    row->score = row->low = row->high = n ? sum / (double)n : 0;
    if (n < 2)
        return;
    st_rng_seed(&rng, seed);
    for (int d = 0; d < DRAWS; d++) {
        means[d] = 0;
        for (size_t i = 0; i < n; i++)
            means[d] += values[st_rng_next(&rng) % n] / (double)n;
    }
    qsort(means, DRAWS, sizeof *means, by_value);
    row->low = means[DRAWS / 40];
    row->high = means[DRAWS - 1 - DRAWS / 40];
}
