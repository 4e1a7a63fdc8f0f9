#include "engine/engine.h"
#include "base/buf.h"
#include "base/mem.h"
#include "engine/exec.h"

#include <stdlib.h>
#include <string.h>

#define DEFAULT_CTX 4096
#define DEFAULT_BATCH 16
#define DEFAULT_ROWS 512
#define DEFAULT_QUEUE 1024
#define MAX_ROWS (1u << 16)
/* Of the row budget for prompts while requests decode: bounds how much longer a step of theirs takes. */
#define PROMPT_SHARE 4

struct st_session {
    struct st_engine *en;
    struct st_session *prev, *next;
    struct st_seq seq; /* empty while a request holds it */
    uint32_t adapter;  /* that its keys and values were made with */
    uint64_t last_use;
    bool busy; /* a request runs or waits */
};

struct st_request {
    struct st_request *next; /* in the queue */
    struct st_request_opts o;
    struct st_seq seq; /* from admission on */
    uint32_t *prompt;  /* [n_prompt], until admission */
    uint32_t *stop;    /* [n_stop] */
    uint32_t n_prompt, n_reply, n_stop;
    uint32_t max_id; /* prompt and longest reply */
    uint32_t take;   /* rows in this step */
    struct st_rng rng;
    bool cancelled, ended;
    enum st_finish finish;
    int64_t stop_id;
};

/* A row of the step whose logits are wanted. */
struct want {
    struct st_request *r;
    uint32_t row;
};

struct st_engine {
    const struct st_model *m;
    const struct st_store *store;
    struct st_kv kv;
    struct st_exec *exec;
    struct st_sampler *sampler;
    struct st_boundary local; /* when the caller has none */
    const struct st_filter *filter;
    uint32_t n_ctx, max_batch, max_row, max_queue, tail_rows;

    struct st_request **run; /* [max_batch] in order of admission */
    struct st_request *head, *tail;
    struct st_session *sessions;
    uint32_t n_run, n_wait;
    uint64_t clock; /* of sessions' last use */

    /* The step: [max_row] each, seqs [max_batch]. */
    uint32_t *ids, *pos, *tail_row;
    uint32_t *adapter_row; /* [n_adapter + 2] as in st_exec_step */
    struct want *want;
    struct st_attn_seq *seqs;
    uint32_t n_row, n_seq, n_want;

    uint64_t n_prompt_tokens, n_reply_tokens, n_steps, n_reused;
};

static int size_ctx(struct st_engine *en, const struct st_engine_opts *o, struct st_err *e)
{
    uint32_t model = en->m->config.n_ctx;
    en->n_ctx = o->n_ctx ? o->n_ctx : model < DEFAULT_CTX ? model : DEFAULT_CTX;
    if (en->n_ctx > model)
        return st_fail(e, ST_USAGE, "context: want at most the model's %u tokens, got %u", model, en->n_ctx);
    en->max_row = o->max_row ? o->max_row : DEFAULT_ROWS;
    if (en->max_row > MAX_ROWS)
        return st_fail(e, ST_USAGE, "rows per step: want at most %u, got %u", MAX_ROWS, en->max_row);
    en->max_batch = o->max_batch ? o->max_batch : DEFAULT_BATCH;
    if (en->max_batch > en->max_row)
        en->max_batch = en->max_row;
    en->max_queue = o->max_queue ? o->max_queue : DEFAULT_QUEUE;
    en->tail_rows = st_exec_tail_rows(&en->m->config, en->max_row);
    return 0;
}

