#include "base/file.h"
#include "base/log.h"
#include "channel/confidential.h"
#include "service/api_keys.h"
#include "service/gateway_priv.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What encapsulation adds to a request: both heads, chunk lengths and tags, and the fields beside the content. */
#define MAX_SEALING (128u << 10)
#define TEXT(z) ((struct st_span){(const uint8_t *)(z), strlen(z)})
#define NO_FIELDS ((struct st_bhttp_fields){0})

/* ---- one request ---- */

/* 0 when the message is whole; what it says is in r then. */
static int open_request(struct st_gateway_exchange *ex, struct st_gateway_request *r, struct st_err *e)
{
    struct st_span in = st_http_body(ex->conn), text;
    int rc = st_gateway_request_init(r, e);
    while (!rc && in.len) {
        rc = st_ohttp_open(&ex->x, &in, &text, e);
        if (!rc && text.len)
            st_gateway_request_add(r, text);
    }
    if (!rc)
        rc = st_ohttp_open_end(&ex->x, &text, e);
    if (rc)
        return rc;
    st_gateway_request_add(r, text);
    st_gateway_request_end(r);
    return 0;
}

static void answer_list(struct st_gateway_exchange *ex, const struct st_gateway_request *r)
{
    struct st_buf text = {0};
    st_gateway_nodes_list(ex->g->nodes, r, &text);
    ex->g->n.lists++;
    if (text.failed)
        st_gateway_refuse(ex, 503, "busy", NO_FIELDS);
    else
        st_gateway_answer(ex, &(struct st_gateway_answer){.status = 200, .content = {(uint8_t *)text.p, text.len}});
    st_buf_free(&text);
}

static const struct st_gateway_bundle *find_bundle(struct st_gateway *g, const struct st_gateway_request *r)
{
    const struct st_gateway_node *n = st_gateway_node_find(g->nodes, r->node);
    if (!n)
        return NULL;
    if (!r->has_bundle)
        return &n->kept[0];
    for (size_t i = 0; i < n->n_kept; i++)
        if (memcmp(n->kept[i].digest, r->bundle, sizeof r->bundle) == 0)
            return &n->kept[i];
    return NULL;
}

static void answer_bundle(struct st_gateway_exchange *ex, const struct st_gateway_request *r)
{
    const struct st_gateway_bundle *b = find_bundle(ex->g, r);
    ex->g->n.bundles++;
    if (!b) {
        st_gateway_refuse(ex, 404, "no_such_node", NO_FIELDS);
        return;
    }
    const struct st_bhttp_field note = {TEXT(ST_GATEWAY_FIELD_CHECKPOINT), {(uint8_t *)b->note.p, b->note.len}};
    st_gateway_answer(ex, &(struct st_gateway_answer){
                              .status = 200, .content = {(uint8_t *)b->bytes.p, b->bytes.len}, .fields = {&note, 1}});
}

static void answer_request(struct st_gateway_exchange *ex, struct st_gateway_request *r)
{
    struct st_gateway *g = ex->g;
    g->n.opened++;
    g->n.bytes_in += st_http_body(ex->conn).len;
    if (r->wrong) {
        g->n.wrong++;
        st_gateway_refuse(ex, r->wrong, r->word, NO_FIELDS);
    } else if (r->what == ST_GATEWAY_LIST)
        answer_list(ex, r);
    else if (r->what == ST_GATEWAY_BUNDLE)
        answer_bundle(ex, r);
    else
        st_gateway_forward(ex, r);
}

/* Whatever does not open gets the same reply. */
static void on_message(struct st_gateway *g, struct st_http_conn *c)
{
    struct st_gateway_exchange ex = {.g = g, .conn = c};
    struct st_gateway_request r = {0};
    struct st_err e;
    st_ohttp_server(&ex.x, ST_OHTTP_CHUNKED, g->keys, 0);
    if (open_request(&ex, &r, &e) == 0)
        answer_request(&ex, &r);
    else {
        g->n.unopened++;
        st_role_refuse(c, 400);
    }
    st_gateway_request_wipe(&r);
    st_ohttp_wipe(&ex.x);
}

static void put_status(struct st_gateway *g, struct st_http_conn *c)
{
    struct st_buf b = {0};
    st_buf_addf(&b, "{\"name\":\"%s\",\"ready\":%s,\"streams\":%u,\"key_used\":%.6f,\"nodes\":[", g->o.name,
                st_gateway_directory_ready(g->directory) ? "true" : "false", g->n_trip, st_keyring_used(g->keys));
    st_gateway_nodes_status(g->nodes, &b);
    st_buf_add_str(&b, "]}");
    if (b.failed)
        st_role_refuse(c, 503);
    else
        st_http_reply(c, 200, "Cache-Control: no-store\r\n", "application/json", b.p, b.len);
    st_buf_free(&b);
}

