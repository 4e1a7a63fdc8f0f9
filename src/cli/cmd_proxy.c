/* sotto proxy: the endpoint on the client's machine. It alone holds the key; the upstream sees what the protection lets
 * out. */
#include "base/log.h"
#include "cli/listen.h"
#include "cli/masked.h"
#include "cli/proxy.h"
#include "cli/serve_engine.h"
#include "cli/source.h"
#include "service/gen_upstream.h"

#include <string.h>

enum {
    KEY_KEY = ST_KEY(0),
    KEY_UPSTREAM,
    KEY_UPSTREAM_MODEL,
    KEY_UPSTREAM_DIALECT,
    KEY_UPSTREAM_KEY_FILE,
    KEY_CA_BUNDLE,
    KEY_STALL,
    KEY_RETRIES,
    KEY_MAX_QUEUE,
    KEY_TOKENIZER,
    KEY_MANIFEST,
    KEY_POLICY,
    KEY_RELAY,
    KEY_LOG,
    KEY_ISSUER,
    KEY_ISSUER_NAME,
    KEY_ACCOUNT_FILE,
    KEY_WALLET,
    KEY_STATE,
    KEY_GATEWAY,
    KEY_TAG,
    KEY_CHALLENGE,
    KEY_RECEIPTS,
};

static const struct st_proxy_opts defaults = {.n_retry = 2};

static const struct argp_option options[] = {
    {"key", KEY_KEY, "FILE", 0, "Key file of the obfuscated checkpoint (sotto key new)", 0},
    {"tokenizer", KEY_TOKENIZER, "SRC", 0,
     "The model that was obfuscated: its directory, here for its tokenizer; masked: another tokenizer than the model's",
     0},
    {"manifest", KEY_MANIFEST, "PATH", 0,
     "The obfuscated checkpoint, or a copy of its sotto.json: says how it was made, and a wrong key is told at once",
     0},
    {"upstream", KEY_UPSTREAM, "URL", 0, "Server that runs the obfuscated checkpoint", 0},
    {"upstream-model", KEY_UPSTREAM_MODEL, "NAME", 0, "Its name there; default: the first of its /v1/models", 0},
    {"upstream-dialect", KEY_UPSTREAM_DIALECT, "NAME", 0,
     "openai-ids (vLLM, sotto serve), llama.cpp, openai-text or sglang; default auto: as it calls itself, else "
     "openai-ids",
     0},
    {"upstream-key-file", KEY_UPSTREAM_KEY_FILE, "FILE", 0, "API key for the upstream", 0},
    {"ca-bundle", KEY_CA_BUNDLE, "FILE", 0, "Certificates that the other side's TLS is checked against (PEM)", 0},
    {"stall", KEY_STALL, "SECONDS", 0, "Give up when the other side sends nothing for so long; default 300", 0},
    {"retries", KEY_RETRIES, "N", 0, "Tries after the first while nothing of a reply has come; default 2", 0},
    {"max-queue", KEY_MAX_QUEUE, "N", 0, "Requests at once; default 1024", 0},
    {"policy", KEY_POLICY, "FILE", 0, "confidential: what evidence is accepted, and which log is believed", 1},
    {"relay", KEY_RELAY, "URL", 0, "confidential: the relay before the gateway", 1},
    {"log", KEY_LOG, "URL", 0, "confidential: the log itself; default: through the relay", 1},
    {"issuer", KEY_ISSUER, "URL", 0, "confidential: where tokens are bought", 1},
    {"issuer-name", KEY_ISSUER_NAME, "NAME", 0, "confidential: its name in the directory; default: the only one", 1},
    {"account-file", KEY_ACCOUNT_FILE, "FILE", 0, "confidential: key of your account at the issuer", 1},
    {"wallet", KEY_WALLET, "FILE", 0, "confidential: your tokens; default wallet.db in the state directory", 1},
    {"state", KEY_STATE, "DIR", 0,
     "confidential: where wallet and the log's last checkpoint are kept; default ~/.local/state/sotto", 1},
    {"gateway", KEY_GATEWAY, "NAME", 0, "confidential: the gateway's name in the directory; default: the only one", 1},
    {"tag", KEY_TAG, "NAME=VALUE", 0, "confidential: only nodes with this tag, as model=demo; may be repeated", 1},
    {"challenge", KEY_CHALLENGE, NULL, 0, "confidential: ask each node for evidence with a nonce of our own, too", 1},
    {"receipts", KEY_RECEIPTS, "DIR", 0,
     "confidential: keep every receipt there, with request and reply in the clear (sotto attest receipt)", 1},
    {0},
};

