/* Exact dot products of unsigned and signed bytes: what products modulo q are made of. A residue of 32 bits is four
 * unsigned bytes (limbs); times a vector of int8 weights, each limb gives one 32-bit sum, and the sums are put together
 * modulo q above this layer (field/product.h).
 *
 * Bound: at most ST_LIMB_MAX_K products in one sum, since 255 * 128 * 65536 < 2^31: no sum overflows, whatever the
 * bytes. The time taken depends on the shapes only, never on the values. Kernels run on one thread and allocate
 * nothing. */
#ifndef ST_TENSOR_LIMB_H
#define ST_TENSOR_LIMB_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ST_LIMB_MAX_K 65536u

/* A few unsigned vectors, any number of signed ones. */
#define ST_LIMB_S 4 /* taken together */
#define ST_LIMB_U 4
struct st_limb_dot {
    const int8_t *s; /* [n_s] vectors of n_k, lds bytes apart; any alignment */
    size_t lds;
    uint32_t n_s;
    const uint8_t *u;
    size_t ldu;
    uint32_t n_u; /* 1..ST_LIMB_U */
    uint32_t n_k;
    bool stream;  /* s comes from memory and without gaps: what lies behind it is brought closer meanwhile */
    int32_t *sum; /* [n_s][ST_LIMB_U], added to */
};

/* The same where the fast product is one of 16 bits: u is one vector of two signed digits. */
struct st_limb_dot16 {
    const int8_t *s; /* [n_s] vectors of n_k, lds bytes apart; any alignment */
    size_t lds;
    uint32_t n_s;
    const int16_t *u; /* [2][n_k], ldu values apart */
    size_t ldu;
    uint32_t n_k;
    bool stream;  /* as above */
    int64_t *sum; /* [n_s][2], added to */
};

/* Many vectors of both sides. The smaller side is packed to a panel once; the other is read where it lies. */
#define ST_LIMB_LANES 64 /* vectors in one panel */
struct st_limb_tile {
    const uint8_t *panel; /* [n_k / 4 rounded up][n_lane][4], made by pack */
    uint32_t n_lane;      /* 16, 32, 48 or 64 */
    const uint8_t *rows;  /* [n_row] vectors of n_k bytes, ld apart */
    size_t ld;
    uint32_t n_row;
    bool rows_signed; /* the rows are the signed side, the panel the unsigned one; else the other way round */
    uint32_t n_k;
    size_t ahead; /* the bytes so far behind those of the rows are brought closer; 0 = none */
    int32_t *sum; /* [n_row][n_lane], 64-byte aligned, added to */
};

/* Of dot and dot16 there is one. */
struct st_limb_kernels {
    void (*dot)(const struct st_limb_dot *t);
    void (*dot16)(const struct st_limb_dot16 *t);
    /* n vectors (up to n_lane; zeros in the lanes behind) of n_k bytes, ld apart. NULL with tile: the others do all. */
    void (*pack)(const uint8_t *rows, size_t ld, uint32_t n, uint32_t n_lane, uint32_t n_k, uint8_t *panel);
    void (*tile)(const struct st_limb_tile *t);
};

/* isa: NULL = the best of this CPU; "ref", "avx2", "avx512"; UNSUPPORTED when the CPU lacks it. */
int st_limb_find(const char *isa, const struct st_limb_kernels **out, struct st_err *e) ST_MUST_CHECK;

#endif
