#include "service/conf_node.h"
#include "base/hooks.h"
#include "channel/confidential.h"
#include "crypto/digest.h"
#include "service/conf_evidence.h"
#include "text/base64.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RETRY_MAX_S 60

int st_conf_node_new(struct st_conf_judge *j, const struct st_directory_node *d, struct st_conf_node **out,
                     struct st_err *e)
{
    int rc = st_alloc(out, 1, sizeof **out, "node", e);
    if (rc)
        return rc;
    (*out)->j = j;
    (*out)->listed = *d;
    (*out)->in_directory = true;
    snprintf((*out)->why, sizeof(*out)->why, "its evidence was not fetched yet");
    return 0;
}

static void leave_exchange(struct st_conf_node *n)
{
    n->x = NULL;
    n->j->n_busy--;
}

void st_conf_node_free(struct st_conf_node *n)
{
    if (!n)
        return;
    if (n->x) {
        st_conf_exchange_cancel(n->x);
        leave_exchange(n);
    }
    st_buf_free(&n->note);
    st_buf_free(&n->body);
    st_bundle_free(&n->bundle);
    json_decref(n->checks);
    free(n);
}

/* ---- the verdict ---- */

static const char *const results[] = {"fail", "pass", "absent"};

static void keep_checks(struct st_conf_node *n, const struct st_verdict *v)
{
    json_decref(n->checks);
    n->checks = json_array();
    for (size_t i = 0; i < v->found.n_check; i++) {
        const struct st_check *c = &v->found.checks[i];
        json_t *detail = json_string(c->detail); /* NULL when it is not UTF-8 */
        json_array_append_new(n->checks, json_pack("{s:s, s:s, s:o}", "name", c->name, "result", results[c->result],
                                                   "detail", detail ? detail : json_string("not printable")));
    }
}

static bool is_measurement(const struct st_verdict *v, const char *check)
{
    return strncmp(check, "policy.", 7) == 0 && st_appraisal_find_claim(&v->found, check + 7) != NULL;
}

/* Why a verdict is not good, as one word and one line. */
static void explain(struct st_conf_node *n, const struct st_verdict *v)
{
    const struct st_check *first = NULL;
    bool only_age = true, measurement = false;
    for (size_t i = 0; i < v->found.n_check; i++) {
        const struct st_check *c = &v->found.checks[i];
        if (st_policy_tolerates(n->j->policy, c))
            continue;
        first = first ? first : c;
        only_age = only_age && strcmp(c->name, "policy.max_age_s") == 0;
        measurement = measurement || is_measurement(v, c->name);
    }
    n->fault = !first                       ? ST_FAULT_INTEGRITY
               : only_age                   ? ST_FAULT_STALE
               : v->code == ST_VERIFY       ? ST_FAULT_INTEGRITY
               : measurement && n->was_good ? ST_FAULT_MEASUREMENT
                                            : ST_FAULT_POLICY;
    snprintf(n->why, sizeof n->why, "%.80s: %.160s", first ? first->name : "verdict", first ? first->detail : "none");
}

static struct st_judge question(const struct st_conf_node *n, int64_t now)
{
    return (struct st_judge){.policy = n->j->policy,
                             .bundle = &n->bundle,
                             .time = now,
                             .nonce = {n->nonce, sizeof n->nonce},
                             .nonce_time = n->nonce_time};
}

static void use_keys(struct st_conf_node *n)
{
    const struct st_binding *b = &n->bundle.binding;
    n->key = (struct st_ohttp_config){
        .id = b->hpke_key[0], .kem = b->suite.kem, .suites = {{b->suite.kdf, b->suite.aead}}, .n_suites = 1};
    memcpy(n->key.public, b->hpke_key, b->hpke_key_len);
    n->scheme[0] = 0;
    for (size_t i = 0; i < n->bundle.n_item; i++) {
        size_t at = strlen(n->scheme);
        snprintf(n->scheme + at, sizeof n->scheme - at, "%s%s", i ? "+" : "", n->bundle.items[i].kind);
    }
}

