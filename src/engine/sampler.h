/* Chooses the next token from logits. Order as in common engines: logit_bias, repetition penalty, presence and
 * frequency penalties, (greedy if temperature is 0), temperature, top-k, top-p, min-p, draw. Top-k and top-p look at
 * the vocabulary once and sort only what stands at the cut. NaN is never chosen; when every id is forbidden the answer
 * is id 0. Ids less than e^-37 as likely as the best cannot be drawn. */
#ifndef ST_ENGINE_SAMPLER_H
#define ST_ENGINE_SAMPLER_H

#include "base/hooks.h"

#include <stdbool.h>

#define ST_MAX_LOGPROBS 20

struct st_logit_bias {
    uint32_t id;
    float bias; /* -100 and below forbids, as in OpenAI's API */
};

struct st_sampling {
    float temperature;                         /* 0 = greedy, ties to the lower id */
    uint32_t top_k;                            /* 0 = off */
    float top_p;                               /* 1 = off */
    float min_p;                               /* 0 = off */
    float repetition_penalty;                  /* 1 = off; over prompt and reply */
    float presence_penalty, frequency_penalty; /* 0 = off; over the reply, OpenAI's definition */
    uint64_t seed;
    const struct st_logit_bias *bias; /* kept until the request ends */
    uint32_t n_bias;
    int n_logprobs; /* -1 none, else 0..20 alternatives beside the chosen token */
};

struct st_logprob {
    uint32_t id;
    float logprob; /* of softmax(logits) before any filter; -inf is clamped to -9999 */
};

struct st_sampled {
    uint32_t id;
    float logprob; /* valid if n_logprobs >= 0 */
    int n_top;
    struct st_logprob top[ST_MAX_LOGPROBS];
};

struct st_sampler; /* scratch for one vocabulary size, shared by all requests of an engine */
int st_sampler_new(uint32_t n_vocab, struct st_sampler **out, struct st_err *e) ST_MUST_CHECK;
void st_sampler_free(struct st_sampler *s);
/* INPUT, naming the field, when a value is out of its range or a bias names an id outside the vocabulary. */
int st_sampling_check(const struct st_sampling *p, uint32_t n_vocab, struct st_err *e) ST_MUST_CHECK;
/* history = ids so far (prompt and reply, all below n_vocab), of which the last n_reply were generated. Overwrites
 * logits [n_vocab]. No allocation. p as st_sampling_check() accepts it. */
void st_sample(struct st_sampler *s, float *logits, const struct st_sampling *p, struct st_rng *rng,
               const uint32_t *history, size_t n_history, size_t n_reply, struct st_sampled *out);

#endif
