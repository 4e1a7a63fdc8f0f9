/* Negacyclic number-theoretic transform over Z_q of degree 256: products of polynomials modulo X^256 + 1 become
 * products of values. Sixteen polynomials go side by side, one per lane. Source: the standard algorithm with merged
 * powers of the root (Longa and Naehrig, 2016). */
#ifndef ST_FIELD_NTT_H
#define ST_FIELD_NTT_H

#include <stdint.h>

#define ST_NTT_N 256
#define ST_NTT_LANES 16

struct st_ntt {
    uint32_t forward[ST_NTT_N], inverse[ST_NTT_N];
};

/* x[i][l] is coefficient i of polynomial l; values afterwards stand in bit-reversed order. 64-byte aligned. */
void st_ntt_init(struct st_ntt *t);
void st_ntt_forward(const struct st_ntt *t, uint32_t (*x)[ST_NTT_LANES]);
/* Does not divide by 256: that is part of st_ntt_factor(). */
void st_ntt_inverse(const struct st_ntt *t, uint32_t (*x)[ST_NTT_LANES]);

/* One public polynomial b [256], coefficients to the form that st_ntt_multiply takes; in place. */
void st_ntt_factor(const struct st_ntt *t, uint32_t b[ST_NTT_N]);
/* sum += x b, all transformed; st_ntt_inverse(sum) is then the sum of products. */
void st_ntt_multiply(uint32_t (*sum)[ST_NTT_LANES], uint32_t (*x)[ST_NTT_LANES], const uint32_t b[ST_NTT_N]);

#endif
