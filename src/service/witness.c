#include "service/witness.h"
#include "base/file.h"
#include "base/hooks.h"
#include "base/log.h"
#include "channel/confidential.h"
#include "crypto/digest.h"
#include "service/witness_request.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

struct watched {
    struct st_tlog log;
    bool unsaved; /* what is remembered is not on disk: nothing is cosigned until it is */
    char path[ST_PATH_MAX];
};

struct st_witness {
    struct st_role *role;
    struct st_witness_opts o;
    struct watched *logs;
    int lock;
    struct {
        uint64_t cosigned, conflicts, refused, failed;
    } n;
};

/* ---- one request ---- */

/* In the name of its origin, and never another's. */
static struct watched *find(struct st_witness *w, const char *origin)
{
    for (size_t i = 0; i < w->o.n_log; i++)
        if (strcmp(w->logs[i].log.keys.origin, origin) == 0)
            return &w->logs[i];
    return NULL;
}

static int conflict(const struct watched *l, struct st_buf *answer)
{
    st_buf_addf(answer, "%" PRIu64 "\n", l->log.last.checkpoint.size);
    return 409;
}

/* The rules of the specification, in its order. Returns a status, 200 when the tree may be cosigned. */
static int check(const struct watched *l, const struct st_witness_request *r, const struct st_checkpoint *c,
                 struct st_buf *answer)
{
    const struct st_checkpoint *last = &l->log.last.checkpoint;
    struct st_err e;
    if (r->old > c->size)
        return 400;
    if (r->old != last->size)
        return conflict(l, answer);
    if (r->old == 0 && l->log.note.len == 0) /* the first of this log */
        return r->proof.n == 0 ? 200 : 422;
    if (c->size == last->size && memcmp(c->root.b, last->root.b, ST_MERKLE_HASH) != 0)
        return conflict(l, answer);
    return st_merkle_verify_consistency(last->size, &last->root, c->size, &c->root, &r->proof, &e) == 0 ? 200 : 422;
}

/* What is remembered changes first and reaches the disk before the signature is made. When it cannot be written, memory
 * is ahead of what was cosigned: that refuses more, never less. */
static int remember(const struct st_witness *w, struct watched *l, const struct st_witness_request *r, int64_t now,
                    struct st_err *e)
{
    bool grows = l->log.note.len == 0;
    uint64_t before = l->log.last.checkpoint.size;
    int rc = st_tlog_update(&l->log, r->note.p, r->note.len, &r->proof, now, e);
    if (rc)
        return rc;
    l->unsaved = l->unsaved || grows || l->log.last.checkpoint.size != before;
    if (!l->unsaved)
        return 0;
    rc = st_file_write(l->path, l->log.note.p, l->log.note.len, 0600, true, e);
    if (!rc)
        rc = st_dir_sync(w->o.state, e);
    l->unsaved = rc != 0;
    return rc;
}

static int add_note(struct st_witness *w, const struct st_witness_request *r, const struct st_note *n, int64_t now,
                    struct st_buf *answer)
{
    struct st_checkpoint c;
    struct st_err e;
    if (st_checkpoint_parse(n->text, &c, &e))
        return 400;
    struct watched *l = find(w, c.origin);
    if (!l)
        return 404;
    if (st_note_verify(n, &l->log.keys.log, &e))
        return 403;
    int status = check(l, r, &c, answer);
    if (status != 200)
        return status;
    if (remember(w, l, r, now, &e) || st_cosignature_sign(n->text, w->o.name, w->o.key, now, answer, &e)) {
        st_log(ST_LOG_ERROR, "%s", e.msg);
        st_buf_clear(answer);
        return 500;
    }
    return 200;
}

int st_witness_add(struct st_witness *w, struct st_span body, int64_t now, struct st_buf *answer)
{
    struct st_witness_request r;
    struct st_note n;
    struct st_err e;
    if (st_witness_request_parse(body, &r, &e) || st_note_parse(r.note.p, r.note.len, &n, &e))
        return 400;
    int status = add_note(w, &r, &n, now, answer);
    st_note_wipe(&n);
    return answer->failed ? 500 : status;
}

static void on_request(void *arg, struct st_http_conn *c)
{
    struct st_witness *w = arg;
    struct st_buf answer = {0};
    if (strcmp(st_http_path(c), ST_LOG_PATH_WITNESS) != 0) {
        st_role_refuse(c, 404);
        return;
    }
    if (strcmp(st_http_method(c), "POST") != 0) {
        st_role_refuse(c, 405);
        return;
    }
    int status = st_witness_add(w, st_http_body(c), st_unix_time(), &answer);
    *(status == 200   ? &w->n.cosigned
      : status == 409 ? &w->n.conflicts
      : status == 500 ? &w->n.failed
                      : &w->n.refused) += 1;
    st_http_reply(c, status, "Cache-Control: no-store\r\n",
                  status == 409   ? "text/x.tlog.size"
                  : status == 200 ? "text/plain; charset=utf-8"
                                  : NULL,
                  answer.p, answer.len);
    st_buf_free(&answer);
}

