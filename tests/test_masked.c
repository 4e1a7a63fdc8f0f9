/* Masked layers from the engine's side: exact against the integer reference, every reply checked before it is used,
 * pads used once whatever happens, and nothing in clear on its way out. */
#include "masked_setup.h"

/* Allocations of this thread: those that make pads allocate when they please. Sanitizers have an allocator of their
 * own.
 */
static _Thread_local size_t n_alloc;
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && !defined(__clang__)
void *__libc_malloc(size_t n);
void *__libc_memalign(size_t alignment, size_t n);

void *malloc(size_t n)
{
    n_alloc++;
    return __libc_malloc(n);
}

void *aligned_alloc(size_t alignment, size_t n)
{
    n_alloc++;
    return __libc_memalign(alignment, n);
}
#endif

static void one_time_pads_equal_the_integer_reference_bit_by_bit(void **state)
{
    (void)state;
    struct setup s;
    struct st_err e;
    plant(&s, &(struct tiny){.arch = "Qwen2ForCausalLM", .seed = 3}, &(struct st_masked_place){.embedding = true});
    struct st_masked_opts o = options(&s, "otp");
    mask(&s, &o);
    with_reference(&s);
    int n_group = st_plan_exchanges(&s.m->plan);
    assert_int_equal(n_group, 4 * 2 + 2);
    for (int round = 0; round < 20; round++)
        for (int g = 0; g < n_group; g++) {
            struct rows r;
            rows_make(&r, &s, g, 1 + (uint32_t)(round % 5), (uint64_t)(round * 100 + g));
            assert_ok(send(&s, &s.b, &r, r.outs, &e), &e);
            assert_ok(send(&s, &s.ref, &r, r.want, &e), &e);
            for (int k = 0; k < r.n_op; k++)
                assert_memory_equal(r.outs[k].p, r.want[k].p, (size_t)r.in.n_row * r.outs[k].width * sizeof(float));
            rows_free(&r);
        }
    struct st_masked_stats st = stats_of(&s);
    assert_int_equal(st.n_exchange, 20 * n_group);
    assert_int_equal(st.n_row, 4 * 15 * n_group);
    assert_int_equal(st.n_reject, 0);
    assert_all_wiped(&s);
    tear_down(&s);
}

static void fetched_embeddings_are_the_rows_of_the_table(void **state)
{
    (void)state;
    static const char *const schemes[] = {"otp", "lwe", "remo"};
    for (int i = 0; i < 3; i++) {
        struct setup s;
        struct st_err e;
        struct rows r;
        plant(&s, &(struct tiny){.seed = 4, .n_vocab = 300}, &(struct st_masked_place){.embedding = true});
        struct st_masked_opts o = options(&s, schemes[i]);
        mask(&s, &o);
        rows_make(&r, &s, 0, 20, 9);
        assert_int_equal(r.ops->op, ST_OP_EMBED);
        assert_ok(send(&s, &s.b, &r, r.outs, &e), &e);
        const struct st_mat *table = &s.m->mats[r.ops->weight];
        assert_int_equal(table->dtype, ST_DTYPE_F32);
        const struct st_served_weight *w = &s.served.weights[s.served.n - 1];
        for (uint32_t row = 0; row < 20; row++)
            for (uint32_t k = 0; k < w->n_out; k++) {
                float want = ((const float *)table->data)[(size_t)r.ids[row] * w->n_out + k];
                /* half a step of int8, and what the scheme adds */
                assert_true(fabsf(r.outs[0].p[row * w->n_out + k] - want) <= 0.6f * w->scale[k]);
            }
        /* An id beyond the table never leaves. */
        r.ids[3] = 300;
        expect_refusal(send(&s, &s.b, &r, r.outs, &e), &e, ST_INTERNAL, "embed: a one-hot row beyond 300");
        assert_all_wiped(&s);
        rows_free(&r);
        tear_down(&s);
    }
}

static void run_greedy(struct setup *s, struct st_boundary *b, struct client *c)
{
    static const uint32_t ids[] = {9, 8, 7, 6, 5, 4, 3};
    struct st_engine *en = tiny_engine(s->m, (struct st_engine_opts){.boundary = b, .n_threads = 1});
    client_run(c, en, ids, 7, 40);
    assert_int_equal(c->n, 40);
    st_engine_free(en);
}

#define MOE "\"moe_intermediate_size\": 48, \"norm_topk_prob\": true, "
#define LATENT                                                                                                         \
    "\"kv_lora_rank\": 24, \"qk_nope_head_dim\": 16, \"qk_rope_head_dim\": 8, \"v_head_dim\": 12, "                    \
    "\"q_lora_rank\": 20, \"moe_intermediate_size\": 40, \"n_routed_experts\": 4, \"num_experts_per_tok\": 2, "        \
    "\"first_k_dense_replace\": 1, \"n_shared_experts\": 1"

