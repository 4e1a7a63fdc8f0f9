/* What the tests of servers share: the demo model's tokenizer, a generator that makes up tokens on the event loop, a
 * plain blocking HTTP client, and what it makes of answers. Include cmocka.h first. */
#ifndef ST_TESTS_SERVING_H
#define ST_TESTS_SERVING_H

#include "base/buf.h"
#include "service/server.h"
#include "text/json.h"

#include <arpa/inet.h>
#include <errno.h>
#include <event2/event.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* What the made-up generator does. Set before requests are sent. */
struct mock {
    const uint32_t *script; /* tokens to send, then STOP; NULL = the prompt's ids over and over, then LENGTH */
    size_t n_script;
    atomic_int per_tick;   /* tokens per turn of the loop */
    atomic_int tick_us;    /* between turns */
    atomic_int fail_after; /* >= 0: IO error after so many tokens */
    atomic_int fail_code;  /* of that error */
    uint32_t n_ctx, n_vocab, max_live;
    atomic_bool ready;
    atomic_int n_live, n_cancelled, n_started;
    const char *protection;
    bool watched;
    struct st_gen_watch watch;
};

struct st_gen {
    struct mock *m;
    struct event_base *base;
    struct mock_request *requests;
};

struct mock_request {
    struct st_gen *g;
    struct mock_request *prev, *next;
    struct event *tick;
    struct st_gen_events ev;
    void *arg;
    uint32_t *ids;
    size_t n_ids, n_sent;
    struct st_gen_request r;
    bool cancelled;
};

static void mock_drop(struct mock_request *q)
{
    *(q->prev ? &q->prev->next : &q->g->requests) = q->next;
    if (q->next)
        q->next->prev = q->prev;
    event_free(q->tick);
    free(q->ids);
    q->g->m->n_live--;
    free(q);
}

static void mock_finish(struct mock_request *q, enum st_gen_finish f)
{
    struct st_err e = {0};
    if (f == ST_GEN_ERROR)
        st_fail(&e, q->g->m->fail_code ? q->g->m->fail_code : ST_IO, "made-up failure");
    q->ev.end(q->arg, f, f == ST_GEN_ERROR ? &e : NULL);
    mock_drop(q);
}

static void mock_tick(evutil_socket_t fd, short what, void *arg)
{
    struct mock_request *q = arg;
    struct mock *m = q->g->m;
    (void)fd;
    (void)what;
    for (int i = 0; i < m->per_tick && !q->cancelled; i++) {
        if (m->fail_after >= 0 && (int)q->n_sent >= m->fail_after) {
            mock_finish(q, ST_GEN_ERROR);
            return;
        }
        if (q->n_sent == q->r.n_predict || (m->script && q->n_sent == m->n_script)) {
            mock_finish(q, q->n_sent == q->r.n_predict ? ST_GEN_LENGTH : ST_GEN_STOP);
            return;
        }
        struct st_sampled tok = {0};
        tok.id = m->script ? m->script[q->n_sent] : q->ids[q->n_sent % q->n_ids];
        tok.logprob = -0.5f;
        tok.n_top = q->r.sampling.n_logprobs > 0 ? q->r.sampling.n_logprobs : 0;
        for (int j = 0; j < tok.n_top; j++)
            tok.top[j] = (struct st_logprob){(tok.id + (uint32_t)j) % m->n_vocab, -0.5f - (float)j};
        q->n_sent++;
        q->ev.token(q->arg, &tok);
    }
    if (q->cancelled) {
        m->n_cancelled++;
        mock_finish(q, ST_GEN_CANCELLED);
        return;
    }
    struct timeval tv = {0, m->tick_us};
    event_add(q->tick, &tv);
}

static int mock_start(struct st_gen *g, const struct st_gen_request *r, const struct st_gen_events *ev, void *arg,
                      void **handle, struct st_err *e)
{
    if (g->m->max_live && g->m->n_live >= (int)g->m->max_live)
        return st_fail(e, ST_POLICY, "the queue is full");
    struct mock_request *q = calloc(1, sizeof *q);
    q->g = g;
    q->ev = *ev;
    q->arg = arg;
    q->r = *r;
    q->ids = malloc(r->n_ids * sizeof *q->ids);
    memcpy(q->ids, r->ids, r->n_ids * sizeof *q->ids);
    q->n_ids = r->n_ids;
    q->tick = event_new(g->base, -1, 0, mock_tick, q);
    q->next = g->requests;
    if (q->next)
        q->next->prev = q;
    g->requests = q;
    g->m->n_live++;
    g->m->n_started++;
    struct timeval tv = {0, g->m->tick_us};
    event_add(q->tick, &tv);
    *handle = q;
    return 0;
}

static void mock_cancel(struct st_gen *g, void *handle)
{
    struct mock_request *q = handle;
    (void)g;
    q->cancelled = true;
    struct timeval now = {0, 0};
    event_add(q->tick, &now);
}