static void put_metrics(void *arg, struct st_buf *b)
{
    const struct st_witness *w = arg;
    st_role_count(b, "sotto_witness_cosigned_total", "counter", "Checkpoints cosigned.", w->n.cosigned);
    st_role_count(b, "sotto_witness_conflicts_total", "counter", "Answers that name the remembered size.",
                  w->n.conflicts);
    st_role_count(b, "sotto_witness_refused_total", "counter", "Requests refused for another reason.", w->n.refused);
    st_role_count(b, "sotto_witness_failures_total", "counter", "Requests that failed here.", w->n.failed);
}

/* ---- life ---- */

/* One file per log, named by the digest of its origin. */
static int open_log(struct st_witness *w, size_t i, struct st_err *e)
{
    struct watched *l = &w->logs[i];
    struct st_tlog_keys keys = {.log = w->o.logs[i].log};
    struct st_buf note = {0};
    uint8_t digest[32];
    char name[80];
    memcpy(keys.origin, w->o.logs[i].origin, sizeof keys.origin);
    if (find(w, keys.origin))
        return st_fail(e, ST_USAGE, "log %s: named twice", keys.origin);
    st_sha256(keys.origin, strlen(keys.origin), digest);
    st_hex(digest, sizeof digest, name);
    if (st_tlog_init(&l->log, &keys, e) || st_path_join(l->path, sizeof l->path, w->o.state, name, e))
        return e->code;
    if (!st_path_exists(l->path))
        return 0;
    int rc = st_file_read(l->path, ST_NOTE_MAX_BYTES, &note, e);
    if (!rc && st_tlog_restore(&l->log, note.p, note.len, e))
        rc = st_err_prefix(e, "%s", l->path);
    st_buf_free(&note);
    return rc;
}

static int open_state(struct st_witness *w, struct st_err *e)
{
    char path[ST_PATH_MAX];
    if (mkdir(w->o.state, 0700) != 0 && errno != EEXIST)
        return st_fail(e, ST_IO, "%s: cannot create: %s", w->o.state, strerror(errno));
    if (st_path_join(path, sizeof path, w->o.state, "lock", e))
        return e->code;
    w->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (w->lock < 0)
        return st_fail(e, ST_IO, "%s: cannot open: %s", path, strerror(errno));
    if (flock(w->lock, LOCK_EX | LOCK_NB) != 0)
        return st_fail(e, ST_IO, "%s: another witness has this state open", w->o.state);
    for (size_t i = 0; i < w->o.n_log; i++)
        if (open_log(w, i, e))
            return e->code;
    return 0;
}

int st_witness_new(const struct st_witness_opts *o, struct st_witness **out, struct st_err *e)
{
    struct st_witness *w = NULL;
    *out = NULL;
    if (o->n_log == 0 || o->n_log > ST_WITNESS_MAX_LOGS)
        return st_fail(e, ST_USAGE, "witness: want 1 to %d logs, got %zu", ST_WITNESS_MAX_LOGS, o->n_log);
    if (st_alloc(&w, 1, sizeof *w, "witness", e))
        return e->code;
    w->o = *o;
    w->lock = -1;
    int rc = st_alloc(&w->logs, o->n_log, sizeof *w->logs, "witness", e);
    if (!rc)
        rc = open_state(w, e);
    if (!rc)
        rc = st_role_new(&w->role, e);
    if (!rc) {
        w->o.listen.max_body = ST_WITNESS_MAX_BODY;
        w->o.listen.request = on_request;
        w->o.listen.metrics = put_metrics;
        w->o.listen.arg = w;
        rc = st_role_listen(w->role, &w->o.listen, e);
    }
    if (rc)
        st_witness_free(w);
    else
        *out = w;
    return rc;
}

struct st_role *st_witness_role(struct st_witness *w)
{
    return w->role;
}

void st_witness_free(struct st_witness *w)
{
    if (!w)
        return;
    st_role_free(w->role);
    for (size_t i = 0; w->logs && i < w->o.n_log; i++)
        st_tlog_wipe(&w->logs[i].log);
    if (w->lock >= 0)
        close(w->lock);
    free(w->logs);
    free(w);
}
