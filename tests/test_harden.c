/* What hardened logits still say, and to whom: what stays (greedy replies), what goes (exact values), and that no way
 * of asking gets around it. */
#include "expect.h"
#include "harness.h"
#include "protect/sealed/harden.h"

#include <math.h>

#define COUNT(a) (sizeof(a) / sizeof *(a))
#define VOCAB 200

static struct st_harden *harden_of(const char *text, const char *key, uint32_t n_vocab)
{
    struct st_harden_opts o;
    struct st_harden *h;
    uint8_t bytes[32];
    struct st_err e = {0};
    tiny_check(st_harden_parse(text, &o, &e), &e);
    o.measure = true;
    memset(bytes, key ? *key : 0, sizeof bytes);
    tiny_check(st_harden_new(&o, key ? bytes : NULL, n_vocab, &h, &e), &e);
    return h;
}

static void apply(const struct st_harden *h, uint32_t variant, const uint32_t *ids, size_t n, float *row)
{
    const struct st_filter *f = st_harden_filter(h);
    struct st_err e = {0};
    tiny_check(f->row(f->ctx, variant, ids, n, row, &e), &e);
}

static void random_row(float *row, uint64_t seed)
{
    struct st_rng r;
    st_rng_seed(&r, seed);
    for (int i = 0; i < VOCAB; i++)
        row[i] = (float)(8 * st_rng_unit(&r) - 2);
}

static uint32_t best_of(const float *row, uint32_t n)
{
    uint32_t at = 0;
    for (uint32_t i = 1; i < n; i++)
        at = row[i] > row[at] ? i : at;
    return at;
}

static void what_is_asked_for_is_read_or_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text, *says;
    } bad[] = {{"", "got ''"},
               {"topk", "got 'topk'"},
               {"topk=", "topk: want"},
               {"topk=0", "topk: want"},
               {"topk=2.5", "topk: want a whole number"},
               {"round=13", "round: want"},
               {"round=-1", "round: want"},
               {"noise=-1", "noise: want"},
               {"noise=nan", "noise: want"},
               {"noise=1e9", "noise: want"},
               {"margin=1", "margin alone"},
               {"noise=1,", "got ''"},
               {"noise=1,noise=1", "given twice"},
               {"noise=1 ", "noise: want"},
               {"noise= 1", "noise: want"},
               {"noise=0x1", "noise: want"},
               {"noisy=1", "got 'noisy=1'"},
               {"noise=1000000000000000000000000000000000000000000000000000000000000000000", "too long"}};
    struct st_harden_opts o;
    struct st_harden *h;
    struct st_err e = {0};
    for (size_t i = 0; i < COUNT(bad); i++)
        expect_refusal(st_harden_parse(bad[i].text, &o, &e), &e, ST_USAGE, bad[i].says);
    assert_ok(st_harden_parse("noise=0.25,topk=40,margin=1,round=6", &o, &e), &e);
    assert_true(o.top_k == 40 && o.round == 6 && o.noise == 0.25 && o.margin == 1);
    assert_ok(st_harden_parse("round=0", &o, &e), &e);
    assert_true(o.top_k == 0 && o.round == 0 && o.noise == 0 && o.margin == 0);
    o.top_k = VOCAB + 1;
    expect_refusal(st_harden_new(&o, NULL, VOCAB, &h, &e), &e, ST_USAGE, "at most the vocabulary's 200");
}

static void the_largest_logit_stays_the_largest_and_stands_alone(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "noise=5",          "round=0", "topk=1", "topk=3,round=0,noise=20", "topk=200,round=12,noise=0.001",
        "noise=100,round=1"};
    for (size_t t = 0; t < COUNT(texts); t++) {
        struct st_harden *h = harden_of(texts[t], "k", VOCAB);
        for (uint32_t seed = 0; seed < 200; seed++) {
            float was[VOCAB], row[VOCAB];
            random_row(was, seed);
            if (seed % 2) /* a near tie, and an exact one */
                was[seed % VOCAB] = was[best_of(was, VOCAB)] - (seed % 4 == 1 ? 1e-6f : 0.0f);
            memcpy(row, was, sizeof row);
            apply(h, 0, &seed, 1, row);
            uint32_t best = best_of(was, VOCAB);
            assert_int_equal(best_of(row, VOCAB), best);
            for (uint32_t i = 0; i < VOCAB; i++)
                assert_true(i == best || row[i] < row[best]);
        }
        struct st_harden_stats s;
        st_harden_stats(h, &s);
        assert_true(s.n_row == 200 && s.n_same == 200 && s.kl >= 0);
        st_harden_free(h);
    }
}

