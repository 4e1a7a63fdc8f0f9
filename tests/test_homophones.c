/* Homophones: the grown cipher, the sealed list, and a checkpoint whose head never says them. */
#include "cov_make.h"
#include "model/digest.h"
#include "model/tokenizer.h"
#include "protect/covariant/homophones.h"
#include "protect/covariant/manifest.h"
#include "text/json.h"

#include "model/convert.h"

#define DEMO "models/demo"

static struct st_cov_key key, other;
static const uint8_t digest[32] = {7};

static int open_all(void **state)
{
    key = key_of(1);
    other = key_of(2);
    return make_work(state);
}

static int close_all(void **state)
{
    st_cov_key_wipe(&key);
    st_cov_key_wipe(&other);
    return drop_work(state);
}

static void every_id_of_the_grown_vocabulary_is_one_tokens(void **state)
{
    (void)state;
    enum { N = 1000, COPIES = 7 };
    uint32_t ids[] = {0, 5, 17, 999};
    const struct st_cov_frequent f = {ids, 4};
    struct st_cov_cipher c;
    struct st_err e;
    bool seen[N + 4 * COPIES] = {false};
    assert_ok(st_cov_cipher_init(N, &f, COPIES, digest, &key, &c, &e), &e);
    assert_int_equal(st_cov_cipher_size(&c), N + 4 * COPIES);
    uint32_t n_head = 0;
    for (uint32_t i = 0; i < N; i++) {
        assert_int_equal(c.from[c.to[i]], i);
        assert_int_equal(c.head[c.to[i]], i);
        assert_false(seen[c.to[i]]);
        seen[c.to[i]] = true;
    }
    for (uint32_t k = 0; k < 4; k++)
        for (uint32_t j = 0; j < COPIES; j++) {
            uint32_t id = c.copies[k * COPIES + j];
            assert_int_equal(c.from[id], ids[k]);
            assert_int_equal(c.head[id], N);
            assert_false(seen[id]);
            seen[id] = true;
        }
    for (uint32_t i = 0; i < st_cov_cipher_size(&c); i++)
        n_head += c.head[i] < N;
    assert_int_equal(n_head, N);
    st_cov_cipher_wipe(&c);
    /* Too many for what an id can be. */
    assert_int_equal(st_cov_cipher_init(1u << 22, &f, 1, digest, &key, &c, &e), ST_USAGE);
}

static void a_token_is_sent_as_each_of_its_ids_as_often(void **state)
{
    struct st_err e;
    (void)state;
    enum { N = 50, COPIES = 3, DRAWS = 40000 };
    uint32_t ids[] = {9};
    const struct st_cov_frequent f = {ids, 1};
    struct st_cov_cipher c;
    struct st_stream *s;
    uint32_t count[N + COPIES] = {0};
    assert_ok(st_cov_cipher_init(N, &f, COPIES, digest, &key, &c, &e), &e);
    assert_ok(st_stream_new((const uint8_t *)"seed", 4, NULL, 0, "test", &s, &e), &e);
    for (int i = 0; i < DRAWS; i++)
        count[st_cov_cipher_any(&c, 9, s)]++;
    int n = 0;
    for (uint32_t i = 0; i < N + COPIES; i++)
        if (count[i]) {
            assert_int_equal(c.from[i], 9);
            assert_true(fabs(count[i] - DRAWS / 4.0) < 6 * sqrt(DRAWS / 4.0));
            n++;
        }
    assert_int_equal(n, COPIES + 1);
    /* Other tokens have one id. */
    for (int i = 0; i < 100; i++)
        assert_int_equal(st_cov_cipher_any(&c, 10, s), c.to[10]);
    st_stream_free(s);
    st_cov_cipher_wipe(&c);
}

