/* GEMM for AVX2, as k_gemm_avx512.c: tiles of 6 rows of W times panels of 16 rows of x in f32, 12 registers of sums. */
#include "tensor/k_avx2.h"

#define LANES 8
#include "tensor/k_vec.h"

#define MR 6
#define NR 16

static void pack(const float *x, size_t ldx, uint32_t n_row, uint32_t n_k, void *panel)
{
    float *to = panel;
    uint32_t padded = (n_k + 1) & ~1u;
    for (uint32_t r = 0; r < NR; r += 8)
        for (uint32_t k = 0; k < padded; k += 8) {
            vec v[8];
            size_t n = k >= n_k ? 0 : n_k - k < 8 ? n_k - k : 8;
            ST_UNROLL
            for (uint32_t i = 0; i < 8; i++)
                v[i] = r + i >= n_row ? (vec){0}
                       : n == 8       ? load(x + (r + i) * ldx + k)
                                      : load_some(x + (r + i) * ldx + k, n);
            st_transpose8(v);
            for (uint32_t i = 0; i < 8 && k + i < padded; i++)
                store(to + (size_t)(k + i) * NR + r, v[i]);
        }
}

/* Sums of 8 rows of x, row by row into y. */
static void write_rows(const struct st_gemm_tile *t, uint32_t row, vec v[8])
{
    st_transpose8(v);
    for (uint32_t i = 0; i < 8 && row + i < t->n_row; i++) {
        float s[8], *y = t->y + (row + i) * t->ldy;
        store(s, v[i]);
        for (uint32_t o = 0; o < t->n_w; o++) {
            float before = !t->first ? y[o] : t->bias ? t->bias[o] : 0;
            y[o] = s[o] * (t->w_scale ? t->w_scale[o] : 1) + before;
        }
    }
}

static void tile(const struct st_gemm_tile *t)
{
    const float *from[MR], *x = t->panel;
    vec sum[MR][2];
    ST_UNROLL
    for (uint32_t i = 0; i < MR; i++) {
        /* The missing rows of a short tile are computed from its last one and thrown away. */
        from[i] = (const float *)t->w + (i < t->n_w ? i : t->n_w - 1) * t->ldw;
        sum[i][0] = sum[i][1] = (vec){0};
    }
    for (uint32_t k = 0; k < t->n_k; k++, x += NR) {
        vec a = load(x), b = load(x + 8);
        ST_UNROLL
        for (int i = 0; i < MR; i++) {
            vec w = _mm256_broadcast_ss(from[i] + k);
            sum[i][0] += w * a;
            sum[i][1] += w * b;
        }
    }
    ST_UNROLL
    for (int h = 0; h < 2; h++) {
        vec v[8];
        ST_UNROLL
        for (int i = 0; i < 8; i++)
            v[i] = i < MR ? sum[i][h] : (vec){0};
        write_rows(t, 8 * (uint32_t)h, v);
    }
}

static void widen_i8(const int8_t *w, uint32_t n, void *to)
{
    float *f = to;
    for (uint32_t k = 0; k < n; k++)
        f[k] = w[k];
}

const struct st_gemm_kernel st_gemm_f32_avx2 = {ST_DTYPE_F32, MR, NR, pack, tile, widen_i8};
