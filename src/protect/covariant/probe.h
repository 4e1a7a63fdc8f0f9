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
 * value of w' adds up to; w' counts as large as its unit where units are mixed, and for q8_0 the steps of the blocks
 * stand for its values. A right tensor stays under ST_COV_PROBE_*. A single value is found when it is off by some
 * ST_COV_PROBE_* sqrt(width) of its neighbours' size: a sign or exponent always, last bits and single values of q8_0
 * not; those are for checksums. */
#ifndef ST_PROTECT_COVARIANT_PROBE_H
#define ST_PROTECT_COVARIANT_PROBE_H

#include "protect/covariant/transform.h"

/* By what the tensor is stored as. Rounding errors of f16 and bf16 are at most 2^-11 and 2^-8 of a value, and about a
 * third of that on average, those of q8_0 half a step of the block, and .29 on average; those of f32 are of the
 * products that made the tensor. Measured: half of these bounds at most, of f32 a tenth. */
#define ST_COV_PROBE_F32 2e-5
#define ST_COV_PROBE_F16 2e-3
#define ST_COV_PROBE_BF16 1.6e-2
#define ST_COV_PROBE_Q8_0 3.0 /* in steps */

struct st_cov_probe;

/* A tensor as read back. */
struct st_cov_stored {
    const void *data;
    enum st_dtype dtype; /* as it lies at data: vectors may have been made f32 already */
    bool q8_0;           /* in blocks; dtype is F32 then */
};

/* key and digest ([32], of the source) are kept until st_cov_probe_free. */
int st_cov_probe_new(const struct st_cov_key *key, const uint8_t *digest, int n_threads,
                     const volatile sig_atomic_t *cancel, struct st_cov_probe **out, struct st_err *e) ST_MUST_CHECK;
void st_cov_probe_free(struct st_cov_probe *p);
/* *error becomes the largest error over its bound, which goes by j->out, if that is more. VERIFY names the tensor. */
int st_cov_probe_tensor(struct st_cov_probe *p, const struct st_cov_job *j, const struct st_cov_stored *stored,
                        double *error, struct st_err *e) ST_MUST_CHECK;

#endif
