/* kappa of the norms of a frame that changes norms: what RMSNorm of x P must be multiplied by to be near RMSNorm of x
 * times P. kappa = rms(x P) / rms(x), the mean over the rows that reach the norm when the source runs over a text: its
 * residual states lean to a few directions, so the mean differs from that of Gaussian vectors and from site to site.
 * For the tight frame it is sqrt(d / wide) exactly and nothing is run. Source: AloePri, arXiv 2603.01499, with the
 * factor sqrt(d / wide) that it leaves out (the engine averages over wide values). */
#ifndef ST_PROTECT_COVARIANT_CALIBRATE_H
#define ST_PROTECT_COVARIANT_CALIBRATE_H

#include "engine/tap.h"
#include "model/model.h"
#include "model/tokenizer.h"
#include "protect/covariant/frame.h"

#define ST_COV_CALIBRATE_TOKENS 512
/* A larger source is not asked to speak: it would stay in memory, and take long. */
#define ST_COV_SPEAK_BYTES ((uint64_t)32 << 20)

/* kappa [plan.n_weight]: at the index of each norm's weight; elsewhere sqrt(d / wide). `src` is where the tokenizer is
 * looked for. The text is o->calibrate, or a small one of ours; of it at most 512 tokens. A source without a tokenizer,
 * or whose tokenizer does not fit it, runs over st_cov_calibrate_own() (INPUT when o->calibrate was given). Runs the
 * source on the CPU, weight by weight, giving its pages back. Does not depend on threads. */
int st_cov_calibrate(const struct st_model *m, const char *src, const struct st_cov_frame *f,
                     const struct st_cov_opts *o, double *kappa, struct st_err *e) ST_MUST_CHECK;

/* Ids of that text, at most `most` of them and never more than the context; most 0: all of a text, however long. */
int st_cov_calibrate_ids(const struct st_model *m, const char *src, const struct st_cov_opts *o, size_t most,
                         struct st_ids *ids, struct st_err *e) ST_MUST_CHECK;
/* What the source says by itself after its BOS; random ids when it is too large to be asked (over 32 MiB). */
int st_cov_calibrate_own(const struct st_model *m, const struct st_cov_opts *o, struct st_ids *ids,
                         struct st_err *e) ST_MUST_CHECK;
/* Runs the source over ids; with fewer than n_ctx it samples until there are so many. tap and on_logits (logits
 * [n_vocab] of each position of ids, in order) may be NULL. */
int st_cov_calibrate_run(const struct st_model *m, const struct st_cov_opts *o, struct st_ids *ids, uint32_t n_ctx,
                         const struct st_tap *tap, void (*on_logits)(void *arg, size_t pos, const float *row),
                         void *arg, struct st_err *e) ST_MUST_CHECK;

#endif