/* Number of cache blocks, checked against the memory there is. */
static int size_kv(const struct st_engine *en, const struct st_engine_opts *o, uint32_t *n_block, struct st_err *e)
{
    char kv_text[ST_MEM_TEXT], act_text[ST_MEM_TEXT], have_text[ST_MEM_TEXT];
    uint32_t per_seq = st_kv_blocks_for(en->n_ctx);
    size_t block = st_kv_block_bytes(&en->m->config, o->kv_dtype);
    size_t act = st_exec_bytes(en->m, en->max_row), have = st_mem_available();
    uint64_t n = (uint64_t)per_seq * en->max_batch;
    if (o->n_kv) {
        if (o->n_kv < en->n_ctx)
            return st_fail(e, ST_USAGE, "key/value cache: want at least the context's %u tokens, got %u", en->n_ctx,
                           o->n_kv);
        n = st_kv_blocks_for(o->n_kv);
    } else {
        /* Half of what remains beside the weights (which the kernel counts as available while they are only mapped). */
        size_t taken = act + en->m->matrix_bytes;
        size_t half = have > taken ? (have - taken) / 2 : 0;
        if (n > half / block)
            n = half / block;
        if (n < per_seq)
            n = per_seq;
    }
    if (n > UINT32_MAX / ST_KV_BLOCK)
        n = UINT32_MAX / ST_KV_BLOCK;
    size_t need;
    if (!st_mul_size((size_t)n, block, &need) || !st_add_size(need, act, &need) || need > have)
        return st_fail(e, ST_MEMORY,
                       "a key/value cache of %llu tokens needs %s and activations %s, but %s of memory are available",
                       (unsigned long long)n * ST_KV_BLOCK, st_mem_text((size_t)n * block, kv_text),
                       st_mem_text(act, act_text), st_mem_text(have, have_text));
    *n_block = (uint32_t)n;
    return 0;
}

int st_engine_new(const struct st_model *m, const struct st_engine_opts *o, struct st_engine **out, struct st_err *e)
{
    struct st_engine *en;
    uint32_t n_block = 0;
    if (st_alloc(&en, 1, sizeof *en, "engine", e))
        return e->code;
    en->m = m;
    en->store = o->store;
    en->filter = o->filter;
    struct st_boundary *b = o->boundary ? o->boundary : &en->local;
    if (size_ctx(en, o, e) || size_kv(en, o, &n_block, e) || st_kv_init(&en->kv, &m->config, o->kv_dtype, n_block, e))
        goto fail;
    struct st_exec_opts xo = {.n_threads = o->n_threads,
                              .isa = o->isa,
                              .max_row = en->max_row,
                              .deterministic = o->deterministic,
                              .tap = o->tap,
                              .store = o->store,
                              .secret = o->secret,
                              .allow_unlocked = o->allow_unlocked};
    if (st_exec_new(m, &en->kv, b, &xo, &en->exec, e) || st_sampler_new(m->config.n_vocab, &en->sampler, e) ||
        st_alloc(&en->run, en->max_batch, sizeof *en->run, "batch", e) ||
        st_alloc(&en->seqs, en->max_batch, sizeof *en->seqs, "batch", e) ||
        st_alloc(&en->ids, en->max_row, sizeof *en->ids, "rows", e) ||
        st_alloc(&en->pos, en->max_row, sizeof *en->pos, "rows", e) ||
        st_alloc(&en->tail_row, en->tail_rows, sizeof *en->tail_row, "rows", e) ||
        st_alloc(&en->adapter_row, (size_t)m->n_adapter + 2, sizeof *en->adapter_row, "rows", e) ||
        st_alloc(&en->want, en->max_row, sizeof *en->want, "rows", e))
        goto fail;
    *out = en;
    return 0;
fail:
    st_engine_free(en);
    return e->code;
}

static void free_request(struct st_engine *en, struct st_request *r)
{
    st_seq_drop(&en->kv, &r->seq);
    free(r->prompt);
    free(r->stop);
    free(r);
}

/* Gives the cache to the session or back to the pool, then tells the caller. r is in no list any more. */
static void end_request(struct st_engine *en, struct st_request *r, enum st_finish finish, const struct st_err *e)
{
    struct st_session *s = r->o.session;
    struct st_request_opts o = r->o;
    int64_t stop_id = r->stop_id;
    if (s) {
        if (r->seq.n_id) { /* it was admitted */
            st_seq_trim(&en->kv, &r->seq);
            s->seq = r->seq;
            r->seq = (struct st_seq){0};
        }
        s->busy = false;
        s->last_use = ++en->clock;
    }
    free_request(en, r);
    if (o.on_end)
        o.on_end(o.arg, finish, stop_id, e);
}

