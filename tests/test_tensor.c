/* Every operation on every instruction set of this CPU against sums in f64, by normalised mean square error (NMSE) and
 * largest error; the conversions against their definition. */
#include "base/buf.h"
#include "base/hooks.h"
#include "tensor/compute.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char *const isas[] = {"ref", "avx2", "avx512"};
enum { N_ISA = 3 };

static struct st_rng rng;

static float uniform(void)
{
    return (float)(2 * st_rng_unit(&rng) - 1);
}

static void *alloc(size_t n, size_t size)
{
    struct st_err e;
    void *p;
    assert_int_equal(st_alloc(&p, n ? n : 1, size, "test", &e), 0);
    return p;
}

static float *random_floats(size_t n)
{
    float *p = alloc(n, sizeof *p);
    for (size_t i = 0; i < n; i++)
        p[i] = uniform();
    return p;
}

/* NULL when this CPU lacks the set. */
static struct st_compute *compute(const char *isa, int n_threads, bool deterministic)
{
    struct st_compute_opts o = {
        .n_threads = n_threads, .isa = isa, .max_row = 700, .max_width = 12000, .deterministic = deterministic};
    struct st_compute *c;
    struct st_err e;
    int rc = st_compute_new(&o, &c, &e);
    if (rc == ST_UNSUPPORTED) {
        print_message("skipped: %s\n", e.msg);
        return NULL;
    }
    assert_int_equal(rc, 0);
    assert_string_equal(st_compute_isa(c), isa);
    return c;
}

struct error {
    double nmse, max; /* max: largest error over the root mean square of the reference */
};

static struct error compare(const float *got, const double *want, size_t n)
{
    double err = 0, ref = 0, max = 0;
    for (size_t i = 0; i < n; i++) {
        double d = got[i] - want[i];
        err += d * d;
        ref += want[i] * want[i];
        max = fabs(d) > max || d != d ? fabs(d) : max;
    }
    if (ref == 0)
        return (struct error){err, max};
    return (struct error){err / ref, max / sqrt(ref / (double)n)};
}

static void check(const char *what, struct error e, double nmse, double max)
{
    if (!(e.nmse <= nmse) || !(e.max <= max))
        fail_msg("%s: NMSE %.3g (at most %.3g), largest error %.3g (at most %.3g)", what, e.nmse, nmse, e.max, max);
}

/* A matrix whose values are uniform, held exactly in `dtype`; `exact` are the values that it holds. */
struct matrix {
    struct st_mat m;
    void *data;
    float *scale, *exact;
};

static struct matrix new_matrix(enum st_dtype dtype, uint32_t n_out, uint32_t n_in)
{
    size_t n = (size_t)n_out * n_in;
    struct matrix w = {.exact = random_floats(n)};
    w.data = alloc(n, st_dtype_size(dtype));
    w.scale = alloc(n_out, sizeof *w.scale);
    if (dtype == ST_DTYPE_I8) {
        for (uint32_t o = 0; o < n_out; o++) {
            int8_t *q = (int8_t *)w.data + (size_t)o * n_in;
            w.scale[o] = st_quantize_row(w.exact + (size_t)o * n_in, n_in, q);
            for (uint32_t k = 0; k < n_in; k++)
                w.exact[(size_t)o * n_in + k] = (float)q[k] * w.scale[o];
        }
    } else {
        st_convert(ST_DTYPE_F32, w.exact, dtype, w.data, n);
        st_convert(dtype, w.data, ST_DTYPE_F32, w.exact, n);
    }
    w.m = (struct st_mat){w.data, dtype == ST_DTYPE_I8 ? w.scale : NULL, dtype, n_out, n_in};
    return w;
}

static void free_matrix(struct matrix *w)
{
    free(w->data);
    free(w->scale);
    free(w->exact);
}

static void linear_f64(const struct matrix *w, const float *bias, const float *x, uint32_t n_row, double *y)
{
    for (uint32_t r = 0; r < n_row; r++)
        for (uint32_t o = 0; o < w->m.n_out; o++) {
            double sum = bias ? (double)bias[o] : 0;
            for (uint32_t k = 0; k < w->m.n_in; k++)
                sum += (double)x[(size_t)r * w->m.n_in + k] * (double)w->exact[(size_t)o * w->m.n_in + k];
            y[(size_t)r * w->m.n_out + o] = sum;
        }
}

/* Up to 4 rows keep f32 activations (16-bit for int8); more may round them to bf16 when the weights are bf16 or int8.
 */
