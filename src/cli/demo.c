#include "cli/demo.h"
#include "base/hooks.h"
#include "cli/columns.h"
#include "cli/generate.h"
#include "cli/http.h"
#include "cli/masked.h"
#include "cli/open.h"
#include "engine/record.h"
#include "service/gen_engine.h"
#include "text/json.h"

#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SHOWN_RESIDUES 24 /* of a sample */

static volatile sig_atomic_t interrupted;

static void on_signal(int sig)
{
    (void)sig;
    interrupted = 1;
}

bool st_demo_interrupted(void)
{
    return interrupted != 0;
}

const volatile sig_atomic_t *st_demo_cancel(void)
{
    return &interrupted;
}

int st_demo_next(const struct st_demo *d, const char *what, struct st_err *e)
{
    if (interrupted)
        return st_fail(e, ST_INTERNAL, "demo: interrupted");
    if (!d->cli->json && !d->cli->quiet)
        fprintf(stderr, "%5.1f s  %s\n", st_now() - d->start, what);
    return 0;
}

/* Beside the program: a build tree (build/bin, build/NAME/bin) or an installation. */
int st_demo_model(const char *given, char out[ST_PATH_MAX], struct st_err *e)
{
    static const char *const places[] = {"../../models/demo", "../../../models/demo", "../share/sotto/models/demo"};
    char dir[ST_PATH_MAX / 2];
    if (given)
        return st_open_model_path(given, out, e);
    if (st_child_program_dir(dir, sizeof dir, e))
        return e->code;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        snprintf(out, ST_PATH_MAX, "%s/%s", dir, places[i]);
        if (st_path_is_dir(out))
            return 0;
    }
    return st_fail(e, ST_IO, "the demo model is not beside the program (%s); name a model with --model", dir);
}

int st_demo_begin(struct st_demo *d, struct st_err *e)
{
    /* Ctrl-C must not leave the child or the key behind. */
    struct sigaction sa = {.sa_handler = on_signal};
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
    d->start = st_now();
    return st_demo_model(d->model_arg, d->model, e) ? e->code : st_temp_make("sotto-demo", &d->tmp, e);
}

void st_demo_end(struct st_demo *d)
{
    st_server_stop(d->server);
    st_child_stop(&d->child);
    st_temp_remove(&d->tmp);
    st_buf_wipe(&d->sent);
    st_buf_wipe(&d->received);
    st_buf_free(&d->audit);
}

int st_demo_audit(struct st_demo *d, const char *adversary, const char *view, const char *const *more, struct st_err *e)
{
    struct st_buf *b = &d->audit;
    st_buf_add_str(b, "sotto audit ");
    st_buf_add_word(b, d->hold ? d->model : "demo");
    st_buf_add_str(b, " ");
    st_buf_add_word(b, d->hold ? view : "--adversary");
    if (!d->hold)
        st_buf_addf(b, " %s", adversary);
    for (; d->hold && more && *more; more++) {
        st_buf_add_str(b, " ");
        st_buf_add_word(b, *more);
    }
    return b->failed ? st_fail(e, ST_MEMORY, "no memory for the demo") : 0;
}

void st_demo_wait_for_end(const struct st_demo *d)
{
    const struct timespec tick = {0, 100 * 1000 * 1000};
    if (!d->cli->json && !d->cli->quiet)
        fputs("What this demo made and started stays until Ctrl-C.\n", stderr);
    fflush(stdout);
    while (!interrupted)
        nanosleep(&tick, NULL);
}

void st_demo_reply_wipe(struct st_demo_reply *r)
{
    st_buf_wipe(&r->text);
    st_buf_wipe(&r->pending);
    st_ids_free(&r->ids);
}

bool st_demo_reply_equal(const struct st_demo_reply *a, const struct st_demo_reply *b)
{
    return a->ids.len && a->ids.len == b->ids.len && !memcmp(a->ids.p, b->ids.p, a->ids.len * sizeof *a->ids.p) &&
           a->text.len == b->text.len && !memcmp(a->text.p ? a->text.p : "", b->text.p ? b->text.p : "", a->text.len);
}

