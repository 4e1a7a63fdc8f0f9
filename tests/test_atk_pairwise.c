/* Embedded additive masks in the packing of TwinShield: every row falls, however many are packed together. */
#include "record_make.h"

#include "audit/atk_pairwise.h"

enum { D = 128 };

static double normal(struct st_rng *rng)
{
    return sqrt(-2 * log(1 - st_rng_unit(rng))) * cos(6.283185307179586 * st_rng_unit(rng));
}

static void every_row_is_recovered_exactly_at_every_m(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 4, 32, 128, 512};
    for (int i = 0; i < 5; i++) {
        size_t m = sizes[i], hits = 0;
        int32_t *q = calloc(m * D, sizeof *q), *got = calloc(2 * m * D, sizeof *got);
        uint32_t *rows = calloc(2 * m * D, sizeof *rows), *place = calloc(2 * m, sizeof *place), c;
        bool *is_q = calloc(2 * m, sizeof *is_q);
        struct st_rng rng;
        struct st_err e;
        st_rng_seed(&rng, m);
        for (size_t k = 0; k < m * D; k++)
            q[k] = (int32_t)fmax(-4096, fmin(4096, rint(512 * normal(&rng))));
        assert_ok(st_pack(&st_pack_paper, q, m, D, &rng, rows, place, &e), &e);
        assert_true(st_pack_scalar(&st_pack_paper, rows, 2 * m, D, &c));
        st_pack_open(&st_pack_paper, rows, 2 * m, D, c, got, is_q);
        for (size_t k = 0; k < m; k++)
            hits += is_q[place[k]] && memcmp(got + place[k] * D, q + k * D, D * sizeof *q) == 0;
        assert_int_equal(hits, m);
        for (size_t k = 0; k < m; k++) /* masks alone are nobody's rows */
            assert_false(is_q[place[m + k]]);
        q[0] = st_pack_paper.limit + 1;
        expect_refusal(st_pack(&st_pack_paper, q, m, D, &rng, rows, place, &e), &e, ST_INPUT, "4096 steps");
        free(q);
        free(got);
        free(rows);
        free(place);
        free(is_q);
    }
}

static void nothing_is_found_in_random_rows(void **state)
{
    (void)state;
    enum { N = 16 };
    uint32_t rows[N * D], c;
    struct st_rng rng;
    st_rng_seed(&rng, 2);
    for (int i = 0; i < N * D; i++)
        rows[i] = (uint32_t)(st_rng_next(&rng) % st_pack_paper.prime);
    assert_false(st_pack_scalar(&st_pack_paper, rows, N, D, &c));
}

static void embeddings_of_a_text_are_recovered_whole(void **state)
{
    (void)state;
    struct rig *r = rig_new(&(struct rig_opts){.scheme = "otp", .n_doc = 8, .len = 24});
    rig_run(r, &st_atk_pairwise);
    assert_int_equal(r->rows.n, 4); /* m 1, 4, 32, 128 of 192 rows */
    for (size_t i = 0; i < r->rows.n; i++)
        assert_true(r->rows.at[i].score == 1);
    rig_free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_row_is_recovered_exactly_at_every_m),
        cmocka_unit_test(nothing_is_found_in_random_rows),
        cmocka_unit_test(embeddings_of_a_text_are_recovered_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
