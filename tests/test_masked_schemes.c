/* Masking schemes by themselves: pads are what they say, no sum can wrap, hints that do not belong are refused, masks
 * look uniform (a regression check of the code; it says nothing about LWE), and the attacks that read `remo` rows get
 * nothing from the others. */
#include "masked_make.h"

#include "crypto/stream.h"
#include "field/mask_kernels.h"
#include "protect/masked/rows.h"

#include <sys/resource.h>

static const uint8_t digest[32] = {1, 2, 3};

/* One group of hand-made matrices. */
struct bench {
    struct st_served_weight w[ST_MAX_GROUP];
    struct st_served served;
    struct st_mask_group group;
    struct st_plan_op ops[ST_MAX_GROUP];
    struct st_plan_weight weights[ST_MAX_GROUP];
    struct st_plan plan;
    struct st_freivalds_secret secret;
    struct st_freivalds check;
    struct st_scheme_opts o;
    struct fake_hints hints;
    struct fake_worker worker;
    const struct st_scheme *scheme;
    void *state;
    struct st_stream *random;
};

static struct st_stream *stream(uint64_t seed)
{
    struct st_err e;
    struct st_stream *s;
    assert_ok(st_stream_new((const uint8_t *)&seed, sizeof seed, NULL, 0, "test", &s, &e), &e);
    return s;
}

enum pattern { RANDOM, FULL, ALTERNATING, ONE, N_PATTERN };

/* Matrices [n_out[k], d] whose columns follow a pattern; n_out ends with 0. */
static void bench_make(struct bench *b, uint32_t d, const uint32_t *n_out, enum pattern pattern)
{
    struct st_rng rng;
    memset(b, 0, sizeof *b);
    st_rng_seed(&rng, d + pattern);
    b->group = (struct st_mask_group){.d = d, .norm = 1};
    for (int k = 0; n_out[k]; k++) {
        int8_t *w = malloc((size_t)n_out[k] * d);
        float *scale = malloc(n_out[k] * sizeof *scale);
        for (uint32_t j = 0; j < n_out[k]; j++) {
            double sum = 0;
            for (uint32_t i = 0; i < d; i++) {
                int8_t v = (int8_t)((int)(st_rng_next(&rng) % 255) - 127);
                if (pattern == FULL || (pattern == ALTERNATING && j % 2))
                    v = 127;
                if (pattern == ALTERNATING && i % 2)
                    v = (int8_t)-v;
                if (pattern == ONE)
                    v = i == j % d ? 127 : 0;
                w[(size_t)j * d + i] = v;
                sum += v * v;
            }
            b->group.norm = fmax(b->group.norm, sqrt(sum));
            scale[j] = 0.001f * (float)(1 + j % 7);
        }
        b->w[k] = (struct st_served_weight){.weight = k, .n_out = n_out[k], .n_in = d, .w = w, .scale = scale};
        snprintf(b->w[k].name, sizeof b->w[k].name, "layer.%d.weight", k);
        memcpy(b->weights[k].name, b->w[k].name, sizeof b->weights[k].name);
        b->ops[k] = (struct st_plan_op){.op = ST_OP_LINEAR,
                                        .role = ST_ROLE_Q,
                                        .place = ST_PLACE_UNTRUSTED,
                                        .layer = -1,
                                        .expert = -1,
                                        .weight = k,
                                        .bias = -1};
        b->group.served[k] = k;
        b->group.n_op = k + 1;
        b->group.n += n_out[k];
    }
    b->served = (struct st_served){.weights = b->w, .n = (uint32_t)b->group.n_op};
    b->plan = (struct st_plan){.ops = b->ops, .weights = b->weights, .n_op = b->group.n_op, .n_weight = b->group.n_op};
    b->group.scale = calloc(b->group.n, sizeof(float));
    for (uint32_t k = 0, at = 0; k < b->served.n; at += b->w[k++].n_out)
        memcpy(b->group.scale + at, b->w[k].scale, b->w[k].n_out * sizeof(float));
    b->random = stream(d);
    b->o = (struct st_scheme_opts){
        .served = &b->served, .groups = &b->group, .n_group = 1, .digest = digest, .plan = &b->plan};
}

