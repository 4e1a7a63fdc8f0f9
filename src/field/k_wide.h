/* Vectors for the loops of k_field.h and k_mask.h, in the width of the instruction set that is compiled for. */
#ifndef ST_FIELD_K_WIDE_H
#define ST_FIELD_K_WIDE_H

#include <stdint.h>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

/* Vectors of 64-bit lanes, and the products of their lower halves: compilers make a full 64-bit product of it, which
 * costs three times as much. */
#if defined(__AVX512F__)
typedef uint64_t wide __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint32_t words __attribute__((vector_size(64), aligned(4), may_alias));
#define LOW_PRODUCT(a, b) ((wide)_mm512_mul_epu32((__m512i)(a), (__m512i)(b)))
#elif defined(__AVX2__)
typedef uint64_t wide __attribute__((vector_size(32), aligned(4), may_alias));
typedef uint32_t words __attribute__((vector_size(32), aligned(4), may_alias));
#define LOW_PRODUCT(a, b) ((wide)_mm256_mul_epu32((__m256i)(a), (__m256i)(b)))
#else
typedef uint64_t wide __attribute__((vector_size(16), aligned(4), may_alias));
typedef uint32_t words __attribute__((vector_size(16), aligned(4), may_alias));
#define LOW_PRODUCT(a, b) (((a)&0xffffffff) * ((b)&0xffffffff))
#endif
#define WIDE (sizeof(wide) / sizeof(uint64_t))

#define WORDS (sizeof(words) / sizeof(uint32_t))

#endif
