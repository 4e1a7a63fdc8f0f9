/* Covariant obfuscation of every architecture: random checkpoints, compiled, run by the engine, must say the same as
 * their source; and two keys must share no vector. */
#include "cov_make.h"

#define N_GREEDY 64

#define SHAPE .d = 48, .layers = 2, .heads = 4, .kv = 2, .dh = 16, .ff = 72, .vocab = 131
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

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, make_work, drop_work)
    const struct CMUnitTest tests[] = {
        TEST(every_architecture_says_the_same_in_f32),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