static void check_linear(struct st_compute *c, const char *isa, enum st_dtype dtype, uint32_t n_row, uint32_t n_out,
                         uint32_t n_in)
{
    struct matrix w = new_matrix(dtype, n_out, n_in), w2 = new_matrix(dtype, 5, n_in);
    float *x = random_floats((size_t)n_row * n_in), *bias = random_floats(n_out);
    float *y = alloc((size_t)n_row * n_out, sizeof *y), *y2 = alloc((size_t)n_row * 5, sizeof *y2);
    double *want = alloc((size_t)n_row * n_out, sizeof *want), *want2 = alloc((size_t)n_row * 5, sizeof *want2);
    struct st_linear_job jobs[] = {{.w = &w.m, .bias = bias, .y = y}, {.w = &w2.m, .y = y2}};
    st_linear(c, jobs, 2, x, n_row);
    linear_f64(&w, bias, x, n_row, want);
    linear_f64(&w2, NULL, x, n_row, want2);
    bool narrow = n_row > 4 && (dtype == ST_DTYPE_BF16 || dtype == ST_DTYPE_I8);
    double nmse = narrow ? 1e-5 : dtype == ST_DTYPE_I8 ? 1e-8 : 3e-11;
    char what[128];
    snprintf(what, sizeof what, "%s %s %u rows [%u, %u]", isa, st_dtype_name(dtype), n_row, n_out, n_in);
    check(what, compare(y, want, (size_t)n_row * n_out), nmse, 8 * sqrt(nmse));
    check(what, compare(y2, want2, (size_t)n_row * 5), nmse, 8 * sqrt(nmse));
    free_matrix(&w);
    free_matrix(&w2);
    free(x);
    free(bias);
    free(y);
    free(y2);
    free(want);
    free(want2);
}

static void linear_layers_of_every_shape_match_f64_sums(void **state)
{
    static const struct {
        uint32_t n_out, n_in;
    } shapes[] = {{1, 1},     {3, 7},    {17, 16},   {33, 31},  {64, 64},   {29, 65},
                  {100, 127}, {41, 576}, {130, 289}, {7, 2049}, {30, 4100}, {5, 9001}};
    (void)state;
    for (int i = 0; i < N_ISA; i++)
        for (int n_threads = 1; n_threads <= 3; n_threads += 2) {
            struct st_compute *c = compute(isas[i], n_threads, false);
            for (enum st_dtype t = 0; c && t < ST_DTYPE_COUNT; t++)
                for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++)
                    for (uint32_t n_row = 1; n_row <= 9; n_row++)
                        check_linear(c, isas[i], t, n_row, shapes[s].n_out, shapes[s].n_in);
            st_compute_free(c);
        }
}

static void linear_layers_with_many_rows_match_f64_sums(void **state)
{
    static const uint32_t n_rows[] = {10, 15, 16, 17, 31, 32, 33, 64, 100, 600};
    (void)state;
    for (int i = 0; i < N_ISA; i++) {
        struct st_compute *c = compute(isas[i], 2, false);
        for (enum st_dtype t = 0; c && t < ST_DTYPE_COUNT; t++)
            for (size_t r = 0; r < sizeof n_rows / sizeof n_rows[0]; r++) {
                check_linear(c, isas[i], t, n_rows[r], 45, 96);
                check_linear(c, isas[i], t, n_rows[r], 19, 33);
            }
        st_compute_free(c);
    }
}

/* Rows [lo, hi) of w in memory of their own, so that a read beyond them is noticed. */
static struct st_mat rows_of(const struct st_mat *w, uint32_t lo, uint32_t hi)
{
    size_t row = w->n_in * st_dtype_size(w->dtype);
    uint8_t *p = alloc(hi - lo, row);
    memcpy(p, (const uint8_t *)w->data + lo * row, (hi - lo) * row);
    return (struct st_mat){
        .data = p, .scale = w->scale ? w->scale + lo : NULL, .dtype = w->dtype, .n_out = hi - lo, .n_in = w->n_in};
}

static void check_cut(struct st_compute *c, enum st_dtype dtype, uint32_t n_row, uint32_t n_in)
{
    enum { N_OUT = 61 };
    static const uint32_t cuts[] = {0, 1, 8, 13, 13 + 24, N_OUT};
    enum { N_CUT = sizeof cuts / sizeof cuts[0] - 1 };
    struct matrix w = new_matrix(dtype, N_OUT, n_in);
    float *x = random_floats((size_t)n_row * n_in), *bias = random_floats(N_OUT);
    float *whole = alloc((size_t)n_row * N_OUT, sizeof *whole), *y = alloc((size_t)n_row * N_OUT, sizeof *y);
    struct st_linear_job jobs[N_CUT];
    struct st_mat blocks[N_CUT];
    st_linear(c, &(struct st_linear_job){.w = &w.m, .bias = bias, .y = whole}, 1, x, n_row);
    for (int i = 0; i < N_CUT; i++) {
        blocks[i] = rows_of(&w.m, cuts[i], cuts[i + 1]);
        jobs[i] = (struct st_linear_job){.w = &blocks[i], .bias = bias + cuts[i], .y = y + cuts[i], .ldy = N_OUT};
    }
    st_linear(c, jobs, 3, x, n_row);
    for (int i = 3; i < N_CUT; i++)
        st_linear(c, &jobs[i], 1, x, n_row);
    assert_memory_equal(y, whole, (size_t)n_row * N_OUT * sizeof *y);
    for (int i = 0; i < N_CUT; i++)
        free((void *)(uintptr_t)blocks[i].data);
    free_matrix(&w);
    free(x);
    free(bias);
    free(whole);
    free(y);
}