void st_engine_free(struct st_engine *en)
{
    if (!en)
        return;
    while (en->n_run)
        end_request(en, en->run[--en->n_run], ST_FINISH_CANCELLED, NULL);
    while (en->head) {
        struct st_request *r = en->head;
        en->head = r->next;
        end_request(en, r, ST_FINISH_CANCELLED, NULL);
    }
    while (en->sessions)
        st_session_free(en->sessions);
    st_exec_free(en->exec);
    st_sampler_free(en->sampler);
    st_kv_wipe(&en->kv);
    free(en->run);
    free(en->seqs);
    free(en->ids);
    free(en->pos);
    free(en->tail_row);
    free(en->adapter_row);
    free(en->want);
    free(en);
}

static int check_request(const struct st_engine *en, const struct st_request_opts *o, struct st_err *e)
{
    uint32_t n_vocab = en->m->config.n_vocab;
    if (o->n_ids == 0)
        return st_fail(e, ST_INPUT, "prompt: want at least one token, got none");
    if (o->n_ids > en->n_ctx)
        return st_fail(e, ST_INPUT, "prompt: %zu tokens do not fit in the context of %u", o->n_ids, en->n_ctx);
    for (size_t i = 0; i < o->n_ids; i++)
        if (o->ids[i] >= n_vocab)
            return st_fail(e, ST_INPUT, "prompt: token %zu is outside the vocabulary of %u ids", i, n_vocab);
    if (o->adapter > en->m->n_adapter)
        return st_fail(e, ST_INPUT, "adapter: want a number of at most %u, got %u", en->m->n_adapter, o->adapter);
    if (st_sampling_check(&o->sampling, n_vocab, e))
        return e->code;
    if (o->session && o->session->busy)
        return st_fail(e, ST_USAGE, "session: it has a request already");
    if (en->n_wait >= en->max_queue)
        return st_fail(e, ST_POLICY, "queue: full, %u requests are waiting", en->n_wait);
    return 0;
}

int st_engine_submit(struct st_engine *en, const struct st_request_opts *o, struct st_request **out, struct st_err *e)
{
    const struct st_config *c = &en->m->config;
    struct st_request *r;
    if (check_request(en, o, e) || st_alloc(&r, 1, sizeof *r, "request", e))
        return e->code;
    *r = (struct st_request){.o = *o, .n_prompt = (uint32_t)o->n_ids, .stop_id = -1};
    size_t n_eos = o->ignore_eos ? 0 : (size_t)c->n_eos;
    if (st_alloc(&r->prompt, o->n_ids, sizeof *r->prompt, "prompt", e) ||
        st_alloc(&r->stop, o->n_stop_ids + n_eos, sizeof *r->stop, "stop ids", e)) {
        free_request(en, r);
        return e->code;
    }
    memcpy(r->prompt, o->ids, o->n_ids * sizeof *o->ids);
    for (size_t i = 0; i < o->n_stop_ids; i++)
        r->stop[r->n_stop++] = o->stop_ids[i];
    for (size_t i = 0; i < n_eos; i++)
        r->stop[r->n_stop++] = (uint32_t)c->eos[i];
    r->o.ids = NULL;
    r->o.stop_ids = NULL;
    uint64_t total = o->n_predict ? (uint64_t)o->n_ids + o->n_predict : en->n_ctx;
    r->max_id = total < en->n_ctx ? (uint32_t)total : en->n_ctx;
    st_rng_seed(&r->rng, o->sampling.seed);
    if (en->tail)
        en->tail->next = r;
    else
        en->head = r;
    en->tail = r;
    en->n_wait++;
    if (o->session)
        o->session->busy = true;
    *out = r;
    return 0;
}

void st_engine_cancel(struct st_engine *en, struct st_request *r)
{
    (void)en;
    r->cancelled = true;
}

