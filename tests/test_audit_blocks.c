/* Layers with derivatives: they compute what the engine computes, and their derivatives are differences. */
#include "audit/blocks.h"
#include "audit/states.h"
#include "audit/views.h"
#include "pair_stage.h"

enum { TEXTS = 2, LEN = 5, D = 12, HEADS = 4, KV = 2, HEAD = 4, FF = 10, LAYERS = 2, ROWS = TEXTS * LEN };

static struct st_blocks make_blocks(bool both_ways, bool interleaved)
{
    const struct st_blocks shape = {.n_layer = LAYERS,
                                    .d = D,
                                    .n_head = HEADS,
                                    .n_kv = KV,
                                    .head = HEAD,
                                    .n_ff = FF,
                                    .both_ways = both_ways,
                                    .interleaved = interleaved,
                                    .eps = 1e-5F};
    struct st_blocks b;
    struct st_rng rng;
    struct st_err e;
    assert_ok(st_blocks_new(&shape, &b, &e), &e);
    st_blocks_draw(&b, 1);
    st_rng_seed(&rng, 2);
    for (size_t i = 0; i < b.n_w; i++)
        b.w[i] += (float)(.3 * (st_rng_unit(&rng) - .5));
    return b;
}

/* A number that depends on all that a pass gives: sums by fixed weights of outputs and scores. */
struct number {
    float out[ROWS * D], scores[TEXTS * HEADS * LEN * LEN];
};

static double number_of(struct st_pass *p, const struct st_blocks *b, const struct number *w, const float *x)
{
    const float *out = st_pass_forward(p, b, x), *s = st_pass_scores(p);
    double sum = 0;
    for (size_t i = 0; i < ROWS * D; i++)
        sum += (double)w->out[i] * out[i];
    for (size_t i = 0; i < TEXTS * HEADS * LEN * LEN; i++)
        sum += (double)w->scores[i] * s[i];
    return sum;
}

/* Along many directions at once: the difference quotient of a random step is the step's product with the derivative. */
static void compare(struct st_pass *p, struct st_blocks *b, const struct number *w, float *x, float *at, size_t n,
                    const float *grad, struct st_rng *rng)
{
    float *step = malloc(n * sizeof *step), *was = malloc(n * sizeof *was);
    assert_true(step && was);
    memcpy(was, at, n * sizeof *was);
    for (int k = 0; k < 8; k++) {
        double want = 0, up, down;
        for (size_t i = 0; i < n; i++) {
            step[i] = (float)(st_rng_unit(rng) - .5);
            want += (double)step[i] * grad[i];
            at[i] = was[i] + 2e-3F * step[i];
        }
        up = number_of(p, b, w, x);
        for (size_t i = 0; i < n; i++)
            at[i] = was[i] - 2e-3F * step[i];
        down = number_of(p, b, w, x);
        memcpy(at, was, n * sizeof *was);
        assert_true(fabs((up - down) / 4e-3 - want) < 1e-2 * (1 + fabs(want)));
    }
    free(step);
    free(was);
}

static void derivatives_are_differences(void **state)
{
    (void)state;
    for (int kind = 0; kind < 4; kind++) {
        struct st_blocks b = make_blocks(kind & 1, kind & 2);
        struct number w;
        struct st_pass *p;
        struct st_err e;
        struct st_rng rng;
        float x[ROWS * D], dx[ROWS * D], *grad = calloc(b.n_w, sizeof *grad);
        assert_non_null(grad);
        st_rng_seed(&rng, 3);
        for (size_t i = 0; i < ROWS * D; i++) {
            x[i] = (float)(2 * st_rng_unit(&rng) - 1);
            w.out[i] = (float)(st_rng_unit(&rng) - .5);
        }
        for (size_t i = 0; i < sizeof w.scores / sizeof *w.scores; i++)
            w.scores[i] = (float)(st_rng_unit(&rng) - .5);
        assert_ok(st_pass_new(&b, TEXTS, LEN, &p, &e), &e);
        (void)number_of(p, &b, &w, x);
        st_pass_backward(p, &b, w.out, w.scores, dx, grad);
        compare(p, &b, &w, x, x, ROWS * D, dx, &rng);
        compare(p, &b, &w, x, b.w, b.n_w, grad, &rng);
        st_pass_free(p);
        st_blocks_free(&b);
        free(grad);
    }
}

