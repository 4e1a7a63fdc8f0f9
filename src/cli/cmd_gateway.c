/* sotto gateway: verified nodes for sealed requests that are paid with blind tokens (service/gateway.h). */
#include "base/file.h"
#include "cli/role.h"
#include "service/gateway.h"
#include "text/json.h"

#include <stdlib.h>
#include <string.h>

#define MAX_NODES 256
#define MAX_NODES_FILE ((size_t)1 << 20)

struct gateway_opts {
    const char *name, *policy, *log, *log_key_file, *log_state, *issuer, *issuer_key_file, *issuer_name, *ca_bundle;
    const char *nodes_file, *spent;
    const char *node[MAX_NODES];
    size_t n_node;
    uint32_t price_request, max_streams, max_requests;
    uint64_t unit_bytes;
    double refresh_s, evidence_s, health_s, rotate_s, keep_key_s, connect_s, stall_s;
    bool relaxed;
};

enum {
    KEY_NAME = ST_KEY(0),
    KEY_NODE,
    KEY_NODES,
    KEY_POLICY,
    KEY_LOG,
    KEY_LOG_KEY,
    KEY_LOG_STATE,
    KEY_ISSUER,
    KEY_ISSUER_KEY,
    KEY_ISSUER_NAME,
    KEY_CA_BUNDLE,
    KEY_PRICE,
    KEY_UNIT,
    KEY_SPENT,
    KEY_RELAXED,
    KEY_REFRESH,
    KEY_EVIDENCE,
    KEY_HEALTH,
    KEY_ROTATE,
    KEY_KEEP_KEY,
    KEY_STREAMS,
    KEY_REQUESTS,
    KEY_CONNECT,
    KEY_STALL,
};

static const struct argp_option options[] = {
    {"name", KEY_NAME, "NAME", 0, "This gateway's name in the directory", 0},
    {"node", KEY_NODE, "URL", 0,
     "A node, and behind spaces its tags: 'http://10.0.0.5:7791 model=demo'; may be repeated", 0},
    {"nodes", KEY_NODES, "FILE", 0, "Nodes, one in a line like that; lines that begin with # are comments", 0},
    {"policy", KEY_POLICY, "FILE", 0, "Which nodes are listed, and which log is believed", 0},
    {"log", KEY_LOG, "URL", 0, "The transparency log with the directory", 0},
    {"log-key-file", KEY_LOG_KEY, "FILE", 0, "Key of a submitter at the log (0600)", 0},
    {"log-state", KEY_LOG_STATE, "FILE", 0, "Remembers the log's last checkpoint over restarts", 0},
    {"issuer", KEY_ISSUER, "URL", 0, "The issuer, which gives change", 0},
    {"issuer-key-file", KEY_ISSUER_KEY, "FILE", 0, "Key of a gateway at the issuer (0600)", 0},
    {"issuer-name", KEY_ISSUER_NAME, "NAME", 0, "Its name in the directory; default: the only one there", 0},
    {"ca-bundle", KEY_CA_BUNDLE, "FILE", 0, "Certificates that the TLS of others is checked against (PEM)", 0},
    {"price-request", KEY_PRICE, "UNITS", 0, "Price of a request; default 1", 0},
    {"unit-bytes", KEY_UNIT, "SIZE", 0, "Bytes of a sealed reply that one further unit pays for; default 64K", 0},
    {"spent", KEY_SPENT, "FILE", 0,
     "Spent tokens: an SQLite file, or postgresql://HOST/DATABASE where several gateways share it", 0},
    {"spent-relaxed", KEY_RELAXED, NULL, 0,
     "SQLite without a sync per batch: spent tokens outlast this process, not a failure of the machine", 0},
    {"refresh", KEY_REFRESH, "SECONDS", 0, "How often log and evidence are looked at; default 60", 0},
    {"evidence-age", KEY_EVIDENCE, "SECONDS", 0, "Age at which good evidence is replaced in the directory; default 300",
     0},
    {"health", KEY_HEALTH, "SECONDS", 0, "How often nodes are asked whether they are up; default 5", 0},
    {"rotate", KEY_ROTATE, "SECONDS", 0, "Age at which this gateway's key is replaced; default 86400", 0},
    {"keep-key", KEY_KEEP_KEY, "SECONDS", 0,
     "The old key is taken for so long after the directory has shown the new one; default 3600", 0},
    {"max-streams", KEY_STREAMS, "N", 0, "Paid requests at once; default 4096", 0},
    {"max-requests", KEY_REQUESTS, "N", 0,
     "Requests of one key, each of which is remembered so that none comes twice; default 1048576, 64 bytes each", 0},
    {"connect-timeout", KEY_CONNECT, "SECONDS", 0, "For connecting to nodes; default 3", 0},
    {"timeout", KEY_STALL, "SECONDS", 0, "A node's reply that stands still for so long is cut; default 300", 0},
    {0},
};

