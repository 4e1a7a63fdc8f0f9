/* Placement policies: presets, files, and what a plan's ops become by them. */
#include "expect.h"
#include "protect/sealed/place.h"
#include "seal_make.h"

#include "model/model.h"

static int parse(const char *text, struct st_placement *p, struct st_err *e)
{
    return st_placement_parse(text, strlen(text), "my.policy", false, p, e);
}

static void presets_say_what_the_header_says(void **state)
{
    (void)state;
    struct st_placement p;
    struct st_err e;
    assert_ok(st_placement_read("paper", false, &p, &e), &e);
    for (int r = 1; r < ST_ROLE_COUNT; r++)
        assert_int_equal(p.of[r], r == ST_ROLE_O || r == ST_ROLE_HEAD ? ST_CONTAINER_OUTSIDE : ST_CONTAINER_INSIDE);
    assert_string_equal(p.name, "paper");
    assert_ok(st_placement_read("adapters", false, &p, &e), &e);
    for (int r = 1; r < ST_ROLE_COUNT; r++)
        assert_int_equal(p.of[r], ST_CONTAINER_OUTSIDE);
    assert_ok(st_placement_read("all-inside", false, &p, &e), &e);
    for (int r = 1; r < ST_ROLE_COUNT; r++)
        assert_int_equal(p.of[r], ST_CONTAINER_INSIDE);
}

static void every_preset_is_a_file_that_says_the_same(void **state)
{
    (void)state;
    struct st_placement a, b;
    struct st_err e;
    const char *name, *text;
    size_t n = 0;
    for (; st_placement_preset(n, &name, &text); n++) {
        assert_ok(st_placement_read(name, false, &a, &e), &e);
        assert_ok(parse(text, &b, &e), &e);
        assert_memory_equal(a.of, b.of, sizeof a.of);
        assert_string_equal(b.name, "custom");
    }
    assert_int_equal(n, 3);
}

static void a_file_has_roles_comments_and_a_default(void **state)
{
    (void)state;
    struct st_placement p;
    struct st_err e;
    assert_ok(parse("# mine\r\n\n q=outside # the queries\n\tdefault =\tinside\nhead = outside\nattention = inside\n"
                    "router = outside",
                    &p, &e),
              &e);
    for (int r = 1; r < ST_ROLE_COUNT; r++)
        assert_int_equal(p.of[r], r == ST_ROLE_Q || r == ST_ROLE_HEAD || r == ST_ROLE_ROUTER ? ST_CONTAINER_OUTSIDE
                                                                                             : ST_CONTAINER_INSIDE);
    assert_ok(parse("default = outside\nq = inside\n", &p, &e), &e);
    for (int r = 1; r < ST_ROLE_COUNT; r++)
        assert_int_equal(p.of[r], r == ST_ROLE_Q ? ST_CONTAINER_INSIDE : ST_CONTAINER_OUTSIDE);
    assert_ok(parse("", &p, &e), &e);
    assert_int_equal(p.of[ST_ROLE_HEAD], ST_CONTAINER_INSIDE);
}

static void mistakes_are_named_with_their_line(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int code;
        const char *says;
    } rows[] = {
        {"q = inside\nqueries = outside\n", ST_INPUT, "my.policy: line 2: unknown role 'queries'"},
        {"= inside\n", ST_INPUT, "line 1: unknown role ''"},
        {"q = inside\n\nq = outside\n", ST_INPUT, "line 3: q is given twice"},
        {"default = inside\ndefault = inside\n", ST_INPUT, "line 2: default is given twice"},
        {"q = maybe\n", ST_INPUT, "line 1: want inside or outside"},
        {"q = inside outside\n", ST_INPUT, "line 1: want inside or outside"},
        {"q\n", ST_INPUT, "line 1: want ROLE = inside"},
        {"q = \n", ST_INPUT, "line 1: want inside or outside"},
        {"attention = outside\n", ST_POLICY,
         "line 1: attention = outside: no known way to outsource QK^T and PV both hides them and saves work; refused "
         "without --attention outside-breakable"},
        {"attention = inside\nattention = inside\n", ST_INPUT, "line 2: attention is given twice"},
        {"sampling = outside\n", ST_UNSUPPORTED, "sampling = outside"},
        {"lora = outside\n", ST_UNSUPPORTED, "an adapter is sealed by itself, and whole"},
        {"lora_a = outside\n", ST_UNSUPPORTED, "an adapter is sealed by itself, and whole"},
    };
    struct st_placement p;
    struct st_err e;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        expect_refusal(parse(rows[i].text, &p, &e), &e, rows[i].code, rows[i].says);
    expect_refusal(st_placement_read("papre", false, &p, &e), &e, ST_USAGE,
                   "want paper, adapters, all-inside, or a file");
    expect_refusal(st_placement_parse("q\0 = inside", 11, "x", false, &p, &e), &e, ST_INPUT, "unknown role");
}

