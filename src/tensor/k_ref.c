/* The reference: plain C, one value at a time. Every other kernel is tested against it, and it serves CPUs without
 * AVX2. */
#include "tensor/kernels.h"

#include <math.h>
#include <string.h>

static size_t padded(uint32_t n)
{
    return ((size_t)n + 63) / 64 * 64;
}

static void prep_f32(const float *x, uint32_t n_in, void *out, float *scale)
{
    memcpy(out, x, n_in * sizeof *x);
    memset((float *)out + n_in, 0, (padded(n_in) - n_in) * sizeof *x);
    *scale = 1;
}

/* x = scale * q with 16-bit q. */
static void prep_i16(const float *x, uint32_t n_in, void *out, float *scale)
{
    int16_t *q = out;
    float max = 0;
    for (uint32_t i = 0; i < n_in; i++)
        max = fabsf(x[i]) > max ? fabsf(x[i]) : max;
    float inv = max > 0 ? 32767 / max : 0;
    inv = inv < INFINITY ? inv : 0;
    *scale = inv > 0 ? max / 32767 : 0;
    for (uint32_t i = 0; i < n_in; i++) {
        float v = x[i] * inv + 0x1.8p23f - 0x1.8p23f;
        v = v > 32767 ? 32767 : v;
        q[i] = (int16_t)(v > -32767 ? v : -32767);
    }
    memset(q + n_in, 0, (padded(n_in) - n_in) * sizeof *q);
}

static void gemv(const struct st_gemv *g, uint32_t lo, uint32_t hi)
{
    const struct st_mat *m = g->w;
    size_t row_bytes = (size_t)m->n_in * st_dtype_size(m->dtype);
    float w[256];
    for (uint32_t o = lo; o < hi; o++) {
        const uint8_t *row = (const uint8_t *)m->data + o * row_bytes;
        float sum[ST_GEMV_ROWS] = {0};
        for (uint32_t k0 = 0; k0 < m->n_in; k0 += 256) {
            uint32_t n = m->n_in - k0 < 256 ? m->n_in - k0 : 256;
            st_convert(m->dtype, row + k0 * st_dtype_size(m->dtype), ST_DTYPE_F32, w, n);
            for (uint32_t r = 0; r < g->n_row; r++) {
                const float *x = (const float *)((const uint8_t *)g->x + r * g->ldx) + k0;
                for (uint32_t k = 0; k < n; k++)
                    sum[r] += w[k] * x[k];
            }
        }
        for (uint32_t r = 0; r < g->n_row; r++)
            g->y[r * g->ldy + o] = sum[r] + (g->bias ? g->bias[o] : 0);
    }
    st_forget(w, sizeof w);
}

static void gemv_i8(const struct st_gemv *g, uint32_t lo, uint32_t hi)
{
    const struct st_mat *m = g->w;
    for (uint32_t o = lo; o < hi; o++) {
        const int8_t *w = (const int8_t *)m->data + (size_t)o * m->n_in;
        for (uint32_t r = 0; r < g->n_row; r++) {
            const int16_t *x = (const int16_t *)((const uint8_t *)g->x + r * g->ldx);
            int64_t sum = 0; /* 2^32 values of at most 2^7 * 2^15 fit */
            for (uint32_t k = 0; k < m->n_in; k++)
                sum += (int32_t)w[k] * x[k];
            g->y[r * g->ldy + o] = (float)sum * (m->scale[o] * g->x_scale[r]) + (g->bias ? g->bias[o] : 0);
        }
    }
}

static void gemv_i8_f32(const struct st_gemv *g, uint32_t lo, uint32_t hi)
{
    const struct st_mat *m = g->w;
    for (uint32_t o = lo; o < hi; o++) {
        const int8_t *w = (const int8_t *)m->data + (size_t)o * m->n_in;
        for (uint32_t r = 0; r < g->n_row; r++) {
            const float *x = (const float *)((const uint8_t *)g->x + r * g->ldx);
            double sum = 0;
            for (uint32_t k = 0; k < m->n_in; k++)
                sum += (double)w[k] * x[k];
            g->y[r * g->ldy + o] = (float)(sum * m->scale[o]) + (g->bias ? g->bias[o] : 0);
        }
    }
}

static void rmsnorm(const float *x, const float *w, float eps, uint32_t d, float *y)
{
    float sum = 0;
    for (uint32_t i = 0; i < d; i++)
        sum += x[i] * x[i];
    float inv = 1 / sqrtf(sum / (float)d + eps);
    for (uint32_t i = 0; i < d; i++)
        y[i] = x[i] * inv * w[i];
}

static void rope(float *x, const float *cosine, const float *sine, uint32_t n_pair, bool interleaved)
{
    uint32_t step = interleaved ? 2 : 1, other = interleaved ? 1 : n_pair;
    for (uint32_t i = 0; i < n_pair; i++) {
        float *a = &x[i * step], *b = &x[i * step + other], a0 = *a, b0 = *b;
        *a = a0 * cosine[i] - b0 * sine[i];
        *b = b0 * cosine[i] + a0 * sine[i];
    }
}

static void silu_mul(float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i++)
        gate[i] = gate[i] / (1 + expf(-gate[i])) * up[i];
}

static void add(float *x, const float *y, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] += y[i];
}

static void scores(const float *q, uint32_t n_q, const float *k, uint32_t n_k, uint32_t head_dim, float *s, size_t lds)
{
    for (uint32_t i = 0; i < n_q; i++)
        for (uint32_t j = 0; j < n_k; j++) {
            float sum = 0;
            for (uint32_t d = 0; d < head_dim; d++)
                sum += q[i * head_dim + d] * k[j * head_dim + d];
            s[i * lds + j] = sum;
        }
}

static void weigh(const float *p, size_t ldp, uint32_t n_q, const float *v, uint32_t n_k, uint32_t head_dim, float *o)
{
    for (uint32_t i = 0; i < n_q; i++)
        for (uint32_t j = 0; j < n_k; j++)
            for (uint32_t d = 0; d < head_dim; d++)
                o[i * head_dim + d] += p[i * ldp + j] * v[j * head_dim + d];
}

static float exp_sum(float *s, uint32_t n, float max)
{
    float sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += s[i] = expf(s[i] - max);
    return sum;
}

static const struct st_gemv_kernel gemv_float = {prep_f32, gemv}, gemv_int = {prep_i16, gemv_i8},
                                   gemv_exact = {prep_f32, gemv_i8_f32};

const struct st_kernels st_kernels_ref = {
    .isa = "ref",
    .limb = &st_limb_ref,
    .gemv = {[ST_DTYPE_F32] = &gemv_float,
             [ST_DTYPE_F16] = &gemv_float,
             [ST_DTYPE_BF16] = &gemv_float,
             [ST_DTYPE_I8] = &gemv_int},
    .gemv_i8_f32 = &gemv_exact,
    .rmsnorm = rmsnorm,
    .rope = rope,
    .silu_mul = silu_mul,
    .add = add,
    .scores = scores,
    .weigh = weigh,
    .exp_sum = exp_sum,
};
