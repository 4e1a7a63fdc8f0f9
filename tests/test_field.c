/* The field of masked rows: every kernel against arithmetic in 128 bits, for every instruction set of this CPU. */
#include "base/hooks.h"
#include "field/fq.h"
#include "field/freivalds.h"
#include "field/kernels.h"
#include "field/mask_kernels.h"
#include "field/ntt.h"
#include "field/product.h"
#include "field/product_transposed.h"
#include "field/sampler.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char *const isas[] = {"ref", "avx2", "avx512"};
static const struct st_field_kernels *const tables[] = {&st_field_ref, &st_field_avx2, &st_field_avx512};
static const struct st_mask_kernels *const masks[] = {&st_mask_ref, &st_mask_avx2, &st_mask_avx512};

static const struct st_limb_kernels *limb_of(int isa)
{
    struct st_err e;
    const struct st_limb_kernels *limb;
    return st_limb_find(isas[isa], &limb, &e) ? NULL : limb;
}

static void *buffer(size_t bytes)
{
    void *p = malloc(bytes);
    assert_non_null(p);
    return p;
}

static uint32_t residue(struct st_rng *rng)
{
    return (uint32_t)(st_rng_next(rng) % ST_FQ);
}

static void fill(struct st_rng *rng, uint32_t *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = residue(rng);
}

static uint32_t mod(__int128 x)
{
    x %= (__int128)ST_FQ;
    return (uint32_t)(x < 0 ? x + ST_FQ : x);
}

static struct st_stream *stream(uint8_t fill_byte)
{
    struct st_err e;
    struct st_stream *s;
    uint8_t seed[32];
    memset(seed, fill_byte, sizeof seed);
    assert_int_equal(st_stream_new(seed, 32, NULL, 0, "test", &s, &e), 0);
    return s;
}

static void q_is_prime_and_arithmetic_is_exact(void **state)
{
    struct st_rng rng;
    (void)state;
    for (uint64_t d = 3; d * d <= ST_FQ; d += 2)
        assert_true(ST_FQ % d != 0);
    const uint64_t edges[] = {0,          1,          ST_FQ - 1,        ST_FQ, (uint64_t)ST_FQ * ST_FQ,
                              UINT32_MAX, UINT64_MAX, (uint64_t)1 << 63};
    for (size_t i = 0; i < sizeof edges / sizeof *edges; i++)
        assert_int_equal(st_fq_reduce(edges[i]), edges[i] % ST_FQ);
    st_rng_seed(&rng, 1);
    for (int i = 0; i < 200000; i++) {
        uint64_t x = st_rng_next(&rng);
        uint32_t a = residue(&rng), b = residue(&rng);
        int64_t s = (int64_t)x >> 8;
        assert_int_equal(st_fq_reduce(x), x % ST_FQ);
        assert_int_equal(st_fq_add(a, b), ((uint64_t)a + b) % ST_FQ);
        assert_int_equal(st_fq_sub(a, b), ((uint64_t)a + ST_FQ - b) % ST_FQ);
        assert_int_equal(st_fq_from(s), mod(s));
        assert_int_equal(mod(st_fq_centre(a)), a);
    }
    for (int i = 0; i < 100; i++) {
        uint32_t a = residue(&rng);
        assert_int_equal(st_fq_mul(a, st_fq_inverse(a)), a != 0);
    }
}

/* One product, all of it or 64 sampled results, against 128 bits. */
static void check_product(struct st_pool *pool, int isa, uint32_t n_s, uint32_t n_vec, uint32_t len, int extreme)
{
    const struct st_limb_kernels *limb = limb_of(isa);
    struct st_rng rng;
    st_rng_seed(&rng, n_s * 7919u + n_vec * 31u + len);
    int8_t *s = buffer((size_t)n_s * len);
    uint32_t *u = buffer((size_t)n_vec * len * 4), *out = buffer((size_t)n_s * n_vec * 4);
    uint8_t *limbs = buffer((size_t)n_vec * len * 4);
    for (size_t i = 0; i < (size_t)n_s * len; i++)
        s[i] = extreme ? (extreme > 0 ? 127 : -128) : (int8_t)st_rng_next(&rng);
    fill(&rng, u, (size_t)n_vec * len);
    for (size_t i = 0; extreme && i < (size_t)n_vec * len; i++)
        u[i] = ST_FQ - 1;
    st_limbs_split(u, n_vec, len, limbs);
    st_field_product(pool, limb, &(struct st_field_product){s, len, n_s, {limbs, n_vec, 4, len}, out, n_vec, 1});
    size_t total = (size_t)n_s * n_vec, step = total > 64 ? total / 64 : 1;
    for (size_t at = 0; at < total; at += step) {
        __int128 want = 0;
        for (uint32_t k = 0; k < len; k++)
            want += (__int128)s[at / n_vec * len + k] * u[at % n_vec * len + k];
        assert_int_equal(out[at], mod(want));
    }
    free(s);
    free(u);
    free(out);
    free(limbs);
}

