/* Mixtures of experts: the choice of experts against a plain restatement of the reference, what of a config and of a
 * plan is refused, and what counts as read for a token. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/hooks.h"
#include "harness.h"
#include "tensor/compute.h"

#include <math.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static struct st_compute *compute(void)
{
    struct st_compute_opts o = {.n_threads = 2, .max_row = 700, .max_width = 1024};
    struct st_compute *c;
    struct st_err e;
    tiny_check(st_compute_new(&o, &c, &e), &e);
    return c;
}

static void expect_weights(const struct st_route *r, const float *bias, const float *logits, const float *want)
{
    struct st_compute *c = compute();
    float x[ST_ROUTE_MAX_EXPERTS];
    memcpy(x, logits, r->n_expert * sizeof *x);
    st_route(c, r, bias, x, 1);
    for (uint32_t i = 0; i < r->n_expert; i++)
        if (fabsf(x[i] - want[i]) > 1e-6f)
            fail_msg("expert %u: want %g, got %g", i, (double)want[i], (double)x[i]);
    st_compute_free(c);
}

static void among_equal_scores_the_lowest_numbers_win(void **state)
{
    (void)state;
    struct st_route r = {.n_expert = 6, .n_used = 2, .norm = true, .scale = 1};
    expect_weights(&r, NULL, (float[]){1, 1, 1, 1, 1, 1}, (float[6]){.5f, .5f});
    expect_weights(&r, NULL, (float[]){0, 2, 2, 0, 2, 0}, (float[6]){0, .5f, .5f});
    r.n_used = 6;
    expect_weights(&r, NULL, (float[]){3, 3, 3, 3, 3, 3},
                   (float[]){1 / 6.f, 1 / 6.f, 1 / 6.f, 1 / 6.f, 1 / 6.f, 1 / 6.f});
    /* Groups too: all three stand equal, so the first is open. */
    r = (struct st_route){.n_expert = 6, .n_used = 1, .n_group = 3, .n_group_used = 1, .norm = true, .scale = 1};
    expect_weights(&r, NULL, (float[]){0, 1, 1, 0, 1, 0}, (float[6]){0, 1});
}

static void weights_are_softmax_shares_summed_to_one_only_when_asked(void **state)
{
    (void)state;
    float l = logf(2); /* softmax of 0, l, 2l, 3l is 1/15, 2/15, 4/15, 8/15 */
    struct st_route r = {.n_expert = 4, .n_used = 2, .scale = 1};
    expect_weights(&r, NULL, (float[]){0, 2 * l, 3 * l, l}, (float[]){0, 4 / 15.f, 8 / 15.f, 0});
    r.norm = true;
    expect_weights(&r, NULL, (float[]){0, 2 * l, 3 * l, l}, (float[]){0, 1 / 3.f, 2 / 3.f, 0});
    r.scale = 2.5f;
    expect_weights(&r, NULL, (float[]){0, 2 * l, 3 * l, l}, (float[]){0, 2.5f / 3, 5 / 3.f, 0});
    /* Logits beyond what expf can hold. */
    expect_weights(&r, NULL, (float[]){-1e30f, 500, 500, 100}, (float[]){0, 1.25f, 1.25f, 0});
}

static void a_correction_bias_counts_in_the_choice_but_not_in_the_weight(void **state)
{
    (void)state;
    struct st_route r = {.n_expert = 4, .n_used = 2, .score = ST_SCORE_SIGMOID, .norm = true, .scale = 1};
    float l = logf(3); /* sigmoid of -l, 0, l is 1/4, 1/2, 3/4 */
    expect_weights(&r, NULL, (float[]){-l, 0, l, -l}, (float[]){0, .4f, .6f, 0});
    expect_weights(&r, (float[]){1, 0, 0, 0}, (float[]){-l, 0, l, -l}, (float[]){.25f, 0, .75f, 0});
    r.norm = false;
    r.scale = 2;
    expect_weights(&r, (float[]){1, 0, 0, 0}, (float[]){-l, 0, l, -l}, (float[]){.5f, 0, 1.5f, 0});
}

