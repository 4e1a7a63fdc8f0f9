#include "service/issuer_work.h"
#include "base/hooks.h"
#include "base/log.h"
#include "base/priority.h"
#include "service/issuer_ledger.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_THREADS = 16, MAX_BATCH = 64, MAX_METERS = 1024 };

/* Jobs in the order in which they came. */
struct queue {
    struct st_issuer_job *first, **last;
    size_t n;
    pthread_cond_t filled;
};

/* Requests that an account may still make now: they fill up with time. */
struct meter {
    char name[ST_LEDGER_MAX_NAME + 1];
    double left, at;
};

struct st_issuer_work {
    struct st_issuer_work_opts o;
    struct st_ledger *ledger; /* of the thread that writes */
    struct meter *meters;     /* likewise */
    size_t n_meter;
    pthread_mutex_t mutex; /* of all below */
    struct queue asked, paid, done;
    size_t busy;
    bool stop;
    pthread_t threads[1 + MAX_THREADS];
    int n_started;
};

void st_issuer_job_free(struct st_issuer_job *j)
{
    if (!j)
        return;
    st_issue_wipe(&j->ask);
    st_buf_free(&j->signatures);
    free(j);
}

/* ---- queues ---- */

static void queue_init(struct queue *q)
{
    *q = (struct queue){.last = &q->first};
    pthread_cond_init(&q->filled, NULL);
}

static void queue_add(struct queue *q, struct st_issuer_job *j)
{
    j->next = NULL;
    *q->last = j;
    q->last = &j->next;
    q->n++;
    pthread_cond_signal(&q->filled);
}

static struct st_issuer_job *queue_take(struct queue *q)
{
    struct st_issuer_job *j = q->first;
    if (!j)
        return NULL;
    q->first = j->next;
    if (!q->first)
        q->last = &q->first;
    q->n--;
    return j;
}

/* Gives keys back and hands the job to whoever takes it. */
static void finish(struct st_issuer_work *w, struct st_issuer_job *j)
{
    for (size_t i = 0; i < j->ask.n; i++)
        if (j->keys[i])
            st_issuer_keys_give(w->o.keys, j->keys[i]);
    memset(j->keys, 0, sizeof j->keys);
    pthread_mutex_lock(&w->mutex);
    queue_add(&w->done, j);
    w->busy--;
    pthread_mutex_unlock(&w->mutex);
    w->o.done(w->o.arg);
}

/* ---- the ledger's thread ---- */

static void refuse(struct st_issuer_job *j, int status, const char *word)
{
    j->status = status;
    j->word = word;
}

/* At most o.rate requests per minute, and a minute's at once. A full table forgets its oldest. */
static bool within_rate(struct st_issuer_work *w, const char *name)
{
    double now = st_now(), rate = w->o.rate;
    struct meter *m = NULL, *oldest = w->meters;
    for (size_t i = 0; i < w->n_meter && !m; i++) {
        if (strcmp(w->meters[i].name, name) == 0)
            m = &w->meters[i];
        if (w->meters[i].at < oldest->at)
            oldest = &w->meters[i];
    }
    if (!m) {
        m = w->n_meter < MAX_METERS ? &w->meters[w->n_meter++] : oldest;
        *m = (struct meter){.left = rate, .at = now};
        memcpy(m->name, name, strlen(name) + 1);
    }
    m->left += (now - m->at) * rate / 60;
    m->left = m->left < rate ? m->left : rate;
    m->at = now;
    if (m->left < 1)
        return false;
    m->left--;
    return true;
}

/* The keys that it asks to be signed with; false when one is not held or would not sign. */
static bool take_keys(struct st_issuer_work *w, struct st_issuer_job *j)
{
    for (size_t i = 0; i < j->ask.n; i++) {
        j->keys[i] = st_issuer_keys_take(w->o.keys, j->ask.of[i].day, j->ask.of[i].units);
        if (!j->keys[i]) {
            refuse(j, 400, "day");
            return false;
        }
        if (!st_blind_rsa_fits(j->keys[i]->rsa, j->ask.of[i].blinded.p, j->ask.of[i].blinded.len)) {
            refuse(j, 400, "blinded");
            return false;
        }
    }
    return true;
}

static bool token_good(struct st_issuer_work *w, const struct st_token *t)
{
    struct st_err e;
    const struct st_issuer_key *k = st_issuer_keys_take(w->o.keys, t->day, t->units);
    bool good = k && st_token_verify(t, k->rsa, &e) == 0;
    if (k)
        st_issuer_keys_give(w->o.keys, k);
    return good;
}

