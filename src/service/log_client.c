#include "service/log_client.h"
#include "base/file.h"
#include "base/hooks.h"
#include "channel/confidential.h"
#include "crypto/digest.h"
#include "service/log_reply.h"
#include "text/json.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STATE_MAX (2 * ST_NOTE_MAX_BYTES)

struct waiter {
    void (*done)(void *arg, const struct st_err *e);
    void *arg;
    struct waiter *next;
};

/* What is believed: one directory and the checkpoint that it ends. */
struct view {
    struct st_tlog log;
    struct st_directory *directory; /* NULL: known only from the state file, by epoch and digest */
    uint64_t epoch;
    uint8_t entry[32]; /* SHA-256 of the directory's bytes */
};

struct st_log_client {
    struct st_http_client *http;
    struct st_http_call *call;
    struct st_tlog_keys keys;
    char *url, *state_file;
    int64_t max_age_s;
    double stall_s;
    struct view now;
    bool forked;         /* and no file could be written that says so */
    bool telling, ended; /* ended: freed by a callback that is being told */
    struct st_buf reply;
    struct waiter *waiters;
};

static void view_wipe(struct view *v)
{
    if (v->directory)
        st_directory_wipe(v->directory);
    free(v->directory);
    st_tlog_wipe(&v->log);
    *v = (struct view){0};
}

/* ---- the state file: {"version": 1, "checkpoint": NOTE, "epoch": N, "entry": HEX} ---- */

static int read_state(struct st_log_client *c, const json_t *o, struct st_err *e)
{
    static const char *const fields[] = {"version", "checkpoint", "epoch", "entry", NULL};
    const char *where = c->state_file, *note = NULL, *entry = NULL;
    int64_t version = 0, epoch = 0;
    if (st_json_only(o, where, fields, e) || st_json_need(o, where, "version", e) ||
        st_json_int(o, where, "version", 0, INT32_MAX, &version, e))
        return e->code;
    if (version != 1)
        return st_fail(e, ST_UNSUPPORTED, "%s: version: want 1, got %d", where, (int)version);
    if (st_json_need(o, where, "checkpoint", e) || st_json_str(o, where, "checkpoint", &note, e) ||
        st_json_need(o, where, "epoch", e) || st_json_int(o, where, "epoch", 0, INT64_MAX, &epoch, e) ||
        st_json_need(o, where, "entry", e) || st_json_str(o, where, "entry", &entry, e))
        return e->code;
    c->now.epoch = (uint64_t)epoch;
    if (st_unhex(entry, strlen(entry), c->now.entry, sizeof c->now.entry, "entry", e) ||
        st_tlog_restore(&c->now.log, note, strlen(note), e))
        return st_err_prefix(e, "%s", where);
    return 0;
}

static int load_state(struct st_log_client *c, struct st_err *e)
{
    json_t *o;
    if (!c->state_file || !st_path_exists(c->state_file))
        return 0;
    int rc = st_json_read_file(c->state_file, STATE_MAX, &o, e);
    if (rc)
        return rc;
    rc = read_state(c, o, e);
    json_decref(o);
    return rc;
}

static int save_state(const struct st_log_client *c, const struct view *v, struct st_err *e)
{
    struct st_buf b = {0};
    char hex[65];
    if (!c->state_file)
        return 0;
    st_hex(v->entry, sizeof v->entry, hex);
    st_buf_add_str(&b, "{\"version\": 1, \"checkpoint\": ");
    st_json_quote(&b, v->log.note.p, v->log.note.len);
    st_buf_addf(&b, ", \"epoch\": %" PRIu64 ", \"entry\": \"%s\"}\n", v->epoch, hex);
    int rc = b.failed ? st_fail(e, ST_MEMORY, "%s: out of memory", c->state_file)
                      : st_file_write(c->state_file, b.p, b.len, 0600, true, e);
    st_buf_free(&b);
    return rc;
}

/* ---- forks ---- */

/* The state file's name with a suffix; "" when there is none. */
static void beside(const struct st_log_client *c, const char *suffix, char out[ST_PATH_MAX])
{
    out[0] = 0;
    if (c->state_file && (size_t)snprintf(out, ST_PATH_MAX, "%s%s", c->state_file, suffix) >= ST_PATH_MAX)
        out[0] = 0;
}

static int check_fork(const struct st_log_client *c, struct st_err *e)
{
    char path[ST_PATH_MAX];
    beside(c, ".fork", path);
    if (path[0] && st_path_exists(path))
        return st_fail(e, ST_VERIFY, "log %s: fork: it has shown two trees; %s holds both, signed", c->keys.origin,
                       path);
    return c->forked ? st_fail(e, ST_VERIFY, "log %s: fork: it has shown two trees", c->keys.origin) : 0;
}

/* A checkpoint that all had to sign does not go with the remembered one. Two trees of one size prove a fork to
 * everybody; a proof that does not hold may also be the doing of whoever carried it, so that is kept, but no verdict.
 */
