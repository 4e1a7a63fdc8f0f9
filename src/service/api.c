/* The public interface (sotto/sotto.h) on the engine: one request at a time, stepped by the caller's thread. */
#include "base/hooks.h"
#include "engine/engine.h"
#include "model/chat.h"
#include "model/locate.h"
#include "sotto/sotto.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct sotto_model {
    struct st_model *model;
    struct st_tokenizer *tok;
    struct st_engine *engine;
    const struct st_chat_template *chat;
    struct st_err no_chat; /* why there is no template; a model without one still completes texts */
};

struct sotto_session {
    sotto_model *m;
    struct st_session *cache;
    struct st_chat_msg *msgs; /* texts are owned */
    size_t n, cap;
    bool has_system;
};

static int report(const struct st_err *e, int rc, struct sotto_error *out)
{
    out->code = rc;
    *out->message = 0;
    if (rc)
        snprintf(out->message, sizeof out->message, "%s", e->msg);
    return rc;
}

const char *sotto_version(void)
{
    return SOTTO_VERSION;
}

static int open_parts(sotto_model *m, const char *path, const struct sotto_options *o, struct st_err *e)
{
    static const enum st_load_dtype load[] = {ST_LOAD_KEEP, ST_LOAD_F32, ST_LOAD_BF16, ST_LOAD_INT8};
    char tok[ST_PATH_MAX];
    int rc;
    if ((unsigned)o->dtype > SOTTO_DTYPE_INT8 || (unsigned)o->kv_dtype > SOTTO_DTYPE_BF16 || o->threads < 0)
        return st_fail(e, ST_USAGE, "sotto_options: dtype, kv_dtype or threads out of range");
    const struct st_model_opts mo = {.dtype = load[o->dtype], .n_threads = o->threads};
    if ((rc = st_model_open(path, &mo, &m->model, e)) != 0)
        return rc;
    bool is_f32 = m->model->config.dtype == ST_DTYPE_F32 || o->dtype == SOTTO_DTYPE_F32;
    bool kv_f32 = o->kv_dtype == SOTTO_DTYPE_F32 || (o->kv_dtype == SOTTO_DTYPE_DEFAULT && is_f32);
    const struct st_engine_opts eo = {.n_threads = o->threads,
                                      .kv_dtype = kv_f32 ? ST_DTYPE_F32 : ST_DTYPE_BF16,
                                      .n_ctx = o->context,
                                      .max_batch = 1,
                                      .deterministic = o->deterministic != 0};
    if ((rc = st_engine_new(m->model, &eo, &m->engine, e)) != 0)
        return rc;
    if (o->tokenizer)
        snprintf(tok, sizeof tok, "%s", o->tokenizer);
    else if ((rc = st_locate_tokenizer(path, tok, e)) != 0)
        return rc;
    if ((rc = st_tokenizer_open(tok, &m->tok, e)) != 0)
        return rc;
    if (o->chat_template)
        return st_chat_find(o->chat_template, &m->chat, e);
    if (st_chat_detect(path, m->tok, &m->chat, &m->no_chat))
        m->chat = NULL;
    return 0;
}

int sotto_open(const char *path, const struct sotto_options *opts, sotto_model **out, struct sotto_error *err)
{
    const struct sotto_options none = {0};
    struct st_err e = {0};
    sotto_model *m = calloc(1, sizeof *m);
    *out = NULL;
    if (!m)
        return report(&e, st_fail(&e, ST_MEMORY, "no memory for a model"), err);
    int rc = open_parts(m, path, opts ? opts : &none, &e);
    if (rc) {
        sotto_close(m);
        return report(&e, rc, err);
    }
    *out = m;
    return report(&e, 0, err);
}

void sotto_close(sotto_model *m)
{
    if (!m)
        return;
    if (m->engine)
        st_engine_free(m->engine);
    if (m->tok)
        st_tokenizer_free(m->tok);
    if (m->model)
        st_model_close(m->model);
    free(m);
}

const char *sotto_model_name(const sotto_model *m)
{
    return m->model->name;
}

uint32_t sotto_model_context(const sotto_model *m)
{
    return st_engine_ctx(m->engine);
}

uint32_t sotto_model_vocabulary(const sotto_model *m)
{
    return m->model->config.n_vocab;
}

