/* Times the arithmetic of masked inference, each figure beside a peer of the same run:
 *
 *  worker   exact products of masked rows and int8 weights (backend "cpu"), against two peers of the same shape and
 *           threads: the engine's linear layer with int8 weights (1 to 32 rows: 16-bit rows; more: bf16), and a plain
 *           product of unsigned and signed bytes by the same kernels (one limb in the place of four: at equal speed of
 *           the kernels 4.0 times as many multiplications)
 *  pads     what 64 pads need of one 8B layer on one thread: secrets times hints (4 and 3 limbs), and the refill of
 *           one-time pads; in billions of byte products per second, and as a part of what the registers could do
 *  trusted  one row of one 8B layer on one thread: mask, unmask, check; and transforms of 16 polynomials
 *
 *   bench_masked_kernels [-t THREADS] [-i ISA] [-s SECONDS of each figure] [-p worker|pads|trusted] [--csv]
 *
 * Weights of one run are many matrices, far larger in all than the last-level cache, used in turn as in a model. Every
 * figure is the best of rounds in which the contestants take turns. */
#include "base/buf.h"
#include "base/hooks.h"
#include "field/backend.h"
#include "field/fq.h"
#include "field/freivalds.h"
#include "field/mask_kernels.h"
#include "field/ntt.h"
#include "field/product.h"
#include "tensor/compute.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define WEIGHT_BYTES (384ull << 20)
#define MAX_MAT 512
#define MAX_ROW 64

struct options {
    int n_threads;
    const char *isa, *part;
    double seconds;
    bool csv;
};

/* The matrices of one layer, and how often each is there. */
struct shape {
    const char *model;
    uint32_t n_out, n_in, count;
};
static const struct shape shapes[] = {
    {"0.5B", 896, 896, 2}, {"0.5B", 128, 896, 2}, {"0.5B", 4864, 896, 2}, {"0.5B", 896, 4864, 1},
    {"8B", 4096, 4096, 2}, {"8B", 1024, 4096, 2}, {"8B", 14336, 4096, 2}, {"8B", 4096, 14336, 1},
};
enum { N_SHAPE = sizeof shapes / sizeof shapes[0] };