static void a_group_counts_as_its_best_expert_or_as_its_two_best(void **state)
{
    (void)state;
    struct st_route r = {.n_expert = 6,
                         .n_used = 2,
                         .score = ST_SCORE_SIGMOID,
                         .n_group = 2,
                         .n_group_used = 1,
                         .group_score = ST_GROUP_MAX,
                         .scale = 1};
    float l = logf(3), l9 = logf(9); /* sigmoid of l9 is 0.9 */
    const float logits[] = {l9, -l9, -l, l, 0, -l9};
    expect_weights(&r, NULL, logits, (float[]){.9f, 0, .25f, 0, 0, 0});
    r.group_score = ST_GROUP_TOP2;
    expect_weights(&r, NULL, logits, (float[]){0, 0, 0, .75f, .5f, 0});
    /* The bias takes part in the value of a group, and closed experts stay closed below negative ones. */
    expect_weights(&r, (float[]){-2, -3, -4, -5, -5, -5}, logits, (float[]){.9f, .1f, 0, 0, 0, 0});
}

/* What transformers' routers do, in f64 and by sorting. */
static void restate(const struct st_route *r, const float *bias, const double *score, double *want)
{
    uint32_t n = r->n_expert, n_group = r->n_group ? r->n_group : 1, size = n / n_group;
    double choice[64], sum = 0;
    bool open[64] = {false}, taken[64] = {false};
    for (uint32_t i = 0; i < n; i++)
        choice[i] = score[i] + (bias ? (double)bias[i] : 0);
    for (uint32_t k = 0; k < (r->n_group ? r->n_group_used : 1); k++) {
        int best = -1;
        double most = 0;
        for (uint32_t g = 0; g < n_group; g++) {
            double top[2] = {-HUGE_VAL, -HUGE_VAL};
            for (uint32_t i = g * size; i < (g + 1) * size; i++) {
                top[1] = fmax(top[1], fmin(top[0], choice[i]));
                top[0] = fmax(top[0], choice[i]);
            }
            double v = r->group_score == ST_GROUP_TOP2 ? top[0] + top[1] : top[0];
            if (!open[g] && (best < 0 || v > most)) {
                best = (int)g;
                most = v;
            }
        }
        open[best] = true;
    }
    for (uint32_t k = 0; k < r->n_used; k++) {
        int best = -1;
        for (uint32_t i = 0; i < n; i++)
            if (open[i / size] && !taken[i] && (best < 0 || choice[i] > choice[best]))
                best = (int)i;
        taken[best] = true;
        sum += score[best];
    }
    for (uint32_t i = 0; i < n; i++)
        want[i] = taken[i] ? score[i] * (double)r->scale / (r->norm ? sum : 1) : 0;
}

