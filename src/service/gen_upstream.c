#include "service/gen_upstream.h"
#include "base/log.h"
#include "net/http_client.h"
#include "service/api_keys.h"
#include "service/upstream_reply.h"
#include "text/json.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum {
    ERROR_BODY_MAX = 16 << 10,
    EVENT_MAX = 1 << 20,    /* beside the echo of the prompt's ids */
    BYTES_PER_TOKEN = 8192, /* an event with 20 logprobs is about 2 KiB */
    MODELS_MAX = 4 << 20,
    PROBE_S = 15, /* between looks at a reachable upstream */
};

struct live {
    struct st_gen *g;
    struct live *prev, *next;
    struct st_http_call *call; /* NULL once it ended */
    struct st_gen_events ev;
    void *arg;
    struct st_upstream_reply reply;
    uint32_t *stop_ids;
    struct st_buf error_body;
    bool cancelled, told; /* told: `end` was called */
};

struct st_gen {
    struct event_base *base;
    struct st_http_client *client;
    const struct st_cov_cipher *cipher;
    struct st_gen_upstream_opts o; /* strings in it are not kept, but for scheme */
    char *completions_url, *models_url, *wanted_model;
    struct st_buf key;
    uint32_t *eos;
    struct st_gen_info info;
    struct live *lives;
    uint32_t n_live;
    struct event *probe, *sweep; /* sweep: `end` of cancelled requests */
    struct st_http_call *probe_call;
    struct st_buf models;
    bool warned;
};

/* ---- the upstream's model ---- */

static void schedule_probe(struct st_gen *g, int seconds)
{
    struct timeval tv = {seconds, 0};
    event_add(g->probe, &tv);
}

/* The model asked for, or the first, of {"data":[{"id","max_model_len"}]}. */
static int read_models(struct st_gen *g, struct st_err *e)
{
    json_t *v;
    int rc = st_json_parse(g->models.p, g->models.len, "upstream /v1/models", &v, e);
    if (rc)
        return rc;
    const json_t *list = json_object_get(v, "data"), *found = NULL;
    for (size_t i = 0; i < json_array_size(list) && !found; i++) {
        const char *id = json_string_value(json_object_get(json_array_get(list, i), "id"));
        if (id && *id && strlen(id) < sizeof g->info.model && (!g->wanted_model || strcmp(id, g->wanted_model) == 0))
            found = json_array_get(list, i);
    }
    if (!found)
        rc = st_fail(e, ST_IO, "upstream /v1/models: %s", g->wanted_model ? "not the model asked for" : "no model");
    else {
        int64_t n_ctx = 0;
        rc = st_json_int(found, "upstream /v1/models", "max_model_len", 1, UINT32_MAX, &n_ctx, e);
        uint32_t own = g->o.n_ctx;
        g->info.n_ctx = n_ctx && (!own || n_ctx < own) ? (uint32_t)n_ctx : own;
        snprintf(g->info.model, sizeof g->info.model, "%s", json_string_value(json_object_get(found, "id")));
    }
    json_decref(v);
    return rc;
}

static int on_models_data(void *arg, int status, const void *p, size_t len, struct st_err *e)
{
    struct st_gen *g = arg;
    (void)status;
    st_buf_add(&g->models, p, len);
    return g->models.failed ? st_fail(e, ST_MEMORY, "no memory") : 0;
}

static void on_models_end(void *arg, int status, const struct st_err *e)
{
    struct st_gen *g = arg;
    struct st_err err = {0};
    g->probe_call = NULL;
    if (e)
        err = *e;
    else if (status != 200)
        st_fail(&err, ST_IO, "/v1/models answers with status %d", status);
    else
        (void)!read_models(g, &err);
    bool ready = err.code == 0;
    if (ready && !g->info.ready)
        st_log(ST_LOG_INFO, "upstream reached: model %s", g->info.model);
    else if (!ready && (g->info.ready || !g->warned))
        st_log(ST_LOG_WARN, "upstream not reachable: %s", err.msg);
    g->warned = !ready;
    g->info.ready = ready;
    st_buf_free(&g->models);
    schedule_probe(g, ready ? PROBE_S : 1);
}

