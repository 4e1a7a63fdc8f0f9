/* `obfuscate --verify`: what a result must pass, and the damage that it must find and name. */
#include "base/hooks.h"
#include "cov_make.h"
#include "protect/covariant/gguf_read.h"
#include "text/json.h"

#include <fcntl.h>

/* model.safetensors of a result: its bytes, and where each tensor is. */
struct weights {
    char path[256];
    struct st_buf file;
    size_t data; /* where the header's offsets begin */
    json_t *header;
};

static struct weights open_weights(const char *dir)
{
    struct weights w = {0};
    struct st_err e;
    snprintf(w.path, sizeof w.path, "%s/model.safetensors", dir);
    assert_ok(st_file_read(w.path, 64u << 20, &w.file, &e), &e);
    uint64_t len;
    memcpy(&len, w.file.p, 8);
    w.data = 8 + len;
    assert_ok(st_json_parse(w.file.p + 8, len, w.path, &w.header, &e), &e);
    return w;
}

static void close_weights(struct weights *w)
{
    json_decref(w->header);
    st_buf_free(&w->file);
}

/* Where a tensor is in the file, its bytes, and the bytes of one value. */
static size_t place(const struct weights *w, const json_t *t, size_t *len, size_t *width)
{
    const json_t *at = json_object_get(t, "data_offsets");
    size_t lo = (size_t)json_integer_value(json_array_get(at, 0)),
           hi = (size_t)json_integer_value(json_array_get(at, 1));
    *len = hi - lo;
    if (width)
        *width = strcmp(json_string_value(json_object_get(t, "dtype")), "F32") == 0 ? 4 : 2;
    return w->data + lo;
}

static void write_at(const struct weights *w, size_t at, const void *p, size_t len)
{
    int fd = open(w->path, O_WRONLY);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, p, len, (off_t)at), len);
    close(fd);
}

static void put_back(const struct weights *w, size_t at, size_t len)
{
    write_at(w, at, w->file.p + at, len);
}

static void assert_refused(const char *src, const char *dst, const struct st_cov_key *key, const char *what)
{
    struct st_err e;
    double err;
    int rc = st_cov_verify(src, dst, key, &(struct st_cov_opts){.n_threads = 1}, &err, &e);
    if (rc != ST_VERIFY || !strstr(e.msg, what) || strncmp(e.msg, dst, strlen(dst)) != 0)
        fail_msg("want VERIFY with `%s`, got %d: %s", what, rc, rc ? e.msg : "");
}

static void assert_verified(const char *src, const char *dst, const struct st_cov_key *key)
{
    struct st_err e;
    double err;
    assert_ok(st_cov_verify(src, dst, key, &(struct st_cov_opts){.n_threads = 2}, &err, &e), &e);
}

static const enum st_dtype dtypes[] = {ST_DTYPE_F32, ST_DTYPE_F16, ST_DTYPE_BF16};

static void a_flipped_bit_in_any_tensor_is_found_and_the_tensor_named(void **state)
{
    (void)state;
    struct st_cov_key key = key_of(9);
    struct st_rng rng;
    st_rng_seed(&rng, 1);
    for (size_t d = 0; d < sizeof dtypes / sizeof *dtypes; d++) {
        struct tiny m = plain_tiny;
        m.dtype = dtypes[d];
        m.bias = d == 0;
        const char *src = write_tiny(&m), *dst = in_work("out"), *name;
        json_t *t;
        obfuscate(src, dst, &key, 2);
        struct weights w = open_weights(dst);
        json_object_foreach(w.header, name, t)
        {
            size_t len, width;
            if (strcmp(name, "__metadata__") == 0)
                continue;
            size_t at = place(&w, t, &len, &width);
            /* The highest bit of a value's exponent: no value of this size has it. */
            size_t value = st_rng_next(&rng) % (len / width), byte = at + value * width + width - 1;
            uint8_t flipped = (uint8_t)w.file.p[byte] ^ 0x40;
            write_at(&w, byte, &flipped, 1);
            assert_refused(src, dst, &key, name);
            put_back(&w, byte, 1);
        }
        assert_verified(src, dst, &key);
        close_weights(&w);
        drop_work(NULL);
        make_work(NULL);
    }
    st_cov_key_wipe(&key);
}

