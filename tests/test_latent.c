/* DeepSeek's latent attention: its config, its plan, the tensors that it ignores; and yarn, for it and for others. That
 * the numbers are right is checked against transformers in tests/interop. */
#include "engine/exec.h"
#include "expect.h"
#include "model/model.h"
#include "tiny.h"

#include <math.h>

#define COUNT(a) (sizeof(a) / sizeof *(a))

#define V2 "DeepseekV2ForCausalLM"
#define V3 "DeepseekV3ForCausalLM"
#define HEADS "\"qk_nope_head_dim\": 12, \"qk_rope_head_dim\": 8, \"v_head_dim\": 10"
#define DENSE "\"q_lora_rank\": 24, \"kv_lora_rank\": 20, \"first_k_dense_replace\": 2, " HEADS
#define EXPERTS                                                                                                        \
    "\"q_lora_rank\": null, \"kv_lora_rank\": 20, \"first_k_dense_replace\": 1, \"n_routed_experts\": 6, "             \
    "\"num_experts_per_tok\": 2, \"moe_intermediate_size\": 16, \"n_shared_experts\": 1, " HEADS

static struct tiny latent(const char *arch, const char *extra)
{
    return (struct tiny){.arch = arch, .n_kv_head = 4, .extra = extra};
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

static void reads_the_sizes_of_latent_attention(void **state)
{
    (void)state;
    struct st_config c;
    struct st_err e = {0};
    struct tiny t = latent(V2, DENSE ", \"attention_bias\": true, \"head_dim\": 8, \"qk_head_dim\": 20");
    assert_ok(parse_tiny(&t, &c, &e), &e);
    assert_int_equal(c.head_dim, 20);
    assert_int_equal(c.rope_dim, 8);
    assert_int_equal(c.v_head_dim, 10);
    assert_int_equal(c.q_lora_rank, 24);
    assert_int_equal(c.kv_lora_rank, 20);
    assert_true(c.qkv_bias && c.o_bias && c.rope_interleaved && !c.mlp_bias);
    assert_int_equal(c.n_expert, 0);

    static const struct {
        const char *extra;
        bool interleaved;
        uint32_t n_mtp;
    } rows[] = {
        {DENSE, true, 0},
        {DENSE ", \"rope_interleave\": false, \"num_nextn_predict_layers\": 1", false, 1},
        {DENSE ", \"rope_interleave\": null", false, 0},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        t = latent(V3, rows[i].extra);
        assert_ok(parse_tiny(&t, &c, &e), &e);
        assert_int_equal(c.rope_interleaved, rows[i].interleaved);
        assert_int_equal(c.n_mtp_layer, rows[i].n_mtp);
    }
    /* Other architectures have heads of one size, rotated as a whole. */
    assert_ok(parse_tiny(&(struct tiny){.head_dim = 32}, &c, &e), &e);
    assert_true(c.head_dim == 32 && c.v_head_dim == 32 && c.rope_dim == 32 && !c.kv_lora_rank);
}

static void reads_how_experts_are_chosen(void **state)
{
    (void)state;
    static const struct {
        const char *arch, *extra;
        uint32_t n_group, n_group_used;
        enum st_score score;
        bool bias, norm;
    } rows[] = {
        {V2, EXPERTS, 0, 0, ST_SCORE_SOFTMAX, false, false},
        {V2, EXPERTS ", \"topk_method\": \"greedy\", \"n_group\": 1, \"topk_group\": 1", 0, 0, ST_SCORE_SOFTMAX, false,
         false},
        {V2, EXPERTS ", \"topk_method\": \"group_limited_greedy\", \"n_group\": 3, \"topk_group\": 2", 3, 2,
         ST_SCORE_SOFTMAX, false, false},
        {V3, EXPERTS ", \"n_group\": 3, \"topk_group\": 1", 3, 1, ST_SCORE_SIGMOID, true, true},
        {V3,
         EXPERTS ", \"n_group\": 1, \"topk_group\": 1, \"norm_topk_prob\": false, \"scoring_func\": \"sigmoid\", "
                 "\"topk_method\": \"noaux_tc\", \"moe_layer_freq\": 1",
         1, 1, ST_SCORE_SIGMOID, true, false},
        {V3, EXPERTS ", \"n_group\": 1, \"topk_group\": 1, \"norm_topk_prob\": null", 1, 1, ST_SCORE_SIGMOID, true,
         false},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct st_config c;
        struct st_err e = {0};
        struct tiny t = latent(rows[i].arch, rows[i].extra);
        assert_ok(parse_tiny(&t, &c, &e), &e);
        assert_true(!st_config_is_moe(&c, 0) && st_config_is_moe(&c, 1));
        assert_int_equal(c.n_expert, 6);
        assert_int_equal(c.n_expert_used, 2);
        assert_int_equal(c.n_group, rows[i].n_group);
        assert_int_equal(c.n_group_used, rows[i].n_group_used);
        assert_int_equal(c.score, rows[i].score);
        assert_int_equal(c.router_bias, rows[i].bias);
        assert_int_equal(c.norm_topk, rows[i].norm);
    }
}

static void refuses_by_field_what_does_not_fit(void **state)
{
    (void)state;
    static const struct {
        const char *arch, *extra;
        int code;
        const char *says;
    } bad[] = {
        {V2, HEADS ", \"kv_lora_rank\": 20", ST_INPUT, "q_lora_rank: missing"},
        {V2, HEADS ", \"q_lora_rank\": 24", ST_INPUT, "kv_lora_rank: missing"},
        {V2, HEADS ", \"q_lora_rank\": 1, \"kv_lora_rank\": 20", ST_INPUT, "q_lora_rank: want"},
        {V2, HEADS ", \"q_lora_rank\": null, \"kv_lora_rank\": 0", ST_INPUT, "kv_lora_rank: want"},
        {V2, HEADS ", \"q_lora_rank\": null, \"kv_lora_rank\": 131073", ST_INPUT, "kv_lora_rank: want"},
        {V2, "\"q_lora_rank\": null, \"kv_lora_rank\": 20, \"qk_rope_head_dim\": 8, \"v_head_dim\": 10", ST_INPUT,
         "qk_nope_head_dim: missing"},
        {V3,
         "\"q_lora_rank\": null, \"kv_lora_rank\": 20, \"qk_nope_head_dim\": 8, \"qk_rope_head_dim\": 7, "
         "\"v_head_dim\": 10",
         ST_INPUT, "qk_rope_head_dim: want an even number"},
        {V3,
         "\"q_lora_rank\": null, \"kv_lora_rank\": 20, \"qk_nope_head_dim\": 200, \"qk_rope_head_dim\": 64, "
         "\"v_head_dim\": 10",
         ST_INPUT, "qk_nope_head_dim + qk_rope_head_dim: want at most 256, got 264"},
        {V3,
         "\"q_lora_rank\": null, \"kv_lora_rank\": 20, \"qk_nope_head_dim\": 8, \"qk_rope_head_dim\": 8, "
         "\"v_head_dim\": 257",
         ST_INPUT, "v_head_dim: want"},
        {V3,
         "\"q_lora_rank\": null, \"kv_lora_rank\": 20, \"qk_nope_head_dim\": 8, \"qk_rope_head_dim\": 8, "
         "\"v_head_dim\": 1",
         ST_INPUT, "v_head_dim: want"},
        {V3, DENSE ", \"rope_interleave\": 1", ST_INPUT, "rope_interleave: want true or false"},
        {V3, DENSE ", \"quantization_config\": {\"quant_method\": \"fp8\"}", ST_UNSUPPORTED,
         "quantization_config 'fp8'"},
        {V2, EXPERTS ", \"topk_method\": \"noaux_tc\"", ST_UNSUPPORTED, "topk_method 'noaux_tc'"},
        {V2, EXPERTS ", \"topk_method\": \"group_limited_greedy\"", ST_INPUT, "n_group: missing"},
        {V2, EXPERTS ", \"scoring_func\": \"sigmoid\"", ST_UNSUPPORTED, "scoring_func 'sigmoid'"},
        {V2, EXPERTS ", \"moe_layer_freq\": 2", ST_UNSUPPORTED, "moe_layer_freq 2"},
        {V2, EXPERTS ", \"norm_topk_prob\": true", ST_UNSUPPORTED, "norm_topk_prob true"},
        {V2, EXPERTS ", \"mlp_bias\": true", ST_UNSUPPORTED, "mlp_bias true"},
        {V2, EXPERTS ", \"routed_scaling_factor\": 0", ST_INPUT, "routed_scaling_factor: want"},
        {V3, EXPERTS, ST_INPUT, "n_group: missing"},
        {V3, EXPERTS ", \"n_group\": 4, \"topk_group\": 2", ST_INPUT, "n_group 4 does not divide"},
        {V3, EXPERTS ", \"n_group\": 1, \"topk_group\": 1, \"topk_method\": \"greedy\"", ST_UNSUPPORTED,
         "topk_method 'greedy'"},
    };
    struct st_config c;
    struct st_err e = {0};
    for (size_t i = 0; i < COUNT(bad); i++) {
        struct tiny t = latent(bad[i].arch, bad[i].extra);
        expect_refusal(parse_tiny(&t, &c, &e), &e, bad[i].code, bad[i].says);
    }
    expect_refusal(parse_tiny(&(struct tiny){.arch = V2, .extra = DENSE}, &c, &e), &e, ST_UNSUPPORTED,
                   "num_key_value_heads: want num_attention_heads = 4, got 2");
    /* 1024 heads of 100 + 100 values. */
    struct tiny wide = {.arch = V3,
                        .n_head = 1024,
                        .n_kv_head = 1024,
                        .extra = "\"q_lora_rank\": null, \"kv_lora_rank\": 20, \"qk_nope_head_dim\": 100, "
                                 "\"qk_rope_head_dim\": 8, \"v_head_dim\": 100"};
    expect_refusal(parse_tiny(&wide, &c, &e), &e, ST_INPUT, "num_attention_heads x head_dim: want at most");
}

static void yarn_fields_out_of_range_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *fields, *says;
    } bad[] = {
        {"\"beta_fast\": 32", "factor: missing"},
        {"\"factor\": 0", "factor: want"},
        {"\"factor\": 4, \"beta_fast\": -1", "beta_fast: want"},
        {"\"factor\": 4, \"beta_slow\": \"1\"", "beta_slow: want"},
        {"\"factor\": 4, \"mscale\": -1", "mscale: want"},
        {"\"factor\": 4, \"mscale_all_dim\": 1e9", "mscale_all_dim: want"},
        {"\"factor\": 4, \"attention_factor\": 0", "attention_factor: want"},
        {"\"factor\": 4, \"truncate\": 1", "truncate: want true or false"},
        {"\"factor\": 4, \"original_max_position_embeddings\": 0", "original_max_position_embeddings: want"},
        {"\"factor\": 4, \"rope_theta\": 1", "rope_theta: want more than 1"},
    };
    for (size_t i = 0; i < COUNT(bad); i++) {
        char extra[256];
        struct st_config c;
        struct st_err e = {0};
        snprintf(extra, sizeof extra, "\"rope_scaling\": {\"type\": \"yarn\", %s}", bad[i].fields);
        expect_refusal(parse_tiny(&(struct tiny){.extra = extra}, &c, &e), &e, ST_INPUT, bad[i].says);
    }
}

