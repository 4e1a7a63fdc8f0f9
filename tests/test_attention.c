/* Attention whose products leave: the same results, wrong replies found, refused where it cannot or must not be. */
#include "masked_setup.h"

#include "engine/attend_outside.h"
#include "protect/masked/attention_packed.h"

#define SHAPE(a, b, k) ((struct st_factors){"attention_scores", (a), (b), (k)})

static float *random_rows(struct st_rng *rng, size_t n_row, size_t d, int spread)
{
    float *p = malloc(n_row * d * sizeof *p);
    for (size_t i = 0; i < n_row; i++) {
        float size = spread ? ldexpf(1, (int)(st_rng_next(rng) % (unsigned)spread) - spread / 2) : 1;
        for (size_t k = 0; k < d; k++)
            p[i * d + k] = size * (float)(st_rng_unit(rng) - 0.5);
    }
    return p;
}

static double norm(const float *x, size_t d)
{
    double sum = 0;
    for (size_t k = 0; k < d; k++)
        sum += (double)x[k] * x[k];
    return sqrt(sum);
}

static double exact(const float *x, const float *y, size_t d)
{
    double sum = 0;
    for (size_t k = 0; k < d; k++)
        sum += (double)x[k] * y[k];
    return sum;
}

/* One product by way of a worker that multiplies. twist: what it does to its reply; NULL = nothing. */
static int product(struct st_attention_packed *p, const struct st_factors *shape, const float *a, const float *b,
                   void (*twist)(struct st_exposed *, uint32_t kind), uint32_t kind, float *out, struct st_err *e)
{
    struct st_exchange x = {.pair = *shape};
    struct st_exposed rows, reply;
    assert_ok(st_attention_packed_enter(p, &x, a, b, &rows, e), e);
    assert_int_equal(x.pair.n_a, 2 * shape->n_a);
    assert_int_equal(x.pair.n_b, 2 * shape->n_b);
    assert_int_equal(rows.len, 4 * (size_t)(x.pair.n_a + x.pair.n_b) * x.pair.n_inner);
    size_t n = (size_t)x.pair.n_a * x.pair.n_b;
    uint32_t *values = malloc((n + 1) * sizeof *values);
    worker_pair(&x.pair, rows.p, values);
    reply = (struct st_exposed){values, n * sizeof *values, ST_EXPOSED_FIELD};
    if (twist)
        twist(&reply, kind);
    int rc = st_attention_packed_leave(p, &reply, out, e);
    free(values);
    return rc;
}

static void packed_products_are_the_products_but_for_rounding(void **state)
{
    static const struct st_factors shapes[] = {SHAPE(1, 1, 1), SHAPE(1, 7, 8), SHAPE(5, 3, 64), SHAPE(40, 33, 128),
                                               SHAPE(2, 3, 1024)};
    (void)state;
    struct st_attention_packed *p;
    struct st_rng rng;
    struct st_err e;
    st_rng_seed(&rng, 4);
    assert_ok(st_attention_packed_new(true, &p, &e), &e);
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        const struct st_factors *w = &shapes[s];
        size_t d = w->n_inner;
        float *a = random_rows(&rng, w->n_a, d, 40), *b = random_rows(&rng, w->n_b, d, 40),
              *out = malloc((size_t)w->n_a * w->n_b * sizeof *out);
        if (w->n_a > 1)
            memset(a + d, 0, d * sizeof *a); /* a row of zeros */
        assert_ok(product(p, w, a, b, NULL, 0, out, &e), &e);
        for (uint32_t i = 0; i < w->n_a; i++)
            for (uint32_t j = 0; j < w->n_b; j++) {
                /* Each row is off by half a step in each place: sqrt(d)/2 of sqrt(q/2) steps, of either side. */
                double most = sqrt((double)d) / 46000 * norm(a + i * d, d) * norm(b + j * d, d) + 1e-30;
                assert_true(fabs(out[i * w->n_b + j] - exact(a + i * d, b + j * d, d)) <= most);
            }
        free(a);
        free(b);
        free(out);
    }
    st_attention_packed_free(p);
}

enum { ONE_BIT, SWAPPED, ZEROS, NOT_CANONICAL, SHORT, LONG, FLOATS, ROW_COPIED, N_TWIST };

static void twist(struct st_exposed *reply, uint32_t kind)
{
    uint32_t *v = reply->p, n = (uint32_t)(reply->len / 4), t = v[1];
    switch (kind) {
    case ONE_BIT:
        v[n / 2] = st_fq_add(v[n / 2], 1);
        return;
    case SWAPPED:
        v[1] = v[n - 1];
        v[n - 1] = t;
        return;
    case ZEROS:
        memset(v, 0, reply->len);
        return;
    case NOT_CANONICAL:
        v[0] = UINT32_MAX;
        return;
    case SHORT:
        reply->len -= 4;
        return;
    case LONG:
        reply->len += 4;
        return;
    case FLOATS:
        reply->format = ST_EXPOSED_F32;
        return;
    default:
        memcpy(v, v + n / 2, n / 2 * sizeof *v);
        return;
    }
}

