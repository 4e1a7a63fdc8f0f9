/* Configs, plans and loaded models: what each architecture asks for, what is refused by name, and that damage is
 * refused. */
#include "expect.h"
#include "model/model.h"
#include "mutate.h"
#include "tiny.h"

#include <fcntl.h>
#include <math.h>
#include <sys/stat.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* A whole config.json. */
static int parse_text(const char *text, struct st_config *c, struct st_err *e)
{
    return st_config_parse(text, strlen(text), "config.json", c, e);
}

static void reads_the_fields_of_a_published_config(void **state)
{
    (void)state;
    /* As Llama 3.1 8B has them. */
    static const char text[] =
        "{\"architectures\": [\"LlamaForCausalLM\"], \"attention_bias\": false, \"attention_dropout\": 0.0, "
        "\"bos_token_id\": 128000, \"eos_token_id\": [128001, 128008, 128009], \"hidden_act\": \"silu\", "
        "\"hidden_size\": 4096, \"initializer_range\": 0.02, \"intermediate_size\": 14336, "
        "\"max_position_embeddings\": 131072, \"mlp_bias\": false, \"model_type\": \"llama\", "
        "\"num_attention_heads\": 32, \"num_hidden_layers\": 32, \"num_key_value_heads\": 8, \"pretraining_tp\": 1, "
        "\"rms_norm_eps\": 1e-05, \"rope_scaling\": {\"factor\": 8.0, \"low_freq_factor\": 1.0, "
        "\"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 8192, \"rope_type\": \"llama3\"}, "
        "\"rope_theta\": 500000.0, \"tie_word_embeddings\": false, \"torch_dtype\": \"bfloat16\", "
        "\"transformers_version\": \"4.42.3\", \"use_cache\": true, \"vocab_size\": 128256}";
    struct st_config c;
    struct st_err e = {0};
    assert_ok(parse_text(text, &c, &e), &e);
    assert_string_equal(c.arch, "LlamaForCausalLM");
    assert_string_equal(c.model_type, "llama");
    assert_int_equal(c.d_model, 4096);
    assert_int_equal(c.n_layer, 32);
    assert_int_equal(c.n_head, 32);
    assert_int_equal(c.n_kv_head, 8);
    assert_int_equal(c.head_dim, 128);
    assert_int_equal(c.d_ff, 14336);
    assert_int_equal(c.n_vocab, 128256);
    assert_int_equal(c.n_ctx, 131072);
    assert_true(c.norm_eps == 1e-5f);
    assert_true(c.rope_theta == 500000.0f);
    assert_int_equal(c.rope_scaling, ST_ROPE_LLAMA3);
    assert_true(c.rope_factor == 8 && c.rope_low_freq_factor == 1 && c.rope_high_freq_factor == 4);
    assert_int_equal(c.rope_original_ctx, 8192);
    assert_int_equal(c.sliding_window, 0);
    assert_false(c.tied_head || c.qkv_bias || c.o_bias || c.mlp_bias || c.qk_norm || c.rope_interleaved);
    assert_int_equal(c.bos, 128000);
    assert_int_equal(c.pad, -1);
    assert_int_equal(c.n_eos, 3);
    assert_int_equal(c.eos[2], 128009);
}

static void absent_fields_have_the_reference_defaults(void **state)
{
    (void)state;
    static const char text[] =
        "{\"architectures\": [\"MistralForCausalLM\"], \"hidden_size\": 64, \"intermediate_size\": 96, "
        "\"num_attention_heads\": 4, \"num_hidden_layers\": 2, \"vocab_size\": 50, "
        "\"head_dim\": null, \"rope_scaling\": null, \"eos_token_id\": null}";
    struct st_config c;
    struct st_err e = {0};
    assert_ok(parse_text(text, &c, &e), &e);
    assert_int_equal(c.n_kv_head, 4);
    assert_int_equal(c.head_dim, 16);
    assert_int_equal(c.sliding_window, 4096);
    assert_true(c.norm_eps == 1e-6f && c.rope_theta == 10000);
    assert_int_equal(c.bos, -1);
    assert_int_equal(c.n_eos, 0);
}

