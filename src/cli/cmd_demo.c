/* sotto demo: one private chat on this machine, whole: a key, an obfuscated copy of the demo model, an untrusted server
 * in a process of its own that has only that copy, the proxy with the key, and a client that talks HTTP to the proxy.
 * Shows what each side saw, and checks token by token that the reply is what the plain model says. */
#include "base/hooks.h"
#include "base/log.h"
#include "cli/child.h"
#include "cli/columns.h"
#include "cli/generate.h"
#include "cli/http.h"
#include "cli/open.h"
#include "cli/source.h"
#include "service/gen_upstream.h"
#include "service/server.h"
#include "text/json.h"

#include <dirent.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct demo_opts {
    const char *protect, *model, *prompt;
    uint32_t n;
};
static const struct demo_opts defaults = {.protect = "covariant",
                                          .prompt =
                                              "Once upon a time, there was a little girl named Lily. She had a secret",
                                          .n = 60};

enum { KEY_PROTECT = ST_KEY(0), KEY_MODEL };

static const struct argp_option options[] = {
    {"protect", KEY_PROTECT, "NAME", 0, "The protection to show; default and only one so far: covariant", 0},
    {"model", KEY_MODEL, "DIR", 0, "Use this model instead of the demo model", 0},
    {"prompt", 'p', "TEXT", 0, "What the user says", 0},
    {"max-tokens", 'n', "N", 0, "Longest reply; default 60", 0},
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
    default:
        return st_opt_u32("--max-tokens", arg, 1, 100000, &o->n, e);
    }
}

struct demo {
    const struct st_cli *cli;
    const struct demo_opts *o;
    char model[ST_PATH_MAX], tmp[64], key[128], dst[128];
    struct st_child server;
    struct st_source source;
    struct st_server *proxy;
    pthread_mutex_t lock; /* guards sent and received: the tap runs on the proxy's thread */
    struct st_buf sent, received;
    struct st_buf pending, reply; /* SSE bytes not yet read; the reply's text */
    struct st_ids ids;            /* its token ids */
    bool bad_stream;
    struct st_buf plain_text;
    struct st_ids plain_ids;
    struct st_buf sent_view, received_view; /* as shown */
    double start, obfuscate_s, chat_s;
};

static volatile sig_atomic_t interrupted;

static void on_signal(int sig)
{
    (void)sig;
    interrupted = 1;
}

/* Announces the next step, unless the user wants to stop. */
static int next(const struct demo *d, const char *what, struct st_err *e)
{
    if (interrupted)
        return st_fail(e, ST_INTERNAL, "demo: interrupted");
    if (!d->cli->json && !d->cli->quiet)
        fprintf(stderr, "%5.1f s  %s\n", st_now() - d->start, what);
    return 0;
}

/* Beside the program: a build tree (build/bin, build/NAME/bin) or an installation. */
static int find_model(struct demo *d, struct st_err *e)
{
    static const char *const places[] = {"../../models/demo", "../../../models/demo", "../share/sotto/models/demo"};
    char dir[ST_PATH_MAX / 2];
    if (d->o->model)
        return st_open_model_path(d->o->model, d->model, e);
    if (st_child_program_dir(dir, sizeof dir, e))
        return e->code;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        snprintf(d->model, sizeof d->model, "%s/%s", dir, places[i]);
        if (st_path_is_dir(d->model))
            return 0;
    }
    return st_fail(e, ST_IO, "the demo model is not beside the program (%s); name a model with --model", dir);
}

static int make_temp(struct demo *d, struct st_err *e)
{
    const char *base = getenv("TMPDIR");
    if (!base || !*base || strlen(base) > 40)
        base = "/tmp";
    snprintf(d->tmp, sizeof d->tmp, "%s/sotto-demo-XXXXXX", base);
    if (!mkdtemp(d->tmp)) {
        *d->tmp = 0;
        return st_fail(e, ST_IO, "%s: cannot make a temporary directory", base);
    }
    snprintf(d->key, sizeof d->key, "%s/key", d->tmp);
    snprintf(d->dst, sizeof d->dst, "%s/obfuscated", d->tmp);
    return 0;
}

