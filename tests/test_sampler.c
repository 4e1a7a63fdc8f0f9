/* The sampler against exact probabilities: a plain reference in double precision says which ids may be drawn and how
 * often. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "engine/sampler.h"

#include <malloc.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define N 400

static const struct st_sampling plain = {
    .temperature = 1.0f, .top_p = 1.0f, .repetition_penalty = 1.0f, .n_logprobs = -1};

static struct st_sampler *new_sampler(uint32_t n)
{
    struct st_sampler *s;
    struct st_err e;
    assert_int_equal(st_sampler_new(n, &s, &e), 0);
    return s;
}

/* Bell-shaped values of the given spread. */
static void random_logits(float *v, uint32_t n, uint64_t seed, float spread)
{
    struct st_rng r;
    st_rng_seed(&r, seed);
    for (uint32_t i = 0; i < n; i++) {
        double sum = 0;
        for (int k = 0; k < 12; k++)
            sum += st_rng_unit(&r);
        v[i] = spread * (float)(sum - 6);
    }
}

static const float *sort_key;
static int by_logit(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    if (sort_key[x] != sort_key[y])
        return sort_key[x] > sort_key[y] ? -1 : 1;
    return x < y ? -1 : 1;
}

/* prob[id] after temperature, top-k, top-p and min-p, each by its definition on a fully sorted list. */
static void reference(const float *logits, uint32_t n, const struct st_sampling *p, double *prob)
{
    uint32_t order[N], keep = n;
    double w[N], sum = 0, cum = 0;
    for (uint32_t i = 0; i < n; i++) {
        order[i] = i;
        prob[i] = 0;
    }
    sort_key = logits;
    qsort(order, n, sizeof *order, by_logit);
    for (uint32_t i = 0; i < n; i++)
        w[i] = exp(((double)logits[order[i]] - (double)logits[order[0]]) / (double)p->temperature);
    if (p->top_k && p->top_k < keep)
        keep = p->top_k;
    for (uint32_t i = 0; i < keep; i++)
        sum += w[i];
    if (p->top_p < 1.0f) {
        uint32_t i = 0;
        while (i < keep && cum < (double)p->top_p * sum)
            cum += w[i++];
        keep = i ? i : 1;
    }
    while (keep > 1 && w[keep - 1] < (double)p->min_p)
        keep--;
    sum = 0;
    for (uint32_t i = 0; i < keep; i++)
        sum += w[i];
    for (uint32_t i = 0; i < keep; i++)
        prob[order[i]] = w[i] / sum;
}

/* Draws and compares with the reference: nothing outside its set, and chi-square within five deviations of its mean. */
static void check_draws(const struct st_sampling *p, uint64_t seed, float spread)
{
    enum { DRAWS = 20000 };
    struct st_sampler *s = new_sampler(N);
    float logits[N], work[N];
    double prob[N];
    uint32_t count[N] = {0};
    struct st_rng rng;
    struct st_sampled tok;
    random_logits(logits, N, seed, spread);
    reference(logits, N, p, prob);
    st_rng_seed(&rng, seed + 1);
    for (int i = 0; i < DRAWS; i++) {
        memcpy(work, logits, sizeof logits);
        st_sample(s, work, p, &rng, NULL, 0, 0, &tok);
        assert_true(tok.id < N);
        assert_true(prob[tok.id] > 0);
        count[tok.id]++;
    }
    double chi = 0, rest = 0, rest_count = 0;
    int free_cells = -1;
    for (uint32_t i = 0; i < N; i++) {
        double want = prob[i] * DRAWS;
        if (want < 10) { /* cells that are too small are counted as one */
            rest += want;
            rest_count += count[i];
            continue;
        }
        chi += (count[i] - want) * (count[i] - want) / want;
        free_cells++;
    }
    if (rest >= 10) {
        chi += (rest_count - rest) * (rest_count - rest) / rest;
        free_cells++;
    }
    if (free_cells > 0 && chi > free_cells + 5 * sqrt(2.0 * free_cells))
        fail_msg("chi-square %.1f with %d degrees of freedom", chi, free_cells);
    st_sampler_free(s);
}

static void draws_follow_the_softmax_at_every_temperature(void **state)
{
    (void)state;
    const float temperatures[] = {0.3f, 0.7f, 1.0f, 1.7f};
    for (int i = 0; i < 4; i++) {
        struct st_sampling p = plain;
        p.temperature = temperatures[i];
        check_draws(&p, 10 + (uint64_t)i, 2.0f);
    }
}

