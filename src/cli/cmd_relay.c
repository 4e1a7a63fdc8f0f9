/* sotto relay: hides who asks from a gateway (service/relay.h). */
#include "cli/role.h"
#include "net/http_client.h"
#include "service/relay.h"
#include "text/json.h"

#include <string.h>

struct relay_opts {
    const char *gateway, *log, *ca_bundle;
    uint32_t max_client;
    uint64_t max_memory;
    double connect_s, stall_s;
};

enum {
    KEY_GATEWAY = ST_KEY(0),
    KEY_LOG,
    KEY_CA_BUNDLE,
    KEY_MAX_CLIENT,
    KEY_MAX_MEMORY,
    KEY_CONNECT,
    KEY_STALL,
};

static const struct argp_option options[] = {
    {"gateway", KEY_GATEWAY, "URL", 0, "Where requests go: the only gateway of this relay", 0},
    {"log", KEY_LOG, "URL", 0, "Where GET /log/... goes", 0},
    {"ca-bundle", KEY_CA_BUNDLE, "FILE", 0, "Certificates that their TLS is checked against (PEM)", 0},
    {"max-client", KEY_MAX_CLIENT, "N", 0, "Requests of one address at once; default 256", 0},
    {"max-memory", KEY_MAX_MEMORY, "SIZE", 0, "For requests on their way; default 256M", 0},
    {"connect-timeout", KEY_CONNECT, "SECONDS", 0, "For connecting to gateway and log; default 10", 0},
    {"timeout", KEY_STALL, "SECONDS", 0, "A reply that stands still for so long is cut; default 300", 0},
    {0},
};

static int set(void *opts, int key, char *arg, struct st_err *e)
{
    struct relay_opts *o = opts;
    switch (key) {
    case KEY_GATEWAY:
        o->gateway = arg;
        return 0;
    case KEY_LOG:
        o->log = arg;
        return 0;
    case KEY_CA_BUNDLE:
        o->ca_bundle = arg;
        return 0;
    case KEY_MAX_CLIENT:
        return st_opt_u32("--max-client", arg, 1, 1u << 20, &o->max_client, e);
    case KEY_MAX_MEMORY:
        return st_opt_size("--max-memory", arg, 8u << 20, &o->max_memory, e);
    case KEY_CONNECT:
        return st_opt_real("--connect-timeout", arg, 0.1, 600, &o->connect_s, e);
    default:
        return st_opt_real("--timeout", arg, 1, 86400, &o->stall_s, e);
    }
}

static void announce(const struct st_cli *cli, const struct relay_opts *o, const struct st_role *r)
{
    struct st_buf to = {0}, json = {0};
    st_buf_addf(&to, "gateway: %s, log: %s", o->gateway, o->log);
    st_buf_add_str(&json, ",\"gateway\":");
    st_json_quote(&json, o->gateway, strlen(o->gateway));
    st_buf_add_str(&json, ",\"log\":");
    st_json_quote(&json, o->log, strlen(o->log));
    const char *const lines[] = {
        to.p ? to.p : "",
        "sees: addresses of clients, sizes and times of sealed messages. It stores and logs none of it.",
        "must not be run by whoever runs the gateway: together they know who asks which node, and how much.", NULL};
    st_role_announce(cli, r, lines, json.failed ? NULL : json.p);
    st_buf_free(&to);
    st_buf_free(&json);
}

static int run(const struct st_cli *cli, void *opts, struct st_err *e)
{
    const struct relay_opts *o = opts;
    struct st_relay *r;
    if (!o->gateway || !o->log)
        return st_fail(e, ST_USAGE, "relay: want --gateway URL and --log URL (missing: %s)",
                       o->gateway ? "--log" : "--gateway");
    struct st_relay_opts ro = {.gateway = o->gateway,
                               .log = o->log,
                               .ca_bundle = o->ca_bundle,
                               .max_client = o->max_client,
                               .max_memory = o->max_memory,
                               .connect_s = o->connect_s,
                               .stall_s = o->stall_s};
    st_role_cli(cli, 7793, &ro.listen);
    if (st_relay_new(&ro, &r, e))
        return e->code;
    announce(cli, o, st_relay_role(r));
    int rc = st_role_run(st_relay_role(r), e);
    st_relay_free(r);
    return rc;
}

const struct st_cmd st_cmd_relay = {
    .name = "relay",
    .summary = "Pass sealed requests on to a gateway without telling it whose they are",
    .doc = "Stands between clients of `sotto proxy --protect confidential` and a gateway. Passes on the body and the "
           "content type of POST / and nothing else, and GET /log/... to the transparency log, so that neither gateway "
           "nor log sees an address of a client. Holds no key: everything is sealed for the gateway and, inside, for a "
           "node. Stores nothing; log and metrics only count. SIGTERM lets running requests finish.",
    .examples = "  sotto relay --gateway https://gateway.example --log https://log.example \\\n"
                "      --host 0.0.0.0 --tls-cert c.pem --tls-key k.pem",
    .shared = ST_CLI_PORT | ST_CLI_JSON,
    .options = options,
    .opts_size = sizeof(struct relay_opts),
    .set = set,
    .run = run,
};
