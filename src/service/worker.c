#include "base/hooks.h"
#include "base/log.h"
#include "base/mem.h"
#include "net/http_server.h"
#include "net/tls.h"
#include "service/worker_priv.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_LISTEN 16
/* A lone client that decodes asks again within this time of its last reply: shorter than falling asleep and waking. */
#define AWAKE_S 150e-6

struct st_worker_run {
    struct st_worker w;
    struct st_worker_listener *listeners[MAX_LISTEN];
    struct st_http_server *metrics;
    struct event *signals[2], *done, *tick;
    double drain_until;
};

/* Zeros become defaults; rows are as few as the longest frame takes. */
static int set_limits(struct st_worker *w, struct st_err *e)
{
    struct st_worker_opts *o = &w->o;
    const struct st_served *s = o->served;
    uint32_t max_in = 1, widest = 1;
    for (uint32_t i = 0; i < s->n; i++) {
        max_in = s->weights[i].n_in > max_in ? s->weights[i].n_in : max_in;
        widest = s->weights[i].n_out > widest ? s->weights[i].n_out : widest;
    }
    widest = max_in > widest ? max_in : widest;
    const uint32_t fit = (ST_WORKER_MAX_PAYLOAD - 256) / 4 / widest;
    o->max_row = o->max_row ? o->max_row : 512;
    o->max_row = o->max_row < fit ? o->max_row : fit;
    if (!s->n || !fit)
        return st_fail(e, ST_UNSUPPORTED, "the model has no matrix that a frame can serve");
    o->max_conn = o->max_conn ? o->max_conn : 256;
    o->max_pending = o->max_pending ? o->max_pending : 8;
    o->idle_s = o->idle_s > 0 ? o->idle_s : 600;
    o->receive_s = o->receive_s > 0 ? o->receive_s : 30;
    o->send_s = o->send_s > 0 ? o->send_s : 30;
    o->grace_s = o->grace_s > 0 ? o->grace_s : 30;
    w->max_payload = 12 + 4 * ST_WORKER_MAX_GROUP + 4 * (uint64_t)max_in * o->max_row;
    uint64_t outputs = 12 + 4 * ST_WORKER_MAX_GROUP * (1 + 2 * (uint64_t)widest); /* two secrets of a check */
    if (o->preparer && outputs > w->max_payload)
        w->max_payload = outputs < ST_WORKER_MAX_PAYLOAD ? outputs : ST_WORKER_MAX_PAYLOAD;
    if (o->backend->pair && w->max_payload < ST_WORKER_PAIR_PAYLOAD)
        w->max_payload = ST_WORKER_PAIR_PAYLOAD;
    size_t available = st_mem_available();
    size_t most = available < SIZE_MAX ? available / 4 : (size_t)4 << 30;
    size_t least = st_worker_memory_need(4 * (size_t)widest, 4 * (size_t)widest);
    w->memory.budget = o->max_memory ? o->max_memory : most;
    w->memory.budget = w->memory.budget > least ? w->memory.budget : least;
    return 0;
}

/* Norms take a pass over the weights: made once, not when a client asks. */
static int make_norms(struct st_worker *w, struct st_err *e)
{
    const struct st_served *s = w->o.served;
    if (!w->o.preparer)
        return 0;
    if (st_alloc(&w->norms, s->n, sizeof *w->norms, "norms of columns", e))
        return e->code;
    for (uint32_t i = 0; i < s->n; i++) {
        const struct st_served_weight *m = &s->weights[i];
        if (st_alloc(&w->norms[i], m->n_out, sizeof **w->norms, "norms of columns", e))
            return e->code;
        for (uint32_t j = 0; j < m->n_out; j++)
            w->norms[i][j] = st_served_norm(st_served_square(m->w + (size_t)j * m->n_in, m->n_in));
    }
    return 0;
}

static void free_norms(struct st_worker *w)
{
    for (uint32_t i = 0; w->norms && i < w->o.served->n; i++)
        free(w->norms[i]);
    free(w->norms);
}