static void top_k_top_p_and_min_p_keep_exactly_the_defined_set(void **state)
{
    (void)state;
    const struct {
        uint32_t k;
        float p, min_p, temperature, spread;
    } row[] = {
        {1, 1.0f, 0, 1.0f, 2},     {5, 1.0f, 0, 1.0f, 2},    {40, 1.0f, 0, 0.8f, 2},     {399, 1.0f, 0, 1, 2},
        {400, 1.0f, 0, 1, 2},      {1000, 1.0f, 0, 1, 2},    {0, 0.9f, 0, 1.0f, 2},      {0, 0.5f, 0, 1.0f, 3},
        {0, 0.01f, 0, 1.0f, 2},    {0, 0.0f, 0, 1.0f, 2},    {0, 0.999f, 0, 1.5f, 1},    {0, 0.95f, 0, 1.0f, 0.01f},
        {0, 1.0f, 0.05f, 1.0f, 2}, {0, 1.0f, 1.0f, 1.0f, 2}, {50, 0.9f, 0, 1.0f, 2},     {50, 0.9f, 0.1f, 0.7f, 2},
        {0, 0.8f, 0.02f, 1.2f, 3}, {3, 0.2f, 0.9f, 1.0f, 1}, {200, 0.99f, 0.001f, 2, 4}, {0, 0.9f, 0, 0.05f, 5},
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        struct st_sampling p = plain;
        p.top_k = row[i].k;
        p.top_p = row[i].p;
        p.min_p = row[i].min_p;
        p.temperature = row[i].temperature;
        check_draws(&p, 100 + i, row[i].spread);
    }
}

static void greedy_takes_the_largest_and_the_lower_id_of_a_tie(void **state)
{
    (void)state;
    struct st_sampler *s = new_sampler(N);
    struct st_sampling p = plain;
    struct st_rng rng;
    struct st_sampled tok;
    float v[N];
    p.temperature = 0;
    for (uint64_t seed = 0; seed < 50; seed++) {
        uint32_t best = 0;
        random_logits(v, N, seed, 2);
        for (uint32_t i = 1; i < N; i++)
            if (v[i] > v[best])
                best = i;
        st_sample(s, v, &p, &rng, NULL, 0, 0, &tok);
        assert_int_equal(tok.id, best);
    }
    random_logits(v, N, 7, 2);
    v[33] = v[7] = v[399] = 50;
    st_sample(s, v, &p, &rng, NULL, 0, 0, &tok);
    assert_int_equal(tok.id, 7);
    st_sampler_free(s);
}

static void values_that_are_no_numbers_are_never_chosen(void **state)
{
    (void)state;
    struct st_sampler *s = new_sampler(20);
    struct st_rng rng;
    struct st_sampled tok;
    st_rng_seed(&rng, 1);
    for (int round = 0; round < 3; round++) {
        struct st_sampling p = plain;
        p.temperature = round ? 1.0f : 0.0f;
        p.top_k = round == 2 ? 4 : 0;
        p.n_logprobs = 3;
        for (int i = 0; i < 200; i++) {
            float v[20];
            for (int k = 0; k < 20; k++)
                v[k] = k % 3 ? NAN : (float)k * 0.1f;
            st_sample(s, v, &p, &rng, NULL, 0, 0, &tok);
            assert_int_equal(tok.id % 3, 0);
        }
    }
    float all[20];
    for (int k = 0; k < 20; k++)
        all[k] = NAN;
    st_sample(s, all, &plain, &rng, NULL, 0, 0, &tok);
    assert_true(tok.id < 20);
    for (int k = 0; k < 20; k++)
        all[k] = k == 5 ? INFINITY : 0;
    st_sample(s, all, &plain, &rng, NULL, 0, 0, &tok);
    assert_int_equal(tok.id, 5);
    st_sampler_free(s);
}

