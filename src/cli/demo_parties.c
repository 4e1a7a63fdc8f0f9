#include "cli/demo_parties.h"
#include "base/file.h"
#include "base/hooks.h"
#include "cli/http.h"
#include "crypto/digest.h"
#include "model/digest.h"
#include "text/json.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>

enum { N_PCR = 15, LOADED_PCR = 14, EPOCH_S = 1 };
/* Ed25519 seed of simulated evidence, and its public key: RFC 8032, section 7.1, test 1. They prove nothing. */
#define SIM_SEED "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
#define SIM_ROOT "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
#define ZEROS "0000000000000000000000000000000000000000000000000000000000000000"
#define OTHER "abababababababababababababababababababababababababababababababab"

/* ---- files ---- */

struct path {
    char s[128];
};

static struct path in(const struct st_demo_parties *p, const char *name)
{
    struct path out;
    snprintf(out.s, sizeof out.s, "%s/%s", p->d->tmp.path, name);
    return out;
}

static int put(const struct st_demo_parties *p, const char *name, const struct st_buf *b, struct st_err *e)
{
    return b->failed ? st_fail(e, ST_MEMORY, "no memory for %s", name)
                     : st_file_write(in(p, name).s, b->p, b->len, 0600, true, e);
}

/* The first line that a command prints, into a file. */
static int keep_line(const struct st_demo_parties *p, const char *const *args, const char *name, struct st_err *e)
{
    char line[1024];
    if (st_demo_command(args, line, sizeof line, e))
        return e->code;
    return st_file_write(in(p, name).s, line, strlen(line), 0600, true, e);
}

/* What your policy says beside the kind of evidence: what may run there. The gateway lists any machine of its own. */
static int add_measured(const struct st_demo_parties *p, struct st_buf *b, struct st_err *e)
{
    uint8_t model[32];
    char hex[65];
    if (st_model_digest(p->d->model, false, model, e))
        return e->code;
    st_hex(model, sizeof model, hex);
    st_buf_addf(b, ", \"model\": [\"%s\"]", hex);
    if (!p->has_tpm) {
        st_buf_add_str(b, ", \"measurements\": {\"sim.measurement\": [\"" ZEROS "\"]}");
        return 0;
    }
    st_buf_add_str(b, ", \"measurements\": {");
    for (int i = 0; i < N_PCR; i++)
        st_buf_addf(b, "%s\"tpm.pcr.%d\": [\"" ZEROS "\"]", i ? ", " : "", i);
    st_buf_add_str(b, "}");
    return 0;
}

static int put_policy(const struct st_demo_parties *p, const char *name, bool measured, struct st_err *e)
{
    struct st_buf b = {0}, root = {0};
    int rc = 0;
    st_buf_addf(&b, "{\"version\": 1, \"require\": [\"%s\"], %s", p->has_tpm ? "tpm" : "sim",
                p->log_policy.p ? p->log_policy.p : "");
    if (p->has_tpm) {
        /* swtpm starts without a firmware that would keep a log. */
        rc = st_file_read(in(p, "ca/ca.pem").s, 1 << 16, &root, e);
        st_buf_add_str(&b,
                       ", \"revocation\": \"if_present\", \"optional\": [\"tpm.event_log\"], \"roots\": {\"tpm\": ");
        st_json_quote(&b, root.p ? root.p : "", root.len);
        st_buf_add_str(&b, "}");
    } else
        st_buf_add_str(&b, ", \"sim_root\": \"" SIM_ROOT "\"");
    if (!rc && measured)
        rc = add_measured(p, &b, e);
    st_buf_add_str(&b, "}");
    if (!rc)
        rc = put(p, name, &b, e);
    st_buf_free(&b);
    st_buf_free(&root);
    return rc;
}

/* ---- the public part ---- */

/* Keys of those who hand the log parts of the directory; the log knows them by this file. */
static int put_submitters(const struct st_demo_parties *p, struct st_err *e)
{
    static const char *const who[][2] = {{"gateway/demo", "gateway-log.key"}, {"issuer/issuer", "issuer-log.key"}};
    struct st_buf all = {0};
    int rc = 0;
    for (size_t i = 0; i < 2 && !rc; i++) {
        uint8_t random[16];
        char key[2 * sizeof random + 1];
        rc = st_random(random, sizeof random, e);
        st_hex(random, sizeof random, key);
        if (!rc)
            rc = st_file_write(in(p, who[i][1]).s, key, strlen(key), 0600, true, e);
        st_buf_addf(&all, "%s %s\n", who[i][0], key);
    }
    if (!rc)
        rc = put(p, "submitters", &all, e);
    st_buf_wipe(&all);
    return rc;
}

