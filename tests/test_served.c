/* What a worker serves and what a trusted side keeps: norms folded into matrices, the transposed embedding, the digest
 * that names a model, and kits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "crypto/digest.h"
#include "harness.h"
#include "model/hints.h"
#include "model/kit.h"
#include "model/served.h"
#include "mutate.h"
#include "service/prepare.h"

#include <math.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

#define MOE "\"moe_intermediate_size\": 48, \"norm_topk_prob\": true, "
#define LATENT                                                                                                         \
    "\"kv_lora_rank\": 24, \"qk_nope_head_dim\": 16, \"qk_rope_head_dim\": 8, \"v_head_dim\": 12, "                    \
    "\"q_lora_rank\": 20, \"moe_intermediate_size\": 40, \"n_routed_experts\": 4, \"num_experts_per_tok\": 2, "        \
    "\"first_k_dense_replace\": 1, \"n_shared_experts\": 1"

static const struct tiny archs[] = {
    {.seed = 1},
    {.seed = 2, .tied = true, .dtype = ST_DTYPE_BF16},
    {.seed = 3, .extra = "\"attention_bias\": true, \"mlp_bias\": true", .header_pad = 1},
    {.seed = 4, .arch = "MistralForCausalLM", .head_dim = 32, .dtype = ST_DTYPE_F16},
    {.seed = 5, .arch = "Qwen2ForCausalLM", .tied = true},
    {.seed = 6, .arch = "Qwen3ForCausalLM", .head_dim = 8},
    {.seed = 7, .arch = "MixtralForCausalLM", .extra = "\"num_local_experts\": 4, \"num_experts_per_tok\": 2"},
    {.seed = 8, .arch = "Qwen3MoeForCausalLM", .extra = MOE "\"num_experts\": 4, \"num_experts_per_tok\": 2"},
    {.seed = 9, .arch = "DeepseekV2ForCausalLM", .n_kv_head = 4, .extra = LATENT},
    {.seed = 10,
     .arch = "DeepseekV3ForCausalLM",
     .n_kv_head = 4,
     .extra = LATENT ", \"n_group\": 2, \"topk_group\": 1, \"norm_topk_prob\": true"},
};

static void ok(int rc, const struct st_err *e)
{
    if (rc)
        fail_msg("%s", e->msg);
}

static void expect_refusal(int rc, const struct st_err *e, int code, const char *says)
{
    if (rc != code || !strstr(e->msg, says))
        fail_msg("want %d '%s', got %d '%s'", code, says, rc, e->msg);
}

static struct st_model *open_as(const char *dir, struct st_model_opts o)
{
    struct st_model *m;
    struct st_err e;
    o.n_threads = 1;
    tiny_check(st_model_open(dir, &o, &m, &e), &e);
    return m;
}

/* Logits [n_ids, n_vocab] of a prompt. */
static float *prompt_logits(const struct st_model *m, const uint32_t *ids, size_t n_ids)
{
    struct st_engine *en = tiny_engine(m, (struct st_engine_opts){.n_threads = 1});
    struct client c = {.n_vocab = m->config.n_vocab};
    c.prompt_rows = calloc(n_ids * c.n_vocab, sizeof(float));
    struct st_request_opts o = client_opts(&c, ids, n_ids, 1);
    o.on_prompt_logits = client_row;
    client_submit(&c, en, &o);
    while (st_engine_step(en))
        ;
    assert_int_equal(c.n_prompt_row, n_ids);
    st_engine_free(en);
    return c.prompt_rows;
}

static void folded_norms_give_the_same_logits_in_every_architecture(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(archs); i++) {
        char dir[64];
        uint32_t ids[12];
        tiny_mkdir(dir);
        tiny_write(&archs[i], dir);
        struct st_model *plain = open_as(dir, (struct st_model_opts){.dtype = ST_LOAD_F32});
        struct st_model *folded = open_as(dir, (struct st_model_opts){.dtype = ST_LOAD_F32, .fold_norms = true});
        random_ids(ids, COUNT(ids), plain->config.n_vocab, i);
        float *want = prompt_logits(plain, ids, COUNT(ids)), *got = prompt_logits(folded, ids, COUNT(ids));
        double largest = 0, error = 0;
        for (size_t k = 0; k < COUNT(ids) * plain->config.n_vocab; k++) {
            largest = fmax(largest, fabs((double)want[k]));
            error = fmax(error, fabs((double)want[k] - (double)got[k]));
        }
        if (!(error <= 1e-5 * largest) || largest == 0)
            fail_msg("row %zu: largest logit %g, largest error %g", i, largest, error);
        free(want);
        free(got);
        st_model_close(plain);
        st_model_close(folded);
        tiny_rmdir(dir);
    }
}