static bool is_post(const struct st_http_conn *c)
{
    return strcmp(st_http_method(c), "POST") == 0 && strcmp(st_http_path(c), "/") == 0;
}

static void on_request(void *arg, struct st_http_conn *c)
{
    struct st_gateway *g = arg;
    const char *type = st_http_field(c, "content-type");
    if (is_post(c) && type && strcmp(type, st_ohttp_request_type(ST_OHTTP_CHUNKED)) == 0)
        on_message(g, c);
    else if (is_post(c)) {
        g->n.unopened++;
        st_role_refuse(c, 400);
    } else if (strcmp(st_http_method(c), "GET") == 0 && strcmp(st_http_path(c), "/status") == 0 && st_role_is_local(c))
        put_status(g, c);
    else
        st_role_refuse(c, 404);
}

static bool refuses_head(void *arg, const struct st_http_conn *c)
{
    (void)arg;
    return !is_post(c);
}

static bool is_ready(void *arg)
{
    const struct st_gateway *g = arg;
    return st_gateway_directory_ready(g->directory);
}

static void put_metrics(void *arg, struct st_buf *b)
{
    const struct st_gateway *g = arg;
    size_t listed, up = st_gateway_nodes_up(g->nodes, &listed);
    const struct {
        const char *name, *type, *help;
        uint64_t value;
    } rows[] = {
        {"requests_total", "counter", "Messages that opened.", g->n.opened},
        {"unopened_total", "counter", "Messages that did not open.", g->n.unopened},
        {"wrong_total", "counter", "Messages that opened and are no request.", g->n.wrong},
        {"lists_total", "counter", "Lists of nodes given.", g->n.lists},
        {"bundles_total", "counter", "Evidence bundles asked for.", g->n.bundles},
        {"forwarded_total", "counter", "Requests sent to nodes.", g->n.paid},
        {"challenges_total", "counter", "Challenges sent to nodes.", g->n.challenges},
        {"token_bad_total", "counter", "Tokens that no key of the directory has signed.", g->n.token_bad},
        {"token_spent_total", "counter", "Tokens that were spent before.", g->n.token_spent},
        {"token_small_total", "counter", "Tokens that are not enough.", g->n.token_small},
        {"busy_total", "counter", "Requests refused for want of room.", g->n.busy},
        {"spent_failures_total", "counter", "Requests refused because the database of spent tokens failed.",
         g->n.spent_failed},
        {"node_failures_total", "counter", "Requests that a node did not answer.", g->n.node_failed},
        {"cut_total", "counter", "Replies that ended with their token.", g->n.cut},
        {"broken_total", "counter", "Replies that a node broke off.", g->n.broken},
        {"gone_total", "counter", "Requests that the relay left before their end.", g->n.gone},
        {"units_total", "counter", "Units charged.", g->n.units},
        {"changes_total", "counter", "Changes that the issuer gave.", g->n.changes},
        {"change_failures_total", "counter", "Changes that could not be had.", g->n.changes_failed},
        {"received_bytes_total", "counter", "Bytes of messages that opened.", g->n.bytes_in},
        {"sent_bytes_total", "counter", "Bytes of sealed replies.", g->n.bytes_out},
        {"streams", "gauge", "Paid requests under way.", g->n_trip},
        {"nodes_listed", "gauge", "Nodes whose evidence is good.", listed},
        {"nodes_up", "gauge", "Those of them that answer.", up},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char name[64];
        snprintf(name, sizeof name, "sotto_gateway_%s", rows[i].name);
        st_role_count(b, name, rows[i].type, rows[i].help, rows[i].value);
    }
}

/* ---- life ---- */

static void set_defaults(struct st_gateway_opts *o)
{
    o->unit_bytes = o->unit_bytes ? o->unit_bytes : 64u << 10;
    o->refresh_s = o->refresh_s > 0 ? o->refresh_s : 60;
    o->evidence_s = o->evidence_s > 0 ? o->evidence_s : 300;
    o->attest_s = o->attest_s > 0 ? o->attest_s : 60;
    o->health_s = o->health_s > 0 ? o->health_s : 5;
    o->rotate_s = o->rotate_s > 0 ? o->rotate_s : 86400;
    o->keep_key_s = o->keep_key_s > 0 ? o->keep_key_s : 3600;
    o->max_streams = o->max_streams ? o->max_streams : 4096;
    o->max_requests = o->max_requests ? o->max_requests : 1u << 20;
    o->connect_s = o->connect_s > 0 ? o->connect_s : 3;
    o->stall_s = o->stall_s > 0 ? o->stall_s : 300;
}

