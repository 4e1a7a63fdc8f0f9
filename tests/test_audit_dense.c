/* The arithmetic that attacks stand on, against the plainest way to do it. */
#include "audit/dense.h"
#include "audit/features.h"
#include "audit/rows.h"
#include "base/hooks.h"
#include "expect.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct st_dense filled(size_t n_row, size_t n_col, uint64_t seed)
{
    struct st_dense d;
    struct st_rng rng;
    struct st_err e;
    assert_ok(st_dense_new(&d, n_row, n_col, "test", &e), &e);
    st_rng_seed(&rng, seed);
    for (size_t i = 0; i < n_row * n_col; i++)
        d.p[i] = (float)(st_rng_unit(&rng) - .3);
    return d;
}

static struct st_pool *threads(int n)
{
    struct st_pool *p;
    struct st_err e;
    assert_ok(st_pool_new(n, &p, &e), &e);
    return p;
}

static void products_are_products_and_do_not_depend_on_threads(void **state)
{
    (void)state;
    struct st_dense a = filled(300, 33, 1), b = filled(33, 41, 2), bt = filled(41, 33, 0), c[2], ct;
    struct st_err e;
    for (size_t i = 0; i < 33; i++)
        for (size_t j = 0; j < 41; j++)
            st_dense_row(&bt, j)[i] = st_dense_row(&b, i)[j];
    for (int i = 0; i < 2; i++) {
        struct st_pool *p = threads(i + 1);
        assert_ok(st_dense_new(&c[i], 300, 41, "test", &e), &e);
        st_dense_product(p, &a, &b, false, &c[i]);
        if (i) {
            assert_ok(st_dense_new(&ct, 300, 41, "test", &e), &e);
            st_dense_product(p, &a, &bt, true, &ct);
        }
        st_pool_free(p);
    }
    assert_memory_equal(c[0].p, c[1].p, 300 * 41 * sizeof(float));
    for (size_t i = 0; i < 300; i++)
        for (size_t j = 0; j < 41; j++) {
            double sum = 0;
            for (size_t k = 0; k < 33; k++)
                sum += (double)st_dense_row(&a, i)[k] * st_dense_row(&b, k)[j];
            assert_true(fabs(sum - st_dense_row(&c[0], i)[j]) < 1e-5);
            assert_true(fabs(sum - st_dense_row(&ct, i)[j]) < 1e-5);
        }
    struct st_dense *all[] = {&a, &b, &bt, &c[0], &c[1], &ct};
    for (size_t i = 0; i < 6; i++)
        st_dense_free(all[i]);
}

static void rows_are_sorted_each_by_itself(void **state)
{
    (void)state;
    struct st_dense a = filled(5, 1000, 3);
    struct st_pool *p = threads(2);
    struct st_err e;
    double before[5] = {0}, after[5] = {0};
    for (size_t r = 0; r < 5; r++)
        for (size_t k = 0; k < 1000; k++)
            before[r] += st_dense_row(&a, r)[k];
    assert_ok(st_dense_sort_rows(p, &a, &e), &e);
    for (size_t r = 0; r < 5; r++)
        for (size_t k = 0; k < 1000; k++) {
            after[r] += st_dense_row(&a, r)[k];
            assert_true(k == 0 || st_dense_row(&a, r)[k - 1] <= st_dense_row(&a, r)[k]);
        }
    for (size_t r = 0; r < 5; r++)
        assert_true(fabs(before[r] - after[r]) < 1e-9);
    st_dense_free(&a);
    st_pool_free(p);
}

static int ascending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void values_of_any_size_and_sign_are_sorted(void **state)
{
    (void)state;
    struct st_rng rng;
    float x[777], y[777];
    uint32_t spare[2 * 777];
    st_rng_seed(&rng, 31);
    for (size_t n = 1; n <= 777; n += n < 9 ? 1 : 97) {
        for (size_t i = 0; i < n; i++)
            x[i] = y[i] = (float)((st_rng_unit(&rng) - .5) * pow(10, 60 * st_rng_unit(&rng) - 30));
        x[0] = y[0] = n % 2 ? INFINITY : 0;
        x[n / 2] = y[n / 2] = n % 3 ? -INFINITY : FLT_MIN / 8;
        st_dense_sort(x, n, spare);
        qsort(y, n, sizeof *y, ascending);
        assert_memory_equal(x, y, n * sizeof *x);
    }
}

