#include "service/issuer.h"
#include "attest/directory.h"
#include "base/log.h"
#include "channel/confidential.h"
#include "crypto/digest.h"
#include "net/http_client.h"
#include "service/api_keys.h"
#include "service/issuer_work.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum {
    MAX_WAIT = 1024, /* requests that are being worked on */
    MAX_LOG_REPLY = 4096,
    STALL_S = 30,
    RETRY_MIN_S = 1,
    RETRY_MAX_S = 60,
    REPEAT_S = 600,
};
#define NO_STORE "Cache-Control: no-store\r\n"

/* A request between the event thread and the workers. */
struct visit {
    struct st_issuer *issuer;
    struct visit *prev, *next;
    struct st_http_conn *conn; /* NULL: the client has left */
};

struct st_issuer {
    struct st_role *role;
    struct st_issuer_opts o;
    struct st_issuer_keys *keys;
    struct st_issuer_work *work;
    struct visit *visits;
    int wake_fd;       /* written by workers and by the maker of keys */
    atomic_bool fresh; /* keys have changed */
    struct event *wake;
    struct st_buf part; /* what the log is told */
    /* Handing it over. */
    struct st_http_client *http;
    struct st_http_call *call;
    struct event *retry;
    struct st_buf url, bearer;
    bool told, stale; /* it is logged; it changed while it was on its way */
    int wait_s;
    struct {
        uint64_t purchases, tokens, units, refunds, change, again, refused, unknown, limited, told, untold;
    } n;
};

/* ---- handing keys to the log ---- */

static void tell_log(struct st_issuer *i);

static void again_in(struct st_issuer *i, int seconds)
{
    const struct timeval later = {seconds, 0};
    event_add(i->retry, &later);
}

/* 202: it has the keys and will log them; 200: they are logged. It is told now and then even so, lest it has lost them.
 */
static void on_told(void *arg, int status, const struct st_err *e)
{
    struct st_issuer *i = arg;
    bool taken = !e && status / 100 == 2;
    i->call = NULL;
    if (taken) {
        i->n.told++;
        i->wait_s = 0;
        i->told = status == 200 && !i->stale;
        if (i->stale)
            tell_log(i);
        else
            again_in(i, i->told ? REPEAT_S : RETRY_MIN_S);
        return;
    }
    i->n.untold++;
    if (!i->wait_s && e)
        st_log(ST_LOG_WARN, "keys not handed to the log: %s", e->msg);
    else if (!i->wait_s)
        st_log(ST_LOG_WARN, "keys not handed to the log: it answered %d%s", status,
               status == 401 || status == 403 ? " (is the key of --log-key-file that submitter's?)" : "");
    i->wait_s = i->wait_s ? (2 * i->wait_s < RETRY_MAX_S ? 2 * i->wait_s : RETRY_MAX_S) : RETRY_MIN_S;
    again_in(i, i->wait_s);
}

static int drop_reply(void *arg, int status, const void *p, size_t len, struct st_err *e)
{
    (void)arg;
    (void)status;
    (void)p;
    (void)len;
    (void)e;
    return 0;
}

static void tell_log(struct st_issuer *i)
{
    struct st_buf body = {0};
    struct st_err e;
    if (!i->http || !i->part.len)
        return;
    if (i->call) {
        i->stale = true;
        return;
    }
    i->stale = i->told = false;
    st_buf_add(&body, i->part.p, i->part.len);
    const struct st_http_call_opts o = {.url = i->url.p,
                                        .bearer = i->bearer.p,
                                        .body = &body,
                                        .stall_s = STALL_S,
                                        .max_reply = MAX_LOG_REPLY,
                                        .data = drop_reply,
                                        .end = on_told,
                                        .arg = i};
    if (body.failed || st_http_call_start(i->http, &o, &i->call, &e))
        on_told(i, 503, NULL);
    st_buf_free(&body);
}

static void on_retry(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    tell_log(arg);
}

/* ---- answers ---- */

static void visit_free(struct visit *v)
{
    *(v->prev ? &v->prev->next : &v->issuer->visits) = v->next;
    if (v->next)
        v->next->prev = v->prev;
    free(v);
}

