/* Covariant obfuscation, end to end through files: a source checkpoint is written, compiled, read back by the engine,
 * and must say the same thing token by token once its ids are deciphered. */
#include "base/file.h"
#include "base/hooks.h"
#include "cov_make.h"
#include "text/json.h"

/* ---- width ---- */

static void the_chosen_width_suits_heads_and_engines(void **state)
{
    (void)state;
    static const uint32_t rows[][3] = {{64, 8, 32}, {288, 6, 144}, {896, 14, 112}, {2048, 32, 128}, {4096, 32, 128}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        assert_int_equal(st_cov_expand(rows[i][0], rows[i][1]), rows[i][2]);
    for (uint32_t heads = 1; heads <= 16; heads++)
        for (uint32_t d = heads * 8; d < 1024; d += heads * 8)
            assert_int_equal((d + 2 * st_cov_expand(d, heads)) % heads, 0);
}

/* ---- whole models ---- */

static const struct tiny models[] = {
    {.label = "one-to-one", .d = 32, .layers = 2, .heads = 4, .kv = 4, .dh = 8, .ff = 48, .vocab = 97},
    {.label = "four-to-one tied",
     .d = 64,
     .layers = 3,
     .heads = 8,
     .kv = 2,
     .dh = 8,
     .ff = 100,
     .vocab = 211,
     .tied = true},
    {.label = "one key head", .d = 48, .layers = 2, .heads = 6, .kv = 1, .dh = 16, .ff = 80, .vocab = 130},
    {.label = "all biases", .d = 32, .layers = 2, .heads = 4, .kv = 2, .dh = 8, .ff = 48, .vocab = 97, .bias = true},
    {.label = "head_dim of its own", .d = 32, .layers = 2, .heads = 2, .kv = 1, .dh = 32, .ff = 300, .vocab = 600},
    {.label = "llama3 rope",
     .d = 32,
     .layers = 2,
     .heads = 4,
     .kv = 2,
     .dh = 8,
     .ff = 48,
     .vocab = 97,
     .extra = ", \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8.0, \"low_freq_factor\": 1.0, "
              "\"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 64}"},
    {.label = "linear rope",
     .d = 32,
     .layers = 2,
     .heads = 4,
     .kv = 2,
     .dh = 8,
     .ff = 48,
     .vocab = 97,
     .extra = ", \"rope_scaling\": {\"rope_type\": \"linear\", \"factor\": 4.0}"},
    {.label = "mistral window",
     .d = 32,
     .layers = 2,
     .heads = 4,
     .kv = 2,
     .dh = 8,
     .ff = 48,
     .vocab = 97,
     .arch = "MistralForCausalLM",
     .type = "mistral",
     .extra = ", \"sliding_window\": 16"},
};

static void the_obfuscated_model_says_the_same_in_f32(void **state)
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
        assert_ok(st_cov_cipher_open(src, &key, &cipher, &e), &e);
        generate(src, NULL, prompt, 5, 128, &plain);
        generate(dst, &cipher, prompt, 5, 128, &wide);
        assert_int_equal(plain.n, 128);
        assert_int_equal(wide.n, 128);
        assert_memory_equal(plain.ids, wide.ids, 128 * sizeof *plain.ids);
        st_cov_cipher_wipe(&cipher);
        drop_work(NULL);
        make_work(NULL);
    }
    st_cov_key_wipe(&key);
}

static void half_precision_keeps_its_dtype_and_its_bound(void **state)
{
    (void)state;
    struct st_err e;
    struct st_cov_key key = key_of(9);
    static const enum st_dtype dtypes[] = {ST_DTYPE_F16, ST_DTYPE_BF16};
    for (int i = 0; i < 2; i++) {
        struct tiny m = models[1];
        struct st_ckpt *ckpt;
        double err = 1;
        m.dtype = dtypes[i];
        m.label = st_dtype_name(m.dtype);
        const char *src = write_tiny(&m), *dst = in_work(i ? "out1" : "out0");
        obfuscate(src, dst, &key, 2);
        assert_ok(st_ckpt_open(dst, &ckpt, &e), &e);
        for (size_t j = 0; j < st_ckpt_count(ckpt); j++)
            assert_int_equal(st_ckpt_at(ckpt, j)->dtype, m.dtype);
        st_ckpt_close(ckpt);
        assert_ok(st_cov_verify(src, dst, &key, &(struct st_cov_opts){.n_threads = 2}, &err, &e), &e);
        print_message("%s: largest logit error %.2g\n", m.label, err);
    }
    st_cov_key_wipe(&key);
}