static int bench_open(struct bench *b, const char *scheme, const struct st_lwe_params *params, struct st_err *e)
{
    assert_ok(st_scheme_find(scheme, &b->scheme, e), e);
    if (strcmp(scheme, "lwe") == 0 && !b->hints.source.read) {
        hints_init(&b->hints, &b->served, params, digest);
        b->o.params = params;
        b->o.hints = &b->hints.source;
    }
    return b->scheme->open(&b->o, &b->state, e);
}

static void bench_free(struct bench *b)
{
    if (b->state)
        b->scheme->close(b->state);
    for (uint32_t k = 0; k < b->served.n; k++) {
        free((void *)b->w[k].w);
        free((void *)b->w[k].scale);
    }
    st_freivalds_wipe(&b->check);
    st_freivalds_secret_wipe(&b->secret);
    free(b->group.scale);
    if (b->hints.source.read)
        st_lwe_basis_free(&b->hints.basis);
    worker_free(&b->worker);
    st_stream_free(b->random);
}

static uint32_t *pads_of(struct bench *b, uint32_t n)
{
    struct st_err e;
    uint32_t *pads = malloc((size_t)n * (b->group.d + b->group.n) * sizeof *pads);
    assert_ok(b->scheme->make(b->state, 0, n, b->random, pads, &e), &e);
    return pads;
}

/* x W_j mod q for column j of the group, by 128-bit integers. */
static uint32_t times(const struct bench *b, const uint32_t *x, uint32_t j)
{
    __int128 sum = 0;
    uint32_t k = 0, d = b->group.d;
    while (j >= b->w[k].n_out)
        j -= b->w[k++].n_out;
    for (uint32_t i = 0; i < d; i++)
        sum += (__int128)b->w[k].w[(size_t)j * d + i] * x[i];
    sum %= (__int128)ST_FQ;
    return (uint32_t)(sum < 0 ? sum + ST_FQ : sum);
}

static const int8_t *column(const struct bench *b, uint32_t j)
{
    uint32_t k = 0;
    while (j >= b->w[k].n_out)
        j -= b->w[k++].n_out;
    return b->w[k].w + (size_t)j * b->group.d;
}

static const struct st_lwe_params *params_of(const char *name)
{
    struct st_err e;
    const struct st_lwe_params *p;
    assert_ok(st_lwe_params_find(name, &p, &e), &e);
    return p;
}

static void schemes_are_found_by_name_and_lwe_is_the_default(void **state)
{
    (void)state;
    struct st_err e;
    const struct st_scheme *s;
    assert_ok(st_scheme_find(NULL, &s, &e), &e);
    assert_string_equal(s->name, "lwe");
    assert_ok(st_scheme_find("otp", &s, &e), &e);
    assert_string_equal(s->name, "otp");
    expect_refusal(st_scheme_find("slalom", &s, &e), &e, ST_USAGE, "want one of lwe, otp, remo");
}

static void one_time_pads_are_uniform_masks_and_their_exact_products(void **state)
{
    (void)state;
    static const uint32_t n_out[] = {33, 7, 0};
    static const uint32_t widths[] = {1, 65, 300, 70000}; /* the last is cut in two products */
    for (size_t i = 0; i < 4; i++) {
        struct bench b;
        struct st_err e;
        bench_make(&b, widths[i], n_out, i == 3 ? FULL : RANDOM);
        assert_ok(bench_open(&b, "otp", NULL, &e), &e);
        enum { N = 5 };
        uint32_t *pads = pads_of(&b, N);
        for (uint32_t r = 0; r < N; r++) {
            const uint32_t *mask = pads + (size_t)r * (b.group.d + b.group.n);
            for (uint32_t k = 0; k < b.group.d + b.group.n; k++)
                assert_true(mask[k] < ST_FQ);
            for (uint32_t j = 0; j < b.group.n; j++)
                assert_int_equal(mask[b.group.d + j], times(&b, mask, j));
        }
        assert_true(b.scheme->slack(b.state, 0) == 0);
        free(pads);
        bench_free(&b);
    }
}

