/* sotto wallet show|buy: the tokens that requests are paid with (service/wallet.h). */
#include "attest/policy.h"
#include "base/hooks.h"
#include "base/secret.h"
#include "channel/confidential.h"
#include "cli/cli.h"
#include "service/log_client.h"
#include "service/wallet.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct wallet_opts {
    const char *policy, *relay, *log, *issuer, *issuer_name, *account_file, *log_state, *ca_bundle;
    uint32_t units;
};

enum {
    KEY_POLICY = ST_KEY(0),
    KEY_RELAY,
    KEY_LOG,
    KEY_ISSUER,
    KEY_ISSUER_NAME,
    KEY_ACCOUNT,
    KEY_LOG_STATE,
    KEY_CA_BUNDLE,
    KEY_UNITS,
};

static const struct argp_option options[] = {
    {"policy", KEY_POLICY, "FILE", 0, "buy: the policy, which names the log that shows the issuer's keys", 0},
    {"relay", KEY_RELAY, "URL", 0, "buy: the relay, through which the log is asked", 0},
    {"log", KEY_LOG, "URL", 0, "buy: asks the log itself instead; it sees your address then", 0},
    {"issuer", KEY_ISSUER, "URL", 0, "buy: where tokens are bought", 0},
    {"issuer-name", KEY_ISSUER_NAME, "NAME", 0, "buy: its name in the directory; default: the only one", 0},
    {"account-file", KEY_ACCOUNT, "FILE", 0, "buy: the account's key, as `sotto issuer account add` printed it", 0},
    {"log-state", KEY_LOG_STATE, "FILE", 0, "buy: the log's last checkpoint; log.checkpoint beside a proxy's wallet",
     0},
    {"ca-bundle", KEY_CA_BUNDLE, "FILE", 0, "buy: certificates that TLS is checked against (PEM)", 0},
    {"units", KEY_UNITS, "N", 0, "buy: how many units should be there afterwards", 0},
    {0},
};

static int set(void *opts, int key, char *arg, struct st_err *e)
{
    struct wallet_opts *o = opts;
    const char **const words[] = {
        [KEY_POLICY - ST_KEY(0)] = &o->policy,
        [KEY_RELAY - ST_KEY(0)] = &o->relay,
        [KEY_LOG - ST_KEY(0)] = &o->log,
        [KEY_ISSUER - ST_KEY(0)] = &o->issuer,
        [KEY_ISSUER_NAME - ST_KEY(0)] = &o->issuer_name,
        [KEY_ACCOUNT - ST_KEY(0)] = &o->account_file,
        [KEY_LOG_STATE - ST_KEY(0)] = &o->log_state,
        [KEY_CA_BUNDLE - ST_KEY(0)] = &o->ca_bundle,
    };
    if (key == KEY_UNITS)
        return st_opt_u32("--units", arg, 1, 1u << 24, &o->units, e);
    *words[key - ST_KEY(0)] = arg;
    return 0;
}

/* ---- show ---- */

static int print(const struct st_cli *cli, struct st_wallet *w, struct st_err *e)
{
    uint64_t n[ST_TOKEN_N_UNITS];
    if (st_wallet_count(w, n, e))
        return e->code;
    printf(cli->json ? "{\"units\":%" PRIu64 ",\"tokens\":[" : "%" PRIu64 " units\n", st_wallet_units(w));
    for (size_t i = 0; i < ST_TOKEN_N_UNITS; i++)
        if (cli->json)
            printf("%s{\"units\":%" PRIu32 ",\"n\":%" PRIu64 "}", i ? "," : "", st_token_units[i], n[i]);
        else if (n[i])
            printf("  %6" PRIu64 " of %" PRIu32 "\n", n[i], st_token_units[i]);
    fputs(cli->json ? "]}\n" : "", stdout);
    return 0;
}

static int show(const struct st_cli *cli, struct st_err *e)
{
    struct st_wallet *w;
    const struct st_wallet_opts o = {.file = cli->args[1]};
    if (!st_path_exists(o.file))
        return st_fail(e, ST_IO, "%s: there is no wallet", o.file);
    if (st_wallet_open(NULL, &o, &w, e))
        return e->code;
    int rc = print(cli, w, e);
    st_wallet_close(w);
    return rc;
}

/* ---- buy ---- */

struct buying {
    const struct wallet_opts *o;
    struct event_base *base;
    struct st_http_client *http;
    struct st_policy *policy;
    struct st_log_client *log;
    struct st_wallet *wallet;
    bool asked;
    struct st_err log_error;
};

static void on_directory(void *arg, const struct st_err *e)
{
    struct buying *b = arg;
    b->asked = true;
    if (e)
        b->log_error = *e;
}

static int read_policy(struct buying *b, struct st_err *e)
{
    struct st_buf text = {0};
    int rc = st_file_read(b->o->policy, ST_POLICY_MAX_BYTES, &text, e);
    if (!rc)
        rc = st_policy_parse(text.p, text.len, b->o->policy, &b->policy, e);
    st_buf_free(&text);
    return rc || st_policy_log(b->policy) ? rc : st_fail(e, ST_POLICY, "%.200s: names no log", b->o->policy);
}

