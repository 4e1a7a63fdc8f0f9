/* Adapters as files: what of adapter_config.json decides about which modules with which scale, what is refused by name,
 * names and shapes of tensors against a base, sealed ones, and damage. */
#include "expect.h"
#include "lora_make.h"

#include "container_make.h"
#include "mutate.h"

#include <math.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))
#define HEAD "{\"peft_type\": \"LORA\", \"target_modules\": [\"q_proj\"]"

static int parse(const char *text, struct st_adapter_config **out, struct st_err *e)
{
    *e = (struct st_err){0};
    return st_adapter_config_parse(text, strlen(text), "adapter_config.json", out, e);
}

/* The config */

static void what_would_change_the_mathematics_is_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *text, *says;
        int code;
    } rows[] = {
        {"{\"target_modules\": [\"q_proj\"]}", "peft_type", ST_INPUT},
        {"{\"peft_type\": \"IA3\"}", "peft_type: 'IA3' is not supported; supported: LORA", ST_UNSUPPORTED},
        {HEAD ", \"use_dora\": true}", "use_dora: is not supported", ST_UNSUPPORTED},
        {HEAD ", \"bias\": \"all\"}", "bias: 'all' is not supported", ST_UNSUPPORTED},
        {HEAD ", \"modules_to_save\": [\"lm_head\"]}", "modules_to_save: is not", ST_UNSUPPORTED},
        {HEAD ", \"fan_in_fan_out\": true}", "fan_in_fan_out: is not", ST_UNSUPPORTED},
        {HEAD ", \"lora_bias\": true}", "lora_bias: is not", ST_UNSUPPORTED},
        {HEAD ", \"layer_replication\": [[0, 2]]}", "layer_replication: is not", ST_UNSUPPORTED},
        {HEAD ", \"target_parameters\": \"experts.*\"}", "target_parameters: want a list", ST_INPUT},
        {HEAD ", \"trainable_token_indices\": [1]}", "trainable_token_indices: is not", ST_UNSUPPORTED},
        {HEAD ", \"alora_invocation_tokens\": [1]}", "alora_invocation_tokens: is not", ST_UNSUPPORTED},
        {HEAD ", \"something_of_2030\": 3}", "something_of_2030: is not supported; want it null", ST_UNSUPPORTED},
        {HEAD ", \"init_lora_weights\": \"pissa\"}", "init_lora_weights: 'pissa' changes the base", ST_UNSUPPORTED},
        {HEAD ", \"r\": 0}", "r: want", ST_INPUT},
        {HEAD ", \"r\": 5000}", "r: want", ST_INPUT},
        {HEAD ", \"lora_alpha\": \"16\"}", "lora_alpha: want", ST_INPUT},
        {HEAD ", \"rank_pattern\": {\"q_proj\": 2.5}}", "rank_pattern: q_proj: want a whole number in 1..4096",
         ST_INPUT},
        {HEAD ", \"rank_pattern\": {\"(\": 2}}", "rank_pattern: this regex cannot be read", ST_INPUT},
        {HEAD ", \"rank_pattern\": [1]}", "rank_pattern: want an object", ST_INPUT},
        {HEAD ", \"alpha_pattern\": {\"q_proj\": null}}", "alpha_pattern: q_proj: want", ST_INPUT},
        {HEAD ", \"layers_to_transform\": \"0\"}", "layers_to_transform: want", ST_INPUT},
        {HEAD ", \"layers_to_transform\": [0, -1]}", "layers_to_transform: want", ST_INPUT},
        {HEAD ", \"layers_pattern\": 3}", "layers_pattern: want", ST_INPUT},
        {HEAD ", \"exclude_modules\": [3]}", "exclude_modules: want a list", ST_INPUT},
        {"{\"peft_type\": \"LORA\"}", "target_modules: want a list", ST_INPUT},
        {"{\"peft_type\": \"LORA\", \"target_modules\": []}", "target_modules: want a list", ST_INPUT},
        {"{\"peft_type\": \"LORA\", \"target_modules\": \"*\"}", "target_modules: this regex", ST_INPUT},
        {"[]", "want an object", ST_INPUT},
        {"{", "adapter_config.json", ST_INPUT},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct st_adapter_config *c;
        struct st_err e;
        expect_refusal(parse(rows[i].text, &c, &e), &e, rows[i].code, rows[i].says);
        assert_null(c);
    }
}

