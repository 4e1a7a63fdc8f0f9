/* Values of the result in the form in which they are stored. */
#ifndef ST_PROTECT_COVARIANT_OUT_CAST_H
#define ST_PROTECT_COVARIANT_OUT_CAST_H

#include "protect/covariant/out.h"

/* Largest magnitude that the tensor can hold. */
double st_cov_out_max(const struct st_cov_out_tensor *t);
/* n values into out, which has st_cov_out_bytes(t, n); for q8_0 n is a multiple of 32. Each of them is finite and at
 * most st_cov_out_max(). Q8_0 (ggml): per block of 32, scale = max|v| / 127 as f16, then round(v / scale) as int8. */
void st_cov_out_cast(const struct st_cov_out_tensor *t, const float *v, size_t n, void *out);
/* The other way: n stored values from the at-th on. For q8_0 both are multiples of 32. */
void st_cov_out_uncast(enum st_dtype dtype, bool q8_0, const void *stored, uint64_t at, size_t n, float *v);

/* q8_0: the scale of the block of the at-th value. */
double st_cov_out_step(const void *stored, uint64_t at);

#endif