static void random_rows_are_routed_as_the_reference_does_alone_or_in_a_batch(void **state)
{
    (void)state;
    enum { N_ROW = 600 };
    static const struct st_route rows[] = {
        {.n_expert = 8, .n_used = 2, .norm = true, .scale = 1},
        {.n_expert = 64, .n_used = 8, .scale = 1},
        {.n_expert = 60, .n_used = 6, .n_group = 5, .n_group_used = 2, .group_score = ST_GROUP_MAX, .scale = 16},
        {.n_expert = 64,
         .n_used = 8,
         .score = ST_SCORE_SIGMOID,
         .n_group = 8,
         .n_group_used = 4,
         .group_score = ST_GROUP_TOP2,
         .norm = true,
         .scale = 2.5f},
    };
    struct st_compute *c = compute();
    struct st_rng rng;
    float *x = calloc(N_ROW * 64, sizeof *x), *one = calloc(64, sizeof *one), bias[64];
    st_rng_seed(&rng, 21);
    for (size_t k = 0; k < COUNT(rows); k++) {
        const struct st_route *r = &rows[k];
        uint32_t n = r->n_expert;
        double score[64], want[64];
        float *logits = calloc((size_t)N_ROW * n, sizeof *logits);
        for (uint32_t i = 0; i < n; i++)
            bias[i] = (float)(st_rng_unit(&rng) - 0.5);
        for (uint32_t i = 0; i < N_ROW * n; i++)
            logits[i] = (float)(6 * st_rng_unit(&rng) - 3);
        const float *b = r->score == ST_SCORE_SIGMOID ? bias : NULL;
        memcpy(x, logits, (size_t)N_ROW * n * sizeof *x);
        st_route(c, r, b, x, N_ROW);
        for (uint32_t row = 0; row < N_ROW; row++) {
            double sum = 0;
            for (uint32_t i = 0; i < n; i++)
                sum += exp((double)logits[row * n + i]);
            for (uint32_t i = 0; i < n; i++)
                score[i] = r->score == ST_SCORE_SIGMOID ? 1 / (1 + exp(-(double)logits[row * n + i]))
                                                        : exp((double)logits[row * n + i]) / sum;
            restate(r, b, score, want);
            for (uint32_t i = 0; i < n; i++)
                assert_true(fabs((double)x[row * n + i] - want[i]) <= 1e-5 * (double)r->scale);
            memcpy(one, logits + row * n, n * sizeof *one);
            st_route(c, r, b, one, 1);
            assert_memory_equal(one, x + row * n, n * sizeof *one);
        }
        free(logits);
    }
    free(x);
    free(one);
    st_compute_free(c);
}

static void logits_that_are_no_numbers_stay_within_the_experts(void **state)
{
    (void)state;
    struct st_compute *c = compute();
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (size_t k = 0; k < COUNT(bad); k++)
        for (int groups = 0; groups < 2; groups++) {
            struct st_route r = {.n_expert = 8, .n_used = 3, .norm = true, .scale = 1};
            if (groups) {
                r.n_group = 4;
                r.n_group_used = 2;
                r.group_score = ST_GROUP_TOP2;
            }
            float x[8];
            uint32_t n = 0;
            for (int i = 0; i < 8; i++)
                x[i] = bad[k];
            st_route(c, &r, NULL, x, 1);
            for (int i = 0; i < 8; i++)
                n += x[i] != 0;
            assert_in_range(n, 0, 3);
        }
    st_compute_free(c);
}

static void rows_go_to_an_expert_and_come_back_weighted(void **state)
{
    (void)state;
    enum { N = 300, D = 96, E = 5 };
    struct st_compute *c = compute();
    struct st_rng rng;
    float *x = calloc(N * D, sizeof *x), *part = calloc(N * D, sizeof *part), *y = calloc(N * D, sizeof *y);
    float *w = calloc(N * E, sizeof *w);
    uint32_t rows[N];
    st_rng_seed(&rng, 3);
    for (size_t i = 0; i < N * D; i++)
        x[i] = (float)st_rng_unit(&rng);
    for (size_t i = 0; i < N * E; i++)
        w[i] = st_rng_next(&rng) % 3 ? 0 : (float)st_rng_unit(&rng) + 0.1f;
    for (uint32_t e = 0; e < E; e++) {
        uint32_t n = st_route_rows(w, N, E, e, rows), want = 0;
        for (uint32_t r = 0; r < N; r++)
            if (w[r * E + e] != 0)
                assert_int_equal(rows[want++], r);
        assert_int_equal(n, want);
        st_gather(c, x, rows, n, D, part);
        for (uint32_t i = 0; i < n; i++)
            assert_memory_equal(part + i * D, x + rows[i] * D, D * sizeof *x);
        st_scatter(c, part, rows, n, D, w, E, e, y);
    }
    for (uint32_t r = 0; r < N; r++)
        for (uint32_t k = 0; k < D; k++) {
            float want = 0;
            for (uint32_t e = 0; e < E; e++)
                want += w[r * E + e] * x[r * D + k];
            assert_true(fabsf(want - y[r * D + k]) <= 1e-5f);
        }
    free(x);
    free(part);
    free(y);
    free(w);
    st_compute_free(c);
}