static void each_architecture_reads_its_own_fields(void **state)
{
    (void)state;
    static const struct {
        const char *arch, *extra;
        bool qkv_bias, o_bias, mlp_bias, qk_norm;
        uint32_t head_dim, window;
    } rows[] = {
        {"LlamaForCausalLM", "\"attention_bias\": true", true, true, false, false, 16, 0},
        {"LlamaForCausalLM", "\"mlp_bias\": true, \"sliding_window\": 8", false, false, true, false, 16, 0},
        {"MistralForCausalLM", "\"sliding_window\": null", false, false, false, false, 16, 0},
        {"MistralForCausalLM", "\"sliding_window\": 24, \"head_dim\": 32", false, false, false, false, 32, 24},
        {"Qwen2ForCausalLM", NULL, true, false, false, false, 16, 0},
        {"Qwen2ForCausalLM", "\"use_sliding_window\": false, \"sliding_window\": 8, \"max_window_layers\": 0", true,
         false, false, false, 16, 0},
        {"Qwen2ForCausalLM", "\"use_sliding_window\": true, \"sliding_window\": 8, \"max_window_layers\": 0", true,
         false, false, false, 16, 8},
        {"Qwen2ForCausalLM", "\"use_sliding_window\": true, \"sliding_window\": null, \"max_window_layers\": 0", true,
         false, false, false, 16, 0},
        {"Qwen2ForCausalLM", "\"use_sliding_window\": true, \"sliding_window\": 8, \"max_window_layers\": 2", true,
         false, false, false, 16, 0},
        {"Qwen2ForCausalLM", "\"layer_types\": [\"full_attention\", \"full_attention\"]", true, false, false, false, 16,
         0},
        {"Qwen3ForCausalLM", NULL, false, false, false, true, 128, 0},
        {"Qwen3ForCausalLM", "\"attention_bias\": true, \"head_dim\": 8", true, true, false, true, 8, 0},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct st_config c;
        struct st_err e = {0};
        assert_ok(parse_tiny(&(struct tiny){.arch = rows[i].arch, .extra = rows[i].extra}, &c, &e), &e);
        assert_int_equal(c.qkv_bias, rows[i].qkv_bias);
        assert_int_equal(c.o_bias, rows[i].o_bias);
        assert_int_equal(c.mlp_bias, rows[i].mlp_bias);
        assert_int_equal(c.qk_norm, rows[i].qk_norm);
        assert_int_equal(c.head_dim, rows[i].head_dim);
        assert_int_equal(c.sliding_window, rows[i].window);
    }
}

static void rope_is_read_in_the_old_and_the_new_spelling(void **state)
{
    (void)state;
    static const struct {
        const char *extra;
        enum st_rope_scaling scaling;
        float theta, factor;
    } rows[] = {
        {"\"rope_scaling\": {\"type\": \"linear\", \"factor\": 4}", ST_ROPE_LINEAR, 10000, 4},
        {"\"rope_scaling\": {\"rope_type\": \"linear\", \"type\": \"linear\", \"factor\": 4}", ST_ROPE_LINEAR, 10000,
         4},
        {"\"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 1e6}", ST_ROPE_NONE, 1e6f, 0},
        {"\"rope_parameters\": {\"rope_type\": \"linear\", \"rope_theta\": 1e6, \"factor\": 2.0}", ST_ROPE_LINEAR, 1e6f,
         2},
        {"\"rope_scaling\": {\"rope_type\": \"default\", \"rope_theta\": 5e5}", ST_ROPE_NONE, 5e5f, 0},
        {"\"rope_scaling\": {}, \"rope_parameters\": {\"rope_theta\": 5e5}", ST_ROPE_NONE, 5e5f, 0},
        {"\"rope_parameters\": {\"rope_type\": \"llama3\", \"rope_theta\": 5e5, \"factor\": 8, \"low_freq_factor\": 1, "
         "\"high_freq_factor\": 4}",
         ST_ROPE_LLAMA3, 5e5f, 8},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct st_config c;
        struct st_err e = {0};
        assert_ok(parse_tiny(&(struct tiny){.extra = rows[i].extra}, &c, &e), &e);
        assert_int_equal(c.rope_scaling, rows[i].scaling);
        assert_true(c.rope_theta == rows[i].theta);
        assert_true(c.rope_factor == rows[i].factor);
    }
}

/* Values printed by transformers 5.23 (ROPE_INIT_FUNCTIONS), float32. */
static void rotary_frequencies_equal_those_of_transformers(void **state)
{
    (void)state;
    static const struct {
        const char *extra;
        float want[8];
    } rows[] = {
        {"\"rope_scaling\": null",
         {1.000000000e+00f, 3.162277639e-01f, 1.000000015e-01f, 3.162277862e-02f, 9.999999776e-03f, 3.162277862e-03f,
          1.000000047e-03f, 3.162277862e-04f}},
        {"\"rope_scaling\": {\"type\": \"linear\", \"factor\": 4.0}",
         {2.500000000e-01f, 7.905694097e-02f, 2.500000037e-02f, 7.905694656e-03f, 2.499999944e-03f, 7.905694656e-04f,
          2.500000119e-04f, 7.905694656e-05f}},
        {"\"rope_parameters\": {\"rope_type\": \"llama3\", \"rope_theta\": 500000.0, \"factor\": 8.0, "
         "\"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 8192}",
         {1.000000000e+00f, 1.939227581e-01f, 3.760603070e-02f, 7.292665076e-03f, 5.248460220e-04f, 3.428102355e-05f,
          6.647869668e-06f, 1.289173156e-06f}},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct st_config c;
        struct st_err e = {0};
        float got[8];
        assert_ok(parse_tiny(&(struct tiny){.extra = rows[i].extra}, &c, &e), &e);
        st_config_inv_freq(&c, got);
        for (int j = 0; j < 8; j++)
            if (fabsf(got[j] - rows[i].want[j]) > 2e-7f * rows[i].want[j])
                fail_msg("row %zu, pair %d: want %.9e, got %.9e", i, j, (double)rows[i].want[j], (double)got[j]);
    }
}

