/* The door to the untrusted side, with a protection that negates rows on their way out and results on their way in
 * (exact in floating point), and a transport that computes with weights of its own. Rewriting the plan must be all that
 * it takes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "engine/boundary.h"
#include "harness.h"

enum { MAX_OPEN = 4, MAX_VALUES = 1 << 16 };

/* One exchange that the transport holds. */
struct held {
    bool open;
    uint64_t id;
    float *rows, *reply;
    size_t len;
};

struct far_side {
    struct st_compute *compute;
    struct st_mat *mats; /* copies, indexed as the plan's weights */
    int n_mat;
    struct held held[MAX_OPEN];
    int n_submit, n_open, max_open, n_drop;
    int fail_at; /* 1-based number of the exchange that fails, 0 = none */
    const char *fail_in;
    int fail_code;      /* of complete */
    float *masked;      /* what enter made; the protection's until leave */
    uint32_t keep_from; /* groups of at least so many rows stay here, 0 = none do */
    uint32_t most_rows; /* of one exchange */
};

static bool fails(const struct far_side *f, const char *where)
{
    return f->fail_at && f->n_submit + 1 >= f->fail_at && strcmp(f->fail_in, where) == 0;
}

static int enter(void *ctx, const struct st_exchange *x, const struct st_trusted *in, struct st_exposed *out,
                 struct st_err *e)
{
    struct far_side *f = ctx;
    size_t n = (size_t)in->n_row * in->width;
    if (fails(f, "enter"))
        return st_fail(e, ST_INTERNAL, "enter: no mask left");
    assert_int_equal(in->n_row, x->n_row);
    assert_true(n <= MAX_VALUES);
    for (size_t i = 0; i < n; i++)
        f->masked[i] = in->ids ? -(float)(in->ids[i / in->width] == i % in->width) : -in->p[i];
    f->most_rows = in->n_row > f->most_rows ? in->n_row : f->most_rows;
    *out = (struct st_exposed){f->masked, n * sizeof(float), ST_EXPOSED_F32};
    return 0;
}

static int leave(void *ctx, const struct st_exchange *x, const struct st_exposed *reply, struct st_trusted *outs,
                 struct st_err *e)
{
    struct far_side *f = ctx;
    const float *from = reply->p;
    if (f->fail_at && f->n_submit >= f->fail_at && strcmp(f->fail_in, "leave") == 0)
        return st_fail(e, ST_VERIFY, "%s: the reply is not what was asked for",
                       x->plan->weights[x->ops[0].weight].name);
    for (int k = 0; k < x->n_op; k++) {
        size_t n = (size_t)outs[k].n_row * outs[k].width;
        for (size_t i = 0; i < n; i++)
            outs[k].p[i] = -from[i];
        from += n;
    }
    return 0;
}

static bool keep(void *ctx, const struct st_plan *plan, const struct st_plan_op *ops, int n_op, uint32_t n_row)
{
    const struct far_side *f = ctx;
    (void)plan, (void)ops, (void)n_op;
    return f->keep_from && n_row >= f->keep_from;
}

static void drop(void *ctx, const struct st_exchange *x)
{
    struct far_side *f = ctx;
    (void)x;
    f->n_drop++;
}

static int submit(void *ctx, const struct st_exchange *x, const struct st_exposed *rows, struct st_err *e)
{
    struct far_side *f = ctx;
    struct held *h = f->held;
    if (fails(f, "submit"))
        return st_fail(e, ST_IO, "worker: connection refused");
    while (h < f->held + MAX_OPEN && h->open)
        h++;
    assert_true(h < f->held + MAX_OPEN);
    h->open = true;
    h->id = x->id;
    h->len = rows->len;
    memcpy(h->rows, rows->p, rows->len);
    f->n_submit++;
    f->n_open++;
    f->max_open = f->n_open > f->max_open ? f->n_open : f->max_open;
    return 0;
}