static void folded_norms_are_ones_but_inside_heads(void **state)
{
    (void)state;
    char dir[64];
    struct tiny t = archs[5];
    t.tied = true;
    tiny_mkdir(dir);
    tiny_write(&t, dir);
    struct st_model *m = open_as(dir, (struct st_model_opts){.dtype = ST_LOAD_F32, .fold_norms = true});
    const void *embed = NULL, *head = NULL;
    for (int i = 0; i < m->plan.n_weight; i++) {
        const struct st_plan_weight *w = &m->plan.weights[i];
        bool unit = true;
        for (uint32_t k = 0; w->n_in == 1 && k < w->n_out; k++)
            unit &= ((const float *)m->mats[i].data)[k] == 1.0f;
        if (w->n_in == 1)
            assert_int_equal(unit, w->role != ST_ROLE_Q_NORM && w->role != ST_ROLE_K_NORM);
        embed = w->role == ST_ROLE_EMBED ? m->mats[i].data : embed;
        head = w->role == ST_ROLE_HEAD ? m->mats[i].data : head;
    }
    /* A tied head takes the final norm in, the embedding does not. */
    assert_ptr_not_equal(embed, head);
    st_model_close(m);
    struct st_err e;
    expect_refusal(st_model_open(dir, &(struct st_model_opts){.fold_norms = true}, &m, &e), &e, ST_INTERNAL,
                   "converted matrices only");
    tiny_rmdir(dir);
}

static void served_matrices_are_the_linear_layers_without_routers(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(archs); i++) {
        char dir[64];
        struct st_served s;
        struct st_err e;
        tiny_mkdir(dir);
        tiny_write(&archs[i], dir);
        struct st_model *m = open_as(dir, (struct st_model_opts){.dtype = ST_LOAD_INT8, .fold_norms = true});
        ok(st_served_init(&s, m, true, &e), &e);
        uint32_t n = 0;
        for (int k = 0; k < m->plan.n_weight; k++) {
            const struct st_plan_weight *w = &m->plan.weights[k];
            if (w->n_in == 1 || w->role == ST_ROLE_ROUTER || w->role == ST_ROLE_EMBED) {
                assert_int_equal(st_served_find(&s, w->name), -1);
                continue;
            }
            int at = st_served_find(&s, w->name);
            assert_int_equal(at, n++);
            assert_int_equal(s.weights[at].weight, k);
            assert_ptr_equal(s.weights[at].w, m->mats[k].data);
            assert_ptr_equal(s.weights[at].scale, m->mats[k].scale);
            assert_int_equal(s.weights[at].expert, w->expert);
        }
        assert_int_equal(s.n, n + 1);
        assert_string_equal(s.weights[n].name, "model.embed_tokens.weight^T");
        assert_int_equal(st_served_find(&s, "model.embed_tokens.weight^T"), n);
        assert_int_equal(st_served_find(&s, "z"), -1);
        st_served_free(&s);
        st_model_close(m);
        tiny_rmdir(dir);
    }
}

