/* A victim trained independently of the adversary's base: the same text and shape, other weights and another order
 * (tests/independent/make.py). What both learned alike is all that the attacks can use. */
#include "pair_stage.h"

enum { PIECES = 253, FIRST_PIECE = 259 };

static uint32_t pieces[PIECES]; /* ids below are bytes, which the text hardly has */
static const size_t end = PIECES;

static void run_function(const char *base, struct stage *s, uint8_t seed)
{
    const struct st_model_opts f32 = {.dtype = ST_LOAD_F32, .n_threads = 2};
    struct st_err e;
    set_up_of(s, "tests/independent/first", (struct st_cov_opts){.alpha_e = 0}, seed);
    st_model_close(s->base);
    assert_ok(st_model_open(base, &f32, &s->base, &e), &e);
    for (uint32_t i = 0; i < PIECES; i++)
        pieces[i] = FIRST_PIECE + i;
    s->target.base = s->target.pair.base = s->base;
    s->target.text = (struct st_texts_ids){.ids = pieces, .ends = &end, .n = 1};
    attack(s, &st_atk_function);
    for (size_t i = 0; i < s->rows.n; i++)
        print_message("%s: %s %.3f\n", base, s->rows.at[i].variant, s->rows.at[i].score);
}

static void who_has_the_victims_own_base_reads_all(void **state)
{
    (void)state;
    struct stage s;
    run_function("tests/independent/first", &s, 91);
    assert_true(score(&s, "two-sided: types") > .95);
    tear_down(&s);
}

static void who_has_another_model_of_that_kind_reads_little(void **state)
{
    (void)state;
    for (uint8_t seed = 92; seed < 95; seed++) {
        struct stage s;
        run_function("tests/independent/second", &s, seed);
        assert_true(score(&s, "two-sided: types") < .15);
        tear_down(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(who_has_the_victims_own_base_reads_all, make_work, drop_work),
        cmocka_unit_test_setup_teardown(who_has_another_model_of_that_kind_reads_little, make_work, drop_work),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