static void a_lead_below_the_margin_may_be_lost_and_one_above_it_never(void **state)
{
    (void)state;
    struct st_harden *h = harden_of("noise=2,margin=0.5", "k", VOCAB);
    int lost = 0;
    for (uint32_t seed = 0; seed < 400; seed++) {
        float row[VOCAB];
        random_row(row, seed);
        uint32_t best = best_of(row, VOCAB);
        row[best] = 6.5f; /* the others are below 6 */
        if (seed % 2) {
            row[(best + 1) % VOCAB] = 6.4f;
            apply(h, 0, &seed, 1, row);
            lost += best_of(row, VOCAB) != best;
        } else {
            apply(h, 0, &seed, 1, row);
            assert_int_equal(best_of(row, VOCAB), best);
        }
    }
    assert_true(lost > 20);
    st_harden_free(h);
}

static void only_the_first_k_are_released_in_whole_steps(void **state)
{
    (void)state;
    struct st_harden *h = harden_of("topk=7,round=3,noise=0.3", "k", VOCAB);
    for (uint32_t seed = 0; seed < 50; seed++) {
        float row[VOCAB];
        int n = 0;
        random_row(row, seed);
        if (seed % 5 == 0) /* ties at the cut */
            for (int i = 0; i < VOCAB; i++)
                row[i] = (float)(i % 3);
        float level = rintf(row[best_of(row, VOCAB)]);
        apply(h, 0, &seed, 1, row);
        for (int i = 0; i < VOCAB; i++)
            if (isfinite(row[i])) {
                n++;
                assert_true((row[i] - level) * 8 == rintf((row[i] - level) * 8) && row[i] <= level);
            }
        assert_int_equal(n, 7);
    }
    st_harden_free(h);
}

/* Largest difference of two rows. */
static float distance(const float *a, const float *b)
{
    float most = 0;
    for (int i = 0; i < VOCAB; i++)
        most = fmaxf(most, fabsf(a[i] - b[i]));
    return most;
}

static void one_context_has_one_noise_and_another_has_another(void **state)
{
    (void)state;
    struct st_harden *h = harden_of("noise=0.5", "k", VOCAB), *same = harden_of("noise=0.5", "k", VOCAB),
                     *other = harden_of("noise=0.5", "l", VOCAB), *fresh = harden_of("noise=0.5", NULL, VOCAB);
    static const uint32_t ids[] = {5, 6, 7}, changed[] = {5, 6, 8};
    float was[VOCAB], first[VOCAB], row[VOCAB];
    random_row(was, 1);
    memcpy(first, was, sizeof was);
    apply(h, 0, ids, 3, first);
    struct {
        const struct st_harden *h;
        uint32_t variant;
        const uint32_t *ids;
        size_t n;
        bool equal;
    } rows[] = {{h, 0, ids, 3, true},  {same, 0, ids, 3, true},   {h, 1, ids, 3, false},    {h, 0, changed, 3, false},
                {h, 0, ids, 2, false}, {other, 0, ids, 3, false}, {fresh, 0, ids, 3, false}};
    for (size_t i = 0; i < COUNT(rows); i++) {
        memcpy(row, was, sizeof was);
        apply(rows[i].h, rows[i].variant, rows[i].ids, rows[i].n, row);
        assert_int_equal(memcmp(row, first, sizeof row) == 0, rows[i].equal);
        assert_true(rows[i].equal || distance(row, first) > 0.3f);
    }
    /* Asking again averages nothing out: the mean of many answers is the first one. */
    assert_true(distance(first, was) > 0.3f);
    st_harden_free(h);
    st_harden_free(same);
    st_harden_free(other);
    st_harden_free(fresh);
}