static int set_number(struct gateway_opts *o, int key, char *arg, struct st_err *e)
{
    switch (key) {
    case KEY_PRICE:
        return st_opt_u32("--price-request", arg, 0, 4096, &o->price_request, e);
    case KEY_UNIT:
        return st_opt_size("--unit-bytes", arg, 1, &o->unit_bytes, e);
    case KEY_REFRESH:
        return st_opt_real("--refresh", arg, 0.1, 86400, &o->refresh_s, e);
    case KEY_EVIDENCE:
        return st_opt_real("--evidence-age", arg, 0.1, 86400, &o->evidence_s, e);
    case KEY_HEALTH:
        return st_opt_real("--health", arg, 0.1, 86400, &o->health_s, e);
    case KEY_ROTATE:
        return st_opt_real("--rotate", arg, 1, 1e7, &o->rotate_s, e);
    case KEY_KEEP_KEY:
        return st_opt_real("--keep-key", arg, 0.1, 1e7, &o->keep_key_s, e);
    case KEY_STREAMS:
        return st_opt_u32("--max-streams", arg, 1, 1u << 20, &o->max_streams, e);
    case KEY_REQUESTS:
        return st_opt_u32("--max-requests", arg, 1024, 1u << 24, &o->max_requests, e);
    case KEY_CONNECT:
        return st_opt_real("--connect-timeout", arg, 0.1, 600, &o->connect_s, e);
    default:
        return st_opt_real("--timeout", arg, 1, 86400, &o->stall_s, e);
    }
}