static void refuses_what_it_does_not_implement_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *arch, *extra;
        int code;
        const char *says;
    } bad[] = {
        {"GPT2LMHeadModel", NULL, ST_UNSUPPORTED,
         "architecture 'GPT2LMHeadModel' is not supported; supported: LlamaForCausalLM, MistralForCausalLM, "
         "MixtralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM, Qwen3MoeForCausalLM, DeepseekV2ForCausalLM, "
         "DeepseekV3ForCausalLM"},
        {NULL, "\"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 4}", ST_UNSUPPORTED, "rope_type 'dynamic'"},
        {NULL, "\"rope_parameters\": {\"rope_type\": \"longrope\"}", ST_UNSUPPORTED, "rope_type 'longrope'"},
        {NULL, "\"rope_parameters\": {\"full_attention\": {\"rope_type\": \"default\"}}", ST_UNSUPPORTED,
         "per layer type"},
        {NULL, "\"rope_scaling\": \"linear\"", ST_INPUT, "rope_scaling: want an object"},
        {NULL, "\"rope_scaling\": {\"type\": \"linear\"}", ST_INPUT, "factor: missing"},
        {NULL, "\"rope_scaling\": {\"type\": \"linear\", \"factor\": -1}", ST_INPUT, "factor: want"},
        {NULL,
         "\"rope_scaling\": {\"type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 4, \"high_freq_factor\": 4}",
         ST_INPUT, "high_freq_factor: want more"},
        {NULL, "\"partial_rotary_factor\": 0.5", ST_UNSUPPORTED, "partial_rotary_factor"},
        {NULL, "\"hidden_act\": \"gelu\"", ST_UNSUPPORTED, "hidden_act 'gelu'"},
        {NULL, "\"quantization_config\": {\"quant_method\": \"gptq\"}", ST_UNSUPPORTED, "quantization_config 'gptq'"},
        {NULL, "\"head_dim\": 258", ST_INPUT, "head_dim: want"},
        {NULL, "\"head_dim\": 15", ST_INPUT, "head_dim: want an even"},
        {NULL, "\"head_dim\": \"16\"", ST_INPUT, "head_dim: want an integer"},
        {NULL, "\"pad_token_id\": \"x\"", ST_INPUT, "pad_token_id: want"},
        {NULL, "\"attention_bias\": 1", ST_INPUT, "attention_bias: want true or false"},
        {"Qwen2ForCausalLM", "\"use_sliding_window\": true, \"max_window_layers\": 1", ST_UNSUPPORTED,
         "use_sliding_window: 1 of 2 layers"},
        {"Qwen2ForCausalLM", "\"layer_types\": [\"full_attention\", \"chunked_attention\"]", ST_UNSUPPORTED,
         "layer_types: 'chunked_attention'"},
        {"Qwen3ForCausalLM", "\"layer_types\": [\"full_attention\"]", ST_INPUT, "layer_types: want a list"},
        {"MistralForCausalLM", "\"sliding_window\": 0", ST_INPUT, "sliding_window: want"},
    };
    for (size_t i = 0; i < COUNT(bad); i++) {
        struct st_config c;
        struct st_err e = {0};
        struct tiny t = {.arch = bad[i].arch, .extra = bad[i].extra};
        expect_refusal(parse_tiny(&t, &c, &e), &e, bad[i].code, bad[i].says);
    }
}

/* Replaces one field of a good config. */
static void refuses_sizes_out_of_range_by_field(void **state)
{
    (void)state;
    static const struct {
        const char *field, *value, *says;
    } bad[] = {
        {"hidden_size", "0", "hidden_size: want an integer in 1..131072"},
        {"intermediate_size", "1", "intermediate_size: want at least 2"},
        {"hidden_size", "131073", "hidden_size: want"},
        {"hidden_size", "null", "hidden_size: missing"},
        {"hidden_size", "66", "hidden_size 66 is not a multiple of num_attention_heads 4"},
        {"intermediate_size", "-4", "intermediate_size: want"},
        {"num_hidden_layers", "1025", "num_hidden_layers: want an integer in 1..1024"},
        {"num_hidden_layers", "2.5", "num_hidden_layers: want"},
        {"num_attention_heads", "\"4\"", "num_attention_heads: want"},
        {"num_key_value_heads", "3", "num_attention_heads 4 is not a multiple of num_key_value_heads 3"},
        {"num_key_value_heads", "8", "is not a multiple"},
        {"vocab_size", "1e30", "vocab_size: want"},
        {"vocab_size", "4194305", "vocab_size: want"},
        {"max_position_embeddings", "0", "max_position_embeddings: want"},
        {"rms_norm_eps", "0", "rms_norm_eps: want"},
        {"rope_theta", "1e400", "config.json"},
        {"bos_token_id", "128", "bos_token_id: want"},
        {"eos_token_id", "128", "eos_token_id: want ids in 0..127"},
        {"eos_token_id", "[1,2,3,4,5,6,7,8,9]", "eos_token_id: more than 8"},
        {"eos_token_id", "\"2\"", "eos_token_id: want"},
        {"architectures", "[]", "architectures: want a list of one name"},
        {"architectures", "\"LlamaForCausalLM\"", "architectures: want a list of one name"},
        {"architectures", "null", "architectures: missing"},
        {"model_type", "\"0123456789012345678901234567890123456789\"", "model_type: longer"},
    };
    struct st_buf good = {0};
    tiny_config(&(struct tiny){0}, &good);
    for (size_t i = 0; i < COUNT(bad); i++) {
        struct st_err e = {0};
        struct st_config c;
        struct st_buf b = {0};
        json_t *o = NULL, *v = NULL;
        assert_ok(st_json_parse(good.p, good.len, "good", &o, &e), &e);
        if (st_json_parse(bad[i].value, strlen(bad[i].value), "value", &v, &e) == 0) {
            json_object_set_new(o, bad[i].field, v);
            st_json_dump(o, &b);
            expect_refusal(st_config_parse(b.p, b.len, "config.json", &c, &e), &e, ST_INPUT, bad[i].says);
        }
        json_decref(o);
        st_buf_free(&b);
    }
    struct st_config wide, c;
    struct st_err e = {0};
    assert_ok(st_config_parse(good.p, good.len, "config.json", &wide, &e), &e);
    wide.n_head = wide.n_kv_head * 65;
    expect_refusal(st_config_check(&wide, "config.json", &e), &e, ST_UNSUPPORTED, "65 query heads per key/value head");
    st_buf_free(&good);
    expect_refusal(parse_text("[]", &c, &e), &e, ST_INPUT, "want a JSON object");
    expect_refusal(parse_text("", &c, &e), &e, ST_INPUT, "not valid JSON");
}

