/* Covariant obfuscation, end to end through files: a source checkpoint is written, compiled, read back by the engine,
 * and must say the same thing token by token once its ids are deciphered. */
#include "base/file.h"
#include "base/hooks.h"
#include "engine/engine.h"
#include "model/checkpoint.h"
#include "protect/covariant/covariant.h"
#include "protect/covariant/frame.h"
#include "protect/covariant/layer_keys.h"
#include "protect/covariant/out.h"
#include "text/json.h"

#include <dirent.h>
#include <lapacke.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char work[64]; /* a fresh directory per test */

static int make_work(void **state)
{
    (void)state;
    strcpy(work, "/tmp/sotto-cov-XXXXXX");
    return mkdtemp(work) ? 0 : -1;
}

static int drop_work(void **state)
{
    char cmd[96];
    (void)state;
    snprintf(cmd, sizeof cmd, "rm -rf '%s'", work);
    return system(cmd);
}

static const char *in_work(const char *name)
{
    static char path[4][256];
    static int turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], "%s/%s", work, name);
    return path[turn];
}

static int count_entries(const char *dir)
{
    int n = 0;
    DIR *d = opendir(dir);
    assert_non_null(d);
    for (struct dirent *x; (x = readdir(d));)
        n += x->d_name[0] != '.';
    closedir(d);
    return n;
}

static void assert_ok(int rc, const struct st_err *e)
{
    if (rc)
        fail_msg("error %d: %s", rc, e->msg);
}

static struct st_cov_key key_of(uint8_t fill)
{
    struct st_err e;
    struct st_cov_key k = {.id = {fill}};
    assert_ok(st_secret_init(&k.seed, 32, &e), &e);
    memset(k.seed.p, fill, 32);
    return k;
}

/* ---- a small source checkpoint ---- */

struct tiny {
    const char *label;
    uint32_t d, layers, heads, kv, dh, ff, vocab;
    bool tied, bias;
    enum st_dtype dtype;
    const char *arch, *type, *extra; /* extra: more fields of config.json */
    const char *drop;                /* a tensor that is left out */
    const char *bend;                /* a tensor that is one row short */
    const char *poison;              /* a tensor with a NaN */
};

static const struct tiny plain_tiny = {
    .label = "tiny", .d = 32, .layers = 2, .heads = 4, .kv = 2, .dh = 8, .ff = 48, .vocab = 97};

struct writer {
    struct st_cov_out_tensor t[64], *list[64];
    int n;
};

static void add(struct writer *w, const struct tiny *m, const char *name, uint32_t n_out, uint32_t n_in)
{
    struct st_cov_out_tensor *t = &w->t[w->n];
    if (m->drop && strcmp(name, m->drop) == 0)
        return;
    if (m->bend && strcmp(name, m->bend) == 0)
        n_out--;
    *t = (struct st_cov_out_tensor){.dtype = m->dtype, .n_dim = n_in ? 2 : 1, .dim = {n_out, n_in}};
    snprintf(t->name, sizeof t->name, "%s", name);
    w->list[w->n] = t;
    w->n++;
}

static void add_layer(struct writer *w, const struct tiny *m, unsigned layer)
{
    const struct {
        const char *part;
        uint32_t n_out, n_in;
        bool bias;
    } parts[] = {{"self_attn.q_proj", m->heads * m->dh, m->d, true},
                 {"self_attn.k_proj", m->kv * m->dh, m->d, true},
                 {"self_attn.v_proj", m->kv * m->dh, m->d, true},
                 {"self_attn.o_proj", m->d, m->heads * m->dh, true},
                 {"mlp.gate_proj", m->ff, m->d, true},
                 {"mlp.up_proj", m->ff, m->d, true},
                 {"mlp.down_proj", m->d, m->ff, true},
                 {"input_layernorm", m->d, 0, false},
                 {"post_attention_layernorm", m->d, 0, false}};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        char name[120];
        snprintf(name, sizeof name, "model.layers.%u.%s.weight", layer, parts[i].part);
        add(w, m, name, parts[i].n_out, parts[i].n_in);
        snprintf(name, sizeof name, "model.layers.%u.%s.bias", layer, parts[i].part);
        if (m->bias && parts[i].bias)
            add(w, m, name, parts[i].n_out, 0);
    }
}

