#include "service/gen_engine.h"
#include "base/buf.h"
#include "base/log.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define IDLE_LOOK_NS 500000000L
#define RESULTS_MAX (4u << 20) /* bytes of results that wait for the event thread before the engine pauses */

struct live;
/* A submission or a cancellation on its way to the engine thread. Part of struct live, so that the queue needs no
 * memory of its own and is bounded by max_live. */
struct command {
    struct command *next;
    struct live *live;
    bool cancel;
};

/* One request. Freed when the event thread has seen its end and the engine thread has seen its cancellation, if any. */
struct live {
    struct st_gen *g;
    struct live *prev, *next; /* all, event thread */
    struct live *next_end;    /* ends on their way to the event thread */
    struct command submit, cancel;
    atomic_int n_ref;
    struct st_gen_events ev;
    void *arg;
    bool cancelled;             /* event thread */
    struct st_request *request; /* engine thread */
    bool lost;                  /* engine thread: a token found no memory */
    enum st_gen_finish finish;
    struct st_err err;
    uint32_t *ids, *stop_ids;
    struct st_logit_bias *bias;
    struct st_gen_request r;
};

/* What precedes each token in the result buffer. */
struct result {
    struct live *live;
    uint32_t id;
    float logprob;
    int32_t n_top;
};

struct st_gen {
    struct st_engine *engine;
    struct st_gen_info fixed; /* the fields that never change */
    const char *adapters[ST_ADAPTERS_MAX];
    void (*watch)(void *ctx, struct st_gen_watch *out);
    void *watch_ctx;
    uint32_t max_live, n_live;
    struct live *lives;
    struct event *event;
    int fd;
    pthread_t thread;
    bool thread_runs;
    atomic_uint n_running, n_waiting;
    struct st_buf fresh; /* engine thread: results of the current step */
    struct live *fresh_ends, **fresh_ends_tail;
    struct st_buf taken;  /* event thread: results being dispatched */
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t work, room;
    struct command *commands, **commands_tail;
    struct st_buf results;
    struct live *ends, **ends_tail;
    struct st_gen_watch seen; /* written by one thread, which reads it without the lock */
    bool looked;
    bool stop;
};

static void live_unref(struct live *l)
{
    if (atomic_fetch_sub(&l->n_ref, 1) != 1)
        return;
    free(l->ids);
    free(l->stop_ids);
    free(l->bias);
    free(l);
}

static void wake_event_thread(const struct st_gen *g)
{
    uint64_t one = 1;
    while (write(g->fd, &one, sizeof one) < 0 && errno == EINTR)
        ;
}

/* ---- engine thread ---- */

static void add_end(struct live *l)
{
    struct st_gen *g = l->g;
    l->next_end = NULL;
    *g->fresh_ends_tail = l;
    g->fresh_ends_tail = &l->next_end;
}

static bool on_token(void *arg, const struct st_sampled *tok)
{
    struct live *l = arg;
    struct st_buf *b = &l->g->fresh;
    struct result res = {l, tok->id, tok->logprob, tok->n_top};
    size_t before = b->len;
    st_buf_add(b, &res, sizeof res);
    st_buf_add(b, tok->top, (size_t)tok->n_top * sizeof tok->top[0]);
    if (!b->failed)
        return true;
    b->len = before;
    b->failed = false;
    l->lost = true;
    return false;
}

static void on_end(void *arg, enum st_finish finish, int64_t stop_id, const struct st_err *e)
{
    static const enum st_gen_finish map[] = {[ST_FINISH_STOP] = ST_GEN_STOP,
                                             [ST_FINISH_LENGTH] = ST_GEN_LENGTH,
                                             [ST_FINISH_CANCELLED] = ST_GEN_CANCELLED,
                                             [ST_FINISH_ERROR] = ST_GEN_ERROR};
    struct live *l = arg;
    (void)stop_id;
    l->request = NULL;
    l->finish = map[finish];
    if (l->lost) {
        l->finish = ST_GEN_ERROR;
        st_fail(&l->err, ST_MEMORY, "no memory for the reply");
    } else if (e)
        l->err = *e;
    add_end(l);
}

