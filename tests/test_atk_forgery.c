/* Wrong replies: Freivalds' check refuses all kinds, fixed fingerprints fall to whoever looks. */
#include "record_make.h"

#include "audit/atk_forgery.h"

enum { D_OUT = 48, D_IN = 64 };

static int8_t *random_weights(uint64_t seed)
{
    int8_t *w = malloc(D_OUT * D_IN);
    struct st_rng rng;
    assert_non_null(w);
    st_rng_seed(&rng, seed);
    for (int i = 0; i < D_OUT * D_IN; i++)
        w[i] = (int8_t)((int)(st_rng_next(&rng) % 255) - 127);
    return w;
}

static void no_wrong_reply_passes_freivalds(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 5; seed++) {
        int8_t *w = random_weights(seed);
        for (int f = 0; f < ST_FORGERY_KNOWING; f++) {
            uint64_t accepted = 1;
            struct st_err e;
            assert_ok(st_forgery_try(w, D_OUT, D_IN, (enum st_forgery)f, 200, seed, &accepted, &e), &e);
            assert_int_equal(accepted, 0);
        }
        free(w);
    }
}

static void whoever_knows_the_secret_passes_always(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 5; seed++) {
        int8_t *w = random_weights(seed);
        uint64_t accepted = 0;
        struct st_err e;
        assert_ok(st_forgery_try(w, D_OUT, D_IN, ST_FORGERY_KNOWING, 200, seed, &accepted, &e), &e);
        assert_int_equal(accepted, 200);
        free(w);
    }
}

static void fixed_fingerprints_are_found_where_two_spans_meet(void **state)
{
    (void)state;
    static const size_t widths[] = {32, 64, 128};
    for (int i = 0; i < 3; i++)
        for (uint64_t seed = 1; seed <= 5; seed++) {
            size_t d = widths[i], n = 4 * d;
            double *rows = malloc(n * d * sizeof *rows);
            struct st_rng rng;
            struct st_err e;
            uint64_t blind, looking;
            assert_non_null(rows);
            st_rng_seed(&rng, seed + 100);
            for (size_t k = 0; k < n * d; k++) /* all lean one way, as embeddings do */
                rows[k] = st_rng_unit(&rng) - 0.2;
            struct st_fingerprinted f = {.rows = rows, .n = n, .d = d, .n_batch = 100, .seed = seed};
            assert_ok(st_fingerprints_try(&f, false, &blind, &e), &e);
            assert_ok(st_fingerprints_try(&f, true, &looking, &e), &e);
            assert_int_equal(looking, 100);
            assert_true(blind <= 3); /* one in 1820 by chance: four of 100 are one run in a million */
            f.n = d / 2;
            expect_refusal(st_fingerprints_try(&f, true, &looking, &e), &e, ST_UNSUPPORTED, "fingerprints: needs");
            free(rows);
        }
}

static void both_checks_are_tried_on_a_model(void **state)
{
    (void)state;
    struct rig *r = rig_new(&(struct rig_opts){.scheme = "otp", .n_doc = 2, .len = 10});
    rig_run(r, &st_atk_forgery);
    assert_int_equal(r->rows.n, ST_FORGERY_KNOWING + 2);
    for (size_t i = 0; i < ST_FORGERY_KNOWING; i++)
        assert_true(r->rows.at[i].score == 0 && r->rows.at[i].high < 0.005 && r->rows.at[i].chance < 1e-18);
    assert_true(r->rows.at[ST_FORGERY_KNOWING].score < 0.05);
    assert_true(r->rows.at[ST_FORGERY_KNOWING + 1].score == 1);
    rig_free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_wrong_reply_passes_freivalds),
        cmocka_unit_test(whoever_knows_the_secret_passes_always),
        cmocka_unit_test(fixed_fingerprints_are_found_where_two_spans_meet),
        cmocka_unit_test(both_checks_are_tried_on_a_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