static void the_nearest_row_is_the_nearest(void **state)
{
    (void)state;
    enum { N = 200, M = 1100, D = 7 };
    struct st_dense a = filled(N, D, 4), b = filled(M, D, 5), d;
    struct st_pool *p = threads(2);
    struct st_err e;
    uint32_t best[N];
    float first[N], second[N];
    assert_ok(st_dense_new(&d, N, M, "test", &e), &e);
    assert_ok(st_dense_distances(p, &a, &b, &d, &e), &e);
    assert_ok(st_dense_nearest(p, &a, &b, best, first, second, &e), &e);
    for (size_t i = 0; i < N; i++) {
        double low = DBL_MAX, next = DBL_MAX;
        size_t at = 0;
        for (size_t j = 0; j < M; j++) {
            double sum = 0;
            for (size_t k = 0; k < D; k++)
                sum += pow((double)st_dense_row(&a, i)[k] - st_dense_row(&b, j)[k], 2);
            assert_true(fabs(sum - st_dense_row(&d, i)[j]) < 1e-5);
            if (sum < low) {
                next = low;
                low = sum;
                at = j;
            } else if (sum < next)
                next = sum;
        }
        assert_int_equal(best[i], at);
        assert_true(fabs(low - first[i]) < 1e-5 && fabs(next - second[i]) < 1e-5);
    }
    st_dense_free(&a);
    st_dense_free(&b);
    st_dense_free(&d);
    st_pool_free(p);
}

static void blocks_of_a_cancelled_pool_are_left_out(void **state)
{
    (void)state;
    struct st_dense a = filled(600, 3, 40), b = filled(20, 3, 41), c;
    struct st_pool *p = threads(2);
    struct st_err e;
    uint32_t best[600];
    volatile sig_atomic_t stop = 1;
    assert_ok(st_dense_new(&c, 600, 20, "test", &e), &e);
    st_pool_cancel_by(p, &stop);
    assert_true(st_pool_cancelled(p));
    st_dense_product(p, &a, &b, true, &c);
    assert_true(c.p[0] == 0 && c.p[600 * 20 - 1] == 0);
    expect_refusal(st_dense_nearest(p, &a, &b, best, NULL, NULL, &e), &e, ST_IO, "cancelled");
    expect_refusal(st_dense_distances(p, &a, &b, &c, &e), &e, ST_IO, "cancelled");
    stop = 0;
    assert_ok(st_dense_nearest(p, &a, &b, best, NULL, NULL, &e), &e);
    st_pool_free(p);
    st_dense_free(&a);
    st_dense_free(&b);
    st_dense_free(&c);
}

static double total(const struct st_dense *cost, const uint32_t *column)
{
    double sum = 0;
    for (size_t i = 0; i < cost->n_row; i++)
        sum += st_dense_row(cost, i)[column[i]];
    return sum;
}

/* The best of all permutations of what is left. */
static double best_of_all(const struct st_dense *cost, uint32_t *column, size_t at)
{
    if (at == cost->n_row)
        return total(cost, column);
    double best = DBL_MAX;
    for (size_t i = at; i < cost->n_row; i++) {
        uint32_t x = column[at];
        column[at] = column[i];
        column[i] = x;
        double sum = best_of_all(cost, column, at + 1);
        best = sum < best ? sum : best;
        x = column[at];
        column[at] = column[i];
        column[i] = x;
    }
    return best;
}

static void an_assignment_is_the_cheapest(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 60; seed++) {
        size_t n = 1 + seed % 7;
        struct st_dense cost = filled(n, n, 10 + seed);
        uint32_t column[7], all[7];
        bool used[7] = {0};
        struct st_err e;
        for (size_t i = 0; i < n * n; i++) /* ties, too */
            cost.p[i] = seed % 2 ? roundf(cost.p[i] * 6) : cost.p[i];
        assert_ok(st_dense_assign(&cost, column, &e), &e);
        for (size_t i = 0; i < n; i++) {
            assert_true(column[i] < n && !used[column[i]]);
            used[column[i]] = true;
            all[i] = (uint32_t)i;
        }
        assert_true(fabs(total(&cost, column) - best_of_all(&cost, all, 0)) < 1e-5);
        st_dense_free(&cost);
    }
}

static void a_hidden_permutation_is_found_among_many(void **state)
{
    (void)state;
    enum { N = 400 };
    struct st_dense cost = filled(N, N, 77);
    uint32_t column[N];
    struct st_err e;
    for (size_t i = 0; i < N; i++)
        st_dense_row(&cost, i)[(i * 7 + 3) % N] -= 1;
    assert_ok(st_dense_assign(&cost, column, &e), &e);
    for (size_t i = 0; i < N; i++)
        assert_int_equal(column[i], (i * 7 + 3) % N);
    st_dense_free(&cost);
}

/* An assignment is the cheapest when no ring of rows gains by passing its columns on: shortest paths along "takes the
 * column of" settle (Bellman and Ford). */
