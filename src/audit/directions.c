#include "audit/directions.h"
#include "audit/fingerprint.h"
#include "base/buf.h"
#include "base/hooks.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Row r of `of` at length `by`, or zeros. In double: ciphertext read as f32 has values whose squares are no f32. */
static void direction(const struct st_dense *of, size_t r, double by, float *out)
{
    const float *x = st_dense_row(of, r);
    double square = 0;
    for (size_t k = 0; k < of->n_col; k++)
        square += (double)x[k] * x[k];
    by = square > 0 ? by / sqrt(square) : 0;
    for (size_t k = 0; k < of->n_col; k++)
        out[k] = (float)(by * x[k]);
}

int st_directions_match(struct st_pool *pool, const struct st_dense *seen, const struct st_dense *base, uint32_t *guess,
                        struct st_err *e)
{
    struct st_dense x = {0}, y = {0};
    size_t m = base->n_row;
    int rc = st_dense_new(&x, seen->n_row, seen->n_col, "directions", e);
    if (!rc)
        rc = st_dense_new(&y, 2 * m, base->n_col, "directions", e);
    if (!rc) {
        for (size_t r = 0; r < seen->n_row; r++)
            direction(seen, r, 1, st_dense_row(&x, r));
        for (size_t r = 0; r < m; r++) {
            direction(base, r, 1, st_dense_row(&y, r));
            direction(base, r, -1, st_dense_row(&y, m + r));
        }
        rc = st_dense_nearest(pool, &x, &y, guess, NULL, NULL, e);
    }
    for (size_t r = 0; !rc && r < seen->n_row; r++)
        guess[r] %= (uint32_t)m;
    st_dense_free(&x);
    st_dense_free(&y);
    return rc;
}

void st_directions_follow(const struct st_dense *seen, const uint32_t *guess, struct st_dense *out)
{
    memset(out->p, 0, out->n_row * out->n_col * sizeof *out->p);
    for (size_t r = 0; r < seen->n_row; r++)
        for (size_t j = 0; j < seen->n_col; j++)
            st_dense_row(out, r)[guess[j]] = st_dense_row(seen, r)[j];
}

static double deviation(const struct st_dense *a)
{
    double sum = 0, square = 0, n = (double)(a->n_row * a->n_col);
    for (size_t i = 0; i < a->n_row * a->n_col; i++) {
        sum += a->p[i];
        square += (double)a->p[i] * a->p[i];
    }
    return sqrt(fmax(square / n - sum / n * (sum / n), 0));
}

int st_directions_shuffle(const struct st_dense *base, double tuned, uint64_t seed, struct st_dense *out,
                          uint32_t *order, struct st_err *e)
{
    struct st_noise_table table;
    struct st_rng rng;
    size_t d = base->n_col;
    double noise = tuned * deviation(base);
    if (st_noise_table_new(&table, d, seed, e))
        return e->code;
    if (st_dense_new(out, base->n_row, d, "shuffled weights", e)) {
        st_noise_table_free(&table);
        return e->code;
    }
    st_rng_seed(&rng, seed);
    for (size_t i = 0; i < base->n_row; i++)
        order[i] = (uint32_t)i;
    for (size_t i = base->n_row; i > 1; i--) {
        size_t k = st_rng_next(&rng) % i;
        uint32_t t = order[i - 1];
        order[i - 1] = order[k];
        order[k] = t;
    }
    for (size_t i = 0; i < base->n_row; i++) {
        const float *x = st_dense_row(base, order[i]), *g = st_noise_pick(&table, i, d);
        double by = exp2(2 * st_rng_unit(&rng) - 1) * (st_rng_next(&rng) & 1 ? 1 : -1);
        for (size_t k = 0; k < d; k++)
            st_dense_row(out, i)[k] = (float)(by * (x[k] + noise * g[k]));
    }
    st_noise_table_free(&table);
    return 0;
}
