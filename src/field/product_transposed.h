/* Products with the transposed weights over Z_q:
 *
 *     out(v, i) = sum over matrices k and their rows j of W_k[j][i] * s_k(v)[j]  mod q
 *
 * with s(v) one vector over the rows of all matrices, one behind the other: what a check of products needs of whoever
 * holds the weights (field/freivalds.h). Time depends on shapes only. On the calling thread. */
#ifndef ST_FIELD_PRODUCT_TRANSPOSED_H
#define ST_FIELD_PRODUCT_TRANSPOSED_H

#include <stdint.h>

struct st_transposed_matrix {
    const int8_t *w; /* [n_out][n_in] */
    uint32_t n_out;
};
/* s [n_vec][all n_out] canonical residues -> out [n_vec][n_in]. All n_out together stay below 2^24: no sum of 64 bits
 * overflows then, |W s| < 2^38. */
void st_field_transposed(const struct st_transposed_matrix *w, uint32_t n_matrix, uint32_t n_in, const uint32_t *s,
                         uint32_t n_vec, uint32_t *out);

#endif