static void end_ids_of_generation_config_join_those_of_config(void **state)
{
    (void)state;
    char dir[64];
    struct st_config c;
    struct st_err e = {0};
    static const char more[] = "{\"eos_token_id\": [2, 7], \"temperature\": 0.6}";
    tiny_mkdir(dir);
    tiny_write(&(struct tiny){0}, dir);
    tiny_save(dir, "generation_config.json", more, sizeof more - 1);
    assert_ok(st_config_read(dir, &c, &e), &e);
    assert_int_equal(c.n_eos, 2);
    assert_int_equal(c.eos[0], 2);
    assert_int_equal(c.eos[1], 7);
    tiny_save(dir, "generation_config.json", "{", 1);
    expect_refusal(st_config_read(dir, &c, &e), &e, ST_INPUT, "generation_config.json");
    tiny_rmdir(dir);
}

static void plan_of(const struct tiny *t, struct st_config *c, struct st_plan *p)
{
    const struct st_arch *arch;
    struct st_err e = {0};
    *p = (struct st_plan){0};
    assert_ok(parse_tiny(t, c, &e), &e);
    assert_ok(st_arch_find(c->arch, &arch, &e), &e);
    arch->plan(c, p);
    assert_ok(st_plan_check(p, &e), &e);
}

/* One letter per op (scatter is C), with the group in front of linear ops that have one. */
static void spell(const struct st_plan *p, char *out)
{
    for (int i = 0; i < p->n_op; i++) {
        if (p->ops[i].group)
            *out++ = (char)('0' + p->ops[i].group);
        *out++ = "EnLrcaS+RGC"[p->ops[i].op];
    }
    *out = 0;
}

static void plans_list_the_ops_of_each_architecture(void **state)
{
    (void)state;
    static const struct {
        struct tiny t;
        const char *ops;
        int n_weight;
    } rows[] = {
        {{.n_layer = 2}, "En1L1L1LrraL+n2L2LSL+n3L3L3LrraL+n4L4LSL+nL", 21},
        {{.n_layer = 1, .extra = "\"attention_bias\": true, \"mlp_bias\": true"}, "En1L1L1LrraL+n2L2LSL+nL", 19},
        {{.n_layer = 1, .arch = "MistralForCausalLM", .tied = true}, "En1L1L1LrraL+n2L2LSL+nL", 12},
        {{.n_layer = 1, .arch = "Qwen2ForCausalLM"}, "En1L1L1LrraL+n2L2LSL+nL", 15},
        {{.n_layer = 1, .arch = "Qwen3ForCausalLM"}, "En1L1L1LnnrraL+n2L2LSL+nL", 14},
        {{.n_layer = 1, .arch = "MixtralForCausalLM", .extra = "\"num_local_experts\": 2, \"num_experts_per_tok\": 1"},
         "En1L1L1LrraL+nLRG2L2LSLCG3L3LSLCnL",
         16},
        {{.n_layer = 2,
          .arch = "Qwen3MoeForCausalLM",
          .extra = "\"num_local_experts\": 2, \"num_experts_per_tok\": 1, \"moe_intermediate_size\": 8, "
                   "\"decoder_sparse_step\": 2"},
         "En1L1L1LnnrraL+n2L2LSL+n3L3L3LnnrraL+nLRG4L4LSLCG5L5LSLCnL",
         29},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct st_config c;
        struct st_plan p;
        char ops[128];
        plan_of(&rows[i].t, &c, &p);
        spell(&p, ops);
        assert_string_equal(ops, rows[i].ops);
        assert_int_equal(p.n_weight, rows[i].n_weight);
        assert_true(p.ops[p.n_op - 1].last_row_only && p.ops[p.n_op - 2].last_row_only &&
                    !p.ops[p.n_op - 3].last_row_only);
        assert_int_equal(p.weights[p.n_weight - 1].tied_to, rows[i].t.tied ? 0 : -1);
        st_plan_free(&p);
    }
}

