#include "tensor/k_avx512.h"

#define STEP 64

/* The lanes of each of four vectors, added up. */
static ST_INLINE __m128i sum4(__m512i a, __m512i b, __m512i c, __m512i d)
{
    __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    __m512i s = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    __m256i h = _mm256_add_epi32(_mm512_castsi512_si256(s), _mm512_extracti64x4_epi64(s, 1));
    return _mm_add_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
}

static ST_INLINE void dot_step(const uint8_t *s, size_t lds, const uint8_t *u, size_t ldu, __mmask64 have,
                               const int n_s, const int n_u, __m512i sum[ST_LIMB_S][ST_LIMB_U])
{
    __m512i a[ST_LIMB_U];
    ST_UNROLL
    for (int j = 0; j < n_u; j++)
        a[j] = _mm512_maskz_loadu_epi8(have, u + (size_t)j * ldu);
    ST_UNROLL
    for (int i = 0; i < n_s; i++) {
        __m512i b = _mm512_maskz_loadu_epi8(have, s + (size_t)i * lds);
        ST_HOLD(b);
        ST_UNROLL
        for (int j = 0; j < n_u; j++)
            sum[i][j] = _mm512_dpbusd_epi32(sum[i][j], a[j], b);
    }
}

/* Vectors [at, at + n_s) of s. */
static ST_INLINE void dot_some(const struct st_limb_dot *t, uint32_t at, const bool stream, const int n_s,
                               const int n_u)
{
    __m512i sum[ST_LIMB_S][ST_LIMB_U];
    const uint8_t *s = (const uint8_t *)t->s + at * t->lds, *u = t->u, *ahead = s + n_s * t->lds;
    const uint8_t *end = u + t->n_k / STEP * STEP;
    ST_UNROLL
    for (int i = 0; i < n_s; i++)
        ST_UNROLL
    for (int j = 0; j < ST_LIMB_U; j++)
        sum[i][j] = _mm512_setzero_si512();
    for (; u < end; u += STEP, s += STEP, ahead += n_s * STEP) {
        /* As GEMV does (k_gemv.h): one stream in the order of memory, each line asked for four times. */
        ST_UNROLL
        for (int far = 0; far < 4 && stream; far++)
            ST_UNROLL
        for (int i = 0; i < n_s; i++)
            __builtin_prefetch(ahead + far * 2048 + i * STEP, 0, 2);
        dot_step(s, t->lds, u, t->ldu, ~(__mmask64)0, n_s, n_u, sum);
    }
    if (t->n_k % STEP)
        dot_step(s, t->lds, u, t->ldu, ((__mmask64)1 << t->n_k % STEP) - 1, n_s, n_u, sum);
    ST_UNROLL
    for (int i = 0; i < n_s; i++) {
        __m128i *out = (__m128i *)(t->sum + (at + (uint32_t)i) * ST_LIMB_U);
        _mm_storeu_si128(out, _mm_add_epi32(_mm_loadu_si128(out), sum4(sum[i][0], sum[i][1], sum[i][2], sum[i][3])));
    }
}

static ST_INLINE void dot_all(const struct st_limb_dot *t, const bool stream, const int n_u)
{
    uint32_t i = 0;
    for (; i + ST_LIMB_S <= t->n_s; i += ST_LIMB_S)
        dot_some(t, i, stream, ST_LIMB_S, n_u);
    for (; i < t->n_s; i++)
        dot_some(t, i, false, 1, n_u);
}

#define DOT(n_u)                                                                                                       \
    case n_u:                                                                                                          \
        if (t->stream)                                                                                                 \
            dot_all(t, true, n_u);                                                                                     \
        else                                                                                                           \
            dot_all(t, false, n_u);                                                                                    \
        return;

static void dot(const struct st_limb_dot *t)
{
    switch (t->n_u) {
        DOT(1)
        DOT(2)
        DOT(3)
        DOT(4)
    }
}

/* Sixteen vectors at a time: their 32-bit words become columns. */
static void pack(const uint8_t *rows, size_t ld, uint32_t n, uint32_t n_lane, uint32_t n_k, uint8_t *panel)
{
    uint32_t words = (n_k + 3) / 4;
    for (uint32_t lane = 0; lane < n_lane; lane += 16)
        for (uint32_t k = 0; k < n_k; k += STEP) {
            __mmask64 have = n_k - k >= STEP ? ~(__mmask64)0 : ((__mmask64)1 << (n_k - k)) - 1;
            __m512 v[16];
            ST_UNROLL
            for (uint32_t i = 0; i < 16; i++)
                v[i] = lane + i < n ? (__m512)_mm512_maskz_loadu_epi8(have, rows + (lane + i) * ld + k)
                                    : _mm512_setzero_ps();
            st_transpose16(v);
            for (uint32_t i = 0; i < 16 && k / 4 + i < words; i++)
                _mm512_storeu_ps(panel + ((size_t)(k / 4 + i) * n_lane + lane) * 4, v[i]);
        }
}