static void noise_has_the_deviation_that_was_asked_for(void **state)
{
    (void)state;
    struct st_harden *h = harden_of("noise=0.25", "k", VOCAB);
    double sum = 0, square = 0, cube = 0, n = 0;
    float most = 0;
    for (uint32_t seed = 0; seed < 500; seed++) {
        float row[VOCAB] = {0};
        row[0] = 100; /* far above: nothing is clipped, and it tells its own noise */
        apply(h, 0, &seed, 1, row);
        for (int i = 2; i < VOCAB; i++) {
            double d = ((double)row[i] - (double)row[1]) / sqrt(2);
            sum += d;
            square += d * d;
            cube += d * d * d;
            n++;
            most = fmaxf(most, fabsf(row[i] - row[1]));
        }
    }
    assert_true(fabs(sum / n) < 0.02 && fabs(sqrt(square / n) - 0.25) < 0.01 && fabs(cube / n) < 0.01);
    assert_true(most > 1.0f && most <= 2 * 3.47f * 0.25f);
    st_harden_free(h);
}

static void the_shift_of_sampling_is_what_the_definition_says(void **state)
{
    (void)state;
    struct st_harden *h = harden_of("topk=20,round=2,noise=0.7,margin=0.5", "k", VOCAB);
    double want = 0;
    uint64_t same = 0;
    for (uint32_t seed = 0; seed < 30; seed++) {
        float was[VOCAB], row[VOCAB];
        double a = 0, b = 0;
        random_row(was, seed);
        memcpy(row, was, sizeof row);
        apply(h, 0, &seed, 1, row);
        for (int i = 0; i < VOCAB; i++) {
            a += exp((double)was[i]);
            b += exp((double)row[i]);
        }
        for (int i = 0; i < VOCAB; i++)
            if (isfinite(row[i]))
                want += exp((double)row[i]) / b * (log(exp((double)row[i]) / b) - log(exp((double)was[i]) / a)) / 30;
        same += best_of(was, VOCAB) == best_of(row, VOCAB);
    }
    struct st_harden_stats s;
    st_harden_stats(h, &s);
    assert_true(s.n_row == 30 && s.n_same == same && fabs(s.kl - want) < 1e-6 && want > 0.1);
    st_harden_free(h);
}

static void rows_that_are_no_numbers_are_not_served(void **state)
{
    (void)state;
    struct st_harden *h = harden_of("topk=3,noise=0.5", "k", VOCAB);
    const struct st_filter *f = st_harden_filter(h);
    struct st_err e = {0};
    float row[VOCAB];
    uint32_t id = 1;
    for (int i = 0; i < VOCAB; i++)
        row[i] = i == 9 ? 1 : NAN;
    assert_ok(f->row(f->ctx, 0, &id, 1, row, &e), &e);
    assert_int_equal(best_of(row, VOCAB), 9);
    for (int i = 0; i < VOCAB; i++)
        assert_true(i == 9 || row[i] == -INFINITY);
    for (int i = 0; i < VOCAB; i++)
        row[i] = NAN;
    expect_refusal(f->row(f->ctx, 0, &id, 1, row, &e), &e, ST_INTERNAL, "no finite logits");
    st_harden_free(h);
}

/* A whole model. */

static const struct tiny small = {.d_model = 32, .d_ff = 48, .n_vocab = VOCAB, .n_ctx = 96, .seed = 3};
#define PROMPT 64 /* twice the width of the model */

static struct st_engine *engine_with(const struct st_model *m, const struct st_harden *h)
{
    return tiny_engine(m, (struct st_engine_opts){.filter = h ? st_harden_filter(h) : NULL});
}

static void replies_at_temperature_0_do_not_change(void **state)
{
    (void)state;
    struct st_model *m = tiny_model(&small);
    struct st_harden *h = harden_of("topk=5,round=1,noise=3", NULL, VOCAB);
    struct st_engine *plain = engine_with(m, NULL), *hard = engine_with(m, h);
    for (uint64_t seed = 0; seed < 8; seed++) {
        struct client a = {0}, b = {0};
        uint32_t ids[12];
        random_ids(ids, 12, VOCAB, seed);
        client_run(&a, plain, ids, 12, 40);
        client_run(&b, hard, ids, 12, 40);
        assert_int_equal(a.n, 40);
        assert_memory_equal(a.ids, b.ids, 40 * sizeof *a.ids);
    }
    st_engine_free(plain);
    st_engine_free(hard);
    st_harden_free(h);
    st_model_close(m);
}

