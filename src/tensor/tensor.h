/* Matrices as the kernels see them. Data is borrowed: a view into a memory-mapped checkpoint or into memory of the
 * model. */
#ifndef ST_TENSOR_TENSOR_H
#define ST_TENSOR_TENSOR_H

#include <stddef.h>
#include <stdint.h>

enum st_dtype { ST_DTYPE_F32, ST_DTYPE_F16, ST_DTYPE_BF16, ST_DTYPE_I8, ST_DTYPE_COUNT };

/* Weight of a linear layer, row-major [n_out, n_in] as in PyTorch: y = x W^T. For I8, w = data * scale[row],
 * scale [n_out] = max|w| / 127 of that output column, data rounded to nearest even. */
struct st_mat {
    const void *data;
    const float *scale; /* I8 only, else NULL */
    enum st_dtype dtype;
    uint32_t n_out, n_in;
};

size_t st_dtype_size(enum st_dtype t);
const char *st_dtype_name(enum st_dtype t); /* "f32" "f16" "bf16" "int8" */

static inline size_t st_mat_bytes(const struct st_mat *m)
{
    return (size_t)m->n_out * m->n_in * st_dtype_size(m->dtype);
}

/* Elementwise conversion of n values between F32, F16 and BF16, round to nearest even. */
void st_convert(enum st_dtype from, const void *src, enum st_dtype to, void *dst, size_t n);
/* Canonical int8 quantisation of one row of n f32 values; returns its scale (0 for a row of zeros). */
float st_quantize_row(const float *w, size_t n, int8_t *out);

#endif
