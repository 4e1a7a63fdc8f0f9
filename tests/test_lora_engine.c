/* Adapters in the engine: an unmerged adapter gives the logits of merged weights in every architecture, several at once
 * are each computed for their own requests alone, and behind masks nothing changes. */
#include "expect.h"
#include "lora_make.h"
#include "masked_setup.h"

#include <math.h>

/* Allocations of this thread. Sanitizers have an allocator of their own. */
static _Thread_local size_t n_alloc;
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && !defined(__clang__)
void *__libc_malloc(size_t n);

void *malloc(size_t n)
{
    n_alloc++;
    return __libc_malloc(n);
}
#endif

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define ALL "[\"q_proj\", \"k_proj\", \"v_proj\", \"o_proj\", \"gate_proj\", \"up_proj\", \"down_proj\", \"lm_head\"]"
#define MOE "\"moe_intermediate_size\": 48, \"norm_topk_prob\": true, "
#define LATENT                                                                                                         \
    "\"kv_lora_rank\": 24, \"qk_nope_head_dim\": 16, \"qk_rope_head_dim\": 8, \"v_head_dim\": 12, "                    \
    "\"q_lora_rank\": 20, \"moe_intermediate_size\": 40, \"n_routed_experts\": 4, \"num_experts_per_tok\": 2, "        \
    "\"first_k_dense_replace\": 1, \"n_shared_experts\": 1"

static const struct {
    struct tiny t;
    struct lora l;
} archs[] = {
    {{.seed = 1}, {.targets = ALL, .seed = 1}},
    {{.seed = 2, .arch = "MistralForCausalLM", .head_dim = 32}, {.seed = 2, .rank = 1, .alpha = 2}},
    {{.seed = 3, .arch = "Qwen2ForCausalLM", .extra = "\"attention_bias\": true"},
     {.targets = ALL, .seed = 3, .rank = 7, .extra = "\"use_rslora\": true"}},
    {{.seed = 4, .arch = "Qwen3ForCausalLM"},
     {.targets = "\".*\\\\.(q|o|gate)_proj\"",
      .seed = 4,
      .extra = "\"rank_pattern\": {\"layers.1.self_attn.q_proj\": 3, \"gate_proj\": 5}, "
               "\"alpha_pattern\": {\"o_proj\": 4}"}},
    {{.seed = 5, .arch = "MixtralForCausalLM", .extra = "\"num_local_experts\": 4, \"num_experts_per_tok\": 2"},
     {.targets = "[\"q_proj\", \"w1\", \"w2\", \"w3\"]", .seed = 5}},
    {{.seed = 6, .arch = "MixtralForCausalLM", .extra = "\"num_local_experts\": 4, \"num_experts_per_tok\": 2"},
     {.targets = "[\"gate\"]", .seed = 6, .rank = 2, .alpha = 0.5}},
    {{.seed = 7,
      .arch = "Qwen3MoeForCausalLM",
      .extra = MOE "\"num_experts\": 4, \"num_experts_per_tok\": 2, \"mlp_only_layers\": [0]"},
     {.targets = ALL, .seed = 7}},
    {{.seed = 8, .arch = "DeepseekV2ForCausalLM", .n_kv_head = 4, .extra = LATENT},
     {.targets = "[\"q_a_proj\", \"q_b_proj\", \"kv_a_proj_with_mqa\", \"kv_b_proj\", \"o_proj\", \"gate_proj\", "
                 "\"up_proj\", \"down_proj\"]",
      .seed = 8}},
    {{.seed = 9,
      .arch = "DeepseekV3ForCausalLM",
      .n_kv_head = 4,
      .extra = LATENT ", \"n_group\": 2, \"topk_group\": 1, \"norm_topk_prob\": true"},
     {.targets = "[\"q_b_proj\", \"kv_b_proj\", \"up_proj\"]", .seed = 9, .extra = "\"layers_to_transform\": [1]"}},
};

static double relative(const float *a, const float *b, size_t n)
{
    double worst = 0, most = 0;
    for (size_t i = 0; i < n; i++) {
        worst = fmax(worst, fabs((double)a[i] - b[i]));
        most = fmax(most, fabs((double)b[i]));
    }
    return worst / most;
}

