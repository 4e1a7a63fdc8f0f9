/* sotto obfuscate SRC DST --key KEY: compiles a checkpoint for an untrusted server. */
#include "base/hooks.h"
#include "base/log.h"
#include "base/mem.h"
#include "cli/key_open.h"
#include "cli/source.h"
#include "model/container.h"
#include "model/locate.h"
#include "protect/covariant/covariant.h"
#include "text/json.h"

#include <inttypes.h>
#include <limits.h>
#include <malloc.h>
#include <math.h>
#include <signal.h>
#include <string.h>

struct obfuscate_opts {
    const char *key;
    int preset;
    double lambda, alpha_e, alpha_h, gamma; /* NAN: the preset's */
    int64_t beta;                           /* -1: the preset's */
    struct st_cov_opts cov;                 /* what does not depend on the preset */
    bool verify;
};
static const struct obfuscate_opts defaults = {.lambda = NAN, .alpha_e = NAN, .alpha_h = NAN, .gamma = NAN, .beta = -1};

enum {
    OPT_KEY = ST_KEY(1),
    OPT_PRESET,
    OPT_H,
    OPT_LAMBDA,
    OPT_ALPHA_E,
    OPT_ALPHA_H,
    OPT_NOISE_ALL,
    OPT_BETA,
    OPT_GAMMA,
    OPT_HOMOPHONES,
    OPT_FORMAT,
    OPT_DTYPE,
    OPT_MEMORY,
    OPT_CALIBRATE,
    OPT_VERIFY,
    OPT_RESTART,
};

static const struct argp_option options[] = {
    {"key", OPT_KEY, "FILE", 0, "The key, made by `sotto key new`", 0},
    {"preset", OPT_PRESET, "NAME", 0,
     "tight (default): same replies as the source, but for rounding; paper: AloePri as published, with noise and some "
     "loss. A server with the weights of SRC, or of its base, reads everything under both, with any noise (row sort, "
     "column matching and others); one without them deciphers ids like any substitution, the better the more it has "
     "heard and the more it has read of such text: docs/leakage.md",
     0},
    {"h", OPT_H, "H", 0, "The hidden size grows by 2H; default: about 128", 0},
    {"lambda", OPT_LAMBDA, "L", 0, "paper: how far the key matrix is from orthogonal, 0 to 1; default 0.3", 0},
    {"alpha-e", OPT_ALPHA_E, "A", 0,
     "Noise of the embedding, in standard deviations of its trained rows; default 0 (paper: 1)", 0},
    {"alpha-h", OPT_ALPHA_H, "A", 0, "Noise of the head, in its standard deviations; default 0 (paper: 0.2)", 0},
    {"noise-all", OPT_NOISE_ALL, "S", 0, "Noise of every other matrix, in its standard deviations; default 0", 0},
    {"beta", OPT_BETA, "B", 0, "Longest block of rotary pairs that is permuted; 0 = none; default 0 (paper: 8)", 0},
    {"gamma", OPT_GAMMA, "G", 0,
     "How near in frequency permuted pairs are: several context lengths, or accuracy is lost; default 1000", 0},
    {"homophones", OPT_HOMOPHONES, "K", 0,
     "Extra ids for each frequent token, against counting ids in prompts; needs --alpha-e; default 0", 0},
    {"format", OPT_FORMAT, "NAME", 0, "hf (default): a Hugging Face directory; gguf: one file for llama.cpp", 0},
    {"dtype", OPT_DTYPE, "TYPE", 0,
     "Of the stored matrices: keep (default), f32 (twice the size of bf16, and replies equal the source's), f16, bf16; "
     "q8_0 with --format gguf",
     0},
    {"memory", OPT_MEMORY, "SIZE", 0, "Working memory beyond the key matrices; 2G by default", 0},
    {"calibrate", OPT_CALIBRATE, "FILE", 0,
     "paper: text on which the norms are measured; homophones: whose frequent tokens; default: a small one of ours", 0},
    {"restart", OPT_RESTART, NULL, 0, "Throw away what an unfinished run with other options left in DST.partial", 0},
    {"verify", OPT_VERIFY, NULL, 0,
     "Read the result back: check every tensor against the source, then (format hf) compare the logits of both", 0},
    {0},
};

#define BIG 1e15 /* the library knows the ranges; here a number need only be finite and not negative */