static void a_matrix_cut_between_its_rows_gives_the_same_bits(void **state)
{
    static const uint32_t n_rows[] = {1, 2, 4, 5, 8, 9, 16, 40, 70};
    static const uint32_t n_ins[] = {33, 96, 2050};
    (void)state;
    for (int i = 0; i < N_ISA; i++)
        for (int exact = 0; exact < 2; exact++) {
            struct st_compute *c = compute(isas[i], 2, exact);
            for (enum st_dtype t = 0; c && t < ST_DTYPE_COUNT; t++)
                for (size_t r = 0; r < sizeof n_rows / sizeof n_rows[0]; r++)
                    for (size_t k = 0; k < sizeof n_ins / sizeof n_ins[0]; k++)
                        check_cut(c, t, n_rows[r], n_ins[k]);
            st_compute_free(c);
        }
}

static void a_deterministic_row_does_not_depend_on_its_batch(void **state)
{
    enum { N_ROW = 21, N_OUT = 67, N_IN = 301 };
    (void)state;
    for (int i = 0; i < N_ISA; i++)
        for (enum st_dtype t = 0; t < ST_DTYPE_COUNT; t++) {
            struct st_compute *c = compute(isas[i], 2, true), *one = compute(isas[i], 1, true);
            if (!c)
                continue;
            struct matrix w = new_matrix(t, N_OUT, N_IN);
            float *x = random_floats(N_ROW * N_IN), *all = alloc(N_ROW * N_OUT, sizeof *all);
            st_linear(c, &(struct st_linear_job){.w = &w.m, .y = all}, 1, x, N_ROW);
            for (uint32_t r = 0; r < N_ROW; r++)
                for (uint32_t n = 1; n <= 9 && r + n <= N_ROW; n++) {
                    float some[9 * N_OUT];
                    st_linear(n % 2 ? one : c, &(struct st_linear_job){.w = &w.m, .y = some}, 1, x + r * N_IN, n);
                    assert_memory_equal(some, all + r * N_OUT, n * N_OUT * sizeof *some);
                }
            free_matrix(&w);
            free(x);
            free(all);
            st_compute_free(c);
            st_compute_free(one);
        }
}

static void int8_rows_of_extreme_values_do_not_overflow(void **state)
{
    enum { N_IN = 9000 };
    (void)state;
    int8_t *data = alloc(2 * N_IN, 1);
    float *x = alloc(N_IN, sizeof *x), scale[2] = {1, 1}, y[2];
    for (size_t k = 0; k < N_IN; k++) {
        data[k] = 127;
        data[N_IN + k] = k % 2 ? 127 : -127;
        x[k] = k % 2 ? 3 : -3;
    }
    struct st_mat m = {data, scale, ST_DTYPE_I8, 2, N_IN};
    for (int i = 0; i < N_ISA; i++) {
        struct st_compute *c = compute(isas[i], 1, false);
        if (!c)
            continue;
        st_linear(c, &(struct st_linear_job){.w = &m, .y = y}, 1, x, 1);
        assert_float_equal(y[0], 0, 0);
        assert_float_equal(y[1], 3.0f * 127 * N_IN, 1);
        st_compute_free(c);
    }
    free(data);
    free(x);
}

static void weights_may_start_at_any_byte(void **state)
{
    (void)state;
    for (int i = 0; i < N_ISA; i++)
        for (enum st_dtype t = 0; t < ST_DTYPE_COUNT; t++) {
            struct st_compute *c = compute(isas[i], 1, false);
            if (!c)
                continue;
            struct matrix w = new_matrix(t, 9, 50);
            size_t bytes = st_mat_bytes(&w.m);
            uint8_t *moved = alloc(bytes + 1, 1);
            memcpy(moved + 1, w.data, bytes);
            float *x = random_floats(20 * 50), a[20 * 9], b[20 * 9];
            struct st_mat m = w.m;
            m.data = moved + 1;
            for (uint32_t n = 1; n <= 20; n += 19) {
                st_linear(c, &(struct st_linear_job){.w = &w.m, .y = a}, 1, x, n);
                st_linear(c, &(struct st_linear_job){.w = &m, .y = b}, 1, x, n);
                assert_memory_equal(a, b, n * 9 * sizeof *a);
            }
            free_matrix(&w);
            free(moved);
            free(x);
            st_compute_free(c);
        }
}

static void embeddings_are_the_rows_of_the_table(void **state)
{
    static const uint32_t ids[] = {3, 0, 9, 3};
    (void)state;
    for (enum st_dtype t = 0; t < ST_DTYPE_COUNT; t++) {
        struct st_compute *c = compute("ref", 2, false);
        struct matrix w = new_matrix(t, 10, 37);
        float y[4 * 37];
        st_embed(c, &w.m, ids, 4, y);
        for (int i = 0; i < 4; i++)
            assert_memory_equal(y + i * 37, w.exact + ids[i] * 37, 37 * sizeof *y);
        free_matrix(&w);
        st_compute_free(c);
    }
}

