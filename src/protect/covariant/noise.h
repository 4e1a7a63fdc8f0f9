/* Gaussian noise by random access: the deviates of one row depend on the stream (key, source, label) and the row's
 * number only, so any part of a tensor can be made again, in any order, on any thread. What verifies or duplicates a
 * row (homophones) draws the same noise, or other noise under another number.
 * Deviates are single precision (Box-Muller on 31 bits: nothing beyond 6.6 standard deviations). */
#ifndef ST_PROTECT_COVARIANT_NOISE_H
#define ST_PROTECT_COVARIANT_NOISE_H

#include "base/pool.h"
#include "protect/covariant/key.h"
#include "tensor/tensor.h"

/* The stream of what is added to a tensor's plain weights at this share of their deviation ("noise SHARE.TENSOR"). The
 * share is part of the label: whoever saw the same deviates at two shares could solve for them. */
int st_cov_noise_added(const struct st_cov_key *key, const uint8_t model_digest[32], double share, const char *tensor,
                       struct st_stream **s, struct st_err *e) ST_MUST_CHECK;
/* The stream "KIND.TENSOR"; kinds: that of st_cov_noise_added(), "expand" (R of a frame). */
int st_cov_noise_open(const struct st_cov_key *key, const uint8_t model_digest[32], const char *kind,
                      const char *tensor, struct st_stream **s, struct st_err *e) ST_MUST_CHECK;
/* out [n] = the first n deviates of a row. */
void st_cov_noise_row(struct st_stream *s, uint64_t row, float *out, size_t n);

/* Standard deviation of a matrix's values, from double sums in a fixed order. pool may be NULL.
 * trained: rows that were never trained are left out. Such rows (bytes and reserved ids that no text had) are told
 * apart by being nearly one vector: of the rows with nearly the same norm, one is within a tenth of its squared norm.
 * In stories260K they are half of the vocabulary and move the deviation by 14 %. When all rows are such, all count.
 * MEMORY. */
int st_cov_noise_std(const struct st_mat *m, bool trained, struct st_pool *pool, double *std,
                     struct st_err *e) ST_MUST_CHECK;

#endif
