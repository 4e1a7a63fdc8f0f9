/* What a worker computes with: every instruction set of this CPU against 128-bit arithmetic. */
#include "base/hooks.h"
#include "field/backend.h"
#include "field/fq.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* What rows and weights hold. */
enum fill { RANDOM, HIGHEST, LOWEST };

struct shape {
    uint32_t n_out, n_in, n_row;
    enum fill fill;
};

static const struct shape shapes[] = {
    {1, 1, 1, RANDOM},
    {3, 2, 2, RANDOM},
    {7, 63, 3, RANDOM},
    {16, 64, 4, RANDOM},
    {17, 65, 5, RANDOM},
    {100, 130, 8, RANDOM},
    {33, 2049, 9, RANDOM},
    {259, 896, 1, RANDOM},
    {64, 4096, 16, RANDOM},
    {41, 1000, 17, RANDOM},
    {130, 300, 33, RANDOM},
    {96, 512, 64, RANDOM},
    {61, 517, 70, RANDOM},
    {37, 70, 130, RANDOM},
    /* No sum overflows at the bounds, below, at and above 65536 inputs. */
    {5, 14336, 3, HIGHEST},
    {5, 14336, 3, LOWEST},
    {3, 65536, 1, HIGHEST},
    {3, 65536, 20, LOWEST},
    {2, 65537, 1, HIGHEST},
    {3, 131072, 2, LOWEST},
    {4, 151936, 1, RANDOM},
    {9, 140001, 18, RANDOM},
};
enum { N_SHAPE = sizeof shapes / sizeof shapes[0], MAX_ROW = 130 };

struct device {
    const struct st_backend *b;
    void *open;
    const char *name;
};
static struct device devices[8];
static int n_device;

static struct st_backend_weight
    weights[2 * N_SHAPE]; /* of each shape, and one with as many inputs and one output more */

static void *buffer(size_t bytes)
{
    void *p = malloc(bytes ? bytes : 1);
    assert_non_null(p);
    return p;
}

static uint32_t mod(__int128 x)
{
    x %= (__int128)ST_FQ;
    return (uint32_t)(x < 0 ? x + ST_FQ : x);
}

static void make_weight(struct st_rng *rng, struct st_backend_weight *out, uint32_t n_out, uint32_t n_in,
                        enum fill fill)
{
    int8_t *w = buffer((size_t)n_out * n_in);
    float *scale = buffer(n_out * sizeof *scale);
    for (size_t i = 0; i < (size_t)n_out * n_in; i++)
        w[i] = fill == HIGHEST ? 127 : fill == LOWEST ? -127 : (int8_t)((int)(st_rng_next(rng) % 255) - 127);
    for (uint32_t i = 0; i < n_out; i++)
        scale[i] = 0.001f * (float)(1 + i % 7);
    *out = (struct st_backend_weight){w, scale, n_out, n_in};
}

static int open_devices(void **state)
{
    static const char *const isas[] = {"ref", "avx2", "avx512"};
    struct st_err e;
    struct st_rng rng;
    (void)state;
    st_rng_seed(&rng, 11);
    for (int i = 0; i < N_SHAPE; i++) {
        make_weight(&rng, &weights[2 * i], shapes[i].n_out, shapes[i].n_in, shapes[i].fill);
        make_weight(&rng, &weights[2 * i + 1], shapes[i].n_out + 1, shapes[i].n_in, shapes[i].fill);
    }
    struct st_backend_opts o = {.weights = weights, .n_weight = 2 * N_SHAPE, .max_row = MAX_ROW};
    for (int i = 0; i < 3; i++)
        for (int threads = i ? 1 : 2; threads <= 2; threads++) {
            struct device *d = &devices[n_device];
            o.isa = d->name = isas[i];
            o.n_threads = threads;
            if (st_backend_find("cpu", &d->b, &e) || d->b->open(&o, &d->open, &e)) {
                print_message("%s: %s, skipped\n", isas[i], e.msg);
                break;
            }
            n_device++;
        }
    /* A GPU, where the build has the backend and the machine a device. */
    struct device *gpu = &devices[n_device];
    o.isa = NULL;
    gpu->name = "cuda";
    if (st_backend_find("cuda", &gpu->b, &e) || gpu->b->open(&o, &gpu->open, &e))
        print_message("cuda: %s, skipped\n", e.msg);
    else
        n_device++;
    return n_device ? 0 : 1;
}