static void norms_match_f64(void **state)
{
    static const uint32_t widths[] = {1, 7, 16, 64, 100, 2049};
    (void)state;
    for (int i = 0; i < N_ISA; i++) {
        struct st_compute *c = compute(isas[i], 2, false);
        for (size_t s = 0; c && s < sizeof widths / sizeof widths[0]; s++) {
            uint32_t d = widths[s], n_row = 19;
            float *x = random_floats(n_row * d), *w = random_floats(d);
            double *want = alloc(n_row * d, sizeof *want);
            for (uint32_t r = 0; r < n_row; r++) {
                double sum = 0;
                for (uint32_t k = 0; k < d; k++)
                    sum += (double)x[r * d + k] * (double)x[r * d + k];
                for (uint32_t k = 0; k < d; k++)
                    want[r * d + k] = (double)x[r * d + k] / sqrt(sum / d + (double)1e-5f) * (double)w[k];
            }
            st_rmsnorm(c, x, w, 1e-5f, n_row, d, x);
            check(isas[i], compare(x, want, n_row * d), 1e-12, 1e-5);
            free(x);
            free(w);
            free(want);
        }
        st_compute_free(c);
    }
}

/* Rotates x [n_row, n_head, hd] in f64. */
static void rope_f64(double *x, uint32_t n_row, uint32_t n_head, uint32_t hd, const uint32_t *pos,
                     const struct st_rotary *rot)
{
    for (uint32_t i = 0; i < n_row * n_head; i++)
        for (uint32_t k = 0; k < rot->n_pair; k++) {
            double *at = x + (size_t)i * hd + rot->first;
            double *a = at + (rot->interleaved ? 2 * k : k), *b = a + (rot->interleaved ? 1 : rot->n_pair);
            double angle = (double)((float)pos[i / n_head] * rot->inv_freq[k]), wa = *a, wb = *b;
            *a = (double)rot->gain * (wa * cos(angle) - wb * sin(angle));
            *b = (double)rot->gain * (wb * cos(angle) + wa * sin(angle));
        }
}

/* Rotates the whole head, its first values, its last values or some in its middle, with and without gain. */
static void check_rope(struct st_compute *c, const char *isa, uint32_t hd, int mode)
{
    enum { N_ROW = 21, N_HEAD = 3 };
    uint32_t pos[N_ROW], less = mode & 2 && hd > 4 ? 1 : 0;
    size_t n = (size_t)N_ROW * N_HEAD * hd;
    float inv_freq[128], *x = random_floats(n), *copy = alloc(n, sizeof *copy);
    double *want = alloc(n, sizeof *want);
    struct st_rotary rot = {.inv_freq = inv_freq, .n_pair = hd / 2 - less, .gain = 1, .interleaved = mode & 1};
    if (mode & 4) {
        rot.first = less + (hd & 1);
        rot.gain = 1.4f;
    }
    for (uint32_t r = 0; r < N_ROW; r++)
        pos[r] = r == 20 ? 131071 : r * 37 + (uint32_t)mode;
    for (uint32_t k = 0; k < rot.n_pair; k++)
        inv_freq[k] = powf(10000, -2 * (float)k / (float)hd);
    for (size_t k = 0; k < n; k++)
        want[k] = (double)x[k];
    rope_f64(want, N_ROW, N_HEAD, hd, pos, &rot);
    /* Twice with other rows, and the same rows with another gain, between, so that a stale table would show. */
    memcpy(copy, x, n * sizeof *x);
    st_rope(c, copy, N_ROW, N_HEAD, hd, pos, &rot);
    check(isa, compare(copy, want, n), 1e-12, 1e-5);
    st_rope(c, copy, 2, N_HEAD, hd, pos + 5, &rot);
    struct st_rotary other = rot;
    other.gain = 0.5f;
    st_rope(c, copy, N_ROW, N_HEAD, hd, pos, &other);
    st_rope(c, x, N_ROW, N_HEAD, hd, pos, &rot);
    check(isa, compare(x, want, n), 1e-12, 1e-5);
    free(copy);
    free(x);
    free(want);
}

static void rotary_positions_match_f64_in_both_pairings_and_any_part_of_a_head(void **state)
{
    static const uint32_t dims[] = {2, 6, 13, 16, 48, 64, 128, 192, 256};
    (void)state;
    for (int i = 0; i < N_ISA; i++) {
        struct st_compute *c = compute(isas[i], 2, false);
        for (size_t s = 0; c && s < sizeof dims / sizeof dims[0]; s++)
            for (int mode = 0; mode < 8; mode++)
                check_rope(c, isas[i], dims[s], mode);
        st_compute_free(c);
    }
}