/* As weights that overflow for some prompts would have it. */
static int fails_for_some(void *ctx, uint32_t variant, const uint32_t *ids, size_t n, float *z, struct st_err *e)
{
    (void)ctx, (void)variant, (void)z;
    return ids[0] == 7 && n > 5 ? st_fail(e, ST_INPUT, "no finite logits") : 0;
}

static void a_row_that_is_not_served_ends_its_own_request_only(void **state)
{
    (void)state;
    struct st_model *m = tiny_model(&small);
    const struct st_filter f = {.row = fails_for_some};
    struct st_engine *en = tiny_engine(m, (struct st_engine_opts){.filter = &f});
    const uint32_t good[] = {1, 2, 3}, bad[] = {7, 2, 3};
    struct client a = {0}, b = {0}, c = {0};
    const struct st_request_opts oa = client_opts(&a, good, 3, 9), ob = client_opts(&b, bad, 3, 9),
                                 oc = client_opts(&c, good, 3, 9);
    client_submit(&a, en, &oa);
    client_submit(&b, en, &ob);
    client_submit(&c, en, &oc);
    while (st_engine_step(en))
        ;
    assert_true(b.n_end == 1 && b.finish == ST_FINISH_ERROR && b.n == 3);
    assert_int_equal(b.err.code, ST_INPUT);
    assert_true(a.finish == ST_FINISH_LENGTH && a.n == 9 && c.finish == ST_FINISH_LENGTH && c.n == 9);
    assert_memory_equal(a.ids, c.ids, 9 * sizeof *a.ids);
    st_engine_free(en);
    st_model_close(m);
}

/* Rows of the prompt's logits, as `sotto logits` gets them. */
static void rows_of(struct st_engine *en, float *rows)
{
    struct client c = {.prompt_rows = rows, .n_vocab = VOCAB};
    uint32_t ids[PROMPT];
    random_ids(ids, PROMPT, VOCAB, 11);
    struct st_request_opts o = client_opts(&c, ids, PROMPT, 1);
    o.on_prompt_logits = client_row;
    client_submit(&c, en, &o);
    while (st_engine_step(en))
        ;
    assert_int_equal(c.n_prompt_row, PROMPT);
}

/* Rows that stand apart from the ones before them: Gram and Schmidt, the longest first. */
static int rank_of(float *rows, int n)
{
    double most = 0;
    for (int rank = 0; rank < n; rank++) {
        int at = rank;
        double best = 0;
        for (int r = rank; r < n; r++) {
            double s = 0;
            for (int i = 0; i < VOCAB; i++)
                s += (double)rows[r * VOCAB + i] * (double)rows[r * VOCAB + i];
            if (s > best) {
                best = s;
                at = r;
            }
        }
        most = fmax(most, best);
        if (best < 1e-8 * most)
            return rank;
        for (int i = 0; i < VOCAB; i++) {
            float v = rows[at * VOCAB + i];
            rows[at * VOCAB + i] = rows[rank * VOCAB + i];
            rows[rank * VOCAB + i] = v;
        }
        for (int r = rank + 1; r < n; r++) {
            double dot = 0;
            for (int i = 0; i < VOCAB; i++)
                dot += (double)rows[r * VOCAB + i] * (double)rows[rank * VOCAB + i];
            for (int i = 0; i < VOCAB; i++)
                rows[r * VOCAB + i] -= (float)(dot / best * (double)rows[rank * VOCAB + i]);
        }
    }
    return n;
}

static void the_rank_of_logits_is_the_models_width_without_noise_and_full_with_it(void **state)
{
    (void)state;
    struct st_model *m = tiny_model(&small);
    struct st_harden *h = harden_of("noise=0.1", NULL, VOCAB);
    struct st_engine *plain = engine_with(m, NULL), *hard = engine_with(m, h);
    float *rows = calloc((size_t)PROMPT * VOCAB, sizeof *rows), *again = calloc((size_t)PROMPT * VOCAB, sizeof *rows);
    rows_of(plain, rows);
    assert_int_equal(rank_of(rows, PROMPT), 32);
    rows_of(hard, rows);
    rows_of(hard, again);
    assert_memory_equal(rows, again, (size_t)PROMPT * VOCAB * sizeof *rows);
    assert_int_equal(rank_of(rows, PROMPT), PROMPT);
    free(rows);
    free(again);
    st_engine_free(plain);
    st_engine_free(hard);
    st_harden_free(h);
    st_model_close(m);
}

