/* Checkpoint readers: what a well-formed file gives, and that a malformed one is refused by name. */
#include "expect.h"
#include "model/checkpoint.h"
#include "model/ckpt.h"
#include "mutate.h"
#include "tiny.h"

/* A safetensors file in memory: header text, data bytes. */
static struct st_buf make_file(const char *head, size_t n_data)
{
    struct st_buf b = {0};
    uint64_t len = strlen(head);
    st_buf_add(&b, &len, 8);
    st_buf_add_str(&b, head);
    for (size_t i = 0; i < n_data; i++)
        st_buf_add(&b, &(char){(char)i}, 1);
    return b;
}

static int parse(const struct st_buf *b, struct st_tensors *l, struct st_err *e)
{
    return st_safetensors_parse((const uint8_t *)b->p, b->len, "f.safetensors", l, e);
}

static const char two[] = "{\"__metadata__\":{\"format\":\"pt\"},\"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],"
                          "\"data_offsets\":[0,12]},\"a\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[12,20]}}";

static void reads_names_dtypes_shapes_and_places(void **state)
{
    (void)state;
    struct st_buf b = make_file(two, 20);
    struct st_tensors l = {0};
    struct st_err e = {0};
    assert_int_equal(parse(&b, &l, &e), 0);
    st_tensors_sort(&l);
    assert_int_equal(l.n, 2);
    assert_string_equal(l.at[0].name, "a");
    assert_string_equal(l.at[0].stored, "I64");
    assert_int_equal(l.at[0].dtype, ST_DTYPE_COUNT);
    assert_int_equal(l.at[0].n_dim, 0);
    assert_int_equal(l.at[0].bytes, 8);
    assert_string_equal(l.at[1].name, "b");
    assert_int_equal(l.at[1].dtype, ST_DTYPE_BF16);
    assert_int_equal(l.at[1].n_dim, 2);
    assert_int_equal(l.at[1].dim[0], 2);
    assert_int_equal(l.at[1].dim[1], 3);
    assert_ptr_equal(l.at[1].data, b.p + 8 + strlen(two));
    st_tensors_free(&l);
    st_buf_free(&b);
}

static void accepts_empty_tensors_and_files_without_tensors(void **state)
{
    (void)state;
    static const struct {
        const char *head;
        size_t n_data, n;
    } ok[] = {
        {"{}", 0, 0},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[0,4],\"data_offsets\":[0,0]}}", 0, 1},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
         "\"b\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[8,8]},"
         "\"c\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[8,9]}}   ",
         9, 3},
        {"{\"a\":{\"dtype\":\"F4\",\"shape\":[3,2],\"data_offsets\":[0,3]}}", 3, 1},
    };
    for (size_t i = 0; i < sizeof ok / sizeof ok[0]; i++) {
        struct st_buf b = make_file(ok[i].head, ok[i].n_data);
        struct st_tensors l = {0};
        struct st_err e = {0};
        if (parse(&b, &l, &e))
            fail_msg("row %zu: %s", i, e.msg);
        assert_int_equal(l.n, ok[i].n);
        st_tensors_free(&l);
        st_buf_free(&b);
    }
}