static int close_devices(void **state)
{
    (void)state;
    for (int i = 0; i < n_device; i++)
        devices[i].b->close(devices[i].open);
    for (int i = 0; i < 2 * N_SHAPE; i++) {
        free((void *)weights[i].w);
        free((void *)weights[i].scale);
    }
    return 0;
}

/* All results, or about 400 that are spread evenly. */
static size_t stride(size_t total)
{
    return total > 400 ? total / 400 + 1 : 1;
}

static void check_field(const struct device *d, const struct shape *s, const struct st_backend_weight *w,
                        const uint32_t *rows, const uint32_t *got)
{
    size_t total = (size_t)s->n_row * w->n_out;
    for (size_t at = 0; at < total; at += stride(total)) {
        const int8_t *weight = w->w + at % w->n_out * w->n_in;
        const uint32_t *row = rows + at / w->n_out * w->n_in;
        __int128 want = 0;
        for (uint32_t k = 0; k < w->n_in; k++)
            want += (int64_t)weight[k] * row[k];
        if (got[at] != mod(want))
            fail_msg("%s: [%u, %u] x %u rows: result %zu is %u, want %u", d->name, w->n_out, w->n_in, s->n_row, at,
                     got[at], mod(want));
    }
}

static void products_modulo_q_are_exact_in_every_shape(void **state)
{
    struct st_rng rng;
    struct st_err e;
    (void)state;
    st_rng_seed(&rng, 3);
    for (int i = 0; i < N_SHAPE; i++) {
        const struct shape *s = &shapes[i];
        uint32_t *rows = buffer((size_t)s->n_row * s->n_in * 4);
        uint32_t *a = buffer((size_t)s->n_row * s->n_out * 4), *b = buffer((size_t)s->n_row * (s->n_out + 1) * 4);
        for (size_t k = 0; k < (size_t)s->n_row * s->n_in; k++)
            rows[k] = s->fill == RANDOM ? (uint32_t)(st_rng_next(&rng) % ST_FQ) : ST_FQ - 1;
        for (int d = 0; d < n_device; d++) {
            memset(a, 0xff, (size_t)s->n_row * s->n_out * 4);
            memset(b, 0xff, (size_t)s->n_row * (s->n_out + 1) * 4);
            struct st_backend_job jobs[] = {{(uint32_t)(2 * i), a}, {(uint32_t)(2 * i + 1), b}};
            assert_int_equal(devices[d].b->multiply(devices[d].open, rows, s->n_row, jobs, 2, &e), 0);
            check_field(&devices[d], s, &weights[2 * i], rows, a);
            check_field(&devices[d], s, &weights[2 * i + 1], rows, b);
        }
        free(rows);
        free(a);
        free(b);
    }
}

static void check_f32(const struct device *d, const struct shape *s, const struct st_backend_weight *w,
                      const float *rows, const float *got)
{
    size_t total = (size_t)s->n_row * w->n_out;
    for (size_t at = 0; at < total; at += stride(total)) {
        const int8_t *weight = w->w + at % w->n_out * w->n_in;
        const float *row = rows + at / w->n_out * w->n_in;
        double want = 0, size = 0, scale = w->scale[at % w->n_out];
        for (uint32_t k = 0; k < w->n_in; k++) {
            want += (double)weight[k] * row[k];
            size += fabs((double)weight[k] * row[k]);
        }
        /* Sums of 16 or more lanes in f32: far below the 2^-16 of a quantised row. */
        if (!(fabs(got[at] - want * scale) <= 1e-6 * size * scale))
            fail_msg("%s: [%u, %u] x %u rows: result %zu is %g, want %g", d->name, w->n_out, w->n_in, s->n_row, at,
                     (double)got[at], want * scale);
    }
}