static int set(void *opts, int key, char *arg, struct st_err *e)
{
    static const char *const presets[] = {"tight", "paper", NULL}, *const formats[] = {"hf", "gguf", NULL};
    static const char *const dtypes[] = {"keep", "f32", "f16", "bf16", "q8_0", NULL};
    struct obfuscate_opts *o = opts;
    int i = 0, rc;
    switch (key) {
    case OPT_KEY:
        o->key = arg;
        return 0;
    case OPT_PRESET:
        return st_opt_choice("--preset", arg, presets, &o->preset, e);
    case OPT_H:
        return st_opt_u32("--h", arg, 1, 4096, &o->cov.expand, e);
    case OPT_LAMBDA:
        return st_opt_real("--lambda", arg, 0, BIG, &o->lambda, e);
    case OPT_ALPHA_E:
        return st_opt_real("--alpha-e", arg, 0, BIG, &o->alpha_e, e);
    case OPT_ALPHA_H:
        return st_opt_real("--alpha-h", arg, 0, BIG, &o->alpha_h, e);
    case OPT_NOISE_ALL:
        return st_opt_real("--noise-all", arg, 0, BIG, &o->cov.noise_all, e);
    case OPT_BETA:
        return st_opt_int("--beta", arg, 0, UINT32_MAX, &o->beta, e);
    case OPT_GAMMA:
        return st_opt_real("--gamma", arg, 0, BIG, &o->gamma, e);
    case OPT_HOMOPHONES:
        return st_opt_u32("--homophones", arg, 0, UINT32_MAX, &o->cov.homophones, e);
    case OPT_FORMAT:
        rc = st_opt_choice("--format", arg, formats, &i, e);
        o->cov.format = (enum st_cov_format)i;
        return rc;
    case OPT_DTYPE:
        rc = st_opt_choice("--dtype", arg, dtypes, &i, e);
        o->cov.dtype = (enum st_cov_store)i;
        return rc;
    case OPT_MEMORY:
        return st_opt_size("--memory", arg, 1, &o->cov.memory_bytes, e);
    case OPT_CALIBRATE:
        o->cov.calibrate = arg;
        return 0;
    case OPT_RESTART:
        o->cov.restart = true;
        return 0;
    default:
        o->verify = true;
        return 0;
    }
}

/* The preset's figures, then what was given. */
static struct st_cov_opts compile_opts(const struct st_cli *cli, const struct obfuscate_opts *o)
{
    struct st_cov_opts preset, c = o->cov;
    st_cov_opts_init(&preset, o->preset ? ST_COV_PRESET_PAPER : ST_COV_PRESET_TIGHT);
    c.preset = preset.preset;
    c.lambda = isnan(o->lambda) ? preset.lambda : o->lambda;
    c.alpha_e = isnan(o->alpha_e) ? preset.alpha_e : o->alpha_e;
    c.alpha_h = isnan(o->alpha_h) ? preset.alpha_h : o->alpha_h;
    c.gamma = isnan(o->gamma) ? preset.gamma : o->gamma;
    c.beta = o->beta < 0 ? preset.beta : (uint32_t)o->beta;
    c.n_threads = cli->n_threads;
    c.isa = cli->isa;
    c.progress = !cli->quiet;
    return c;
}

static volatile sig_atomic_t cancelled;

static void on_signal(int sig)
{
    (void)sig;
    cancelled = 1;
}

/* After Ctrl-C or a service manager's stop the same command goes on; a second one ends the process at once. */
static void catch_signals(void)
{
    struct sigaction sa = {.sa_handler = on_signal, .sa_flags = (int)(SA_RESETHAND | SA_RESTART)};
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
}

/* What the compilation took; verifying is not in it. */
struct cost {
    struct st_cov_report report;
    double seconds;
    uint64_t peak_rss;
};

static void put_cost(struct st_buf *b, const struct cost *c)
{
    st_buf_addf(b,
                ", \"seconds\": %.3f, \"tensor_seconds\": %.3f, \"tensor_cpu_seconds\": %.3f, \"gflop\": %.3f, "
                "\"key_bytes\": %" PRIu64 ", \"peak_rss_bytes\": %" PRIu64,
                c->seconds, c->report.seconds, c->report.cpu_seconds, 1e-9 * c->report.flop, c->report.key_bytes,
                c->peak_rss);
}

