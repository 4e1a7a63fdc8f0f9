#include "service/log_server.h"
#include "base/file.h"
#include "base/hooks.h"
#include "base/log.h"
#include "channel/confidential.h"
#include "service/log_parts.h"
#include "service/log_reply.h"
#include "service/log_view.h"
#include "text/json.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_EVERY 60
#define ROUND_S 10
#define MAX_PENDING_BYTES ((size_t)16 << 20)

struct pending {
    struct pending *next;
    size_t len;
    uint8_t bytes[];
};

struct st_log_server {
    struct st_role *role;
    struct st_log_server_opts o;
    struct st_http_client *http;
    struct st_log_store *store;
    struct st_cosign *cosign;
    struct st_submitters submitters;
    struct st_log_parts parts;
    struct st_log_view view; /* what is shown */
    struct pending *first, **last;
    size_t n_pending, pending_bytes;
    uint64_t epoch;    /* of the newest directory; 0 = none yet */
    uint64_t cosigned; /* epoch of the last round that gave a quorum */
    double again;      /* not before: the next round after one that did not */
    struct event *tick;
    struct st_err failed; /* what ended the loop */
    struct {
        uint64_t directories, entries, parts, refused, rounds_short;
    } n;
};

/* ---- appending ---- */

static void drop_pending(struct st_log_server *s)
{
    while (s->first) {
        struct pending *next = s->first->next;
        free(s->first);
        s->first = next;
    }
    s->last = &s->first;
    s->n_pending = s->pending_bytes = 0;
}

/* Entries, then the directory, in one commit. */
static int append_epoch(struct st_log_server *s, int64_t now, struct st_err *e)
{
    struct st_buf directory = {0};
    uint64_t index;
    int rc = st_log_parts_write(&s->parts, now, s->o.every, &directory, e);
    for (const struct pending *p = s->first; p && !rc; p = p->next)
        rc = st_log_store_append(s->store, p->bytes, p->len, &index, e);
    if (!rc)
        rc = st_log_store_append(s->store, directory.p, directory.len, &index, e);
    if (!rc)
        rc = st_log_store_commit(s->store, e);
    st_buf_free(&directory);
    if (rc)
        return rc;
    s->n.entries += s->n_pending;
    s->n.directories++;
    s->epoch = (uint64_t)now / s->o.every;
    s->parts.changed = false;
    drop_pending(s);
    return 0;
}

/* The store cannot be used any more until it is opened again: better to end than to look alive. */
static void give_up(struct st_log_server *s, const struct st_err *e)
{
    s->failed = *e;
    event_base_loopbreak(st_role_base(s->role));
}

static void on_round(void *arg, struct st_span note, size_t n)
{
    struct st_log_server *s = arg;
    struct st_err e;
    if (n < s->o.quorum) {
        s->n.rounds_short++;
        s->again = st_now() + (s->o.every < 5 ? s->o.every : 5);
        st_log(ST_LOG_WARN, "log: cosigned by %zu witnesses, want %zu: the newest tree is not shown", n, s->o.quorum);
        return;
    }
    s->cosigned = (uint64_t)st_unix_time() / s->o.every;
    if (st_log_store_publish(s->store, note.p, note.len, &e) || st_log_view_load(&s->view, s->store, &e))
        give_up(s, &e);
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
    struct st_log_server *s = arg;
    struct st_err e;
    int64_t now = st_unix_time();
    uint64_t epoch = (uint64_t)now / s->o.every;
    (void)fd;
    (void)what;
    if (st_cosign_running(s->cosign) || st_now() < s->again)
        return;
    bool shown = s->view.note.len && s->view.size == st_log_store_size(s->store);
    /* A tree that nobody has seen yet comes first: then the next directory is of a later epoch. */
    if (shown && (s->parts.changed || s->first) && epoch > s->epoch) {
        if (append_epoch(s, now, &e)) {
            give_up(s, &e);
            return;
        }
        shown = false;
    }
    if (!shown || epoch > s->cosigned)
        st_cosign_start(s->cosign);
}

/* ---- requests ---- */

static void reply_json(struct st_http_conn *c, int status, const struct st_buf *b)
{
    if (b->failed)
        st_role_refuse(c, 503);
    else
        st_http_reply(c, status, "Cache-Control: no-store\r\n", "application/json", b->p, b->len);
}

