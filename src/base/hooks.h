/* Clocks and entropy. */
#ifndef ST_BASE_HOOKS_H
#define ST_BASE_HOOKS_H

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

/* Monotonic seconds, and wall-clock seconds since 1970. */
double st_now(void);
int64_t st_unix_time(void);
/* CPU seconds of this process and of its children that have ended. */
double st_cpu_time(void);

/* Bytes from getrandom(2). IO error when the kernel refuses. */
int st_random(void *p, size_t len, struct st_err *e) ST_MUST_CHECK;
/* Below n (1 or more), all alike, from the same bytes. */
int st_random_below(uint32_t n, uint32_t *out, struct st_err *e) ST_MUST_CHECK;

/* Small fast generator for sampling (xoshiro256**, seeded by splitmix64). Not for secrets. */
struct st_rng {
    uint64_t s[4];
};
void st_rng_seed(struct st_rng *r, uint64_t seed);
uint64_t st_rng_next(struct st_rng *r);
/* Uniform in [0, 1). */
double st_rng_unit(struct st_rng *r);

#endif