static void keep_evidence(struct st_log_client *c, const struct st_buf *note)
{
    char path[ST_PATH_MAX];
    struct st_err ignored;
    struct st_witnessed w;
    struct st_buf both = {0};
    const struct st_checkpoint *old = &c->now.log.last.checkpoint;
    if (c->now.log.note.len == 0 || st_checkpoint_open(note->p, note->len, &c->keys, INT64_MAX, &w, &ignored) != 0 ||
        w.checkpoint.size < old->size)
        return;
    bool fork = w.checkpoint.size == old->size && memcmp(w.checkpoint.root.b, old->root.b, ST_MERKLE_HASH) != 0;
    beside(c, fork ? ".fork" : ".doubt", path);
    st_buf_add(&both, c->now.log.note.p, c->now.log.note.len);
    st_buf_add_str(&both, "\n");
    st_buf_add(&both, note->p, note->len);
    /* Whether it can be written or not, the refusal stands. */
    bool kept = path[0] && !both.failed && st_file_write(path, both.p, both.len, 0600, true, &ignored) == 0;
    c->forked = c->forked || (fork && !kept);
    st_buf_free(&both);
}

/* ---- one answer ---- */

/* The directory ends the tree, and no directory of its epoch was another one. */
static int take_directory(const struct st_log_client *c, const struct st_log_reply *r, struct view *v, struct st_err *e)
{
    const struct st_span entry = {(const uint8_t *)r->entry.p, r->entry.len};
    uint64_t size = v->log.last.checkpoint.size;
    if (size == 0 || r->index != size - 1)
        return st_fail(e, ST_VERIFY, "log %s: the directory is entry %" PRIu64 " of %" PRIu64 ", want the last one",
                       c->keys.origin, r->index, size);
    if (st_tlog_includes(&v->log, entry, r->index, &r->inclusion, e))
        return e->code;
    v->directory = malloc(sizeof *v->directory);
    if (!v->directory)
        return st_fail(e, ST_MEMORY, "log %s: out of memory", c->keys.origin);
    if (st_directory_parse(entry.p, entry.len, "directory", v->directory, e))
        return st_err_prefix(e, "log %s", c->keys.origin);
    if (v->directory->time > st_unix_time() + ST_TLOG_CLOCK_SLACK_S) /* its epoch would refuse all that come before */
        return st_fail(e, ST_VERIFY, "log %s: the directory's time is %" PRId64 " s ahead of our clock", c->keys.origin,
                       v->directory->time - st_unix_time());
    v->epoch = v->directory->epoch;
    st_sha256(entry.p, entry.len, v->entry);
    if (c->now.log.note.len == 0)
        return 0;
    if (v->epoch < c->now.epoch)
        return st_fail(e, ST_VERIFY, "log %s: the directory is of epoch %" PRIu64 ", one of %" PRIu64 " was seen",
                       c->keys.origin, v->epoch, c->now.epoch);
    if (v->epoch == c->now.epoch && memcmp(v->entry, c->now.entry, sizeof v->entry) != 0)
        return st_fail(e, ST_VERIFY, "log %s: two directories of epoch %" PRIu64, c->keys.origin, v->epoch);
    return 0;
}

static int check_age(const struct st_log_client *c, const struct st_witnessed *w, struct st_err *e)
{
    int64_t age = st_unix_time() - w->time;
    if (c->max_age_s && age > c->max_age_s)
        return st_fail(e, ST_VERIFY,
                       "log %s: stale: a quorum of its witnesses last spoke %" PRId64 " s ago, want %" PRId64,
                       c->keys.origin, age, c->max_age_s);
    return 0;
}

/* Everything is checked on a copy; what is believed changes last, after it is on disk. */
static int take(struct st_log_client *c, const struct st_log_reply *r, struct st_err *e)
{
    struct view next = {0};
    const struct st_buf *old = &c->now.log.note;
    int rc = st_tlog_init(&next.log, &c->keys, e);
    if (!rc && old->len)
        rc = st_tlog_restore(&next.log, old->p, old->len, e);
    if (!rc) {
        rc = st_tlog_update(&next.log, r->note.p, r->note.len, &r->consistency, st_unix_time(), e);
        if (rc == ST_VERIFY)
            keep_evidence(c, &r->note);
    }
    if (!rc)
        rc = take_directory(c, r, &next, e);
    if (!rc)
        rc = check_age(c, &next.log.last, e);
    if (!rc)
        rc = save_state(c, &next, e);
    if (rc) {
        view_wipe(&next);
        return rc;
    }
    view_wipe(&c->now);
    c->now = next;
    return 0;
}

static int on_data(void *arg, int status, const void *p, size_t len, struct st_err *e)
{
    struct st_log_client *c = arg;
    (void)status;
    st_buf_add(&c->reply, p, len);
    return c->reply.failed ? st_fail(e, ST_MEMORY, "log %s: out of memory", c->keys.origin) : 0;
}