static void one_time_pads_give_the_tokens_of_the_reference_in_every_architecture(void **state)
{
    (void)state;
    static const struct tiny models[] = {
        {.seed = 1, .tied = true},
        {.seed = 2, .arch = "MistralForCausalLM", .head_dim = 32},
        {.seed = 3, .arch = "Qwen2ForCausalLM"},
        {.seed = 4, .arch = "Qwen3ForCausalLM", .dtype = ST_DTYPE_BF16},
        {.seed = 7, .arch = "MixtralForCausalLM", .extra = "\"num_local_experts\": 4, \"num_experts_per_tok\": 2"},
        {.seed = 8, .arch = "Qwen3MoeForCausalLM", .extra = MOE "\"num_experts\": 4, \"num_experts_per_tok\": 2"},
        {.seed = 9, .arch = "DeepseekV2ForCausalLM", .n_kv_head = 4, .extra = LATENT},
        {.seed = 10,
         .arch = "DeepseekV3ForCausalLM",
         .n_kv_head = 4,
         .extra = LATENT ", \"n_group\": 2, \"topk_group\": 1, \"norm_topk_prob\": true"},
    };
    for (size_t i = 0; i < sizeof models / sizeof *models; i++)
        for (int all = 0; all < (i < 4 ? 1 : 2); all++) {
            struct setup s;
            struct client masked = {0}, reference = {0};
            plant(&s, &models[i],
                  &(struct st_masked_place){.experts = all ? ST_MASKED_EXPERTS_ALL : ST_MASKED_EXPERTS_LOCAL});
            struct st_masked_opts o = options(&s, "otp");
            mask(&s, &o);
            with_reference(&s);
            run_greedy(&s, &s.b, &masked);
            run_greedy(&s, &s.ref, &reference);
            assert_memory_equal(masked.ids, reference.ids, sizeof masked.ids);
            assert_all_wiped(&s);
            tear_down(&s);
        }
}

/* Largest distance from exact products of the unrounded rows, over the largest of them in the row. */
static double worst_error(struct setup *s, int g, uint64_t seed)
{
    struct rows r;
    struct st_err e;
    double worst = 0;
    rows_make(&r, s, g, 8, seed);
    assert_ok(send(s, &s->b, &r, r.outs, &e), &e);
    for (int k = 0; k < r.n_op; k++) {
        const struct st_served_weight *w = &s->served.weights[worker_matrix(&s->served, &s->m->plan, &r.ops[k])];
        for (uint32_t i = 0; i < r.in.n_row; i++) {
            double most = 1e-12, off = 0; /* of the row of zeros, too */
            for (uint32_t j = 0; j < w->n_out; j++) {
                double sum = 0;
                for (uint32_t n = 0; n < w->n_in; n++)
                    sum += (double)w->w[(size_t)j * w->n_in + n] * r.in.p[(size_t)i * w->n_in + n];
                most = fmax(most, fabs(sum * w->scale[j]));
                off = fmax(off, fabs(sum * w->scale[j] - r.outs[k].p[(size_t)i * w->n_out + j]));
            }
            worst = fmax(worst, off / most);
        }
    }
    rows_free(&r);
    return worst;
}

static void every_scheme_stays_within_its_error(void **state)
{
    (void)state;
    /* The worst single value over the largest of its row. otp rounds rows; lwe adds e W, and the rounding of hints for
     * wide rows; remo rounds in f32 under masks a hundred times larger. */
    static const struct {
        const char *name;
        double most;
    } rows[] = {{"otp", 2e-5}, {"lwe", 2e-3}, {"remo", 2e-4}};
    for (int i = 0; i < 3; i++) {
        struct setup s;
        double worst = 0;
        set_up(&s, &(struct tiny){.seed = 6, .d_model = 128, .d_ff = 600}, rows[i].name);
        for (int g = 0; g < st_plan_exchanges(&s.m->plan); g++)
            worst = fmax(worst, worst_error(&s, g, (uint64_t)g));
        if (worst > rows[i].most)
            fail_msg("%s: error %.2g, want at most %.2g", rows[i].name, worst, rows[i].most);
        assert_all_wiped(&s);
        tear_down(&s);
    }
}

/* Replies that lie */

struct lie {
    struct st_rng rng;
    int kind;
    uint32_t n_row, n;     /* shape of the first matrix */
    struct st_exposed old; /* a reply to be replayed */
    bool told;             /* whether anything was changed */
};

enum { ELEMENT, POWER, SWAP, ZERO_ROW, ROW_SWAP, REPLAY, NOT_CANONICAL, ALL_ZERO, MINUS, OTHER_WEIGHT, N_LIE };

