#include "base/hooks.h"
#include "base/log.h"
#include "channel/confidential.h"
#include "crypto/digest.h"
#include "service/gateway_priv.h"
#include "text/base64.h"
#include "text/json.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ASK_STALL_S 30 /* a TPM takes its time */
#define HEALTH_STALL_S 3
#define MISSED_MAX 2 /* refreshes without an answer until a node leaves the list */

/* ---- from the operator's lines ---- */

static int add_tag(struct st_gateway_node *n, const char *p, size_t len, const char *line, struct st_err *e)
{
    for (size_t i = 0; i < len; i++)
        if (!isgraph((unsigned char)p[i]))
            return st_fail(e, ST_USAGE, "node '%s': want tags of printable ASCII", line);
    if (len > ST_NODE_MAX_TAG || n->n_tag == ST_NODE_MAX_TAGS)
        return st_fail(e, ST_USAGE, "node '%s': want at most %d tags of at most %d characters", line, ST_NODE_MAX_TAGS,
                       ST_NODE_MAX_TAG);
    memcpy(n->tags[n->n_tag], p, len);
    n->tags[n->n_tag++][len] = 0;
    return 0;
}

/* Stable over restarts and the node's keys; told apart from those of other gateways by the name. */
static void make_id(const char *gateway, const char *url, uint8_t out[ST_NODE_ID])
{
    struct st_buf b = {0};
    uint8_t digest[32];
    st_buf_addf(&b, "sotto node id 1\n%s\n%s", gateway, url);
    st_sha256(b.p, b.len, digest);
    memcpy(out, digest, ST_NODE_ID);
    st_buf_free(&b);
}

static char *join(const char *base, const char *path)
{
    char *s = NULL;
    return asprintf(&s, "%s%s", base, path) < 0 ? NULL : s;
}

static int node_init(struct st_gateway_node *n, struct st_gateway_nodes *of, const char *line, struct st_err *e)
{
    n->of = of;
    size_t len = strcspn(line, " \t");
    char *url = strndup(line, len);
    int rc = url ? st_http_base("--node", url, &n->url, e) : st_fail(e, ST_MEMORY, "no memory");
    free(url);
    for (const char *p = line + len; !rc && *(p += strspn(p, " \t")); p += len) {
        len = strcspn(p, " \t");
        rc = add_tag(n, p, len, line, e);
    }
    if (rc)
        return rc;
    n->infer_url = join(n->url, ST_NODE_PATH_INFER);
    n->attest_url = join(n->url, ST_NODE_PATH_ATTEST);
    n->health_url = join(n->url, "/health");
    if (!n->infer_url || !n->attest_url || !n->health_url)
        return st_fail(e, ST_MEMORY, "no memory");
    make_id(of->g->o.name, n->url, n->id);
    snprintf(n->why, sizeof n->why, "not asked yet");
    return 0;
}

/* ---- evidence ---- */

static void bundle_wipe(struct st_gateway_bundle *b)
{
    st_buf_free(&b->bytes);
    st_buf_free(&b->note);
    *b = (struct st_gateway_bundle){0};
}

static void unlist(struct st_gateway_node *n, const char *why)
{
    if (n->listed || strcmp(n->why, why) != 0)
        st_log(ST_LOG_WARN, "node %s is not listed: %s", n->url, why);
    snprintf(n->why, sizeof n->why, "%s", why);
    n->listed = false;
    while (n->n_kept)
        bundle_wipe(&n->kept[--n->n_kept]);
}

/* The first check that the policy does not do without, as text. */
static void name_failure(const struct st_gateway_nodes *ns, const struct st_verdict *v, struct st_err *e)
{
    const struct st_check *bad = NULL;
    for (size_t i = 0; i < v->found.n_check && !bad; i++)
        if (v->found.checks[i].result != ST_CHECK_PASS && !st_policy_tolerates(ns->g->policy, &v->found.checks[i]))
            bad = &v->found.checks[i];
    st_fail(e, v->code ? v->code : ST_VERIFY, "its evidence is refused: %s: %s", bad ? bad->name : "policy",
            bad ? bad->detail : "not met");
}

static int judge(const struct st_gateway_nodes *ns, const struct st_bundle *b, struct st_err *e)
{
    struct st_verdict *v = calloc(1, sizeof *v);
    if (!v)
        return st_fail(e, ST_MEMORY, "no memory for a verdict");
    const struct st_judge j = {.policy = ns->g->policy,
                               .bundle = b,
                               .time = st_unix_time(),
                               .nonce = {ns->nonce, sizeof ns->nonce},
                               .nonce_time = ns->nonce_time};
    int rc = st_policy_judge(&j, v, e);
    if (!rc && !v->good) {
        name_failure(ns, v, e);
        rc = e->code;
    }
    st_verdict_wipe(v);
    free(v);
    return rc;
}

