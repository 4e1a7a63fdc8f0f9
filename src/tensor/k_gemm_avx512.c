/* GEMM for AVX-512: tiles of 14 rows of W times panels of 32 rows of x, whose sums fill 28 registers. The lanes of a
 * sum are rows of x: x is transposed once when it is packed, so that W is read where it lies, value by value as a
 * broadcast. */
#include "tensor/k_avx512.h"
#include "tensor/unroll.h"

#define MR 14
#define NR 32

/* Rows become columns: 16 x 16 values of 32 bits. */
static ST_INLINE void transpose(__m512 v[16])
{
    __m512 t[16];
    ST_UNROLL
    for (int i = 0; i < 16; i += 4) {
        __m512 a = _mm512_unpacklo_ps(v[i], v[i + 1]), b = _mm512_unpackhi_ps(v[i], v[i + 1]);
        __m512 c = _mm512_unpacklo_ps(v[i + 2], v[i + 3]), d = _mm512_unpackhi_ps(v[i + 2], v[i + 3]);
        t[i] = _mm512_shuffle_ps(a, c, 0x44);
        t[i + 1] = _mm512_shuffle_ps(a, c, 0xee);
        t[i + 2] = _mm512_shuffle_ps(b, d, 0x44);
        t[i + 3] = _mm512_shuffle_ps(b, d, 0xee);
    }
    ST_UNROLL
    for (int i = 0; i < 4; i++) {
        __m512 a = _mm512_shuffle_f32x4(t[i], t[i + 4], 0x88), b = _mm512_shuffle_f32x4(t[i], t[i + 4], 0xdd);
        __m512 c = _mm512_shuffle_f32x4(t[i + 8], t[i + 12], 0x88), d = _mm512_shuffle_f32x4(t[i + 8], t[i + 12], 0xdd);
        v[i] = _mm512_shuffle_f32x4(a, c, 0x88);
        v[i + 4] = _mm512_shuffle_f32x4(b, d, 0x88);
        v[i + 8] = _mm512_shuffle_f32x4(a, c, 0xdd);
        v[i + 12] = _mm512_shuffle_f32x4(b, d, 0xdd);
    }
}

/* panel [n_k rounded up to even][NR] */
static void pack_f32(const float *x, size_t ldx, uint32_t n_row, uint32_t n_k, void *panel)
{
    float *to = panel;
    uint32_t padded = (n_k + 1) & ~1u;
    for (uint32_t r = 0; r < n_row; r += 16)
        for (uint32_t k = 0; k < padded; k += 16) {
            __m512 v[16];
            __mmask16 mask = st_mask16(n_k - k);
            ST_UNROLL
            for (uint32_t i = 0; i < 16; i++)
                v[i] = r + i < n_row ? _mm512_maskz_loadu_ps(mask, x + (r + i) * ldx + k) : _mm512_setzero_ps();
            transpose(v);
            for (uint32_t i = 0; i < 16 && k + i < padded; i++)
                _mm512_store_ps(to + (size_t)(k + i) * NR + r, v[i]);
        }
}

/* panel [pairs of k][NR] pairs of bf16 */
static void pack_bf16(const float *x, size_t ldx, uint32_t n_row, uint32_t n_k, void *panel)
{
    float *to = panel;
    uint32_t n_pair = (n_k + 1) / 2;
    for (uint32_t r = 0; r < n_row; r += 16)
        for (uint32_t p = 0; p < n_pair; p += 16) {
            __m512 v[16];
            uint32_t left = n_k - 2 * p;
            __mmask16 lo = st_mask16(left), hi = st_mask16(left > 16 ? left - 16 : 0);
            ST_UNROLL
            for (uint32_t i = 0; i < 16; i++) {
                __m512 a = _mm512_setzero_ps(), b = a;
                if (r + i < n_row) {
                    const float *from = x + (r + i) * ldx + 2 * p;
                    a = _mm512_maskz_loadu_ps(lo, from);
                    b = _mm512_maskz_loadu_ps(hi, from + 16);
                }
                v[i] = (__m512)_mm512_cvtne2ps_pbh(b, a);
            }
            transpose(v);
            for (uint32_t i = 0; i < 16 && p + i < n_pair; i++)
                _mm512_store_ps(to + (size_t)(p + i) * NR + r, v[i]);
        }
}

/* One step of k (a pair for bf16) for every row of W in `from` at byte offset `at`, times `n` vectors of x. */
typedef void step_fn(const uint8_t *const from[MR], size_t at, const float *x, const int n, __m512 sum[MR][2]);

