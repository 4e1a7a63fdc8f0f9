/* Attacks by known pairs on made embeddings: maps between whitened rows, and the network. */
#include "audit/mlp.h"
#include "audit/regress.h"
#include "pair_make.h"

enum { N = 900, D = 32 };

struct whites {
    struct pair p;
    struct st_dense x, y;
    struct st_pool *pool;
};

static struct whites open_whites(uint64_t seed, double noise)
{
    struct whites w = {.p = make_pair(seed, N, D, 4, 1, false, noise), .pool = pool_of(2)};
    struct st_err e;
    double sigma;
    assert_ok(st_view_spread(w.pool, &w.p.base.rows, &sigma, &e), &e);
    assert_ok(st_whiten_rows(w.pool, &w.p.base.rows, D, noise * noise * sigma * sigma, &w.x, &e), &e);
    assert_ok(st_whiten_rows(w.pool, &w.p.seen.rows, D, 0, &w.y, &e), &e);
    return w;
}

static void close_whites(struct whites *w)
{
    free_pair(&w->p);
    st_dense_free(&w->x);
    st_dense_free(&w->y);
    st_pool_free(w->pool);
}

/* Share of the ids behind the first n, which are the pairs that were given. */
static double match(const struct whites *w, const struct st_dense *x, size_t n, unsigned n_round)
{
    uint32_t seen[N], guess[N];
    struct st_err e;
    for (uint32_t i = 0; i < N; i++)
        seen[i] = i;
    const struct st_pairs p = {seen, w->p.truth, n};
    assert_ok(st_pairs_match(w->pool, &w->y, x, &p, n_round, NULL, guess, &e), &e);
    return hits(guess + n, w->p.truth + n, N - n);
}

static void whitened_rows_have_deviation_one_and_no_direction_in_common(void **state)
{
    (void)state;
    struct whites w = open_whites(1, 0);
    for (size_t i = 0; i < D; i++)
        for (size_t k = 0; k < D; k++) {
            double sum = 0;
            for (size_t r = 0; r < N; r++)
                sum += (double)st_dense_row(&w.y, r)[i] * st_dense_row(&w.y, r)[k] / N;
            assert_true(fabs(sum - (i == k)) < 1e-2);
        }
    close_whites(&w);
}

static void twice_as_many_pairs_as_directions_give_all_others(void **state)
{
    (void)state;
    struct whites w = open_whites(2, 0), noisy = open_whites(3, .5);
    print_message("without noise: %zu pairs %.3f, grown %.3f; no pairs, grown %.3f\n", (size_t)D / 2,
                  match(&w, &w.x, D / 2, 0), match(&w, &w.x, D / 2, 8), match(&w, &w.x, 0, 8));
    assert_true(match(&w, &w.x, 2 * D, 0) > .98);
    assert_true(match(&noisy, &noisy.x, 4 * D, 0) > .5);
    assert_true(match(&noisy, &noisy.x, 4 * D, 8) >= match(&noisy, &noisy.x, 4 * D, 0) - .02);
    close_whites(&w);
    close_whites(&noisy);
}

static void against_another_base_they_give_nothing(void **state)
{
    (void)state;
    struct whites w = open_whites(4, 0), other = open_whites(5, 0);
    assert_true(match(&w, &other.x, 2 * D, 0) < .03);
    assert_true(match(&w, &other.x, 2 * D, 8) < .03);
    assert_true(match(&w, &other.x, 0, 8) < .03);
    close_whites(&w);
    close_whites(&other);
}

/* What a network makes of the victim's rows after it has learned from the first n. */
static double learn(const struct whites *w, const struct st_dense *x, size_t n, uint64_t seed, uint32_t *guess)
{
    struct st_dense table, out;
    struct st_mlp m;
    struct st_err e;
    uint32_t seen[N], own[N];
    for (uint32_t i = 0; i < N; i++)
        seen[i] = i;
    assert_ok(st_dense_new(&table, N, D, "test", &e), &e);
    assert_ok(st_dense_new(&out, N, D, "test", &e), &e);
    memcpy(table.p, x->p, N * D * sizeof *table.p);
    st_unit_rows(&table);
    const struct st_mlp_lesson l = {.rows = &w->y,
                                    .table = &table,
                                    .row = seen,
                                    .label = w->p.truth,
                                    .n = n,
                                    .noise = .05,
                                    .n_step = 500,
                                    .seed = seed};
    assert_ok(st_mlp_new(&m, D, 64, D, seed, &e), &e);
    assert_ok(st_mlp_train(&m, &l, &e), &e);
    assert_ok(st_mlp_apply(&m, &w->y, &out, &e), &e);
    st_unit_rows(&out);
    assert_ok(st_dense_nearest(w->pool, &out, &table, guess ? guess : own, NULL, NULL, &e), &e);
    st_mlp_free(&m);
    st_dense_free(&table);
    st_dense_free(&out);
    return hits((guess ? guess : own) + n, w->p.truth + n, N - n);
}

static void a_network_learns_the_map_from_half_of_the_ids(void **state)
{
    (void)state;
    struct whites w = open_whites(6, 0);
    double got = learn(&w, &w.x, N / 2, 1, NULL);
    print_message("network: %.3f\n", got);
    assert_true(got > .8);
    close_whites(&w);
}

static void against_another_base_it_learns_nothing(void **state)
{
    (void)state;
    struct whites w = open_whites(7, 0), other = open_whites(8, 0);
    assert_true(learn(&w, &other.x, N / 2, 1, NULL) < .03);
    close_whites(&w);
    close_whites(&other);
}

static void the_seed_decides_what_it_learns(void **state)
{
    (void)state;
    uint32_t a[N], b[N];
    struct whites w = open_whites(9, 1);
    (void)learn(&w, &w.x, N / 4, 3, a);
    (void)learn(&w, &w.x, N / 4, 3, b);
    assert_memory_equal(a, b, sizeof a);
    close_whites(&w);
}

static void a_lesson_without_pairs_is_refused_and_one_can_be_stopped(void **state)
{
    (void)state;
    struct whites w = open_whites(10, 0);
    struct st_mlp m;
    struct st_err e;
    volatile sig_atomic_t stop = 1;
    uint32_t zero = 0;
    struct st_mlp_lesson l = {.rows = &w.y, .table = &w.x, .row = &zero, .label = &zero, .n_step = 3, .cancel = &stop};
    assert_ok(st_mlp_new(&m, D, 8, D, 1, &e), &e);
    expect_refusal(st_mlp_train(&m, &l, &e), &e, ST_INPUT, "no pairs to learn from");
    l.n = 1;
    expect_refusal(st_mlp_train(&m, &l, &e), &e, ST_IO, "cancelled");
    st_mlp_free(&m);
    close_whites(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whitened_rows_have_deviation_one_and_no_direction_in_common),
        cmocka_unit_test(twice_as_many_pairs_as_directions_give_all_others),
        cmocka_unit_test(against_another_base_they_give_nothing),
        cmocka_unit_test(a_network_learns_the_map_from_half_of_the_ids),
        cmocka_unit_test(against_another_base_it_learns_nothing),
        cmocka_unit_test(the_seed_decides_what_it_learns),
        cmocka_unit_test(a_lesson_without_pairs_is_refused_and_one_can_be_stopped),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
