#include "service/cosign.h"
#include "base/hooks.h"
#include "base/log.h"
#include "channel/confidential.h"
#include "service/witness_request.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_ANSWER ((size_t)16 << 10)

struct asked {
    struct st_cosign *round;
    char *url;
    struct st_note_key key;
    struct st_http_call *call;
    struct st_buf answer;
    uint64_t size;   /* what it remembers, as far as we know */
    bool told, fine; /* told: of a conflict in this round; fine: its last answer was a cosignature */
};

struct st_cosign {
    struct st_http_client *http;
    struct st_log_store *store;
    struct st_cosign_opts o;
    struct asked *asked;
    struct event *timer; /* end of a round, by time or because nobody is asked any more */
    struct st_buf note;
    size_t n_good;
    bool running;
};

static void end_round(struct st_cosign *c)
{
    struct st_span note = {(const uint8_t *)c->note.p, c->note.len};
    for (size_t i = 0; i < c->o.n_witness; i++) {
        struct asked *a = &c->asked[i];
        if (!a->call)
            continue;
        st_http_call_cancel(a->call);
        a->call = NULL;
        st_log(ST_LOG_WARN, "witness %s: no answer within %.0f s", a->key.name, c->o.round_s);
    }
    c->running = false;
    c->o.done(c->o.arg, note, c->n_good);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    end_round(arg);
}

static void set_timer(struct st_cosign *c, double s)
{
    struct timeval tv = {(time_t)s, (suseconds_t)((s - (double)(time_t)s) * 1e6)};
    event_add(c->timer, &tv);
}

/* The line of a's key among those of the answer, added to our note. */
static int take_line(struct st_cosign *c, const struct asked *a, struct st_err *e)
{
    struct st_buf whole = {0};
    struct st_note n;
    size_t at = 0;
    int64_t time;
    const struct st_span own = st_log_store_signed(c->store);
    st_buf_add(&whole, own.p, own.len);
    st_buf_add(&whole, a->answer.p, a->answer.len);
    if (whole.failed) {
        st_buf_free(&whole);
        return st_fail(e, ST_MEMORY, "out of memory");
    }
    int rc = st_note_parse(whole.p, whole.len, &n, e);
    if (!rc) {
        rc = st_cosignature_verify(&n, &a->key, &time, e);
        if (!rc && time > st_unix_time() + ST_TLOG_CLOCK_SLACK_S)
            rc = st_fail(e, ST_VERIFY, "its clock is %" PRId64 " s ahead", time - st_unix_time());
        if (!rc)
            st_note_add(&a->key, st_note_next(&n, &a->key, &at)->bytes, &c->note);
        st_note_wipe(&n);
    }
    st_buf_free(&whole);
    return rc;
}

static int ask(struct asked *a, struct st_err *e);

/* It remembers another size than we thought: ask again from there, once. A larger one than ours, or another tree of
 * ours, means that it has cosigned what this store does not have. */
static int take_conflict(struct asked *a, struct st_err *e)
{
    uint64_t mine = st_log_store_size(a->round->store), size = 0;
    bool good = a->answer.len > 1 && a->answer.len <= 20 && a->answer.p[a->answer.len - 1] == '\n';
    for (size_t i = 0; i + 1 < a->answer.len && good; i++) {
        good = a->answer.p[i] >= '0' && a->answer.p[i] <= '9';
        size = size * 10 + (uint64_t)(a->answer.p[i] - '0');
    }
    if (!good)
        return st_fail(e, ST_INPUT, "it answers a conflict without a size");
    if (size > mine || a->size == size)
        return st_fail(e, ST_VERIFY,
                       "it has cosigned another tree of this log, of size %" PRIu64 " (ours has %" PRIu64
                       "): was the log's directory restored from a copy?",
                       size, mine);
    if (a->told)
        return st_fail(e, ST_VERIFY, "it names another size each time");
    a->told = true;
    a->size = size;
    return ask(a, e);
}

static void on_answer(struct asked *a, int status, const struct st_err *failed)
{
    struct st_cosign *c = a->round;
    struct st_err e;
    int rc = 0;
    if (failed)
        rc = st_fail(&e, failed->code, "%s", failed->msg);
    else if (status == 409)
        rc = take_conflict(a, &e);
    else if (status != 200)
        rc = st_fail(&e, ST_IO, "it answers with status %d", status);
    else
        rc = take_line(c, a, &e);
    if (!rc && status == 200) {
        a->size = st_log_store_size(c->store);
        a->fine = true;
        c->n_good++;
    } else if (rc) {
        st_log(a->fine || rc == ST_VERIFY ? ST_LOG_WARN : ST_LOG_INFO, "witness %s: %s", a->key.name, e.msg);
        a->fine = false;
    }
}

