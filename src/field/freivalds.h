/* Freivalds' check of outsourced products v = u W^T mod q: for a secret vector s, v . s must equal u . (W^T s). Two
 * secret vectors, uniform in Z_q: a wrong v passes both with probability 1/q^2.
 *
 * Who holds W makes the check (the trusted side, or a preparer it attests); never the party that is checked, who would
 * learn s. The verdict on all rows and both vectors is one bit, formed in constant time: separate verdicts would let an
 * attacker learn s twice as fast. After a reject s must be redrawn (st_freivalds_init anew). Claim: an error is
 * accepted with probability at most (rejects + 1) / q^2. Source: R. Freivalds, 1977; Slalom, arXiv 1806.03287. */
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
};

/* w [n_out][n_in] int8 rows. n_out < 2^24. MEMORY. */
int st_freivalds_init(struct st_freivalds *f, const int8_t *w, uint32_t n_out, uint32_t n_in, struct st_stream *s,
                      struct st_err *e) ST_MUST_CHECK;
void st_freivalds_wipe(struct st_freivalds *f);
/* u [n_row][n_in] as sent (canonical), v [n_row][n_out] as received: true when all residues are canonical and all rows
 * pass. */
bool st_freivalds_check(const struct st_freivalds *f, const uint32_t *u, const uint32_t *v, uint32_t n_row);

#endif