static int set_confidential(struct st_proxy_opts *o, int key, const char *arg, struct st_err *e)
{
    const char **const rows[] = {
        [KEY_POLICY - KEY_POLICY] = &o->policy,
        [KEY_RELAY - KEY_POLICY] = &o->relay,
        [KEY_LOG - KEY_POLICY] = &o->log,
        [KEY_ISSUER - KEY_POLICY] = &o->issuer,
        [KEY_ISSUER_NAME - KEY_POLICY] = &o->issuer_name,
        [KEY_ACCOUNT_FILE - KEY_POLICY] = &o->account_file,
        [KEY_WALLET - KEY_POLICY] = &o->wallet,
        [KEY_STATE - KEY_POLICY] = &o->state,
        [KEY_GATEWAY - KEY_POLICY] = &o->gateway,
        [KEY_RECEIPTS - KEY_POLICY] = &o->receipts,
    };
    if (key == KEY_CHALLENGE)
        o->challenge = true;
    else if (key == KEY_TAG) {
        if (!strchr(arg, '=') || o->n_tag == ST_PROXY_MAX_TAGS)
            return st_fail(e, ST_USAGE, "--tag: want NAME=VALUE, at most %d of them", ST_PROXY_MAX_TAGS);
        o->tags[o->n_tag++] = arg;
    } else
        *rows[key - KEY_POLICY] = arg;
    return 0;
}

static int set(void *opts, int key, char *arg, struct st_err *e)
{
    struct st_proxy_opts *o = opts;
    switch (key) {
    case KEY_KEY:
        o->key = arg;
        return 0;
    case KEY_TOKENIZER:
        o->source = arg;
        return 0;
    case KEY_MANIFEST:
        o->manifest = arg;
        return 0;
    case KEY_UPSTREAM:
        o->upstream = arg;
        return 0;
    case KEY_UPSTREAM_MODEL:
        o->upstream_model = arg;
        return 0;
    case KEY_UPSTREAM_DIALECT:
        o->dialect = arg;
        return 0;
    case KEY_UPSTREAM_KEY_FILE:
        o->upstream_key_file = arg;
        return 0;
    case KEY_CA_BUNDLE:
        o->ca_bundle = arg;
        return 0;
    case KEY_STALL:
        return st_opt_real("--stall", arg, 1, 86400, &o->stall_s, e);
    case KEY_RETRIES:
        return st_opt_u32("--retries", arg, 0, 10, &o->n_retry, e);
    case KEY_MAX_QUEUE:
        return st_opt_u32("--max-queue", arg, 1, 1u << 20, &o->max_queue, e);
    default:
        return set_confidential(o, key, arg, e);
    }
}

static int check(const struct st_cli *cli, const struct st_proxy_opts *o, struct st_err *e)
{
    if (cli->n_args)
        return st_fail(e, ST_USAGE, "proxy: '%s': a MODEL is for --protect masked", cli->args[0]);
    if (cli->masked.first)
        return st_fail(e, ST_USAGE, "--%s: only with --protect masked", cli->masked.first);
    if (cli->dtype != ST_CLI_DTYPE_KEEP || cli->kv_dtype >= 0 || cli->n_ctx || cli->deterministic || cli->harden)
        return st_fail(e, ST_USAGE,
                       "proxy: --dtype, --kv-dtype, --ctx, --deterministic and --harden are for --protect masked: "
                       "the upstream runs the model");
    if (st_proxy_confidential_given(o))
        return st_fail(e, ST_USAGE, "proxy: %s: only with --protect confidential", st_proxy_confidential_given(o));
    if (!o->key || !o->source || !o->upstream)
        return st_fail(e, ST_USAGE, "proxy: want --key FILE, --tokenizer SRC and --upstream URL (missing: %s)",
                       !o->key      ? "--key"
                       : !o->source ? "--tokenizer"
                                    : "--upstream");
    return 0;
}

