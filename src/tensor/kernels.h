/* Kernels of one instruction set: a const table per set, chosen in compute.c. A NULL entry falls back to the reference.
 * Kernels run on one thread and allocate nothing; compute.c, linear.c and attend.c cut the work into parts.
 * Source data may be unaligned (views into a memory-mapped file); scratch is aligned to 64 bytes. */
#ifndef ST_TENSOR_KERNELS_H
#define ST_TENSOR_KERNELS_H

#include "tensor/limb.h"
#include "tensor/tensor.h"

#include <stdbool.h>
#include <string.h>

/* Weights that a kernel copied to its stack do not stay there. */
static inline void st_forget(void *p, size_t len)
{
    memset(p, 0, len);
    __asm__ volatile("" : : "r"(p) : "memory");
}

/* GEMV: a few rows of x times some rows of W. The sum of one output runs over k in an order that depends neither on the
 * number of rows nor on the cut of W, so a row's result does not depend on its batch. */
#define ST_GEMV_ROWS 8
struct st_gemv {
    const struct st_mat *w;
    const float *bias;    /* [n_out] or NULL */
    const void *x;        /* rows made by prep, ldx bytes apart */
    size_t ldx;           /* st_gemv_row_bytes(n_in) */
    const float *x_scale; /* [n_row], I8 only */
    uint32_t n_row;       /* 1..ST_GEMV_ROWS */
    float *y;             /* y[row * ldy + o], o < n_out */
    size_t ldy;
};
struct st_gemv_kernel {
    /* One row of activations in the order and type that `run` wants, padded with zeros to a multiple of 64. */
    void (*prep)(const float *x, uint32_t n_in, void *out, float *scale);
    /* y[., lo..hi). */
    void (*run)(const struct st_gemv *g, uint32_t lo, uint32_t hi);
};
/* One line more than the row: rows a power of two apart would fall into the same few lines of the cache. */
static inline size_t st_gemv_row_bytes(uint32_t n_in)
{
    return ((size_t)n_in + 63) / 64 * 64 * sizeof(float) + 64;
}

/* GEMM: panels of `nr` rows of x, packed once, times tiles of `mr` rows of W that are read where they are when their
 * dtype is `elem` and expanded otherwise. */
#define ST_GEMM_K 2048 /* values of k in one block; even */
#define ST_GEMM_MR_MAX 8
#define ST_GEMM_NR_MAX 64
struct st_gemm_tile {
    const void *w; /* [n_w, n_k] of `elem`, ldw values apart */
    size_t ldw;
    uint32_t n_w;         /* 1..mr */
    const void *panel;    /* [n_k rounded up to even][n_row rounded up to 16] */
    uint32_t n_row;       /* 1..nr */
    uint32_t n_k;         /* even for BF16 */
    const float *w_scale; /* [n_w] or NULL */
    const float *bias;    /* [n_w] or NULL; added when `first` */
    bool first;           /* y = sum, else y += sum */
    float *y;             /* y[row * ldy + i], i < n_w */
    size_t ldy;
};
struct st_gemm_kernel {
    enum st_dtype elem; /* F32 or BF16 */
    uint32_t mr, nr;
    /* x [n_row, n_k], ldx values apart -> panel, at most st_gemm_panel_bytes(). BF16: pairs of k side by side. */
    void (*pack)(const float *x, size_t ldx, uint32_t n_row, uint32_t n_k, void *panel);
    void (*tile)(const struct st_gemm_tile *t);
    void (*widen_i8)(const int8_t *w, uint32_t n, void *to); /* to `elem`, exactly */
};
static inline size_t st_gemm_panel_bytes(const struct st_gemm_kernel *g, uint32_t n_k)
{
    return ((size_t)n_k + 1) / 2 * 2 * g->nr * st_dtype_size(g->elem);
}

struct st_kernels {
    const char *isa;
    const struct st_gemv_kernel *gemv[ST_DTYPE_COUNT];
    /* For 5 to 8 rows, where it is not NULL: rounds activations as GEMM does. */
    const struct st_gemv_kernel *gemv_many[ST_DTYPE_COUNT];
    const struct st_gemm_kernel *gemm[ST_DTYPE_COUNT]; /* NULL: GEMV for any number of rows */
    uint32_t gemv_most[ST_DTYPE_COUNT];                /* rows up to which GEMV is faster than GEMM, measured */
    /* Int8 weights times f32 rows that are not rounded (st_compute_opts.exact_rows). */
    const struct st_gemv_kernel *gemv_i8_f32;
    const struct st_gemm_kernel *gemm_i8_f32;
    const struct st_limb_kernels *limb;
    void (*rmsnorm)(const float *x, const float *w, float eps, uint32_t d, float *y);
    /* One head; cos and sin [n_pair]. */
    void (*rope)(float *x, const float *cosine, const float *sine, uint32_t n_pair, bool interleaved);
    void (*silu_mul)(float *gate, const float *up, size_t n);
    void (*add)(float *x, const float *y, size_t n);
    /* Attention on one tile: s[i * lds + j] = q_i . k_j;  o_i += sum_j p[i * ldp + j] v_j. q, k, v, o dense rows of
     * head_dim, a multiple of 16. k may be read, and s written, up to n_k rounded up to 16. */
    void (*scores)(const float *q, uint32_t n_q, const float *k, uint32_t n_k, uint32_t head_dim, float *s, size_t lds);
    void (*weigh)(const float *p, size_t ldp, uint32_t n_q, const float *v, uint32_t n_k, uint32_t head_dim, float *o);
    /* s = exp(s - max), returns the sum. */
    float (*exp_sum)(float *s, uint32_t n, float max);
};

extern const struct st_kernels st_kernels_ref;
extern const struct st_limb_kernels st_limb_ref;
/* The set named, or the best that this CPU has for NULL. UNSUPPORTED. */
int st_kernels_find(const char *want, const struct st_kernels **out, struct st_err *e) ST_MUST_CHECK;
#if defined(__x86_64__)
extern const struct st_kernels st_kernels_avx2, st_kernels_avx512;
extern const struct st_limb_kernels st_limb_avx2, st_limb_avx512;
/* For st_convert(); whole vectors only, they return how many values they did. */
size_t st_convert_avx2(enum st_dtype from, const void *src, enum st_dtype to, void *dst, size_t n);
/* For st_quantize_row(), the same way: the largest magnitude (NaN ignored) joins *max; values of a row by its scale. */
size_t st_max_abs_avx2(const float *w, size_t n, float *max);
size_t st_quantize_avx2(const float *w, size_t n, float scale, int8_t *out);
bool st_cpu_has_avx2(void);
bool st_cpu_has_avx512(void); /* F, BW, VL, DQ, VNNI and BF16 */
#endif

/* Bits of a bf16 value to f32 and back, round to nearest even, NaN stays NaN. */
static inline float st_from_bf16(uint16_t h)
{
    union {
        uint32_t u;
        float f;
    } v = {.u = (uint32_t)h << 16};
    return v.f;
}
static inline uint16_t st_to_bf16(float f)
{
    union {
        float f;
        uint32_t u;
    } v = {.f = f};
    if ((v.u & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(v.u >> 16 | 0x40);
    return (uint16_t)((v.u + 0x7fff + (v.u >> 16 & 1)) >> 16);
}

#endif
