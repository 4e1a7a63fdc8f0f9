/* Sealed models with a worker: for every policy the output is, bit by bit, that of the same model unsealed whose layers
 * outside are computed as the same integers here. The worker has the container without a key, and is sent masked rows
 * for what lies outside and nothing else. */
#include "masked_setup.h"
#include "protect/sealed/place.h"
#include "protect/sealed/store.h"
#include "seal_make.h"

#define COUNT(a) (sizeof(a) / sizeof *(a))
#define N_IDS 7

/* A tiny model sealed under a policy and opened with its key, beside a worker that opened it without, and the unsealed
 * model of which only what lies outside is int8. */
struct world {
    struct seal_rig rig;
    struct seal_opened sealed;
    struct st_sealed_store *store;
    struct setup s; /* the sealed model, masked; worker.served is the worker's own */
    struct st_model *worker_model;
    struct st_served worker_served;
    struct st_model *plain, *int8; /* matrices of `plain` that lie outside are those of int8 */
    struct st_served plain_served;
    struct st_masked_reference *reference;
    struct st_boundary ref;
};

static void open_sealed(struct world *w, bool every_expert, uint64_t memory)
{
    struct st_err e = {0};
    assert_ok(seal_open(w->rig.dst, "word", &w->sealed, &e), &e);
    struct st_model_opts o = {.dtype = ST_LOAD_INT8,
                              .n_threads = 1,
                              .source = st_vault_source(w->sealed.v),
                              .only_outside = true,
                              .allow_unlocked = true};
    assert_ok(st_model_open(w->rig.dst, &o, &w->s.m, &e), &e);
    st_sealed_place(&w->s.m->plan, w->sealed.c, every_expert);
    assert_ok(st_plan_check(&w->s.m->plan, &e), &e);
    struct st_sealed_store_opts so = {.memory = memory, .n_threads = 1, .allow_unlocked = true};
    assert_ok(st_sealed_store_new(w->sealed.v, w->s.m, &so, &w->store, &e), &e);
    assert_ok(st_served_init(&w->s.served, w->s.m, false, &e), &e);
}

/* The same file, no key. */
static void open_worker(struct world *w)
{
    struct st_err e = {0};
    struct st_model_opts o = {.dtype = ST_LOAD_INT8, .n_threads = 1, .only_outside = true};
    assert_ok(st_model_open(w->rig.dst, &o, &w->worker_model, &e), &e);
    assert_ok(st_served_init(&w->worker_served, w->worker_model, false, &e), &e);
    worker_init(&w->s.worker, &w->worker_served);
    w->s.worker.record = true;
}

static void open_plain(struct world *w, bool every_expert)
{
    struct st_err e = {0};
    struct st_model_opts keep = {.n_threads = 1}, int8 = {.n_threads = 1, .dtype = ST_LOAD_INT8};
    assert_ok(st_model_open(w->rig.src, &keep, &w->plain, &e), &e);
    assert_ok(st_model_open(w->rig.src, &int8, &w->int8, &e), &e);
    st_sealed_place(&w->plain->plan, w->sealed.c, every_expert);
    for (int i = 0; i < w->plain->plan.n_op; i++) {
        const struct st_plan_op *op = &w->plain->plan.ops[i];
        if (op->op != ST_OP_LINEAR || op->role == ST_ROLE_ROUTER)
            continue;
        const struct st_plan_weight *p = &w->plain->plan.weights[op->weight];
        const char *name = p->tied_to >= 0 ? w->plain->plan.weights[p->tied_to].name : p->name;
        if (st_container_find(w->sealed.c, name)->place == ST_CONTAINER_OUTSIDE)
            w->plain->mats[op->weight] = w->int8->mats[op->weight];
    }
}

static void world_open(struct world *w, const struct tiny *t, const char *policy, bool every_expert, uint64_t memory)
{
    *w = (struct world){0};
    seal_rig_open(&w->rig, t);
    w->rig.o.policy = policy;
    seal_it(&w->rig, w->rig.dst);
    open_sealed(w, every_expert, memory);
    open_worker(w);
    open_plain(w, every_expert);
}

static void world_mask(struct world *w, const char *scheme)
{
    struct st_masked_opts o = options(&w->s, scheme);
    mask(&w->s, &o);
}