static ST_INLINE void step_f32(const uint8_t *const from[MR], size_t at, const float *x, const int n, __m512 sum[MR][2])
{
    __m512 a = _mm512_load_ps(x), b = n > 1 ? _mm512_load_ps(x + 16) : a;
    ST_UNROLL
    for (int i = 0; i < MR; i++) {
        __m512 w = _mm512_set1_ps(*(const st_unaligned_f32 *)(from[i] + at));
        ST_HOLD(w);
        sum[i][0] = _mm512_fmadd_ps(w, a, sum[i][0]);
        if (n > 1)
            sum[i][1] = _mm512_fmadd_ps(w, b, sum[i][1]);
    }
}

static ST_INLINE void step_bf16(const uint8_t *const from[MR], size_t at, const float *x, const int n,
                                __m512 sum[MR][2])
{
    __m512bh a = (__m512bh)_mm512_load_ps(x), b = n > 1 ? (__m512bh)_mm512_load_ps(x + 16) : a;
    ST_UNROLL
    for (int i = 0; i < MR; i++) {
        __m512 w = _mm512_set1_ps(*(const st_unaligned_f32 *)(from[i] + at));
        ST_HOLD(w);
        sum[i][0] = _mm512_dpbf16_ps(sum[i][0], (__m512bh)w, a);
        if (n > 1)
            sum[i][1] = _mm512_dpbf16_ps(sum[i][1], (__m512bh)w, b);
    }
}

static ST_INLINE void store(const struct st_gemm_tile *t, uint32_t row, __m512 v[16])
{
    __mmask16 keep = st_mask16(t->n_w);
    __m512 scale = t->w_scale ? _mm512_maskz_loadu_ps(keep, t->w_scale) : _mm512_set1_ps(1);
    __m512 bias = t->bias ? _mm512_maskz_loadu_ps(keep, t->bias) : _mm512_setzero_ps();
    transpose(v);
    ST_UNROLL
    for (uint32_t i = 0; i < 16; i++) {
        if (row + i >= t->n_row)
            return;
        float *y = t->y + (row + i) * t->ldy;
        __m512 before = t->first ? bias : _mm512_maskz_loadu_ps(keep, y);
        _mm512_mask_storeu_ps(y, keep, _mm512_fmadd_ps(v[i], scale, before));
    }
}

/* `n` vectors of 16 rows of x; `steps` of k, 4 bytes of W each. */
static ST_INLINE void run(const struct st_gemm_tile *t, step_fn *step, size_t value_bytes, size_t steps, const int n)
{
    const uint8_t *from[MR];
    const float *x = t->panel;
    __m512 sum[MR][2];
    ST_UNROLL
    for (uint32_t i = 0; i < MR; i++) {
        /* The missing rows of a short tile are computed from its last one and thrown away. */
        from[i] = (const uint8_t *)t->w + (i < t->n_w ? i : t->n_w - 1) * t->ldw * value_bytes;
        sum[i][0] = sum[i][1] = _mm512_setzero_ps();
    }
    size_t k = 0;
    for (; k + 4 <= steps; k += 4, x += 4 * NR) {
        ST_UNROLL
        for (size_t u = 0; u < 4; u++)
            step(from, (k + u) * 4, x + u * NR, n, sum);
    }
    for (; k < steps; k++, x += NR)
        step(from, k * 4, x, n, sum);
    ST_UNROLL
    for (uint32_t h = 0; h < 2; h++) {
        if (h >= (uint32_t)n)
            break;
        __m512 v[16];
        ST_UNROLL
        for (int i = 0; i < 16; i++)
            v[i] = i < MR ? sum[i][h] : _mm512_setzero_ps();
        store(t, 16 * h, v);
    }
}

static void tile_f32(const struct st_gemm_tile *t)
{
    if (t->n_row > 16)
        run(t, step_f32, 4, t->n_k, 2);
    else
        run(t, step_f32, 4, t->n_k, 1);
}

static void tile_bf16(const struct st_gemm_tile *t)
{
    if (t->n_row > 16)
        run(t, step_bf16, 2, t->n_k / 2, 2);
    else
        run(t, step_bf16, 2, t->n_k / 2, 1);
}

const struct st_gemm_kernel st_gemm_f32_avx512 = {ST_DTYPE_F32, MR, NR, pack_f32, tile_f32};
const struct st_gemm_kernel st_gemm_bf16_avx512 = {ST_DTYPE_BF16, MR, NR, pack_bf16, tile_bf16};