static int start_log(struct st_demo_parties *p, struct st_err *e)
{
    const struct path dir = in(p, "log"), key = in(p, "log.key"), witness_key = in(p, "witness.key"),
                      state = in(p, "witness"), submitters = in(p, "submitters");
    char log[256], witness[256], asked[400], every[16];
    const char *const make[] = {"log",   "new", dir.s,     "--origin",  "demo.example/log",
                                "--key", key.s, "--quiet", "--config=", NULL};
    const char *const name[] = {"log",          "key",     "--key",     witness_key.s, "--name", "demo.example/witness",
                                "--as-witness", "--quiet", "--config=", NULL};
    if (st_demo_command(make, log, sizeof log, e) || st_demo_command(name, witness, sizeof witness, e) ||
        put_submitters(p, e))
        return e->code;
    const char *const cosign[] = {"log",     "witness", "--key", witness_key.s, "--name", "demo.example/witness",
                                  "--state", state.s,   "--log", log,           NULL};
    if (st_demo_role_start(&p->witness, "witness", NULL, cosign, 0, e) || st_demo_role_ready(&p->witness, 10, e))
        return e->code;
    snprintf(asked, sizeof asked, "%s=%s", p->witness.url, witness);
    snprintf(every, sizeof every, "%d", EPOCH_S);
    const char *const serve[] = {"log",        "serve",     dir.s, "--key",   key.s, "--submitters",
                                 submitters.s, "--witness", asked, "--every", every, NULL};
    if (st_demo_role_start(&p->log, "log", NULL, serve, 0, e))
        return e->code;
    st_buf_addf(&p->log_policy,
                "\"log\": {\"origin\": \"demo.example/log\", \"key\": \"%s\", \"witnesses\": [\"%s\"], \"quorum\": 1}",
                log, witness);
    return st_demo_role_ready(&p->log, 10, e);
}

static int start_issuer(struct st_demo_parties *p, struct st_err *e)
{
    const struct path db = in(p, "issuer.db"), key = in(p, "issuer-log.key");
    const char *const account[] = {"issuer",  "account", "add",     "demo",      "--db", db.s,
                                   "--units", "65536",   "--quiet", "--config=", NULL};
    const char *const gateway[] = {"issuer", "gateway", "add", "demo", "--db", db.s, "--quiet", "--config=", NULL};
    const char *const serve[] = {"issuer", "serve", "--db", db.s, "--log", p->log.url, "--log-key-file", key.s, NULL};
    if (keep_line(p, account, "account.key", e) || keep_line(p, gateway, "issuer-gateway.key", e) ||
        st_demo_role_start(&p->issuer, "issuer", NULL, serve, 0, e))
        return e->code;
    return 0;
}

/* A TPM, and beside all that starts meanwhile a certificate for its attestation key, by an authority of the provider's.
 */
static void begin_evidence(struct st_demo_parties *p)
{
    const struct path ca = in(p, "ca"), certs = in(p, "ak.pem");
    struct st_err e;
    const char *const enroll[] = {"enroll", "here",      certs.s,  "--ca",      ca.s,
                                  "--tcti", p->tpm.tcti, "--json", "--config=", NULL};
    p->has_tpm =
        st_demo_tpm_start(p->d->tmp.path, &p->tpm, &e) == 0 && st_child_start(NULL, enroll, &p->enroll, &e) == 0;
    if (!p->has_tpm)
        snprintf(p->no_tpm, sizeof p->no_tpm, "%.190s", e.msg);
}

/* Without a TPM: a key in a file. */
static int end_evidence(struct st_demo_parties *p, struct st_err *e)
{
    if (p->has_tpm && st_child_wait(&p->enroll, 30, e)) {
        p->has_tpm = false;
        snprintf(p->no_tpm, sizeof p->no_tpm, "no certificate for its key: %.150s", e->msg);
    }
    if (p->has_tpm)
        return 0;
    st_child_stop(&p->enroll);
    st_demo_tpm_stop(&p->tpm);
    return st_file_write(in(p, "sim.key").s, SIM_SEED, strlen(SIM_SEED), 0600, true, e);
}

