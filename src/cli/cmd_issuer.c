/* sotto issuer serve|account|gateway|keys: sells blind tokens (service/issuer.h), and its books. */
#include "attest/directory.h"
#include "base/hooks.h"
#include "base/secret.h"
#include "cli/role.h"
#include "crypto/digest.h"
#include "service/issuer.h"
#include "service/issuer_ledger.h"
#include "text/json.h"

#include <inttypes.h>
#include <openssl/crypto.h>
#include <string.h>

struct issuer_opts {
    const char *db, *name, *log, *log_key_file, *ca_bundle;
    uint32_t rate;
    int64_t units, daily; /* -1 = not said */
};

enum { KEY_DB = ST_KEY(0), KEY_NAME, KEY_LOG, KEY_LOG_KEY, KEY_CA_BUNDLE, KEY_RATE, KEY_UNITS, KEY_DAILY };

static const struct argp_option options[] = {
    {"db", KEY_DB, "FILE", 0, "Accounts, gateways, signing keys; made when it is not there", 0},
    {"name", KEY_NAME, "NAME", 0, "serve: its name in the log's directory; default issuer", 0},
    {"log", KEY_LOG, "URL", 0, "serve: the log that its keys are handed to", 0},
    {"log-key-file", KEY_LOG_KEY, "FILE", 0, "serve: the key that the log knows it by", 0},
    {"ca-bundle", KEY_CA_BUNDLE, "FILE", 0, "serve: certificates that the log's TLS is checked against (PEM)", 0},
    {"rate", KEY_RATE, "N", 0, "serve: requests of one account per minute; default 120", 0},
    {"units", KEY_UNITS, "N", 0, "account add, set: units that it may buy in all", 0},
    {"daily", KEY_DAILY, "N", 0, "account add, set: units that it may buy per day besides, used first", 0},
    {0},
};

static int set(void *opts, int key, char *arg, struct st_err *e)
{
    struct issuer_opts *o = opts;
    switch (key) {
    case KEY_DB:
        o->db = arg;
        return 0;
    case KEY_NAME:
        o->name = arg;
        return 0;
    case KEY_LOG:
        o->log = arg;
        return 0;
    case KEY_LOG_KEY:
        o->log_key_file = arg;
        return 0;
    case KEY_CA_BUNDLE:
        o->ca_bundle = arg;
        return 0;
    case KEY_RATE:
        return st_opt_u32("--rate", arg, 1, 1u << 20, &o->rate, e);
    case KEY_UNITS:
        return st_opt_int("--units", arg, 0, ST_LEDGER_MAX_UNITS, &o->units, e);
    default:
        return st_opt_int("--daily", arg, 0, ST_LEDGER_MAX_UNITS, &o->daily, e);
    }
}

/* ---- serve ---- */

static int serve(const struct st_cli *cli, const struct issuer_opts *o, struct st_err *e)
{
    struct st_issuer *i;
    struct st_buf keys = {0}, json = {0};
    struct st_issuer_opts io = {.db = o->db,
                                .name = o->name,
                                .log = o->log,
                                .log_key_file = o->log_key_file,
                                .ca_bundle = o->ca_bundle,
                                .n_threads = cli->n_threads,
                                .rate = o->rate};
    if (!o->log != !o->log_key_file)
        return st_fail(e, ST_USAGE, "issuer: want both --log URL and --log-key-file FILE, or neither");
    st_secret_process();
    st_role_cli(cli, 7794, &io.listen);
    if (st_issuer_new(&io, &i, e))
        return e->code;
    const char *name = o->name ? o->name : "issuer";
    st_buf_addf(&keys, o->log ? "name: %s, keys go to %s" : "name: %s, keys go to no log: clients will not take them",
                name, o->log);
    st_buf_addf(&json, ",\"name\":\"%s\"", name);
    const char *const lines[] = {
        keys.p ? keys.p : "",
        "sees: accounts, how much each buys and when, and when tokens come back. Not whose they were.", NULL};
    st_role_announce(cli, st_issuer_role(i), lines, json.failed ? NULL : json.p);
    int rc = st_role_run(st_issuer_role(i), e);
    st_issuer_free(i);
    st_buf_free(&keys);
    st_buf_free(&json);
    return rc;
}

/* ---- accounts and gateways ---- */

/* A new bearer key: 32 random bytes in hexadecimal. It is printed once; the ledger keeps its digest. */
#define KEY_LEN 64

