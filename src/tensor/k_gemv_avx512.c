/* GEMV for AVX-512: `no` rows of W times `nr` rows of x at a time, one vector of partial sums for each pair. The sums
 * of a pair are added in the same order for every `no` and `nr`. */
#include "tensor/k_avx512.h"
#include "tensor/unroll.h"

#include <math.h>
#include <string.h>

/* K of an int8 row whose products fit 32-bit sums: each step adds two products to a lane, and
 * 8192 / 32 steps * 2 * 128 * 32767 = 2147418112 < 2^31. */
#define I8_BLOCK 8192

/* Rows of int8 are short: with many rows of x the next group alone would arrive too late. */
#define I8_AHEAD 4096

/* W is read in lines of 64 bytes. */
#define LINE 64

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

/* Of every 32 values first the 16 even ones, then the 16 odd ones: the order in which a line of bf16 becomes f32 by one
 * shift (even) and one mask (odd). */
static void prep_bf16(const float *x, uint32_t n_in, void *out, float *scale)
{
    const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    float *o = out;
    *scale = 1;
    for (size_t k = 0; k < padded(n_in); k += 32) {
        size_t left = k < n_in ? n_in - k : 0;
        __m512 a = _mm512_maskz_loadu_ps(st_mask16(left), x + k);
        __m512 b = _mm512_maskz_loadu_ps(st_mask16(left > 16 ? left - 16 : 0), x + k + 16);
        _mm512_store_ps(o + k, _mm512_permutex2var_ps(a, even, b));
        _mm512_store_ps(o + k + 16, _mm512_permutex2var_ps(a, odd, b));
    }
}

/* x = scale * q with 16-bit q. */
static void prep_i16(const float *x, uint32_t n_in, void *out, float *scale)
{
    int16_t *q = out;
    __m512 max = _mm512_setzero_ps();
    for (size_t k = 0; k < n_in; k += 16)
        max = _mm512_max_ps(_mm512_abs_ps(_mm512_maskz_loadu_ps(st_mask16(n_in - k), x + k)), max);
    float m = _mm512_reduce_max_ps(max), inv = m > 0 ? 32767 / m : 0;
    inv = inv < INFINITY ? inv : 0;
    *scale = inv > 0 ? m / 32767 : 0;
    for (size_t k = 0; k < padded(n_in); k += 16) {
        __m512 v = _mm512_maskz_loadu_ps(k < n_in ? st_mask16(n_in - k) : 0, x + k);
        __m512i r = _mm512_cvtps_epi32(_mm512_mul_ps(v, _mm512_set1_ps(inv)));
        r = _mm512_max_epi32(r, _mm512_set1_epi32(-32767));
        _mm256_store_si256((__m256i *)(q + k), _mm512_cvtsepi32_epi16(r));
    }
}

/* Sums of four vectors, in lanes 0..3; each is halved in the same order whichever of the four it is. */
static inline __m128 sum4(__m512 a, __m512 b, __m512 c, __m512 d)
{
    __m512 ab = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
    __m512 cd = _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xee));
    __m512 s = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
    s = _mm512_add_ps(s, _mm512_permute_ps(s, 0x4e));
    s = _mm512_add_ps(s, _mm512_permute_ps(s, 0xb1));
    const __m512i pick = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 8, 4, 0);
    return _mm512_castps512_ps128(_mm512_permutexvar_ps(pick, s));
}

static ST_INLINE void clear(const int no, const int nr, __m512 sum[4][8])
{
    ST_UNROLL
    for (int i = 0; i < no; i++) {
        ST_UNROLL
        for (int r = 0; r < nr; r++)
            sum[i][r] = _mm512_setzero_ps();
    }
}

/* y of `no` rows of W and `nr` rows of x from the sums of their first or a later block of columns. */
static ST_INLINE void finish(const struct st_gemv *g, uint32_t o, const bool first, const int no, const int nr,
                             __m512 sum[4][8])
{
    const struct st_mat *m = g->w;
    const __mmask8 keep = (__mmask8)((1 << no) - 1);
    const __m512 zero = _mm512_setzero_ps();
    __m128 bias = g->bias ? _mm_maskz_loadu_ps(keep, g->bias + o) : _mm_setzero_ps();
    __m128 scale = m->scale ? _mm_maskz_loadu_ps(keep, m->scale + o) : _mm_set1_ps(1);
    ST_UNROLL
    for (int r = 0; r < nr; r++) {
        __m128 s = sum4(sum[0][r], no > 1 ? sum[1][r] : zero, no > 2 ? sum[2][r] : zero, no > 3 ? sum[3][r] : zero);
        float *y = g->y + (size_t)r * m->n_out + o;
        __m128 before = first ? bias : _mm_maskz_loadu_ps(keep, y);
        _mm_mask_storeu_ps(y, keep, _mm_fmadd_ps(s, _mm_mul_ps(scale, _mm_set1_ps(g->x_scale[r])), before));
    }
}