static void submit(struct live *l)
{
    struct st_request_opts o = {.ids = l->r.ids,
                                .n_ids = l->r.n_ids,
                                .n_predict = l->r.n_predict,
                                .sampling = l->r.sampling,
                                .stop_ids = l->r.stop_ids,
                                .n_stop_ids = l->r.n_stop_ids,
                                .ignore_eos = l->r.ignore_eos,
                                .adapter = l->r.adapter,
                                .on_token = on_token,
                                .on_end = on_end,
                                .arg = l};
    int rc = st_engine_submit(l->g->engine, &o, &l->request, &l->err);
    if (rc) {
        l->request = NULL;
        l->finish = rc == ST_POLICY ? ST_GEN_BUSY : ST_GEN_ERROR;
        add_end(l);
    }
}

/* Hands the step's results over. Waits while the event thread is far behind, so that memory stays bounded. */
static void publish(struct st_gen *g)
{
    if (g->fresh.len == 0 && !g->fresh_ends)
        return;
    pthread_mutex_lock(&g->lock);
    while (g->results.len > RESULTS_MAX && !g->stop)
        pthread_cond_wait(&g->room, &g->lock);
    if (g->results.len)
        st_buf_add(&g->results, g->fresh.p, g->fresh.len);
    /* No memory to append: wait until the event thread has taken all, then hand over our buffer itself. */
    bool appended = g->results.len && !g->results.failed;
    g->results.failed = false;
    while (!appended && g->results.len && !g->stop)
        pthread_cond_wait(&g->room, &g->lock);
    if (!appended) {
        struct st_buf empty = g->results;
        g->results = g->fresh;
        g->fresh = empty;
    }
    if (g->fresh_ends) {
        *g->ends_tail = g->fresh_ends;
        g->ends_tail = g->fresh_ends_tail;
    }
    pthread_mutex_unlock(&g->lock);
    st_buf_clear(&g->fresh);
    g->fresh_ends = NULL;
    g->fresh_ends_tail = &g->fresh_ends;
    wake_event_thread(g);
}

static void run_commands(struct command *c)
{
    for (struct command *next; c; c = next) {
        struct live *l = c->live;
        next = c->next;
        if (!c->cancel) {
            submit(l);
            continue;
        }
        if (l->request)
            st_engine_cancel(l->g->engine, l->request);
        live_unref(l);
    }
}

/* What changed since the last look, for whoever reads the log. */
static void report(const struct st_gen_watch *before, const struct st_gen_watch *now)
{
    if (now->quarantined > before->quarantined)
        st_log(ST_LOG_WARN, "a worker returned a wrong result and is not used any more (%llu in all)",
               (unsigned long long)now->quarantined);
    if (now->failed > before->failed)
        st_log(ST_LOG_WARN, "exchanges with workers that failed: %llu",
               (unsigned long long)(now->failed - before->failed));
    if (before->ready != now->ready)
        st_log(now->ready ? ST_LOG_INFO : ST_LOG_WARN, "%s",
               now->ready ? "a worker answers" : "no worker answers: requests fail until one does");
}

static void look(struct st_gen *g)
{
    struct st_gen_watch now;
    if (!g->watch)
        return;
    g->watch(g->watch_ctx, &now);
    if (g->looked)
        report(&g->seen, &now);
    g->looked = true;
    pthread_mutex_lock(&g->lock);
    g->seen = now;
    pthread_mutex_unlock(&g->lock);
}

/* Until there is something to do; what is watched changes also while nothing is. */
static void wait_for_work(struct st_gen *g, size_t n_active)
{
    while (!g->commands && !g->stop && n_active == 0) {
        if (!g->watch) {
            pthread_cond_wait(&g->work, &g->lock);
            continue;
        }
        struct timespec end;
        clock_gettime(CLOCK_MONOTONIC, &end);
        end.tv_sec += (end.tv_nsec + IDLE_LOOK_NS) / 1000000000;
        end.tv_nsec = (end.tv_nsec + IDLE_LOOK_NS) % 1000000000;
        if (pthread_cond_clockwait(&g->work, &g->lock, CLOCK_MONOTONIC, &end) != ETIMEDOUT)
            continue;
        pthread_mutex_unlock(&g->lock);
        look(g);
        pthread_mutex_lock(&g->lock);
    }
}

static void *engine_main(void *arg)
{
    struct st_gen *g = arg;
    size_t n_active = 0;
    for (;;) {
        pthread_mutex_lock(&g->lock);
        wait_for_work(g, n_active);
        struct command *c = g->commands;
        bool stop = g->stop;
        g->commands = NULL;
        g->commands_tail = &g->commands;
        pthread_mutex_unlock(&g->lock);
        if (stop) {
            /* Submissions that wait are never made; cancellations only drop their reference. */
            for (struct command *next; c; c = next) {
                next = c->next;
                if (c->cancel)
                    live_unref(c->live);
            }
            break;
        }
        run_commands(c);
        n_active = st_engine_step(g->engine);
        struct st_engine_stats st;
        st_engine_stats(g->engine, &st);
        atomic_store(&g->n_running, st.n_running);
        atomic_store(&g->n_waiting, st.n_waiting);
        look(g);
        publish(g);
    }
    return NULL;
}

