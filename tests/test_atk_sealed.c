/* What is read in a sealed file without a key, as values and by direction: everything that a policy leaves outside, and
 * nothing of what lies inside. */
#include "sealed_stage.h"

#include "audit/atk_weights.h"

static void vectors_count_when_they_are_within_one_percent(void **state)
{
    (void)state;
    const float want[] = {1, 2, 0, 0, 3, 4, 1, 1}, got[] = {1.001F, 2, 0, 0, 3, 4.2F, -1, -1};
    uint64_t hits = 0, n = 0;
    st_weights_count(got, want, 4, 2, &hits, &n);
    assert_int_equal(n, 3); /* a vector of zeros is nothing to recover */
    assert_int_equal(hits, 1);
}

static void a_file_with_everything_outside_is_read_whole(void **state)
{
    (void)state;
    static const char policy[] = "default = outside\n";
    struct sealed_stage s;
    struct st_err e;
    char dir[64], path[80];
    tiny_mkdir(dir);
    tiny_save(dir, "open.policy", policy, sizeof policy - 1);
    snprintf(path, sizeof path, "%s/open.policy", dir);
    sealed_set_up(&s, NULL, path);
    sealed_attack(&s, &st_atk_weights);
    assert_true(sealed_row(&s, "all weights")->score > 0.999);
    assert_null(sealed_row(&s, "inside"));
    st_rows_free(&s.rows);
    expect_refusal(st_atk_directions.run(&s.audit, &s.rows, &e), &e, ST_UNSUPPORTED, "no matrix lies inside");
    sealed_tear_down(&s);
    tiny_rmdir(dir);
}

/* Keys and nonces come from the system: no seed makes a run the same. Five deviations are one run in three million. */
static void assert_guessed(const struct st_row *row)
{
    double deviation = sqrt(row->chance * (1 - row->chance) / (double)row->n);
    if (row->score > row->chance + 5 * deviation)
        fail_msg("%s: %.4f, chance %.4f, deviation %.4f", row->variant, row->score, row->chance, deviation);
    assert_true(row->unprotected > 0.98);
}

static void a_file_with_everything_inside_tells_nothing(void **state)
{
    (void)state;
    struct sealed_stage s;
    sealed_set_up(&s, NULL, "all-inside");
    sealed_attack(&s, &st_atk_weights);
    assert_true(sealed_row(&s, "all weights")->score == 0 && sealed_row(&s, "inside")->score == 0);
    sealed_attack(&s, &st_atk_directions);
    assert_guessed(sealed_row(&s, "inside"));
    sealed_tear_down(&s);
}

static void of_the_policy_of_the_paper_two_matrices_are_in_the_open(void **state)
{
    (void)state;
    struct sealed_stage s;
    sealed_set_up(&s, NULL, "paper");
    sealed_attack(&s, &st_atk_weights);
    const struct st_row *all = sealed_row(&s, "all weights");
    assert_true(all->score > 0.2 && all->score < 0.25); /* attention output and head, by their shapes */
    assert_true(sealed_row(&s, "inside")->score == 0);
    sealed_attack(&s, &st_atk_directions);
    assert_guessed(sealed_row(&s, "inside"));
    sealed_tear_down(&s);
}

static void the_same_seed_gives_the_same_rows(void **state)
{
    (void)state;
    struct sealed_stage s;
    sealed_set_up(&s, NULL, "all-inside");
    sealed_attack(&s, &st_atk_directions);
    struct st_row first = s.rows.at[0];
    sealed_attack(&s, &st_atk_directions);
    assert_true(first.score == s.rows.at[0].score && first.unprotected == s.rows.at[0].unprotected);
    sealed_tear_down(&s);
}

static void without_a_sealed_file_it_says_so(void **state)
{
    (void)state;
    const struct st_target none = {.kinds = 0};
    const struct st_audit a = {.target = &none, .memory = 1 << 20};
    struct st_rows rows = {0};
    struct st_err e;
    expect_refusal(st_atk_weights.run(&a, &rows, &e), &e, ST_UNSUPPORTED, "needs a sealed model");
    expect_refusal(st_atk_directions.run(&a, &rows, &e), &e, ST_UNSUPPORTED, "needs a sealed model");
    expect_refusal(st_atk_memory.run(&a, &rows, &e), &e, ST_UNSUPPORTED, "needs a sealed model");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vectors_count_when_they_are_within_one_percent),
        cmocka_unit_test(a_file_with_everything_outside_is_read_whole),
        cmocka_unit_test(a_file_with_everything_inside_tells_nothing),
        cmocka_unit_test(of_the_policy_of_the_paper_two_matrices_are_in_the_open),
        cmocka_unit_test(the_same_seed_gives_the_same_rows),
        cmocka_unit_test(without_a_sealed_file_it_says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
