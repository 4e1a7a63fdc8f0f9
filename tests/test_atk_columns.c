/* Column-first matching on made pairs: what it breaks, and that it does not know the answer. */
#include "audit/columns.h"
#include "audit/match.h"
#include "pair_make.h"

enum { N = 700, D = 48, F = 96, LAYERS = 3 };

struct found {
    double rows, columns;
};

static struct found attack(struct pair *p, double noise, int n_threads, uint64_t seed, uint32_t *guess)
{
    struct st_pool *pool = pool_of(n_threads);
    struct st_columns_opts o = {.rows = noise, .seed = seed};
    struct st_columns_found f;
    struct st_err e;
    struct found out = {0};
    uint32_t own[N];
    assert_ok(st_columns_first(pool, &p->base, &p->seen, &o, &f, &e), &e);
    assert_ok(st_match_points(pool, &f.guess, &f.rows, true, guess ? guess : own, &e), &e);
    out.rows = hits(guess ? guess : own, p->truth, N);
    for (uint32_t l = 0; l < LAYERS; l++)
        out.columns += hits(f.columns[l].column, p->column[l], F) / LAYERS;
    st_columns_found_free(&f);
    st_pool_free(pool);
    return out;
}

static void without_noise_every_row_and_column_is_found(void **state)
{
    (void)state;
    for (int scaled = 0; scaled < 2; scaled++) {
        struct pair p = make_pair(1 + (uint64_t)scaled, N, D, F, LAYERS, scaled, 0);
        struct found f = attack(&p, 0, 2, 1, NULL);
        assert_true(f.rows > .99 && f.columns > .99);
        free_pair(&p);
    }
}

static void noise_as_large_as_the_rows_hides_few(void **state)
{
    (void)state;
    for (int scaled = 0; scaled < 2; scaled++) {
        struct pair p = make_pair(3 + (uint64_t)scaled, N, D, F, LAYERS, scaled, .5);
        struct found f = attack(&p, .5, 2, 1, NULL);
        print_message("noise .5, scaled %d: rows %.3f, columns %.3f\n", scaled, f.rows, f.columns);
        assert_true(f.rows > .9 && f.columns > .95);
        free_pair(&p);
    }
}

static void against_another_base_it_is_at_chance(void **state)
{
    (void)state;
    struct pair p = make_pair(5, N, D, F, LAYERS, false, 0), other = make_pair(6, N, D, F, LAYERS, false, 0);
    struct st_view own = p.base;
    p.base = other.base;
    assert_true(attack(&p, 0, 2, 1, NULL).rows < .02);
    p.base = own;
    free_pair(&p);
    free_pair(&other);
}

static void the_seed_decides_and_threads_do_not(void **state)
{
    (void)state;
    uint32_t guess[2][N];
    for (int i = 0; i < 2; i++) {
        struct pair p = make_pair(7, N, D, F, LAYERS, true, 1.5);
        (void)attack(&p, 1.5, 1 + i, 9, guess[i]);
        free_pair(&p);
    }
    assert_memory_equal(guess[0], guess[1], sizeof guess[0]);
}

static void pairs_that_do_not_belong_together_are_named(void **state)
{
    (void)state;
    struct pair p = make_pair(8, 60, 8, 24, 2, false, 0);
    struct st_pool *pool = pool_of(1);
    struct st_columns_opts o = {.seed = 1};
    struct st_columns_found f;
    struct st_err e;
    p.seen.columns[1].n_row--;
    expect_refusal(st_columns_first(pool, &p.base, &p.seen, &o, &f, &e), &e, ST_INPUT,
                   "layer 1 of the base has 24 columns, of the obfuscated model 23");
    p.seen.columns[1].n_row++;
    p.seen.n_layer = 1;
    expect_refusal(st_columns_first(pool, &p.base, &p.seen, &o, &f, &e), &e, ST_INPUT, "2 layers");
    p.seen.n_layer = 2;
    volatile sig_atomic_t stop = 1;
    o.cancel = &stop;
    expect_refusal(st_columns_first(pool, &p.base, &p.seen, &o, &f, &e), &e, ST_IO, "cancelled");
    o.cancel = NULL;
    st_pool_cancel_by(pool, &stop);
    expect_refusal(st_columns_first(pool, &p.base, &p.seen, &o, &f, &e), &e, ST_IO, "cancelled");
    free_pair(&p);
    st_pool_free(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_noise_every_row_and_column_is_found),
        cmocka_unit_test(noise_as_large_as_the_rows_hides_few),
        cmocka_unit_test(against_another_base_it_is_at_chance),
        cmocka_unit_test(the_seed_decides_and_threads_do_not),
        cmocka_unit_test(pairs_that_do_not_belong_together_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
