/* The operations other than linear layers, written once over vectors of LANES floats. The including file (one per
 * instruction set, compiled for it) defines LANES and
 *     static void transpose_keys(const float *k, uint32_t head_dim, float *t);
 * which turns LANES rows k [., head_dim] into t [head_dim, LANES], head_dim a multiple of 16; and ends with OPS in its
 * table. */
#ifndef ST_TENSOR_K_OPS_H
#define ST_TENSOR_K_OPS_H

#include "tensor/compute.h"
#include "tensor/k_vec.h"
#include "tensor/kernels.h"

#include <math.h>

static ST_INLINE float total(vec v)
{
    float t[LANES], sum = 0;
    store(t, v);
    for (int i = 0; i < LANES; i++)
        sum += t[i];
    return sum;
}

/* e^x by 2^n e^r, |r| <= ln(2)/2, with the Taylor series of e^r to r^7: its remainder r^8/8! is below 6e-9. Below -87
 * the result is 0, above 88 it is e^88 (large enough for every use here); NaN stays NaN. */
static ST_INLINE vec exp_vec(vec x)
{
    const vec zero = {0};
    ivec vanish = x < zero - 87;
    vec bounded = (vec)(((ivec)x & ~(x > zero + 88)) | ((ivec)(zero + 88) & (x > zero + 88)));
    /* Adding 1.5 * 2^23 rounds to an integer, which is then found in the low bits. */
    vec shifted = bounded * 0x1.715476p0f + 0x1.8p23f, n = shifted - 0x1.8p23f;
    vec r = bounded - n * 0x1.62e4p-1f; /* ln 2 in two parts; the first has 16 bits, so that n * it is exact */
    r = r - n * 0x1.7f7d1cp-20f;
    vec p = r * (1.0f / 5040) + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1;
    p = p * r + 1;
    ivec power = ((ivec)shifted - 0x4b400000 + 127) << 23;
    return (vec)((ivec)(p * (vec)power) & ~vanish);
}

static void ops_rmsnorm(const float *x, const float *w, float eps, uint32_t d, float *y)
{
    vec a = {0}, b = {0};
    uint32_t i = 0;
    for (; i + 2 * LANES <= d; i += 2 * LANES) {
        vec u = load(x + i), v = load(x + i + LANES);
        a += u * u;
        b += v * v;
    }
    for (; i < d; i += LANES) {
        vec u = d - i >= LANES ? load(x + i) : load_some(x + i, d - i);
        a += u * u;
    }
    float inv = 1 / sqrtf(total(a + b) / (float)d + eps);
    for (i = 0; i + LANES <= d; i += LANES)
        store(y + i, load(x + i) * inv * load(w + i));
    for (; i < d; i++)
        y[i] = x[i] * inv * w[i];
}

static void ops_rope(float *x, const float *cosine, const float *sine, uint32_t n_pair, bool interleaved)
{
    if (interleaved) {
        for (uint32_t i = 0; i < n_pair; i++) {
            float a = x[2 * i], b = x[2 * i + 1];
            x[2 * i] = a * cosine[i] - b * sine[i];
            x[2 * i + 1] = b * cosine[i] + a * sine[i];
        }
        return;
    }
    uint32_t i = 0;
    for (; i + LANES <= n_pair; i += LANES) {
        vec a = load(x + i), b = load(x + n_pair + i), c = load(cosine + i), s = load(sine + i);
        store(x + i, a * c - b * s);
        store(x + n_pair + i, b * c + a * s);
    }
    for (; i < n_pair; i++) {
        float a = x[i], b = x[n_pair + i];
        x[i] = a * cosine[i] - b * sine[i];
        x[n_pair + i] = b * cosine[i] + a * sine[i];
    }
}

static ST_INLINE vec silu(vec g)
{
    return g / (1 + exp_vec(-g));
}

static void ops_silu_mul(float *gate, const float *up, size_t n)
{
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        store(gate + i, silu(load(gate + i)) * load(up + i));
    if (i < n)
        store_some(gate + i, silu(load_some(gate + i, n - i)) * load_some(up + i, n - i), n - i);
}

static void ops_add(float *x, const float *y, size_t n)
{
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        store(x + i, load(x + i) + load(y + i));
    for (; i < n; i++)
        x[i] += y[i];
}

