/* The frames of covariant obfuscation and the Gaussian noise: what writes x and what reads it cancel, for both presets;
 * a row of noise is the same whenever and in whatever pieces it is drawn. */
#include "cov_make.h"
#include "protect/covariant/noise.h"

#include <cblas.h>
#include <lapacke.h>

static struct st_stream *stream(const char *label)
{
    struct st_err e;
    struct st_stream *s;
    assert_ok(st_stream_new((const uint8_t *)"seed", 4, NULL, 0, label, &s, &e), &e);
    return s;
}

static void make(struct st_cov_frame *f, enum st_cov_preset preset, uint32_t d, uint32_t h, double lambda)
{
    struct st_err e;
    struct st_stream *s = stream("frame");
    assert_ok(st_cov_frame_init(f, preset, d, h, lambda, s, &e), &e);
    st_stream_free(s);
}

/* Largest |P Q - I| with Q^T = [I R^T] reader for one draw of R. */
static double cancel_error(const struct st_cov_frame *f, const char *label)
{
    size_t d = f->d, wide = f->wide;
    struct st_stream *s = stream(label);
    float *rt = calloc(d * f->spare, sizeof *rt);
    double *r = calloc(d * f->spare, sizeof *r), *q = calloc(d * wide, sizeof *q), *pq = calloc(d * d, sizeof *pq);
    assert_true(rt && r && q && pq);
    st_cov_frame_expand(f, s, 0, f->d, rt);
    for (size_t i = 0; i < d * f->spare; i++)
        r[i] = (double)rt[i];
    memcpy(q, f->reader, d * wide * sizeof *q);
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)d, (int)wide, (int)f->spare, 1, r, (int)f->spare,
                f->reader + d * wide, (int)wide, 1, q, (int)wide);
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)d, (int)d, (int)wide, 1, f->writer, (int)wide, q,
                (int)wide, 0, pq, (int)d);
    double max = 0;
    for (size_t i = 0; i < d; i++)
        for (size_t j = 0; j < d; j++)
            max = fmax(max, fabs(pq[i * d + j] - (i == j)));
    free(rt);
    free(r);
    free(q);
    free(pq);
    st_stream_free(s);
    return max;
}

/* Singular values of [rows, cols], largest first. */
static void singular(const double *m, uint32_t rows, uint32_t cols, double *sv)
{
    double *copy = malloc((size_t)rows * cols * sizeof *copy), unused[1];
    assert_non_null(copy);
    memcpy(copy, m, (size_t)rows * cols * sizeof *copy);
    assert_int_equal(LAPACKE_dgesdd(LAPACK_ROW_MAJOR, 'N', (int)rows, (int)cols, copy, (int)cols, sv, unused, (int)rows,
                                    unused, (int)cols),
                     0);
    free(copy);
}

static void what_reads_the_hidden_state_cancels_what_writes_it(void **state)
{
    (void)state;
    static const struct {
        enum st_cov_preset preset;
        uint32_t d, h;
        double lambda;
    } rows[] = {{ST_COV_PRESET_TIGHT, 40, 12, 0},    {ST_COV_PRESET_TIGHT, 288, 33, 0},
                {ST_COV_PRESET_PAPER, 40, 12, 0},    {ST_COV_PRESET_PAPER, 96, 2, 0.3},
                {ST_COV_PRESET_PAPER, 288, 32, 0.3}, {ST_COV_PRESET_PAPER, 64, 64, 1}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct st_cov_frame f;
        make(&f, rows[i].preset, rows[i].d, rows[i].h, rows[i].lambda);
        assert_int_equal(f.wide, rows[i].d + 2 * rows[i].h);
        double a = cancel_error(&f, "one"), b = cancel_error(&f, "two");
        if (!(a < 1e-12 && b < 1e-12))
            fail_msg("row %zu: P Q is off I by %.2g and %.2g", i, a, b);
        st_cov_frame_wipe(&f);
    }
}