/* y [n_row, n_in of the embedding] = one-hot rows times it. */
static size_t fetch(const struct st_mat *w, const float *rows, uint32_t n_row, float *y)
{
    const float *table = w->data;
    for (uint32_t r = 0; r < n_row; r++)
        for (uint32_t i = 0; i < w->n_in; i++) {
            float sum = 0;
            for (uint32_t k = 0; k < w->n_out; k++)
                sum += rows[(size_t)r * w->n_out + k] * table[(size_t)k * w->n_in + i];
            y[(size_t)r * w->n_in + i] = sum;
        }
    return (size_t)n_row * w->n_in;
}

static int complete(void *ctx, const struct st_exchange *x, struct st_exposed *reply, struct st_err *e)
{
    struct far_side *f = ctx;
    struct held *h = f->held;
    while (h < f->held + MAX_OPEN && !(h->open && h->id == x->id))
        h++;
    assert_true(h < f->held + MAX_OPEN);
    h->open = false;
    f->n_open--;
    if (f->fail_at && f->n_submit >= f->fail_at && strcmp(f->fail_in, "complete") == 0)
        return st_fail(e, f->fail_code, "worker: connection reset");
    float *to = h->reply;
    for (int k = 0; k < x->n_op; k++) {
        const struct st_mat *w = &f->mats[x->ops[k].weight];
        struct st_linear_job job = {.w = w, .y = to};
        if (x->ops[k].op == ST_OP_EMBED) {
            to += fetch(w, h->rows, x->n_row, to);
            continue;
        }
        assert_int_equal(h->len, (size_t)x->n_row * w->n_in * sizeof(float));
        assert_true((size_t)(to - h->reply) + (size_t)x->n_row * w->n_out <= MAX_VALUES);
        st_linear(f->compute, &job, 1, h->rows, x->n_row);
        to += (size_t)x->n_row * w->n_out;
    }
    *reply = (struct st_exposed){h->reply, (size_t)(to - h->reply) * sizeof(float), ST_EXPOSED_F32};
    return 0;
}

struct setup {
    struct st_model *m;
    struct far_side far;
    struct st_protection_hooks hooks;
    struct st_transport transport;
    struct st_boundary b;
};

static void set_up(struct setup *s, const struct tiny *t)
{
    struct st_err e;
    *s = (struct setup){.m = tiny_model(t)};
    struct far_side *f = &s->far;
    struct st_compute_opts o = {.n_threads = 1, .max_row = 512, .max_width = 4096, .deterministic = true};
    tiny_check(st_compute_new(&o, &f->compute, &e), &e);
    f->n_mat = s->m->plan.n_weight;
    f->mats = calloc((size_t)f->n_mat, sizeof *f->mats);
    for (int i = 0; i < f->n_mat; i++) {
        f->mats[i] = s->m->mats[i];
        if (s->m->plan.weights[i].n_in == 1)
            continue;
        void *copy = malloc(st_mat_bytes(&f->mats[i]));
        memcpy(copy, f->mats[i].data, st_mat_bytes(&f->mats[i]));
        f->mats[i].data = copy;
    }
    for (int i = 0; i < MAX_OPEN; i++) {
        f->held[i].rows = calloc(MAX_VALUES, sizeof(float));
        f->held[i].reply = calloc(MAX_VALUES, sizeof(float));
    }
    f->masked = calloc(MAX_VALUES, sizeof(float));
    s->hooks = (struct st_protection_hooks){.enter = enter, .leave = leave, .keep = keep, .drop = drop, .ctx = f};
    s->transport = (struct st_transport){submit, complete, f};
    s->b = (struct st_boundary){.hooks = &s->hooks, .transport = &s->transport};
}

static void tear_down(struct setup *s)
{
    struct far_side *f = &s->far;
    for (int i = 0; i < f->n_mat; i++)
        if (s->m->plan.weights[i].n_in != 1)
            free((void *)f->mats[i].data);
    for (int i = 0; i < MAX_OPEN; i++) {
        free(f->held[i].rows);
        free(f->held[i].reply);
    }
    free(f->masked);
    free(f->mats);
    st_compute_free(f->compute);
    st_model_close(s->m);
}