static void wrong_replies_are_refused_before_they_are_used(void **state)
{
    (void)state;
    const struct st_factors shape = SHAPE(4, 6, 16);
    struct st_rng rng;
    struct st_err e;
    float out[4 * 6];
    st_rng_seed(&rng, 6);
    float *a = random_rows(&rng, 4, 16, 0), *b = random_rows(&rng, 6, 16, 0);
    for (int check = 0; check < 2; check++) {
        struct st_attention_packed *p;
        assert_ok(st_attention_packed_new(check, &p, &e), &e);
        for (uint32_t kind = 0; kind < N_TWIST; kind++) {
            bool form = kind == NOT_CANONICAL || kind == SHORT || kind == LONG || kind == FLOATS;
            for (int i = 0; i < 24; i++)
                out[i] = 7;
            int rc = product(p, &shape, a, b, twist, kind, out, &e);
            assert_int_equal(rc, check || form ? ST_VERIFY : 0);
            for (int i = 0; i < 24 && rc; i++)
                assert_true(out[i] == 7);
            assert_ok(product(p, &shape, a, b, NULL, 0, out, &e), &e); /* the next one is not concerned */
        }
        st_attention_packed_free(p);
    }
    free(a);
    free(b);
}

static void rows_that_are_not_finite_never_leave(void **state)
{
    (void)state;
    struct st_attention_packed *p;
    struct st_exchange x = {.pair = SHAPE(1, 1, 2)};
    struct st_exposed rows;
    struct st_err e;
    const float good[2] = {1, 2}, bad[2] = {1, NAN};
    assert_ok(st_attention_packed_new(true, &p, &e), &e);
    expect_refusal(st_attention_packed_enter(p, &x, good, bad, &rows, &e), &e, ST_VERIFY, "not finite");
    assert_ok(st_attention_packed_enter(p, &x, good, good, &rows, &e), &e);
    st_attention_packed_free(p);
}

/* ---- whole models ---- */

/* Largest difference of two runs' logits for the prompt, over the largest logit. */
static double compare(const struct tiny *t, size_t n_ids, uint32_t n_predict, uint32_t max_row)
{
    struct setup s;
    struct client c[2] = {{0}, {0}};
    uint32_t *ids = malloc(n_ids * sizeof *ids);
    double most = 0, off = 0;
    for (int outside = 0; outside < 2; outside++) {
        plant(&s, t, &(struct st_masked_place){.attention = outside});
        struct st_masked_opts o = options(&s, "otp");
        mask(&s, &o);
        random_ids(ids, n_ids, s.m->config.n_vocab, 31);
        c[outside].n_vocab = s.m->config.n_vocab;
        c[outside].prompt_rows = malloc(n_ids * c->n_vocab * sizeof(float));
        struct st_engine *en =
            tiny_engine(s.m, (struct st_engine_opts){.boundary = &s.b, .n_threads = 1, .max_row = max_row});
        struct st_request_opts ro = client_opts(&c[outside], ids, n_ids, n_predict);
        ro.on_prompt_logits = client_row;
        client_submit(&c[outside], en, &ro);
        while (st_engine_step(en))
            ;
        if (c[outside].finish == ST_FINISH_ERROR)
            fail_msg("%s", c[outside].err.msg);
        assert_int_equal(c[outside].n_prompt_row, n_ids);
        assert_true((stats_of(&s).n_pair > 0) == outside);
        st_engine_free(en);
        tear_down(&s);
    }
    for (size_t i = 0; i < n_ids * c->n_vocab; i++) {
        most = fmax(most, fabsf(c[0].prompt_rows[i]));
        off = fmax(off, fabsf(c[0].prompt_rows[i] - c[1].prompt_rows[i]));
    }
    assert_memory_equal(c[0].ids, c[1].ids, n_predict * sizeof *c->ids);
    free(c[0].prompt_rows);
    free(c[1].prompt_rows);
    free(ids);
    return off / most;
}

static void logits_are_those_of_attention_inside_within_a_thousandth(void **state)
{
    (void)state;
    static const struct {
        struct tiny t;
        size_t n_ids;
        uint32_t max_row;
    } rows[] = {
        {{.seed = 1}, 40, 0},
        {{.seed = 2, .arch = "MistralForCausalLM", .head_dim = 32, .extra = "\"sliding_window\": 16"}, 40, 7},
        {{.seed = 3, .arch = "Qwen2ForCausalLM", .n_kv_head = 4}, 40, 9},
        {{.seed = 4, .arch = "Qwen3ForCausalLM", .n_kv_head = 1}, 33, 0},
        {{.seed = 5, .n_ctx = 700, .n_layer = 1}, 600, 300}, /* several tiles and blocks */
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        double off = compare(&rows[i].t, rows[i].n_ids, 12, rows[i].max_row);
        print_message("  %s: %.2g of the largest logit\n", rows[i].t.arch ? rows[i].t.arch : "Llama", off);
        assert_true(off < 1e-3);
    }
}

