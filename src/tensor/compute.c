#include "tensor/compute.h"
#include "base/buf.h"
#include "tensor/compute_priv.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIN_PARALLEL 16384 /* values */

#define ROPE_PAIRS (ST_ATTN_MAX_HEAD_DIM / 2)

static bool always(void)
{
    return true;
}

/* Best first. */
static const struct isa {
    const struct st_kernels *k;
    bool (*usable)(void);
} isas[] = {
#if defined(__x86_64__)
    {&st_kernels_avx512, st_cpu_has_avx512},
    {&st_kernels_avx2, st_cpu_has_avx2},
#endif
    {&st_kernels_ref, always},
};
enum { N_ISA = sizeof isas / sizeof isas[0] };

#if defined(__x86_64__)
enum { CPU_AVX2 = 1, CPU_AVX512 = 2, CPU_KNOWN = 4 };

/* Asked once: CPUID is slow, in a virtual machine very slow. */
static int cpu_sets(void)
{
    static atomic_int sets;
    int s = atomic_load_explicit(&sets, memory_order_relaxed);
    if (s)
        return s;
    /* clang 14 does not know "f16c" below. */
    unsigned a, b, c = 0, d;
    bool f16c = __get_cpuid(1, &a, &b, &c, &d) && c & bit_F16C;
    s = CPU_KNOWN;
    if (f16c && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        s |= CPU_AVX2;
    if (s & CPU_AVX2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16"))
        s |= CPU_AVX512;
    atomic_store_explicit(&sets, s, memory_order_relaxed);
    return s;
}

bool st_cpu_has_avx2(void)
{
    return cpu_sets() & CPU_AVX2;
}

bool st_cpu_has_avx512(void)
{
    return cpu_sets() & CPU_AVX512;
}
#endif

int st_kernels_find(const char *want, const struct st_kernels **out, struct st_err *e)
{
    char names[64] = "";
    for (int i = 0; i < N_ISA; i++) {
        if (!isas[i].usable())
            continue;
        if (!want || strcmp(want, isas[i].k->isa) == 0) {
            *out = isas[i].k;
            return 0;
        }
        size_t len = strlen(names);
        snprintf(names + len, sizeof names - len, "%s%s", len ? ", " : "", isas[i].k->isa);
    }
    return st_fail(e, ST_UNSUPPORTED, "instruction set '%s' is not supported on this CPU; supported: %s", want, names);
}

/* Entries that the set lacks come from the reference. */
static struct st_kernels with_fallback(const struct st_kernels *own, bool exact_rows)
{
    struct st_kernels k = *own;
    const struct st_kernels *ref = &st_kernels_ref;
    for (int t = 0; t < ST_DTYPE_COUNT; t++)
        k.gemv[t] = k.gemv[t] ? k.gemv[t] : ref->gemv[t];
    if (exact_rows) {
        k.gemv[ST_DTYPE_I8] = k.gemv_i8_f32;
        k.gemm[ST_DTYPE_I8] = k.gemm_i8_f32;
        k.gemv_most[ST_DTYPE_I8] = k.gemv_most[ST_DTYPE_F32];
    }
    k.rmsnorm = k.rmsnorm ? k.rmsnorm : ref->rmsnorm;
    k.rope = k.rope ? k.rope : ref->rope;
    k.silu_mul = k.silu_mul ? k.silu_mul : ref->silu_mul;
    k.add = k.add ? k.add : ref->add;
    k.scores = k.scores ? k.scores : ref->scores;
    k.weigh = k.weigh ? k.weigh : ref->weigh;
    k.exp_sum = k.exp_sum ? k.exp_sum : ref->exp_sum;
    return k;
}

int st_limb_find(const char *isa, const struct st_limb_kernels **out, struct st_err *e)
{
    const struct st_kernels *k;
    int rc = st_kernels_find(isa, &k, e);
    if (!rc)
        *out = k->limb;
    return rc;
}

static int alloc_tiles(struct st_compute *c, const struct st_compute_opts *o, struct st_err *e)
{
    size_t n = (size_t)c->n_threads * ST_GEMM_MR_MAX * ST_GEMM_K;
    struct st_locked_opts lo = {.what = "weight tiles", .allow_unlocked = o->allow_unlocked, .secretmem = true};
    if (!o->secret)
        return st_alloc(&c->w_tile, n, sizeof(float), "weight tiles", e);
    if (st_locked_new(&c->locked, n * sizeof(float), &lo, e))
        return e->code;
    c->w_tile = c->locked.p;
    return 0;
}

static int alloc_scratch(struct st_compute *c, const struct st_compute_opts *o, struct st_err *e)
{
    size_t n = (size_t)c->n_threads;
    int rc = st_alloc(&c->shares, n, sizeof *c->shares, "shares of threads", e);
    if (!rc)
        rc = st_alloc(&c->x_rows, ST_GEMV_ROWS, st_gemv_row_bytes(c->max_width), "activations", e);
    if (!rc)
        rc = st_alloc(&c->panels, (size_t)c->gemm_rows * ST_GEMM_K, sizeof(float), "activation panels", e);
    if (!rc)
        rc = alloc_tiles(c, o, e);
    if (!rc)
        rc = st_alloc(&c->attn, n, sizeof *c->attn, "attention tiles", e);
    if (!rc)
        rc = st_alloc(&c->part, 2 * n, sizeof *c->part, "attention parts", e);
    if (!rc)
        rc = st_alloc(&c->rope_pos, c->max_row, sizeof *c->rope_pos, "rotary positions", e);
    if (!rc)
        rc = st_alloc(&c->rope_freq, ROPE_PAIRS, sizeof(float), "rotary frequencies", e);
    if (!rc)
        rc = st_alloc(&c->rope_cos, (size_t)c->max_row * ROPE_PAIRS, sizeof(float), "rotary table", e);
    if (!rc)
        rc = st_alloc(&c->rope_sin, (size_t)c->max_row * ROPE_PAIRS, sizeof(float), "rotary table", e);
    return rc;
}

int st_compute_new(const struct st_compute_opts *o, struct st_compute **out, struct st_err *e)
{
    const struct st_kernels *own = NULL;
    struct st_compute *c = NULL;
    *out = NULL;
    int rc = st_kernels_find(o->isa, &own, e);
    if (!rc)
        rc = st_alloc(&c, 1, sizeof *c, "compute", e);
    if (rc)
        return rc;
    c->k = with_fallback(own, o->exact_rows);
    c->deterministic = o->deterministic;
    c->max_width = o->max_width;
    c->max_row = o->max_row;
    uint32_t rows = o->max_row < ST_GEMM_ROWS ? o->max_row : ST_GEMM_ROWS;
    c->gemm_rows = (rows + ST_GEMM_NR_MAX - 1) / ST_GEMM_NR_MAX * ST_GEMM_NR_MAX;
    rc = st_pool_new(o->n_threads, &c->pool, e);
    if (!rc) {
        c->n_threads = st_pool_size(c->pool);
        rc = alloc_scratch(c, o, e);
    }
    if (rc) {
        st_compute_free(c);
        return rc;
    }
    *out = c;
    return 0;
}

void st_compute_free(struct st_compute *c)
{
    if (!c)
        return;
    st_pool_free(c->pool);
    free(c->shares);
    free(c->x_rows);
    free(c->panels);
    if (c->locked.p)
        st_locked_free(&c->locked);
    else
        free(c->w_tile);
    free(c->attn);
    free(c->part);
    free(c->rope_pos);
    free(c->rope_freq);
    free(c->rope_cos);
    free(c->rope_sin);
    free(c);
}

const char *st_compute_isa(const struct st_compute *c)
{
    return c->k.isa;
}

int st_compute_threads(const struct st_compute *c)
{
    return c->n_threads;
}

struct st_pool *st_compute_pool(struct st_compute *c)
{
    return c->pool;
}

void st_spread(struct st_compute *c, size_t n_values, st_pool_fn *fn, void *arg)
{
    if (n_values < MIN_PARALLEL)
        fn(arg, 0, 1);
    else
        st_pool_run(c->pool, fn, arg);
}

struct embed_step {
    const struct st_mat *table;
    const uint32_t *ids;
    uint32_t n;
    float *y;
};

static void embed_part(void *arg, int t, int n_threads)
{
    const struct embed_step *s = arg;
    const struct st_mat *m = s->table;
    size_t lo, hi, d = m->n_in, row_bytes = d * st_dtype_size(m->dtype);
    st_pool_part(s->n, 1, t, n_threads, &lo, &hi);
    for (size_t i = lo; i < hi; i++) {
        const uint8_t *row = (const uint8_t *)m->data + s->ids[i] * row_bytes;
        float *y = s->y + i * d;
        if (m->dtype != ST_DTYPE_I8) {
            st_convert(m->dtype, row, ST_DTYPE_F32, y, d);
            continue;
        }
        for (size_t k = 0; k < d; k++)
            y[k] = (float)(int8_t)row[k] * m->scale[s->ids[i]];
    }
}

void st_embed(struct st_compute *c, const struct st_mat *table, const uint32_t *ids, uint32_t n, float *y)
{
    struct embed_step s = {table, ids, n, y};
    st_spread(c, (size_t)n * table->n_in, embed_part, &s);
}

struct norm_step {
    const struct st_compute *c;
    const float *x, *w;
    float eps;
    uint32_t n_row, d;
    float *y;
};

static void norm_part(void *arg, int t, int n_threads)
{
    const struct norm_step *s = arg;
    size_t lo, hi;
    st_pool_part(s->n_row, 1, t, n_threads, &lo, &hi);
    for (size_t r = lo; r < hi; r++)
        s->c->k.rmsnorm(s->x + r * s->d, s->w, s->eps, s->d, s->y + r * s->d);
}

void st_rmsnorm(struct st_compute *c, const float *x, const float *w, float eps, uint32_t n_row, uint32_t d, float *y)
{
    struct norm_step s = {c, x, w, eps, n_row, d, y};
    st_spread(c, (size_t)n_row * d, norm_part, &s);
}

struct rope_step {
    struct st_compute *c;
    float *x;
    uint32_t n_row, n_head, head_dim;
    const uint32_t *pos;
    const struct st_rotary *rotary;
    bool make; /* fill the tables for these rows first */
};

static void rope_part(void *arg, int t, int n_threads)
{
    const struct rope_step *s = arg;
    const struct st_rotary *rot = s->rotary;
    struct st_compute *c = s->c;
    size_t lo, hi;
    st_pool_part(s->n_row, 1, t, n_threads, &lo, &hi);
    for (size_t r = lo; r < hi; r++) {
        float *cosine = c->rope_cos + r * ROPE_PAIRS, *sine = c->rope_sin + r * ROPE_PAIRS;
        for (uint32_t i = 0; s->make && i < rot->n_pair; i++) {
            sincosf((float)s->pos[r] * rot->inv_freq[i], &sine[i], &cosine[i]);
            sine[i] *= rot->gain;
            cosine[i] *= rot->gain;
        }
        for (uint32_t h = 0; h < s->n_head; h++)
            c->k.rope(s->x + (r * s->n_head + h) * s->head_dim + rot->first, cosine, sine, rot->n_pair,
                      rot->interleaved);
    }
}

void st_rope(struct st_compute *c, float *x, uint32_t n_row, uint32_t n_head, uint32_t head_dim, const uint32_t *pos,
             const struct st_rotary *rotary)
{
    uint32_t n_pair = rotary->n_pair;
    bool same = n_row <= c->rope_rows && n_pair == c->rope_pairs && rotary->gain == c->rope_gain &&
                memcmp(pos, c->rope_pos, n_row * sizeof *pos) == 0 &&
                memcmp(rotary->inv_freq, c->rope_freq, n_pair * sizeof *rotary->inv_freq) == 0;
    struct rope_step s = {c, x, n_row, n_head, head_dim, pos, rotary, !same};
    /* A sine costs as much as twenty values. */
    size_t cost = 2 * (size_t)n_row * n_head * n_pair + (same ? 0 : (size_t)n_row * n_pair * 20);
    st_spread(c, cost, rope_part, &s);
    if (!same) {
        c->rope_rows = n_row;
        c->rope_pairs = n_pair;
        c->rope_gain = rotary->gain;
        memcpy(c->rope_pos, pos, n_row * sizeof *pos);
        memcpy(c->rope_freq, rotary->inv_freq, n_pair * sizeof *rotary->inv_freq);
    }
}

struct copy_step {
    const struct st_pieces *p;
    const float *from;
    float *to;
    uint32_t from_width, to_width, n_row;
};

static void copy_part(void *arg, int t, int n_threads)
{
    const struct copy_step *s = arg;
    const struct st_pieces *p = s->p;
    size_t lo, hi;
    st_pool_part(s->n_row, 1, t, n_threads, &lo, &hi);
    for (size_t r = lo; r < hi; r++) {
        const float *from = s->from + r * s->from_width + p->from_at;
        float *to = s->to + r * s->to_width + p->to_at;
        for (size_t h = 0; h < p->n_head; h++)
            memcpy(to + h * p->to_step, from + h * p->from_step, p->len * sizeof *to);
    }
}

void st_copy(struct st_compute *c, const struct st_pieces *p, const float *from, uint32_t from_width, float *to,
             uint32_t to_width, uint32_t n_row)
{
    struct copy_step s = {p, from, to, from_width, to_width, n_row};
    st_spread(c, (size_t)n_row * p->n_head * p->len, copy_part, &s);
}

struct pair_step {
    void (*fn)(float *x, const float *y, size_t n);
    float *x;
    const float *y;
    size_t n;
};

static void pair_part(void *arg, int t, int n_threads)
{
    const struct pair_step *s = arg;
    size_t lo, hi;
    st_pool_part(s->n, 64, t, n_threads, &lo, &hi);
    s->fn(s->x + lo, s->y + lo, hi - lo);
}

void st_silu_mul(struct st_compute *c, float *gate, const float *up, size_t n)
{
    struct pair_step s = {c->k.silu_mul, gate, up, n};
    st_spread(c, n * 4, pair_part, &s);
}

void st_add(struct st_compute *c, float *x, const float *y, size_t n)
{
    struct pair_step s = {c->k.add, x, y, n};
    st_spread(c, n, pair_part, &s);
}
