/* Vectors of LANES floats, for kernels that are written once and compiled for several instruction sets. Include only
 * from a file of one instruction set, after it defined LANES. */
#ifndef ST_TENSOR_K_VEC_H
#define ST_TENSOR_K_VEC_H

#include "tensor/unroll.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef float vec __attribute__((vector_size(LANES * 4)));
typedef int32_t ivec __attribute__((vector_size(LANES * 4)));
typedef float unaligned_vec __attribute__((vector_size(LANES * 4), aligned(1), may_alias));
typedef int32_t unaligned_ivec __attribute__((vector_size(LANES * 4), aligned(1), may_alias));

static ST_INLINE vec load(const float *p)
{
    return *(const unaligned_vec *)p;
}

static ST_INLINE void store(float *p, vec v)
{
    *(unaligned_vec *)p = v;
}

/* The first n < LANES values, the rest 0. A short end goes through the same arithmetic as a whole vector, so that a
 * value does not depend on where in the batch it stands. */
static ST_INLINE vec load_some(const float *p, size_t n)
{
    float t[LANES] = {0};
    memcpy(t, p, n * sizeof *t);
    return load(t);
}

static ST_INLINE void store_some(float *p, vec v, size_t n)
{
    float t[LANES];
    store(t, v);
    memcpy(p, t, n * sizeof *t);
}

#endif
