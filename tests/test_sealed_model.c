/* A model opened from a sealed container is the model that was sealed: its config, plan and vectors, what lies outside
 * as it is or as int8, what lies inside through the vault, in locked memory where it is copied. */
#include "container_make.h"
#include "harness.h"
#include "model/chat.h"
#include "model/digest.h"
#include "model/locate.h"
#include "model/model_load.h"
#include "model/served.h"
#include "model/texts.h"
#include "protect/sealed/vault.h"
#include "protect/sealed/writer.h"

#include <sys/mman.h>

/* A checkpoint and its container, open with its key. */
struct sealed {
    char dir[64], file[96];
    struct st_container *c;
    struct st_vault *v;
};

static const struct {
    const char *name;
    struct tiny t;
} models[] = {
    {"llama", {.seed = 1}},
    {"llama bf16, tied head, shards", {.tied = true, .dtype = ST_DTYPE_BF16, .n_shard = 2, .header_pad = 1, .seed = 2}},
    {"qwen2 f16", {.arch = "Qwen2ForCausalLM", .dtype = ST_DTYPE_F16, .seed = 3}},
    {"mixtral bf16",
     {.arch = "MixtralForCausalLM",
      .dtype = ST_DTYPE_BF16,
      .extra = "\"num_local_experts\": 4, \"num_experts_per_tok\": 2",
      .seed = 4}},
    {"deepseek-v2",
     {.arch = "DeepseekV2ForCausalLM",
      .extra = "\"q_lora_rank\": null, \"kv_lora_rank\": 20, \"first_k_dense_replace\": 1, \"n_routed_experts\": 6, "
               "\"num_experts_per_tok\": 2, \"moe_intermediate_size\": 16, \"n_shared_experts\": 1, "
               "\"qk_nope_head_dim\": 12, \"qk_rope_head_dim\": 8, \"v_head_dim\": 10",
      .n_kv_head = 4,
      .seed = 5}},
};

static void seal_path(struct sealed *s, const char *src, const char *policy)
{
    static const char *const recipients[] = {"passphrase"};
    const struct st_argon2 cost = {.passes = 1, .memory_kib = 8 * 1024, .lanes = 1};
    struct st_seal_report report;
    struct st_secret seed, passphrase, key;
    struct st_container_about about;
    struct st_err e = {0};
    snprintf(s->file, sizeof s->file, "%s/m.sealed", s->dir);
    assert_ok(st_secret_init(&seed, 32, &e), &e);
    assert_ok(st_secret_init(&passphrase, 4, &e), &e);
    memcpy(passphrase.p, "word", 4);
    const struct st_seal_opts o = {.policy = policy,
                                   .recipients = recipients,
                                   .n_recipient = 1,
                                   .seed = &seed,
                                   .passphrase = &passphrase,
                                   .cost = &cost,
                                   .n_threads = 2};
    assert_ok(st_seal(src, s->file, &o, &report, &e), &e);
    assert_ok(st_container_open(s->file, &s->c, &e), &e);
    st_container_about(s->c, &about);
    assert_ok(st_vault_content_key(seed.p, about.id, &key, &e), &e);
    assert_ok(st_vault_new(s->c, &key, false, &s->v, &e), &e);
    st_secret_wipe(&key);
    st_secret_wipe(&seed);
    st_secret_wipe(&passphrase);
}

static void seal(struct sealed *s, const struct tiny *t, const char *policy)
{
    *s = (struct sealed){0};
    tiny_mkdir(s->dir);
    tiny_write(t, s->dir);
    seal_path(s, s->dir, policy);
}

static void unseal(struct sealed *s)
{
    st_vault_free(s->v);
    st_container_close(s->c);
    tiny_rmdir(s->dir);
}

static struct st_model *open_model(const char *path, struct st_model_opts o)
{
    struct st_model *m;
    struct st_err e = {0};
    o.n_threads = 2;
    assert_ok(st_model_open(path, &o, &m, &e), &e);
    return m;
}

static bool is_inside(const struct sealed *s, const struct st_plan *p, int i)
{
    const struct st_plan_weight *w = &p->weights[i];
    const char *name = p->weights[w->tied_to >= 0 ? w->tied_to : i].name;
    return st_container_find(s->c, name)->place == ST_CONTAINER_INSIDE;
}