static void stop(const struct st_err *e)
{
    fprintf(stderr, "%s\n", e->msg);
    exit(e->code);
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

static void fill(uint32_t *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = (uint32_t)(i * 2654435761u) % ST_FQ;
}

/* One figure: the time of fn(arg, i) for matrices i, the best of rounds. */
struct contestant {
    void (*fn)(void *arg, uint32_t i);
    double best;
};

static void race(struct contestant *c, int n, void *arg, uint32_t n_mat, double seconds)
{
    for (int i = 0; i < n; i++)
        c[i].best = 1e9;
    uint32_t next = 0;
    double end = st_now() + seconds * n;
    do
        for (int i = 0; i < n; i++) {
            double start = st_now(), t;
            uint32_t done = 0;
            do {
                c[i].fn(arg, next++ % n_mat);
                done++;
                t = st_now() - start;
            } while (t < seconds / 8 || done < 2);
            c[i].best = t / done < c[i].best ? t / done : c[i].best;
        }
    while (st_now() < end);
}

/* Worker: one shape, some rows. */
struct layer {
    const struct st_backend *backend;
    void *device;
    struct st_compute *compute;
    const struct st_limb_kernels *kernels;
    struct st_backend_weight weights[MAX_MAT];
    struct st_mat mats[MAX_MAT];
    uint32_t n_mat, n_row;
    uint32_t *rows, *out;
    float *x, *y;
    uint8_t *bytes; /* [n_row][n_in] of the plain product */
};

static void run_masked(void *arg, uint32_t i)
{
    struct layer *l = arg;
    struct st_err e;
    if (l->backend->multiply(l->device, l->rows, l->n_row, &(struct st_backend_job){i, l->out}, 1, &e))
        stop(&e);
}

static void run_linear(void *arg, uint32_t i)
{
    struct layer *l = arg;
    st_linear(l->compute, &(struct st_linear_job){.w = &l->mats[i], .y = l->y}, 1, l->x, l->n_row);
}

/* Rows [lo, hi) of a matrix in pieces of 192, times all rows of bytes; sums scaled to f32. */
struct plain {
    const struct layer *l;
    const struct st_backend_weight *w;
};

static void plain_piece(const struct plain *p, uint32_t o, uint32_t n)
{
    static _Thread_local _Alignas(64) uint8_t panel[MAX_ROW * 2048];
    static _Thread_local _Alignas(64) int32_t sum[192 * MAX_ROW];
    const struct layer *l = p->l;
    uint32_t n_in = p->w->n_in, lanes = (l->n_row + 15) & ~15u, ld = l->n_row == 1 ? ST_LIMB_U : lanes;
    const int8_t *w = p->w->w + (size_t)o * n_in;
    memset(sum, 0, n * ld * sizeof *sum);
    if (l->n_row == 1)
        l->kernels->dot(&(struct st_limb_dot){
            .s = w, .lds = n_in, .n_s = n, .u = l->bytes, .n_u = 1, .n_k = n_in, .stream = true, .sum = sum});
    for (uint32_t k = 0, step = lanes > 32 ? 256 : 2048; l->n_row > 1 && k < n_in; k += step) {
        uint32_t n_k = n_in - k < step ? n_in - k : step;
        l->kernels->pack(l->bytes + k, n_in, l->n_row, lanes, n_k, panel);
        l->kernels->tile(&(struct st_limb_tile){.panel = panel,
                                                .n_lane = lanes,
                                                .rows = (const uint8_t *)w + k,
                                                .ld = n_in,
                                                .n_row = n,
                                                .rows_signed = true,
                                                .n_k = n_k,
                                                .ahead = n_in - k > step ? step : n * n_in - k,
                                                .sum = sum});
    }
    for (uint32_t r = 0; r < l->n_row; r++)
        for (uint32_t i = 0; i < n; i++)
            l->y[(size_t)r * p->w->n_out + o + i] = (float)sum[i * ld + r] * p->w->scale[o + i];
}

static void plain_part(void *arg, int t, int n_threads)
{
    const struct plain *p = arg;
    size_t lo, hi;
    st_pool_part(p->w->n_out, 24, t, n_threads, &lo, &hi);
    for (size_t o = lo; o < hi; o += 192)
        plain_piece(p, (uint32_t)o, hi - o < 192 ? (uint32_t)(hi - o) : 192);
}

static void run_plain(void *arg, uint32_t i)
{
    struct layer *l = arg;
    struct plain p = {l, &l->weights[i]};
    st_pool_run(st_compute_pool(l->compute), plain_part, &p);
}

static void open_layer(struct layer *l, const struct options *o, const struct shape *s, const int8_t *bytes,
                       const float *scale)
{
    struct st_err e;
    size_t size = (size_t)s->n_out * s->n_in;
    l->n_mat = WEIGHT_BYTES / size < MAX_MAT ? (uint32_t)(WEIGHT_BYTES / size) : MAX_MAT;
    for (uint32_t i = 0; i < l->n_mat; i++) {
        l->weights[i] = (struct st_backend_weight){bytes + i * size, scale, s->n_out, s->n_in};
        l->mats[i] = (struct st_mat){bytes + i * size, scale, ST_DTYPE_I8, s->n_out, s->n_in};
    }
    struct st_backend_opts bo = {l->weights, l->n_mat, MAX_ROW, o->n_threads, o->isa};
    struct st_compute_opts co = {.n_threads = o->n_threads, .isa = o->isa, .max_row = MAX_ROW, .max_width = s->n_in};
    if (st_backend_find("cpu", &l->backend, &e) || l->backend->open(&bo, &l->device, &e) ||
        st_compute_new(&co, &l->compute, &e) || st_limb_find(o->isa, &l->kernels, &e))
        stop(&e);
    l->rows = map((size_t)MAX_ROW * s->n_in * 4);
    l->out = map((size_t)MAX_ROW * s->n_out * 4);
    l->x = map((size_t)MAX_ROW * s->n_in * 4);
    l->y = map((size_t)MAX_ROW * s->n_out * 4);
    l->bytes = map((size_t)MAX_ROW * s->n_in);
    fill(l->rows, (size_t)MAX_ROW * s->n_in);
    for (size_t i = 0; i < (size_t)MAX_ROW * s->n_in; i++) {
        l->x[i] = (float)(i % 17) - 8;
        l->bytes[i] = (uint8_t)i;
    }
}

static void close_layer(struct layer *l, const struct shape *s)
{
    l->backend->close(l->device);
    st_compute_free(l->compute);
    munmap(l->rows, (size_t)MAX_ROW * s->n_in * 4);
    munmap(l->out, (size_t)MAX_ROW * s->n_out * 4);
    munmap(l->x, (size_t)MAX_ROW * s->n_in * 4);
    munmap(l->y, (size_t)MAX_ROW * s->n_out * 4);
    munmap(l->bytes, (size_t)MAX_ROW * s->n_in);
}

static void print_worker(const struct options *o, const char *model, const char *what, uint32_t n_row,
                         const double t[3])
{
    double ratio = t[2] > 0 ? t[0] / t[2] : 0;
    if (o->csv) {
        printf("worker,%s,%s,%u,%.2f,%.2f,%.3f,%.2f,%.3f\n", model, what, n_row, t[0] * 1e6, t[1] * 1e6, t[0] / t[1],
               t[2] * 1e6, ratio);
    } else {
        printf("  %-5s %-12s %4u rows %10.1f us   int8 layer %10.1f us, ratio %5.2f", model, what, n_row, t[0] * 1e6,
               t[1] * 1e6, t[0] / t[1]);
        if (ratio > 0)
            printf("   plain bytes %10.1f us, ratio %5.2f", t[2] * 1e6, ratio);
        printf("\n");
    }
    fflush(stdout);
}

static void worker(const struct options *o)
{
    static const uint32_t rows[] = {1, 8, 64};
    static struct layer l;
    int8_t *bytes = map(WEIGHT_BYTES);
    float *scale = map(16384 * sizeof *scale);
    for (size_t i = 0; i < WEIGHT_BYTES; i++)
        bytes[i] = (int8_t)((int)(i * 2654435761u >> 24) % 255 - 127);
    for (int i = 0; i < 16384; i++)
        scale[i] = 1e-3f;
    if (o->csv)
        printf("part,model,matrix,rows,us,int8_us,int8_ratio,plain_us,plain_ratio\n");
    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
        double sum[3] = {0};
        for (int i = 0; i < N_SHAPE; i++) {
            const struct shape *s = &shapes[i];
            struct contestant c[] = {{run_masked, 0}, {run_linear, 0}, {run_plain, 0}};
            open_layer(&l, o, s, bytes, scale);
            int n = l.kernels->tile ? 3 : 2; /* the plain product needs the kernels of bytes */
            l.n_row = rows[r];
            race(c, n, &l, l.n_mat, o->seconds);
            double t[] = {c[0].best, c[1].best, n == 3 ? c[2].best : 0};
            char what[32];
            snprintf(what, sizeof what, "%ux%u", s->n_out, s->n_in);
            print_worker(o, s->model, what, rows[r], t);
            for (int j = 0; j < 3; j++)
                sum[j] += t[j] * s->count;
            close_layer(&l, s);
            if (i + 1 == N_SHAPE || shapes[i + 1].model != s->model) {
                print_worker(o, s->model, "layer", rows[r], sum);
                memset(sum, 0, sizeof sum);
            }
        }
    }
    munmap(bytes, WEIGHT_BYTES);
    munmap(scale, 16384 * sizeof *scale);
}