struct told {
    struct st_sampled tok;
    int n;
};

static bool tell(void *arg, const struct st_sampled *tok)
{
    struct told *t = arg;
    t->tok = *tok;
    t->n++;
    return true;
}

/* The first token of a reply, with what is said about it. */
static void ask(struct st_engine *en, const struct st_sampling *s, struct told *t)
{
    static const uint32_t ids[] = {3, 1, 4, 1, 5};
    struct st_err e = {0};
    struct st_request *r;
    const struct st_request_opts o = {.ids = ids,
                                      .n_ids = COUNT(ids),
                                      .n_predict = 1,
                                      .ignore_eos = true,
                                      .sampling = *s,
                                      .on_token = tell,
                                      .arg = t};
    *t = (struct told){0};
    tiny_check(st_engine_submit(en, &o, &r, &e), &e);
    while (st_engine_step(en))
        ;
    assert_int_equal(t->n, 1);
}

static void no_request_gets_at_what_was_taken_away(void **state)
{
    (void)state;
    struct st_model *m = tiny_model(&small);
    struct st_harden *h = harden_of("topk=4,round=2,noise=0.2", NULL, VOCAB);
    struct st_engine *en = engine_with(m, h);
    struct st_sampling s = greedy;
    struct told t;
    s.n_logprobs = 8;
    ask(en, &s, &t);
    struct st_logprob top[4];
    memcpy(top, t.tok.top, sizeof top);
    for (int i = 0; i < t.tok.n_top; i++) {
        double steps = ((double)t.tok.top[i].logprob - (double)top[0].logprob) * 4;
        if (i < 4)
            assert_true(fabs(steps - rint(steps)) < 1e-4);
        else
            assert_true(t.tok.top[i].logprob == -9999.0f);
    }
    /* A bias on what is not released is lost, however large; among the released ones it moves whole steps. */
    for (uint32_t id = 0; id < VOCAB; id++) {
        struct st_logit_bias bias = {.id = id, .bias = 1000};
        bool released = false;
        for (int i = 0; i < 4; i++)
            released = released || top[i].id == id;
        s.bias = &bias;
        s.n_bias = 1;
        ask(en, &s, &t);
        assert_int_equal(t.tok.id, released ? id : top[0].id);
        assert_true(t.tok.top[0].logprob == top[0].logprob);
    }
    /* At any temperature only these are drawn. */
    s = greedy;
    s.temperature = 50;
    for (s.seed = 0; s.seed < 200; s.seed++) {
        bool released = false;
        ask(en, &s, &t);
        for (int i = 0; i < 4; i++)
            released = released || top[i].id == t.tok.id;
        assert_true(released);
    }
    st_engine_free(en);
    st_harden_free(h);
    st_model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_asked_for_is_read_or_refused),
        cmocka_unit_test(the_largest_logit_stays_the_largest_and_stands_alone),
        cmocka_unit_test(a_lead_below_the_margin_may_be_lost_and_one_above_it_never),
        cmocka_unit_test(only_the_first_k_are_released_in_whole_steps),
        cmocka_unit_test(one_context_has_one_noise_and_another_has_another),
        cmocka_unit_test(noise_has_the_deviation_that_was_asked_for),
        cmocka_unit_test(the_shift_of_sampling_is_what_the_definition_says),
        cmocka_unit_test(rows_that_are_no_numbers_are_not_served),
        cmocka_unit_test(replies_at_temperature_0_do_not_change),
        cmocka_unit_test(a_row_that_is_not_served_ends_its_own_request_only),
        cmocka_unit_test(the_rank_of_logits_is_the_models_width_without_noise_and_full_with_it),
        cmocka_unit_test(no_request_gets_at_what_was_taken_away),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