static void pieces_of_rows_are_copied_head_by_head_and_the_rest_stays(void **state)
{
    enum { N_ROW = 40, FROM = 53, TO = 61 };
    static const struct st_pieces cases[] = {
        {.n_head = 1, .len = 53},                                              /* a whole row */
        {.n_head = 1, .len = 7, .from_at = 46, .to_at = 54},                   /* its end */
        {.n_head = 5, .len = 3, .from_at = 2, .from_step = 10, .to_step = 12}, /* taken apart */
        {.n_head = 4, .len = 5, .from_at = 48, .to_at = 1, .to_step = 15},     /* one piece for all heads */
        {.n_head = 3, .len = 9, .from_at = 20, .from_step = 1, .to_step = 9},  /* overlapping sources */
    };
    (void)state;
    for (int n_threads = 1; n_threads <= 3; n_threads++) {
        struct st_compute *c = compute("ref", n_threads, false);
        for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
            for (uint32_t n_row = 1; n_row <= N_ROW * 20; n_row = n_row < N_ROW ? N_ROW : n_row * 20) {
                const struct st_pieces *p = &cases[i];
                float *from = random_floats((size_t)n_row * FROM), *to = random_floats((size_t)n_row * TO);
                float *want = alloc((size_t)n_row * TO, sizeof *want);
                memcpy(want, to, (size_t)n_row * TO * sizeof *want);
                for (uint32_t r = 0; r < n_row; r++)
                    for (uint32_t h = 0; h < p->n_head; h++)
                        for (uint32_t k = 0; k < p->len; k++)
                            want[r * TO + p->to_at + h * p->to_step + k] =
                                from[r * FROM + p->from_at + h * p->from_step + k];
                st_copy(c, p, from, FROM, to, TO, n_row);
                assert_memory_equal(to, want, (size_t)n_row * TO * sizeof *want);
                free(from);
                free(to);
                free(want);
            }
        st_compute_free(c);
    }
}

static void silu_and_add_match_f64(void **state)
{
    static const size_t lens[] = {1, 8, 15, 16, 33, 20001};
    (void)state;
    for (int i = 0; i < N_ISA; i++) {
        struct st_compute *c = compute(isas[i], 2, false);
        for (size_t s = 0; c && s < sizeof lens / sizeof lens[0]; s++) {
            size_t n = lens[s];
            float *gate = random_floats(n), *up = random_floats(n), *sum = random_floats(n);
            double *want = alloc(n, sizeof *want), *want_sum = alloc(n, sizeof *want_sum);
            double worst = 0;
            for (size_t k = 0; k < n; k++) {
                gate[k] *= k % 3 ? 8 : 120; /* to where exp overflows */
                want[k] = (double)gate[k] / (1 + exp(-(double)gate[k])) * (double)up[k];
                want_sum[k] = (double)(sum[k] + up[k]);
            }
            st_silu_mul(c, gate, up, n);
            st_add(c, sum, up, n);
            for (size_t k = 0; k < n; k++) {
                double e = fabs((double)gate[k] - want[k]) / (fabs(want[k]) + 1e-29);
                worst = e > worst ? e : worst;
            }
            if (!(worst < 6e-7))
                fail_msg("%s silu: largest relative error %.3g", isas[i], worst);
            check(isas[i], compare(sum, want_sum, n), 0, 0);
            free(gate);
            free(up);
            free(sum);
            free(want);
            free(want_sum);
        }
        st_compute_free(c);
    }
}

/* A cache of scattered blocks for a few sequences. */
struct cache {
    struct st_kv_layer kv;
    struct st_attn_seq seqs[4];
    uint32_t blocks[4][512];
    uint32_t n_seq, n_row, longest;
    float *k[4], *v[4]; /* all keys of each sequence, as the cache holds them */
};

/* Values as a cache of that dtype returns them. */
static void round_to(enum st_dtype dtype, float *x, size_t n)
{
    void *tmp = alloc(n, sizeof *x);
    st_convert(ST_DTYPE_F32, x, dtype, tmp, n);
    st_convert(dtype, tmp, ST_DTYPE_F32, x, n);
    free(tmp);
}

static void fill_cache(struct cache *h, struct st_compute *c)
{
    struct st_kv_layer *kv = &h->kv;
    uint32_t n_block = 0, next = 0;
    size_t width = (size_t)kv->n_kv_head * kv->head_dim, v_width = (size_t)kv->n_kv_head * kv->v_head_dim;
    for (uint32_t s = 0; s < h->n_seq; s++)
        n_block += (h->seqs[s].pos0 + h->seqs[s].n_row + kv->block_len - 1) / kv->block_len;
    kv->block_stride = (width > v_width ? width : v_width) * kv->block_len;
    kv->k = alloc(n_block * kv->block_stride, st_dtype_size(kv->dtype));
    kv->v = alloc(n_block * kv->block_stride, st_dtype_size(kv->dtype));
    for (uint32_t s = 0; s < h->n_seq; s++) {
        struct st_attn_seq *q = &h->seqs[s];
        uint32_t n = q->pos0 + q->n_row;
        /* Blocks in falling order: neighbours in the sequence are not neighbours in memory. */
        for (uint32_t b = 0; b < (n + kv->block_len - 1) / kv->block_len; b++)
            h->blocks[s][b] = n_block - 1 - next++;
        q->blocks = h->blocks[s];
        h->k[s] = random_floats(n * width);
        h->v[s] = random_floats(n * v_width);
        /* The past first, then the new rows, each row as its own sequence of one. */
        for (uint32_t p = 0; p < n; p++) {
            struct st_attn_seq one = {h->blocks[s], 0, 1, p};
            st_kv_store(c, kv, &one, 1, h->k[s] + p * width, h->v[s] + p * v_width);
        }
        round_to(kv->dtype, h->k[s], n * width);
        round_to(kv->dtype, h->v[s], n * v_width);
        q->row0 = h->n_row;
        h->n_row += q->n_row;
    }
}