/* Values printed by transformers 5.23 (ROPE_INIT_FUNCTIONS["yarn"]), heads of 16 values, 64 positions. */
static void yarn_frequencies_and_gains_equal_those_of_transformers(void **state)
{
    (void)state;
    static const struct {
        const char *fields, *beside;
        float want[8], gain;
    } rows[] = {
        {"\"factor\": 4, \"original_max_position_embeddings\": 32",
         "",
         {1.000000000e+00f, 1.976423562e-01f, 2.500000037e-02f, 7.905694656e-03f, 2.499999944e-03f, 7.905694656e-04f,
          2.500000119e-04f, 7.905694656e-05f},
         1.138629436e+00f},
        {"\"rope_theta\": 1e6, \"factor\": 40, \"original_max_position_embeddings\": 4096, \"beta_fast\": 16, "
         "\"beta_slow\": 2, \"truncate\": false, \"mscale\": 0.707, \"mscale_all_dim\": 0.5",
         "",
         {1.000000000e+00f, 1.778279394e-01f, 3.162277862e-02f, 1.738219056e-03f, 2.499999937e-05f, 4.445698323e-06f,
          7.905694019e-07f, 1.405853283e-07f},
         1.064468904e+00f},
        {"\"factor\": 8, \"original_max_position_embeddings\": 7, \"attention_factor\": 0.75, \"beta_fast\": 0, "
         "\"beta_slow\": null",
         ", \"original_max_position_embeddings\": 2048",
         {1.000000000e+00f, 3.162277639e-01f, 1.000000015e-01f, 2.470529452e-02f, 5.624999758e-03f, 1.087032957e-03f,
          1.250000059e-04f, 3.952847328e-05f},
         0.75f},
        {"\"factor\": 8, \"original_max_position_embeddings\": 128, \"mscale\": 0.9, \"beta_fast\": 4, "
         "\"beta_slow\": 3.5, \"truncate\": null",
         "",
         {1.000000000e+00f, 3.162277639e-01f, 1.250000019e-02f, 3.952847328e-03f, 1.249999972e-03f, 3.952847328e-04f,
          1.250000059e-04f, 3.952847328e-05f},
         1.207944154e+00f},
        {"\"factor\": 0.5, \"original_max_position_embeddings\": 16",
         "",
         {1.000000000e+00f, 6.324555278e-01f, 2.000000030e-01f, 6.324555725e-02f, 1.999999955e-02f, 6.324555725e-03f,
          2.000000095e-03f, 6.324555725e-04f},
         1},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        char extra[400];
        struct st_config c;
        struct st_err e = {0};
        float got[8];
        snprintf(extra, sizeof extra, "\"rope_parameters\": {\"rope_type\": \"yarn\", %s}%s", rows[i].fields,
                 rows[i].beside);
        assert_ok(parse_tiny(&(struct tiny){.extra = extra}, &c, &e), &e);
        st_config_inv_freq(&c, got);
        for (int j = 0; j < 8; j++)
            if (fabsf(got[j] - rows[i].want[j]) > 2e-7f * rows[i].want[j])
                fail_msg("row %zu, pair %d: want %.9e, got %.9e", i, j, (double)rows[i].want[j], (double)got[j]);
        assert_float_equal(st_config_rope_gain(&c), rows[i].gain, 1e-7);
        assert_float_equal(st_config_attn_scale(&c), 0.25f, 0);
    }
}