static int parse_extra(const char *arch, const char *extra, struct st_config *c, struct st_err *e)
{
    struct tiny t = {.arch = arch, .extra = extra, .n_layer = 4};
    struct st_buf b = {0};
    tiny_config(&t, &b);
    int rc = st_config_parse(b.p, b.len, "config.json", c, e);
    st_buf_free(&b);
    return rc;
}

#define QWEN "Qwen3MoeForCausalLM"
#define MIXTRAL "MixtralForCausalLM"
#define GOOD "\"num_experts\": 8, \"num_experts_per_tok\": 2, \"moe_intermediate_size\": 32"

static void configs_say_which_layers_have_experts(void **state)
{
    (void)state;
    static const struct {
        const char *arch, *extra, *layers; /* m: mixture, d: dense */
        uint32_t n_expert, n_used, d_ff, window;
        bool norm;
    } rows[] = {
        {MIXTRAL, "\"num_local_experts\": 8, \"num_experts_per_tok\": 2", "mmmm", 8, 2, 96, 0, true},
        {MIXTRAL, "\"num_local_experts\": 3, \"num_experts_per_tok\": 3, \"sliding_window\": 9", "mmmm", 3, 3, 96, 9,
         true},
        {QWEN, GOOD, "mmmm", 8, 2, 32, 0, false},
        {QWEN, GOOD ", \"num_local_experts\": 8, \"norm_topk_prob\": true", "mmmm", 8, 2, 32, 0, true},
        {QWEN, GOOD ", \"decoder_sparse_step\": 2", "dmdm", 8, 2, 32, 0, false},
        {QWEN, GOOD ", \"mlp_only_layers\": [0, 3]", "dmmd", 8, 2, 32, 0, false},
        {QWEN, GOOD ", \"mlp_only_layers\": [1], \"decoder_sparse_step\": 2", "dddm", 8, 2, 32, 0, false},
        {QWEN, GOOD ", \"decoder_sparse_step\": 1024", "dddd", 8, 2, 32, 0, false},
        {QWEN, GOOD ", \"use_sliding_window\": true, \"sliding_window\": 7", "mmmm", 8, 2, 32, 7, false},
        {QWEN, GOOD ", \"use_sliding_window\": false, \"sliding_window\": 7", "mmmm", 8, 2, 32, 0, false},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct st_config c;
        struct st_err e = {0};
        tiny_check(parse_extra(rows[i].arch, rows[i].extra, &c, &e), &e);
        assert_int_equal(c.n_expert, rows[i].n_expert);
        assert_int_equal(c.n_expert_used, rows[i].n_used);
        assert_int_equal(c.moe_d_ff, rows[i].d_ff);
        assert_int_equal(c.sliding_window, rows[i].window);
        assert_int_equal(c.norm_topk, rows[i].norm);
        for (uint32_t l = 0; l < 4; l++)
            assert_int_equal(st_config_is_moe(&c, l), rows[i].layers[l] == 'm');
    }
    struct st_config dense;
    struct st_err e = {0};
    tiny_check(parse_extra(NULL, NULL, &dense, &e), &e);
    assert_false(st_config_is_moe(&dense, 0));
}