/* It takes connections at once, but a proxy says ready only after its first look at the upstream. */
int st_demo_wait(const char *endpoint, double seconds, struct st_err *e)
{
    const struct timespec tick = {0, 20 * 1000 * 1000};
    char url[256];
    snprintf(url, sizeof url, "%s/health", endpoint);
    for (double end = st_now() + seconds; st_now() < end && !interrupted; nanosleep(&tick, NULL)) {
        struct st_http h = {.url = url, .timeout_s = 2};
        int rc = st_http_run(&h, e);
        st_http_wipe(&h);
        if (!rc && h.status == 200)
            return 0;
    }
    return st_fail(e, ST_IO, "the endpoint did not become ready");
}

/* One event of the stream: {"choices": [{"delta": {"content"}, "token_ids": [...]}]}. */
static void on_event(struct st_demo_reply *r, const char *text, size_t len)
{
    struct st_err e = {0};
    json_t *o;
    size_t i;
    const json_t *id;
    if (len == 6 && !memcmp(text, "[DONE]", 6))
        return;
    if (st_json_parse(text, len, "stream", &o, &e)) {
        r->bad = true;
        return;
    }
    const json_t *choice = json_array_get(json_object_get(o, "choices"), 0);
    const char *piece = json_string_value(json_object_get(json_object_get(choice, "delta"), "content"));
    if (json_object_get(o, "error"))
        r->bad = true;
    if (piece)
        st_buf_add_str(&r->text, piece);
    json_array_foreach(json_object_get(choice, "token_ids"), i, id)
        st_ids_add(&r->ids, (uint32_t)json_integer_value(id));
    json_decref(o);
}

static void on_data(void *arg, const char *p, size_t len)
{
    struct st_demo_reply *r = arg;
    char *end;
    st_buf_add(&r->pending, p, len);
    while (!r->pending.failed && r->pending.len && (end = memchr(r->pending.p, '\n', r->pending.len))) {
        size_t n = (size_t)(end - r->pending.p);
        if (n > 6 && !memcmp(r->pending.p, "data: ", 6))
            on_event(r, r->pending.p + 6, n - 6 - (end[-1] == '\r'));
        st_buf_drop(&r->pending, n + 1);
    }
}

/* What the endpoint says, in its own words where it has some. */
static int refused(const struct st_http *h, bool broken, struct st_err *e)
{
    struct st_err ignored;
    json_t *o = NULL;
    if (st_json_parse(h->body.p ? h->body.p : "", h->body.len, "error", &o, &ignored))
        o = NULL;
    const char *why = json_string_value(json_object_get(json_object_get(o, "error"), "message"));
    int rc = st_fail(e, ST_IO, "the endpoint answered with status %ld%s%s%.300s", h->status,
                     broken ? " and a broken stream" : "", why ? ": " : "", why ? why : "");
    json_decref(o);
    return rc;
}

int st_demo_chat(const struct st_demo *d, const char *endpoint, bool ids, struct st_demo_reply *out, struct st_err *e)
{
    struct st_buf body = {0}, url = {0};
    double start = st_now();
    st_buf_addf(&url, "%s/v1/chat/completions", endpoint);
    st_buf_add_str(&body, "{\"messages\":[{\"role\":\"user\",\"content\":");
    st_json_quote(&body, d->prompt, strlen(d->prompt));
    st_buf_addf(&body, "}],\"stream\":true,\"temperature\":0,\"max_tokens\":%u%s}", d->n,
                ids ? ",\"return_token_ids\":true" : "");
    struct st_http h = {.url = url.p, .post = body.p, .timeout_s = 120, .on_data = on_data, .arg = out};
    int rc = body.failed || url.failed ? st_fail(e, ST_MEMORY, "no memory for the chat") : st_http_run(&h, e);
    if (!rc && (h.status != 200 || out->bad))
        rc = refused(&h, out->bad, e);
    out->seconds = st_now() - start;
    st_http_wipe(&h);
    st_buf_wipe(&body);
    st_buf_free(&url);
    return rc;
}

int st_demo_talk(struct st_demo *d, const struct st_server_opts *o, struct st_demo_reply *out, struct st_err *e)
{
    int rc = st_server_start(o, &d->server, e);
    if (!rc)
        rc = st_demo_wait(st_server_url(d->server), 10, e);
    if (!rc)
        rc = st_demo_chat(d, st_server_url(d->server), true, out, e);
    st_server_stop(d->server);
    d->server = NULL;
    return rc;
}

