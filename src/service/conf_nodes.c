#include "service/conf_nodes.h"
#include "base/hooks.h"
#include "base/log.h"
#include "crypto/digest.h"
#include "service/log_client.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOOK_S .5 /* at most so often, whatever happens */
#define TICK_MS 250

enum {
    FETCHES = 4,  /* at once */
    AGAIN_S = 60, /* bad nodes are judged again after so long */
    REFRESH_MAX_S = 60,
    FAILED_MAX_S = 10,
    CACHE_S = 300,   /* a good verdict is looked at anew after so long, whatever it rests on */
    NO_AGE_S = 86400 /* the witnesses' time may be so old where the policy has no max_age_s */
};

struct st_conf_nodes {
    struct st_conf_nodes_opts o;
    struct st_conf_judge judge;
    struct st_log_client *log;
    struct st_conf_node **node;
    size_t n_node, cap;
    struct event *tick;
    double refresh_at, last_refresh, wait;
    bool refreshing;
    struct st_err log_err;  /* of the last refresh; code 0 = it succeeded */
    struct st_err keys_err; /* what is wrong with what the directory says */
    char gateway[ST_DIRECTORY_MAX_NAME + 1];
    const char *models[ST_CONF_MAX_MODELS];
    char why[512];
};

/* ---- the list ---- */

static struct st_conf_node *find(const struct st_conf_nodes *c, const struct st_directory_node *d)
{
    for (size_t i = 0; i < c->n_node; i++)
        if (memcmp(c->node[i]->listed.id, d->id, ST_NODE_ID) == 0 &&
            memcmp(c->node[i]->listed.bundle, d->bundle, 32) == 0)
            return c->node[i];
    return NULL;
}

static void start_fetches(struct st_conf_nodes *c)
{
    double now = st_now();
    for (size_t i = 0; i < c->n_node && c->judge.n_busy < FETCHES; i++)
        if (c->node[i]->state == ST_CONF_WANTED && c->node[i]->in_directory && c->node[i]->retry_at <= now)
            st_conf_node_fetch(c->node[i]);
}

/* Nodes that are not listed any more go, but for one whose successor is not judged yet. */
static void sweep(struct st_conf_nodes *c)
{
    size_t n = 0;
    for (size_t i = 0; i < c->n_node; i++) {
        struct st_conf_node *x = c->node[i];
        if (x->in_directory || (x->replaced && x->state == ST_CONF_GOOD))
            c->node[n++] = x;
        else
            st_conf_node_free(x);
    }
    c->n_node = n;
}

static void on_fetched(void *arg, struct st_conf_node *x)
{
    struct st_conf_nodes *c = arg;
    if (x->state != ST_CONF_GOOD && x->n_try <= 1) { /* once, not at every try */
        char id[2 * ST_NODE_ID + 1];
        st_hex(x->listed.id, ST_NODE_ID, id);
        st_log(ST_LOG_WARN, "node %s: %s: %s", id, st_passage_fault_word(x->fault), x->why);
    }
    if (x->state == ST_CONF_GOOD || x->state == ST_CONF_BAD)
        for (size_t i = 0; i < c->n_node; i++)
            if (c->node[i]->replaced && memcmp(c->node[i]->listed.id, x->listed.id, ST_NODE_ID) == 0)
                c->node[i]->replaced = false;
    sweep(c);
    start_fetches(c);
}

static int add_node(struct st_conf_nodes *c, const struct st_directory_node *d, struct st_err *e)
{
    struct st_conf_node *x;
    if (c->n_node == c->cap) {
        size_t cap = c->cap ? 2 * c->cap : 16;
        struct st_conf_node **p = realloc(c->node, cap * sizeof *p);
        if (!p)
            return st_fail(e, ST_MEMORY, "no memory for nodes");
        c->node = p;
        c->cap = cap;
    }
    int rc = st_conf_node_new(&c->judge, d, &x, e);
    if (rc)
        return rc;
    x->done = on_fetched;
    x->arg = c;
    for (size_t i = 0; i < c->n_node; i++) {
        struct st_conf_node *old = c->node[i];
        if (memcmp(old->listed.id, d->id, ST_NODE_ID) != 0)
            continue;
        x->was_good = x->was_good || old->was_good;
        old->replaced = old->state == ST_CONF_GOOD;
    }
    c->node[c->n_node++] = x;
    return 0;
}

