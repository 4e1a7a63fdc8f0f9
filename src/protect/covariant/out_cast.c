#include "protect/covariant/out_cast.h"

#include <float.h>
#include <math.h>

#define BLOCK 32

double st_cov_out_max(const struct st_cov_out_tensor *t)
{
    if (t->q8_0)
        return 65504.0 * 127; /* its scale is an f16 */
    return t->dtype == ST_DTYPE_F16 ? 65504 : t->dtype == ST_DTYPE_BF16 ? 0x1.fep127 : (double)FLT_MAX;
}

/* The values are rounded against the scale before it becomes an f16, as ggml does. */
static void quantise_block(const float *v, uint8_t *out)
{
    float max = 0;
    for (int i = 0; i < BLOCK; i++)
        max = fmaxf(max, fabsf(v[i]));
    float scale = max / 127, inverse = scale > 0 ? 1 / scale : 0;
    if (!isfinite(inverse)) /* all values far below what an f16 scale can tell from 0 */
        inverse = 0;
    st_convert(ST_DTYPE_F32, &scale, ST_DTYPE_F16, out, 1);
    for (int i = 0; i < BLOCK; i++)
        out[2 + i] = (uint8_t)(int8_t)lroundf(v[i] * inverse);
}

void st_cov_out_cast(const struct st_cov_out_tensor *t, const float *v, size_t n, void *out)
{
    uint8_t *to = out;
    if (!t->q8_0) {
        st_convert(ST_DTYPE_F32, v, t->dtype, out, n);
        return;
    }
    for (size_t i = 0; i < n; i += BLOCK, to += 2 + BLOCK)
        quantise_block(v + i, to);
}

void st_cov_out_uncast(enum st_dtype dtype, bool q8_0, const void *stored, uint64_t at, size_t n, float *v)
{
    const uint8_t *from = stored;
    if (!q8_0) {
        st_convert(dtype, from + at * st_dtype_size(dtype), ST_DTYPE_F32, v, n);
        return;
    }
    from += at / BLOCK * (2 + BLOCK);
    for (size_t i = 0; i < n; i += BLOCK, from += 2 + BLOCK) {
        float scale;
        st_convert(ST_DTYPE_F16, from, ST_DTYPE_F32, &scale, 1);
        for (int k = 0; k < BLOCK; k++)
            v[i + (size_t)k] = scale * (float)(int8_t)from[2 + k];
    }
}

double st_cov_out_step(const void *stored, uint64_t at)
{
    float scale;
    st_convert(ST_DTYPE_F16, (const uint8_t *)stored + at / BLOCK * (2 + BLOCK), ST_DTYPE_F32, &scale, 1);
    return (double)scale;
}
