/* What a model does with every single token: run through the engine behind BOS, one token at a time, log-probabilities
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

/* Runs prompts one after the other, one request at a time, and hands the last position's logits [n_vocab] to on_last.
 * tap may be NULL. The session keeps what prompts have in common. */
struct st_prompter;
int st_prompter_new(const struct st_model *m, int n_threads, const struct st_tap *tap, struct st_prompter **out,
                    struct st_err *e) ST_MUST_CHECK;
void st_prompter_free(struct st_prompter *p);
/* keep: with what the session has; then only new positions are computed, and logits [n_vocab] are not handed out. */
int st_prompt(struct st_prompter *p, const uint32_t *ids, size_t n, float *logits, bool keep,
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