static void free_cache(struct cache *h)
{
    free(h->kv.k);
    free(h->kv.v);
    for (uint32_t s = 0; s < h->n_seq; s++) {
        free(h->k[s]);
        free(h->v[s]);
    }
}

/* One query vector at `pos` over its sequence's keys and values from `lo` on. */
static void attend_one_f64(const struct cache *h, uint32_t s, uint32_t kv_head, uint32_t lo, uint32_t pos,
                           const float *q, double scale, double *out)
{
    uint32_t hd = h->kv.head_dim, hv = h->kv.v_head_dim, n_kv = h->kv.n_kv_head;
    double *p = alloc(pos + 1, sizeof *p), max = -INFINITY, sum = 0;
    for (uint32_t t = lo; t <= pos; t++) {
        for (uint32_t d = 0; d < hd; d++)
            p[t] += scale * (double)q[d] * (double)h->k[s][(t * n_kv + kv_head) * hd + d];
        max = p[t] > max ? p[t] : max;
    }
    for (uint32_t d = 0; d < hv; d++)
        out[d] = 0;
    for (uint32_t t = lo; t <= pos; t++) {
        double w = exp(p[t] - max);
        sum += w;
        for (uint32_t d = 0; d < hv; d++)
            out[d] += w * (double)h->v[s][(t * n_kv + kv_head) * hv + d];
    }
    for (uint32_t d = 0; d < hv; d++)
        out[d] /= sum;
    free(p);
}

static void attend_f64(const struct cache *h, const float *q, uint32_t n_head, double scale, uint32_t window,
                       double *out)
{
    uint32_t group = n_head / h->kv.n_kv_head;
    for (uint32_t s = 0; s < h->n_seq; s++)
        for (uint32_t r = 0; r < h->seqs[s].n_row; r++)
            for (uint32_t head = 0; head < n_head; head++) {
                uint32_t pos = h->seqs[s].pos0 + r, lo = window && pos >= window ? pos - window + 1 : 0;
                size_t at = (size_t)(h->seqs[s].row0 + r) * n_head + head;
                attend_one_f64(h, s, head / group, lo, pos, q + at * h->kv.head_dim, scale,
                               out + at * h->kv.v_head_dim);
            }
}

static void attention_over_a_paged_cache_matches_f64(void **state)
{
    static const struct {
        uint32_t n_head, n_kv_head, head_dim, v_head_dim, block_len, window;
        struct {
            uint32_t pos0, n_row;
        } seqs[4];
    } cases[] = {
        {1, 1, 8, 8, 16, 0, {{0, 1}}},
        {4, 4, 64, 64, 16, 0, {{0, 5}, {70, 1}}},
        {8, 2, 64, 64, 16, 0, {{130, 1}, {3, 1}, {64, 1}, {0, 1}}},
        {7, 1, 128, 128, 32, 0, {{0, 130}}},
        {6, 2, 40, 40, 7, 0, {{20, 33}, {63, 2}}},
        {2, 1, 256, 256, 64, 0, {{1000, 1}}},         /* few items: cut into parts */
        {4, 2, 48, 48, 16, 0, {{600, 3}, {1100, 2}}}, /* the same with several rows */
        {4, 2, 64, 64, 16, 50, {{0, 150}, {200, 1}}}, /* sliding window */
        {1, 1, 32, 32, 16, 600, {{1500, 1}}},         /* window and parts */
        {2, 2, 16, 16, 16, 1, {{0, 20}}},             /* sees only itself */
        {64, 1, 16, 16, 16, 0, {{90, 3}}},            /* the largest group */
        {4, 4, 192, 128, 32, 0, {{0, 40}, {65, 1}}},  /* values smaller than keys */
        {3, 3, 24, 72, 16, 0, {{70, 5}, {0, 1}}},     /* larger */
        {2, 1, 19, 9, 16, 0, {{900, 2}}},             /* odd sizes, in parts */
        {4, 2, 40, 8, 16, 30, {{0, 99}}},             /* with a window */
    };
    (void)state;
    for (int i = 0; i < N_ISA; i++)
        for (int mode = 0; mode < 4; mode++)
            for (size_t s = 0; s < sizeof cases / sizeof cases[0]; s++) {
                struct st_compute *c = compute(isas[i], mode & 1 ? 4 : 1, mode == 3);
                if (!c)
                    break;
                struct cache h = {.kv = {.block_len = cases[s].block_len,
                                         .n_kv_head = cases[s].n_kv_head,
                                         .head_dim = cases[s].head_dim,
                                         .v_head_dim = cases[s].v_head_dim,
                                         .dtype = mode & 2 ? ST_DTYPE_F32 : ST_DTYPE_BF16}};
                for (; h.n_seq < 4 && cases[s].seqs[h.n_seq].n_row; h.n_seq++)
                    h.seqs[h.n_seq] = (struct st_attn_seq){.pos0 = cases[s].seqs[h.n_seq].pos0,
                                                           .n_row = cases[s].seqs[h.n_seq].n_row};
                fill_cache(&h, c);
                size_t heads = (size_t)h.n_row * cases[s].n_head, n = heads * cases[s].v_head_dim;
                float *q = random_floats(heads * cases[s].head_dim), *out = alloc(n, sizeof *out), scale = 0.37f;
                double *want = alloc(n, sizeof *want);
                char what[64];
                snprintf(what, sizeof what, "%s attention, case %zu, mode %d", isas[i], s, mode);
                st_attend(c, &h.kv, h.seqs, h.n_seq, q, cases[s].n_head, scale, cases[s].window, out);
                attend_f64(&h, q, cases[s].n_head, (double)scale, cases[s].window, want);
                check(what, compare(out, want, n), 1e-11, 1e-4);
                free_cache(&h);
                free(q);
                free(out);
                free(want);
                st_compute_free(c);
            }
}