static void mock_info(struct st_gen *g, struct st_gen_info *out)
{
    *out = (struct st_gen_info){.n_ctx = g->m->n_ctx,
                                .n_vocab = g->m->n_vocab,
                                .ready = g->m->ready,
                                .protection = g->m->protection,
                                .scheme = "none",
                                .verified = "no",
                                .watched = g->m->watched,
                                .watch = g->m->watch,
                                .n_running = (uint32_t)g->m->n_live};
    snprintf(out->model, sizeof out->model, "mock");
}

static void mock_free(struct st_gen *g)
{
    while (g->requests)
        mock_drop(g->requests);
    free(g);
}

static const struct st_generator mock_vtable = {mock_start, mock_cancel, mock_info, mock_free};

static inline int mock_open(const void *opts, struct event_base *base, struct st_gen_ref *out, struct st_err *e)
{
    struct st_gen *g = calloc(1, sizeof *g);
    (void)e;
    g->m = (struct mock *)opts;
    g->base = base;
    *out = (struct st_gen_ref){&mock_vtable, g};
    return 0;
}

static inline void mock_init(struct mock *m)
{
    memset(m, 0, sizeof *m);
    m->per_tick = 1;
    m->fail_after = -1;
    m->n_ctx = 100000;
    m->n_vocab = 2048;
    m->ready = true;
    m->protection = "none";
}

static inline int open_demo(struct st_tokenizer **tok, const struct st_chat_template **chat)
{
    struct st_err e;
    if (st_tokenizer_open("models/demo", tok, &e) == 0 && st_chat_detect("models/demo", *tok, chat, &e) == 0)
        return 0;
    fprintf(stderr, "%s\n", e.msg);
    return -1;
}

/* ---- client ---- */

static inline int dial(int port)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    struct timeval tv = {20, 0};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv);
    if (connect(fd, (struct sockaddr *)&a, sizeof a) != 0) {
        perror("connect");
        abort();
    }
    return fd;
}

/* False when the other side has closed. */
static inline bool put(int fd, const void *p, size_t len)
{
    const char *c = p;
    while (len) {
        ssize_t n = send(fd, c, len, MSG_NOSIGNAL);
        if (n <= 0)
            return false;
        c += n;
        len -= (size_t)n;
    }
    return true;
}

/* Everything until the other side closes. False after 20 s of silence. */
static inline bool get_all(int fd, struct st_buf *out)
{
    char b[65536];
    for (;;) {
        ssize_t n = recv(fd, b, sizeof b, 0);
        if (n > 0)
            st_buf_add(out, b, (size_t)n);
        else
            return n == 0 || errno == ECONNRESET;
    }
}

/* Sends one request and returns the whole answer, head included. Owned by the caller. */
static inline char *ask(int port, const char *method, const char *path, const char *fields, const char *body)
{
    struct st_buf q = {0}, a = {0};
    int fd = dial(port);
    st_buf_addf(&q, "%s %s HTTP/1.1\r\nHost: localhost:%d\r\nConnection: close\r\n%s", method, path, port,
                fields ? fields : "");
    if (body)
        st_buf_addf(&q, "Content-Type: application/json\r\nContent-Length: %zu\r\n", strlen(body));
    st_buf_addf(&q, "\r\n%s", body ? body : "");
    put(fd, q.p, q.len);
    if (!get_all(fd, &a)) {
        fprintf(stderr, "no answer to %s %s\n", method, path);
        abort();
    }
    close(fd);
    st_buf_free(&q);
    st_buf_add(&a, "", 0);
    return a.p;
}

static inline int status_of(const char *answer)
{
    return strncmp(answer, "HTTP/1.1 ", 9) == 0 ? atoi(answer + 9) : 0;
}

static inline const char *body_of(const char *answer)
{
    const char *b = strstr(answer, "\r\n\r\n");
    return b ? b + 4 : "";
}

static inline json_t *json_of(const char *answer)
{
    struct st_err e;
    json_t *v;
    const char *body = body_of(answer);
    if (st_json_parse(body, strlen(body), "reply", &v, &e))
        fail_msg("%s: %s", e.msg, answer);
    return v;
}

/* The answer is an error in the API's shape with this status and code. */
static inline void assert_error(char *answer, int status, const char *code)
{
    json_t *v = json_of(answer);
    const json_t *error = json_object_get(v, "error");
    const char *got = json_string_value(json_object_get(error, "code"));
    if (status_of(answer) != status || !got || strcmp(got, code) != 0)
        fail_msg("want %d %s, got: %s", status, code, answer);
    assert_true(json_is_string(json_object_get(error, "message")));
    assert_true(json_is_string(json_object_get(error, "type")));
    assert_non_null(json_object_get(error, "param"));
    assert_int_equal(json_object_size(error), 4);
    json_decref(v);
    free(answer);
}

/* Waits up to 10 s until *v == want. */
static inline bool wait_for(atomic_int *v, int want)
{
    for (int i = 0; i < 10000; i++) {
        if (*v == want)
            return true;
        poll(NULL, 0, 1);
    }
    return false;
}

#endif
