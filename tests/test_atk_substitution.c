/* A substitution read with a language model of other text. */
#include "ids_make.h"
#include "pair_stage.h"

#include "audit/climb.h"
#include "audit/decipher.h"
#include "audit/neighbours.h"
#include "audit/ngram.h"

static void probabilities_are_those_of_the_formula_and_sum_to_one(void **state)
{
    (void)state;
    static const uint32_t seq[] = {0, 1, 2, 0, 1, 1, ST_NGRAM_BREAK, 2, 0, 1, 2};
    struct st_ngram m;
    struct st_dense ratios;
    struct st_err e;
    assert_ok(st_ngram_new(seq, sizeof seq / sizeof *seq, 4, 3, &m, &e), &e);
    for (uint32_t z = 0; z < 4; z++)
        for (uint32_t y = 0; y < 4; y++) {
            double two = 0, three = 0;
            for (uint32_t x = 0; x < 4; x++) {
                two += st_ngram_2(&m, y, x);
                three += st_ngram_3(&m, z, y, x);
            }
            assert_true(fabs(two - 1) < 1e-12 && fabs(three - 1) < 1e-12);
        }
    double one = (3 + .5) / (10 + 2), two = (2 - .75 + .75 * 2 * one) / 3; /* 1 is followed by 2 1 2 */
    assert_true(fabs(st_ngram_2(&m, 1, 2) - two) < 1e-12);
    assert_true(fabs(st_ngram_3(&m, 0, 1, 2) - (2 - .75 + .75 * 2 * two) / 3) < 1e-12);
    assert_true(st_ngram_2(&m, 3, 2) == one && st_ngram_3(&m, 3, 1, 2) == st_ngram_2(&m, 1, 2));
    assert_ok(st_dense_new(&ratios, 4, 4, "test", &e), &e);
    st_ngram_ratios(&m, &ratios);
    for (uint32_t y = 0; y < 4; y++)
        for (uint32_t x = 0; x < 4; x++)
            assert_true(fabs(st_dense_row(&ratios, y)[x] * m.one[x] - st_ngram_2(&m, y, x)) < 1e-6);
    st_dense_free(&ratios);
    st_ngram_free(&m);
}

static void neighbours_are_counted_on_both_sides(void **state)
{
    (void)state;
    static const uint32_t seq[] = {0, 1, 0, 2, 0, 1, ST_NGRAM_BREAK, 0};
    struct st_neighbours s;
    struct st_dense marks;
    uint32_t counts[3];
    struct st_err e;
    assert_ok(st_neighbours_new(seq, 8, 3, false, &s, &e), &e);
    assert_true(s.from[1] == 2 && s.at[0].id == 1 && s.at[0].count == 2 && s.at[1].id == 2 && s.at[1].count == 1);
    assert_true(s.from[2] - s.from[1] == 1 && s.from[3] - s.from[2] == 1);
    st_neighbours_free(&s);
    assert_ok(st_neighbours_new(seq, 8, 3, true, &s, &e), &e);
    assert_true(s.from[1] == 2 && s.at[0].id == 1 && s.at[0].count == 1);
    st_neighbours_free(&s);
    assert_ok(st_neighbour_marks(seq, 8, 3, 3, &marks, counts, &e), &e);
    assert_true(counts[0] == 4 && counts[1] == 2 && counts[2] == 1);
    const float *at = st_dense_row(&marks, 0);
    assert_true(fabs(at[0] - sqrt(2 / 3.)) < 1e-6 && fabs(at[1] - sqrt(1 / 3.)) < 1e-6 && at[2] == 0);
    assert_true(fabs(at[ST_NEIGHBOUR_MARKS] - sqrt(.5)) < 1e-6);
    st_dense_free(&marks);
}