int st_demo_talk_masked(struct st_demo *d, const struct st_open *o, struct st_demo_reply *out, struct st_err *e)
{
    struct st_masked_words w;
    st_masked_words(o->masked, &w);
    const struct st_gen_engine_opts go = {.engine = o->engine,
                                          .model = o->model,
                                          .protection = w.protection,
                                          .scheme = w.scheme,
                                          .verified = w.verified,
                                          .watch = st_masked_watch,
                                          .watch_ctx = o->masked};
    const struct st_server_opts so = {.tokenizer = o->tokenizer, .chat = o->chat, .source = {st_gen_engine_open, &go}};
    return st_demo_talk(d, &so, out, e);
}

int st_demo_run(const struct st_demo *d, const struct st_open *m, struct st_demo_reply *out, struct st_err *e)
{
    struct st_ids ids = {0};
    const struct st_chat_msg msg = {ST_CHAT_USER, d->prompt, strlen(d->prompt)};
    struct st_run r = {.req = {.n_predict = d->n, .sampling = {.top_p = 1, .repetition_penalty = 1, .n_logprobs = -1}}};
    uint32_t stops[8];
    int rc = st_chat_encode(m->chat, m->tokenizer, &msg, 1, &ids, e);
    r.req.ids = ids.p;
    r.req.n_ids = ids.len;
    r.req.stop_ids = stops;
    r.req.n_stop_ids = st_chat_stops(m->chat, m->tokenizer, stops, sizeof stops / sizeof *stops);
    r.tokenizer = m->tokenizer;
    if (!rc)
        rc = st_run(m->engine, &r, e);
    out->ids = r.ids;
    out->text = r.text;
    out->seconds = r.ttft_s + r.decode_s;
    st_ids_free(&ids);
    return rc;
}

int st_demo_here(const struct st_demo *d, const struct st_cli *cli, struct st_demo_reply *out, struct st_err *e)
{
    struct st_open m;
    const struct st_engine_opts eo = {.max_batch = 1};
    int rc = st_open(cli, d->model, ST_OPEN_TOKENIZER | ST_OPEN_CHAT, &eo, &m, e);
    if (rc)
        return rc;
    rc = st_demo_run(d, &m, out, e);
    st_open_close(&m);
    return rc;
}

void st_demo_put_field(struct st_buf *b, const char *name, const char *s, size_t len)
{
    st_buf_addf(b, ",\"%s\":", name);
    st_json_quote(b, s ? s : "", s ? len : 0);
}

void st_demo_print_columns(const struct st_demo *d, const char *other, const struct st_buf *reply)
{
    int width = st_columns_width(STDOUT_FILENO);
    char received[64], answered[64];
    snprintf(received, sizeof received, "THE %s RECEIVED", other);
    snprintf(answered, sizeof answered, "THE %s ANSWERED", other);
    putchar('\n');
    st_columns_print(stdout, width, "YOU WROTE", d->prompt, received, d->sent.p ? d->sent.p : "");
    putchar('\n');
    st_columns_print(stdout, width, "YOU READ", reply->p ? reply->p : "", answered, d->received.p ? d->received.p : "");
    putchar('\n');
}

static void describe_rows(const struct st_record_entry *entry, struct st_buf *out)
{
    size_t n = entry->bytes.len / sizeof(uint32_t);
    uint32_t v;
    st_buf_addf(out, "%" PRIu32 " rows for layer %d (%s), residues modulo 4293918721:\n", entry->n_row, entry->layer,
                entry->roles);
    for (size_t i = 0; i < n && i < SHOWN_RESIDUES; i++) {
        memcpy(&v, (const char *)entry->bytes.p + i * sizeof v, sizeof v);
        st_buf_addf(out, " %" PRIu32, v);
    }
    st_buf_add_str(out, n > SHOWN_RESIDUES ? " ..." : "");
}

int st_demo_read_record(struct st_demo *d, const char *path, struct st_err *e)
{
    struct st_record *r;
    struct st_record_entry entry = {0};
    if (st_record_open(path, &r, e))
        return e->code;
    int rc = st_record_next(r, &entry, e);
    if (!rc && entry.kind == ST_RECORD_OUT)
        describe_rows(&entry, &d->sent);
    if (!rc && (rc = st_record_next(r, &entry, e)) == 0 && entry.kind == ST_RECORD_IN)
        describe_rows(&entry, &d->received);
    st_record_close(r);
    if (!rc && (!d->sent.len || !d->received.len))
        rc = st_fail(e, ST_INTERNAL, "demo: nothing went to the worker");
    return rc;
}
