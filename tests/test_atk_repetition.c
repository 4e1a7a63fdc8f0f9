/* Templates, equal prompts and conversations, told from ids that nobody can read. */
#include "ids_make.h"
#include "pair_stage.h"

#include "audit/atk_repetition.h"

/* Ten messages: 90 91 in front, 92 at the end; between them what is given by seed, 7 to 16 ids. */
static struct words framed(uint64_t seed)
{
    struct words w = words_new(10);
    struct st_rng rng;
    size_t at = 0;
    st_rng_seed(&rng, seed);
    for (size_t d = 0; d < 10; d++) {
        w.ids[at++] = 90;
        w.ids[at++] = 91;
        for (size_t k = 0; k < 7 + d; k++)
            w.ids[at++] = (uint32_t)(st_rng_next(&rng) % 90);
        w.ids[at++] = 92;
        w.ends[d] = at;
    }
    return w;
}

static void what_all_messages_share_is_the_template(void **state)
{
    (void)state;
    struct words w = framed(1);
    struct st_err e;
    size_t n;
    assert_ok(st_repeat_frame(&w.t, false, 1, &n, &e), &e);
    assert_int_equal(n, 2);
    assert_ok(st_repeat_frame(&w.t, true, 1, &n, &e), &e);
    assert_int_equal(n, 1);
    for (size_t d = 0; d < 10; d += 2) /* a homophone of 90 in half of them */
        w.ids[d ? w.ends[d - 1] : 0] = 93;
    assert_ok(st_repeat_frame(&w.t, false, 1, &n, &e), &e);
    assert_int_equal(n, 0);
    assert_ok(st_repeat_frame(&w.t, false, 2, &n, &e), &e);
    assert_int_equal(n, 2);
    w.t.n = 4; /* too few to tell */
    assert_ok(st_repeat_frame(&w.t, false, 2, &n, &e), &e);
    assert_int_equal(n, 0);
    words_free(&w);
}

static void equal_messages_of_one_id_end_somewhere(void **state)
{
    (void)state;
    uint32_t ids[20] = {0};
    size_t ends[10], n;
    struct st_err e;
    for (size_t d = 0; d < 10; d++)
        ends[d] = 2 * (d + 1);
    const struct st_texts_ids t = {.ids = ids, .ends = ends, .n = 10};
    assert_ok(st_repeat_frame(&t, false, 1, &n, &e), &e);
    assert_int_equal(n, 2);
}

static void equal_prompts_and_later_turns_are_linked(void **state)
{
    (void)state;
    static const uint32_t ids[] = {9, 1, 2, 3, 9, 4, 5, 6, 9, 1, 2, 3, 7, 8, 9, 1, 2, 3, 9, 9, 1, 2, 5};
    static const size_t ends[] = {4, 8, 14, 18, 19, 23};
    const struct st_texts_ids t = {.ids = ids, .ends = ends, .n = 6};
    size_t got[6];
    st_repeat_equal(&t, 1, 1, got);
    assert_true(got[0] == 3 && got[3] == 0 && got[1] == 6 && got[2] == 6 && got[5] == 6);
    st_repeat_equal(&t, 1, .5, got);
    assert_true(got[0] == 3 && got[5] == 0);
    st_repeat_before(&t, 1, 1, got);
    assert_true(got[2] == 0 && got[0] == 6 && got[4] == 6);
    assert_true(st_repeat_share(&t, 0, 2, 0) == 1 && st_repeat_share(&t, 2, 0, 0) == 0);
    assert_true(st_repeat_share(&t, 4, 2, 1) == 0);
}

static void random_messages_are_not_linked(void **state)
{
    (void)state;
    struct words w = speak(NULL, 400, 60, 3);
    size_t got[60];
    st_repeat_equal(&w.t, 0, .25, got);
    for (size_t d = 0; d < 60; d++)
        assert_int_equal(got[d], 60);
    words_free(&w);
}

static void conversations_of_stories260k_are_linked_whole(void **state)
{
    (void)state;
    struct stage s;
    need();
    set_up(&s, 0, 0, 72);
    s.target.prior = s.target.text;
    attack(&s, &st_atk_repetition);
    assert_true(score(&s, "template") == 1);
    assert_true(score(&s, "equal prompts") == 1 && score(&s, "turns of one conversation") > .95);
    assert_true(score(&s, "length") > 10. / (double)s.text.view.n);
    for (size_t i = 0; i < s.rows.n; i++)
        assert_true(s.rows.at[i].chance < .01);
    struct st_audit a = {.target = &s.target, .pool = s.pool, .seed = 1};
    struct st_err e;
    s.text.ends[0] = 100;
    s.target.text.n = 1;
    expect_refusal(st_atk_repetition.run(&a, &s.rows, &e), &e, ST_UNSUPPORTED, "tokens at least");
    tear_down(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_all_messages_share_is_the_template),
        cmocka_unit_test(equal_messages_of_one_id_end_somewhere),
        cmocka_unit_test(equal_prompts_and_later_turns_are_linked),
        cmocka_unit_test(random_messages_are_not_linked),
        cmocka_unit_test_setup_teardown(conversations_of_stories260k_are_linked_whole, make_work, drop_work),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