/* ---- event thread ---- */

static void dispatch_tokens(struct st_gen *g)
{
    const struct st_buf *b = &g->taken;
    struct st_sampled tok;
    for (size_t at = 0; at < b->len;) {
        struct result res;
        memcpy(&res, b->p + at, sizeof res);
        at += sizeof res;
        size_t top = (size_t)res.n_top * sizeof tok.top[0];
        if (!res.live->cancelled) {
            tok.id = res.id;
            tok.logprob = res.logprob;
            tok.n_top = res.n_top;
            memcpy(tok.top, b->p + at, top);
            res.live->ev.token(res.live->arg, &tok);
        }
        at += top;
    }
    st_buf_clear(&g->taken);
}

static void forget(struct live *l)
{
    struct st_gen *g = l->g;
    *(l->prev ? &l->prev->next : &g->lives) = l->next;
    if (l->next)
        l->next->prev = l->prev;
    g->n_live--;
    live_unref(l);
}

static void on_results(evutil_socket_t fd, short what, void *arg)
{
    struct st_gen *g = arg;
    uint64_t n;
    (void)what;
    while (read((int)fd, &n, sizeof n) < 0 && errno == EINTR)
        ;
    pthread_mutex_lock(&g->lock);
    struct st_buf empty = g->taken;
    g->taken = g->results;
    g->results = empty;
    struct live *ends = g->ends;
    g->ends = NULL;
    g->ends_tail = &g->ends;
    pthread_cond_signal(&g->room);
    pthread_mutex_unlock(&g->lock);
    dispatch_tokens(g);
    for (struct live *l = ends, *next; l; l = next) {
        next = l->next_end;
        l->ev.end(l->arg, l->finish, l->finish == ST_GEN_ERROR ? &l->err : NULL);
        forget(l);
    }
}

static void push_command(struct st_gen *g, struct command *c)
{
    c->next = NULL;
    pthread_mutex_lock(&g->lock);
    *g->commands_tail = c;
    g->commands_tail = &c->next;
    pthread_cond_signal(&g->work);
    pthread_mutex_unlock(&g->lock);
}

/* Copies n items; an empty list stays NULL. */
static int copy(void *out, const void *p, size_t n, size_t size, struct st_err *e)
{
    void *to = NULL;
    if (n) {
        int rc = st_alloc(&to, n, size, "request", e);
        if (rc)
            return rc;
        memcpy(to, p, n * size);
    }
    *(void **)out = to;
    return 0;
}

static int gen_start(struct st_gen *g, const struct st_gen_request *r, const struct st_gen_events *ev, void *arg,
                     void **handle, struct st_err *e)
{
    struct live *l = NULL;
    if (g->n_live >= g->max_live)
        return st_fail(e, ST_POLICY, "the queue is full: %u requests are in progress", g->n_live);
    int rc = st_alloc(&l, 1, sizeof *l, "request", e);
    if (rc)
        return rc;
    atomic_init(&l->n_ref, 1);
    l->g = g;
    l->ev = *ev;
    l->arg = arg;
    l->r = *r;
    if ((rc = copy(&l->ids, r->ids, r->n_ids, sizeof *r->ids, e)) != 0 ||
        (rc = copy(&l->stop_ids, r->stop_ids, r->n_stop_ids, sizeof *r->stop_ids, e)) != 0 ||
        (rc = copy(&l->bias, r->sampling.bias, r->sampling.n_bias, sizeof *l->bias, e)) != 0) {
        live_unref(l);
        return rc;
    }
    l->r.ids = l->ids;
    l->r.stop_ids = l->stop_ids;
    l->r.sampling.bias = l->bias;
    l->submit = (struct command){.live = l};
    l->cancel = (struct command){.live = l, .cancel = true};
    l->next = g->lives;
    if (l->next)
        l->next->prev = l;
    g->lives = l;
    g->n_live++;
    *handle = l;
    push_command(g, &l->submit);
    return 0;
}

