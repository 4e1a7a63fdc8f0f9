#include "base/hooks.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <time.h>

double st_now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

int64_t st_unix_time(void)
{
    return (int64_t)time(NULL);
}

static double seconds_of(int who)
{
    struct rusage u;
    if (getrusage(who, &u))
        return 0;
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + 1e-6 * (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

double st_cpu_time(void)
{
    return seconds_of(RUSAGE_SELF) + seconds_of(RUSAGE_CHILDREN);
}

int st_random(void *p, size_t len, struct st_err *e)
{
    uint8_t *c = p;
    while (len) {
        ssize_t n = getrandom(c, len, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return st_fail(e, ST_IO, "getrandom: %s", strerror(errno));
        c += n;
        len -= (size_t)n;
    }
    return 0;
}

int st_random_below(uint32_t n, uint32_t *out, struct st_err *e)
{
    uint32_t limit = UINT32_MAX - UINT32_MAX % n; /* so that none comes more often */
    int rc;
    do
        rc = st_random(out, sizeof *out, e);
    while (!rc && *out >= limit);
    *out %= n;
    return rc;
}

static uint64_t splitmix(uint64_t *x)
{
    uint64_t z = (*x += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

void st_rng_seed(struct st_rng *r, uint64_t seed)
{
    for (int i = 0; i < 4; i++)
        r->s[i] = splitmix(&seed);
}

static uint64_t rotl(uint64_t x, int k)
{
    return (x << k) | (x >> (64 - k));
}

uint64_t st_rng_next(struct st_rng *r)
{
    uint64_t *s = r->s;
    uint64_t out = rotl(s[1] * 5, 7) * 9;
    uint64_t t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotl(s[3], 45);
    return out;
}

double st_rng_unit(struct st_rng *r)
{
    return (double)(st_rng_next(r) >> 11) * 0x1p-53;
}
