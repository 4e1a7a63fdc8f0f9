/* Kernels are written once for every number of rows: the counts are constants after inlining, the loops over them
 * vanish, and the arrays of sums they index live in registers. */
#ifndef ST_TENSOR_UNROLL_H
#define ST_TENSOR_UNROLL_H

#define ST_INLINE inline __attribute__((always_inline))
#if defined(__clang__)
#define ST_UNROLL _Pragma("clang loop unroll(full)")
#else
#define ST_UNROLL _Pragma("GCC unroll 32")
#endif
/* Keeps a vector that several operations use in its register; the compiler would load it again for each. */
#define ST_HOLD(v) __asm__("" : "+v"(v))

#endif
