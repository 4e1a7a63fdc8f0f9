#include "tensor/tensor.h"
#include "tensor/kernels.h"

#include <string.h>

static const struct {
    const char *name;
    size_t size;
} dtypes[ST_DTYPE_COUNT] = {[ST_DTYPE_F32] = {"f32", 4},
                            [ST_DTYPE_F16] = {"f16", 2},
                            [ST_DTYPE_BF16] = {"bf16", 2},
                            [ST_DTYPE_I8] = {"int8", 1}};

size_t st_dtype_size(enum st_dtype t)
{
    return dtypes[t].size;
}

const char *st_dtype_name(enum st_dtype t)
{
    return dtypes[t].name;
}

static float bits_float(uint32_t u)
{
    float f;
    memcpy(&f, &u, 4);
    return f;
}

static uint32_t float_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

static float from_f16(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 0x3ff;
    if (exponent == 0) {
        float f = (float)fraction * 0x1p-24f;
        return sign ? -f : f;
    }
    if (exponent == 31)
        return bits_float(sign | 0x7f800000 | fraction << 13 | (fraction ? 0x400000 : 0));
    return bits_float(sign | (exponent + 112) << 23 | fraction << 13);
}

static uint16_t to_f16(float f)
{
    uint32_t u = float_bits(f), sign = u >> 16 & 0x8000, a = u & 0x7fffffff;
    if (a > 0x7f800000)
        return (uint16_t)(sign | 0x7e00 | (a >> 13 & 0x3ff));
    if (a >= 0x477ff000) /* rounds to 65536 or more */
        return (uint16_t)(sign | 0x7c00);
    if (a < 0x38800000) { /* subnormal half: the float adder rounds at 2^-24 */
        uint32_t r = float_bits(bits_float(a) + 0.5f) - 0x3f000000;
        return (uint16_t)(sign | r);
    }
    a += 0xfff + (a >> 13 & 1);
    return (uint16_t)(sign | (a - 0x38000000) >> 13);
}

static float load(enum st_dtype t, const uint8_t *p)
{
    uint16_t h;
    float f;
    if (t == ST_DTYPE_F32) {
        memcpy(&f, p, 4);
        return f;
    }
    memcpy(&h, p, 2);
    return t == ST_DTYPE_BF16 ? st_from_bf16(h) : from_f16(h);
}

static void store(enum st_dtype t, uint8_t *p, float f)
{
    if (t == ST_DTYPE_F32) {
        memcpy(p, &f, 4);
        return;
    }
    uint16_t h = t == ST_DTYPE_BF16 ? st_to_bf16(f) : to_f16(f);
    memcpy(p, &h, 2);
}

void st_convert(enum st_dtype from, const void *src, enum st_dtype to, void *dst, size_t n)
{
    const uint8_t *s = src;
    uint8_t *d = dst;
    size_t s_size = st_dtype_size(from), d_size = st_dtype_size(to), i = 0;
    if (from == to) {
        memcpy(dst, src, n * s_size);
        return;
    }
#if defined(__x86_64__)
    if (st_cpu_has_avx2())
        i = st_convert_avx2(from, src, to, dst, n);
#endif
    for (; i < n; i++)
        store(to, d + i * d_size, load(from, s + i * s_size));
}

float st_quantize_row(const float *w, size_t n, int8_t *out)
{
    float max = 0;
    size_t i = 0;
#if defined(__x86_64__)
    bool wide = st_cpu_has_avx2();
    if (wide)
        i = st_max_abs_avx2(w, n, &max);
#endif
    for (; i < n; i++) {
        float a = w[i] < 0 ? -w[i] : w[i];
        max = a > max ? a : max;
    }
    float scale = max / 127;
    if (!(scale > 0)) { /* also when the largest value is so small that its scale is 0 */
        memset(out, 0, n);
        return 0;
    }
    i = 0;
#if defined(__x86_64__)
    if (wide)
        i = st_quantize_avx2(w, n, scale, out);
#endif
    for (; i < n; i++) {
        /* Adding 1.5 * 2^23 leaves no bits below 1: the adder rounds to nearest even. */
        float q = w[i] / scale + 0x1.8p23f - 0x1.8p23f;
        q = q > 127 ? 127 : q;
        q = q > -127 ? q : -127; /* also NaN */
        out[i] = (int8_t)q;
    }
    return scale;
}