static void requests_side_by_side_get_what_each_gets_alone(void **state)
{
    (void)state;
    struct setup s;
    struct client alone[3] = {{0}}, beside[3] = {{0}};
    uint32_t ids[3][20];
    plant(&s, &(struct tiny){.seed = 8}, &(struct st_masked_place){.attention = true});
    struct st_masked_opts o = options(&s, "otp");
    mask(&s, &o);
    struct st_engine *en = tiny_engine(s.m, (struct st_engine_opts){.boundary = &s.b, .n_threads = 1});
    for (int i = 0; i < 3; i++) {
        random_ids(ids[i], 20, s.m->config.n_vocab, (uint64_t)i);
        client_run(&alone[i], en, ids[i], (size_t)(8 + 4 * i), 10);
    }
    for (int i = 0; i < 3; i++) {
        struct st_request_opts ro = client_opts(&beside[i], ids[i], (size_t)(8 + 4 * i), 10);
        client_submit(&beside[i], en, &ro);
    }
    while (st_engine_step(en))
        ;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(beside[i].n, 10);
        assert_memory_equal(alone[i].ids, beside[i].ids, 10 * sizeof *ids[i]);
    }
    st_engine_free(en);
    tear_down(&s);
}

static void lie_about_pairs(void *arg, struct st_exposed *reply)
{
    int *left = arg;
    if ((*left)-- == 0)
        twist(reply, ONE_BIT);
}

static void a_worker_that_lies_about_attention_is_found_and_let_go(void **state)
{
    (void)state;
    struct setup s;
    struct client c = {0};
    const uint32_t ids[] = {1, 2, 3, 4, 5};
    int left = 1; /* q, k, v come before */
    plant(&s, &(struct tiny){.seed = 9}, &(struct st_masked_place){.attention = true});
    struct st_masked_opts o = options(&s, "otp");
    mask(&s, &o);
    s.worker.twist = lie_about_pairs;
    s.worker.arg = &left;
    struct st_engine *en = tiny_engine(s.m, (struct st_engine_opts){.boundary = &s.b, .n_threads = 1});
    client_run(&c, en, ids, 5, 3);
    expect_refusal(c.err.code, &c.err, ST_VERIFY, "layer 0 (attention_scores): the worker's reply is not the product");
    assert_int_equal(s.n_quarantine, 1);
    assert_int_equal(stats_of(&s).n_reject, 1);
    struct client again = {0};
    client_run(&again, en, ids, 5, 3);
    assert_int_equal(again.n, 3);
    st_engine_free(en);
    assert_true(strstr(st_masked_describe(s.masked), "BREAKABLE") != NULL);
    assert_true(strstr(st_masked_plan_text(s.masked), "attention: its products leave") != NULL);
    tear_down(&s);
}

static void a_plan_that_lets_attention_leave_is_refused_where_nobody_packs_it(void **state)
{
    (void)state;
    struct setup s;
    struct st_engine *en;
    struct st_err e;
    plant(&s, &(struct tiny){.seed = 9}, &(struct st_masked_place){0});
    struct st_masked_opts o = options(&s, "otp");
    mask(&s, &o); /* before the attention is placed */
    assert_ok(st_masked_place_attention(&s.m->plan, &e), &e);
    expect_refusal(st_engine_new(s.m, &(struct st_engine_opts){.boundary = &s.b, .n_threads = 1}, &en, &e), &e,
                   ST_POLICY, "layer 0 attention: placed on the untrusted side, but no protection lets it leave");
    expect_refusal(st_engine_new(s.m, &(struct st_engine_opts){.n_threads = 1}, &en, &e), &e, ST_POLICY, "untrusted");
    tear_down(&s);
}

static void attention_of_latent_vectors_is_refused_by_name(void **state)
{
    (void)state;
    static const struct tiny t = {
        .seed = 9,
        .arch = "DeepseekV2ForCausalLM",
        .n_kv_head = 4,
        .extra = "\"kv_lora_rank\": 24, \"qk_nope_head_dim\": 16, \"qk_rope_head_dim\": 8, \"v_head_dim\": 12, "
                 "\"q_lora_rank\": 20, \"moe_intermediate_size\": 40, \"n_routed_experts\": 4, "
                 "\"num_experts_per_tok\": 2, \"first_k_dense_replace\": 1, \"n_shared_experts\": 1"};
    struct st_model *m = open_int8(&t);
    struct st_err e;
    expect_refusal(st_masked_place(&m->plan, &(struct st_masked_place){.attention = true}, &e), &e, ST_UNSUPPORTED,
                   "kv_b_proj.weight: keys and values are made of one latent vector (MLA)");
    st_model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(packed_products_are_the_products_but_for_rounding),
        cmocka_unit_test(wrong_replies_are_refused_before_they_are_used),
        cmocka_unit_test(rows_that_are_not_finite_never_leave),
        cmocka_unit_test(logits_are_those_of_attention_inside_within_a_thousandth),
        cmocka_unit_test(requests_side_by_side_get_what_each_gets_alone),
        cmocka_unit_test(a_worker_that_lies_about_attention_is_found_and_let_go),
        cmocka_unit_test(a_plan_that_lets_attention_leave_is_refused_where_nobody_packs_it),
        cmocka_unit_test(attention_of_latent_vectors_is_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