int sotto_tokenize(const sotto_model *m, const char *text, size_t len, int add_special, uint32_t **ids, size_t *n_ids,
                   struct sotto_error *err)
{
    struct st_err e = {0};
    struct st_ids list = {0};
    const struct st_encode_opts eo = {.add_special = add_special != 0, .parse_special = true};
    *ids = NULL;
    *n_ids = 0;
    int rc = st_tokenizer_encode(m->tok, text, len, &eo, &list, &e);
    if (!rc && !list.p && !(list.p = malloc(sizeof *list.p))) /* no ids: still something to free */
        rc = st_fail(&e, ST_MEMORY, "no memory for token ids");
    if (rc) {
        st_ids_free(&list);
        return report(&e, rc, err);
    }
    *ids = list.p;
    *n_ids = list.len;
    return report(&e, 0, err);
}

int sotto_detokenize(const sotto_model *m, const uint32_t *ids, size_t n_ids, char **text, size_t *len,
                     struct sotto_error *err)
{
    struct st_err e = {0};
    struct st_buf b = {0};
    *text = NULL;
    *len = 0;
    int rc = st_tokenizer_decode(m->tok, ids, n_ids, true, &b, &e);
    st_buf_add(&b, "", 0);
    if (!rc && b.failed)
        rc = st_fail(&e, ST_MEMORY, "no memory for a text");
    if (rc) {
        st_buf_free(&b);
        return report(&e, rc, err);
    }
    *text = b.p;
    *len = b.len;
    return report(&e, 0, err);
}

void sotto_free(void *p)
{
    free(p);
}

/* One request on its way. */
struct call {
    sotto_on_token *on_token;
    void *arg;
    struct st_detok detok;
    struct st_buf piece, *reply; /* reply: the whole text, for a session; may be NULL */
    size_t n;
    double start, first;
    enum st_finish finish;
    struct st_err err;
    bool done, stopped;
};

static void pass_on(struct call *c, uint32_t id)
{
    if (c->reply)
        st_buf_add(c->reply, c->piece.p ? c->piece.p : "", c->piece.len);
    if (c->on_token && !c->stopped)
        c->stopped = c->on_token(c->arg, id, c->piece.p ? c->piece.p : "", c->piece.len) != 0;
}

static bool on_token(void *arg, const struct st_sampled *tok)
{
    struct call *c = arg;
    if (!c->n++)
        c->first = st_now();
    st_buf_clear(&c->piece);
    st_detok_push(&c->detok, tok->id, &c->piece);
    pass_on(c, tok->id);
    return !c->stopped;
}

static void on_end(void *arg, enum st_finish finish, int64_t stop_id, const struct st_err *e)
{
    struct call *c = arg;
    (void)stop_id;
    c->finish = finish;
    c->done = true;
    if (e)
        c->err = *e;
}

static void fill(const struct sotto_sampling *s, struct st_request_opts *req)
{
    const struct sotto_sampling none = {0};
    if (!s)
        s = &none;
    req->n_predict = s->max_tokens;
    req->ignore_eos = s->ignore_eos != 0;
    req->sampling = (struct st_sampling){.temperature = s->temperature,
                                         .top_k = s->top_k,
                                         .top_p = s->top_p > 0 ? s->top_p : 1,
                                         .min_p = s->min_p,
                                         .repetition_penalty = s->repetition_penalty > 0 ? s->repetition_penalty : 1,
                                         .seed = s->seed,
                                         .n_logprobs = -1};
}

/* Runs req to its end. What is left of a character after the last token reaches only the session's text. */
static int run(sotto_model *m, struct st_request_opts *req, struct call *c, struct sotto_result *result,
               struct st_err *e)
{
    struct st_request *request;
    req->on_token = on_token;
    req->on_end = on_end;
    req->arg = c;
    c->start = st_now();
    st_detok_init(&c->detok, m->tok, true);
    int rc = st_engine_submit(m->engine, req, &request, e);
    while (!rc && !c->done)
        st_engine_step(m->engine);
    st_buf_clear(&c->piece);
    st_detok_end(&c->detok, &c->piece);
    if (c->reply && c->piece.len)
        st_buf_add(c->reply, c->piece.p, c->piece.len);
    if (!rc && c->finish == ST_FINISH_ERROR) {
        *e = c->err;
        rc = e->code;
    }
    if (!rc && result)
        *result =
            (struct sotto_result){.n_prompt = req->n_ids,
                                  .n_reply = c->n,
                                  .finish = c->finish == ST_FINISH_LENGTH ? SOTTO_FINISH_LENGTH : SOTTO_FINISH_STOP,
                                  .first_token_s = c->n ? c->first - c->start : 0,
                                  .total_s = st_now() - c->start};
    st_detok_wipe(&c->detok);
    st_buf_wipe(&c->piece);
    return rc;
}

