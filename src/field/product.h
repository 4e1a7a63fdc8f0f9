/* Exact matrix products over Z_q of small signed integers and residues:
 *
 *     out(i, v) = sum over k of s_i[k] * u_v[k]  mod q
 *
 * with s_i vectors of int8 (weights, or the coefficients of a pad) and u_v vectors of residues (masked rows, or hints),
 * held as planes of bytes (limbs). One product serves the worker (s = weights, u = masked rows) and the pads (s =
 * coefficients, u = basis or hints).
 *
 * Any length: products are cut where a 32-bit sum of a limb could overflow (ST_LIMB_MAX_K), and the parts added modulo
 * q. Time depends on shapes only.
 *
 * The larger side is read once, in the order of memory; pieces of the smaller one are copied to the stack of every
 * thread that takes part, with the sums (ST_PRODUCT_STACK bytes at most), and wiped there before the call returns. */
#ifndef ST_FIELD_PRODUCT_H
#define ST_FIELD_PRODUCT_H

#include "base/pool.h"
#include "tensor/limb.h"

#define ST_PRODUCT_STACK (256u << 10)

/* Vectors of residues as byte planes. Element k of vector v is
 *     sum over l < n_limb of p[(v * n_limb + l) * len + k] * 2^(8 * (l + 4 - n_limb)):
 * 4 limbs hold a residue exactly; 3 limbs its upper 24 bits, the lowest byte left out. */
struct st_limbs {
    const uint8_t *p;
    uint32_t n_vec, n_limb, len;
};

/* x [n_vec, len] residues to 4 limbs at p, n_vec * 4 * len bytes. */
void st_limbs_split(const uint32_t *x, uint32_t n_vec, uint32_t len, uint8_t *p);
/* The same to 3 limbs: each value rounded to the nearest multiple of 2^8, an error of at most 2^7 in magnitude. */
void st_limbs_split24(const uint32_t *x, uint32_t n_vec, uint32_t len, uint8_t *p);

struct st_field_product {
    const int8_t *s; /* [n_s][len], lds bytes apart */
    size_t lds;
    uint32_t n_s;
    struct st_limbs u;
    uint32_t *out; /* out(i, v) at out[i * out_s + v * out_u] */
    size_t out_s, out_u;
};
/* pool NULL: on this thread. */
void st_field_product(struct st_pool *pool, const struct st_limb_kernels *limb, const struct st_field_product *p);
/* Several in one step of the pool: less waiting when they are small. */
void st_field_products(struct st_pool *pool, const struct st_limb_kernels *limb, const struct st_field_product *p,
                       uint32_t n);

#endif