static void exchanges_are_counted_per_group(void **state)
{
    (void)state;
    struct st_config c;
    struct st_plan p;
    plan_of(&(struct tiny){.n_layer = 3}, &c, &p);
    assert_int_equal(st_plan_exchanges(&p), 0);
    for (int i = 0; i < p.n_op; i++)
        if (p.ops[i].op == ST_OP_LINEAR)
            p.ops[i].place = ST_PLACE_UNTRUSTED;
    assert_int_equal(st_plan_exchanges(&p), 4 * 3 + 1);
    struct st_err e = {0};
    assert_ok(st_plan_check(&p, &e), &e);
    st_plan_free(&p);
}

/* Each row breaks one thing of a good plan. Ops: 0 embed, 1 norm, 2-4 q k v, 5-6 rope, 7 attend, 8 o, 9 add, 10 norm,
 * 11-12 gate up, 13 silu, 14 down, 15 add, 16 norm, 17 head. */
static void a_broken_plan_is_refused(void **state)
{
    (void)state;
    enum { BREAKS = 22 };
    for (int i = 0; i < BREAKS; i++) {
        struct st_config c;
        struct st_plan p;
        struct st_err e = {0};
        plan_of(&(struct tiny){.n_layer = 1}, &c, &p);
        struct st_plan_op *o = p.ops;
        switch (i) {
        case 0:
            o[2].in = p.n_slot;
            break;
        case 1:
            o[2].in = -1;
            break;
        case 2:
            o[2].out = o[2].in;
            break;
        case 3:
            o[2].weight = o[3].weight;
            break;
        case 4:
            o[2].bias = o[2].weight;
            break;
        case 5:
            o[3].group = 0;
            break; /* tears q, k, v */
        case 6:
            o[12].group = 1;
            break; /* joins a finished group */
        case 7:
            o[3].place = ST_PLACE_UNTRUSTED;
            break;
        case 8:
            o[4].out = o[3].out;
            break;
        case 9:
            o[5].head = 3;
            break;
        case 10:
            o[7].layer = -1;
            break;
        case 11:
            o[7].in2 = o[7].in;
            break;
        case 12:
            o[9].out = o[9].in;
            break;
        case 13:
            o[9].in2 = 0;
            break;
        case 14:
            o[13].in2 = o[13].in;
            break;
        case 15:
            o[9].place = ST_PLACE_UNTRUSTED;
            break;
        case 16:
            o[8].last_row_only = true;
            break; /* later ops want the rows back */
        case 17:
            o[1].weight = o[2].weight;
            break;
        case 18:
            o[1].group = 9;
            break;
        case 19:
            p.weights[3].tied_to = 5;
            break;
        case 20:
            p.slot_width[0] = 0;
            break;
        case 21:
            p.failed = true;
            break;
        }
        int rc = st_plan_check(&p, &e);
        if (rc != (i == 21 ? ST_MEMORY : ST_INTERNAL))
            fail_msg("break %d: got %d '%s'", i, rc, e.msg);
        st_plan_free(&p);
    }
    struct st_plan none = {0};
    struct st_err e = {0};
    assert_int_equal(st_plan_check(&none, &e), ST_INTERNAL);
}

static const struct st_mat *mat_of(const struct st_model *m, const char *name)
{
    for (int i = 0; i < m->plan.n_weight; i++)
        if (strcmp(m->plan.weights[i].name, name) == 0)
            return &m->mats[i];
    fail_msg("no weight %s", name);
    return NULL;
}

/* Compares a loaded weight with what tiny_values() made, through the stored dtype. */
static void expect_values(const struct tiny *t, const struct st_model *m, double tolerance)
{
    for (int i = 0; i < m->plan.n_weight; i++) {
        struct st_plan_weight w = m->plan.weights[i];
        const struct st_mat *mat = &m->mats[i];
        size_t n = (size_t)w.n_out * w.n_in;
        if (w.tied_to >= 0)
            w = m->plan.weights[w.tied_to];
        float *want = calloc(n, sizeof *want), *got = calloc(n, sizeof *got);
        tiny_values(t, &w, want);
        if (mat->dtype == ST_DTYPE_I8)
            for (size_t j = 0; j < n; j++)
                got[j] = (float)((const int8_t *)mat->data)[j] * mat->scale[j / w.n_in];
        else
            st_convert(mat->dtype, mat->data, ST_DTYPE_F32, got, n);
        double bound = w.n_in == 1 ? 0 : tolerance;
        for (size_t j = 0; j < n; j++)
            if (!(fabs((double)got[j] - (double)want[j]) <= bound))
                fail_msg("%s [%zu]: want %g, got %g", w.name, j, (double)want[j], (double)got[j]);
        free(want);
        free(got);
    }
}