/* A part of `rows` of a tensor takes the place of another of the same size, and the other way round. */
static void swap(const struct weights *w, size_t a, size_t b, size_t len)
{
    write_at(w, a, w->file.p + b, len);
    write_at(w, b, w->file.p + a, len);
}

static void tensors_and_rows_that_changed_places_are_found(void **state)
{
    (void)state;
    static const char *const pairs[][2] = {
        {"model.layers.0.self_attn.k_proj.weight", "model.layers.1.self_attn.k_proj.weight"},
        {"model.layers.0.self_attn.k_proj.weight", "model.layers.0.self_attn.v_proj.weight"},
        {"model.layers.0.self_attn.q_proj.weight", "model.layers.1.self_attn.q_proj.weight"},
        {"model.layers.0.self_attn.o_proj.weight", "model.layers.1.self_attn.o_proj.weight"},
        {"model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight"},
        {"model.layers.0.mlp.down_proj.weight", "model.layers.1.mlp.down_proj.weight"},
        {"lm_head.weight", "model.embed_tokens.weight"},
    };
    struct st_cov_key key = key_of(9);
    const char *src = write_tiny(&plain_tiny), *dst = in_work("out");
    obfuscate(src, dst, &key, 2);
    struct weights w = open_weights(dst);
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        size_t len, other;
        size_t a = place(&w, json_object_get(w.header, pairs[i][0]), &len, NULL);
        size_t b = place(&w, json_object_get(w.header, pairs[i][1]), &other, NULL);
        assert_int_equal(len, other);
        swap(&w, a, b, len);
        assert_refused(src, dst, &key, strstr(pairs[i][0], "lm_head") ? pairs[i][1] : pairs[i][0]);
        put_back(&w, a, len);
        put_back(&w, b, len);
        /* Two of its rows: the first, and one of another head. */
        size_t row = len / (size_t)json_integer_value(
                               json_array_get(json_object_get(json_object_get(w.header, pairs[i][0]), "shape"), 0));
        swap(&w, a, a + 9 * row, row);
        assert_refused(src, dst, &key, pairs[i][0]);
        put_back(&w, a, 10 * row);
    }
    assert_verified(src, dst, &key);
    close_weights(&w);
    st_cov_key_wipe(&key);
}

static void tensors_made_under_another_key_are_found(void **state)
{
    (void)state;
    struct st_cov_key key = key_of(9), other = key_of(10);
    const char *src = write_tiny(&plain_tiny), *dst = in_work("out"), *second = in_work("out2"), *name;
    json_t *t;
    obfuscate(src, dst, &key, 2);
    obfuscate(src, second, &other, 2);
    struct weights w = open_weights(dst), from = open_weights(second);
    json_object_foreach(w.header, name, t)
    {
        size_t len, same;
        if (strcmp(name, "__metadata__") == 0 || strstr(name, "norm"))
            continue;
        size_t at = place(&w, t, &len, NULL), with = place(&from, json_object_get(from.header, name), &same, NULL);
        assert_int_equal(len, same);
        write_at(&w, at, from.file.p + with, len);
        assert_refused(src, dst, &key, name);
        put_back(&w, at, len);
    }
    close_weights(&w);
    close_weights(&from);
    st_cov_key_wipe(&key);
    st_cov_key_wipe(&other);
}

/* Replaces one text in a small file. */
static void edit(const char *path, const char *from, const char *to)
{
    struct st_buf b = {0}, out = {0};
    struct st_err e;
    assert_ok(st_file_read(path, 1u << 20, &b, &e), &e);
    char *at = strstr(b.p, from);
    if (!at)
        fail_msg("%s: no %s in %s", path, from, b.p);
    st_buf_add(&out, b.p, (size_t)(at - b.p));
    st_buf_add_str(&out, to);
    st_buf_add_str(&out, at + strlen(from));
    assert_ok(st_file_write(path, out.p, out.len, 0644, true, &e), &e);
    st_buf_free(&b);
    st_buf_free(&out);
}