/* Rows of a tile: as many as leave their sums in registers. */
#define MR_MAX 16

/* Four bytes of each of `mr` rows, STEP apart, times `nv` vectors of the panel. */
static ST_INLINE void tile_step(const uint8_t *from, const uint8_t *panel, const bool rows_signed, const int mr,
                                const int nv, __m512i sum[MR_MAX][4])
{
    typedef int32_t word __attribute__((may_alias));
    __m512i p[4];
    ST_UNROLL
    for (int j = 0; j < nv; j++)
        p[j] = _mm512_loadu_si512(panel + 64 * j);
    ST_UNROLL
    for (int i = 0; i < mr; i++) {
        __m512i w = _mm512_set1_epi32(*(const word *)(from + i * STEP));
        ST_HOLD(w);
        ST_UNROLL
        for (int j = 0; j < nv; j++)
            sum[i][j] = rows_signed ? _mm512_dpbusd_epi32(sum[i][j], p[j], w) : _mm512_dpbusd_epi32(sum[i][j], w, p[j]);
    }
}

/* One line of each row, side by side: where rows are a power of two apart their lines share a few places of the cache,
 * and would drive each other out before the next four bytes of them are used. */
static ST_INLINE void tile_lines(const struct st_limb_tile *t, const uint8_t *const from[MR_MAX], uint32_t k,
                                 const int mr, uint8_t *to)
{
    if (t->n_k - k >= STEP) {
        ST_UNROLL
        for (int i = 0; i < mr; i++)
            _mm512_store_si512(to + i * STEP, _mm512_loadu_si512(from[i] + k));
    } else {
        __mmask64 have = ((__mmask64)1 << (t->n_k - k)) - 1;
        ST_UNROLL
        for (int i = 0; i < mr; i++)
            _mm512_store_si512(to + i * STEP, _mm512_maskz_loadu_epi8(have, from[i] + k));
    }
    if (t->ahead) {
        ST_UNROLL
        for (int i = 0; i < mr; i++)
            __builtin_prefetch(from[i] + t->ahead + k, 0, 2);
    }
}

static ST_INLINE void tile_rows(const struct st_limb_tile *t, uint32_t row, const bool rows_signed, const int mr,
                                const int nv)
{
    _Alignas(64) uint8_t lines[2][MR_MAX * STEP];
    const uint8_t *from[MR_MAX], *panel = t->panel;
    __m512i sum[MR_MAX][4];
    uint32_t left = t->n_row - row;
    ST_UNROLL
    for (int i = 0; i < mr; i++) {
        /* The missing rows of a short tile are computed from its last one and thrown away. */
        uint32_t r = row + ((uint32_t)i < left ? (uint32_t)i : left - 1);
        from[i] = t->rows + r * t->ld;
        ST_UNROLL
        for (int j = 0; j < nv; j++)
            sum[i][j] = _mm512_loadu_si512(t->sum + (r * (uint32_t)nv + (uint32_t)j) * 16);
    }
    tile_lines(t, from, 0, mr, lines[0]);
    for (uint32_t k = 0; k < t->n_k; k += STEP) {
        const uint8_t *line = lines[k / STEP % 2];
        if (t->n_k - k > STEP)
            tile_lines(t, from, k + STEP, mr, lines[(k / STEP + 1) % 2]);
        uint32_t words = t->n_k - k < STEP ? (t->n_k - k + 3) / 4 : STEP / 4, i = 0;
        for (; i + 4 <= words; i += 4, panel += 4 * 64 * nv)
            ST_UNROLL
        for (int part = 0; part < 4; part++)
            tile_step(line + (i + (uint32_t)part) * 4, panel + part * 64 * nv, rows_signed, mr, nv, sum);
        for (; i < words; i++, panel += 64 * nv)
            tile_step(line + i * 4, panel, rows_signed, mr, nv, sum);
    }
    ST_UNROLL
    for (int i = 0; i < mr; i++)
        if ((uint32_t)i < left) {
            ST_UNROLL
            for (int j = 0; j < nv; j++)
                _mm512_storeu_si512(t->sum + ((row + (uint32_t)i) * (uint32_t)nv + (uint32_t)j) * 16, sum[i][j]);
        }
}

#define TILE(mr, nv)                                                                                                   \
    for (uint32_t r = 0; r < t->n_row; r += (mr))                                                                      \
        if (t->rows_signed)                                                                                            \
            tile_rows(t, r, true, mr, nv);                                                                             \
        else                                                                                                           \
            tile_rows(t, r, false, mr, nv);                                                                            \
    break;

static void tile(const struct st_limb_tile *t)
{
    switch (t->n_lane) {
    case 16:
        TILE(16, 1)
    case 32:
        TILE(12, 2)
    case 48:
        TILE(8, 3)
    default:
        TILE(6, 4)
    }
}

const struct st_limb_kernels st_limb_avx512 = {dot, NULL, pack, tile};