static uint32_t bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

static void halves_survive_the_way_to_f32_and_back(void **state)
{
    (void)state;
    for (enum st_dtype t = ST_DTYPE_F16; t <= ST_DTYPE_BF16; t++) {
        uint16_t *h = alloc(65536, 2), *back = alloc(65536, 2);
        float *f = alloc(65536, 4);
        for (uint32_t i = 0; i < 65536; i++)
            h[i] = (uint16_t)i;
        /* An odd start leaves a tail to the scalar code. */
        for (uint32_t at = 0; at < 8; at++) {
            st_convert(t, h, ST_DTYPE_F32, f, at);
            st_convert(t, h + at, ST_DTYPE_F32, f + at, 65536 - at);
            st_convert(ST_DTYPE_F32, f, t, back, 65536);
            for (uint32_t i = 0; i < 65536; i++)
                if (f[i] == f[i])
                    assert_int_equal(back[i], h[i]);
                else
                    assert_true((back[i] & 0x7fff) > (t == ST_DTYPE_F16 ? 0x7c00 : 0x7f80));
        }
        free(h);
        free(back);
        free(f);
    }
}

static void narrowing_rounds_to_the_nearest_even(void **state)
{
    (void)state;
    for (enum st_dtype t = ST_DTYPE_F16; t <= ST_DTYPE_BF16; t++)
        for (uint32_t i = 0; i < 65535; i++) {
            uint16_t h[2] = {(uint16_t)i, (uint16_t)(i + 1)}, got[9];
            float f[2], mid[9];
            st_convert(t, h, ST_DTYPE_F32, f, 2);
            if (!isfinite(f[0]) || !isfinite(f[1]) || (f[0] < 0) != (f[1] < 0))
                continue;
            for (int k = 0; k < 9; k++)
                mid[k] = (float)(((double)f[0] + (double)f[1]) / 2);
            mid[1] = mid[7] = nextafterf(mid[0], f[0]);
            mid[2] = mid[8] = nextafterf(mid[0], f[1]);
            st_convert(ST_DTYPE_F32, mid, t, got, 9); /* 8 in a vector, one alone */
            assert_int_equal(got[0], i % 2 ? i + 1 : i);
            assert_int_equal(got[1], i);
            assert_int_equal(got[2], i + 1);
            assert_int_equal(got[7], i);
            assert_int_equal(got[8], i + 1);
        }
}

static void quantised_rows_are_canonical(void **state)
{
    (void)state;
    float w[] = {-2.54f, 1.27f, 0.01f, 0.03f, -0.03f, 0};
    int8_t q[6];
    assert_int_equal(bits(st_quantize_row(w, 6, q)), bits(2.54f / 127));
    assert_int_equal(q[0], -127);
    for (int i = 0; i < 6; i++)
        assert_int_equal(q[i], (int)nearbyintf(w[i] / (2.54f / 127)));
    float zero[3] = {0, -0.0f, 0};
    assert_true(st_quantize_row(zero, 3, q) == 0);
    assert_int_equal(q[0] | q[1] | q[2], 0);
    /* Long enough for vectors and a rest: each value as alone, ties to even included. */
    float row[77];
    int8_t many[77];
    for (int i = 0; i < 77; i++)
        row[i] = i % 3 ? (float)((i * 37) % 255 - 127) / 2 : (float)(i - 40);
    row[50] = -127;
    assert_true(st_quantize_row(row, 77, many) == 1);
    for (int i = 0; i < 77; i++)
        assert_int_equal(many[i], (int)nearbyintf(row[i]));
    float tiny[2] = {1e-45f, -1e-45f};
    assert_true(st_quantize_row(tiny, 2, q) == 0);
    float bad[3] = {NAN, INFINITY, -1};
    st_quantize_row(bad, 3, q);
    for (int i = 0; i < 3; i++)
        assert_true(q[i] >= -127);
}