static void expect_merged(const struct tiny *t, const struct lora *l, struct st_model_opts o, double bound)
{
    enum { N = 20 };
    uint32_t ids[N];
    struct tiny merged = *t;
    merged.change = lora_merge;
    merged.change_arg = l;
    struct st_model *plain = lora_model(&merged, NULL, 0, (struct st_model_opts){0}), *m = lora_model(t, l, 1, o);
    struct st_engine *want_en = tiny_engine(plain, (struct st_engine_opts){0}),
                     *en = tiny_engine(m, (struct st_engine_opts){.max_row = 7});
    size_t n = (size_t)N * m->config.n_vocab;
    random_ids(ids, N, m->config.n_vocab, t->seed);
    float *want = lora_logits(want_en, m->config.n_vocab, 0, ids, N),
          *got = lora_logits(en, m->config.n_vocab, 1, ids, N), *base = lora_logits(en, m->config.n_vocab, 0, ids, N);
    double off = relative(got, want, n), changed = relative(base, want, n);
    if (off > bound || changed < 0.02)
        fail_msg("%s: off by %.2g (want at most %.2g), the adapter itself changes %.2g", t->arch ? t->arch : "llama",
                 off, bound, changed);
    free(want);
    free(got);
    free(base);
    st_engine_free(en);
    st_engine_free(want_en);
    st_model_close(m);
    st_model_close(plain);
}

static void an_unmerged_adapter_equals_merged_weights_in_every_architecture(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(archs); i++)
        expect_merged(&archs[i].t, &archs[i].l, (struct st_model_opts){0}, 1e-5);
}

static void the_stored_dtype_is_what_is_computed_with(void **state)
{
    (void)state;
    for (int dtype = 0; dtype < 3; dtype++) {
        const struct lora l = {.targets = ALL, .dtype = (enum st_dtype)dtype, .seed = 11, .infix = ".default"};
        expect_merged(&(struct tiny){.seed = 11}, &l, (struct st_model_opts){0}, 1e-5);
    }
}

static void a_norm_that_is_folded_into_the_base_goes_into_the_adapter_too(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(archs); i++)
        expect_merged(&archs[i].t, &archs[i].l, (struct st_model_opts){.dtype = ST_LOAD_F32, .fold_norms = true}, 1e-5);
}

static void a_tied_head_takes_an_adapter_and_the_embedding_stays(void **state)
{
    (void)state;
    struct tiny t = {.seed = 12, .tied = true};
    struct lora l = {.targets = "[\"lm_head\"]", .seed = 12, .alpha = 40};
    uint32_t ids[5];
    struct st_model *m = lora_model(&t, &l, 1, (struct st_model_opts){0});
    struct st_engine *en = tiny_engine(m, (struct st_engine_opts){0});
    random_ids(ids, 5, 128, 1);
    float *base = lora_logits(en, 128, 0, ids, 5), *got = lora_logits(en, 128, 1, ids, 5);
    assert_true(relative(got, base, 5 * 128) > 0.02);
    free(base);
    free(got);
    st_engine_free(en);
    st_model_close(m);
}

/* A [n_expert * rank, n_in] and B [n_out, rank * n_expert] of one layer, from the pairs of its experts; gate and up
 * side by side, as peft turns old adapters into new ones. */
