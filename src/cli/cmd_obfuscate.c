/* sotto obfuscate SRC DST --key KEY: compiles a checkpoint for an untrusted server. */
#include "cli/cli.h"
#include "protect/covariant/covariant.h"
#include "text/json.h"

#include <signal.h>
#include <string.h>

struct obfuscate_opts {
    const char *key;
    uint32_t expand;
    int preset;
    bool verify, f32;
};
enum { OPT_KEY = ST_KEY(1), OPT_H, OPT_PRESET, OPT_VERIFY, OPT_F32 };
enum { PRESET_TIGHT, PRESET_PAPER };

static const struct argp_option options[] = {
    {"key", OPT_KEY, "FILE", 0, "The key, made by `sotto key new`", 0},
    {"h", OPT_H, "H", 0, "The hidden size grows by 2H; default: about 128", 0},
    {"preset", OPT_PRESET, "NAME", 0, "Scheme; default and only one so far: tight", 0},
    {"f32", OPT_F32, NULL, 0,
     "Store f32 weights (twice the size of bf16): replies then equal the source's token by token", 0},
    {"verify", OPT_VERIFY, NULL, 0, "Read the result back and compare its logits with the source's", 0},
    {0},
};

static int set(void *opts, int key, char *arg, struct st_err *e)
{
    static const char *const presets[] = {"tight", "paper", NULL};
    struct obfuscate_opts *o = opts;
    switch (key) {
    case OPT_KEY:
        o->key = arg;
        return 0;
    case OPT_H:
        return st_opt_u32("--h", arg, 1, 4096, &o->expand, e);
    case OPT_PRESET:
        return st_opt_choice("--preset", arg, presets, &o->preset, e);
    case OPT_F32:
        o->f32 = true;
        return 0;
    default:
        o->verify = true;
        return 0;
    }
}

static volatile sig_atomic_t cancelled;

static void on_signal(int sig)
{
    (void)sig;
    cancelled = 1;
}

/* Ctrl-C and a service manager's stop leave no half-written directory; a second one ends the process at once. */
static void catch_signals(void)
{
    struct sigaction sa = {.sa_handler = on_signal, .sa_flags = (int)(SA_RESETHAND | SA_RESTART)};
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
}

static void report(const struct st_cli *cli, bool verified, double err)
{
    const char *src = cli->args[0], *dst = cli->args[1];
    if (!cli->json) {
        if (verified)
            printf("%s: verified; its logits differ from the source's by at most %.2g of the largest\n", dst, err);
        else
            printf("%s: written\n", dst);
        return;
    }
    struct st_buf b = {0};
    st_buf_add_str(&b, "{\"source\": ");
    st_json_quote(&b, src, strlen(src));
    st_buf_add_str(&b, ", \"result\": ");
    st_json_quote(&b, dst, strlen(dst));
    st_buf_addf(&b, ", \"preset\": \"tight\", \"verified\": %s", verified ? "true" : "false");
    if (verified)
        st_buf_addf(&b, ", \"max_rel_err\": %.6g", err);
    st_buf_add_str(&b, "}\n");
    if (b.p)
        fputs(b.p, stdout);
    st_buf_free(&b);
}

static int run(const struct st_cli *cli, void *opts, struct st_err *e)
{
    const struct obfuscate_opts *o = opts;
    const char *src = cli->args[0], *dst = cli->args[1];
    struct st_cov_opts cov = {.expand = o->expand,
                              .f32 = o->f32,
                              .n_threads = cli->n_threads,
                              .isa = cli->isa,
                              .progress = !cli->quiet,
                              .cancel = &cancelled};
    struct st_cov_key key;
    double err = 0;
    if (!o->key)
        return st_fail(e, ST_USAGE, "obfuscate: --key FILE is needed (make one with `sotto key new FILE`)");
    if (o->preset == PRESET_PAPER)
        return st_fail(e, ST_UNSUPPORTED, "--preset paper is not available yet; available: tight");
    int rc = st_cov_key_load(o->key, &key, e);
    if (rc)
        return rc;
    catch_signals();
    rc = st_cov_obfuscate(src, dst, &key, &cov, e);
    if (!rc && o->verify)
        rc = st_cov_verify(src, dst, &key, &cov, &err, e);
    st_cov_key_wipe(&key);
    if (!rc)
        report(cli, o->verify, err);
    return rc;
}

const struct st_cmd st_cmd_obfuscate = {
    .name = "obfuscate",
    .summary = "Compile a model for a server that must not read the conversation",
    .args_doc = "SRC DST",
    .min_args = 2,
    .max_args = 2,
    .doc =
        "Writes DST, a Hugging Face directory that any stock engine serves, from SRC (a Hugging Face directory or a "
        "llama2.c file) and a key. The server then sees permuted token ids and keyed weights; `sotto proxy --protect "
        "covariant` translates for your applications. This hides nothing from a server that holds the weights of SRC "
        "and "
        "compares them. DST appears when it is complete; it has no tokenizer and must not get one.",
    .examples = "  sotto key new my.key\n  sotto obfuscate my-model my-model.cov --key my.key --verify",
    .shared = ST_CLI_JSON | ST_CLI_THREADS,
    .options = options,
    .opts_size = sizeof(struct obfuscate_opts),
    .set = set,
    .run = run,
};