static void print_figure(const struct options *o, const char *part, const char *what, double value, const char *unit,
                         double of_roof)
{
    if (o->csv)
        printf("%s,%s,%.4g,%s,%.3f\n", part, what, value, unit, of_roof);
    else if (of_roof > 0)
        printf("  %-44s %10.2f %s (%.0f %% of the registers' rate)\n", what, value, unit, 100 * of_roof);
    else
        printf("  %-44s %10.2f %s\n", what, value, unit);
    fflush(stdout);
}

/* Byte products per second of tiles that never leave the first-level cache: as near to the registers' rate as these
 * kernels come. 0 without tiles. */
static double roof(const struct st_limb_kernels *k, double seconds)
{
    static _Alignas(64) uint8_t panel[64 * 128], rows[6 * 128];
    static _Alignas(64) int32_t sum[6 * 64];
    struct st_limb_tile t = {
        .panel = panel, .n_lane = 64, .rows = rows, .ld = 128, .n_row = 6, .rows_signed = true, .n_k = 128, .sum = sum};
    double best = 0, end = st_now() + seconds;
    while (k->tile && st_now() < end) {
        double start = st_now();
        for (int i = 0; i < 2000; i++) {
            memset(sum, 0, sizeof sum);
            k->tile(&t);
        }
        double rate = 2000.0 * 64 * 6 * 128 / (st_now() - start);
        best = rate > best ? rate : best;
    }
    return best;
}