static void put_shared(const struct lora *l, int layer, const char *const *parts, uint32_t n_part, uint32_t n_out,
                       uint32_t n_in, const char *name, struct st_buf *head, struct st_buf *data)
{
    enum { N_EXPERT = 4 };
    const uint32_t r = l->rank, rank = r * n_part;
    const size_t rows = (size_t)n_out * n_part, columns = (size_t)rank * N_EXPERT;
    float *a = calloc(columns * n_in, sizeof *a), *b = calloc(rows * columns, sizeof *b);
    for (uint32_t e = 0; e < N_EXPERT; e++)
        for (uint32_t p = 0; p < n_part; p++) {
            char module[ST_PLAN_NAME];
            snprintf(module, sizeof module, "model.layers.%d.mlp.experts.%u.%s", layer, e, parts[p]);
            float *one_a = lora_values(l, module, 'A', r, n_in), *one_b = lora_values(l, module, 'B', r, n_out);
            memcpy(a + ((size_t)e * rank + p * r) * n_in, one_a, (size_t)r * n_in * sizeof *a);
            for (uint32_t o = 0; o < n_out; o++)
                for (uint32_t k = 0; k < r; k++)
                    b[((size_t)p * n_out + o) * columns + (size_t)(p * r + k) * N_EXPERT + e] = one_b[o * r + k];
            free(one_a);
            free(one_b);
        }
    for (int side = 0; side < 2; side++) {
        size_t from = data->len;
        st_buf_add(data, side ? b : a, (side ? rows * columns : columns * n_in) * sizeof *a);
        st_buf_addf(
            head,
            ",\"base_model.model.model.layers.%d.mlp.%s.lora_%c.weight\":{\"dtype\":\"F32\",\"shape\":[%zu,%zu],"
            "\"data_offsets\":[%zu,%zu]}",
            layer, name, side ? 'B' : 'A', side ? rows : columns, side ? columns : (size_t)n_in, from, data->len);
    }
    free(a);
    free(b);
}

