#include "service/node_evidence.h"
#include "base/hooks.h"
#include "base/log.h"
#include "service/background.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_WAITING = 64, CACHED = 8 };
#define CHECK_S 1.0

struct cached {
    uint8_t nonce[ST_NODE_NONCE];
    struct st_buf json;
};

struct st_node_evidence {
    struct st_node_evidence_opts o;
    struct st_collection *collection;
    struct st_background *collect, *check;
    struct event *often;
    struct st_node_asker *waiting; /* in the order in which they came */
    size_t n_waiting;
    struct cached cache[CACHED]; /* a ring; the newest was put at `newest` */
    size_t newest;
    double checked_at; /* 0 = never */
    uint64_t n_collected;
    bool lost;
    /* The collecting thread's, while it is busy. */
    struct st_binding asked;
    uint64_t asked_serial;
    struct st_buf result;
    struct st_err result_err;
    /* The checking thread's, while it is busy. */
    struct st_err check_err;
};

/* ---- collecting ---- */

static int collect_once(struct st_collection *c, const struct st_binding *b, struct st_buf *out, struct st_err *e)
{
    struct st_bundle bundle;
    if (st_collection_collect(c, b, &bundle, e))
        return e->code;
    st_bundle_write(&bundle, out);
    st_bundle_free(&bundle);
    return out->failed ? st_fail(e, ST_MEMORY, "evidence: no memory") : 0;
}

static void on_collect(void *arg)
{
    struct st_node_evidence *v = arg;
    v->result_err = (struct st_err){0};
    v->result = (struct st_buf){0};
    if (collect_once(v->collection, &v->asked, &v->result, &v->result_err))
        st_buf_free(&v->result);
}

static void make_binding(const struct st_node_evidence *v, const uint8_t nonce[ST_NODE_NONCE], struct st_binding *b)
{
    *b = v->o.states;
    st_node_keys_bind(v->o.keys, b);
    memcpy(b->nonce, nonce, ST_NODE_NONCE);
    b->nonce_len = ST_NODE_NONCE;
}

/* For whoever has waited longest. */
static void start(struct st_node_evidence *v)
{
    if (!v->waiting || st_background_busy(v->collect) || v->lost)
        return;
    make_binding(v, v->waiting->nonce, &v->asked);
    v->asked_serial = v->o.keys->current->serial;
    (void)st_background_run(v->collect);
}

/* Everybody who waits for that nonce; json NULL: nobody gets it. */
static void answer(struct st_node_evidence *v, const uint8_t nonce[ST_NODE_NONCE], const struct st_buf *json)
{
    struct st_node_asker **at = &v->waiting;
    while (*at) {
        struct st_node_asker *a = *at;
        if (memcmp(a->nonce, nonce, ST_NODE_NONCE) == 0) {
            *at = a->next;
            v->n_waiting--;
            a->answer(a, json);
            at = &v->waiting; /* the list may be another one now */
        } else
            at = &a->next;
    }
}

static void on_collected(void *arg)
{
    struct st_node_evidence *v = arg;
    const bool ok = v->result_err.code == 0;
    if (!v->o.keys->current) { /* they died meanwhile: it certifies nothing any more */
        st_buf_free(&v->result);
        return;
    }
    if (!ok)
        st_log(ST_LOG_WARN, "evidence: %s", v->result_err.msg);
    v->n_collected += ok;
    /* Keys that were replaced meanwhile: once more for the new ones. */
    if (ok && v->asked_serial == v->o.keys->current->serial) {
        struct cached *c = &v->cache[v->newest = (v->newest + 1) % CACHED];
        st_buf_free(&c->json);
        memcpy(c->nonce, v->asked.nonce, ST_NODE_NONCE);
        c->json = v->result;
        v->result = (struct st_buf){0};
        answer(v, c->nonce, &c->json);
    } else if (!ok)
        answer(v, v->asked.nonce, NULL);
    st_buf_free(&v->result);
    start(v);
}