static void a_bf16_source_stored_in_f32_says_the_same(void **state)
{
    (void)state;
    struct st_err e;
    struct st_cov_key key = key_of(9);
    struct st_cov_cipher cipher;
    struct tiny m = models[1];
    double err = 1;
    static const uint32_t prompt[] = {1, 17, 33};
    static struct reply plain, wide;
    m.dtype = ST_DTYPE_BF16;
    m.label = "src";
    const struct st_cov_opts o = {.n_threads = 2, .dtype = ST_COV_STORE_F32};
    const char *src = write_tiny(&m), *dst = in_work("out");
    assert_ok(st_cov_obfuscate(src, dst, &key, &o, &e), &e);
    assert_ok(st_cov_verify(src, dst, &key, &o, &err, &e), &e);
    assert_true(err < ST_COV_BOUND_F32);
    assert_ok(st_cov_cipher_open(src, &key, &cipher, &e), &e);
    generate(src, NULL, prompt, 3, 128, &plain);
    generate(dst, &cipher, prompt, 3, 128, &wide);
    assert_memory_equal(plain.ids, wide.ids, 128 * sizeof *plain.ids);
    st_cov_cipher_wipe(&cipher);
    st_cov_key_wipe(&key);
}

static void read_all(const char *dir, const char *name, struct st_buf *b)
{
    struct st_err e;
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_ok(st_file_read(path, 64u << 20, b, &e), &e);
}

static bool same_file(const char *a, const char *b, const char *name)
{
    struct st_buf x = {0}, y = {0};
    read_all(a, name, &x);
    read_all(b, name, &y);
    bool same = x.len == y.len && memcmp(x.p, y.p, x.len) == 0;
    st_buf_free(&x);
    st_buf_free(&y);
    return same;
}

static void the_same_key_gives_the_same_bytes_whatever_the_threads(void **state)
{
    (void)state;
    struct st_cov_key key = key_of(9);
    struct tiny m = models[4];
    m.label = "src";
    m.vocab = 1500; /* several tiles */
    const char *src = write_tiny(&m);
    obfuscate(src, in_work("a"), &key, 1);
    obfuscate(src, in_work("b"), &key, 3);
    static const char *const names[] = {"model.safetensors", "config.json", "generation_config.json", "sotto.json"};
    for (int i = 0; i < 4; i++)
        assert_true(same_file(in_work("a"), in_work("b"), names[i]));
    assert_int_equal(count_entries(in_work("a")), 6);
    st_cov_key_wipe(&key);
}

static void another_key_or_source_shares_nothing(void **state)
{
    (void)state;
    struct st_err e;
    struct st_cov_key one = key_of(9), two = key_of(10);
    struct st_ckpt *a, *b, *p;
    const char *src = write_tiny(&plain_tiny);
    obfuscate(src, in_work("a"), &one, 2);
    obfuscate(src, in_work("b"), &two, 2);
    assert_ok(st_ckpt_open(in_work("a"), &a, &e), &e);
    assert_ok(st_ckpt_open(in_work("b"), &b, &e), &e);
    assert_ok(st_ckpt_open(src, &p, &e), &e);
    for (size_t i = 0; i < st_ckpt_count(a); i++) {
        const struct st_tensor *x = st_ckpt_at(a, i), *y = st_ckpt_find(b, x->name), *z = st_ckpt_find(p, x->name);
        assert_non_null(y);
        if (strstr(x->name, "norm")) /* the public constant */
            continue;
        const float *fx = x->data, *fy = y->data, *fz = z ? z->data : NULL;
        size_t same = 0, plain = 0;
        for (size_t j = 0; j < x->bytes / sizeof(float); j++) {
            same += fx[j] == fy[j];
            plain += fz && j < z->bytes / sizeof(float) && fx[j] == fz[j];
        }
        assert_int_equal(same, 0);
        assert_int_equal(plain, 0);
    }
    st_ckpt_close(a);
    st_ckpt_close(b);
    st_ckpt_close(p);
    assert_false(same_file(in_work("a"), in_work("b"), "sotto.json"));

    struct st_cov_cipher x, y;
    struct tiny other = plain_tiny;
    other.label = "other";
    other.ff = 64;
    assert_ok(st_cov_cipher_open(src, &one, &x, &e), &e);
    assert_ok(st_cov_cipher_open(write_tiny(&other), &one, &y, &e), &e);
    assert_memory_not_equal(x.to, y.to, x.n_vocab * sizeof *x.to);
    st_cov_cipher_wipe(&x);
    st_cov_cipher_wipe(&y);
    st_cov_key_wipe(&one);
    st_cov_key_wipe(&two);
}

