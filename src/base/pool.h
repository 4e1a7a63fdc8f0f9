/* Worker threads for data-parallel steps. The caller's thread takes part as thread 0. A step costs about a
 * microsecond: workers spin briefly before they sleep, so that back-to-back steps of one token find them awake.
 * One step at a time; call only from one thread. */
#ifndef ST_BASE_POOL_H
#define ST_BASE_POOL_H

#include "base/err.h"

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>

struct st_pool;

typedef void st_pool_fn(void *arg, int thread, int n_threads);

/* n_threads 0 = the CPUs that this process may use. */
int st_pool_new(int n_threads, struct st_pool **out, struct st_err *e) ST_MUST_CHECK;
void st_pool_free(struct st_pool *p);
int st_pool_size(const struct st_pool *p);
/* Runs fn(arg, t, n) once for every t of n, each t on one thread, and returns when all are done. A worker that does not
 * come in time is not waited for: the caller does its part. */
void st_pool_run(struct st_pool *p, st_pool_fn *fn, void *arg);
/* A pool may be NULL. From now on long work of this pool may be left undone once *cancel is set (kept until the pool is
 * freed; NULL = no more): who cuts work into blocks asks before each, and whoever asked for the work must ask when it
 * is back. */
void st_pool_cancel_by(struct st_pool *p, const volatile sig_atomic_t *cancel);
bool st_pool_cancelled(const struct st_pool *p);
/* Thread t's part [*lo, *hi) of n items, cut at multiples of `step`. */
void st_pool_part(size_t n, size_t step, int t, int n_threads, size_t *lo, size_t *hi);

#endif