static void tell(void *arg, struct st_exposed *reply)
{
    struct lie *l = arg;
    uint32_t *v = reply->p;
    uint32_t total = (uint32_t)(reply->len / 4);
    uint32_t a = (uint32_t)(st_rng_next(&l->rng) % total), b = (uint32_t)(st_rng_next(&l->rng) % total), was = v[a];
    uint32_t row = (uint32_t)(st_rng_next(&l->rng) % l->n_row) * l->n, next = (row + l->n) % (l->n_row * l->n);
    l->told = true;
    switch (l->kind) {
    case ELEMENT:
        v[a] = st_fq_add(v[a], 1 + (uint32_t)(st_rng_next(&l->rng) % (ST_FQ - 1)));
        break;
    case POWER:
        v[a] = st_fq_add(v[a], 1u << st_rng_next(&l->rng) % 32);
        break;
    case SWAP:
        v[a] = v[b];
        v[b] = was;
        l->told = v[a] != v[b];
        break;
    case ZERO_ROW:
        memset(v + row, 0, l->n * sizeof *v);
        break;
    case ROW_SWAP:
        for (uint32_t k = 0; k < l->n; k++) {
            was = v[row + k];
            v[row + k] = v[next + k];
            v[next + k] = was;
        }
        l->told = l->n_row > 1;
        break;
    case REPLAY:
        memcpy(v, l->old.p, reply->len);
        break;
    case NOT_CANONICAL: /* the right residue, written as x + q */
        l->told = v[a] < UINT32_MAX - ST_FQ;
        if (l->told)
            v[a] += ST_FQ;
        else
            v[a] = UINT32_MAX;
        l->told = true;
        break;
    case ALL_ZERO:
        memset(v, 0, reply->len);
        break;
    case OTHER_WEIGHT: /* the products of k and v, which have one shape, change places */
        row = l->n_row * l->n;
        for (uint32_t k = row, n = (total - row) / 2; k < row + n; k++) {
            was = v[k];
            v[k] = v[k + n];
            v[k + n] = was;
        }
        break;
    case MINUS:
        for (uint32_t k = 0; k < total; k++)
            v[k] = st_fq_sub(0, v[k]);
        break;
    }
}

static void a_hundred_thousand_wrong_replies_are_all_caught(void **state)
{
    (void)state;
    enum { ROWS = 3, N = 100000 };
    struct setup s;
    struct st_err e;
    struct rows r;
    struct lie l = {.n_row = ROWS, .n = 16};
    uint64_t n_told = 0;
    /* The smallest layers that have a group of several matrices: the time goes to redrawing all secrets. */
    set_up(&s,
           &(struct tiny){.seed = 7, .d_model = 16, .d_ff = 8, .n_layer = 1, .n_head = 2, .n_kv_head = 1, .n_vocab = 8},
           "otp");
    rows_make(&r, &s, 0, ROWS, 1);
    assert_int_equal(r.n_op, 3);
    assert_int_equal(r.outs[0].width, 16);
    st_rng_seed(&l.rng, 5);
    assert_ok(send(&s, &s.b, &r, r.outs, &e), &e);
    l.old.len = s.worker.held[0].reply.len;
    l.old.p = malloc(l.old.len);
    memcpy(l.old.p, s.worker.held[0].reply.p, l.old.len);
    s.worker.arg = &l;
    for (int i = 0; i < N; i++) {
        l.kind = i % N_LIE;
        s.worker.twist = tell;
        r.outs[0].p[0] = 1e30f;
        int rc = send(&s, &s.b, &r, r.outs, &e);
        n_told += l.told;
        assert_int_equal(r.outs[0].p[0] == 1e30f, l.told); /* nothing of a wrong reply is used */
        if ((rc == ST_VERIFY) != l.told)
            fail_msg("lie %d of kind %d: %d %s", i, l.kind, rc, rc ? e.msg : "");
        if (i % 100 == 0) { /* the truth always passes */
            s.worker.twist = NULL;
            assert_ok(send(&s, &s.b, &r, r.want, &e), &e);
        }
    }
    s.worker.twist = NULL;
    assert_ok(send(&s, &s.b, &r, r.outs, &e), &e);
    assert_string_equal(e.msg, "layer 0 (q, k, v): the worker's reply is not the product that was asked for");
    assert_true(n_told > N * 0.99);
    struct st_masked_stats st = stats_of(&s);
    assert_int_equal(st.n_reject, n_told);
    assert_int_equal(s.n_quarantine, n_told);
    assert_int_equal(st.n_redraw, n_told);
    assert_all_wiped(&s);
    free(l.old.p);
    rows_free(&r);
    tear_down(&s);
}

static void cut(void *arg, struct st_exposed *reply)
{
    reply->len = *(size_t *)arg;
}

static void floats(void *arg, struct st_exposed *reply)
{
    (void)arg;
    reply->format = reply->format == ST_EXPOSED_FIELD ? ST_EXPOSED_F32 : ST_EXPOSED_FIELD;
}

static void infinite(void *arg, struct st_exposed *reply)
{
    (void)arg;
    ((float *)reply->p)[reply->len / 4 - 1] = INFINITY;
}

