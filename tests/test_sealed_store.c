/* The store of sealed matrices: within any budget that works the model says the same, to the bit; what is decrypted
 * stays within the budget and within the store's memory; what was changed is refused by name. */
#include "container_make.h"
#include "harness.h"
#include "protect/sealed/store.h"
#include "store_models.h"

#include <sched.h>

enum { SEGMENT = 1500, N_PROMPT = 24, N_REPLY = 10, N_VOCAB = 128, MAX_ENTRIES = 128 };

/* A model in memory, and the same with its matrices sealed. */
struct sealed {
    char dir[64], path[80];
    struct st_model *whole;
    struct st_model m; /* of `whole`, without the data of matrices */
    struct st_container *c;
    struct st_vault *v;
    uint64_t bytes, largest; /* of the matrices inside; of a segment */
    struct made made;
    struct made_entry entries[MAX_ENTRIES];
    char json[MAX_ENTRIES][80];
};

static bool is_sealed(const struct st_plan_weight *w)
{
    return w->n_in > 1 && w->role != ST_ROLE_ROUTER;
}

/* Segments of as many rows as fit into SEGMENT bytes. */
static void add_entry(struct sealed *s, int weight)
{
    static const char *const words[] = {"F32", "F16", "BF16"};
    const struct st_plan_weight *w = &s->whole->plan.weights[weight];
    const struct st_mat *m = &s->whole->mats[weight];
    uint32_t row = (uint32_t)(m->n_in * st_dtype_size(m->dtype)), rows = SEGMENT / row ? SEGMENT / row : 1;
    size_t i = s->made.n++;
    assert_true(i < MAX_ENTRIES);
    snprintf(s->json[i], sizeof s->json[i], "\"dtype\":\"%s\",\"shape\":[%u,%u]", words[m->dtype], m->n_out, m->n_in);
    s->entries[i] = (struct made_entry){.json = s->json[i],
                                        .name = w->name,
                                        .inside = true,
                                        .data = m->data,
                                        .bytes = st_mat_bytes(m),
                                        .segment_bytes = row * rows};
    s->bytes += st_mat_bytes(m);
    s->largest = row * rows > s->largest ? row * rows : s->largest;
}

/* `flip`: a byte counted from the end of the file is changed; 0 = none. */
static void seal(struct sealed *s, const struct tiny *t, size_t flip)
{
    struct st_err e = {0};
    struct st_buf file = {0};
    memset(s, 0, sizeof *s);
    s->whole = tiny_model(t);
    s->m = *s->whole;
    s->m.mats = calloc((size_t)s->m.plan.n_weight, sizeof *s->m.mats);
    s->made = (struct made){.seed = {1}, .id = {2}, .version = 1, .entries = s->entries};
    for (int i = 0; i < s->m.plan.n_weight; i++) {
        const struct st_plan_weight *w = &s->m.plan.weights[i];
        s->m.mats[i] = s->whole->mats[i];
        if (!is_sealed(w))
            continue;
        s->m.mats[i].data = NULL;
        if (w->tied_to < 0)
            add_entry(s, i);
    }
    made_container(&s->made, &file);
    if (flip)
        file.p[file.len - flip] ^= 1;
    tiny_mkdir(s->dir);
    tiny_save(s->dir, "m.sealed", file.p, file.len);
    st_buf_free(&file);
    snprintf(s->path, sizeof s->path, "%s/m.sealed", s->dir);
    assert_ok(st_container_open(s->path, &s->c, &e), &e);
    assert_ok(st_vault_new(s->c, &s->made.content_key, false, &s->v, &e), &e);
}

static void unseal(struct sealed *s)
{
    st_vault_free(s->v);
    st_container_close(s->c);
    st_secret_wipe(&s->made.content_key);
    free(s->m.mats);
    st_model_close(s->whole);
    tiny_rmdir(s->dir);
}

static struct st_sealed_store *store_of(struct sealed *s, uint64_t memory, int n_threads)
{
    struct st_sealed_store_opts o = {.memory = memory, .n_threads = n_threads, .allow_unlocked = true};
    struct st_sealed_store *store;
    struct st_err e = {0};
    assert_ok(st_sealed_store_new(s->v, &s->m, &o, &store, &e), &e);
    return store;
}

/* Logits of a prompt and the reply behind it. */
struct heard {
    float rows[N_PROMPT * N_VOCAB];
    struct client c;
};