/* Removes a directory of plain files and directories, two levels deep: all that the demo makes. */
static void remove_dir(const char *path, int depth)
{
    struct st_err ignored;
    DIR *dir = opendir(path);
    for (struct dirent *f; dir && (f = readdir(dir));) {
        char name[ST_PATH_MAX];
        if (!strcmp(f->d_name, ".") || !strcmp(f->d_name, ".."))
            continue;
        if (st_path_join(name, sizeof name, path, f->d_name, &ignored))
            continue;
        if (unlink(name) != 0 && depth > 0)
            remove_dir(name, depth - 1);
    }
    if (dir)
        closedir(dir);
    rmdir(path);
}

static int make_checkpoint(struct demo *d, struct st_err *e)
{
    struct st_cov_key key;
    /* f32, because in bf16 one reply of 60 tokens in eight differs from the plain one at a near-tie. */
    const struct st_cov_opts o = {.n_threads = d->cli->n_threads, .dtype = ST_COV_STORE_F32};
    double start = st_now();
    if (st_cov_key_create(d->key, NULL, e) || st_cov_key_load(d->key, NULL, &key, e))
        return e->code;
    int rc = st_cov_obfuscate(d->model, d->dst, &key, &o, e);
    st_cov_key_wipe(&key);
    d->obfuscate_s = st_now() - start;
    return rc;
}

static int start_server(struct demo *d, char *url, size_t cap, struct st_err *e)
{
    char line[1024];
    char threads[16];
    json_t *o = NULL;
    const char *u = NULL;
    snprintf(threads, sizeof threads, "%d", d->cli->n_threads);
    const char *const args[] = {"serve",   d->dst,      "--ids-only", "--port=0",       "--json",          "--config=",
                                "--quiet", "--threads", threads,      "--kv-dtype=f32", "--deterministic", NULL};
    if (st_child_start(args, &d->server, e) || st_child_line(&d->server, 20, line, sizeof line, e))
        return e->code;
    int rc = st_json_parse(line, strlen(line), "sotto serve --json", &o, e);
    if (!rc)
        rc = st_json_need(o, "sotto serve --json", "url", e);
    if (!rc)
        rc = st_json_str(o, "sotto serve --json", "url", &u, e);
    if (!rc)
        snprintf(url, cap, "%s", u);
    json_decref(o);
    return rc;
}

static void tap(void *arg, bool sent, const void *p, size_t len)
{
    struct demo *d = arg;
    pthread_mutex_lock(&d->lock);
    st_buf_add(sent ? &d->sent : &d->received, p, len);
    pthread_mutex_unlock(&d->lock);
}

/* The proxy takes connections at once, but says ready only after its first look at the upstream. */
static int wait_ready(const struct demo *d, struct st_err *e)
{
    const struct timespec tick = {0, 20 * 1000 * 1000};
    char url[256];
    snprintf(url, sizeof url, "%s/health", st_server_url(d->proxy));
    for (double end = st_now() + 10; st_now() < end && !interrupted; nanosleep(&tick, NULL)) {
        struct st_http h = {.url = url, .timeout_s = 2};
        int rc = st_http_run(&h, e);
        st_http_wipe(&h);
        if (!rc && h.status == 200)
            return 0;
    }
    return st_fail(e, ST_IO, "the proxy did not become ready");
}

/* One event of the stream: {"choices": [{"delta": {"content"}, "token_ids": [...]}]}. */
static void on_event(struct demo *d, const char *text, size_t len)
{
    struct st_err e = {0};
    json_t *o;
    size_t i;
    const json_t *id;
    if (len == 6 && !memcmp(text, "[DONE]", 6))
        return;
    if (st_json_parse(text, len, "stream", &o, &e)) {
        d->bad_stream = true;
        return;
    }
    const json_t *choice = json_array_get(json_object_get(o, "choices"), 0);
    const char *piece = json_string_value(json_object_get(json_object_get(choice, "delta"), "content"));
    if (json_object_get(o, "error"))
        d->bad_stream = true;
    if (piece)
        st_buf_add_str(&d->reply, piece);
    json_array_foreach(json_object_get(choice, "token_ids"), i, id)
        st_ids_add(&d->ids, (uint32_t)json_integer_value(id));
    json_decref(o);
}