static void fill(const struct st_cov_out *o, const struct st_cov_out_tensor *t, const struct tiny *m,
                 struct st_rng *rng)
{
    struct st_err e;
    bool norm = strstr(t->name, "norm") != NULL;
    double scale = strstr(t->name, "embed") || strstr(t->name, "lm_head") ? 1 : 2 / sqrt(t->n_dim == 2 ? t->dim[1] : 8);
    size_t n = (size_t)t->bytes / st_dtype_size(t->dtype);
    float *f = malloc(n * sizeof *f);
    void *raw = malloc(t->bytes);
    assert_true(f && raw);
    for (size_t i = 0; i < n; i++)
        f[i] = (float)(scale * (2 * st_rng_unit(rng) - 1) + norm);
    if (m->poison && strcmp(t->name, m->poison) == 0)
        f[n / 2] = NAN;
    st_convert(ST_DTYPE_F32, f, t->dtype, raw, n);
    assert_ok(st_cov_out_write(o, t, 0, raw, t->bytes, &e), &e);
    free(f);
    free(raw);
}

static const char *write_tiny(const struct tiny *m)
{
    static struct writer w;
    static char path[256];
    struct st_cov_out o;
    struct st_err e;
    struct st_rng rng;
    char config[1024];
    snprintf(path, sizeof path, "%s/%s", work, m->label);
    w.n = 0;
    add(&w, m, "model.embed_tokens.weight", m->vocab, m->d);
    for (unsigned i = 0; i < m->layers; i++)
        add_layer(&w, m, i);
    add(&w, m, "model.norm.weight", m->d, 0);
    if (!m->tied)
        add(&w, m, "lm_head.weight", m->vocab, m->d);
    snprintf(config, sizeof config,
             "{\"architectures\": [\"%s\"], \"model_type\": \"%s\", \"hidden_size\": %u, \"intermediate_size\": %u, "
             "\"num_hidden_layers\": %u, \"num_attention_heads\": %u, \"num_key_value_heads\": %u, \"head_dim\": %u, "
             "\"vocab_size\": %u, \"max_position_embeddings\": 300, \"rms_norm_eps\": 0.01, \"rope_theta\": 10000.0, "
             "\"tie_word_embeddings\": %s, \"attention_bias\": %s, \"mlp_bias\": %s, \"bos_token_id\": 1, "
             "\"eos_token_id\": [2, 5], \"pad_token_id\": 0%s, \"hidden_act\": \"silu\"}",
             m->arch ? m->arch : "LlamaForCausalLM", m->type ? m->type : "llama", m->d, m->ff, m->layers, m->heads,
             m->kv, m->dh, m->vocab, m->tied ? "true" : "false", m->bias ? "true" : "false", m->bias ? "true" : "false",
             m->extra ? m->extra : "");
    assert_ok(st_cov_out_open(&o, path, &e), &e);
    assert_ok(st_cov_out_plan(&o, w.list, w.n, UINT64_MAX, &e), &e);
    assert_ok(st_cov_out_file(&o, "config.json", config, strlen(config), &e), &e);
    st_rng_seed(&rng, 7);
    for (int i = 0; i < w.n; i++)
        fill(&o, &w.t[i], m, &rng);
    assert_ok(st_cov_out_publish(&o, &e), &e);
    st_cov_out_close(&o);
    return path;
}

/* ---- running a model ---- */

struct reply {
    uint32_t ids[512];
    size_t n;
};

static bool on_token(void *arg, const struct st_sampled *tok)
{
    struct reply *r = arg;
    r->ids[r->n++] = tok->id;
    return true;
}

static void on_end(void *arg, enum st_finish finish, int64_t stop_id, const struct st_err *e)
{
    (void)arg;
    (void)finish;
    (void)stop_id;
    assert_null(e);
}

/* Greedy ids after the prompt; through the cipher when there is one. */
static void generate(const char *path, const struct st_cov_cipher *cipher, const uint32_t *prompt, size_t n_prompt,
                     uint32_t n_predict, struct reply *out)
{
    struct st_err e;
    struct st_model *m;
    struct st_engine *en;
    struct st_request *r;
    uint32_t ids[64];
    assert_ok(st_model_open(path, &(struct st_model_opts){.n_threads = 1}, &m, &e), &e);
    struct st_engine_opts eo = {.n_threads = 1, .kv_dtype = ST_DTYPE_F32, .max_batch = 1};
    assert_ok(st_engine_new(m, &eo, &en, &e), &e);
    for (size_t i = 0; i < n_prompt; i++)
        ids[i] = cipher ? cipher->to[prompt[i]] : prompt[i];
    out->n = 0;
    struct st_request_opts o = {.ids = ids,
                                .n_ids = n_prompt,
                                .n_predict = n_predict,
                                .sampling = {.top_p = 1, .repetition_penalty = 1, .n_logprobs = -1},
                                .ignore_eos = true,
                                .on_token = on_token,
                                .on_end = on_end,
                                .arg = out};
    assert_ok(st_engine_submit(en, &o, &r, &e), &e);
    while (st_engine_step(en))
        ;
    for (size_t i = 0; cipher && i < out->n; i++)
        out->ids[i] = cipher->from[out->ids[i]];
    st_engine_free(en);
    st_model_close(m);
}

