/* The field's loops over long vectors, once per instruction set: k_field.h is compiled for each. All of
 * them take the same time for all values. */
#ifndef ST_FIELD_KERNELS_H
#define ST_FIELD_KERNELS_H

#include "field/ntt.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct st_field_kernels {
    /* out = sums of x[i] * a[i] and x[i] * b[i] mod q; x may hold any words. True when one of them is
     * not below q. */
    bool (*dots)(const uint32_t *x, const uint32_t *a, const uint32_t *b, size_t n, uint32_t out[2]);
    /* The largest of x, 0 of none. */
    uint32_t (*most)(const uint32_t *x, size_t n);
    /* sum[i] += w[i] * c, |c| < 2^31; up to 2^24 calls on one sum. */
    void (*add_scaled)(int64_t *sum, const int8_t *w, int32_t c, size_t n);
    /* Sum of x[i]^2; not finite when an x is not. */
    double (*square)(const float *x, size_t n);
    /* x [n] to byte planes: byte l of plane l is bits 8 (l + 4 - n_limb).. of x + add, n bytes a plane. x + add < 2^32.
     */
    void (*split)(const uint32_t *x, size_t n, uint32_t add, uint32_t n_limb, uint8_t *p);
    /* out[i] = sum over l < n_limb of sum[i * step + l * limb] * 2^(8 (l + 4 - n_limb)) mod q. */
    void (*join)(const int32_t *sum, size_t n, size_t step, size_t limb, uint32_t n_limb, uint32_t *out);
    /* u = round(alpha x) + pad mod q. |alpha x| <= q / 2. */
    void (*mask)(const float *x, float alpha, const uint32_t *pad, uint32_t *u, size_t n);
    /* y = centre(v - h) * scale * inv_alpha. */
    void (*unmask)(const uint32_t *v, const uint32_t *h, const float *scale, float inv_alpha, float *y, size_t n);
    /* Transforms in place; tables in Montgomery form, in the order of use (ntt.c). */
    void (*ntt)(uint32_t (*x)[ST_NTT_LANES], const uint32_t table[ST_NTT_N]);
    void (*ntt_inverse)(uint32_t (*x)[ST_NTT_LANES], const uint32_t table[ST_NTT_N]);
    /* sum += x * b, b in Montgomery form, the same for all lanes. */
    void (*ntt_multiply)(uint32_t (*sum)[ST_NTT_LANES], uint32_t (*x)[ST_NTT_LANES], const uint32_t b[ST_NTT_N]);
    /* For each 32-bit r: the number of thresholds that its upper 31 bits reach, negated when its lowest bit is set. */
    void (*sample)(const uint32_t *r, size_t n, const uint32_t *threshold, size_t n_threshold, int8_t *out);
};

extern const struct st_field_kernels st_field_ref;
#if defined(__x86_64__)
extern const struct st_field_kernels st_field_avx2, st_field_avx512;
#endif
/* The best that this CPU has. */
const struct st_field_kernels *st_field_kernels(void);

#endif