static void lwe_pads_differ_from_exact_products_by_their_noise_alone(void **state)
{
    (void)state;
    static const uint32_t n_out[] = {20, 13, 0};
    for (int i = 0; st_lwe_params_at(i); i++) {
        const struct st_lwe_params *p = st_lwe_params_at(i);
        if (p->bits_classical < 128)
            continue;
        for (uint32_t d = 300; d <= 600; d += 300) {
            struct bench b;
            struct st_err e;
            bench_make(&b, d, n_out, RANDOM);
            assert_ok(bench_open(&b, "lwe", p, &e), &e);
            enum { N = 20 };
            uint32_t *pads = pads_of(&b, N);
            double square = 0, bound = b.scheme->slack(b.state, 0) * b.group.norm, most = 0;
            for (uint32_t r = 0; r < N; r++) {
                const uint32_t *mask = pads + (size_t)r * (d + b.group.n);
                for (uint32_t j = 0; j < b.group.n; j++) {
                    double noise = st_fq_centre(st_fq_sub(times(&b, mask, j), mask[d + j]));
                    square += noise * noise;
                    most = fmax(most, fabs(noise));
                }
            }
            assert_true(most <= bound);
            /* e W has deviation sigma ||W_j||; 24 bits of hints (d >= 512) add 2^8 / sqrt(12) per coefficient of c. */
            double rounding = d < 512 ? 0 : 256 / sqrt(12) * p->sigma * sqrt(p->m);
            double want = p->sigma * p->sigma * b.group.norm * b.group.norm + rounding * rounding;
            double got = square / (N * b.group.n);
            if (got < 0.5 * want || got > 1.3 * want)
                fail_msg("%s, d %u: noise %.3g, want %.3g", p->name, d, sqrt(got), sqrt(want));
            free(pads);
            bench_free(&b);
        }
    }
}

/* What the bound promises: X W_j and all that masks add stay within q/2, for the worst rows there are. */
static void check_rows(struct bench *b, double *closest)
{
    struct st_err e;
    uint32_t d = b->group.d, n_row = 0;
    double slack = b->scheme->slack(b->state, 0), room = slack * b->group.norm;
    float *x = malloc(d * sizeof *x);
    uint32_t *u = malloc(d * sizeof *u), *zero = calloc(d, sizeof *zero), *plain = malloc(d * sizeof *plain);
    uint32_t *pads = pads_of(b, 8);
    for (uint32_t j = 0; j < b->group.n; j += 3)
        for (int kind = 0; kind < 4; kind++, n_row++) {
            static const float sizes[] = {1, -3e-30f, 2e30f, -0.37f};
            const int8_t *w = column(b, j);
            const uint32_t *mask = pads + (size_t)(n_row % 8) * (d + b->group.n);
            float alpha;
            for (uint32_t i = 0; i < d; i++)
                x[i] = sizes[kind] * (float)w[i];
            assert_ok(st_rows_alpha(x, d, b->group.norm, slack, &alpha, &e), &e);
            st_mask_kernels()->mask(x, alpha, mask, u, d);
            st_mask_kernels()->mask(x, alpha, zero, plain, d);
            int64_t sum = 0;
            for (uint32_t i = 0; i < d; i++)
                sum += (int64_t)st_fq_centre(plain[i]) * w[i];
            assert_true(fabs((double)sum) + room <= ST_FQ / 2.0);
            *closest = fmax(*closest, (fabs((double)sum) + room) / (ST_FQ / 2.0));
            /* Through the worker and back: off by the noise, never by q. */
            double got = st_fq_centre(st_fq_sub(times(b, u, j), mask[d + j]));
            assert_true(fabs(got - (double)sum) <= room);
        }
    free(x);
    free(u);
    free(zero);
    free(plain);
    free(pads);
}

