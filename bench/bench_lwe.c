/* The LWE basis on one thread: secrets times the basis (masks), and hints.
 *
 *     bench_lwe SET D SECONDS
 *
 * Prints one JSON object: microseconds of processor time per mask of D values (64 at a time) and per column of hints. A
 * dense set of the same m is what the transforms are to be compared with. */
#include "base/hooks.h"
#include "field/lwe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define N_SECRET 64u

struct bench {
    struct st_lwe_basis masks, hints;
    const struct st_limb_kernels *limb;
    uint32_t d, m;
    int8_t *small; /* [N_SECRET][max(d, m)] */
    uint32_t *out;
};

static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void masks(const struct bench *b)
{
    st_lwe_basis_apply(&b->masks, NULL, b->limb, b->small, N_SECRET, b->d, b->out);
}

static void hints(const struct bench *b)
{
    st_lwe_basis_hints(&b->hints, b->limb, b->small, ST_LWE_HINTS, b->d, b->out);
}

/* Microseconds per vector, the best pass. */
static double timed(void (*run)(const struct bench *b), const struct bench *b, uint32_t n, double limit)
{
    double best = 1e9, end = st_now() + limit;
    do {
        double start = cpu_seconds();
        run(b);
        double took = cpu_seconds() - start;
        best = took < best ? took : best;
    } while (st_now() < end);
    return best * 1e6 / n;
}

static int open_bench(struct bench *b, const char *name, struct st_err *e)
{
    static const uint8_t digest[ST_LWE_DIGEST];
    const struct st_lwe_params *p;
    int rc = st_lwe_params_find(name, &p, e);
    if (!rc)
        rc = st_limb_find(NULL, &b->limb, e);
    if (!rc)
        rc = st_lwe_basis_init(&b->masks, p, digest, b->d, e);
    if (!rc)
        rc = st_lwe_basis_init_hints(&b->hints, p, digest, b->d, e);
    if (rc)
        return rc;
    b->m = p->m;
    size_t width = b->d > b->m ? b->d : b->m;
    b->small = malloc(N_SECRET * width);
    b->out = malloc(N_SECRET * width * sizeof *b->out);
    if (!b->small || !b->out)
        return st_fail(e, ST_MEMORY, "out of memory");
    for (size_t i = 0; i < N_SECRET * width; i++)
        b->small[i] = (int8_t)(i % 51) - 25;
    return 0;
}

int main(int argc, char **argv)
{
    struct bench b = {.d = argc == 4 ? (uint32_t)atoi(argv[2]) : 0};
    double limit = argc == 4 ? atof(argv[3]) : 0;
    struct st_err e;
    if (b.d < 1 || b.d > 1u << 20 || !(limit > 0)) {
        fprintf(stderr, "usage: bench_lwe SET D SECONDS\n");
        return 2;
    }
    if (open_bench(&b, argv[1], &e)) {
        fprintf(stderr, "bench_lwe: %s\n", e.msg);
        return e.code;
    }
    double mask_us = timed(masks, &b, N_SECRET, limit), hint_us = timed(hints, &b, ST_LWE_HINTS, limit);
    printf("{\"set\": \"%s\", \"d\": %u, \"mask_us\": %.2f, \"hint_us\": %.2f}\n", argv[1], b.d, mask_us, hint_us);
    st_lwe_basis_free(&b.masks);
    st_lwe_basis_free(&b.hints);
    free(b.small);
    free(b.out);
    return 0;
}