static void on_data(void *arg, const char *p, size_t len)
{
    struct demo *d = arg;
    char *end;
    st_buf_add(&d->pending, p, len);
    while (!d->pending.failed && d->pending.len && (end = memchr(d->pending.p, '\n', d->pending.len))) {
        size_t n = (size_t)(end - d->pending.p);
        if (n > 6 && !memcmp(d->pending.p, "data: ", 6))
            on_event(d, d->pending.p + 6, n - 6 - (end[-1] == '\r'));
        st_buf_drop(&d->pending, n + 1);
    }
}

static int chat(struct demo *d, struct st_err *e)
{
    struct st_buf body = {0}, url = {0};
    double start = st_now();
    st_buf_addf(&url, "%s/v1/chat/completions", st_server_url(d->proxy));
    st_buf_add_str(&body, "{\"messages\":[{\"role\":\"user\",\"content\":");
    st_json_quote(&body, d->o->prompt, strlen(d->o->prompt));
    st_buf_addf(&body, "}],\"stream\":true,\"temperature\":0,\"max_tokens\":%u,\"return_token_ids\":true}", d->o->n);
    struct st_http h = {.url = url.p, .post = body.p, .timeout_s = 120, .on_data = on_data, .arg = d};
    int rc = body.failed || url.failed ? st_fail(e, ST_MEMORY, "no memory for the chat") : st_http_run(&h, e);
    if (!rc && (h.status != 200 || d->bad_stream))
        rc = st_fail(e, ST_IO, "the proxy answered with status %ld%s", h.status,
                     d->bad_stream ? " and a broken stream" : "");
    d->chat_s = st_now() - start;
    st_http_wipe(&h);
    st_buf_wipe(&body);
    st_buf_free(&url);
    return rc;
}

/* The same conversation on the plain model in this process. */
static int run_plain(struct demo *d, struct st_err *e)
{
    struct st_open m;
    struct st_ids ids = {0};
    struct st_cli cli = *d->cli;
    cli.kv_dtype = ST_DTYPE_F32;
    cli.deterministic = true;
    const struct st_engine_opts eo = {.max_batch = 1};
    const struct st_chat_msg msg = {ST_CHAT_USER, d->o->prompt, strlen(d->o->prompt)};
    struct st_run r = {
        .req = {.n_predict = d->o->n, .sampling = {.top_p = 1, .repetition_penalty = 1, .n_logprobs = -1}}};
    uint32_t stops[8];
    int rc = st_open(&cli, d->model, 0, &eo, &m, e);
    if (rc)
        return rc;
    rc = st_chat_encode(d->source.chat, d->source.tokenizer, &msg, 1, &ids, e);
    r.req.ids = ids.p;
    r.req.n_ids = ids.len;
    r.req.stop_ids = stops;
    r.req.n_stop_ids = st_chat_stops(d->source.chat, d->source.tokenizer, stops, sizeof stops / sizeof *stops);
    r.tokenizer = d->source.tokenizer;
    if (!rc)
        rc = st_run(m.engine, &r, e);
    d->plain_ids = r.ids;
    d->plain_text = r.text;
    st_ids_free(&ids);
    st_open_close(&m);
    return rc;
}

/* Token ids of all arrays `key` in one JSON text: of the object itself, or of its first choice. */
static void collect_ids(const char *text, size_t len, const char *key, struct st_ids *out)
{
    json_t *o;
    struct st_err e = {0};
    size_t i;
    const json_t *id;
    if (st_json_parse(text, len, "traffic", &o, &e))
        return;
    const json_t *list = json_object_get(o, key);
    if (!list)
        list = json_object_get(json_array_get(json_object_get(o, "choices"), 0), key);
    json_array_foreach(list, i, id) st_ids_add(out, (uint32_t)json_integer_value(id));
    json_decref(o);
}