static void no_sum_wraps_even_for_rows_along_a_column(void **state)
{
    (void)state;
    static const uint32_t n_out[] = {24, 9, 0};
    static const uint32_t widths[] = {16, 511, 512, 1500};
    for (int i = -1; i < 0 || st_lwe_params_at(i); i++) {
        const struct st_lwe_params *p = i < 0 ? NULL : st_lwe_params_at(i);
        if (p && p->bits_classical < 128)
            continue;
        double closest = 0;
        for (size_t w = 0; w < 4; w++)
            for (int pattern = RANDOM; pattern < N_PATTERN; pattern++) {
                struct bench b;
                struct st_err e;
                bench_make(&b, widths[w], n_out, pattern);
                assert_ok(bench_open(&b, p ? "lwe" : "otp", p, &e), &e);
                check_rows(&b, &closest);
                bench_free(&b);
            }
        assert_true(closest > 0.999); /* the rows of this test are the worst there are */
    }
}

static void scales_of_rows_stand_for_any_size_and_refuse_what_is_no_number(void **state)
{
    (void)state;
    struct st_err e = {0};
    float x[5] = {0}, alpha;
    assert_ok(st_rows_alpha(x, 5, 100, 0, &alpha, &e), &e);
    assert_true(alpha == 0x1p96f);
    static const float fine[] = {1e-45f, 1e-30f, 1, 1e20f};
    for (size_t i = 0; i < 4; i++) {
        x[2] = fine[i];
        assert_ok(st_rows_alpha(x, 5, 100, 0, &alpha, &e), &e);
        assert_true(isnormal(alpha) && isnormal(1 / alpha) && alpha * x[2] <= ST_FQ / 200.0);
    }
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < 3; i++)
        for (int at = 0; at < 5; at++) {
            memset(x, 0, sizeof x);
            x[at] = bad[i];
            expect_refusal(st_rows_alpha(x, 5, 100, 0, &alpha, &e), &e, ST_VERIFY, "not finite");
        }
    x[4] = 3e38f;
    expect_refusal(st_rows_alpha(x, 5, 1e6, 0, &alpha, &e), &e, ST_VERIFY, "beyond");
    x[4] = 1;
    expect_refusal(st_rows_alpha(x, 5, 1e7, 0, &alpha, &e), &e, ST_UNSUPPORTED, "below the modulus");
    expect_refusal(st_rows_alpha(NULL, 5, 100, 3e7, &alpha, &e), &e, ST_UNSUPPORTED, "below the modulus");
    assert_ok(st_rows_alpha(NULL, 5, 100, 0, &alpha, &e), &e);
    assert_true(alpha > 0.99 * ST_FQ / 200);
}

/* Hints */

static void hints_refused(int wrong, int code, const char *says)
{
    static const uint32_t n_out[] = {20, 40, 0};
    struct bench b;
    struct st_err e = {0};
    bench_make(&b, 64, n_out, RANDOM);
    const struct st_freivalds_matrix w[] = {{b.w[0].w, b.w[0].n_out}, {b.w[1].w, b.w[1].n_out}};
    assert_ok(st_freivalds_secret_init(&b.secret, b.group.n, b.random, &e), &e);
    assert_ok(st_freivalds_init(&b.check, w, 2, 64, &b.secret, &e), &e);
    b.o.checks = &b.check;
    b.o.check_hints = true;
    b.hints.wrong = HINTS_RIGHT;
    hints_init(&b.hints, &b.served, params_of(NULL), digest);
    b.o.hints = &b.hints.source;
    b.hints.wrong = wrong;
    b.hints.wrong_name = "layer.1.weight";
    int rc = bench_open(&b, "lwe", NULL, &e);
    if (code)
        expect_refusal(rc, &e, code, says);
    else
        assert_ok(rc, &e);
    bench_free(&b);
}

