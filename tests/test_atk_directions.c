/* Matching by direction: permuted and scaled private weights fall to whoever has the base; keys of a covariant
 * checkpoint turn directions, but not correlations over the vocabulary. */
#include "pair_stage.h"

#include "audit/directions.h"

enum { UNITS = 256, WIDTH = 64 };

static struct st_pool *pool;

static struct st_dense random_matrix(size_t n_row, size_t n_col, uint64_t seed)
{
    struct st_dense m;
    struct st_rng rng;
    struct st_err e;
    assert_ok(st_dense_new(&m, n_row, n_col, "test", &e), &e);
    st_rng_seed(&rng, seed);
    for (size_t i = 0; i < n_row * n_col; i++)
        m.p[i] = (float)(st_rng_unit(&rng) + st_rng_unit(&rng) + st_rng_unit(&rng) - 1.5);
    return m;
}

static double matched(const struct st_dense *seen, const struct st_dense *base, const uint32_t *order, uint32_t *guess)
{
    struct st_err e;
    size_t hits = 0;
    assert_ok(st_directions_match(pool, seen, base, guess, &e), &e);
    for (size_t i = 0; i < seen->n_row; i++)
        hits += guess[i] == order[i];
    return (double)hits / (double)seen->n_row;
}

static void shuffled_and_scaled_fine_tunes_are_matched(void **state)
{
    (void)state;
    static const double tuned[] = {0, 0.05, 0.1, 0.3};
    uint32_t order[UNITS], guess[UNITS];
    struct st_err e;
    for (size_t i = 0; i < sizeof tuned / sizeof *tuned; i++)
        for (uint64_t seed = 1; seed <= 5; seed++) {
            struct st_dense base = random_matrix(UNITS, WIDTH, seed), seen;
            assert_ok(st_directions_shuffle(&base, tuned[i], seed + 10, &seen, order, &e), &e);
            assert_true(matched(&seen, &base, order, guess) > 0.98);
            st_dense_free(&base);
            st_dense_free(&seen);
        }
}

static void the_order_of_one_matrix_undoes_the_columns_of_the_next(void **state)
{
    (void)state;
    struct st_dense up = random_matrix(UNITS, WIDTH, 1), down = random_matrix(WIDTH, UNITS, 2), up_seen, down_seen,
                    mixed = random_matrix(WIDTH, UNITS, 3), undone = random_matrix(WIDTH, UNITS, 4);
    uint32_t order[UNITS], guess[UNITS], rows[WIDTH], found[WIDTH];
    struct st_err e;
    assert_ok(st_directions_shuffle(&up, 0.1, 5, &up_seen, order, &e), &e);
    assert_ok(st_directions_shuffle(&down, 0.1, 6, &down_seen, rows, &e), &e);
    for (size_t r = 0; r < WIDTH; r++)
        for (size_t j = 0; j < UNITS; j++)
            st_dense_row(&mixed, r)[j] = st_dense_row(&down_seen, r)[order[j]];
    assert_true(matched(&up_seen, &up, order, guess) > 0.98);
    assert_true(matched(&mixed, &down, rows, found) < 0.2);
    st_directions_follow(&mixed, guess, &undone);
    assert_true(matched(&undone, &down, rows, found) > 0.98);
    struct st_dense *all[] = {&up, &down, &up_seen, &down_seen, &mixed, &undone};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        st_dense_free(all[i]);
}

static void weights_of_another_model_match_by_chance(void **state)
{
    (void)state;
    uint32_t order[UNITS], guess[UNITS];
    struct st_dense base = random_matrix(UNITS, WIDTH, 1), other = random_matrix(UNITS, WIDTH, 2);
    for (uint32_t i = 0; i < UNITS; i++)
        order[i] = i;
    assert_true(matched(&other, &base, order, guess) < 0.03);
    st_dense_free(&base);
    st_dense_free(&other);
}

static void keys_hide_directions_and_not_correlations(void **state)
{
    struct stage s;
    struct st_cov_opts o;
    (void)state;
    st_cov_opts_init(&o, ST_COV_PRESET_TIGHT);
    o.alpha_e = o.alpha_h = 0;
    set_up_demo(&s, o, 70);
    attack(&s, &st_atk_directions_pair);
    print_message("demo model, tight: as it is %.3f, correlations %.3f\n", score(&s, "as it is"),
                  score(&s, "correlations"));
    assert_true(score(&s, "as it is") < 0.01);
    assert_true(score(&s, "correlations") > 0.97);
    assert_true(s.rows.at[0].unprotected > 0.98);
    tear_down(&s);
}

static void correlations_tell_nothing_to_another_base(void **state)
{
    struct stage s;
    struct st_cov_opts o;
    (void)state;
    st_cov_opts_init(&o, ST_COV_PRESET_TIGHT);
    o.alpha_e = o.alpha_h = 0;
    set_up_demo(&s, o, 71);
    float **own = other_weights(s.base);
    attack(&s, &st_atk_directions_pair);
    print_message("another base: as it is %.4f, correlations %.4f\n", score(&s, "as it is"), score(&s, "correlations"));
    assert_true(score(&s, "as it is") < 0.01 && score(&s, "correlations") < 0.01);
    free_weights(s.base, own);
    tear_down(&s);
}

static int set_up_all(void **state)
{
    struct st_err e;
    (void)state;
    return st_pool_new(2, &pool, &e);
}

static int tear_down_all(void **state)
{
    (void)state;
    st_pool_free(pool);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shuffled_and_scaled_fine_tunes_are_matched),
        cmocka_unit_test(the_order_of_one_matrix_undoes_the_columns_of_the_next),
        cmocka_unit_test(weights_of_another_model_match_by_chance),
        cmocka_unit_test_setup_teardown(keys_hide_directions_and_not_correlations, make_work, drop_work),
        cmocka_unit_test_setup_teardown(correlations_tell_nothing_to_another_base, make_work, drop_work),
    };
    return cmocka_run_group_tests(tests, set_up_all, tear_down_all);
}
