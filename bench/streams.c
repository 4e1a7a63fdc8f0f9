/* The two ends of bench/confidential_vs_direct.py: an engine that answers at a real one's pace without computing, and
 * clients that ask for streams and measure.
 *
 *     streams engine TTFT_MS TOKEN_MS     prints its URL; every stream's first token after TTFT_MS, then one every
 *                                         TOKEN_MS (0: all at once); max_tokens of them
 *     streams load URL CLIENTS REQUESTS MAX_TOKENS SPREAD_MS
 *                                         so many clients, each with one chat after the other, REQUESTS in all; they
 *                                         begin one after the other within SPREAD_MS; prints one JSON object
 *
 * ttft: from the request handed to the connection to the first token that came back. rate: tokens per second of one
 * stream, first to last token; tokens_per_s: of all, from the first request to the last token. */
#include "base/hooks.h"
#include "net/http_client.h"
#include "service/role.h"
#include "text/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

static void die(const struct st_err *e)
{
    fprintf(stderr, "streams: %s\n", e->msg);
    exit(1);
}

static struct timeval in_seconds(double s)
{
    s = s > 0 ? s : 0;
    return (struct timeval){(time_t)s, (suseconds_t)((s - (double)(time_t)s) * 1e6)};
}

/* ---- the engine ----
 * Its clock is the kernel's fine one: timers of the event loop come up to a tick of 4 ms late, and by how much would
 * depend on when the request came. */

static struct {
    struct st_role *role;
    double ttft_s, token_s;
} engine;

struct reply {
    struct st_http_conn *conn;
    struct event *timer;
    int fd;
    int64_t left;
    double next; /* token */
    char model[64];
};

static void reply_free(void *arg)
{
    struct reply *r = arg;
    event_free(r->timer);
    close(r->fd);
    free(r);
}

/* st_now() is CLOCK_MONOTONIC. */
static void wait_for_next(const struct reply *r)
{
    const struct timeval at = in_seconds(r->next);
    const struct itimerspec t = {.it_value = {at.tv_sec, at.tv_usec * 1000}};
    timerfd_settime(r->fd, TFD_TIMER_ABSTIME, &t, NULL);
}

static void send_event(struct reply *r, const char *content, bool last)
{
    char b[512];
    int n = snprintf(b, sizeof b,
                     "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,"
                     "\"model\":\"%s\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"%s\"},\"logprobs\":null,"
                     "\"finish_reason\":%s}]}\n\n",
                     r->model, content, last ? "\"length\"" : "null");
    st_http_stream_send(r->conn, b, (size_t)n);
}

static void on_token(evutil_socket_t fd, short what, void *arg)
{
    struct reply *r = arg;
    (void)fd;
    (void)what;
    if (st_now() < r->next)
        return;
    do {
        send_event(r, " word", r->left == 1);
        r->next += engine.token_s;
    } while (--r->left && st_now() >= r->next);
    if (r->left) {
        wait_for_next(r);
        return;
    }
    static const char done[] = "data: [DONE]\n\n";
    st_http_stream_send(r->conn, done, sizeof done - 1);
    st_http_stream_end(r->conn);
    reply_free(r);
}

static void start_reply(struct st_http_conn *c)
{
    struct st_err e;
    json_t *o;
    int64_t n = 16;
    struct st_span body = st_http_body(c);
    if (st_json_parse(body.p, body.len, "body", &o, &e) || st_json_int(o, "body", "max_tokens", 1, 1 << 20, &n, &e)) {
        st_http_reply(c, 400, NULL, "text/plain", e.msg, strlen(e.msg));
        return;
    }
    json_decref(o);
    struct reply *r = calloc(1, sizeof *r);
    *r = (struct reply){.conn = c, .left = n, .next = st_now() + engine.ttft_s, .model = "paced"};
    r->fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    r->timer = event_new(st_role_base(engine.role), r->fd, EV_READ | EV_PERSIST, on_token, r);
    st_http_watch(c, &(struct st_http_watch){.gone = reply_free, .arg = r});
    st_http_stream_begin(c, 200, NULL, "text/event-stream");
    event_add(r->timer, NULL);
    wait_for_next(r);
}

static void on_request(void *arg, struct st_http_conn *c)
{
    static const char models[] = "{\"object\":\"list\",\"data\":[{\"id\":\"paced\",\"object\":\"model\",\"owned_by\":"
                                 "\"sotto\",\"max_model_len\":8192}]}";
    (void)arg;
    if (strcmp(st_http_path(c), "/v1/chat/completions") == 0)
        start_reply(c);
    else
        st_http_reply(c, 200, NULL, "application/json", models, sizeof models - 1);
}

static int run_engine(char **argv)
{
    struct st_err e;
    engine.ttft_s = atof(argv[0]) * 1e-3;
    engine.token_s = atof(argv[1]) * 1e-3;
    if (st_role_new(&engine.role, &e) ||
        st_role_listen(engine.role, &(struct st_role_opts){.request = on_request, .max_body = 1 << 20}, &e))
        die(&e);
    printf("%s\n", st_role_url(engine.role));
    fflush(stdout);
    if (st_role_run(engine.role, &e))
        die(&e);
    st_role_close(engine.role);
    st_role_free(engine.role);
    return 0;
}

/* ---- the clients ---- */