static int read_keys(struct st_span bytes, struct st_bundle *b, struct st_err *e)
{
    int rc = st_bundle_parse(bytes.p, bytes.len, "its evidence", b, e);
    if (rc)
        return rc;
    if (!b->has_binding) {
        st_bundle_free(b);
        return st_fail(e, ST_INPUT, "its evidence: binding: want the node's keys");
    }
    return 0;
}

static bool same_keys(const struct st_gateway_bundle *k, const struct st_binding *b)
{
    return k->hpke_key_len == b->hpke_key_len && memcmp(k->hpke_key, b->hpke_key, b->hpke_key_len) == 0 &&
           memcmp(k->receipt_key, b->receipt_key, sizeof k->receipt_key) == 0;
}

/* Good evidence that says the same as what is published stays as it is for a while: every change is an entry in the
 * log. */
static bool worth_publishing(const struct st_gateway_node *n, const struct st_binding *b)
{
    return !n->n_kept || !same_keys(&n->kept[0], b) || st_now() - n->kept[0].since >= n->of->g->o.evidence_s;
}

static int keep(struct st_gateway_node *n, const struct st_binding *b, struct st_err *e)
{
    struct st_buf note = {0};
    st_buf_add(&note, n->of->note.p, n->of->note.len);
    if (note.failed)
        return st_fail(e, ST_MEMORY, "no memory for its evidence");
    if (n->n_kept == ST_GATEWAY_KEPT)
        bundle_wipe(&n->kept[--n->n_kept]);
    memmove(n->kept + 1, n->kept, n->n_kept * sizeof *n->kept);
    n->n_kept++;
    struct st_gateway_bundle *k = &n->kept[0];
    *k =
        (struct st_gateway_bundle){.bytes = n->reply, .note = note, .hpke_key_len = b->hpke_key_len, .since = st_now()};
    n->reply = (struct st_buf){0};
    st_sha256(k->bytes.p, k->bytes.len, k->digest);
    memcpy(k->hpke_key, b->hpke_key, b->hpke_key_len);
    memcpy(k->receipt_key, b->receipt_key, sizeof k->receipt_key);
    return 0;
}

static int take_evidence(struct st_gateway_node *n, struct st_err *e)
{
    struct st_bundle b = {0};
    int rc = read_keys((struct st_span){(uint8_t *)n->reply.p, n->reply.len}, &b, e);
    if (rc)
        return rc;
    rc = judge(n->of, &b, e);
    if (!rc && worth_publishing(n, &b.binding))
        rc = keep(n, &b.binding, e);
    if (!rc && !n->listed)
        st_log(ST_LOG_INFO, "node %s is listed", n->url);
    if (!rc) {
        n->listed = n->healthy = true;
        n->why[0] = 0;
    }
    st_bundle_free(&b);
    return rc;
}

static int on_evidence(void *arg, int status, const void *p, size_t len, struct st_err *e)
{
    struct st_gateway_node *n = arg;
    (void)status;
    st_buf_add(&n->reply, p, len);
    return n->reply.failed ? st_fail(e, ST_MEMORY, "no memory") : 0;
}

static void round_step(struct st_gateway_nodes *ns)
{
    if (--ns->n_asking)
        return;
    event_del(ns->late);
    ns->done(ns->arg);
}

static void miss(struct st_gateway_node *n, const char *why)
{
    n->healthy = false;
    if (++n->missed >= MISSED_MAX || !n->listed)
        unlist(n, why);
}

static void on_evidence_end(void *arg, int status, const struct st_err *err)
{
    struct st_gateway_node *n = arg;
    struct st_err e;
    n->asking = NULL;
    if (!err && status == 200) {
        n->missed = 0;
        if (take_evidence(n, &e))
            unlist(n, e.msg);
    } else {
        if (err)
            st_fail(&e, ST_IO, "it cannot be asked for evidence: %s", err->msg);
        else
            st_fail(&e, ST_IO, "it gives no evidence: status %d", status);
        miss(n, e.msg);
    }
    st_buf_free(&n->reply);
    round_step(n->of);
}

/* One node that is slow, or wants to be, must not keep the others' evidence from being renewed. */
static void on_late(evutil_socket_t fd, short what, void *arg)
{
    struct st_gateway_nodes *ns = arg;
    size_t n_late = 0;
    (void)fd;
    (void)what;
    for (size_t i = 0; i < ns->n; i++) {
        struct st_gateway_node *n = &ns->node[i];
        if (!n->asking)
            continue;
        st_http_call_cancel(n->asking);
        n->asking = NULL;
        st_buf_free(&n->reply);
        miss(n, "it cannot be asked for evidence: it takes too long");
        n_late++;
    }
    while (n_late--)
        round_step(ns);
}