/* ---- the directory ---- */

static const struct st_directory_gateway *choose_gateway(const struct st_conf_nodes *c, const struct st_directory *d,
                                                         struct st_err *e)
{
    const struct st_directory_gateway *g = c->o.gateway        ? st_directory_find_gateway(d, c->o.gateway)
                                           : d->n_gateway == 1 ? &d->gateways[0]
                                                               : NULL;
    if (!g && c->o.gateway)
        st_fail(e, ST_POLICY, "directory: no gateway of the name '%s' (--gateway)", c->o.gateway);
    else if (!g)
        st_fail(e, ST_POLICY, "directory: %zu gateways: want one, or its name (--gateway)", d->n_gateway);
    return g;
}

static int take_issuer(struct st_conf_nodes *c, const struct st_directory *d, struct st_err *e)
{
    const struct st_directory_issuer *i = c->o.issuer        ? st_directory_find_issuer(d, c->o.issuer)
                                          : d->n_issuer == 1 ? &d->issuers[0]
                                                             : NULL;
    if (!i && c->o.issuer)
        return st_fail(e, ST_POLICY, "directory: no issuer of the name '%s' (--issuer-name)", c->o.issuer);
    if (!i)
        return st_fail(e, ST_POLICY, "directory: %zu issuers: want one, or its name (--issuer-name)", d->n_issuer);
    int rc = st_wallet_keys(c->o.way->wallet, i, st_unix_time(), e);
    if (!rc)
        st_wallet_stock(c->o.way->wallet, c->o.stock);
    return rc;
}

static int take_gateway(struct st_conf_nodes *c, const struct st_directory_gateway *g, struct st_err *e)
{
    struct st_ohttp_config keys[ST_OHTTP_CONFIGS_MAX];
    size_t n;
    int rc = st_ohttp_config_parse_list(g->keys, keys, &n, e);
    if (rc)
        return rc;
    c->o.way->gateway = keys[0];
    c->o.way->has_gateway = true;
    c->o.way->price_request = g->price_request;
    c->o.way->unit_bytes = g->unit_bytes;
    snprintf(c->gateway, sizeof c->gateway, "%s", g->name);
    for (size_t i = 0; i < c->n_node; i++)
        c->node[i]->in_directory = false;
    for (size_t i = 0; i < g->n_node && !rc; i++) {
        const struct st_directory_node *d = &g->nodes[i];
        struct st_conf_node *x = find(c, d);
        if (!st_node_has_tags(d, c->o.tags, c->o.n_tag))
            continue;
        if (x) {
            x->listed = *d;
            x->in_directory = true;
        } else
            rc = add_node(c, d, e);
    }
    sweep(c);
    return rc;
}

static void take_directory(struct st_conf_nodes *c)
{
    const struct st_directory *d = st_log_client_directory(c->log);
    struct st_err e;
    const struct st_directory_gateway *g = choose_gateway(c, d, &e);
    c->keys_err.code = 0;
    if (!g || take_gateway(c, g, &e) || take_issuer(c, d, &e)) {
        c->keys_err = e;
        st_log(ST_LOG_WARN, "%s", e.msg);
    }
    /* A new directory is made once per epoch; half of that, and it is noticed in time. */
    c->wait = d->every / 2.0 > REFRESH_MAX_S ? REFRESH_MAX_S : d->every / 2.0;
    start_fetches(c);
}