/* Sets state, fault and reason. */
static void judge(struct st_conf_node *n)
{
    int64_t now = st_unix_time();
    const struct st_judge q = question(n, now);
    const struct st_verdict *v;
    struct st_err e;
    n->j->n_verified++;
    n->judged = now;
    n->state = ST_CONF_BAD;
    if (st_verdict_cache_judge(n->j->cache, n->digest, &q, &v, &e)) {
        n->fault = ST_FAULT_INTEGRITY;
        snprintf(n->why, sizeof n->why, "%.200s", e.msg);
    } else {
        keep_checks(n, v);
        if (!v->good)
            explain(n, v);
        else {
            use_keys(n);
            n->why[0] = 0;
            n->was_good = true;
            n->state = ST_CONF_GOOD; /* the one line */
        }
    }
    n->j->n_failed += n->state != ST_CONF_GOOD;
}

/* ---- fetching ---- */

static void fetch_done(struct st_conf_node *n)
{
    st_buf_free(&n->body);
    n->done(n->arg, n);
}

/* No verdict could be reached: later again. */
static void fetch_failed(struct st_conf_node *n, enum st_passage_fault fault, const char *why)
{
    double wait = 1u << (n->n_try < 6 ? n->n_try : 6);
    n->n_try++;
    n->retry_at = st_now() + (wait < RETRY_MAX_S ? wait : RETRY_MAX_S);
    n->state = ST_CONF_WANTED;
    n->fault = fault;
    n->j->n_failed += fault == ST_FAULT_INTEGRITY;
    snprintf(n->why, sizeof n->why, "%.240s", why);
    fetch_done(n);
}

static int on_data(void *arg, unsigned status, struct st_span piece, struct st_err *e)
{
    struct st_conf_node *n = arg;
    (void)status;
    st_buf_add(&n->body, piece.p, piece.len);
    return n->body.failed ? st_fail(e, ST_MEMORY, "no memory for evidence") : 0;
}

/* Status and error of a fetch; true when its content is worth reading. */
static bool fetched(struct st_conf_node *n, unsigned status, const struct st_err *e)
{
    char why[64];
    if (e) {
        fetch_failed(n,
                     e->code == ST_VERIFY || e->code == ST_INPUT ? ST_FAULT_INTEGRITY
                     : e->code == ST_POLICY                      ? ST_FAULT_POLICY
                                                                 : ST_FAULT_NETWORK,
                     e->msg);
        return false;
    }
    snprintf(why, sizeof why, "the gateway answers with status %u for its evidence", status);
    if (status != 200)
        fetch_failed(n, ST_FAULT_NETWORK, why);
    return status == 200;
}

static void on_challenged(void *arg, unsigned status, const struct st_err *e)
{
    struct st_conf_node *n = arg;
    struct st_bundle fresh = {0};
    struct st_err err = {0};
    leave_exchange(n);
    if (!fetched(n, status, e))
        return;
    const struct st_binding *was = &n->bundle.binding, *is = &fresh.binding;
    if (st_conf_bundle_read((struct st_span){(uint8_t *)n->body.p, n->body.len}, &fresh, &err)) {
        fetch_failed(n, ST_FAULT_INTEGRITY, err.msg);
        return;
    }
    if (memcmp(was->hpke_key, is->hpke_key, sizeof was->hpke_key) != 0 ||
        memcmp(was->receipt_key, is->receipt_key, sizeof was->receipt_key) != 0) {
        st_bundle_free(&fresh);
        fetch_failed(n, ST_FAULT_INTEGRITY, "challenged, the node shows other keys than the directory");
        return;
    }
    st_bundle_free(&n->bundle);
    n->bundle = fresh;
    st_buf_clear(&n->note);
    st_sha256(n->body.p, n->body.len, n->digest);
    judge(n);
    n->n_try = 0;
    fetch_done(n);
}