static void the_tight_frame_keeps_norms_and_the_latent_one_needs_no_room(void **state)
{
    (void)state;
    struct st_cov_frame f;
    double sv[64];
    make(&f, ST_COV_PRESET_TIGHT, 40, 12, 0);
    singular(f.writer, f.d, f.wide, sv);
    assert_true(fabs(sv[0] - 1) < 1e-12 && fabs(sv[39] - 1) < 1e-12);
    assert_ptr_equal(f.writer, f.reader);
    st_cov_frame_wipe(&f);
    make(&f, ST_COV_PRESET_TIGHT, 64, 0, 0);
    assert_int_equal(f.spare, 0);
    singular(f.writer, 64, 64, sv);
    assert_true(fabs(sv[0] - 1) < 1e-12 && fabs(sv[63] - 1) < 1e-12);
    st_cov_frame_wipe(&f);
}

static void the_papers_keys_are_well_conditioned(void **state)
{
    (void)state;
    static const struct {
        uint32_t d, h;
        double lambda, most; /* condition of P: a little above papers' figures */
    } rows[] = {{288, 32, 0, 1.8}, {288, 32, 0.3, 3.0}, {288, 128, 0.3, 3.2}, {96, 16, 1, 600}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct st_cov_frame f;
        double sv[288];
        make(&f, ST_COV_PRESET_PAPER, rows[i].d, rows[i].h, rows[i].lambda);
        singular(f.writer, f.d, f.wide, sv);
        if (!(sv[0] / sv[f.d - 1] < rows[i].most && sv[0] / sv[f.d - 1] > 1.2))
            fail_msg("row %zu: condition %.3g", i, sv[0] / sv[f.d - 1]);
        st_cov_frame_wipe(&f);
    }
}

static void keys_that_cannot_be_drawn_are_refused_by_name(void **state)
{
    (void)state;
    struct st_err e;
    struct st_cov_frame f;
    struct st_stream *s = stream("frame");
    assert_int_equal(st_cov_frame_init(&f, ST_COV_PRESET_PAPER, 40, 7, 0.3, s, &e), ST_USAGE);
    assert_non_null(strstr(e.msg, "h:"));
    assert_null(f.reader);
    struct st_cov_opts o;
    static const struct {
        enum st_cov_preset preset;
        double lambda, alpha_e, noise_all;
        const char *word;
    } bad[] = {{ST_COV_PRESET_PAPER, -0.1, 0, 0, "lambda"},  {ST_COV_PRESET_PAPER, 1.01, 0, 0, "lambda"},
               {ST_COV_PRESET_PAPER, NAN, 0, 0, "lambda"},   {ST_COV_PRESET_TIGHT, 0.3, 0, 0, "lambda"},
               {ST_COV_PRESET_PAPER, 0.3, -1, 0, "alpha-e"}, {ST_COV_PRESET_TIGHT, 0, 0, INFINITY, "noise-all"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        st_cov_opts_init(&o, bad[i].preset);
        o.lambda = bad[i].lambda;
        o.alpha_e = bad[i].alpha_e;
        o.noise_all = bad[i].noise_all;
        assert_int_equal(st_cov_opts_check(&o, &e), ST_USAGE);
        assert_non_null(strstr(e.msg, bad[i].word));
    }
    st_cov_opts_init(&o, ST_COV_PRESET_TIGHT);
    o.calibrate = "text";
    assert_int_equal(st_cov_opts_check(&o, &e), ST_USAGE);
    st_stream_free(s);
}

static void noise_is_normal_and_rows_are_unrelated(void **state)
{
    (void)state;
    enum { ROWS = 200, N = 5000 };
    static float z[ROWS][N];
    struct st_stream *s = stream("noise");
    double m[5] = {0}, lag = 0, across = 0;
    for (int i = 0; i < ROWS; i++)
        st_cov_noise_row(s, (uint64_t)i, z[i], N);
    int beyond[4] = {0};
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < N; j++) {
            double v = (double)z[i][j];
            for (int k = 1; k < 5; k++)
                m[k] += pow(v, k) / (ROWS * N);
            lag += j ? v * (double)z[i][j - 1] / (ROWS * N) : 0;
            across += i ? v * (double)z[i - 1][j] / (ROWS * N) : 0;
            for (int k = 1; k < 4; k++)
                beyond[k] += fabs(v) > k;
        }
    assert_true(fabs(m[1]) < 5e-3 && fabs(m[2] - 1) < 7e-3 && fabs(m[3]) < 2e-2 && fabs(m[4] - 3) < 5e-2);
    assert_true(fabs(lag) < 5e-3 && fabs(across) < 5e-3);
    static const double tail[4] = {0, 0.317311, 0.045500, 0.002700};
    for (int k = 1; k < 4; k++)
        assert_true(fabs(beyond[k] / (double)(ROWS * N) - tail[k]) < 5 * sqrt(tail[k] / (ROWS * N)));
    st_stream_free(s);
}

