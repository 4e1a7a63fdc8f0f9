/* The loops over long vectors of the trusted side alone: masks, secrets, checks. Apart from kernels.h, so that a worker
 * does not hold them. Once per instruction set: k_mask.h is compiled for each. All of them take the same time for all
 * values. */
#ifndef ST_FIELD_MASK_KERNELS_H
#define ST_FIELD_MASK_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct st_mask_kernels {
    /* out = sums of x[i] * a[i] and x[i] * b[i] mod q; x may hold any words. True when one of them is
     * not below q. */
    bool (*dots)(const uint32_t *x, const uint32_t *a, const uint32_t *b, size_t n, uint32_t out[2]);
    /* sum[i] += w[i] * c, |c| < 2^31; up to 2^24 calls on one sum. */
    void (*add_scaled)(int64_t *sum, const int8_t *w, int32_t c, size_t n);
    /* Sum of x[i]^2; not finite when an x is not. */
    double (*square)(const float *x, size_t n);
    /* u = round(alpha x) + pad mod q. |alpha x| <= q / 2. */
    void (*mask)(const float *x, float alpha, const uint32_t *pad, uint32_t *u, size_t n);
    /* y = centre(v - h) * scale * inv_alpha. */
    void (*unmask)(const uint32_t *v, const uint32_t *h, const float *scale, float inv_alpha, float *y, size_t n);
    /* For each 32-bit r: the number of thresholds that its upper 31 bits reach, negated when its lowest bit is set. */
    void (*sample)(const uint32_t *r, size_t n, const uint32_t *threshold, size_t n_threshold, int8_t *out);
};

extern const struct st_mask_kernels st_mask_ref;
#if defined(__x86_64__)
extern const struct st_mask_kernels st_mask_avx2, st_mask_avx512;
#endif
/* The best that this CPU has. */
const struct st_mask_kernels *st_mask_kernels(void);

#endif
