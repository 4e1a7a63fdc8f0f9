/* The field Z_q, q = 2^32 - 2^20 + 1: the modulus of masked rows. It is prime, which Freivalds' check needs (with
 * q = 2^32 an error of 2^31 passes half the time), 2^20 divides q - 1, which number-theoretic transforms need, and a
 * residue fills 32 bits.
 *
 * A residue is canonical: 0 <= x < q. All functions take and give canonical residues unless they say otherwise, and
 * run in constant time. */
#ifndef ST_FIELD_FQ_H
#define ST_FIELD_FQ_H

#include <stdint.h>

#define ST_FQ 4293918721u

/* x mod q for any x: 2^32 = 2^20 - 1 (mod q), applied three times (2^64 -> < 2^53 -> < 2^42 -> < 2^32 + 2^30). */
static inline uint32_t st_fq_reduce(uint64_t x)
{
    const uint64_t fold = (1u << 20) - 1;
    x = (x & 0xffffffff) + (x >> 32) * fold;
    x = (x & 0xffffffff) + (x >> 32) * fold;
    x = (x & 0xffffffff) + (x >> 32) * fold;
    x -= ST_FQ & (0 - (uint64_t)(x >= ST_FQ));
    return (uint32_t)x;
}

static inline uint32_t st_fq_add(uint32_t a, uint32_t b)
{
    uint64_t s = (uint64_t)a + b;
    return (uint32_t)(s - (ST_FQ & (0 - (uint64_t)(s >= ST_FQ))));
}

static inline uint32_t st_fq_sub(uint32_t a, uint32_t b)
{
    return a - b + (ST_FQ & (0 - (uint32_t)(a < b)));
}

static inline uint32_t st_fq_mul(uint32_t a, uint32_t b)
{
    return st_fq_reduce((uint64_t)a * b);
}

/* The residue of a signed number, |x| < 2^56. */
static inline uint32_t st_fq_from(int64_t x)
{
    return st_fq_reduce((uint64_t)(x + ((int64_t)ST_FQ << 24)));
}

/* The representative in (-q/2, q/2). */
static inline int32_t st_fq_centre(uint32_t x)
{
    return (int32_t)(x - (ST_FQ & (0 - (uint32_t)(x > ST_FQ / 2))));
}

static inline uint32_t st_fq_pow(uint32_t x, uint32_t n)
{
    uint32_t y = 1;
    for (int bit = 31; bit >= 0; bit--) {
        uint32_t square = st_fq_mul(y, y), more = st_fq_mul(square, x);
        uint32_t take = 0 - (n >> bit & 1);
        y = (more & take) | (square & ~take);
    }
    return y;
}

/* 1/x for x != 0; 0 for 0. */
static inline uint32_t st_fq_inverse(uint32_t x)
{
    return st_fq_pow(x, ST_FQ - 2);
}

#endif