static void climbing_puts_exchanged_ids_back(void **state)
{
    (void)state;
    enum { N = 12 };
    struct language *l = language_of(8, N);
    struct words said = speak(l, N, 60, 9);
    struct st_ngram m;
    struct st_dense score;
    struct st_err e;
    uint32_t map[N], room[N];
    size_t changes, wrong = 0;
    assert_ok(st_ngram_new(said.ids, 60 * DOC, N, 3, &m, &e), &e);
    assert_ok(st_dense_new(&score, N, N, "test", &e), &e);
    for (uint32_t i = 0; i < N; i++) {
        map[i] = i;
        room[i] = 1;
        for (uint32_t x = 0; x < N; x++) /* what is tried: neighbours in number */
            st_dense_row(&score, i)[x] = -fabsf((float)i - (float)x);
    }
    map[2] = 3;
    map[3] = 2;
    map[5] = 6;
    map[6] = 5;
    const struct st_climb c = {.seq = said.ids, .n = 60 * DOC, .n_type = N, .score = &score, .room = room, .model = &m};
    for (int i = 0; i < 3; i++)
        assert_ok(st_climb(&c, map, &changes, &e), &e);
    for (uint32_t i = 0; i < N; i++)
        wrong += map[i] != i;
    assert_int_equal(wrong, 0);
    assert_int_equal(changes, 0);
    st_dense_free(&score);
    st_ngram_free(&m);
    words_free(&said);
    free(l);
}

struct made {
    uint32_t n, n_frequent, n_copy;
    size_t n_doc;
    const struct language *language; /* NULL: uniform ids */
    uint64_t seed;
};

/* Types and text that are recovered. */
static void decipher(const struct made *t, double *types, double *text)
{
    struct st_pool *pool;
    struct st_err e;
    struct st_heard h;
    uint32_t all = t->n + t->n_frequent * t->n_copy, *truth = table_of(t->seed + 11, t->n, t->n_frequent, t->n_copy);
    uint32_t *guess = malloc(all * sizeof *guess), *again = malloc(all * sizeof *again), copies[512] = {0};
    struct words said = speak(t->language, t->n, t->n_doc, t->seed + 12);
    struct words read = speak(t->language, t->n, t->n_doc, t->seed + 13);
    for (uint32_t p = 0; p < t->n_frequent; p++)
        copies[p] = t->n_copy;
    assert_true(guess && again);
    assert_ok(st_pool_new(2, &pool, &e), &e);
    assert_ok(st_heard_new(&said.t, truth, all, t->n, SIZE_MAX, 1, &h, &e), &e);
    const struct st_decipher d = {.sent = &h.sent,
                                  .prior = &read.t,
                                  .n_id = all,
                                  .n_plain = t->n,
                                  .n_type = 512,
                                  .copies = t->n_copy ? copies : NULL};
    assert_ok(st_decipher(pool, &d, guess, &e), &e);
    st_pool_free(pool);
    assert_ok(st_pool_new(1, &pool, &e), &e);
    assert_ok(st_decipher(pool, &d, again, &e), &e);
    assert_memory_equal(guess, again, all * sizeof *guess); /* whatever the number of threads */
    *types = type_share(&h, guess);
    *text = text_share(&h, guess);
    print_message("%u ids, %u x %u homophones, %zu heard: types %.3f, text %.3f\n", t->n, t->n_frequent, t->n_copy,
                  t->n_doc * DOC, *types, *text);
    st_pool_free(pool);
    st_heard_free(&h);
    words_free(&said);
    words_free(&read);
    free(truth);
    free(guess);
    free(again);
}

static void a_small_vocabulary_in_long_text_is_read_nearly_whole(void **state)
{
    (void)state;
    struct language *l = language_of(10, 60);
    double types, text;
    decipher(&(struct made){.n = 60, .n_doc = 300, .language = l}, &types, &text);
    assert_true(types > .9 && text > .97);
    free(l);
}

static void less_text_is_read_less(void **state)
{
    (void)state;
    struct language *l = language_of(10, 200);
    double types[2], text[2];
    decipher(&(struct made){.n = 200, .n_doc = 5, .language = l}, &types[0], &text[0]);
    decipher(&(struct made){.n = 200, .n_doc = 400, .language = l}, &types[1], &text[1]);
    assert_true(text[1] > .9 && text[0] < text[1]);
    free(l);
}

static void homophones_are_read_as_well(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 5; seed++) { /* eight seeds: 1.000 each */
        struct language *l = language_of(seed + 10, 60);
        double types, text;
        decipher(&(struct made){.n = 60, .n_frequent = 6, .n_copy = 3, .n_doc = 400, .language = l, .seed = seed},
                 &types, &text);
        assert_true(types > .95 && text > .97);
        free(l);
    }
}