/* Of the plain model: its int8 matrices are those that leave, and those of experts that stay. */
static void world_reference(struct world *w)
{
    struct st_err e = {0};
    const struct st_plan *p = &w->plain->plan;
    w->plain_served = (struct st_served){.weights = calloc((size_t)p->n_op, sizeof *w->plain_served.weights),
                                         .by_name = calloc((size_t)p->n_op, sizeof(uint32_t))};
    struct st_served all;
    assert_ok(st_served_init(&all, w->int8, false, &e), &e);
    for (uint32_t k = 0; k < all.n; k++) { /* in the order of names, as by_name wants it */
        const struct st_served_weight *one = &all.weights[all.by_name[k]];
        w->plain_served.by_name[k] = k;
        w->plain_served.weights[w->plain_served.n++] = *one;
    }
    st_served_free(&all);
    assert_ok(st_masked_reference_new(w->plain, &w->plain_served, &w->reference, &e), &e);
    w->ref = (struct st_boundary){.hooks = st_masked_reference_hooks(w->reference),
                                  .transport = st_masked_reference_transport(w->reference)};
}

static void world_close(struct world *w)
{
    st_masked_reference_free(w->reference);
    free(w->plain_served.weights);
    free(w->plain_served.by_name);
    st_model_close(w->plain);
    st_model_close(w->int8);
    st_sealed_store_free(w->store);
    st_served_free(&w->worker_served);
    st_model_close(w->worker_model);
    tear_down(&w->s);
    seal_close(&w->sealed);
    seal_rig_close(&w->rig);
}

/* Logits after each of N_IDS tokens, then the ids of a greedy reply. */
struct output {
    struct client c;
    float *rows;
};

static void run(const struct st_model *m, struct st_boundary *b, const struct st_store *store, struct output *out)
{
    static const uint32_t ids[N_IDS] = {9, 80, 7, 60, 5, 40, 3};
    struct st_engine *en =
        tiny_engine(m, (struct st_engine_opts){.boundary = b, .store = store, .n_threads = 1, .allow_unlocked = true});
    *out = (struct output){.c = {.n_vocab = m->config.n_vocab}};
    out->c.prompt_rows = out->rows = calloc((size_t)N_IDS * m->config.n_vocab, sizeof(float));
    struct st_request_opts o = client_opts(&out->c, ids, N_IDS, 24);
    o.on_prompt_logits = client_row;
    client_submit(&out->c, en, &o);
    while (st_engine_step(en))
        ;
    st_engine_free(en);
}

static void run_sealed(struct world *w, struct output *out)
{
    run(w->s.m, &w->s.b, st_sealed_store(w->store), out);
}

static void expect_equal(const struct output *a, const struct output *b, const char *what)
{
    if (a->c.n != 24 || b->c.n != 24 || a->c.n_prompt_row != N_IDS || a->c.err.code)
        fail_msg("%s: %zu and %zu tokens: %s", what, a->c.n, b->c.n, a->c.err.msg);
    if (memcmp(a->rows, b->rows, (size_t)N_IDS * a->c.n_vocab * sizeof(float)) != 0)
        fail_msg("%s: the logits differ", what);
    assert_memory_equal(a->c.ids, b->c.ids, 24 * sizeof(uint32_t));
}

static void output_free(struct output *o)
{
    free(o->rows);
}

/* ---- policies ---- */

#define MOE "\"num_local_experts\": 4, \"num_experts_per_tok\": 2"
#define LATENT                                                                                                         \
    "\"q_lora_rank\": 24, \"kv_lora_rank\": 20, \"first_k_dense_replace\": 1, \"n_routed_experts\": 6, "               \
    "\"num_experts_per_tok\": 2, \"moe_intermediate_size\": 16, \"n_shared_experts\": 1, \"n_group\": 2, "             \
    "\"topk_group\": 1, \"qk_nope_head_dim\": 12, \"qk_rope_head_dim\": 8, \"v_head_dim\": 10"