static uint32_t last_day(const struct st_issue *r)
{
    uint32_t day = 0;
    for (size_t i = 0; i < r->n; i++)
        day = r->of[i].day > day ? r->of[i].day : day;
    return day;
}

static void settle(struct st_issuer_job *j, enum st_ledger_verdict verdict, int64_t units)
{
    j->again = verdict == ST_LEDGER_AGAIN;
    j->units = units;
    if (verdict == ST_LEDGER_CONFLICT)
        refuse(j, 409, j->ask.kind == ST_ISSUE_PURCHASE ? "id" : "token");
    else if (verdict == ST_LEDGER_EMPTY)
        refuse(j, 402, "units");
    else
        j->status = 200;
}

static int decide_purchase(struct st_issuer_work *w, struct st_issuer_job *j, const uint8_t hash[32], struct st_err *e)
{
    struct st_ledger_member m;
    enum st_ledger_verdict verdict;
    bool found;
    uint32_t today = st_issuer_keys_today(w->o.keys);
    if (st_ledger_find(w->ledger, ST_LEDGER_ACCOUNT, j->bearer, today, &m, &found, e))
        return e->code;
    if (!found) {
        refuse(j, 401, NULL);
        return 0;
    }
    if (!within_rate(w, m.name)) {
        refuse(j, 429, "rate");
        return 0;
    }
    if (!take_keys(w, j))
        return 0;
    if (st_ledger_charge(w->ledger, &m, j->ask.id, hash, st_issue_units(&j->ask), last_day(&j->ask), today, &verdict,
                         e))
        return e->code;
    settle(j, verdict, m.units + (m.daily > m.used ? m.daily - m.used : 0));
    return 0;
}

static int decide_refund(struct st_issuer_work *w, struct st_issuer_job *j, const uint8_t hash[32], struct st_err *e)
{
    struct st_ledger_member m;
    enum st_ledger_verdict verdict;
    uint8_t token[32];
    bool found;
    if (st_ledger_find(w->ledger, ST_LEDGER_GATEWAY, j->bearer, 0, &m, &found, e))
        return e->code;
    if (!found) {
        refuse(j, 401, NULL);
        return 0;
    }
    if (!token_good(w, &j->ask.token)) {
        refuse(j, 400, "token");
        return 0;
    }
    if (!take_keys(w, j))
        return 0;
    st_token_digest(&j->ask.token, token);
    if (st_ledger_refund(w->ledger, token, hash, j->ask.token.day, &verdict, e))
        return e->code;
    settle(j, verdict, 0);
    return 0;
}

/* One transaction for all: a fault of the disk undoes them together. */
static int decide_all(struct st_issuer_work *w, struct st_issuer_job **jobs, size_t n, struct st_err *e)
{
    int rc = st_ledger_begin(w->ledger, e);
    if (rc)
        return rc;
    for (size_t i = 0; !rc && i < n; i++) {
        struct st_issuer_job *j = jobs[i];
        uint8_t hash[32];
        rc = st_issue_digest(&j->ask, hash, e);
        if (!rc)
            rc = j->ask.kind == ST_ISSUE_PURCHASE ? decide_purchase(w, j, hash, e) : decide_refund(w, j, hash, e);
    }
    return st_ledger_end(w->ledger, rc, e);
}

static void pass_on(struct st_issuer_work *w, struct st_issuer_job *j, bool failed)
{
    if (failed)
        refuse(j, 503, "busy");
    if (j->status != 200) {
        finish(w, j);
        return;
    }
    pthread_mutex_lock(&w->mutex);
    queue_add(&w->paid, j);
    pthread_mutex_unlock(&w->mutex);
}

static void *write_main(void *arg)
{
    struct st_issuer_work *w = arg;
    st_priority_background();
    for (;;) {
        struct st_issuer_job *jobs[MAX_BATCH];
        struct st_err e;
        size_t n = 0;
        pthread_mutex_lock(&w->mutex);
        while (!w->stop && !w->asked.n)
            pthread_cond_wait(&w->asked.filled, &w->mutex);
        while (!w->stop && n < MAX_BATCH && (jobs[n] = queue_take(&w->asked)))
            n++;
        pthread_mutex_unlock(&w->mutex);
        if (!n)
            return NULL;
        int rc = decide_all(w, jobs, n, &e);
        if (rc)
            st_log(ST_LOG_WARN, "issuer: %s", e.msg);
        for (size_t i = 0; i < n; i++)
            pass_on(w, jobs[i], rc != 0);
    }
}