static void on_refreshed(void *arg, const struct st_err *e)
{
    struct st_conf_nodes *c = arg;
    double now = st_now();
    c->refreshing = false;
    if (e) {
        if (!c->log_err.code || c->log_err.code != e->code)
            st_log(ST_LOG_WARN, "%s", e->msg);
        c->log_err = *e;
        c->wait = c->wait < 1 ? 1 : c->wait < FAILED_MAX_S / 2 ? 2 * c->wait : FAILED_MAX_S;
    } else {
        c->log_err.code = 0;
        take_directory(c);
    }
    c->refresh_at = now + c->wait;
}

static void refresh(struct st_conf_nodes *c)
{
    struct st_err e;
    c->refreshing = true;
    c->last_refresh = st_now();
    if (st_log_client_refresh(c->log, on_refreshed, c, &e))
        on_refreshed(c, &e);
}

void st_conf_nodes_look(struct st_conf_nodes *c)
{
    double soon = c->last_refresh + LOOK_S;
    if (!c->refreshing && soon < c->refresh_at)
        c->refresh_at = soon;
    for (size_t i = 0; i < c->n_node; i++) {
        struct st_conf_node *x = c->node[i];
        if (x->state == ST_CONF_WANTED && x->fault == ST_FAULT_NETWORK && x->retry_at > st_now() + LOOK_S)
            x->retry_at = st_now() + LOOK_S;
    }
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
    struct st_conf_nodes *c = arg;
    int64_t now = st_unix_time();
    (void)fd;
    (void)what;
    if (!c->refreshing && st_now() >= c->refresh_at)
        refresh(c);
    start_fetches(c);
    /* One judgement a tick: each costs milliseconds of the thread that serves. */
    for (size_t i = 0; i < c->n_node; i++) {
        struct st_conf_node *x = c->node[i];
        if (x->state == ST_CONF_BAD && now - x->judged >= AGAIN_S) {
            st_conf_node_again(x);
            break;
        }
        if (x->state == ST_CONF_GOOD && now - x->judged >= CACHE_S) {
            (void)st_conf_node_stands(x);
            break;
        }
    }
}

/* ---- picking ---- */

static bool offers(const struct st_conf_node *x, const char *model)
{
    char tag[ST_NODE_MAX_TAG + 1];
    const char *one = tag;
    if (!model || !*model)
        return true;
    return (size_t)snprintf(tag, sizeof tag, "model=%s", model) < sizeof tag && st_node_has_tags(&x->listed, &one, 1);
}

static bool usable(const struct st_conf_node *x)
{
    return x->state == ST_CONF_GOOD && (x->in_directory || x->replaced);
}

static int64_t max_log_age(const struct st_conf_nodes *c)
{
    int64_t max = st_policy_max_age(c->o.policy);
    return max >= 0 ? max : NO_AGE_S;
}

/* The log's word is there and fresh. */
static int check_log(const struct st_conf_nodes *c, enum st_passage_fault *fault, struct st_err *e)
{
    const struct st_witnessed *w = st_log_client_checkpoint(c->log);
    int64_t age = w ? st_unix_time() - w->time : 0;
    if (c->log_err.code && c->log_err.code != ST_IO) {
        *fault = ST_FAULT_INTEGRITY;
        *e = c->log_err;
    } else if (!w || !st_log_client_directory(c->log)) {
        *fault = ST_FAULT_NETWORK;
        st_fail(e, ST_IO, "%s", c->log_err.code ? c->log_err.msg : "log: its directory has not come yet");
    } else if (w->time && age > max_log_age(c)) {
        *fault = ST_FAULT_STALE;
        st_fail(e, ST_VERIFY, "log: its checkpoint is %" PRId64 " s old, at most %" PRId64 " s are allowed%s%.200s",
                age, max_log_age(c), c->log_err.code ? "; " : "", c->log_err.code ? c->log_err.msg : "");
    } else if (c->keys_err.code) {
        *fault = c->keys_err.code == ST_POLICY ? ST_FAULT_POLICY : ST_FAULT_INTEGRITY;
        *e = c->keys_err;
    } else
        return 0;
    return e->code;
}

