/* sotto chat: a conversation with a model on this machine. Every turn encodes the whole conversation; the session's
 * cache makes the part that the engine has seen before free. */
#include "base/hooks.h"
#include "cli/generate.h"
#include "cli/masked.h"
#include "cli/open.h"
#include "cli/source.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct chat_opts {
    const char *system;
    uint32_t n;
};

enum { KEY_SYSTEM = ST_KEY(0) };

static const struct argp_option options[] = {
    {"system", KEY_SYSTEM, "TEXT", 0, "A system message that stands before the conversation", 0},
    {"max-tokens", 'n', "N", 0, "Longest reply in tokens; default 0 = until the context is full", 0},
    {0},
};

static int set(void *opts, int key, char *arg, struct st_err *e)
{
    struct chat_opts *o = opts;
    if (key == KEY_SYSTEM) {
        o->system = arg;
        return 0;
    }
    return st_opt_u32("--max-tokens", arg, 0, 1u << 24, &o->n, e);
}

static volatile sig_atomic_t interrupted;

static void on_sigint(int sig)
{
    (void)sig;
    interrupted = 1;
}

struct chat {
    const struct st_cli *cli;
    const struct chat_opts *o;
    struct st_open m;
    struct st_session *session;
    struct st_sampling sampling;
    struct st_chat_msg *msgs; /* texts are owned, except the system message's */
    size_t n, cap;
    uint32_t stops[8];
    size_t n_stops;
    bool terminal;
};

static int push(struct chat *c, enum st_chat_role role, const char *text, size_t len, struct st_err *e)
{
    if (c->n == c->cap) {
        size_t cap = c->cap ? 2 * c->cap : 16;
        struct st_chat_msg *p = realloc(c->msgs, cap * sizeof *p);
        if (!p)
            return st_fail(e, ST_MEMORY, "no memory for the conversation");
        c->msgs = p;
        c->cap = cap;
    }
    char *copy = malloc(len + 1);
    if (!copy)
        return st_fail(e, ST_MEMORY, "no memory for the conversation");
    memcpy(copy, text, len);
    copy[len] = 0;
    c->msgs[c->n++] = (struct st_chat_msg){role, copy, len};
    return 0;
}

static void pop_to(struct chat *c, size_t n)
{
    while (c->n > n) {
        struct st_chat_msg *m = &c->msgs[--c->n];
        explicit_bzero((void *)m->text, m->len);
        free((void *)m->text);
    }
}

static void print_piece(void *arg, const char *text, size_t len)
{
    (void)arg;
    fwrite(text, 1, len, stdout);
    fflush(stdout);
}

/* One question and its reply. A failed turn leaves the conversation as it was. */
static int turn(struct chat *c, const char *line, size_t len, struct st_err *e)
{
    struct st_ids ids = {0};
    struct st_run r = {.tokenizer = c->m.tokenizer, .on_text = print_piece, .interrupt = &interrupted};
    size_t n_before = c->n;
    e->code = 0;
    if (push(c, ST_CHAT_USER, line, len, e) || st_chat_encode(c->m.chat, c->m.tokenizer, c->msgs, c->n, &ids, e))
        goto out;
    interrupted = 0;
    r.req.ids = ids.p;
    r.req.n_ids = ids.len;
    r.req.n_predict = c->o->n;
    r.req.sampling = c->sampling;
    r.req.stop_ids = c->stops;
    r.req.n_stop_ids = c->n_stops;
    r.req.session = c->session;
    r.req.adapter = c->m.adapter;
    if (st_run(c->m.engine, &r, e))
        goto out;
    putchar('\n');
    c->sampling.seed++;
    if (c->cli->verbose)
        fprintf(stderr, "[%zu prompt tokens, first token after %.0f ms, %zu tokens at %.1f/s]\n", ids.len,
                r.ttft_s * 1e3, r.ids.len, r.decode_s > 0 ? (double)r.ids.len / r.decode_s : 0);
    if (push(c, ST_CHAT_ASSISTANT, r.text.p ? r.text.p : "", r.text.len, e))
        goto out;
out:
    if (e->code)
        pop_to(c, n_before);
    st_ids_free(&ids);
    st_run_wipe(&r);
    return e->code;
}