static void on_probe(evutil_socket_t fd, short what, void *arg)
{
    struct st_gen *g = arg;
    struct st_err e;
    struct st_http_call_opts o = {.url = g->models_url,
                                  .bearer = g->key.p,
                                  .stall_s = 10,
                                  .max_reply = MODELS_MAX,
                                  .data = on_models_data,
                                  .end = on_models_end,
                                  .arg = g};
    (void)fd;
    (void)what;
    if (st_http_call_start(g->client, &o, &g->probe_call, &e))
        schedule_probe(g, 1);
}

/* ---- requests ---- */

static void live_free(struct live *l)
{
    struct st_gen *g = l->g;
    *(l->prev ? &l->prev->next : &g->lives) = l->next;
    if (l->next)
        l->next->prev = l->prev;
    g->n_live--;
    st_upstream_reply_wipe(&l->reply);
    st_buf_wipe(&l->error_body);
    free(l->stop_ids);
    free(l);
}

static void tell_end(struct live *l, enum st_gen_finish finish, const struct st_err *e)
{
    if (l->told)
        return;
    l->told = true;
    l->ev.end(l->arg, finish, e);
}

static void on_token(void *arg, const struct st_sampled *tok)
{
    struct live *l = arg;
    if (!l->cancelled)
        l->ev.token(l->arg, tok);
}

static int on_data(void *arg, int status, const void *p, size_t len, struct st_err *e)
{
    struct live *l = arg;
    struct st_gen *g = l->g;
    if (g->o.tap)
        g->o.tap(g->o.arg, false, p, len);
    if (status != 200) {
        if (l->error_body.len < ERROR_BODY_MAX)
            st_buf_add(&l->error_body, p, len < ERROR_BODY_MAX ? len : ERROR_BODY_MAX);
        return 0;
    }
    if (l->told)
        return 0;
    int rc = st_upstream_reply_feed(&l->reply, p, len, e);
    /* The client need not wait for the upstream to close. */
    if (!rc && l->reply.finished && !l->cancelled)
        tell_end(l, l->reply.finish, NULL);
    return rc;
}

/* What a status other than 200 means to our client. The upstream's own text is not passed on: it may say anything. */
static enum st_gen_finish from_status(const struct live *l, int status, struct st_err *e)
{
    char code[48];
    if (status == 429 || status == 503)
        return ST_GEN_BUSY;
    st_upstream_error_code(l->error_body.p, l->error_body.len, code);
    const char *sep = *code ? ", " : "";
    if (status == 400 || status == 413 || status == 422)
        st_fail(e, ST_INPUT, "the upstream refuses this request: status %d%s%s", status, sep, code);
    else if (status == 401 || status == 403)
        st_fail(e, ST_IO, "the upstream refuses the proxy's API key: status %d%s%s", status, sep, code);
    else
        st_fail(e, ST_IO, "the upstream answers with status %d%s%s", status, sep, code);
    return ST_GEN_ERROR;
}

static void on_end(void *arg, int status, const struct st_err *e)
{
    struct live *l = arg;
    struct st_err err = {0};
    l->call = NULL;
    if (!l->told && !l->cancelled) {
        enum st_gen_finish f = ST_GEN_ERROR;
        if (e) {
            err = *e;
            if (err.code == ST_IO && strncmp(err.msg, "upstream", 8) != 0)
                st_err_prefix(&err, "upstream");
        } else if (status != 200)
            f = from_status(l, status, &err);
        else
            st_fail(&err, ST_IO, "upstream: the reply ended early");
        tell_end(l, f, f == ST_GEN_ERROR ? &err : NULL);
    } else if (l->cancelled)
        tell_end(l, ST_GEN_CANCELLED, NULL);
    live_free(l);
}

