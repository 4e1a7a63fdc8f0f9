/* The engine over a store: whatever the blocks in which weights come, the logits are those of the model in memory, to
 * the bit. */
#include "harness.h"

#include "expect.h"
#include "store_models.h"

#include <stdatomic.h>

/* A model whose matrices are with a store that hands out blocks of a few rows, each in memory of its own. */
struct shelf {
    const struct st_model *whole;
    struct st_model m; /* of `whole`, without the data of matrices */
    struct st_mat *mats;
    struct st_store store;
    uint32_t rows;     /* of a block */
    uint32_t n_out;    /* taken and not given back */
    uint32_t most_out; /* the most of them */
    uint32_t n_embed;  /* blocks of the embedding */
    int fail_at;       /* number of the take that fails; 0 = none */
    int n_take;
    int asked; /* weight that would have to be waited for, -1 */
    int n_away;
    atomic_int n_work;
    struct {
        int weight;
        uint32_t row;
        void *data;
    } out[8];
};

static bool shelf_has(void *ctx, int weight)
{
    const struct shelf *s = ctx;
    return !s->m.mats[weight].data;
}

/* Now and then it would wait, and work makes the one block ready that was asked for. */
static bool shelf_ready(void *ctx, int weight, uint32_t row)
{
    struct shelf *s = ctx;
    bool ready = (row / s->rows + (uint32_t)weight) % 3 != 0;
    s->asked = ready ? -1 : weight;
    return ready;
}

static void shelf_work(void *ctx)
{
    struct shelf *s = ctx;
    if (s->n_out)
        tiny_die("blocks are still taken while work is done");
    atomic_fetch_add(&s->n_work, 1);
}

static void shelf_away(void *ctx)
{
    struct shelf *s = ctx;
    s->n_away++;
}

static int shelf_take(void *ctx, int weight, uint32_t row, struct st_mat *out, struct st_err *e)
{
    struct shelf *s = ctx;
    const struct st_mat *w = &s->whole->mats[weight];
    uint32_t n = s->rows - row % s->rows;
    size_t row_bytes = w->n_in * st_dtype_size(w->dtype);
    if (s->asked >= 0 && !atomic_exchange(&s->n_work, 0))
        tiny_die("a block is taken that is not ready, and no thread works");
    if (++s->n_take == s->fail_at)
        return st_fail(e, ST_VERIFY, "%s: segment 0: changed", s->whole->plan.weights[weight].name);
    if (n > w->n_out - row)
        n = w->n_out - row;
    void *p = malloc(n * row_bytes);
    if (!p || s->n_out == s->store.n_hold)
        tiny_die("more blocks are taken than may be");
    memcpy(p, (const uint8_t *)w->data + row * row_bytes, n * row_bytes);
    s->out[s->n_out].weight = weight;
    s->out[s->n_out].row = row;
    s->out[s->n_out++].data = p;
    s->most_out = s->n_out > s->most_out ? s->n_out : s->most_out;
    s->n_embed += s->whole->plan.weights[weight].role == ST_ROLE_EMBED;
    *out = (struct st_mat){.data = p, .dtype = w->dtype, .n_out = n, .n_in = w->n_in};
    return 0;
}

static void shelf_give(void *ctx, int weight, uint32_t row)
{
    struct shelf *s = ctx;
    uint32_t i = 0;
    while (i < s->n_out && (s->out[i].weight != weight || s->out[i].row != row))
        i++;
    if (i == s->n_out)
        tiny_die("a block is given back that was not taken");
    free(s->out[i].data);
    s->out[i] = s->out[--s->n_out];
}

/* Routers stay in memory, as in a sealed model. */
static void shelve(struct shelf *s, const struct st_model *whole, uint32_t rows, uint32_t n_hold)
{
    *s = (struct shelf){.whole = whole, .m = *whole, .rows = rows};
    s->store = (struct st_store){.ctx = s,
                                 .n_hold = n_hold,
                                 .has = shelf_has,
                                 .ready = shelf_ready,
                                 .work = shelf_work,
                                 .away = shelf_away,
                                 .take = shelf_take,
                                 .give = shelf_give};
    s->mats = calloc((size_t)whole->plan.n_weight, sizeof *s->mats);
    for (int i = 0; i < whole->plan.n_weight; i++) {
        s->mats[i] = whole->mats[i];
        if (whole->plan.weights[i].n_in > 1 && whole->plan.weights[i].role != ST_ROLE_ROUTER)
            s->mats[i].data = NULL;
    }
    s->m.mats = s->mats;
}

enum { N_PROMPT = 40, N_REPLY = 12, N_VOCAB = 128 };

/* Logits of a prompt and the reply behind it. */
struct heard {
    float rows[N_PROMPT * N_VOCAB];
    struct client c;
};