static float ops_exp_sum(float *s, uint32_t n, float max)
{
    vec sum = {0};
    uint32_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        vec e = exp_vec(load(s + i) - max);
        store(s + i, e);
        sum += e;
    }
    if (i < n) {
        vec e = exp_vec(load_some(s + i, n - i) - max);
        store_some(s + i, e, n - i);
        sum += load_some(s + i, n - i);
    }
    return total(sum);
}

/* LANES keys (transposed) times n_q queries. */
static ST_INLINE void score_block(const float *q, const float *t, uint32_t head_dim, float *s, size_t lds,
                                  const int n_q)
{
    vec sum[8];
    ST_UNROLL
    for (int i = 0; i < n_q; i++)
        sum[i] = (vec){0};
    for (uint32_t d = 0; d < head_dim; d++) {
        vec k = load(t + (size_t)d * LANES);
        ST_UNROLL
        for (int i = 0; i < n_q; i++)
            sum[i] += q[(uint32_t)i * head_dim + d] * k;
    }
    ST_UNROLL
    for (int i = 0; i < n_q; i++)
        store(s + (size_t)i * lds, sum[i]);
}

static void ops_scores(const float *q, uint32_t n_q, const float *k, uint32_t n_k, uint32_t head_dim, float *s,
                       size_t lds)
{
    _Alignas(64) float t[ST_ATTN_MAX_HEAD_DIM * LANES];
    for (uint32_t j = 0; j < n_k; j += LANES) {
        uint32_t i = 0;
        transpose_keys(k + (size_t)j * head_dim, head_dim, t);
        for (; i + 8 <= n_q; i += 8)
            score_block(q + i * head_dim, t, head_dim, s + i * lds + j, lds, 8);
        for (; i + 3 <= n_q; i += 3)
            score_block(q + i * head_dim, t, head_dim, s + i * lds + j, lds, 3);
        for (; i < n_q; i++)
            score_block(q + i * head_dim, t, head_dim, s + i * lds + j, lds, 1);
    }
}

/* n_q outputs, n_v vectors of each. */
static ST_INLINE void weigh_block(const float *p, size_t ldp, const float *v, uint32_t n_k, uint32_t head_dim, float *o,
                                  const int n_q, const int n_v)
{
    vec sum[4][4];
    ST_UNROLL
    for (int i = 0; i < n_q; i++) {
        ST_UNROLL
        for (int h = 0; h < n_v; h++)
            sum[i][h] = load(o + (uint32_t)i * head_dim + (uint32_t)h * LANES);
    }
    for (uint32_t j = 0; j < n_k; j++) {
        vec a[4];
        ST_UNROLL
        for (int h = 0; h < n_v; h++)
            a[h] = load(v + (size_t)j * head_dim + (uint32_t)h * LANES);
        ST_UNROLL
        for (int i = 0; i < n_q; i++) {
            ST_UNROLL
            for (int h = 0; h < n_v; h++)
                sum[i][h] += p[(size_t)i * ldp + j] * a[h];
        }
    }
    ST_UNROLL
    for (int i = 0; i < n_q; i++) {
        ST_UNROLL
        for (int h = 0; h < n_v; h++)
            store(o + (uint32_t)i * head_dim + (uint32_t)h * LANES, sum[i][h]);
    }
}

static ST_INLINE void weigh_queries(const float *p, size_t ldp, const float *v, uint32_t n_k, uint32_t head_dim,
                                    float *o, const int n_q)
{
    uint32_t d = 0;
    for (; d + WEIGH_VECS * LANES <= head_dim; d += WEIGH_VECS * LANES)
        weigh_block(p, ldp, v + d, n_k, head_dim, o + d, n_q, WEIGH_VECS);
    for (; d < head_dim; d += LANES)
        weigh_block(p, ldp, v + d, n_k, head_dim, o + d, n_q, 1);
}

static void ops_weigh(const float *p, size_t ldp, uint32_t n_q, const float *v, uint32_t n_k, uint32_t head_dim,
                      float *o)
{
    uint32_t i = 0;
    for (; i + 4 <= n_q; i += 4)
        weigh_queries(p + i * ldp, ldp, v, n_k, head_dim, o + i * head_dim, 4);
    for (; i < n_q; i++)
        weigh_queries(p + i * ldp, ldp, v, n_k, head_dim, o + i * head_dim, 1);
}

/* clang-format off */
#define OPS                                                                                                            \
    .rmsnorm = ops_rmsnorm, .rope = ops_rope, .silu_mul = ops_silu_mul, .add = ops_add, .scores = ops_scores,          \
    .weigh = ops_weigh, .exp_sum = ops_exp_sum
/* clang-format on */

#endif
