/* sotto proxy --protect confidential: verifies nodes, pays, seals, checks receipts (service/conf_client.h). */
#include "cli/listen.h"
#include "cli/proxy.h"
#include "service/conf_client.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

const char *st_proxy_confidential_given(const struct st_proxy_opts *o)
{
    const struct {
        const char *value, *name;
    } rows[] = {{o->policy, "--policy"},
                {o->relay, "--relay"},
                {o->log, "--log"},
                {o->issuer, "--issuer"},
                {o->issuer_name, "--issuer-name"},
                {o->account_file, "--account-file"},
                {o->wallet, "--wallet"},
                {o->state, "--state"},
                {o->gateway, "--gateway"},
                {o->receipts, "--receipts"},
                {o->n_tag ? "" : NULL, "--tag"},
                {o->challenge ? "" : NULL, "--challenge"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].value)
            return rows[i].name;
    return NULL;
}

static int check(const struct st_cli *cli, const struct st_proxy_opts *o, struct st_err *e)
{
    if (cli->n_args)
        return st_fail(e, ST_USAGE, "proxy: '%s': a MODEL is for --protect masked", cli->args[0]);
    if (cli->masked.first)
        return st_fail(e, ST_USAGE, "--%s: only with --protect masked", cli->masked.first);
    if (o->key || o->source || o->manifest || o->upstream || o->upstream_model || o->dialect || o->upstream_key_file)
        return st_fail(e, ST_USAGE,
                       "proxy: --key, --tokenizer, --manifest and --upstream are for the other protections");
    if (cli->dtype != ST_CLI_DTYPE_KEEP || cli->kv_dtype >= 0 || cli->n_ctx || cli->deterministic || cli->harden)
        return st_fail(e, ST_USAGE,
                       "proxy: --dtype, --kv-dtype, --ctx, --deterministic and --harden are for --protect masked");
    if (!o->policy || !o->relay || !o->issuer || !o->account_file)
        return st_fail(e, ST_USAGE,
                       "proxy: want --policy FILE, --relay URL, --issuer URL and --account-file FILE (missing: %s)",
                       !o->policy   ? "--policy"
                       : !o->relay  ? "--relay"
                       : !o->issuer ? "--issuer"
                                    : "--account-file");
    return 0;
}

/* --state, or sotto in the user's folder for what programs remember. */
static int state_dir(const struct st_proxy_opts *o, char out[ST_PATH_MAX], struct st_err *e)
{
    const char *xdg = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    int n = o->state        ? snprintf(out, ST_PATH_MAX, "%s", o->state)
            : xdg && *xdg   ? snprintf(out, ST_PATH_MAX, "%s/sotto", xdg)
            : home && *home ? snprintf(out, ST_PATH_MAX, "%s/.local/state/sotto", home)
                            : 0;
    if (n <= 0 || n >= ST_PATH_MAX)
        return st_fail(e, ST_USAGE, "proxy: want --state DIR: neither XDG_STATE_HOME nor HOME says where");
    return st_dir_make(out, e);
}

int st_proxy_confidential(const struct st_cli *cli, const struct st_proxy_opts *o, struct st_err *e)
{
    char dir[ST_PATH_MAX], wallet[ST_PATH_MAX], checkpoint[ST_PATH_MAX];
    if (check(cli, o, e) || state_dir(o, dir, e) || st_path_join(wallet, sizeof wallet, dir, "wallet.db", e) ||
        st_path_join(checkpoint, sizeof checkpoint, dir, "log.checkpoint", e))
        return e->code;
    const struct st_conf_client_opts co = {.policy = o->policy,
                                           .relay = o->relay,
                                           .log = o->log,
                                           .issuer = o->issuer,
                                           .account_file = o->account_file,
                                           .wallet = o->wallet ? o->wallet : wallet,
                                           .log_state = checkpoint,
                                           .gateway = o->gateway,
                                           .issuer_name = o->issuer_name,
                                           .tags = o->tags,
                                           .n_tag = o->n_tag,
                                           .ca_bundle = o->ca_bundle,
                                           .receipts = o->receipts,
                                           .challenge = o->challenge,
                                           .show_egress = cli->masked.show_egress,
                                           .stall_s = o->stall_s,
                                           .n_retry = o->n_retry,
                                           .max_live = o->max_queue};
    struct st_banner banner = {
        .cli = cli,
        .command = "proxy",
        .model = o->relay,
        .protection = "confidential",
        .scheme = "none",
        .verified = "evidence",
        .note = "nothing of a prompt leaves before log, evidence and policy are in order; `sotto status` shows them",
        .warning = o->receipts ? "--receipts keeps prompts and replies on disk" : NULL};
    struct st_server_opts so;
    st_listen_opts(cli, 7788, &banner, &so);
    so.passage = (struct st_passage_source){st_conf_client_open, &co};
    return st_server_run(&so, e);
}