static void the_list_is_read_back_with_its_key_only(void **state)
{
    (void)state;
    uint32_t ids[] = {3, 77, 1500, 1501};
    const struct st_cov_frequent f = {ids, 4};
    struct st_cov_frequent got;
    char text[ST_COV_FREQUENT_TEXT], again[ST_COV_FREQUENT_TEXT];
    uint8_t another[32] = {8};
    struct st_err e;
    assert_ok(st_cov_frequent_seal(&f, digest, &key, text, &e), &e);
    assert_ok(st_cov_frequent_seal(&f, digest, &key, again, &e), &e);
    assert_string_equal(text, again);
    assert_int_equal(strlen(text), 2 * (32 + 16));
    assert_ok(st_cov_frequent_open(text, 2048, digest, &key, &got, &e), &e);
    assert_int_equal(got.n, 4);
    assert_memory_equal(got.ids, ids, sizeof ids);
    st_cov_frequent_wipe(&got);
    assert_int_equal(st_cov_frequent_open(text, 2048, digest, &other, &got, &e), ST_VERIFY);
    assert_int_equal(st_cov_frequent_open(text, 2048, another, &key, &got, &e), ST_VERIFY);
    assert_int_equal(st_cov_frequent_open(text, 1000, digest, &key, &got, &e), ST_VERIFY);
    /* Every digit matters; every cut shows. */
    for (size_t i = 0; text[i]; i++) {
        char was = text[i];
        text[i] = was == '0' ? '1' : '0';
        assert_int_equal(st_cov_frequent_open(text, 2048, digest, &key, &got, &e), ST_VERIFY);
        text[i] = 0;
        assert_int_not_equal(st_cov_frequent_open(text, 2048, digest, &key, &got, &e), 0);
        text[i] = was;
    }
    text[5] = 'x';
    assert_int_equal(st_cov_frequent_open(text, 2048, digest, &key, &got, &e), ST_INPUT);
    assert_null(got.ids);
    /* Lists that differ in one place share no digits but by chance. */
    ids[3]++;
    assert_ok(st_cov_frequent_seal(&f, digest, &key, text, &e), &e);
    size_t same = 0;
    for (size_t i = 64; text[i]; i++)
        same += text[i] == again[i];
    assert_true(same < 16);
}

static void homophones_without_noise_are_refused(void **state)
{
    (void)state;
    struct st_cov_opts o;
    struct st_err e;
    st_cov_opts_init(&o, ST_COV_PRESET_TIGHT);
    o.homophones = 3;
    assert_int_equal(st_cov_obfuscate(DEMO, in_work("none"), &key, &o, &e), ST_USAGE);
    assert_non_null(strstr(e.msg, "alpha-e"));
    o.alpha_e = 0.1;
    o.homophones = 1u << 20;
    assert_int_equal(st_cov_obfuscate(DEMO, in_work("none"), &key, &o, &e), ST_USAGE);
}

/* ---- a checkpoint ---- */

/* The demo model has no direction that all its final states share. This copy of it has: a constant vector in every row
 * of the embedding stays in the residual stream to the end. (Its replies are noise.) */