static void refuses_a_malformed_header_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *head;
        size_t n_data;
        int code;
        const char *says;
    } bad[] = {
        {" {}", 0, ST_INPUT, "begins with '{'"},
        {"", 0, ST_INPUT, "begins with '{'"},
        {"{\"a\":1}", 0, ST_INPUT, "a: want {dtype"},
        {"{\"a\":{}}", 0, ST_INPUT, "a: want {dtype"},
        {"{\"a\":{\"dtype\":7,\"shape\":[1],\"data_offsets\":[0,1]}}", 1, ST_INPUT, "a: want {dtype"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"x\":0}}", 1, ST_INPUT, "a: want {dtype"},
        {"{\"a\":{\"dtype\":\"Q4\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, ST_UNSUPPORTED, "dtype 'Q4'"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":1,\"data_offsets\":[0,1]}}", 1, ST_INPUT, "a: shape"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[-1],\"data_offsets\":[0,1]}}", 1, ST_INPUT, "a: shape"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1.0],\"data_offsets\":[0,1]}}", 1, ST_INPUT, "a: shape"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]}}", 1, ST_INPUT, "a: shape"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,0]}}", 1, ST_INPUT, "data_offsets: want"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0]}}", 1, ST_INPUT, "data_offsets: want"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 1, ST_INPUT, "the file holds 1"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, ST_INPUT, "not the size of its shape"},
        {"{\"a\":{\"dtype\":\"F4\",\"shape\":[1],\"data_offsets\":[0,0]}}", 0, ST_INPUT, "not the size of its shape"},
        /* 2^62 * 4 bytes wraps to 0. */
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904],\"data_offsets\":[0,0]}}", 0, ST_INPUT, "shape"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0, ST_INPUT, "shape"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}",
         3, ST_INPUT, "b: data_offsets overlap"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[2,3]}}",
         3, ST_INPUT, "b: data_offsets leave a hole"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}", 2, ST_INPUT, "leave a hole"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 2, ST_INPUT, "1 bytes after the last"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
         "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}",
         1, ST_INPUT, "not valid JSON"},
        {"{\"__metadata__\":{\"a\":1}}", 0, ST_INPUT, "__metadata__"},
        {"{\"__metadata__\":[]}", 0, ST_INPUT, "__metadata__"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct st_buf b = make_file(bad[i].head, bad[i].n_data);
        struct st_tensors l = {0};
        struct st_err e = {0};
        expect_refusal(parse(&b, &l, &e), &e, bad[i].code, bad[i].says);
        st_tensors_free(&l);
        st_buf_free(&b);
    }
}

static void refuses_a_header_longer_than_the_file_or_than_100_mb(void **state)
{
    (void)state;
    static const struct {
        uint64_t len;
        const char *says;
    } bad[] = {{UINT64_MAX, "at most"}, {(100u << 20) + 1, "at most"}, {13, "in a file of 20"}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        uint8_t file[20] = {0};
        struct st_tensors l = {0};
        struct st_err e = {0};
        memcpy(file, &bad[i].len, 8);
        expect_refusal(st_safetensors_parse(file, sizeof file, "f", &l, &e), &e, ST_INPUT, bad[i].says);
    }
}

/* Touches what the parser vouched for. */
static void read_all(const struct st_tensors *l)
{
    volatile uint8_t sum = 0;
    for (size_t i = 0; i < l->n; i++)
        for (size_t j = 0; j < l->at[i].bytes; j++)
            sum = (uint8_t)(sum + ((const uint8_t *)l->at[i].data)[j]);
}

static void expect_class(int rc)
{
    if (rc != ST_OK && rc != ST_INPUT && rc != ST_UNSUPPORTED && rc != ST_IO && rc != ST_MEMORY)
        fail_msg("error of the wrong class: %d", rc);
}

static void every_truncation_of_a_safetensors_file_is_refused(void **state)
{
    (void)state;
    struct st_buf b = make_file(two, 20);
    for (size_t n = 0; n < b.len; n++) {
        uint8_t *cut = malloc(n ? n : 1);
        struct st_tensors l = {0};
        struct st_err e = {0};
        memcpy(cut, b.p, n);
        assert_int_equal(st_safetensors_parse(cut, n, "f", &l, &e), ST_INPUT);
        st_tensors_free(&l);
        free(cut);
    }
    st_buf_free(&b);
}

static void mutated_safetensors_files_are_refused_or_read_within_bounds(void **state)
{
    (void)state;
    struct st_buf b = make_file(two, 20);
    struct st_rng rng;
    int n_ok = 0;
    st_rng_seed(&rng, 1);
    for (int i = 0; i < 10000; i++) {
        size_t len;
        uint8_t *m = mutate(&rng, b.p, b.len, 8 + strlen(two), &len);
        struct st_tensors l = {0};
        struct st_err e = {0};
        int rc = st_safetensors_parse(m, len, "f", &l, &e);
        expect_class(rc);
        if (rc == 0) {
            read_all(&l);
            n_ok++;
        }
        st_tensors_free(&l);
        free(m);
    }
    assert_in_range(n_ok, 1, 9999);
    st_buf_free(&b);
}

