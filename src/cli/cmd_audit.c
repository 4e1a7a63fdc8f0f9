/* sotto audit TARGET...: runs attacks against a deployment and says what each of them got. */
#include "audit/gate.h"
#include "audit/report.h"
#include "base/log.h"
#include "cli/audit_demo.h"
#include "cli/key_open.h"
#include "cli/open.h"
#include "cli/temp.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define GATE_BYTES ((size_t)1 << 20)
#define SHOWN_TIMES 6  /* attacks */
#define PICTURE ".svg" /* charts beside the Markdown */
#define SERIES ".series.svg"

struct audit_opts {
    const char *attacks, *adversary, *text, *prior, *key, *model, *scheme, *html, *markdown, *gate;
    uint64_t memory;
    int64_t seed;
    bool thorough, list;
};
static const struct audit_opts defaults = {.attacks = "all", .memory = (uint64_t)4 << 30, .seed = 1};

enum {
    OPT_ATTACKS = ST_KEY(0),
    OPT_ADVERSARY,
    OPT_TEXT,
    OPT_PRIOR,
    OPT_KEY,
    OPT_MODEL,
    OPT_SCHEME,
    OPT_HTML,
    OPT_MARKDOWN,
    OPT_GATE,
    OPT_SEED,
    OPT_MEMORY,
    OPT_THOROUGH,
    OPT_LIST,
};

static const struct argp_option options[] = {
    {"attacks", OPT_ATTACKS, "LIST", 0, "all (default), or names separated by commas, as --list has them", 0},
    {"adversary", OPT_ADVERSARY, "NAME", 0,
     "Only attacks of this one: server, observer, worker, device, client, user, relay, gateway or issuer", 0},
    {"text", OPT_TEXT, "FILE", 0,
     "What the victim's users wrote, documents separated by <|endoftext|> or empty lines; of a recording: what was "
     "asked while it ran. Default: the model speaks by itself, and letters with invented personal data",
     0},
    {"prior", OPT_PRIOR, "FILE", 0, "Text that the adversary has read; default: more of the model's own", 0},
    {"key", OPT_KEY, "FILE", 0, "The key of an obfuscated checkpoint, to score with; no attack sees it", 0},
    {"model", OPT_MODEL, "DIR", 0, "Target demo: use this model instead of the demo model", 0},
    {"scheme", OPT_SCHEME, "NAME", 0, "Masks of a recording: remo, otp or lwe, for its label", 0},
    {"html", OPT_HTML, "FILE", 0, "Write the report as one page", 0},
    {"markdown", OPT_MARKDOWN, "FILE", 0, "Write it as Markdown, and charts beside it (FILE.svg, FILE.series.svg)", 0},
    {"gate", OPT_GATE, "FILE", 0, "Exit with status 6 when a row exceeds a limit of this JSON file", 0},
    {"seed", OPT_SEED, "N", 0, "Of everything that is drawn; default 1", 0},
    {"memory", OPT_MEMORY, "SIZE", 0, "What attacks may take beside the models, all that run at once; default 4G", 0},
    {"thorough", OPT_THOROUGH, NULL, 0, "Every variant, longer training, more noise; takes many times longer", 0},
    {"list", OPT_LIST, NULL, 0, "List adversaries, their attacks and what these need", 0},
    {0},
};

static int set(void *opts, int key, char *arg, struct st_err *e)
{
    struct audit_opts *o = opts;
    const char **const words[] = {&o->attacks, &o->adversary, &o->text, &o->prior,    &o->key,
                                  &o->model,   &o->scheme,    &o->html, &o->markdown, &o->gate};
    switch (key) {
    case OPT_SEED:
        return st_opt_int("--seed", arg, 1, INT64_MAX, &o->seed, e);
    case OPT_MEMORY:
        return st_opt_size("--memory", arg, (uint64_t)64 << 20, &o->memory, e);
    case OPT_THOROUGH:
        o->thorough = true;
        return 0;
    case OPT_LIST:
        o->list = true;
        return 0;
    default:
        *words[key - OPT_ATTACKS] = arg;
        return 0;
    }
}

/* ---- what there is ---- */

static const char *view_name(unsigned needs)
{
    switch (needs) {
    case ST_TARGET_PAIR:
        return "an obfuscated checkpoint";
    case ST_TARGET_RECORD:
        return "a recording";
    case ST_TARGET_SEALED:
        return "a sealed file";
    case ST_TARGET_TRAFFIC:
        return "traffic (target demo)";
    default:
        return "nothing of the target";
    }
}

