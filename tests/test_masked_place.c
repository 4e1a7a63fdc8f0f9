/* What of each architecture's plan leaves for the worker, in how many exchanges, and what is refused. */
#include "engine/boundary.h"
#include "protect/masked/masked.h"
#include "tiny.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define COUNT(a) (sizeof(a) / sizeof *(a))
#define HEADS "\"qk_nope_head_dim\": 12, \"qk_rope_head_dim\": 8, \"v_head_dim\": 10"
#define EXPERTS                                                                                                        \
    "\"first_k_dense_replace\": 1, \"n_routed_experts\": 6, \"num_experts_per_tok\": 2, "                              \
    "\"moe_intermediate_size\": 16, \"n_shared_experts\": 1, \"n_group\": 2, \"topk_group\": 1"

static void plan_of(const char *arch_name, const char *extra, struct st_plan *p)
{
    struct tiny t = {.arch = arch_name, .n_layer = 3, .extra = extra};
    struct st_buf b = {0};
    struct st_config c;
    struct st_err e = {0};
    const struct st_arch *arch;
    if (strncmp(arch_name, "Deepseek", 8) == 0)
        t.n_kv_head = 4;
    tiny_config(&t, &b);
    tiny_check(st_config_parse(b.p, b.len, "config.json", &c, &e), &e);
    tiny_check(st_arch_find(c.arch, &arch, &e), &e);
    *p = (struct st_plan){0};
    arch->plan(&c, p);
    tiny_check(st_plan_check(p, &e), &e);
    st_buf_free(&b);
}

/* Three layers of every architecture. local: routed experts stay; all: they see every row, 2 exchanges each. */
static const struct {
    const char *arch, *extra;
    int local, all;
} rows[] = {
    {"LlamaForCausalLM", NULL, 4 * 3 + 1, 4 * 3 + 1},
    {"MistralForCausalLM", NULL, 4 * 3 + 1, 4 * 3 + 1},
    {"Qwen2ForCausalLM", NULL, 4 * 3 + 1, 4 * 3 + 1},
    {"Qwen3ForCausalLM", NULL, 4 * 3 + 1, 4 * 3 + 1},
    {"MixtralForCausalLM", "\"num_local_experts\": 4, \"num_experts_per_tok\": 2", 2 * 3 + 1, (2 + 2 * 4) * 3 + 1},
    {"Qwen3MoeForCausalLM",
     "\"num_experts\": 5, \"num_experts_per_tok\": 2, \"moe_intermediate_size\": 32, \"mlp_only_layers\": [0]",
     4 + 2 * 2 + 1, 4 + (2 + 2 * 5) * 2 + 1},
    /* Latent attention: (q_a, kv_a), q_b, kv_b, o; without q_a: (q, kv_a), kv_b, o. Shared experts: 2 more. */
    {"DeepseekV3ForCausalLM", "\"q_lora_rank\": 24, \"kv_lora_rank\": 20, \"first_k_dense_replace\": 3, " HEADS,
     (4 + 2) * 3 + 1, (4 + 2) * 3 + 1},
    {"DeepseekV3ForCausalLM", "\"q_lora_rank\": 24, \"kv_lora_rank\": 20, " EXPERTS ", " HEADS,
     (4 + 2) + (4 + 2) * 2 + 1, (4 + 2) + (4 + 2 + 2 * 6) * 2 + 1},
    {"DeepseekV2ForCausalLM", "\"q_lora_rank\": null, \"kv_lora_rank\": 20, " EXPERTS ", " HEADS,
     (3 + 2) + (3 + 2) * 2 + 1, (3 + 2) + (3 + 2 + 2 * 6) * 2 + 1},
};

static void check_places(const struct st_plan *p, const struct st_masked_place *o)
{
    for (int i = 0; i < p->n_op; i++) {
        const struct st_plan_op *op = &p->ops[i];
        bool leaves = (op->op == ST_OP_LINEAR && op->role != ST_ROLE_ROUTER &&
                       (op->expert < 0 || o->experts == ST_MASKED_EXPERTS_ALL)) ||
                      (op->op == ST_OP_EMBED && o->embedding);
        assert_int_equal(op->place == ST_PLACE_UNTRUSTED, leaves);
        assert_int_equal(op->every_row, op->op == ST_OP_GATHER && o->experts == ST_MASKED_EXPERTS_ALL);
    }
    assert_true(p->ops[p->n_op - 1].last_row_only && p->ops[p->n_op - 1].place == ST_PLACE_UNTRUSTED);
}

