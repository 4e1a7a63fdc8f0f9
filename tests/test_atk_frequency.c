/* Ids matched by how often they occur. */
#include "ids_make.h"
#include "pair_stage.h"

#include "audit/atk_frequency.h"

static void ranks_fall_with_counts_and_ties_go_by_id(void **state)
{
    (void)state;
    static const uint32_t ids[] = {4, 2, 2, 7, 4, 2, 1};
    static const size_t ends[] = {3, 7};
    const struct st_texts_ids t = {.ids = ids, .ends = ends, .n = 2};
    static const uint32_t want[] = {2, 4, 1, 7, 0, 3, 5, 6};
    struct st_ranking r;
    struct st_err e;
    assert_ok(st_ranking_new(&t, 8, &r, &e), &e);
    assert_memory_equal(r.id, want, sizeof want);
    assert_true(r.n_used == 4 && r.total == 7 && r.count[2] == 3);
    for (uint32_t i = 0; i < 8; i++)
        assert_int_equal(r.place[r.id[i]], i);
    st_ranking_free(&r);
    expect_refusal(st_ranking_new(&t, 7, &r, &e), &e, ST_INPUT, "id 7 where there are 7");
}

static void near_places_stay_inside(void **state)
{
    (void)state;
    static const struct {
        uint32_t place, n, k, want[5];
    } table[] = {{3, 9, 5, {3, 2, 4, 1, 5}},
                 {0, 9, 3, {0, 1, 2}},
                 {8, 9, 4, {8, 7, 6, 5}},
                 {20, 5, 2, {4, 3}},
                 {1, 3, 3, {1, 0, 2}}};
    uint32_t got[5];
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        st_ranking_near(table[i].place, table[i].n, table[i].k, got);
        assert_memory_equal(got, table[i].want, table[i].k * sizeof *got);
    }
}

/* Each id twice as frequent as the next: counts alone tell everything. */
static void steep_counts_are_read_whole(void **state)
{
    (void)state;
    uint32_t ids[511], guess[9 * 3], *order, n, *truth = table_of(3, 9, 0, 0);
    size_t end = 511;
    const struct st_texts_ids plain = {.ids = ids, .ends = &end, .n = 1};
    struct st_heard h;
    struct st_ranking sent, prior;
    struct st_err e;
    for (uint32_t i = 0, id = 0; i < 511; i++) {
        id += i == 512 - (512u >> (id + 1));
        ids[i] = id;
    }
    assert_ok(st_heard_new(&plain, truth, 9, 9, SIZE_MAX, 1, &h, &e), &e);
    assert_ok(st_ranking_new(&h.sent, 9, &sent, &e), &e);
    assert_ok(st_ranking_new(&plain, 9, &prior, &e), &e);
    assert_ok(st_frequency_order(&prior, NULL, &order, &n, &e), &e);
    assert_int_equal(n, 9);
    st_frequency_match(&sent, order, n, 3, guess);
    for (uint32_t r = 0; r < sent.n_used; r++)
        assert_int_equal(guess[3 * r], truth[sent.id[r]]);
    free(order);
    st_ranking_free(&sent);
    st_ranking_free(&prior);
    st_heard_free(&h);
    free(truth);
}

/* Counts 8, 6 and 1; the first has three ids, which get 2.67 each: behind the second. */
static void a_token_with_homophones_stands_where_each_of_its_ids_is_expected(void **state)
{
    (void)state;
    static const uint32_t ids[] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 2}, copies[] = {2, 0, 0};
    static const uint32_t want[] = {1, 0, 0, 0, 2};
    const size_t end = 15;
    const struct st_texts_ids t = {.ids = ids, .ends = &end, .n = 1};
    struct st_ranking prior;
    struct st_err e;
    uint32_t *order, n;
    assert_ok(st_ranking_new(&t, 3, &prior, &e), &e);
    assert_ok(st_frequency_order(&prior, copies, &order, &n, &e), &e);
    assert_int_equal(n, 5);
    assert_memory_equal(order, want, sizeof want);
    free(order);
    st_ranking_free(&prior);
}