static int open_log(struct buying *b, struct st_err *e)
{
    char *base = NULL;
    struct st_buf url = {0};
    if (st_http_base(b->o->log ? "--log" : "--relay", b->o->log ? b->o->log : b->o->relay, &base, e))
        return e->code;
    st_buf_addf(&url, "%s%s", base, b->o->log ? "" : ST_RELAY_PATH_LOG);
    const int64_t max_age = st_policy_max_age(b->policy);
    const struct st_log_client_opts lo = {.url = url.p,
                                          .state_file = b->o->log_state,
                                          .keys = *st_policy_log(b->policy),
                                          .max_age_s = max_age > 0 ? max_age : 0,
                                          .stall_s = 30};
    int rc = url.failed ? st_fail(e, ST_MEMORY, "out of memory") : st_log_client_new(b->http, &lo, &b->log, e);
    free(base);
    st_buf_free(&url);
    return rc;
}

/* The keys that everybody sees: an issuer asked for them could give each account its own. */
static int take_keys(struct buying *b, struct st_err *e)
{
    if (st_log_client_refresh(b->log, on_directory, b, e))
        return e->code;
    while (!b->asked)
        event_base_loop(b->base, EVLOOP_ONCE);
    if (b->log_error.code)
        return st_fail(e, b->log_error.code, "%s", b->log_error.msg);
    const struct st_directory *d = st_log_client_directory(b->log);
    const struct st_directory_issuer *i = b->o->issuer_name  ? st_directory_find_issuer(d, b->o->issuer_name)
                                          : d->n_issuer == 1 ? &d->issuers[0]
                                                             : NULL;
    if (!i && b->o->issuer_name)
        return st_fail(e, ST_POLICY, "directory: no issuer of the name '%s' (--issuer-name)", b->o->issuer_name);
    return i ? st_wallet_keys(b->wallet, i, st_unix_time(), e)
             : st_fail(e, ST_POLICY, "directory: %zu issuers: want one, or its name (--issuer-name)", d->n_issuer);
}

static int fill(struct buying *b, struct st_err *e)
{
    const struct st_err *trouble = NULL;
    st_wallet_stock(b->wallet, b->o->units);
    while (st_wallet_units(b->wallet) < b->o->units && !(trouble = st_wallet_trouble(b->wallet)))
        event_base_loop(b->base, EVLOOP_ONCE);
    return trouble ? st_fail(e, trouble->code, "%s", trouble->msg) : 0;
}

static void close_all(struct buying *b)
{
    st_wallet_close(b->wallet);
    st_log_client_free(b->log);
    st_policy_free(b->policy);
    st_http_client_free(b->http);
    if (b->base)
        event_base_free(b->base);
}

static int buy(const struct st_cli *cli, const struct wallet_opts *o, struct st_err *e)
{
    struct buying b = {.o = o};
    if (!o->policy || !(o->relay || o->log) || !o->issuer || !o->account_file || !o->units)
        return st_fail(e, ST_USAGE,
                       "wallet buy: want --policy, --relay (or --log), --issuer, --account-file and --units (missing: "
                       "%s)",
                       !o->policy              ? "--policy"
                       : !(o->relay || o->log) ? "--relay"
                       : !o->issuer            ? "--issuer"
                       : !o->account_file      ? "--account-file"
                                               : "--units");
    const struct st_http_client_opts ho = {.ca_bundle = o->ca_bundle, .connect_s = 10, .max_idle = 4};
    const struct st_wallet_opts wo = {.file = cli->args[1], .issuer_url = o->issuer, .account_file = o->account_file};
    st_secret_process();
    b.base = event_base_new();
    int rc = b.base ? read_policy(&b, e) : st_fail(e, ST_IO, "event loop: cannot start");
    if (!rc)
        rc = st_http_client_new(b.base, &ho, &b.http, e);
    if (!rc)
        rc = open_log(&b, e);
    if (!rc)
        rc = st_wallet_open(b.http, &wo, &b.wallet, e);
    if (!rc)
        rc = take_keys(&b, e);
    if (!rc)
        rc = fill(&b, e);
    if (!rc)
        rc = print(cli, b.wallet, e);
    close_all(&b);
    return rc;
}

static int run(const struct st_cli *cli, void *opts, struct st_err *e)
{
    if (strcmp(cli->args[0], "show") == 0)
        return show(cli, e);
    if (strcmp(cli->args[0], "buy") == 0)
        return buy(cli, opts, e);
    return st_fail(e, ST_USAGE, "wallet: want `show FILE` or `buy FILE`, got '%.40s'", cli->args[0]);
}

const struct st_cmd st_cmd_wallet = {
    .name = "wallet",
    .summary = "The tokens that requests are paid with: what is there, and more of them",
    .args_doc = "show|buy FILE",
    .min_args = 2,
    .max_args = 2,
    .doc = "`sotto proxy --protect confidential` keeps a wallet and buys what it needs; this shows what is in it, or "
           "buys ahead, so that buying and using lie far apart. One program at a time has a wallet open. Tokens are "
           "good on the day they were bought for and the next.",
    .examples = "  sotto wallet show ~/.local/state/sotto/wallet.db\n"
                "  sotto wallet buy ~/.local/state/sotto/wallet.db --units 2000 --policy p.json \\\n"
                "      --relay https://relay.example --issuer https://issuer.example --account-file key",
    .shared = ST_CLI_JSON,
    .options = options,
    .opts_size = sizeof(struct wallet_opts),
    .set = set,
    .run = run,
};