static bool no_ring_gains(const struct st_dense *cost, const uint32_t *column)
{
    size_t n = cost->n_row;
    double far[256];
    bool moved = true;
    assert_in_range(n, 1, 256);
    memset(far, 0, sizeof far);
    for (size_t round = 0; moved && round <= n; round++) {
        moved = false;
        for (size_t i = 0; i < n; i++)
            for (size_t k = 0; k < n; k++) {
                double to = far[i] + st_dense_row(cost, i)[column[k]] - st_dense_row(cost, i)[column[i]];
                if (to < far[k] - 1e-6) {
                    far[k] = to;
                    moved = true;
                }
            }
    }
    return !moved;
}

static void shortcuts_of_an_assignment_leave_its_cost_as_it_is(void **state)
{
    (void)state;
    enum { N = 230, D = 4 };
    struct st_pool *p = threads(2);
    struct st_dense cost;
    struct st_err e;
    uint32_t column[N];
    assert_ok(st_dense_new(&cost, N, N, "test", &e), &e);
    for (uint64_t seed = 0; seed < 6; seed++) {
        struct st_dense a = filled(N, D, 200 + seed), b = filled(N, D, 300 + seed);
        bool used[N] = {0};
        assert_ok(st_dense_distances(p, &a, &b, &cost, &e), &e);
        for (size_t i = 0; seed % 3 == 2 && i < N * N; i++) /* many rows that want the same, many ties */
            cost.p[i] = roundf(cost.p[i] * 8);
        assert_ok(st_dense_assign(&cost, column, &e), &e);
        for (size_t i = 0; i < N; i++) {
            assert_true(column[i] < N && !used[column[i]]);
            used[column[i]] = true;
        }
        assert_true(no_ring_gains(&cost, column));
        uint32_t x = column[3];
        column[3] = column[90];
        column[90] = x;
        assert_false(no_ring_gains(&cost, column));
        st_dense_free(&a);
        st_dense_free(&b);
    }
    cost.p[N + 3] = NAN;
    expect_refusal(st_dense_assign(&cost, column, &e), &e, ST_INPUT, "the cost of row 1 and column 3 is not finite");
    st_dense_free(&cost);
    st_pool_free(p);
}

static void whitened_rows_are_white(void **state)
{
    (void)state;
    enum { N = 3, ROWS = 20000 };
    static const double mix[N][N] = {{2, .3, 0}, {0, 1, -.7}, {.5, 0, .2}};
    struct st_dense x = filled(ROWS, N, 6), y, z, w, m;
    double c[N * N] = {0}, mean[N] = {0};
    struct st_pool *p = threads(1);
    struct st_err e;
    assert_ok(st_dense_new(&m, N, N, "test", &e), &e);
    assert_ok(st_dense_new(&w, N, N, "test", &e), &e);
    assert_ok(st_dense_new(&y, ROWS, N, "test", &e), &e);
    assert_ok(st_dense_new(&z, ROWS, N, "test", &e), &e);
    for (size_t i = 0; i < N * N; i++)
        m.p[i] = (float)mix[i / N][i % N];
    st_dense_product(p, &x, &m, false, &y);
    for (size_t r = 0; r < ROWS; r++)
        for (size_t k = 0; k < N; k++)
            mean[k] += st_dense_row(&y, r)[k] / ROWS;
    for (size_t r = 0; r < ROWS; r++)
        for (size_t i = 0; i < N * N; i++)
            c[i] += (st_dense_row(&y, r)[i / N] - mean[i / N]) * (st_dense_row(&y, r)[i % N] - mean[i % N]) / ROWS;
    assert_ok(st_dense_whitener(c, N, &w, &e), &e);
    st_dense_product(p, &y, &w, false, &z);
    double cov[N * N] = {0}, middle[N] = {0};
    for (size_t r = 0; r < ROWS; r++)
        for (size_t k = 0; k < N; k++)
            middle[k] += st_dense_row(&z, r)[k] / ROWS;
    for (size_t r = 0; r < ROWS; r++)
        for (size_t i = 0; i < N * N; i++)
            cov[i] +=
                (st_dense_row(&z, r)[i / N] - middle[i / N]) * (st_dense_row(&z, r)[i % N] - middle[i % N]) / ROWS;
    for (size_t i = 0; i < N * N; i++)
        assert_true(fabs(cov[i] - (i / N == i % N)) < 1e-3);
    double flat[4] = {1, 1, 1, 1};
    assert_int_equal(st_dense_whitener(flat, 2, &w, &e), ST_INPUT);
    struct st_dense *all[] = {&x, &y, &z, &w, &m};
    for (size_t i = 0; i < 5; i++)
        st_dense_free(all[i]);
    st_pool_free(p);
}