/* The engine is here, and so is everything but the linear layers: the endpoint of `sotto serve` on the proxy's port. */
static int run_masked(const struct st_cli *cli, const struct st_proxy_opts *o, struct st_err *e)
{
    struct st_cli with = *cli;
    bool masked;
    if (o->key || o->manifest || o->upstream || o->upstream_model || o->dialect || o->upstream_key_file || o->ca_bundle)
        return st_fail(e, ST_USAGE, "proxy: --key, --manifest, --upstream and --ca-bundle are for --protect covariant");
    if (st_proxy_confidential_given(o))
        return st_fail(e, ST_USAGE, "proxy: %s: only with --protect confidential", st_proxy_confidential_given(o));
    if (!cli->n_args)
        return st_fail(e, ST_USAGE, "proxy: --protect masked wants a MODEL");
    if (st_masked_wanted(cli, false, &masked, e))
        return e->code;
    with.tokenizer = o->source;
    const struct st_serve_engine so = {.command = "proxy", .port = 7788, .max_queue = o->max_queue};
    return st_serve_engine(&with, &so, e);
}

static int run(const struct st_cli *cli, void *opts, struct st_err *e)
{
    const struct st_proxy_opts *o = opts;
    struct st_cov_source src;
    if (cli->protect && strcmp(cli->protect, "masked") == 0)
        return run_masked(cli, o, e);
    if (cli->protect && strcmp(cli->protect, "confidential") == 0)
        return st_proxy_confidential(cli, o, e);
    if (cli->protect && strcmp(cli->protect, "covariant") != 0)
        return st_fail(e, ST_UNSUPPORTED,
                       "--protect: '%s' is not supported; supported: covariant, masked, confidential", cli->protect);
    if (check(cli, o, e) || st_source_open(cli, o->source, o->key, o->manifest, &src, e))
        return e->code;
    const struct st_gen_upstream_opts uo = {.url = o->upstream,
                                            .api_key_file = o->upstream_key_file,
                                            .ca_bundle = o->ca_bundle,
                                            .model = o->upstream_model,
                                            .dialect = o->dialect,
                                            .cipher = &src.cipher,
                                            .scheme = src.scheme,
                                            .n_ctx = src.config.n_ctx,
                                            .eos = src.eos,
                                            .n_eos = src.n_eos,
                                            .stall_s = o->stall_s,
                                            .n_retry = o->n_retry,
                                            .max_live = o->max_queue,
                                            .show_egress = cli->masked.show_egress};
    struct st_banner banner = {.cli = cli,
                               .command = "proxy",
                               .model = o->upstream,
                               .protection = "covariant",
                               .scheme = src.scheme,
                               .verified = "no",
                               .note = "hides nothing from a server that has the base weights (docs/covariant.md)"};
    struct st_server_opts so;
    if (!o->manifest)
        st_log(ST_LOG_WARN, "no --manifest: a wrong key, or a source that has changed, would show as nonsense only");
    st_listen_opts(cli, 7788, &banner, &so);
    so.tokenizer = src.tokenizer;
    so.chat = src.chat;
    so.source = (struct st_gen_source){st_gen_upstream_open, &uo};
    int rc = st_server_run(&so, e);
    st_source_close(&src);
    return rc;
}

const struct st_cmd st_cmd_proxy = {
    .name = "proxy",
    .summary = "The private endpoint on your machine, in front of an untrusted server",
    .args_doc = "[MODEL]",
    .max_args = 1,
    .doc = "An OpenAI-compatible endpoint on http://127.0.0.1:7788/v1. Prompts are templated and tokenised here, token "
           "ids are enciphered with the key, and an untrusted server that runs the obfuscated checkpoint continues "
           "them. The key and the text never leave this machine. With --protect masked this machine runs MODEL itself, "
           "and "
           "untrusted workers compute its linear layers on masked rows; that needs no key. With --protect confidential "
           "requests go sealed to attested nodes: see docs/confidential.md.",
    .examples = "  sotto proxy --key my.key --tokenizer my-model --manifest my-model.cov \\\n"
                "      --upstream http://127.0.0.1:7789 --show-egress\n"
                "  sotto proxy --key my.key --tokenizer my-model --manifest my-model.cov \\\n"
                "      --upstream https://gpu.example:8000 --upstream-key-file gpu.key\n"
                "  sotto proxy --protect masked my-model --worker tls://gpu.example:7790\n"
                "  sotto proxy --protect confidential --policy policy.json --relay https://relay.example \\\n"
                "      --issuer https://issuer.example --account-file account.key",
    .shared =
        ST_CLI_LISTEN | ST_CLI_CHAT | ST_CLI_JSON | ST_CLI_UNLOCK | ST_CLI_ENGINE | ST_CLI_THREADS | ST_CLI_MASKED,
    .options = options,
    .opts_size = sizeof(struct st_proxy_opts),
    .defaults = &defaults,
    .set = set,
    .run = run,
};