/* Lines until /exit or the end of input. On a terminal an error ends the turn only; in a pipe it ends the command. */
static int converse(struct chat *c, struct st_err *e)
{
    char *line = NULL;
    size_t cap = 0, n_system = c->n;
    int rc = 0;
    while (!rc) {
        if (c->terminal && !c->cli->quiet)
            fputs("> ", stdout), fflush(stdout);
        ssize_t len = getline(&line, &cap, stdin);
        if (len < 0 && interrupted && !feof(stdin)) {
            clearerr(stdin);
            break;
        }
        if (len < 0)
            break;
        while (len && (line[len - 1] == '\n' || line[len - 1] == '\r'))
            line[--len] = 0;
        if (!len)
            continue;
        if (!strcmp(line, "/exit") || !strcmp(line, "/quit"))
            break;
        if (!strcmp(line, "/reset")) {
            pop_to(c, n_system);
            continue;
        }
        if (!strcmp(line, "/help")) {
            puts("/reset begins a new conversation, /exit ends; Ctrl-C ends a reply.");
            continue;
        }
        rc = turn(c, line, (size_t)len, e);
        if (rc && c->terminal) {
            fprintf(stderr, "sotto: %s\n", e->msg);
            rc = 0;
        }
    }
    if (line) {
        explicit_bzero(line, cap);
        free(line);
    }
    return rc;
}

static void print_banner(const struct st_open *m)
{
    struct st_masked_words w;
    struct st_buf details = {0};
    printf("%s, %u tokens of context, template %s. /help lists the commands.\n", m->model->name,
           st_engine_ctx(m->engine), st_chat_name(m->chat));
    st_open_words(m, &w);
    if (strcmp(w.protection, "none") != 0)
        printf("protection: %s%s%s\n", w.protection, w.strength ? ", " : "", w.strength ? w.strength : "");
    st_open_put_details(m, false, &details);
    printf("%s", details.p ? details.p : "");
    st_buf_free(&details);
}

static int run(const struct st_cli *cli, void *opts, struct st_err *e)
{
    const struct chat_opts *o = opts;
    struct chat c = {.cli = cli, .o = o, .terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO)};
    const struct st_engine_opts eo = {.max_batch = 1};
    int rc = ST_INTERNAL;
    if ((rc = st_source_plain(cli->args[0], e)) != 0 ||
        (rc = st_open(cli, cli->args[0], ST_OPEN_TOKENIZER | ST_OPEN_CHAT | ST_OPEN_HOLD, &eo, &c.m, e)) != 0 ||
        (rc = st_open_sampling(cli, 0.7f, &c.sampling, e)) != 0 ||
        (rc = st_session_new(c.m.engine, &c.session, e)) != 0 || (rc = st_open_settle(&c.m, e)) != 0)
        goto out;
    c.n_stops = st_chat_stops(c.m.chat, c.m.tokenizer, c.stops, sizeof c.stops / sizeof *c.stops);
    if (o->system && (rc = push(&c, ST_CHAT_SYSTEM, o->system, strlen(o->system), e)) != 0)
        goto out;
    if (c.terminal && !cli->quiet)
        print_banner(&c.m);
    /* No SA_RESTART: Ctrl-C also ends a waiting getline. */
    struct sigaction sa = {.sa_handler = on_sigint};
    sigaction(SIGINT, &sa, NULL);
    rc = converse(&c, e);
out:
    pop_to(&c, 0);
    free(c.msgs);
    if (c.session)
        st_session_free(c.session);
    st_open_close(&c.m);
    return rc;
}

const struct st_cmd st_cmd_chat = {
    .name = "chat",
    .summary = "Talk with a model on this machine",
    .args_doc = "MODEL",
    .min_args = 1,
    .max_args = 1,
    .doc = "Talks with a model, one line per message; replies stream. /reset begins anew, /exit ends, Ctrl-C ends a "
           "reply. "
           "Standard input may be a pipe. The temperature is 0.7 unless --temp says otherwise.",
    .examples =
        "  sotto chat models/demo\n  echo \"Tell me a story about a dog.\" | sotto chat models/demo --temp 0 -n 100",
    .shared = ST_CLI_MODEL | ST_CLI_CHAT | ST_CLI_SAMPLE | ST_CLI_THREADS | ST_CLI_MASKED | ST_CLI_SEALED |
              ST_CLI_UNLOCK | ST_CLI_ADAPTER,
    .options = options,
    .opts_size = sizeof(struct chat_opts),
    .set = set,
    .run = run,
};