static void intervals_hold_the_truth_as_often_as_they_say(void **state)
{
    (void)state;
    struct st_rng rng;
    int shares = 0, means = 0;
    st_rng_seed(&rng, 9);
    for (int t = 0; t < 400; t++) {
        struct st_row row = {0};
        double values[60];
        uint64_t hits = 0;
        for (int i = 0; i < 60; i++) {
            hits += st_rng_unit(&rng) < .3;
            values[i] = st_rng_unit(&rng);
        }
        st_row_share(&row, hits, 60);
        shares += row.low <= .3 && .3 <= row.high;
        st_row_mean(&row, values, 60, (uint64_t)t);
        means += row.low <= .5 && .5 <= row.high;
    }
    assert_in_range(shares, 370, 395);
    assert_in_range(means, 360, 395);
    struct st_row row = {0};
    st_row_share(&row, 0, 10);
    assert_true(row.score == 0 && row.low == 0 && row.high > .2 && row.high < .4);
    st_row_share(&row, 10, 10);
    assert_true(row.score == 1 && row.high == 1 && row.low > .6);
    st_row_share(&row, 0, 0);
    assert_true(row.low == 0 && row.high == 1);
    const double ones[10] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    st_row_mean(&row, ones, 10, 1);
    assert_true(row.score == 1 && row.high == 1 && row.low > .6 && row.low < .9);
}

static void where_no_distance_is_a_number_the_row_is_still_one_of_them(void **state)
{
    struct st_err e = {0};
    struct st_dense a, b;
    struct st_pool *pool = NULL;
    uint32_t best[3] = {UINT32_MAX, UINT32_MAX, UINT32_MAX};
    (void)state;
    assert_ok(st_pool_new(1, &pool, &e), &e);
    assert_ok(st_dense_new(&a, 3, 4, "rows", &e), &e);
    assert_ok(st_dense_new(&b, 5, 4, "rows", &e), &e);
    for (size_t i = 0; i < 12; i++)
        a.p[i] = i < 4 ? NAN : i < 8 ? FLT_MAX : 1; /* products of the second overflow */
    for (size_t i = 0; i < 20; i++)
        b.p[i] = (float)i;
    assert_ok(st_dense_nearest(pool, &a, &b, best, NULL, NULL, &e), &e);
    for (int i = 0; i < 3; i++)
        assert_true(best[i] < 5);
    st_dense_free(&a);
    st_dense_free(&b);
    st_pool_free(pool);
}

static void pairs_of_heads_that_are_none_are_refused(void **state)
{
    /* 8 heads of 3: pairs of them would reach behind the last column. */
    static const uint32_t none[] = {0, 1, 3, 5, 48};
    struct st_err e = {0};
    struct st_dense rows, columns, out = {0};
    struct st_pool *pool = NULL;
    (void)state;
    assert_ok(st_pool_new(1, &pool, &e), &e);
    assert_ok(st_dense_new(&rows, 5, 4, "rows", &e), &e);
    assert_ok(st_dense_new(&columns, 24, 4, "columns", &e), &e);
    for (size_t i = 0; i < sizeof none / sizeof *none; i++)
        expect_refusal(st_pair_leverages(pool, &rows, &columns, none[i], false, &out, &e), &e, ST_UNSUPPORTED,
                       "24 columns are not whole heads");
    assert_ok(st_pair_leverages(pool, &rows, &columns, 6, false, &out, &e), &e);
    assert_int_equal(out.n_col, 12);
    st_dense_free(&out);
    st_dense_free(&rows);
    st_dense_free(&columns);
    st_pool_free(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(where_no_distance_is_a_number_the_row_is_still_one_of_them),
        cmocka_unit_test(pairs_of_heads_that_are_none_are_refused),
        cmocka_unit_test(products_are_products_and_do_not_depend_on_threads),
        cmocka_unit_test(rows_are_sorted_each_by_itself),
        cmocka_unit_test(values_of_any_size_and_sign_are_sorted),
        cmocka_unit_test(the_nearest_row_is_the_nearest),
        cmocka_unit_test(blocks_of_a_cancelled_pool_are_left_out),
        cmocka_unit_test(an_assignment_is_the_cheapest),
        cmocka_unit_test(a_hidden_permutation_is_found_among_many),
        cmocka_unit_test(shortcuts_of_an_assignment_leave_its_cost_as_it_is),
        cmocka_unit_test(whitened_rows_are_white),
        cmocka_unit_test(intervals_hold_the_truth_as_often_as_they_say),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