static void replies_of_another_length_or_format_are_refused_by_site(void **state)
{
    (void)state;
    static const char *const schemes[] = {"otp", "lwe", "remo"};
    for (int i = 0; i < 3; i++) {
        struct setup s;
        struct st_err e;
        struct rows r;
        set_up(&s, &(struct tiny){.seed = 8}, schemes[i]);
        rows_make(&r, &s, 6, 2, 1);
        const size_t right = 2 * 2 * 96 * 4, lens[] = {0, 3, 4, right - 4, right - 1, right + 1, right + 4, SIZE_MAX};
        s.worker.twist = cut;
        for (size_t k = 0; k < sizeof lens / sizeof *lens; k++) {
            s.worker.arg = (void *)&lens[k];
            expect_refusal(send(&s, &s.b, &r, r.outs, &e), &e, ST_VERIFY, "layer 1 (gate, up): the worker's reply has");
        }
        s.worker.twist = floats;
        expect_refusal(send(&s, &s.b, &r, r.outs, &e), &e, ST_VERIFY, "of another format, want 1536");
        if (i == 2) {
            s.worker.twist = infinite;
            expect_refusal(send(&s, &s.b, &r, r.outs, &e), &e, ST_VERIFY, "not the product");
        }
        s.worker.twist = NULL;
        assert_ok(send(&s, &s.b, &r, r.outs, &e), &e);
        struct st_masked_stats st = stats_of(&s);
        assert_int_equal(st.n_reject, i == 2 ? 10 : 9);
        assert_int_equal(s.n_quarantine, st.n_reject);
        assert_int_equal(st.n_redraw, i == 2 ? 0 : 9);
        assert_all_wiped(&s);
        rows_free(&r);
        tear_down(&s);
    }
}

/* Even where nothing can be checked. */
static void residues_that_are_not_canonical_are_refused_without_integrity(void **state)
{
    (void)state;
    struct setup s;
    struct st_err e;
    struct rows r;
    struct lie l = {.kind = NOT_CANONICAL, .n_row = 2, .n = 64};
    plant(&s, &(struct tiny){.seed = 9}, &(struct st_masked_place){0});
    struct st_masked_opts o = options(&s, "otp");
    o.no_integrity = true;
    mask(&s, &o);
    rows_make(&r, &s, 0, 2, 1);
    st_rng_seed(&l.rng, 1);
    s.worker.twist = tell;
    s.worker.arg = &l;
    for (int i = 0; i < 50; i++)
        expect_refusal(send(&s, &s.b, &r, r.outs, &e), &e, ST_VERIFY, "not the product");
    /* And what integrity is for: a wrong residue passes now. */
    l.kind = ELEMENT;
    assert_ok(send(&s, &s.b, &r, r.outs, &e), &e);
    rows_free(&r);
    tear_down(&s);
}

static void a_failed_exchange_leaves_no_pad_behind(void **state)
{
    (void)state;
    struct setup s;
    struct st_err e;
    struct rows r;
    set_up(&s, &(struct tiny){.seed = 10}, "otp");
    rows_make(&r, &s, 1, 3, 1);
    s.worker.down = true;
    for (int i = 0; i < 100; i++)
        expect_refusal(send(&s, &s.b, &r, r.outs, &e), &e, ST_IO, "connection refused");
    struct st_masked_stats st = stats_of(&s);
    assert_int_equal(st.pads.taken, 300); /* a fresh pad for every retry */
    assert_int_equal(st.pads.wiped, 300);
    s.worker.down = false;
    /* The exchange gets lost on its way back. */
    struct st_exchange x = {.plan = &s.m->plan, .ops = r.ops, .n_op = r.n_op};
    assert_ok(st_boundary_submit(&s.b, &x, &r.in, &e), &e);
    s.worker.held[0].open = false;
    expect_refusal(st_boundary_complete(&s.b, &x, s.m->mats, r.outs, &e), &e, ST_IO, "no such exchange");
    assert_all_wiped(&s);
    assert_ok(send(&s, &s.b, &r, r.outs, &e), &e);
    assert_int_equal(s.n_quarantine, 0);
    rows_free(&r);
    tear_down(&s);
}

static void rows_that_are_no_numbers_never_leave(void **state)
{
    (void)state;
    static const char *const schemes[] = {"otp", "lwe", "remo"};
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 3; i++) {
        struct setup s;
        struct st_err e;
        struct rows r;
        set_up(&s, &(struct tiny){.seed = 11}, schemes[i]);
        rows_make(&r, &s, 7, 2, 1);
        size_t n_seen = s.worker.n_seen;
        s.worker.record = true;
        for (int k = 0; k < 3; k++) {
            r.in.p[96 + 95] = bad[k];
            expect_refusal(send(&s, &s.b, &r, r.outs, &e), &e, ST_VERIFY,
                           "layer 1 (down): a row holds a value that is not finite");
        }
        struct st_masked_stats st = stats_of(&s);
        assert_int_equal(st.pads.taken, 0);
        assert_int_equal(s.worker.n_seen, n_seen);
        rows_free(&r);
        tear_down(&s);
    }
}