static void every_architecture_loads_with_every_dtype(void **state)
{
    (void)state;
    static const struct tiny rows[] = {
        {.seed = 1},
        {.seed = 2, .tied = true, .n_kv_head = 1, .dtype = ST_DTYPE_BF16},
        {.seed = 3, .extra = "\"attention_bias\": true, \"mlp_bias\": true", .n_shard = 2},
        {.seed = 4, .arch = "MistralForCausalLM", .head_dim = 32, .dtype = ST_DTYPE_F16},
        {.seed = 5, .arch = "Qwen2ForCausalLM", .n_kv_head = 4, .dtype = ST_DTYPE_BF16, .header_pad = 1},
        {.seed = 6, .arch = "Qwen3ForCausalLM", .tied = true, .head_dim = 8, .header_pad = 3},
        {.seed = 7, .tied = true, .dtype = ST_DTYPE_F16, .header_pad = 1},
        {.seed = 8,
         .arch = "MixtralForCausalLM",
         .dtype = ST_DTYPE_BF16,
         .extra = "\"num_local_experts\": 3, \"num_experts_per_tok\": 2"},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        char dir[64];
        tiny_mkdir(dir);
        tiny_write(&rows[i], dir);
        for (int load = ST_LOAD_KEEP; load <= ST_LOAD_F32; load++) {
            static const double steps[] = {0, 2e-3, 1e-3, 0};
            static const enum st_dtype made[] = {ST_DTYPE_COUNT, ST_DTYPE_I8, ST_DTYPE_BF16, ST_DTYPE_F32};
            struct st_model *m;
            struct st_err e = {0};
            assert_ok(
                st_model_open(dir, &(struct st_model_opts){.dtype = (enum st_load_dtype)load, .n_threads = 2}, &m, &e),
                &e);
            enum st_dtype stored = rows[i].dtype;
            double bound = steps[load] + (stored == ST_DTYPE_F32 ? 0 : 1e-3);
            expect_values(&rows[i], m, bound);
            assert_int_equal(m->config.dtype, stored);
            const struct st_mat *embed = mat_of(m, "model.embed_tokens.weight"), *head = mat_of(m, "lm_head.weight");
            assert_int_equal(embed->dtype, stored);
            assert_int_equal(head->dtype, load == ST_LOAD_KEEP ? stored : made[load]);
            if (rows[i].tied)
                assert_int_equal(embed->data == head->data, head->dtype == stored);
            assert_int_equal((uintptr_t)head->data % st_dtype_size(head->dtype), 0);
            st_model_close(m);
        }
        tiny_rmdir(dir);
    }
}

static void int8_copies_are_the_canonical_quantisation_of_each_row(void **state)
{
    (void)state;
    char dir[64];
    struct tiny t = {.seed = 9};
    struct st_model *m;
    struct st_err e = {0};
    tiny_mkdir(dir);
    tiny_write(&t, dir);
    assert_ok(st_model_open(dir, &(struct st_model_opts){.dtype = ST_LOAD_INT8}, &m, &e), &e);
    uint64_t bytes = 0;
    for (int i = 0; i < m->plan.n_weight; i++) {
        const struct st_plan_weight *w = &m->plan.weights[i];
        if (w->n_in == 1)
            continue;
        if (w->role == ST_ROLE_EMBED) {
            bytes += w->n_in * sizeof(float);
            continue;
        }
        size_t n = (size_t)w->n_out * w->n_in;
        bytes += n + w->n_out * sizeof(float);
        float *v = calloc(n, sizeof *v);
        int8_t *q = calloc(w->n_in, 1);
        tiny_values(&t, w, v);
        for (size_t r = 0; r < w->n_out; r++) {
            assert_true(st_quantize_row(v + r * w->n_in, w->n_in, q) == m->mats[i].scale[r]);
            assert_memory_equal(q, (const int8_t *)m->mats[i].data + r * w->n_in, w->n_in);
        }
        free(v);
        free(q);
    }
    assert_int_equal(m->weight_bytes, bytes);
    st_model_close(m);
    tiny_rmdir(dir);
}

/* Writes one safetensors file whose header is the tiny one with one replacement. */
static void expect_bad_tensor(const char *from, const char *to, int code, const char *says)
{
    char dir[64], path[ST_PATH_MAX];
    struct st_buf b = {0}, out = {0};
    struct st_model *m;
    struct st_err e = {0};
    uint64_t len;
    tiny_mkdir(dir);
    tiny_write(&(struct tiny){0}, dir);
    assert_ok(st_path_join(path, sizeof path, dir, "model.safetensors", &e), &e);
    assert_ok(st_file_read(path, 1 << 20, &b, &e), &e);
    char *at = memmem(b.p, b.len, from, strlen(from));
    assert_non_null(at);
    memcpy(&len, b.p, 8);
    len = len + strlen(to) - strlen(from);
    st_buf_add(&out, &len, 8);
    st_buf_add(&out, b.p + 8, (size_t)(at - b.p) - 8);
    st_buf_add_str(&out, to);
    st_buf_add(&out, at + strlen(from), b.len - (size_t)(at - b.p) - strlen(from));
    tiny_save(dir, "model.safetensors", out.p, out.len);
    expect_refusal(st_model_open(dir, NULL, &m, &e), &e, code, says);
    assert_null(m);
    st_buf_free(&b);
    st_buf_free(&out);
    tiny_rmdir(dir);
}