/* What a protection does to the plan. */
static void place_outside(struct st_plan *p)
{
    for (int i = 0; i < p->n_op; i++)
        if (p->ops[i].op == ST_OP_LINEAR)
            p->ops[i].place = ST_PLACE_UNTRUSTED;
}

static void run(struct st_engine *en, struct client *c)
{
    static const uint32_t ids[] = {9, 8, 7, 6, 5, 4, 3};
    client_run(c, en, ids, 7, 30);
}

static void a_rewritten_plan_gives_the_same_tokens_through_the_door(void **state)
{
    (void)state;
    static const struct tiny models[] = {
        {.n_ctx = 64, .n_layer = 3, .seed = 1},
        {.arch = "Qwen2ForCausalLM", .n_ctx = 64, .tied = true, .seed = 2}, /* biases stay inside */
        {.arch = "Qwen3ForCausalLM", .n_ctx = 64, .head_dim = 32, .dtype = ST_DTYPE_BF16, .seed = 3},
    };
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        struct setup s;
        struct client inside = {0}, outside = {0};
        struct st_engine_stats st;
        set_up(&s, &models[i]);
        struct st_engine *en = tiny_engine(s.m, (struct st_engine_opts){.boundary = &s.b});
        run(en, &inside);
        assert_int_equal(s.far.n_submit, 0);
        st_engine_free(en);

        place_outside(&s.m->plan);
        int per_step = st_plan_exchanges(&s.m->plan);
        assert_int_equal(per_step, 4 * s.m->config.n_layer + 1);
        en = tiny_engine(s.m, (struct st_engine_opts){.boundary = &s.b});
        run(en, &outside);
        assert_int_equal(outside.n, 30);
        assert_memory_equal(inside.ids, outside.ids, sizeof inside.ids);
        st_engine_stats(en, &st);
        assert_int_equal(s.far.n_submit, (int)st.n_steps * per_step);
        assert_int_equal(s.b.n_exchange, s.far.n_submit);
        assert_int_equal(s.far.n_open, 0);
        st_engine_free(en);
        tear_down(&s);
    }
}

static void an_untrusted_op_without_a_protection_is_refused(void **state)
{
    (void)state;
    struct setup s;
    struct st_engine *en;
    struct st_err e;
    struct st_engine_opts o = {.n_threads = 1};
    set_up(&s, &(struct tiny){.n_ctx = 64, .seed = 1});
    place_outside(&s.m->plan);
    assert_int_equal(st_engine_new(s.m, &o, &en, &e), ST_POLICY);
    assert_non_null(strstr(e.msg, "model.layers.0.self_attn.q_proj.weight"));
    struct st_boundary half = {.hooks = &s.hooks};
    o.boundary = &half;
    assert_int_equal(st_engine_new(s.m, &o, &en, &e), ST_POLICY);
    /* Nor at the door itself. */
    const struct st_plan_op *op = s.m->plan.ops;
    while (op->op != ST_OP_LINEAR)
        op++;
    float in[64] = {0}, out[64];
    struct st_trusted rows = {.p = in, .n_row = 1, .width = 64}, outs = {.p = out, .n_row = 1, .width = 64};
    struct st_boundary none = {0};
    assert_int_equal(st_boundary_linear(&none, s.far.compute, &s.m->plan, op, 1, s.m->mats, &rows, &outs, &e),
                     ST_POLICY);
    /* Only linear layers can leave. */
    for (int i = 0; i < s.m->plan.n_op; i++)
        if (s.m->plan.ops[i].op == ST_OP_ATTEND)
            s.m->plan.ops[i].place = ST_PLACE_UNTRUSTED;
    o.boundary = &s.b;
    assert_int_not_equal(st_engine_new(s.m, &o, &en, &e), 0);
    tear_down(&s);
}