static void on_gone(void *arg)
{
    ((struct visit *)arg)->conn = NULL;
}

static void refuse(struct st_http_conn *c, int status, const char *word, int64_t units)
{
    struct st_buf b = {0};
    if (!word) {
        st_role_refuse(c, status);
        return;
    }
    st_issue_refusal_write(word, units, &b);
    if (b.failed)
        st_role_refuse(c, 503);
    else
        st_http_reply(c, status, status == 429 || status == 503 ? NO_STORE "Retry-After: 1\r\n" : NO_STORE,
                      "application/json", b.p, b.len);
    st_buf_free(&b);
}

static void answer(struct st_http_conn *c, const struct st_issuer_job *j)
{
    struct st_issue_answer a = {.n = j->ask.n};
    struct st_buf b = {0};
    const uint8_t *p = (const uint8_t *)j->signatures.p;
    for (size_t i = 0; i < a.n; i++) {
        a.signature[i] = (struct st_span){p, j->ask.of[i].blinded.len};
        p += a.signature[i].len;
    }
    st_issue_answer_write(&a, &b);
    if (b.failed)
        st_role_refuse(c, 503);
    else
        st_http_reply(c, 200, NO_STORE, "application/json", b.p, b.len);
    st_buf_free(&b);
}

static void count(struct st_issuer *i, const struct st_issuer_job *j)
{
    i->n.again += j->status == 200 && j->again;
    i->n.unknown += j->status == 401;
    i->n.limited += j->status == 429 || j->status == 503;
    i->n.refused += j->status == 400 || j->status == 402 || j->status == 409;
    if (j->status != 200 || j->again)
        return;
    if (j->ask.kind == ST_ISSUE_PURCHASE) {
        i->n.purchases++;
        i->n.tokens += j->ask.n;
        i->n.units += st_issue_units(&j->ask);
    } else {
        i->n.refunds++;
        i->n.change += st_issue_units(&j->ask);
    }
}

static void take_keys(struct st_issuer *i)
{
    struct st_buf part = {0};
    struct st_err e;
    if (st_issuer_keys_part(i->keys, i->o.name, &part, &e) || part.failed) {
        st_log(ST_LOG_WARN, "issuer: %s", part.failed ? "out of memory" : e.msg);
        st_buf_free(&part);
        return;
    }
    st_buf_free(&i->part);
    i->part = part;
    tell_log(i);
}

static void on_wake(evutil_socket_t fd, short what, void *arg)
{
    struct st_issuer *i = arg;
    struct st_issuer_job *j;
    uint64_t times;
    (void)what;
    if (read(fd, &times, sizeof times) < 0)
        return;
    while ((j = st_issuer_work_take(i->work))) {
        struct visit *v = j->owner;
        count(i, j);
        if (v->conn && j->status == 200)
            answer(v->conn, j);
        else if (v->conn)
            refuse(v->conn, j->status, j->word, j->units);
        visit_free(v);
        st_issuer_job_free(j);
    }
    if (atomic_exchange(&i->fresh, false))
        take_keys(i);
}

static void wake(void *arg)
{
    struct st_issuer *i = arg;
    const uint64_t one = 1;
    while (write(i->wake_fd, &one, sizeof one) < 0 && errno == EINTR)
        ;
}

static void keys_changed(void *arg)
{
    struct st_issuer *i = arg;
    atomic_store(&i->fresh, true);
    wake(i);
}

/* ---- routes ---- */

/* The key's digest; false when there is none to speak of. */
static bool read_bearer(const struct st_http_conn *c, uint8_t out[32])
{
    const char *field = st_http_field(c, "Authorization");
    if (!field || strncasecmp(field, "Bearer ", 7) != 0)
        return false;
    const char *key = field + 7 + strspn(field + 7, " ");
    st_sha256(key, strlen(key), out);
    return *key != 0;
}