static void refuses_an_index_that_reaches_outside_its_directory(void **state)
{
    (void)state;
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"{}", "weight_map"},
        {"[]", "weight_map"},
        {"{\"weight_map\": {}}", "weight_map"},
        {"{\"weight_map\": []}", "weight_map"},
        {"{\"weight_map\": {\"a\": 1}}", "a: want the name of a file"},
        {"{\"weight_map\": {\"a\": \"\"}}", "a: want the name of a file"},
        {"{\"weight_map\": {\"a\": \"/etc/passwd\"}}", "a: want the name of a file"},
        {"{\"weight_map\": {\"a\": \"../x.safetensors\"}}", "a: want the name of a file"},
        {"{\"weight_map\": {\"a\": \"d/x.safetensors\"}}", "a: want the name of a file"},
        {"{\"weight_map\": {\"a\": \"..\"}}", "a: want the name of a file"},
        {"{\"weight_map\": {\"a\": \"x\", \"a\": \"y\"}}", "not valid JSON"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct st_ckpt_index x;
        struct st_err e = {0};
        expect_refusal(st_ckpt_index_parse(bad[i].text, strlen(bad[i].text), "index", &x, &e), &e, ST_INPUT,
                       bad[i].says);
    }
}

static void an_index_and_its_files_must_agree(void **state)
{
    (void)state;
    static const struct {
        const char *index, *says; /* NULL: they agree */
    } rows[] = {
        {"{\"weight_map\": {\"a\": \"f\", \"b\": \"f\"}}", NULL},
        {"{\"weight_map\": {\"a\": \"f\"}}", "b is in f, but not listed"},
        {"{\"weight_map\": {\"a\": \"f\", \"b\": \"g\"}}", "b is in f, but listed in another file"},
        {"{\"weight_map\": {\"a\": \"f\", \"b\": \"f\", \"c\": \"f\"}}", "3 tensors are listed in f, which holds 2"},
    };
    struct st_buf b = make_file(two, 20);
    struct st_tensors l = {0};
    struct st_err e = {0};
    assert_int_equal(parse(&b, &l, &e), 0);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct st_ckpt_index x;
        assert_int_equal(st_ckpt_index_parse(rows[i].index, strlen(rows[i].index), "index", &x, &e), 0);
        int rc = st_ckpt_index_check(&x, &l, 0, "f", "index", &e);
        if (rows[i].says)
            expect_refusal(rc, &e, ST_INPUT, rows[i].says);
        else
            assert_int_equal(rc, 0);
        st_ckpt_index_free(&x);
    }
    st_tensors_free(&l);
    st_buf_free(&b);
}

static void damaged_indices_are_refused_or_agree_with_their_files(void **state)
{
    (void)state;
    static const char text[] = "{\"metadata\": {\"total_size\": 20}, \"weight_map\": {\"a\": \"f\", \"b\": \"f\"}}";
    struct st_buf b = make_file(two, 20);
    struct st_tensors l = {0};
    struct st_err e = {0};
    struct st_rng rng;
    st_rng_seed(&rng, 2);
    assert_int_equal(parse(&b, &l, &e), 0);
    for (size_t i = 0; i < sizeof text - 1 + 10000; i++) {
        struct st_ckpt_index x;
        size_t len = i;
        uint8_t *m;
        if (i < sizeof text - 1) { /* first every truncation */
            m = malloc(len ? len : 1);
            memcpy(m, text, len);
        } else
            m = mutate(&rng, text, sizeof text - 1, 0, &len);
        int rc = st_ckpt_index_parse(m, len, "index", &x, &e);
        expect_class(rc);
        if (i < sizeof text - 1)
            assert_int_equal(rc, ST_INPUT);
        if (rc == 0) {
            for (size_t f = 0; f < x.n_file; f++)
                expect_class(st_ckpt_index_check(&x, &l, 0, x.files[f], "index", &e));
            st_ckpt_index_free(&x);
        }
        free(m);
    }
    st_tensors_free(&l);
    st_buf_free(&b);
}

static void shards_hold_the_same_tensors_as_one_file(void **state)
{
    (void)state;
    char one_dir[64], three_dir[64];
    struct st_ckpt *one, *three;
    struct st_err e = {0};
    tiny_mkdir(one_dir);
    tiny_mkdir(three_dir);
    tiny_write(&(struct tiny){.seed = 5}, one_dir);
    tiny_write(&(struct tiny){.seed = 5, .n_shard = 3}, three_dir);
    assert_int_equal(st_ckpt_open(one_dir, &one, &e), 0);
    assert_int_equal(st_ckpt_open(three_dir, &three, &e), 0);
    assert_int_equal(st_ckpt_count(one), st_ckpt_count(three));
    for (size_t i = 0; i < st_ckpt_count(one); i++) {
        const struct st_tensor *a = st_ckpt_at(one, i), *b = st_ckpt_find(three, a->name);
        assert_non_null(b);
        assert_int_equal(a->bytes, b->bytes);
        assert_memory_equal(a->data, b->data, a->bytes);
    }
    assert_null(st_ckpt_find(one, "no such tensor"));
    assert_null(st_ckpt_at(one, st_ckpt_count(one)));
    st_ckpt_close(one);
    st_ckpt_close(three);
    tiny_rmdir(one_dir);
    tiny_rmdir(three_dir);
}