static int ask(struct st_gateway_node *n, const char *nonce, struct st_err *e)
{
    struct st_buf body = {0};
    st_buf_addf(&body, "{\"nonce\":\"%s\"}", nonce);
    const struct st_http_call_opts o = {.url = n->attest_url,
                                        .direct = true,
                                        .body = &body,
                                        .stall_s = ASK_STALL_S,
                                        .max_reply = ST_EVIDENCE_MAX_BYTES,
                                        .data = on_evidence,
                                        .end = on_evidence_end,
                                        .arg = n};
    int rc = st_http_call_start(n->of->g->http, &o, &n->asking, e);
    st_buf_free(&body);
    return rc;
}

void st_gateway_nodes_attest(struct st_gateway_nodes *ns, const struct st_witnessed *w, struct st_span note,
                             void (*done)(void *arg), void *arg)
{
    char nonce[65];
    struct st_err e;
    if (ns->n_asking)
        return;
    ns->done = done;
    ns->arg = arg;
    memcpy(ns->nonce, w->digest, sizeof ns->nonce);
    ns->nonce_time = w->time;
    st_buf_clear(&ns->note);
    st_base64_encode(note.p, note.len, &ns->note);
    st_hex(ns->nonce, sizeof ns->nonce, nonce);
    ns->n_asking = 1; /* this loop's own */
    const double most = ns->g->o.attest_s;
    event_add(ns->late, &(struct timeval){(time_t)most, (suseconds_t)((most - (double)(time_t)most) * 1e6)});
    for (size_t i = 0; i < ns->n; i++) {
        ns->n_asking++;
        if (ask(&ns->node[i], nonce, &e)) {
            unlist(&ns->node[i], e.msg);
            ns->n_asking--;
        }
    }
    round_step(ns);
}

int st_gateway_node_same_keys(const struct st_gateway_node *n, struct st_span bytes, struct st_err *e)
{
    struct st_bundle b = {0};
    int rc = read_keys(bytes, &b, e);
    if (rc)
        return rc;
    bool same = false;
    for (size_t i = 0; i < n->n_kept; i++)
        same = same || same_keys(&n->kept[i], &b.binding);
    st_bundle_free(&b);
    return same ? 0 : st_fail(e, ST_INPUT, "its keys are not those of the directory");
}

/* ---- health ---- */

static void on_health_end(void *arg, int status, const struct st_err *err)
{
    struct st_gateway_node *n = arg;
    n->health = NULL;
    bool healthy = !err && status == 200;
    if (n->listed && healthy != n->healthy)
        st_log(ST_LOG_INFO, "node %s is %s", n->url, healthy ? "up" : "down");
    n->healthy = healthy;
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    struct st_gateway_nodes *ns = arg;
    struct st_err e;
    (void)fd;
    (void)what;
    for (size_t i = 0; i < ns->n; i++) {
        struct st_gateway_node *n = &ns->node[i];
        const struct st_http_call_opts o = {.url = n->health_url,
                                            .direct = true,
                                            .stall_s = HEALTH_STALL_S,
                                            .max_reply = 4096,
                                            .end = on_health_end,
                                            .arg = n};
        if (!n->health && st_http_call_start(ns->g->http, &o, &n->health, &e))
            n->healthy = false;
    }
}

/* ---- life ---- */

static int no_twins(const struct st_gateway_nodes *ns, size_t i, struct st_err *e)
{
    for (size_t k = 0; k < i; k++)
        if (strcmp(ns->node[k].url, ns->node[i].url) == 0)
            return st_fail(e, ST_USAGE, "node %s is there twice", ns->node[i].url);
    return 0;
}

int st_gateway_nodes_new(struct st_gateway *g, struct st_gateway_nodes **out, struct st_err *e)
{
    struct st_gateway_nodes *ns = NULL;
    *out = NULL;
    if (!g->o.n_node || g->o.n_node > ST_DIRECTORY_MAX_NODES)
        return st_fail(e, ST_USAGE, "want 1 to %d nodes (--node, --nodes)", ST_DIRECTORY_MAX_NODES);
    if (st_alloc(&ns, 1, sizeof *ns, "nodes", e))
        return e->code;
    ns->g = g;
    *out = ns; /* freed by the caller, whatever comes */
    if (st_alloc(&ns->node, g->o.n_node, sizeof *ns->node, "nodes", e))
        return e->code;
    for (ns->n = 0; ns->n < g->o.n_node; ns->n++)
        if (node_init(&ns->node[ns->n], ns, g->o.nodes[ns->n], e) || no_twins(ns, ns->n, e)) {
            ns->n++; /* what is half made is freed, too */
            return e->code;
        }
    const struct timeval every = {(time_t)g->o.health_s,
                                  (suseconds_t)((g->o.health_s - (double)(time_t)g->o.health_s) * 1e6)};
    ns->timer = event_new(g->base, -1, EV_PERSIST, on_timer, ns);
    ns->late = event_new(g->base, -1, 0, on_late, ns);
    if (!ns->late || !ns->timer || event_add(ns->timer, &every) != 0)
        return st_fail(e, ST_MEMORY, "timer: no memory");
    return 0;
}