static void penalties_follow_their_formulas(void **state)
{
    (void)state;
    struct st_sampler *s = new_sampler(8);
    struct st_sampling p = plain;
    struct st_rng rng;
    struct st_sampled tok;
    const uint32_t history[] = {0, 1, 1, 2, 2, 2, 5};
    const float start[8] = {2, -2, 4, 1, 0, -1, 3, 1};
    float v[8];
    p.temperature = 0;
    p.repetition_penalty = 2;
    for (int twice = 0; twice < 2; twice++) { /* the second time finds no traces of the first */
        memcpy(v, start, sizeof v);
        st_sample(s, v, &p, &rng, history, 7, 4, &tok);
        const float want[8] = {1, -4, 2, 1, 0, -2, 3, 1};
        assert_memory_equal(v, want, sizeof v);
        assert_int_equal(tok.id, 6);
    }
    /* The reply is {2, 2, 2, 5}: presence once, frequency by count; the prompt does not matter. */
    p.repetition_penalty = 1;
    p.presence_penalty = 0.5f;
    p.frequency_penalty = 0.25f;
    memcpy(v, start, sizeof v);
    st_sample(s, v, &p, &rng, history, 7, 4, &tok);
    const float openai[8] = {2, -2, 4 - 0.5f - 0.75f, 1, 0, -1 - 0.5f - 0.25f, 3, 1};
    assert_memory_equal(v, openai, sizeof v);
    assert_int_equal(tok.id, 6);
    p.repetition_penalty = 2;
    memcpy(v, start, sizeof v);
    st_sample(s, v, &p, &rng, history, 7, 4, &tok);
    const float both[8] = {1, -4, 2 - 0.5f - 0.75f, 1, 0, -2 - 0.5f - 0.25f, 3, 1};
    assert_memory_equal(v, both, sizeof v);
    st_sampler_free(s);
}

static void bias_raises_lowers_and_forbids(void **state)
{
    (void)state;
    struct st_sampler *s = new_sampler(6);
    struct st_logit_bias bias[] = {{3, 10}, {1, -100}, {4, -1}};
    struct st_sampling p = plain;
    struct st_rng rng;
    struct st_sampled tok;
    p.bias = bias;
    p.n_bias = 3;
    p.temperature = 0;
    float v[6] = {0, 9, 0, 0, 8, 0};
    st_sample(s, v, &p, &rng, NULL, 0, 0, &tok);
    assert_int_equal(tok.id, 3);
    assert_true(isinf(v[1]) && v[1] < 0);
    assert_true(v[4] == 7.0f);
    p.temperature = 5;
    st_rng_seed(&rng, 3);
    for (int i = 0; i < 2000; i++) {
        float w[6] = {0, 50, 0, 0, 0, 0};
        st_sample(s, w, &p, &rng, NULL, 0, 0, &tok);
        assert_int_not_equal(tok.id, 1);
    }
    st_sampler_free(s);
}

static void logprobs_are_those_of_the_unfiltered_softmax(void **state)
{
    (void)state;
    struct st_sampler *s = new_sampler(N);
    struct st_logit_bias bias = {5, 3};
    struct st_sampling p = plain;
    struct st_rng rng;
    struct st_sampled tok;
    float v[N], work[N];
    double prob[N];
    random_logits(v, N, 77, 3);
    reference(v, N, &plain, prob);
    p.temperature = 0.8f;
    p.top_k = 10;
    p.bias = &bias;
    p.n_bias = 1;
    p.n_logprobs = 20;
    st_rng_seed(&rng, 5);
    for (int i = 0; i < 100; i++) {
        memcpy(work, v, sizeof v);
        st_sample(s, work, &p, &rng, NULL, 0, 0, &tok);
        assert_true(fabs((double)tok.logprob - log(prob[tok.id])) < 1e-5);
        assert_int_equal(tok.n_top, 20);
        for (int k = 0; k < 20; k++) {
            assert_true(fabs((double)tok.top[k].logprob - log(prob[tok.top[k].id])) < 1e-5);
            assert_true(k == 0 || tok.top[k].logprob <= tok.top[k - 1].logprob);
        }
    }
    /* An impossible token reads -9999; a small vocabulary gives fewer alternatives. */
    struct st_sampler *small = new_sampler(3);
    float w[3] = {0, -INFINITY, 1};
    p.n_bias = 0;
    st_sample(small, w, &p, &rng, NULL, 0, 0, &tok);
    assert_int_equal(tok.n_top, 3);
    assert_int_equal(tok.top[2].id, 1);
    assert_true(tok.top[2].logprob == -9999.0f);
    p.n_logprobs = 0;
    st_sample(small, w, &p, &rng, NULL, 0, 0, &tok);
    assert_int_equal(tok.n_top, 0);
    st_sampler_free(small);
    st_sampler_free(s);
}