static void list_of(enum st_adversary who)
{
    printf("%s: %s\n", st_adversary_name(who), st_adversary_what(who));
    for (size_t i = 0; st_attacks[i]; i++)
        if (st_attacks[i]->adversary == who)
            printf("    %-16s %s. Needs %s.\n%21sCounts %s. Source: %s.\n", st_attacks[i]->name, st_attacks[i]->title,
                   view_name(st_attacks[i]->needs), "", st_attacks[i]->metric, st_attacks[i]->source);
    puts("");
}

static void list_attacks(void)
{
    puts("Adversaries, what each of them has, and the attacks that they make (--adversary NAME, --attacks LIST).\n");
    for (int who = 0; who < ST_ADVERSARY_COUNT; who++)
        list_of((enum st_adversary)who);
}

/* ---- one audit ---- */

struct audit {
    const struct st_cli *cli;
    const struct audit_opts *o;
    const struct st_attack *picked[ST_ATTACKS_MAX];
    size_t n_picked;
    int adversary;
    struct st_gate *gate; /* NULL = none */
    struct st_temp tmp;   /* for what attacks write */
    struct st_audit_demo demo;
    struct st_subject *subject; /* demo's, or one's own */
    struct st_pool *pool;
    struct st_progress bar;
    struct st_findings findings;
    char label[128];
};

static volatile sig_atomic_t interrupted;

static void on_signal(int sig)
{
    (void)sig;
    interrupted = 1;
}

/* A second signal ends the process at once. */
static void catch_signals(void)
{
    struct sigaction sa = {.sa_handler = on_signal, .sa_flags = (int)(SA_RESETHAND | SA_RESTART)};
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
}

static int read_gate(struct audit *a, struct st_err *e)
{
    struct st_buf text = {0};
    int rc = st_alloc(&a->gate, 1, sizeof *a->gate, "limits", e);
    if (!rc)
        rc = st_file_read(a->o->gate, GATE_BYTES, &text, e);
    if (!rc)
        rc = st_gate_parse(text.p ? text.p : "", text.len, a->o->gate, a->gate, e);
    st_buf_free(&text);
    return rc;
}

static bool is_demo(const struct st_cli *cli)
{
    return cli->n_args == 1 && strcmp(cli->args[0], "demo") == 0 && !st_path_exists("demo");
}

/* A report takes the place of what is at its path: of a plain file, never of a device. Better said before the audit
 * than behind it. */
static int check_output(const char *option, const char *path, struct st_err *e)
{
    struct stat sb;
    if (!path || stat(path, &sb) || S_ISREG(sb.st_mode))
        return 0;
    return st_fail(e, ST_USAGE, "%s: %s: want a plain file, or none yet", option, path);
}

/* The Markdown, and the charts that are written beside it. */
static int check_markdown(const char *path, struct st_err *e)
{
    static const char *const ends[] = {"", PICTURE, SERIES};
    char each[ST_PATH_MAX];
    for (size_t i = 0; path && i < sizeof ends / sizeof *ends; i++) {
        if (snprintf(each, sizeof each, "%s%s", path, ends[i]) >= (int)sizeof each)
            return st_fail(e, ST_USAGE, "--markdown: the path is too long");
        if (check_output("--markdown", each, e))
            return e->code;
    }
    return 0;
}

static int check_args(struct audit *a, struct st_err *e)
{
    const struct audit_opts *o = a->o;
    static const char *const schemes[] = {"remo", "otp", "lwe", NULL};
    int i;
    bool demo = is_demo(a->cli);
    if (!a->cli->n_args || (a->cli->n_args == 1 && !demo))
        return st_fail(e, ST_USAGE,
                       "audit: want demo, or BASE and what was made of it (an obfuscated checkpoint, a "
                       "recording, a sealed file)");
    if (demo && (o->key || o->scheme))
        return st_fail(e, ST_USAGE, "audit: %s does not go with demo", o->key ? "--key" : "--scheme");
    if (!demo && o->model)
        return st_fail(e, ST_USAGE, "audit: --model is for the target demo; here the first argument is the model");
    if (check_output("--html", o->html, e) || check_markdown(o->markdown, e))
        return e->code;
    if (o->scheme && st_opt_choice("--scheme", o->scheme, schemes, &i, e))
        return e->code;
    a->adversary = -1;
    enum st_adversary who;
    if (o->adversary) {
        if (st_adversary_find(o->adversary, &who, e))
            return e->code;
        a->adversary = (int)who;
    }
    if (st_attacks_pick(o->attacks, a->picked, ST_ATTACKS_MAX, &a->n_picked, e))
        return e->code;
    return o->gate ? read_gate(a, e) : 0;
}