static void listen_to(struct heard *h, const struct st_model *m, const struct st_store *store, bool deterministic)
{
    uint32_t ids[N_PROMPT];
    struct st_engine *en;
    struct st_err e;
    struct st_engine_opts o = {.n_threads = 2,
                               .max_row = 16,
                               .deterministic = deterministic,
                               .store = store,
                               .secret = store != NULL,
                               .allow_unlocked = true};
    random_ids(ids, N_PROMPT, N_VOCAB, 7);
    *h = (struct heard){.c = {.prompt_rows = h->rows, .n_vocab = N_VOCAB}};
    tiny_check(st_engine_new(m, &o, &en, &e), &e);
    struct st_request_opts ro = client_opts(&h->c, ids, N_PROMPT, N_REPLY);
    ro.on_prompt_logits = client_row;
    client_submit(&h->c, en, &ro);
    while (st_engine_step(en))
        ;
    st_engine_free(en);
}

static void within_every_budget_the_model_says_the_same(void **state)
{
    static const int percent[] = {0 /* the least */, 10, 25, 50, 75, 100};
    (void)state;
    struct heard *want = malloc(sizeof *want), *got = malloc(sizeof *got);
    for (int k = 0; k < N_MODEL; k++) {
        struct sealed s;
        seal(&s, &models[k].t, 0);
        for (int mode = 0; mode < 2; mode++) {
            listen_to(want, s.whole, NULL, mode);
            for (size_t i = 0; i < sizeof percent / sizeof percent[0]; i++) {
                struct st_sealed_store_stats st;
                uint64_t least = 2 * ((s.largest + 63) & ~(uint64_t)63), memory = s.bytes * (uint64_t)percent[i] / 100;
                memory = memory < least ? least : memory;
                struct st_sealed_store *store = store_of(&s, memory, 1 + (int)i % 3);
                listen_to(got, &s.m, st_sealed_store(store), mode);
                st_sealed_store_stats(store, &st);
                if (got->c.n != N_REPLY || memcmp(want->c.ids, got->c.ids, sizeof(uint32_t) * N_REPLY) != 0)
                    fail_msg("%s at %d %%: another reply (%s)", models[k].name, percent[i], got->c.err.msg);
                if (memcmp(want->rows, got->rows, sizeof want->rows) != 0)
                    fail_msg("%s at %d %%: other logits", models[k].name, percent[i]);
                assert_true(st.resident + st.ring <= memory);
                assert_in_range(st.peak, 1, memory);
                assert_true(percent[i] > 50 || st.n_segment > 0);
                st_sealed_store_free(store);
            }
        }
        unseal(&s);
    }
    free(want);
    free(got);
}

static void without_a_budget_everything_stays_and_nothing_is_decrypted_twice(void **state)
{
    (void)state;
    struct sealed s;
    struct heard h;
    struct st_sealed_store_stats st;
    seal(&s, &models[3].t, 0);
    struct st_sealed_store *store = store_of(&s, 0, 0);
    listen_to(&h, &s.m, st_sealed_store(store), true);
    st_sealed_store_stats(store, &st);
    assert_int_equal(h.c.n, N_REPLY);
    assert_int_equal(st.n_segment, 0);
    assert_int_equal(st.ring, 0);
    assert_true(st.resident >= s.bytes && st.resident <= st.bytes);
    st_sealed_store_free(store);
    unseal(&s);
}

static void a_budget_that_is_too_small_is_refused_with_the_least_that_works(void **state)
{
    (void)state;
    struct sealed s;
    struct st_sealed_store *store;
    struct st_err e = {0};
    seal(&s, &models[0].t, 0);
    struct st_sealed_store_opts o = {.memory = s.largest, .n_threads = 1, .allow_unlocked = true};
    expect_refusal(st_sealed_store_new(s.v, &s.m, &o, &store, &e), &e, ST_MEMORY, "--enclave-memory: want at least ");
    assert_null(store);
    unsigned long long least = strtoull(strstr(e.msg, "at least ") + 9, NULL, 10) * 1024;
    o.memory = least;
    assert_ok(st_sealed_store_new(s.v, &s.m, &o, &store, &e), &e);
    st_sealed_store_free(store);
    unseal(&s);
}