static void fields_that_matter_only_while_training_are_accepted(void **state)
{
    (void)state;
    struct st_adapter_config *c;
    struct st_err e;
    assert_ok(parse(HEAD ", \"lora_dropout\": 0.1, \"peft_version\": \"0.21\", \"eva_config\": {\"rho\": 2.0}, "
                         "\"inference_mode\": true, \"init_lora_weights\": \"gaussian\", \"loftq_config\": {}, "
                         "\"use_dora\": false, \"megatron_config\": null, \"runtime_config\": {\"x\": false}}",
                    &c, &e),
              &e);
    st_adapter_config_free(c);
}

static bool targets(const char *config, const char *module, int layer)
{
    struct st_adapter_config *c;
    struct st_err e;
    bool yes;
    assert_ok(parse(config, &c, &e), &e);
    assert_ok(st_adapter_config_targets(c, module, layer, &yes, &e), &e);
    st_adapter_config_free(c);
    return yes;
}

static void modules_are_named_as_peft_names_them(void **state)
{
    (void)state;
    static const struct {
        const char *members, *module;
        int layer;
        bool yes;
    } rows[] = {
        {"[\"q_proj\"]", "model.layers.3.self_attn.q_proj", 3, true},
        {"[\"proj\"]", "model.layers.3.self_attn.q_proj", 3, false}, /* whole parts of a name only */
        {"[\"self_attn.q_proj\", \"x\"]", "model.layers.3.self_attn.q_proj", 3, true},
        {"[\"lm_head\"]", "lm_head", -1, true},
        {"\".*q_proj\"", "model.layers.3.self_attn.q_proj", 3, true},
        {"\"q_proj\"", "model.layers.3.self_attn.q_proj", 3, false}, /* a regex fits the whole name */
        {"\"model\\\\.layers\\\\.(3|5)\\\\..*\"", "model.layers.5.mlp.up_proj", 5, true},
        {"[\"q_proj\"], \"layers_to_transform\": 2", "model.layers.3.self_attn.q_proj", 3, false},
        {"[\"q_proj\"], \"layers_to_transform\": [1, 3]", "model.layers.3.self_attn.q_proj", 3, true},
        {"[\"lm_head\"], \"layers_to_transform\": [1]", "lm_head", -1, false},
        {"[\"q_proj\"], \"layers_to_transform\": [], \"layers_pattern\": null", "model.layers.3.self_attn.q_proj", 3,
         true},
        {"[\"q_proj\"], \"layers_to_transform\": [3], \"layers_pattern\": \"h\"", "model.layers.3.self_attn.q_proj", 3,
         false},
        {"[\"q_proj\"], \"layers_to_transform\": [3], \"layers_pattern\": [\"h\", \"layers\"]",
         "model.layers.3.self_attn.q_proj", 3, true},
        {"\".*q_proj\", \"layers_to_transform\": [1]", "model.layers.3.self_attn.q_proj", 3, true},
        {"[\"q_proj\"], \"exclude_modules\": [\"layers.3.self_attn.q_proj\"]", "model.layers.3.self_attn.q_proj", 3,
         false},
        {"[\"q_proj\"], \"exclude_modules\": \".*layers\\\\.4.*\"", "model.layers.3.self_attn.q_proj", 3, true},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        char config[400];
        snprintf(config, sizeof config, "{\"peft_type\": \"LORA\", \"target_modules\": %s}", rows[i].members);
        if (targets(config, rows[i].module, rows[i].layer) != rows[i].yes)
            fail_msg("%s: want %d for %s", rows[i].members, rows[i].yes, rows[i].module);
    }
}

