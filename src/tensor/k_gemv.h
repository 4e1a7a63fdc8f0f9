/* GEMV, written once over vectors of LANES floats: `no` rows of W times `nr` rows of x at a time, one vector of partial
 * sums for each pair. The sums of a pair are added in the same order for every `no` and `nr`.
 *
 * The including file (one per instruction set) defines LANES; SOME, rows of W taken together with 2 to 4 rows of x;
 * MANY and MANY_I8, the same with 5 to 8 rows of x; and, on vectors:
 *     void widen_bf16(const uint8_t *w, vec out[2])           2 * LANES weights: the even ones, then the odd ones
 *     void widen_f16(const uint8_t *w, vec out[2])            2 * LANES weights in order
 *     ivec widen_i8(const uint8_t *w)                         2 * LANES weights as 16-bit integers
 *     vec widen_i8_f32(const uint8_t *w)                      LANES weights
 *     ivec dot_i16(ivec sum, ivec w, ivec x)                  each lane += its two products
 *     void sum4(vec a, vec b, vec c, vec d, float out[4])     each summed in the same order, whichever of the four it
 *                                                             is */
#ifndef ST_TENSOR_K_GEMV_H
#define ST_TENSOR_K_GEMV_H

#include "tensor/k_vec.h"
#include "tensor/kernels.h"

#include <math.h>

/* W is read one vector of bytes at a time. */
#define LINE (LANES * 4)

/* K of an int8 row whose products fit 32-bit sums: each step adds two products to a lane, and
 * 256 steps * 2 * 128 * 32767 = 2147418112 < 2^31. */
#define I8_BLOCK (256 * 2 * LANES)

static size_t padded(uint32_t n)
{
    return ((size_t)n + 63) / 64 * 64;
}

static void prep_plain(const float *x, uint32_t n_in, void *out, float *scale)
{
    memcpy(out, x, n_in * sizeof *x);
    memset((float *)out + n_in, 0, (padded(n_in) - n_in) * sizeof *x);
    *scale = 1;
}

/* In the order of widen_bf16(): a line of bf16 becomes f32 by one shift (even values) and one mask (odd values). */
static void prep_bf16(const float *x, uint32_t n_in, void *out, float *scale)
{
    float *o = out;
    *scale = 1;
    for (size_t k = 0; k < padded(n_in); k += 2 * LANES) {
        float t[2 * LANES] = {0};
        size_t n = k >= n_in ? 0 : n_in - k < 2 * LANES ? n_in - k : 2 * LANES;
        memcpy(t, x + k, n * sizeof *t);
        for (int i = 0; i < LANES; i++) {
            o[k + (size_t)i] = t[2 * i];
            o[k + LANES + (size_t)i] = t[2 * i + 1];
        }
    }
}

/* x = scale * q with 16-bit q. */
static void prep_i16(const float *x, uint32_t n_in, void *out, float *scale)
{
    int16_t *q = out;
    ivec max = {0};
    size_t k = 0;
    /* The bits of positive floats are ordered as integers. */
    for (; k < n_in; k += LANES) {
        ivec a = (ivec)(n_in - k >= LANES ? load(x + k) : load_some(x + k, n_in - k)) & 0x7fffffff;
        max = (a & (a > max)) | (max & ~(a > max));
    }
    float lanes[LANES], m = 0;
    store(lanes, (vec)max);
    for (int i = 0; i < LANES; i++)
        m = lanes[i] > m ? lanes[i] : m;
    float inv = m > 0 ? 32767 / m : 0;
    inv = inv < INFINITY ? inv : 0;
    *scale = inv > 0 ? m / 32767 : 0;
    for (k = 0; k < n_in; k++) {
        /* Adding 1.5 * 2^23 rounds to an integer, found in the low bits. |x * inv| <= 32767 up to its own rounding. */
        float v = x[k] * inv + 0x1.8p23f;
        int32_t i;
        memcpy(&i, &v, sizeof i);
        q[k] = (int16_t)(i - 0x4b400000);
    }
    memset(q + n_in, 0, (padded(n_in) - n_in) * sizeof *q);
}

static ST_INLINE void clear(const int no, const int nr, vec sum[4][8])
{
    ST_UNROLL
    for (int i = 0; i < no; i++) {
        ST_UNROLL
        for (int r = 0; r < nr; r++)
            sum[i][r] = (vec){0};
    }
}

/* y of `no` rows of W and `nr` rows of x from the sums of their first or a later block of columns. */
static ST_INLINE void finish(const struct st_gemv *g, uint32_t o, const bool first, const int no, const int nr,
                             vec sum[4][8])
{
    const struct st_mat *m = g->w;
    const vec zero = {0};
    ST_UNROLL
    for (int r = 0; r < nr; r++) {
        float s[4], *y = g->y + r * g->ldy + o;
        sum4(sum[0][r], no > 1 ? sum[1][r] : zero, no > 2 ? sum[2][r] : zero, no > 3 ? sum[3][r] : zero, s);
        ST_UNROLL
        for (int i = 0; i < no; i++) {
            float before = !first ? y[i] : g->bias ? g->bias[o + (uint32_t)i] : 0;
            y[i] = fmaf(s[i], m->scale ? m->scale[o + (uint32_t)i] * g->x_scale[r] : 1, before);
        }
    }
}