static void special_ids_are_enciphered_and_the_manifest_holds_only_a_commitment(void **state)
{
    (void)state;
    struct st_err e;
    struct st_cov_key key = key_of(9);
    struct st_cov_cipher cipher;
    struct st_config c;
    struct st_buf b = {0};
    const char *src = write_tiny(&plain_tiny), *dst = in_work("out");
    obfuscate(src, dst, &key, 2);
    assert_ok(st_cov_cipher_open(src, &key, &cipher, &e), &e);
    for (uint32_t i = 0; i < cipher.n_vocab; i++)
        assert_int_equal(cipher.from[cipher.to[i]], i);
    assert_ok(st_config_read(dst, &c, &e), &e);
    assert_int_equal(c.bos, cipher.to[1]);
    assert_int_equal(c.pad, cipher.to[0]);
    assert_int_equal(c.n_eos, 2);
    assert_int_equal(c.eos[0] + c.eos[1], cipher.to[2] + cipher.to[5]);
    assert_true(c.eos[0] == cipher.to[2] || c.eos[0] == cipher.to[5]);
    assert_true(c.eos[0] < c.eos[1]); /* no order that tells which is which */
    assert_false(c.tied_head);
    assert_int_equal(c.d_model, 32 + 2 * st_cov_expand(32, 4));
    assert_true(fabs((double)c.norm_eps - 0.01 * 32 / c.d_model) < 1e-9);
    st_cov_cipher_wipe(&cipher);
    json_t *v;
    read_all(dst, "sotto.json", &b);
    assert_ok(st_json_parse(b.p, b.len, "sotto.json", &v, &e), &e);
    assert_int_equal(json_object_size(v), 8);
    assert_string_equal(json_string_value(json_object_get(v, "preset")), "tight");
    assert_int_equal(strlen(json_string_value(json_object_get(v, "commitment"))), 64);
    json_decref(v);
    st_buf_free(&b);
    st_cov_key_wipe(&key);
}

static void shards_are_read_back_as_one_model(void **state)
{
    (void)state;
    struct st_err e;
    double err;
    struct st_cov_key key = key_of(9);
    const char *src = write_tiny(&plain_tiny), *dst = in_work("out");
    struct st_cov_opts o = {.n_threads = 2, .shard_bytes = 20000};
    assert_ok(st_cov_obfuscate(src, dst, &key, &o, &e), &e);
    assert_true(count_entries(dst) > 6);
    assert_true(st_path_exists(in_work("out/model.safetensors.index.json")));
    assert_ok(st_cov_verify(src, dst, &key, &o, &err, &e), &e);
    st_cov_key_wipe(&key);
}

static void the_wrong_key_gives_other_tokens_and_fails_verification(void **state)
{
    (void)state;
    struct st_err e;
    double err;
    static struct reply right, wrong;
    static const uint32_t prompt[] = {1, 17, 33};
    struct st_cov_key key = key_of(9), other = key_of(10);
    struct st_cov_cipher cipher;
    const char *src = write_tiny(&plain_tiny), *dst = in_work("out");
    obfuscate(src, dst, &key, 2);
    generate(src, NULL, prompt, 3, 64, &right);
    assert_ok(st_cov_cipher_open(src, &other, &cipher, &e), &e);
    generate(dst, &cipher, prompt, 3, 64, &wrong);
    int equal = 0;
    for (int i = 0; i < 64; i++)
        equal += right.ids[i] == wrong.ids[i];
    assert_true(equal < 16);
    st_cov_cipher_wipe(&cipher);
    assert_int_equal(st_cov_verify(src, dst, &other, &(struct st_cov_opts){.n_threads = 1}, &err, &e), ST_VERIFY);
    st_cov_key_wipe(&key);
    st_cov_key_wipe(&other);
}

static void verification_finds_a_changed_weight(void **state)
{
    (void)state;
    struct st_err e;
    double err;
    struct st_cov_key key = key_of(9);
    const char *src = write_tiny(&plain_tiny), *dst = in_work("out");
    obfuscate(src, dst, &key, 2);
    FILE *f = fopen(in_work("out/model.safetensors"), "r+");
    assert_non_null(f);
    assert_int_equal(fseek(f, -4 * 40, SEEK_END), 0);
    const float off = 40;
    for (int i = 0; i < 40; i++)
        assert_int_equal(fwrite(&off, sizeof off, 1, f), 1);
    assert_int_equal(fclose(f), 0);
    assert_int_equal(st_cov_verify(src, dst, &key, &(struct st_cov_opts){.n_threads = 1}, &err, &e), ST_VERIFY);
    st_cov_key_wipe(&key);
}

/* The error's class, a word of its message, and nothing left behind. */
static void refuse(const struct tiny *m, const struct st_cov_opts *o, int code, const char *word)
{
    struct st_err e = {0};
    struct st_cov_key key = key_of(9);
    const char *src = write_tiny(m);
    int before = count_entries(work);
    int rc = st_cov_obfuscate(src, in_work("out"), &key, o, &e);
    if (rc != code || !strstr(e.msg, word))
        fail_msg("want %d with '%s', got %d: %s", code, word, rc, e.msg);
    assert_int_equal(count_entries(work), before);
    st_cov_key_wipe(&key);
    drop_work(NULL);
    make_work(NULL);
}