static double time_product(const struct st_limb_kernels *k, const struct st_field_product *p, double seconds)
{
    double best = 1e9, end = st_now() + seconds;
    do {
        double start = st_now();
        st_field_product(NULL, k, p);
        double t = st_now() - start;
        best = t < best ? t : best;
    } while (st_now() < end);
    return best;
}

/* 64 pads of the matrices of one 8B layer: their hints are 43008 columns in all; r W is 1.1e8 weights. */
static void pads(const struct options *o)
{
    enum { N = 64, M = 1280, COLUMNS = 43008, PART = 4096 };
    struct st_err e;
    const struct st_limb_kernels *k;
    if (st_limb_find(o->isa, &k, &e))
        stop(&e);
    double top = roof(k, o->seconds);
    int8_t *s = map((size_t)PART * 4096);
    uint8_t *u = map((size_t)PART * 4 * M);
    uint32_t *out = map((size_t)PART * N * 4);
    memset(s, 7, (size_t)PART * 4096);
    memset(u, 0x5a, (size_t)PART * 4 * M);
    if (o->csv)
        printf("part,what,value,unit,of_roof\n");
    print_figure(o, "pads", "byte products in the first-level cache", top * 1e-9, "G/s", 0);
    for (uint32_t n_limb = 4; n_limb >= 3; n_limb--) {
        struct st_field_product p = {s, M, N, {u, PART, n_limb, M}, out, PART, 1};
        double t = time_product(k, &p, o->seconds), rate = (double)N * M * PART * n_limb / t;
        char what[64];
        snprintf(what, sizeof what, "secrets times hints, %u limbs", n_limb);
        print_figure(o, "pads", what, rate * 1e-9, "G/s", top > 0 ? rate / top : 0);
        snprintf(what, sizeof what, "  one 8B layer, %u limbs", n_limb);
        print_figure(o, "pads", what, t / N * COLUMNS / PART * 1e6, "us per pad", 0);
    }
    struct st_field_product p = {s, 4096, PART, {u, N, 4, 4096}, out, 1, PART};
    double t = time_product(k, &p, o->seconds), rate = (double)N * 4096 * PART * 4 / t;
    print_figure(o, "pads", "one-time pads: random rows times weights", rate * 1e-9, "G/s", top > 0 ? rate / top : 0);
    print_figure(o, "pads", "  one 8B layer", t / N * 13 * 1e6, "us per pad", 0); /* 13 times 4096 x 4096 weights */
    munmap(s, (size_t)PART * 4096);
    munmap(u, (size_t)PART * 4 * M);
    munmap(out, (size_t)PART * N * 4);
}

#define LAYER_IN (4096 + 4096 + 4096 + 14336) /* the four exchanges of an 8B layer: inputs, and outputs */
#define LAYER_OUT (4096 + 1024 + 1024 + 4096 + 14336 + 14336 + 4096)

struct row {
    const struct st_mask_kernels *k;
    struct st_freivalds check;
    struct st_freivalds_secret secret;
    struct st_ntt ntt;
    uint32_t *u, *v, *pad;
    float *x, *y, *scale;
    _Alignas(64) uint32_t lanes[ST_NTT_N][ST_NTT_LANES];
};

