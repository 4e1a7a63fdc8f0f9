/* The attacks of a server on weights, on stories260K and the demo model as `sotto obfuscate` makes them: the figures
 * that we publish. */
#include "pair_stage.h"

/* papers/attacks.md A11, first columns: alpha_e there is over the deviation of all rows, here over that of the trained
 * ones, which is smaller. */
#define ALL_OVER_TRAINED 1.14

/* Under five other keys (docs/audit.md has the table) one layer was within .028 of what stands here, the vote within
 * .014, all together within .05. */
#define SPREAD .06

static void row_sort_gives_the_published_figures(void **state)
{
    (void)state;
    static const struct {
        double noise, one, vote, all;
    } table[] = {
        {0, 1, 1, 1}, {.05, .996, .997, .999}, {.2, .875, .98, .992}, {.5, .185, .289, .967}, {1, .015, .02, .659}};
    need();
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct stage s;
        set_up(&s, ALL_OVER_TRAINED * table[i].noise, table[i].noise > 0 ? .05 : 0, (uint8_t)(40 + i));
        attack(&s, &st_atk_row_sort);
        print_message("alpha_e %g: one layer %.3f, vote %.3f, all %.3f\n", table[i].noise,
                      score(&s, "one layer: types"), score(&s, "vote of layers: types"),
                      score(&s, "all together: types"));
        assert_true(fabs(score(&s, "one layer: types") - table[i].one) < SPREAD);
        assert_true(fabs(score(&s, "vote of layers: types") - table[i].vote) < SPREAD);
        assert_true(fabs(score(&s, "all together: types") - table[i].all) < SPREAD);
        tear_down(&s);
    }
}

static void columns_first_recovers_all_at_every_noise_that_was_tried(void **state)
{
    (void)state;
    static const double noises[] = {0, .2, 1};
    need();
    for (size_t i = 0; i < sizeof noises / sizeof *noises; i++) {
        struct stage s;
        set_up(&s, ALL_OVER_TRAINED * noises[i], noises[i] > 0 ? .05 : 0, (uint8_t)(50 + i));
        attack(&s, &st_atk_columns);
        assert_true(score(&s, "both: types") > .985 && score(&s, "both: text") > .995);
        assert_true(score(&s, "embedding and gates: types") > .95 && score(&s, "head and downs: types") > .985);
        tear_down(&s);
    }
}

static void invariants_find_all_without_noise_and_less_with_it(void **state)
{
    (void)state;
    static const struct {
        const struct st_attack *attack;
        const char *variant;
        double at_half; /* most, at alpha_e .5 */
    } table[] = {{&st_atk_gate_ia, "means: types", .6},
                 {&st_atk_gate_ia, "means and squares: types", .8},
                 {&st_atk_attn_ia, "sorted: types", .6},
                 {&st_atk_attn_ia, "aligned: types", 1},
                 {&st_atk_nearest, "gram: types", .4}};
    struct stage clean, noisy;
    need();
    set_up(&clean, 0, 0, 60);
    set_up(&noisy, .5, .05, 61);
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        attack(&clean, table[i].attack);
        assert_true(score(&clean, table[i].variant) > .98);
        attack(&noisy, table[i].attack);
        assert_true(score(&noisy, table[i].variant) <= table[i].at_half);
    }
    attack(&noisy, &st_atk_attn_ia);
    assert_true(score(&noisy, "aligned: types") > score(&noisy, "sorted: types") + .2);
    attack(&clean, &st_atk_nearest);
    assert_true(score(&clean, "as it is: types") < .05);
    tear_down(&clean);
    tear_down(&noisy);
}

/* Random weights in the shape of the base: what somebody has who took another model. */
static void against_another_base_all_are_at_chance(void **state)
{
    (void)state;
    static const struct st_attack *const all[] = {&st_atk_row_sort, &st_atk_columns, &st_atk_gate_ia, &st_atk_attn_ia,
                                                  &st_atk_nearest};
    struct st_rng rng;
    struct stage s;
    need();
    set_up(&s, 0, 0, 62);
    st_rng_seed(&rng, 3);
    for (int i = 0; i < s.base->plan.n_weight; i++) {
        struct st_mat *m = &s.base->mats[i];
        size_t n = (size_t)m->n_out * m->n_in;
        float *p = malloc(n * sizeof *p);
        assert_non_null(p);
        for (size_t k = 0; k < n; k++)
            p[k] = m->n_in == 1 ? 1 : (float)(st_rng_unit(&rng) + st_rng_unit(&rng) + st_rng_unit(&rng) - 1.5);
        m->data = p;
    }
    for (size_t k = 0; k < sizeof all / sizeof *all; k++) {
        attack(&s, all[k]);
        for (size_t i = 0; i < s.rows.n; i++)
            if (strstr(s.rows.at[i].variant, "types"))
                assert_true(s.rows.at[i].score < .03 && s.rows.at[i].chance < .003);
    }
    for (int i = 0; i < s.base->plan.n_weight; i++)
        free((void *)s.base->mats[i].data);
    tear_down(&s);
}