/* One line of each of `no` rows at w, times x. `left` values of the row remain; only a constant >= a line's reads
 * unmasked. */
typedef void step_fn(const uint8_t *w, size_t row_bytes, const uint8_t *x, size_t ldx, const int no, const int nr,
                     size_t left, __m512 sum[4][8]);

/* Vectors a[i] of 16 weights of each row times one vector of each row of x. */
static ST_INLINE void multiply(const __m512 a[4], const uint8_t *x, size_t ldx, const int no, const int nr,
                               __m512 sum[4][8])
{
    ST_UNROLL
    for (int r = 0; r < nr; r++) {
        __m512 v = _mm512_load_ps((const float *)(x + (size_t)r * ldx));
        ST_HOLD(v);
        ST_UNROLL
        for (int i = 0; i < no; i++)
            sum[i][r] = _mm512_fmadd_ps(a[i], v, sum[i][r]);
    }
}

static ST_INLINE void step_f32(const uint8_t *w, size_t row_bytes, const uint8_t *x, size_t ldx, const int no,
                               const int nr, size_t left, __m512 sum[4][8])
{
    __m512 a[4];
    ST_UNROLL
    for (int i = 0; i < no; i++)
        a[i] = _mm512_maskz_loadu_ps(st_mask16(left), (const float *)(w + (size_t)i * row_bytes));
    multiply(a, x, ldx, no, nr, sum);
}

static ST_INLINE void step_bf16(const uint8_t *w, size_t row_bytes, const uint8_t *x, size_t ldx, const int no,
                                const int nr, size_t left, __m512 sum[4][8])
{
    __m512 even[4], odd[4];
    ST_UNROLL
    for (int i = 0; i < no; i++) {
        __m512i a = _mm512_maskz_loadu_epi16(st_mask32(left), w + (size_t)i * row_bytes);
        even[i] = _mm512_castsi512_ps(_mm512_slli_epi32(a, 16));
        odd[i] = _mm512_castsi512_ps(_mm512_and_si512(a, _mm512_set1_epi32((int)0xffff0000)));
    }
    multiply(even, x, ldx, no, nr, sum);
    multiply(odd, x + 64, ldx, no, nr, sum);
}

static ST_INLINE void step_f16(const uint8_t *w, size_t row_bytes, const uint8_t *x, size_t ldx, const int no,
                               const int nr, size_t left, __m512 sum[4][8])
{
    __m512 lo[4], hi[4];
    ST_UNROLL
    for (int i = 0; i < no; i++) {
        __m512i a = _mm512_maskz_loadu_epi16(st_mask32(left), w + (size_t)i * row_bytes);
        lo[i] = _mm512_cvtph_ps(_mm512_castsi512_si256(a));
        hi[i] = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(a, 1));
    }
    multiply(lo, x, ldx, no, nr, sum);
    multiply(hi, x + 64, ldx, no, nr, sum);
}

/* `no` lines. With few rows of x the lines go to the first-level cache; more rows fill it themselves. */
static ST_INLINE void fetch(const uint8_t *p, const int no, const int nr)
{
    ST_UNROLL
    for (int i = 0; i < no; i++) {
        if (nr <= 2)
            _mm_prefetch((const char *)p + i * LINE, _MM_HINT_T0);
        else
            _mm_prefetch((const char *)p + i * LINE, _MM_HINT_T1);
    }
}

/* Rows [o, o + no) of W. Meanwhile the rows after them are brought closer in the order of memory: one sequential stream
 * is what the memory system does best, whatever the order in which lines are used. */
static ST_INLINE void group(const struct st_gemv *g, uint32_t o, step_fn *step, const size_t value_bytes, const int no,
                            const int nr)
{
    const size_t per_line = LINE / value_bytes;
    const uint8_t *x = g->x;
    size_t n = g->w->n_in, row_bytes = n * value_bytes, k = 0;
    const uint8_t *w = (const uint8_t *)g->w->data + o * row_bytes, *ahead = w + (size_t)no * row_bytes;
    __m512 sum[4][8];
    clear(no, nr, sum);
    for (; k + per_line <= n; k += per_line, ahead += no * LINE, w += LINE, x += per_line * sizeof(float)) {
        fetch(ahead, no, nr);
        step(w, row_bytes, x, g->ldx, no, nr, LINE, sum);
    }
    if (k < n)
        step(w, row_bytes, x, g->ldx, no, nr, n - k, sum);
    finish(g, o, true, no, nr, sum);
}