int sotto_generate(sotto_model *m, const uint32_t *ids, size_t n_ids, const struct sotto_sampling *sampling,
                   sotto_on_token *cb, void *arg, struct sotto_result *result, struct sotto_error *err)
{
    struct st_err e = {0};
    struct call c = {.on_token = cb, .arg = arg};
    struct st_request_opts req = {.ids = ids, .n_ids = n_ids};
    fill(sampling, &req);
    return report(&e, run(m, &req, &c, result, &e), err);
}

int sotto_generate_text(sotto_model *m, const char *text, const struct sotto_sampling *sampling, sotto_on_token *cb,
                        void *arg, struct sotto_error *err)
{
    uint32_t *ids;
    size_t n;
    int rc = sotto_tokenize(m, text, strlen(text), 1, &ids, &n, err);
    if (!rc)
        rc = sotto_generate(m, ids, n, sampling, cb, arg, NULL, err);
    free(ids);
    return rc;
}

static int push(sotto_session *s, enum st_chat_role role, const char *text, size_t len, struct st_err *e)
{
    if (s->n == s->cap) {
        size_t cap = s->cap ? 2 * s->cap : 16;
        struct st_chat_msg *p = realloc(s->msgs, cap * sizeof *p);
        if (!p)
            return st_fail(e, ST_MEMORY, "no memory for a conversation");
        s->msgs = p;
        s->cap = cap;
    }
    char *copy = malloc(len + 1);
    if (!copy)
        return st_fail(e, ST_MEMORY, "no memory for a conversation");
    memcpy(copy, text, len);
    copy[len] = 0;
    s->msgs[s->n++] = (struct st_chat_msg){role, copy, len};
    return 0;
}

static void pop_to(sotto_session *s, size_t n)
{
    while (s->n > n) {
        struct st_chat_msg *m = &s->msgs[--s->n];
        explicit_bzero((void *)m->text, m->len);
        free((void *)m->text);
    }
}

int sotto_session_new(sotto_model *m, const char *system, sotto_session **out, struct sotto_error *err)
{
    struct st_err e = {0};
    *out = NULL;
    if (!m->chat)
        return report(&m->no_chat, m->no_chat.code, err);
    sotto_session *s = calloc(1, sizeof *s);
    if (!s)
        return report(&e, st_fail(&e, ST_MEMORY, "no memory for a conversation"), err);
    s->m = m;
    s->has_system = system != NULL;
    int rc = st_session_new(m->engine, &s->cache, &e);
    if (!rc && system)
        rc = push(s, ST_CHAT_SYSTEM, system, strlen(system), &e);
    if (rc)
        sotto_session_free(s);
    else
        *out = s;
    return report(&e, rc, err);
}

void sotto_session_free(sotto_session *s)
{
    if (!s)
        return;
    pop_to(s, 0);
    free(s->msgs);
    if (s->cache)
        st_session_free(s->cache);
    free(s);
}

int sotto_session_say(sotto_session *s, const char *message, const struct sotto_sampling *sampling, sotto_on_token *cb,
                      void *arg, struct sotto_result *result, struct sotto_error *err)
{
    struct st_err e = {0};
    struct st_buf reply = {0};
    struct st_ids ids = {0};
    struct call c = {.on_token = cb, .arg = arg, .reply = &reply};
    struct st_request_opts req = {.session = s->cache};
    uint32_t stops[8];
    size_t n_before = s->n;
    int rc = push(s, ST_CHAT_USER, message, strlen(message), &e);
    if (!rc)
        rc = st_chat_encode(s->m->chat, s->m->tok, s->msgs, s->n, &ids, &e);
    if (!rc) {
        fill(sampling, &req);
        req.ids = ids.p;
        req.n_ids = ids.len;
        req.stop_ids = stops;
        req.n_stop_ids = st_chat_stops(s->m->chat, s->m->tok, stops, sizeof stops / sizeof *stops);
        rc = run(s->m, &req, &c, result, &e);
    }
    if (!rc)
        rc = reply.failed ? st_fail(&e, ST_MEMORY, "no memory for a reply")
                          : push(s, ST_CHAT_ASSISTANT, reply.p ? reply.p : "", reply.len, &e);
    if (rc)
        pop_to(s, n_before);
    st_ids_free(&ids);
    st_buf_wipe(&reply);
    return report(&e, rc, err);
}

void sotto_session_reset(sotto_session *s)
{
    pop_to(s, s->has_system ? 1 : 0);
}