static void products_are_exact_in_every_shape(void **state)
{
    static const uint32_t shapes[][3] = {{1, 1, 1},  {3, 2, 63},    {4, 1, 64},     {5, 3, 65},   {1, 9, 130},
                                         {7, 17, 8}, {64, 1, 2049}, {2, 100, 1280}, {33, 5, 4100}};
    struct st_err e;
    struct st_pool *pool;
    (void)state;
    assert_int_equal(st_pool_new(2, &pool, &e), 0);
    for (int isa = 0; isa < 3; isa++) {
        if (!limb_of(isa)) {
            print_message("%s: this CPU lacks it, skipped\n", isas[isa]);
            continue;
        }
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
            check_product(NULL, isa, shapes[i][0], shapes[i][1], shapes[i][2], 0);
            check_product(pool, isa, shapes[i][0], shapes[i][1], shapes[i][2], 0);
        }
        /* No sum overflows at the bound. */
        check_product(NULL, isa, 1, 1, ST_LIMB_MAX_K, 1);
        check_product(NULL, isa, 1, 1, ST_LIMB_MAX_K, -1);
    }
    st_pool_free(pool);
}

static void three_limbs_round_to_the_nearest_256(void **state)
{
    enum { LEN = 1000 };
    struct st_rng rng;
    uint32_t x[LEN];
    uint8_t p[3 * LEN];
    (void)state;
    st_rng_seed(&rng, 5);
    fill(&rng, x, LEN);
    x[0] = ST_FQ - 1;
    x[1] = 127;
    x[2] = 128;
    st_limbs_split24(x, 1, LEN, p);
    for (int k = 0; k < LEN; k++) {
        int64_t y = ((int64_t)p[k] << 8) + ((int64_t)p[LEN + k] << 16) + ((int64_t)p[2 * LEN + k] << 24);
        assert_true(llabs(y - x[k]) <= 128);
    }
}

static void transforms_multiply_polynomials(void **state)
{
    static _Alignas(64) uint32_t x[ST_NTT_N][ST_NTT_LANES], sum[ST_NTT_N][ST_NTT_LANES];
    static uint32_t a[2][ST_NTT_N][ST_NTT_LANES], b[2][ST_NTT_N], f[ST_NTT_N];
    struct st_ntt t;
    struct st_rng rng;
    (void)state;
    st_ntt_init(&t);
    st_rng_seed(&rng, 7);
    fill(&rng, a[0][0], 2 * ST_NTT_N * ST_NTT_LANES);
    fill(&rng, b[0], 2 * ST_NTT_N);
    for (int c = 0; c < ST_NTT_N; c++) { /* the ends of the range as well */
        a[0][c][0] = ST_FQ - 1;
        a[1][c][5] = 0;
        a[1][c][10] = c % 3 ? 1 : ST_FQ - 1;
        b[1][c] = c % 5 ? b[1][c] : ST_FQ - 1;
    }
    for (int isa = 0; isa < 3; isa++) {
        if (!limb_of(isa))
            continue;
        const struct st_field_kernels *k = tables[isa];
        memset(sum, 0, sizeof sum);
        for (int i = 0; i < 2; i++) {
            memcpy(f, b[i], sizeof f);
            st_ntt_factor(&t, f);
            memcpy(x, a[i], sizeof x);
            k->ntt(x, t.forward);
            k->ntt_multiply(sum, x, f);
        }
        k->ntt_inverse(sum, t.inverse);
        for (int l = 0; l < ST_NTT_LANES; l += 5)
            for (int c = 0; c < ST_NTT_N; c++) {
                __int128 want = 0;
                for (int i = 0; i < 2; i++)
                    for (int j = 0; j < ST_NTT_N; j++)
                        want += j <= c ? (__int128)a[i][j][l] * b[i][c - j]
                                       : -(__int128)a[i][j][l] * b[i][ST_NTT_N + c - j];
                assert_int_equal(sum[c][l], mod(want));
            }
    }
}