static void gen_cancel(struct st_gen *g, void *handle)
{
    struct live *l = handle;
    if (l->cancelled)
        return;
    l->cancelled = true;
    atomic_fetch_add(&l->n_ref, 1);
    push_command(g, &l->cancel);
}

static void gen_info(struct st_gen *g, struct st_gen_info *out)
{
    *out = g->fixed;
    out->ready = true;
    if (g->watch) {
        pthread_mutex_lock(&g->lock);
        out->watch = g->seen;
        pthread_mutex_unlock(&g->lock);
        out->watched = true;
        out->ready = out->watch.ready;
    }
    out->n_running = atomic_load(&g->n_running);
    out->n_waiting = atomic_load(&g->n_waiting);
}

static void gen_free(struct st_gen *g)
{
    if (g->thread_runs) {
        pthread_mutex_lock(&g->lock);
        g->stop = true;
        pthread_cond_broadcast(&g->work);
        pthread_cond_broadcast(&g->room);
        pthread_mutex_unlock(&g->lock);
        pthread_join(g->thread, NULL);
        /* The engine belongs to somebody else: our requests leave it. */
        for (struct live *l = g->lives; l; l = l->next)
            if (l->request)
                st_engine_cancel(g->engine, l->request);
        while (st_engine_step(g->engine) > 0)
            ;
    }
    while (g->lives)
        forget(g->lives);
    if (g->event)
        event_free(g->event);
    if (g->fd >= 0)
        close(g->fd);
    st_buf_wipe(&g->fresh);
    st_buf_wipe(&g->taken);
    st_buf_wipe(&g->results);
    pthread_mutex_destroy(&g->lock);
    pthread_cond_destroy(&g->work);
    pthread_cond_destroy(&g->room);
    free(g);
}

/* Requests tell the model and its adapters apart by name. */
static int name_models(struct st_gen *g, const struct st_gen_engine_opts *o, struct st_err *e)
{
    const struct st_model *m = o->model;
    snprintf(g->fixed.model, sizeof g->fixed.model, "%s", o->model_name ? o->model_name : m->name);
    g->fixed.adapters = g->adapters;
    g->fixed.n_adapter = m->n_adapter;
    for (uint32_t i = 0; i < m->n_adapter; i++) {
        g->adapters[i] = m->adapters[i];
        if (strcmp(m->adapters[i], g->fixed.model) == 0)
            return st_fail(e, ST_USAGE, "adapter '%s': has the name of the model; want another (NAME=PATH)",
                           m->adapters[i]);
    }
    return 0;
}

static const struct st_generator vtable = {gen_start, gen_cancel, gen_info, gen_free};

static int start_thread(struct st_gen *g, struct st_err *e)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int err = pthread_create(&g->thread, NULL, engine_main, g);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (err)
        return st_fail(e, ST_IO, "engine thread: %s", strerror(err));
    g->thread_runs = true;
    return 0;
}

int st_gen_engine_open(const void *opts, struct event_base *base, struct st_gen_ref *out, struct st_err *e)
{
    const struct st_gen_engine_opts *o = opts;
    struct st_gen *g = NULL;
    int rc = st_alloc(&g, 1, sizeof *g, "generator", e);
    if (rc)
        return rc;
    g->engine = o->engine;
    g->max_live = o->max_live ? o->max_live : 1024;
    g->watch = o->watch;
    g->watch_ctx = o->watch_ctx;
    g->fixed.n_ctx = st_engine_ctx(o->engine);
    g->fixed.n_vocab = o->model->config.n_vocab;
    g->fixed.protection = o->protection ? o->protection : "none";
    g->fixed.scheme = o->scheme ? o->scheme : "none";
    g->fixed.verified = o->verified ? o->verified : "no";
    g->fresh_ends_tail = &g->fresh_ends;
    g->commands_tail = &g->commands;
    g->ends_tail = &g->ends;
    pthread_mutex_init(&g->lock, NULL);
    pthread_cond_init(&g->work, NULL);
    pthread_cond_init(&g->room, NULL);
    look(g);
    rc = name_models(g, o, e);
    g->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (g->fd >= 0)
        g->event = event_new(base, g->fd, EV_READ | EV_PERSIST, on_results, g);
    if (!rc && (!g->event || event_add(g->event, NULL) != 0))
        rc = st_fail(e, ST_IO, "event loop: %s", strerror(errno));
    if (!rc)
        rc = start_thread(g, e);
    if (rc)
        gen_free(g);
    else
        *out = (struct st_gen_ref){&vtable, g};
    return rc;
}