static void obfuscate(const char *src, const char *dst, const struct st_cov_key *key, int n_threads)
{
    struct st_err e;
    struct st_cov_opts o = {.n_threads = n_threads};
    assert_ok(st_cov_obfuscate(src, dst, key, &o, &e), &e);
}

/* ---- keys ---- */

static void a_key_file_is_private_and_never_overwritten(void **state)
{
    (void)state;
    struct st_err e;
    struct stat sb;
    struct st_cov_key a, b;
    const char *path = in_work("a.key");
    assert_ok(st_cov_key_create(path, &e), &e);
    assert_int_equal(stat(path, &sb), 0);
    assert_int_equal(sb.st_mode & 07777, 0600);
    assert_int_equal(sb.st_size, ST_COV_KEY_FILE_LEN);
    assert_int_equal(st_cov_key_create(path, &e), ST_IO);
    assert_ok(st_cov_key_load(path, &a, &e), &e);
    assert_true(llabs((long long)(a.created - st_unix_time())) < 60);
    const char *other = in_work("b.key");
    assert_ok(st_cov_key_create(other, &e), &e);
    assert_ok(st_cov_key_load(other, &b, &e), &e);
    assert_memory_not_equal(a.seed.p, b.seed.p, 32);
    assert_memory_not_equal(a.id, b.id, 16);
    st_cov_key_wipe(&a);
    st_cov_key_wipe(&b);
    static const unsigned open_modes[] = {0640, 0604, 0620, 0610, 0666};
    for (size_t i = 0; i < sizeof open_modes / sizeof *open_modes; i++) {
        assert_int_equal(chmod(path, open_modes[i]), 0);
        assert_int_equal(st_cov_key_load(path, &a, &e), ST_POLICY);
    }
    assert_int_equal(st_cov_key_load(work, &a, &e), ST_IO);
    assert_int_equal(st_cov_key_load(in_work("absent"), &a, &e), ST_IO);
}

static void a_truncated_or_changed_key_file_is_refused(void **state)
{
    (void)state;
    struct st_err e;
    struct st_cov_key k;
    struct st_buf file = {0};
    const char *path = in_work("a.key");
    assert_ok(st_cov_key_create(path, &e), &e);
    assert_ok(st_file_read(path, 4096, &file, &e), &e);
    uint8_t *p = (uint8_t *)file.p;
    for (size_t len = 0; len < file.len; len++)
        assert_int_equal(st_cov_key_parse(p, len, "key", &k, &e), ST_INPUT);
    for (size_t i = 0; i < file.len; i++)
        for (int bit = 0; bit < 8; bit++) {
            p[i] ^= (uint8_t)(1 << bit);
            int rc = st_cov_key_parse(p, file.len, "key", &k, &e);
            assert_int_equal(rc, i >= 8 && i < 12 ? ST_UNSUPPORTED : ST_INPUT);
            p[i] ^= (uint8_t)(1 << bit);
        }
    assert_ok(st_cov_key_parse(p, file.len, "key", &k, &e), &e);
    st_cov_key_wipe(&k);
    st_buf_add(&file, "", 1);
    assert_int_equal(st_cov_key_parse((uint8_t *)file.p, file.len, "key", &k, &e), ST_INPUT);
    st_buf_wipe(&file);
}

/* ---- algebra ---- */

static struct st_stream *stream(const char *label)
{
    struct st_err e;
    struct st_stream *s;
    assert_ok(st_stream_new((const uint8_t *)"seed", 4, NULL, 0, label, &s, &e), &e);
    return s;
}