static void put_real(struct st_buf *b, const char *key, float v, float neutral)
{
    if (v != neutral)
        st_buf_addf(b, ",\"%s\":%.7g", key, (double)v);
}

/* The request as the upstream sees it: enciphered ids and sampling parameters, nothing else. */
static void put_request(const struct st_gen *g, const struct st_gen_request *r, size_t max_tokens, struct st_buf *b)
{
    const struct st_sampling *s = &r->sampling;
    const uint32_t *to = g->cipher->to;
    st_buf_add_str(b, "{\"model\":");
    st_json_quote(b, g->info.model, strlen(g->info.model));
    st_buf_add_str(b, ",\"prompt\":[");
    for (size_t i = 0; i < r->n_ids; i++)
        st_buf_addf(b, i ? ",%" PRIu32 : "%" PRIu32, to[r->ids[i]]);
    st_buf_addf(b, "],\"max_tokens\":%zu,\"stream\":true,\"return_token_ids\":true,\"temperature\":%.7g", max_tokens,
                (double)s->temperature);
    put_real(b, "top_p", s->top_p, 1);
    put_real(b, "min_p", s->min_p, 0);
    put_real(b, "repetition_penalty", s->repetition_penalty, 1);
    put_real(b, "presence_penalty", s->presence_penalty, 0);
    put_real(b, "frequency_penalty", s->frequency_penalty, 0);
    if (s->top_k)
        st_buf_addf(b, ",\"top_k\":%" PRIu32, s->top_k);
    if (s->temperature > 0)
        st_buf_addf(b, ",\"seed\":%" PRIu64, s->seed & INT64_MAX);
    if (s->n_logprobs >= 0)
        st_buf_addf(b, ",\"logprobs\":%d,\"return_tokens_as_token_ids\":true", s->n_logprobs);
    for (uint32_t i = 0; i < s->n_bias; i++)
        st_buf_addf(b, "%s\"%" PRIu32 "\":%.7g", i ? "," : ",\"logit_bias\":{", to[s->bias[i].id],
                    (double)s->bias[i].bias);
    st_buf_add_str(b, s->n_bias ? "}" : "");
    for (size_t i = 0; i < r->n_stop_ids; i++)
        st_buf_addf(b, "%s%" PRIu32, i ? "," : ",\"stop_token_ids\":[", to[r->stop_ids[i]]);
    st_buf_add_str(b, r->n_stop_ids ? "]" : "");
    st_buf_add_str(b, r->ignore_eos ? ",\"ignore_eos\":true}" : "}");
}

static int check_request(const struct st_gen *g, const struct st_gen_request *r, struct st_err *e)
{
    uint32_t n = g->cipher->n_vocab;
    if (g->n_live >= g->o.max_live)
        return st_fail(e, ST_POLICY, "%u requests are in progress", g->n_live);
    if (!g->info.ready)
        return st_fail(e, ST_IO, "upstream: not reachable");
    if (!r->n_predict)
        return st_fail(e, ST_INPUT, "max_tokens: needed, because the upstream does not say how long its context is");
    bool fits = true;
    for (size_t i = 0; i < r->n_ids; i++)
        fits = fits && r->ids[i] < n;
    for (size_t i = 0; i < r->n_stop_ids; i++)
        fits = fits && r->stop_ids[i] < n;
    for (uint32_t i = 0; i < r->sampling.n_bias; i++)
        fits = fits && r->sampling.bias[i].id < n;
    return fits ? 0 : st_fail(e, ST_INPUT, "a token id outside the vocabulary of %" PRIu32, n);
}

static void show(const struct st_gen *g, const struct st_buf *body)
{
    if (g->o.tap)
        g->o.tap(g->o.arg, true, body->p, body->len);
    if (g->o.show_egress)
        fprintf(stderr, "egress: POST %s\n%.*s\n", g->completions_url, (int)body->len, body->p);
}