/* The same for every client: made once. */
static int make_welcome(struct st_worker *w, struct st_err *e)
{
    const struct st_served *s = w->o.served;
    struct st_worker_welcome out = {.max_row = w->o.max_row, .max_payload = w->max_payload, .n = s->n};
    out.flags = (w->o.proof.policy ? ST_WORKER_FLAG_PROVE : 0) | (w->o.proof.collection ? ST_WORKER_FLAG_PROVES : 0) |
                (w->o.preparer ? ST_WORKER_FLAG_PREPARES : 0) | (w->o.pairs ? ST_WORKER_FLAG_PAIR : 0);
    memcpy(out.digest, w->o.digest, 32);
    if (w->o.hints) {
        const struct st_hint_source *h = st_hints_source(w->o.hints);
        if (memcmp(h->digest, w->o.digest, 32) != 0)
            return st_fail(e, ST_VERIFY, "the hints belong to another model");
        snprintf(out.params, sizeof out.params, "%s", h->params);
    }
    if (st_alloc(&out.weights, s->n, sizeof *out.weights, "the list of weights", e))
        return e->code;
    for (uint32_t i = 0; i < s->n; i++) {
        struct st_worker_weight *to = &out.weights[i];
        snprintf(to->name, sizeof to->name, "%s", s->weights[i].name);
        to->n_out = s->weights[i].n_out;
        to->n_in = s->weights[i].n_in;
        to->expert = s->weights[i].expert >= 0;
    }
    st_worker_welcome_add(&w->welcome, &out);
    free(out.weights);
    return w->welcome.failed ? st_fail(e, ST_MEMORY, "no memory for the list of weights") : 0;
}

static void on_done(evutil_socket_t fd, short what, void *arg)
{
    struct st_worker *w = arg;
    (void)fd;
    (void)what;
    w->awake_until = w->n_conn == 1 ? st_now() + AWAKE_S : 0;
    for (struct st_worker_request *r = st_worker_queue_done(w->queue), *next; r; r = next) {
        next = r->next;
        if (r->batch_rows && r->err.code)
            st_log(ST_LOG_WARN, "%s: %s", w->o.backend->name, r->err.msg);
        else if (r->batch_rows)
            st_worker_count_batch(&w->n, r->batch_rows, r->work_us * 1e-6);
        if (r->conn)
            st_worker_peer_reply(r->conn, r);
        else {
            st_worker_memory_give(&w->memory, r);
            if (w->waiting)
                st_worker_peer_retry(w->waiting);
        }
    }
}

static void on_signal(evutil_socket_t fd, short what, void *arg)
{
    struct st_worker_run *run = arg;
    struct st_worker *w = &run->w;
    (void)fd;
    (void)what;
    if (w->draining) { /* asked twice */
        event_base_loopbreak(w->base);
        return;
    }
    w->draining = true;
    run->drain_until = st_now() + w->o.grace_s;
    st_log(ST_LOG_INFO, "draining: %u connections", w->n_conn);
    for (int i = 0; i < MAX_LISTEN; i++) {
        st_worker_unlisten(run->listeners[i]);
        run->listeners[i] = NULL;
    }
    st_worker_peer_drain(w);
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
    struct st_worker_run *run = arg;
    (void)fd;
    (void)what;
    st_worker_peer_sweep(&run->w);
    st_worker_proofs_watch(&run->w);
    if (run->w.draining && st_now() > run->drain_until) {
        st_log(ST_LOG_WARN, "%u connections were not done in time", run->w.n_conn);
        event_base_loopbreak(run->w.base);
    }
}

static int add_event(struct event **ev, struct event *made, const struct timeval *every, struct st_err *e)
{
    *ev = made;
    if (!made || event_add(made, every) != 0)
        return st_fail(e, ST_MEMORY, "events: no memory");
    return 0;
}