static void a_tensor_that_does_not_fit_is_named_with_both_shapes(void **state)
{
    (void)state;
    static const char k[] = "\"model.layers.1.self_attn.k_proj.weight\":{\"dtype\":\"F32\",\"shape\":[32,64]";
    expect_bad_tensor(k, "\"model.layers.1.self_attn.k_proj.weight\":{\"dtype\":\"F32\",\"shape\":[64,32]", ST_INPUT,
                      "model.layers.1.self_attn.k_proj.weight: want [32,64] f32, f16 or bf16, got [64,32] F32");
    expect_bad_tensor(k, "\"model.layers.1.self_attn.k_proj.weight\":{\"dtype\":\"F32\",\"shape\":[2048]", ST_INPUT,
                      "want [32,64] f32, f16 or bf16, got [2048] F32");
    expect_bad_tensor(k, "\"model.layers.1.self_attn.k_proj.weight\":{\"dtype\":\"I32\",\"shape\":[32,64]",
                      ST_UNSUPPORTED, "model.layers.1.self_attn.k_proj.weight: dtype I32 is not supported");
    expect_bad_tensor(k, "\"model.layers.1.self_attn.k_prot.weight\":{\"dtype\":\"F32\",\"shape\":[32,64]", ST_INPUT,
                      "model.layers.1.self_attn.k_proj.weight: missing");
    expect_bad_tensor(
        "\"__metadata__\":{\"format\":\"pt\"}",
        "\"model.layers.0.self_attn.q_proj.bias\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}", ST_INPUT,
        "model.layers.0.self_attn.q_proj.bias: this tensor has no place in LlamaForCausalLM");
}

static void stored_rotary_frequencies_and_a_tied_head_may_be_present(void **state)
{
    (void)state;
    char dir[64];
    struct st_model *m;
    struct st_err e = {0};
    tiny_mkdir(dir);
    tiny_write(&(struct tiny){0}, dir); /* has lm_head.weight */
    struct st_buf b = {0};
    tiny_config(&(struct tiny){.tied = true}, &b);
    tiny_save(dir, "config.json", b.p, b.len);
    st_buf_free(&b);
    assert_ok(st_model_open(dir, NULL, &m, &e), &e);
    assert_ptr_equal(mat_of(m, "lm_head.weight")->data, mat_of(m, "model.embed_tokens.weight")->data);
    st_model_close(m);
    tiny_rmdir(dir);
}

static void a_path_that_is_no_model_is_refused(void **state)
{
    (void)state;
    char dir[64], path[ST_PATH_MAX];
    struct st_model *m;
    struct st_err e = {0};
    tiny_mkdir(dir);
    expect_refusal(st_model_open(dir, NULL, &m, &e), &e, ST_INPUT, "no config.json");
    assert_ok(st_path_join(path, sizeof path, dir, "absent.bin", &e), &e);
    expect_refusal(st_model_open(path, NULL, &m, &e), &e, ST_IO, "absent.bin");
    tiny_save(dir, "m.gguf", "GGUF....", 8);
    assert_ok(st_path_join(path, sizeof path, dir, "m.gguf", &e), &e);
    expect_refusal(st_model_open(path, NULL, &m, &e), &e, ST_UNSUPPORTED, "GGUF");
    tiny_rmdir(dir);
}

/* A file with holes: about 560 GB of weights that take no room on disk. */
static void a_model_too_large_for_memory_says_what_it_needs(void **state)
{
    (void)state;
    char dir[64], path[ST_PATH_MAX];
    struct st_config c;
    struct st_plan p;
    struct st_buf config = {0}, head = {0};
    struct st_model *m;
    struct st_err e = {0};
    struct tiny t = {.d_model = 65536, .d_ff = 262144, .n_layer = 1, .n_head = 256, .n_kv_head = 256, .n_vocab = 128};
    tiny_mkdir(dir);
    tiny_config(&t, &config);
    tiny_save(dir, "config.json", config.p, config.len);
    plan_of(&t, &c, &p);
    uint64_t at = 0;
    for (int i = 0; i < p.n_weight; i++) {
        const struct st_plan_weight *w = &p.weights[i];
        uint64_t bytes = 4ull * w->n_out * w->n_in;
        st_buf_addf(&head, "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[%u", i ? "," : "{", w->name, w->n_out);
        if (w->n_in != 1)
            st_buf_addf(&head, ",%u", w->n_in);
        st_buf_addf(&head, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)at, (unsigned long long)(at + bytes));
        at += bytes;
    }
    st_buf_add_str(&head, "}");
    uint64_t len = head.len;
    tiny_save(dir, "model.safetensors", &len, 8);
    assert_ok(st_path_join(path, sizeof path, dir, "model.safetensors", &e), &e);
    int fd = open(path, O_WRONLY | O_APPEND);
    bool sparse = write(fd, head.p, head.len) == (ssize_t)head.len && ftruncate(fd, (off_t)(8 + head.len + at)) == 0;
    close(fd);
    if (sparse) {
        expect_refusal(st_model_open(dir, NULL, &m, &e), &e, ST_MEMORY, "the weights need");
        assert_non_null(strstr(e.msg, "GiB are available"));
        struct st_model_opts int8 = {.dtype = ST_LOAD_INT8};
        expect_refusal(st_model_open(dir, &int8, &m, &e), &e, ST_MEMORY, "the weights need");
    } else
        print_message("skipped: the file system has no files with holes of this size\n");
    st_plan_free(&p);
    st_buf_free(&config);
    st_buf_free(&head);
    tiny_rmdir(dir);
}

/* Reads the first and last byte of every weight. */
static void touch(const struct st_model *m)
{
    volatile uint8_t last;
    for (int i = 0; i < m->plan.n_weight; i++) {
        const uint8_t *p = m->mats[i].data;
        last = p[0];
        last = p[st_mat_bytes(&m->mats[i]) - 1];
    }
    (void)last;
}