/* The passport is good: now evidence with a nonce of our own. */
static void challenge(struct st_conf_node *n)
{
    struct st_conf_way *way = n->j->way;
    struct st_buf ask = {0};
    struct st_err e;
    char path[96], id[2 * ST_NODE_ID + 1], hex[65];
    int rc = st_random(n->nonce, sizeof n->nonce, &e);
    n->nonce_time = st_unix_time();
    st_hex(n->nonce, sizeof n->nonce, hex);
    st_hex(n->listed.id, ST_NODE_ID, id);
    snprintf(path, sizeof path, ST_GATEWAY_PATH_NODES "/%s/attest", id);
    st_buf_addf(&ask, "{\"nonce\": \"%s\"}", hex);
    const struct st_conf_exchange_opts o = {.method = "POST",
                                            .path = path,
                                            .content = &ask,
                                            .units = way->price_request + 8,
                                            .max_reply = ST_EVIDENCE_MAX_BYTES,
                                            .data = on_data,
                                            .end = on_challenged,
                                            .arg = n};
    st_buf_free(&n->body);
    n->state = ST_CONF_CHALLENGING;
    if (!rc)
        rc = st_conf_exchange_start(way, &o, &n->x, &e);
    st_buf_free(&ask);
    if (rc)
        fetch_failed(n, ST_FAULT_NETWORK, e.msg);
    else
        n->j->n_busy++;
}

static void on_bundle(void *arg, unsigned status, const struct st_err *e)
{
    struct st_conf_node *n = arg;
    struct st_err err = {0};
    const struct st_conf_exchange *x = n->x;
    leave_exchange(n);
    if (!fetched(n, status, e))
        return;
    struct st_span note = {0};
    struct st_conf_evidence ev;
    if (!st_conf_exchange_field(x, false, ST_GATEWAY_FIELD_CHECKPOINT, &note))
        note.len = 0;
    if (st_conf_evidence_open((struct st_span){(uint8_t *)n->body.p, n->body.len}, n->listed.bundle, note, n->j->policy,
                              st_unix_time(), &ev, &err)) {
        fetch_failed(n, ST_FAULT_INTEGRITY, err.msg);
        return;
    }
    st_bundle_free(&n->bundle);
    n->bundle = ev.bundle;
    memcpy(n->digest, ev.digest, sizeof n->digest);
    memcpy(n->nonce, ev.nonce, sizeof n->nonce);
    n->nonce_time = ev.nonce_time;
    st_buf_clear(&n->note);
    if (!st_base64_decode((const char *)note.p, note.len, &n->note)) /* it was read once, by st_conf_evidence_open() */
        st_buf_clear(&n->note);
    judge(n);
    if (n->state == ST_CONF_GOOD && n->j->challenge) {
        challenge(n); /* paid: one that fails waits longer each time */
        return;
    }
    n->n_try = 0;
    fetch_done(n);
}

void st_conf_node_fetch(struct st_conf_node *n)
{
    struct st_err e;
    char path[160], id[2 * ST_NODE_ID + 1], bundle[65];
    st_hex(n->listed.id, ST_NODE_ID, id);
    st_hex(n->listed.bundle, 32, bundle);
    snprintf(path, sizeof path, ST_GATEWAY_PATH_NODES "/%s?bundle=%s", id, bundle);
    const struct st_conf_exchange_opts o = {
        .method = "GET", .path = path, .max_reply = ST_EVIDENCE_MAX_BYTES, .data = on_data, .end = on_bundle, .arg = n};
    n->state = ST_CONF_FETCHING;
    if (st_conf_exchange_start(n->j->way, &o, &n->x, &e)) {
        n->state = ST_CONF_WANTED;
        n->retry_at = st_now() + 1;
        snprintf(n->why, sizeof n->why, "%.240s", e.msg);
    } else
        n->j->n_busy++;
}

/* ---- later ---- */

bool st_conf_node_stands(struct st_conf_node *n)
{
    if (n->state != ST_CONF_GOOD)
        return false;
    const struct st_judge q = question(n, st_unix_time());
    if (!st_verdict_cache_find(n->j->cache, n->digest, &q))
        st_conf_node_again(n);
    return n->state == ST_CONF_GOOD;
}

void st_conf_node_again(struct st_conf_node *n)
{
    if (n->state != ST_CONF_GOOD && n->state != ST_CONF_BAD)
        return;
    judge(n);
    /* An answer to a challenge grows old; another one can be had. */
    if (n->state == ST_CONF_BAD && n->fault == ST_FAULT_STALE && n->j->challenge)
        n->state = ST_CONF_WANTED;
}

void st_conf_node_doubt(struct st_conf_node *n, const char *why)
{
    if (n->state != ST_CONF_GOOD)
        return;
    n->state = ST_CONF_WANTED;
    n->fault = ST_FAULT_INTEGRITY;
    n->retry_at = st_now() + 1;
    snprintf(n->why, sizeof n->why, "%.240s", why);
}