static int send_request(struct live *l, const struct st_gen_request *r, struct st_err *e)
{
    struct st_gen *g = l->g;
    struct st_buf body = {0};
    put_request(g, r, r->n_predict, &body);
    if (body.failed)
        return st_fail(e, ST_MEMORY, "no memory for the request");
    show(g, &body);
    struct st_http_call_opts o = {.url = g->completions_url,
                                  .bearer = g->key.p,
                                  .body = &body,
                                  .stall_s = g->o.stall_s,
                                  .max_reply = EVENT_MAX + 16 * r->n_ids + (size_t)r->n_predict * BYTES_PER_TOKEN,
                                  .data = on_data,
                                  .end = on_end,
                                  .arg = l};
    int rc = st_http_call_start(g->client, &o, &l->call, e);
    st_buf_wipe(&body);
    return rc;
}

static int gen_start(struct st_gen *g, const struct st_gen_request *r, const struct st_gen_events *ev, void *arg,
                     void **handle, struct st_err *e)
{
    struct live *l = NULL;
    int rc = check_request(g, r, e);
    if (rc)
        return rc;
    rc = st_alloc(&l, 1, sizeof *l, "request", e);
    if (rc)
        return rc;
    l->g = g;
    l->ev = *ev;
    l->arg = arg;
    l->next = g->lives;
    if (l->next)
        l->next->prev = l;
    g->lives = l;
    g->n_live++;
    rc = st_alloc(&l->stop_ids, r->n_stop_ids, sizeof *r->stop_ids, "stop ids", e);
    if (!rc && r->n_stop_ids)
        memcpy(l->stop_ids, r->stop_ids, r->n_stop_ids * sizeof *r->stop_ids);
    l->reply = (struct st_upstream_reply){.cipher = g->cipher,
                                          .ends = l->stop_ids,
                                          .n_end = r->n_stop_ids,
                                          .more_ends = g->eos,
                                          .n_more_end = r->ignore_eos ? 0 : g->o.n_eos,
                                          .max_tokens = r->n_predict,
                                          .n_logprobs = r->sampling.n_logprobs,
                                          .token = on_token,
                                          .arg = l};
    st_upstream_reply_init(&l->reply, EVENT_MAX + 16 * r->n_ids);
    if (!rc)
        rc = send_request(l, r, e);
    if (rc)
        live_free(l);
    else
        *handle = l;
    return rc;
}

static void gen_cancel(struct st_gen *g, void *handle)
{
    struct live *l = handle;
    l->cancelled = true;
    event_active(g->sweep, EV_TIMEOUT, 0);
}

static void on_sweep(evutil_socket_t fd, short what, void *arg)
{
    struct st_gen *g = arg;
    (void)fd;
    (void)what;
    for (struct live *l = g->lives, *next; l; l = next) {
        next = l->next;
        if (!l->cancelled || l->told)
            continue;
        if (l->call)
            st_http_call_cancel(l->call);
        tell_end(l, ST_GEN_CANCELLED, NULL);
        live_free(l);
    }
}

static void gen_info(struct st_gen *g, struct st_gen_info *out)
{
    *out = g->info;
    out->n_running = g->n_live;
}

static void gen_free(struct st_gen *g)
{
    while (g->lives) {
        if (g->lives->call)
            st_http_call_cancel(g->lives->call);
        live_free(g->lives);
    }
    st_http_client_free(g->client);
    if (g->probe)
        event_free(g->probe);
    if (g->sweep)
        event_free(g->sweep);
    st_buf_wipe(&g->key);
    st_buf_free(&g->models);
    free(g->completions_url);
    free(g->models_url);
    free(g->wanted_model);
    free(g->eos);
    free(g);
}