static void hostile_configs_are_refused_by_field(void **state)
{
    (void)state;
    static const struct {
        const char *arch, *extra, *says;
    } bad[] = {
        {MIXTRAL, NULL, "num_local_experts: missing"},
        {MIXTRAL, "\"num_local_experts\": 8", "num_experts_per_tok: missing"},
        {MIXTRAL, "\"num_local_experts\": 8, \"num_experts_per_tok\": 9", "num_experts_per_tok: want 1..8, got 9"},
        {MIXTRAL, "\"num_local_experts\": 8, \"num_experts_per_tok\": 0", "num_experts_per_tok: want"},
        {MIXTRAL, "\"num_local_experts\": 1025, \"num_experts_per_tok\": 1", "num_local_experts: want an integer in"},
        {MIXTRAL, "\"num_local_experts\": 1, \"num_experts_per_tok\": 1", "number of experts: want 2..1024, got 1"},
        {MIXTRAL, "\"num_local_experts\": -8, \"num_experts_per_tok\": 1", "num_local_experts: want"},
        {MIXTRAL, "\"num_local_experts\": 8, \"num_experts\": 4, \"num_experts_per_tok\": 1",
         "num_local_experts 8 and num_experts 4 do not agree"},
        {MIXTRAL, "\"num_local_experts\": \"8\", \"num_experts_per_tok\": 1", "num_local_experts: want an integer"},
        {QWEN, "\"num_experts\": 8, \"num_experts_per_tok\": 2", "moe_intermediate_size: missing"},
        {QWEN, "\"num_experts\": 8, \"num_experts_per_tok\": 2, \"moe_intermediate_size\": 1048577",
         "moe_intermediate_size: want"},
        {QWEN, GOOD ", \"decoder_sparse_step\": 0", "decoder_sparse_step: want"},
        {QWEN, GOOD ", \"mlp_only_layers\": 1", "mlp_only_layers: want a list"},
        {QWEN, GOOD ", \"mlp_only_layers\": [4]", "mlp_only_layers: want layers in 0..3"},
        {QWEN, GOOD ", \"mlp_only_layers\": [-1]", "mlp_only_layers: want layers in 0..3"},
        {QWEN, GOOD ", \"mlp_only_layers\": [18446744073709551616]", "config.json"},
        {QWEN, GOOD ", \"norm_topk_prob\": 1", "norm_topk_prob: want true or false"},
        {QWEN, GOOD ", \"sliding_window\": 0", "sliding_window: want"},
    };
    for (size_t i = 0; i < COUNT(bad); i++) {
        struct st_config c;
        struct st_err e = {0};
        int rc = parse_extra(bad[i].arch, bad[i].extra, &c, &e);
        if (rc != ST_INPUT || !strstr(e.msg, bad[i].says))
            fail_msg("row %zu: want '%s', got %d '%s'", i, bad[i].says, rc, e.msg);
    }
}

/* Fields that only some architectures read. */
static void sizes_that_do_not_fit_each_other_are_refused(void **state)
{
    (void)state;
    for (int i = 0; i < 12; i++) {
        static const char *const says[] = {NULL,
                                           "n_group 3 does not divide the 8 experts",
                                           "topk_group: want 1..4, got 5",
                                           "topk_group: want 1..4, got 0",
                                           "num_experts_per_tok: want at most the 2 experts of topk_group 1, got 3",
                                           "n_group: want at least 2 experts in each of the 8 groups",
                                           NULL,
                                           "n_shared_experts x width of an expert: want at most",
                                           "routed_scaling_factor: want",
                                           "routed_scaling_factor: want",
                                           "experts x num_hidden_layers: want at most 65536",
                                           "width of an expert: want 2.."};
        struct st_config c;
        struct st_err e = {0};
        tiny_check(parse_extra(QWEN, GOOD, &c, &e), &e);
        c.n_group = i == 0 ? 0 : i == 1 ? 3 : i == 5 || i == 6 ? 8 : 4;
        c.n_group_used = i == 2 ? 5 : i == 3 ? 0 : i == 4 ? 1 : 4;
        c.n_expert_used = i == 4 ? 3 : 2;
        c.group_score = i == 5 ? ST_GROUP_TOP2 : ST_GROUP_MAX;
        c.n_shared_expert = i == 7 ? UINT32_MAX : 1;
        c.routed_scale = i == 8 ? -1 : i == 9 ? NAN : 2.5f;
        if (i == 10) {
            c.n_layer = 1024;
            c.n_expert = 1024;
        }
        c.moe_d_ff = i == 11 ? 1 : 32;
        int rc = st_config_check(&c, "config.json", &e);
        if (says[i] ? rc != ST_INPUT || !strstr(e.msg, says[i]) : rc != 0)
            fail_msg("case %d: want '%s', got %d '%s'", i, says[i] ? says[i] : "success", rc, e.msg);
    }
}

