/* The field's loops over long vectors that both sides need, once per instruction set: k_field.h is compiled for each.
 * All of them take the same time for all values. What the trusted side alone does is in mask_kernels.h. */
#ifndef ST_FIELD_KERNELS_H
#define ST_FIELD_KERNELS_H

#include "field/ntt.h"

#include <stddef.h>
#include <stdint.h>

struct st_field_kernels {
    /* The largest of x, 0 of none. */
    uint32_t (*most)(const uint32_t *x, size_t n);
    /* x [n] to byte planes: byte l of plane l is bits 8 (l + 4 - n_limb).. of x + add, n bytes a plane. x + add < 2^32.
     */
    void (*split)(const uint32_t *x, size_t n, uint32_t add, uint32_t n_limb, uint8_t *p);
    /* n values of planes (as split makes them, ld bytes apart) to two signed digits: low[i] + 2^16 high[i] = x[i] mod
     * q. */
    void (*digits)(const uint8_t *p, size_t ld, uint32_t n_limb, size_t n, int16_t *low, int16_t *high);
    /* out[i] = sum over l < n_limb of sum[i * step + l * limb] * 2^(8 (l + 4 - n_limb)) mod q. */
    void (*join)(const int32_t *sum, size_t n, size_t step, size_t limb, uint32_t n_limb, uint32_t *out);
    /* Transforms in place; tables in Montgomery form, in the order of use (ntt.c). */
    void (*ntt)(uint32_t (*x)[ST_NTT_LANES], const uint32_t table[ST_NTT_N]);
    void (*ntt_inverse)(uint32_t (*x)[ST_NTT_LANES], const uint32_t table[ST_NTT_N]);
    /* sum += x * b, b in Montgomery form, the same for all lanes. */
    void (*ntt_multiply)(uint32_t (*sum)[ST_NTT_LANES], uint32_t (*x)[ST_NTT_LANES], const uint32_t b[ST_NTT_N]);
};

extern const struct st_field_kernels st_field_ref;
#if defined(__x86_64__)
extern const struct st_field_kernels st_field_avx2, st_field_avx512;
#endif
/* The best that this CPU has. */
const struct st_field_kernels *st_field_kernels(void);

#endif