/* To a submitter whose key was right. */
static void reply_why(struct st_log_server *s, struct st_http_conn *c, int status, const struct st_err *e)
{
    struct st_buf b = {0};
    s->n.refused++;
    st_buf_add_str(&b, "{\"error\":");
    st_json_quote(&b, e->msg, strlen(e->msg));
    st_buf_add_str(&b, "}");
    reply_json(c, status, &b);
    st_buf_free(&b);
}

static void get_directory(struct st_log_server *s, struct st_http_conn *c)
{
    struct st_buf b = {0};
    struct st_err e;
    uint64_t from = 0;
    const char *query = st_http_query(c);
    size_t digits = strncmp(query, "from=", 5) == 0 ? strspn(query + 5, "0123456789") : 0;
    if (*query && (digits == 0 || digits > 18 || query[5 + digits])) {
        st_role_refuse(c, 400);
        return;
    }
    if (digits)
        from = strtoull(query + 5, NULL, 10);
    if (s->view.entry.len == 0) {
        st_role_refuse(c, 404);
        return;
    }
    if (st_log_view_answer(&s->view, s->store, from, &b, &e)) {
        st_log(ST_LOG_ERROR, "%s", e.msg);
        st_role_refuse(c, 500);
    } else
        st_http_reply(c, 200, "Cache-Control: max-age=1\r\n", "application/json", b.p, b.len);
    st_buf_free(&b);
}

static void get_tile(struct st_log_server *s, struct st_http_conn *c)
{
    struct st_buf b = {0};
    struct st_err e;
    if (st_log_view_tile(&s->view, st_http_path(c) + 1, &b, &e))
        st_role_refuse(c, 404);
    else
        st_http_reply(c, 200, "Cache-Control: public, max-age=31536000, immutable\r\n", "application/octet-stream", b.p,
                      b.len);
    st_buf_free(&b);
}

static void get(struct st_log_server *s, struct st_http_conn *c)
{
    const char *path = st_http_path(c);
    if (strcmp(path, ST_LOG_PATH_DIRECTORY) == 0)
        get_directory(s, c);
    else if (strcmp(path, "/checkpoint") == 0 && s->view.note.len)
        st_http_reply(c, 200, "Cache-Control: max-age=1\r\n", "text/plain; charset=utf-8", s->view.note.p,
                      s->view.note.len);
    else if (strncmp(path, "/tile/", 6) == 0)
        get_tile(s, c);
    else
        st_role_refuse(c, 404);
}

/* The submitter whose key came along, if this path is for him. */
static const struct st_submitter *allowed(const struct st_log_server *s, const struct st_http_conn *c)
{
    const struct st_submitter *who = st_submitters_check(&s->submitters, st_http_field(c, "Authorization"));
    char want[128];
    if (!who)
        return NULL;
    snprintf(want, sizeof want, ST_LOG_PATH_PART "%s/%s", st_submitter_kind_name(who->kind), who->name);
    return strcmp(st_http_path(c), who->kind == ST_SUBMITTER_ENTRIES ? ST_LOG_PATH_ADD : want) == 0 ? who : NULL;
}

static void post_part(struct st_log_server *s, struct st_http_conn *c, const struct st_submitter *who)
{
    struct st_err e;
    static const char word[2][24] = {"{\"logged\":false}", "{\"logged\":true}"};
    if (st_log_parts_put(&s->parts, who, st_http_body(c), &e)) {
        reply_why(s, c, e.code == ST_INPUT || e.code == ST_UNSUPPORTED ? 400 : 503, &e);
        return;
    }
    s->n.parts++;
    bool logged = !s->parts.changed && s->view.size == st_log_store_size(s->store);
    st_http_reply(c, logged ? 200 : 202, "Cache-Control: no-store\r\n", "application/json", word[logged],
                  strlen(word[logged]));
}

/* What the log itself makes must not come from anybody else. */
static int check_entry(struct st_span entry, struct st_err *e)
{
    struct st_directory *d;
    struct st_err why;
    if (entry.len == 0)
        return st_fail(e, ST_INPUT, "entry: it is empty");
    if (st_alloc(&d, 1, sizeof *d, "entry", e))
        return e->code;
    int rc = st_directory_parse(entry.p, entry.len, "entry", d, &why);
    st_directory_wipe(d);
    free(d);
    if (rc == ST_MEMORY) /* nobody can say what it is */
        return st_fail(e, rc, "%s", why.msg);
    return rc ? 0 : st_fail(e, ST_INPUT, "entry: a directory is made by the log");
}

