/* Times the linear layers: bytes of weights per second against the measured read bandwidth (few rows), and
 * floating-point operations per second (many rows). Prints CSV: isa, threads, dtype, n_out, n_in, rows, GB/s, part of
 * the roof, GFLOP/s.
 *
 *   bench_kernels [-t THREADS] [-i ISA] [-o N_OUT] [-n N_IN] [-r ROWS] [-s SECONDS] [-c]
 *
 * -c counts the CPU time of one thread instead of the time on the clock, for a machine that is shared.
 *
 * The weights of one run are many matrices, far larger in all than the last-level cache, used in turn as in a model. */
#include "base/buf.h"
#include "base/hooks.h"
#include "tensor/compute.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define ROOF_BYTES (1ull << 30)
#define WEIGHT_BYTES (384ull << 20)

static bool cpu_time;

static double now(void)
{
    struct timespec ts;
    if (!cpu_time)
        return st_now();
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

struct roof {
    const uint64_t *p;
    size_t n;
    uint64_t sum[64];
};

static void read_part(void *arg, int t, int n_threads)
{
    struct roof *r = arg;
    typedef uint64_t line __attribute__((vector_size(64)));
    size_t lo, hi;
    line a = {0}, b = {0}, c = {0}, d = {0};
    st_pool_part(r->n, 32, t, n_threads, &lo, &hi);
    for (size_t i = lo; i + 32 <= hi; i += 32) {
        const line *l = (const line *)(r->p + i);
        a += l[0];
        b += l[1];
        c += l[2];
        d += l[3];
    }
    a += b + c + d;
    r->sum[t & 63] = a[0] ^ a[7];
}

/* Best of several passes over 1 GiB, in bytes per second. */
static double measure_roof(struct st_pool *pool, void *p)
{
    struct roof r = {.p = p, .n = ROOF_BYTES / 8};
    double best = 1e9;
    for (int i = 0; i < 8; i++) {
        double t = now();
        st_pool_run(pool, read_part, &r);
        t = now() - t;
        best = t < best ? t : best;
    }
    return (double)ROOF_BYTES / best;
}

static void *map(size_t n)
{
    void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        fprintf(stderr, "cannot map %zu bytes\n", n);
        exit(8);
    }
    madvise(p, n, MADV_HUGEPAGE);
    return p;
}

struct options {
    int n_threads;
    const char *isa;
    uint32_t n_out, n_in, n_row;
    double seconds;
};

static void run(struct st_compute *c, const struct options *o, enum st_dtype dtype, uint32_t n_row,
                const uint8_t *bytes, double roof)
{
    struct st_mat m = {.data = bytes, .dtype = dtype, .n_out = o->n_out, .n_in = o->n_in};
    size_t size = st_mat_bytes(&m), n_mat = WEIGHT_BYTES / size ? WEIGHT_BYTES / size : 1, n = 0;
    float *x = map((size_t)n_row * o->n_in * sizeof *x), *y = map((size_t)n_row * o->n_out * sizeof *y);
    float *scale = map(o->n_out * sizeof *scale);
    for (size_t i = 0; i < (size_t)n_row * o->n_in; i++)
        x[i] = (float)(i % 17) - 8;
    m.scale = dtype == ST_DTYPE_I8 ? scale : NULL;
    double best = 1e9, start = now();
    while (now() - start < o->seconds) {
        double t = now();
        size_t i = 0;
        for (; i < n_mat && (n_row < 16 || now() - t < 0.2); i++) {
            m.data = bytes + i * size;
            st_linear(c, &(struct st_linear_job){.w = &m, .y = y}, 1, x, n_row);
        }
        t = (now() - t) / (double)i;
        best = t < best ? t : best;
        n++;
    }
    double rate = (double)size / best, flops = 2.0 * n_row * o->n_out * o->n_in / best;
    printf("%s,%d,%s,%u,%u,%u,%.1f,%.2f,%.0f\n", st_compute_isa(c), st_compute_threads(c), st_dtype_name(dtype),
           o->n_out, o->n_in, n_row, rate * 1e-9, rate / roof, flops * 1e-9);
    fflush(stdout);
    munmap(x, (size_t)n_row * o->n_in * sizeof *x);
    munmap(y, (size_t)n_row * o->n_out * sizeof *y);
    munmap(scale, o->n_out * sizeof *scale);
}

int main(int argc, char **argv)
{
    struct options o = {.n_threads = 0, .n_out = 4864, .n_in = 896, .seconds = 0.5};
    for (int opt; (opt = getopt(argc, argv, "t:i:o:n:r:s:c")) != -1;)
        switch (opt) {
        case 't':
            o.n_threads = atoi(optarg);
            break;
        case 'i':
            o.isa = optarg;
            break;
        case 'o':
            o.n_out = (uint32_t)atoi(optarg);
            break;
        case 'n':
            o.n_in = (uint32_t)atoi(optarg);
            break;
        case 'r':
            o.n_row = (uint32_t)atoi(optarg);
            break;
        case 's':
            o.seconds = atof(optarg);
            break;
        case 'c':
            cpu_time = true;
            o.n_threads = 1;
            break;
        default:
            fprintf(stderr,
                    "usage: bench_kernels [-t THREADS] [-i ISA] [-o N_OUT] [-n N_IN] [-r ROWS] [-s SECONDS] [-c]\n");
            return 2;
        }
    struct st_compute_opts co = {.n_threads = o.n_threads, .isa = o.isa, .max_row = 512, .max_width = o.n_in};
    struct st_compute *c;
    struct st_err e;
    if (st_compute_new(&co, &c, &e)) {
        fprintf(stderr, "%s\n", e.msg);
        return e.code;
    }
    uint8_t *bytes = map(ROOF_BYTES);
    /* 0x3c3c and 0x3c3c3c3c are small numbers in every dtype. */
    memset(bytes, 0x3c, ROOF_BYTES);
    double roof = measure_roof(st_compute_pool(c), bytes);
    fprintf(stderr, "read bandwidth: %.1f GB/s\n", roof * 1e-9);
    static const uint32_t rows[] = {1, 2, 4, 8, 16, 32, 128, 512};
    printf("isa,threads,dtype,n_out,n_in,rows,gbps,roof_part,gflops\n");
    for (enum st_dtype t = 0; t < ST_DTYPE_COUNT; t++)
        for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++)
            if (!o.n_row || o.n_row == rows[r])
                run(c, &o, t, rows[r], bytes, roof);
    st_compute_free(c);
    munmap(bytes, ROOF_BYTES);
    return 0;
}
