/* GEMM for AVX-512: tiles of 14 rows of W times panels of 32 rows of x, whose sums fill 28 registers. The lanes of a
 * sum are rows of x: x is transposed once when it is packed, so that W is read where it lies, value by value as a
 * broadcast. */
#include "tensor/k_avx512.h"
#include "tensor/unroll.h"

#define MR 7
#define NR 64
#define NV (NR / 16)

static void pack_f32(const float *x, size_t ldx, uint32_t n_row, uint32_t n_k, void *panel)
{
    float *to = panel;
    uint32_t padded = (n_k + 1) & ~1u, ld = (n_row + 15) & ~15u;
    for (uint32_t r = 0; r < n_row; r += 16)
        for (uint32_t k = 0; k < padded; k += 16) {
            __m512 v[16];
            __mmask16 mask = st_mask16(n_k - k);
            ST_UNROLL
            for (uint32_t i = 0; i < 16; i++)
                v[i] = r + i < n_row ? _mm512_maskz_loadu_ps(mask, x + (r + i) * ldx + k) : _mm512_setzero_ps();
            st_transpose16(v);
            for (uint32_t i = 0; i < 16 && k + i < padded; i++)
                _mm512_store_ps(to + (size_t)(k + i) * ld + r, v[i]);
        }
}

static void pack_bf16(const float *x, size_t ldx, uint32_t n_row, uint32_t n_k, void *panel)
{
    float *to = panel;
    uint32_t n_pair = (n_k + 1) / 2, ld = (n_row + 15) & ~15u;
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
            st_transpose16(v);
            for (uint32_t i = 0; i < 16 && p + i < n_pair; i++)
                _mm512_store_ps(to + (size_t)(p + i) * ld + r, v[i]);
        }
}

/* One step of k (a pair for bf16) for every row of W in `from` at byte offset `at`, times `n` vectors of x. */
typedef void step_fn(const uint8_t *const from[MR], size_t at, const float *x, const int n, __m512 sum[MR][NV]);

static ST_INLINE void step_f32(const uint8_t *const from[MR], size_t at, const float *x, const int n,
                               __m512 sum[MR][NV])
{
    __m512 v[NV];
    ST_UNROLL
    for (int j = 0; j < n; j++)
        v[j] = _mm512_load_ps(x + 16 * j);
    ST_UNROLL
    for (int i = 0; i < MR; i++) {
        __m512 w = _mm512_set1_ps(*(const st_unaligned_f32 *)(from[i] + at));
        ST_HOLD(w);
        ST_UNROLL
        for (int j = 0; j < n; j++)
            sum[i][j] = _mm512_fmadd_ps(w, v[j], sum[i][j]);
    }
}

static ST_INLINE void step_bf16(const uint8_t *const from[MR], size_t at, const float *x, const int n,
                                __m512 sum[MR][NV])
{
    __m512bh v[NV];
    ST_UNROLL
    for (int j = 0; j < n; j++)
        v[j] = (__m512bh)_mm512_load_ps(x + 16 * j);
    ST_UNROLL
    for (int i = 0; i < MR; i++) {
        __m512 w = _mm512_set1_ps(*(const st_unaligned_f32 *)(from[i] + at));
        ST_HOLD(w);
        ST_UNROLL
        for (int j = 0; j < n; j++)
            sum[i][j] = _mm512_dpbf16_ps(sum[i][j], (__m512bh)w, v[j]);
    }
}

static ST_INLINE void store(const struct st_gemm_tile *t, uint32_t row, __m512 v[16])
{
    __mmask16 keep = st_mask16(t->n_w);
    __m512 scale = t->w_scale ? _mm512_maskz_loadu_ps(keep, t->w_scale) : _mm512_set1_ps(1);
    __m512 bias = t->bias ? _mm512_maskz_loadu_ps(keep, t->bias) : _mm512_setzero_ps();
    st_transpose16(v);
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
    const size_t ahead = MR * t->ldw * value_bytes;
    __m512 sum[MR][NV];
    ST_UNROLL
    for (uint32_t i = 0; i < MR; i++) {
        /* The missing rows of a short tile are computed from its last one and thrown away. */
        from[i] = (const uint8_t *)t->w + (i < t->n_w ? i : t->n_w - 1) * t->ldw * value_bytes;
        ST_UNROLL
        for (int j = 0; j < n; j++)
            sum[i][j] = _mm512_setzero_ps();
    }
    size_t k = 0;
    for (; k + 4 <= steps; k += 4, x += 4 * 16 * n) {
        /* With few rows of x this is bound by memory: bring the next tile closer. */
        if (n == 1 && k % 16 == 0) {
            ST_UNROLL
            for (int i = 0; i < MR; i++)
                _mm_prefetch((const char *)(from[i] + ahead + k * 4), _MM_HINT_T1);
        }
        ST_UNROLL
        for (int u = 0; u < 4; u++)
            step(from, (k + (size_t)u) * 4, x + u * 16 * n, n, sum);
    }
    for (; k < steps; k++, x += 16 * n)
        step(from, k * 4, x, n, sum);
    ST_UNROLL
    for (int j = 0; j < n; j++) {
        __m512 v[16];
        ST_UNROLL
        for (int i = 0; i < 16; i++)
            v[i] = i < MR ? sum[i][j] : _mm512_setzero_ps();
        store(t, 16 * (uint32_t)j, v);
    }
}

#define TILE(name, step, value_bytes, steps)                                                                           \
    static void name(const struct st_gemm_tile *t)                                                                     \
    {                                                                                                                  \
        switch ((t->n_row + 15) / 16) {                                                                                \
        case 1:                                                                                                        \
            run(t, step, value_bytes, steps, 1);                                                                       \
            break;                                                                                                     \
        case 2:                                                                                                        \
            run(t, step, value_bytes, steps, 2);                                                                       \
            break;                                                                                                     \
        case 3:                                                                                                        \
            run(t, step, value_bytes, steps, 3);                                                                       \
            break;                                                                                                     \
        case 4:                                                                                                        \
            run(t, step, value_bytes, steps, 4);                                                                       \
            break;                                                                                                     \
        }                                                                                                              \
    }
TILE(tile_f32, step_f32, 4, t->n_k)
TILE(tile_bf16, step_bf16, 2, t->n_k / 2)

static void widen_i8(const int8_t *w, uint32_t n, void *to)
{
    uint16_t *h = to;
    for (uint32_t k = 0; k < n; k += 32) {
        __mmask32 mask = st_mask32(n - k);
        __m512i v = _mm512_cvtepi8_epi16(_mm256_maskz_loadu_epi8(mask, w + k));
        __m512 lo = _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm512_castsi512_si256(v)));
        __m512 hi = _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64(v, 1)));
        _mm512_mask_storeu_epi16(h + k, mask, (__m512i)_mm512_cvtne2ps_pbh(hi, lo));
    }
}

static void widen_i8_f32(const int8_t *w, uint32_t n, void *to)
{
    float *f = to;
    for (uint32_t k = 0; k < n; k += 16) {
        __mmask16 mask = st_mask16(n - k);
        _mm512_mask_storeu_ps(f + k, mask, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(mask, w + k))));
    }
}

const struct st_gemm_kernel st_gemm_f32_avx512 = {ST_DTYPE_F32, MR, NR, pack_f32, tile_f32, widen_i8_f32};
const struct st_gemm_kernel st_gemm_bf16_avx512 = {ST_DTYPE_BF16, MR, NR, pack_bf16, tile_bf16, widen_i8};