static void sums_of_products_are_exact_whatever_the_words(void **state)
{
    enum { N = 203 };
    static uint32_t x[N], a[N], b[N];
    struct st_rng rng;
    (void)state;
    st_rng_seed(&rng, 13);
    for (int round = 0; round < 50; round++)
        for (size_t n = 0; n <= N; n += round % 2 ? 1 : 29) {
            fill(&rng, x, N);
            fill(&rng, a, N);
            fill(&rng, b, N);
            for (size_t i = 0; round % 3 == 0 && i < n; i++)
                x[i] = a[i] = UINT32_MAX;
            size_t at = st_rng_next(&rng) % N;
            if (round % 5 == 1)
                x[at] = ST_FQ + (uint32_t)(st_rng_next(&rng) % 4);
            __int128 want[2] = {0};
            bool above = false;
            for (size_t i = 0; i < n; i++) {
                want[0] += (__int128)x[i] * a[i];
                want[1] += (__int128)x[i] * b[i];
                above |= x[i] >= ST_FQ;
            }
            for (int isa = 0; isa < 3; isa++) {
                uint32_t got[2];
                if (!limb_of(isa))
                    continue;
                assert_int_equal(masks[isa]->dots(x, a, b, n, got), above);
                assert_int_equal(got[0], mod(want[0]));
                assert_int_equal(got[1], mod(want[1]));
            }
        }
}

static void rows_masked_and_unmasked_come_back(void **state)
{
    enum { N = 1003 };
    static float x[N], y[N], scale[N];
    static uint32_t pad[N], u[N], first[N];
    struct st_rng rng;
    (void)state;
    st_rng_seed(&rng, 11);
    fill(&rng, pad, N);
    for (int i = 0; i < N; i++) {
        x[i] = (float)(st_rng_unit(&rng) - 0.5) * 1e4f;
        scale[i] = 1;
    }
    x[0] = 0;
    for (int isa = 0; isa < 3; isa++) {
        if (!limb_of(isa))
            continue;
        masks[isa]->mask(x, 128, pad, u, N);
        masks[isa]->unmask(u, pad, scale, 1 / 128.0f, y, N);
        for (int i = 0; i < N; i++) {
            assert_true(u[i] < ST_FQ);
            assert_true(fabsf(y[i] - x[i]) <= 0.5f / 128 + 1e-3f);
        }
        if (isa)
            assert_memory_equal(u, first, sizeof u);
        memcpy(first, u, sizeof u);
    }
}

static void samples_follow_the_discrete_gaussian(void **state)
{
    static const double sigmas[] = {1, 6.4, 12.8, 19};
    enum { N = 1 << 20 };
    int8_t *x = buffer(N);
    (void)state;
    for (size_t i = 0; i < 4; i++) {
        struct st_gauss g;
        struct st_err e;
        struct st_stream *s = stream((uint8_t)i);
        double sigma = sigmas[i], total = 0, chi = 0, sum = 0, square = 0;
        int count[256] = {0}, cells = 0;
        assert_int_equal(st_gauss_init(&g, sigma, &e), 0);
        st_gauss_fill(&g, s, x, N);
        for (int k = 0; k < N; k++) {
            count[x[k] + 128]++;
            sum += x[k];
            square += (double)x[k] * x[k];
        }
        for (int k = -127; k <= 127; k++)
            total += exp(-k * (double)k / (2 * sigma * sigma));
        for (int k = -127; k <= 127; k++) {
            double want = N * exp(-k * (double)k / (2 * sigma * sigma)) / total;
            if (want < 20)
                continue;
            chi += (count[k + 128] - want) * (count[k + 128] - want) / want;
            cells++;
        }
        /* chi^2 with `cells` degrees of freedom: mean cells, deviation sqrt(2 cells). */
        assert_true(chi < cells + 5 * sqrt(2.0 * cells));
        assert_true(fabs(sum / N) < 5 * sigma / sqrt(N));
        assert_true(fabs(square / N / (sigma * sigma) - 1) < 0.01);
        st_stream_free(s);
    }
    struct st_gauss g;
    struct st_err e;
    assert_int_equal(st_gauss_init(&g, 25, &e), ST_USAGE);
    assert_int_equal(st_gauss_init(&g, NAN, &e), ST_USAGE);
    free(x);
}