static void the_first_pattern_that_fits_gives_rank_and_alpha(void **state)
{
    (void)state;
    static const struct {
        const char *members, *module;
        uint32_t rank;
        double scale;
    } rows[] = {
        {"\"r\": 8", "model.layers.0.mlp.up_proj", 8, 1},
        {"\"r\": 4, \"lora_alpha\": 32", "model.layers.0.mlp.up_proj", 4, 8},
        {"\"r\": 16, \"lora_alpha\": 32, \"use_rslora\": true", "model.layers.0.mlp.up_proj", 16, 8},
        {"\"r\": 4, \"lora_alpha\": 32, \"rank_pattern\": {\"up_proj\": 2, \"layers.0.mlp.up_proj\": 3}",
         "model.layers.0.mlp.up_proj", 2, 16},
        {"\"r\": 4, \"lora_alpha\": 32, \"rank_pattern\": {\"p_proj\": 2}", "model.layers.0.mlp.up_proj", 4, 8},
        {"\"r\": 4, \"rank_pattern\": {\"^model.layers.0.*\": 2}, \"alpha_pattern\": {\"mlp..*\": -3.5}",
         "model.layers.0.mlp.up_proj", 2, -1.75},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        char config[400];
        struct st_adapter_config *c;
        struct st_err e;
        uint32_t rank;
        float scale;
        snprintf(config, sizeof config, HEAD ", %s}", rows[i].members);
        assert_ok(parse(config, &c, &e), &e);
        assert_ok(st_adapter_config_rank(c, rows[i].module, &rank, &scale, &e), &e);
        assert_int_equal(rank, rows[i].rank);
        assert_true(fabs(scale - rows[i].scale) < 1e-6);
        st_adapter_config_free(c);
    }
}

static void a_regex_that_comes_to_no_end_is_refused(void **state)
{
    (void)state;
    struct st_adapter_config *c;
    struct st_err e;
    bool yes;
    assert_ok(parse("{\"peft_type\": \"LORA\", \"target_modules\": \"(((a|.)*)*)*[xz]\"}", &c, &e), &e);
    expect_refusal(
        st_adapter_config_targets(c, "model.layers.0.self_attn.q_proj.aaaaaaaaaaaaaaaaaaaaaaaa", 0, &yes, &e), &e,
        ST_INPUT, "target_modules: matching its regex");
    st_adapter_config_free(c);
}

/* Tensors */

struct files {
    char base[64], dir[64];
};

static void make(struct files *f, const struct tiny *t, const struct lora *l)
{
    tiny_mkdir(f->base);
    tiny_mkdir(f->dir);
    tiny_write(t, f->base);
    lora_write(l, t, f->dir);
}

static void drop(const struct files *f)
{
    tiny_rmdir(f->base);
    tiny_rmdir(f->dir);
}

/* Opens the adapter, then the model with it. */
static int open_both(const struct files *f, struct st_model **m, struct st_err *e)
{
    struct st_adapter *a;
    *e = (struct st_err){0};
    if (st_adapter_open(f->dir, &(struct st_adapter_opts){0}, &a, e))
        return e->code;
    const struct st_adapter *const list[] = {a};
    int rc = st_model_open(f->base, &(struct st_model_opts){.n_threads = 1, .adapters = list, .n_adapter = 1}, m, e);
    st_adapter_close(a);
    return rc;
}

static void refuse_tensors(const char *tensors, size_t data, int code, const char *says)
{
    struct files f;
    struct st_model *m;
    struct st_err e;
    struct st_buf head = {0}, zeros = {0};
    make(&f, &(struct tiny){.seed = 1, .n_layer = 1}, &(struct lora){.targets = "[\"q_proj\"]", .rank = 2});
    st_buf_addf(&head, "{%s", tensors);
    memset(st_buf_room(&zeros, data), 0, data);
    lora_save(f.dir, &head, &zeros);
    expect_refusal(open_both(&f, &m, &e), &e, code, says);
    st_buf_free(&head);
    st_buf_free(&zeros);
    drop(&f);
}

#define Q "base_model.model.model.layers.0.self_attn.q_proj"
#define T(name, rows, columns, at)                                                                                     \
    "\"" name "\":{\"dtype\":\"F32\",\"shape\":[" #rows "," #columns "],\"data_offsets\":" at "}"