static void report(const struct st_cli *cli, const struct st_cov_opts *cov, const struct cost *c, bool verified,
                   double err)
{
    const char *src = cli->args[0], *dst = cli->args[1];
    if (!cli->json) {
        if (verified && isnan(err))
            printf("%s: verified: metadata and every tensor (logits are compared in format hf only)\n", dst);
        else if (verified)
            printf("%s: verified, every tensor; its logits differ from the source's by at most %.2g of the largest%s\n",
                   dst, err, st_cov_opts_exact(cov) ? "" : " (the keys and noise asked for do that)");
        else
            printf("%s: written\n", dst);
        return;
    }
    struct st_buf b = {0};
    st_buf_add_str(&b, "{\"source\": ");
    st_json_quote(&b, src, strlen(src));
    st_buf_add_str(&b, ", \"result\": ");
    st_json_quote(&b, dst, strlen(dst));
    st_buf_addf(&b, ", \"preset\": \"%s\", \"verified\": %s", st_cov_preset_name(cov->preset),
                verified ? "true" : "false");
    if (verified && !isnan(err))
        st_buf_addf(&b, ", \"max_rel_err\": %.6g", err);
    put_cost(&b, c);
    st_buf_add_str(&b, "}\n");
    if (b.p)
        fputs(b.p, stdout);
    st_buf_free(&b);
}

/* Mistakes that would take minutes to find out. */
static int check_paths(const char *src, const char *dst, enum st_cov_format format, struct st_err *e)
{
    size_t n = strlen(dst);
    if (format == ST_COV_FORMAT_HF && n > 5 && strcmp(dst + n - 5, ".gguf") == 0)
        return st_fail(e, ST_USAGE, "%s: format hf writes a directory; want --format gguf, or another name", dst);
    if (st_container_is(src))
        return st_fail(e, ST_INPUT, "%s: is sealed; want the model itself", src);
    return st_source_plain(src, e);
}

static void warn_without_tokenizer(const char *src)
{
    char tokenizer[ST_PATH_MAX];
    struct st_err none = {0};
    if (st_path_is_dir(src) && st_locate_tokenizer(src, tokenizer, &none))
        st_log(ST_LOG_WARN, "%s; sotto proxy needs one, and a file that comes later changes the cipher", none.msg);
}

/* The compiler takes and gives back buffers of the same sizes for layer after layer. Kept by the allocator, the kernel
 * does not clear their pages each time: a tenth of the whole time. */
static void keep_buffers(void)
{
    mallopt(M_MMAP_THRESHOLD, INT_MAX);
    mallopt(M_TRIM_THRESHOLD, INT_MAX);
}

static int run(const struct st_cli *cli, void *opts, struct st_err *e)
{
    const struct obfuscate_opts *o = opts;
    const char *src = cli->args[0], *dst = cli->args[1];
    struct st_cov_opts cov = compile_opts(cli, o);
    struct st_cov_key key;
    double err = 0;
    struct cost cost = {0};
    if (!o->key)
        return st_fail(e, ST_USAGE, "obfuscate: --key FILE is needed (make one with `sotto key new FILE`)");
    int rc = st_cov_opts_check(&cov, e);
    if (!rc)
        rc = check_paths(src, dst, cov.format, e);
    if (!rc)
        rc = st_key_open(cli, o->key, &key, e);
    if (rc)
        return rc;
    warn_without_tokenizer(src);
    keep_buffers();
    cov.cancel = &cancelled;
    catch_signals();
    cov.report = &cost.report;
    cost.seconds = st_now();
    rc = st_cov_obfuscate(src, dst, &key, &cov, e);
    cost.seconds = st_now() - cost.seconds;
    cost.peak_rss = st_mem_peak();
    if (!rc && o->verify)
        rc = st_cov_verify(src, dst, &key, &cov, &err, e);
    st_cov_key_wipe(&key);
    if (!rc)
        report(cli, &cov, &cost, o->verify, err);
    return rc;
}

const struct st_cmd st_cmd_obfuscate = {
    .name = "obfuscate",
    .summary = "Compile a model for a server that must not read the conversation",
    .args_doc = "SRC DST",
    .min_args = 2,
    .max_args = 2,
    .doc =
        "Writes DST, a Hugging Face directory or a GGUF file that any stock engine serves, from SRC (a Hugging Face "
        "directory or a llama2.c file) and a key. The server then sees permuted token ids and keyed weights; `sotto "
        "proxy --protect covariant` translates for your applications. This hides nothing from a server that looks and "
        "holds the weights of SRC, or of the base it was tuned from; no noise changes that (docs/covariant.md). DST "
        "appears when it is complete; a run that was stopped goes on when the same command is given. The tokenizer in "
        "DST carries ids as opaque words; the server must not get that of SRC.",
    .examples = "  sotto key new my.key\n  sotto obfuscate my-model my-model.cov --key my.key --verify\n"
                "  sotto obfuscate my-model my.gguf --key my.key --format gguf --dtype f16",
    .shared = ST_CLI_JSON | ST_CLI_THREADS | ST_CLI_UNLOCK,
    .options = options,
    .opts_size = sizeof(struct obfuscate_opts),
    .defaults = &defaults,
    .set = set,
    .run = run,
};