/* Secret and error of a mask are drawn from one stream, one behind the other. */
static void secrets_and_errors_are_independent(void **state)
{
    enum { M = 1280, D = 1280, DRAWS = 400, CELLS = 8 };
    static int8_t x[M + D];
    static double joint[CELLS][CELLS];
    struct st_gauss g;
    struct st_err e;
    struct st_stream *s = stream(21);
    double product = 0, lag = 0, chi = 0, sigma = 12.8;
    (void)state;
    assert_int_equal(st_gauss_init(&g, sigma, &e), 0);
    for (int draw = 0; draw < DRAWS; draw++) {
        st_gauss_fill(&g, s, x, M);
        st_gauss_fill(&g, s, x + M, D);
        for (int k = 0; k < M; k++) {
            int a = (x[k] + 128) * CELLS / 256, b = (x[M + k] + 128) * CELLS / 256;
            joint[a][b]++;
            product += (double)x[k] * x[M + k];
            lag += (double)x[k] * x[k + 1];
        }
    }
    double n = (double)DRAWS * M, row[CELLS] = {0}, column[CELLS] = {0};
    int freedom = 0;
    for (int a = 0; a < CELLS; a++)
        for (int b = 0; b < CELLS; b++) {
            row[a] += joint[a][b];
            column[b] += joint[a][b];
        }
    for (int a = 0; a < CELLS; a++)
        for (int b = 0; b < CELLS; b++) {
            double want = row[a] * column[b] / n;
            if (want < 20)
                continue;
            chi += (joint[a][b] - want) * (joint[a][b] - want) / want;
            freedom++;
        }
    assert_true(freedom >= 9 && chi < freedom + 5 * sqrt(2.0 * freedom));
    assert_true(fabs(product / n) < 5 * sigma * sigma / sqrt(n));
    assert_true(fabs(lag / n) < 5 * sigma * sigma / sqrt(n));
    st_stream_free(s);
}

static void every_kernel_draws_the_same_samples(void **state)
{
    enum { N = 1000 };
    struct st_gauss g;
    struct st_err e;
    struct st_rng rng;
    static uint32_t r[N];
    static int8_t x[N], first[N];
    (void)state;
    st_rng_seed(&rng, 3);
    for (int i = 0; i < N; i++)
        r[i] = (uint32_t)st_rng_next(&rng);
    r[0] = 0;
    r[1] = UINT32_MAX;
    assert_int_equal(st_gauss_init(&g, 12.8, &e), 0);
    for (int isa = 0; isa < 3; isa++) {
        if (!limb_of(isa))
            continue;
        masks[isa]->sample(r, N, g.threshold, g.n, x);
        if (isa)
            assert_memory_equal(x, first, N);
        memcpy(first, x, N);
    }
    assert_int_equal(first[0], 0);
    assert_int_equal(first[1], -(int)g.n);
}