static void f32_rows_are_not_rounded(void **state)
{
    struct st_rng rng;
    struct st_err e;
    (void)state;
    st_rng_seed(&rng, 4);
    for (int i = 0; i < N_SHAPE; i++) {
        const struct shape *s = &shapes[i];
        float *rows = buffer((size_t)s->n_row * s->n_in * 4);
        float *a = buffer((size_t)s->n_row * s->n_out * 4), *b = buffer((size_t)s->n_row * (s->n_out + 1) * 4);
        for (size_t k = 0; k < (size_t)s->n_row * s->n_in; k++) /* one value in 50 is a hundred times as large */
            rows[k] = (float)(st_rng_unit(&rng) - 0.5) * (k % 50 ? 1 : 100);
        for (int d = 0; d < n_device; d++) {
            struct st_backend_job jobs[] = {{(uint32_t)(2 * i), a}, {(uint32_t)(2 * i + 1), b}};
            assert_int_equal(devices[d].b->multiply_f32(devices[d].open, rows, s->n_row, jobs, 2, &e), 0);
            check_f32(&devices[d], s, &weights[2 * i], rows, a);
            check_f32(&devices[d], s, &weights[2 * i + 1], rows, b);
        }
        free(rows);
        free(a);
        free(b);
    }
}

static void an_unknown_device_or_instruction_set_is_refused_by_name(void **state)
{
    const struct st_backend *b;
    struct st_err e;
    void *open;
    (void)state;
    assert_int_equal(st_backend_find("tpu", &b, &e), ST_UNSUPPORTED);
    assert_non_null(strstr(e.msg, "tpu"));
    assert_non_null(strstr(e.msg, "cpu"));
    assert_int_equal(st_backend_find("cpu", &b, &e), 0);
    struct st_backend_opts o = {.weights = weights, .n_weight = 1, .max_row = 1, .isa = "mmx"};
    assert_int_equal(b->open(&o, &open, &e), ST_UNSUPPORTED);
    assert_null(open);
}

static void a_gpu_that_is_not_there_is_named(void **state)
{
    const struct st_backend *b;
    struct st_err e;
    void *open;
    (void)state;
    if (st_backend_find("cuda", &b, &e)) {
        print_message("this build has no CUDA backend, skipped\n");
        return;
    }
    struct st_backend_opts o = {.weights = weights, .n_weight = 2 * N_SHAPE, .max_row = MAX_ROW};
    int rc = b->open(&o, &open, &e);
    if (rc == 0) {
        b->close(open);
        return;
    }
    assert_int_equal(rc, ST_UNSUPPORTED);
    assert_null(open);
    assert_non_null(strstr(e.msg, "cuda"));
    assert_true(strstr(e.msg, "driver") || strstr(e.msg, "GPU"));
}

static void rows_beyond_the_limit_and_matrices_that_do_not_fit_are_refused(void **state)
{
    static uint32_t rows[1], out[16];
    struct st_err e;
    (void)state;
    const struct device *d = &devices[0];
    struct st_backend_job job = {0, out}, unknown = {2 * N_SHAPE, out}, other[] = {{0, out}, {2, out}};
    assert_int_equal(d->b->multiply(d->open, rows, MAX_ROW + 1, &job, 1, &e), ST_INTERNAL);
    assert_int_equal(d->b->multiply(d->open, rows, 0, &job, 1, &e), ST_INTERNAL);
    assert_int_equal(d->b->multiply(d->open, rows, 1, &unknown, 1, &e), ST_INTERNAL);
    assert_int_equal(d->b->multiply(d->open, rows, 1, other, 2, &e), ST_INTERNAL);
    assert_non_null(d->b->describe(d->open));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_modulo_q_are_exact_in_every_shape),
        cmocka_unit_test(f32_rows_are_not_rounded),
        cmocka_unit_test(an_unknown_device_or_instruction_set_is_refused_by_name),
        cmocka_unit_test(a_gpu_that_is_not_there_is_named),
        cmocka_unit_test(rows_beyond_the_limit_and_matrices_that_do_not_fit_are_refused),
    };
    return cmocka_run_group_tests(tests, open_devices, close_devices);
}
