/* Logits that are worth less to whoever copies a model by asking it. Every row of logits is changed before anything
 * else sees it: sampling, log probabilities, bias, penalties and `sotto logits` all work on the changed row, so that
 * no request, however it is put, is answered from anything else.
 *
 *   z'_i = z_i + noise g_i,  g = G(key, variant of the weights, context)_i
 *   kept: the top_k largest z'; everything else becomes -infinity
 *   out:  level + round(z'_i - max z', to multiples of 2^-round),  level = the largest logit as a whole number
 *
 * G is a sum of four uniform values (deviation 1, never beyond 3.47), made by ChaCha20: the same context gets the same
 * noise each time, so that asking again averages nothing out. When the largest logit leads by `margin` or more it stays
 * the largest: others are clipped to it and come to lie a step below. With margin 0, the default, that is always so,
 * and a reply at temperature 0 (without bias and penalties) is the same as without hardening, by construction.
 *
 * What it is for: exact logits give the last layer away by linear algebra (rank of the rows = width of the model,
 * arXiv 2403.06634). What it cannot do: a student trained on replies alone does not need logits; many different
 * contexts average noise out where their logits agree. docs/sealed.md has its cost. After SecureInfer, arXiv
 * 2510.19979, which gives no formula: this one is ours. */
#ifndef ST_PROTECT_SEALED_HARDEN_H
#define ST_PROTECT_SEALED_HARDEN_H

#include "engine/filter.h"

#include <stdbool.h>

#define ST_HARDEN_MAX_ROUND 12 /* finer steps than f32 holds at a level of some thousand */
#define ST_HARDEN_MAX_NOISE 100.0

struct st_harden_opts {
    uint32_t top_k; /* 0 = all */
    int round;      /* bits behind the point; -1 = not rounded */
    double noise;   /* deviation, in logits (nats); 0 = none */
    double margin;  /* the largest logit stays the largest when it leads by so much */
    bool measure;   /* fill in stats: two passes more over each row */
};
/* "topk=40,round=6,noise=0.1,margin=0.5": any of them, at least one of the first three, each once. USAGE names it. */
int st_harden_parse(const char *text, struct st_harden_opts *out, struct st_err *e) ST_MUST_CHECK;

struct st_harden;
/* key [32] is copied: a sealed model's own (st_vault_derive()), another one for each sealing; NULL = random, of this
 * process: then what is asked again after a restart gets other noise. USAGE: top_k above n_vocab. */
#define ST_HARDEN_INFO "sotto sealed 1 harden"
int st_harden_new(const struct st_harden_opts *o, const uint8_t *key, uint32_t n_vocab, struct st_harden **out,
                  struct st_err *e) ST_MUST_CHECK;
void st_harden_free(struct st_harden *h);
const struct st_filter *st_harden_filter(const struct st_harden *h);

struct st_harden_stats {
    uint64_t n_row, n_same; /* rows; those whose largest logit stayed the same */
    double kl;              /* mean of KL(softmax(changed) || softmax(original)) in nats: how far sampling shifts */
};
void st_harden_stats(const struct st_harden *h, struct st_harden_stats *out);

#endif