static bool is_vector(const struct st_plan_weight *w)
{
    return w->n_in == 1;
}

static bool within(const void *p, const struct st_locked *a)
{
    return a->p && (const uint8_t *)p >= a->p && (const uint8_t *)p < a->p + a->len;
}

/* Against the model as it was before: vectors and routers wherever they lie, matrices where they have data. */
static void expect_same(const struct sealed *s, const struct st_model *m, const struct st_model *plain)
{
    assert_int_equal(m->plan.n_weight, plain->plan.n_weight);
    for (int i = 0; i < m->plan.n_weight; i++) {
        const struct st_plan_weight *w = &m->plan.weights[i];
        const struct st_mat *got = &m->mats[i], *want = &plain->mats[i];
        bool inside = is_inside(s, &m->plan, i), copied = is_vector(w) || w->role == ST_ROLE_ROUTER;
        assert_int_equal(got->n_out, want->n_out);
        assert_int_equal(got->n_in, want->n_in);
        if (inside && !copied) {
            assert_null(got->data);
            assert_int_not_equal(got->dtype, ST_DTYPE_I8);
            continue;
        }
        assert_int_equal(got->dtype, want->dtype);
        assert_memory_equal(got->data, want->data, st_mat_bytes(want));
        if (want->scale)
            assert_memory_equal(got->scale, want->scale, want->n_out * sizeof(float));
        if (inside)
            assert_true(within(got->data, is_vector(w) ? &m->priv->locked : &m->priv->secrets));
    }
}

static void every_policy_gives_the_model_that_was_sealed(void **state)
{
    (void)state;
    static const char *const policies[] = {"all-inside", "paper", "adapters"};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++)
        for (size_t k = 0; k < 3; k++) {
            struct sealed s;
            seal(&s, &models[i].t, policies[k]);
            struct st_model *plain = open_model(s.dir, (struct st_model_opts){0});
            struct st_model *m =
                open_model(s.file, (struct st_model_opts){.source = st_vault_source(s.v), .allow_unlocked = true});
            expect_same(&s, m, plain);
            assert_int_equal(m->config.dtype, plain->config.dtype);
            assert_int_equal(m->config.d_model, plain->config.d_model);
            assert_int_equal(m->matrix_bytes, plain->matrix_bytes);
            assert_int_equal(m->weight_bytes, plain->weight_bytes);
            st_model_release(m, 0); /* nothing is mapped */
            st_model_close(m);
            st_model_close(plain);
            unseal(&s);
        }
}

static void what_lies_outside_becomes_int8_for_a_worker(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        struct sealed s;
        seal(&s, &models[i].t, "paper");
        struct st_model *plain = open_model(s.dir, (struct st_model_opts){.dtype = ST_LOAD_INT8});
        struct st_model *m = open_model(s.file, (struct st_model_opts){.source = st_vault_source(s.v),
                                                                       .dtype = ST_LOAD_INT8,
                                                                       .only_outside = true,
                                                                       .allow_unlocked = true});
        expect_same(&s, m, plain);
        st_model_close(m);
        st_model_close(plain);
        unseal(&s);
    }
}

static void a_worker_serves_what_lies_outside_and_no_more(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        struct sealed s;
        struct st_served served;
        struct st_err e = {0};
        uint8_t digest[32];
        struct st_container_about about;
        seal(&s, &models[i].t, "paper");
        struct st_model *plain = open_model(s.dir, (struct st_model_opts){.dtype = ST_LOAD_INT8});
        struct st_model *m = open_model(s.file, st_served_model_opts(s.file));
        assert_ok(st_served_init(&served, m, false, &e), &e);
        assert_true(served.n > 0);
        for (uint32_t k = 0; k < served.n; k++) {
            const struct st_served_weight *w = &served.weights[k];
            assert_false(is_inside(&s, &m->plan, w->weight));
            assert_memory_equal(w->w, plain->mats[w->weight].data, (size_t)w->n_out * w->n_in);
            assert_memory_equal(w->scale, plain->mats[w->weight].scale, w->n_out * sizeof(float));
        }
        for (int k = 0; k < m->plan.n_weight; k++)
            if (is_inside(&s, &m->plan, k))
                assert_null(m->mats[k].data);
        st_served_free(&served);
        if (!models[i].t.tied)
            expect_refusal(st_served_init(&served, m, true, &e), &e, ST_INPUT, "is sealed, so it is not served");
        assert_ok(st_model_digest(s.file, false, digest, &e), &e);
        st_container_about(s.c, &about);
        assert_memory_equal(digest, about.digest, 32);
        st_model_close(m);
        st_model_close(plain);
        unseal(&s);
    }
}