void st_node_evidence_ask(struct st_node_evidence *v, struct st_node_asker *a)
{
    for (size_t i = 0; i < CACHED; i++)
        if (v->cache[i].json.len && memcmp(v->cache[i].nonce, a->nonce, ST_NODE_NONCE) == 0) {
            a->answer(a, &v->cache[i].json);
            return;
        }
    if (v->n_waiting == MAX_WAITING || v->lost) {
        a->answer(a, NULL);
        return;
    }
    struct st_node_asker **at = &v->waiting;
    while (*at)
        at = &(*at)->next;
    a->next = NULL;
    *at = a;
    v->n_waiting++;
    start(v);
}

void st_node_evidence_withdraw(struct st_node_evidence *v, struct st_node_asker *a)
{
    for (struct st_node_asker **at = &v->waiting; *at; at = &(*at)->next)
        if (*at == a) {
            *at = a->next;
            v->n_waiting--;
            return;
        }
}

void st_node_evidence_rotated(struct st_node_evidence *v)
{
    for (size_t i = 0; i < CACHED; i++)
        st_buf_free(&v->cache[i].json);
}

uint64_t st_node_evidence_count(const struct st_node_evidence *v)
{
    return v->n_collected;
}

/* ---- watching ---- */

static void on_check(void *arg)
{
    struct st_node_evidence *v = arg;
    v->check_err = (struct st_err){0};
    if (st_collection_unchanged(v->collection, &v->check_err) == 0)
        v->check_err.code = 0;
}

static void on_checked(void *arg)
{
    struct st_node_evidence *v = arg;
    if (v->lost)
        return;
    if (v->check_err.code) {
        v->lost = true;
        v->o.lost(v->o.arg, &v->check_err);
        return;
    }
    v->checked_at = st_now();
    v->o.checked(v->o.arg);
}

static void on_often(evutil_socket_t fd, short what, void *arg)
{
    struct st_node_evidence *v = arg;
    (void)fd;
    (void)what;
    if (!v->lost)
        (void)st_background_run(v->check);
}

bool st_node_evidence_sure(struct st_node_evidence *v)
{
    if (v->lost)
        return false;
    if (st_now() - v->checked_at <= CHECK_S)
        return true;
    (void)st_background_run(v->check);
    return false;
}

/* ---- life ---- */

int st_node_evidence_try(struct st_node_evidence *v, struct st_err *e)
{
    uint8_t nonce[ST_NODE_NONCE];
    struct st_binding b;
    struct st_buf json = {0};
    if (st_random(nonce, sizeof nonce, e))
        return e->code;
    make_binding(v, nonce, &b);
    int rc = collect_once(v->collection, &b, &json, e);
    if (!rc)
        rc = st_collection_unchanged(v->collection, e);
    if (!rc)
        v->checked_at = st_now();
    st_buf_free(&json);
    return rc;
}

int st_node_evidence_new(const struct st_node_evidence_opts *o, struct st_node_evidence **out, struct st_err *e)
{
    struct st_node_evidence *v = NULL;
    *out = NULL;
    if (st_alloc(&v, 1, sizeof *v, "evidence", e))
        return e->code;
    v->o = *o;
    int rc = st_collection_open(o->kinds, o->n_kind, o->collect, &v->collection, e);
    if (rc)
        st_node_evidence_free(v);
    else
        *out = v;
    return rc;
}

void st_node_evidence_needs(const struct st_node_evidence *v, struct st_collect_needs *out)
{
    st_collection_needs(v->collection, out);
}

int st_node_evidence_start(struct st_node_evidence *v, struct st_err *e)
{
    const struct timeval often = {0, 700 * 1000}; /* so that a request seldom finds the last look too old */
    const struct st_background_opts collect = {on_collect, on_collected, v}, check = {on_check, on_checked, v};
    if (st_background_new(v->o.base, &collect, &v->collect, e) || st_background_new(v->o.base, &check, &v->check, e))
        return e->code;
    v->often = event_new(v->o.base, -1, EV_PERSIST, on_often, v);
    return v->often && event_add(v->often, &often) == 0 ? 0 : st_fail(e, ST_MEMORY, "timer: no memory");
}

void st_node_evidence_free(struct st_node_evidence *v)
{
    if (!v)
        return;
    if (v->often)
        event_free(v->often);
    st_background_free(v->check);
    st_background_free(v->collect);
    st_buf_free(&v->result);
    st_node_evidence_rotated(v);
    st_collection_close(v->collection);
    free(v);
}
