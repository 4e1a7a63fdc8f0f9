/* One tensor of a result against the source, as both lie on disk: P Q = I on random probes. Nothing is compiled again:
 * a tensor is a list of vectors (transform.h), and all that happens to them is linear, so a plain vector and what
 * became of it must give the same product with two probes that belong together,
 *     what reads    <w', x P>                = <w, x> by the units of the layer's keys (R cancels)
 *     what writes   <w', [u, r] reader>      = <w, u> likewise, r random in the place of an R of its own
 *     no frame      <w', x>                  = <w, x> likewise
 * for probes of random signs (seeded: the same in every run), in double. Noise is made again from the key. Norms must
 * be constant to the bit.
 *
 * The error of one product is measured against |w'| |probe| / sqrt(width), which is what one rounding step of each
 * value of w' adds up to; w' counts as large as its unit where units are mixed. A right tensor stays far under
 * ST_COV_PROBE_*; a value that is off by more than about that part of its neighbours' size, times the square root of
 * the width, is found. Limit: less than that is not, so damage to the last bits of single values is for checksums. */
#ifndef ST_PROTECT_COVARIANT_PROBE_H
#define ST_PROTECT_COVARIANT_PROBE_H

#include "protect/covariant/transform.h"

/* By what the tensor is stored as. Rounding errors of f16 and bf16 are at most 2^-11 and 2^-8 of a value, and about a
 * third of that on average; those of f32 are of the products that made the tensor. */
#define ST_COV_PROBE_F32 2e-5
#define ST_COV_PROBE_F16 2e-3
#define ST_COV_PROBE_BF16 1.6e-2

struct st_cov_probe;

/* key and digest ([32], of the source) are kept until st_cov_probe_free. */
int st_cov_probe_new(const struct st_cov_key *key, const uint8_t *digest, int n_threads,
                     const volatile sig_atomic_t *cancel, struct st_cov_probe **out, struct st_err *e) ST_MUST_CHECK;
void st_cov_probe_free(struct st_cov_probe *p);
/* stored: the tensor as read back, whose file has it as j->out->dtype. *error becomes the largest error over its bound,
 * if that is more. VERIFY names the tensor. */
int st_cov_probe_tensor(struct st_cov_probe *p, const struct st_cov_job *j, const struct st_mat *stored, double *error,
                        struct st_err *e) ST_MUST_CHECK;

#endif