static void the_transposed_embedding_is_quantised_per_dimension(void **state)
{
    (void)state;
    static const struct tiny shapes[] = {{.seed = 21},
                                         {.seed = 22,
                                          .d_model = 72,
                                          .n_vocab = 301,
                                          .n_head = 4,
                                          .head_dim = 16,
                                          .dtype = ST_DTYPE_BF16,
                                          .header_pad = 1}};
    for (size_t i = 0; i < COUNT(shapes); i++) {
        char dir[64];
        struct st_served s;
        struct st_err e;
        tiny_mkdir(dir);
        tiny_write(&shapes[i], dir);
        struct st_model *m = open_as(dir, (struct st_model_opts){.dtype = ST_LOAD_INT8, .fold_norms = true});
        ok(st_served_init(&s, m, true, &e), &e);
        const struct st_served_weight *w = &s.weights[s.n - 1];
        const struct st_mat *from = &m->mats[w->weight];
        size_t n_vocab = from->n_out, d = from->n_in;
        assert_int_equal(w->n_out, d);
        assert_int_equal(w->n_in, n_vocab);
        float *table = calloc(n_vocab * d, sizeof *table), *column = calloc(n_vocab, sizeof *column);
        int8_t *want = calloc(n_vocab, 1);
        st_convert(from->dtype, from->data, ST_DTYPE_F32, table, n_vocab * d);
        for (size_t k = 0; k < d; k++) {
            for (size_t row = 0; row < n_vocab; row++)
                column[row] = table[row * d + k];
            assert_true(st_quantize_row(column, n_vocab, want) == w->scale[k]);
            assert_memory_equal(want, w->w + k * n_vocab, n_vocab);
        }
        free(table);
        free(column);
        free(want);
        st_served_free(&s);
        st_model_close(m);
        tiny_rmdir(dir);
    }
}

static void the_model_digest_covers_model_files_and_nothing_else(void **state)
{
    (void)state;
    struct st_err e;
    char dir[64], path[128];
    uint8_t a[32], b[32], want[32];
    tiny_mkdir(dir);
    assert_int_equal(st_model_digest(dir, false, a, &e), ST_INPUT);
    tiny_save(dir, "model.safetensors", "abc", 3);
    tiny_save(dir, "config.json", "", 0);
    ok(st_model_digest(dir, false, a, &e), &e);
    const char *lines = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 0 config.json\n"
                        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad 3 model.safetensors\n";
    st_sha256(lines, strlen(lines), want);
    assert_memory_equal(a, want, 32);
    tiny_save(dir, "README.md", "not part of the model", 21);
    ok(st_model_digest(dir, false, b, &e), &e);
    assert_memory_equal(a, b, 32);
    tiny_save(dir, "chat_template.jinja", "x", 1);
    ok(st_model_digest(dir, false, b, &e), &e);
    assert_memory_not_equal(a, b, 32);

    tiny_save(dir, "one.bin", "abc", 3);
    tiny_save(dir, "two.bin", "abc", 3);
    snprintf(path, sizeof path, "%s/one.bin", dir);
    ok(st_model_digest(path, false, a, &e), &e);
    snprintf(path, sizeof path, "%s/two.bin", dir);
    ok(st_model_digest(path, false, b, &e), &e);
    assert_memory_equal(a, b, 32);
    snprintf(path, sizeof path, "%s/absent", dir);
    assert_int_equal(st_model_digest(path, false, b, &e), ST_IO);
    tiny_rmdir(dir);
}

static void the_digest_does_not_depend_on_threads(void **state)
{
    (void)state;
    struct st_err e;
    char dir[64];
    uint8_t got[32], want[32], hash[32];
    const size_t len = 20u << 20;
    struct st_buf lines = {0};
    uint8_t *big = calloc(len, 1);
    tiny_mkdir(dir);
    for (int i = 0; i < 3; i++) {
        char name[32], hex[65];
        big[i] = 1;
        snprintf(name, sizeof name, "%d.safetensors", i);
        tiny_save(dir, name, big, len - (size_t)i);
        st_sha256(big, len - (size_t)i, hash);
        st_hex(hash, 32, hex);
        st_buf_addf(&lines, "%s %zu %s\n", hex, len - (size_t)i, name);
    }
    st_sha256(lines.p, lines.len, want);
    ok(st_model_digest(dir, false, got, &e), &e);
    assert_memory_equal(got, want, 32);
    st_buf_free(&lines);
    free(big);
    tiny_rmdir(dir);
}

/* A checkpoint of row i and a kit of it, each in a directory of its own. */
struct kit_made {
    char dir[64], out[64], kit[128], hints[128];
};