static void a_seed_repeats_its_draws(void **state)
{
    (void)state;
    struct st_sampler *s = new_sampler(N);
    uint32_t first[64];
    int differ = 0;
    for (int round = 0; round < 3; round++) {
        struct st_rng rng;
        st_rng_seed(&rng, round < 2 ? 42 : 43);
        for (int i = 0; i < 64; i++) {
            struct st_sampled tok;
            float v[N];
            random_logits(v, N, (uint64_t)i, 1);
            st_sample(s, v, &plain, &rng, NULL, 0, 0, &tok);
            if (round == 0)
                first[i] = tok.id;
            else if (round == 1)
                assert_int_equal(tok.id, first[i]);
            else
                differ += tok.id != first[i];
        }
    }
    assert_true(differ > 30);
    st_sampler_free(s);
}

static void values_out_of_range_are_refused_by_name(void **state)
{
    (void)state;
    struct st_err e = {0};
    struct st_logit_bias outside = {10, 1}, no_number = {1, NAN};
    const struct {
        struct st_sampling p;
        const char *field;
    } bad[] = {
        {{.temperature = -1, .top_p = 1, .repetition_penalty = 1}, "temperature"},
        {{.temperature = NAN, .top_p = 1, .repetition_penalty = 1}, "temperature"},
        {{.top_p = 1.5f, .repetition_penalty = 1}, "top_p"},
        {{.top_p = NAN, .repetition_penalty = 1}, "top_p"},
        {{.top_p = 1, .min_p = -0.1f, .repetition_penalty = 1}, "min_p"},
        {{.top_p = 1, .repetition_penalty = 0}, "repetition_penalty"},
        {{.top_p = 1, .repetition_penalty = 1, .presence_penalty = INFINITY}, "presence_penalty"},
        {{.top_p = 1, .repetition_penalty = 1, .frequency_penalty = NAN}, "frequency_penalty"},
        {{.top_p = 1, .repetition_penalty = 1, .n_logprobs = 21}, "logprobs"},
        {{.top_p = 1, .repetition_penalty = 1, .n_logprobs = -2}, "logprobs"},
        {{.top_p = 1, .repetition_penalty = 1, .bias = &outside, .n_bias = 1}, "logit_bias"},
        {{.top_p = 1, .repetition_penalty = 1, .bias = &no_number, .n_bias = 1}, "logit_bias"},
    };
    assert_int_equal(st_sampling_check(&plain, 10, &e), 0);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(st_sampling_check(&bad[i].p, 10, &e), ST_INPUT);
        assert_ptr_equal(strstr(e.msg, bad[i].field), e.msg);
    }
}

static void sampling_takes_no_memory(void **state)
{
    (void)state;
    enum { BIG = 50000 };
    struct st_sampler *s = new_sampler(BIG);
    float *v = malloc(BIG * sizeof *v), *w = malloc(BIG * sizeof *w);
    assert_true(v && w);
    random_logits(v, BIG, 1, 2);
    struct st_sampling p = plain;
    struct st_rng rng;
    struct st_sampled tok;
    uint32_t history[4] = {1, 2, 3, 3};
    p.top_p = 0.95f;
    p.repetition_penalty = 1.1f;
    p.n_logprobs = 20;
    st_rng_seed(&rng, 1);
    struct mallinfo2 was = mallinfo2();
    for (int i = 0; i < 20; i++) {
        p.top_k = i % 2 ? 20000 : 0;
        memcpy(w, v, BIG * sizeof *v);
        st_sample(s, w, &p, &rng, history, 4, 2, &tok);
    }
    struct mallinfo2 is = mallinfo2();
    assert_int_equal(is.uordblks, was.uordblks);
    assert_int_equal(is.hblks, was.hblks);
    free(v);
    free(w);
    st_sampler_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(draws_follow_the_softmax_at_every_temperature),
        cmocka_unit_test(top_k_top_p_and_min_p_keep_exactly_the_defined_set),
        cmocka_unit_test(greedy_takes_the_largest_and_the_lower_id_of_a_tie),
        cmocka_unit_test(values_that_are_no_numbers_are_never_chosen),
        cmocka_unit_test(penalties_follow_their_formulas),
        cmocka_unit_test(bias_raises_lowers_and_forbids),
        cmocka_unit_test(logprobs_are_those_of_the_unfiltered_softmax),
        cmocka_unit_test(a_seed_repeats_its_draws),
        cmocka_unit_test(values_out_of_range_are_refused_by_name),
        cmocka_unit_test(sampling_takes_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