/* Too few: the most telling reason among the nodes that could have been. */
static int too_few(const struct st_conf_nodes *c, const char *model, size_t n_good, enum st_passage_fault *fault,
                   struct st_err *e)
{
    static const int telling[] = {[ST_FAULT_MEASUREMENT] = 5,
                                  [ST_FAULT_INTEGRITY] = 4,
                                  [ST_FAULT_STALE] = 3,
                                  [ST_FAULT_POLICY] = 2,
                                  [ST_FAULT_NETWORK] = 1};
    const struct st_conf_node *worst = NULL;
    size_t n = 0;
    for (size_t i = 0; i < c->n_node; i++) {
        const struct st_conf_node *x = c->node[i];
        if (!x->in_directory || !offers(x, model))
            continue;
        n++;
        if (!usable(x) && (!worst || telling[x->fault] > telling[worst->fault]))
            worst = x;
    }
    *fault = worst ? worst->fault : ST_FAULT_POLICY;
    unsigned want = st_policy_min_nodes(c->o.policy);
    st_fail(e,
            *fault == ST_FAULT_NETWORK  ? ST_IO
            : *fault == ST_FAULT_POLICY ? ST_POLICY
                                        : ST_VERIFY,
            "%zu of %zu listed nodes are verified, want %u%s%s", n_good, n, want, worst || n > n_good ? ": " : "",
            worst        ? worst->why
            : n > n_good ? "others are the same node under another name"
                         : "");
    return e->code;
}

static bool was_tried(const struct st_conf_node *x, const uint8_t (*tried)[ST_NODE_ID], size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (memcmp(tried[i], x->listed.id, ST_NODE_ID) == 0)
            return true;
    return false;
}

/* Whether another listing of the same node, by its id or by its keys, is in list: a gateway that lists one node under
 * several names neither makes a crowd of it nor draws more requests to it. */
static bool stands_twice(struct st_conf_node *const *list, size_t n, const struct st_conf_node *x)
{
    for (size_t i = 0; i < n; i++)
        if (memcmp(list[i]->listed.id, x->listed.id, ST_NODE_ID) == 0 ||
            memcmp(list[i]->key.public, x->key.public, sizeof x->key.public) == 0)
            return true;
    return false;
}

/* Good nodes for the model, each once. */
static size_t good_nodes(const struct st_conf_nodes *c, const char *model,
                         struct st_conf_node *list[2 * ST_DIRECTORY_MAX_NODES])
{
    size_t n = 0;
    for (size_t i = 0; i < c->n_node && n < 2 * ST_DIRECTORY_MAX_NODES; i++) {
        struct st_conf_node *x = c->node[i];
        if (usable(x) && offers(x, model) && !stands_twice(list, n, x))
            list[n++] = x;
    }
    return n;
}

/* The same, but for those that were tried. */
static size_t candidates(const struct st_conf_nodes *c, const char *model, const uint8_t (*tried)[ST_NODE_ID],
                         size_t n_tried, struct st_conf_node *list[2 * ST_DIRECTORY_MAX_NODES], size_t *n_good)
{
    size_t n = 0;
    *n_good = good_nodes(c, model, list);
    for (size_t i = 0; i < *n_good; i++)
        if (!was_tried(list[i], tried, n_tried))
            list[n++] = list[i];
    return n;
}

int st_conf_nodes_pick(struct st_conf_nodes *c, const char *model, const uint8_t (*tried)[ST_NODE_ID], size_t n_tried,
                       struct st_conf_pick *out, enum st_passage_fault *fault, struct st_err *e)
{
    struct st_conf_node *list[2 * ST_DIRECTORY_MAX_NODES];
    size_t n_good, n;
    int rc = check_log(c, fault, e);
    if (rc)
        return rc;
    for (;;) {
        uint32_t at;
        n = candidates(c, model, tried, n_tried, list, &n_good);
        if (n_good == 0 || n_good < st_policy_min_nodes(c->o.policy))
            return too_few(c, model, n_good, fault, e);
        *fault = ST_FAULT_NETWORK;
        if (n == 0)
            return st_fail(e, ST_IO, "no verified node is left to try");
        rc = st_random_below((uint32_t)n, &at, e);
        if (rc)
            return rc;
        const struct st_conf_node *x = list[at];
        if (!st_conf_node_stands(list[at]))
            continue; /* it is not usable any more, so this ends */
        memcpy(out->id, x->listed.id, ST_NODE_ID);
        memcpy(out->bundle, x->digest, 32);
        out->key = x->key;
        memcpy(out->receipt_key, x->bundle.binding.receipt_key, 32);
        memcpy(out->model, x->bundle.binding.model, 32);
        return 0;
    }
}

