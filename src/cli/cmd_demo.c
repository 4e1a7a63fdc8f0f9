/* sotto demo: one private chat on this machine, whole: both sides, what each of them saw, and a check that the reply is
 * what it should be. */
#include "base/log.h"
#include "cli/demo.h"

#include <string.h>

struct demo_opts {
    const char *protect, *model, *prompt;
    uint32_t n;
    bool hold;
};
static const struct demo_opts defaults = {.protect = "covariant",
                                          .prompt =
                                              "Once upon a time, there was a little girl named Lily. She had a secret",
                                          .n = 60};

enum { KEY_PROTECT = ST_KEY(0), KEY_MODEL, KEY_HOLD };

static const struct argp_option options[] = {
    {"protect", KEY_PROTECT, "NAME", 0, "The protection to show: covariant (default), masked, confidential or sealed",
     0},
    {"model", KEY_MODEL, "DIR", 0, "Use this model instead of the demo model", 0},
    {"prompt", 'p', "TEXT", 0, "What the user says", 0},
    {"max-tokens", 'n', "N", 0, "Longest reply; default 60", 0},
    {"hold", KEY_HOLD, NULL, 0,
     "Keep what was made and started until Ctrl-C, and name the command that audits it from another terminal", 0},
    {0},
};

static int set(void *opts, int key, char *arg, struct st_err *e)
{
    struct demo_opts *o = opts;
    switch (key) {
    case KEY_PROTECT:
        o->protect = arg;
        return 0;
    case KEY_MODEL:
        o->model = arg;
        return 0;
    case 'p':
        o->prompt = arg;
        return 0;
    case KEY_HOLD:
        o->hold = true;
        return 0;
    default:
        return st_opt_u32("--max-tokens", arg, 1, 100000, &o->n, e);
    }
}

static const struct demo {
    const char *name;
    int (*run)(struct st_demo *d, struct st_err *e);
    bool holds; /* leaves something that an audit can look at */
} demos[] = {{"covariant", st_demo_covariant, true},
             {"masked", st_demo_masked, true},
             {"confidential", st_demo_confidential, false},
             {"sealed", st_demo_sealed, true}};

static int run(const struct st_cli *cli, void *opts, struct st_err *e)
{
    const struct demo_opts *o = opts;
    struct st_demo d = {
        .cli = cli, .protect = o->protect, .model_arg = o->model, .prompt = o->prompt, .n = o->n, .hold = o->hold};
    const struct demo *which = NULL;
    for (size_t i = 0; i < sizeof demos / sizeof *demos; i++)
        if (strcmp(o->protect, demos[i].name) == 0)
            which = &demos[i];
    if (!which)
        return st_fail(e, ST_UNSUPPORTED,
                       "--protect: '%s' is not supported; supported: covariant, masked, confidential, sealed",
                       o->protect);
    if (o->hold && !which->holds)
        return st_fail(e, ST_UNSUPPORTED,
                       "--hold: of a demo of %s nothing stays that an audit could look at; `sotto audit "
                       "demo --adversary relay` makes traffic of its own",
                       which->name);
    if (!cli->verbose)
        st_log_set_level(ST_LOG_WARN);
    int rc = st_demo_begin(&d, e);
    if (!rc)
        rc = which->run(&d, e);
    if (!rc && !cli->json)
        printf("What attacks get from it: docs/leakage.md; to run them: %s\n", d.audit.p);
    if (!rc && o->hold)
        st_demo_wait_for_end(&d);
    st_demo_end(&d);
    return rc;
}

const struct st_cmd st_cmd_demo = {
    .name = "demo",
    .summary = "A private chat on this machine, shown from both sides",
    .doc =
        "Shows one chat under a protection from both sides, and checks the reply; the exit status is 5 if it is not "
        "what "
        "it should be. covariant: makes a key and an obfuscated copy of a small model, serves the copy from a "
        "process "
        "that stands for the untrusted machine, starts the proxy and talks through it; the reply is the plain "
        "model's, token by token. masked: starts a worker for that machine, which multiplies masked rows with the "
        "model's matrices; under one-time pads the reply is exactly that of the same integers computed here, and the "
        "default masks are shown beside it. confidential: starts all its roles, each a process of its own, and a node "
        "that "
        "proves itself by a TPM (swtpm where it is installed, else simulated evidence); one chat through them, its "
        "receipt, and the refusal after something else was loaded on the node's machine. sealed: encrypts the model "
        "but "
        "for the layers that are left to a worker, which gets the file and no key; the reply is that of the model "
        "before, and the file is refused after one bit of it was changed.",
    .examples = "  sotto demo\n  sotto demo --protect masked\n  sotto demo --protect confidential\n  sotto demo "
                "--protect sealed\n  sotto demo --prompt \"The dog and the cat\" --json",
    .shared = ST_CLI_THREADS | ST_CLI_CHAT | ST_CLI_JSON,
    .options = options,
    .opts_size = sizeof(struct demo_opts),
    .defaults = &defaults,
    .set = set,
    .run = run,
};
