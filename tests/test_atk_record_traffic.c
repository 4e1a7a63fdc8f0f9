/* Requests, lengths and pauses, told from numbers and times of exchanges. */
#include "record_make.h"

#include "audit/atk_record_traffic.h"

static void prompts_and_replies_are_cut_where_they_begin(void **state)
{
    (void)state;
    static const struct st_step_seen steps[] = {{7, NAN}, {1, NAN}, {1, NAN}, {32, NAN}, {32, NAN}, {5, NAN}, {1, NAN},
                                                {1, NAN}, {9, NAN}, {4, NAN}, {1, NAN},  {32, NAN}, {1, NAN}};
    static const struct st_request_seen want[] = {{7, 2, 0}, {69, 2, 0}, {9, 0, 0}, {4, 1, 0}, {33, 0, 0}};
    struct st_request_seen got[13];
    assert_int_equal(st_steps_split(steps, 13, 32, got), 5);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(got[i].prompt, want[i].prompt);
        assert_int_equal(got[i].reply, want[i].reply);
    }
    assert_int_equal(st_steps_split(steps, 13, 0, got), 7); /* every step of several rows on its own */
    assert_int_equal(st_steps_split(steps, 0, 32, got), 0);
}

static void a_pause_begins_a_request_of_one_token(void **state)
{
    (void)state;
    struct st_step_seen steps[20];
    struct st_request_seen got[20];
    double now = 100;
    for (int i = 0; i < 20; i++) {
        now += i == 12 ? 3.5 : 0.02 + 0.001 * (i % 3);
        steps[i] = (struct st_step_seen){.n_row = i ? 1 : 8, .time = now};
    }
    assert_int_equal(st_steps_split(steps, 20, 0, got), 2);
    assert_int_equal(got[0].reply, 11);
    assert_int_equal(got[1].prompt, 1);
    assert_int_equal(got[1].reply, 7);
    assert_true(got[1].start == steps[12].time);
}

static void no_scheme_hides_how_long_a_prompt_is(void **state)
{
    (void)state;
    static const char *const schemes[] = {"remo", "otp", "lwe"};
    for (int i = 0; i < 3; i++) {
        struct rig *r = rig_new(&(struct rig_opts){.scheme = schemes[i], .n_doc = 6, .len = 20});
        const struct st_row *row = rig_run(r, &st_atk_record_traffic);
        assert_true(row[0].score == 1 && row[0].chance == 1); /* all are as long */
        assert_true(fabs(row[1].score - 1 / 6.0) < 1e-9);     /* so that none is told from another */
        rig_free(r);
        r = rig_new(&(struct rig_opts){.scheme = schemes[i], .n_doc = 6, .len = 20, .uneven = true});
        row = rig_run(r, &st_atk_record_traffic);
        assert_true(row[0].score == 1 && row[0].chance < 0.2);
        assert_true(row[1].score == 1); /* each is told from all others */
        rig_free(r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prompts_and_replies_are_cut_where_they_begin),
        cmocka_unit_test(a_pause_begins_a_request_of_one_token),
        cmocka_unit_test(no_scheme_hides_how_long_a_prompt_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