/* 100,000 corruptions of every kind; the honest answer always passes. */
static void wrong_products_are_caught(void **state)
{
    enum { N_IN = 192, N_OUT = 160, ROWS = 4, DRAWS = 10, PER_KIND = 2500 };
    static int8_t w[N_OUT * N_IN];
    static uint32_t u[ROWS * N_IN], v[ROWS * N_OUT], bad[ROWS * N_OUT];
    static uint8_t limbs[ROWS * N_IN * 4];
    struct st_rng rng;
    struct st_err e;
    struct st_stream *s = stream(9);
    (void)state;
    st_rng_seed(&rng, 13);
    for (size_t i = 0; i < sizeof w; i++)
        w[i] = (int8_t)((int)(st_rng_next(&rng) % 255) - 127);
    fill(&rng, u, ROWS * N_IN);
    st_limbs_split(u, ROWS, N_IN, limbs);
    st_field_product(NULL, limb_of(0), &(struct st_field_product){w, N_IN, N_OUT, {limbs, ROWS, 4, N_IN}, v, 1, N_OUT});
    for (int draw = 0; draw < DRAWS; draw++) {
        struct st_freivalds f;
        struct st_freivalds_secret secret;
        const struct st_freivalds_matrix one = {w, N_OUT};
        assert_int_equal(st_freivalds_secret_init(&secret, N_OUT + draw, s, &e), 0);
        assert_int_equal(st_freivalds_init(&f, &one, 1, N_IN, &secret, &e), 0);
        assert_true(st_freivalds_check(&f, u, v, ROWS));
        for (int i = 0; i < PER_KIND; i++) {
            uint32_t at = (uint32_t)(st_rng_next(&rng) % (ROWS * N_OUT)), row = at / N_OUT * N_OUT;
            uint32_t to = (at + 1 + (uint32_t)(st_rng_next(&rng) % (ROWS * N_OUT - 1))) % (ROWS * N_OUT);
            memcpy(bad, v, sizeof v);
            bad[at] = st_fq_add(bad[at], 1 + (uint32_t)(st_rng_next(&rng) % (ST_FQ - 1)));
            assert_false(st_freivalds_check(&f, u, bad, ROWS)); /* one element */
            memcpy(bad, v, sizeof v);
            bad[at] = st_fq_add(bad[at], st_fq_pow(2, i % 32));
            assert_false(st_freivalds_check(&f, u, bad, ROWS)); /* by a power of two */
            memcpy(bad, v, sizeof v);
            bad[at] = v[to];
            bad[to] = v[at];
            if (v[at] != v[to])
                assert_false(st_freivalds_check(&f, u, bad, ROWS)); /* two swapped */
            memcpy(bad, v, sizeof v);
            memcpy(bad + row, v + (row + N_OUT) % (ROWS * N_OUT), N_OUT * sizeof *v);
            assert_false(st_freivalds_check(&f, u, bad, ROWS)); /* another row's result */
        }
        memcpy(bad, v, sizeof v);
        for (int j = 0; j < N_OUT; j++)
            bad[j] = 0;
        assert_false(st_freivalds_check(&f, u, bad, ROWS));
        /* The same numbers, one not canonical: x + q is x mod q. */
        for (int j = 0; j < ROWS * N_OUT; j++)
            if (v[j] < UINT32_MAX - ST_FQ) {
                memcpy(bad, v, sizeof v);
                bad[j] += ST_FQ;
                assert_false(st_freivalds_check(&f, u, bad, ROWS));
            }
        st_freivalds_wipe(&f);
        st_freivalds_secret_wipe(&secret);
    }
    st_stream_free(s);
}

static void matrices_on_the_same_rows_are_checked_as_one(void **state)
{
    enum { N = 3, ROWS = 3, N_IN = 70, N_S = 100 };
    static const uint32_t n_out[N] = {40, 9, 33};
    static int8_t w[N][40 * N_IN];
    uint32_t u[ROWS * N_IN], v[ROWS * (40 + 9 + 33)];
    struct st_freivalds_secret secret;
    struct st_freivalds_matrix parts[N];
    struct st_freivalds all;
    struct st_stream *random;
    struct st_rng rng;
    struct st_err e;
    (void)state;
    st_rng_seed(&rng, 17);
    assert_int_equal(st_stream_new((const uint8_t *)"parts", 5, NULL, 0, "test", &random, &e), 0);
    assert_int_equal(st_freivalds_secret_init(&secret, N_S, random, &e), 0);
    fill(&rng, u, ROWS * N_IN);
    uint32_t *to = v;
    for (int k = 0; k < N; k++) {
        for (uint32_t i = 0; i < n_out[k] * N_IN; i++)
            w[k][i] = (int8_t)st_rng_next(&rng);
        parts[k] = (struct st_freivalds_matrix){w[k], n_out[k]};
        for (int r = 0; r < ROWS; r++)
            for (uint32_t j = 0; j < n_out[k]; j++) {
                __int128 sum = 0;
                for (int i = 0; i < N_IN; i++)
                    sum += (__int128)u[r * N_IN + i] * w[k][j * N_IN + (uint32_t)i];
                *to++ = mod(sum);
            }
    }
    assert_int_equal(st_freivalds_init(&all, parts, N, N_IN, &secret, &e), 0);
    assert_true(st_freivalds_check(&all, u, v, ROWS));
    for (int i = 0; i < 20000; i++) {
        size_t from = st_rng_next(&rng) % (sizeof v / sizeof *v), with = st_rng_next(&rng) % (sizeof v / sizeof *v);
        uint32_t by = 1 + (uint32_t)(st_rng_next(&rng) % (ST_FQ - 1)), kept[2] = {v[from], v[with]};
        v[from] = st_fq_add(v[from], by); /* what one gains, the other loses */
        if (with != from)
            v[with] = st_fq_sub(v[with], by);
        assert_false(st_freivalds_check(&all, u, v, ROWS));
        v[with] = kept[1];
        v[from] = kept[0];
    }
    assert_true(st_freivalds_check(&all, u, v, ROWS));
    /* More outputs than the secret has. */
    st_freivalds_wipe(&all);
    parts[1].n_out = 60;
    assert_int_equal(st_freivalds_init(&all, parts, N, N_IN, &secret, &e), ST_UNSUPPORTED);
    st_freivalds_secret_wipe(&secret);
    st_stream_free(random);
}