static void tensors_without_a_place_are_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *tensors;
        size_t data;
        int code;
        const char *says;
    } rows[] = {
        {T(Q ".lora_A.weight", 2, 64, "[0,512]"), 512, ST_INPUT, Q ".lora_A.weight: its lora_B is missing"},
        {T(Q ".lora_B.weight", 64, 2, "[0,512]"), 512, ST_INPUT, Q ".lora_B.weight: its lora_A is missing"},
        {T(Q ".lora_A.weight", 3, 64, "[0,768]") "," T(Q ".lora_B.weight", 64, 3, "[768,1536]"), 1536, ST_INPUT,
         "lora_A.weight: want rank 2 (adapter_config.json), got 3"},
        {T(Q ".lora_A.weight", 2, 64, "[0,512]") "," T(Q ".lora_A.default.weight", 2, 64, "[512,1024]"), 1024, ST_INPUT,
         "there are two of them for one module"},
        {T(Q ".lora_magnitude_vector.weight", 2, 64, "[0,512]"), 512, ST_UNSUPPORTED, "belongs to DoRA"},
        {T("base_model.model.model.embed_tokens.lora_embedding_A", 2, 64, "[0,512]"), 512, ST_UNSUPPORTED,
         "changes the embedding"},
        {T("base_model.model.lm_head.base_layer.weight", 2, 64, "[0,512]"), 512, ST_UNSUPPORTED,
         "save_embedding_layers=False"},
        {T("base_model.model.model.embed_tokens.weight", 2, 64, "[0,512]"), 512, ST_UNSUPPORTED,
         "save_embedding_layers=False"},
        {T("base_model.model.lm_head.modules_to_save.weight", 2, 64, "[0,512]"), 512, ST_UNSUPPORTED,
         "modules_to_save"},
        {T(Q ".lora_B.bias", 2, 64, "[0,512]"), 512, ST_UNSUPPORTED, "is a bias"},
        {T(Q ".weight", 2, 64, "[0,512]"), 512, ST_INPUT, "want base_model.model.MODULE.lora_A.weight"},
        {T("model.layers.0.self_attn.q_proj.lora_A.weight", 2, 64, "[0,512]"), 512, ST_INPUT,
         "want base_model.model.MODULE"},
        {T("base_model.model..lora_A.weight", 2, 64, "[0,512]") "," T("base_model.model..lora_B.weight", 2, 64,
                                                                      "[512,1024]"),
         1024, ST_INPUT, "want base_model.model.MODULE"},
        {"\"" Q ".lora_A.weight\":{\"dtype\":\"F32\",\"shape\":[128],\"data_offsets\":[0,512]}", 512, ST_INPUT,
         "want a matrix, got 1 dimensions"},
        {"\"" Q ".lora_A.weight\":{\"dtype\":\"I32\",\"shape\":[2,64],\"data_offsets\":[0,512]}", 512, ST_UNSUPPORTED,
         "dtype I32 is not supported"},
        {T("base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight", 2, 64,
           "[0,512]") "," T("base_model.model.model.layers.7.self_attn.q_proj.lora_B.weight", 64, 2, "[512,1024]"),
         1024, ST_INPUT, "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight: missing"},
        {"", 0, ST_INPUT, "has no tensors"},
    };
    for (size_t i = 0; i < COUNT(rows); i++)
        refuse_tensors(rows[i].tensors, rows[i].data, rows[i].code, rows[i].says);
}

