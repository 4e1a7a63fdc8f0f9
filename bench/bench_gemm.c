/* The machine's f32 GEMM rate with OpenBLAS: what `sotto obfuscate` is measured against.
 *
 *     bench_gemm THREADS N SECONDS
 *
 * Prints one JSON object: GFLOP per second of wall time and per second of CPU time, of products [N, N] [N, N], each
 * thread on its own with single-threaded OpenBLAS; the best of the passes that fit into SECONDS. */
#include "base/hooks.h"
#include "base/pool.h"

#include <cblas.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

struct bench {
    int n;
    float **m; /* [threads][3 n n] */
};

static void product(void *arg, int thread, int n_threads)
{
    const struct bench *b = arg;
    (void)n_threads;
    size_t size = (size_t)b->n * (size_t)b->n;
    float *a = b->m[thread];
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, b->n, b->n, b->n, 1, a, b->n, a + size, b->n, 0,
                a + 2 * size, b->n);
}

static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int main(int argc, char **argv)
{
    struct st_pool *pool;
    struct st_err e;
    int threads = argc == 4 ? atoi(argv[1]) : 0, n = argc == 4 ? atoi(argv[2]) : 0;
    double limit = argc == 4 ? atof(argv[3]) : 0, best = 0, best_cpu = 0;
    if (threads < 1 || n < 1 || !(limit > 0)) {
        fprintf(stderr, "usage: bench_gemm THREADS N SECONDS\n");
        return 2;
    }
    openblas_set_num_threads(1);
    struct bench b = {.n = n, .m = calloc((size_t)threads, sizeof *b.m)};
    if (!b.m || st_pool_new(threads, &pool, &e)) {
        fprintf(stderr, "bench_gemm: out of memory or threads\n");
        return 1;
    }
    for (int t = 0; t < threads; t++) {
        size_t size = 3 * (size_t)n * (size_t)n;
        b.m[t] = malloc(size * sizeof **b.m);
        if (!b.m[t])
            return 1;
        for (size_t i = 0; i < size; i++)
            b.m[t][i] = (float)(i % 13) - 6;
    }
    double flop = 2.0 * n * n * n * threads, end = st_now() + limit;
    do {
        double wall = st_now(), cpu = cpu_seconds();
        st_pool_run(pool, product, &b);
        wall = flop / (st_now() - wall);
        cpu = flop / (cpu_seconds() - cpu);
        best = wall > best ? wall : best;
        best_cpu = cpu > best_cpu ? cpu : best_cpu;
    } while (st_now() < end);
    printf("{\"threads\": %d, \"n\": %d, \"gflops\": %.1f, \"gflop_per_cpu_second\": %.1f}\n", threads, n, 1e-9 * best,
           1e-9 * best_cpu);
    return 0;
}
