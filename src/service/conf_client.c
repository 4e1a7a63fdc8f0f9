#include "service/conf_client.h"
#include "base/file.h"
#include "base/hooks.h"
#include "channel/confidential.h"
#include "service/conf_receipts.h"
#include "service/conf_request.h"

#include <stdlib.h>
#include <string.h>

#include <openssl/crypto.h>

enum {
    STALL_S = 300,
    CONNECT_S = 10,
    MAX_IDLE = 1024,   /* connections: with fewer than streams at once, each stream's end would close one */
    STOCK_UNITS = 256, /* that the wallet should hold */
};

static void client_info(struct st_passage *p, bool detail, struct st_passage_info *out)
{
    *out = (struct st_passage_info){.scheme = st_conf_nodes_scheme(p->nodes),
                                    .n_running = p->n_live,
                                    .retries = p->n_retry,
                                    .receipts = p->n_receipt,
                                    .units = st_wallet_units(p->way.wallet)};
    const char **models;
    out->n_model = st_conf_nodes_models(p->nodes, &models);
    out->models = models;
    out->state = st_conf_nodes_state(p->nodes, &out->why);
    out->ready = strcmp(out->state, "ok") == 0;
    out->verified = out->ready ? "evidence" : "no";
    if (out->ready && out->units < p->way.price_request) {
        out->ready = false;
        out->state = "policy";
        out->why = "the wallet holds no token yet";
    }
    st_conf_nodes_counts(p->nodes, &out->verifications, &out->verification_failures);
    out->verification_failures += p->n_failed;
    if (!detail)
        return;
    out->detail = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "units", (json_int_t)out->units, "units_charged",
                            (json_int_t)p->way.units_charged, "price_request", (json_int_t)p->way.price_request,
                            "unit_bytes", (json_int_t)p->way.unit_bytes, "messages_sent", (json_int_t)p->way.n_sent,
                            "bytes_up", (json_int_t)p->way.bytes_up, "bytes_down", (json_int_t)p->way.bytes_down);
    if (out->detail)
        st_conf_nodes_detail(p->nodes, out->detail);
}

static void client_free(struct st_passage *p)
{
    if (!p)
        return;
    while (p->requests)
        st_conf_request_cancel(p, p->requests);
    st_conf_nodes_free(p->nodes);
    if (p->way.wallet)
        st_wallet_close(p->way.wallet);
    st_spares_free(p->way.spares);
    st_http_client_free(p->way.http);
    st_policy_free(p->policy);
    free(p->way.relay);
    OPENSSL_cleanse(p->secret, sizeof p->secret);
    free(p);
}

static const struct st_passage_type vtable = {st_conf_request_start, st_conf_request_cancel, st_conf_request_pause,
                                              client_info, client_free};

static int open_policy(struct st_passage *p, struct st_err *e)
{
    struct st_buf b = {0};
    const char *path = p->o.policy;
    int rc = st_file_read(path, ST_POLICY_MAX_BYTES, &b, e);
    if (!rc)
        rc = st_policy_parse(b.p, b.len, path, &p->policy, e);
    st_buf_free(&b);
    if (!rc && st_policy_signature_only(p->policy))
        rc = st_fail(e, ST_POLICY, "%.200s: signature_only is for `sotto attest verify`; nothing may rest on it", path);
    if (!rc && !st_policy_log(p->policy))
        rc = st_fail(e, ST_POLICY,
                     "%.200s: names no log: without one, keys could be made for you alone (docs/attestation.md)", path);
    if (!rc && !st_policy_pins(p->policy))
        rc = st_fail(e, ST_POLICY,
                     "%.200s: names no measurements: any program on such a machine would get your prompts", path);
    return rc;
}

static int open_way(struct st_passage *p, struct event_base *base, struct st_err *e)
{
    struct st_conf_way *way = &p->way;
    const struct st_http_client_opts h = {.ca_bundle = p->o.ca_bundle, .connect_s = CONNECT_S, .max_idle = MAX_IDLE};
    way->base = base;
    way->stall_s = p->o.stall_s > 0 ? p->o.stall_s : STALL_S;
    way->show_egress = p->o.show_egress;
    int rc = st_http_base("--relay", p->o.relay, &way->relay, e);
    if (!rc)
        rc = st_spares_new(base, &way->spares, e);
    if (!rc)
        rc = st_http_client_new(base, &h, &way->http, e);
    const struct st_wallet_opts w = {
        .file = p->o.wallet, .issuer_url = p->o.issuer, .account_file = p->o.account_file, .stall_s = way->stall_s};
    return rc ? rc : st_wallet_open(way->http, &w, &way->wallet, e);
}

static int open_nodes(struct st_passage *p, struct st_err *e)
{
    char *own = NULL;
    struct st_buf through = {0};
    int rc = p->o.log ? st_http_base("--log", p->o.log, &own, e) : 0;
    st_buf_addf(&through, "%s" ST_RELAY_PATH_LOG, p->way.relay);
    if (!rc && through.failed)
        rc = st_fail(e, ST_MEMORY, "no memory");
    const struct st_conf_nodes_opts n = {.way = &p->way,
                                         .policy = p->policy,
                                         .log_url = own ? own : through.p,
                                         .state_file = p->o.log_state,
                                         .gateway = p->o.gateway,
                                         .issuer = p->o.issuer_name,
                                         .tags = p->o.tags,
                                         .n_tag = p->o.n_tag,
                                         .challenge = p->o.challenge,
                                         .stock = STOCK_UNITS};
    if (!rc)
        rc = st_conf_nodes_new(&n, &p->nodes, e);
    free(own);
    st_buf_free(&through);
    return rc;
}

int st_conf_client_open(const void *opts, struct event_base *base, struct st_passage_ref *out, struct st_err *e)
{
    struct st_passage *p = NULL;
    int rc = st_alloc(&p, 1, sizeof *p, "client", e);
    if (rc)
        return rc;
    p->o = *(const struct st_conf_client_opts *)opts;
    p->o.max_live = p->o.max_live ? p->o.max_live : 1024;
    p->chunk = ST_CONFIDENTIAL_CHUNK + 18; /* tag and length */
    rc = st_random(p->secret, sizeof p->secret, e);
    if (!rc)
        rc = open_policy(p, e);
    if (!rc && p->o.receipts)
        rc = st_conf_receipts_open(p->o.receipts, e);
    if (!rc)
        rc = open_way(p, base, e);
    if (!rc)
        rc = open_nodes(p, e);
    if (rc)
        client_free(p);
    else
        *out = (struct st_passage_ref){&vtable, p};
    return rc;
}