static void plan_of(struct st_config *c, struct st_plan *p)
{
    const struct st_arch *arch;
    struct st_err e = {0};
    tiny_check(
        parse_extra(QWEN, "\"num_experts\": 3, \"num_experts_per_tok\": 1, \"moe_intermediate_size\": 32", c, &e), &e);
    c->n_layer = 1;
    c->n_shared_expert = 2;
    c->router_bias = true;
    tiny_check(st_arch_find(c->arch, &arch, &e), &e);
    *p = (struct st_plan){0};
    arch->plan(c, p);
    tiny_check(st_plan_check(p, &e), &e);
}

static int find(const struct st_plan *p, enum st_op op, int expert)
{
    for (int i = 0; i < p->n_op; i++)
        if (p->ops[i].op == op && p->ops[i].expert == expert)
            return i;
    tiny_die("no such op");
    return -1;
}

static void the_plan_names_the_weights_of_every_expert(void **state)
{
    (void)state;
    static const char *const names[] = {"gate.weight",
                                        "gate.e_score_correction_bias",
                                        "experts.0.gate_proj.weight",
                                        "experts.0.up_proj.weight",
                                        "experts.0.down_proj.weight",
                                        "experts.1.gate_proj.weight",
                                        "experts.1.up_proj.weight",
                                        "experts.1.down_proj.weight",
                                        "experts.2.gate_proj.weight",
                                        "experts.2.up_proj.weight",
                                        "experts.2.down_proj.weight",
                                        "shared_experts.gate_proj.weight",
                                        "shared_experts.up_proj.weight",
                                        "shared_experts.down_proj.weight"};
    static const enum st_role roles[] = {ST_ROLE_EXPERT_GATE, ST_ROLE_EXPERT_UP, ST_ROLE_EXPERT_DOWN};
    struct st_config c;
    struct st_plan p;
    plan_of(&c, &p);
    int first = 0;
    while (p.weights[first].role != ST_ROLE_ROUTER)
        first++;
    for (int i = 0; i < (int)COUNT(names); i++) {
        const struct st_plan_weight *w = &p.weights[first + i];
        char name[128];
        snprintf(name, sizeof name, "model.layers.0.mlp.%s", names[i]);
        assert_string_equal(w->name, name);
        bool routed = i >= 2 && i < 11;
        assert_int_equal(w->expert, routed ? (i - 2) / 3 : -1);
        if (routed)
            assert_int_equal(w->role, roles[(i - 2) % 3]);
    }
    assert_int_equal(p.weights[first + 1].role, ST_ROLE_ROUTER_BIAS);
    assert_int_equal(p.weights[first + 11].role, ST_ROLE_SHARED_GATE);
    assert_int_equal(p.weights[first + 11].n_out, 64);
    /* Three experts, gate and up together, down alone; the router; shared experts: two. */
    int n_linear = 0;
    for (int i = 0; i < p.n_op; i++) {
        n_linear += p.ops[i].op == ST_OP_LINEAR;
        if (p.ops[i].op == ST_OP_LINEAR && p.ops[i].layer >= 0)
            p.ops[i].place = ST_PLACE_UNTRUSTED;
    }
    assert_int_equal(n_linear, 4 + 1 + 9 + 3 + 1);
    assert_int_equal(st_plan_exchanges(&p), 2 + 1 + 6 + 2);
    st_plan_free(&p);
}