/* Takes cancelled requests out of the queue and the batch. */
static void reap_cancelled(struct st_engine *en)
{
    struct st_request **at = &en->head, *last = NULL, *gone = NULL;
    while (*at) {
        struct st_request *r = *at;
        if (r->cancelled) {
            *at = r->next;
            r->next = gone;
            gone = r;
            en->n_wait--;
        } else {
            last = r;
            at = &r->next;
        }
    }
    en->tail = last;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < en->n_run; i++) {
        struct st_request *r = en->run[i];
        if (r->cancelled) {
            r->next = gone;
            gone = r;
        } else {
            en->run[kept++] = r;
        }
    }
    en->n_run = kept;
    /* Callbacks last: the lists are whole again, and a callback may cancel others. */
    while (gone) {
        struct st_request *r = gone;
        gone = r->next;
        end_request(en, r, ST_FINISH_CANCELLED, NULL);
    }
}

/* Drops the cache of the idle session that was unused longest, `keep` excepted. False when there is none. */
static bool drop_idle(struct st_engine *en, const struct st_session *keep)
{
    struct st_session *old = NULL;
    for (struct st_session *s = en->sessions; s; s = s->next)
        if (s != keep && s->seq.n_block && (!old || s->last_use < old->last_use))
            old = s;
    if (old)
        st_seq_drop(&en->kv, &old->seq);
    return old != NULL;
}

static int start_request(struct st_engine *en, struct st_request *r, struct st_err *e)
{
    struct st_session *s = r->o.session;
    if (s) {
        r->seq = s->seq;
        s->seq = (struct st_seq){0};
    }
    if (st_seq_reserve(&en->kv, &r->seq, r->max_id, e))
        return e->code;
    if (r->o.on_prompt_logits || (s && s->adapter != r->o.adapter))
        r->seq.n_cached = 0;
    if (s)
        s->adapter = r->o.adapter;
    en->n_reused += st_seq_rebase(&r->seq, r->prompt, r->n_prompt);
    free(r->prompt);
    r->prompt = NULL;
    return 0;
}

static void admit(struct st_engine *en)
{
    while (en->head && en->n_run < en->max_batch) {
        struct st_request *r = en->head;
        struct st_session *s = r->o.session;
        static const struct st_seq none;
        while (!st_seq_fits(&en->kv, s ? &s->seq : &none, r->max_id))
            if (!drop_idle(en, s))
                return;
        en->head = r->next;
        if (!en->head)
            en->tail = NULL;
        en->n_wait--;
        struct st_err e = {0};
        if (start_request(en, r, &e))
            end_request(en, r, ST_FINISH_ERROR, &e);
        else
            en->run[en->n_run++] = r;
    }
}

static uint32_t pending(const struct st_request *r)
{
    return r->seq.n_id - r->seq.n_cached;
}

/* Shares the step's rows out: one to each decoding request, then prompts in equal parts, then what is left to the
 * oldest. */
static void share_rows(struct st_engine *en)
{
    uint32_t n_prompt = 0, n_decode = 0;
    for (uint32_t i = 0; i < en->n_run; i++) {
        struct st_request *r = en->run[i];
        r->take = r->n_reply ? 1 : 0;
        n_decode += r->take;
        n_prompt += !r->take;
    }
    uint32_t left = en->max_row - n_decode;
    if (n_decode && left > en->max_row / PROMPT_SHARE)
        left = en->max_row / PROMPT_SHARE ? en->max_row / PROMPT_SHARE : 1;
    for (uint32_t i = 0; i < en->n_run && n_prompt; i++) {
        struct st_request *r = en->run[i];
        if (r->n_reply)
            continue;
        uint32_t part = (left + n_prompt - 1) / n_prompt;
        n_prompt--;
        r->take = pending(r) < part ? pending(r) : part;
        left -= r->take;
    }
    for (uint32_t i = 0; i < en->n_run && left; i++) {
        struct st_request *r = en->run[i];
        uint32_t more = pending(r) - r->take;
        more = more < left ? more : left;
        r->take += more;
        left -= more;
    }
}