static void long_rows_are_quantised_as_short_ones(void **state)
{
    enum { N = 101 };
    (void)state;
    for (int round = 0; round < 200; round++) {
        float w[N], max = 0;
        int8_t q[N];
        for (int i = 0; i < N; i++) {
            /* Also halves of a step, infinities and what is no number. */
            w[i] = round % 2 ? uniform() : (float)((int)(uniform() * 254)) / 2;
            w[i] = round % 20 == 7 && i == round % N ? NAN : round % 20 == 9 && i == round % N ? INFINITY : w[i];
            max = fabsf(w[i]) > max ? fabsf(w[i]) : max;
        }
        w[3] = max;
        assert_int_equal(bits(st_quantize_row(w, N, q)), bits(max / 127));
        for (int i = 0; i < N; i++) {
            float v = w[i] / (max / 127);
            assert_int_equal(q[i], v == v ? (int)nearbyintf(v) : -127);
        }
    }
}

static void an_unknown_instruction_set_is_refused_with_the_known_ones(void **state)
{
    struct st_compute_opts o = {.n_threads = 1, .isa = "avx9", .max_row = 1, .max_width = 1};
    struct st_compute *c;
    struct st_err e;
    (void)state;
    assert_int_equal(st_compute_new(&o, &c, &e), ST_UNSUPPORTED);
    assert_null(c);
    assert_non_null(strstr(e.msg, "avx9"));
    assert_non_null(strstr(e.msg, "ref"));
}

static void a_negative_number_of_threads_is_refused(void **state)
{
    struct st_pool *p;
    struct st_err e;
    (void)state;
    assert_int_equal(st_pool_new(-1, &p, &e), ST_USAGE);
    assert_int_equal(st_pool_new(1 << 20, &p, &e), ST_USAGE);
}

struct count {
    int n_threads;
    uint64_t done[8];
};

static void count_step(void *arg, int t, int n_threads)
{
    struct count *c = arg;
    assert_int_equal(n_threads, c->n_threads);
    c->done[t]++;
}

static void every_thread_takes_part_in_every_step(void **state)
{
    (void)state;
    for (int n = 1; n <= 8; n++) {
        struct st_pool *p;
        struct st_err e;
        struct count c = {.n_threads = n};
        assert_int_equal(st_pool_new(n, &p, &e), 0);
        for (int i = 0; i < 2000; i++) {
            st_pool_run(p, count_step, &c);
            if (i % 500 == 0)
                nanosleep(&(struct timespec){0, 1000000}, NULL); /* long enough to fall asleep */
            for (int t = 0; t < n; t++)
                assert_int_equal(c.done[t], i + 1);
        }
        st_pool_free(p);
    }
}

static void parts_cover_the_whole_without_overlap(void **state)
{
    (void)state;
    for (size_t n = 0; n < 50; n++)
        for (size_t step = 1; step < 9; step++)
            for (int threads = 1; threads < 9; threads++) {
                size_t next = 0, lo, hi;
                for (int t = 0; t < threads; t++) {
                    st_pool_part(n, step, t, threads, &lo, &hi);
                    assert_true(lo == next && hi >= lo && (lo % step == 0 || lo == n));
                    next = hi;
                }
                assert_int_equal(next, n);
            }
}

int main(void)
{
    st_rng_seed(&rng, 1);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(halves_survive_the_way_to_f32_and_back),
        cmocka_unit_test(narrowing_rounds_to_the_nearest_even),
        cmocka_unit_test(quantised_rows_are_canonical),
        cmocka_unit_test(long_rows_are_quantised_as_short_ones),
        cmocka_unit_test(parts_cover_the_whole_without_overlap),
        cmocka_unit_test(every_thread_takes_part_in_every_step),
        cmocka_unit_test(a_negative_number_of_threads_is_refused),
        cmocka_unit_test(an_unknown_instruction_set_is_refused_with_the_known_ones),
        cmocka_unit_test(embeddings_are_the_rows_of_the_table),
        cmocka_unit_test(norms_match_f64),
        cmocka_unit_test(rotary_positions_match_f64_in_both_pairings_and_any_part_of_a_head),
        cmocka_unit_test(pieces_of_rows_are_copied_head_by_head_and_the_rest_stays),
        cmocka_unit_test(silu_and_add_match_f64),
        cmocka_unit_test(linear_layers_of_every_shape_match_f64_sums),
        cmocka_unit_test(linear_layers_with_many_rows_match_f64_sums),
        cmocka_unit_test(a_matrix_cut_between_its_rows_gives_the_same_bits),
        cmocka_unit_test(a_deterministic_row_does_not_depend_on_its_batch),
        cmocka_unit_test(int8_rows_of_extreme_values_do_not_overflow),
        cmocka_unit_test(weights_may_start_at_any_byte),
        cmocka_unit_test(attention_over_a_paged_cache_matches_f64),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
