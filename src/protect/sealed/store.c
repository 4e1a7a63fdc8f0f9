#include "protect/sealed/store.h"
#include "base/buf.h"
#include "base/hooks.h"
#include "base/log.h"
#include "base/mem.h"
#include "protect/sealed/parts.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define WORK_PARTS 2
#define HOLD_ALL 64 /* blocks at once where nothing passes through slots */

enum slot_state {
    SLOT_FREE,
    SLOT_FILLING, /* a thread decrypts into it */
    SLOT_READY,
    SLOT_HELD, /* the engine computes with it */
};

struct slot {
    enum slot_state state;
    int part;          /* unless FREE */
    struct st_err err; /* READY, and decryption failed: code is not 0 */
};

struct st_sealed_store {
    struct st_store api;
    struct st_vault *vault;
    const struct st_model *m;
    struct st_parts p;
    struct st_locked area; /* kept parts, then the slots */
    int n_threads, n_started;
    pthread_t *threads;

    pthread_mutex_t lock;
    pthread_cond_t work, done; /* for the threads: they may go ahead; for the engine: a part is there */
    struct slot slots[ST_PARTS_SLOTS_MAX];
    int *slot_of; /* [n_part], -1 = in none */
    int at;       /* the use in the order that comes next */
    int section;  /* of the expert that runs, -1 */
    int asked;    /* the part that the engine waits for, -1 */
    bool away;    /* the engine does something else */
    bool stop;
    uint64_t held, peak; /* bytes decrypted in slots, and the most of them */
    uint64_t n_segment, n_byte, n_wait;
    double wait_s, decrypt_s;
    double waiting_since; /* of the engine, 0 = it does not */
};

/* What all threads do once, before the first step. */
struct filling {
    struct st_sealed_store *s;
    atomic_int next;
    atomic_ullong done;      /* bytes */
    struct st_progress *bar; /* NULL = none */
    pthread_mutex_t lock;
    struct st_err err;
};

static uint8_t *slot_data(const struct st_sealed_store *s, int i)
{
    return s->area.p + s->p.kept + (size_t)i * s->p.slot;
}

static int decrypt(struct st_sealed_store *s, int part, uint8_t *to, struct st_err *e)
{
    const struct st_part *p = &s->p.parts[part];
    return st_vault_segment(s->vault, s->p.matrices[p->matrix].entry, p->k, to, e);
}

/* How far away the next use of a part is, in uses; the part of an expert that does not run is not wanted at all. */
static int distance(const struct st_sealed_store *s, int part)
{
    int at = s->p.parts[part].position, n = s->p.n_order;
    if (at < 0 || (s->p.order[at].section >= 0 && s->p.order[at].section != s->section))
        return n;
    return (at - s->at + n) % n;
}

/* A slot for a part that is used in `far` uses: a free one, or that of the part that is used last of all, if it is used
 * later; never that of the part which the engine waits for. -1: none. */
static int find_slot(const struct st_sealed_store *s, int far)
{
    int best = -1;
    for (int i = 0; i < s->p.n_slot; i++) {
        const struct slot *slot = &s->slots[i];
        if (slot->state == SLOT_FREE)
            return i;
        int d = slot->state == SLOT_READY && slot->part != s->asked ? distance(s, slot->part) : -1;
        if (d > far) {
            best = i;
            far = d;
        }
    }
    return best;
}

static void empty(struct st_sealed_store *s, int i)
{
    struct slot *slot = &s->slots[i];
    if (slot->state == SLOT_FREE)
        return;
    s->held -= s->p.parts[slot->part].bytes;
    s->slot_of[slot->part] = -1;
    slot->state = SLOT_FREE;
}