/* Against 128-bit sums, and as the check takes them; lengths around the blocks and rows that are added up at once. */
static void transposed_products_are_exact_and_serve_the_check(void **state)
{
    enum { N = 2, N_IN = 2100, VECS = 2 };
    static const uint32_t n_out[N] = {600, 257};
    static int8_t w[N][600 * N_IN];
    static uint32_t s[VECS * (600 + 257)], ws[VECS * N_IN];
    struct st_transposed_matrix of[N] = {{w[0], n_out[0]}, {w[1], n_out[1]}};
    struct st_freivalds_matrix same[N] = {{w[0], n_out[0]}, {w[1], n_out[1]}};
    struct st_rng rng;
    struct st_err e;
    (void)state;
    st_rng_seed(&rng, 21);
    for (int k = 0; k < N; k++)
        for (size_t i = 0; i < (size_t)n_out[k] * N_IN; i++)
            w[k][i] = (int8_t)(i % 3 ? 127 - (int)(i % 255) : k ? -128 : 127);
    static const uint32_t extreme[] = {ST_FQ / 2, ST_FQ / 2 + 1, ST_FQ - 1, 0, 32768, 32767, 65535};
    fill(&rng, s, sizeof s / sizeof *s);
    for (size_t i = 0; i < 857; i++) /* the first vector at the edges */
        s[i] = i < 600 ? extreme[i / 90] : ST_FQ / 2;
    st_field_transposed(of, N, N_IN, s, VECS, ws);
    for (uint32_t v = 0; v < VECS; v++)
        for (uint32_t i = 0; i < N_IN; i++) {
            __int128 sum = 0;
            const uint32_t *part = s + v * (600 + 257);
            for (int k = 0; k < N; part += n_out[k++])
                for (uint32_t j = 0; j < n_out[k]; j++)
                    sum += (__int128)part[j] * w[k][j * N_IN + i];
            assert_int_equal(ws[v * N_IN + i], mod(sum));
        }
    struct st_freivalds_secret secret = {.s = {s, s + 600 + 257}, .n = 600 + 257};
    struct st_freivalds taken, made;
    assert_int_equal(st_freivalds_take(&taken, n_out, N, N_IN, ws, &secret, &e), 0);
    assert_int_equal(st_freivalds_init(&made, same, N, N_IN, &secret, &e), 0);
    for (int v = 0; v < VECS; v++)
        assert_memory_equal(taken.ws[v], made.ws[v], N_IN * sizeof **made.ws);
    st_freivalds_wipe(&taken);
    st_freivalds_wipe(&made);
    secret.n--;
    assert_int_equal(st_freivalds_take(&taken, n_out, N, N_IN, ws, &secret, &e), ST_UNSUPPORTED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(q_is_prime_and_arithmetic_is_exact),
        cmocka_unit_test(products_are_exact_in_every_shape),
        cmocka_unit_test(three_limbs_round_to_the_nearest_256),
        cmocka_unit_test(transforms_multiply_polynomials),
        cmocka_unit_test(sums_of_products_are_exact_whatever_the_words),
        cmocka_unit_test(rows_masked_and_unmasked_come_back),
        cmocka_unit_test(samples_follow_the_discrete_gaussian),
        cmocka_unit_test(secrets_and_errors_are_independent),
        cmocka_unit_test(every_kernel_draws_the_same_samples),
        cmocka_unit_test(wrong_products_are_caught),
        cmocka_unit_test(matrices_on_the_same_rows_are_checked_as_one),
        cmocka_unit_test(transposed_products_are_exact_and_serve_the_check),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
