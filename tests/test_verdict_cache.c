/* Verdicts remembered: as long as their dates allow and for the same bytes, policy and nonce only. */
#include "expect.h"

#include "attest/ev_sim.h"
#include "attest/roots.h"
#include "attest/verdict_cache.h"
#include "quote_make.h"

#include <pthread.h>

#define KEEP 600

/* One bundle of simulated evidence, policies that accept it, and a cache of two. */
static struct {
    struct st_ed25519 *root;
    uint8_t bytes[ST_SIM_LEN];
    struct st_bundle bundle;
    struct st_policy *policy, *other, *aged;
    struct st_verdict_cache *cache;
} g;

static struct st_policy *policy(const char *more)
{
    struct st_err e;
    struct st_policy *p;
    struct st_buf b = {0};
    uint8_t public[32];
    char hex[65];
    st_ed25519_public(g.root, public);
    st_hex(public, sizeof public, hex);
    st_buf_addf(&b, "{\"version\": 1, \"require\": [\"sim\"], \"sim_root\": \"%s\"%s}", hex, more);
    assert_ok(st_policy_parse(b.p, b.len, "policy", &p, &e), &e);
    st_buf_free(&b);
    return p;
}

static int setup(void **state)
{
    (void)state;
    struct st_err e;
    const struct st_sim s = {.time = MADE_AT, .report_data = {7}};
    assert_ok(st_ed25519_new(&g.root, &e), &e);
    assert_ok(st_sim_collect(g.root, &s, g.bytes, &e), &e);
    g.bundle = (struct st_bundle){.n_item = 1, .items[0] = {.kind = "sim", .data = {g.bytes, ST_SIM_LEN}}};
    g.policy = policy("");
    g.other = policy(", \"comment\": \"other bytes\"");
    g.aged = policy(", \"max_age_s\": 100");
    assert_ok(st_verdict_cache_new(2, KEEP, &g.cache, &e), &e);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    st_verdict_cache_free(g.cache);
    st_policy_free(g.policy);
    st_policy_free(g.other);
    st_policy_free(g.aged);
    st_ed25519_free(g.root);
    return 0;
}

static const uint8_t nonce_bytes[64] = {7};

static struct st_judge question(const struct st_policy *p, int64_t time)
{
    return (struct st_judge){.policy = p,
                             .bundle = &g.bundle,
                             .time = time,
                             .nonce = {nonce_bytes, sizeof nonce_bytes},
                             .nonce_time = MADE_AT};
}

/* The digest of the bundle numbered i. */
static const uint8_t *digest(uint8_t i)
{
    static uint8_t d[32];
    d[0] = i;
    return d;
}

static const struct st_verdict *judge(uint8_t i, const struct st_judge *j)
{
    struct st_err e;
    const struct st_verdict *v;
    assert_ok(st_verdict_cache_judge(g.cache, digest(i), j, &v, &e), &e);
    return v;
}

static bool stands(uint8_t i, struct st_judge j)
{
    j.bundle = NULL;
    return st_verdict_cache_find(g.cache, digest(i), &j) != NULL;
}

static void a_good_verdict_stands_for_so_long_and_not_before(void **state)
{
    (void)state;
    const struct st_judge j = question(g.policy, MADE_AT + 5);
    assert_false(stands(1, j));
    assert_true(judge(1, &j)->good);
    assert_true(stands(1, j));
    assert_true(stands(1, question(g.policy, MADE_AT + 5 + KEEP - 1)));
    assert_false(stands(1, question(g.policy, MADE_AT + 5 + KEEP)));
    assert_false(stands(1, question(g.policy, MADE_AT + 4))); /* the clock went back */
    assert_ptr_equal(judge(1, &j), judge(1, &j));
}

static void the_age_of_the_nonce_ends_it_sooner(void **state)
{
    (void)state;
    struct st_judge j = question(g.aged, MADE_AT + 40);
    assert_true(judge(1, &j)->good);
    assert_true(stands(1, question(g.aged, MADE_AT + 100)));
    assert_false(stands(1, question(g.aged, MADE_AT + 101)));
    j = question(g.aged, MADE_AT + 101);
    const struct st_verdict *v = judge(1, &j);
    assert_int_equal(v->code, ST_POLICY);
    assert_non_null(st_appraisal_find_check(&v->found, "policy.max_age_s"));
}

static void another_bundle_policy_or_nonce_is_another_question(void **state)
{
    (void)state;
    struct st_judge j = question(g.policy, MADE_AT + 5);
    assert_true(judge(1, &j)->good);
    assert_false(stands(2, j));
    assert_false(stands(1, question(g.other, MADE_AT + 5)));
    j.nonce.len = 63;
    assert_false(stands(1, j));
    j.nonce.len = 0;
    assert_false(stands(1, j));
    j = question(g.policy, MADE_AT + 5);
    j.nonce_time++;
    assert_false(stands(1, j));
    uint8_t long_nonce[ST_BINDING_MAX_NONCE + 1] = {7};
    j.nonce = (struct st_span){long_nonce, sizeof long_nonce};
    assert_false(judge(1, &j)->good);
    assert_false(stands(1, j));
}

static void bad_verdicts_are_told_and_not_kept(void **state)
{
    (void)state;
    struct st_judge j = question(g.policy, MADE_AT - 1); /* made later than now */
    const struct st_verdict *v = judge(1, &j);
    assert_int_equal(v->code, ST_VERIFY);
    assert_true(v->found.n_check > 0);
    assert_false(stands(1, j));
    j.time = MADE_AT;
    assert_true(judge(1, &j)->good);
}