static void the_frame_keeps_norms_and_its_readers_undo_it(void **state)
{
    (void)state;
    enum { D = 40, H = 12, WIDE = D + 2 * H, N = 9 };
    static double x[N][WIDE], w[N][WIDE], xp[N][WIDE], wq[N][WIDE], xp_t[WIDE][N];
    struct st_err e;
    struct st_cov_frame f;
    struct st_stream *s = stream("frame");
    double *r;
    assert_ok(st_cov_frame_init(&f, D, H, s, &e), &e);
    assert_ok(st_cov_frame_expand(&f, s, &r, &e), &e);
    for (int i = 0; i < N; i++)
        for (int j = 0; j < D; j++) {
            x[i][j] = st_stream_normal(s);
            w[i][j] = st_stream_normal(s);
        }
    st_cov_frame_rows(&f, false, x[0], N, xp[0]);
    st_cov_frame_columns(&f, x[0], N, xp_t[0]);
    st_cov_frame_extend(&f, r, w[0], N);
    st_cov_frame_rows(&f, true, w[0], N, wq[0]);
    for (int i = 0; i < N; i++) {
        double plain = 0, wide = 0;
        for (int j = 0; j < WIDE; j++) {
            plain += x[i][j] * x[i][j]; /* x is zero beyond D */
            wide += xp[i][j] * xp[i][j];
            assert_true(fabs(xp[i][j] - xp_t[j][i]) < 1e-13);
        }
        assert_true(fabs(plain - wide) < 1e-12 * plain);
        for (int k = 0; k < N; k++) {
            double want = 0, got = 0;
            for (int j = 0; j < D; j++)
                want += x[i][j] * w[k][j];
            for (int j = 0; j < WIDE; j++)
                got += xp[i][j] * wq[k][j];
            assert_true(fabs(want - got) < 1e-12 * D);
        }
    }
    st_cov_doubles_free(r, (size_t)2 * H * D);
    st_cov_frame_wipe(&f);
    st_stream_free(s);
}

static void value_keys_are_inverse_and_well_conditioned(void **state)
{
    (void)state;
    enum { DH = 32, KV = 3 };
    struct st_err e;
    struct st_cov_layer_keys k;
    struct st_config c = {.n_head = 6, .n_kv_head = KV, .head_dim = DH, .d_ff = 50};
    struct st_cov_key key = key_of(3);
    uint8_t digest[32] = {0};
    assert_ok(st_cov_layer_keys_init(&k, &c, 1, &key, digest, &e), &e);
    for (int h = 0; h < KV; h++) {
        const double *v = k.v_mix + h * DH * DH, *o = k.o_mix + h * DH * DH;
        for (int i = 0; i < DH; i++)
            for (int j = 0; j < DH; j++) { /* v = U^T, o = U^-1 */
                double sum = 0;
                for (int m = 0; m < DH; m++)
                    sum += v[m * DH + i] * o[m * DH + j];
                assert_true(fabs(sum - (i == j)) < 1e-12);
            }
        double copy[DH * DH], sv[DH], unused[1];
        memcpy(copy, v, sizeof copy);
        assert_int_equal(LAPACKE_dgesdd(LAPACK_ROW_MAJOR, 'N', DH, DH, copy, DH, sv, unused, DH, unused, DH), 0);
        assert_true(sv[0] / sv[DH - 1] < 4.0001 && sv[0] / sv[DH - 1] > 1.5);
    }
    for (uint32_t i = 0; i < c.d_ff; i++) {
        assert_true(fabs(k.up_scale[i] * k.down_scale[i] - 1) < 1e-15);
        assert_true(fabs(k.up_scale[i]) >= 0.5 && fabs(k.up_scale[i]) <= 2);
    }
    st_cov_layer_keys_wipe(&k);
    st_cov_key_wipe(&key);
}

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
    assert_int_equal(count_entries(in_work("a")), 4);
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
    assert_int_equal(c.eos[0], cipher.to[2]);
    assert_int_equal(c.eos[1], cipher.to[5]);
    assert_false(c.tied_head);
    assert_int_equal(c.d_model, 32 + 2 * st_cov_expand(32, 4));
    assert_true(fabs((double)c.norm_eps - 0.01 * 32 / c.d_model) < 1e-9);
    st_cov_cipher_wipe(&cipher);
    json_t *v;
    read_all(dst, "sotto.json", &b);
    assert_ok(st_json_parse(b.p, b.len, "sotto.json", &v, &e), &e);
    assert_int_equal(json_object_size(v), 6);
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
        TEST(a_key_file_is_private_and_never_overwritten),
        TEST(a_truncated_or_changed_key_file_is_refused),
        TEST(the_frame_keeps_norms_and_its_readers_undo_it),
        TEST(value_keys_are_inverse_and_well_conditioned),
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