static void hints_that_do_not_belong_to_the_weights_are_refused_by_name(void **state)
{
    (void)state;
    hints_refused(HINTS_RIGHT, 0, NULL);
    hints_refused(HINTS_FLIPPED, ST_VERIFY, "hints of q, q do not belong to the weights");
    hints_refused(HINTS_SWAPPED, ST_VERIFY, "hints of q, q do not belong to the weights");
    hints_refused(HINTS_NOT_CANONICAL, ST_INPUT, "hints of layer.1.weight: a residue is not below the modulus");
    hints_refused(HINTS_SHORT, ST_INPUT, "hints of layer.1.weight: want 40 columns, got 32");
    hints_refused(HINTS_LONG, ST_INPUT, "want columns");
    hints_refused(HINTS_SCALE, ST_INPUT, "no valid scale");
    hints_refused(HINTS_NORM, ST_INPUT, "no valid scale and norm");
}

static void hints_that_are_missing_or_of_another_model_are_refused(void **state)
{
    (void)state;
    static const uint32_t n_out[] = {8, 0};
    static const uint8_t other[32] = {9};
    struct bench b;
    struct st_err e = {0};
    bench_make(&b, 64, n_out, RANDOM);
    assert_ok(st_scheme_find("lwe", &b.scheme, &e), &e);
    expect_refusal(b.scheme->open(&b.o, &b.state, &e), &e, ST_INPUT, "missing hints");
    hints_init(&b.hints, &b.served, params_of(NULL), other);
    b.o.hints = &b.hints.source;
    expect_refusal(b.scheme->open(&b.o, &b.state, &e), &e, ST_VERIFY, "another model");
    b.hints.source.digest = digest;
    b.hints.source.params = "lwe-9-9";
    expect_refusal(b.scheme->open(&b.o, &b.state, &e), &e, ST_USAGE, "lwe-9-9, want lwe-1280-12.8");
    b.hints.source.params = "lwe-1280-12.8";
    b.o.check_hints = true;
    expect_refusal(b.scheme->open(&b.o, &b.state, &e), &e, ST_POLICY, "no weights");
    b.o.check_hints = false;
    struct rlimit was, low = {1 << 10, RLIM_INFINITY};
    getrlimit(RLIMIT_AS, &was);
    low.rlim_max = was.rlim_max;
    if (!setrlimit(RLIMIT_AS, &low)) {
        int rc = b.scheme->open(&b.o, &b.state, &e);
        setrlimit(RLIMIT_AS, &was);
        expect_refusal(rc, &e, ST_MEMORY, "not enough memory for hints: 40.0 KiB needed, 1.0 KiB available");
    }
    bench_free(&b);
}

static void one_time_pads_need_the_weights_here(void **state)
{
    (void)state;
    static const uint32_t n_out[] = {8, 0};
    struct bench b;
    struct st_err e = {0};
    bench_make(&b, 64, n_out, RANDOM);
    const int8_t *w = b.w[0].w;
    b.w[0].w = NULL;
    expect_refusal(bench_open(&b, "otp", NULL, &e), &e, ST_POLICY, "knows the pad");
    b.w[0].w = w;
    bench_free(&b);
}

static void without_weights_scales_and_norms_come_from_the_hints(void **state)
{
    (void)state;
    static const uint32_t n_out[] = {20, 9, 0};
    struct bench b, blind;
    struct st_err e = {0};
    bench_make(&b, 64, n_out, RANDOM);
    bench_make(&blind, 64, n_out, RANDOM);
    hints_init(&blind.hints, &b.served, params_of(NULL), digest);
    blind.o.hints = &blind.hints.source;
    memset(blind.group.scale, 0, blind.group.n * sizeof(float));
    blind.group.norm = 0;
    for (int k = 0; k < 2; k++) {
        free((void *)blind.w[k].w);
        free((void *)blind.w[k].scale);
        blind.w[k].w = NULL;
        blind.w[k].scale = NULL;
    }
    assert_ok(bench_open(&blind, "lwe", NULL, &e), &e);
    assert_memory_equal(blind.group.scale, b.group.scale, b.group.n * sizeof(float));
    assert_true(fabs(blind.group.norm / b.group.norm - 1) < 1e-6);
    bench_free(&blind);
    bench_free(&b);
}