static void kit_init(struct kit_made *k, const struct tiny *t, bool remote)
{
    struct st_prepare_result r;
    struct st_err e;
    tiny_mkdir(k->dir);
    tiny_mkdir(k->out);
    tiny_write(t, k->dir);
    tiny_save(k->dir, "tokenizer.json", "{}", 2);
    tiny_save(k->dir, "README.md", "x", 1);
    snprintf(k->kit, sizeof k->kit, "%s/kit", k->out);
    snprintf(k->hints, sizeof k->hints, "%s/hints", k->out);
    ok(st_prepare_run(&(struct st_prepare_opts){.model = k->dir, .kit = k->kit, .embedding = remote, .n_threads = 1},
                      &r, &e),
       &e);
}

static void kit_free(struct kit_made *k)
{
    tiny_rmdir(k->kit);
    tiny_rmdir(k->dir);
    tiny_rmdir(k->out);
}

static void a_kit_opens_with_what_the_trusted_side_needs_and_no_more(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2 * COUNT(archs); i++) {
        bool remote = i % 2;
        struct kit_made k;
        uint8_t a[32], b[32];
        char path[256];
        struct st_err e;
        kit_init(&k, &archs[i / 2], remote);
        struct st_model *full = open_as(k.dir, (struct st_model_opts){.dtype = ST_LOAD_INT8, .fold_norms = true});
        struct st_model *m = open_as(k.kit, (struct st_model_opts){.dtype = ST_LOAD_INT8, .no_linear = true});
        assert_int_equal(m->plan.n_weight, full->plan.n_weight);
        assert_int_equal(m->config.dtype, full->config.dtype);
        for (int w = 0; w < m->plan.n_weight; w++) {
            const struct st_plan_weight *p = &m->plan.weights[w];
            const struct st_mat *got = &m->mats[w], *want = &full->mats[w];
            bool here = p->n_in == 1 || p->role == ST_ROLE_ROUTER || (p->role == ST_ROLE_EMBED && !remote);
            assert_int_equal(got->n_out, want->n_out);
            assert_int_equal(got->n_in, want->n_in);
            assert_int_equal(got->data != NULL, here);
            if (here) {
                assert_int_equal(got->dtype, want->dtype);
                assert_memory_equal(got->data, want->data, st_mat_bytes(want));
            }
        }
        struct st_served s, t;
        ok(st_served_init(&s, m, remote, &e), &e);
        ok(st_served_init(&t, full, remote, &e), &e);
        assert_int_equal(s.n, t.n);
        for (uint32_t w = 0; w < s.n; w++) {
            assert_string_equal(s.weights[w].name, t.weights[w].name);
            assert_int_equal(s.weights[w].n_out, t.weights[w].n_out);
            assert_int_equal(s.weights[w].n_in, t.weights[w].n_in);
            assert_null(s.weights[w].w);
        }
        st_served_free(&s);
        st_served_free(&t);
        ok(st_model_digest(k.dir, false, a, &e), &e);
        ok(st_model_digest(k.kit, false, b, &e), &e);
        assert_memory_equal(a, b, 32);
        snprintf(path, sizeof path, "%s/tokenizer.json", k.kit);
        assert_true(st_path_exists(path));
        snprintf(path, sizeof path, "%s/README.md", k.kit);
        assert_false(st_path_exists(path));
        st_model_close(full);
        st_model_close(m);
        kit_free(&k);
    }
}

static void a_kit_and_a_checkpoint_are_not_taken_for_each_other(void **state)
{
    (void)state;
    struct kit_made k;
    struct st_model *m;
    struct st_err e;
    kit_init(&k, &archs[0], false);
    expect_refusal(st_model_open(k.kit, NULL, &m, &e), &e, ST_INPUT, "runs with --protect masked only");
    expect_refusal(st_model_open(k.dir, &(struct st_model_opts){.no_linear = true}, &m, &e), &e, ST_INPUT,
                   "no masked.json");
    struct st_prepare_result r;
    expect_refusal(st_prepare_run(&(struct st_prepare_opts){.model = k.kit, .hints = k.hints}, &r, &e), &e, ST_INPUT,
                   "trusted side's part");
    assert_false(st_path_exists(k.hints));
    kit_free(&k);
}

/* A manifest is one line of text. */
static void expect_bad_manifest(const char *text, int code, const char *says)
{
    struct st_kit kit;
    struct st_err e;
    expect_refusal(st_kit_parse(text, strlen(text), "masked.json", &kit, &e), &e, code, says);
}

