#include "service/spent.h"
#include "base/hooks.h"
#include "base/log.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define PAUSE_S 0.002 /* from one commit to the next, when that can wait */

struct st_spent_take {
    struct st_spent_take *next;       /* asked, in the transaction, or answered */
    struct st_spent_take *next_fresh; /* the same take, on its way there */
    struct st_spent_row row;
    enum st_spent_answer answer;
    bool cancelled; /* only the event thread looks */
    struct st_spent_events ev;
};

/* First in, first out. */
struct queue {
    struct st_spent_take *first, **end;
};

struct st_spent {
    const struct st_spent_kind *kind;
    void *db;
    struct event *ready, *kick; /* kick: the thread has something to commit */
    int fd;
    pthread_t thread;
    bool started;
    uint32_t max_waiting, n_waiting;
    double due; /* the thread's own: when the next commit may be */
    pthread_mutex_t lock;
    pthread_cond_t work;
    /* The database's, and so the thread's while `in_db`, and otherwise under the lock: the transaction that is open. */
    struct queue batch;
    struct st_spent_row rows[ST_SPENT_BATCH];
    size_t n;
    struct st_err lost; /* why it is not open any more; code 0: it is */
    bool failing;
    /* Under the lock. */
    struct queue asked, answered;
    struct st_spent_take *fresh; /* each is answered later, so it lives until that list was read */
    uint32_t forget_before;
    bool in_db;
    bool idle, gathers; /* the thread waits; gathers: for more takes before it commits, at most until `due` */
    bool stop;
};

static void push(struct queue *q, struct st_spent_take *t)
{
    t->next = NULL;
    *q->end = t;
    q->end = &t->next;
}

static struct st_spent_take *take_all(struct queue *q)
{
    struct st_spent_take *t = q->first;
    q->first = NULL;
    q->end = &q->first;
    return t;
}

/* ---- on the thread of the database ---- */

static void note(struct st_spent *s, int rc, const struct st_err *e)
{
    if (rc && !s->failing)
        st_log(ST_LOG_ERROR, "spent tokens: %s; requests are refused until it is back", e->msg);
    if (!rc && s->failing)
        st_log(ST_LOG_INFO, "spent tokens: the database is back");
    s->failing = rc != 0;
}

static void wake(struct st_spent *s)
{
    const uint64_t one = 1;
    while (write(s->fd, &one, sizeof one) < 0 && errno == EINTR)
        ;
}

/* Those that nobody had before, before they are made durable: of the rows from the first on. */
static void tell_fresh(struct st_spent *s, struct st_spent_take *list, size_t first)
{
    bool any = false;
    pthread_mutex_lock(&s->lock);
    bool awake = s->fresh || s->answered.first;
    for (size_t i = first; i < s->n; i++, list = list->next)
        if (s->rows[i].fresh) {
            list->next_fresh = s->fresh;
            s->fresh = list;
            any = true;
        }
    pthread_mutex_unlock(&s->lock);
    if (any && !awake)
        wake(s);
}

/* The first takes of the list become part of the transaction, as many as there is room for. */
static int join(struct st_spent *s, struct st_spent_take **list, struct st_err *e)
{
    struct st_spent_take *first = *list;
    size_t before = s->n;
    while (*list && s->n < ST_SPENT_BATCH) {
        struct st_spent_take *t = *list;
        *list = t->next;
        s->rows[s->n++] = t->row;
        push(&s->batch, t);
    }
    if (s->n == before)
        return 0;
    int rc = s->kind->take(s->db, s->rows + before, s->n - before, e);
    if (!rc)
        tell_fresh(s, first, before);
    return rc;
}

/* A commit costs the same for one take as for many: shortly after the last one it waits for others to come along, which
 * are told that they are fresh at once. True when there is something else to do first. */
static bool wait_for_more(struct st_spent *s, struct st_spent_take **list)
{
    const struct timespec due = {(time_t)s->due, (long)((s->due - (double)(time_t)s->due) * 1e9)};
    if (!s->kind->gathers || s->n == ST_SPENT_BATCH || st_now() >= s->due)
        return false;
    pthread_mutex_lock(&s->lock);
    s->idle = s->gathers = true;
    s->in_db = false;
    while (!s->stop && !s->asked.first && !s->lost.code)
        if (pthread_cond_clockwait(&s->work, &s->lock, CLOCK_MONOTONIC, &due))
            break;
    s->idle = s->gathers = false;
    s->in_db = true;
    *list = take_all(&s->asked);
    pthread_mutex_unlock(&s->lock);
    return *list || s->lost.code;
}