static const struct st_generator vtable = {gen_start, gen_cancel, gen_info, gen_free};

/* "http://host:8000", ".../v1" and either with a slash give the same. */
static int set_urls(struct st_gen *g, const char *url, struct st_err *e)
{
    size_t n = strlen(url);
    if ((strncasecmp(url, "http://", 7) != 0 && strncasecmp(url, "https://", 8) != 0) || strpbrk(url, " \r\n\t?#"))
        return st_fail(e, ST_USAGE, "upstream: want http(s)://host:port");
    /* It is printed, and command lines are visible to others. */
    const char *authority = strchr(url, ':') + 3;
    if (memchr(authority, '@', strcspn(authority, "/")))
        return st_fail(e, ST_USAGE, "upstream: want no password in the URL; a key is read from --upstream-key-file");
    while (n && url[n - 1] == '/')
        n--;
    if (n >= 3 && memcmp(url + n - 3, "/v1", 3) == 0)
        n -= 3;
    if (asprintf(&g->completions_url, "%.*s/v1/completions", (int)n, url) < 0)
        g->completions_url = NULL;
    if (asprintf(&g->models_url, "%.*s/v1/models", (int)n, url) < 0)
        g->models_url = NULL;
    return g->completions_url && g->models_url ? 0 : st_fail(e, ST_MEMORY, "upstream: no memory");
}

static int set_up(struct st_gen *g, const struct st_gen_upstream_opts *o, struct st_err *e)
{
    struct st_http_client_opts h = {.ca_bundle = o->ca_bundle, .connect_s = g->o.connect_s, .max_idle = 64};
    int rc = set_urls(g, o->url, e);
    if (!rc && o->ca_bundle) {
        FILE *f = fopen(o->ca_bundle, "r");
        if (!f)
            return st_fail(e, ST_IO, "%s: cannot open", o->ca_bundle);
        fclose(f);
    }
    if (!rc && o->api_key_file)
        rc = st_api_key_first(o->api_key_file, &g->key, e);
    if (!rc && o->n_eos) {
        rc = st_alloc(&g->eos, o->n_eos, sizeof *g->eos, "end ids", e);
        if (!rc)
            memcpy(g->eos, o->eos, o->n_eos * sizeof *g->eos);
    }
    if (!rc && o->model && !(g->wanted_model = strdup(o->model)))
        rc = st_fail(e, ST_MEMORY, "upstream: no memory");
    if (!rc)
        rc = st_http_client_new(g->base, &h, &g->client, e);
    if (rc)
        return rc;
    g->probe = event_new(g->base, -1, 0, on_probe, g);
    g->sweep = event_new(g->base, -1, 0, on_sweep, g);
    if (!g->probe || !g->sweep)
        return st_fail(e, ST_MEMORY, "upstream: no memory");
    schedule_probe(g, 0);
    return 0;
}

int st_gen_upstream_open(const void *opts, struct event_base *base, struct st_gen_ref *out, struct st_err *e)
{
    const struct st_gen_upstream_opts *o = opts;
    struct st_gen *g = NULL;
    int rc = st_alloc(&g, 1, sizeof *g, "generator", e);
    if (rc)
        return rc;
    g->base = base;
    g->cipher = o->cipher;
    g->o = *o;
    g->o.connect_s = o->connect_s > 0 ? o->connect_s : 10;
    g->o.stall_s = o->stall_s >= 1 ? o->stall_s : 300;
    g->o.max_live = o->max_live ? o->max_live : 1024;
    g->info.n_ctx = o->n_ctx;
    g->info.n_vocab = o->cipher->n_vocab;
    g->info.protection = "covariant";
    g->info.scheme = o->scheme ? o->scheme : "tight";
    g->info.verified = "no";
    rc = set_up(g, o, e);
    if (rc)
        gen_free(g);
    else
        *out = (struct st_gen_ref){&vtable, g};
    return rc;
}
