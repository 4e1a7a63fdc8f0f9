/* One completion request that passes through (service/passage.h): its fields are checked here, what of them is sent
 * goes to the passage as JSON, and the reply comes back as it is. A stream is passed on as it comes; any other reply
 * waits until its receipt has verified.
 *
 * Lifetime: the object lives until the passage said `end`, or the client is gone. */
#include "base/hooks.h"
#include "service/serve.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* A client that has so much unread stops the passage. */
#define PARK_AT ((size_t)64 << 10)
#define MAX_WHOLE ((size_t)64 << 20) /* bytes of a reply that is not a stream */

struct passing {
    struct st_service *s;
    struct st_http_conn *conn;
    struct st_client *client;
    void *handle; /* of the passage */
    enum st_metric_route route;
    uint32_t n; /* choices */
    double t0;
    bool wants_stream, is_stream, begun, parked, seen;
    int status;
    char type[96];
    struct st_buf whole;
};

const char *st_passage_fault_word(enum st_passage_fault f)
{
    static const char *const words[] = {"network", "stale", "measurement_changed", "integrity", "policy"};
    return words[f];
}

static void passing_free(struct passing *p)
{
    if (p->client)
        st_client_give(p->s, p->client, p->n);
    st_buf_wipe(&p->whole);
    free(p);
}

static void tap(struct st_service *s, enum st_server_tap dir, const void *p, size_t len)
{
    if (s->o.tap)
        s->o.tap(s->o.arg, dir, p, len);
}

/* ---- the reply ---- */

static void begin_stream(struct passing *p)
{
    struct st_buf fields = {0};
    if (p->begun)
        return;
    p->begun = true;
    st_service_fields(p->s, &fields);
    st_http_stream_begin(p->conn, 200, fields.p, "text/event-stream; charset=utf-8");
    st_buf_free(&fields);
}

static void on_head(void *arg, int status, const char *type)
{
    struct passing *p = arg;
    p->status = status;
    snprintf(p->type, sizeof p->type, "%s", type);
    p->is_stream = p->wants_stream && status == 200 && strncasecmp(type, "text/event-stream", 17) == 0;
}

static void on_data(void *arg, const void *data, size_t len)
{
    struct passing *p = arg;
    struct st_service *s = p->s;
    if (!p->seen)
        st_metrics_first_token(&s->metrics, st_now() - p->t0);
    p->seen = true;
    if (!p->is_stream) {
        if (len <= MAX_WHOLE - p->whole.len)
            st_buf_add(&p->whole, data, len);
        else
            p->whole.failed = true;
        return;
    }
    begin_stream(p);
    tap(s, ST_TAP_REPLY, data, len);
    st_http_stream_send(p->conn, data, len);
    if (!p->parked && st_http_unsent(p->conn) > PARK_AT) {
        p->parked = true;
        s->passage.vt->pause(s->passage.p, p->handle, true);
    }
}

static void on_drained(void *arg)
{
    struct passing *p = arg;
    if (!p->parked)
        return;
    p->parked = false;
    p->s->passage.vt->pause(p->s->passage.p, p->handle, false);
}

/* As a status if nothing was sent yet, else as the last event. */
static void fail(struct passing *p, const struct st_oai_error *err)
{
    struct st_service *s = p->s;
    struct st_buf *b = &s->event;
    st_buf_clear(b);
    st_buf_add_str(b, p->begun ? "data: " : "");
    st_oai_error_json(err, b);
    st_buf_add_str(b, p->begun ? "\n\n" : "");
    tap(s, ST_TAP_REPLY, b->p, b->len);
    if (p->begun) {
        st_http_stream_send(p->conn, b->p, b->len);
        st_http_stream_end(p->conn);
        st_metrics_request(&s->metrics, p->route, err->status, st_now() - p->t0);
    } else
        st_service_error(s, p->conn, p->route, p->t0, err);
}