/* ---- signing ---- */

static void sign(struct st_issuer_job *j)
{
    struct st_err e;
    for (size_t i = 0; i < j->ask.n; i++) {
        struct st_span b = j->ask.of[i].blinded;
        uint8_t *out = st_buf_room(&j->signatures, b.len);
        if (!out || st_blind_rsa_sign(j->keys[i]->rsa, b.p, b.len, out, &e) != 0) {
            refuse(j, 503, "busy"); /* the same request again is signed then */
            return;
        }
    }
}

static void *sign_main(void *arg)
{
    struct st_issuer_work *w = arg;
    st_priority_background();
    for (;;) {
        pthread_mutex_lock(&w->mutex);
        while (!w->stop && !w->paid.n)
            pthread_cond_wait(&w->paid.filled, &w->mutex);
        struct st_issuer_job *j = w->stop ? NULL : queue_take(&w->paid);
        pthread_mutex_unlock(&w->mutex);
        if (!j)
            return NULL;
        sign(j);
        finish(w, j);
    }
}

/* ---- life ---- */

bool st_issuer_work_put(struct st_issuer_work *w, struct st_issuer_job *j)
{
    pthread_mutex_lock(&w->mutex);
    bool room = w->busy < w->o.max_wait;
    if (room) {
        w->busy++;
        queue_add(&w->asked, j);
    }
    pthread_mutex_unlock(&w->mutex);
    return room;
}

struct st_issuer_job *st_issuer_work_take(struct st_issuer_work *w)
{
    pthread_mutex_lock(&w->mutex);
    struct st_issuer_job *j = queue_take(&w->done);
    pthread_mutex_unlock(&w->mutex);
    return j;
}

size_t st_issuer_work_waiting(struct st_issuer_work *w)
{
    pthread_mutex_lock(&w->mutex);
    size_t n = w->busy;
    pthread_mutex_unlock(&w->mutex);
    return n;
}

static int n_cpus(void)
{
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return n < MAX_THREADS ? n : MAX_THREADS;
}

static int start(struct st_issuer_work *w, int n_threads, struct st_err *e)
{
    sigset_t all, old;
    int err = 0;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    for (int i = 0; !err && i < 1 + n_threads; i++) {
        err = pthread_create(&w->threads[i], NULL, i ? sign_main : write_main, w);
        w->n_started += !err;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return err ? st_fail(e, ST_IO, "thread: %s", strerror(err)) : 0;
}

int st_issuer_work_new(const struct st_issuer_work_opts *o, struct st_issuer_work **out, struct st_err *e)
{
    struct st_issuer_work *w = NULL;
    *out = NULL;
    if (st_alloc(&w, 1, sizeof *w, "issuer", e))
        return e->code;
    w->o = *o;
    pthread_mutex_init(&w->mutex, NULL);
    queue_init(&w->asked);
    queue_init(&w->paid);
    queue_init(&w->done);
    int n = o->n_threads > 0 && o->n_threads <= MAX_THREADS ? o->n_threads : n_cpus();
    int rc = st_alloc(&w->meters, MAX_METERS, sizeof *w->meters, "issuer", e);
    if (!rc)
        rc = st_ledger_open(o->db, &w->ledger, e);
    if (!rc)
        rc = start(w, n, e);
    if (rc)
        st_issuer_work_free(w);
    else
        *out = w;
    return rc;
}

void st_issuer_work_free(struct st_issuer_work *w)
{
    if (!w)
        return;
    pthread_mutex_lock(&w->mutex);
    w->stop = true;
    pthread_cond_broadcast(&w->asked.filled);
    pthread_cond_broadcast(&w->paid.filled);
    pthread_mutex_unlock(&w->mutex);
    for (int i = 0; i < w->n_started; i++)
        pthread_join(w->threads[i], NULL);
    struct queue *all[] = {&w->asked, &w->paid, &w->done};
    struct st_issuer_job *j;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        while ((j = queue_take(all[i]))) {
            for (size_t at = 0; at < j->ask.n; at++)
                if (j->keys[at])
                    st_issuer_keys_give(w->o.keys, j->keys[at]);
            st_issuer_job_free(j);
        }
        pthread_cond_destroy(&all[i]->filled);
    }
    st_ledger_close(w->ledger);
    pthread_mutex_destroy(&w->mutex);
    free(w->meters);
    free(w);
}