static void the_least_recently_used_makes_room(void **state)
{
    (void)state;
    const struct st_judge j = question(g.policy, MADE_AT + 5);
    judge(1, &j);
    judge(2, &j);
    assert_true(stands(1, j));
    judge(3, &j);
    assert_true(stands(1, j));
    assert_false(stands(2, j));
    assert_true(stands(3, j));
}

static void a_verdict_whose_time_is_over_is_judged_again_in_its_place(void **state)
{
    (void)state;
    struct st_judge j = question(g.policy, MADE_AT + 5);
    judge(1, &j);
    judge(2, &j);
    j.time += KEEP;
    assert_true(judge(1, &j)->good);
    assert_true(stands(1, j));
    assert_true(stands(2, question(g.policy, MADE_AT + 5)));
}

static void sizes_that_make_no_sense_are_refused(void **state)
{
    (void)state;
    struct st_err e;
    struct st_verdict_cache *c;
    expect_refusal(st_verdict_cache_new(0, KEEP, &c, &e), &e, ST_USAGE, "verdict cache: want 1..");
    expect_refusal(st_verdict_cache_new(ST_VERDICT_CACHE_MAX + 1, KEEP, &c, &e), &e, ST_USAGE, "verdict cache");
    expect_refusal(st_verdict_cache_new(1, 0, &c, &e), &e, ST_USAGE, "verdict cache");
}

/* ---- dates that evidence rests on ---- */

static int64_t until_of(struct maker *m, int64_t time)
{
    struct quote_make q;
    struct st_appraisal a;
    quote_start(&q, 4, true, false);
    struct st_buf quote = quote_end(&q, m);
    struct st_evidence ev = maker_evidence(m, "tdx", &quote);
    appraise(&ev, span_of(&m->roots), time, &a);
    assert_int_equal(count_bad(&a, NULL), 0);
    int64_t until = a.until;
    st_appraisal_wipe(&a);
    st_buf_free(&quote);
    return until;
}

static void the_first_date_of_certificates_lists_and_statements_counts(void **state)
{
    (void)state;
    struct maker m;
    maker_open(&m, true);
    assert_int_equal(until_of(&m, MADE_AT), MADE_AT + DAY); /* the lists */
    made_crl(&m.ca_crl, m.ca, m.ca_key, NULL, MADE_AT - DAY, MADE_AT + 60 * DAY);
    assert_int_equal(until_of(&m, MADE_AT), MADE_AT + DAY);
    made_crl(&m.root_crl, m.root, m.root_key, NULL, MADE_AT - DAY, MADE_AT + 60 * DAY);
    assert_int_equal(until_of(&m, MADE_AT), MADE_AT + 10 * DAY); /* the certificates */
    maker_pck(&m, &(struct cert){.cn = "Intel SGX PCK Certificate", .platform = &m.platform, .to = MADE_AT + 600},
              m.ca_key);
    st_buf_clear(&m.pck_chain);
    assert_int_equal(until_of(&m, MADE_AT), MADE_AT + 600);
    maker_pck(&m, &(struct cert){.cn = "Intel SGX PCK Certificate", .platform = &m.platform}, m.ca_key);
    st_buf_clear(&m.pck_chain);
    replace(&m.tcb_info, "2025-07-19T10:16:03Z", "2025-06-21T12:00:00Z");
    assert_int_equal(until_of(&m, MADE_AT), INT64_C(1750507200) + 1); /* valid up to and with that second */
    maker_close(&m);
}

/* ---- pinned roots ---- */

static void *add_roots(void *out)
{
    struct st_err e;
    struct st_certs *c = out;
    const struct st_verify_env env = {.time = MADE_AT};
    for (int r = 0; r < ST_ROOT_COUNT; r++)
        if (st_roots_add(&env, (enum st_root)r, c, &e))
            return c;
    return NULL;
}

static void pinned_roots_are_parsed_once_for_all_threads(void **state)
{
    (void)state;
    struct st_certs sets[4] = {0};
    pthread_t threads[4];
    void *failed;
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, add_roots, &sets[i]), 0);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(pthread_join(threads[i], &failed), 0);
        assert_null(failed);
    }
    assert_true(sets[0].n >= ST_ROOT_COUNT);
    for (int i = 1; i < 4; i++) {
        assert_int_equal(sets[i].n, sets[0].n);
        assert_memory_equal(sets[i].p, sets[0].p, sets[0].n * sizeof *sets[0].p);
    }
    for (int i = 0; i < 4; i++)
        st_certs_free(&sets[i]);
}

static void a_set_too_full_for_the_pinned_roots_says_so(void **state)
{
    (void)state;
    struct st_err e;
    struct st_certs c = {.n = ST_X509_MAX};
    const struct st_verify_env env = {.time = MADE_AT};
    expect_refusal(st_roots_add(&env, ST_ROOT_INTEL, &c, &e), &e, ST_INPUT, "pinned roots: more than");
}

int main(void)
{
#define CACHED(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        CACHED(a_good_verdict_stands_for_so_long_and_not_before),
        CACHED(the_age_of_the_nonce_ends_it_sooner),
        CACHED(another_bundle_policy_or_nonce_is_another_question),
        CACHED(bad_verdicts_are_told_and_not_kept),
        CACHED(the_least_recently_used_makes_room),
        CACHED(a_verdict_whose_time_is_over_is_judged_again_in_its_place),
        cmocka_unit_test(sizes_that_make_no_sense_are_refused),
        cmocka_unit_test(the_first_date_of_certificates_lists_and_statements_counts),
        cmocka_unit_test(pinned_roots_are_parsed_once_for_all_threads),
        cmocka_unit_test(a_set_too_full_for_the_pinned_roots_says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