static void submit(struct st_issuer *i, struct st_http_conn *c, enum st_issue_kind kind)
{
    struct st_issuer_job *j = NULL;
    struct visit *v = NULL;
    struct st_err e;
    if (st_alloc(&j, 1, sizeof *j, "a request", &e) || st_alloc(&v, 1, sizeof *v, "a request", &e)) {
        st_issuer_job_free(j);
        st_role_refuse(c, 503);
        return;
    }
    if (!read_bearer(c, j->bearer)) {
        i->n.unknown++;
        st_role_refuse(c, 401);
    } else if (st_issue_parse(kind, st_http_body(c), &j->ask, &e)) {
        i->n.refused++;
        refuse(c, 400, "request", 0);
    } else {
        *v = (struct visit){.issuer = i, .conn = c};
        j->owner = v;
        if (st_issuer_work_put(i->work, j)) {
            const struct st_http_watch watch = {.gone = on_gone, .arg = v};
            v->next = i->visits;
            if (v->next)
                v->next->prev = v;
            i->visits = v;
            st_http_watch(c, &watch);
            return;
        }
        i->n.limited++;
        refuse(c, 503, "busy", 0);
    }
    st_issuer_job_free(j);
    free(v);
}

static void put_keys(struct st_issuer *i, struct st_http_conn *c)
{
    if (i->part.len)
        st_http_reply(c, 200, NO_STORE, "application/json", i->part.p, i->part.len);
    else
        st_role_refuse(c, 503);
}

static void on_request(void *arg, struct st_http_conn *c)
{
    struct st_issuer *i = arg;
    const char *path = st_http_path(c), *method = st_http_method(c);
    bool post = strcmp(method, "POST") == 0;
    if (post && strcmp(path, ST_ISSUER_PATH_ISSUE) == 0)
        submit(i, c, ST_ISSUE_PURCHASE);
    else if (post && strcmp(path, ST_ISSUER_PATH_REFUND) == 0)
        submit(i, c, ST_ISSUE_REFUND);
    else if (strcmp(method, "GET") == 0 && strcmp(path, ST_ISSUER_PATH_KEYS) == 0)
        put_keys(i, c);
    else
        st_role_refuse(c, 404);
}

/* Without any key, no body is taken. */
static bool refuses_head(void *arg, const struct st_http_conn *c)
{
    uint8_t bearer[32];
    (void)arg;
    return !read_bearer(c, bearer);
}

static void put_metrics(void *arg, struct st_buf *b)
{
    const struct st_issuer *i = arg;
    st_role_count(b, "sotto_issuer_purchases_total", "counter", "Purchases.", i->n.purchases);
    st_role_count(b, "sotto_issuer_tokens_total", "counter", "Tokens signed for accounts.", i->n.tokens);
    st_role_count(b, "sotto_issuer_units_total", "counter", "Units that these were worth.", i->n.units);
    st_role_count(b, "sotto_issuer_refunds_total", "counter", "Tokens that change was given for.", i->n.refunds);
    st_role_count(b, "sotto_issuer_change_units_total", "counter", "Units given back.", i->n.change);
    st_role_count(b, "sotto_issuer_again_total", "counter", "Requests that had been answered before.", i->n.again);
    st_role_count(b, "sotto_issuer_refused_total", "counter", "Requests of members that were refused.", i->n.refused);
    st_role_count(b, "sotto_issuer_unknown_total", "counter", "Requests without a right key.", i->n.unknown);
    st_role_count(b, "sotto_issuer_limited_total", "counter", "Requests over a limit.", i->n.limited);
    st_role_count(b, "sotto_issuer_waiting", "gauge", "Requests being worked on.", st_issuer_work_waiting(i->work));
    st_role_count(b, "sotto_issuer_log_posts_total", "counter", "Times that the log took the keys.", i->n.told);
    st_role_count(b, "sotto_issuer_log_failures_total", "counter", "Times that it did not.", i->n.untold);
    st_role_count(b, "sotto_issuer_log_current", "gauge", "1 when the log has the newest keys.", i->told);
}

static bool is_ready(void *arg)
{
    struct st_issuer *i = arg;
    return st_issuer_keys_ready(i->keys);
}

/* ---- life ---- */