static void a_group_in_two_places_is_refused(void **state)
{
    (void)state;
    struct setup s;
    struct st_err e;
    set_up(&s, &(struct tiny){.n_ctx = 64, .n_kv_head = 4, .seed = 1});
    struct st_plan_op *op = s.m->plan.ops;
    while (op->op != ST_OP_LINEAR)
        op++;
    op[1].place = ST_PLACE_UNTRUSTED;
    float in[64] = {0}, out[3][64];
    struct st_trusted rows = {.p = in, .n_row = 1, .width = 64}, outs[3];
    for (int k = 0; k < 3; k++)
        outs[k] = (struct st_trusted){.p = out[k], .n_row = 1, .width = 64};
    assert_int_equal(st_boundary_linear(&s.b, s.far.compute, &s.m->plan, op, 3, s.m->mats, &rows, outs, &e),
                     ST_INTERNAL);
    assert_int_equal(s.far.n_submit, 0);
    tear_down(&s);
}

static void several_exchanges_may_be_outstanding(void **state)
{
    (void)state;
    enum { N = 3, ROWS = 5 };
    struct setup s;
    struct st_err e;
    struct st_rng rng;
    float in[N][ROWS * 64], out[N][3][ROWS * 64], want[3][ROWS * 64];
    struct st_exchange x[N];
    struct st_trusted rows[N], outs[3];
    set_up(&s, &(struct tiny){.n_ctx = 64, .n_kv_head = 4, .arch = "Qwen2ForCausalLM", .seed = 1});
    st_rng_seed(&rng, 1);
    struct st_plan_op *op = s.m->plan.ops;
    while (op->op != ST_OP_LINEAR)
        op++;
    struct st_plan inside = s.m->plan;
    struct st_plan_op local[3];
    memcpy(local, op, sizeof local);
    place_outside(&s.m->plan);
    for (int i = 0; i < N; i++) {
        for (int k = 0; k < ROWS * 64; k++)
            in[i][k] = (float)st_rng_unit(&rng) - 0.5f;
        rows[i] = (struct st_trusted){.p = in[i], .n_row = ROWS, .width = 64};
        x[i] = (struct st_exchange){.plan = &s.m->plan, .ops = op, .n_op = 3};
        tiny_check(st_boundary_submit(&s.b, &x[i], &rows[i], &e), &e);
    }
    assert_int_equal(s.far.max_open, N);
    static const int order[N] = {1, 2, 0};
    for (int i = 0; i < N; i++) {
        int at = order[i];
        for (int k = 0; k < 3; k++)
            outs[k] = (struct st_trusted){.p = out[at][k], .n_row = ROWS, .width = 64};
        tiny_check(st_boundary_complete(&s.b, &x[at], s.m->mats, outs, &e), &e);
        for (int k = 0; k < 3; k++)
            outs[k].p = want[k];
        tiny_check(st_boundary_linear(&s.b, s.far.compute, &inside, local, 3, s.m->mats, &rows[at], outs, &e), &e);
        for (int k = 0; k < 3; k++)
            for (int v = 0; v < ROWS * 64; v++)
                assert_true(__builtin_fabsf(want[k][v] - out[at][k][v]) < 1e-5f);
    }
    assert_int_equal(s.far.n_open, 0);
    assert_int_equal(s.b.n_exchange, N);
    tear_down(&s);
}

/* Fails exchange number `at` at `where`; both running requests end with that error, and the engine works afterwards. */
static void check_failure(const char *where, int at, int code, const char *text, int n_drop)
{
    struct setup s;
    struct client ref = {0}, a = {0}, b = {0}, after = {0};
    struct st_session *session;
    struct st_err e;
    static const uint32_t ids[] = {9, 8, 7, 6, 5, 4, 3};
    set_up(&s, &(struct tiny){.n_ctx = 64, .seed = 1});
    place_outside(&s.m->plan);
    struct st_engine *en = tiny_engine(s.m, (struct st_engine_opts){.boundary = &s.b});
    run(en, &ref);
    tiny_check(st_session_new(en, &session, &e), &e);
    s.far.fail_in = where;
    s.far.fail_code = at % 2 ? ST_IO : ST_INPUT; /* nonsense from the other side is no fault of who asked */
    s.far.fail_at = s.far.n_submit + at;
    struct st_request_opts o = client_opts(&a, ids, 7, 30);
    client_submit(&a, en, &o);
    o = client_opts(&b, ids, 5, 30);
    o.session = session;
    client_submit(&b, en, &o);
    while (st_engine_step(en))
        ;
    struct client *both[] = {&a, &b};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(both[i]->n_end, 1);
        assert_int_equal(both[i]->finish, ST_FINISH_ERROR);
        assert_int_equal(both[i]->err.code, code);
        assert_non_null(strstr(both[i]->err.msg, text));
    }
    assert_int_equal(s.far.n_drop, n_drop);
    assert_int_equal(s.far.n_open, 0);
    s.far.fail_at = 0;
    o = client_opts(&after, ids, 7, 30);
    o.session = session;
    client_submit(&after, en, &o);
    while (st_engine_step(en))
        ;
    assert_int_equal(after.n, ref.n);
    assert_memory_equal(after.ids, ref.ids, sizeof ref.ids);
    st_engine_free(en);
    tear_down(&s);
}

