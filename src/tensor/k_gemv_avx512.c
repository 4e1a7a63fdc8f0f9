#include "tensor/k_avx512.h"

#define LANES 16
#define SOME 4
#define MANY 3
#define MANY_I8 2 /* the compiler needs more registers here */
#include "tensor/k_vec.h"

static ST_INLINE void widen_bf16(const uint8_t *w, vec out[2])
{
    __m512i a = _mm512_loadu_si512(w);
    out[0] = (vec)_mm512_slli_epi32(a, 16);
    out[1] = (vec)_mm512_and_si512(a, _mm512_set1_epi32((int)0xffff0000));
}

static ST_INLINE void widen_f16(const uint8_t *w, vec out[2])
{
    out[0] = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)w));
    out[1] = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(w + 32)));
}

static ST_INLINE ivec widen_i8(const uint8_t *w)
{
    return (ivec)_mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)w));
}

static ST_INLINE vec widen_i8_f32(const uint8_t *w)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)w)));
}

static ST_INLINE ivec dot_i16(ivec sum, ivec w, ivec x)
{
    return (ivec)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)w, (__m512i)x);
}

static ST_INLINE void sum4(vec a, vec b, vec c, vec d, float out[4])
{
    __m512 ab = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
    __m512 cd = _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xee));
    __m512 s = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
    s = _mm512_add_ps(s, _mm512_permute_ps(s, 0x4e));
    s = _mm512_add_ps(s, _mm512_permute_ps(s, 0xb1));
    const __m512i pick = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 8, 4, 0);
    _mm_storeu_ps(out, _mm512_castps512_ps128(_mm512_permutexvar_ps(pick, s)));
}

#include "tensor/k_gemv.h"

/* With 5 to 8 rows of x the multiply-adds of widened weights take longer than reading them. The product of bf16 pairs
 * does twice as many at a time; it wants x in bf16. */
static void prep_round(const float *x, uint32_t n_in, void *out, float *scale)
{
    uint16_t *h = out;
    size_t k = 0;
    *scale = 1;
    for (; k + LANES <= n_in; k += LANES)
        _mm256_storeu_si256((__m256i *)(h + k), (__m256i)_mm512_cvtneps_pbh(load(x + k)));
    if (k < n_in) {
        _mm256_storeu_si256((__m256i *)(h + k), (__m256i)_mm512_cvtneps_pbh(load_some(x + k, n_in - k)));
        k += LANES;
    }
    memset(h + k, 0, (padded(n_in) - k) * sizeof *h);
}

static ST_INLINE void step_round(const uint8_t *w, size_t row_bytes, const uint8_t *x, size_t ldx, const int no,
                                 const int nr, vec sum[4][8])
{
    vec a[4];
    ST_UNROLL
    for (int i = 0; i < no; i++)
        a[i] = load((const float *)(w + (size_t)i * row_bytes));
    ST_UNROLL
    for (int r = 0; r < nr; r++) {
        vec v = load((const float *)(x + (size_t)r * ldx));
        ST_HOLD(v);
        ST_UNROLL
        for (int i = 0; i < no; i++)
            sum[i][r] = _mm512_dpbf16_ps(sum[i][r], (__m512bh)a[i], (__m512bh)v);
    }
}

#define CALL_ROUND(no, nr) group(g, lo, step_round, 2, LINE, no, nr)
static void run_bf16_many(const struct st_gemv *g, uint32_t lo, uint32_t hi)
{
    switch (g->n_row) {
        ROWS(MANY, 5, CALL_ROUND)
        ROWS(MANY, 6, CALL_ROUND)
        ROWS(MANY, 7, CALL_ROUND)
        ROWS(MANY, 8, CALL_ROUND)
    }
}

const struct st_gemv_kernel st_gemv_f32_avx512 = {prep_plain, run_f32};
const struct st_gemv_kernel st_gemv_f16_avx512 = {prep_plain, run_f16};
const struct st_gemv_kernel st_gemv_bf16_avx512 = {prep_bf16, run_bf16};
const struct st_gemv_kernel st_gemv_i8_avx512 = {prep_i16, run_i8};
const struct st_gemv_kernel st_gemv_i8_f32_avx512 = {prep_plain, run_i8_f32};
const struct st_gemv_kernel st_gemv_bf16_many_avx512 = {prep_round, run_bf16_many};