static const struct row {
    const char *name, *policy; /* a preset, or the text of a file */
    struct tiny tiny;
    bool every_expert;
    int exchanges;
} rows[] = {
    {"paper", "paper", {.seed = 1, .dtype = ST_DTYPE_BF16}, false, 2 + 1},
    {"paper, f32", "paper", {.seed = 2}, false, 2 + 1},
    {"adapters", "adapters", {.seed = 3, .dtype = ST_DTYPE_BF16}, false, 4 * 2 + 1},
    {"mixed groups",
     "default = inside\nq = outside\nv = outside\nup = outside\n",
     {.seed = 4, .dtype = ST_DTYPE_F16},
     false,
     2 * 2},
    {"all but k and gate",
     "default = outside\nk = inside\ngate = inside\nattn_norm = inside\n",
     {.arch = "Qwen2ForCausalLM", .seed = 5, .dtype = ST_DTYPE_BF16},
     false,
     4 * 2 + 1},
    {"tied head", "default = inside\nhead = outside\n", {.seed = 6, .tied = true}, false, 1},
    {"experts here",
     "default = outside\nq = inside\n",
     {.arch = "MixtralForCausalLM", .extra = MOE, .seed = 7, .dtype = ST_DTYPE_BF16},
     false,
     2 * 2 + 1},
    {"experts on every row",
     "default = inside\nexpert_gate = outside\nexpert_down = outside\n",
     {.arch = "MixtralForCausalLM", .extra = MOE, .seed = 8, .dtype = ST_DTYPE_BF16},
     true,
     2 * 4 * 2},
    {"latent attention",
     "default = inside\nkv_a = outside\no = outside\nshared_up = outside\nhead = outside\n",
     {.arch = "DeepseekV3ForCausalLM", .n_kv_head = 4, .extra = LATENT, .seed = 9, .dtype = ST_DTYPE_BF16},
     false,
     2 * 2 + 1 + 1},
};

/* The policy of a row as st_placement_read() takes it: a name, or a file in the model's directory. */
static const char *policy_of(const struct row *r, char path[64])
{
    if (!strchr(r->policy, '='))
        return r->policy;
    snprintf(path, 64, "/tmp/sotto-policy-%d", (int)getpid());
    FILE *f = fopen(path, "w");
    if (!f || fputs(r->policy, f) < 0 || fclose(f) != 0)
        tiny_die("cannot write");
    return path;
}

static void open_row(struct world *w, const struct row *r, uint64_t memory)
{
    char path[64] = "";
    world_open(w, &r->tiny, policy_of(r, path), r->every_expert, memory);
    if (*path)
        unlink(path);
}

static void every_policy_equals_the_unsealed_model_with_the_integers_of_its_layers_outside(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct world w;
        struct output sealed, plain;
        open_row(&w, &rows[i], 0);
        if (st_plan_exchanges(&w.s.m->plan) != rows[i].exchanges)
            fail_msg("%s: %d exchanges", rows[i].name, st_plan_exchanges(&w.s.m->plan));
        world_mask(&w, "otp");
        world_reference(&w);
        run_sealed(&w, &sealed);
        run(w.plain, &w.ref, NULL, &plain);
        expect_equal(&sealed, &plain, rows[i].name);
        assert_all_wiped(&w.s);
        output_free(&sealed);
        output_free(&plain);
        world_close(&w);
    }
}

static void masks_of_lwe_stay_within_their_error(void **state)
{
    (void)state;
    for (size_t i = 0; i < 4; i++) {
        struct world w;
        struct output sealed, plain;
        double off = 0, size = 0;
        open_row(&w, &rows[i], 0);
        world_mask(&w, "lwe");
        world_reference(&w);
        run_sealed(&w, &sealed);
        run(w.plain, &w.ref, NULL, &plain);
        assert_int_equal(sealed.c.n_prompt_row, N_IDS);
        for (uint32_t k = 0; k < N_IDS * sealed.c.n_vocab; k++) {
            off += pow(sealed.rows[k] - plain.rows[k], 2);
            size += pow(plain.rows[k], 2);
        }
        if (!(sqrt(off / size) < 1e-2))
            fail_msg("%s: logits off by %.2g", rows[i].name, sqrt(off / size));
        output_free(&sealed);
        output_free(&plain);
        world_close(&w);
    }
}

static void a_budget_that_forces_streaming_changes_nothing(void **state)
{
    (void)state;
    struct tiny t = {.seed = 10, .dtype = ST_DTYPE_BF16, .n_layer = 4, .d_model = 128, .d_ff = 384, .n_vocab = 256};
    struct world w;
    struct output sealed, plain;
    struct st_sealed_store_stats st;
    world_open(&w, &t, "paper", false, 192 << 10);
    world_mask(&w, "otp");
    world_reference(&w);
    run_sealed(&w, &sealed);
    run(w.plain, &w.ref, NULL, &plain);
    expect_equal(&sealed, &plain, "streamed");
    st_sealed_store_stats(w.store, &st);
    assert_true(st.resident + st.ring <= 192 << 10 && st.bytes > 4 * (st.resident + st.ring));
    output_free(&sealed);
    output_free(&plain);
    world_close(&w);
}