static void one_pair_for_all_experts_of_a_layer_is_what_pairs_of_their_own_are(void **state)
{
    (void)state;
    static const char *const gate_up[] = {"gate_proj", "up_proj"}, *const down[] = {"down_proj"};
    const struct tiny t = {
        .seed = 31, .arch = "Qwen3MoeForCausalLM", .extra = MOE "\"num_experts\": 4, \"num_experts_per_tok\": 2"};
    const struct lora l = {
        .targets = "[\"gate_proj\", \"up_proj\", \"down_proj\"]", .seed = 31, .rank = 3, .alpha = 12};
    const struct lora shared = {.targets = "null",
                                .rank = 3,
                                .alpha = 12,
                                .extra =
                                    "\"target_parameters\": [\"gate_up_proj\", \"down_proj\"], \"rank_pattern\": "
                                    "{\".*\\\\.gate_up_proj\": 6}, \"alpha_pattern\": {\".*\\\\.gate_up_proj\": 24}"};
    char base[64], dir[64];
    uint32_t ids[20];
    struct st_buf head = {0}, data = {0}, config = {0};
    struct st_adapter *a;
    struct st_model *m, *want_m = lora_model(&t, &l, 1, (struct st_model_opts){0});
    struct st_err e = {0};
    tiny_mkdir(base);
    tiny_mkdir(dir);
    tiny_write(&t, base);
    st_buf_add_str(&head, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (int layer = 0; layer < 2; layer++) {
        put_shared(&l, layer, gate_up, 2, 48, 64, "experts.base_layer", &head, &data);
        put_shared(&l, layer, down, 1, 64, 48, "experts", &head, &data);
    }
    lora_save(dir, &head, &data);
    lora_config(&shared, &config);
    tiny_save(dir, "adapter_config.json", config.p, config.len);
    assert_ok(st_adapter_open(dir, &(struct st_adapter_opts){0}, &a, &e), &e);
    const struct st_adapter *const list[] = {a};
    const struct st_model_opts mo = {.n_threads = 1, .adapters = list, .n_adapter = 1};
    assert_ok(st_model_open(base, &mo, &m, &e), &e);
    struct st_engine *en = tiny_engine(m, (struct st_engine_opts){0}),
                     *want_en = tiny_engine(want_m, (struct st_engine_opts){0});
    random_ids(ids, 20, 128, 1);
    float *got = lora_logits(en, 128, 1, ids, 20), *want = lora_logits(want_en, 128, 1, ids, 20);
    assert_true(relative(got, want, 20 * 128) < 1e-6);
    free(got);
    free(want);
    st_engine_free(en);
    st_engine_free(want_en);
    st_model_close(m);
    st_model_close(want_m);
    /* A base with another number of experts: what would be read beyond the tensor is never read. */
    struct tiny more = t;
    more.extra = MOE "\"num_experts\": 8, \"num_experts_per_tok\": 2";
    tiny_write(&more, base);
    expect_refusal(st_model_open(base, &mo, &m, &e), &e, ST_INPUT,
                   "experts.base_layer.lora_A.weight: this base wants [48,64], got [24,64]");
    st_adapter_close(a);
    tiny_rmdir(base);
    tiny_rmdir(dir);
    st_buf_free(&head);
    st_buf_free(&data);
    st_buf_free(&config);
}

/* Several at once */

#define N_CLIENT 9

static void run_batch(struct st_engine *en, struct client *c, uint32_t n, const uint32_t *adapters)
{
    uint32_t ids[N_CLIENT][24];
    for (uint32_t i = 0; i < n; i++) {
        size_t n_ids = 3 + (i * 5) % 20;
        random_ids(ids[i], n_ids, 128, i % 3);
        struct st_request_opts o = client_opts(&c[i], ids[i], n_ids, 20);
        o.adapter = adapters[i];
        client_submit(&c[i], en, &o);
        for (uint32_t k = 0; k < i; k++)
            st_engine_step(en);
    }
    while (st_engine_step(en))
        ;
}

static void mixed_batches_equal_requests_alone_bit_by_bit(void **state)
{
    (void)state;
    static const uint32_t adapters[N_CLIENT] = {2, 0, 1, 3, 0, 2, 1, 3, 3};
    for (size_t i = 0; i < COUNT(archs); i++) {
        struct lora l[3] = {archs[i].l, archs[i].l, {.targets = "[\"o_proj\"]", .seed = 77, .rank = 20}};
        l[1].seed = 1000;
        l[1].rank = 9;
        struct st_model *m = lora_model(&archs[i].t, l, 3, (struct st_model_opts){0});
        struct st_engine *en = tiny_engine(m, (struct st_engine_opts){.max_row = 16});
        struct client *batch = calloc(N_CLIENT, sizeof *batch), *alone = calloc(N_CLIENT, sizeof *alone);
        run_batch(en, batch, N_CLIENT, adapters);
        st_engine_free(en);
        for (uint32_t k = 0; k < N_CLIENT; k++) {
            struct client one[N_CLIENT] = {0};
            uint32_t ids[24];
            size_t n_ids = 3 + (k * 5) % 20;
            en = tiny_engine(m, (struct st_engine_opts){0});
            random_ids(ids, n_ids, 128, k % 3);
            struct st_request_opts o = client_opts(one, ids, n_ids, 20);
            o.adapter = adapters[k];
            client_submit(one, en, &o);
            while (st_engine_step(en))
                ;
            alone[k] = one[0];
            st_engine_free(en);
            assert_int_equal(batch[k].n, 20);
            assert_memory_equal(batch[k].ids, alone[k].ids, sizeof alone[k].ids);
        }
        free(batch);
        free(alone);
        st_model_close(m);
    }
}

static void a_request_without_an_adapter_is_the_base_bit_by_bit(void **state)
{
    (void)state;
    uint32_t ids[12];
    struct lora l = {.targets = ALL, .seed = 5};
    struct tiny t = {.seed = 5};
    struct st_model *with = lora_model(&t, &l, 1, (struct st_model_opts){0}), *without = tiny_model(&t);
    struct st_engine *a = tiny_engine(with, (struct st_engine_opts){0}),
                     *b = tiny_engine(without, (struct st_engine_opts){0});
    random_ids(ids, 12, 128, 2);
    float *x = lora_logits(a, 128, 0, ids, 12), *y = lora_logits(b, 128, 0, ids, 12);
    assert_memory_equal(x, y, 12 * 128 * sizeof *x);
    free(x);
    free(y);
    st_engine_free(a);
    st_engine_free(b);
    st_model_close(with);
    st_model_close(without);
}

static void a_session_reuses_its_cache_for_the_same_adapter_only(void **state)
{
    (void)state;
    static const uint32_t turns[] = {0, 0, 1, 1, 2, 0};
    static const bool reuses[] = {false, true, false, true, false, false};
    struct lora l[2] = {{.seed = 1}, {.seed = 2}};
    struct st_model *m = lora_model(&(struct tiny){.seed = 6}, l, 2, (struct st_model_opts){0});
    struct st_engine *en = tiny_engine(m, (struct st_engine_opts){0});
    struct st_session *s;
    struct st_err e;
    uint32_t ids[30];
    uint64_t reused = 0;
    random_ids(ids, 30, 128, 3);
    assert_ok(st_session_new(en, &s, &e), &e);
    for (size_t i = 0; i < COUNT(turns); i++) {
        struct client c = {0}, fresh = {0};
        struct st_engine_stats st;
        struct st_request_opts o = client_opts(&c, ids, 30, 10);
        o.adapter = turns[i];
        o.session = s;
        client_submit(&c, en, &o);
        while (st_engine_step(en))
            ;
        st_engine_stats(en, &st);
        assert_int_equal(st.n_reused_tokens - reused, reuses[i] ? 29 : 0);
        reused = st.n_reused_tokens;
        o.session = NULL;
        o.arg = &fresh;
        client_submit(&fresh, en, &o);
        while (st_engine_step(en))
            ;
        assert_memory_equal(c.ids, fresh.ids, sizeof c.ids);
    }
    st_session_free(s);
    st_engine_free(en);
    st_model_close(m);
}

static void steps_with_adapters_allocate_nothing(void **state)
{
    (void)state;
    const struct lora l[2] = {archs[6].l, archs[6].l};
    struct st_model *m = lora_model(&archs[6].t, l, 2, (struct st_model_opts){0});
    struct st_engine *en = tiny_engine(m, (struct st_engine_opts){0});
    struct client c[3] = {0};
    uint32_t ids[8];
    random_ids(ids, 8, 128, 3);
    for (uint32_t i = 0; i < 3; i++) {
        struct st_request_opts o = client_opts(&c[i], ids, 8, 30);
        o.adapter = i;
        client_submit(&c[i], en, &o);
    }
    for (int i = 0; i < 3; i++)
        st_engine_step(en);
    n_alloc = 0;
    for (int i = 0; i < 20; i++)
        st_engine_step(en);
    assert_int_equal(n_alloc, 0);
    assert_true(c[2].n > 15);
    st_engine_free(en);
    st_model_close(m);
}

static void an_adapter_that_is_not_there_is_refused(void **state)
{
    (void)state;
    struct lora l = {.seed = 1};
    struct st_model *m = lora_model(&(struct tiny){.seed = 6}, &l, 1, (struct st_model_opts){0});
    struct st_engine *en = tiny_engine(m, (struct st_engine_opts){0});
    struct client c = {0};
    struct st_err e;
    struct st_request_opts o = client_opts(&c, (uint32_t[]){1}, 1, 1);
    o.adapter = 2;
    expect_refusal(st_engine_submit(en, &o, &c.r, &e), &e, ST_INPUT, "adapter: want a number of at most 1, got 2");
    st_engine_free(en);
    st_model_close(m);
}

static void the_weights_of_an_adapter_placed_outside_are_refused(void **state)
{
    (void)state;
    struct lora l = {.seed = 1};
    struct st_model *m = lora_model(&(struct tiny){.seed = 6}, &l, 1, (struct st_model_opts){0});
    struct st_engine_opts eo = {.n_threads = 1};
    struct st_engine *en;
    struct st_err e;
    for (int i = 0; i < m->plan.n_op; i++)
        if (m->plan.ops[i].op == ST_OP_LORA)
            m->plan.ops[i].place = ST_PLACE_UNTRUSTED;
    expect_refusal(st_engine_new(m, &eo, &en, &e), &e, ST_POLICY, "lora_A.weight: the weights of an adapter never");
    st_model_close(m);
}

/* Behind masks */

static void plant_lora(struct setup *s, const struct tiny *t, const struct lora *l, const struct st_masked_place *place)
{
    struct st_err e;
    *s = (struct setup){.m = lora_model(t, l, 1, (struct st_model_opts){.dtype = ST_LOAD_INT8, .fold_norms = true})};
    assert_ok(st_masked_place(&s->m->plan, place, &e), &e);
    assert_ok(st_served_init(&s->served, s->m, place->embedding, &e), &e);
    worker_init(&s->worker, &s->served);
}

static void greedy_through(struct setup *s, struct st_boundary *b, struct client *c)
{
    static const uint32_t ids[] = {9, 8, 7, 6, 5, 4, 3};
    struct st_engine *en = tiny_engine(s->m, (struct st_engine_opts){.boundary = b, .n_threads = 1});
    struct st_request_opts o = client_opts(c, ids, COUNT(ids), 24);
    o.adapter = 1;
    client_submit(c, en, &o);
    while (st_engine_step(en))
        ;
    assert_int_equal(c->n, 24);
    st_engine_free(en);
}

static void behind_one_time_pads_an_adapter_gives_the_tokens_of_the_integer_reference(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(archs); i++) {
        struct setup s;
        struct client masked = {0}, reference = {0};
        plant_lora(&s, &archs[i].t, &archs[i].l, &(struct st_masked_place){.experts = ST_MASKED_EXPERTS_ALL});
        for (uint32_t k = 0; k < s.served.n; k++)
            assert_null(strstr(s.served.weights[k].name, "lora"));
        struct st_masked_opts o = options(&s, "otp");
        mask(&s, &o);
        with_reference(&s);
        greedy_through(&s, &s.b, &masked);
        greedy_through(&s, &s.ref, &reference);
        assert_memory_equal(masked.ids, reference.ids, sizeof masked.ids);
        tear_down(&s);
    }
}