static int set_up(struct st_worker_run *run, struct st_err *e)
{
    struct st_worker *w = &run->w;
    const struct timeval second = {1, 0};
    if (w->o.n_listen < 1 || w->o.n_listen > MAX_LISTEN)
        return st_fail(e, ST_USAGE, "want 1 to %d addresses to listen on", MAX_LISTEN);
    if (!w->o.tls_cert != !w->o.tls_key)
        return st_fail(e, ST_USAGE, "--tls-cert and --tls-key belong together");
    if (w->o.preparer && (!w->o.proof.collection || w->o.hints))
        return st_fail(e, ST_USAGE, "a preparer proves itself, and has no hints");
    if (w->o.pairs && w->o.preparer)
        return st_fail(e, ST_USAGE, "a preparer multiplies no pairs of matrices");
    if (w->o.pairs && !w->o.backend->pair)
        return st_fail(e, ST_UNSUPPORTED, "--pairs: the %s backend does not multiply two matrices of a client's",
                       w->o.backend->name);
    if (set_limits(w, e) || make_norms(w, e) || make_welcome(w, e))
        return e->code;
    if (w->o.tls_cert && st_tls_server(w->o.tls_cert, w->o.tls_key, &w->tls, e))
        return e->code;
    if (w->tls && (w->o.proof.policy || w->o.proof.collection))
        SSL_CTX_set_min_proto_version(w->tls, TLS1_3_VERSION); /* proofs are bound to its exporter */
    w->memory.wipe = w->o.preparer;
    w->base = event_base_new();
    if (!w->base)
        return st_fail(e, ST_IO, "no event loop");
    if (st_worker_proofs_new(w, e) || st_worker_queue_new(&w->o, w->o.max_row, &w->queue, e))
        return e->code;
    if (add_event(&run->signals[0], evsignal_new(w->base, SIGTERM, on_signal, run), NULL, e) ||
        add_event(&run->signals[1], evsignal_new(w->base, SIGINT, on_signal, run), NULL, e) ||
        add_event(&run->tick, event_new(w->base, -1, EV_PERSIST, on_tick, run), &second, e) ||
        add_event(&run->done, event_new(w->base, st_worker_queue_fd(w->queue), EV_READ | EV_PERSIST, on_done, w), NULL,
                  e))
        return e->code;
    if (w->o.metrics && st_worker_metrics_new(w, w->o.metrics, &run->metrics, e))
        return e->code;
    for (int i = 0; i < w->o.n_listen; i++) {
        if (st_worker_listen(w, w->o.listen[i], &run->listeners[i], e))
            return e->code;
        if (w->o.ready)
            w->o.ready(w->o.arg, st_worker_listening(run->listeners[i]));
    }
    return 0;
}

static void tear_down(struct st_worker_run *run)
{
    struct st_worker *w = &run->w;
    for (int i = 0; i < MAX_LISTEN; i++)
        st_worker_unlisten(run->listeners[i]);
    while (w->conns)
        st_worker_peer_free(w->conns);
    st_worker_proofs_free(w->proofs);
    st_http_server_free(run->metrics);
    for (struct st_worker_request *r = st_worker_queue_free(w->queue), *next; r; r = next) {
        next = r->next;
        st_worker_memory_give(&w->memory, r);
    }
    st_worker_memory_free(&w->memory);
    struct event *const events[] = {run->signals[0], run->signals[1], run->done, run->tick};
    for (size_t i = 0; i < sizeof events / sizeof *events; i++)
        if (events[i])
            event_free(events[i]);
    if (w->base)
        event_base_free(w->base);
    SSL_CTX_free(w->tls);
    free_norms(w);
    st_buf_free(&w->welcome);
}

int st_worker_run(const struct st_worker_opts *o, struct st_err *e)
{
    struct st_worker_run run = {.w.o = *o};
    int rc = set_up(&run, e);
    while (!rc && !(run.w.draining && !run.w.n_conn)) {
        int awake = run.w.awake_until > 0 && st_now() < run.w.awake_until ? EVLOOP_NONBLOCK : 0;
        if (event_base_loop(run.w.base, EVLOOP_ONCE | awake) != 0 || event_base_got_break(run.w.base))
            break;
    }
    if (!rc && run.w.lost.code)
        rc = st_fail(e, run.w.lost.code, "%s", run.w.lost.msg);
    tear_down(&run);
    return rc;
}