static const char *write_leaning(void)
{
    char cmd[512], path[320];
    uint8_t size[8];
    struct st_err e;
    json_t *v;
    snprintf(cmd, sizeof cmd, "mkdir %s && cp " DEMO "/*.json " DEMO "/*.safetensors %s", in_work("leaning"),
             in_work("leaning"));
    assert_int_equal(system(cmd), 0);
    snprintf(path, sizeof path, "%s/model.safetensors", in_work("leaning"));
    FILE *f = fopen(path, "r+");
    assert_non_null(f);
    assert_int_equal(fread(size, 1, 8, f), 8);
    size_t len = size[0] | (size_t)size[1] << 8 | (size_t)size[2] << 16;
    char *text = malloc(len);
    assert_int_equal(fread(text, 1, len, f), len);
    assert_ok(st_json_parse(text, len, path, &v, &e), &e);
    const json_t *t = json_object_get(v, "model.embed_tokens.weight");
    assert_string_equal(json_string_value(json_object_get(t, "dtype")), "BF16");
    size_t n = (size_t)json_integer_value(json_array_get(json_object_get(t, "shape"), 0));
    size_t d = (size_t)json_integer_value(json_array_get(json_object_get(t, "shape"), 1));
    long at = (long)(8 + len + (size_t)json_integer_value(json_array_get(json_object_get(t, "data_offsets"), 0)));
    uint16_t *rows = malloc(n * d * sizeof *rows);
    float *x = malloc(n * d * sizeof *x);
    double sum = 0;
    fseek(f, at, SEEK_SET);
    assert_int_equal(fread(rows, sizeof *rows, n * d, f), n * d);
    st_convert(ST_DTYPE_BF16, rows, ST_DTYPE_F32, x, n * d);
    for (size_t i = 0; i < n * d; i++)
        sum += (double)x[i] * (double)x[i];
    float lean = 12 * (float)sqrt(sum / (double)(n * d));
    for (size_t i = 0; i < n * d; i++)
        x[i] += i % d % 3 ? lean : -lean;
    st_convert(ST_DTYPE_F32, x, ST_DTYPE_BF16, rows, n * d);
    fseek(f, at, SEEK_SET);
    assert_int_equal(fwrite(rows, sizeof *rows, n * d, f), n * d);
    fclose(f);
    free(rows);
    free(x);
    free(text);
    json_decref(v);
    return in_work("leaning");
}

static void models_without_a_common_direction_are_refused(void **state)
{
    (void)state;
    struct st_cov_opts o;
    struct st_err e;
    st_cov_opts_init(&o, ST_COV_PRESET_TIGHT);
    o.homophones = 7;
    o.alpha_e = 0.02;
    assert_int_equal(st_cov_obfuscate(DEMO, in_work("none"), &key, &o, &e), ST_UNSUPPORTED);
    assert_non_null(strstr(e.msg, "no direction in common"));
}

static struct st_cov_cipher cipher; /* of the checkpoint DIR/grown */

static void open_cipher(const char *src, const char *path)
{
    struct st_err e;
    struct st_cov_manifest m;
    struct st_cov_frequent f;
    uint8_t own[32];
    assert_ok(st_cov_read_manifest(path, &m, &e), &e);
    assert_ok(st_model_digest(src, false, own, &e), &e);
    assert_ok(st_cov_frequent_open(m.frequent, 2048, own, &key, &f, &e), &e);
    assert_ok(st_cov_cipher_init(2048, &f, m.made.homophones, own, &key, &cipher, &e), &e);
    st_cov_frequent_wipe(&f);
}

struct seen {
    double least_gap; /* of the largest logit over those of homophones */
    size_t n;
};

static void on_logits(void *arg, size_t pos, const float *row)
{
    struct seen *s = arg;
    double best = -INFINITY, copy = -INFINITY;
    (void)pos;
    for (uint32_t i = 0; i < st_cov_cipher_size(&cipher); i++)
        if (cipher.head[i] == cipher.n_vocab)
            copy = fmax(copy, (double)row[i]);
        else
            best = fmax(best, (double)row[i]);
    s->least_gap = fmin(s->least_gap, best - copy);
    s->n++;
}

static void run(const char *model, const struct st_ids *ids, void *arg)
{
    struct st_err e;
    struct st_model *m;
    struct st_engine *en;
    struct st_request *r;
    struct st_request_opts o = {.ids = ids->p,
                                .n_ids = ids->len,
                                .n_predict = 1,
                                .sampling = {.top_p = 1, .repetition_penalty = 1, .n_logprobs = -1},
                                .ignore_eos = true,
                                .on_prompt_logits = on_logits,
                                .arg = arg};
    assert_ok(st_model_open(model, &(struct st_model_opts){.n_threads = 1}, &m, &e), &e);
    assert_ok(st_engine_new(m, &(struct st_engine_opts){.n_threads = 1}, &en, &e), &e);
    assert_ok(st_engine_submit(en, &o, &r, &e), &e);
    while (st_engine_step(en) > 0)
        ;
    st_engine_free(en);
    st_model_close(m);
}