static void listen_to(struct heard *h, const struct st_model *m, const struct st_engine_opts *o)
{
    uint32_t ids[N_PROMPT];
    struct st_engine *en;
    struct st_err e;
    random_ids(ids, N_PROMPT, N_VOCAB, 7);
    *h = (struct heard){.c = {.prompt_rows = h->rows, .n_vocab = N_VOCAB}};
    tiny_check(st_engine_new(m, o, &en, &e), &e);
    struct st_request_opts ro = client_opts(&h->c, ids, N_PROMPT, N_REPLY);
    ro.on_prompt_logits = client_row;
    client_submit(&h->c, en, &ro);
    while (st_engine_step(en))
        ;
    st_engine_free(en);
}

static void compare(const char *what, const struct heard *a, const struct heard *b)
{
    if (a->c.n != N_REPLY || b->c.n != N_REPLY || memcmp(a->c.ids, b->c.ids, sizeof(uint32_t) * N_REPLY) != 0)
        fail_msg("%s: another reply (%s)", what, b->c.err.msg);
    if (memcmp(a->rows, b->rows, sizeof a->rows) != 0)
        fail_msg("%s: other logits", what);
}

static void logits_equal_those_of_the_model_in_memory_to_the_bit(void **state)
{
    static const char *const isas[] = {"ref", "avx2", "avx512"};
    static const uint32_t rows[] = {1, 7, 64, 1000};
    (void)state;
    struct heard *want = malloc(sizeof *want), *got = malloc(sizeof *got);
    for (int k = 0; k < N_MODEL; k++) {
        struct st_model *m = tiny_model(&models[k].t);
        for (size_t i = 0; i < sizeof isas / sizeof isas[0]; i++)
            for (int mode = 0; mode < 4; mode++) {
                struct st_engine_opts o = {
                    .n_threads = 2, .isa = isas[i], .max_row = mode & 1 ? 6 : 64, .deterministic = mode & 2};
                struct st_compute_opts probe = {.isa = isas[i], .n_threads = 1, .max_row = 1, .max_width = 16};
                struct st_compute *c;
                struct st_err e;
                if (st_compute_new(&probe, &c, &e))
                    continue; /* not on this CPU */
                st_compute_free(c);
                listen_to(want, m, &o);
                for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
                    struct shelf s;
                    shelve(&s, m, rows[r], r % 2 ? 4 : 1);
                    o.store = &s.store;
                    o.secret = true;
                    listen_to(got, &s.m, &o);
                    compare(models[k].name, want, got);
                    assert_int_equal(s.n_out, 0);
                    assert_int_equal(s.n_away, 1);
                    assert_true(s.most_out <= s.store.n_hold);
                    free(s.mats);
                    o.store = NULL;
                }
            }
        st_model_close(m);
    }
    free(want);
    free(got);
}

static void a_step_takes_each_block_of_the_embedding_once(void **state)
{
    (void)state;
    struct st_model *m = tiny_model(&models[0].t);
    struct st_engine_opts o = {.n_threads = 1, .max_row = 64};
    struct heard h;
    struct shelf s;
    shelve(&s, m, N_VOCAB / 4, 1);
    o.store = &s.store;
    listen_to(&h, &s.m, &o);
    assert_int_equal(h.c.n, N_REPLY);
    assert_in_range(s.n_embed, 1, 4 + N_REPLY - 1); /* one step with the prompt, then one for each token but the last */
    free(s.mats);
    st_model_close(m);
}

static void an_error_of_the_store_ends_the_request_and_nothing_stays_taken(void **state)
{
    (void)state;
    struct st_model *m = tiny_model(&models[3].t);
    struct heard h;
    for (int at = 1; at < 60; at += 3) {
        struct shelf s;
        shelve(&s, m, 20, 3);
        s.fail_at = at;
        struct st_engine_opts o = {.n_threads = 1, .max_row = 64, .store = &s.store};
        listen_to(&h, &s.m, &o);
        assert_int_equal(h.c.finish, ST_FINISH_ERROR);
        expect_refusal(h.c.err.code, &h.c.err, ST_VERIFY, "changed");
        assert_int_equal(s.n_out, 0);
        free(s.mats);
    }
    st_model_close(m);
}

static void a_matrix_that_is_nowhere_is_refused(void **state)
{
    (void)state;
    struct st_model *m = tiny_model(&models[0].t);
    struct st_engine_opts o = {.n_threads = 1};
    struct st_engine *en;
    struct st_err e = {0};
    struct shelf s;
    shelve(&s, m, 20, 1);
    expect_refusal(st_engine_new(&s.m, &o, &en, &e), &e, ST_INPUT, "is not in this checkpoint");
    free(s.mats);
    st_model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_equal_those_of_the_model_in_memory_to_the_bit),
        cmocka_unit_test(a_step_takes_each_block_of_the_embedding_once),
        cmocka_unit_test(an_error_of_the_store_ends_the_request_and_nothing_stays_taken),
        cmocka_unit_test(a_matrix_that_is_nowhere_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