static void post_entry(struct st_log_server *s, struct st_http_conn *c)
{
    struct st_err e;
    struct st_buf b = {0};
    const struct st_span body = st_http_body(c);
    if (check_entry(body, &e)) {
        reply_why(s, c, e.code == ST_INPUT ? 400 : 503, &e);
        return;
    }
    struct pending *p = malloc(sizeof *p + body.len);
    if (!p || s->n_pending >= ST_LOG_MAX_PENDING || s->pending_bytes + body.len > MAX_PENDING_BYTES) {
        free(p);
        st_fail(&e, ST_IO, "entry: too many wait for the next epoch");
        reply_why(s, c, 503, &e);
        return;
    }
    *p = (struct pending){.len = body.len};
    memcpy(p->bytes, body.p, body.len);
    *s->last = p;
    s->last = &p->next;
    st_buf_addf(&b, "{\"index\":%" PRIu64 "}", st_log_store_size(s->store) + s->n_pending);
    s->n_pending++;
    s->pending_bytes += body.len;
    reply_json(c, 202, &b);
    st_buf_free(&b);
}

static void on_request(void *arg, struct st_http_conn *c)
{
    struct st_log_server *s = arg;
    const char *method = st_http_method(c);
    if (strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0) {
        get(s, c);
        return;
    }
    const struct st_submitter *who = strcmp(method, "POST") == 0 ? allowed(s, c) : NULL;
    if (!who) {
        s->n.refused++;
        st_role_refuse(c, strcmp(method, "POST") == 0 ? 403 : 405);
    } else if (who->kind == ST_SUBMITTER_ENTRIES)
        post_entry(s, c);
    else
        post_part(s, c, who);
}

static bool refuses_head(void *arg, const struct st_http_conn *c)
{
    return strcmp(st_http_method(c), "POST") == 0 && !allowed(arg, c);
}

static void put_metrics(void *arg, struct st_buf *b)
{
    const struct st_log_server *s = arg;
    st_role_count(b, "sotto_log_size", "gauge", "Entries of the newest tree.", st_log_store_size(s->store));
    st_role_count(b, "sotto_log_shown_size", "gauge", "Entries of the cosigned tree that is served.", s->view.size);
    st_role_count(b, "sotto_log_directories_total", "counter", "Directories appended.", s->n.directories);
    st_role_count(b, "sotto_log_entries_total", "counter", "Other entries appended.", s->n.entries);
    st_role_count(b, "sotto_log_parts_total", "counter", "Parts of the directory taken.", s->n.parts);
    st_role_count(b, "sotto_log_refused_total", "counter", "Submissions refused.", s->n.refused);
    st_role_count(b, "sotto_log_short_rounds_total", "counter", "Rounds of cosigning without a quorum.",
                  s->n.rounds_short);
}

static bool is_ready(void *arg)
{
    const struct st_log_server *s = arg;
    return s->view.note.len > 0;
}

/* ---- life ---- */

/* From its signed checkpoint; nothing is verified yet. */
static int read_origin(const char *dir, char out[ST_NOTE_MAX_NAME + 1], struct st_err *e)
{
    char path[ST_PATH_MAX];
    struct st_buf b = {0};
    struct st_note n;
    struct st_checkpoint c;
    if (st_path_join(path, sizeof path, dir, "signed", e) || st_file_read(path, ST_NOTE_MAX_BYTES, &b, e))
        return e->code;
    int rc = st_note_parse(b.p, b.len, &n, e);
    if (!rc) {
        rc = st_checkpoint_parse(n.text, &c, e);
        if (!rc)
            memcpy(out, c.origin, sizeof c.origin);
        st_note_wipe(&n);
    }
    st_buf_free(&b);
    return rc ? st_err_prefix(e, "%s", path) : 0;
}