static void pairs_that_do_not_belong_together_are_named(void **state)
{
    (void)state;
    struct st_err e;
    struct stage s;
    need();
    set_up(&s, 0, 0, 63);
    struct st_audit a = {.target = &s.target, .pool = s.pool, .seed = 1, .memory = 1 << 30};
    struct st_model *seen = s.seen;
    seen->config.n_layer--;
    expect_refusal(st_atk_columns.run(&a, &s.rows, &e), &e, ST_INPUT, "has 4 layers, its base 5");
    expect_refusal(st_atk_row_sort.run(&a, &s.rows, &e), &e, ST_INPUT, "has 4 layers, its base 5");
    seen->config.n_layer++;
    seen->config.n_vocab--;
    expect_refusal(st_atk_nearest.run(&a, &s.rows, &e), &e, ST_INPUT, "has 511 ids, its base 512");
    seen->config.n_vocab++;
    for (int i = 0; i < seen->plan.n_weight; i++)
        if (seen->plan.weights[i].role == ST_ROLE_GATE)
            seen->plan.weights[i].role = ST_ROLE_NONE;
    expect_refusal(st_atk_gate_ia.run(&a, &s.rows, &e), &e, ST_UNSUPPORTED, "no layer has gate");
    tear_down(&s);
}

/* The weight of a role in layer 0, with values of its own that begin with n times x. */
struct own {
    struct st_mat *mat, was;
    const char *name;
    float *values;
};

static struct own own_values(struct st_model *m, enum st_role role, size_t n, float x)
{
    int w = 0;
    while (m->plan.weights[w].role != role)
        w++;
    struct own o = {.mat = &m->mats[w], .was = m->mats[w], .name = m->plan.weights[w].name};
    size_t all = (size_t)m->plan.weights[w].n_out * m->plan.weights[w].n_in;
    o.values = malloc(all * sizeof *o.values);
    assert_non_null(o.values);
    st_convert(o.was.dtype, o.was.data, ST_DTYPE_F32, o.values, all);
    for (size_t i = 0; i < n && i < all; i++)
        o.values[i] = x;
    o.mat->data = o.values;
    o.mat->dtype = ST_DTYPE_F32;
    return o;
}

static void give_back(struct own *o)
{
    *o->mat = o->was;
    free(o->values);
}

static void values_that_are_no_numbers_are_refused_by_name(void **state)
{
    (void)state;
    static const enum st_role bad[] = {ST_ROLE_GATE, ST_ROLE_FFN_NORM};
    static const float values[] = {NAN, -INFINITY};
    struct st_err e;
    struct stage s;
    need();
    set_up(&s, 0, 0, 65);
    struct st_audit a = {.target = &s.target, .pool = s.pool, .seed = 1, .memory = 1 << 30};
    for (int i = 0; i < 4; i++) {
        struct own o = own_values(s.seen, bad[i / 2], 1, values[i % 2]);
        expect_refusal(st_atk_gate_ia.run(&a, &s.rows, &e), &e, ST_INPUT, o.name);
        give_back(&o);
    }
    /* Each a number, and their products none. */
    struct own gate = own_values(s.seen, ST_ROLE_GATE, 1, 3e38F), norm = own_values(s.seen, ST_ROLE_FFN_NORM, 1, 3e38F);
    expect_refusal(st_atk_gate_ia.run(&a, &s.rows, &e), &e, ST_INPUT, gate.name);
    give_back(&gate);
    give_back(&norm);
    tear_down(&s);
}

static void what_does_not_fit_the_memory_is_refused(void **state)
{
    (void)state;
    static const struct st_attack *const all[] = {
        &st_atk_row_sort, &st_atk_columns, &st_atk_gate_ia,     &st_atk_attn_ia,  &st_atk_nearest,
        &st_atk_function, &st_atk_ridge,   &st_atk_known_pairs, &st_atk_inverter, &st_atk_states};
    struct st_err e;
    struct stage s;
    need();
    set_up(&s, 0, 0, 64);
    struct st_audit a = {.target = &s.target, .pool = s.pool, .seed = 1, .memory = 100 << 10};
    for (size_t k = 0; k < sizeof all / sizeof *all; k++)
        expect_refusal(all[k]->run(&a, &s.rows, &e), &e, ST_MEMORY, "--memory leaves it 0 MiB");
    tear_down(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(row_sort_gives_the_published_figures, make_work, drop_work),
        cmocka_unit_test_setup_teardown(columns_first_recovers_all_at_every_noise_that_was_tried, make_work, drop_work),
        cmocka_unit_test_setup_teardown(invariants_find_all_without_noise_and_less_with_it, make_work, drop_work),
        cmocka_unit_test_setup_teardown(against_another_base_all_are_at_chance, make_work, drop_work),
        cmocka_unit_test_setup_teardown(pairs_that_do_not_belong_together_are_named, make_work, drop_work),
        cmocka_unit_test_setup_teardown(values_that_are_no_numbers_are_refused_by_name, make_work, drop_work),
        cmocka_unit_test_setup_teardown(what_does_not_fit_the_memory_is_refused, make_work, drop_work),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
