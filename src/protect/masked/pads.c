#include "protect/masked/pads.h"
#include "base/buf.h"
#include "base/hooks.h"
#include "base/locked.h"
#include "base/mem.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define MAX_THREADS 64
#define MAX_BATCH 4096u
#define DEFAULT_BATCH 64
#define DEFAULT_WAIT 60.0
#define DEFAULT_MEMORY ((size_t)1 << 30)
#define MAX_AHEAD 4096u /* pads of one group, unless one exchange may take more: a small model needs no gigabyte */
#define LINE 64
/* Engine threads go first. A request that waits for pads leaves its processor to the threads that make them. */
#define NICE 10
#define CANARY UINT64_C(0x5ac3d1e7f0b49682)

/* Consecutive pads from one seed. A block is made as a whole, its pads are handed out in order, and it is made anew
 * only when the last of them has come back: so no pad is handed out twice. */
struct block {
    enum { FREE, MAKING, READY } state;
    uint32_t next; /* pads handed out or discarded */
    uint32_t out;  /* handed out and not yet back */
};

struct group {
    size_t words;          /* of one pad */
    size_t stride;         /* words from one block to the next */
    uint32_t *pads;        /* [n_block] of [batch][words] */
    struct block *blocks;  /* [n_block] */
    uint32_t take, make;   /* blocks to look at first */
    size_t ready, making;  /* pads */
    size_t want;           /* most that one waiting taker needs */
    struct st_err failure; /* of the last make(), if its code is not 0: nothing is made until a taker was told */
};

struct st_pads {
    const struct st_scheme *scheme;
    void *state;
    struct group *groups;
    int n_group;
    struct block *blocks; /* of all groups */
    uint32_t batch, n_block;
    double wait_s;
    struct st_locked memory; /* the canary in a cache line of its own, then the pads */
    struct st_vmgen own_vmgen;
    pthread_mutex_t lock; /* guards all below, what groups hold but for the pads, and vmgen */
    pthread_cond_t work;  /* for makers */
    pthread_cond_t made;  /* for takers */
    struct st_vmgen *vmgen;
    bool stop;
    uint64_t n_discard; /* pads whose making began before the last discard are not handed out */
    struct st_pads_stats stats;
    pthread_t threads[MAX_THREADS];
    int n_started;
};

/* False in a forked child, where the kernel has emptied the area: neither pads nor the lock can be trusted there. */
static bool at_home(const struct st_pads *p)
{
    return *(const uint64_t *)p->memory.p == CANARY;
}

static uint32_t *pad_at(const struct group *g, uint32_t block, uint32_t i)
{
    return g->pads + block * g->stride + i * g->words;
}

static void wipe_block(const struct st_pads *p, const struct group *g, uint32_t block, uint32_t from)
{
    explicit_bzero(pad_at(g, block, from), (p->batch - from) * g->words * sizeof(uint32_t));
}

/* Making */

static bool can_make(const struct st_pads *p, struct group *g)
{
    if (g->failure.code)
        return false;
    for (uint32_t i = 0; i < p->n_block; i++) {
        if (g->blocks[g->make].state == FREE)
            return true;
        g->make = (g->make + 1) % p->n_block;
    }
    return false;
}

/* The group with the least, but first one whose takers wait. NULL: all are full. */
static struct group *choose(const struct st_pads *p)
{
    struct group *best = NULL;
    bool best_waits = false;
    for (int i = 0; i < p->n_group; i++) {
        struct group *g = &p->groups[i];
        bool waits = g->want > g->ready + g->making;
        if ((best_waits && !waits) || !can_make(p, g))
            continue;
        if (!best || waits > best_waits || g->ready + g->making < best->ready + best->making) {
            best = g;
            best_waits = waits;
        }
    }
    return best;
}