static void encode(const char *text, struct st_ids *ids)
{
    struct st_err e;
    struct st_tokenizer *t;
    assert_ok(st_tokenizer_open(DEMO, &t, &e), &e);
    assert_ok(st_tokenizer_encode(t, text, strlen(text), &(struct st_encode_opts){.add_special = true}, ids, &e), &e);
    st_tokenizer_free(t);
}

static const char story[] =
    "Once upon a time, there was a little girl named Lily. She liked to play in the park with her friends. One day, "
    "she "
    "saw a big dog. The dog was sad. \"Why are you sad?\" she asked. \"I lost my ball,\" said the dog. They looked for "
    "the ball all day, and at the end of the day they found it under a tree. The dog was happy, and Lily was happy "
    "too.";

static void the_head_never_says_a_homophone(void **state)
{
    struct st_err e;
    (void)state;
    struct st_cov_opts o;
    double error;
    struct st_ids ids = {0}, sent = {0};
    struct st_stream *s;
    struct seen seen = {.least_gap = INFINITY};
    st_cov_opts_init(&o, ST_COV_PRESET_TIGHT);
    o.alpha_e = 0.02;
    o.homophones = 7;
    o.dtype = ST_COV_STORE_F32;
    char src[256];
    snprintf(src, sizeof src, "%s", write_leaning());
    assert_ok(st_cov_obfuscate(src, in_work("grown"), &key, &o, &e), &e);
    assert_ok(st_cov_verify(src, in_work("grown"), &key, &o, &error, &e), &e);
    open_cipher(src, in_work("grown"));
    assert_true(cipher.n_frequent > 100);
    encode(story, &ids);
    assert_ok(st_stream_new((const uint8_t *)"seed", 4, NULL, 0, "test", &s, &e), &e);
    for (size_t i = 0; i < ids.len; i++)
        st_ids_add(&sent, st_cov_cipher_any(&cipher, ids.p[i], s));
    run(in_work("grown"), &sent, &seen);
    assert_int_equal(seen.n, ids.len);
    /* Thirty at each position of the calibration text; this is another one. */
    if (!(seen.least_gap > 20))
        fail_msg("a homophone comes within %.3g of the best token", seen.least_gap);
    st_stream_free(s);
    st_ids_free(&ids);
    st_ids_free(&sent);
}

/* Share of the most frequent id of what leaves. */
static double top_share(const struct st_ids *ids, bool homophones)
{
    struct st_err e;
    static uint32_t count[1 << 16];
    struct st_stream *s;
    uint32_t top = 0;
    const int rounds = 200;
    memset(count, 0, sizeof count);
    assert_ok(st_stream_new((const uint8_t *)"seed", 4, NULL, 0, "test", &s, &e), &e);
    for (int r = 0; r < rounds; r++)
        for (size_t i = 0; i < ids->len; i++) {
            uint32_t id = homophones ? st_cov_cipher_any(&cipher, ids->p[i], s) : cipher.to[ids->p[i]];
            top = ++count[id] > top ? count[id] : top;
        }
    st_stream_free(s);
    return (double)top / ((double)ids->len * rounds);
}

static void counting_ids_shows_less(void **state)
{
    (void)state;
    struct st_ids ids = {0};
    encode(story, &ids);
    double plain = top_share(&ids, false), flat = top_share(&ids, true);
    /* What is common in the calibration text has homophones; the next token that has none shows now. */
    if (!(flat < plain * 2 / 3))
        fail_msg("the commonest id has %.3g of the text, %.3g without homophones", flat, plain);
    st_ids_free(&ids);
    st_cov_cipher_wipe(&cipher);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_id_of_the_grown_vocabulary_is_one_tokens),
        cmocka_unit_test(a_token_is_sent_as_each_of_its_ids_as_often),
        cmocka_unit_test(the_list_is_read_back_with_its_key_only),
        cmocka_unit_test(homophones_without_noise_are_refused),
        cmocka_unit_test(models_without_a_common_direction_are_refused),
        cmocka_unit_test(the_head_never_says_a_homophone),
        cmocka_unit_test(counting_ids_shows_less),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