static void a_broken_section_of_an_expert_is_refused(void **state)
{
    (void)state;
    enum { BREAKS = 19 };
    for (int i = 0; i < BREAKS; i++) {
        struct st_config c;
        struct st_plan p;
        struct st_err e = {0};
        plan_of(&c, &p);
        struct st_plan_op *route = &p.ops[find(&p, ST_OP_ROUTE, -1)];
        struct st_plan_op *g = &p.ops[find(&p, ST_OP_GATHER, 1)], *s = &p.ops[find(&p, ST_OP_SCATTER, 1)];
        struct st_plan_op *gate = g + 1, *silu = g + 3, *down = g + 4;
        switch (i) {
        case 0:
            g->expert = 3;
            break;
        case 1:
            g->expert = -1;
            break;
        case 2:
            gate->expert = 2;
            break;
        case 3:
            down->expert = -1;
            break;
        case 4:
            s->expert = 0;
            break;
        case 5:
            g->expert = gate->expert = g[2].expert = silu->expert = down->expert = s->expert = 0;
            break; /* expert 0 twice */
        case 6:
            g->in2 = g->in;
            break;
        case 7:
            s->in2 = s->in;
            break;
        case 8:
            gate->in = g[2].in = g->in;
            break; /* all rows inside a section */
        case 9:
            s->op = ST_OP_ADD;
            s->in2 = -1;
            break; /* the section has no end */
        case 10:
            g->op = ST_OP_ADD;
            g->in2 = -1;
            break; /* ... no beginning */
        case 11:
            p.ops[find(&p, ST_OP_SCATTER, 2) + 1].in = g->out;
            p.ops[find(&p, ST_OP_SCATTER, 2) + 2].in = g->out;
            break; /* rows of an expert outside */
        case 12:
            route->in = g->in;
            break;
        case 13:
            route->bias = -2;
            break;
        case 14:
            route->bias = gate->weight;
            break;
        case 15:
            route->op = ST_OP_ROPE;
            route->bias = -1;
            route->head = 1;
            break;
        case 16:
            gate->layer = 2;
            break;
        case 17:
            p.ops[0].expert = 0;
            break;
        case 18:
            s->out = gate->out;
            break;
        }
        int rc = st_plan_check(&p, &e);
        if (rc != ST_INTERNAL || strncmp(e.msg, "plan: ", 6) != 0)
            fail_msg("break %d: got %d '%s'", i, rc, e.msg);
        st_plan_free(&p);
    }
}

static void only_the_experts_that_a_token_takes_count_as_read(void **state)
{
    (void)state;
    struct tiny t = {.arch = MIXTRAL, .extra = "\"num_local_experts\": 8, \"num_experts_per_tok\": 2", .seed = 2};
    struct st_model *m = tiny_model(&t);
    uint64_t expert = 3ull * 64 * 96 * sizeof(float), router = 8ull * 64 * sizeof(float);
    uint64_t attention = (2ull * 64 * 64 + 2ull * 64 * 32) * sizeof(float), head = 128ull * 64 * sizeof(float);
    assert_int_equal(m->matrix_bytes, 2 * (8 * expert + router + attention) + head);
    assert_int_equal(m->weight_bytes, 2 * (2 * expert + router + attention) + head + 64 * sizeof(float));
    /* Two rows hit 1 - (3/4)^2 of the experts. */
    assert_int_equal(st_model_read_bytes(m, 2),
                     2 * (expert * 7 / 2 + router + attention) + head + 2 * 64 * sizeof(float));
    st_model_close(m);
}