/* head^-0.5 (0.1 m ln factor + 1)^2, as transformers' yarn_apply_mscale. */
static void only_latent_attention_scales_its_scores_with_mscale_all_dim(void **state)
{
    (void)state;
    static const struct {
        const char *extra;
        double want;
    } rows[] = {
        {DENSE, 0.22360679774997896},
        {DENSE ", \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 40, \"mscale_all_dim\": 0.707}",
         0.35545121640225785},
        {DENSE ", \"rope_scaling\": {\"type\": \"linear\", \"factor\": 4, \"mscale_all_dim\": 1.0}",
         0.2899010687122163},
        {DENSE ", \"rope_scaling\": {\"type\": \"linear\", \"factor\": 0.5, \"mscale_all_dim\": 1.0}",
         0.22360679774997896},
    };
    struct st_config c;
    struct st_err e = {0};
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct tiny t = latent(V2, rows[i].extra);
        assert_ok(parse_tiny(&t, &c, &e), &e);
        assert_float_equal(st_config_attn_scale(&c), rows[i].want, 3e-8);
    }
    struct tiny llama = {.extra = "\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 40, \"mscale_all_dim\": 0.707}"};
    assert_ok(parse_tiny(&llama, &c, &e), &e);
    assert_float_equal(st_config_attn_scale(&c), 0.25f, 0);
}