static void answer(struct st_spent *s, bool failed)
{
    size_t i = 0;
    pthread_mutex_lock(&s->lock);
    bool awake = s->fresh || s->answered.first;
    for (struct st_spent_take *t = take_all(&s->batch), *next; t; t = next, i++) {
        next = t->next;
        t->answer = failed ? ST_SPENT_FAILED : s->rows[i].fresh ? ST_SPENT_TAKEN : ST_SPENT_BEFORE;
        push(&s->answered, t);
    }
    pthread_mutex_unlock(&s->lock);
    s->n = 0;
    s->lost.code = 0;
    if (!awake)
        wake(s);
}

/* The transaction that is open, if one is, and then the takes of the list. */
static void serve(struct st_spent *s, struct st_spent_take *list)
{
    do {
        struct st_err e;
        int rc;
        do {
            e = s->lost;
            rc = e.code ? e.code : join(s, &list, &e);
        } while (!rc && !list && wait_for_more(s, &list));
        if (!rc)
            rc = s->kind->commit(s->db, &e);
        s->due = st_now() + PAUSE_S;
        note(s, rc, &e);
        answer(s, rc != 0);
    } while (list);
}

static void forget_some(struct st_spent *s, uint32_t before)
{
    struct st_err e;
    bool more = false;
    int rc = s->kind->forget(s->db, before, &more, &e);
    note(s, rc, &e);
    if (rc || more)
        return;
    pthread_mutex_lock(&s->lock);
    if (s->forget_before == before)
        s->forget_before = 0;
    pthread_mutex_unlock(&s->lock);
}

static void *work(void *arg)
{
    struct st_spent *s = arg;
    pthread_mutex_lock(&s->lock);
    while (!s->stop) {
        s->idle = true;
        /* What could not be dropped for a failing database is tried again with the next take. */
        while (!s->stop && !s->asked.first && !s->n && (!s->forget_before || s->failing))
            pthread_cond_wait(&s->work, &s->lock);
        if (s->stop)
            break;
        s->idle = false;
        s->in_db = true;
        struct st_spent_take *list = take_all(&s->asked);
        uint32_t before = s->forget_before;
        pthread_mutex_unlock(&s->lock);
        if (list || s->n)
            serve(s, list);
        else if (before)
            forget_some(s, before);
        pthread_mutex_lock(&s->lock);
        s->in_db = false;
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* ---- on the event thread ---- */

static void on_ready(evutil_socket_t fd, short what, void *arg)
{
    struct st_spent *s = arg;
    uint64_t n;
    (void)what;
    if (read(fd, &n, sizeof n) < 0)
        return;
    pthread_mutex_lock(&s->lock);
    struct st_spent_take *list = take_all(&s->answered), *fresh = s->fresh;
    s->fresh = NULL;
    pthread_mutex_unlock(&s->lock);
    for (; fresh; fresh = fresh->next_fresh)
        if (!fresh->cancelled && fresh->ev.fresh)
            fresh->ev.fresh(fresh->ev.arg);
    for (struct st_spent_take *t = list, *next; t; t = next) {
        next = t->next;
        s->n_waiting--;
        if (!t->cancelled)
            t->ev.done(t->ev.arg, t->answer);
        free(t);
    }
}

static void on_kick(evutil_socket_t fd, short what, void *arg)
{
    struct st_spent *s = arg;
    (void)fd;
    (void)what;
    pthread_mutex_lock(&s->lock);
    if (s->idle)
        pthread_cond_signal(&s->work);
    pthread_mutex_unlock(&s->lock);
}

static int start(struct st_spent *s, struct event_base *base, struct st_err *e)
{
    s->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    s->ready = s->fd >= 0 ? event_new(base, s->fd, EV_READ | EV_PERSIST, on_ready, s) : NULL;
    s->kick = event_new(base, -1, 0, on_kick, s);
    if (!s->ready || !s->kick || event_add(s->ready, NULL) != 0)
        return st_fail(e, ST_IO, "spent tokens: event loop: %s", strerror(errno));
    /* Signals belong to the event thread. */
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int err = pthread_create(&s->thread, NULL, work, s);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (err)
        return st_fail(e, ST_IO, "spent tokens: thread: %s", strerror(err));
    s->started = true;
    return 0;
}

int st_spent_open(struct event_base *base, const struct st_spent_opts *o, struct st_spent **out, struct st_err *e)
{
    struct st_spent *s = NULL;
    bool postgres = strncmp(o->where, "postgresql://", 13) == 0 || strncmp(o->where, "postgres://", 11) == 0;
    *out = NULL;
    if (st_alloc(&s, 1, sizeof *s, "spent tokens", e))
        return e->code;
    s->fd = -1;
    s->kind = postgres ? &st_spent_postgres : &st_spent_sqlite;
    s->max_waiting = o->max_waiting ? o->max_waiting : 8192;
    take_all(&s->asked);
    take_all(&s->answered);
    take_all(&s->batch);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->work, NULL);
    int rc = s->kind->open(o, &s->db, e);
    if (!rc)
        rc = start(s, base, e);
    if (rc)
        st_spent_close(s);
    else
        *out = s;
    return rc;
}

static void free_list(struct st_spent_take *t)
{
    while (t) {
        struct st_spent_take *next = t->next;
        free(t);
        t = next;
    }
}

void st_spent_close(struct st_spent *s)
{
    if (!s)
        return;
    if (s->started) {
        pthread_mutex_lock(&s->lock);
        s->stop = true;
        pthread_cond_signal(&s->work);
        pthread_mutex_unlock(&s->lock);
        pthread_join(s->thread, NULL);
    }
    if (s->db)
        s->kind->close(s->db);
    if (s->ready)
        event_free(s->ready);
    if (s->kick)
        event_free(s->kick);
    if (s->fd >= 0)
        close(s->fd);
    free_list(s->batch.first);
    free_list(s->asked.first);
    free_list(s->answered.first);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->work);
    free(s);
}