static void from_fault(struct st_oai_error *err, enum st_passage_fault fault, const struct st_err *e)
{
    if (e->code == ST_MEMORY || e->code == ST_INTERNAL)
        st_oai_from_err(err, e);
    else
        st_oai_fail(err, 502, "upstream_error", st_passage_fault_word(fault), NULL, "%s", e->msg);
}

/* The type is the node's word; a browser is not to take it for anything else. */
static const char *safe_type(const struct passing *p)
{
    return strncasecmp(p->type, "application/json", 16) == 0    ? "application/json"
           : strncasecmp(p->type, "text/event-stream", 17) == 0 ? "text/event-stream; charset=utf-8"
                                                                : "text/plain; charset=utf-8";
}

static void on_end(void *arg, enum st_passage_fault fault, const struct st_err *e)
{
    struct passing *p = arg;
    struct st_service *s = p->s;
    struct st_oai_error err = {0};
    p->handle = NULL;
    if (e)
        from_fault(&err, fault, e);
    else if (p->whole.failed)
        st_oai_fail(&err, 503, "server_error", "memory", NULL, "the reply is longer than there is room for");
    if (err.status)
        fail(p, &err);
    else if (p->is_stream) {
        begin_stream(p); /* one without a single event */
        st_http_stream_end(p->conn);
        st_metrics_request(&s->metrics, p->route, 200, st_now() - p->t0);
    } else {
        tap(s, ST_TAP_REPLY, p->whole.p, p->whole.len);
        st_service_reply(s, p->conn, p->route, p->t0, p->status, NULL, safe_type(p), &p->whole);
    }
    passing_free(p);
}

static void on_gone(void *arg)
{
    struct passing *p = arg;
    p->s->passage.vt->cancel(p->s->passage.p, p->handle);
    st_metrics_request(&p->s->metrics, p->route, 0, st_now() - p->t0);
    passing_free(p);
}

/* ---- the request ---- */

/* The model that is asked for, or the first there is; NULL when it is not there. "" when nodes name none. */
static const char *choose_model(const struct st_oai_request *r, const struct st_passage_info *info)
{
    if (info->n_model == 0)
        return r->model ? r->model : "";
    for (size_t i = 0; r->model && i < info->n_model; i++)
        if (strcmp(r->model, info->models[i]) == 0)
            return info->models[i];
    return r->model ? NULL : info->models[0];
}

static int start(struct passing *p, const struct st_oai_request *r, const char *client, struct st_oai_error *err)
{
    static const struct st_passage_events events = {on_head, on_data, on_end};
    struct st_service *s = p->s;
    struct st_passage_info info = {0};
    struct st_buf body = {0};
    enum st_passage_fault fault = ST_FAULT_POLICY;
    struct st_err e = {0};
    s->passage.vt->info(s->passage.p, false, &info);
    const char *model = choose_model(r, &info);
    if (!model)
        return st_oai_fail(err, 404, "invalid_request_error", "model_not_found", "model",
                           "model: no verified node has it; this server has '%s'%s", info.models[0],
                           info.n_model > 1 ? " and others (/v1/models)" : "");
    p->n = (uint32_t)r->n;
    p->client = st_client_take(s, client, p->n);
    if (!p->client)
        return st_oai_fail(err, 429, "rate_limit_error", "too_many_requests", NULL,
                           "this client has its limit of %" PRIu32 " choices in progress", s->o.limits.max_client);
    p->wants_stream = r->stream;
    int rc = st_oai_put_sealed(r, *model ? model : NULL, &body, &e);
    const struct st_passage_request q = {.path =
                                             r->endpoint == ST_OAI_CHAT ? "/v1/chat/completions" : "/v1/completions",
                                         .body = {(uint8_t *)body.p, body.len},
                                         .stream = r->stream,
                                         .model = info.n_model ? model : "",
                                         .max_tokens = r->max_tokens,
                                         .n = r->n,
                                         .logprobs = r->sampling.n_logprobs >= 0,
                                         .client = client};
    if (!rc)
        rc = s->passage.vt->start(s->passage.p, &q, &events, p, &p->handle, &fault, &e);
    st_buf_wipe(&body);
    if (rc == ST_INPUT)
        st_oai_from_err(err, &e);
    else if (rc)
        from_fault(err, fault, &e);
    return rc ? -1 : 0;
}