/* Writes the rows of r into the step. */
static void add_rows(struct st_engine *en, struct st_request *r)
{
    const struct st_seq *s = &r->seq;
    en->seqs[en->n_seq++] =
        (struct st_attn_seq){.blocks = s->blocks, .row0 = en->n_row, .n_row = r->take, .pos0 = s->n_cached};
    for (uint32_t i = 0; i < r->take; i++) {
        uint32_t pos = s->n_cached + i;
        bool last = pos + 1 == s->n_id;
        bool sampled = last && s->n_id < r->max_id;
        if (sampled || r->o.on_prompt_logits)
            en->want[en->n_want++] = (struct want){r, en->n_row};
        en->ids[en->n_row] = s->ids[pos];
        en->pos[en->n_row++] = pos;
    }
}

/* Rows of one adapter stand together. */
static void build_step(struct st_engine *en)
{
    share_rows(en);
    en->n_row = en->n_seq = en->n_want = 0;
    for (uint32_t a = 0; a <= en->m->n_adapter; a++) {
        en->adapter_row[a] = en->n_row;
        for (int decode = 1; decode >= 0; decode--)
            for (uint32_t i = 0; i < en->n_run; i++) {
                struct st_request *r = en->run[i];
                if (r->take && r->o.adapter == a && (r->n_reply > 0) == decode)
                    add_rows(en, r);
            }
    }
    en->adapter_row[en->m->n_adapter + 1] = en->n_row;
}

static void mark_end(struct st_request *r, enum st_finish finish)
{
    r->ended = true;
    r->finish = finish;
}

static bool is_stop(const struct st_request *r, uint32_t id)
{
    for (uint32_t i = 0; i < r->n_stop; i++)
        if (r->stop[i] == id)
            return true;
    return false;
}

/* Chooses the next token of r from its logits. */
static void next_token(struct st_engine *en, struct st_request *r, float *logits)
{
    struct st_sampled tok;
    struct st_seq *s = &r->seq;
    st_sample(en->sampler, logits, &r->o.sampling, &r->rng, s->ids, s->n_id, r->n_reply, &tok);
    if (is_stop(r, tok.id)) {
        r->stop_id = tok.id;
        mark_end(r, ST_FINISH_STOP);
        return;
    }
    s->ids[s->n_id++] = tok.id;
    r->n_reply++;
    en->n_reply_tokens++;
    if (r->o.on_token && !r->o.on_token(r->o.arg, &tok))
        mark_end(r, ST_FINISH_STOP);
    else if (s->n_id == r->max_id)
        mark_end(r, ST_FINISH_LENGTH);
}

static int run_tail(struct st_engine *en, struct st_err *e)
{
    for (uint32_t i = 0; i < en->n_want; i += en->tail_rows) {
        uint32_t n = en->n_want - i < en->tail_rows ? en->n_want - i : en->tail_rows;
        const struct want *want = en->want + i;
        float *logits;
        for (uint32_t k = 0; k < n; k++)
            en->tail_row[k] = want[k].row;
        if (st_exec_tail(en->exec, en->tail_row, n, &logits, e))
            return e->code;
        for (uint32_t k = 0; k < n; k++) {
            struct st_request *r = want[k].r;
            uint32_t pos = en->pos[want[k].row];
            float *row = logits + (size_t)k * en->m->config.n_vocab;
            if (r->cancelled || r->ended)
                continue;
            if (en->filter && en->filter->row(en->filter->ctx, r->o.adapter, r->seq.ids, (size_t)pos + 1, row, e)) {
                mark_end(r, ST_FINISH_ERROR); /* its own: others of the step have rows of their own */
                continue;
            }
            if (r->o.on_prompt_logits && pos < r->n_prompt)
                r->o.on_prompt_logits(r->o.arg, pos, row);
            if (pos + 1 == r->seq.n_id && r->seq.n_id < r->max_id)
                next_token(en, r, row);
        }
    }
    return 0;
}