static int set(void *opts, int key, char *arg, struct st_err *e)
{
    struct gateway_opts *o = opts;
    const struct {
        int key;
        const char **to;
    } texts[] = {
        {KEY_NAME, &o->name},
        {KEY_NODES, &o->nodes_file},
        {KEY_POLICY, &o->policy},
        {KEY_LOG, &o->log},
        {KEY_LOG_KEY, &o->log_key_file},
        {KEY_LOG_STATE, &o->log_state},
        {KEY_ISSUER, &o->issuer},
        {KEY_ISSUER_KEY, &o->issuer_key_file},
        {KEY_ISSUER_NAME, &o->issuer_name},
        {KEY_CA_BUNDLE, &o->ca_bundle},
        {KEY_SPENT, &o->spent},
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (texts[i].key == key) {
            *texts[i].to = arg;
            return 0;
        }
    if (key == KEY_RELAXED) {
        o->relaxed = true;
        return 0;
    }
    if (key != KEY_NODE)
        return set_number(o, key, arg, e);
    if (o->n_node == MAX_NODES)
        return st_fail(e, ST_USAGE, "--node: at most %d", MAX_NODES);
    o->node[o->n_node++] = arg;
    return 0;
}

/* Cuts the text into lines, in place; the lines point into it. */
static int add_lines(struct gateway_opts *o, char *text, struct st_err *e)
{
    char *rest = text;
    for (char *line; (line = strsep(&rest, "\n"));) {
        line += strspn(line, " \t\r");
        line[strcspn(line, "\r")] = 0;
        if (!*line || *line == '#')
            continue;
        if (o->n_node == MAX_NODES)
            return st_fail(e, ST_INPUT, "%s: at most %d nodes", o->nodes_file, MAX_NODES);
        o->node[o->n_node++] = line;
    }
    return 0;
}

static int check(const struct gateway_opts *o, struct st_err *e)
{
    const struct {
        const char *name, *value;
    } needed[] = {{"--name", o->name},     {"--policy", o->policy},
                  {"--log", o->log},       {"--log-key-file", o->log_key_file},
                  {"--issuer", o->issuer}, {"--issuer-key-file", o->issuer_key_file},
                  {"--spent", o->spent},   {"--node or --nodes", o->n_node ? "" : NULL}};
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
        if (!needed[i].value)
            return st_fail(e, ST_USAGE, "gateway: missing: %s", needed[i].name);
    return 0;
}

static void announce(const struct st_cli *cli, const struct gateway_opts *o, const struct st_role *r)
{
    struct st_buf to = {0}, json = {0};
    st_buf_addf(&to, "%s: %zu node%s, log: %s, issuer: %s", o->name, o->n_node, o->n_node == 1 ? "" : "s", o->log,
                o->issuer);
    st_buf_add_str(&json, ",\"name\":");
    st_json_quote(&json, o->name, strlen(o->name));
    st_buf_addf(&json, ",\"nodes\":%zu", o->n_node);
    const char *const lines[] = {
        to.p ? to.p : "",
        "sees: blind tokens, which node, sizes and times of sealed messages. It stores digests "
        "of spent tokens.",
        "must not be run by whoever runs the relay: together they know who asks which node, "
        "and how much.",
        NULL};
    st_role_announce(cli, r, lines, json.failed ? NULL : json.p);
    st_buf_free(&to);
    st_buf_free(&json);
}

static int serve(const struct st_cli *cli, const struct gateway_opts *o, struct st_err *e)
{
    struct st_gateway *g;
    struct st_gateway_opts go = {.name = o->name,
                                 .nodes = o->node,
                                 .n_node = o->n_node,
                                 .policy = o->policy,
                                 .log = o->log,
                                 .log_key_file = o->log_key_file,
                                 .log_state = o->log_state,
                                 .issuer = o->issuer,
                                 .issuer_key_file = o->issuer_key_file,
                                 .issuer_name = o->issuer_name,
                                 .ca_bundle = o->ca_bundle,
                                 .price_request = o->price_request,
                                 .unit_bytes = o->unit_bytes,
                                 .spent = {.where = o->spent, .relaxed = o->relaxed},
                                 .refresh_s = o->refresh_s,
                                 .evidence_s = o->evidence_s,
                                 .health_s = o->health_s,
                                 .rotate_s = o->rotate_s,
                                 .keep_key_s = o->keep_key_s,
                                 .max_streams = o->max_streams,
                                 .max_requests = o->max_requests,
                                 .connect_s = o->connect_s,
                                 .stall_s = o->stall_s};
    st_role_cli(cli, 7792, &go.listen);
    if (st_gateway_new(&go, &g, e))
        return e->code;
    announce(cli, o, st_gateway_role(g));
    int rc = st_role_run(st_gateway_role(g), e);
    st_gateway_free(g);
    return rc;
}

static int run(const struct st_cli *cli, void *opts, struct st_err *e)
{
    struct gateway_opts *o = opts;
    struct st_buf lines = {0};
    int rc = o->nodes_file ? st_file_read(o->nodes_file, MAX_NODES_FILE, &lines, e) : 0;
    if (!rc && lines.len)
        rc = add_lines(o, lines.p, e);
    if (!rc)
        rc = check(o, e);
    if (!rc)
        rc = serve(cli, o, e);
    st_buf_free(&lines);
    return rc;
}

static const struct gateway_opts defaults = {.price_request = 1};

const struct st_cmd st_cmd_gateway = {
    .name = "gateway",
    .summary = "List verified nodes and pass paid, sealed requests on to them",
    .doc =
        "The target of sealed requests of `sotto proxy --protect confidential`, which reach it through a relay. Nodes "
        "are listed only while the policy accepts their evidence. Each request is paid with a blind token, which is "
        "spent once, durably, before the request goes on; what is not used up comes back as change from the issuer. "
        "Its key, its price and its nodes stand in the log's directory. It holds no key that opens a prompt or a "
        "reply. GET /status and /metrics answer this machine only.",
    .examples = "  sotto gateway --name eu1 --node 'http://10.0.0.5:7791 model=demo' --policy nodes.json \\\n"
                "      --log https://log.example --log-key-file log.key \\\n"
                "      --issuer https://issuer.example --issuer-key-file issuer.key --spent spent.db\n"
                "  sotto gateway --name eu2 --nodes nodes.txt --spent postgresql://sotto@db/spent ...",
    .shared = ST_CLI_PORT | ST_CLI_JSON,
    .options = options,
    .opts_size = sizeof(struct gateway_opts),
    .defaults = &defaults,
    .set = set,
    .run = run,
};