static void behind_lwe_masks_logits_with_an_adapter_stay_within_the_bound(void **state)
{
    (void)state;
    uint32_t ids[12];
    struct setup s;
    struct tiny t = {.seed = 21, .d_model = 128, .d_ff = 200};
    struct lora l = {.targets = ALL, .seed = 21};
    plant_lora(&s, &t, &l, &(struct st_masked_place){0});
    struct st_masked_opts o = options(&s, "lwe");
    mask(&s, &o);
    with_reference(&s);
    random_ids(ids, 12, 128, 4);
    struct st_engine *en = tiny_engine(s.m, (struct st_engine_opts){.boundary = &s.b, .n_threads = 1}),
                     *ref = tiny_engine(s.m, (struct st_engine_opts){.boundary = &s.ref, .n_threads = 1});
    float *got = lora_logits(en, 128, 1, ids, 12), *want = lora_logits(ref, 128, 1, ids, 12);
    double off = relative(got, want, 12 * 128);
    if (off > 0.02)
        fail_msg("off by %g", off);
    free(got);
    free(want);
    st_engine_free(en);
    st_engine_free(ref);
    tear_down(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_unmerged_adapter_equals_merged_weights_in_every_architecture),
        cmocka_unit_test(the_stored_dtype_is_what_is_computed_with),
        cmocka_unit_test(a_norm_that_is_folded_into_the_base_goes_into_the_adapter_too),
        cmocka_unit_test(a_tied_head_takes_an_adapter_and_the_embedding_stays),
        cmocka_unit_test(one_pair_for_all_experts_of_a_layer_is_what_pairs_of_their_own_are),
        cmocka_unit_test(mixed_batches_equal_requests_alone_bit_by_bit),
        cmocka_unit_test(a_request_without_an_adapter_is_the_base_bit_by_bit),
        cmocka_unit_test(a_session_reuses_its_cache_for_the_same_adapter_only),
        cmocka_unit_test(steps_with_adapters_allocate_nothing),
        cmocka_unit_test(an_adapter_that_is_not_there_is_refused),
        cmocka_unit_test(the_weights_of_an_adapter_placed_outside_are_refused),
        cmocka_unit_test(behind_one_time_pads_an_adapter_gives_the_tokens_of_the_integer_reference),
        cmocka_unit_test(behind_lwe_masks_logits_with_an_adapter_stay_within_the_bound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
