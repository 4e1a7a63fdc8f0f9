/* One pad for two rows: the pair is found among all others, and both tokens are read from the difference. */
#include "record_make.h"

#include "audit/atk_pad_reuse.h"

enum { D = 64, N = 200 };

static double *random_rows(bool field, uint64_t seed)
{
    double *rows = calloc(N * D, sizeof *rows);
    struct st_rng rng;
    st_rng_seed(&rng, seed);
    for (int i = 0; i < N * D; i++)
        rows[i] = field ? st_fq_centre((uint32_t)(st_rng_next(&rng) % ST_FQ)) : 200 * (st_rng_unit(&rng) - 0.5);
    return rows;
}

static void one_pair_among_many_is_found(void **state)
{
    (void)state;
    for (int field = 0; field < 2; field++) {
        double *rows = random_rows(field, 3);
        struct st_reuse pairs[4];
        struct st_err e;
        size_t n;
        assert_ok(st_reuse_find(NULL, rows, N, D, field, pairs, 4, &n, &e), &e);
        assert_int_equal(n, 0);
        for (int k = 0; k < D; k++) { /* wraps around the modulus where it comes to that */
            double x = rows[17 * D + k] + (field ? (k % 2 ? 1 : -1) * 9e6 : 1.1);
            rows[150 * D + k] = field ? x - ST_FQ * rint(x / ST_FQ) : x;
        }
        assert_ok(st_reuse_find(NULL, rows, N, D, field, pairs, 4, &n, &e), &e);
        assert_int_equal(n, 1);
        assert_int_equal(pairs[0].a, 17);
        assert_int_equal(pairs[0].b, 150);
        expect_refusal(st_reuse_find(NULL, rows, N, 8, field, pairs, 4, &n, &e), &e, ST_INPUT, "at least 16");
        free(rows);
    }
}

static void see_done(void *arg, const char *attack, double done)
{
    double *last = arg;
    (void)attack;
    assert_true(done >= *last && done <= 1);
    *last = done;
}

static void the_search_says_how_far_it_is_and_stops_when_it_must(void **state)
{
    (void)state;
    static volatile sig_atomic_t stop;
    double *rows = random_rows(true, 4), done = 0;
    const struct st_audit a = {.cancel = &stop, .progress = see_done, .arg = &done};
    struct st_reuse pairs[4];
    struct st_err e;
    size_t n;
    stop = 0;
    assert_ok(st_reuse_find(&a, rows, N, D, true, pairs, 4, &n, &e), &e);
    assert_true(done > .9);
    stop = 1;
    expect_refusal(st_reuse_find(&a, rows, N, D, true, pairs, 4, &n, &e), &e, ST_IO, "cancelled");
    free(rows);
}

static void values_that_are_no_numbers_are_no_pair(void **state)
{
    (void)state;
    for (int field = 0; field < 2; field++) {
        double *rows = random_rows(field, 5);
        struct st_reuse pairs[4];
        struct st_err e;
        size_t n;
        for (int k = 0; k < D; k++)
            rows[3 * D + k] = NAN;
        assert_ok(st_reuse_find(NULL, rows, N, D, field, pairs, 4, &n, &e), &e);
        assert_int_equal(n, 0);
        free(rows);
    }
}

static void both_tokens_of_a_pair_are_read_without_knowing_the_scale(void **state)
{
    (void)state;
    enum { V = 150, PAIRS = 6 };
    struct st_dense table;
    struct st_reuse pairs[PAIRS];
    uint32_t ids[V], tokens[2 * PAIRS];
    struct st_rng rng;
    struct st_err e;
    assert_ok(st_dense_new(&table, V, D, "test", &e), &e);
    st_rng_seed(&rng, 6);
    for (uint32_t t = 0; t < V; t++) {
        float *p = st_dense_row(&table, t), square = 0;
        ids[t] = t;
        for (int k = 0; k < D; k++) {
            p[k] = (float)(st_rng_unit(&rng) - 0.4);
            square += p[k] * p[k];
        }
        for (int k = 0; k < D; k++)
            p[k] *= sqrtf(D / square);
    }
    for (int field = 0; field < 2; field++) {
        double *rows = random_rows(field, 9);
        double scale = field ? 54321.5 : 1;
        for (int i = 0; i < PAIRS; i++) {
            pairs[i] = (struct st_reuse){.a = (size_t)(2 * i), .b = (size_t)(2 * i + 1)};
            for (int side = 0; side < 2; side++) {
                tokens[2 * i + side] = (uint32_t)(st_rng_next(&rng) % V);
                for (int k = 0; k < D; k++)
                    rows[(2 * i + side) * D + k] =
                        rows[2 * i * D + k] +
                        rint(scale * st_dense_row(&table, tokens[2 * i + side])[k] * 1000) / 1000 -
                        (side ? scale * st_dense_row(&table, tokens[2 * i])[k] : 0);
            }
        }
        assert_ok(st_reuse_read(NULL, rows, D, field, &table, ids, V, pairs, PAIRS, &e), &e);
        for (int i = 0; i < PAIRS; i++) {
            assert_int_equal(pairs[i].token_a, tokens[2 * i]);
            assert_int_equal(pairs[i].token_b, tokens[2 * i + 1]);
            assert_true(pairs[i].misfit < 0.05);
        }
        free(rows);
    }
    st_dense_free(&table);
}

static void pads_used_again_are_read_from_a_recording(void **state)
{
    (void)state;
    struct rig *r = rig_new(&(struct rig_opts){.period = 40, .n_doc = 3, .len = 20});
    const struct st_row *row = rig_run(r, &st_atk_pad_reuse);
    /* 60 rows of layer 0 take every fourth of 40 pads: pads come again. */
    print_message("  pads again %.3f, read %.3f\n", row->score, row[1].score);
    assert_true(row->score > 0.9);
    assert_true(row[1].score > 0.9);
    rig_free(r);
}

static void one_reuse_in_a_recording_gives_both_tokens(void **state)
{
    (void)state;
    struct rig *r = rig_new(&(struct rig_opts){.once = true, .n_doc = 3, .len = 20});
    const struct st_row *row = rig_run(r, &st_atk_pad_reuse);
    assert_int_equal(lround(row[0].score * 60), 2); /* rows ONCE and ONCE_AGAIN of 60, and no other */
    assert_int_equal(lround(row[1].score * 60), 2);
    assert_true(row[0].unprotected == 1 && row[0].chance == 0);
    rig_free(r);
}

static void fresh_pads_never_look_like_one(void **state)
{
    (void)state;
    static const char *const schemes[] = {"remo", "otp", "lwe"};
    for (int i = 0; i < 3; i++) {
        struct rig *r = rig_new(&(struct rig_opts){.scheme = schemes[i], .n_doc = 16, .len = 24});
        const struct st_row *row = rig_run(r, &st_atk_pad_reuse);
        assert_true(row[0].score == 0);
        assert_true(row[1].score == 0);
        rig_free(r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_pair_among_many_is_found),
        cmocka_unit_test(the_search_says_how_far_it_is_and_stops_when_it_must),
        cmocka_unit_test(values_that_are_no_numbers_are_no_pair),
        cmocka_unit_test(both_tokens_of_a_pair_are_read_without_knowing_the_scale),
        cmocka_unit_test(pads_used_again_are_read_from_a_recording),
        cmocka_unit_test(one_reuse_in_a_recording_gives_both_tokens),
        cmocka_unit_test(fresh_pads_never_look_like_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