static void a_failed_exchange_ends_the_requests_and_not_the_engine(void **state)
{
    (void)state;
    static const int at[] = {1, 2, 9, 13, 45, 90}; /* 9 exchanges a step: 9 and 45 and 90 are the head's */
    for (size_t i = 0; i < sizeof at / sizeof *at; i++) {
        check_failure("enter", at[i], ST_INTERNAL, "no mask left", 0);
        check_failure("submit", at[i], ST_IO, "connection refused", 1);
        check_failure("complete", at[i], ST_IO, "connection reset", 1);
        check_failure("leave", at[i], ST_VERIFY, "not what was asked for", 0);
    }
}

static void rows_are_cut_to_what_one_exchange_takes(void **state)
{
    (void)state;
    struct setup s;
    struct client inside = {0}, outside = {0};
    set_up(&s, &(struct tiny){.n_ctx = 64, .seed = 1});
    struct st_engine *en = tiny_engine(s.m, (struct st_engine_opts){.boundary = &s.b});
    run(en, &inside);
    st_engine_free(en);
    place_outside(&s.m->plan);
    s.b.max_row = 3;
    en = tiny_engine(s.m, (struct st_engine_opts){.boundary = &s.b});
    run(en, &outside);
    assert_memory_equal(inside.ids, outside.ids, sizeof inside.ids);
    assert_int_equal(s.far.most_rows, 3);
    /* 7 prompt rows in 3 pieces through 8 groups, then 29 steps; the head takes one row in each. */
    assert_int_equal(s.far.n_submit, 8 * 3 + 8 * 29 + 30);
    st_engine_free(en);
    tear_down(&s);
    struct st_boundary b = {0};
    assert_int_equal(st_boundary_rows(&b, 128 << 10), 32);
    assert_int_equal(st_boundary_rows(&b, 1u << 31), 1);
    b.max_row = 5;
    assert_int_equal(st_boundary_rows(&b, 64), 5);
}

static void a_group_that_the_protection_keeps_runs_here_when_its_weights_are_here(void **state)
{
    (void)state;
    struct setup s;
    struct client inside = {0}, kept = {0}, refused = {0};
    set_up(&s, &(struct tiny){.arch = "Qwen2ForCausalLM", .n_ctx = 64, .seed = 4});
    struct st_engine *en = tiny_engine(s.m, (struct st_engine_opts){.boundary = &s.b});
    run(en, &inside);
    st_engine_free(en);
    place_outside(&s.m->plan);
    s.far.keep_from = 2; /* the prompt's rows, but for the head */
    en = tiny_engine(s.m, (struct st_engine_opts){.boundary = &s.b});
    run(en, &kept);
    assert_memory_equal(inside.ids, kept.ids, sizeof inside.ids);
    assert_int_equal(s.far.n_submit, 8 * 29 + 30);
    const struct st_plan_op *op = s.m->plan.ops;
    while (op->op != ST_OP_LINEAR)
        op++;
    s.m->mats[op->weight].data = NULL;
    run(en, &refused);
    assert_int_equal(refused.err.code, ST_INTERNAL);
    assert_non_null(strstr(refused.err.msg, "model.layers.0.self_attn.q_proj.weight"));
    st_engine_free(en);
    /* What is to run here must be here from the start. */
    struct st_err e;
    struct st_engine_opts o = {.n_threads = 1, .boundary = &s.b};
    for (int i = 0; i < s.m->plan.n_op; i++)
        s.m->plan.ops[i].place = ST_PLACE_TRUSTED;
    assert_int_equal(st_engine_new(s.m, &o, &en, &e), ST_INPUT);
    assert_non_null(strstr(e.msg, "model.layers.0.self_attn.q_proj.weight"));
    tear_down(&s);
}

