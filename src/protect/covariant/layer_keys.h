/* The secret keys of one layer, besides the frame of the hidden state: how the vectors of each of its tensors (rows of
 * what reads the hidden state, columns of what writes it, values of a bias or a norm) are mixed, scaled and reordered.
 * All of it cancels inside the layer, so the layer's function stays. One file per part says with which formula and why:
 *     keys_attention.c  heads, rotary pairs, values
 *     keys_pairs.c      which pairs change places (preset paper)
 *     keys_qk_norm.c    the same where heads of q and k have a norm of their own (Qwen3)
 *     keys_mla.c        latent attention (DeepSeek)
 *     keys_ffn.c        neurons
 *     keys_experts.c    router and experts
 * Source: AloePri, arXiv 2603.01499, Algorithm 2, and what we add where it is silent. */
#ifndef ST_PROTECT_COVARIANT_LAYER_KEYS_H
#define ST_PROTECT_COVARIANT_LAYER_KEYS_H

#include "model/model.h"
#include "protect/covariant/covariant.h"
#include "protect/covariant/frame.h"

/* Vectors come in units of `size`: the rows of a head, or single neurons. */
struct st_cov_units {
    uint32_t size;         /* 0 = no key of this layer: the vectors stay as they are */
    const uint32_t *order; /* new unit -> old unit; NULL = as they are */
    const double *mix;     /* [old unit / share][size, size]: new vectors = mix * old vectors; or NULL */
    uint32_t share;
    const double *scale; /* by old vector, when mix is NULL; or NULL */
};

/* What the keys are drawn from, and for. */
struct st_cov_draw {
    const struct st_model *model;
    const struct st_cov_key *key;
    const uint8_t *digest; /* [32] of the source */
    const struct st_cov_opts *opts;
    bool interleaved; /* the result's rotary pairs are (2i, 2i + 1); the source's layout is in its config */
    double eps_ratio; /* norm_eps of the result over that of the source */
};

#define ST_COV_KEYS_OWNED 24
struct st_cov_layer_keys {
    struct st_cov_units units[ST_ROLE_COUNT]; /* by role; biases follow the role of their matrix; of old expert 0 */
    const uint32_t *expert_order;             /* [n_expert] new slot -> old expert, or NULL */
    uint32_t expert_width;                    /* neurons of each expert */
    struct st_cov_frame q_latent, kv_latent;  /* of latent attention: orthogonal, d = wide */
    uint32_t n_far; /* rotary pairs that were moved further than the rule of keys_pairs.c allows */
    struct {
        void *p;
        size_t len;
    } owned[ST_COV_KEYS_OWNED]; /* what the units point to */
    int n_owned;
};

int st_cov_layer_keys_init(struct st_cov_layer_keys *k, const struct st_cov_draw *d, int layer,
                           struct st_err *e) ST_MUST_CHECK;
/* The units of one weight; expert -1 outside the routed experts, else the old one. */
struct st_cov_units st_cov_layer_units(const struct st_cov_layer_keys *k, enum st_role role, int expert);
/* Overwrites and frees. */
void st_cov_layer_keys_wipe(struct st_cov_layer_keys *k);

#endif
