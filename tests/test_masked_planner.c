/* What the planner measures, and what it makes of it. */
#include "masked_setup.h"
#include "protect/masked/planner.h"

#define COUNT(a) (sizeof(a) / sizeof *(a))

/* The fewest rows from which on here is cheaper, whatever was measured below. */
static void rows_stay_here_from_where_that_is_cheaper_for_all_that_are_more(void **state)
{
    (void)state;
    static const struct {
        int n;
        double here[ST_MASK_COSTS], pads[ST_MASK_COSTS], exchange[ST_MASK_COSTS];
        uint32_t keep;
    } rows[] = {
        {6, {7, 7, 8, 9, 12, 19}, {1, 2, 4, 8, 16, 32}, {1, 1, 1, 1, 1, 1}, 8},
        {6, {7, 7, 8, 9, 12, 19}, {1, 2, 4, 8, 16, 32}, {9, 9, 9, 9, 9, 9}, 2}, /* one row leaves in any case */
        {6, {7, 7, 8, 9, 18, 33}, {1, 2, 4, 8, 16, 32}, {1, 1, 1, 1, 1, 1}, 32},
        {6, {7, 7, 8, 9, 12, 34}, {1, 2, 4, 8, 16, 32}, {1, 1, 1, 1, 1, 1}, UINT32_MAX},
        {6, {7, 1, 8, 19, 12, 19}, {1, 2, 4, 8, 16, 32}, {1, 1, 1, 1, 1, 1}, 16}, /* an outlier at 2 rows */
        {3, {7, 7, 8}, {1, 2, 4}, {1, 1, 1}, UINT32_MAX},
        {3, {7, 7, 8}, {4, 8, 16}, {1, 1, 1}, 2},
        {1, {1}, {4}, {1}, UINT32_MAX},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct st_mask_costs c = {.n = rows[i].n};
        memcpy(c.here_s, rows[i].here, sizeof c.here_s);
        memcpy(c.pads_s, rows[i].pads, sizeof c.pads_s);
        memcpy(c.exchange_s, rows[i].exchange, sizeof c.exchange_s);
        if (st_mask_costs_keep(&c) != rows[i].keep)
            fail_msg("row %zu: %u", i, st_mask_costs_keep(&c));
    }
}

static void slow(void *arg, struct st_exposed *reply)
{
    (void)reply;
    usleep(*(unsigned *)arg);
}

/* A worker of which every exchange takes longer than the products of a small model. */
static void what_is_measured_decides_and_is_printed(void **state)
{
    (void)state;
    struct setup s;
    int n_op = 0;
    unsigned pause = 20000;
    plant(&s, &(struct tiny){.seed = 31}, &(struct st_masked_place){0});
    struct st_masked_opts o = options(&s, "otp");
    o.offload = ST_MASKED_OFFLOAD_AUTO;
    o.n_threads = 1;
    s.worker.record = true;
    s.worker.twist = slow;
    s.worker.arg = &pause;
    mask(&s, &o);
    const struct st_protection_hooks *h = s.b.hooks;
    const struct st_plan_op *ops = group_at(&s.m->plan, 1, &n_op);
    assert_false(h->keep(h->ctx, &s.m->plan, ops, n_op, 1));
    assert_true(h->keep(h->ctx, &s.m->plan, ops, n_op, 2));
    const char *text = st_masked_plan_text(s.masked);
    assert_non_null(strstr(text,
                           "here: exchanges of 2 rows or more, with this side's weights; measured: 2 rows of layer 0 "
                           "(gate, up) take "));
    /* Random rows of that group alone, of each number twice. */
    assert_int_equal(s.worker.n_seen, 2 * ST_MASK_COSTS);
    for (size_t i = 0; i < s.worker.n_seen; i++) {
        assert_int_equal(s.worker.seen[i].n_row, 1 << i / 2);
        assert_int_equal(s.m->plan.ops[s.worker.seen[i].op].role, ST_ROLE_GATE);
    }
    struct st_masked_stats st;
    st_masked_stats(s.masked, &st);
    assert_int_equal(st.n_exchange, 0);
    assert_int_equal(st.pads.taken, 0);
    tear_down(&s);
}

static void a_worker_that_is_down_leaves_the_number_that_nobody_measured(void **state)
{
    (void)state;
    struct setup s;
    plant(&s, &(struct tiny){.seed = 32}, &(struct st_masked_place){0});
    struct st_masked_opts o = options(&s, "lwe");
    o.offload = ST_MASKED_OFFLOAD_AUTO;
    s.worker.down = true;
    mask(&s, &o);
    assert_non_null(strstr(st_masked_plan_text(s.masked),
                           "here: exchanges of 32 rows or more, with this side's weights; "
                           "the number of rows alone decides"));
    tear_down(&s);
}

static void a_number_that_was_given_is_taken_and_nothing_is_measured(void **state)
{
    (void)state;
    struct setup s;
    plant(&s, &(struct tiny){.seed = 33}, &(struct st_masked_place){0});
    struct st_masked_opts o = options(&s, "otp");
    o.offload = ST_MASKED_OFFLOAD_AUTO;
    o.keep_rows = 5;
    s.worker.record = true;
    mask(&s, &o);
    assert_int_equal(s.worker.n_seen, 0);
    int n_op = 0;
    const struct st_plan_op *ops = group_at(&s.m->plan, 0, &n_op);
    assert_false(s.b.hooks->keep(s.b.hooks->ctx, &s.m->plan, ops, n_op, 4));
    assert_true(s.b.hooks->keep(s.b.hooks->ctx, &s.m->plan, ops, n_op, 5));
    tear_down(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_stay_here_from_where_that_is_cheaper_for_all_that_are_more),
        cmocka_unit_test(what_is_measured_decides_and_is_printed),
        cmocka_unit_test(a_worker_that_is_down_leaves_the_number_that_nobody_measured),
        cmocka_unit_test(a_number_that_was_given_is_taken_and_nothing_is_measured),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