static void uniform_ids_stay_at_chance(void **state)
{
    (void)state;
    double types, text;
    decipher(&(struct made){.n = 200, .n_doc = 200}, &types, &text);
    assert_true(types < .04 && text < .04);
}

/* stories260K: the second half of the stories is public. */
static void stories_are_read_by_whoever_has_read_others(void **state)
{
    (void)state;
    struct stage s;
    need();
    set_up(&s, 0, 0, 71);
    s.target.text.n = 400;
    struct st_texts_ids all = s.target.text;
    size_t half = all.n / 2, len = s.text.ends[half - 1];
    for (size_t d = half; d < all.n; d++)
        s.text.ends[d] -= len;
    s.target.prior = (struct st_texts_ids){.ids = all.ids + len, .ends = s.text.ends + half, .n = all.n - half};
    s.target.text.n = half;
    attack(&s, &st_atk_substitution);
    for (size_t i = 0; i < s.rows.n; i++)
        print_message("%s %.3f (%.3f to %.3f)\n", s.rows.at[i].variant, s.rows.at[i].score, s.rows.at[i].low,
                      s.rows.at[i].high);
    assert_true(score(&s, "prior: text") > .9 && score(&s, "prior: BLEU-4") > .7);
    assert_true(score(&s, "prior: text") > score(&s, "general text: text"));
    assert_true(score(&s, "prior, 1000 tokens") < score(&s, "prior: text"));
    assert_true(score(&s, "same text: text") > .9 && score(&s, "same text: BLEU-4") > .7);
    assert_true(score(&s, "homophones 4") > .9); /* they do not stop it */
    assert_true(score(&s, "homophones 16") < score(&s, "homophones 0"));
    tear_down(&s);
}

/* Letters of one make with invented names and numbers, every second one heard. Five seeds: .20 to .28 of items. */
static void personal_items_are_read_from_many_letters(void **state)
{
    (void)state;
    struct stage s;
    struct st_err e;
    need();
    set_up(&s, 0, 0, 72);
    struct st_text_speak speak = {.model = s.base, .tok = s.tok, .n_record = 200, .seed = 3, .n_threads = 2};
    struct st_text_made other;
    st_text_free(&s.text);
    assert_ok(st_text_make(&speak, &s.text, &e), &e);
    speak.n_record = 1;
    speak.seed = 4;
    assert_ok(st_text_make(&speak, &other, &e), &e);
    s.target.text = s.text.view;
    s.target.prior = other.view;
    attack(&s, &st_atk_substitution);
    print_message("of %zu items: general text %.3f, same text %.3f\n", s.text.view.n_item,
                  score(&s, "general text: items"), score(&s, "same text: items"));
    assert_true(score(&s, "same text: items") > .1);
    assert_true(score(&s, "general text: items") < .02);
    st_text_free(&other);
    tear_down(&s);
}

static void stops_when_it_is_told_to(void **state)
{
    (void)state;
    volatile sig_atomic_t cancel = 1;
    struct words said = speak(NULL, 20, 2, 1);
    struct st_pool *pool;
    struct st_err e;
    uint32_t guess[20];
    const struct st_decipher d = {
        .sent = &said.t, .prior = &said.t, .n_id = 20, .n_plain = 20, .n_type = 20, .cancel = &cancel};
    assert_ok(st_pool_new(1, &pool, &e), &e);
    expect_refusal(st_decipher(pool, &d, guess, &e), &e, ST_IO, "cancelled");
    st_pool_free(pool);
    words_free(&said);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(probabilities_are_those_of_the_formula_and_sum_to_one),
        cmocka_unit_test(neighbours_are_counted_on_both_sides),
        cmocka_unit_test(climbing_puts_exchanged_ids_back),
        cmocka_unit_test(a_small_vocabulary_in_long_text_is_read_nearly_whole),
        cmocka_unit_test(less_text_is_read_less),
        cmocka_unit_test(homophones_are_read_as_well),
        cmocka_unit_test(uniform_ids_stay_at_chance),
        cmocka_unit_test_setup_teardown(stories_are_read_by_whoever_has_read_others, make_work, drop_work),
        cmocka_unit_test_setup_teardown(personal_items_are_read_from_many_letters, make_work, drop_work),
        cmocka_unit_test(stops_when_it_is_told_to),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
