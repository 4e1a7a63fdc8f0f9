#include "cli/audit_running.h"
#include "audit/traffic_read.h"
#include "cli/demo_parties.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define TLS_RECORD 22  /* bytes that TLS 1.3 adds to a record: here all is in the open, on loopback */
#define REPLY_LEAST 10 /* tokens, of the first prompt; of the others so many more each */
#define REPLY_MORE 2
#define CADENCE_MS "5" /* about two tokens of the demo model */
#define TRIES 200      /* of a node that starts again: until the proxy has verified it */

enum order { WAIT, RECORD, LEAVE };

/* The roles end with the thread that started them: it does all there is to do with them. */
struct st_running {
    const struct st_demo *d;
    struct st_demo_parties p;
    struct st_capture *to_engine;
    const struct st_audit_asked *o;
    struct st_traffic_asked *out;
    pthread_t thread;
    pthread_mutex_t lock; /* of order */
    pthread_cond_t ordered;
    enum order order;
    struct st_err err; /* of the thread; code 0 = all went well */
};

static void pause_ms(long ms)
{
    const struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

/* Exactly one request, or something of the proxy's own passed meanwhile. */
static bool is_one_request(const struct st_buf *up)
{
    static const char version[] = " HTTP/1.1\r\n";
    const char *first = up->p ? memmem(up->p, up->len, version, sizeof version - 1) : NULL;
    const char *behind = first ? first + 1 : NULL;
    return first && !memmem(behind, up->len - (size_t)(behind - up->p), version, sizeof version - 1);
}

static struct st_span span_of(const struct st_buf *b)
{
    return (struct st_span){(const uint8_t *)b->p, b->len};
}

static int read_exchange(const struct st_captured *k, double start, struct st_traffic_request *out, struct st_err *e)
{
    if (k->up.failed || k->down.failed || k->marks.failed)
        return st_fail(e, ST_MEMORY, "traffic: no memory");
    if (!is_one_request(&k->up))
        return st_fail(e, ST_INPUT, "traffic: want one request, and no other beside it");
    const struct st_traffic_heard h = {.up = span_of(&k->up),
                                       .down = span_of(&k->down),
                                       .marks = (const void *)k->marks.p,
                                       .n_mark = k->marks.len / sizeof *h.marks,
                                       .start = start};
    return st_traffic_read(&h, TLS_RECORD, out, e);
}

/* One chat, asked again while the proxy talks with others at the same time, or waits for its node. */
static int ask(const struct st_demo *what, const char *url, struct st_capture *c, struct st_traffic_request *out,
               struct st_err *e)
{
    int rc = 0;
    for (int i = 0; i < TRIES; i++) {
        struct st_captured before, seen;
        struct st_demo_reply reply = {0};
        st_capture_take(c, &before);
        double start = st_now();
        rc = st_demo_chat(what, url, false, &reply, e);
        pause_ms(2); /* the end of the stream comes behind what the client waits for */
        st_capture_take(c, &seen);
        if (!rc)
            rc = read_exchange(&seen, start, out, e);
        st_captured_wipe(&before);
        st_captured_wipe(&seen);
        st_demo_reply_wipe(&reply);
        if (!rc)
            return 0;
        if (st_demo_interrupted())
            return st_fail(e, ST_IO, "cancelled");
        pause_ms(50);
    }
    return rc;
}

/* Prompt k, and what passed into *out. */
static int ask_prompt(const struct st_running *r, size_t k, const char *url, struct st_capture *c,
                      struct st_traffic_request *out, struct st_err *e)
{
    const struct st_audit_asked *o = r->o;
    struct st_buf prompt = {0};
    size_t lo = 0, hi = 0;
    if (!st_traffic_document(o->text, k, &lo, &hi))
        return st_fail(e, ST_INTERNAL, "traffic: no document %zu", k);
    st_traffic_prompt(o->text, o->tokenizer, lo, hi, &prompt);
    st_buf_add(&prompt, "", 1);
    const struct st_demo what = {.prompt = prompt.p, .n = (uint32_t)(REPLY_LEAST + REPLY_MORE * k)};
    out->prompt = (uint32_t)k;
    int rc = prompt.failed ? st_fail(e, ST_MEMORY, "traffic: no memory") : ask(&what, url, c, out, e);
    st_buf_wipe(&prompt);
    return rc;
}

static int ask_all(struct st_running *r, enum st_traffic_wire wire, const char *url, struct st_capture *c,
                   struct st_err *e)
{
    struct st_traffic_asked *out = r->out;
    struct st_traffic_request first = {0};
    /* The first request pays with a larger token than those behind it, and so is longer, whatever it asks. */
    int rc = ask_prompt(r, 0, url, c, &first, e);
    free(first.pieces);
    if (!rc)
        rc = st_alloc(&out->wires[wire], out->n_request, sizeof *out->wires[wire], "requests", e);
    for (size_t i = 0; !rc && i < out->n_request; i++)
        rc = ask_prompt(r, i % out->n_prompt, url, c, &out->wires[wire][i], e);
    return rc;
}

static int start(struct st_running *r, struct st_err *e)
{
    if (st_demo_parties_public(&r->p, r->d, e) || st_demo_parties_provider(&r->p, e) ||
        st_demo_parties_client(&r->p, e))
        return e->code;
    return st_capture_start(r->p.engine.port, &r->to_engine, e);
}

static int record(struct st_running *r, struct st_err *e)
{
    const struct st_audit_asked *o = r->o;
    char engine[64];
    size_t lo, hi, n = 0;
    while (n < o->n_prompt && st_traffic_document(o->text, n, &lo, &hi))
        n++;
    if (n < 2)
        return st_fail(e, ST_INPUT, "traffic: want two documents, got %zu", n);
    *r->out = (struct st_traffic_asked){.n_prompt = n, .n_request = n * o->n_round};
    snprintf(engine, sizeof engine, "http://127.0.0.1:%d", st_capture_port(r->to_engine));
    int rc = ask_all(r, ST_TRAFFIC_OPEN, engine, r->to_engine, e);
    if (!rc)
        rc = ask_all(r, ST_TRAFFIC_STREAM, r->p.proxy.url, r->p.to_relay, e);
    if (!rc)
        rc = st_demo_parties_cadence(&r->p, CADENCE_MS, e);
    return rc ? rc : ask_all(r, ST_TRAFFIC_CADENCE, r->p.proxy.url, r->p.to_relay, e);
}

static void *running_main(void *arg)
{
    struct st_running *r = arg;
    int rc = start(r, &r->err);
    pthread_mutex_lock(&r->lock);
    while (r->order == WAIT)
        pthread_cond_wait(&r->ordered, &r->lock);
    bool wanted = r->order == RECORD;
    pthread_mutex_unlock(&r->lock);
    if (!rc && wanted)
        rc = record(r, &r->err);
    if (!rc)
        r->err.code = 0;
    st_demo_parties_end(&r->p);
    st_capture_stop(r->to_engine);
    return NULL;
}

int st_audit_running_begin(const struct st_demo *d, struct st_running **out, struct st_err *e)
{
    struct st_running *r;
    if (st_alloc(&r, 1, sizeof *r, "a set-up that runs", e))
        return e->code;
    r->d = d;
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->ordered, NULL);
    int err = pthread_create(&r->thread, NULL, running_main, r);
    if (err) {
        free(r);
        return st_fail(e, ST_MEMORY, "cannot start a thread: %s", strerror(err));
    }
    *out = r;
    return 0;
}

/* The thread does so, and ends. */
static void order(struct st_running *r, enum order o)
{
    pthread_mutex_lock(&r->lock);
    r->order = o;
    pthread_cond_signal(&r->ordered);
    pthread_mutex_unlock(&r->lock);
    pthread_join(r->thread, NULL);
}

int st_audit_running_record(struct st_running *r, const struct st_audit_asked *o, struct st_traffic_asked *out,
                            struct st_err *e)
{
    r->o = o;
    r->out = out;
    order(r, RECORD);
    if (r->err.code)
        *e = r->err;
    return r->err.code;
}

void st_audit_running_end(struct st_running *r)
{
    if (r && r->order == WAIT)
        order(r, LEAVE);
    free(r);
}
