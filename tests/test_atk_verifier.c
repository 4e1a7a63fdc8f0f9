/* Wrong evidence and split views of the directory are refused by what clients run; one without the check, or a client
 * who asks no witness, takes them. */
#include "expect.h"

#include "audit/atk_gaps.h"
#include "audit/atk_key_config.h"

static void each_gap_is_closed(void **state)
{
    (void)state;
    struct st_err e;
    for (unsigned gap = 1; gap <= ST_GAPS; gap++) {
        struct st_gap_found f;
        assert_ok(st_gap_try(gap, &f, &e), &e);
        if (f.n == 0 || f.accepted)
            fail_msg("N%u: %u of %u accepted: %s", gap, f.accepted, f.n, f.first ? f.first : "");
    }
}

static void a_verifier_without_the_one_check_falls_for_each(void **state)
{
    (void)state;
    struct st_err e;
    for (unsigned gap = 1; gap <= ST_GAPS; gap++) {
        struct st_gap_found f;
        assert_ok(st_gap_try(gap, &f, &e), &e);
        if (f.weak != f.n)
            fail_msg("N%u: %u of %u accepted, not: %s", gap, f.weak, f.n, f.held);
    }
}

static void there_are_nine_gaps(void **state)
{
    (void)state;
    struct st_err e;
    struct st_gap_found f;
    expect_refusal(st_gap_try(0, &f, &e), &e, ST_USAGE, "1 to 9");
    expect_refusal(st_gap_try(10, &f, &e), &e, ST_USAGE, "1 to 9");
}

static unsigned accepted(size_t quorum, bool remembers)
{
    const struct st_split_client c = {quorum, remembers};
    struct st_err e;
    unsigned n = 0;
    for (size_t i = 0; i < ST_SPLIT_VIEWS; i++) {
        bool good;
        const char *what;
        assert_ok(st_split_view(&c, i, &good, &what, &e), &e);
        n += good;
    }
    return n;
}

static void keys_of_ones_own_are_refused_by_who_remembers_and_asks_witnesses(void **state)
{
    (void)state;
    assert_int_equal(accepted(2, true), 0);
    assert_int_equal(accepted(0, true), 0);  /* memory alone holds against what comes later */
    assert_int_equal(accepted(2, false), 2); /* first time: all together, and the tree of yesterday */
    assert_true(accepted(0, false) >= 4);    /* the positive control */
}

static void there_is_no_eighth_view(void **state)
{
    (void)state;
    const struct st_split_client c = {2, true};
    struct st_err e;
    bool good;
    const char *what;
    expect_refusal(st_split_view(&c, ST_SPLIT_VIEWS, &good, &what, &e), &e, ST_USAGE, "there are 7");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_gap_is_closed),
        cmocka_unit_test(a_verifier_without_the_one_check_falls_for_each),
        cmocka_unit_test(there_are_nine_gaps),
        cmocka_unit_test(keys_of_ones_own_are_refused_by_who_remembers_and_asks_witnesses),
        cmocka_unit_test(there_is_no_eighth_view),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