static void a_config_that_does_not_fit_is_found(void **state)
{
    (void)state;
    struct st_cov_key key = key_of(9), other = key_of(10);
    struct tiny m2 = plain_tiny;
    m2.label = "tiny2";
    m2.eps = 0.02;
    const char *src = write_tiny(&plain_tiny), *dst = in_work("out"), *second = in_work("out2");
    char config[256], manifest[256], last[256];
    struct st_buf saved = {0};
    struct st_err e;
    obfuscate(src, dst, &key, 2);
    snprintf(config, sizeof config, "%s/config.json", dst);
    snprintf(manifest, sizeof manifest, "%s/sotto.json", dst);
    assert_ok(st_file_read(config, 1u << 20, &saved, &e), &e);
    edit(config, "\"rms_norm_eps\":", "\"rms_norm_eps\": 0.01, \"was\":"); /* without kappa^2 */
    assert_refused(src, dst, &key, "rms_norm_eps");
    assert_ok(st_file_write(config, saved.p, saved.len, 0644, true, &e), &e);
    edit(config, "\"bos_token_id\":", "\"bos_token_id\": 1, \"was\":"); /* the plain one */
    assert_refused(src, dst, &key, "bos_token_id");
    assert_ok(st_file_write(config, saved.p, saved.len, 0644, true, &e), &e);
    assert_verified(src, dst, &key);
    st_buf_free(&saved);
    /* The manifest of one with another h. */
    edit(manifest, "\"h\": ", "\"h\": 1");
    assert_refused(src, dst, &key, "its manifest was changed");
    /* Another key, another model. */
    obfuscate(src, second, &key, 2);
    assert_refused(src, second, &other, "was not made from this source with this key");
    snprintf(last, sizeof last, "%s", write_tiny(&m2));
    assert_refused(last, second, &key, "was not made from this source with this key");
    st_cov_key_wipe(&key);
    st_cov_key_wipe(&other);
}

static void noise_and_the_papers_keys_are_made_again_and_checked(void **state)
{
    (void)state;
    static const struct st_cov_opts rows[] = {
        {.n_threads = 2, .gamma = 1000, .alpha_e = 0.3, .alpha_h = 0.1, .noise_all = 0.05},
        {.n_threads = 2, .gamma = 1000, .noise_all = 0.05, .dtype = ST_COV_STORE_BF16},
        {.n_threads = 2, .preset = ST_COV_PRESET_PAPER, .lambda = 0.3, .beta = 8, .gamma = 1000},
        {.n_threads = 2,
         .preset = ST_COV_PRESET_PAPER,
         .lambda = 0.3,
         .beta = 8,
         .gamma = 1000,
         .alpha_e = 1,
         .alpha_h = 0.2,
         .noise_all = 0.02},
    };
    struct st_cov_key key = key_of(9);
    struct st_err e;
    char manifest[256];
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const char *src = write_tiny(&plain_tiny), *dst = in_work("out");
        assert_ok(st_cov_obfuscate(src, dst, &key, &rows[i], &e), &e);
        assert_verified(src, dst, &key);
        struct weights w = open_weights(dst);
        const json_t *down = json_object_get(w.header, "model.layers.1.mlp.down_proj.weight");
        size_t len, width, at = place(&w, down, &len, &width);
        at += len / 2 / width * width + width - 1;
        uint8_t flipped = (uint8_t)w.file.p[at] ^ 0x40;
        write_at(&w, at, &flipped, 1);
        assert_refused(src, dst, &key, "model.layers.1.mlp.down_proj.weight");
        put_back(&w, at, 1);
        close_weights(&w);
        snprintf(manifest, sizeof manifest, "%s/sotto.json", dst);
        if (rows[i].alpha_e > 0) { /* other noise than it says */
            edit(manifest, "\"alpha_e\": ", "\"alpha_e\": 0.1, \"was\": ");
            assert_refused(src, dst, &key, "its manifest was changed");
        }
        drop_work(NULL);
        make_work(NULL);
    }
    st_cov_key_wipe(&key);
}

