#include "service/upstream_probe.h"
#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    REPLY_MAX = 4 << 20,
    AGAIN_S = 15, /* between looks at a reachable upstream */
    RETRY_S = 1,
    STALL_S = 10,
};

struct st_upstream_probe {
    struct st_upstream_probe_opts o;
    struct st_upstream_state state, found; /* found: what the probe under way has learned */
    struct event *timer;
    struct st_http_call *call;
    struct st_buf reply;
    bool warned;
};

static void schedule(struct st_upstream_probe *p, int seconds)
{
    struct timeval tv = {seconds, 0};
    event_add(p->timer, &tv);
}

static void set_context(struct st_upstream_probe *p, const json_t *v)
{
    int64_t n = p->found.dialect->context(v);
    if (n > 0 && (!p->o.n_ctx || n < p->o.n_ctx))
        p->found.n_ctx = (uint32_t)(n < UINT32_MAX ? n : UINT32_MAX);
}

/* The model asked for, or the first, of {"data":[{"id","owned_by",..}]}. *told: its context length is known. */
static int read_models(struct st_upstream_probe *p, const json_t *v, bool *told, struct st_err *e)
{
    const json_t *list = json_object_get(v, "data"), *found = NULL;
    struct st_upstream_state *s = &p->found;
    for (size_t i = 0; i < json_array_size(list) && !found; i++) {
        const char *id = json_string_value(json_object_get(json_array_get(list, i), "id"));
        if (id && *id && strlen(id) < sizeof s->model && (!p->o.model || strcmp(id, p->o.model) == 0))
            found = json_array_get(list, i);
    }
    if (!found)
        return p->o.model ? st_fail(e, ST_IO, "/v1/models: no model named '%s'", p->o.model)
                          : st_fail(e, ST_IO, "/v1/models: no model");
    snprintf(s->model, sizeof s->model, "%s", json_string_value(json_object_get(found, "id")));
    s->dialect = p->o.dialect ? p->o.dialect : st_upstream_owned(json_string_value(json_object_get(found, "owned_by")));
    s->n_ctx = p->o.n_ctx;
    set_context(p, found);
    *told = s->dialect->context(found) > 0;
    return 0;
}

/* The end of a probe; e: why it failed, or NULL. */
static void finish(struct st_upstream_probe *p, const struct st_err *e)
{
    p->found.ready = !e;
    if (!e && !p->state.ready)
        st_log(ST_LOG_INFO, "upstream reached: model %s, dialect %s", p->found.model, p->found.dialect->name);
    else if (e && (p->state.ready || !p->warned))
        st_log(ST_LOG_WARN, "upstream not usable: %s", e->msg);
    p->warned = e != NULL;
    if (e)
        p->state.ready = false;
    else
        p->state = p->found;
    schedule(p, e ? RETRY_S : AGAIN_S);
}

static int on_data(void *arg, int status, const void *data, size_t len, struct st_err *e)
{
    struct st_upstream_probe *p = arg;
    (void)status;
    st_buf_add(&p->reply, data, len);
    return p->reply.failed ? st_fail(e, ST_MEMORY, "no memory") : 0;
}

static int get(struct st_upstream_probe *p, const char *path, void (*end)(void *, int, const struct st_err *),
               struct st_err *e)
{
    struct st_buf url = {0};
    st_buf_addf(&url, "%s%s", p->o.url, path);
    if (url.failed)
        return st_fail(e, ST_MEMORY, "no memory");
    struct st_http_call_opts o = {.url = url.p,
                                  .bearer = p->o.bearer,
                                  .stall_s = STALL_S,
                                  .max_reply = REPLY_MAX,
                                  .data = on_data,
                                  .end = end,
                                  .arg = p};
    int rc = st_http_call_start(p->o.client, &o, &p->call, e);
    st_buf_free(&url);
    return rc;
}

/* The whole reply as JSON, or why there is none. */
static int take_reply(struct st_upstream_probe *p, int status, const char *path, const struct st_err *failed,
                      json_t **out, struct st_err *e)
{
    int rc;
    p->call = NULL;
    *out = NULL;
    if (failed) {
        *e = *failed;
        rc = e->code;
    } else if (status == 401 || status == 403)
        rc = st_fail(e, ST_POLICY, "%s is refused (status %d): %s", path, status,
                     p->o.bearer ? "the upstream does not accept this API key" : "the upstream wants an API key");
    else if (status != 200)
        rc = st_fail(e, ST_IO, "%s answers with status %d", path, status);
    else
        rc = st_json_parse(p->reply.p, p->reply.len, path, out, e);
    st_buf_free(&p->reply);
    return rc;
}

static void on_context(void *arg, int status, const struct st_err *failed)
{
    struct st_upstream_probe *p = arg;
    struct st_err e;
    json_t *v;
    /* A server may well keep this to itself; then requests must say how long their reply may be. */
    if (take_reply(p, status, p->found.dialect->context_path, failed, &v, &e))
        st_log(ST_LOG_DEBUG, "upstream: its context length is not known: %s", e.msg);
    else
        set_context(p, v);
    json_decref(v);
    finish(p, NULL);
}

static void on_models(void *arg, int status, const struct st_err *failed)
{
    struct st_upstream_probe *p = arg;
    struct st_err e;
    json_t *v;
    bool told = false;
    int rc = take_reply(p, status, "/v1/models", failed, &v, &e);
    if (!rc)
        rc = read_models(p, v, &told, &e);
    json_decref(v);
    if (!rc && !told && p->found.dialect->context_path) {
        rc = get(p, p->found.dialect->context_path, on_context, &e);
        if (!rc)
            return;
    }
    finish(p, rc ? &e : NULL);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct st_upstream_probe *p = arg;
    struct st_err e;
    (void)fd;
    (void)what;
    if (get(p, "/v1/models", on_models, &e))
        finish(p, &e);
}

int st_upstream_probe_new(const struct st_upstream_probe_opts *o, struct st_upstream_probe **out, struct st_err *e)
{
    struct st_upstream_probe *p = NULL;
    int rc = st_alloc(&p, 1, sizeof *p, "upstream", e);
    if (rc)
        return rc;
    p->o = *o;
    p->state.dialect = o->dialect ? o->dialect : st_upstream_owned(NULL);
    p->state.n_ctx = o->n_ctx;
    p->timer = event_new(o->base, -1, 0, on_timer, p);
    if (!p->timer) {
        free(p);
        return st_fail(e, ST_MEMORY, "upstream: no memory");
    }
    schedule(p, 0);
    *out = p;
    return 0;
}

const struct st_upstream_state *st_upstream_probe_state(const struct st_upstream_probe *p)
{
    return &p->state;
}

void st_upstream_probe_free(struct st_upstream_probe *p)
{
    if (!p)
        return;
    if (p->call)
        st_http_call_cancel(p->call);
    event_free(p->timer);
    st_buf_free(&p->reply);
    free(p);
}