static int open_demo(struct audit *a, struct st_err *e)
{
    struct st_audit_demo_opts o = {.model = a->o->model,
                                   .text = a->o->text,
                                   .prior = a->o->prior,
                                   .seed = (uint64_t)a->o->seed,
                                   .thorough = a->o->thorough};
    for (size_t i = 0; i < a->n_picked; i++)
        if (a->adversary < 0 || (int)a->picked[i]->adversary == a->adversary) {
            o.kinds |= a->picked[i]->needs;
            o.running = o.running || a->picked[i] == &st_atk_sizes || a->picked[i] == &st_atk_timing;
        }
    int rc = st_audit_demo_begin(&a->demo, a->cli, &o, e);
    a->subject = a->demo.subject;
    return rc;
}

static int add_pair(struct audit *a, const char *path, struct st_err *e)
{
    struct st_cov_key key;
    if (!a->o->key)
        return st_fail(e, ST_USAGE, "audit: %s: --key FILE is needed, to score with", path);
    if (st_key_open(a->cli, a->o->key, &key, e))
        return e->code;
    int rc = st_subject_add_pair(a->subject, path, &key, NULL, e);
    st_cov_key_wipe(&key);
    return rc;
}

static int add_view(struct audit *a, const char *path, struct st_err *e)
{
    if (!st_path_exists(path))
        return st_fail(e, ST_IO, "%s: no such file or directory", path);
    switch (st_view_kind(path)) {
    case ST_TARGET_PAIR:
        return add_pair(a, path, e);
    case ST_TARGET_RECORD:
        return st_subject_add_recording(a->subject, path, a->o->scheme, 0, a->o->scheme ? NULL : "recording", e);
    case ST_TARGET_SEALED:
        return st_subject_add_sealed(a->subject, path, NULL, e);
    default:
        return st_fail(e, ST_INPUT,
                       "%s: want an obfuscated checkpoint (it has sotto.json), a recording or a sealed "
                       "file",
                       path);
    }
}

static int open_given(struct audit *a, struct st_err *e)
{
    char base[ST_PATH_MAX], tokenizer[ST_PATH_MAX];
    catch_signals();
    int rc = st_open_model_path(a->cli->args[0], base, e);
    if (!rc)
        rc = st_open_tokenizer_path(base, a->cli->tokenizer, tokenizer, e);
    const struct st_subject_opts so = {.base = base,
                                       .tokenizer = tokenizer,
                                       .text = a->o->text,
                                       .prior = a->o->prior,
                                       .seed = (uint64_t)a->o->seed,
                                       .n_threads = a->cli->n_threads,
                                       .cancel = &interrupted};
    if (!rc)
        rc = st_subject_open(&so, &a->subject, e);
    for (int i = 1; !rc && i < a->cli->n_args; i++)
        rc = add_view(a, a->cli->args[i], e);
    return rc;
}

/* ---- progress ---- */

static void told(void *arg, const struct st_attack *at, const struct st_target *t, double done)
{
    struct audit *a = arg;
    snprintf(a->label, sizeof a->label, "%s%s%s", at->name, *t->label ? ", " : "", t->label);
    st_progress_update(&a->bar, (uint64_t)(1000 * done));
}

/* ---- results ---- */

static void put_word(struct st_buf *b, const char *option, const char *word)
{
    if (!word)
        return;
    st_buf_addf(b, " %s", option);
    st_buf_add_word(b, word);
}

static const char *again(const struct audit *a, struct st_buf *b)
{
    const struct audit_opts *o = a->o;
    st_buf_add_str(b, "sotto audit");
    for (int i = 0; i < a->cli->n_args; i++)
        put_word(b, "", a->cli->args[i]);
    put_word(b, "--adversary ", o->adversary);
    put_word(b, "--model ", o->model);
    put_word(b, "--tokenizer ", a->cli->tokenizer);
    put_word(b, "--scheme ", o->scheme);
    put_word(b, "--text ", o->text);
    put_word(b, "--prior ", o->prior);
    put_word(b, "--key ", o->key);
    if (o->memory != defaults.memory)
        st_buf_addf(b, " --memory %llu", (unsigned long long)o->memory);
    if (o->thorough)
        st_buf_add_str(b, " --thorough");
    return b->p;
}