static void an_adapter_of_another_base_is_refused_with_both_shapes(void **state)
{
    (void)state;
    struct files f;
    struct st_model *m;
    struct st_err e;
    make(&f, &(struct tiny){.seed = 1}, &(struct lora){.targets = "[\"q_proj\", \"down_proj\"]"});
    tiny_write(&(struct tiny){.seed = 1, .d_model = 96, .n_head = 6}, f.base);
    expect_refusal(open_both(&f, &m, &e), &e, ST_INPUT,
                   Q ".lora_A.weight: this base wants [4,96], got [4,64]; the adapter is of another base");
    /* Heads of another number: the input fits, the output does not. */
    tiny_write(&(struct tiny){.seed = 1, .n_head = 4, .head_dim = 32}, f.base);
    expect_refusal(open_both(&f, &m, &e), &e, ST_INPUT, Q ".lora_B.weight: this base wants [128,4], got [64,4]");
    /* More layers, and fewer. */
    tiny_write(&(struct tiny){.seed = 1, .n_layer = 3}, f.base);
    expect_refusal(open_both(&f, &m, &e), &e, ST_INPUT, "model.layers.2.self_attn.q_proj.lora_A.weight: missing");
    tiny_write(&(struct tiny){.seed = 1, .n_layer = 1}, f.base);
    expect_refusal(open_both(&f, &m, &e), &e, ST_INPUT, "layers.1.mlp.down_proj.lora_A.weight: the base has no such");
    drop(&f);
}

static void config_and_tensors_must_agree(void **state)
{
    (void)state;
    struct files f;
    struct st_model *m;
    struct st_err e;
    struct lora narrow = {.targets = "[\"q_proj\"]"}, wide = {.targets = "[\"q_proj\", \"v_proj\"]"};
    struct st_buf config = {0};
    make(&f, &(struct tiny){.seed = 1}, &wide);
    lora_config(&narrow, &config);
    tiny_save(f.dir, "adapter_config.json", config.p, config.len);
    expect_refusal(open_both(&f, &m, &e), &e, ST_INPUT, "v_proj.lora_A.weight: adapter_config.json does not name");
    lora_write(&narrow, &(struct tiny){.seed = 1}, f.dir);
    st_buf_clear(&config);
    lora_config(&wide, &config);
    tiny_save(f.dir, "adapter_config.json", config.p, config.len);
    expect_refusal(open_both(&f, &m, &e), &e, ST_INPUT, "v_proj.lora_A.weight: missing; adapter_config.json names it");
    st_buf_free(&config);
    drop(&f);
}

/* One of them would make rows that fail, and with them the steps of whoever is served beside it. */
static void values_that_are_not_finite_are_refused(void **state)
{
    (void)state;
    const float bad[] = {NAN, INFINITY, -INFINITY};
    const struct lora l = {.targets = "[\"q_proj\"]", .rank = 2, .alpha = 1e9, .dtype = ST_DTYPE_F32};
    struct files f;
    struct st_model *m;
    struct st_err e;
    struct st_buf file = {0};
    char path[128];
    make(&f, &(struct tiny){.seed = 1, .n_layer = 1}, &l);
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", f.dir);
    assert_ok(st_file_read(path, 1 << 20, &file, &e), &e);
    float *last = (float *)(void *)(file.p + file.len - sizeof *last),
          was; /* of B; A begins 1024 bytes before the end */
    memcpy(&was, last, sizeof was);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        memcpy(last, &bad[i], sizeof bad[i]);
        tiny_save(f.dir, "adapter_model.safetensors", file.p, file.len);
        expect_refusal(open_both(&f, &m, &e), &e, ST_INPUT, Q ".lora_B.weight: its values are not finite");
        memcpy(last, &was, sizeof was);
        memcpy(file.p + file.len - 1024, &bad[i], sizeof bad[i]);
        tiny_save(f.dir, "adapter_model.safetensors", file.p, file.len);
        expect_refusal(open_both(&f, &m, &e), &e, ST_INPUT, Q ".lora_A.weight: its values are not finite");
        memset(file.p + file.len - 1024, 0, sizeof bad[i]);
    }
    const float large = 1e38f; /* finite, until it is scaled */
    memcpy(last, &large, sizeof large);
    tiny_save(f.dir, "adapter_model.safetensors", file.p, file.len);
    expect_refusal(open_both(&f, &m, &e), &e, ST_INPUT, Q ".lora_B.weight: its values are not finite");
    st_buf_free(&file);
    drop(&f);
}