static void plans_say_what_leaves_together(void **state)
{
    (void)state;
    static const struct {
        const char *arch, *extra, *ops;
        int n_weight, n_exchange;
    } rows[] = {
        /* q_a and kv_a | q_b | kv_b | o | gate and up | down */
        {V2, DENSE, "En1L1LnLcnLrrcccaL+n2L2LSL+n3L3LnLcnLrrcccaL+n4L4LSL+nL", 27, 13},
        {V3, DENSE ", \"attention_bias\": true", "En1L1LnLcnLrrcccaL+n2L2LSL+n3L3LnLcnLrrcccaL+n4L4LSL+nL", 33, 13},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct st_config c;
        struct st_plan p;
        struct st_err e = {0};
        struct tiny t = latent(rows[i].arch, rows[i].extra);
        char ops[128], *out = ops;
        plan_of(&t, &c, &p);
        for (int k = 0; k < p.n_op; k++) {
            if (p.ops[k].group)
                *out++ = (char)('0' + p.ops[k].group);
            *out++ = "EnLrcaS+"[p.ops[k].op];
            if (p.ops[k].op == ST_OP_LINEAR)
                p.ops[k].place = ST_PLACE_UNTRUSTED;
        }
        *out = 0;
        assert_string_equal(ops, rows[i].ops);
        assert_int_equal(p.n_weight, rows[i].n_weight);
        assert_ok(st_plan_check(&p, &e), &e);
        assert_int_equal(st_plan_exchanges(&p), rows[i].n_exchange);
        st_plan_free(&p);
    }
}