static int open_log(struct st_issuer *i, struct st_err *e)
{
    char *base = NULL;
    if (!i->o.log)
        return 0;
    if (!i->o.log_key_file)
        return st_fail(e, ST_USAGE, "issuer: a log wants a key to hand keys over (--log-key-file)");
    if (st_http_base_for_key("--log", i->o.log, &base, e))
        return e->code;
    st_buf_addf(&i->url, "%s%sissuer/%s", base, ST_LOG_PATH_PART, i->o.name);
    free(base);
    if (st_api_key_first(i->o.log_key_file, &i->bearer, e))
        return e->code;
    if (i->url.failed || i->bearer.failed)
        return st_fail(e, ST_MEMORY, "issuer: out of memory");
    const struct st_http_client_opts ho = {.ca_bundle = i->o.ca_bundle, .connect_s = 10, .max_idle = 1};
    i->retry = evtimer_new(st_role_base(i->role), on_retry, i);
    return i->retry ? st_http_client_new(st_role_base(i->role), &ho, &i->http, e)
                    : st_fail(e, ST_MEMORY, "issuer: out of memory");
}

static int open_workers(struct st_issuer *i, struct st_err *e)
{
    const struct st_issuer_keys_opts ko = {.db = i->o.db, .clock = i->o.clock, .changed = keys_changed, .arg = i};
    i->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (i->wake_fd >= 0)
        i->wake = event_new(st_role_base(i->role), i->wake_fd, EV_READ | EV_PERSIST, on_wake, i);
    if (!i->wake || event_add(i->wake, NULL) != 0)
        return st_fail(e, ST_IO, "event loop: %s", strerror(errno));
    if (st_issuer_keys_new(&ko, &i->keys, e))
        return e->code;
    const struct st_issuer_work_opts wo = {.db = i->o.db,
                                           .keys = i->keys,
                                           .n_threads = i->o.n_threads,
                                           .rate = i->o.rate ? i->o.rate : 120,
                                           .max_wait = MAX_WAIT,
                                           .done = wake,
                                           .arg = i};
    return st_issuer_work_new(&wo, &i->work, e);
}

static int set_up(struct st_issuer *i, struct st_err *e)
{
    struct st_role_opts *l = &i->o.listen;
    i->o.name = i->o.name ? i->o.name : "issuer";
    if (!st_directory_name_good(i->o.name))
        return st_fail(e, ST_USAGE, "--name: want 1 to %d letters, digits, '.', '-' and '_'", ST_DIRECTORY_MAX_NAME);
    l->bearer = true;
    l->max_body = ST_ISSUE_MAX_BYTES;
    l->request = on_request;
    l->refuses_head = refuses_head;
    l->metrics = put_metrics;
    l->ready = is_ready;
    l->arg = i;
    if (st_role_new(&i->role, e) || open_log(i, e) || open_workers(i, e) || st_role_listen(i->role, l, e))
        return e->code;
    keys_changed(i); /* those that the ledger had already */
    return 0;
}

int st_issuer_new(const struct st_issuer_opts *o, struct st_issuer **out, struct st_err *e)
{
    struct st_issuer *i = NULL;
    *out = NULL;
    if (st_alloc(&i, 1, sizeof *i, "issuer", e))
        return e->code;
    i->o = *o;
    i->wake_fd = -1;
    int rc = set_up(i, e);
    if (rc)
        st_issuer_free(i);
    else
        *out = i;
    return rc;
}

struct st_role *st_issuer_role(struct st_issuer *i)
{
    return i->role;
}

void st_issuer_free(struct st_issuer *i)
{
    if (!i)
        return;
    st_role_stop(i->role);
    st_role_close(i->role);
    st_issuer_work_free(i->work);
    st_issuer_keys_free(i->keys);
    while (i->visits)
        visit_free(i->visits);
    st_http_client_free(i->http);
    if (i->retry)
        event_free(i->retry);
    if (i->wake)
        event_free(i->wake);
    if (i->wake_fd >= 0)
        close(i->wake_fd);
    st_role_free(i->role);
    st_buf_free(&i->part);
    st_buf_free(&i->url);
    st_buf_wipe(&i->bearer);
    free(i);
}
