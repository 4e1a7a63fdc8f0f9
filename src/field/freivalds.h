/* Freivalds' check of outsourced products v_k = u W_k^T mod q of several matrices on the same rows: for a secret vector
 * s over all their outputs, the sum of v_k . s_k must equal u . (sum of W_k^T s_k). Two secret vectors, uniform in Z_q:
 * wrong results pass both with probability 1/q^2.
 *
 * Who holds the weights makes the check (the trusted side, or a preparer it attests); never the party that is checked,
 * who would learn s. The verdict on all rows, matrices and both vectors is one bit, formed in constant time: separate
 * verdicts would let an attacker learn s twice as fast. All checks may share one secret, of which each takes the first
 * values: right answers pass whatever s is, so a pass tells nothing; after a reject s must be drawn anew, for all.
 * Claim: an error is accepted with probability at most (rejects + 1) / q^2. Source: R. Freivalds, 1977; Slalom, arXiv
 * 1806.03287. */
#ifndef ST_FIELD_FREIVALDS_H
#define ST_FIELD_FREIVALDS_H

#include "base/secret.h"
#include "crypto/stream.h"

#include <stdbool.h>

#define ST_FREIVALDS_N 2
#define ST_FREIVALDS_MAX 16 /* matrices of one check */

struct st_freivalds_secret {
    uint32_t *s[ST_FREIVALDS_N]; /* [n] */
    uint32_t n;
};
/* MEMORY. */
int st_freivalds_secret_init(struct st_freivalds_secret *s, uint32_t n, struct st_stream *random,
                             struct st_err *e) ST_MUST_CHECK;
void st_freivalds_secret_wipe(struct st_freivalds_secret *s);

struct st_freivalds {
    uint32_t n_in, n_matrix;
    uint32_t n_out[ST_FREIVALDS_MAX];
    const struct st_freivalds_secret *secret; /* borrowed until wipe */
    uint32_t *ws[ST_FREIVALDS_N];             /* [n_in] sum of W^T s; secret as well */
};
struct st_freivalds_matrix {
    const int8_t *w; /* [n_out][n_in] */
    uint32_t n_out;
};
/* All outputs together: at most s->n, below 2^24 (else UNSUPPORTED). MEMORY. */
int st_freivalds_init(struct st_freivalds *f, const struct st_freivalds_matrix *w, uint32_t n_matrix, uint32_t n_in,
                      const struct st_freivalds_secret *s, struct st_err *e) ST_MUST_CHECK;
/* The same where somebody who is trusted holds the weights (and may see s): ws [ST_FREIVALDS_N][n_in] = sum of W_k^T
 * s_k, canonical, which is copied; n_out [n_matrix]. */
int st_freivalds_take(struct st_freivalds *f, const uint32_t *n_out, uint32_t n_matrix, uint32_t n_in,
                      const uint32_t *ws, const struct st_freivalds_secret *s, struct st_err *e) ST_MUST_CHECK;
void st_freivalds_wipe(struct st_freivalds *f);
/* u [n_row][n_in] as sent (canonical); v as received, per matrix [n_row][n_out]: true when all residues are canonical
 * and all rows pass. */
bool st_freivalds_check(const struct st_freivalds *f, const uint32_t *u, const uint32_t *v, uint32_t n_row);
/* The same in two halves, of which the first needs no reply: want [n_row] = u . (W^T s). */
void st_freivalds_expect(const struct st_freivalds *f, const uint32_t *u, uint32_t n_row,
                         uint32_t (*want)[ST_FREIVALDS_N]);
/* f must still have the secret of st_freivalds_expect(). */
bool st_freivalds_meets(const struct st_freivalds *f, const uint32_t (*want)[ST_FREIVALDS_N], const uint32_t *v,
                        uint32_t n_row) ST_MUST_CHECK;

#endif