/* Each row breaks one thing. Ops: 0 embed, 1 norm, 2-3 q_a kv_a, 4 norm, 5 q_b, 6 copy, 7 norm, 8 kv_b, 9-10 rope,
 * 11-13 copy, 14 attend. */
static void a_broken_plan_is_refused(void **state)
{
    (void)state;
    enum { BREAKS = 18 };
    for (int i = 0; i < BREAKS; i++) {
        struct st_config c;
        struct st_plan p;
        struct st_err e = {0};
        struct tiny t = latent(V2, DENSE);
        plan_of(&t, &c, &p);
        struct st_plan_op *o = p.ops;
        struct st_pieces *x = &o[11].pieces;
        uint32_t *const ends[] = {&x->n_head, &x->len, &x->from_at, &x->from_step, &x->to_at, &x->to_step};
        switch (i) {
        case 0:
        case 1:
        case 2:
        case 3:
        case 4:
        case 5:
            *ends[i] = UINT32_MAX;
            break;
        case 6:
            x->n_head = 0;
            break;
        case 7:
            x->len = 0;
            break;
        case 8:
            x->to_step = x->len - 1; /* heads overlap */
            break;
        case 9:
            o[11].in = o[11].out;
            break;
        case 10:
            o[11].in2 = o[11].in;
            break;
        case 11:
            o[9].rotated = 0;
            break;
        case 12:
            o[9].rotated = 7;
            break;
        case 13:
            o[9].rotate_at++;
            break;
        case 14:
            o[9].rotate_at = UINT32_MAX - 3;
            break;
        case 15:
            o[14].in3 = o[14].in2; /* values of another size than the output's */
            break;
        case 16:
            o[14].in3 = o[5].in; /* compressed queries as values */
            break;
        case 17:
            o[11].place = ST_PLACE_UNTRUSTED;
            break;
        }
        if (st_plan_check(&p, &e) != ST_INTERNAL)
            fail_msg("break %d: got %d '%s'", i, e.code, e.msg);
        st_plan_free(&p);
    }
}