void st_conf_nodes_doubt(struct st_conf_nodes *c, const uint8_t id[ST_NODE_ID], const char *why)
{
    for (size_t i = 0; i < c->n_node; i++)
        if (memcmp(c->node[i]->listed.id, id, ST_NODE_ID) == 0)
            st_conf_node_doubt(c->node[i], why);
    sweep(c);
}

bool st_conf_nodes_bundle(const struct st_conf_nodes *c, const uint8_t digest[32], struct st_buf *out,
                          struct st_buf *note)
{
    for (size_t i = 0; i < c->n_node; i++)
        if (usable(c->node[i]) && memcmp(c->node[i]->digest, digest, 32) == 0) {
            st_bundle_write(&c->node[i]->bundle, out);
            st_buf_add(note, c->node[i]->note.p, c->node[i]->note.len);
            return !out->failed && !note->failed;
        }
    return false;
}

/* ---- what is shown ---- */

static size_t count_good(const struct st_conf_nodes *c)
{
    struct st_conf_node *list[2 * ST_DIRECTORY_MAX_NODES];
    return good_nodes(c, NULL, list);
}

const char *st_conf_nodes_state(struct st_conf_nodes *c, const char **why)
{
    enum st_passage_fault fault;
    struct st_err e;
    size_t n = count_good(c);
    bool log = check_log(c, &fault, &e) == 0;
    *why = NULL;
    if (log && n && n >= st_policy_min_nodes(c->o.policy))
        return "ok";
    if (log)
        (void)!too_few(c, NULL, n, &fault, &e);
    snprintf(c->why, sizeof c->why, "%s", e.msg);
    *why = c->why;
    bool starting = !c->log_err.code && !st_log_client_directory(c->log);
    return starting ? "starting" : st_passage_fault_word(fault);
}

static bool known_model(const struct st_conf_nodes *c, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(c->models[i], name) == 0)
            return true;
    return false;
}

size_t st_conf_nodes_models(struct st_conf_nodes *c, const char **out[])
{
    size_t n = 0;
    for (size_t i = 0; i < c->n_node; i++) {
        const struct st_conf_node *x = c->node[i];
        for (size_t t = 0; t < x->listed.n_tag && usable(x) && n < ST_CONF_MAX_MODELS; t++) {
            const char *tag = x->listed.tags[t];
            if (strncmp(tag, "model=", 6) == 0 && tag[6] && !known_model(c, n, tag + 6))
                c->models[n++] = tag + 6;
        }
    }
    *out = c->models;
    return n;
}

const char *st_conf_nodes_scheme(const struct st_conf_nodes *c)
{
    for (size_t i = 0; i < c->n_node; i++)
        if (usable(c->node[i]))
            return c->node[i]->scheme;
    return "none";
}

void st_conf_nodes_counts(const struct st_conf_nodes *c, uint64_t *verified, uint64_t *failed)
{
    *verified = c->judge.n_verified;
    *failed = c->judge.n_failed;
}