static int add(const struct st_cli *cli, const struct issuer_opts *o, struct st_ledger *l, enum st_ledger_kind kind,
               const char *name, struct st_err *e)
{
    struct st_ledger_member m = {.units = o->units > 0 ? o->units : 0, .daily = o->daily > 0 ? o->daily : 0};
    uint8_t random[KEY_LEN / 2], digest[32];
    char key[KEY_LEN + 1];
    if (!st_directory_name_good(name))
        return st_fail(e, ST_USAGE, "issuer: want a name of 1 to %d letters, digits, '.', '-' and '_'",
                       ST_LEDGER_MAX_NAME);
    memcpy(m.name, name, strlen(name) + 1);
    int rc = st_random(random, sizeof random, e);
    if (!rc) {
        st_hex(random, sizeof random, key);
        st_sha256(key, KEY_LEN, digest);
        rc = st_ledger_add(l, kind, &m, digest, e);
    }
    if (!rc && cli->json)
        printf("{\"name\":\"%s\",\"key\":\"%s\",\"units\":%" PRId64 ",\"daily\":%" PRId64 "}\n", name, key, m.units,
               m.daily);
    else if (!rc && cli->quiet)
        puts(key);
    else if (!rc)
        printf("key of %s, shown this once:\n%s\n", name, key);
    OPENSSL_cleanse(random, sizeof random);
    OPENSSL_cleanse(key, sizeof key);
    return rc;
}

struct listing {
    struct st_buf text;
    enum st_ledger_kind kind;
    bool json;
    size_t n;
};

static void add_row(void *arg, const struct st_ledger_member *m)
{
    struct listing *l = arg;
    const char *sep = l->n++ ? "," : "";
    bool account = l->kind == ST_LEDGER_ACCOUNT;
    if (l->json && account)
        st_buf_addf(&l->text,
                    "%s{\"name\":\"%s\",\"units\":%" PRId64 ",\"daily\":%" PRId64 ",\"used_today\":%" PRId64 "}", sep,
                    m->name, m->units, m->daily, m->used);
    else if (l->json)
        st_buf_addf(&l->text, "%s{\"name\":\"%s\"}", sep, m->name);
    else if (account)
        st_buf_addf(&l->text, "%-24s %12" PRId64 " units, %" PRId64 " of %" PRId64 " used today\n", m->name, m->units,
                    m->used, m->daily);
    else
        st_buf_addf(&l->text, "%s\n", m->name);
}

static int list(const struct st_cli *cli, struct st_ledger *l, enum st_ledger_kind kind, struct st_err *e)
{
    struct listing all = {.kind = kind, .json = cli->json};
    const char *what = kind == ST_LEDGER_ACCOUNT ? "accounts" : "gateways";
    int rc = st_ledger_list(l, kind, (uint32_t)(st_unix_time() / ST_TOKEN_DAY_S), add_row, &all, e);
    if (!rc && all.text.failed)
        rc = st_fail(e, ST_MEMORY, "issuer: out of memory");
    if (!rc && cli->json)
        printf("{\"%s\":[%s]}\n", what, all.n ? all.text.p : "");
    else if (!rc && all.n)
        fputs(all.text.p, stdout);
    else if (!rc && !cli->quiet)
        printf("no %s\n", what);
    st_buf_free(&all.text);
    return rc;
}

static int members(const struct st_cli *cli, const struct issuer_opts *o, struct st_ledger *l, enum st_ledger_kind kind,
                   struct st_err *e)
{
    const char *verb = cli->n_args > 1 ? cli->args[1] : "", *name = cli->n_args > 2 ? cli->args[2] : NULL;
    bool account = kind == ST_LEDGER_ACCOUNT, change = o->units >= 0 || o->daily >= 0;
    if (strcmp(verb, "list") == 0 && !name)
        return list(cli, l, kind, e);
    if (strcmp(verb, "add") == 0 && name && (account || !change))
        return add(cli, o, l, kind, name, e);
    if (strcmp(verb, "remove") == 0 && name && !change)
        return st_ledger_remove(l, kind, name, e);
    if (strcmp(verb, "set") == 0 && name && account && change)
        return st_ledger_set(l, name, o->units, o->daily, e);
    return account ? st_fail(e, ST_USAGE,
                             "issuer account: want `list`, `add NAME [--units N] [--daily N]`, `set NAME --units N "
                             "--daily N` or `remove NAME`")
                   : st_fail(e, ST_USAGE, "issuer gateway: want `list`, `add NAME` or `remove NAME`");
}