static void run_mask(void *arg, uint32_t i)
{
    struct row *r = arg;
    (void)i;
    r->k->mask(r->x, 1000, r->pad, r->u, LAYER_IN);
}

static void run_unmask(void *arg, uint32_t i)
{
    struct row *r = arg;
    (void)i;
    r->k->unmask(r->v, r->pad, r->scale, 1e-3f, r->y, LAYER_OUT);
}

static void run_check(void *arg, uint32_t i)
{
    struct row *r = arg;
    (void)i;
    if (st_freivalds_check(&r->check, r->u, r->v, 1))
        r->y[0]++;
}

static void run_ntt(void *arg, uint32_t i)
{
    struct row *r = arg;
    (void)i;
    st_ntt_forward(&r->ntt, r->lanes);
}

static void trusted(const struct options *o)
{
    static struct row r;
    r.k = st_mask_kernels();
    r.u = map(LAYER_OUT * 4);
    r.v = map(LAYER_OUT * 4);
    r.pad = map(LAYER_OUT * 4);
    r.x = map(LAYER_OUT * 4);
    r.y = map(LAYER_OUT * 4);
    r.scale = map(LAYER_OUT * 4);
    r.secret = (struct st_freivalds_secret){{map(LAYER_OUT * 4), map(LAYER_OUT * 4)}, LAYER_OUT};
    r.check = (struct st_freivalds){.n_in = LAYER_IN,
                                    .n_matrix = 1,
                                    .n_out = {LAYER_OUT},
                                    .secret = &r.secret,
                                    .ws = {map(LAYER_IN * 4), map(LAYER_IN * 4)}};
    for (int i = 0; i < ST_FREIVALDS_N; i++) {
        fill(r.secret.s[i], LAYER_OUT);
        fill(r.check.ws[i], LAYER_IN);
    }
    fill(r.u, LAYER_OUT);
    fill(r.v, LAYER_OUT);
    fill(r.pad, LAYER_OUT);
    st_ntt_init(&r.ntt);
    struct contestant c[] = {{run_mask, 0}, {run_unmask, 0}, {run_check, 0}, {run_ntt, 0}};
    race(c, 4, &r, 1, o->seconds);
    if (o->csv)
        printf("part,what,value,unit,of_roof\n");
    print_figure(o, "trusted", "mask, one row of an 8B layer", c[0].best * 1e6, "us", 0);
    print_figure(o, "trusted", "unmask", c[1].best * 1e6, "us", 0);
    print_figure(o, "trusted", "check by two secret vectors", c[2].best * 1e6, "us", 0);
    print_figure(o, "trusted", "all three", (c[0].best + c[1].best + c[2].best) * 1e6, "us", 0);
    print_figure(o, "trusted", "16 transforms of degree 256", c[3].best * 1e6, "us", 0);
}

int main(int argc, char **argv)
{
    static const struct option longs[] = {{"csv", no_argument, NULL, 'c'}, {NULL, 0, NULL, 0}};
    struct options o = {.seconds = 0.5};
    for (int opt; (opt = getopt_long(argc, argv, "t:i:s:p:", longs, NULL)) != -1;)
        switch (opt) {
        case 't':
            o.n_threads = atoi(optarg);
            break;
        case 'i':
            o.isa = optarg;
            break;
        case 's':
            o.seconds = atof(optarg);
            break;
        case 'p':
            o.part = optarg;
            break;
        case 'c':
            o.csv = true;
            break;
        default:
            fprintf(stderr, "usage: bench_masked_kernels [-t THREADS] [-i ISA] [-s SECONDS] [-p worker|pads|trusted] "
                            "[--csv]\n");
            return 2;
        }
    if (!o.part || strcmp(o.part, "worker") == 0)
        worker(&o);
    if (!o.part || strcmp(o.part, "pads") == 0)
        pads(&o);
    if (!o.part || strcmp(o.part, "trusted") == 0)
        trusted(&o);
    return 0;
}