/* Calls those who wait; they may ask again, or free the client. */
static void tell(struct st_log_client *c, const struct st_err *e)
{
    struct waiter *w = c->waiters;
    c->waiters = NULL;
    c->telling = true;
    while (w) {
        struct waiter one = *w;
        free(w);
        w = one.next;
        if (!c->ended)
            one.done(one.arg, e);
    }
    c->telling = false;
    if (c->ended)
        st_log_client_free(c);
}

static void on_end(void *arg, int status, const struct st_err *failed)
{
    struct st_log_client *c = arg;
    struct st_log_reply r = {0};
    struct st_err e = {0};
    if (failed)
        e = *failed;
    else if (status != 200)
        st_fail(&e, ST_IO, "log %s: it answers with status %d", c->keys.origin, status);
    else if (st_log_reply_parse(c->reply.p ? c->reply.p : "", c->reply.len, &r, &e) == 0)
        e.code = take(c, &r, &e);
    st_log_reply_wipe(&r);
    st_buf_clear(&c->reply);
    c->call = NULL;
    tell(c, e.code ? &e : NULL);
}

static int start(struct st_log_client *c, struct st_err *e)
{
    struct st_buf url = {0};
    st_buf_addf(&url, "%s" ST_LOG_PATH_DIRECTORY "?from=%" PRIu64, c->url, c->now.log.last.checkpoint.size);
    const struct st_http_call_opts o = {
        .url = url.p, .stall_s = c->stall_s, .max_reply = ST_LOG_REPLY_MAX, .data = on_data, .end = on_end, .arg = c};
    st_buf_clear(&c->reply);
    int rc = url.failed ? st_fail(e, ST_MEMORY, "log %s: out of memory", c->keys.origin)
                        : st_http_call_start(c->http, &o, &c->call, e);
    st_buf_free(&url);
    return rc;
}

int st_log_client_refresh(struct st_log_client *c, void (*done)(void *arg, const struct st_err *e), void *arg,
                          struct st_err *e)
{
    struct waiter *w, **end = &c->waiters;
    if (check_fork(c, e))
        return e->code;
    if (st_alloc(&w, 1, sizeof *w, "log", e))
        return e->code;
    *w = (struct waiter){.done = done, .arg = arg};
    if (!c->call && start(c, e)) {
        free(w);
        return e->code;
    }
    while (*end)
        end = &(*end)->next;
    *end = w;
    return 0;
}

/* ---- life ---- */

static int setup(struct st_log_client *c, const struct st_log_client_opts *o, struct st_err *e)
{
    c->keys = o->keys;
    c->max_age_s = o->max_age_s;
    c->stall_s = o->stall_s;
    if (o->max_age_s > 0 && o->keys.quorum == 0)
        return st_fail(e, ST_USAGE, "log %s: without witnesses nothing says how old a checkpoint is; want a quorum",
                       o->keys.origin);
    if (st_http_base("log", o->url, &c->url, e))
        return e->code;
    c->state_file = o->state_file ? strdup(o->state_file) : NULL;
    if (o->state_file && !c->state_file)
        return st_fail(e, ST_MEMORY, "log %s: out of memory", o->keys.origin);
    if (st_tlog_init(&c->now.log, &c->keys, e))
        return e->code;
    return load_state(c, e);
}

int st_log_client_new(struct st_http_client *http, const struct st_log_client_opts *o, struct st_log_client **out,
                      struct st_err *e)
{
    struct st_log_client *c;
    *out = NULL;
    if (st_alloc(&c, 1, sizeof *c, "log", e))
        return e->code;
    c->http = http;
    int rc = setup(c, o, e);
    if (rc)
        st_log_client_free(c);
    else
        *out = c;
    return rc;
}

void st_log_client_free(struct st_log_client *c)
{
    if (!c)
        return;
    if (c->call)
        st_http_call_cancel(c->call);
    c->call = NULL;
    c->ended = true;
    if (c->telling)
        return;
    while (c->waiters) {
        struct waiter *next = c->waiters->next;
        free(c->waiters);
        c->waiters = next;
    }
    view_wipe(&c->now);
    st_buf_free(&c->reply);
    free(c->url);
    free(c->state_file);
    free(c);
}

const struct st_directory *st_log_client_directory(const struct st_log_client *c)
{
    return c->now.directory;
}

const struct st_witnessed *st_log_client_checkpoint(const struct st_log_client *c)
{
    return c->now.directory ? &c->now.log.last : NULL;
}

struct st_span st_log_client_note(const struct st_log_client *c)
{
    bool known = c->now.directory != NULL;
    return (struct st_span){known ? (const uint8_t *)c->now.log.note.p : NULL, known ? c->now.log.note.len : 0};
}