static void exchanges_are_counted_from_the_plan_of_every_architecture(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++)
        for (int all = 0; all < 2; all++)
            for (int embedding = 0; embedding < 2; embedding++) {
                struct st_plan p;
                struct st_err e = {0};
                struct st_masked_place o = {.embedding = embedding != 0,
                                            .experts = all ? ST_MASKED_EXPERTS_ALL : ST_MASKED_EXPERTS_LOCAL};
                plan_of(rows[i].arch, rows[i].extra, &p);
                assert_int_equal(st_plan_exchanges(&p), 0);
                tiny_check(st_masked_place(&p, &o, &e), &e);
                tiny_check(st_plan_check(&p, &e), &e);
                if (st_plan_exchanges(&p) != (all ? rows[i].all : rows[i].local) + embedding)
                    fail_msg("%s, experts %d: %d exchanges", rows[i].arch, all, st_plan_exchanges(&p));
                check_places(&p, &o);
                st_plan_free(&p);
            }
}

static void experts_that_are_not_here_are_refused_unless_all_see_every_row(void **state)
{
    (void)state;
    struct st_plan p;
    struct st_err e = {0};
    struct st_masked_place o = {.no_weights = true};
    plan_of("MixtralForCausalLM", rows[4].extra, &p);
    assert_int_equal(st_masked_place(&p, &o, &e), ST_POLICY);
    assert_non_null(strstr(e.msg, "model.layers.0.block_sparse_moe.experts.0."));
    assert_non_null(strstr(e.msg, "--experts all"));
    st_plan_free(&p);
    plan_of("MixtralForCausalLM", rows[4].extra, &p);
    o.experts = ST_MASKED_EXPERTS_ALL;
    tiny_check(st_masked_place(&p, &o, &e), &e);
    st_plan_free(&p);
    /* A dense model needs none here. */
    plan_of("LlamaForCausalLM", NULL, &p);
    o.experts = ST_MASKED_EXPERTS_LOCAL;
    tiny_check(st_masked_place(&p, &o, &e), &e);
    st_plan_free(&p);
}

static void a_group_with_a_part_in_either_place_becomes_two(void **state)
{
    (void)state;
    struct st_plan p;
    struct st_err e = {0};
    plan_of("LlamaForCausalLM", NULL, &p);
    /* k stays and q and v leave, in the middle layer alone; of gate and up, up leaves; o stays everywhere. */
    for (int i = 0; i < p.n_op; i++) {
        struct st_plan_op *op = &p.ops[i];
        if (op->op == ST_OP_LINEAR && op->layer == 1 &&
            (op->role == ST_ROLE_Q || op->role == ST_ROLE_V || op->role == ST_ROLE_UP))
            op->place = ST_PLACE_UNTRUSTED;
    }
    assert_int_equal(st_plan_check(&p, &e), ST_INTERNAL);
    st_plan_split(&p);
    tiny_check(st_plan_check(&p, &e), &e);
    assert_int_equal(st_plan_exchanges(&p), 2);
    char order[256] = "";
    for (int i = 0; i < p.n_op; i++)
        if (p.ops[i].op == ST_OP_LINEAR && p.ops[i].layer >= 0 && p.ops[i].group)
            snprintf(order + strlen(order), sizeof order - strlen(order), "%s%u ", st_role_name(p.ops[i].role),
                     p.ops[i].group);
    assert_string_equal(order, "q1 k1 v1 gate2 up2 q3 v3 k4 up5 gate6 q7 k7 v7 gate8 up8 ");
    st_plan_split(&p); /* nothing is mixed any more */
    tiny_check(st_plan_check(&p, &e), &e);
    assert_int_equal(st_plan_exchanges(&p), 2);
    st_plan_free(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exchanges_are_counted_from_the_plan_of_every_architecture),
        cmocka_unit_test(experts_that_are_not_here_are_refused_unless_all_see_every_row),
        cmocka_unit_test(a_group_with_a_part_in_either_place_becomes_two),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