static void a_missing_or_foreign_checkpoint_is_named(void **state)
{
    (void)state;
    char dir[64], path[ST_PATH_MAX];
    struct st_ckpt *c;
    struct st_err e = {0};
    tiny_mkdir(dir);
    expect_refusal(st_ckpt_open(dir, &c, &e), &e, ST_INPUT, "neither model.safetensors nor");
    assert_null(c);
    tiny_save(dir, "pytorch_model.bin", "PK", 2);
    expect_refusal(st_ckpt_open(dir, &c, &e), &e, ST_UNSUPPORTED, "supported: safetensors");
    static const char index[] = "{\"weight_map\": {\"a\": \"gone.safetensors\"}}";
    tiny_save(dir, "model.safetensors.index.json", index, sizeof index - 1);
    expect_refusal(st_ckpt_open(dir, &c, &e), &e, ST_IO, "gone.safetensors");
    tiny_save(dir, "model.safetensors", "", 0);
    expect_refusal(st_ckpt_open(dir, &c, &e), &e, ST_INPUT, "too few");
    assert_int_equal(st_path_join(path, sizeof path, dir, "absent", &e), 0);
    expect_refusal(st_ckpt_open(path, &c, &e), &e, ST_IO, "absent");
    tiny_rmdir(dir);
}

/* A llama2.c file of dim 8, hidden 12, 2 layers, 2 heads, 1 kv head, vocabulary 16, context 4. */
static struct st_buf make_llama2c(int32_t vocab)
{
    struct st_buf b = {0};
    int32_t header[7] = {8, 12, 2, 2, 1, vocab, 4};
    size_t n = 16 * 8 + 2 * (8 + 64 + 32 + 32 + 64 + 8 + 3 * 96) + 8 + 4 * 4 + (vocab < 0 ? 16 * 8 : 0);
    st_buf_add(&b, header, sizeof header);
    for (size_t i = 0; i < n; i++)
        st_buf_add(&b, &(float){(float)i}, sizeof(float));
    return b;
}

static void a_llama2c_file_has_its_arrays_in_run_c_order(void **state)
{
    (void)state;
    for (int tied = 0; tied < 2; tied++) {
        struct st_buf b = make_llama2c(tied ? 16 : -16);
        struct st_tensors l = {0};
        struct st_config c;
        struct st_err e = {0};
        assert_int_equal(st_llama2c_parse((const uint8_t *)b.p, b.len, "m.bin", &c, &l, &e), 0);
        assert_int_equal(c.tied_head, tied);
        assert_int_equal(c.n_vocab, 16);
        assert_int_equal(c.head_dim, 4);
        assert_int_equal(c.n_ctx, 4);
        assert_true(c.rope_interleaved);
        assert_int_equal(c.bos, 1);
        assert_int_equal(c.n_eos, 2);
        static const struct {
            const char *name;
            float first; /* index of its first value in the file */
            size_t n;
        } want[] = {
            {"model.embed_tokens.weight", 0, 128},
            {"model.layers.1.input_layernorm.weight", 136, 8},
            {"model.layers.0.self_attn.q_proj.weight", 144, 64},
            {"model.layers.1.self_attn.k_proj.weight", 304, 32},
            {"model.layers.0.self_attn.v_proj.weight", 336, 32},
            {"model.layers.1.self_attn.o_proj.weight", 464, 64},
            {"model.layers.0.post_attention_layernorm.weight", 528, 8},
            {"model.layers.1.mlp.gate_proj.weight", 640, 96},
            {"model.layers.0.mlp.down_proj.weight", 736, 96},
            {"model.layers.1.mlp.up_proj.weight", 1024, 96},
            {"model.norm.weight", 1120, 8},
            {"lm_head.weight", 1144, 128},
        };
        size_t n = sizeof want / sizeof want[0];
        st_tensors_sort(&l);
        for (size_t i = 0; i < n - (size_t)tied; i++) {
            const struct st_tensor *t = NULL;
            float first;
            for (size_t j = 0; j < l.n; j++)
                if (strcmp(l.at[j].name, want[i].name) == 0)
                    t = &l.at[j];
            if (!t)
                fail_msg("%s is missing", want[i].name);
            memcpy(&first, t->data, sizeof first);
            assert_true(first == want[i].first);
            assert_int_equal(t->bytes, want[i].n * sizeof(float));
        }
        assert_int_equal(l.n, 2 * 9 + 2 + !tied);
        st_tensors_free(&l);
        st_buf_free(&b);
    }
}

