/* What the engine's tests share: a tiny model, an engine over it, and a client that writes down what it is told. */
#ifndef ST_TESTS_HARNESS_H
#define ST_TESTS_HARNESS_H

#include "engine/engine.h"
#include "tiny.h"

#define MAX_OUT 512

static const struct st_sampling greedy = {.top_p = 1.0f, .repetition_penalty = 1.0f, .n_logprobs = -1};

/* One request and all that was reported about it. */
struct client {
    struct st_engine *en;
    struct st_request *r;
    uint32_t ids[MAX_OUT];
    size_t n;
    size_t stop_after;      /* on_token returns false at this count; 0 = never */
    struct client *cancels; /* cancels that client at its own token number cancel_at */
    size_t cancel_at;
    int n_end;
    enum st_finish finish;
    int64_t stop_id;
    struct st_err err;
    size_t n_prompt_row; /* calls of on_prompt_logits */
    float *prompt_rows;  /* [.., n_vocab], NULL = not kept */
    uint32_t n_vocab;
};

static inline bool client_token(void *arg, const struct st_sampled *tok)
{
    struct client *c = arg;
    if (c->n_end || c->n >= MAX_OUT)
        tiny_die("a token after the end");
    c->ids[c->n++] = tok->id;
    if (c->cancels && c->n == c->cancel_at)
        st_engine_cancel(c->en, c->cancels->r);
    return c->stop_after == 0 || c->n < c->stop_after;
}

static inline void client_end(void *arg, enum st_finish finish, int64_t stop_id, const struct st_err *e)
{
    struct client *c = arg;
    c->n_end++;
    c->finish = finish;
    c->stop_id = stop_id;
    if (e)
        c->err = *e;
    c->r = NULL;
}

static inline void client_row(void *arg, size_t pos, const float *row)
{
    struct client *c = arg;
    if (pos != c->n_prompt_row++)
        tiny_die("prompt logits out of order");
    if (c->prompt_rows)
        memcpy(c->prompt_rows + pos * c->n_vocab, row, c->n_vocab * sizeof *row);
}

static inline struct st_request_opts client_opts(struct client *c, const uint32_t *ids, size_t n_ids,
                                                 uint32_t n_predict)
{
    return (struct st_request_opts){.ids = ids,
                                    .n_ids = n_ids,
                                    .n_predict = n_predict,
                                    .sampling = greedy,
                                    .ignore_eos = true,
                                    .on_token = client_token,
                                    .on_end = client_end,
                                    .arg = c};
}

static inline void client_submit(struct client *c, struct st_engine *en, const struct st_request_opts *o)
{
    struct st_err e;
    c->en = en;
    tiny_check(st_engine_submit(en, o, &c->r, &e), &e);
}

/* Submits a greedy request and runs the engine until nothing is left. */
static inline void client_run(struct client *c, struct st_engine *en, const uint32_t *ids, size_t n_ids,
                              uint32_t n_predict)
{
    struct st_request_opts o = client_opts(c, ids, n_ids, n_predict);
    client_submit(c, en, &o);
    while (st_engine_step(en))
        ;
}

static inline struct st_model *tiny_model(const struct tiny *t)
{
    char dir[64];
    struct st_model *m;
    struct st_model_opts o = {.n_threads = 1};
    struct st_err e;
    tiny_mkdir(dir);
    tiny_write(t, dir);
    tiny_check(st_model_open(dir, &o, &m, &e), &e);
    tiny_rmdir(dir); /* the maps stay valid */
    return m;
}

/* Two threads, f32 cache, deterministic, unless the caller says otherwise. */
static inline struct st_engine *tiny_engine(const struct st_model *m, struct st_engine_opts o)
{
    struct st_engine *en;
    struct st_err e;
    if (o.n_threads == 0)
        o.n_threads = 2;
    o.deterministic = true;
    tiny_check(st_engine_new(m, &o, &en, &e), &e);
    return en;
}

static inline void random_ids(uint32_t *ids, size_t n, uint32_t n_vocab, uint64_t seed)
{
    struct st_rng r;
    st_rng_seed(&r, seed);
    for (size_t i = 0; i < n; i++)
        ids[i] = (uint32_t)(st_rng_next(&r) % n_vocab);
}

#endif
