/* Requests, lengths and pauses, told from numbers and times of exchanges. */
#include "record_make.h"

#include "audit/atk_record_traffic.h"

static void prompts_and_replies_are_cut_where_they_begin(void **state)
{
    (void)state;
    static const uint32_t n_row[13] = {7, 1, 1, 32, 32, 5, 1, 1, 9, 4, 1, 32, 1};
    struct st_step_seen steps[13];
    static const struct st_request_seen want[] = {{7, 2, 0}, {69, 2, 0}, {9, 0, 0}, {4, 1, 0}, {33, 0, 0}};
    struct st_request_seen got[13];
    for (int i = 0; i < 13; i++)
        steps[i] = (struct st_step_seen){.n_row = n_row[i], .time = NAN};
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
        steps[i] = (struct st_step_seen){.n_row = i ? 1 : 8, .time = now, .busy = 0.015};
    }
    assert_int_equal(st_steps_split(steps, 20, 0, got), 2);
    assert_int_equal(got[0].reply, 11);
    assert_int_equal(got[1].prompt, 1);
    assert_int_equal(got[1].reply, 7);
    assert_true(got[1].start == steps[12].time);
    steps[11].busy = 3.4; /* nobody paused: the step took long */
    assert_int_equal(st_steps_split(steps, 20, 0, got), 1);
}

static void a_line_explains_what_it_goes_through_and_nothing_of_noise(void **state)
{
    (void)state;
    enum { N = 400 };
    double x[N], y[N], z[N], low, high, sum = 0;
    struct st_rng rng;
    st_rng_seed(&rng, 5);
    for (int i = 0; i < N; i++) {
        x[i] = i % 37;
        y[i] = 3 - 0.25 * x[i];
    }
    assert_true(st_explained(x, y, N, &low, &high) > 1 - 1e-9 && low > 0.999);
    for (int draw = 0; draw < 200; draw++) {
        for (int i = 0; i < N; i++)
            z[i] = st_rng_unit(&rng);
        sum += st_explained(x, z, N, &low, &high);
    }
    assert_true(fabs(sum / 200 * (N - 1) - 1) < 0.4); /* chance is 1 / (n - 1); deviation of this mean: 0.1 */
    for (int i = 0; i < N; i++)                       /* as much noise as line: half */
        z[i] = x[i] / 10.677 + 3.464 * (z[i] - 0.5);
    double half = st_explained(x, z, N, &low, &high);
    assert_true(low < 0.5 && 0.5 < high && fabs(half - 0.5) < 0.12);
    assert_true(st_explained(x, x, 3, &low, &high) > 0.999 && low == 0); /* three points prove nothing */
    memset(z, 0, sizeof z);
    assert_true(st_explained(x, z, N, &low, &high) == 0 && low == 0);
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

static void lengths_of_replies_are_told_and_times_are_of_the_machine(void **state)
{
    (void)state;
    static const char *const schemes[] = {"remo", "otp", "lwe"};
    for (int i = 0; i < 3; i++) {
        struct rig *r = rig_new(&(struct rig_opts){.scheme = schemes[i], .n_doc = 4, .len = 20, .n_asked = 10});
        rig_run(r, &st_atk_record_traffic);
        const struct st_row *row = r->rows.at;
        assert_int_equal(r->rows.n, 5);
        assert_true(row[0].score == 1 && row[0].n == 14);
        assert_string_equal(row[2].variant, "reply length");
        assert_true(row[2].score == 1 && row[2].n == 10 && row[2].chance <= 0.2);
        for (int k = 3; k < 5; k++)
            assert_true(row[k].low <= row[k].score && row[k].score <= row[k].high && row[k].n >= 14);
        /* What the worker did not see is not told: replies of other lengths. */
        for (size_t k = 0; k < r->target.n_asked; k++)
            r->asked[k].reply += 1 + k % 2;
        rig_run(r, &st_atk_record_traffic);
        assert_true(r->rows.at[7].score == 0);
        rig_free(r);
    }
}

static void a_slow_side_tells_lengths_by_its_times_alone(void **state)
{
    (void)state;
    struct rig *r = rig_new(&(struct rig_opts){.n_doc = 4, .len = 20, .n_asked = 16, .slow = 300});
    rig_run(r, &st_atk_record_traffic);
    assert_true(r->rows.at[3].score > 0.7); /* .84 to 1 on a busy machine */
    rig_free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prompts_and_replies_are_cut_where_they_begin),
        cmocka_unit_test(a_pause_begins_a_request_of_one_token),
        cmocka_unit_test(a_line_explains_what_it_goes_through_and_nothing_of_noise),
        cmocka_unit_test(lengths_of_replies_are_told_and_times_are_of_the_machine),
        cmocka_unit_test(a_slow_side_tells_lengths_by_its_times_alone),
        cmocka_unit_test(no_scheme_hides_how_long_a_prompt_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