void st_passing_start(struct st_service *s, struct st_http_conn *conn, enum st_oai_endpoint ep, const char *client,
                      double t0)
{
    struct passing *p = NULL;
    struct st_oai_request r;
    struct st_oai_error err = {0};
    struct st_err e;
    struct st_span body = st_http_body(conn);
    enum st_metric_route route = ep == ST_OAI_CHAT ? ST_ROUTE_CHAT : ST_ROUTE_TEXT;
    if (st_alloc(&p, 1, sizeof *p, "request", &e)) {
        st_oai_from_err(&err, &e);
        st_service_error(s, conn, route, t0, &err);
        return;
    }
    *p = (struct passing){.s = s, .conn = conn, .route = route, .t0 = t0};
    tap(s, ST_TAP_REQUEST, body.p, body.len);
    if (st_oai_parse_sealed(ep, body.p, body.len, &r, &err) || start(p, &r, client, &err)) {
        fail(p, &err);
        passing_free(p);
    } else {
        st_http_body_drop(conn);
        st_http_watch(conn, &(struct st_http_watch){on_gone, on_drained, p});
    }
    st_oai_request_wipe(&r);
}

/* ---- what is shown ---- */

void st_passing_info(struct st_service *s, struct st_gen_info *out)
{
    struct st_passage_info info = {0};
    s->passage.vt->info(s->passage.p, false, &info);
    *out = (struct st_gen_info){.ready = info.ready,
                                .protection = "confidential",
                                .scheme = info.scheme,
                                .verified = info.verified,
                                .state = info.state,
                                .n_running = info.n_running};
    snprintf(out->model, sizeof out->model, "%s", info.n_model ? info.models[0] : "");
}

size_t st_passing_models(struct st_service *s, const char *const **out)
{
    struct st_passage_info info = {0};
    s->passage.vt->info(s->passage.p, false, &info);
    *out = info.models;
    return info.n_model;
}

static void count(struct st_buf *b, const char *name, const char *type, const char *help, uint64_t v)
{
    st_buf_addf(b, "# HELP %s %s\n# TYPE %s %s\n%s %" PRIu64 "\n", name, help, name, type, name, v);
}

void st_passing_metrics(struct st_service *s, const struct st_gen_info *shown, struct st_buf *b)
{
    struct st_passage_info info = {0};
    s->passage.vt->info(s->passage.p, false, &info);
    s->metrics.verification_failures = info.verification_failures;
    st_metrics_put(&s->metrics, shown, b);
    count(b, "sotto_verifications_total", "counter", "Evidence that was judged.", info.verifications);
    count(b, "sotto_receipts_total", "counter", "Replies whose receipt verified.", info.receipts);
    count(b, "sotto_retries_total", "counter", "Requests that another node was asked for.", info.retries);
    count(b, "sotto_units", "gauge", "Units of tokens at hand.", info.units);
}

void st_passing_status(struct st_service *s, struct st_buf *b)
{
    struct st_passage_info info = {0};
    s->passage.vt->info(s->passage.p, true, &info);
    st_buf_add_str(b, ",\"state\":");
    st_json_quote(b, info.state, strlen(info.state));
    if (info.why) {
        st_buf_add_str(b, ",\"why\":");
        st_json_quote(b, info.why, strlen(info.why));
    }
    st_buf_addf(b,
                ",\"verifications\":%" PRIu64 ",\"verification_failures\":%" PRIu64 ",\"retries\":%" PRIu64
                ",\"receipts\":%" PRIu64 ",\"detail\":",
                info.verifications, info.verification_failures, info.retries, info.receipts);
    if (info.detail)
        st_json_dump(info.detail, b);
    else
        st_buf_add_str(b, "null");
    json_decref(info.detail);
}