static int start_engine(struct st_demo_parties *p, struct st_err *e)
{
    char threads[16];
    snprintf(threads, sizeof threads, "%d", p->d->cli->n_threads);
    const char *const args[] = {"serve",      p->d->model, "--model-name",    "demo", "--threads", threads,
                                "--kv-dtype", "f32",       "--deterministic", NULL};
    return st_demo_role_start(&p->engine, "engine", NULL, args, 0, e);
}

int st_demo_parties_public(struct st_demo_parties *p, const struct st_demo *d, struct st_err *e)
{
    p->d = d;
    /* What takes its time is begun first, and waited for later. */
    begin_evidence(p);
    return start_engine(p, e) || start_log(p, e) ? e->code : start_issuer(p, e);
}

/* ---- the provider's ---- */

/* other: what is measured on its machine is not what it was. cadence: of its replies; NULL = as produced. */
static int start_node(struct st_demo_parties *p, bool other, const char *cadence, struct st_err *e)
{
    const struct path certs = in(p, "ak.pem"), key = in(p, "sim.key");
    const char *last = cadence ? "--cadence" : NULL;
    const char *const tpm[] = {"--upstream", p->engine.url, "--model", p->d->model, "--evidence", "tpm", "--tpm",
                               p->tpm.tcti,  "--tpm-certs", certs.s,   last,        cadence,      NULL};
    const char *const sim[] = {"--upstream", p->engine.url, "--model", p->d->model,         "--evidence",
                               "sim",        "--sim-key",   key.s,     "--sim-measurement", other ? OTHER : ZEROS,
                               last,         cadence,       NULL};
    int port = p->node.port; /* where it was, so that its gateway finds it */
    if (st_demo_role_start(&p->node, "node", "sotto-node", p->has_tpm ? tpm : sim, port, e))
        return e->code;
    return st_demo_role_ready(&p->node, 30, e);
}

static int start_gateway(struct st_demo_parties *p, struct st_err *e)
{
    const struct path policy = in(p, "gateway.json"), log = in(p, "gateway-log.key"),
                      issuer = in(p, "issuer-gateway.key"), spent = in(p, "spent.db");
    char node[96];
    snprintf(node, sizeof node, "http://127.0.0.1:%d model=demo", st_capture_port(p->to_node));
    const char *const args[] = {
        "gateway", "--name",   "demo",           "--node",    node,       "--policy",    policy.s,
        "--log",   p->log.url, "--log-key-file", log.s,       "--issuer", p->issuer.url, "--issuer-key-file",
        issuer.s,  "--spent",  spent.s,          "--refresh", "1",        "--health",    "1",
        NULL};
    if (st_demo_role_start(&p->gateway, "gateway", NULL, args, 0, e))
        return e->code;
    return st_demo_role_ready(&p->gateway, 20, e);
}

int st_demo_parties_provider(struct st_demo_parties *p, struct st_err *e)
{
    if (end_evidence(p, e) || st_demo_role_ready(&p->engine, 60, e) || start_node(p, false, NULL, e) ||
        st_demo_role_ready(&p->issuer, 20, e) || st_demo_wait(p->issuer.url, 30, e) ||
        put_policy(p, "gateway.json", false, e) || st_capture_start(p->node.port, &p->to_node, e))
        return e->code;
    return start_gateway(p, e);
}

/* ---- yours ---- */

/* Why, in the proxy's words. */
static int not_ready(const struct st_demo_parties *p, struct st_err *e)
{
    char url[160];
    json_t *o = NULL;
    struct st_err ignored;
    snprintf(url, sizeof url, "%s/sotto/status", p->proxy.url);
    struct st_http h = {.url = url, .timeout_s = 5};
    if (!st_http_run(&h, &ignored) && !st_json_parse(h.body.p ? h.body.p : "", h.body.len, "status", &o, &ignored) &&
        json_string_value(json_object_get(o, "why")))
        st_fail(e, ST_IO, "%.300s", json_string_value(json_object_get(o, "why")));
    json_decref(o);
    st_http_wipe(&h);
    return st_err_prefix(e, "proxy");
}