static void attention_leaves_only_where_policy_and_owner_both_say_so(void **state)
{
    (void)state;
    static const char lets[] = "o = outside\nattention = outside\n", keeps[] = "o = outside\nattention = inside\n";
    struct st_placement p;
    struct st_err e;
    assert_ok(st_placement_parse(lets, strlen(lets), "my.policy", true, &p, &e), &e);
    assert_true(p.attention);
    assert_string_equal(p.name, ST_PLACEMENT_ATTENTION);
    assert_int_equal(p.of[ST_ROLE_O], ST_CONTAINER_OUTSIDE);
    assert_int_equal(p.of[ST_ROLE_Q], ST_CONTAINER_INSIDE);
    expect_refusal(st_placement_parse(keeps, strlen(keeps), "my.policy", true, &p, &e), &e, ST_USAGE,
                   "my.policy has no line `attention = outside`");
    assert_ok(parse(keeps, &p, &e), &e);
    assert_false(p.attention);
    assert_string_equal(p.name, "custom");
    expect_refusal(st_placement_read("paper", true, &p, &e), &e, ST_USAGE, "paper has no line");
}

static void a_policy_comes_from_a_file(void **state)
{
    (void)state;
    struct st_placement p;
    struct st_err e;
    char dir[64], path[128];
    tiny_mkdir(dir);
    snprintf(path, sizeof path, "%s/my.policy", dir);
    tiny_save(dir, "my.policy", "up = outside\n", 13);
    assert_ok(st_placement_read(path, false, &p, &e), &e);
    assert_string_equal(p.name, "custom");
    assert_int_equal(p.of[ST_ROLE_UP], ST_CONTAINER_OUTSIDE);
    tiny_save(dir, "my.policy", "ups = outside\n", 14);
    expect_refusal(st_placement_read(path, false, &p, &e), &e, ST_INPUT, "my.policy: line 1: unknown role 'ups'");
    tiny_rmdir(dir);
}

/* ---- plans ---- */

/* A container of the model sealed by a policy's text, and the model's plan marked by it. */
struct placed {
    struct seal_rig r;
    struct st_container *c;
    struct st_model *m;
};

static void place_model(struct placed *p, const struct tiny *t, const char *policy, bool every_expert)
{
    struct st_err e;
    char path[160];
    seal_rig_open(&p->r, t);
    snprintf(path, sizeof path, "%s/my.policy", p->r.dir);
    tiny_save(p->r.dir, "my.policy", policy, strlen(policy));
    p->r.o.policy = path;
    seal_it(&p->r, p->r.dst);
    assert_ok(st_container_open(p->r.dst, &p->c, &e), &e);
    assert_ok(st_model_open(p->r.src, &(struct st_model_opts){.n_threads = 1}, &p->m, &e), &e);
    st_sealed_place(&p->m->plan, p->c, every_expert);
    assert_ok(st_plan_check(&p->m->plan, &e), &e);
}

static void unplace(struct placed *p)
{
    st_model_close(p->m);
    st_container_close(p->c);
    seal_rig_close(&p->r);
}

/* Ops of a role: how many, and whether all are placed so. */
static size_t count_placed(const struct st_plan *plan, enum st_role role, enum st_place place)
{
    size_t n = 0;
    for (int i = 0; i < plan->n_op; i++)
        n += plan->ops[i].role == role && plan->ops[i].op == ST_OP_LINEAR && plan->ops[i].place == place;
    return n;
}