static void a_row_of_noise_is_the_same_in_any_order_and_length(void **state)
{
    (void)state;
    float a[3000], b[3000];
    struct st_stream *s = stream("noise"), *other = stream("other");
    st_cov_noise_row(s, 7, a, 3000);
    st_cov_noise_row(s, 8, b, 3000);
    assert_memory_not_equal(a, b, sizeof a);
    for (size_t n = 0; n <= 3000; n = n < 130 ? n + 1 : n + 287) {
        memset(b, 0, sizeof b);
        st_cov_noise_row(s, 7, b, n);
        assert_memory_equal(a, b, n * sizeof *a);
        assert_true(n == 3000 || b[n] == 0);
    }
    st_cov_noise_row(other, 7, b, 3000);
    assert_memory_not_equal(a, b, sizeof a);
    st_stream_free(s);
    st_stream_free(other);
}

static void rows_that_were_never_trained_do_not_count_in_the_deviation(void **state)
{
    (void)state;
    enum { ROWS = 300, UNTRAINED = 90, D = 64 };
    static float w[ROWS][D];
    struct st_err e;
    struct st_stream *s = stream("rows");
    const struct st_mat m = {.data = w, .dtype = ST_DTYPE_F32, .n_out = ROWS, .n_in = D};
    double all, trained;
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < D; j++)
            w[i][j] = i % 10 < 3 ? (float)(3 + 0.1 * st_stream_normal(s)) : (float)st_stream_normal(s);
    assert_ok(st_cov_noise_std(&m, true, NULL, &trained, &e), &e);
    assert_ok(st_cov_noise_std(&m, false, NULL, &all, &e), &e);
    assert_true(fabs(trained - 1) < 0.03);
    assert_true(all > 1.5);
    struct st_pool *pool;
    double again;
    assert_ok(st_pool_new(3, &pool, &e), &e);
    assert_ok(st_cov_noise_std(&m, true, pool, &again, &e), &e);
    assert_true(again == trained);
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < D; j++)
            w[i][j] = j % 2 ? 2 : 1;
    assert_ok(st_cov_noise_std(&m, true, pool, &again, &e), &e);
    assert_true(fabs(again - 0.5) < 1e-9);
    st_pool_free(pool);
    st_stream_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_reads_the_hidden_state_cancels_what_writes_it),
        cmocka_unit_test(the_tight_frame_keeps_norms_and_the_latent_one_needs_no_room),
        cmocka_unit_test(the_papers_keys_are_well_conditioned),
        cmocka_unit_test(keys_that_cannot_be_drawn_are_refused_by_name),
        cmocka_unit_test(noise_is_normal_and_rows_are_unrelated),
        cmocka_unit_test(a_row_of_noise_is_the_same_in_any_order_and_length),
        cmocka_unit_test(rows_that_were_never_trained_do_not_count_in_the_deviation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