static int run_step(struct st_engine *en, struct st_err *e)
{
    struct st_exec_step step = {.ids = en->ids,
                                .pos = en->pos,
                                .n_row = en->n_row,
                                .seqs = en->seqs,
                                .n_seq = en->n_seq,
                                .adapter_row = en->adapter_row};
    en->n_steps++;
    if (st_exec_body(en->exec, &step, e))
        return e->code;
    for (uint32_t i = 0; i < en->n_run; i++) {
        struct st_request *r = en->run[i];
        r->seq.n_cached += r->take;
        if (!r->n_reply)
            en->n_prompt_tokens += r->take;
    }
    if (run_tail(en, e))
        return e->code;
    /* A prompt that fills the context gets no reply. */
    for (uint32_t i = 0; i < en->n_run; i++) {
        struct st_request *r = en->run[i];
        if (!r->ended && !pending(r) && r->seq.n_id == r->max_id)
            mark_end(r, ST_FINISH_LENGTH);
    }
    return 0;
}

/* Takes ended requests out of the batch; e is the step's error, or NULL. */
static void reap_ended(struct st_engine *en, const struct st_err *e)
{
    struct st_request *gone = NULL, **end = &gone;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < en->n_run; i++) {
        struct st_request *r = en->run[i];
        if (r->ended) {
            r->next = NULL;
            *end = r;
            end = &r->next;
        } else {
            en->run[kept++] = r;
        }
    }
    en->n_run = kept;
    while (gone) {
        struct st_request *r = gone;
        gone = r->next;
        end_request(en, r, r->finish, r->finish == ST_FINISH_ERROR ? e : NULL);
    }
}

size_t st_engine_step(struct st_engine *en)
{
    struct st_err e = {0};
    reap_cancelled(en);
    admit(en);
    if (en->n_run) {
        build_step(en);
        if (run_step(en, &e))
            for (uint32_t i = 0; i < en->n_run; i++)
                if (en->run[i]->take && !en->run[i]->ended)
                    mark_end(en->run[i], ST_FINISH_ERROR);
        reap_ended(en, &e);
        if (en->store && !en->n_run)
            en->store->away(en->store->ctx);
    }
    return (size_t)en->n_run + en->n_wait;
}

int st_session_new(struct st_engine *en, struct st_session **out, struct st_err *e)
{
    struct st_session *s;
    if (st_alloc(&s, 1, sizeof *s, "session", e))
        return e->code;
    s->en = en;
    s->next = en->sessions;
    if (s->next)
        s->next->prev = s;
    en->sessions = s;
    *out = s;
    return 0;
}

void st_session_free(struct st_session *s)
{
    if (!s)
        return;
    st_seq_drop(&s->en->kv, &s->seq);
    if (s->prev)
        s->prev->next = s->next;
    else
        s->en->sessions = s->next;
    if (s->next)
        s->next->prev = s->prev;
    free(s);
}

void st_engine_stats(const struct st_engine *en, struct st_engine_stats *out)
{
    *out = (struct st_engine_stats){.n_running = en->n_run,
                                    .n_waiting = en->n_wait,
                                    .kv_blocks_used = en->kv.n_block - en->kv.n_free,
                                    .kv_blocks_total = en->kv.n_block,
                                    .kv_block_len = ST_KV_BLOCK,
                                    .kv_bytes = (uint64_t)en->kv.n_block * en->kv.block_bytes,
                                    .n_prompt_tokens = en->n_prompt_tokens,
                                    .n_reply_tokens = en->n_reply_tokens,
                                    .n_steps = en->n_steps,
                                    .n_reused_tokens = en->n_reused};
}

uint32_t st_engine_ctx(const struct st_engine *en)
{
    return en->n_ctx;
}

const char *st_engine_isa(const struct st_engine *en)
{
    return st_compute_isa(st_exec_compute(en->exec));
}

int st_engine_threads(const struct st_engine *en)
{
    return st_compute_threads(st_exec_compute(en->exec));
}