/* A plan may be whole and yet not fit the config that the cache and the angles are made from. */
static void the_executor_wants_the_heads_of_the_config(void **state)
{
    (void)state;
    struct tiny t = latent(V3, DENSE);
    struct st_exec_opts o = {.n_threads = 1, .max_row = 4};
    char dir[64];
    struct st_model *m;
    struct st_exec *x;
    struct st_kv kv;
    struct st_boundary b = {0};
    struct st_err e = {0};
    tiny_mkdir(dir);
    tiny_write(&t, dir);
    assert_ok(st_model_open(dir, NULL, &m, &e), &e);
    tiny_rmdir(dir);
    assert_ok(st_kv_init(&kv, &m->config, ST_DTYPE_F32, 1, &e), &e);
    /* [layer][4 heads][32 tokens][20 + 10 values] */
    assert_int_equal(kv.block_bytes, 2 * 4 * 32 * 30 * 4);
    assert_ok(st_exec_new(m, &kv, &b, &o, &x, &e), &e);
    st_exec_free(x);
    m->config.v_head_dim = 9;
    expect_refusal(st_exec_new(m, &kv, &b, &o, &x, &e), &e, ST_INTERNAL, "attends with widths");
    m->config.v_head_dim = 10;
    m->config.rope_dim = 6;
    expect_refusal(st_exec_new(m, &kv, &b, &o, &x, &e), &e, ST_INTERNAL, "rotates 8 values per head, want 6");
    m->config.rope_dim = 8;
    st_kv_wipe(&kv);
    st_model_close(m);
}

/* Writes three layers, then says that there are two: the third is one that guesses further tokens, or a stray. */
static void layers_that_guess_further_tokens_are_not_used(void **state)
{
    (void)state;
    static const struct {
        const char *arch;
        const char *n_mtp;
        bool loads;
    } rows[] = {{V3, ", \"num_nextn_predict_layers\": 1", true},
                {V3, "", false},
                {V3, ", \"num_nextn_predict_layers\": 0", false},
                {V2, ", \"num_nextn_predict_layers\": 1", false}};
    for (size_t i = 0; i < COUNT(rows); i++) {
        char dir[64], extra[400];
        struct st_model *m = NULL;
        struct st_err e = {0};
        struct st_buf config = {0};
        struct tiny t = latent(rows[i].arch, extra);
        snprintf(extra, sizeof extra, "%s%s",
                 "\"q_lora_rank\": 24, \"kv_lora_rank\": 20, \"first_k_dense_replace\": 3, " HEADS, rows[i].n_mtp);
        t.n_layer = 3;
        tiny_mkdir(dir);
        tiny_write(&t, dir);
        t.n_layer = 2;
        tiny_config(&t, &config);
        tiny_save(dir, "config.json", config.p, config.len);
        int rc = st_model_open(dir, NULL, &m, &e);
        if (rows[i].loads)
            assert_ok(rc, &e);
        else
            expect_refusal(rc, &e, ST_INPUT, "model.layers.2.");
        st_model_close(m);
        st_buf_free(&config);
        tiny_rmdir(dir);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_the_sizes_of_latent_attention),
        cmocka_unit_test(reads_how_experts_are_chosen),
        cmocka_unit_test(refuses_by_field_what_does_not_fit),
        cmocka_unit_test(yarn_fields_out_of_range_are_refused),
        cmocka_unit_test(yarn_frequencies_and_gains_equal_those_of_transformers),
        cmocka_unit_test(only_latent_attention_scales_its_scores_with_mscale_all_dim),
        cmocka_unit_test(plans_say_what_leaves_together),
        cmocka_unit_test(a_broken_plan_is_refused),
        cmocka_unit_test(the_executor_wants_the_heads_of_the_config),
        cmocka_unit_test(layers_that_guess_further_tokens_are_not_used),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