static void several_exchanges_are_in_flight_and_come_back_in_any_order(void **state)
{
    (void)state;
    enum { N = 32 };
    struct setup s;
    struct st_err e;
    struct rows r[N + 1];
    struct st_exchange x[N + 1];
    set_up(&s, &(struct tiny){.seed = 12}, "otp");
    with_reference(&s);
    for (int i = 0; i < N; i++) {
        rows_make(&r[i], &s, i % 9, 1 + (uint32_t)i % 3, (uint64_t)i);
        assert_ok(send(&s, &s.ref, &r[i], r[i].want, &e), &e);
        x[i] = (struct st_exchange){.plan = &s.m->plan, .ops = r[i].ops, .n_op = r[i].n_op};
        assert_ok(st_boundary_submit(&s.b, &x[i], &r[i].in, &e), &e);
    }
    x[N] = x[0];
    expect_refusal(st_boundary_submit(&s.b, &x[N], &r[0].in, &e), &e, ST_INTERNAL, "outstanding");
    for (int i = 0; i < N; i++) {
        int at = (i * 7 + 3) % N;
        assert_ok(st_boundary_complete(&s.b, &x[at], s.m->mats, r[at].outs, &e), &e);
        for (int k = 0; k < r[at].n_op; k++)
            assert_memory_equal(r[at].outs[k].p, r[at].want[k].p,
                                (size_t)r[at].in.n_row * r[at].outs[k].width * sizeof(float));
    }
    /* The same reply a second time, and one to an exchange that the plan does not have. */
    struct st_exposed reply = s.worker.held[0].reply;
    expect_refusal(s.b.hooks->leave(s.b.hooks->ctx, &x[3], &reply, r[3].outs, &e), &e, ST_INTERNAL, "nobody began");
    s.b.hooks->drop(s.b.hooks->ctx, &x[3]);
    x[0].n_op = 2;
    expect_refusal(st_boundary_submit(&s.b, &x[0], &r[0].in, &e), &e, ST_INTERNAL, "the plan does not have");
    assert_all_wiped(&s);
    for (int i = 0; i < N; i++)
        rows_free(&r[i]);
    tear_down(&s);
}

static void begin(struct setup *s, const struct rows *r, struct st_exchange *x)
{
    struct st_err e;
    *x = (struct st_exchange){.plan = &s->m->plan, .ops = r->ops, .n_op = r->n_op};
    assert_ok(st_boundary_submit(&s->b, x, &r->in, &e), &e);
}

static void zeros(void *arg, struct st_exposed *reply)
{
    (void)arg;
    memset(reply->p, 0, reply->len);
}

/* What the check expects was formed while the worker computed, from secrets that are drawn anew after a reject. */
static void replies_on_their_way_outlive_the_reject_of_another(void **state)
{
    (void)state;
    struct setup s;
    struct st_err e;
    struct rows r[3];
    struct st_exchange x[3];
    set_up(&s, &(struct tiny){.seed = 19}, "otp");
    with_reference(&s);
    for (int i = 0; i < 3; i++) {
        rows_make(&r[i], &s, i, 2, (uint64_t)i);
        assert_ok(send(&s, &s.ref, &r[i], r[i].want, &e), &e);
    }
    begin(&s, &r[0], &x[0]);
    begin(&s, &r[1], &x[1]);
    s.worker.twist = zeros;
    expect_refusal(st_boundary_complete(&s.b, &x[0], s.m->mats, r[0].outs, &e), &e, ST_VERIFY, "not the product");
    s.worker.twist = NULL;
    begin(&s, &r[2], &x[2]);
    assert_int_equal(stats_of(&s).n_redraw, 1);
    for (int i = 1; i < 3; i++) {
        assert_ok(st_boundary_complete(&s.b, &x[i], s.m->mats, r[i].outs, &e), &e);
        assert_memory_equal(r[i].outs[0].p, r[i].want[0].p, (size_t)2 * r[i].outs[0].width * sizeof(float));
    }
    assert_all_wiped(&s);
    for (int i = 0; i < 3; i++)
        rows_free(&r[i]);
    tear_down(&s);
}

static void a_caller_that_does_nothing_meanwhile_is_checked_all_the_same(void **state)
{
    (void)state;
    struct setup s;
    struct st_err e;
    struct rows r;
    set_up(&s, &(struct tiny){.seed = 20}, "otp");
    with_reference(&s);
    struct st_protection_hooks hooks = *s.b.hooks;
    hooks.meanwhile = NULL;
    s.b.hooks = &hooks;
    rows_make(&r, &s, 0, 3, 1);
    assert_ok(send(&s, &s.b, &r, r.outs, &e), &e);
    assert_ok(send(&s, &s.ref, &r, r.want, &e), &e);
    for (int k = 0; k < r.n_op; k++)
        assert_memory_equal(r.outs[k].p, r.want[k].p, (size_t)3 * r.outs[k].width * sizeof(float));
    s.worker.twist = zeros;
    expect_refusal(send(&s, &s.b, &r, r.outs, &e), &e, ST_VERIFY, "not the product");
    assert_true(stats_of(&s).meanwhile_s == 0);
    rows_free(&r);
    tear_down(&s);
}

/* A scheme that tells where its last block of pads lies. */
static int (*made_by)(void *s, int group, uint32_t n, struct st_stream *random, uint32_t *pads, struct st_err *e);
static uint32_t *made_at[16];

