/* One completion request from its body to its last byte: prompt to ids, one generator request per choice, tokens to
 * text, stop strings, logprobs, events.
 *
 * Lifetime: the object lives until the reply has ended AND every generator request has said `end`; `conn` is NULL from
 * the moment the reply is complete or the client is gone. */
#include "base/hooks.h"
#include "service/serve.h"
#include "service/stops.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A client that has so much unread gets no more events; its tokens wait as ids. */
#define PARK_AT (64u << 10)

struct choice {
    struct st_completion *owner;
    int index;
    void *handle; /* of the generator; NULL once ended */
    bool done;    /* its part of the reply is complete */
    bool ended;   /* the generator is done, but tokens still wait */
    bool begun;   /* stream: an event with ids of the prompt went out */
    enum st_gen_finish finish;
    struct st_detok detok;
    struct st_stops stops;
    struct st_buf text;      /* not streaming: the reply; streaming: unused */
    struct st_ids ids;       /* of the reply, if wanted */
    struct st_buf chat_logs; /* elements of logprobs.content */
    struct st_oai_legacy legacy;
    struct st_buf waiting; /* tokens of a parked stream: struct packed records */
    size_t waiting_at;
    size_t n_tok, text_len;
};

struct st_completion {
    struct st_service *s;
    struct st_completion *prev, *next;
    struct st_http_conn *conn;
    struct st_oai_request req;
    struct st_ids prompt;
    struct st_client *client;
    enum st_metric_route route;
    struct st_oai_error error; /* status != 0: what ended a parked stream */
    double t0;
    int64_t created;
    bool head_sent, token_seen;
    int n_undone, n_handles;
    uint32_t adapter; /* of the generator; 0 = none */
    char id[48], model[128];
    struct choice choice[ST_OAI_MAX_N];
};

static void completion_free(struct st_completion *c)
{
    for (int i = 0; i < ST_OAI_MAX_N; i++) {
        struct choice *ch = &c->choice[i];
        st_detok_wipe(&ch->detok);
        st_stops_wipe(&ch->stops);
        st_buf_wipe(&ch->text);
        st_ids_free(&ch->ids);
        st_buf_wipe(&ch->chat_logs);
        st_oai_legacy_free(&ch->legacy);
        st_buf_wipe(&ch->waiting);
    }
    st_ids_free(&c->prompt);
    st_oai_request_wipe(&c->req);
    if (c->prev || c->s->completions == c)
        *(c->prev ? &c->prev->next : &c->s->completions) = c->next;
    if (c->next)
        c->next->prev = c->prev;
    free(c);
}

void st_completion_free_all(struct st_service *s)
{
    while (s->completions)
        completion_free(s->completions);
}

static void release_if_over(struct st_completion *c)
{
    if (!c->conn && c->n_handles == 0)
        completion_free(c);
}

/* The reply is complete or nobody waits for it: stop generating, give the client's slots back. */
static void close_reply(struct st_completion *c)
{
    struct st_service *s = c->s;
    c->conn = NULL;
    for (int i = 0; i < c->req.n; i++) {
        struct choice *ch = &c->choice[i];
        if (ch->handle && !ch->done)
            s->gen.vt->cancel(s->gen.g, ch->handle);
        ch->done = true;
        st_buf_wipe(&ch->waiting);
    }
    if (c->client)
        st_client_give(s, c->client, (uint32_t)c->req.n);
    c->client = NULL;
}

static void on_gone(void *arg)
{
    struct st_completion *c = arg;
    st_metrics_request(&c->s->metrics, c->route, 0, st_now() - c->t0);
    close_reply(c);
    release_if_over(c);
}

static void tap_reply(struct st_completion *c, const struct st_buf *b)
{
    if (c->s->o.tap)
        c->s->o.tap(c->s->o.arg, ST_TAP_REPLY, b->p, b->len);
}

static void put_str(struct st_buf *b, const char *key, const char *v)
{
    st_buf_addf(b, "\"%s\":", key);
    st_json_quote(b, v, strlen(v));
}