static void what_cannot_be_is_refused_by_name(void **state)
{
    (void)state;
    struct sealed s;
    struct st_model *m;
    struct st_err e = {0};
    seal(&s, &models[0].t, "paper");
    expect_refusal(st_model_open(s.file, NULL, &m, &e), &e, ST_POLICY, "is sealed");
    struct st_model_opts o = {.source = st_vault_source(s.v), .dtype = ST_LOAD_INT8, .allow_unlocked = true};
    expect_refusal(st_model_open(s.file, &o, &m, &e), &e, ST_UNSUPPORTED, "want --dtype keep");
    o.fold_norms = true;
    expect_refusal(st_model_open(s.file, &o, &m, &e), &e, ST_INTERNAL, "not folded");
    expect_refusal(st_model_open(s.file, &(struct st_model_opts){.no_linear = true}, &m, &e), &e, ST_INPUT,
                   "prepare --kit");
    unseal(&s);
    /* A model whose policy seals nothing needs no key. */
    seal(&s, &models[1].t, "adapters");
    struct st_model *plain = open_model(s.dir, (struct st_model_opts){.dtype = ST_LOAD_INT8});
    m = open_model(s.file, (struct st_model_opts){.dtype = ST_LOAD_INT8});
    expect_same(&s, m, plain);
    st_model_close(m);
    st_model_close(plain);
    unseal(&s);
}

static void an_adapter_is_no_model(void **state)
{
    (void)state;
    static const char config[] = "{}";
    const struct made_entry entry = {
        .name = "adapter_config.json", .data = config, .bytes = 2, .segment_bytes = ST_CONTAINER_SEGMENT};
    struct made made = {.seed = {1}, .id = {2}, .version = 1, .kind = "adapter", .entries = &entry, .n = 1};
    struct sealed s = {0};
    struct st_buf b = {0};
    struct st_model *m;
    struct st_err e = {0};
    tiny_mkdir(s.dir);
    made_container(&made, &b);
    tiny_save(s.dir, "a", b.p, b.len);
    snprintf(s.file, sizeof s.file, "%s/a", s.dir);
    expect_refusal(st_model_open(s.file, NULL, &m, &e), &e, ST_INPUT, "is a sealed adapter, not a model");
    st_secret_wipe(&made.content_key);
    st_buf_free(&b);
    tiny_rmdir(s.dir);
}

/* Bytes of the file change after it was opened: found when the model is read, by name. */
static void what_changes_after_opening_is_found(void **state)
{
    (void)state;
    static const char *const names[] = {"model.norm.weight", "lm_head.weight",
                                        "model.layers.1.self_attn.o_proj.weight"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct sealed s;
        struct st_model *m;
        struct st_err e = {0};
        seal(&s, &models[0].t, "paper");
        struct st_span at = st_container_segment(s.c, st_container_find(s.c, names[i]), 0);
        FILE *f = fopen(s.file, "r+b");
        struct st_buf whole = {0};
        assert_ok(st_file_read(s.file, (size_t)1 << 30, &whole, &e), &e);
        const char *found = memmem(whole.p, whole.len, at.p, at.len);
        assert_non_null(found);
        fseek(f, found - whole.p + 40, SEEK_SET);
        fputc(found[40] ^ 1, f);
        fclose(f);
        st_buf_free(&whole);
        const struct st_model_opts o = {.source = st_vault_source(s.v), .n_threads = 2, .allow_unlocked = true};
        expect_refusal(st_model_open(s.file, &o, &m, &e), &e, ST_VERIFY, names[i]);
        unseal(&s);
    }
}

