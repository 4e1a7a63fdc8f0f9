/* Inner states of an obfuscated model, on stories260K: letters with names and numbers, which the base cannot guess. */
#include "audit/records.h"
#include "pair_stage.h"

/* The stage's text are letters. */
static void set_up_letters(struct stage *s, int n_letter, uint8_t seed)
{
    struct st_rng rng;
    struct st_buf all = {0};
    struct st_err e;
    set_up(s, 0, 0, seed);
    st_rng_seed(&rng, seed);
    for (int i = 0; i < n_letter; i++) {
        struct st_letter letter;
        st_letter_make(&rng, &letter);
        st_buf_addf(&all, "%s%s", i ? "<|endoftext|>" : "", letter.text);
    }
    st_text_free(&s->text);
    s->text = (struct st_text_made){.cap_end = 0};
    assert_ok(st_text_parse(all.p, all.len, "letters", s->base, s->tok, 256, &s->text, &e), &e);
    s->target.text = s->text.view;
    st_buf_free(&all);
}

static void print_rows(const struct stage *s)
{
    for (size_t i = 0; i < s->rows.n; i++) {
        const struct st_row *r = &s->rows.at[i];
        print_message("%s %.3f [%.3f, %.3f] (chance %.3f, unprotected %.3f)\n", r->variant, r->score, r->low, r->high,
                      r->chance, r->unprotected);
    }
}

static void states_tell_letters_where_no_noise_is(void **state)
{
    struct stage s;
    (void)state;
    need();
    set_up_letters(&s, 3, 76);
    attack(&s, &st_atk_states);
    print_rows(&s);
    assert_int_equal(s.rows.n, 5);
    for (size_t i = 0; i < 3; i++) {
        const struct st_row *r = &s.rows.at[i];
        /* Inner products of the first positions are few, and leave more than one candidate. */
        assert_true(r->score > (i == 1 ? .3 : .85) && fabs(r->score - r->unprotected) < .02);
        assert_true(r->chance < .3 && r->low > r->chance);
    }
    /* The order of heads, which the key changes, keeps the published form from what the base itself gives away. */
    assert_true(score(&s, "gradient, attention scores of layer 0") < .1);
    assert_true(score(&s, "gradient, hidden states of layer 0, 128 pairs") > .9);
    tear_down(&s);
}

/* Nothing was changed: the published form reads scores as well. */
static void the_gradient_reads_scores_that_no_key_changed(void **state)
{
    struct stage s;
    (void)state;
    need();
    set_up_letters(&s, 2, 78);
    uint32_t *same = calloc(s.base->config.n_vocab, sizeof *same);
    assert_non_null(same);
    for (uint32_t i = 0; i < s.base->config.n_vocab; i++)
        same[i] = i;
    s.target.pair.seen = s.base;
    s.target.pair.truth = same;
    attack(&s, &st_atk_states);
    print_rows(&s);
    assert_true(score(&s, "gradient, attention scores of layer 0") > .8);
    free(same);
    tear_down(&s);
}

static void states_tell_nothing_to_another_base(void **state)
{
    struct stage s;
    (void)state;
    need();
    set_up_letters(&s, 1, 77);
    float **own = other_weights(s.base);
    attack(&s, &st_atk_states);
    print_rows(&s);
    for (size_t i = 0; i < s.rows.n; i++)
        assert_true(s.rows.at[i].score < .1 && s.rows.at[i].low <= s.rows.at[i].chance);
    free_weights(s.base, own);
    tear_down(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(states_tell_letters_where_no_noise_is, make_work, drop_work),
        cmocka_unit_test_setup_teardown(the_gradient_reads_scores_that_no_key_changed, make_work, drop_work),
        cmocka_unit_test_setup_teardown(states_tell_nothing_to_another_base, make_work, drop_work),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
