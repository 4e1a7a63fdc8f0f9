/* The packing of TwinShield: rows [Q + R ; a R] of a prime field in secret order. Encoder and break, on plain arrays.
 */
#ifndef ST_AUDIT_ATK_PAIRWISE_H
#define ST_AUDIT_ATK_PAIRWISE_H

#include "base/err.h"
#include "base/hooks.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Integers modulo a prime, and how large those are that hide among them. */
struct st_pack_field {
    uint32_t prime;
    int32_t limit;
};
#define ST_PACK_STEPS 256                        /* of 1: 8 fractional bits */
extern const struct st_pack_field st_pack_paper; /* 2^24 - 3, |q| <= 16 */

/* Packs q [m][d] into out [2m][d], and says where its rows went: place [2m]: row i with its
 * mask, then m rows of masks alone. MEMORY. */
int st_pack(const struct st_pack_field *f, const int32_t *q, size_t m, size_t d, struct st_rng *rng, uint32_t *out,
            uint32_t *place, struct st_err *e) ST_MUST_CHECK;

/* Finds 1/a: for ordered pairs (u, w) and each g in the range of q, c = (u_0 - g) / w_0; the right c leaves all of
 * u - c w in that range, a wrong one does so with probability (2 L / p)^(d-1). false: none fits. */
bool st_pack_scalar(const struct st_pack_field *f, const uint32_t *rows, size_t n, size_t d, uint32_t *c);
/* Rows of q that u - c w gives: got [n][d], from row u of the packed ones. is_q [n]: a partner was found. */
void st_pack_open(const struct st_pack_field *f, const uint32_t *rows, size_t n, size_t d, uint32_t c, int32_t *got,
                  bool *is_q);

#endif