static void uniform_ids_stay_at_chance(void **state)
{
    (void)state;
    enum { N = 400 };
    struct words said = speak(NULL, N, 200, 1), read = speak(NULL, N, 200, 2);
    uint32_t *truth = table_of(4, N, 0, 0), *guess = malloc(N * 10 * sizeof *guess), of[N], *order, n;
    struct st_heard h;
    struct st_ranking sent, prior;
    struct st_row row = {.n = 0};
    struct st_err e;
    assert_non_null(guess);
    assert_ok(st_heard_new(&said.t, truth, N, N, SIZE_MAX, 1, &h, &e), &e);
    assert_ok(st_ranking_new(&h.sent, N, &sent, &e), &e);
    assert_ok(st_ranking_new(&read.t, N, &prior, &e), &e);
    assert_ok(st_frequency_order(&prior, NULL, &order, &n, &e), &e);
    st_frequency_match(&sent, order, n, 10, guess);
    free(order);
    for (uint32_t r = 0; r < sent.n_used; r++)
        of[r] = truth[sent.id[r]];
    st_score_top_k(&row, guess, 10, of, sent.n_used, N, NULL);
    assert_true(row.low < 10.0 / N && row.score < 0.06);
    st_ranking_free(&sent);
    st_ranking_free(&prior);
    st_heard_free(&h);
    words_free(&said);
    words_free(&read);
    free(truth);
    free(guess);
}

static void homophones_are_sent_each_as_often(void **state)
{
    (void)state;
    enum { N = 20, MORE = 2, COPY = 3, ALL = N + MORE * COPY };
    struct language *l = language_of(5, N);
    struct words said = speak(l, N, 200, 6);
    uint32_t *truth = table_of(7, N, MORE, COPY), times[ALL] = {0}, whole[N] = {0};
    struct st_heard h;
    struct st_err e;
    assert_ok(st_heard_new(&said.t, truth, ALL, N, 15000, 1, &h, &e), &e);
    assert_int_equal(st_texts_len(&h.text), 15000);
    for (size_t i = 0; i < 15000; i++) {
        assert_int_equal(truth[h.sent.ids[i]], said.ids[i]);
        times[h.sent.ids[i]]++;
        whole[said.ids[i]]++;
    }
    for (uint32_t i = 0; i < ALL; i++)
        if (truth[i] < MORE && whole[truth[i]] > 400)
            assert_true(abs((int)times[i] * (COPY + 1) - (int)whole[truth[i]]) < (int)whole[truth[i]] / 2);
    st_heard_free(&h);
    for (uint32_t i = 0; i < ALL; i++)
        truth[i] = truth[i] == said.ids[0] ? N : truth[i];
    expect_refusal(st_heard_new(&said.t, truth, ALL, N, 15000, 1, &h, &e), &e, ST_INPUT, "has no id");
    words_free(&said);
    free(truth);
    free(l);
}

/* stories260K: the half of the stories that was not heard as the prior. */
static void a_prior_of_the_same_kind_tells_more_than_general_text(void **state)
{
    (void)state;
    struct stage s;
    need();
    set_up(&s, 0, 0, 70);
    size_t half = s.text.view.n / 2, len = s.text.ends[half - 1];
    struct st_texts_ids all = s.target.text;
    for (size_t d = half; d < all.n; d++)
        s.text.ends[d] -= len;
    s.target.prior = (struct st_texts_ids){.ids = all.ids + len, .ends = s.text.ends + half, .n = all.n - half};
    s.target.text.n = half;
    attack(&s, &st_atk_frequency);
    for (size_t i = 0; i < s.rows.n; i++)
        print_message("%s %.3f (chance %.4f)\n", s.rows.at[i].variant, s.rows.at[i].score, s.rows.at[i].chance);
    assert_true(score(&s, "prior: top 10") > score(&s, "general text: top 10") + .1);
    assert_true(score(&s, "prior: top 100") > .8);
    assert_true(score(&s, "prior: text") > score(&s, "general text: text"));
    struct st_audit a = {.target = &s.target, .pool = s.pool, .seed = 1};
    struct st_err e;
    s.target.x_name = "alpha_e";
    s.target.x = .1;
    expect_refusal(st_atk_frequency.run(&a, &s.rows, &e), &e, ST_UNSUPPORTED, "the same at every alpha_e");
    s.target.x = 0;
    s.target.prior.n = 0;
    expect_refusal(st_atk_frequency.run(&a, &s.rows, &e), &e, ST_UNSUPPORTED, "--prior");
    tear_down(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranks_fall_with_counts_and_ties_go_by_id),
        cmocka_unit_test(near_places_stay_inside),
        cmocka_unit_test(steep_counts_are_read_whole),
        cmocka_unit_test(a_token_with_homophones_stands_where_each_of_its_ids_is_expected),
        cmocka_unit_test(uniform_ids_stay_at_chance),
        cmocka_unit_test(homophones_are_sent_each_as_often),
        cmocka_unit_test_setup_teardown(a_prior_of_the_same_kind_tells_more_than_general_text, make_work, drop_work),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