static void routers_keep_f32_in_every_dtype(void **state)
{
    (void)state;
    static const enum st_load_dtype loads[] = {ST_LOAD_KEEP, ST_LOAD_INT8, ST_LOAD_BF16, ST_LOAD_F32};
    struct tiny t = {.arch = MIXTRAL,
                     .extra = "\"num_local_experts\": 4, \"num_experts_per_tok\": 2",
                     .dtype = ST_DTYPE_BF16,
                     .seed = 2};
    char dir[64];
    tiny_mkdir(dir);
    tiny_write(&t, dir);
    for (size_t k = 0; k < COUNT(loads); k++) {
        struct st_model *m;
        struct st_err e = {0};
        int n_router = 0;
        tiny_check(st_model_open(dir, &(struct st_model_opts){.dtype = loads[k], .n_threads = 1}, &m, &e), &e);
        for (int i = 0; i < m->plan.n_weight; i++)
            if (m->plan.weights[i].role == ST_ROLE_ROUTER) {
                assert_int_equal(m->mats[i].dtype, ST_DTYPE_F32);
                n_router++;
            }
        assert_int_equal(n_router, 2);
        st_model_close(m);
    }
    tiny_rmdir(dir);
}

/* Prompts long enough for GEMM, in f32: the chunks of a prompt, and so the number of rows that each expert sees, change
 * nothing but rounding. */
static void prompt_logits_do_not_depend_on_how_many_rows_an_expert_sees(void **state)
{
    (void)state;
    enum { N = 90, VOCAB = 128 };
    struct tiny t = {.arch = QWEN,
                     .extra = "\"num_experts\": 9, \"num_experts_per_tok\": 4, \"moe_intermediate_size\": 40, "
                              "\"mlp_only_layers\": [1]",
                     .n_layer = 3,
                     .n_ctx = 256,
                     .seed = 4};
    struct st_model *m = tiny_model(&t);
    float *rows[2];
    uint32_t ids[N];
    random_ids(ids, N, VOCAB, 6);
    for (int k = 0; k < 2; k++) {
        struct st_engine_opts o = {.n_threads = 2, .max_row = k ? 128 : 1};
        struct st_engine *en;
        struct st_err e;
        rows[k] = calloc(N * VOCAB, sizeof **rows);
        struct client c = {.prompt_rows = rows[k], .n_vocab = VOCAB};
        tiny_check(st_engine_new(m, &o, &en, &e), &e);
        struct st_request_opts ro = client_opts(&c, ids, N, 1);
        ro.on_prompt_logits = client_row;
        client_submit(&c, en, &ro);
        while (st_engine_step(en))
            ;
        assert_int_equal(c.n_prompt_row, N);
        st_engine_free(en);
    }
    float max = 0, diff = 0;
    for (int i = 0; i < N * VOCAB; i++) {
        max = fmaxf(max, fabsf(rows[0][i]));
        diff = fmaxf(diff, fabsf(rows[0][i] - rows[1][i]));
    }
    assert_true(diff <= 2e-5f * max);
    free(rows[0]);
    free(rows[1]);
    st_model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(among_equal_scores_the_lowest_numbers_win),
        cmocka_unit_test(weights_are_softmax_shares_summed_to_one_only_when_asked),
        cmocka_unit_test(a_correction_bias_counts_in_the_choice_but_not_in_the_weight),
        cmocka_unit_test(a_group_counts_as_its_best_expert_or_as_its_two_best),
        cmocka_unit_test(random_rows_are_routed_as_the_reference_does_alone_or_in_a_batch),
        cmocka_unit_test(logits_that_are_no_numbers_stay_within_the_experts),
        cmocka_unit_test(rows_go_to_an_expert_and_come_back_weighted),
        cmocka_unit_test(configs_say_which_layers_have_experts),
        cmocka_unit_test(hostile_configs_are_refused_by_field),
        cmocka_unit_test(sizes_that_do_not_fit_each_other_are_refused),
        cmocka_unit_test(the_plan_names_the_weights_of_every_expert),
        cmocka_unit_test(a_broken_section_of_an_expert_is_refused),
        cmocka_unit_test(only_the_experts_that_a_token_takes_count_as_read),
        cmocka_unit_test(routers_keep_f32_in_every_dtype),
        cmocka_unit_test(prompt_logits_do_not_depend_on_how_many_rows_an_expert_sees),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