static void with_everything_inside_nothing_leaves(void **state)
{
    (void)state;
    struct tiny t = {.seed = 11, .dtype = ST_DTYPE_BF16};
    struct world w;
    struct output sealed, plain;
    world_open(&w, &t, "all-inside", false, 0);
    assert_int_equal(st_plan_exchanges(&w.s.m->plan), 0);
    assert_int_equal(w.worker_served.n, 0);
    run(w.s.m, NULL, st_sealed_store(w.store), &sealed);
    run(w.plain, NULL, NULL, &plain);
    expect_equal(&sealed, &plain, "all-inside");
    output_free(&sealed);
    output_free(&plain);
    world_close(&w);
}

/* ---- what the worker has ---- */

static bool lies_outside(const struct world *w, int weight)
{
    const struct st_plan_weight *p = &w->s.m->plan.weights[weight];
    return st_container_find(w->sealed.c, p->name)->place == ST_CONTAINER_OUTSIDE;
}

static int by_four(const void *a, const void *b)
{
    return memcmp(a, b, 4 * sizeof(uint32_t));
}

static void the_worker_has_what_lies_outside_and_sees_masked_rows(void **state)
{
    (void)state;
    struct world w;
    struct output out[2];
    open_row(&w, &rows[3], 0);
    world_mask(&w, "otp");
    /* Its matrices: those outside, the same int8 as on this side. */
    assert_int_equal(w.worker_served.n, 3 * 2);
    for (uint32_t i = 0; i < w.worker_served.n; i++) {
        const struct st_served_weight *x = &w.worker_served.weights[i], *y = &w.s.served.weights[i];
        assert_true(lies_outside(&w, x->weight));
        assert_string_equal(x->name, y->name);
        assert_memory_equal(x->w, y->w, (size_t)x->n_out * x->n_in);
        assert_memory_equal(x->scale, y->scale, x->n_out * sizeof *x->scale);
    }
    for (int i = 0; i < w.worker_model->plan.n_weight; i++)
        assert_true(w.worker_model->mats[i].data == NULL || lies_outside(&w, i));
    /* What it is sent: rows for these groups; no four words in a row twice, also of the same prompt. */
    run_sealed(&w, &out[0]);
    run_sealed(&w, &out[1]);
    expect_equal(&out[0], &out[1], "twice");
    for (size_t i = 0; i < w.s.worker.n_seen; i++) {
        const struct st_plan_op *op = &w.s.m->plan.ops[w.s.worker.seen[i].op];
        assert_true(op->role == ST_ROLE_Q || op->role == ST_ROLE_UP);
        assert_int_equal(w.s.worker.seen[i].d, 64);
    }
    size_t n = w.s.worker.n_word / 4;
    assert_true(n > 1000);
    qsort(w.s.worker.words, n, 4 * sizeof(uint32_t), by_four);
    for (size_t k = 1; k < n; k++)
        assert_true(by_four(w.s.worker.words + 4 * k, w.s.worker.words + 4 * (k - 1)) != 0);
    /* Masked residues are uniform: the sum of so many bits is what it should be within six deviations. */
    double ones = 0, bits = 0;
    for (size_t k = 0; k < w.s.worker.n_word; k++, bits++)
        ones += w.s.worker.words[k] >= ST_FQ / 2;
    assert_true(fabs(ones - bits / 2) < 6 * sqrt(bits) / 2);
    output_free(&out[0]);
    output_free(&out[1]);
    world_close(&w);
}

static void off_by_one(void *arg, struct st_exposed *reply)
{
    uint32_t *v = reply->p;
    (void)arg;
    v[reply->len / sizeof *v / 2] = st_fq_add(v[reply->len / sizeof *v / 2], 1);
}

static void a_wrong_product_is_refused_and_names_the_layer(void **state)
{
    (void)state;
    struct world w;
    struct output out;
    open_row(&w, &rows[0], 0);
    world_mask(&w, "otp");
    w.s.worker.twist = off_by_one;
    run_sealed(&w, &out);
    assert_int_equal(out.c.n, 0);
    assert_int_equal(out.c.finish, ST_FINISH_ERROR);
    expect_refusal(out.c.err.code, &out.c.err, ST_VERIFY, "layer 0 (o): the worker's reply is not the product");
    assert_int_equal(w.s.n_quarantine, 1);
    output_free(&out);
    world_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_policy_equals_the_unsealed_model_with_the_integers_of_its_layers_outside),
        cmocka_unit_test(masks_of_lwe_stay_within_their_error),
        cmocka_unit_test(a_budget_that_forces_streaming_changes_nothing),
        cmocka_unit_test(with_everything_inside_nothing_leaves),
        cmocka_unit_test(the_worker_has_what_lies_outside_and_sees_masked_rows),
        cmocka_unit_test(a_wrong_product_is_refused_and_names_the_layer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
