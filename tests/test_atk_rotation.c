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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(homophones_are_told_apart_and_linked),
        cmocka_unit_test(homophones_with_rows_of_their_own_are_not_linked),
        cmocka_unit_test(numbers_that_make_no_sense_are_refused),
        cmocka_unit_test_setup_teardown(a_new_key_is_linked_with_the_one_before, make_work, drop_work),
        cmocka_unit_test_setup_teardown(without_a_checkpoint_from_before_it_says_so, make_work, drop_work),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