static int make_and_tell(void *s, int group, uint32_t n, struct st_stream *random, uint32_t *pads, struct st_err *e)
{
    __atomic_store_n(&made_at[group], pads, __ATOMIC_RELAXED);
    return made_by(s, group, n, random, pads, e);
}

static size_t n_zero(const uint32_t *p, size_t n)
{
    size_t zero = 0;
    for (size_t i = 0; i < n; i++)
        zero += p[i] == 0;
    return zero;
}

static void pads_are_zeros_as_soon_as_they_were_used(void **state)
{
    (void)state;
    static const char *const schemes[] = {"otp", "lwe", "remo"};
    enum { ROWS = 3, PADS = 70 };
    for (int i = 0; i < 3; i++)
        for (int wrong = 0; wrong < 2; wrong++) {
            struct setup s;
            struct st_err e;
            struct rows r;
            struct st_exchange x;
            plant(&s, &(struct tiny){.seed = 21}, &(struct st_masked_place){0});
            struct st_masked_opts o = options(&s, schemes[i]);
            struct st_scheme tells = *o.scheme;
            made_by = tells.make;
            tells.make = make_and_tell;
            o.scheme = &tells;
            o.pads.max_row = o.pads.batch = PADS; /* one block of each group */
            mask(&s, &o);
            rows_make(&r, &s, 2, ROWS, 1); /* gate, up: 64 inputs, 2 x 96 outputs */
            enum { D = 64, WORDS = 64 + 2 * 96 };
            begin(&s, &r, &x);
            const uint32_t *pad = __atomic_load_n(&made_at[2], __ATOMIC_RELAXED);
            for (int k = 0; k < ROWS; k++) {
                assert_int_equal(n_zero(pad + k * WORDS, D), D);
                assert_true(n_zero(pad + k * WORDS + D, WORDS - D) < 9);
            }
            s.worker.twist = wrong ? i == 2 ? infinite : zeros : NULL;
            int rc = st_boundary_complete(&s.b, &x, s.m->mats, r.outs, &e);
            assert_int_equal(rc, wrong ? ST_VERIFY : 0);
            assert_int_equal(n_zero(pad, ROWS * WORDS), ROWS * WORDS);
            assert_true(n_zero(pad + ROWS * WORDS, (PADS - ROWS) * WORDS) < 100); /* the others wait */
            rows_free(&r);
            tear_down(&s);
        }
}

static void nothing_is_allocated_per_token(void **state)
{
    (void)state;
    struct setup s;
    struct st_err e;
    struct rows r[9];
    set_up(&s, &(struct tiny){.seed = 13}, "lwe");
    for (int g = 0; g < 9; g++)
        rows_make(&r[g], &s, g, 4, (uint64_t)g);
    for (int g = 0; g < 9; g++)
        assert_ok(send(&s, &s.b, &r[g], r[g].outs, &e), &e);
    size_t was = n_alloc;
    for (int i = 0; i < 20; i++)
        for (int g = 0; g < 9; g++)
            assert_ok(send(&s, &s.b, &r[g], r[g].outs, &e), &e);
    assert_int_equal(n_alloc, was);
    for (int g = 0; g < 9; g++)
        rows_free(&r[g]);
    tear_down(&s);
}

static void set_up_and_redrawing_take_all_threads_of_a_pool(void **state)
{
    (void)state;
    struct setup s;
    struct st_err e = {0};
    struct st_pool *pool;
    struct rows r;
    struct lie l = {.kind = ALL_ZERO, .n_row = 2, .n = 64};
    assert_ok(st_pool_new(3, &pool, &e), &e);
    plant(&s, &(struct tiny){.seed = 18, .n_layer = 5}, &(struct st_masked_place){0});
    struct st_masked_opts o = options(&s, "lwe");
    o.scheme_opts.pool = pool;
    mask(&s, &o);
    for (int g = 0; g < 21; g++) {
        s.worker.arg = &l;
        rows_make(&r, &s, g, 2, 4);
        assert_ok(send(&s, &s.b, &r, r.outs, &e), &e);
        s.worker.twist = tell;
        expect_refusal(send(&s, &s.b, &r, r.outs, &e), &e, ST_VERIFY, "not the product");
        s.worker.twist = NULL;
        assert_ok(send(&s, &s.b, &r, r.outs, &e), &e);
        rows_free(&r);
    }
    assert_int_equal(stats_of(&s).n_redraw, 21);
    st_masked_free(s.masked);
    s.masked = NULL;
    s.hints.wrong = HINTS_FLIPPED;
    s.hints.wrong_name = "model.layers.3.mlp.up_proj.weight";
    expect_refusal(st_masked_new(s.m, &o, &s.masked, &e), &e, ST_VERIFY,
                   "hints of layer 3 (gate, up) do not belong to the weights");
    tear_down(&s);
    st_pool_free(pool);
}