static struct {
    struct event_base *base;
    struct st_http_client *http;
    char url[512], body[512];
    size_t n_left, n_open, n_done, n_tokens;
    double *ttft, *rate;
    double last; /* token of all */
} load;

/* One stream; a token is "content":" with something in it. */
struct stream {
    struct st_http_call *call;
    struct event *begin;
    double start, first, last;
    size_t n, matched;
};

static void start_stream(struct stream *s);

static void count(struct stream *s, const char *p, size_t len)
{
    static const char mark[] = "\"content\":\"";
    for (size_t i = 0; i < len; i++) {
        if (s->matched == sizeof mark - 1) {
            s->n += p[i] != '"';
            s->matched = 0;
        } else if (p[i] == mark[s->matched])
            s->matched++;
        else
            s->matched = p[i] == '"';
    }
}

static int on_data(void *arg, int status, const void *p, size_t len, struct st_err *e)
{
    struct stream *s = arg;
    size_t before = s->n;
    if (status != 200)
        return st_fail(e, ST_IO, "status %d: %.*s", status, (int)(len < 300 ? len : 300), (const char *)p);
    count(s, p, len);
    if (s->n == before)
        return 0;
    s->last = st_now();
    if (before == 0)
        s->first = s->last;
    return 0;
}

static void on_end(void *arg, int status, const struct st_err *failed)
{
    struct stream *s = arg;
    struct st_err e;
    if (failed)
        die(failed);
    if (status != 200 || s->n < 2) {
        st_fail(&e, ST_IO, "status %d, %zu tokens", status, s->n);
        die(&e);
    }
    load.ttft[load.n_done] = s->first - s->start;
    load.rate[load.n_done++] = s->last > s->first ? (double)(s->n - 1) / (s->last - s->first) : 0;
    load.n_tokens += s->n;
    load.last = s->last;
    load.n_open--;
    start_stream(s);
    if (load.n_open == 0 && load.n_left == 0)
        event_base_loopbreak(load.base);
}

static void start_stream(struct stream *s)
{
    struct st_err e;
    struct st_buf body = {0};
    if (load.n_left == 0)
        return;
    load.n_left--;
    load.n_open++;
    st_buf_add_str(&body, load.body);
    *s = (struct stream){.begin = s->begin, .start = st_now()};
    const struct st_http_call_opts o = {.url = load.url,
                                        .direct = true,
                                        .body = &body,
                                        .stall_s = 60,
                                        .max_reply = 1 << 26,
                                        .data = on_data,
                                        .end = on_end,
                                        .arg = s};
    if (st_http_call_start(load.http, &o, &s->call, &e))
        die(&e);
}

static void on_begin(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    start_stream(arg);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int run_load(char **argv)
{
    struct st_err e;
    size_t n_client = (size_t)atoi(argv[1]), n = (size_t)atoi(argv[2]);
    const double apart = atof(argv[4]) * 1e-3 / (double)n_client;
    struct stream *streams = calloc(n_client, sizeof *streams);
    snprintf(load.url, sizeof load.url, "%s/v1/chat/completions", argv[0]);
    snprintf(load.body, sizeof load.body,
             "{\"messages\":[{\"role\":\"user\",\"content\":\"Tell me about the sea, and about the ships on it.\"}],"
             "\"max_tokens\":%d,\"stream\":true,\"temperature\":0,\"ignore_eos\":true}",
             atoi(argv[3]));
    load.base = event_base_new();
    load.n_left = n;
    load.ttft = calloc(n, sizeof *load.ttft);
    load.rate = calloc(n, sizeof *load.rate);
    if (st_http_client_new(load.base, &(struct st_http_client_opts){.connect_s = 5, .max_idle = 4096}, &load.http, &e))
        die(&e);
    double start = st_now();
    for (size_t i = 0; i < n_client; i++) {
        const struct timeval tv = in_seconds(apart * (double)i);
        streams[i].begin = evtimer_new(load.base, on_begin, &streams[i]);
        event_add(streams[i].begin, &tv);
    }
    event_base_dispatch(load.base);
    for (size_t i = 0; i < n_client; i++)
        event_free(streams[i].begin);
    qsort(load.ttft, n, sizeof *load.ttft, by_value);
    qsort(load.rate, n, sizeof *load.rate, by_value);
    printf("{\"requests\": %zu, \"tokens\": %zu, \"ttft_ms\": %.3f, \"ttft_p95_ms\": %.3f, \"rate\": %.3f, "
           "\"tokens_per_s\": %.2f}\n",
           load.n_done, load.n_tokens, load.ttft[n / 2] * 1e3, load.ttft[n * 95 / 100] * 1e3, load.rate[n / 2],
           (double)load.n_tokens / (load.last - start));
    st_http_client_free(load.http);
    event_base_free(load.base);
    free(load.ttft);
    free(load.rate);
    free(streams);
    return load.n_done == n ? 0 : 1;
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "engine") == 0)
        return run_engine(argv + 2);
    if (argc == 7 && strcmp(argv[1], "load") == 0 && atoi(argv[3]) > 0 && atoi(argv[4]) >= atoi(argv[3]))
        return run_load(argv + 2);
    fprintf(stderr, "usage: streams engine TTFT_MS TOKEN_MS | streams load URL CLIENTS REQUESTS MAX_TOKENS "
                    "SPREAD_MS\n");
    return 2;
}
