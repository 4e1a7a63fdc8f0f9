/* Limits of an audit: refused unless well formed; rows over a limit are named, and limits that nothing meets. */
#include "audit/gate.h"
#include "expect.h"

#include <stdio.h>

static struct st_gate g;

static int parse(const char *text, struct st_err *e)
{
    return st_gate_parse(text, strlen(text), "limits.json", &g, e);
}

static void what_is_malformed_is_refused_by_name(void **state)
{
    static const struct {
        const char *text, *says;
        int code;
    } bad[] = {
        {"", "limits.json", ST_INPUT},
        {"[]", "want an object", ST_INPUT},
        {"{\"limits\": []}", "version", ST_INPUT},
        {"{\"version\": 2, \"limits\": [{\"attack\": \"x\", \"max\": 1}]}", "version", ST_UNSUPPORTED},
        {"{\"version\": 1}", "limits", ST_INPUT},
        {"{\"version\": 1, \"limits\": []}", "limits", ST_INPUT},
        {"{\"version\": 1, \"limits\": {}}", "limits", ST_INPUT},
        {"{\"version\": 1, \"limits\": [1]}", "limits[0]", ST_INPUT},
        {"{\"version\": 1, \"limits\": [{\"max\": 1}]}", "attack", ST_INPUT},
        {"{\"version\": 1, \"limits\": [{\"attack\": \"x\"}]}", "max", ST_INPUT},
        {"{\"version\": 1, \"limits\": [{\"attack\": \"x\", \"max\": 1.5}]}", "max", ST_INPUT},
        {"{\"version\": 1, \"limits\": [{\"attack\": \"x\", \"max\": -1}]}", "max", ST_INPUT},
        {"{\"version\": 1, \"limits\": [{\"attack\": \"x\", \"max\": 1, \"min_n\": 0}]}", "min_n", ST_INPUT},
        {"{\"version\": 1, \"limits\": [{\"attack\": \"x\", \"max\": 1, \"min_n\": 1.5}]}", "min_n", ST_INPUT},
        {"{\"version\": 1, \"limits\": [{\"attack\": 1, \"max\": 1}]}", "attack", ST_INPUT},
        {"{\"version\": 1, \"limits\": [{\"attack\": \"x\", \"max\": 1, \"min\": 0}]}", "min", ST_INPUT},
        {"{\"version\": 1, \"limit\": 1, \"limits\": [{\"attack\": \"x\", \"max\": 1}]}", "limit", ST_INPUT},
    };
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct st_err e = {0};
        expect_refusal(parse(bad[i].text, &e), &e, bad[i].code, bad[i].says);
        assert_int_equal(g.n, 0);
    }
}

static struct st_row at[] = {
    {.attack = "row-sort", .variant = "tight, gates", .score = 0.5, .low = 0.4, .high = 0.6, .n = 90},
    {.attack = "row-sort", .variant = "tight 2, gates", .score = 0.9, .low = 0.8, .high = 1, .n = 90},
    {.attack = "null-space", .variant = "lwe", .score = 0.06, .low = 0.01, .high = 0.1, .n = 20},
};
static const struct st_findings found = {.rows = {.at = at, .n = 3}};

static void rows_over_a_limit_are_named(void **state)
{
    struct st_err e = {0};
    (void)state;
    assert_ok(parse("{\"version\": 1, \"limits\": [{\"attack\": \"row-sort\", \"variant\": \"tight\", \"max\": 0.3}, "
                    "{\"attack\": \"null-space\", \"max\": 0.05}]}",
                    &e),
              &e);
    expect_refusal(st_gate_judge(&g, &found, &e), &e, ST_POLICY, "1 row over the limit: row-sort (tight, gates) 0.5");
    assert_ok(parse("{\"version\": 1, \"comment\": \"ours\", \"limits\": [{\"attack\": \"*\", \"max\": 0.3}]}", &e),
              &e);
    expect_refusal(st_gate_judge(&g, &found, &e), &e, ST_POLICY, "2 rows over");
}

static void rows_within_their_limits_pass(void **state)
{
    struct st_err e = {0};
    (void)state;
    assert_ok(
        parse("{\"version\": 1, \"limits\": [{\"attack\": \"row-sort\", \"variant\": \"tight\", \"max\": 0.4}]}", &e),
        &e);
    assert_ok(st_gate_judge(&g, &found, &e), &e);
}