static void a_gguf_file_is_read_back_and_its_damage_named(void **state)
{
    (void)state;
    static const char *const tensors[][2] = {
        {"token_embd.weight", "model.embed_tokens.weight"},
        {"blk.0.attn_q.weight", "model.layers.0.self_attn.q_proj.weight"},
        {"blk.1.attn_output.weight", "model.layers.1.self_attn.o_proj.weight"},
        {"blk.1.ffn_down.weight", "model.layers.1.mlp.down_proj.weight"},
        {"blk.0.ffn_gate.weight", "model.layers.0.mlp.gate_proj.weight"},
        {"blk.0.ffn_norm.weight", "model.layers.0.post_attention_layernorm.weight"},
        {"output.weight", "lm_head.weight"},
    };
    static const enum st_cov_store stores[] = {ST_COV_STORE_F32, ST_COV_STORE_F16, ST_COV_STORE_BF16,
                                               ST_COV_STORE_Q8_0};
    const struct tiny m = {.label = "gguf", .d = 64, .layers = 2, .heads = 4, .kv = 2, .dh = 16, .ff = 96, .vocab = 97};
    struct st_cov_key key = key_of(9);
    struct st_rng rng;
    struct st_err e;
    st_rng_seed(&rng, 2);
    for (size_t k = 0; k < sizeof stores / sizeof *stores; k++) {
        const struct st_cov_opts o = {.n_threads = 2, .format = ST_COV_FORMAT_GGUF, .dtype = stores[k]};
        const char *src = write_tiny(&m), *dst = in_work("out.gguf");
        struct weights w = {0};
        struct st_gguf_file f;
        assert_ok(st_cov_obfuscate(src, dst, &key, &o, &e), &e);
        assert_verified(src, dst, &key);
        snprintf(w.path, sizeof w.path, "%s", dst);
        assert_ok(st_file_read(dst, 64u << 20, &w.file, &e), &e);
        assert_ok(st_gguf_open(dst, &f, &e), &e);
        for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) {
            struct st_gguf_view v;
            assert_true(st_gguf_find(&f, tensors[i][0], &v));
            size_t at = (size_t)(v.data - f.bytes.p), width = v.type == ST_GGUF_F32 ? 4 : 2;
            /* The highest bit of an exponent: of a value, or of a block's scale. */
            if (v.type == ST_GGUF_Q8_0)
                at += st_rng_next(&rng) % (v.bytes / 34) * 34 + 1;
            else
                at += st_rng_next(&rng) % (v.bytes / width) * width + width - 1;
            uint8_t flipped = (uint8_t)w.file.p[at] ^ 0x40;
            write_at(&w, at, &flipped, 1);
            assert_refused(src, dst, &key, tensors[i][1]);
            put_back(&w, at, 1);
        }
        const char *eps = memmem(w.file.p, w.file.len, "layer_norm_rms_epsilon", 22);
        assert_non_null(eps);
        write_at(&w, (size_t)(eps - w.file.p) + 26, "x", 1);
        assert_refused(src, dst, &key, "layer_norm_rms_epsilon");
        put_back(&w, (size_t)(eps - w.file.p) + 26, 1);
        assert_verified(src, dst, &key);
        /* Cut off anywhere in the head or the data: never read past its end. */
        for (size_t len = 0; len < w.file.len; len += len < f.data ? 1 : w.file.len / 97) {
            struct st_gguf_file cut;
            uint8_t *copy = malloc(len + 1);
            memcpy(copy, w.file.p, len);
            assert_int_equal(st_gguf_parse((struct st_span){copy, len}, "cut", &cut, &e), ST_INPUT);
            free(copy);
        }
        st_gguf_close(&f);
        close_weights(&w);
        drop_work(NULL);
        make_work(NULL);
    }
    st_cov_key_wipe(&key);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, make_work, drop_work)
    const struct CMUnitTest tests[] = {
        TEST(a_flipped_bit_in_any_tensor_is_found_and_the_tensor_named),
        TEST(tensors_and_rows_that_changed_places_are_found),
        TEST(tensors_made_under_another_key_are_found),
        TEST(a_config_that_does_not_fit_is_found),
        TEST(noise_and_the_papers_keys_are_made_again_and_checked),
        TEST(a_gguf_file_is_read_back_and_its_damage_named),
    };
#undef TEST
    return cmocka_run_group_tests(tests, NULL, NULL);
}
