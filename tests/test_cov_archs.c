/* Covariant obfuscation of every architecture: random checkpoints, compiled, run by the engine, must say the same as
 * their source; and two keys must share no vector. */
#include "cov_make.h"

#define N_GREEDY 64

#define SHAPE .d = 48, .layers = 2, .heads = 4, .kv = 2, .dh = 16, .ff = 72, .vocab = 131
#define LATENT .d = 48, .layers = 2, .heads = 4, .kv = 4, .dh = 8, .ff = 72, .vocab = 131
#define LATENT_FIELDS(q_rank)                                                                                          \
    ", \"q_lora_rank\": " q_rank ", \"kv_lora_rank\": 20, \"qk_nope_head_dim\": 12, \"qk_rope_head_dim\": 8, "         \
    "\"v_head_dim\": 10"
static const struct tiny models[] = {
    {.label = "qwen2", SHAPE, .tied = true, .arch = "Qwen2ForCausalLM", .type = "qwen2"},
    {.label = "qwen2 window",
     SHAPE,
     .arch = "Qwen2ForCausalLM",
     .type = "qwen2",
     .extra = ", \"use_sliding_window\": true, \"sliding_window\": 12, \"max_window_layers\": 0"},
    {.label = "qwen3", SHAPE, .tied = true, .eps = 1e-6, .arch = "Qwen3ForCausalLM", .type = "qwen3"},
    {.label = "qwen3 large eps", SHAPE, .arch = "Qwen3ForCausalLM", .type = "qwen3"},
    {.label = "qwen3 biases", SHAPE, .bias = true, .eps = 1e-6, .arch = "Qwen3ForCausalLM", .type = "qwen3"},
    {.label = "mixtral",
     SHAPE,
     .arch = "MixtralForCausalLM",
     .type = "mixtral",
     .extra = ", \"num_local_experts\": 6, \"num_experts_per_tok\": 2"},
    {.label = "qwen3 moe",
     SHAPE,
     .eps = 1e-6,
     .arch = "Qwen3MoeForCausalLM",
     .type = "qwen3_moe",
     .extra = ", \"num_experts\": 5, \"num_experts_per_tok\": 2, \"moe_intermediate_size\": 40, "
              "\"norm_topk_prob\": true, \"mlp_only_layers\": [0]"},
    {.label = "deepseek v2",
     LATENT,
     .arch = "DeepseekV2ForCausalLM",
     .type = "deepseek_v2",
     .extra = LATENT_FIELDS("null") ", \"first_k_dense_replace\": 1, \"n_routed_experts\": 6, "
                                    "\"n_shared_experts\": 2, \"num_experts_per_tok\": 3, "
                                    "\"moe_intermediate_size\": 24, \"routed_scaling_factor\": 2.0"},
    {.label = "deepseek v2 groups, yarn",
     LATENT,
     .attn_bias = true,
     .arch = "DeepseekV2ForCausalLM",
     .type = "deepseek_v2",
     .extra = LATENT_FIELDS("28") ", \"first_k_dense_replace\": 0, \"n_routed_experts\": 8, "
                                  "\"n_shared_experts\": 1, \"num_experts_per_tok\": 3, "
                                  "\"moe_intermediate_size\": 24, \"n_group\": 4, \"topk_group\": 2, "
                                  "\"topk_method\": \"group_limited_greedy\", \"rope_scaling\": {\"type\": "
                                  "\"yarn\", \"factor\": 4.0, \"original_max_position_embeddings\": 64, "
                                  "\"mscale\": 0.7, \"mscale_all_dim\": 0.7}"},
    {.label = "deepseek v3",
     LATENT,
     .arch = "DeepseekV3ForCausalLM",
     .type = "deepseek_v3",
     .extra = LATENT_FIELDS("30") ", \"first_k_dense_replace\": 1, \"n_routed_experts\": 8, "
                                  "\"n_shared_experts\": 1, \"num_experts_per_tok\": 3, "
                                  "\"moe_intermediate_size\": 24, \"n_group\": 2, \"topk_group\": 1, "
                                  "\"routed_scaling_factor\": 2.5"},
    {.label = "deepseek v3, halves",
     LATENT,
     .arch = "DeepseekV3ForCausalLM",
     .type = "deepseek_v3",
     .extra = LATENT_FIELDS("null") ", \"first_k_dense_replace\": 2, \"rope_interleave\": false"},
};

