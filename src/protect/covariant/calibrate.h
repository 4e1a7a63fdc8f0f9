/* kappa of the norms of a frame that changes norms: what RMSNorm of x P must be multiplied by to be near RMSNorm of x
 * times P. kappa = rms(x P) / rms(x), the mean over the rows that reach the norm when the source runs over a text: its
 * residual states lean to a few directions, so the mean differs from that of Gaussian vectors and from site to site.
 * For the tight frame it is sqrt(d / wide) exactly and nothing is run. Source: AloePri, arXiv 2603.01499, with the
 * factor sqrt(d / wide) that it leaves out (the engine averages over wide values). */
#ifndef ST_PROTECT_COVARIANT_CALIBRATE_H
#define ST_PROTECT_COVARIANT_CALIBRATE_H

#include "model/model.h"
#include "protect/covariant/frame.h"

/* kappa [plan.n_weight]: at the index of each norm's weight; elsewhere sqrt(d / wide). `src` is where the tokenizer is
 * looked for. The text is o->calibrate, or a small one of ours; of it at most 512 tokens. A source without a tokenizer,
 * or whose tokenizer does not fit it, runs over fixed random ids (INPUT when o->calibrate was given). Runs the source
 * on the CPU, weight by weight, giving its pages back. Does not depend on threads. */
int st_cov_calibrate(const struct st_model *m, const char *src, const struct st_cov_frame *f,
                     const struct st_cov_opts *o, double *kappa, struct st_err *e) ST_MUST_CHECK;

#endif