#define HEX32 "00112233445566778899aabbccddeeff"
#define MANIFEST(version, digest, params, embedding, dtype)                                                            \
    "{\"version\": " version ", \"model_digest\": \"" digest "\", \"params\": \"" params                               \
    "\", \"embedding\": \"" embedding "\", \"dtype\": \"" dtype "\"}"

static void a_bad_manifest_is_refused_by_field(void **state)
{
    (void)state;
    struct st_kit kit;
    struct st_err e;
    const char *good = MANIFEST("1", HEX32 HEX32, "lwe-1280-12.8", "remote", "bf16");
    ok(st_kit_parse(good, strlen(good), "masked.json", &kit, &e), &e);
    assert_int_equal(kit.digest[1], 0x11);
    assert_string_equal(kit.params, "lwe-1280-12.8");
    assert_false(kit.embedding);
    assert_int_equal(kit.dtype, ST_DTYPE_BF16);
    expect_bad_manifest("", ST_INPUT, "masked.json");
    expect_bad_manifest("[]", ST_INPUT, "masked.json: want an object");
    expect_bad_manifest("{}", ST_INPUT, "masked.json: version");
    expect_bad_manifest(MANIFEST("2", HEX32 HEX32, "p", "remote", "f32"), ST_UNSUPPORTED, "version 2 is not supported");
    expect_bad_manifest(MANIFEST("1", HEX32, "p", "remote", "f32"), ST_INPUT, "model_digest: want 64 digits");
    expect_bad_manifest(MANIFEST("1", HEX32 "g0112233445566778899aabbccddeeff", "p", "remote", "f32"), ST_INPUT,
                        "model_digest: want 64 digits");
    expect_bad_manifest(MANIFEST("1", HEX32 HEX32, "", "remote", "f32"), ST_INPUT, "params: want a name");
    expect_bad_manifest(MANIFEST("1", HEX32 HEX32, HEX32, "remote", "f32"), ST_INPUT, "params: want a name");
    expect_bad_manifest(MANIFEST("1", HEX32 HEX32, "p", "here", "f32"), ST_INPUT,
                        "embedding: want 'local' or 'remote'");
    expect_bad_manifest(MANIFEST("1", HEX32 HEX32, "p", "local", "int8"), ST_INPUT, "dtype: want f32, f16 or bf16");
    expect_bad_manifest("{\"version\": 1, \"weights\": 3}", ST_INPUT, "weights: unknown field");
}

static void hostile_kits_are_refused_or_load(void **state)
{
    (void)state;
    struct kit_made k;
    struct st_err e;
    struct st_rng r;
    kit_init(&k, &archs[5], false);
    static const char *const files[] = {"model.safetensors", "masked.json", "config.json"};
    st_rng_seed(&r, 3);
    for (size_t i = 0; i < COUNT(files); i++) {
        char path[256];
        struct st_buf b = {0};
        snprintf(path, sizeof path, "%s/%s", k.kit, files[i]);
        ok(st_file_read(path, 1 << 24, &b, &e), &e);
        for (int n = 0; n < 1000; n++) {
            struct st_model *m;
            size_t len;
            uint8_t *p = mutate(&r, b.p, b.len, 1200, &len);
            tiny_save(k.kit, files[i], p, len);
            if (st_model_open(k.kit, &(struct st_model_opts){.no_linear = true, .n_threads = 1}, &m, &e) == 0)
                st_model_close(m);
            else if (e.code == ST_INTERNAL)
                fail_msg("%s: %s", files[i], e.msg);
            free(p);
        }
        tiny_save(k.kit, files[i], b.p, b.len);
        st_buf_free(&b);
    }
    st_model_close(open_as(k.kit, (struct st_model_opts){.no_linear = true}));
    /* A tensor that the kit must not have. */
    struct st_kit kit;
    ok(st_kit_read(k.kit, &kit, &e), &e);
    assert_true(kit.embedding);
    const char *remote = MANIFEST("1", HEX32 HEX32, "lwe-1280-12.8", "remote", "f32");
    tiny_save(k.kit, "masked.json", remote, strlen(remote));
    struct st_model *m;
    expect_refusal(st_model_open(k.kit, &(struct st_model_opts){.no_linear = true}, &m, &e), &e, ST_INPUT,
                   "model.embed_tokens.weight: this tensor has no place");
    kit_free(&k);
}