int st_demo_parties_client(struct st_demo_parties *p, struct st_err *e)
{
    const struct path policy = in(p, "policy.json"), account = in(p, "account.key"), state = in(p, "state"),
                      receipts = in(p, "receipts");
    char relay[64];
    const char *const to_relay[] = {"relay", "--gateway", p->gateway.url, "--log", p->log.url, NULL};
    if (st_demo_role_start(&p->relay, "relay", NULL, to_relay, 0, e) || st_demo_role_ready(&p->relay, 10, e) ||
        st_capture_start(p->relay.port, &p->to_relay, e) || put_policy(p, "policy.json", true, e))
        return e->code;
    snprintf(relay, sizeof relay, "http://127.0.0.1:%d", st_capture_port(p->to_relay));
    const char *const proxy[] = {
        "proxy",       "--protect",      "confidential", "--policy", policy.s, "--relay",    relay,      "--issuer",
        p->issuer.url, "--account-file", account.s,      "--state",  state.s,  "--receipts", receipts.s, NULL};
    if (st_demo_role_start(&p->proxy, "proxy", NULL, proxy, 0, e) || st_demo_role_ready(&p->proxy, 20, e))
        return e->code;
    if (st_demo_wait(p->gateway.url, 30, e))
        return st_err_prefix(e, "gateway");
    return st_demo_wait(p->proxy.url, 30, e) ? not_ready(p, e) : 0;
}

/* The first file in the receipts' folder that ends so, without that ending. */
static bool find_kept(const struct st_demo_parties *p, const char *ending, char *out, size_t cap)
{
    const struct path folder = in(p, "receipts");
    DIR *dir = opendir(folder.s);
    bool found = false;
    for (const struct dirent *f; dir && !found && (f = readdir(dir));) {
        size_t n = strlen(f->d_name), k = strlen(ending);
        found = n > k && strcmp(f->d_name + n - k, ending) == 0 &&
                snprintf(out, cap, "%s/%.*s", folder.s, (int)(n - k), f->d_name) < (int)cap;
    }
    if (dir)
        closedir(dir);
    return found;
}

bool st_demo_parties_receipt(const struct st_demo_parties *p)
{
    const struct path policy = in(p, "policy.json");
    struct st_err e;
    char stem[300], bundle[300], line[256];
    char receipt[320], request[320], reply[320], evidence[320];
    if (!find_kept(p, ".receipt", stem, sizeof stem) || !find_kept(p, ".bundle", bundle, sizeof bundle))
        return false;
    snprintf(receipt, sizeof receipt, "%s.receipt", stem);
    snprintf(request, sizeof request, "%s.request", stem);
    snprintf(reply, sizeof reply, "%s.reply", stem);
    snprintf(evidence, sizeof evidence, "%s.bundle", bundle);
    const char *const args[] = {"attest",    "receipt", receipt,   "--evidence", evidence, "--policy",  policy.s,
                                "--request", request,   "--reply", reply,        "--json", "--config=", NULL};
    return st_demo_command(args, line, sizeof line, &e) == 0;
}

int st_demo_parties_tamper(struct st_demo_parties *p, struct st_err *e)
{
    if (p->has_tpm && st_demo_tpm_extend(&p->tpm, LOADED_PCR, e))
        return e->code;
    st_demo_role_stop(&p->node);
    return start_node(p, true, NULL, e);
}

int st_demo_parties_cadence(struct st_demo_parties *p, const char *ms, struct st_err *e)
{
    st_demo_role_stop(&p->node);
    return start_node(p, false, ms, e);
}

void st_demo_parties_end(struct st_demo_parties *p)
{
    /* From the outside in, so that nobody sees the one behind go away first. */
    struct st_demo_role *roles[] = {&p->proxy,  &p->relay,  &p->gateway, &p->node,
                                    &p->engine, &p->issuer, &p->log,     &p->witness};
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        st_demo_role_stop(roles[i]);
    st_capture_stop(p->to_relay);
    st_capture_stop(p->to_node);
    st_child_stop(&p->enroll);
    st_demo_tpm_stop(&p->tpm);
    st_buf_free(&p->log_policy);
}