static void what_lies_outside_and_is_linear_leaves(void **state)
{
    (void)state;
    struct placed p;
    const struct tiny t = {.n_layer = 3};
    place_model(&p, &t, "default = inside\no = outside\nhead = outside\nembed = outside\nattn_norm = outside\n", false);
    assert_int_equal(count_placed(&p.m->plan, ST_ROLE_O, ST_PLACE_UNTRUSTED), 3);
    assert_int_equal(count_placed(&p.m->plan, ST_ROLE_HEAD, ST_PLACE_UNTRUSTED), 1);
    size_t n = 0;
    for (int i = 0; i < p.m->plan.n_op; i++)
        n += p.m->plan.ops[i].place == ST_PLACE_UNTRUSTED;
    assert_int_equal(n, 4);
    assert_int_equal(st_plan_exchanges(&p.m->plan), 4);
    unplace(&p);
}

static void a_group_on_both_sides_is_split(void **state)
{
    (void)state;
    struct placed p;
    const struct tiny t = {.n_layer = 2};
    place_model(&p, &t, "q = outside\nv = outside\n", false);
    assert_int_equal(count_placed(&p.m->plan, ST_ROLE_Q, ST_PLACE_UNTRUSTED), 2);
    assert_int_equal(count_placed(&p.m->plan, ST_ROLE_K, ST_PLACE_TRUSTED), 2);
    assert_int_equal(count_placed(&p.m->plan, ST_ROLE_V, ST_PLACE_UNTRUSTED), 2);
    assert_int_equal(st_plan_exchanges(&p.m->plan), 2);
    unplace(&p);
}

static void a_tied_head_leaves_when_the_embedding_lies_open(void **state)
{
    (void)state;
    struct placed p;
    const struct tiny t = {.tied = true};
    place_model(&p, &t, "embed = outside\n", false);
    assert_string_equal(p.r.report.moved, "model.embed_tokens.weight");
    assert_int_equal(count_placed(&p.m->plan, ST_ROLE_HEAD, ST_PLACE_UNTRUSTED), 1);
    unplace(&p);
}

static void experts_leave_only_when_every_one_sees_every_row(void **state)
{
    (void)state;
    const struct tiny t = {.arch = "MixtralForCausalLM",
                           .extra = "\"num_local_experts\": 4, \"num_experts_per_tok\": 2, \"sliding_window\": null"};
    struct placed p;
    for (int every = 0; every < 2; every++) {
        place_model(&p, &t, "default = outside\n", every);
        assert_int_equal(count_placed(&p.m->plan, ST_ROLE_ROUTER, ST_PLACE_UNTRUSTED), 0);
        assert_int_equal(count_placed(&p.m->plan, ST_ROLE_EXPERT_UP, ST_PLACE_UNTRUSTED), every ? 8 : 0);
        for (int i = 0; i < p.m->plan.n_op; i++)
            if (p.m->plan.ops[i].op == ST_OP_GATHER)
                assert_int_equal(p.m->plan.ops[i].every_row, every);
        assert_int_equal(count_placed(&p.m->plan, ST_ROLE_O, ST_PLACE_UNTRUSTED), 2);
        unplace(&p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(presets_say_what_the_header_says),
        cmocka_unit_test(every_preset_is_a_file_that_says_the_same),
        cmocka_unit_test(a_file_has_roles_comments_and_a_default),
        cmocka_unit_test(mistakes_are_named_with_their_line),
        cmocka_unit_test(attention_leaves_only_where_policy_and_owner_both_say_so),
        cmocka_unit_test(a_policy_comes_from_a_file),
        cmocka_unit_test(what_lies_outside_and_is_linear_leaves),
        cmocka_unit_test(a_group_on_both_sides_is_split),
        cmocka_unit_test(a_tied_head_leaves_when_the_embedding_lies_open),
        cmocka_unit_test(experts_leave_only_when_every_one_sees_every_row),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