static void every_architecture_says_the_same_in_f32(void **state)
{
    (void)state;
    struct st_err e;
    struct st_cov_key key = key_of(9);
    static const uint32_t prompt[] = {1, 17, 33, 60, 2};
    static struct reply plain, wide;
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        struct st_cov_cipher cipher;
        double err = 1;
        const char *src = write_tiny(&models[i]), *dst = in_work("out");
        obfuscate(src, dst, &key, 2);
        assert_ok(st_cov_verify(src, dst, &key, &(struct st_cov_opts){.n_threads = 2}, &err, &e), &e);
        print_message("%s: largest logit error %.2g\n", models[i].label, err);
        assert_true(err < 1e-5);
        assert_ok(st_cov_cipher_open(src, &key, &cipher, &e), &e);
        generate(src, NULL, prompt, 5, N_GREEDY, &plain);
        generate(dst, &cipher, prompt, 5, N_GREEDY, &wide);
        assert_int_equal(plain.n, N_GREEDY);
        assert_int_equal(wide.n, N_GREEDY);
        assert_memory_equal(plain.ids, wide.ids, N_GREEDY * sizeof *plain.ids);
        st_cov_cipher_wipe(&cipher);
        drop_work(NULL);
        make_work(NULL);
    }
    st_cov_key_wipe(&key);
}

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* A vector's values, or its values in order; its hash stands for it. */
static uint64_t hash_of(const float *x, size_t n, size_t step, bool sorted)
{
    static float copy[4096];
    uint64_t h = 0xcbf29ce484222325u;
    assert_true(n <= 4096);
    for (size_t i = 0; i < n; i++)
        copy[i] = x[i * step];
    if (sorted)
        qsort(copy, n, sizeof *copy, by_value);
    for (size_t i = 0; i < n * sizeof *copy; i++)
        h = (h ^ ((const uint8_t *)copy)[i]) * 0x100000001b3u;
    return h;
}

static int by_hash(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

struct hashes {
    uint64_t *h;
    size_t n;
};

/* Rows, columns and sorted rows of every matrix, and every other vector, of a checkpoint; but not norms whose weights
 * are one public constant, and the router's correction bias, which has an order of its own and keeps its values. */
static struct hashes hash_vectors(const char *dir)
{
    struct st_err e;
    struct st_ckpt *c;
    struct hashes all = {malloc(sizeof *all.h << 17), 0};
    assert_non_null(all.h);
    assert_ok(st_ckpt_open(dir, &c, &e), &e);
    for (size_t i = 0; i < st_ckpt_count(c); i++) {
        const struct st_tensor *t = st_ckpt_at(c, i);
        const float *x = t->data;
        size_t n = t->n_dim == 2 ? t->dim[0] : 1, len = t->n_dim == 2 ? t->dim[1] : t->dim[0];
        assert_int_equal(t->dtype, ST_DTYPE_F32);
        bool norm = strstr(t->name, "norm") && !strstr(t->name, "q_norm") && !strstr(t->name, "k_norm");
        if (norm || strstr(t->name, "correction_bias"))
            continue;
        assert_true(all.n + 2 * n + len < (size_t)1 << 17);
        for (size_t r = 0; r < n; r++) {
            all.h[all.n++] = hash_of(x + r * len, len, 1, false);
            all.h[all.n++] = hash_of(x + r * len, len, 1, true);
        }
        for (size_t j = 0; n > 1 && j < len; j++)
            all.h[all.n++] = hash_of(x + j, n, len, false);
    }
    st_ckpt_close(c);
    qsort(all.h, all.n, sizeof *all.h, by_hash);
    return all;
}

static size_t in_both(const struct hashes *a, const struct hashes *b)
{
    size_t n = 0;
    for (size_t i = 0; i < a->n; i++)
        n += bsearch(&a->h[i], b->h, b->n, sizeof *b->h, by_hash) != NULL;
    return n;
}

static void two_keys_and_the_source_share_no_row_column_or_sorted_row(void **state)
{
    (void)state;
    struct st_cov_key one = key_of(9), two = key_of(10);
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        const char *src = write_tiny(&models[i]);
        obfuscate(src, in_work("a"), &one, 2);
        obfuscate(src, in_work("b"), &two, 2);
        struct hashes plain = hash_vectors(src), a = hash_vectors(in_work("a")), b = hash_vectors(in_work("b"));
        assert_true(a.n > 1000 && a.n == b.n);
        assert_int_equal(in_both(&a, &b), 0);
        assert_int_equal(in_both(&a, &plain), 0);
        assert_int_equal(in_both(&b, &plain), 0);
        free(plain.h);
        free(a.h);
        free(b.h);
        drop_work(NULL);
        make_work(NULL);
    }
    st_cov_key_wipe(&one);
    st_cov_key_wipe(&two);
}

static void the_gguf_of_every_architecture_passes_verification(void **state)
{
    (void)state;
    static const enum st_cov_store stores[] = {ST_COV_STORE_F32, ST_COV_STORE_Q8_0};
    struct st_err e;
    struct st_cov_key key = key_of(9);
    int n_done = 0;
    for (size_t i = 0; i < 2 * sizeof models / sizeof *models; i++) {
        const struct st_cov_opts o = {.n_threads = 2, .format = ST_COV_FORMAT_GGUF, .dtype = stores[i % 2]};
        const char *src = write_tiny(&models[i / 2]), *dst = in_work("out.gguf");
        double err;
        int rc = st_cov_obfuscate(src, dst, &key, &o, &e);
        if (rc != ST_UNSUPPORTED) { /* what llama.cpp cannot run is refused */
            assert_ok(rc, &e);
            assert_ok(st_cov_verify(src, dst, &key, &o, &err, &e), &e);
            n_done++;
        }
        drop_work(NULL);
        make_work(NULL);
    }
    assert_true(n_done >= 12);
    st_cov_key_wipe(&key);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, make_work, drop_work)
    const struct CMUnitTest tests[] = {
        TEST(every_architecture_says_the_same_in_f32),
        TEST(two_keys_and_the_source_share_no_row_column_or_sorted_row),
        TEST(the_gguf_of_every_architecture_passes_verification),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