/* Of this thread alone: what it waits for a CPU is not the cipher's. */
static double thread_time(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Decrypts a part into slot i, without the lock meanwhile. */
static void fill(struct st_sealed_store *s, int i, int part)
{
    struct slot *slot = &s->slots[i];
    empty(s, i);
    *slot = (struct slot){.state = SLOT_FILLING, .part = part};
    s->slot_of[part] = i;
    s->held += s->p.parts[part].bytes;
    s->peak = s->held > s->peak ? s->held : s->peak;
    pthread_mutex_unlock(&s->lock);
    double start = thread_time();
    (void)!decrypt(s, part, slot_data(s, i), &slot->err);
    double spent = thread_time() - start;
    pthread_mutex_lock(&s->lock);
    s->decrypt_s += spent;
    s->n_segment++;
    s->n_byte += s->p.parts[part].bytes;
    slot->state = SLOT_READY;
    pthread_cond_signal(&s->done);
}

/* Decrypts what is asked for, or else the first part ahead that is in no slot. False: there is nothing to do, or no
 * room for it. */
static bool go_ahead(struct st_sealed_store *s)
{
    int at = s->at;
    if (s->asked >= 0 && s->slot_of[s->asked] < 0) {
        int slot = find_slot(s, -1);
        if (slot >= 0)
            fill(s, slot, s->asked);
        return slot >= 0;
    }
    for (int i = 0; i < s->p.n_slot && i < s->p.n_order; i++) {
        const struct st_part_use *use = &s->p.order[at];
        if (use->section >= 0 && use->section != s->section) {
            if (use->next < 0)
                return false;
            at = use->next;
            use = &s->p.order[at];
        }
        if (s->slot_of[use->part] < 0) {
            int slot = find_slot(s, distance(s, (int)use->part));
            if (slot >= 0)
                fill(s, slot, (int)use->part);
            return slot >= 0;
        }
        at = (at + 1) % s->p.n_order;
    }
    return false;
}

/* Threads of its own go ahead only while the engine is away: otherwise they would take processors from the threads that
 * compute, one of which then holds up all others. Those decrypt by themselves (work). */
static void *run(void *arg)
{
    struct st_sealed_store *s = arg;
    pthread_mutex_lock(&s->lock);
    while (!s->stop)
        if (!s->away || !go_ahead(s))
            pthread_cond_wait(&s->work, &s->lock);
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

static void away(void *ctx)
{
    struct st_sealed_store *s = ctx;
    if (!s->n_started)
        return;
    pthread_mutex_lock(&s->lock);
    s->away = true;
    pthread_cond_broadcast(&s->work);
    pthread_mutex_unlock(&s->lock);
}

/* Few parts at a time: what one thread does is soon over, and what was decrypted is still in a cache when it is used.
 */
static void work(void *ctx)
{
    struct st_sealed_store *s = ctx;
    pthread_mutex_lock(&s->lock);
    for (int i = 0; i < WORK_PARTS && go_ahead(s); i++)
        ;
    pthread_mutex_unlock(&s->lock);
}

static bool has(void *ctx, int weight)
{
    const struct st_sealed_store *s = ctx;
    return weight >= 0 && weight < s->p.n_weight && s->p.matrix_of[weight] >= 0;
}

/* Rows of a kept part, and of those behind it that are kept too. */
static void take_kept(const struct st_sealed_store *s, uint32_t part, uint32_t row, struct st_mat *out)
{
    const struct st_part *p = &s->p.parts[part];
    const struct st_part_matrix *m = &s->p.matrices[p->matrix];
    uint32_t end = p->row + p->n_row;
    for (uint32_t i = part + 1; i < m->first + m->n && s->p.parts[i].kept; i++)
        end += s->p.parts[i].n_row;
    out->data = s->area.p + p->at + (size_t)(row - p->row) * m->row_bytes;
    out->n_out = end - row;
}

static bool is_ready(const struct st_sealed_store *s, int part)
{
    int i = s->slot_of[part];
    return i >= 0 && s->slots[i].state == SLOT_READY;
}

static bool ready(void *ctx, int weight, uint32_t row)
{
    struct st_sealed_store *s = ctx;
    uint32_t part = st_parts_find(&s->p, weight, row);
    const struct st_part *p = &s->p.parts[part];
    if (p->kept)
        return true;
    pthread_mutex_lock(&s->lock);
    /* Rows of the embedding are asked for out of order, also where the head has the same matrix. */
    if (p->position >= 0 && s->m->plan.weights[weight].role != ST_ROLE_EMBED) {
        s->at = p->position;
        s->section = s->p.order[s->at].section;
    }
    s->away = false;
    s->asked = (int)part;
    bool there = is_ready(s, (int)part);
    if (!there) {
        s->n_wait++;
        s->waiting_since = st_now();
    }
    pthread_mutex_unlock(&s->lock);
    return there;
}

static int take(void *ctx, int weight, uint32_t row, struct st_mat *out, struct st_err *e)
{
    struct st_sealed_store *s = ctx;
    uint32_t part = st_parts_find(&s->p, weight, row);
    const struct st_part *p = &s->p.parts[part];
    const struct st_part_matrix *m = &s->p.matrices[p->matrix];
    int rc = 0;
    *out = (struct st_mat){.dtype = m->dtype, .n_in = m->n_in};
    if (p->kept) {
        take_kept(s, part, row, out);
        return 0;
    }
    pthread_mutex_lock(&s->lock);
    bool next = s->asked == (int)part && s->at == p->position;
    s->asked = (int)part;
    while (!is_ready(s, (int)part))
        if (!go_ahead(s))
            pthread_cond_wait(&s->done, &s->lock);
    int i = s->slot_of[part];
    if (s->slots[i].err.code) {
        *e = s->slots[i].err;
        rc = e->code;
        empty(s, i);
    } else {
        s->slots[i].state = SLOT_HELD;
        out->data = slot_data(s, i) + (size_t)(row - p->row) * m->row_bytes;
        out->n_out = p->row + p->n_row - row;
    }
    if (next)
        s->at = (p->position + 1) % s->p.n_order;
    s->asked = -1;
    if (s->waiting_since > 0)
        s->wait_s += st_now() - s->waiting_since;
    s->waiting_since = 0;
    pthread_mutex_unlock(&s->lock);
    return rc;
}

static void give(void *ctx, int weight, uint32_t row)
{
    struct st_sealed_store *s = ctx;
    uint32_t part = st_parts_find(&s->p, weight, row);
    if (s->p.parts[part].kept)
        return;
    pthread_mutex_lock(&s->lock);
    empty(s, s->slot_of[part]);
    pthread_mutex_unlock(&s->lock);
}

static void fill_kept(void *arg, int thread, int n_threads)
{
    struct filling *f = arg;
    struct st_sealed_store *s = f->s;
    (void)n_threads;
    for (int i; (i = atomic_fetch_add(&f->next, 1)) < s->p.n_part;) {
        const struct st_part *part = &s->p.parts[i];
        struct st_err e = {0};
        if (!part->kept)
            continue;
        if (!decrypt(s, i, s->area.p + part->at, &e)) {
            uint64_t done = atomic_fetch_add(&f->done, part->bytes) + part->bytes;
            if (f->bar && thread == 0)
                st_progress_update(f->bar, done);
            continue;
        }
        pthread_mutex_lock(&f->lock);
        f->err = e;
        pthread_mutex_unlock(&f->lock);
        atomic_store(&f->next, s->p.n_part);
    }
}

/* Everything that stays, before the first step; *n_threads becomes what 0 stands for. */
static int fill_all_kept(struct st_sealed_store *s, bool progress, int *n_threads, struct st_err *e)
{
    struct st_progress bar = {0};
    struct filling f = {.s = s, .lock = PTHREAD_MUTEX_INITIALIZER, .bar = progress ? &bar : NULL};
    struct st_pool *pool;
    if (st_pool_new(*n_threads, &pool, e))
        return e->code;
    *n_threads = st_pool_size(pool);
    if (progress)
        st_progress_start(&bar, "Decrypting weights", "B", s->p.kept);
    st_pool_run(pool, fill_kept, &f);
    if (progress)
        st_progress_end(&bar);
    st_pool_free(pool);
    if (f.err.code)
        *e = f.err;
    return f.err.code;
}

/* With all signals blocked: signals belong to the program's own threads. */
static int start_threads(struct st_sealed_store *s, struct st_err *e)
{
    sigset_t all, old;
    int rc = 0;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    while (!rc && s->p.n_slot && s->n_started < s->n_threads) {
        rc = pthread_create(&s->threads[s->n_started], NULL, run, s);
        if (rc)
            rc = st_fail(e, ST_MEMORY, "cannot start decrypting thread %d of %d: %s", s->n_started + 1, s->n_threads,
                         strerror(rc));
        else
            s->n_started++;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return rc;
}

static int make_area(struct st_sealed_store *s, bool allow_unlocked, struct st_err *e)
{
    size_t len = (size_t)s->p.kept + (size_t)s->p.n_slot * s->p.slot, have = st_mem_available();
    char a[ST_MEM_TEXT], b[ST_MEM_TEXT];
    if (len > have)
        return st_fail(e, ST_MEMORY, "decrypted weights need %s of memory, %s are available: give --enclave-memory",
                       st_mem_text(len, a), st_mem_text(have, b));
    struct st_locked_opts lo = {.what = "decrypted weights", .allow_unlocked = allow_unlocked, .secretmem = true};
    if (st_locked_new(&s->area, len ? len : 1, &lo, e))
        return e->code;
    /* Decoding reads all of it for every token: large pages save most of the address translation. */
    if (!s->area.secretmem)
        (void)madvise(s->area.p, s->area.len, MADV_HUGEPAGE);
    return 0;
}

int st_sealed_store_new(struct st_vault *v, const struct st_model *m, const struct st_sealed_store_opts *o,
                        struct st_sealed_store **out, struct st_err *e)
{
    struct st_sealed_store *s;
    *out = NULL;
    if (st_alloc(&s, 1, sizeof *s, "sealed weights", e))
        return e->code;
    *s = (struct st_sealed_store){
        .vault = v, .m = m, .section = -1, .asked = -1, .away = true, .n_threads = o->n_threads};
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->work, NULL);
    pthread_cond_init(&s->done, NULL);
    if (st_parts_new(st_vault_container(v), m, o->memory, &s->p, e) ||
        st_alloc(&s->slot_of, (size_t)s->p.n_part, sizeof *s->slot_of, "segments", e) ||
        make_area(s, o->allow_unlocked, e))
        goto fail;
    for (int i = 0; i < s->p.n_part; i++)
        s->slot_of[i] = -1;
    s->api = (struct st_store){.ctx = s,
                               .n_hold = s->p.n_slot ? (uint32_t)s->p.n_slot : HOLD_ALL,
                               .has = has,
                               .ready = ready,
                               .work = work,
                               .take = take,
                               .give = give,
                               .away = away};
    if (fill_all_kept(s, o->progress, &s->n_threads, e) ||
        st_alloc(&s->threads, (size_t)s->n_threads, sizeof *s->threads, "threads", e) || start_threads(s, e))
        goto fail;
    *out = s;
    return 0;
fail:
    st_sealed_store_free(s);
    return e->code;
}

void st_sealed_store_free(struct st_sealed_store *s)
{
    if (!s)
        return;
    pthread_mutex_lock(&s->lock);
    s->stop = true;
    pthread_cond_broadcast(&s->work);
    pthread_mutex_unlock(&s->lock);
    for (int i = 0; i < s->n_started; i++)
        pthread_join(s->threads[i], NULL);
    st_locked_free(&s->area);
    st_parts_free(&s->p);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->work);
    pthread_cond_destroy(&s->done);
    free(s->slot_of);
    free(s->threads);
    free(s);
}

const struct st_store *st_sealed_store(const struct st_sealed_store *s)
{
    return &s->api;
}

void st_sealed_store_stats(struct st_sealed_store *s, struct st_sealed_store_stats *out)
{
    pthread_mutex_lock(&s->lock);
    *out = (struct st_sealed_store_stats){.bytes = s->p.bytes,
                                          .resident = s->p.kept,
                                          .ring = (uint64_t)s->p.n_slot * s->p.slot,
                                          .peak = s->p.kept + s->peak,
                                          .n_segment = s->n_segment,
                                          .n_byte = s->n_byte,
                                          .n_wait = s->n_wait,
                                          .wait_s = s->wait_s,
                                          .decrypt_s = s->decrypt_s,
                                          .memory = s->area.secretmem ? "memfd_secret"
                                                    : s->area.locked  ? "locked"
                                                                      : "unlocked"};
    pthread_mutex_unlock(&s->lock);
}

bool st_sealed_store_owns(const struct st_sealed_store *s, const void *p, size_t len)
{
    uintptr_t lo = (uintptr_t)s->area.p, at = (uintptr_t)p;
    return at >= lo && at - lo <= s->area.len && len <= s->area.len - (at - lo);
}