static void names_are_told_apart(void **state)
{
    (void)state;
    struct files f;
    struct st_adapter *a, *b;
    struct st_model *m;
    struct st_err e = {0};
    char path[80];
    make(&f, &(struct tiny){.seed = 1}, &(struct lora){0});
    snprintf(path, sizeof path, "%s//", f.dir);
    assert_ok(st_adapter_open(path, &(struct st_adapter_opts){0}, &a, &e), &e);
    assert_string_equal(st_adapter_name(a), strrchr(f.dir, '/') + 1);
    assert_ok(st_adapter_open(f.dir, &(struct st_adapter_opts){.name = "legal"}, &b, &e), &e);
    const struct st_adapter *twice[] = {b, b}, *both[] = {a, b};
    struct st_model_opts o = {.n_threads = 1, .adapters = twice, .n_adapter = 2};
    expect_refusal(st_model_open(f.base, &o, &m, &e), &e, ST_USAGE, "adapter 'legal': there are two of that name");
    o.adapters = both;
    assert_ok(st_model_open(f.base, &o, &m, &e), &e);
    assert_int_equal(m->n_adapter, 2);
    assert_string_equal(m->adapters[1], "legal");
    st_model_close(m);
    st_adapter_close(a);
    st_adapter_close(b);
    expect_refusal(st_adapter_open(f.dir, &(struct st_adapter_opts){.name = "a\nb"}, &a, &e), &e, ST_USAGE,
                   "cannot be called by that");
    expect_refusal(st_adapter_open("/nowhere", &(struct st_adapter_opts){0}, &a, &e), &e, ST_IO, "there is none");
    expect_refusal(st_adapter_open(f.base, &(struct st_adapter_opts){0}, &a, &e), &e, ST_INPUT,
                   "no adapter_config.json; want a directory as peft saves it");
    expect_refusal(st_model_open(f.dir, &(struct st_model_opts){0}, &m, &e), &e, ST_INPUT,
                   "is a LoRA adapter, not a model");
    drop(&f);
}

static void damaged_files_are_refused_or_work(void **state)
{
    (void)state;
    static const char *const names[] = {"adapter_config.json", "adapter_model.safetensors"};
    struct files f;
    struct st_rng rng;
    size_t opened = 0;
    make(&f, &(struct tiny){.seed = 1, .n_layer = 1}, &(struct lora){.rank = 2});
    st_rng_seed(&rng, 3);
    for (int i = 0; i < 1500; i++) {
        char path[128];
        struct st_buf whole = {0};
        struct st_model *m;
        struct st_err e = {0};
        size_t len;
        snprintf(path, sizeof path, "%s/%s", f.dir, names[i % 2]);
        assert_ok(st_file_read(path, 1 << 20, &whole, &e), &e);
        uint8_t *bad = mutate(&rng, whole.p, whole.len, i % 2 ? 500 : whole.len, &len);
        tiny_save(f.dir, names[i % 2], bad, len);
        if (open_both(&f, &m, &e) == 0) {
            opened++;
            st_model_close(m);
        } else if (e.code == ST_INTERNAL)
            fail_msg("%s", e.msg);
        tiny_save(f.dir, names[i % 2], whole.p, whole.len);
        st_buf_free(&whole);
        free(bad);
    }
    assert_in_range(opened, 1, 1499);
    drop(&f);
}

/* Sealed */

static struct st_container *sealed(const struct st_buf *bytes, const char *dir)
{
    char path[80];
    struct st_container *c;
    struct st_err e = {0};
    tiny_save(dir, "a.sealed", bytes->p, bytes->len);
    snprintf(path, sizeof path, "%s/a.sealed", dir);
    assert_ok(st_container_open(path, &c, &e), &e);
    return c;
}

