/* Runs a model's plan for many requests at once: continuous batching over a paged key/value cache.
 *
 * Requests may name adapters of the model: a step computes the base once for all its rows, and what an adapter adds for
 * the rows of its requests alone, which stand together.
 * A request joins between two steps. Each step takes one row of every decoding request and fills the rest of its row
 * budget with chunks of waiting prompts, so that a long prompt never stalls the others. Nothing is allocated per token.
 * One thread calls st_engine_*; callbacks run on that thread inside st_engine_step (they may cancel, not submit).
 * A session keeps its cache between requests: the longest common prefix of the new prompt is not computed again, unless
 * the requests name different adapters. Caches are never shared between sessions. A request is admitted, in order of
 * arrival, when the cache has room for its prompt and its longest reply, so that nothing runs out of memory half-way;
 * caches of idle sessions are dropped for it, the longest unused first. While requests decode, prompts get at most a
 * quarter of the row budget of a step, in equal shares. */
#ifndef ST_ENGINE_ENGINE_H
#define ST_ENGINE_ENGINE_H

#include "engine/filter.h"
#include "engine/sampler.h"
#include "engine/tap.h"
#include "model/model.h"
#include "model/weights.h"

struct st_engine;
struct st_session;
struct st_request;
struct st_boundary;

struct st_engine_opts {
    int n_threads;          /* 0 = all */
    const char *isa;        /* NULL = best */
    enum st_dtype kv_dtype; /* F32 or BF16 */
    uint32_t n_ctx;         /* longest sequence, prompt and reply; 0 = the model's, capped at 4096 */
    uint32_t n_kv;      /* tokens that the cache holds in all, n_ctx or more; 0 = n_ctx * max_batch bounded by memory */
    uint32_t max_batch; /* requests that run together, at most max_row; 0 = 16 */
    uint32_t max_row;   /* rows per step (prefill chunk); 0 = 512 */
    uint32_t max_queue; /* requests that wait; 0 = 1024 */
    bool deterministic;
    struct st_boundary *boundary;   /* NULL = everything runs here; kept until st_engine_free, not owned */
    const struct st_tap *tap;       /* NULL = none; kept until st_engine_free */
    const struct st_filter *filter; /* of every row of logits; NULL = none; kept until st_engine_free */
    const struct st_store *store; /* has the matrices without data; NULL = there are none; kept until st_engine_free */
    bool secret;                  /* weights are: what holds copies of them lies in locked memory (base/locked.h) */
    bool allow_unlocked;          /* even where that cannot be locked */
};

/* MEMORY says how much is needed and how much there is. USAGE: a context longer than the model's, n_kv below n_ctx.
 * POLICY: the plan places ops outside and the boundary has no protection. m is borrowed until st_engine_free. */
int st_engine_new(const struct st_model *m, const struct st_engine_opts *o, struct st_engine **out,
                  struct st_err *e) ST_MUST_CHECK;
/* Ends what still runs or waits (CANCELLED) and frees the sessions that are left. */
void st_engine_free(struct st_engine *en);

enum st_finish { ST_FINISH_STOP, ST_FINISH_LENGTH, ST_FINISH_CANCELLED, ST_FINISH_ERROR };

struct st_request_opts {
    const uint32_t *ids; /* copied */
    size_t n_ids;
    uint32_t n_predict; /* 0 = until the context is full, which ends a request in any case (LENGTH) */
    struct st_sampling sampling;
    const uint32_t *stop_ids; /* copied; the model's eos ids are added unless ignore_eos */
    size_t n_stop_ids;
    bool ignore_eos;
    /* Called for every generated token that is not a stop id. Return false to stop (finish STOP). May be NULL. */
    bool (*on_token)(void *arg, const struct st_sampled *tok);
    /* Called once; the request is gone afterwards. e is NULL unless finish is ERROR. stop_id: the id that ended it, or
     * -1. */
    void (*on_end)(void *arg, enum st_finish finish, int64_t stop_id, const struct st_err *e);
    /* Called with the logits of every prompt position, in order, before the first token. May be NULL. row [n_vocab].
     * With it nothing is reused of a session's cache. */
    void (*on_prompt_logits)(void *arg, size_t pos, const float *row);
    void *arg;
    struct st_session *session; /* NULL = a fresh cache, dropped at the end */
    uint32_t adapter;           /* number of an adapter of the model; 0 = the base alone */
};

/* Errors: INPUT (empty prompt, id outside the vocabulary, sampling value out of range, prompt longer than the context:
 * says both lengths; no such adapter), POLICY (queue full), USAGE (the session has a request already). */
int st_engine_submit(struct st_engine *en, const struct st_request_opts *o, struct st_request **out,
                     struct st_err *e) ST_MUST_CHECK;
/* The request leaves before the next step; on_end(CANCELLED) is called from the next st_engine_step or st_engine_free.
 */
void st_engine_cancel(struct st_engine *en, struct st_request *r);
/* One step. Returns the number of requests that are still running or waiting. An error in it ends the requests that had
 * rows in the step (ERROR); the engine stays usable. */
size_t st_engine_step(struct st_engine *en);

int st_session_new(struct st_engine *en, struct st_session **out, struct st_err *e) ST_MUST_CHECK;
void st_session_free(struct st_session *s); /* no request of it may be running */

struct st_engine_stats {
    uint32_t n_running, n_waiting;
    uint32_t kv_blocks_used, kv_blocks_total, kv_block_len;
    uint64_t kv_bytes;        /* of kv_blocks_total; a block takes memory when it is first used */
    uint64_t n_prompt_tokens; /* computed; those taken over from a session count as reused instead */
    uint64_t n_reply_tokens, n_steps, n_reused_tokens;
};
void st_engine_stats(const struct st_engine *en, struct st_engine_stats *out);
uint32_t st_engine_ctx(const struct st_engine *en);
const char *st_engine_isa(const struct st_engine *en);
int st_engine_threads(const struct st_engine *en);

#endif