static void refuses_llama2c_headers_out_of_range(void **state)
{
    (void)state;
    static const struct {
        int field;
        int32_t value;
        int code;
        const char *says;
    } bad[] = {
        {0, 0, ST_INPUT, "dim: want"},
        {0, INT32_MAX, ST_INPUT, "dim: want"},
        {0, 0x616b3432, ST_UNSUPPORTED, "version 1"},
        {0, 0x46554747, ST_UNSUPPORTED, "GGUF"},
        {0, 9, ST_INPUT, "not a multiple of n_heads"},
        {1, -1, ST_INPUT, "hidden_dim: want"},
        {2, 5000, ST_INPUT, "n_layers: want"},
        {3, 8, ST_INPUT, "head_dim"},
        {4, 3, ST_INPUT, "not a multiple of num_key_value_heads"},
        {5, INT32_MIN, ST_INPUT, "vocab_size: want"},
        {5, 17, ST_INPUT, "with this header has"},
        {6, 0, ST_INPUT, "seq_len: want"},
        {6, 5, ST_INPUT, "with this header has"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct st_buf b = make_llama2c(16);
        struct st_tensors l = {0};
        struct st_config c;
        struct st_err e = {0};
        memcpy(b.p + 4 * bad[i].field, &bad[i].value, 4);
        expect_refusal(st_llama2c_parse((const uint8_t *)b.p, b.len, "m.bin", &c, &l, &e), &e, bad[i].code,
                       bad[i].says);
        st_tensors_free(&l);
        st_buf_free(&b);
    }
}

static void damaged_llama2c_files_are_refused_or_read_within_bounds(void **state)
{
    (void)state;
    struct st_buf b = make_llama2c(-16);
    struct st_rng rng;
    struct st_config c;
    struct st_err e = {0};
    st_rng_seed(&rng, 3);
    for (size_t n = 0; n < b.len; n++) {
        struct st_tensors l = {0};
        assert_int_equal(st_llama2c_parse((const uint8_t *)b.p, n, "m.bin", &c, &l, &e), ST_INPUT);
        st_tensors_free(&l);
    }
    for (int i = 0; i < 10000; i++) {
        size_t len;
        uint8_t *m = mutate(&rng, b.p, b.len, 28, &len);
        struct st_tensors l = {0};
        int rc = st_llama2c_parse(m, len, "m.bin", &c, &l, &e);
        expect_class(rc);
        if (rc == 0)
            read_all(&l);
        st_tensors_free(&l);
        free(m);
    }
    st_buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_names_dtypes_shapes_and_places),
        cmocka_unit_test(accepts_empty_tensors_and_files_without_tensors),
        cmocka_unit_test(refuses_a_malformed_header_by_name),
        cmocka_unit_test(refuses_a_header_longer_than_the_file_or_than_100_mb),
        cmocka_unit_test(every_truncation_of_a_safetensors_file_is_refused),
        cmocka_unit_test(mutated_safetensors_files_are_refused_or_read_within_bounds),
        cmocka_unit_test(refuses_an_index_that_reaches_outside_its_directory),
        cmocka_unit_test(an_index_and_its_files_must_agree),
        cmocka_unit_test(damaged_indices_are_refused_or_agree_with_their_files),
        cmocka_unit_test(shards_hold_the_same_tensors_as_one_file),
        cmocka_unit_test(a_missing_or_foreign_checkpoint_is_named),
        cmocka_unit_test(a_llama2c_file_has_its_arrays_in_run_c_order),
        cmocka_unit_test(refuses_llama2c_headers_out_of_range),
        cmocka_unit_test(damaged_llama2c_files_are_refused_or_read_within_bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
