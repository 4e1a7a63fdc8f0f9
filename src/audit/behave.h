/* What a model does with every single token: run through the engine behind BOS, each by itself, log-probabilities
 * of the next token and the values of the gates of each layer. Whoever holds a checkpoint can ask this of it, whatever
 * was done to its weights. */
#ifndef ST_AUDIT_BEHAVE_H
#define ST_AUDIT_BEHAVE_H

#include "audit/dense.h"
#include "audit/target.h"
#include "engine/engine.h"

#define ST_BEHAVE_LEAST (-14.0F) /* log-probabilities below say nothing more */

struct st_behaviour {
    struct st_dense said;   /* [n_vocab][n_vocab] log p(column | BOS, row), at least ST_BEHAVE_LEAST */
    struct st_dense *gates; /* [n_gate] each [n_vocab][n_ff]: of layers whose gates are dense */
    uint32_t n_gate;
};
/* Errors of the engine; IO: cancelled. */
int st_behave(const struct st_model *m, int n_threads, const volatile sig_atomic_t *cancel, struct st_behaviour *out,
              struct st_err *e) ST_MUST_CHECK;
void st_behaviour_free(struct st_behaviour *b);

/* One text, continued in n_lane ways at once, of at most n_max tokens in all. A lane keeps what it computed. */
struct st_lanes;
int st_lanes_new(const struct st_model *m, int n_threads, uint32_t n_lane, size_t n_max, const struct st_tap *tap,
                 struct st_lanes **out, struct st_err *e) ST_MUST_CHECK;
void st_lanes_free(struct st_lanes *l);
/* Runs ids [n] and then last[k] in each of the first n_lane lanes. The tap sees of every lane, in their order, the rows
 * that the lane has not: one, when it has run ids [n] before; of the head the last one. Errors of the engine. */
int st_lanes_run(struct st_lanes *l, const uint32_t *ids, size_t n, const uint32_t *last, uint32_t n_lane,
                 struct st_err *e) ST_MUST_CHECK;

/* The base with noise of the adversary's own, of the victim's size: matrices that have noise are copies, the rest is
 * the base's. */
struct st_noisy_model {
    struct st_model model; /* borrows all but mats */
    float **owned;         /* [plan.n_weight] */
};
int st_noisy_model_new(const struct st_model *base, const struct st_pair_noise *noise, struct st_pool *pool,
                       uint64_t seed, struct st_noisy_model *out, struct st_err *e) ST_MUST_CHECK;
void st_noisy_model_free(struct st_noisy_model *n);

#endif