/* The ids that went over the wire, and what a reader with the public tokenizer makes of them. */
static void describe(const struct demo *d, const struct st_ids *ids, struct st_buf *out)
{
    struct st_buf text = {0};
    struct st_err e = {0};
    st_buf_addf(out, "%zu token ids:", ids->len);
    for (size_t i = 0; i < ids->len && i < 40; i++)
        st_buf_addf(out, " %u", ids->p[i]);
    st_buf_add_str(out, ids->len > 40 ? " ..." : "");
    if (!st_tokenizer_decode(d->source.tokenizer, ids->p, ids->len, true, &text, &e) && text.p)
        st_buf_addf(out, "\n\nread with the public tokenizer:\n%s", text.p);
    st_buf_free(&text);
}

static void read_traffic(struct demo *d)
{
    struct st_ids sent = {0}, received = {0};
    collect_ids(d->sent.p ? d->sent.p : "", d->sent.len, "prompt", &sent);
    for (char *line = d->received.p; line && *line;) {
        size_t n = strcspn(line, "\n");
        if (n > 6 && !memcmp(line, "data: ", 6))
            collect_ids(line + 6, n - 6, "token_ids", &received);
        line += n + (line[n] == '\n');
    }
    describe(d, &sent, &d->sent_view);
    describe(d, &received, &d->received_view);
    st_ids_free(&sent);
    st_ids_free(&received);
}

static bool is_equal(const struct demo *d)
{
    return d->ids.len && d->ids.len == d->plain_ids.len &&
           !memcmp(d->ids.p, d->plain_ids.p, d->ids.len * sizeof *d->ids.p) && d->reply.len == d->plain_text.len &&
           !memcmp(d->reply.p ? d->reply.p : "", d->plain_text.p ? d->plain_text.p : "", d->reply.len);
}

static void print_columns(const struct demo *d, bool equal)
{
    int width = st_columns_width(STDOUT_FILENO);
    putchar('\n');
    st_columns_print(stdout, width, "YOU WROTE", d->o->prompt, "THE SERVER RECEIVED",
                     d->sent_view.p ? d->sent_view.p : "");
    putchar('\n');
    st_columns_print(stdout, width, "YOU READ", d->reply.p ? d->reply.p : "", "THE SERVER ANSWERED",
                     d->received_view.p ? d->received_view.p : "");
    printf("\nprotection: covariant, scheme tight. The server had the obfuscated model, never the key or the text.\n"
           "It hides nothing from a server that has the base weights (docs/covariant.md).\n"
           "%s: %zu tokens through the proxy, %zu from the plain model.\n",
           equal ? "EQUAL" : "NOT EQUAL", d->ids.len, d->plain_ids.len);
}

static void add_field(struct st_buf *b, const char *name, const char *s, size_t len)
{
    st_buf_addf(b, ",\"%s\":", name);
    st_json_quote(b, s ? s : "", s ? len : 0);
}

static void print_json(const struct demo *d, bool equal)
{
    struct st_buf b = {0};
    size_t n = d->received.len < 4096 ? d->received.len : 4096;
    st_buf_addf(&b, "{\"reply_equal\":%s,\"protect\":\"covariant\",\"scheme\":\"tight\"", equal ? "true" : "false");
    add_field(&b, "prompt", d->o->prompt, strlen(d->o->prompt));
    add_field(&b, "sent", d->sent.p, d->sent.len);
    add_field(&b, "received", d->received.p, n);
    add_field(&b, "reply", d->reply.p, d->reply.len);
    add_field(&b, "plain_reply", d->plain_text.p, d->plain_text.len);
    st_buf_addf(&b, ",\"reply_tokens\":%zu,\"obfuscate_ms\":%.1f,\"chat_ms\":%.1f,\"total_ms\":%.1f}", d->ids.len,
                d->obfuscate_s * 1e3, d->chat_s * 1e3, (st_now() - d->start) * 1e3);
    puts(b.p ? b.p : "{}");
    st_buf_free(&b);
}