/* One line of each of `no` rows at w, row_bytes apart, times x. */
typedef void step_fn(const uint8_t *w, size_t row_bytes, const uint8_t *x, size_t ldx, const int no, const int nr,
                     vec sum[4][8]);

/* One vector of weights of each row times one vector of each row of x. */
static ST_INLINE void multiply(const vec a[4][2], const int half, const uint8_t *x, size_t ldx, const int no,
                               const int nr, vec sum[4][8])
{
    ST_UNROLL
    for (int r = 0; r < nr; r++) {
        vec v = load((const float *)(x + (size_t)r * ldx));
        ST_HOLD(v);
        ST_UNROLL
        for (int i = 0; i < no; i++)
            sum[i][r] += a[i][half] * v;
    }
}

static ST_INLINE void step_f32(const uint8_t *w, size_t row_bytes, const uint8_t *x, size_t ldx, const int no,
                               const int nr, vec sum[4][8])
{
    vec a[4][2];
    ST_UNROLL
    for (int i = 0; i < no; i++)
        a[i][0] = load((const float *)(w + (size_t)i * row_bytes));
    multiply(a, 0, x, ldx, no, nr, sum);
}

static ST_INLINE void step_bf16(const uint8_t *w, size_t row_bytes, const uint8_t *x, size_t ldx, const int no,
                                const int nr, vec sum[4][8])
{
    vec a[4][2];
    ST_UNROLL
    for (int i = 0; i < no; i++)
        widen_bf16(w + (size_t)i * row_bytes, a[i]);
    multiply(a, 0, x, ldx, no, nr, sum);
    multiply(a, 1, x + LINE, ldx, no, nr, sum);
}

/* A line of bytes is four vectors of values. */
static ST_INLINE void step_i8_f32(const uint8_t *w, size_t row_bytes, const uint8_t *x, size_t ldx, const int no,
                                  const int nr, vec sum[4][8])
{
    ST_UNROLL
    for (int part = 0; part < 4; part++) {
        vec a[4][2];
        ST_UNROLL
        for (int i = 0; i < no; i++)
            a[i][0] = widen_i8_f32(w + (size_t)i * row_bytes + part * LANES);
        multiply(a, 0, x + part * LINE, ldx, no, nr, sum);
    }
}

static ST_INLINE void step_f16(const uint8_t *w, size_t row_bytes, const uint8_t *x, size_t ldx, const int no,
                               const int nr, vec sum[4][8])
{
    vec a[4][2];
    ST_UNROLL
    for (int i = 0; i < no; i++)
        widen_f16(w + (size_t)i * row_bytes, a[i]);
    multiply(a, 0, x, ldx, no, nr, sum);
    multiply(a, 1, x + LINE, ldx, no, nr, sum);
}

/* Asks for `no` lines at p and at three places further on. The hint goes to the second-level cache (x needs the first),
 * where the CPU drops it when its queue is full: a line that is asked for four times is there when its turn comes.
 * Measured on Zen 4, one core: 31 GB/s instead of 21 with one hint, 27 with plain reading. */
static ST_INLINE void fetch(const uint8_t *p, const int no)
{
    ST_UNROLL
    for (int far = 0; far < 4; far++) {
        ST_UNROLL
        for (int i = 0; i < no; i++)
            __builtin_prefetch(p + far * 2048 + i * LINE, 0, 2);
    }
}

/* The end of `no` rows, `bytes` < LINE of each, padded with zeros; LINE apart. */
static ST_INLINE void copy_tail(const uint8_t *w, size_t row_bytes, size_t bytes, const int no, uint8_t *tail)
{
    memset(tail, 0, (size_t)no * LINE);
    for (int i = 0; i < no; i++)
        memcpy(tail + i * LINE, w + (size_t)i * row_bytes, bytes);
}

/* Rows [o, o + no) of W; a line of W meets x_line bytes of x. Meanwhile the rows after them are brought closer in the
 * order of memory: one sequential stream is what the memory system does best, whatever the order in which lines are
 * used. */
static ST_INLINE void group(const struct st_gemv *g, uint32_t o, step_fn *step, const size_t value_bytes,
                            const size_t x_line, const int no, const int nr)
{
    const size_t per_line = LINE / value_bytes;
    const uint8_t *x = g->x;
    size_t n = g->w->n_in, row_bytes = n * value_bytes, k = 0;
    const uint8_t *w = (const uint8_t *)g->w->data + o * row_bytes, *ahead = w + (size_t)no * row_bytes;
    vec sum[4][8];
    clear(no, nr, sum);
    for (; k + per_line <= n; k += per_line, ahead += no * LINE, w += LINE, x += x_line) {
        fetch(ahead, no);
        step(w, row_bytes, x, g->ldx, no, nr, sum);
    }
    if (k < n) {
        uint8_t tail[4 * LINE];
        copy_tail(w, row_bytes, (n - k) * value_bytes, no, tail);
        step(tail, LINE, x, g->ldx, no, nr, sum);
        st_forget(tail, (size_t)no * LINE);
    }
    finish(g, o, true, no, nr, sum);
}