static void a_text_sees_no_other_and_nothing_that_follows(void **state)
{
    (void)state;
    struct st_blocks b = make_blocks(false, false);
    struct st_pass *p;
    struct st_err e;
    float x[ROWS * D], before[ROWS * D];
    for (size_t i = 0; i < ROWS * D; i++)
        x[i] = (float)sin((double)i);
    assert_ok(st_pass_new(&b, TEXTS, LEN, &p, &e), &e);
    memcpy(before, st_pass_forward(p, &b, x), sizeof before);
    x[(LEN - 1) * D] += 1;
    const float *after = st_pass_forward(p, &b, x);
    assert_memory_equal(before, after, (LEN - 1) * D * sizeof *before);
    assert_memory_equal(before + LEN * D, after + LEN * D, LEN * D * sizeof *before);
    assert_memory_not_equal(before + (LEN - 1) * D, after + (LEN - 1) * D, D * sizeof *before);
    st_pass_free(p);
    st_blocks_free(&b);
}

static void layers_of_a_model_leave_what_the_engine_leaves(void **state)
{
    (void)state;
    static const struct {
        const char *path;
        int layer;
    } models[] = {{"models/demo", 3}, {model_path, 4}};
    (void)there();
    for (size_t m = 0; m < sizeof models / sizeof *models; m++) {
        static const uint32_t ids[] = {1, 403, 407, 261, 378, 310, 290, 430};
        enum { N = sizeof ids / sizeof *ids };
        const struct st_model_opts f32 = {.dtype = ST_LOAD_F32, .n_threads = 2};
        struct st_model *model;
        struct st_states seen;
        struct st_lanes *lane;
        struct st_blocks b;
        struct st_pass *p;
        struct st_dense embed;
        struct st_err e;
        if (access(models[m].path, R_OK)) {
            print_message("%s is not here (SOTTO_SHARED): left out\n", models[m].path);
            continue;
        }
        assert_ok(st_model_open(models[m].path, &f32, &model, &e), &e);
        assert_ok(st_states_new(model, models[m].layer, N, &seen, &e), &e);
        const struct st_tap tap = st_states_tap(&seen);
        seen.n = N;
        assert_ok(st_lanes_new(model, 1, 1, N, &tap, &lane, &e), &e);
        assert_ok(st_lanes_run(lane, ids, N - 1, ids + N - 1, 1, &e), &e);
        assert_ok(st_blocks_of_model(model, (uint32_t)models[m].layer + 1, &b, &e), &e);
        assert_ok(st_pass_new(&b, 1, N, &p, &e), &e);
        assert_ok(st_view_rows(model, ST_ROLE_EMBED, &embed, &e), &e);
        float *x = malloc((size_t)N * b.d * sizeof *x);
        assert_non_null(x);
        for (size_t t = 0; t < N; t++)
            memcpy(x + t * b.d, st_dense_row(&embed, ids[t]), b.d * sizeof *x);
        const float *out = st_pass_forward(p, &b, x), *s = st_pass_scores(p);
        assert_true(st_state_distance(out, seen.hidden.p, (size_t)N * b.d) < 1e-8);
        for (size_t h = 0; h < b.n_head; h++) {
            const float *q = st_dense_row(&seen.query, N - 1) + h * b.head,
                        *k = st_dense_row(&seen.key, 2) + h / (b.n_head / b.n_kv) * b.head;
            double want = 0;
            for (size_t i = 0; i < b.head; i++)
                want += (double)q[i] * k[i];
            assert_true(fabs(s[(h * N + N - 1) * N + 2] - want) < 1e-3 * (1 + fabs(want)));
        }
        free(x);
        st_dense_free(&embed);
        st_pass_free(p);
        st_blocks_free(&b);
        st_lanes_free(lane);
        st_states_free(&seen);
        st_model_close(model);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(derivatives_are_differences),
        cmocka_unit_test(a_text_sees_no_other_and_nothing_that_follows),
        cmocka_unit_test(layers_of_a_model_leave_what_the_engine_leaves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
