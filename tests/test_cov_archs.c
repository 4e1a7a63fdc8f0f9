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
        TEST(the_gguf_of_every_architecture_passes_verification),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