/* Tokens of a text by the tokenizer and template of a path, and by those of an open container. */
static void texts_are_those_of_the_container(void **state)
{
    (void)state;
    static const char demo[] = "models/demo", text[] = "Once upon a time";
    struct sealed s = {0};
    struct st_tokenizer *t[3];
    const struct st_chat_template *chat[3];
    struct st_config config[2];
    struct st_texts texts;
    struct st_err e = {0};
    char path[ST_PATH_MAX];
    tiny_mkdir(s.dir);
    seal_path(&s, demo, "all-inside");
    assert_ok(st_texts_open(s.file, s.c, &texts, &e), &e);
    assert_ok(st_tokenizer_open(demo, &t[0], &e), &e);
    assert_ok(st_locate_tokenizer(s.file, path, &e), &e);
    assert_ok(st_tokenizer_open(path, &t[1], &e), &e);
    /* From here on the path is another file's. */
    tiny_save(s.dir, "m.sealed", "gone", 4);
    assert_ok(st_tokenizer_open_in(&texts, &t[2], &e), &e);
    assert_ok(st_chat_detect(demo, t[0], &chat[0], &e), &e);
    assert_ok(st_chat_detect_in(&texts, t[2], &chat[2], &e), &e);
    assert_ptr_equal(chat[0], chat[2]);
    for (int i = 1; i < 3; i++) {
        struct st_ids a = {0}, b = {0};
        const struct st_encode_opts o = {.add_special = true};
        assert_ok(st_tokenizer_encode(t[0], text, sizeof text - 1, &o, &a, &e), &e);
        assert_ok(st_tokenizer_encode(t[i], text, sizeof text - 1, &o, &b, &e), &e);
        assert_int_equal(a.len, b.len);
        assert_memory_equal(a.p, b.p, a.len * sizeof *a.p);
        st_ids_free(&a);
        st_ids_free(&b);
    }
    assert_ok(st_config_read(demo, &config[0], &e), &e);
    assert_ok(st_config_read_in(&texts, &config[1], &e), &e);
    assert_memory_equal(&config[0], &config[1], sizeof config[0]);
    expect_refusal(st_config_read(s.file, &config[1], &e), &e, ST_VERIFY, "not a sealed container");
    for (int i = 0; i < 3; i++)
        st_tokenizer_free(t[i]);
    st_texts_close(&texts);
    unseal(&s);
}

/* A llama2.c file: 28 bytes of header and f32 arrays. */
static void a_llama2c_model_keeps_its_order_of_rows(void **state)
{
    (void)state;
    const int32_t header[7] = {32, 48, 2, 4, 2, 64, 16}; /* a tied head */
    const size_t n = 64 * 32 + 2 * (32 + 32 * 32 + 2 * 16 * 32 + 32 * 32 + 32 + 3 * 48 * 32) + 32 + 16 * 8;
    struct sealed s = {0};
    char bin[96];
    struct st_buf b = {0};
    tiny_mkdir(s.dir);
    st_buf_add(&b, header, sizeof header);
    for (size_t i = 0; i < n; i++) {
        float v = (float)(i % 1009) / 1009 - 0.5f;
        st_buf_add(&b, &v, sizeof v);
    }
    tiny_save(s.dir, "m.bin", b.p, b.len);
    st_buf_free(&b);
    snprintf(bin, sizeof bin, "%s/m.bin", s.dir);
    seal_path(&s, bin, "paper");
    struct st_model *plain = open_model(bin, (struct st_model_opts){0});
    struct st_model *m =
        open_model(s.file, (struct st_model_opts){.source = st_vault_source(s.v), .allow_unlocked = true});
    expect_same(&s, m, plain);
    assert_true(m->config.rope_interleaved);
    assert_memory_equal(&m->config, &plain->config, sizeof m->config);
    st_model_close(m);
    st_model_close(plain);
    unseal(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_policy_gives_the_model_that_was_sealed),
        cmocka_unit_test(what_lies_outside_becomes_int8_for_a_worker),
        cmocka_unit_test(a_worker_serves_what_lies_outside_and_no_more),
        cmocka_unit_test(what_cannot_be_is_refused_by_name),
        cmocka_unit_test(an_adapter_is_no_model),
        cmocka_unit_test(what_changes_after_opening_is_found),
        cmocka_unit_test(texts_are_those_of_the_container),
        cmocka_unit_test(a_llama2c_model_keeps_its_order_of_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