/* The newest directory of the store: its parts go on, and its epoch is the last. */
static int resume(struct st_log_server *s, struct st_err *e)
{
    struct st_buf entry = {0};
    struct st_directory *d = NULL;
    uint64_t size = st_log_store_size(s->store);
    if (size == 0)
        return 0;
    if (st_alloc(&d, 1, sizeof *d, "directory", e))
        return e->code;
    int rc = st_log_view_entry(s->o.dir, size - 1, size, &entry, e);
    if (!rc)
        rc = st_directory_parse(entry.p, entry.len, "last entry", d, e);
    if (rc)
        st_err_prefix(e, "%s", s->o.dir);
    else if (d->every != s->o.every)
        rc = st_fail(e, ST_USAGE, "%s: its epochs have %u s; want --every %u", s->o.dir, d->every, d->every);
    else {
        s->epoch = d->epoch;
        if (d->time > st_unix_time())
            st_log(ST_LOG_WARN,
                   "log: the newest directory is %" PRId64 " s ahead of the clock: no other comes before then",
                   d->time - st_unix_time());
        rc = st_log_parts_restore(&s->parts, d, &s->submitters, e);
    }
    st_directory_wipe(d);
    free(d);
    st_buf_free(&entry);
    return rc;
}

static int open_store(struct st_log_server *s, struct st_err *e)
{
    char origin[ST_NOTE_MAX_NAME + 1];
    if (read_origin(s->o.dir, origin, e) || st_log_store_open(s->o.dir, origin, s->o.key, &s->store, e) ||
        (s->o.submitters && st_submitters_load(s->o.submitters, &s->submitters, e)) || resume(s, e))
        return e->code;
    return st_log_view_open(&s->view, s->o.dir, origin, s->o.key, s->store, e);
}

static int open_network(struct st_log_server *s, struct st_err *e)
{
    const struct st_http_client_opts ho = {
        .ca_bundle = s->o.ca_bundle, .connect_s = ROUND_S / 2.0, .max_idle = ST_TLOG_MAX_WITNESSES};
    const struct st_cosign_opts co = {
        .witnesses = s->o.witnesses, .n_witness = s->o.n_witness, .round_s = ROUND_S, .done = on_round, .arg = s};
    const struct timeval often = {0, s->o.every <= 10 ? 50000 : 500000};
    if (st_role_new(&s->role, e) || st_http_client_new(st_role_base(s->role), &ho, &s->http, e) ||
        st_cosign_new(st_role_base(s->role), s->http, s->store, &co, &s->cosign, e))
        return e->code;
    s->tick = event_new(st_role_base(s->role), -1, EV_PERSIST, on_tick, s);
    if (!s->tick || event_add(s->tick, &often) != 0)
        return st_fail(e, ST_MEMORY, "log: out of memory");
    s->o.listen.bearer = s->submitters.n > 0;
    s->o.listen.max_body = ST_TILE_MAX_ENTRY;
    s->o.listen.request = on_request;
    s->o.listen.refuses_head = refuses_head;
    s->o.listen.metrics = put_metrics;
    s->o.listen.ready = is_ready;
    s->o.listen.arg = s;
    return st_role_listen(s->role, &s->o.listen, e);
}

int st_log_server_new(const struct st_log_server_opts *o, struct st_log_server **out, struct st_err *e)
{
    struct st_log_server *s = NULL;
    *out = NULL;
    if (o->quorum > o->n_witness || o->n_witness > ST_TLOG_MAX_WITNESSES)
        return st_fail(e, ST_USAGE, "log: want at most %d witnesses and a quorum among them, got %zu and %zu",
                       ST_TLOG_MAX_WITNESSES, o->n_witness, o->quorum);
    if (st_alloc(&s, 1, sizeof *s, "log", e))
        return e->code;
    s->o = *o;
    s->o.every = o->every ? o->every : DEFAULT_EVERY;
    s->last = &s->first;
    if (open_store(s, e) || open_network(s, e)) {
        st_log_server_free(s);
        return e->code;
    }
    *out = s;
    return 0;
}

struct st_role *st_log_server_role(struct st_log_server *s)
{
    return s->role;
}

const char *st_log_server_origin(const struct st_log_server *s)
{
    return s->view.keys.origin;
}

int st_log_server_result(const struct st_log_server *s, struct st_err *e)
{
    *e = s->failed;
    return e->code;
}

void st_log_server_free(struct st_log_server *s)
{
    if (!s)
        return;
    st_role_close(s->role);
    st_cosign_free(s->cosign);
    st_http_client_free(s->http);
    if (s->tick)
        event_free(s->tick);
    st_role_free(s->role);
    st_log_view_wipe(&s->view);
    st_log_store_close(s->store);
    st_log_parts_wipe(&s->parts);
    st_submitters_free(&s->submitters);
    drop_pending(s);
    free(s);
}
