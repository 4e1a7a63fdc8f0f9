/* Freivalds' check of outsourced products v = u W^T mod q: for a secret vector s, v . s must equal u . (W^T s). Two
 * secret vectors, uniform in Z_q: a wrong v passes both with probability 1/q^2.
 *
 * Who holds W makes the check (the trusted side, or a preparer it attests); never the party that is checked, who would
 * learn s. The verdict on all rows and both vectors is one bit, formed in constant time: separate verdicts would let an
 * attacker learn s twice as fast. After a reject s must be redrawn (st_freivalds_init anew). Claim: an error is
 * accepted with probability at most (rejects + 1) / q^2.
 *
 * Matrices on the same rows are one matrix to this check: their outputs one behind the other, v . s = sum v_k . s_k and
 * W^T s = sum W_k^T s_k. And many matrices may have one s, of which each uses as much as it has outputs: right answers
 * tell nothing about s, whatever they answer, and after the first wrong one all of them get another. That s then stays
 * in the caches. Source: R. Freivalds, 1977; Slalom, arXiv 1806.03287. */
#ifndef ST_FIELD_FREIVALDS_H
#define ST_FIELD_FREIVALDS_H

#include "base/secret.h"
#include "crypto/stream.h"

#include <stdbool.h>

#define ST_FREIVALDS_N 2

struct st_freivalds {
    uint32_t n_in, n_out;
    uint32_t *s[ST_FREIVALDS_N];  /* [n_out] secret */
    uint32_t *ws[ST_FREIVALDS_N]; /* [n_in] W^T s; secret as well */
    bool shared;                  /* s is somebody else's */
};

/* w [n_out][n_in] int8 rows. n_out < 2^24. MEMORY. */
int st_freivalds_init(struct st_freivalds *f, const int8_t *w, uint32_t n_out, uint32_t n_in, struct st_stream *s,
                      struct st_err *e) ST_MUST_CHECK;
/* Vectors for the matrices of one model, uniform in Z_q: s[i] [n], to be wiped and freed with st_freivalds_free_s(). */
int st_freivalds_draw(uint32_t *s[ST_FREIVALDS_N], uint32_t n, struct st_stream *random,
                      struct st_err *e) ST_MUST_CHECK;
void st_freivalds_free_s(uint32_t *s[ST_FREIVALDS_N], uint32_t n);
/* The check of one matrix with s[i] + at, which stay where they are until it is wiped. */
int st_freivalds_init_shared(struct st_freivalds *f, const int8_t *w, uint32_t n_out, uint32_t n_in,
                             uint32_t *const s[ST_FREIVALDS_N], uint32_t at, struct st_err *e) ST_MUST_CHECK;
/* The check of `n` matrices as one: parts were made with vectors that lie one behind the other. */
int st_freivalds_join(struct st_freivalds *f, const struct st_freivalds *const *parts, int n,
                      struct st_err *e) ST_MUST_CHECK;
void st_freivalds_wipe(struct st_freivalds *f);
/* u [n_row][n_in] as sent (canonical), v [n_row][n_out] as received: true when all residues are canonical and all rows
 * pass. */
bool st_freivalds_check(const struct st_freivalds *f, const uint32_t *u, const uint32_t *v, uint32_t n_row);
/* The same of several matrices: v is [n_row][n_out[k]] for each of them, one behind the other. */
bool st_freivalds_check_parts(const struct st_freivalds *f, const uint32_t *n_out, int n, const uint32_t *u,
                              const uint32_t *v, uint32_t n_row);

#endif