static void a_sealed_adapter_is_the_same_in_locked_memory(void **state)
{
    (void)state;
    struct tiny t = {.seed = 1, .n_layer = 1};
    struct lora l = {.targets = "[\"q_proj\"]", .rank = 2, .seed = 5};
    struct st_err e = {0};
    struct st_buf config = {0}, bytes = {0};
    const char *module = "model.layers.0.self_attn.q_proj";
    float *a = lora_values(&l, module, 'A', 2, 64), *b = lora_values(&l, module, 'B', 2, 64);
    lora_config(&l, &config);
    const struct made_entry entries[] = {
        {NULL, "adapter_config.json", false, config.p, config.len, 1 << 20},
        {"\"dtype\":\"F32\",\"shape\":[2,64]", Q ".lora_A.weight", true, a, 512, 256},
        {"\"dtype\":\"F32\",\"shape\":[64,2]", Q ".lora_B.weight", true, b, 512, 512},
    };
    struct made made = {.seed = {1}, .id = {2}, .version = 1, .kind = "adapter", .entries = entries, .n = 3};
    made_container(&made, &bytes);
    char dir[64];
    tiny_mkdir(dir);
    tiny_write(&t, dir);
    struct st_container *c = sealed(&bytes, dir);
    struct st_vault *v;
    struct st_adapter *adapter;
    struct st_model *m;
    uint32_t ids[9];
    assert_ok(st_vault_new(c, &made.content_key, false, &v, &e), &e);
    struct st_adapter_opts o = {.container = c, .source = st_vault_source(v)};
    assert_ok(st_adapter_open("a.sealed", &o, &adapter, &e), &e);
    assert_string_equal(st_adapter_name(adapter), "made");
    const struct st_adapter *const list[] = {adapter};
    assert_ok(
        st_model_open(dir,
                      &(struct st_model_opts){.n_threads = 1, .adapters = list, .n_adapter = 1, .allow_unlocked = true},
                      &m, &e),
        &e);
    /* Neither the adapter nor its key is needed any more. */
    st_adapter_close(adapter);
    st_vault_free(v);
    st_container_close(c);
    struct st_model *plain = lora_model(&t, &l, 1, (struct st_model_opts){0});
    struct st_engine *en = tiny_engine(m, (struct st_engine_opts){.secret = true, .allow_unlocked = true}),
                     *want_en = tiny_engine(plain, (struct st_engine_opts){0});
    random_ids(ids, 9, 128, 1);
    float *got = lora_logits(en, 128, 1, ids, 9), *want = lora_logits(want_en, 128, 1, ids, 9);
    assert_memory_equal(got, want, 9 * 128 * sizeof *got);
    free(got);
    free(want);
    st_engine_free(en);
    st_engine_free(want_en);
    st_model_close(m);
    st_model_close(plain);

    /* A byte of its last segment: nothing is loaded. */
    bytes.p[bytes.len - 20] ^= 1;
    c = sealed(&bytes, dir);
    assert_ok(st_vault_new(c, &made.content_key, false, &v, &e), &e);
    o.container = c;
    o.source = st_vault_source(v);
    assert_ok(st_adapter_open("a.sealed", &o, &adapter, &e), &e);
    const struct st_adapter *const changed[] = {adapter};
    expect_refusal(st_model_open(dir,
                                 &(struct st_model_opts){.adapters = changed, .n_adapter = 1, .allow_unlocked = true},
                                 &m, &e),
                   &e, ST_VERIFY, "lora_B.weight");
    st_adapter_close(adapter);
    st_vault_free(v);
    st_container_close(c);
    st_secret_wipe(&made.content_key);
    st_buf_free(&bytes);
    st_buf_free(&config);
    free(a);
    free(b);
    tiny_rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_would_change_the_mathematics_is_refused_by_name),
        cmocka_unit_test(fields_that_matter_only_while_training_are_accepted),
        cmocka_unit_test(modules_are_named_as_peft_names_them),
        cmocka_unit_test(the_first_pattern_that_fits_gives_rank_and_alpha),
        cmocka_unit_test(a_regex_that_comes_to_no_end_is_refused),
        cmocka_unit_test(tensors_without_a_place_are_refused_by_name),
        cmocka_unit_test(an_adapter_of_another_base_is_refused_with_both_shapes),
        cmocka_unit_test(config_and_tensors_must_agree),
        cmocka_unit_test(values_that_are_not_finite_are_refused),
        cmocka_unit_test(names_are_told_apart),
        cmocka_unit_test(damaged_files_are_refused_or_work),
        cmocka_unit_test(a_sealed_adapter_is_the_same_in_locked_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
