/* What attacks are scored by: known answers, and BLEU-4 as other implementations compute it. */
#include "audit/metrics.h"
#include "audit/records.h"
#include "expect.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define NONE 5

static void near(double got, double want)
{
    if (!(fabs(got - want) < 1e-6))
        fail_msg("want %.9f, got %.9f", want, got);
}

static void types_count_only_where_there_is_a_truth(void **state)
{
    static const uint32_t truth[] = {0, 1, 2, NONE, 3}, guess[] = {0, 2, 2, 4, 1};
    static const bool used[] = {true, true, false, false, false};
    struct st_row row = {0};
    (void)state;
    st_score_types(&row, guess, truth, 5, NONE, NULL);
    near(row.score, 0.5);
    assert_int_equal(row.n, 4);
    assert_true(row.low > 0.1 && row.high < 0.9);
    st_score_types(&row, guess, truth, 5, NONE, used);
    near(row.score, 0.5);
    assert_int_equal(row.n, 2);
}

static void any_of_the_first_k_counts(void **state)
{
    static const uint32_t truth[] = {0, 1, 2}, guess[] = {3, 0, 1, 4, 0, 4};
    struct st_row row = {0};
    (void)state;
    st_score_top_k(&row, guess, 2, truth, 3, NONE, NULL);
    near(row.score, 2 / 3.0);
}

static void text_is_weighted_by_its_tokens(void **state)
{
    static const uint32_t ids[] = {0, 0, 0, 1, 2, 1};
    static const size_t ends[] = {4, 6};
    static const struct st_text_item items[] = {{0, 3}, {2, 4}, {3, 4}};
    static const bool right[] = {true, false, true};
    const struct st_texts_ids t = {.ids = ids, .ends = ends, .n = 2, .items = items, .n_item = 3};
    struct st_row row = {0};
    struct st_err e;
    (void)state;
    assert_ok(st_score_table_text(&row, right, &t, NULL, 3, &e), &e);
    near(row.score, 4 / 6.0);
    near(row.chance, 0.5); /* by naming the commonest, which half of them are */
    assert_ok(st_score_table_text(&row, right, &t, (const bool[]){false, true, true}, 3, &e), &e);
    near(row.score, 1 / 3.0);
    near(row.chance, 2 / 3.0);
    assert_int_equal(row.n, 3);
    st_score_items(&row, right, &t);
    near(row.score, 1 / 3.0);
    st_score_position_items(&row, (const uint32_t[]){0, 0, 0, 1, 0, 0}, &t);
    near(row.score, 1);
}

static void tokens_of_one_type_do_not_narrow_the_interval(void **state)
{
    static const bool right[] = {true, false};
    static uint32_t same[400], both[400];
    static const size_t end = 400;
    const struct st_texts_ids one = {.ids = same, .ends = &end, .n = 1}, two = {.ids = both, .ends = &end, .n = 1};
    struct st_row row = {0}, alone = {0};
    struct st_err e;
    (void)state;
    assert_ok(st_score_table_text(&row, right, &one, NULL, 2, &e), &e);
    st_row_share(&alone, 1, 1);
    assert_int_equal(row.n, 400);
    near(row.score, 1);
    near(row.low, alone.low);
    for (size_t i = 0; i < 200; i++)
        both[i] = 1;
    assert_ok(st_score_table_text(&row, right, &two, NULL, 2, &e), &e);
    st_row_share(&alone, 1, 2);
    near(row.score, 0.5);
    near(row.low, alone.low);
    near(row.high, alone.high);
}

static void a_token_with_homophones_is_recovered_when_all_of_them_are(void **state)
{
    static const uint32_t truth[] = {0, 1, 0, NONE}, guess[] = {0, 1, 1, 0};
    bool right[3];
    (void)state;
    st_score_right(guess, truth, 4, NONE, right, 3);
    assert_false(right[0]);
    assert_true(right[1]);
    assert_false(right[2]);
}

static void cosine_of_equal_opposite_and_empty(void **state)
{
    static const float a[] = {1, 2, 3}, b[] = {-2, -4, -6}, z[] = {0, 0, 0};
    (void)state;
    near(st_score_cosine(a, a, 3), 1);
    near(st_score_cosine(a, b, 3), -1);
    near(st_score_cosine(a, z, 3), 0);
}

/* The figure is sacrebleu's 2.6.0 (smooth_method="none", tokenize="none") and nltk's corpus_bleu (3.10.4) over these
 * ids as words. */
static void bleu_equals_other_implementations(void **state)
{
    static const uint32_t got[] = {1, 2, 3, 4, 5, 6, 7, 9, 8, 7, 6, 1, 2, 3, 4, 5, 5, 5, 5, 5};
    static const uint32_t want[] = {1, 2, 3, 4, 9, 6, 7, 8, 9, 8, 7, 6, 5, 2, 3, 4, 5, 5, 5, 5, 6, 7, 7};
    const struct st_texts_ids a = {.ids = got, .ends = (const size_t[]){7, 15, 20}, .n = 3};
    const struct st_texts_ids b = {.ids = want, .ends = (const size_t[]){8, 16, 23}, .n = 3};
    (void)state;
    near(st_score_bleu4(&a, &b), 0.46032894505500194);
    near(st_score_bleu4(&b, &b), 1);
}

static void bleu_without_a_common_run_of_four_is_zero(void **state)
{
    static const uint32_t got[] = {1, 2, 3, 9, 4, 5, 6}, want[] = {1, 2, 3, 4, 5, 6, 7};
    const struct st_texts_ids a = {.ids = got, .ends = (const size_t[]){7}, .n = 1};
    const struct st_texts_ids b = {.ids = want, .ends = (const size_t[]){7}, .n = 1};
    (void)state;
    near(st_score_bleu4(&a, &b), 0);
}

static void letters_are_the_same_for_a_seed_and_their_items_lie_in_them(void **state)
{
    struct st_rng one, two, other;
    struct st_letter a, b, c;
    (void)state;
    st_rng_seed(&one, 5);
    st_rng_seed(&two, 5);
    st_rng_seed(&other, 6);
    for (int i = 0; i < 50; i++) {
        st_letter_make(&one, &a);
        st_letter_make(&two, &b);
        st_letter_make(&other, &c);
        assert_string_equal(a.text, b.text);
        assert_string_not_equal(a.text, c.text);
        assert_int_equal(a.n_item, 7);
        assert_true(strlen(a.text) + 1 < sizeof a.text && a.text[strlen(a.text) - 1] == '.');
        for (size_t k = 0; k < a.n_item; k++)
            assert_true(a.items[k].lo < a.items[k].hi && a.items[k].hi <= strlen(a.text));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(types_count_only_where_there_is_a_truth),
        cmocka_unit_test(any_of_the_first_k_counts),
        cmocka_unit_test(text_is_weighted_by_its_tokens),
        cmocka_unit_test(tokens_of_one_type_do_not_narrow_the_interval),
        cmocka_unit_test(a_token_with_homophones_is_recovered_when_all_of_them_are),
        cmocka_unit_test(cosine_of_equal_opposite_and_empty),
        cmocka_unit_test(bleu_equals_other_implementations),
        cmocka_unit_test(bleu_without_a_common_run_of_four_is_zero),
        cmocka_unit_test(letters_are_the_same_for_a_seed_and_their_items_lie_in_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