static void what_lies_within_chance_does_not_fail(void **state)
{
    struct st_err e = {0};
    (void)state;
    assert_ok(parse("{\"version\": 1, \"limits\": [{\"attack\": \"null-space\", \"max\": 0.02}]}", &e), &e);
    assert_ok(st_gate_judge(&g, &found, &e), &e);
}

static void a_limit_that_no_row_meets_fails(void **state)
{
    struct st_err e = {0};
    (void)state;
    assert_ok(parse("{\"version\": 1, \"limits\": [{\"attack\": \"row-sort\", \"variant\": \"tig\", \"max\": 1}]}", &e),
              &e);
    expect_refusal(st_gate_judge(&g, &found, &e), &e, ST_POLICY, "no row of row-sort tig");
}

static void a_row_of_too_few_things_fails_whatever_its_score(void **state)
{
    struct st_err e = {0};
    (void)state;
    assert_ok(parse("{\"version\": 1, \"limits\": [{\"attack\": \"null-space\", \"max\": 0.02, \"min_n\": 21}]}", &e),
              &e);
    expect_refusal(st_gate_judge(&g, &found, &e), &e, ST_POLICY, "null-space (lwe) of 20, want of 21 at least");
    assert_ok(parse("{\"version\": 1, \"limits\": [{\"attack\": \"null-space\", \"max\": 0.02, \"min_n\": 20}]}", &e),
              &e);
    assert_ok(st_gate_judge(&g, &found, &e), &e);
}

/* Limits that all rows meet, and one attack that ended with `code`. */
static int judge_lost(const char *limit, int code, const char *label, struct st_err *e)
{
    char text[200];
    struct st_not_run lost = {.attack = "columns", .code = code, .why = "takes 9 MiB"};
    struct st_findings f = {.rows = {.at = at, .n = 3}, .not_run = &lost, .n_not_run = 1};
    snprintf(lost.label, sizeof lost.label, "%s", label);
    snprintf(text, sizeof text, "{\"version\": 1, \"limits\": [{\"max\": 1, %s}]}", limit);
    assert_ok(parse(text, e), e);
    return st_gate_judge(&g, &f, e);
}

static void an_attack_that_failed_or_lacked_memory_fails_the_limits_that_it_is_about(void **state)
{
    struct st_err e = {0};
    (void)state;
    expect_refusal(judge_lost("\"attack\": \"*\"", ST_MEMORY, "tight", &e), &e, ST_POLICY,
                   "columns, tight could not be run: takes 9 MiB");
    expect_refusal(judge_lost("\"attack\": \"*\"", ST_INPUT, "", &e), &e, ST_POLICY, "columns could not be run");
    expect_refusal(judge_lost("\"attack\": \"*\", \"variant\": \"tight, gates\"", ST_IO, "tight", &e), &e, ST_POLICY,
                   "could not be run");
    expect_refusal(judge_lost("\"attack\": \"*\", \"variant\": \"tight\"", ST_MEMORY, "tight", &e), &e, ST_POLICY,
                   "could not be run");
    /* Another target's, another attack's, and one that had nothing to attack. */
    assert_ok(judge_lost("\"attack\": \"*\", \"variant\": \"tight\"", ST_MEMORY, "tight 2", &e), &e);
    assert_ok(judge_lost("\"attack\": \"row-sort\"", ST_MEMORY, "tight", &e), &e);
    assert_ok(judge_lost("\"attack\": \"*\"", ST_UNSUPPORTED, "tight", &e), &e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_malformed_is_refused_by_name),
        cmocka_unit_test(rows_over_a_limit_are_named),
        cmocka_unit_test(rows_within_their_limits_pass),
        cmocka_unit_test(what_lies_within_chance_does_not_fail),
        cmocka_unit_test(a_limit_that_no_row_meets_fails),
        cmocka_unit_test(a_row_of_too_few_things_fails_whatever_its_score),
        cmocka_unit_test(an_attack_that_failed_or_lacked_memory_fails_the_limits_that_it_is_about),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