static ST_INLINE void step_i8(const uint8_t *w, size_t row_bytes, const uint8_t *x, size_t ldx, const int no,
                              const int nr, size_t left, __m512i acc[4][8])
{
    __m512i a[4];
    ST_UNROLL
    for (int i = 0; i < no; i++)
        a[i] = _mm512_cvtepi8_epi16(_mm256_maskz_loadu_epi8(st_mask32(left), w + (size_t)i * row_bytes));
    ST_UNROLL
    for (int r = 0; r < nr; r++) {
        __m512i v = _mm512_load_si512(x + (size_t)r * ldx);
        ST_HOLD(v);
        ST_UNROLL
        for (int i = 0; i < no; i++)
            acc[i][r] = _mm512_dpwssd_epi32(acc[i][r], a[i], v);
    }
}

/* Columns [k0, k0 + I8_BLOCK) of rows [o, o + no) of W. */
static ST_INLINE void block_i8(const struct st_gemv *g, uint32_t o, size_t k0, const int no, const int nr)
{
    size_t n = g->w->n_in, end = n - k0 <= I8_BLOCK ? n : k0 + I8_BLOCK, k = k0;
    const uint8_t *w = (const uint8_t *)g->w->data + o * n, *x = (const uint8_t *)g->x + k0 * sizeof(int16_t);
    const uint8_t *ahead = w + k0 + (size_t)no * n + (nr <= 2 ? 0 : I8_AHEAD);
    __m512i acc[4][8];
    __m512 sum[4][8];
    ST_UNROLL
    for (int i = 0; i < no; i++) {
        ST_UNROLL
        for (int r = 0; r < nr; r++)
            acc[i][r] = _mm512_setzero_si512();
    }
    for (; k + LINE <= end; k += LINE, ahead += no * LINE, x += 128) {
        fetch(ahead, no, nr);
        step_i8(w + k, n, x, g->ldx, no, nr, 32, acc);
        step_i8(w + k + 32, n, x + 64, g->ldx, no, nr, 32, acc);
    }
    if (k < end)
        step_i8(w + k, n, x, g->ldx, no, nr, end - k, acc);
    if (k + 32 < end)
        step_i8(w + k + 32, n, x + 64, g->ldx, no, nr, end - k - 32, acc);
    ST_UNROLL
    for (int i = 0; i < no; i++) {
        ST_UNROLL
        for (int r = 0; r < nr; r++)
            sum[i][r] = _mm512_cvtepi32_ps(acc[i][r]);
    }
    finish(g, o, k0 == 0, no, nr, sum);
}

static ST_INLINE void group_i8(const struct st_gemv *g, uint32_t o, const int no, const int nr)
{
    for (size_t k = 0; k < g->w->n_in; k += I8_BLOCK)
        block_i8(g, o, k, no, nr);
}

/* As many rows of W as leave their sums in registers: each vector of x is then loaded least often. `many` is for 5 to 8
 * rows of x: 3, or 2 for int8, where the compiler needs more registers. */
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
            ROWS(4, 2, call)                                                                                           \
            ROWS(4, 3, call)                                                                                           \
            ROWS(4, 4, call)                                                                                           \
            ROWS(many, 5, call)                                                                                        \
            ROWS(many, 6, call)                                                                                        \
            ROWS(many, 7, call)                                                                                        \
            ROWS(many, 8, call)                                                                                        \
        }                                                                                                              \
    }
#define CALL_F32(no, nr) group(g, lo, step_f32, 4, no, nr)
#define CALL_F16(no, nr) group(g, lo, step_f16, 2, no, nr)
#define CALL_BF16(no, nr) group(g, lo, step_bf16, 2, no, nr)
#define CALL_I8(no, nr) group_i8(g, lo, no, nr)
RUN(run_f32, CALL_F32, 3)
RUN(run_f16, CALL_F16, 3)
RUN(run_bf16, CALL_BF16, 3)
RUN(run_i8, CALL_I8, 2)

const struct st_gemv_kernel st_gemv_f32_avx512 = {prep_plain, run_f32};
const struct st_gemv_kernel st_gemv_f16_avx512 = {prep_plain, run_f16};
const struct st_gemv_kernel st_gemv_bf16_avx512 = {prep_bf16, run_bf16};
const struct st_gemv_kernel st_gemv_i8_avx512 = {prep_i16, run_i8};