/* Every truncation and n mutations of one file of a model directory. */
static void damage(const struct tiny *t, const char *file, size_t hot, int n, uint64_t seed)
{
    char dir[64], path[ST_PATH_MAX];
    struct st_buf b = {0};
    struct st_err e = {0};
    struct st_rng rng;
    int n_ok = 0;
    tiny_mkdir(dir);
    tiny_write(t, dir);
    assert_ok(st_path_join(path, sizeof path, dir, file, &e), &e);
    assert_ok(st_file_read(path, 1 << 20, &b, &e), &e);
    st_rng_seed(&rng, seed);
    for (size_t i = 0; i < b.len + (size_t)n; i++) {
        struct st_model *m;
        size_t len = i;
        uint8_t *bad = i < b.len ? NULL : mutate(&rng, b.p, b.len, hot, &len);
        tiny_save(dir, file, bad ? bad : (const void *)b.p, len);
        free(bad);
        int rc = st_model_open(dir, NULL, &m, &e);
        if (rc != 0 && rc != ST_INPUT && rc != ST_UNSUPPORTED && rc != ST_IO && rc != ST_MEMORY)
            fail_msg("%s, damage %zu: class %d '%s'", file, i, rc, e.msg);
        if (rc == 0) {
            touch(m);
            n_ok++;
        }
        st_model_close(m);
    }
    /* Some damage is harmless (white space, numbers of a tensor), most is not. */
    assert_in_range(n_ok, 1, n);
    st_buf_free(&b);
    tiny_rmdir(dir);
}

static const struct tiny smallest = {.d_model = 4,
                                     .d_ff = 4,
                                     .n_layer = 1,
                                     .n_head = 2,
                                     .n_kv_head = 1,
                                     .n_vocab = 8,
                                     .tied = true,
                                     .dtype = ST_DTYPE_BF16};

static void damaged_safetensors_files_are_refused_or_load(void **state)
{
    (void)state;
    damage(&smallest, "model.safetensors", 1200, 10000, 11);
}

static void damaged_indices_are_refused_or_load(void **state)
{
    (void)state;
    struct tiny t = smallest;
    t.n_shard = 2;
    damage(&t, "model.safetensors.index.json", 0, 10000, 12);
}

static void damaged_configs_are_refused_or_load(void **state)
{
    (void)state;
    struct tiny t = smallest;
    t.extra = "\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8.0, \"low_freq_factor\": 1.0, "
              "\"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 32}";
    damage(&t, "config.json", 0, 10000, 13);
}

static void the_golden_llama2c_model_loads(void **state)
{
    (void)state;
    char path[ST_PATH_MAX];
    struct st_model *m;
    struct st_err e = {0};
    const char *shared = getenv("SOTTO_SHARED");
    assert_ok(st_path_join(path, sizeof path, shared ? shared : "../shared", "data/models/stories260K.bin", &e), &e);
    if (!st_path_exists(path)) {
        print_message("skipped: stories260K.bin is not here (SOTTO_SHARED)\n");
        return;
    }
    assert_ok(st_model_open(path, NULL, &m, &e), &e);
    assert_string_equal(m->name, "stories260K.bin");
    assert_int_equal(m->config.d_model, 64);
    assert_int_equal(m->config.n_layer, 5);
    assert_int_equal(m->config.n_kv_head, 4);
    assert_int_equal(m->config.n_vocab, 512);
    assert_true(m->config.tied_head);
    assert_ptr_equal(mat_of(m, "lm_head.weight")->data, mat_of(m, "model.embed_tokens.weight")->data);
    touch(m);
    st_model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_the_fields_of_a_published_config),
        cmocka_unit_test(absent_fields_have_the_reference_defaults),
        cmocka_unit_test(each_architecture_reads_its_own_fields),
        cmocka_unit_test(rope_is_read_in_the_old_and_the_new_spelling),
        cmocka_unit_test(rotary_frequencies_equal_those_of_transformers),
        cmocka_unit_test(refuses_what_it_does_not_implement_by_name),
        cmocka_unit_test(refuses_sizes_out_of_range_by_field),
        cmocka_unit_test(end_ids_of_generation_config_join_those_of_config),
        cmocka_unit_test(plans_list_the_ops_of_each_architecture),
        cmocka_unit_test(exchanges_are_counted_per_group),
        cmocka_unit_test(a_broken_plan_is_refused),
        cmocka_unit_test(every_architecture_loads_with_every_dtype),
        cmocka_unit_test(int8_copies_are_the_canonical_quantisation_of_each_row),
        cmocka_unit_test(a_tensor_that_does_not_fit_is_named_with_both_shapes),
        cmocka_unit_test(stored_rotary_frequencies_and_a_tied_head_may_be_present),
        cmocka_unit_test(a_path_that_is_no_model_is_refused),
        cmocka_unit_test(a_model_too_large_for_memory_says_what_it_needs),
        cmocka_unit_test(damaged_safetensors_files_are_refused_or_load),
        cmocka_unit_test(damaged_indices_are_refused_or_load),
        cmocka_unit_test(damaged_configs_are_refused_or_load),
        cmocka_unit_test(the_golden_llama2c_model_loads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