/* Under the lock: the take becomes part of the transaction here and now, if that needs nobody. */
static bool take_now(struct st_spent *s, struct st_spent_take *t)
{
    bool taken;
    if (!s->kind->try_take || s->in_db || s->failing || s->lost.code || s->asked.first || s->n == ST_SPENT_BATCH)
        return false;
    if (!s->kind->try_take(s->db, &t->row, &taken, &s->lost))
        s->lost.code = 0;
    if (!taken && !s->lost.code)
        return false;
    s->rows[s->n++] = t->row;
    push(&s->batch, t);
    return true;
}

int st_spent_take(struct st_spent *s, const uint8_t digest[32], uint32_t day, const struct st_spent_events *ev,
                  struct st_spent_take **out, struct st_err *e)
{
    *out = NULL;
    if (s->n_waiting >= s->max_waiting)
        return st_fail(e, ST_POLICY, "spent tokens: %u requests wait for the database already", s->n_waiting);
    struct st_spent_take *t = calloc(1, sizeof *t);
    if (!t)
        return st_fail(e, ST_MEMORY, "spent tokens: no memory");
    memcpy(t->row.digest, digest, 32);
    t->row.day = day;
    t->ev = *ev;
    s->n_waiting++;
    *out = t;
    pthread_mutex_lock(&s->lock);
    bool now = take_now(s, t), fresh = now && !s->lost.code && t->row.fresh, kick = now && !s->gathers;
    if (!now)
        push(&s->asked, t);
    if (s->idle && (!now || s->lost.code))
        pthread_cond_signal(&s->work);
    pthread_mutex_unlock(&s->lock);
    if (fresh && ev->fresh)
        ev->fresh(ev->arg);
    if (kick) /* once what follows from `fresh` is on its way */
        event_active(s->kick, EV_TIMEOUT, 0);
    return 0;
}

void st_spent_cancel(struct st_spent_take *t)
{
    t->cancelled = true;
}

void st_spent_forget(struct st_spent *s, uint32_t before)
{
    pthread_mutex_lock(&s->lock);
    s->forget_before = before;
    pthread_cond_signal(&s->work);
    pthread_mutex_unlock(&s->lock);
}
