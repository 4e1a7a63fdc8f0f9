#include "base/pool.h"
#include "base/buf.h"
#include "base/hooks.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* How long a thread spins before it sleeps: longer than the pauses between the steps of one token. */
#define SPIN_SECONDS 80e-6
#define MAX_THREADS 1024

/* Each on its own cache line: the caller writes `step`, the workers write `pending`. */
struct st_pool {
    _Alignas(64) atomic_uint step; /* counts steps; a change starts one. Also the futex that workers sleep on */
    atomic_uint n_asleep;
    _Alignas(64) atomic_uint pending; /* workers that have not finished; the futex that the caller sleeps on */
    atomic_uint caller_asleep;
    _Alignas(64) st_pool_fn *fn; /* published by `step` */
    void *arg;
    atomic_bool stop;
    bool spin; /* spinning steals time from the others when there are more threads than CPUs */
    const volatile sig_atomic_t *cancel;
    int n_threads, n_started;
    struct worker {
        /* The last step whose part for this worker somebody took: the worker, or the caller when the worker did not
         * come in time (asleep, or another process has its CPU). */
        _Alignas(64) atomic_uint taken;
        pthread_t id;
        struct st_pool *pool;
        int index;
    } * workers;
};

static void futex_wait(atomic_uint *f, unsigned seen)
{
    syscall(SYS_futex, f, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void futex_wake(atomic_uint *f)
{
    syscall(SYS_futex, f, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static inline void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Waits while *f == value for at most SPIN_SECONDS. True when it has changed. */
static bool spin_while(const struct st_pool *p, atomic_uint *f, unsigned value)
{
    if (!p->spin)
        return atomic_load_explicit(f, memory_order_acquire) != value;
    double end = 0;
    for (;;) {
        for (int i = 0; i < 64; i++) {
            if (atomic_load_explicit(f, memory_order_acquire) != value)
                return true;
            relax();
        }
        double now = st_now();
        if (end == 0)
            end = now + SPIN_SECONDS;
        else if (now > end)
            return false;
    }
}

/* Takes the part of worker w in `step`; true for the first to ask. */
static bool take(struct worker *w, unsigned step)
{
    unsigned before = step - 1;
    return atomic_compare_exchange_strong(&w->taken, &before, step);
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    struct st_pool *p = w->pool;
    unsigned seen = 0;
    for (;;) {
        if (!spin_while(p, &p->step, seen)) {
            /* Sequentially consistent with start_step(): either the caller sees us asleep or we see its new step. */
            atomic_fetch_add(&p->n_asleep, 1);
            while (atomic_load(&p->step) == seen)
                futex_wait(&p->step, seen);
            atomic_fetch_sub(&p->n_asleep, 1);
        }
        seen = atomic_load(&p->step);
        if (atomic_load(&p->stop))
            return NULL;
        if (!take(w, seen))
            continue;
        p->fn(p->arg, w->index, p->n_threads);
        if (atomic_fetch_sub(&p->pending, 1) == 1 && atomic_load(&p->caller_asleep))
            futex_wake(&p->pending);
    }
}

static unsigned start_step(struct st_pool *p)
{
    unsigned step = atomic_fetch_add(&p->step, 1) + 1;
    if (atomic_load(&p->n_asleep))
        futex_wake(&p->step);
    return step;
}

void st_pool_run(struct st_pool *p, st_pool_fn *fn, void *arg)
{
    if (p->n_threads == 1) {
        fn(arg, 0, 1);
        return;
    }
    p->fn = fn;
    p->arg = arg;
    atomic_store_explicit(&p->pending, (unsigned)p->n_threads - 1, memory_order_relaxed);
    unsigned step = start_step(p);
    fn(arg, 0, p->n_threads);
    for (int i = 0; i < p->n_threads - 1; i++)
        if (take(&p->workers[i], step)) {
            fn(arg, p->workers[i].index, p->n_threads);
            atomic_fetch_sub(&p->pending, 1);
        }
    for (unsigned left; (left = atomic_load(&p->pending)) != 0;) {
        if (spin_while(p, &p->pending, left))
            continue;
        atomic_store(&p->caller_asleep, 1);
        if (atomic_load(&p->pending) == left)
            futex_wait(&p->pending, left);
        atomic_store(&p->caller_asleep, 0);
    }
}

/* CPUs in this process's affinity mask. */
static int usable_cpus(void)
{
    for (int n = 1024; n <= 1 << 16; n *= 4) {
        cpu_set_t *set = CPU_ALLOC((size_t)n);
        if (!set)
            break;
        size_t size = CPU_ALLOC_SIZE((size_t)n);
        int rc = sched_getaffinity(0, size, set), count = rc == 0 ? CPU_COUNT_S(size, set) : 0;
        CPU_FREE(set);
        if (count > 0)
            return count;
        if (errno != EINVAL)
            break;
    }
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (int)n : 1;
}

/* Starts the workers with all signals blocked: signals belong to the program's own threads. */
static int start_workers(struct st_pool *p, struct st_err *e)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int rc = 0;
    while (!rc && p->n_started < p->n_threads - 1) {
        struct worker *w = &p->workers[p->n_started];
        w->pool = p;
        w->index = p->n_started + 1;
        int err = pthread_create(&w->id, NULL, worker_main, w);
        if (err)
            rc = st_fail(e, ST_MEMORY, "cannot start thread %d of %d: %s", w->index + 1, p->n_threads, strerror(err));
        else
            p->n_started++;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return rc;
}

int st_pool_new(int n_threads, struct st_pool **out, struct st_err *e)
{
    *out = NULL;
    if (n_threads < 0 || n_threads > MAX_THREADS)
        return st_fail(e, ST_USAGE, "%d threads: want 1..%d, or 0 for all CPUs", n_threads, MAX_THREADS);
    int n_cpu = usable_cpus();
    if (n_threads == 0)
        n_threads = n_cpu < MAX_THREADS ? n_cpu : MAX_THREADS;
    struct st_pool *p;
    int rc = st_alloc(&p, 1, sizeof *p, "thread pool", e);
    if (rc)
        return rc;
    p->n_threads = n_threads;
    p->spin = n_threads <= n_cpu;
    rc = st_alloc(&p->workers, (size_t)n_threads, sizeof *p->workers, "thread pool", e);
    if (!rc)
        rc = start_workers(p, e);
    if (rc) {
        st_pool_free(p);
        return rc;
    }
    *out = p;
    return 0;
}

void st_pool_free(struct st_pool *p)
{
    if (!p)
        return;
    atomic_store(&p->stop, true);
    start_step(p);
    for (int i = 0; i < p->n_started; i++)
        pthread_join(p->workers[i].id, NULL);
    free(p->workers);
    free(p);
}

int st_pool_size(const struct st_pool *p)
{
    return p->n_threads;
}

void st_pool_cancel_by(struct st_pool *p, const volatile sig_atomic_t *cancel)
{
    if (p)
        p->cancel = cancel;
}

bool st_pool_cancelled(const struct st_pool *p)
{
    return p && p->cancel && *p->cancel;
}

void st_pool_part(size_t n, size_t step, int t, int n_threads, size_t *lo, size_t *hi)
{
    size_t units = n / step + (n % step != 0), whole = units / (size_t)n_threads, rest = units % (size_t)n_threads;
    size_t i = (size_t)t, first = i * whole + (i < rest ? i : rest), count = whole + (i < rest);
    *lo = first * step < n ? first * step : n;
    *hi = (first + count) * step < n ? (first + count) * step : n;
}