/* What may not be run, and what is said about what runs. */
static void integrity_is_given_up_only_when_asked(void **state)
{
    (void)state;
    struct setup s;
    struct st_err e;
    plant(&s, &(struct tiny){.seed = 14}, &(struct st_masked_place){0});
    struct st_masked_opts o = options(&s, "remo");
    o.no_integrity = false;
    expect_refusal(st_masked_new(s.m, &o, &s.masked, &e), &e, ST_POLICY, "refused without --no-integrity");
    o.no_integrity = true;
    mask(&s, &o);
    assert_string_equal(st_masked_describe(s.masked), "remo: breakable: masks of half rank leave half of each row in "
                                                      "clear; integrity NOT checked");
    st_masked_free(s.masked);
    o = options(&s, "lwe");
    mask(&s, &o);
    assert_string_equal(st_masked_describe(s.masked),
                        "lwe-1280-12.8: hidden under Module-LWE (140 bits classical); integrity checked");
    st_masked_free(s.masked);
    s.masked = NULL;
    /* The same without weights on this side. */
    struct fake_worker blind = s.worker;
    struct st_served all = s.served, none = s.served;
    none.weights = malloc(all.n * sizeof *all.weights);
    memcpy(none.weights, all.weights, all.n * sizeof *all.weights);
    for (uint32_t i = 0; i < all.n; i++) {
        none.weights[i].w = NULL;
        none.weights[i].scale = NULL;
    }
    blind.served = &all;
    blind.transport.ctx = &blind;
    s.hints.served = &all;
    o.scheme_opts.served = &none;
    expect_refusal(st_masked_new(s.m, &o, &s.masked, &e), &e, ST_POLICY, "cannot check replies");
    o.no_integrity = true;
    o.offload = ST_MASKED_OFFLOAD_AUTO;
    assert_ok(st_masked_new(s.m, &o, &s.masked, &e), &e);
    assert_string_equal(st_masked_describe(s.masked),
                        "lwe-1280-12.8: hidden under Module-LWE (140 bits classical); integrity NOT checked");
    assert_non_null(strstr(st_masked_plan_text(s.masked), "here: nothing, since this side has no weights"));
    s.b = (struct st_boundary){.hooks = st_masked_hooks(s.masked), .transport = &blind.transport};
    assert_false(s.b.hooks->keep(s.b.hooks->ctx, &s.m->plan, s.m->plan.ops, 1, 1000));
    with_reference(&s);
    for (int g = 0; g < 9; g++) {
        struct rows r;
        rows_make(&r, &s, g, 1, 3);
        assert_ok(send(&s, &s.b, &r, r.outs, &e), &e);
        assert_ok(send(&s, &s.ref, &r, r.want, &e), &e);
        for (uint32_t k = 0; k < r.outs[0].width; k++) {
            float most = 0;
            for (uint32_t j = 0; j < r.outs[0].width; j++)
                most = fmaxf(most, fabsf(r.want[0].p[j]));
            assert_true(fabsf(r.outs[0].p[k] - r.want[0].p[k]) < 2e-3f * most);
        }
        rows_free(&r);
    }
    for (int i = 0; i < HELD; i++)
        free(blind.held[i].reply.p);
    memset(s.worker.held, 0, sizeof s.worker.held);
    free(none.weights);
    st_masked_free(s.masked);
    s.masked = NULL;
    s.hints.served = &s.served;
    tear_down(&s);
}

static void long_prefills_stay_here_and_the_plan_says_so(void **state)
{
    (void)state;
    struct setup s;
    plant(&s, &(struct tiny){.seed = 15}, &(struct st_masked_place){.embedding = true});
    struct st_masked_opts o = options(&s, "otp");
    o.offload = ST_MASKED_OFFLOAD_AUTO;
    o.keep_rows = 32;
    mask(&s, &o);
    int n_op = 0;
    const struct st_protection_hooks *h = s.b.hooks;
    const struct st_plan_op *ops = group_at(&s.m->plan, 1, &n_op);
    assert_false(h->keep(h->ctx, &s.m->plan, ops, n_op, 1));
    assert_false(h->keep(h->ctx, &s.m->plan, ops, n_op, 31));
    assert_true(h->keep(h->ctx, &s.m->plan, ops, n_op, 32));
    assert_true(h->keep(h->ctx, &s.m->plan, ops, n_op, 512));
    assert_int_equal(stats_of(&s).n_kept, 2);
    /* The table is asked for by rows whatever their number: that is what the option is for. */
    ops = group_at(&s.m->plan, 0, &n_op);
    assert_int_equal(ops->op, ST_OP_EMBED);
    assert_false(h->keep(h->ctx, &s.m->plan, ops, n_op, 512));
    const char *text = st_masked_plan_text(s.masked);
    assert_non_null(strstr(text, "10 exchanges per token"));
    assert_non_null(strstr(text, "2 x q, k, v; 2 x o; 2 x gate, up; 2 x down; head"));
    assert_non_null(strstr(text, "fetched from the worker by one-hot rows"));
    assert_non_null(strstr(text, "here: exchanges of 32 rows or more"));
    st_masked_free(s.masked);
    o.offload = ST_MASKED_OFFLOAD_ALL;
    mask(&s, &o);
    h = s.b.hooks;
    ops = group_at(&s.m->plan, 1, &n_op);
    assert_false(h->keep(h->ctx, &s.m->plan, ops, n_op, 512));
    assert_non_null(strstr(st_masked_plan_text(s.masked), "here: nothing, as was asked for"));
    tear_down(&s);
}