/* {"id":..,"object":..,"created":..,"model":..,"choices":[ */
static void put_top(const struct st_completion *c, struct st_buf *b, const char *object)
{
    st_buf_addf(b, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%" PRId64 ",", c->id, object, c->created);
    put_str(b, "model", c->model);
    st_buf_add_str(b, ",");
}

static bool is_chat(const struct st_completion *c)
{
    return c->req.endpoint == ST_OAI_CHAT;
}

static void put_prompt_ids(const struct st_completion *c, struct st_buf *b)
{
    st_buf_add_str(b, "\"prompt_token_ids\":");
    st_oai_put_ids(b, c->prompt.p, c->prompt.len);
}

/* "logprobs":... of what the choice has gathered since the last call. */
static void put_logprobs(struct st_completion *c, struct choice *ch, struct st_buf *b)
{
    if (c->req.sampling.n_logprobs < 0)
        st_buf_add_str(b, "\"logprobs\":null");
    else if (is_chat(c)) {
        st_buf_add_str(b, "\"logprobs\":{\"content\":[");
        st_buf_add(b, ch->chat_logs.p, ch->chat_logs.len);
        st_buf_add_str(b, "],\"refusal\":null}");
        st_buf_clear(&ch->chat_logs);
    } else {
        st_buf_add_str(b, "\"logprobs\":");
        st_oai_legacy_put(b, &ch->legacy);
        st_oai_legacy_clear(&ch->legacy);
    }
}

static void begin_stream(struct st_completion *c)
{
    struct st_service *s = c->s;
    struct st_buf fields = {0};
    if (c->head_sent)
        return;
    c->head_sent = true;
    st_service_fields(s, &fields);
    st_http_stream_begin(c->conn, 200, fields.p, "text/event-stream; charset=utf-8");
    st_buf_free(&fields);
}

static void send_event(struct st_completion *c, const struct st_buf *b)
{
    begin_stream(c);
    st_http_stream_send(c->conn, b->p, b->len);
    tap_reply(c, b);
}

/* One streamed chunk of a choice. text may be empty; finish NULL in the middle. */
static void send_chunk(struct st_completion *c, struct choice *ch, const char *text, size_t len, bool role,
                       const char *finish)
{
    struct st_buf *b = &c->s->event;
    bool first = !ch->begun;
    ch->begun = true;
    st_buf_clear(b);
    st_buf_add_str(b, "data: ");
    put_top(c, b, is_chat(c) ? "chat.completion.chunk" : "text_completion");
    if (is_chat(c) && c->req.want_ids && first) {
        put_prompt_ids(c, b);
        st_buf_add_str(b, ",");
    }
    st_buf_addf(b, "\"choices\":[{\"index\":%d,", ch->index);
    if (is_chat(c)) {
        st_buf_add_str(b, role ? "\"delta\":{\"role\":\"assistant\",\"content\":" : "\"delta\":{");
        if (!role && (len || !finish))
            st_buf_add_str(b, "\"content\":");
        if (role || len || !finish)
            st_json_quote(b, text, len);
        st_buf_add_str(b, "},");
    } else {
        st_buf_add_str(b, "\"text\":");
        st_json_quote(b, text, len);
        st_buf_add_str(b, ",");
    }
    put_logprobs(c, ch, b);
    if (c->req.want_ids) {
        st_buf_add_str(b, ",\"token_ids\":");
        st_oai_put_ids(b, ch->ids.p, ch->ids.len);
        ch->ids.len = 0;
        if (!is_chat(c) && first) {
            st_buf_add_str(b, ",");
            put_prompt_ids(c, b);
        }
    }
    st_buf_addf(b, finish ? ",\"finish_reason\":\"%s\"}]" : ",\"finish_reason\":null}]", finish);
    st_buf_add_str(b, c->req.include_usage ? ",\"usage\":null}\n\n" : "}\n\n");
    send_event(c, b);
}

static size_t reply_tokens(const struct st_completion *c)
{
    size_t n = 0;
    for (int i = 0; i < c->req.n; i++)
        n += c->choice[i].n_tok;
    return n;
}

static void finish_stream(struct st_completion *c)
{
    struct st_buf *b = &c->s->event;
    st_buf_clear(b);
    if (c->req.include_usage) {
        st_buf_add_str(b, "data: ");
        put_top(c, b, is_chat(c) ? "chat.completion.chunk" : "text_completion");
        st_buf_add_str(b, "\"choices\":[],\"usage\":");
        st_oai_put_usage(b, c->prompt.len, reply_tokens(c));
        st_buf_add_str(b, "}\n\n");
    }
    st_buf_add_str(b, "data: [DONE]\n\n");
    send_event(c, b);
    st_http_stream_end(c->conn);
    st_metrics_request(&c->s->metrics, c->route, 200, st_now() - c->t0);
}

static void put_choice(struct st_completion *c, struct choice *ch, struct st_buf *b)
{
    st_buf_addf(b, "%s{\"index\":%d,", ch->index ? "," : "", ch->index);
    st_buf_add_str(b, is_chat(c) ? "\"message\":{\"role\":\"assistant\",\"content\":" : "\"text\":");
    st_json_quote(b, ch->text.p, ch->text.len);
    st_buf_add_str(b, is_chat(c) ? ",\"refusal\":null}," : ",");
    put_logprobs(c, ch, b);
    if (c->req.want_ids) {
        st_buf_add_str(b, ",\"token_ids\":");
        st_oai_put_ids(b, ch->ids.p, ch->ids.len);
        if (!is_chat(c)) {
            st_buf_add_str(b, ",");
            put_prompt_ids(c, b);
        }
    }
    st_buf_addf(b, ",\"finish_reason\":\"%s\"}", st_oai_finish_word(ch->finish));
}

static void finish_whole(struct st_completion *c)
{
    struct st_buf b = {0};
    put_top(c, &b, is_chat(c) ? "chat.completion" : "text_completion");
    if (is_chat(c) && c->req.want_ids) {
        put_prompt_ids(c, &b);
        st_buf_add_str(&b, ",");
    }
    st_buf_add_str(&b, "\"choices\":[");
    for (int i = 0; i < c->req.n; i++)
        put_choice(c, &c->choice[i], &b);
    st_buf_add_str(&b, "],\"usage\":");
    st_oai_put_usage(&b, c->prompt.len, reply_tokens(c));
    st_buf_add_str(&b, "}");
    tap_reply(c, &b);
    st_service_reply(c->s, c->conn, c->route, c->t0, 200, NULL, "application/json", &b);
    st_buf_wipe(&b);
}

/* Ends the reply with an error: as a status if nothing was sent yet, else as an event in the stream. */
static void fail_reply(struct st_completion *c, const struct st_oai_error *err)
{
    struct st_service *s = c->s;
    s->metrics.verification_failures += err->code && strcmp(err->code, "integrity") == 0;
    if (c->head_sent) {
        st_buf_clear(&s->event);
        st_buf_add_str(&s->event, "data: ");
        st_oai_error_json(err, &s->event);
        st_buf_add_str(&s->event, "\n\n");
        send_event(c, &s->event);
        st_http_stream_end(c->conn);
        st_metrics_request(&s->metrics, c->route, err->status, st_now() - c->t0);
    } else {
        if (s->o.tap) {
            st_buf_clear(&s->event);
            st_oai_error_json(err, &s->event);
            tap_reply(c, &s->event);
        }
        st_service_error(s, c->conn, c->route, c->t0, err);
    }
    close_reply(c);
}

/* The first bytes of a stream wait for the first token, so that an earlier failure still has a status of its own. */
static void send_roles(struct st_completion *c)
{
    if (c->req.stream && is_chat(c) && !c->head_sent)
        for (int i = 0; i < c->req.n; i++)
            send_chunk(c, &c->choice[i], "", 0, true, NULL);
}

/* The choice has all its text. When it was the last one, the reply ends. */
static void finish_choice(struct st_completion *c, struct choice *ch, enum st_gen_finish finish)
{
    struct st_service *s = c->s;
    send_roles(c);
    ch->done = true;
    ch->finish = finish;
    st_buf_clear(&s->piece);
    st_buf_clear(&s->text);
    if (!ch->stops.hit && s->o.tokenizer) {
        st_detok_end(&ch->detok, &s->piece);
        if (st_stops_push(&ch->stops, s->piece.p, s->piece.len, &s->text))
            ch->finish = ST_GEN_STOP;
        st_stops_end(&ch->stops, &s->text);
    }
    if (c->req.stream)
        send_chunk(c, ch, s->text.p, s->text.len, false, st_oai_finish_word(ch->finish));
    else
        st_buf_add(&ch->text, s->text.p, s->text.len);
    if (--c->n_undone > 0)
        return;
    if (c->req.stream)
        finish_stream(c);
    else
        finish_whole(c);
    close_reply(c);
}

static void take_token(struct st_completion *c, struct choice *ch, const struct st_sampled *tok)
{
    struct st_service *s = c->s;
    send_roles(c);
    ch->n_tok++;
    st_buf_clear(&s->piece);
    st_buf_clear(&s->text);
    if (s->o.tokenizer)
        st_detok_push(&ch->detok, tok->id, &s->piece);
    if (c->req.want_ids)
        st_ids_add(&ch->ids, tok->id);
    if (c->req.sampling.n_logprobs >= 0 && is_chat(c)) {
        st_buf_add_str(&ch->chat_logs, ch->chat_logs.len ? "," : "");
        st_oai_put_chat_logprob(&ch->chat_logs, s->o.tokenizer, c->req.tokens_as_ids, tok);
    } else if (c->req.sampling.n_logprobs >= 0)
        st_oai_legacy_add(&ch->legacy, s->o.tokenizer, c->req.tokens_as_ids, tok, ch->text_len);
    ch->text_len += s->piece.len;
    bool hit = st_stops_push(&ch->stops, s->piece.p, s->piece.len, &s->text);
    if (!c->req.stream)
        st_buf_add(&ch->text, s->text.p, s->text.len);
    else if (s->text.len || c->req.want_ids || c->req.sampling.n_logprobs >= 0)
        send_chunk(c, ch, s->text.p, s->text.len, false, NULL);
    if (hit) {
        if (ch->handle)
            s->gen.vt->cancel(s->gen.g, ch->handle);
        st_buf_wipe(&ch->waiting);
        finish_choice(c, ch, ST_GEN_STOP);
    }
}

/* A parked token: only what it needs, so that a slow reader with a long reply costs little. */
static void park(struct choice *ch, const struct st_sampled *tok)
{
    st_buf_add(&ch->waiting, &tok->id, sizeof tok->id);
    st_buf_add(&ch->waiting, &tok->logprob, sizeof tok->logprob);
    st_buf_add(&ch->waiting, &tok->n_top, sizeof tok->n_top);
    st_buf_add(&ch->waiting, tok->top, (size_t)tok->n_top * sizeof tok->top[0]);
}

static void unpark(struct choice *ch, struct st_sampled *tok)
{
    const char *p = ch->waiting.p + ch->waiting_at;
    memcpy(&tok->id, p, sizeof tok->id);
    memcpy(&tok->logprob, p + 4, sizeof tok->logprob);
    memcpy(&tok->n_top, p + 8, sizeof tok->n_top);
    memcpy(tok->top, p + 12, (size_t)tok->n_top * sizeof tok->top[0]);
    ch->waiting_at += 12 + (size_t)tok->n_top * sizeof tok->top[0];
    if (ch->waiting_at == ch->waiting.len) {
        st_buf_wipe(&ch->waiting);
        ch->waiting_at = 0;
    }
}

static void on_token(void *arg, const struct st_sampled *tok)
{
    struct choice *ch = arg;
    struct st_completion *c = ch->owner;
    if (ch->done)
        return;
    c->s->metrics.reply_tokens++;
    if (!c->token_seen)
        st_metrics_first_token(&c->s->metrics, st_now() - c->t0);
    c->token_seen = true;
    if (c->req.stream && (ch->waiting.len || st_http_unsent(c->conn) > PARK_AT))
        park(ch, tok);
    else
        take_token(c, ch, tok);
}

static void on_end(void *arg, enum st_gen_finish finish, const struct st_err *e)
{
    struct choice *ch = arg;
    struct st_completion *c = ch->owner;
    ch->handle = NULL;
    c->n_handles--;
    if (!ch->done) {
        struct st_oai_error err = {0};
        if (finish == ST_GEN_BUSY)
            st_oai_fail(&err, 429, "rate_limit_error", "queue_full", NULL, "the model server has no room; try again");
        else if (finish == ST_GEN_ERROR)
            st_oai_from_err(&err, e);
        else if (finish == ST_GEN_CANCELLED)
            st_oai_fail(&err, 503, "server_error", "cancelled", NULL, "the server ended this request");
        if (ch->waiting.len) {
            ch->ended = true;
            ch->finish = finish;
            if (err.status)
                c->error = err;
        } else if (err.status)
            fail_reply(c, &err);
        else
            finish_choice(c, ch, finish);
    }
    release_if_over(c);
}

/* The client has read: parked tokens go on, a fair share per choice. */
static void on_drained(void *arg)
{
    struct st_completion *c = arg;
    struct st_sampled tok;
    for (int i = 0; i < c->req.n && c->conn; i++) {
        struct choice *ch = &c->choice[i];
        while (ch->waiting.len && st_http_unsent(c->conn) <= PARK_AT) {
            unpark(ch, &tok);
            take_token(c, ch, &tok);
            if (!c->conn)
                break;
        }
        if (c->conn && !ch->done && ch->ended && !ch->waiting.len) {
            if (c->error.status)
                fail_reply(c, &c->error);
            else
                finish_choice(c, ch, ch->finish);
        }
    }
    release_if_over(c);
}

/* Prompt of the request as ids. */
static int make_prompt(struct st_completion *c, struct st_oai_error *err)
{
    const struct st_service *s = c->s;
    struct st_oai_request *r = &c->req;
    struct st_err e = {0};
    const char *param = is_chat(c) ? "messages" : "prompt";
    int rc = 0;
    if (is_chat(c) && (!s->o.tokenizer || !s->o.chat))
        return st_oai_fail(err, 400, "invalid_request_error", "unsupported", param,
                           "this server has no tokenizer: send token ids to /v1/completions");
    if (r->text && !s->o.tokenizer)
        return st_oai_fail(err, 400, "invalid_request_error", "unsupported", param,
                           "prompt: this server has no tokenizer: want an array of token ids");
    if (r->n_stop && !s->o.tokenizer)
        return st_oai_fail(err, 400, "invalid_request_error", "unsupported", "stop",
                           "stop: this server has no tokenizer: use stop_token_ids");
    if (is_chat(c))
        rc = st_chat_encode(s->o.chat, s->o.tokenizer, r->msgs, r->n_msg, &c->prompt, &e);
    else if (r->text) {
        struct st_encode_opts o = {.add_special = r->add_special, .parse_special = true};
        rc = st_tokenizer_encode(s->o.tokenizer, r->text, strlen(r->text), &o, &c->prompt, &e);
    } else
        for (size_t i = 0; i < r->n_ids; i++)
            st_ids_add(&c->prompt, r->ids[i]);
    if (!rc && c->prompt.failed)
        rc = st_fail(&e, ST_MEMORY, "prompt: no memory for %zu tokens", c->prompt.len);
    if (rc) {
        st_oai_from_err(err, &e);
        snprintf(err->param, sizeof err->param, "%s", e.code == ST_MEMORY ? "" : param);
        return -1;
    }
    if (c->prompt.len == 0)
        return st_oai_fail(err, 400, "invalid_request_error", "invalid_value", param, "%s: want at least one token",
                           param);
    return 0;
}

static int check_ids(const uint32_t *ids, size_t n, uint32_t n_vocab, const char *param, struct st_oai_error *err)
{
    for (size_t i = 0; n_vocab && i < n; i++)
        if (ids[i] >= n_vocab)
            return st_oai_fail(err, 400, "invalid_request_error", "invalid_value", param,
                               "%s: token id %" PRIu32 " is outside the vocabulary of %" PRIu32, param, ids[i],
                               n_vocab);
    return 0;
}

/* The name that the request gives, if any: the model's, or that of an adapter to it. */
static int choose_model(struct st_completion *c, const struct st_gen_info *info, struct st_oai_error *err)
{
    const char *name = c->req.model;
    if (!name || strcmp(name, info->model) == 0)
        return 0;
    for (uint32_t i = 0; i < info->n_adapter; i++)
        if (strcmp(name, info->adapters[i]) == 0) {
            c->adapter = i + 1;
            snprintf(c->model, sizeof c->model, "%s", name);
            return 0;
        }
    return st_oai_fail(err, 404, "invalid_request_error", "model_not_found", "model",
                       info->n_adapter ? "model: this server has '%s' and others (/v1/models)"
                                       : "model: this server has '%s' only",
                       info->model);
}

/* Everything that depends on the model behind the generator. */
static int check_model(struct st_completion *c, const struct st_gen_info *info, struct st_oai_error *err)
{
    struct st_oai_request *r = &c->req;
    const char *param = is_chat(c) ? "messages" : "prompt";
    if (choose_model(c, info, err) || check_ids(c->prompt.p, c->prompt.len, info->n_vocab, param, err) ||
        check_ids(r->stop_ids, r->n_stop_ids, info->n_vocab, "stop_token_ids", err))
        return -1;
    for (uint32_t i = 0; i < r->sampling.n_bias; i++)
        if (check_ids(&r->bias[i].id, 1, info->n_vocab, "logit_bias", err))
            return -1;
    if (!info->n_ctx)
        return 0;
    if (c->prompt.len >= info->n_ctx)
        return st_oai_fail(err, 400, "invalid_request_error", "context_length_exceeded", param,
                           "%s: %zu tokens do not fit: the context holds %" PRIu32 " with the reply", param,
                           c->prompt.len, info->n_ctx);
    size_t room = info->n_ctx - c->prompt.len;
    bool asked = json_object_get(r->body, "max_tokens") || json_object_get(r->body, "max_completion_tokens");
    if (asked && r->max_tokens > (int64_t)room)
        return st_oai_fail(err, 400, "invalid_request_error", "context_length_exceeded", "max_tokens",
                           "max_tokens: %zu prompt tokens and %" PRId64
                           " reply tokens do not fit the context of %" PRIu32,
                           c->prompt.len, r->max_tokens, info->n_ctx);
    if (!r->max_tokens || r->max_tokens > (int64_t)room)
        r->max_tokens = (int64_t)room;
    return 0;
}

static size_t add_once(uint32_t *list, size_t n, uint32_t id)
{
    for (size_t i = 0; i < n; i++)
        if (list[i] == id)
            return n;
    list[n] = id;
    return n + 1;
}

/* Starts the generator once per choice. */
static int start_choices(struct st_completion *c, struct st_oai_error *err)
{
    static const struct st_gen_events events = {on_token, on_end};
    struct st_service *s = c->s;
    struct st_oai_request *r = &c->req;
    uint32_t stops[ST_OAI_MAX_STOP_IDS + 16];
    size_t n_stop = 0;
    struct st_err e;
    uint64_t seed = r->sampling.seed;
    if (!r->has_seed && st_random(&seed, sizeof seed, &e))
        return st_oai_fail(err, 500, "server_error", "internal", NULL, "%s", e.msg);
    for (size_t i = 0; i < r->n_stop_ids; i++)
        n_stop = add_once(stops, n_stop, r->stop_ids[i]);
    if (is_chat(c) && !r->ignore_eos)
        for (size_t i = 0; i < s->n_chat_stop; i++)
            n_stop = add_once(stops, n_stop, s->chat_stops[i]);
    struct st_gen_request g = {.ids = c->prompt.p,
                               .n_ids = c->prompt.len,
                               .n_predict = (uint32_t)r->max_tokens,
                               .sampling = r->sampling,
                               .stop_ids = stops,
                               .n_stop_ids = n_stop,
                               .ignore_eos = r->ignore_eos,
                               .adapter = c->adapter};
    for (int i = 0; i < r->n; i++) {
        struct choice *ch = &c->choice[i];
        ch->owner = c;
        ch->index = i;
        if (s->o.tokenizer)
            st_detok_init(&ch->detok, s->o.tokenizer, true);
        st_stops_init(&ch->stops, r->stop, r->n_stop);
        g.sampling.seed = seed + (uint64_t)i;
        int rc = s->gen.vt->start(s->gen.g, &g, &events, ch, &ch->handle, &e);
        if (rc == ST_POLICY)
            return st_oai_fail(err, 429, "rate_limit_error", "queue_full", NULL, "%s", e.msg);
        if (rc) {
            st_oai_from_err(err, &e);
            return -1;
        }
        c->n_handles++;
        c->n_undone++;
    }
    return 0;
}

/* All that can be refused before a token is asked for. */
static int prepare(struct st_completion *c, const char *client, struct st_oai_error *err)
{
    struct st_service *s = c->s;
    struct st_gen_info info = {0};
    struct st_span body = st_http_body(c->conn);
    if (st_oai_parse(c->req.endpoint, body.p, body.len, &c->req, err)) {
        c->req.n = 0;
        return -1;
    }
    s->gen.vt->info(s->gen.g, &info);
    snprintf(c->model, sizeof c->model, "%s", info.model);
    if (!info.ready && !info.watched) /* a watched one says itself what is missing, and may recover by it */
        return st_oai_fail(err, 503, "server_error", "not_ready", NULL, "the model is not reachable yet; try again");
    for (int i = 0; i < 2; i++)
        if (st_oai_check_refused(&c->req, info.refused[i], err))
            return -1;
    if (make_prompt(c, err) || check_model(c, &info, err))
        return -1;
    s->metrics.prompt_tokens += c->prompt.len;
    c->client = st_client_take(s, client, (uint32_t)c->req.n);
    if (!c->client)
        return st_oai_fail(err, 429, "rate_limit_error", "too_many_requests", NULL,
                           "this client has its limit of %" PRIu32 " choices in progress", s->o.limits.max_client);
    return start_choices(c, err);
}

void st_completion_start(struct st_service *s, struct st_http_conn *conn, enum st_oai_endpoint ep, const char *client,
                         double t0)
{
    struct st_completion *c = NULL;
    struct st_err e;
    struct st_oai_error err = {0};
    uint8_t rnd[12];
    enum st_metric_route route = ep == ST_OAI_CHAT ? ST_ROUTE_CHAT : ST_ROUTE_TEXT;
    if (st_random(rnd, sizeof rnd, &e) || st_alloc(&c, 1, sizeof *c, "request", &e)) {
        st_oai_from_err(&err, &e);
        st_service_error(s, conn, route, t0, &err);
        return;
    }
    c->s = s;
    c->conn = conn;
    c->route = route;
    c->t0 = t0;
    c->created = st_unix_time();
    c->req.endpoint = ep;
    int at = snprintf(c->id, sizeof c->id, ep == ST_OAI_CHAT ? "chatcmpl-" : "cmpl-");
    for (size_t i = 0; i < sizeof rnd; i++)
        at += snprintf(c->id + at, sizeof c->id - (size_t)at, "%02x", rnd[i]);
    c->next = s->completions;
    if (c->next)
        c->next->prev = c;
    s->completions = c;
    if (s->o.tap) {
        struct st_span body = st_http_body(conn);
        s->o.tap(s->o.arg, ST_TAP_REQUEST, body.p, body.len);
    }
    if (prepare(c, client, &err)) {
        fail_reply(c, &err);
        release_if_over(c);
        return;
    }
    st_oai_request_trim(&c->req);
    st_http_body_drop(conn);
    st_http_watch(conn, &(struct st_http_watch){on_gone, on_drained, c});
}