static void bad_sources_are_named_and_leave_nothing(void **state)
{
    (void)state;
    const struct st_cov_opts o = {.n_threads = 1};
    struct tiny m = plain_tiny;
    m.drop = "model.layers.1.self_attn.v_proj.weight";
    refuse(&m, &o, ST_INPUT, "v_proj");
    m = plain_tiny;
    m.bend = "model.layers.0.mlp.down_proj.weight";
    refuse(&m, &o, ST_INPUT, "down_proj");
    m = plain_tiny;
    m.poison = "model.layers.1.mlp.up_proj.weight";
    refuse(&m, &o, ST_INPUT, "up_proj");
    m = plain_tiny;
    m.arch = "GPT2LMHeadModel";
    refuse(&m, &o, ST_UNSUPPORTED, "GPT2LMHeadModel");
    struct st_cov_opts odd = o;
    odd.expand = 7; /* 32 + 14 is no multiple of 4 */
    refuse(&plain_tiny, &odd, ST_USAGE, "h:");
    volatile sig_atomic_t yes = 1;
    struct st_cov_opts stop = o;
    stop.cancel = &yes;
    refuse(&plain_tiny, &stop, ST_IO, "cancelled");
}

static void an_existing_destination_is_left_alone(void **state)
{
    (void)state;
    struct st_err e;
    struct st_cov_key key = key_of(9);
    const struct st_cov_opts o = {.n_threads = 1};
    const char *src = write_tiny(&plain_tiny), *dst = in_work("out");
    assert_int_equal(mkdir(dst, 0755), 0);
    assert_int_equal(st_cov_obfuscate(src, dst, &key, &o, &e), ST_IO);
    assert_int_equal(count_entries(dst), 0);
    assert_int_equal(st_cov_obfuscate(src, in_work("no/such/parent"), &key, &o, &e), ST_IO);
    assert_int_equal(count_entries(work), 2);
    st_cov_key_wipe(&key);
}

/* ---- a real model ---- */

static void stories260k_tells_the_same_stories(void **state)
{
    (void)state;
    const char *shared = getenv("SOTTO_SHARED");
    char src[512];
    snprintf(src, sizeof src, "%s/data/models/stories260K.bin", shared ? shared : "../shared");
    if (!st_path_exists(src)) {
        print_message("%s is not here: not tested\n", src);
        skip();
    }
    static const uint32_t prompts[][5] = {{1}, {1, 403, 407, 261, 378}, {1, 385, 300}, {1, 410, 370, 260, 411}};
    static const size_t n_prompt[] = {1, 5, 3, 5};
    static struct reply plain, wide;
    struct st_err e;
    double err = 1;
    struct st_cov_cipher cipher;
    struct st_cov_key key = key_of(9);
    const char *dst = in_work("out");
    obfuscate(src, dst, &key, 2);
    assert_ok(st_cov_verify(src, dst, &key, &(struct st_cov_opts){.n_threads = 2}, &err, &e), &e);
    print_message("stories260K: largest logit error %.2g\n", err);
    assert_ok(st_cov_cipher_open(src, &key, &cipher, &e), &e);
    for (int i = 0; i < 4; i++) {
        generate(src, NULL, prompts[i], n_prompt[i], 256, &plain);
        generate(dst, &cipher, prompts[i], n_prompt[i], 256, &wide);
        assert_int_equal(plain.n, 256);
        assert_int_equal(wide.n, 256);
        assert_memory_equal(plain.ids, wide.ids, 256 * sizeof *plain.ids);
    }
    st_cov_cipher_wipe(&cipher);
    st_cov_key_wipe(&key);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, make_work, drop_work)
    const struct CMUnitTest tests[] = {
        TEST(the_chosen_width_suits_heads_and_engines),
        TEST(the_obfuscated_model_says_the_same_in_f32),
        TEST(half_precision_keeps_its_dtype_and_its_bound),
        TEST(a_bf16_source_stored_in_f32_says_the_same),
        TEST(the_same_key_gives_the_same_bytes_whatever_the_threads),
        TEST(another_key_or_source_shares_nothing),
        TEST(special_ids_are_enciphered_and_the_manifest_holds_only_a_commitment),
        TEST(shards_are_read_back_as_one_model),
        TEST(the_wrong_key_gives_other_tokens_and_fails_verification),
        TEST(verification_finds_a_changed_weight),
        TEST(bad_sources_are_named_and_leave_nothing),
        TEST(an_existing_destination_is_left_alone),
        TEST(stories260k_tells_the_same_stories),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