/* ---- keys ---- */

struct key_row {
    bool json;
    size_t n;
    struct st_buf text;
};

static int add_key(void *arg, uint32_t day, uint32_t units, struct st_span der, struct st_err *e)
{
    struct key_row *r = arg;
    struct st_blind_rsa *k;
    uint8_t public[ST_BLIND_RSA_DER_MAX], digest[32];
    char hex[65];
    size_t len;
    if (st_blind_rsa_parse_private(der.p, der.len, &k, e))
        return e->code;
    int rc = st_blind_rsa_write_public(k, public, &len, e);
    st_blind_rsa_free(k);
    if (rc)
        return rc;
    st_sha256(public, len, digest);
    st_hex(digest, sizeof digest, hex);
    if (r->json)
        st_buf_addf(&r->text, "%s{\"day\":%" PRIu32 ",\"units\":%" PRIu32 ",\"sha256\":\"%s\"}", r->n ? "," : "", day,
                    units, hex);
    else
        st_buf_addf(&r->text, "day %" PRIu32 "  %3" PRIu32 " units  sha256 %s\n", day, units, hex);
    r->n++;
    return 0;
}

/* Public keys only, as digests of what the directory has. */
static int show_keys(const struct st_cli *cli, struct st_ledger *l, struct st_err *e)
{
    struct key_row r = {.json = cli->json};
    int rc = st_ledger_keys(l, add_key, &r, e);
    if (!rc && r.text.failed)
        rc = st_fail(e, ST_MEMORY, "issuer: out of memory");
    if (!rc && cli->json)
        printf("{\"keys\":[%s]}\n", r.n ? r.text.p : "");
    else if (!rc)
        fputs(r.n ? r.text.p : "no keys: `sotto issuer serve` makes them\n", stdout);
    st_buf_free(&r.text);
    return rc;
}

static int run(const struct st_cli *cli, void *opts, struct st_err *e)
{
    const struct issuer_opts *o = opts;
    const char *verb = cli->args[0];
    struct st_ledger *l;
    bool account = strcmp(verb, "account") == 0, gateway = strcmp(verb, "gateway") == 0;
    bool alone = cli->n_args == 1 && (strcmp(verb, "serve") == 0 || strcmp(verb, "keys") == 0);
    if (!account && !gateway && !alone)
        return st_fail(e, ST_USAGE, "issuer: want `serve`, `account ...`, `gateway ...` or `keys`");
    if (!o->db)
        return st_fail(e, ST_USAGE, "issuer: want --db FILE");
    if (alone && (o->units >= 0 || o->daily >= 0))
        return st_fail(e, ST_USAGE, "issuer: --units and --daily go with `account add` and `account set`");
    if (strcmp(verb, "serve") == 0)
        return serve(cli, o, e);
    if (st_ledger_open(o->db, &l, e))
        return e->code;
    int rc = alone ? show_keys(cli, l, e) : members(cli, o, l, account ? ST_LEDGER_ACCOUNT : ST_LEDGER_GATEWAY, e);
    st_ledger_close(l);
    return rc;
}

const struct st_cmd st_cmd_issuer = {
    .name = "issuer",
    .summary = "Sell blind tokens that requests are paid with",
    .args_doc = "serve|account|gateway|keys ...",
    .min_args = 1,
    .max_args = 3,
    .doc =
        "Sells tokens for `sotto proxy --protect confidential`: it signs them without seeing them, so that nobody can "
        "tell whose a token is that a gateway brings back. Makes one key per day and denomination and hands them to "
        "the log, where clients take them from. `account add` prints the key of an account, once; `gateway add` the "
        "key with which a gateway has change signed. Both work while it serves. The database holds the signing "
        "keys: who reads it can make tokens of these days.",
    .examples = "  sotto issuer account add alice --db issuer.db --units 10000 --daily 100\n"
                "  sotto issuer gateway add gateway --db issuer.db\n"
                "  sotto issuer serve --db issuer.db --log https://log.example --log-key-file key\n"
                "  sotto issuer account list --db issuer.db --json",
    .shared = ST_CLI_PORT | ST_CLI_JSON | ST_CLI_THREADS,
    .options = options,
    .opts_size = sizeof(struct issuer_opts),
    .defaults = &(const struct issuer_opts){.units = -1, .daily = -1},
    .set = set,
    .run = run,
};
