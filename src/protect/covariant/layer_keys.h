/* The secret keys of one layer, besides the frame. All of them cancel inside the layer:
 *   q, k   per key/value head and rotary pair: a rotation by a random angle, and a scale s on q, 1/s on k (log-uniform
 * in [1/2, 2]). Rotations of a pair commute with the rotary embedding, so q k^T stays. The query heads of one key/value
 *          head share its draw, because they share its keys.
 *   v, o   per key/value head: an invertible matrix U on v and its inverse on the matching columns of o. U is
 * orthogonal * diagonal * orthogonal with scales in [1/2, 2], so its condition is at most 4 (a Gaussian U has 203 to
 * 448). heads  a random order of the key/value heads, and of the query heads inside each group. FFN    a random order
 * of the neurons; up scaled by +-s and down by its inverse. Gate is only reordered: SiLU allows no more. Source:
 * AloePri, arXiv 2603.01499, Algorithm 2, without its permutation of rotary pairs, which costs accuracy. */
#ifndef ST_PROTECT_COVARIANT_LAYER_KEYS_H
#define ST_PROTECT_COVARIANT_LAYER_KEYS_H

#include "model/config.h"
#include "protect/covariant/key.h"

struct st_cov_layer_keys {
    uint32_t n_kv_head, head_dim, n_head, d_ff;
    /* [n_kv_head][head_dim, head_dim], by old head: new rows = mix * old rows. For o the rows are its columns. */
    double *q_mix, *k_mix, *v_mix, *o_mix;
    double *up_scale, *down_scale; /* [d_ff], by old neuron */
    uint32_t *q_order, *kv_order;  /* new head -> old head */
    uint32_t *ffn_order;           /* new neuron -> old neuron */
};

/* The source's rotary layout is config->rope_interleaved; the new one is always pairs (i, i + head_dim/2). */
int st_cov_layer_keys_init(struct st_cov_layer_keys *k, const struct st_config *config, int layer,
                           const struct st_cov_key *key, const uint8_t model_digest[32],
                           struct st_err *e) ST_MUST_CHECK;
void st_cov_layer_keys_wipe(struct st_cov_layer_keys *k);

#endif
