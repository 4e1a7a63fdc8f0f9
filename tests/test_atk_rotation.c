/* Two keys of one model, and homophones of one token: what belongs together is found. */
#include "audit/homophones.h"
#include "pair_make.h"
#include "pair_stage.h"

enum { N = 300, D = 24, FREQUENT = 20, COPIES = 3, ALL = N + FREQUENT * COPIES };

struct made {
    struct st_dense embed, head;
    uint32_t truth[ALL], place[ALL]; /* plain id; where row i of the order before stands */
};

/* Homophones of the first ids, all rows in another order; with `noise` on the embedding and a little on the head. */
static struct made make_homophones(uint64_t seed, double noise)
{
    struct st_rng rng;
    struct st_err e;
    struct made m;
    st_rng_seed(&rng, seed);
    struct st_dense rows = random_dense(&rng, N, D, 1), never = random_dense(&rng, 1, D, 3);
    assert_ok(st_dense_new(&m.embed, ALL, D, "test", &e), &e);
    assert_ok(st_dense_new(&m.head, ALL, D, "test", &e), &e);
    shuffle(&rng, m.place, ALL);
    for (size_t i = 0; i < ALL; i++) {
        size_t id = i < N ? i : (i - N) % FREQUENT, at = m.place[i];
        m.truth[at] = (uint32_t)id;
        for (size_t k = 0; k < D; k++) {
            st_dense_row(&m.embed, at)[k] = st_dense_row(&rows, id)[k] + (float)noise * deviate(&rng);
            st_dense_row(&m.head, at)[k] = i < N ? deviate(&rng) : st_dense_row(&never, 0)[k] + .05F * deviate(&rng);
        }
    }
    st_dense_free(&rows);
    st_dense_free(&never);
    return m;
}

static double link_all(const struct made *m, const struct st_dense *embed)
{
    struct st_pool *pool = pool_of(2);
    struct st_err e;
    bool copy[ALL];
    uint32_t original[ALL];
    size_t right = 0;
    assert_ok(st_homophones_find(pool, &m->head, ALL - N, copy, &e), &e);
    for (size_t i = 0; i < ALL; i++)
        assert_int_equal(copy[m->place[i]], i >= N);
    assert_ok(st_homophones_link(pool, embed, copy, original, &e), &e);
    for (size_t i = 0; i < ALL; i++)
        right += copy[i] && m->truth[original[i]] == m->truth[i];
    st_pool_free(pool);
    return (double)right / (ALL - N);
}

static void homophones_are_told_apart_and_linked(void **state)
{
    (void)state;
    struct made m = make_homophones(1, .2);
    assert_true(link_all(&m, &m.embed) > .98);
    st_dense_free(&m.embed);
    st_dense_free(&m.head);
}

static void homophones_with_rows_of_their_own_are_not_linked(void **state)
{
    (void)state;
    struct made m = make_homophones(2, 0), other = make_homophones(3, 0);
    assert_true(link_all(&m, &other.embed) < .1);
    struct made *both[] = {&m, &other};
    for (int i = 0; i < 2; i++) {
        st_dense_free(&both[i]->embed);
        st_dense_free(&both[i]->head);
    }
}

static void numbers_that_make_no_sense_are_refused(void **state)
{
    (void)state;
    struct made m = make_homophones(4, 0);
    struct st_pool *pool = pool_of(1);
    struct st_err e;
    bool copy[ALL];
    expect_refusal(st_homophones_find(pool, &m.head, 1, copy, &e), &e, ST_UNSUPPORTED, "cannot be told apart");
    expect_refusal(st_homophones_find(pool, &m.head, ALL + 1, copy, &e), &e, ST_UNSUPPORTED, "cannot be told apart");
    st_pool_free(pool);
    st_dense_free(&m.embed);
    st_dense_free(&m.head);
}

/* ---- two keys of stories260K ---- */

static void a_new_key_is_linked_with_the_one_before(void **state)
{
    (void)state;
    struct stage now, before;
    need();
    set_up(&before, .1, .05, 80);
    set_up(&now, .1, .05, 81);
    now.target.before = before.target.pair;
    attack(&now, &st_atk_rotation);
    assert_true(score(&now, "row sort: types") > .95);
    assert_true(score(&now, "columns first: types") > .97 && score(&now, "columns first: text") > .97);
    tear_down(&now);
    tear_down(&before);
}

static void a_key_of_another_model_is_not_linked(void **state)
{
    (void)state;
    struct stage now, before;
    need();
    set_up(&before, .1, .05, 80);
    set_up(&now, .1, .05, 81);
    float **own = other_weights(before.seen);
    now.target.before = before.target.pair;
    attack(&now, &st_atk_rotation);
    for (size_t i = 0; i < now.rows.n; i++)
        if (strstr(now.rows.at[i].variant, ": types"))
            assert_true(now.rows.at[i].score < .05 && now.rows.at[i].chance < .005);
    free_weights(before.seen, own);
    tear_down(&now);
    tear_down(&before);
}

