/* Exact dot products of unsigned and signed bytes: what products modulo q are made of. A residue of 32 bits is four
 * unsigned bytes (limbs); times a vector of int8 weights, each limb gives one 32-bit sum, and the sums are put together
 * modulo q above this layer (field/product.h).
 *
 * Bound: n_k <= ST_LIMB_MAX_K, since 255 * 128 * 65536 < 2^31: no sum overflows, whatever the bytes. The time taken
 * depends on the shapes only, never on the values. Kernels run on one thread and allocate nothing. */
#ifndef ST_TENSOR_LIMB_H
#define ST_TENSOR_LIMB_H

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

#define ST_LIMB_MAX_K 65536u
/* Vectors of each side in one call. */
#define ST_LIMB_S 4
#define ST_LIMB_U 4

struct st_limb_tile {
    const int8_t *s; /* [n_s] vectors of n_k, lds bytes apart; any alignment */
    size_t lds;
    uint32_t n_s; /* 1..ST_LIMB_S */
    const uint8_t *u;
    size_t ldu;
    uint32_t n_u; /* 1..ST_LIMB_U */
    uint32_t n_k;
    int32_t *sum; /* [n_s][ST_LIMB_U], added to */
};

typedef void st_limb_dot_fn(const struct st_limb_tile *t);

/* isa: NULL = the best of this CPU; "ref", "avx2", "avx512"; UNSUPPORTED when the CPU lacks it. */
int st_limb_dot_find(const char *isa, st_limb_dot_fn **out, struct st_err *e) ST_MUST_CHECK;

#endif