static json_t *node_json(const struct st_conf_node *x)
{
    static const char *const states[] = {"wanted", "fetching", "challenging", "verified", "refused"};
    char id[2 * ST_NODE_ID + 1], bundle[65];
    int64_t now = st_unix_time();
    json_t *tags = json_array();
    st_hex(x->listed.id, ST_NODE_ID, id);
    st_hex(x->digest, 32, bundle);
    for (size_t i = 0; i < x->listed.n_tag; i++)
        json_array_append_new(tags, json_string(x->listed.tags[i]));
    json_t *o = json_pack("{s:s, s:s, s:o}", "id", id, "state", states[x->state], "tags", tags);
    if (!o)
        return NULL;
    if (x->state == ST_CONF_GOOD)
        json_object_set_new(o, "scheme", json_string(x->scheme));
    else {
        json_object_set_new(o, "code", json_string(st_passage_fault_word(x->fault)));
        json_object_set_new(o, "why", json_string(x->why));
    }
    if (x->checks) {
        json_object_set_new(o, "bundle", json_string(bundle));
        json_object_set_new(o, "judged_s_ago", json_integer(now - x->judged));
        if (x->nonce_time)
            json_object_set_new(o, "evidence_age_s", json_integer(now - x->nonce_time));
        json_object_set(o, "checks", x->checks);
    }
    return o;
}

void st_conf_nodes_detail(struct st_conf_nodes *c, json_t *o)
{
    const struct st_witnessed *w = st_log_client_checkpoint(c->log);
    const struct st_directory *d = st_log_client_directory(c->log);
    json_t *list = json_array();
    if (w)
        json_object_set_new(o, "log",
                            json_pack("{s:s, s:I, s:I, s:I, s:I}", "origin", w->checkpoint.origin, "size",
                                      (json_int_t)w->checkpoint.size, "time", (json_int_t)w->time, "age_s",
                                      (json_int_t)(w->time ? st_unix_time() - w->time : 0), "witnesses",
                                      (json_int_t)w->n_witness));
    if (d)
        json_object_set_new(o, "directory",
                            json_pack("{s:I, s:I, s:s}", "epoch", (json_int_t)d->epoch, "time", (json_int_t)d->time,
                                      "gateway", c->gateway));
    if (c->log_err.code)
        json_object_set_new(o, "log_error", json_string(c->log_err.msg));
    for (size_t i = 0; i < c->n_node; i++)
        json_array_append_new(list, node_json(c->node[i]));
    json_object_set_new(o, "min_nodes", json_integer(st_policy_min_nodes(c->o.policy)));
    json_object_set_new(o, "nodes", list);
}

/* ---- life ---- */

int st_conf_nodes_new(const struct st_conf_nodes_opts *o, struct st_conf_nodes **out, struct st_err *e)
{
    struct st_conf_nodes *c;
    int rc = st_alloc(out, 1, sizeof **out, "nodes", e);
    if (rc)
        return rc;
    c = *out;
    c->o = *o;
    c->judge = (struct st_conf_judge){.way = o->way, .policy = o->policy, .challenge = o->challenge};
    const struct st_log_client_opts l = {
        .url = o->log_url, .state_file = o->state_file, .keys = *st_policy_log(o->policy), .stall_s = o->way->stall_s};
    rc = st_verdict_cache_new(2 * ST_DIRECTORY_MAX_NODES, CACHE_S, &c->judge.cache, e);
    if (!rc)
        rc = st_log_client_new(o->way->http, &l, &c->log, e);
    c->tick = event_new(o->way->base, -1, EV_PERSIST, on_tick, c);
    const struct timeval often = {0, TICK_MS * 1000};
    if (!rc && (!c->tick || event_add(c->tick, &often) != 0))
        rc = st_fail(e, ST_MEMORY, "nodes: no memory");
    if (rc) {
        st_conf_nodes_free(c);
        *out = NULL;
        return rc;
    }
    event_active(c->tick, EV_TIMEOUT, 0);
    return 0;
}

void st_conf_nodes_free(struct st_conf_nodes *c)
{
    if (!c)
        return;
    for (size_t i = 0; i < c->n_node; i++)
        st_conf_node_free(c->node[i]);
    free(c->node);
    st_log_client_free(c->log);
    st_verdict_cache_free(c->judge.cache);
    if (c->tick)
        event_free(c->tick);
    free(c);
}