/* Half a line of each row. */
static ST_INLINE void step_i8(const uint8_t *w, size_t row_bytes, const uint8_t *x, size_t ldx, const int no,
                              const int nr, ivec sum[4][8])
{
    ivec a[4];
    ST_UNROLL
    for (int i = 0; i < no; i++)
        a[i] = widen_i8(w + (size_t)i * row_bytes);
    ST_UNROLL
    for (int r = 0; r < nr; r++) {
        ivec v = *(const unaligned_ivec *)(x + (size_t)r * ldx);
        ST_HOLD(v);
        ST_UNROLL
        for (int i = 0; i < no; i++)
            sum[i][r] = dot_i16(sum[i][r], a[i], v);
    }
}

/* Columns [k0, k0 + I8_BLOCK) of rows [o, o + no) of W. */
static ST_INLINE void block_i8(const struct st_gemv *g, uint32_t o, size_t k0, const int no, const int nr)
{
    size_t n = g->w->n_in, end = n - k0 <= I8_BLOCK ? n : k0 + I8_BLOCK, k = k0;
    const uint8_t *w = (const uint8_t *)g->w->data + o * n, *x = (const uint8_t *)g->x + k0 * sizeof(int16_t);
    const uint8_t *ahead = w + k0 + (size_t)no * n;
    ivec whole[4][8];
    vec sum[4][8];
    ST_UNROLL
    for (int i = 0; i < no; i++) {
        ST_UNROLL
        for (int r = 0; r < nr; r++)
            whole[i][r] = (ivec){0};
    }
    for (; k + LINE <= end; k += LINE, ahead += no * LINE, x += 2 * LINE) {
        fetch(ahead, no);
        step_i8(w + k, n, x, g->ldx, no, nr, whole);
        step_i8(w + k + LINE / 2, n, x + LINE, g->ldx, no, nr, whole);
    }
    if (k < end) {
        uint8_t tail[4 * LINE];
        copy_tail(w + k, n, end - k, no, tail);
        step_i8(tail, LINE, x, g->ldx, no, nr, whole);
        step_i8(tail + LINE / 2, LINE, x + LINE, g->ldx, no, nr, whole);
        st_forget(tail, (size_t)no * LINE);
    }
    ST_UNROLL
    for (int i = 0; i < no; i++) {
        ST_UNROLL
        for (int r = 0; r < nr; r++)
            sum[i][r] = __builtin_convertvector(whole[i][r], vec);
    }
    finish(g, o, k0 == 0, no, nr, sum);
}

static ST_INLINE void group_i8(const struct st_gemv *g, uint32_t o, const int no, const int nr)
{
    for (size_t k = 0; k < g->w->n_in; k += I8_BLOCK)
        block_i8(g, o, k, no, nr);
}

/* As many rows of W as leave their sums in registers: each vector of x is then loaded least often. */
#define ROWS(no, nr, call)                                                                                             \
    case nr:                                                                                                           \
        for (; lo + (no) <= hi; lo += (no))                                                                            \
            call(no, nr);                                                                                              \
        for (; lo < hi; lo++)                                                                                          \
            call(1, nr);                                                                                               \
        break;
#define RUN(name, call, many)                                                                                          \
    static void name(const struct st_gemv *g, uint32_t lo, uint32_t hi)                                                \
    {                                                                                                                  \
        switch (g->n_row) {                                                                                            \
            ROWS(4, 1, call)                                                                                           \
            ROWS(SOME, 2, call)                                                                                        \
            ROWS(SOME, 3, call)                                                                                        \
            ROWS(SOME, 4, call)                                                                                        \
            ROWS(many, 5, call)                                                                                        \
            ROWS(many, 6, call)                                                                                        \
            ROWS(many, 7, call)                                                                                        \
            ROWS(many, 8, call)                                                                                        \
        }                                                                                                              \
    }
#define CALL_F32(no, nr) group(g, lo, step_f32, 4, LINE, no, nr)
#define CALL_F16(no, nr) group(g, lo, step_f16, 2, 2 * LINE, no, nr)
#define CALL_BF16(no, nr) group(g, lo, step_bf16, 2, 2 * LINE, no, nr)
#define CALL_I8_F32(no, nr) group(g, lo, step_i8_f32, 1, 4 * LINE, no, nr)
#define CALL_I8(no, nr) group_i8(g, lo, no, nr)
RUN(run_f32, CALL_F32, MANY)
RUN(run_f16, CALL_F16, MANY)
RUN(run_bf16, CALL_BF16, MANY)
RUN(run_i8, CALL_I8, MANY_I8)
RUN(run_i8_f32, CALL_I8_F32, MANY)

#endif