void st_gateway_nodes_free(struct st_gateway_nodes *ns)
{
    if (!ns)
        return;
    for (size_t i = 0; i < ns->n; i++) {
        struct st_gateway_node *n = &ns->node[i];
        if (n->asking)
            st_http_call_cancel(n->asking);
        if (n->health)
            st_http_call_cancel(n->health);
        while (n->n_kept)
            bundle_wipe(&n->kept[--n->n_kept]);
        st_buf_free(&n->reply);
        free(n->url);
        free(n->infer_url);
        free(n->attest_url);
        free(n->health_url);
    }
    if (ns->timer)
        event_free(ns->timer);
    if (ns->late)
        event_free(ns->late);
    st_buf_free(&ns->note);
    free(ns->node);
    free(ns);
}

/* ---- what others read ---- */

struct st_gateway_node *st_gateway_node_find(struct st_gateway_nodes *ns, const uint8_t id[ST_NODE_ID])
{
    for (size_t i = 0; i < ns->n; i++)
        if (memcmp(ns->node[i].id, id, ST_NODE_ID) == 0)
            return ns->node[i].listed ? &ns->node[i] : NULL;
    return NULL;
}

static bool has_tag(const struct st_gateway_node *n, const char *tag)
{
    for (size_t i = 0; i < n->n_tag; i++)
        if (strcmp(n->tags[i], tag) == 0)
            return true;
    return false;
}

void st_gateway_nodes_list(const struct st_gateway_nodes *ns, const struct st_gateway_request *r, struct st_buf *out)
{
    bool first = true;
    st_buf_add_str(out, "{\"version\":1,\"nodes\":[");
    for (size_t i = 0; i < ns->n; i++) {
        const struct st_gateway_node *n = &ns->node[i];
        char id[2 * ST_NODE_ID + 1], digest[65];
        bool wanted = n->listed;
        for (size_t k = 0; wanted && k < r->n_tag; k++)
            wanted = has_tag(n, r->tags[k]);
        if (!wanted)
            continue;
        st_hex(n->id, ST_NODE_ID, id);
        st_hex(n->kept[0].digest, 32, digest);
        st_buf_addf(out, "%s{\"id\":\"%s\",\"up\":%s,\"bundle\":\"%s\"}", first ? "" : ",", id,
                    n->healthy ? "true" : "false", digest);
        first = false;
    }
    st_buf_add_str(out, "]}");
}

void st_gateway_nodes_status(const struct st_gateway_nodes *ns, struct st_buf *out)
{
    for (size_t i = 0; i < ns->n; i++) {
        const struct st_gateway_node *n = &ns->node[i];
        char id[2 * ST_NODE_ID + 1];
        st_hex(n->id, ST_NODE_ID, id);
        st_buf_addf(out, "%s{\"id\":\"%s\",\"url\":", i ? "," : "", id);
        st_json_quote(out, n->url, strlen(n->url));
        st_buf_addf(out, ",\"listed\":%s,\"up\":%s,\"why\":", n->listed ? "true" : "false",
                    n->listed && n->healthy ? "true" : "false");
        st_json_quote(out, n->why, strlen(n->why));
        st_buf_add_str(out, "}");
    }
}

size_t st_gateway_nodes_rows(const struct st_gateway_nodes *ns, struct st_directory_node *out)
{
    size_t n = 0;
    for (size_t i = 0; i < ns->n; i++) {
        const struct st_gateway_node *from = &ns->node[i];
        if (!from->listed)
            continue;
        struct st_directory_node *row = &out[n++];
        memcpy(row->id, from->id, ST_NODE_ID);
        memcpy(row->tags, from->tags, sizeof row->tags);
        row->n_tag = from->n_tag;
        memcpy(row->bundle, from->kept[0].digest, 32);
    }
    return n;
}

size_t st_gateway_nodes_up(const struct st_gateway_nodes *ns, size_t *listed)
{
    size_t up = 0;
    *listed = 0;
    for (size_t i = 0; i < ns->n; i++) {
        *listed += ns->node[i].listed;
        up += ns->node[i].listed && ns->node[i].healthy;
    }
    return up;
}