static double thread_seconds(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

/* One block from a seed of its own; wiped when that fails. */
static int fill(const struct st_pads *p, const struct group *g, uint32_t block, struct st_err *e)
{
    uint8_t seed[32];
    struct st_stream *s = NULL;
    int rc = st_random(seed, sizeof seed, e);
    if (!rc)
        rc = st_stream_new(seed, sizeof seed, NULL, 0, "masked pads", &s, e);
    OPENSSL_cleanse(seed, sizeof seed);
    if (!rc)
        rc = p->scheme->make(p->state, (int)(g - p->groups), p->batch, s, pad_at(g, block, 0), e);
    st_stream_free(s);
    if (rc)
        wipe_block(p, g, block, 0);
    return rc;
}

/* Called with the lock, which it gives up while it computes. */
static void make_block(struct st_pads *p, struct group *g)
{
    struct st_err e = {0};
    uint32_t at = g->make;
    uint64_t n_discard = p->n_discard;
    g->blocks[at] = (struct block){.state = MAKING};
    g->making += p->batch;
    pthread_mutex_unlock(&p->lock);
    double start = thread_seconds();
    int rc = fill(p, g, at, &e);
    double used = thread_seconds() - start;
    pthread_mutex_lock(&p->lock);
    g->making -= p->batch;
    p->stats.make_s += used;
    if (rc) {
        g->blocks[at].state = FREE;
        g->failure = e;
    } else if (n_discard != p->n_discard) {
        wipe_block(p, g, at, 0);
        g->blocks[at].state = FREE;
        p->stats.made += p->batch;
        p->stats.discarded += p->batch;
    } else {
        g->blocks[at].state = READY;
        g->ready += p->batch;
        p->stats.made += p->batch;
    }
    pthread_cond_broadcast(&p->made);
}

static void *maker(void *arg)
{
    struct st_pads *p = arg;
    (void)setpriority(PRIO_PROCESS, (id_t)gettid(), NICE); /* of this thread alone, on Linux */
    pthread_mutex_lock(&p->lock);
    while (!p->stop) {
        struct group *g = choose(p);
        if (g)
            make_block(p, g);
        else
            pthread_cond_wait(&p->work, &p->lock);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

/* Taking */

/* A block whose pads have all come back can be made anew. */
static void give_back(struct st_pads *p, struct block *b)
{
    if (b->state == READY && b->next == p->batch && b->out == 0) {
        b->state = FREE;
        pthread_cond_signal(&p->work);
    }
}

static void discard(struct st_pads *p)
{
    p->n_discard++;
    for (int i = 0; i < p->n_group; i++) {
        struct group *g = &p->groups[i];
        for (uint32_t k = 0; k < p->n_block; k++) {
            struct block *b = &g->blocks[k];
            if (b->state != READY || b->next == p->batch)
                continue;
            wipe_block(p, g, k, b->next);
            p->stats.discarded += p->batch - b->next;
            b->next = p->batch;
            give_back(p, b);
        }
        g->ready = 0;
    }
}

static void look_at_generation(struct st_pads *p)
{
    if (!st_vmgen_changed(p->vmgen))
        return;
    p->stats.n_generation++;
    discard(p);
}

/* Tells a taker; then making is tried again. */
static int failed(struct st_pads *p, struct group *g, struct st_err *e)
{
    *e = g->failure;
    g->failure.code = 0;
    pthread_cond_broadcast(&p->work);
    return e->code;
}

/* Waits until n pads are ready; called with the lock. */
static int wait_for(struct st_pads *p, struct group *g, uint32_t n, struct st_err *e)
{
    struct timespec until;
    double start = st_now(), end = start + p->wait_s;
    int rc = 0, timed_out = 0;
    p->stats.n_wait++;
    until = (struct timespec){(time_t)end, (long)((end - (double)(time_t)end) * 1e9)};
    while (!rc && g->ready < n) {
        if (g->failure.code)
            rc = failed(p, g, e);
        else if (timed_out)
            rc = st_fail(e, ST_IO, "pads: %u were not ready within %.0f s (%zu are)", n, p->wait_s, g->ready);
        else {
            g->want = n > g->want ? n : g->want;
            pthread_cond_broadcast(&p->work);
            timed_out = pthread_cond_timedwait(&p->made, &p->lock, &until) == ETIMEDOUT;
            look_at_generation(p);
        }
    }
    g->want = 0; /* whoever still waits says so again */
    pthread_cond_broadcast(&p->made);
    p->stats.wait_s += st_now() - start;
    return rc;
}

static void hand_out(struct st_pads *p, struct group *g, uint32_t n, uint32_t **out)
{
    p->stats.taken += n;
    g->ready -= n;
    while (n) {
        struct block *b = &g->blocks[g->take];
        if (b->state != READY || b->next == p->batch) {
            g->take = (g->take + 1) % p->n_block;
            continue;
        }
        *out++ = pad_at(g, g->take, b->next++);
        b->out++;
        n--;
    }
}

int st_pads_take(struct st_pads *p, int group, uint32_t n, uint32_t **out, struct st_err *e)
{
    int rc = 0;
    if (!at_home(p))
        return st_fail(e, ST_INTERNAL, "pads: this process is a fork of the one that made them");
    if (group < 0 || group >= p->n_group || n > p->n_block * p->batch)
        return st_fail(e, ST_INTERNAL, "pads: %u of group %d asked for; the pool holds %u of each of %d groups", n,
                       group, p->n_block * p->batch, p->n_group);
    struct group *g = &p->groups[group];
    pthread_mutex_lock(&p->lock);
    look_at_generation(p);
    if (g->ready < n)
        rc = wait_for(p, g, n, e);
    if (!rc)
        hand_out(p, g, n, out);
    pthread_mutex_unlock(&p->lock);
    return rc;
}

void st_pads_done(struct st_pads *p, int group, uint32_t n, uint32_t **pads, size_t wiped)
{
    struct group *g = &p->groups[group];
    if (!at_home(p))
        return;
    /* With the memset of the C library: OPENSSL_cleanse takes three times as long. */
    for (uint32_t i = 0; i < n; i++)
        explicit_bzero(pads[i] + wiped, (g->words - wiped) * sizeof **pads);
    pthread_mutex_lock(&p->lock);
    for (uint32_t i = 0; i < n; i++) {
        struct block *b = &g->blocks[(size_t)(pads[i] - g->pads) / g->stride];
        b->out--;
        give_back(p, b);
        pads[i] = NULL;
    }
    p->stats.wiped += n;
    pthread_mutex_unlock(&p->lock);
}

/* With the lock: nobody discards them meanwhile. Those of the next block are left alone, as one exchange rarely needs
 * them. */
void st_pads_warm(struct st_pads *p, int group, uint32_t n, size_t words)
{
    const struct group *g = &p->groups[group];
    if (!at_home(p))
        return;
    pthread_mutex_lock(&p->lock);
    uint32_t block = g->take, from = g->blocks[block].next;
    uint32_t to = g->blocks[block].state != READY ? from : p->batch - from < n ? p->batch : from + n;
    for (; from < to; from++)
        st_warm(pad_at(g, block, from), words * sizeof(uint32_t));
    pthread_mutex_unlock(&p->lock);
}

void st_pads_discard(struct st_pads *p)
{
    if (!at_home(p))
        return;
    pthread_mutex_lock(&p->lock);
    discard(p);
    pthread_mutex_unlock(&p->lock);
}

void st_pads_stats(struct st_pads *p, struct st_pads_stats *out)
{
    *out = (struct st_pads_stats){.generation = "not watched: this process is a fork"};
    if (!at_home(p))
        return;
    pthread_mutex_lock(&p->lock);
    *out = p->stats;
    for (int i = 0; i < p->n_group; i++)
        out->ready += p->groups[i].ready;
    pthread_mutex_unlock(&p->lock);
}

/* Setting up */

/* Pads of every group that the budget holds, cut into blocks as large as leaves room for max_row: up to batch - 1 pads
 * of a block that was begun may be gone. */
static int plan_blocks(struct st_pads *p, const struct st_pads_opts *o, size_t each, struct st_err *e)
{
    char want[ST_MEM_TEXT], have[ST_MEM_TEXT];
    size_t budget = o->memory, available = st_mem_available(), least = 0;
    uint32_t max_row = o->max_row ? o->max_row : 1;
    uint32_t batch = o->batch ? o->batch : DEFAULT_BATCH;
    if (!budget)
        budget = available / 8 < DEFAULT_MEMORY ? available / 8 : DEFAULT_MEMORY;
    uint32_t ahead = max_row > MAX_AHEAD ? max_row : MAX_AHEAD;
    size_t n = budget / each < ahead ? budget / each : ahead;
    if (n < max_row) {
        if (!st_mul_size(each, max_row, &least))
            least = SIZE_MAX;
        return st_fail(e, ST_MEMORY, "pads: %u of every exchange need %s of memory; the budget is %s (--pad-memory)",
                       max_row, st_mem_text(least, want), st_mem_text(budget, have));
    }
    batch = batch < MAX_BATCH ? batch : MAX_BATCH;
    while (batch > 1 && ((max_row - 1 + batch - 1) / batch + 1) * (size_t)batch > n)
        batch--;
    p->batch = batch;
    p->n_block = (uint32_t)(n / batch);
    return 0;
}

static int lay_out(struct st_pads *p, const struct st_pads_opts *o, struct st_err *e)
{
    size_t each = 0, total = LINE;
    struct st_locked_opts lo = {.what = "pads", .allow_unlocked = o->allow_unlocked, .huge = true};
    for (int i = 0; i < o->n_group; i++) {
        p->groups[i].words = (size_t)o->groups[i].d + o->groups[i].n;
        each += p->groups[i].words * sizeof(uint32_t);
    }
    if (plan_blocks(p, o, each, e))
        return e->code;
    for (int i = 0; i < p->n_group; i++) {
        struct group *g = &p->groups[i];
        g->stride = (p->batch * g->words * sizeof(uint32_t) + LINE - 1) / LINE * LINE / sizeof(uint32_t);
        total += p->n_block * g->stride * sizeof(uint32_t);
    }
    if (st_locked_new(&p->memory, total, &lo, e))
        return e->code;
    memcpy(p->memory.p, &(uint64_t){CANARY}, sizeof(uint64_t));
    if (st_alloc(&p->blocks, (size_t)p->n_group * p->n_block, sizeof *p->blocks, "pads", e))
        return e->code;
    uint32_t *pads = (uint32_t *)(p->memory.p + LINE);
    for (int i = 0; i < p->n_group; i++) {
        struct group *g = &p->groups[i];
        g->blocks = p->blocks + (size_t)i * p->n_block;
        g->pads = pads;
        pads += p->n_block * g->stride;
    }
    p->stats.capacity = (size_t)p->n_group * p->n_block * p->batch;
    p->stats.bytes = total;
    p->stats.locked = p->memory.locked;
    return 0;
}

static int start_threads(struct st_pads *p, int n, struct st_err *e)
{
    sigset_t all, before;
    int rc = 0;
    n = n < 1 ? 1 : n > MAX_THREADS ? MAX_THREADS : n;
    /* Signals are for the program's own threads. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (!rc && p->n_started < n) {
        int error = pthread_create(&p->threads[p->n_started], NULL, maker, p);
        if (error)
            rc = st_fail(e, ST_MEMORY, "pads: cannot start a thread: %s", strerror(error));
        else
            p->n_started++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

static void init_locks(struct st_pads *p)
{
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->work, NULL);
    pthread_cond_init(&p->made, &monotonic);
    pthread_condattr_destroy(&monotonic);
}

int st_pads_new(const struct st_pads_opts *o, struct st_pads **out, struct st_err *e)
{
    *out = NULL;
    if (o->n_group < 1)
        return st_fail(e, ST_INTERNAL, "pads: no exchange needs any");
    struct st_pads *p = calloc(1, sizeof *p);
    if (!p)
        return st_fail(e, ST_MEMORY, "pads: out of memory");
    p->scheme = o->scheme;
    p->state = o->state;
    p->n_group = o->n_group;
    p->wait_s = o->wait_s > 0 ? o->wait_s : DEFAULT_WAIT;
    p->own_vmgen.log = p->own_vmgen.uevent = -1;
    init_locks(p);
    int rc = st_alloc(&p->groups, (size_t)o->n_group, sizeof *p->groups, "pads", e);
    if (!rc)
        rc = lay_out(p, o, e);
    if (!rc) {
        p->vmgen = o->vmgen;
        if (!p->vmgen) {
            st_vmgen_open(&p->own_vmgen);
            p->vmgen = &p->own_vmgen;
        }
        p->stats.generation = st_vmgen_describe(p->vmgen);
        rc = start_threads(p, o->n_threads, e);
    }
    if (rc)
        st_pads_free(p);
    else
        *out = p;
    return rc;
}

void st_pads_free(struct st_pads *p)
{
    if (!p)
        return;
    bool home = p->memory.p && at_home(p);
    if (home) {
        pthread_mutex_lock(&p->lock);
        p->stop = true;
        pthread_cond_broadcast(&p->work);
        pthread_mutex_unlock(&p->lock);
        for (int i = 0; i < p->n_started; i++)
            pthread_join(p->threads[i], NULL);
        pthread_cond_destroy(&p->made);
        pthread_cond_destroy(&p->work);
        pthread_mutex_destroy(&p->lock);
    }
    st_vmgen_close(&p->own_vmgen);
    st_locked_free(&p->memory);
    free(p->blocks);
    free(p->groups);
    free(p);
}