static int write_out(const char *path, struct st_buf *b, struct st_err *e)
{
    int rc = b->failed ? st_fail(e, ST_MEMORY, "no memory for the report")
                       : st_file_write(path, b->p ? b->p : "", b->len, 0644, true, e);
    st_buf_free(b);
    return rc;
}

/* A picture beside the Markdown; name: how that refers to it. */
static int write_picture(const struct audit *a, const char *end, struct st_buf *b, char path[ST_PATH_MAX],
                         const char **name, struct st_err *e)
{
    const char *slash = strrchr(a->o->markdown, '/');
    snprintf(path, ST_PATH_MAX, "%s%s", a->o->markdown, end); /* check_markdown(): there is room */
    *name = path + (slash ? slash + 1 - a->o->markdown : 0);
    return write_out(path, b, e);
}

static int write_markdown(const struct audit *a, const struct st_report *r, struct st_err *e)
{
    struct st_buf b = {0};
    char figure[ST_PATH_MAX], series[ST_PATH_MAX];
    const char *figure_name = NULL, *series_name = NULL;
    st_report_figure(r, &b);
    if (write_picture(a, PICTURE, &b, figure, &figure_name, e))
        return e->code;
    if (st_report_series(r, &b) && write_picture(a, SERIES, &b, series, &series_name, e))
        return e->code;
    st_report_markdown(r, figure_name, series_name, &b);
    return write_out(a->o->markdown, &b, e);
}

/* Where the time went: the attacks that took most, over all targets. */
static void print_times(const struct st_findings *f)
{
    struct sum {
        const char *attack;
        double seconds;
    } sums[ST_ATTACKS_MAX];
    size_t n = 0;
    for (size_t i = 0; i < f->n_spent; i++) {
        size_t k = 0;
        while (k < n && strcmp(sums[k].attack, f->spent[i].attack) != 0)
            k++;
        if (k == n)
            sums[n++] = (struct sum){f->spent[i].attack, 0};
        sums[k].seconds += f->spent[i].seconds;
    }
    printf("\nThe attacks took %.1f s, %.1f s of CPU, %zu at once", f->seconds, f->cpu, f->n_lane);
    for (int shown = 0; shown < SHOWN_TIMES && n; shown++) {
        size_t most = 0;
        for (size_t k = 1; k < n; k++)
            most = sums[k].seconds > sums[most].seconds ? k : most;
        printf("%s %s %.1f", shown ? "," : ":", sums[most].attack, sums[most].seconds);
        sums[most] = sums[--n];
    }
    puts(n ? ", ..." : "");
}

static int report(const struct audit *a, struct st_err *e)
{
    struct st_buf b = {0}, command = {0};
    const struct st_report r = {.findings = &a->findings,
                                .model = st_subject_plain(a->subject)->base->name,
                                .target = a->cli->args[0],
                                .command = again(a, &command),
                                .attacks = strcmp(a->o->attacks, defaults.attacks) ? a->o->attacks : NULL,
                                .seed = (uint64_t)a->o->seed};
    int rc = 0;
    if (command.failed)
        return st_fail(e, ST_MEMORY, "no memory for the report");
    if (a->cli->json)
        st_findings_json(&a->findings, r.target, r.seed, &b);
    else
        st_report_text(&r, &b);
    if (b.failed)
        rc = st_fail(e, ST_MEMORY, "no memory for the report");
    else if (b.p)
        fputs(b.p, stdout);
    st_buf_free(&b);
    if (!rc && !a->cli->json && !a->cli->quiet)
        print_times(&a->findings);
    if (!rc && a->o->html) {
        st_report_html(&r, &b);
        rc = write_out(a->o->html, &b, e);
    }
    if (!rc && a->o->markdown)
        rc = write_markdown(a, &r, e);
    st_buf_free(&command);
    return rc;
}

