/* Tests of uniformity: right about what is uniform and what is not, and about masked rows. */
#include "record_make.h"

#include "audit/atk_uniform.h"

static void the_tail_of_chi_square_is_that_of_tables(void **state)
{
    (void)state;
    /* NIST/SEMATECH e-Handbook, 1.3.6.7.4: upper critical values at 100 degrees of freedom. */
    static const double table[][2] = {{118.498, 0.1}, {124.342, 0.05}, {135.807, 0.01}, {149.449, 0.001}};
    for (int i = 0; i < 4; i++)
        assert_true(fabs(st_chi_square_tail(table[i][0], 100) / table[i][1] - 1) < 0.02);
    assert_true(fabs(st_chi_square_tail(99.334, 100) - 0.5) < 0.005);
}

enum { ROWS = 128, D = 128, DRAWS = 300 };

static void a_uniform_source_is_rejected_as_often_as_the_level_says(void **state)
{
    (void)state;
    static uint32_t v[ROWS * D];
    struct st_rng rng;
    st_rng_seed(&rng, 12);
    int rejected[ST_UNIFORM_COUNT] = {0};
    for (int draw = 0; draw < DRAWS; draw++) {
        for (int i = 0; i < ROWS * D; i++)
            v[i] = (uint32_t)(st_rng_next(&rng) % ST_FQ);
        for (int t = 0; t < ST_UNIFORM_COUNT; t++)
            rejected[t] += st_uniform_p((enum st_uniform_test)t, v, ROWS, D) < 0.05;
    }
    for (int t = 0; t < ST_UNIFORM_COUNT; t++) /* 15 of 300 on average, deviation 3.8 */
        assert_in_range(rejected[t], 2, 32);
}

static void each_test_sees_the_fault_that_it_is_for(void **state)
{
    (void)state;
    static uint32_t v[ROWS * D];
    struct st_rng rng;
    for (int t = 0; t < ST_UNIFORM_COUNT; t++) {
        st_rng_seed(&rng, 13);
        for (int i = 0; i < ROWS * D; i++) {
            v[i] = (uint32_t)(st_rng_next(&rng) % ST_FQ);
            if (t == ST_UNIFORM_HIGH && i % 8 == 0)
                v[i] %= 1u << 28;
            if (t == ST_UNIFORM_LOW && i % 4 == 0)
                v[i] -= v[i] % 251;
            if (t == ST_UNIFORM_ALONG && i % 2 && i % 8 == 1)
                v[i] = v[i - 1];
            if (t == ST_UNIFORM_BETWEEN && i / D % 2 && i % 8 == 1)
                v[i] = v[i - D];
        }
        assert_true(st_uniform_p((enum st_uniform_test)t, v, ROWS, D) < 1e-6);
    }
    assert_true(isnan(st_uniform_p(ST_UNIFORM_HIGH, v, 1, D)));
}

static void masks_in_the_field_pass_and_bare_rows_do_not(void **state)
{
    (void)state;
    static const char *const schemes[] = {"otp", "lwe", NULL};
    for (int i = 0; i < 3; i++) {
        struct rig *r = rig_new(&(struct rig_opts){.scheme = schemes[i], .n_doc = 24, .len = 24});
        rig_run(r, &st_atk_uniform);
        assert_int_equal(r->rows.n, ST_UNIFORM_COUNT);
        for (size_t k = 0; k < r->rows.n; k++) {
            const struct st_row *row = &r->rows.at[k];
            assert_true(row->unprotected == 1);
            if (schemes[i]) /* 8 or 9 groups: one that rejects is one run in a thousand, two in a million */
                assert_true(row->score * (double)row->n < 1.5);
            else
                assert_true(row->score > 0.8);
        }
        rig_free(r);
    }
}

static void all_groups_together_keep_within_the_memory(void **state)
{
    (void)state;
    struct rig *r = rig_new(&(struct rig_opts){.scheme = "otp", .n_doc = 24, .len = 24});
    struct st_err e;
    r->audit.memory = 1 << 20; /* less than its rows take */
    rig_run(r, &st_atk_uniform);
    assert_int_equal(r->rows.n, ST_UNIFORM_COUNT);
    r->audit.memory = 256 << 10;
    expect_refusal(st_atk_uniform.run(&r->audit, &r->rows, &e), &e, ST_MEMORY, "groups of rows; --memory leaves each");
    rig_free(r);
}

static void floats_are_refused(void **state)
{
    (void)state;
    struct rig *r = rig_new(&(struct rig_opts){.scheme = "remo", .n_doc = 2, .len = 10});
    struct st_err e;
    expect_refusal(st_atk_uniform.run(&r->audit, &r->rows, &e), &e, ST_UNSUPPORTED, "rows are floats");
    rig_free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_tail_of_chi_square_is_that_of_tables),
        cmocka_unit_test(a_uniform_source_is_rejected_as_often_as_the_level_says),
        cmocka_unit_test(each_test_sees_the_fault_that_it_is_for),
        cmocka_unit_test(masks_in_the_field_pass_and_bare_rows_do_not),
        cmocka_unit_test(all_groups_together_keep_within_the_memory),
        cmocka_unit_test(floats_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