static void rows_of_the_embedding_are_fetched_through_the_door(void **state)
{
    (void)state;
    struct setup s;
    struct client inside = {0}, outside = {0};
    struct st_engine_stats st;
    set_up(&s, &(struct tiny){.n_ctx = 64, .seed = 5});
    struct st_engine *en = tiny_engine(s.m, (struct st_engine_opts){.boundary = &s.b});
    run(en, &inside);
    st_engine_free(en);
    assert_int_equal(s.m->plan.ops[0].op, ST_OP_EMBED);
    s.m->plan.ops[0].place = ST_PLACE_UNTRUSTED;
    s.b.max_row = 4;
    assert_int_equal(st_plan_exchanges(&s.m->plan), 1);
    en = tiny_engine(s.m, (struct st_engine_opts){.boundary = &s.b});
    run(en, &outside);
    assert_memory_equal(inside.ids, outside.ids, sizeof inside.ids);
    st_engine_stats(en, &st);
    assert_int_equal(s.far.n_submit, (int)st.n_steps + 1); /* 7 rows of the prompt take two */
    st_engine_free(en);
    tear_down(&s);
}

static void experts_leave_with_every_row_or_not_at_all(void **state)
{
    (void)state;
    struct setup s;
    struct client inside = {0}, outside = {0};
    struct st_engine *en;
    struct st_err e;
    struct st_engine_stats st;
    set_up(&s, &(struct tiny){.arch = "MixtralForCausalLM",
                              .n_ctx = 64,
                              .extra = "\"num_local_experts\": 4, \"num_experts_per_tok\": 2",
                              .seed = 6});
    en = tiny_engine(s.m, (struct st_engine_opts){.boundary = &s.b});
    run(en, &inside);
    st_engine_free(en);
    for (int i = 0; i < s.m->plan.n_op; i++)
        if (s.m->plan.ops[i].op == ST_OP_LINEAR && s.m->plan.ops[i].expert >= 0)
            s.m->plan.ops[i].place = ST_PLACE_UNTRUSTED;
    struct st_engine_opts o = {.n_threads = 1, .boundary = &s.b};
    assert_int_equal(st_engine_new(s.m, &o, &en, &e), ST_POLICY);
    assert_non_null(strstr(e.msg, "tells the routing"));
    assert_non_null(strstr(e.msg, "experts.0"));
    for (int i = 0; i < s.m->plan.n_op; i++)
        s.m->plan.ops[i].every_row = s.m->plan.ops[i].op == ST_OP_GATHER;
    en = tiny_engine(s.m, (struct st_engine_opts){.boundary = &s.b});
    run(en, &outside);
    assert_memory_equal(inside.ids, outside.ids, sizeof inside.ids);
    st_engine_stats(en, &st);
    assert_int_equal(s.far.n_submit, (int)st.n_steps * 2 * 4 * 2); /* layers, experts, groups */
    st_engine_free(en);
    tear_down(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_rewritten_plan_gives_the_same_tokens_through_the_door),
        cmocka_unit_test(an_untrusted_op_without_a_protection_is_refused),
        cmocka_unit_test(a_group_in_two_places_is_refused),
        cmocka_unit_test(several_exchanges_may_be_outstanding),
        cmocka_unit_test(a_failed_exchange_ends_the_requests_and_not_the_engine),
        cmocka_unit_test(rows_are_cut_to_what_one_exchange_takes),
        cmocka_unit_test(a_group_that_the_protection_keeps_runs_here_when_its_weights_are_here),
        cmocka_unit_test(rows_of_the_embedding_are_fetched_through_the_door),
        cmocka_unit_test(experts_leave_with_every_row_or_not_at_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