static int count_columns(void *arg, const struct st_hint_columns *c, struct st_err *e)
{
    *(uint32_t *)arg += c->n;
    (void)e;
    return 0;
}

static void prepare_makes_hints_of_every_served_matrix(void **state)
{
    (void)state;
    for (int remote = 0; remote < 2; remote++) {
        char dir[64], path[128];
        struct st_prepare_result r;
        struct st_served s;
        struct st_hints *h;
        struct st_err e;
        tiny_mkdir(dir);
        tiny_write(&archs[6], dir);
        snprintf(path, sizeof path, "%s/hints", dir);
        struct st_prepare_opts o = {.model = dir, .hints = path, .embedding = remote, .n_threads = 2};
        ok(st_prepare_run(&o, &r, &e), &e);
        struct st_model *m = open_as(dir, (struct st_model_opts){.dtype = ST_LOAD_INT8, .fold_norms = true});
        ok(st_served_init(&s, m, remote, &e), &e);
        ok(st_hints_open(path, &h, &e), &e);
        const struct st_hint_source *source = st_hints_source(h);
        assert_int_equal(r.n_matrix, s.n);
        assert_memory_equal(source->digest, r.digest, 32);
        assert_string_equal(source->params, "lwe-1280-12.8");
        for (uint32_t i = 0; i < s.n; i++) {
            uint32_t n = 0;
            ok(source->read(source->ctx, s.weights[i].name, s.weights[i].n_out, s.weights[i].n_in, count_columns, &n,
                            &e),
               &e);
            assert_int_equal(n, s.weights[i].n_out);
        }
        st_hints_close(h);
        st_served_free(&s);
        st_model_close(m);
        tiny_rmdir(dir);
    }
}

static void prepare_refuses_before_it_works(void **state)
{
    (void)state;
    struct st_prepare_result r;
    struct st_err e;
    expect_refusal(st_prepare_run(&(struct st_prepare_opts){.model = "/absent"}, &r, &e), &e, ST_USAGE,
                   "nothing to make");
    expect_refusal(st_prepare_run(&(struct st_prepare_opts){.model = "/absent", .hints = "/tmp"}, &r, &e), &e, ST_IO,
                   "/tmp: exists already");
    expect_refusal(st_prepare_run(&(struct st_prepare_opts){.model = "/absent", .kit = "/tmp"}, &r, &e), &e, ST_IO,
                   "/tmp: exists already");
    expect_refusal(
        st_prepare_run(&(struct st_prepare_opts){.model = "/absent", .hints = "/tmp/x.hints", .params = "x"}, &r, &e),
        &e, ST_USAGE, "parameter set 'x': unknown");
    expect_refusal(
        st_prepare_run(&(struct st_prepare_opts){.model = "/absent", .hints = "/tmp/x.hints", .params = "lwe-1024-6.4"},
                       &r, &e),
        &e, ST_POLICY, "too weak");
    expect_refusal(st_prepare_run(&(struct st_prepare_opts){.model = "/absent", .hints = "/tmp/x.hints"}, &r, &e), &e,
                   ST_IO, "/absent");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(folded_norms_give_the_same_logits_in_every_architecture),
        cmocka_unit_test(folded_norms_are_ones_but_inside_heads),
        cmocka_unit_test(served_matrices_are_the_linear_layers_without_routers),
        cmocka_unit_test(the_transposed_embedding_is_quantised_per_dimension),
        cmocka_unit_test(the_model_digest_covers_model_files_and_nothing_else),
        cmocka_unit_test(the_digest_does_not_depend_on_threads),
        cmocka_unit_test(a_kit_opens_with_what_the_trusted_side_needs_and_no_more),
        cmocka_unit_test(a_kit_and_a_checkpoint_are_not_taken_for_each_other),
        cmocka_unit_test(a_bad_manifest_is_refused_by_field),
        cmocka_unit_test(hostile_kits_are_refused_or_load),
        cmocka_unit_test(prepare_makes_hints_of_every_served_matrix),
        cmocka_unit_test(prepare_refuses_before_it_works),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