static void without_a_checkpoint_from_before_it_says_so(void **state)
{
    (void)state;
    struct st_err e;
    struct stage s;
    need();
    set_up(&s, 0, 0, 82);
    struct st_audit a = {.target = &s.target, .pool = s.pool, .seed = 1, .memory = 1 << 30};
    expect_refusal(st_atk_rotation.run(&a, &s.rows, &e), &e, ST_UNSUPPORTED, "no checkpoint of an earlier key");
    expect_refusal(st_atk_homophones.run(&a, &s.rows, &e), &e, ST_UNSUPPORTED, "the checkpoint has none");
    tear_down(&s);
}

/* Real homophones of stories260K, under a key that turns. */
static void homophones_of_a_checkpoint_are_counted_as_one(void **state)
{
    (void)state;
    need();
    const struct st_subject_opts so = {
        .base = model_path, .tokenizer = tokenizer_path, .text = text_path, .seed = 1, .n_threads = 2};
    struct st_cov_opts o = {.alpha_e = .1, .alpha_h = .05, .homophones = 4, .n_threads = 2};
    struct st_cov_key key = key_of(83);
    struct st_subject *subject;
    struct stage s = {.rows = {0}};
    struct st_err e;
    char dst[128];
    o.dtype = ST_COV_STORE_F32;
    snprintf(dst, sizeof dst, "%s/homophones", work);
    assert_ok(st_cov_obfuscate(model_path, dst, &key, &o, &e), &e);
    assert_ok(st_subject_open(&so, &subject, &e), &e);
    assert_ok(st_subject_add_pair(subject, dst, &key, "homophones", &e), &e);
    s.target = *st_subject_at(subject, 0);
    assert_ok(st_pool_new(2, &s.pool, &e), &e);
    /* Too little for both ways; for the matching with the base. */
    const size_t v = s.target.pair.seen->config.n_vocab;
    struct st_audit a = {.target = &s.target, .pool = s.pool, .seed = 1, .memory = 4 * v * v};
    expect_refusal(st_atk_homophones.run(&a, &s.rows, &e), &e, ST_MEMORY, "--memory leaves it");
    a.memory *= 2;
    assert_ok(st_atk_homophones.run(&a, &s.rows, &e), &e);
    assert_int_equal(s.rows.at[s.rows.n - 1].left_out, ST_MEMORY);
    assert_string_equal(s.rows.at[s.rows.n - 1].variant, "by base");
    attack(&s, &st_atk_homophones);
    for (size_t i = 0; i < s.rows.n; i++)
        print_message("%s %.3f (chance %.3f, %llu)\n", s.rows.at[i].variant, s.rows.at[i].score, s.rows.at[i].chance,
                      (unsigned long long)s.rows.at[i].n);
    assert_true(score(&s, "linked") > .95 && score(&s, "by base") > .95 && score(&s, "counts") > .95);
    /* Another base reads nothing; in other weights nothing belongs together. */
    struct st_model *base = (struct st_model *)s.target.pair.base, *seen = (struct st_model *)s.target.pair.seen;
    struct st_mat *kept = calloc((size_t)base->plan.n_weight, sizeof *kept);
    assert_non_null(kept);
    memcpy(kept, base->mats, (size_t)base->plan.n_weight * sizeof *kept);
    float **other = other_weights(base);
    attack(&s, &st_atk_homophones);
    print_message("another base: %.3f\n", score(&s, "by base"));
    assert_true(score(&s, "by base") < .03 && score(&s, "linked") > .95);
    memcpy(base->mats, kept, (size_t)base->plan.n_weight * sizeof *kept);
    free_weights(base, other);
    free(kept);
    other = other_weights(seen);
    attack(&s, &st_atk_homophones);
    for (size_t i = 0; i < s.rows.n; i++) {
        const struct st_row *r = &s.rows.at[i];
        print_message("other weights: %s %.3f (chance %.3f)\n", r->variant, r->score, r->chance);
        assert_true(r->score < r->chance + .03);
    }
    free_weights(seen, other);
    st_rows_free(&s.rows);
    st_pool_free(s.pool);
    st_subject_close(subject);
    st_secret_wipe(&key.seed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(homophones_are_told_apart_and_linked),
        cmocka_unit_test(homophones_with_rows_of_their_own_are_not_linked),
        cmocka_unit_test(numbers_that_make_no_sense_are_refused),
        cmocka_unit_test_setup_teardown(a_new_key_is_linked_with_the_one_before, make_work, drop_work),
        cmocka_unit_test_setup_teardown(a_key_of_another_model_is_not_linked, make_work, drop_work),
        cmocka_unit_test_setup_teardown(homophones_of_a_checkpoint_are_counted_as_one, make_work, drop_work),
        cmocka_unit_test_setup_teardown(without_a_checkpoint_from_before_it_says_so, make_work, drop_work),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