static int on_data(void *arg, int status, const void *p, size_t len, struct st_err *e)
{
    struct asked *a = arg;
    (void)status;
    st_buf_add(&a->answer, p, len);
    return a->answer.failed ? st_fail(e, ST_MEMORY, "out of memory") : 0;
}

static void on_end(void *arg, int status, const struct st_err *failed)
{
    struct asked *a = arg;
    struct st_cosign *c = a->round;
    a->call = NULL;
    on_answer(a, status, failed);
    bool open = false;
    for (size_t i = 0; i < c->o.n_witness; i++)
        open = open || c->asked[i].call;
    if (!open)
        set_timer(c, 0);
}

static int ask(struct asked *a, struct st_err *e)
{
    struct st_cosign *c = a->round;
    struct st_witness_request r = {.old = a->size, .note = st_log_store_signed(c->store)};
    struct st_merkle_source source = st_log_store_source(c->store);
    struct st_buf body = {0}, url = {0};
    if (r.old > st_log_store_size(c->store))
        r.old = 0;
    if (r.old && st_merkle_prove_consistency(&source, r.old, st_log_store_size(c->store), &r.proof, e))
        return e->code;
    st_witness_request_write(&r, &body);
    st_buf_addf(&url, "%s" ST_LOG_PATH_WITNESS, a->url);
    const struct st_http_call_opts o = {.url = url.p,
                                        .body = &body,
                                        .type = "text/plain; charset=utf-8",
                                        .stall_s = c->o.round_s,
                                        .max_reply = MAX_ANSWER,
                                        .data = on_data,
                                        .end = on_end,
                                        .arg = a};
    st_buf_clear(&a->answer);
    int rc = body.failed || url.failed ? st_fail(e, ST_MEMORY, "out of memory")
                                       : st_http_call_start(c->http, &o, &a->call, e);
    st_buf_free(&body);
    st_buf_free(&url);
    return rc;
}

void st_cosign_start(struct st_cosign *c)
{
    struct st_err e;
    bool open = false;
    const struct st_span own = st_log_store_signed(c->store);
    if (c->running)
        return;
    c->running = true;
    c->n_good = 0;
    st_buf_clear(&c->note);
    st_buf_add(&c->note, own.p, own.len);
    for (size_t i = 0; i < c->o.n_witness; i++) {
        struct asked *a = &c->asked[i];
        a->told = false;
        if (ask(a, &e))
            st_log(ST_LOG_WARN, "witness %s: %s", a->key.name, e.msg);
        open = open || a->call;
    }
    set_timer(c, open ? c->o.round_s : 0);
}

bool st_cosign_running(const struct st_cosign *c)
{
    return c->running;
}

static int setup(struct st_cosign *c, struct event_base *base, struct st_err *e)
{
    c->timer = event_new(base, -1, 0, on_timer, c);
    if (!c->timer)
        return st_fail(e, ST_MEMORY, "witnesses: out of memory");
    if (c->o.n_witness && st_alloc(&c->asked, c->o.n_witness, sizeof *c->asked, "witnesses", e))
        return e->code;
    for (size_t i = 0; i < c->o.n_witness; i++) {
        struct asked *a = &c->asked[i];
        a->round = c;
        a->key = c->o.witnesses[i].key;
        if (a->key.type != ST_NOTE_COSIGNATURE)
            return st_fail(e, ST_USAGE, "witness %s: want a key of signature type %d", a->key.name,
                           ST_NOTE_COSIGNATURE);
        for (size_t k = 0; k < i; k++)
            if (memcmp(c->asked[k].key.key, a->key.key, sizeof a->key.key) == 0)
                return st_fail(e, ST_USAGE, "witness %s: its key is named twice", a->key.name);
        if (st_http_base("witness", c->o.witnesses[i].url, &a->url, e))
            return e->code;
    }
    return 0;
}

int st_cosign_new(struct event_base *base, struct st_http_client *http, struct st_log_store *store,
                  const struct st_cosign_opts *o, struct st_cosign **out, struct st_err *e)
{
    struct st_cosign *c = NULL;
    *out = NULL;
    if (st_alloc(&c, 1, sizeof *c, "witnesses", e))
        return e->code;
    c->http = http;
    c->store = store;
    c->o = *o;
    int rc = setup(c, base, e);
    if (rc)
        st_cosign_free(c);
    else
        *out = c;
    return rc;
}

void st_cosign_free(struct st_cosign *c)
{
    if (!c)
        return;
    for (size_t i = 0; c->asked && i < c->o.n_witness; i++) {
        if (c->asked[i].call)
            st_http_call_cancel(c->asked[i].call);
        free(c->asked[i].url);
        st_buf_free(&c->asked[i].answer);
    }
    if (c->timer)
        event_free(c->timer);
    st_buf_free(&c->note);
    free(c->asked);
    free(c);
}