static int talk(struct demo *d, const struct st_gen_upstream_opts *uo, struct st_err *e)
{
    const struct st_server_opts so = {
        .tokenizer = d->source.tokenizer, .chat = d->source.chat, .source = {st_gen_upstream_open, uo}};
    int rc;
    if ((rc = next(d, "starting the proxy, which has the key", e)) != 0 ||
        (rc = st_server_start(&so, &d->proxy, e)) != 0 || (rc = wait_ready(d, e)) != 0 ||
        (rc = next(d, "one chat through the proxy, streaming", e)) != 0)
        return rc;
    rc = chat(d, e);
    st_server_stop(d->proxy); /* joins its thread: the tap is quiet from here on */
    d->proxy = NULL;
    return rc;
}

static int run_all(struct demo *d, struct st_err *e)
{
    char url[256];
    int rc;
    if ((rc = find_model(d, e)) != 0 || (rc = make_temp(d, e)) != 0 ||
        (rc = next(d, "making a key and an obfuscated copy of the model", e)) != 0 ||
        (rc = make_checkpoint(d, e)) != 0 ||
        (rc = next(d, "starting an untrusted server, which has only that copy", e)) != 0 ||
        (rc = start_server(d, url, sizeof url, e)) != 0 ||
        (rc = st_source_open(d->cli, d->model, d->key, d->dst, &d->source, e)) != 0)
        return rc;
    const struct st_gen_upstream_opts uo = {.url = url,
                                            .cipher = &d->source.cipher,
                                            .scheme = d->source.scheme,
                                            .n_ctx = d->source.config.n_ctx,
                                            .eos = d->source.eos,
                                            .n_eos = d->source.n_eos,
                                            .tap = tap,
                                            .arg = d};
    if ((rc = talk(d, &uo, e)) != 0 || (rc = next(d, "the same chat with the plain model", e)) != 0 ||
        (rc = run_plain(d, e)) != 0)
        return rc;
    read_traffic(d);
    bool equal = is_equal(d);
    if (d->cli->json)
        print_json(d, equal);
    else
        print_columns(d, equal);
    return equal ? 0 : st_fail(e, ST_VERIFY, "demo: the protected reply differs from the plain model's");
}

static int run(const struct st_cli *cli, void *opts, struct st_err *e)
{
    const struct demo_opts *o = opts;
    struct demo d = {.cli = cli, .o = o, .start = st_now(), .lock = PTHREAD_MUTEX_INITIALIZER};
    if (strcmp(o->protect, "covariant") != 0)
        return st_fail(e, ST_UNSUPPORTED, "--protect: '%s' is not supported; supported: covariant", o->protect);
    if (!cli->verbose)
        st_log_set_level(ST_LOG_WARN);
    /* Ctrl-C must not leave the child or the key behind. */
    struct sigaction sa = {.sa_handler = on_signal};
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
    int rc = run_all(&d, e);
    st_server_stop(d.proxy);
    st_child_stop(&d.server);
    st_source_close(&d.source);
    if (*d.tmp)
        remove_dir(d.tmp, 2);
    st_buf_wipe(&d.sent);
    st_buf_wipe(&d.received);
    st_buf_wipe(&d.pending);
    st_buf_wipe(&d.sent_view);
    st_buf_wipe(&d.received_view);
    st_buf_wipe(&d.reply);
    st_buf_wipe(&d.plain_text);
    st_ids_free(&d.ids);
    st_ids_free(&d.plain_ids);
    return rc;
}

const struct st_cmd st_cmd_demo = {
    .name = "demo",
    .summary = "A private chat on this machine, shown from both sides",
    .doc = "Makes a key and an obfuscated copy of a small model, serves the copy from a process that stands for the "
           "untrusted "
           "machine, starts the proxy, talks through it, and shows side by side what each side saw. Checks that the "
           "reply is the "
           "plain model's, token by token; the exit status is 5 if not.",
    .examples = "  sotto demo\n  sotto demo --prompt \"The dog and the cat\" --json",
    .shared = ST_CLI_THREADS | ST_CLI_CHAT | ST_CLI_JSON,
    .options = options,
    .opts_size = sizeof(struct demo_opts),
    .defaults = &defaults,
    .set = set,
    .run = run,
};