/* What masks look like. Regression checks: LWE rows would pass with any sound generator, and a broken one may too. */

static void check_uniform(const uint32_t *words, size_t n, const char *name)
{
    /* q is 2^12 smallest steps below 2^32: the top byte of a residue is uniform up to 2^-12, the others exactly so. */
    for (int byte = 0; byte < 4; byte++) {
        double count[256] = {0}, chi = 0;
        for (size_t i = 0; i < n; i++)
            count[words[i] >> 8 * byte & 255]++;
        for (int v = 0; v < 256; v++)
            chi += (count[v] - n / 256.0) * (count[v] - n / 256.0) / (n / 256.0);
        if (fabs(chi - 255) > 6 * sqrt(2 * 255))
            fail_msg("%s: byte %d: chi^2 %.0f with 255 degrees of freedom", name, byte, chi);
    }
    for (size_t lag = 1; lag <= 3; lag++) {
        double sum = 0;
        for (size_t i = 0; i + lag < n; i++)
            sum += ((double)words[i] / ST_FQ - 0.5) * ((double)words[i + lag] / ST_FQ - 0.5);
        double z = sum / (double)n * 12 * sqrt((double)n);
        if (fabs(z) > 6)
            fail_msg("%s: correlation at lag %zu is %.1f deviations", name, lag, z);
    }
}

static void masked_rows_look_uniform_even_for_equal_rows(void **state)
{
    (void)state;
    static const uint32_t n_out[] = {4, 0};
    static const char *const names[] = {"otp", "lwe"};
    enum { D = 1024, N = 512 };
    for (int s = 0; s < 2; s++) {
        struct bench b;
        struct st_err e;
        float x[D], alpha;
        bench_make(&b, D, n_out, RANDOM);
        assert_ok(bench_open(&b, names[s], params_of(NULL), &e), &e);
        uint32_t *pads = pads_of(&b, N), *u = malloc(N * D * sizeof *u);
        for (int i = 0; i < D; i++)
            x[i] = i == 5 ? 100 : 1;
        assert_ok(st_rows_alpha(x, D, b.group.norm, b.scheme->slack(b.state, 0), &alpha, &e), &e);
        for (size_t r = 0; r < N; r++)
            st_mask_kernels()->mask(x, alpha, pads + r * (D + b.group.n), u + r * D, D);
        check_uniform(u, N * D, names[s]);
        for (size_t r = 0; r < N; r++) /* the same place of each row: nothing of it stays */
            pads[r] = u[r * D + 5];
        double mean = 0;
        for (size_t r = 0; r < N; r++)
            mean += (double)pads[r] / ST_FQ / N;
        assert_true(fabs(mean - 0.5) < 6 / sqrt(12.0 * N));
        free(pads);
        free(u);
        bench_free(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(schemes_are_found_by_name_and_lwe_is_the_default),
        cmocka_unit_test(one_time_pads_are_uniform_masks_and_their_exact_products),
        cmocka_unit_test(lwe_pads_differ_from_exact_products_by_their_noise_alone),
        cmocka_unit_test(no_sum_wraps_even_for_rows_along_a_column),
        cmocka_unit_test(scales_of_rows_stand_for_any_size_and_refuse_what_is_no_number),
        cmocka_unit_test(hints_that_do_not_belong_to_the_weights_are_refused_by_name),
        cmocka_unit_test(hints_that_are_missing_or_of_another_model_are_refused),
        cmocka_unit_test(one_time_pads_need_the_weights_here),
        cmocka_unit_test(without_weights_scales_and_norms_come_from_the_hints),
        cmocka_unit_test(masked_rows_look_uniform_even_for_equal_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
