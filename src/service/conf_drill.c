#include "service/conf_drill.h"
#include "channel/confidential.h"
#include "crypto/digest.h"
#include "service/conf_exchange.h"
#include "service/log_client.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct fetch {
    struct st_conf_way way;
    struct st_log_client *log;
    struct st_conf_exchange *x;
    struct event *late;
    const struct st_conf_drill_opts *o;
    struct st_conf_drill *out;
    int rc;
    struct st_err err;
};

static void stop(struct fetch *f, int rc, const struct st_err *e)
{
    f->rc = rc;
    if (rc)
        f->err = *e;
    event_base_loopbreak(f->way.base);
}

static void on_late(evutil_socket_t fd, short what, void *arg)
{
    struct fetch *f = arg;
    struct st_err e;
    (void)fd;
    (void)what;
    stop(f, st_fail(&e, ST_IO, "no answer within %.0f s", f->o->timeout_s), &e);
}

static int on_data(void *arg, unsigned status, struct st_span piece, struct st_err *e)
{
    struct fetch *f = arg;
    (void)status;
    st_buf_add(&f->out->evidence, piece.p, piece.len);
    return f->out->evidence.failed ? st_fail(e, ST_MEMORY, "no memory for evidence") : 0;
}

static void keep_note(const struct st_conf_exchange *x, struct st_buf *out)
{
    struct st_span note = {0};
    if (st_conf_exchange_field(x, false, ST_GATEWAY_FIELD_CHECKPOINT, &note))
        st_buf_add(out, note.p, note.len);
}

static void on_evidence(void *arg, unsigned status, const struct st_err *e)
{
    struct fetch *f = arg;
    struct st_err err;
    const struct st_conf_exchange *x = f->x;
    f->x = NULL;
    if (e) {
        stop(f, e->code, e);
        return;
    }
    keep_note(x, &f->out->note);
    int rc = status == 200 ? 0 : st_fail(&err, ST_IO, "the gateway answers with status %u for evidence", status);
    stop(f, rc, &err);
}

static int choose(struct fetch *f, struct st_err *e)
{
    const struct st_directory *d = st_log_client_directory(f->log);
    const struct st_directory_gateway *g = f->o->gateway       ? st_directory_find_gateway(d, f->o->gateway)
                                           : d->n_gateway == 1 ? &d->gateways[0]
                                                               : NULL;
    struct st_ohttp_config keys[ST_OHTTP_CONFIGS_MAX];
    size_t n;
    if (!g && f->o->gateway)
        return st_fail(e, ST_POLICY, "directory: no gateway of the name '%s' (--gateway)", f->o->gateway);
    if (!g)
        return st_fail(e, ST_POLICY, "directory: %zu gateways: want one, or its name (--gateway)", d->n_gateway);
    if (g->n_node == 0)
        return st_fail(e, ST_POLICY, "directory: gateway %s lists no node", g->name);
    int rc = st_ohttp_config_parse_list(g->keys, keys, &n, e);
    if (rc)
        return rc;
    f->way.gateway = keys[0];
    f->way.has_gateway = true;
    memcpy(f->out->node, g->nodes[0].id, sizeof f->out->node);
    memcpy(f->out->listed, g->nodes[0].bundle, sizeof f->out->listed);
    const struct st_span note = st_log_client_note(f->log);
    st_buf_add(&f->out->checkpoint, note.p, note.len);
    return f->out->checkpoint.failed ? st_fail(e, ST_MEMORY, "no memory for the checkpoint") : 0;
}

static void on_directory(void *arg, const struct st_err *e)
{
    struct fetch *f = arg;
    struct st_err err;
    char path[160], id[33], bundle[65];
    int rc = e ? e->code : choose(f, &err);
    st_hex(f->out->node, sizeof f->out->node, id);
    st_hex(f->out->listed, sizeof f->out->listed, bundle);
    snprintf(path, sizeof path, ST_GATEWAY_PATH_NODES "/%s?bundle=%s", id, bundle);
    const struct st_conf_exchange_opts o = {.method = "GET",
                                            .path = path,
                                            .max_reply = ST_EVIDENCE_MAX_BYTES,
                                            .data = on_data,
                                            .end = on_evidence,
                                            .arg = f};
    if (!rc)
        rc = st_conf_exchange_start(&f->way, &o, &f->x, &err);
    if (rc)
        stop(f, rc, e ? e : &err);
}

static int open_fetch(struct fetch *f, const struct st_policy *policy, struct st_err *e)
{
    const struct st_http_client_opts h = {.ca_bundle = f->o->ca_bundle, .connect_s = 10, .max_idle = 4};
    struct st_buf url = {0};
    char *own = NULL;
    int rc = st_http_base("--relay", f->o->relay, &f->way.relay, e);
    if (!rc && f->o->log)
        rc = st_http_base("--log", f->o->log, &own, e);
    f->way.base = event_base_new();
    f->late = f->way.base ? event_new(f->way.base, -1, 0, on_late, f) : NULL;
    if (!rc && !f->late)
        rc = st_fail(e, ST_MEMORY, "no memory for an event loop");
    if (!rc)
        rc = st_http_client_new(f->way.base, &h, &f->way.http, e);
    st_buf_addf(&url, "%s%s", own ? own : f->way.relay ? f->way.relay : "", own ? "" : ST_RELAY_PATH_LOG);
    const struct st_log_client_opts l = {.url = url.p, .keys = *st_policy_log(policy), .stall_s = f->o->timeout_s};
    if (!rc)
        rc = url.failed ? st_fail(e, ST_MEMORY, "no memory") : st_log_client_new(f->way.http, &l, &f->log, e);
    st_buf_free(&url);
    free(own);
    return rc;
}

int st_conf_drill_fetch(const struct st_conf_drill_opts *o, const struct st_policy *policy, struct st_conf_drill *out,
                        struct st_err *e)
{
    struct fetch f = {.o = o, .out = out};
    const struct timeval most = {(time_t)o->timeout_s, 0};
    *out = (struct st_conf_drill){0};
    int rc = open_fetch(&f, policy, e);
    f.way.stall_s = o->timeout_s;
    if (!rc) {
        f.rc = st_fail(&f.err, ST_INTERNAL, "drill: the event loop ended");
        event_add(f.late, &most);
        rc = st_log_client_refresh(f.log, on_directory, &f, e);
    }
    if (!rc) {
        event_base_dispatch(f.way.base);
        rc = f.rc;
        if (rc)
            *e = f.err;
    }
    if (f.x)
        st_conf_exchange_cancel(f.x);
    st_log_client_free(f.log);
    st_http_client_free(f.way.http);
    if (f.late)
        event_free(f.late);
    if (f.way.base)
        event_base_free(f.way.base);
    free(f.way.relay);
    if (rc)
        st_conf_drill_free(out);
    return rc;
}

void st_conf_drill_free(struct st_conf_drill *d)
{
    st_buf_free(&d->checkpoint);
    st_buf_free(&d->evidence);
    st_buf_free(&d->note);
}