/* Only attacks on sealed models write files. */
static int make_dir(struct audit *a, struct st_err *e)
{
    bool sealed = false;
    for (size_t i = 0; i < st_subject_count(a->subject); i++)
        sealed = sealed || (st_subject_at(a->subject, i)->kinds & ST_TARGET_SEALED);
    return sealed ? st_temp_make("sotto-audit", &a->tmp, e) : 0;
}

/* By name, not by "all". */
static bool is_named(const struct audit *a, const struct st_attack *attack)
{
    bool named = false;
    for (size_t i = 0; i < a->n_picked && strcmp(a->o->attacks, defaults.attacks) != 0; i++)
        named = named || a->picked[i] == attack;
    return named;
}

static int run_attacks(struct audit *a, struct st_err *e)
{
    bool demo = is_demo(a->cli);
    const struct st_audit_run r = {.subject = a->subject,
                                   .attacks = a->picked,
                                   .n_attack = a->n_picked,
                                   .adversary = a->adversary,
                                   .opts = {.pool = a->pool,
                                            .seed = (uint64_t)a->o->seed,
                                            .memory = a->o->memory,
                                            .thorough = a->o->thorough,
                                            .cancel = demo ? st_demo_cancel() : &interrupted,
                                            .program = demo || is_named(a, &st_atk_memory) ? "/proc/self/exe" : NULL,
                                            .dir = a->tmp.path},
                                   .told = told,
                                   .arg = a};
    st_progress_start(&a->bar, a->label, "", 1000);
    if (a->cli->quiet)
        a->bar.on = 0;
    int rc = st_audit_run(&r, &a->findings, e);
    st_progress_end(&a->bar);
    return rc;
}

static int run(const struct st_cli *cli, void *opts, struct st_err *e)
{
    struct audit a = {.cli = cli, .o = opts};
    bool demo = is_demo(cli);
    if (a.o->list) {
        list_attacks();
        return 0;
    }
    /* What a demo makes is weak on purpose in places: its rows say so better than warnings. */
    if (!cli->verbose)
        st_log_set_level(demo ? ST_LOG_ERROR : ST_LOG_WARN);
    int rc = check_args(&a, e);
    if (!rc)
        rc = demo ? open_demo(&a, e) : open_given(&a, e);
    if (!rc)
        rc = make_dir(&a, e);
    if (!rc)
        rc = st_pool_new(cli->n_threads, &a.pool, e);
    if (!rc)
        rc = run_attacks(&a, e);
    if (!rc)
        rc = report(&a, e);
    if (!rc && a.gate)
        rc = st_gate_judge(a.gate, &a.findings, e);
    if (!rc && a.findings.failed.code) { /* behind all that the others found */
        *e = a.findings.failed;
        rc = e->code;
    }
    st_pool_free(a.pool);
    st_temp_remove(&a.tmp);
    st_findings_free(&a.findings);
    free(a.gate);
    if (demo)
        st_audit_demo_end(&a.demo);
    else
        st_subject_close(a.subject);
    return rc;
}

const struct st_cmd st_cmd_audit = {
    .name = "audit",
    .summary = "Attack a deployment and measure what leaks",
    .args_doc = "demo | BASE VIEW...",
    .min_args = 0,
    .max_args = ST_SUBJECT_MAX,
    .doc =
        "Runs the attacks that we know against what was made of the model BASE: an obfuscated checkpoint (with --key), "
        "a recording of what a worker saw (--record of serve or complete, with --text), a sealed file. Which of them a "
        "VIEW is, its content says. `demo` makes all of these from the demo model, and a confidential set-up, and "
        "looks "
        "at each. Every score stands beside what guessing gets and what the same attack gets without protection, with "
        "a "
        "95 % interval; what it means in words stands at the end, and first in the page that --html writes. A low "
        "score "
        "says that these attacks failed, not that none can succeed. Attacks that could not be run are listed with the "
        "reason. How to read it, methods, metrics, how to add an attack: docs/audit.md; figures of the presets: "
        "docs/leakage.md.",
    .examples = "  sotto audit demo --html report.html\n  sotto audit my-model my-model.cov --key my.key\n"
                "  sotto audit my-model seen.record --scheme otp --text asked.txt --gate limits.json",
    .shared = ST_CLI_JSON | ST_CLI_THREADS | ST_CLI_TOKENIZER | ST_CLI_UNLOCK,
    .options = options,
    .opts_size = sizeof(struct audit_opts),
    .defaults = &defaults,
    .set = set,
    .run = run,
};