static int read_policy(struct st_gateway *g, struct st_err *e)
{
    struct st_buf b = {0};
    int rc = st_file_read(g->o.policy, ST_POLICY_MAX_BYTES, &b, e);
    if (!rc)
        rc = st_policy_parse(b.p, b.len, g->o.policy, &g->policy, e);
    st_buf_free(&b);
    if (!rc && st_policy_signature_only(g->policy))
        rc = st_fail(e, ST_POLICY, "%s: signature_only judges no node; want a policy that requires evidence",
                     g->o.policy);
    return rc;
}

static int read_peers(struct st_gateway *g, struct st_err *e)
{
    char *issuer = NULL;
    if (st_http_base_for_key("--log", g->o.log, &g->log_url, e) ||
        st_http_base_for_key("--issuer", g->o.issuer, &issuer, e) ||
        st_api_key_first(g->o.log_key_file, &g->log_key, e) ||
        st_api_key_first(g->o.issuer_key_file, &g->issuer_key, e)) {
        free(issuer);
        return e->code;
    }
    if (asprintf(&g->refund_url, "%s" ST_ISSUER_PATH_REFUND, issuer) < 0)
        g->refund_url = NULL;
    free(issuer);
    return g->refund_url ? 0 : st_fail(e, ST_MEMORY, "no memory");
}

static int make_keys(struct st_gateway *g, struct st_err *e)
{
    const struct st_keyring_opts o = {
        .kem = ST_HPKE_KEM_X25519, .aeads = {ST_AEAD_AES_128_GCM}, .n_aeads = 1, .max_requests = g->o.max_requests};
    return st_keyring_new(&o, &g->keys, e);
}

static int set_up(struct st_gateway *g, struct st_err *e)
{
    struct st_gateway_opts *o = &g->o;
    const struct st_http_client_opts h = {.ca_bundle = o->ca_bundle, .connect_s = o->connect_s, .max_idle = 1024};
    if (!st_directory_name_good(o->name))
        return st_fail(e, ST_USAGE, "--name: want 1 to %d letters, digits, '.', '-' or '_', got '%s'",
                       ST_DIRECTORY_MAX_NAME, o->name);
    if (read_policy(g, e) || read_peers(g, e) || make_keys(g, e) || st_role_new(&g->role, e))
        return e->code;
    g->base = st_role_base(g->role);
    if (st_http_client_new(g->base, &h, &g->http, e) || st_spent_open(g->base, &o->spent, &g->spent, e) ||
        st_gateway_nodes_new(g, &g->nodes, e) || st_gateway_directory_new(g, &g->directory, e))
        return e->code;
    o->listen.max_body = ST_CONFIDENTIAL_MAX_REQUEST + MAX_SEALING;
    o->listen.request = on_request;
    o->listen.refuses_head = refuses_head;
    o->listen.metrics = put_metrics;
    o->listen.ready = is_ready;
    o->listen.arg = g;
    return st_role_listen(g->role, &o->listen, e);
}

int st_gateway_new(const struct st_gateway_opts *o, struct st_gateway **out, struct st_err *e)
{
    struct st_gateway *g = NULL;
    *out = NULL;
    if (st_alloc(&g, 1, sizeof *g, "gateway", e))
        return e->code;
    g->o = *o;
    set_defaults(&g->o);
    if (set_up(g, e)) {
        st_gateway_free(g);
        return e->code;
    }
    *out = g;
    return 0;
}

struct st_role *st_gateway_role(struct st_gateway *g)
{
    return g->role;
}

void st_gateway_free(struct st_gateway *g)
{
    if (!g)
        return;
    st_role_close(g->role); /* every trip goes with its connection */
    st_gateway_directory_free(g->directory);
    st_gateway_nodes_free(g->nodes);
    st_spent_close(g->spent);
    st_http_client_free(g->http);
    st_policy_free(g->policy);
    st_keyring_free(g->keys);
    st_role_free(g->role);
    st_buf_wipe(&g->log_key);
    st_buf_wipe(&g->issuer_key);
    st_buf_wipe(&g->text);
    st_buf_wipe(&g->out);
    free(g->log_url);
    free(g->refund_url);
    free(g);
}