/* Rows of any matrix, anywhere, several held at once. */
static void rows_are_the_right_ones_in_any_order_and_lie_in_its_memory(void **state)
{
    (void)state;
    struct st_rng rng;
    st_rng_seed(&rng, 11);
    for (int k = 0; k < N_MODEL; k++) {
        struct sealed s;
        struct st_err e = {0};
        seal(&s, &models[k].t, 0);
        struct st_sealed_store *store = store_of(&s, s.bytes / 4, 2);
        const struct st_store *api = st_sealed_store(store);
        assert_true(api->n_hold >= 1);
        for (int i = 0; i < 600; i++) {
            struct {
                int weight;
                uint32_t row;
            } held[64];
            uint32_t n = 1 + (uint32_t)(st_rng_next(&rng) % api->n_hold);
            for (uint32_t j = 0; j < n; j++) {
                struct st_mat block;
                int w;
                do
                    w = (int)(st_rng_next(&rng) % (uint64_t)s.m.plan.n_weight);
                while (!is_sealed(&s.m.plan.weights[w]));
                const struct st_mat *m = &s.whole->mats[w];
                size_t row_bytes = m->n_in * st_dtype_size(m->dtype);
                uint32_t row = (uint32_t)(st_rng_next(&rng) % m->n_out);
                bool twice = false; /* one row of a part at a time: the engine never asks for more */
                for (uint32_t h = 0; h < j; h++)
                    twice = twice || s.m.plan.weights[w].tied_to >= 0 || held[h].weight == w ||
                            s.m.plan.weights[held[h].weight].tied_to >= 0;
                if (twice) {
                    n = j;
                    break;
                }
                assert_true(api->has(api->ctx, w));
                assert_ok(api->take(api->ctx, w, row, &block, &e), &e);
                assert_true(block.n_out >= 1 && row + block.n_out <= m->n_out);
                assert_memory_equal(block.data, (const uint8_t *)m->data + row * row_bytes, block.n_out * row_bytes);
                assert_true(st_sealed_store_owns(store, block.data, block.n_out * row_bytes));
                held[j].weight = w;
                held[j].row = row;
            }
            for (uint32_t j = 0; j < n; j++)
                api->give(api->ctx, held[j].weight, held[j].row);
        }
        assert_false(api->has(api->ctx, -1));
        assert_false(api->has(api->ctx, s.m.plan.n_weight));
        assert_false(st_sealed_store_owns(store, &s, 1));
        st_sealed_store_free(store);
        unseal(&s);
    }
}

static void what_comes_next_is_decrypted_before_it_is_asked_for(void **state)
{
    (void)state;
    struct sealed s;
    struct st_sealed_store_stats st = {0};
    seal(&s, &models[0].t, 0);
    struct st_sealed_store *store = store_of(&s, s.bytes / 4, 1);
    double end = st_now() + 20;
    while (st.n_segment < 2 && st_now() < end) {
        sched_yield();
        st_sealed_store_stats(store, &st);
    }
    assert_true(st.n_segment >= 2);
    assert_int_equal(st.n_wait, 0);
    st_sealed_store_free(store);
    unseal(&s);
}

static void a_changed_segment_is_refused_by_the_name_of_its_tensor(void **state)
{
    (void)state;
    struct sealed s;
    struct heard h;
    struct st_err e = {0};
    struct st_sealed_store *store;
    /* In the last tensor of the file: whatever stays decrypted is refused at once, and what does not when it is used.
     */
    seal(&s, &models[0].t, 100);
    struct st_sealed_store_opts o = {.n_threads = 2, .allow_unlocked = true};
    const char *last = s.entries[s.made.n - 1].name;
    expect_refusal(st_sealed_store_new(s.v, &s.m, &o, &store, &e), &e, ST_VERIFY, last);
    store = store_of(&s, 2 * s.largest + 128, 2);
    for (int i = 0; i < 2; i++) {
        listen_to(&h, &s.m, st_sealed_store(store), true);
        assert_int_equal(h.c.finish, ST_FINISH_ERROR);
        expect_refusal(h.c.err.code, &h.c.err, ST_VERIFY, last);
    }
    st_sealed_store_free(store);
    unseal(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(within_every_budget_the_model_says_the_same),
        cmocka_unit_test(without_a_budget_everything_stays_and_nothing_is_decrypted_twice),
        cmocka_unit_test(a_budget_that_is_too_small_is_refused_with_the_least_that_works),
        cmocka_unit_test(rows_are_the_right_ones_in_any_order_and_lie_in_its_memory),
        cmocka_unit_test(what_comes_next_is_decrypted_before_it_is_asked_for),
        cmocka_unit_test(a_changed_segment_is_refused_by_the_name_of_its_tensor),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
