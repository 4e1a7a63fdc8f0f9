/* The attacks of a server on weights, on the demo model: what docs/noise_sweep.md says of noise. */
#include "pair_stage.h"

static void the_demo_model_hides_nothing_under_any_noise_that_leaves_it_usable(void **state)
{
    (void)state;
    static const struct {
        struct st_cov_opts o;
        double sort; /* least of the row sort's strongest form */
    } table[] = {
        {{.alpha_e = 1, .alpha_h = .2, .noise_all = .1}, .3},
        {{.preset = ST_COV_PRESET_PAPER, .lambda = .3, .alpha_e = 1, .alpha_h = .2}, 0},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct stage s;
        set_up_demo(&s, table[i].o, (uint8_t)(70 + i));
        attack(&s, &st_atk_columns);
        print_message("columns: %.3f %.3f %.3f\n", score(&s, "embedding and gates: types"),
                      score(&s, "head and downs: types"), score(&s, "both: types"));
        assert_true(score(&s, "both: types") > .97);
        if (table[i].sort > 0) {
            attack(&s, &st_atk_row_sort);
            print_message("row sort: %.3f %.3f\n", score(&s, "one layer: types"), score(&s, "all together: types"));
            assert_true(score(&s, "all together: types") > table[i].sort);
        }
        tear_down(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_demo_model_hides_nothing_under_any_noise_that_leaves_it_usable, make_work,
                                        drop_work),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
