#include "audit/rows.h"
#include "base/hooks.h"

#include <math.h>
#include <stdio.h>
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

int st_rows_leave_out(struct st_rows *r, const char *variant, const char *why, struct st_err *e)
{
    struct st_row row = {.left_out = e->code == ST_MEMORY ? ST_MEMORY : ST_UNSUPPORTED};
    snprintf(row.variant, sizeof row.variant, "%s", variant);
    snprintf(row.note, sizeof row.note, "%s", why);
    return st_rows_add(r, &row, e);
}

void st_rows_free(struct st_rows *r)
{
    free(r->at);
    *r = (struct st_rows){0};
}

const struct st_row **st_rows_pick(const struct st_rows *r, bool (*want)(const struct st_row *row, const char *arg),
                                   const char *arg, size_t *n)
{
    const struct st_row **out = malloc((r->n + 1) * sizeof *out);
    *n = 0;
    for (size_t i = 0; out && i < r->n; i++)
        if (want(&r->at[i], arg))
            out[(*n)++] = &r->at[i];
    return out;
}

bool st_row_in_series(const struct st_row *row, const char *arg)
{
    return row->sweep && row->x_name && strcmp(row->x_name, arg) == 0;
}

bool st_row_of_target(const struct st_row *row, const char *arg)
{
    return strcmp(row->target, arg) == 0;
}

size_t st_rows_series(const struct st_rows *r, const char *names[ST_ROWS_SERIES])
{
    size_t n = 0;
    for (size_t i = 0; i < r->n; i++) {
        size_t k = 0;
        while (k < n && !st_row_in_series(&r->at[i], names[k]))
            k++;
        if (k == n && n < ST_ROWS_SERIES && r->at[i].sweep && r->at[i].x_name)
            names[n++] = r->at[i].x_name;
    }
    return n;
}

void st_row_share(struct st_row *row, uint64_t hits, uint64_t n)
{
    st_row_share_of(row, hits, n, (double)n);
}

/* Wilson's interval of a share p of m independent ones. */
static void wilson(struct st_row *row, double p, double m)
{
    double z2 = Z * Z, middle = (p + z2 / (2 * m)) / (1 + z2 / m);
    double half = Z / (1 + z2 / m) * sqrt(p * (1 - p) / m + z2 / (4 * m * m));
    row->score = p;
    row->low = p > 0 ? fmax(0, middle - half) : 0;
    row->high = p < 1 ? fmin(1, middle + half) : 1;
}

void st_row_share_of(struct st_row *row, uint64_t hits, uint64_t n, double m)
{
    row->n = n;
    row->score = row->low = 0;
    row->high = 1;
    if (n)
        wilson(row, (double)hits / (double)n, m);
}

void st_row_all(struct st_row *row, uint64_t hits, uint64_t n)
{
    row->n = n;
    row->score = row->low = row->high = n ? (double)hits / (double)n : 0;
}

/* The two-sided 95 % quantile of Student's t: Cornish and Fisher's expansion about the normal one. */
static double student(double freedom)
{
    double z3 = Z * Z * Z, z5 = z3 * Z * Z;
    return Z + (z3 + Z) / (4 * freedom) + (5 * z5 + 16 * z3 + 3 * Z) / (96 * freedom * freedom);
}

/* Mean; half of the interval of one more of them, or of their mean. */
static double half_of(const double *values, size_t n, bool of_mean, double *mean)
{
    double sum = 0, squares = 0;
    for (size_t i = 0; i < n; i++)
        sum += values[i];
    *mean = n ? sum / (double)n : 0;
    for (size_t i = 0; i < n; i++)
        squares += (values[i] - *mean) * (values[i] - *mean);
    if (n < 2)
        return INFINITY;
    return student((double)n - 1) * sqrt(squares / (double)(n - 1) * (1 / (double)n + (of_mean ? 0 : 1)));
}

void st_row_beside(struct st_row *row, double score, const double *luck, size_t n)
{
    double half = half_of(luck, n, false, &row->chance);
    row->score = score;
    row->low = score - half;
    row->high = score + half;
}

void st_row_attempts(struct st_row *row, const double *values, size_t n)
{
    double half = half_of(values, n, true, &row->score);
    row->low = row->score - half;
    row->high = row->score + half;
}

void st_row_groups(struct st_row *row, const double *hits, const double *n, size_t n_group)
{
    double all = 0, sum = 0, variance = 0, k = (double)n_group;
    for (size_t g = 0; g < n_group; g++) {
        all += n[g];
        sum += hits[g];
    }
    double p = all > 0 ? sum / all : 0, independent = k;
    for (size_t g = 0; g < n_group && n[g] < all; g++) {
        double off = (sum - hits[g]) / (all - n[g]) - p;
        variance += off * off * (k - 1) / k;
    }
    if (variance > 0) {
        double wider = student(k - 1) / Z;
        independent = fmin(all, p * (1 - p) / (variance * wider * wider));
    }
    row->n = (uint64_t)llround(all);
    wilson(row, p, fmax(1, independent));
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
    /* Values that are all 0, or all 1, leave a bootstrap nothing to draw from: as hits and misses they still say how
     * far off the mean may be. */
    if (row->low == row->high && (row->score == 0 || row->score == 1))
        st_row_share(row, row->score == 1 ? n : 0, n);
}

/* ---- for people ---- */

const char *st_row_own_variant(const struct st_row *r)
{
    size_t n = strlen(r->target);
    const char *v = strncmp(r->variant, r->target, n) == 0 ? r->variant + n : r->variant;
    return v + strspn(v, ", ");
}

bool st_row_is_share(const struct st_row *r)
{
    return strstr(r->metric, "share") || strstr(r->metric, "chance");
}

static double unit(const struct st_row *r)
{
    return st_row_is_share(r) ? 100 : 1;
}

void st_row_figure(const struct st_row *r, double v, struct st_buf *out)
{
    if (isfinite(v))
        st_buf_addf(out, "%.3g%s", unit(r) * v, unit(r) > 1 ? " %" : "");
    else
        st_buf_add_str(out, "-");
}

void st_row_score(const struct st_row *r, struct st_buf *out)
{
    st_row_figure(r, r->score, out);
    st_buf_addf(out, " (%.3g to %.3g)", unit(r) * r->low, unit(r) * r->high);
}

void st_row_unprotected(const struct st_row *r, struct st_buf *out)
{
    st_row_figure(r, r->unprotected, out);
    if (r->in_clear && isfinite(r->unprotected))
        st_buf_add_str(out, " (read off)");
}

void st_row_cost(const struct st_row *r, struct st_buf *out)
{
    if (!isfinite(r->cost))
        st_buf_add_str(out, "-");
    else if (fabs(r->cost) < 5e-5)
        st_buf_add_str(out, "0 %");
    else
        st_buf_addf(out, "%+.2g %%", 100 * r->cost);
}