/* What passes */

static int by_words(const void *a, const void *b)
{
    return memcmp(a, b, 4 * sizeof(uint32_t));
}

static void two_runs_of_one_prompt_share_no_row(void **state)
{
    (void)state;
    static const char *const schemes[] = {"otp", "lwe"};
    for (int i = 0; i < 2; i++) {
        struct setup s;
        struct client c[2] = {{0}, {0}};
        plant(&s, &(struct tiny){.seed = 16}, &(struct st_masked_place){.embedding = true});
        struct st_masked_opts o = options(&s, schemes[i]);
        mask(&s, &o);
        s.worker.record = true;
        run_greedy(&s, &s.b, &c[0]);
        size_t half = s.worker.n_word;
        run_greedy(&s, &s.b, &c[1]);
        assert_memory_equal(c[0].ids, c[1].ids, sizeof c[0].ids);
        assert_int_equal(s.worker.n_word, 2 * half);
        /* No four words in a row occur twice: chance is 2^-128 for each pair. */
        size_t n = s.worker.n_word / 4;
        qsort(s.worker.words, n, 4 * sizeof(uint32_t), by_words);
        for (size_t k = 1; k < n; k++)
            assert_true(by_words(s.worker.words + 4 * k, s.worker.words + 4 * (k - 1)) != 0);
        assert_all_wiped(&s);
        tear_down(&s);
    }
}

/* Logits of every prompt position [7][n_vocab]; places of the plan decide where. */
static float *logits(struct setup *s, struct st_boundary *b)
{
    static const uint32_t ids[] = {9, 80, 7, 60, 5, 40, 3};
    struct st_engine *en = tiny_engine(s->m, (struct st_engine_opts){.boundary = b, .n_threads = 1});
    struct client c = {.n_vocab = s->m->config.n_vocab};
    c.prompt_rows = calloc(7 * c.n_vocab, sizeof(float));
    struct st_request_opts o = client_opts(&c, ids, 7, 1);
    o.on_prompt_logits = client_row;
    client_submit(&c, en, &o);
    while (st_engine_step(en))
        ;
    assert_int_equal(c.n_prompt_row, 7);
    st_engine_free(en);
    return c.prompt_rows;
}

static void logits_stay_close_to_those_without_masks(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        double most;
    } rows[] = {{"otp", 1e-3}, {"lwe", 1e-2}, {"remo", 1e-3}};
    for (int i = 0; i < 3; i++) {
        struct setup s;
        double off = 0, size = 0;
        set_up(&s, &(struct tiny){.seed = 17}, rows[i].name);
        float *masked = logits(&s, &s.b);
        for (int k = 0; k < s.m->plan.n_op; k++)
            s.m->plan.ops[k].place = ST_PLACE_TRUSTED;
        float *plain = logits(&s, NULL);
        for (uint32_t k = 0; k < 7 * s.m->config.n_vocab; k++) {
            off += pow(masked[k] - plain[k], 2);
            size += pow(plain[k], 2);
        }
        if (sqrt(off / size) > rows[i].most)
            fail_msg("%s: logits off by %.2g", rows[i].name, sqrt(off / size));
        free(masked);
        free(plain);
        tear_down(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_time_pads_equal_the_integer_reference_bit_by_bit),
        cmocka_unit_test(fetched_embeddings_are_the_rows_of_the_table),
        cmocka_unit_test(one_time_pads_give_the_tokens_of_the_reference_in_every_architecture),
        cmocka_unit_test(every_scheme_stays_within_its_error),
        cmocka_unit_test(logits_stay_close_to_those_without_masks),
        cmocka_unit_test(a_hundred_thousand_wrong_replies_are_all_caught),
        cmocka_unit_test(replies_of_another_length_or_format_are_refused_by_site),
        cmocka_unit_test(residues_that_are_not_canonical_are_refused_without_integrity),
        cmocka_unit_test(a_failed_exchange_leaves_no_pad_behind),
        cmocka_unit_test(rows_that_are_no_numbers_never_leave),
        cmocka_unit_test(several_exchanges_are_in_flight_and_come_back_in_any_order),
        cmocka_unit_test(replies_on_their_way_outlive_the_reject_of_another),
        cmocka_unit_test(a_caller_that_does_nothing_meanwhile_is_checked_all_the_same),
        cmocka_unit_test(pads_are_zeros_as_soon_as_they_were_used),
        cmocka_unit_test(nothing_is_allocated_per_token),
        cmocka_unit_test(set_up_and_redrawing_take_all_threads_of_a_pool),
        cmocka_unit_test(integrity_is_given_up_only_when_asked),
        cmocka_unit_test(long_prefills_stay_here_and_the_plan_says_so),
        cmocka_unit_test(two_runs_of_one_prompt_share_no_row),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
