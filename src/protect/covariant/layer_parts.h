/* Shared by the files that draw the parts of a layer's keys; nothing else includes it. */
#ifndef ST_PROTECT_COVARIANT_LAYER_PARTS_H
#define ST_PROTECT_COVARIANT_LAYER_PARTS_H

#include "protect/covariant/layer_keys.h"

/* The parts. Each draws from streams of its own, so one part's draws do not depend on another's. */
int st_cov_keys_attention(struct st_cov_layer_keys *k, const struct st_cov_draw *d, int layer,
                          struct st_err *e) ST_MUST_CHECK;
int st_cov_keys_qk_norm(struct st_cov_layer_keys *k, const struct st_cov_draw *d, int layer,
                        struct st_err *e) ST_MUST_CHECK;
int st_cov_keys_mla(struct st_cov_layer_keys *k, const struct st_cov_draw *d, int layer,
                    struct st_err *e) ST_MUST_CHECK;
int st_cov_keys_ffn(struct st_cov_layer_keys *k, const struct st_cov_draw *d, int layer,
                    struct st_err *e) ST_MUST_CHECK;
int st_cov_keys_experts(struct st_cov_layer_keys *k, const struct st_cov_draw *d, int layer,
                        struct st_err *e) ST_MUST_CHECK;

/* Zeroed memory that the keys own. */
int st_cov_keys_take(struct st_cov_layer_keys *k, size_t n, size_t size, void *out, struct st_err *e) ST_MUST_CHECK;
/* The stream "layer.LAYER.WHAT". */
int st_cov_keys_stream(const struct st_cov_draw *d, int layer, const char *what, struct st_stream **s,
                       struct st_err *e) ST_MUST_CHECK;
/* The layer's weight of a role (of its first expert): index into the plan, or -1. */
int st_cov_keys_find(const struct st_cov_draw *d, int layer, enum st_role role);

/* Log-uniform in [1/2, 2]. */
double st_cov_draw_scale(struct st_stream *s);
/* An invertible matrix M [n, n] and its inverse, both transposed: a = M^T, b = M^-1. M is orthogonal * diagonal *
 * orthogonal with a diagonal log-uniform in [2^-1/2, 2^1/2], so its condition is at most 2 (a Gaussian matrix has 203
 * at n 64): what one side rounds, the other enlarges. */
int st_cov_draw_invertible(struct st_stream *s, uint32_t n, double *a, double *b, struct st_err *e) ST_MUST_CHECK;

/* Where the two values of rotary pair i of m stand in a head. */
static inline void st_cov_pair(bool interleaved, uint32_t m, uint32_t i, uint32_t at[2])
{
    at[0] = interleaved ? 2 * i : i;
    at[1] = interleaved ? 2 * i + 1 : i + m;
}

/* BlockPerm (keys_pairs.c): from [m], new place -> old pair, for inverse frequencies freq [m]. beta 1: all
 * stay. */
void st_cov_draw_blocks(struct st_stream *s, const float *freq, uint32_t m, uint32_t beta, double gamma,
                        uint32_t *from);
/* n such orders of the m pairs, [n][m], with the options' beta and gamma and the model's frequencies. */
int st_cov_draw_pair_orders(struct st_cov_layer_keys *k, const struct st_cov_draw *d, int layer, uint32_t n, uint32_t m,
                            uint32_t **from, struct st_err *e) ST_MUST_CHECK;
/* Rotation and scale of each pair of a head, as mixes q and k [head_dim, head_dim]; `old` [m] says which pair stands in
 * a place. Rows are in the layout of the result, columns in that of the source. */
void st_cov_draw_pairs(struct st_stream *s, const struct st_cov_draw *d, uint32_t head_dim, const uint32_t *old,
                       double *q, double *k);
/* The order of heads: kv [n_kv_head] new -> old, and q [n_head] likewise. New query slot j * g + r takes head kv[j] * g
 * + (a permutation of the group)[r]: one list for the rows of q and for the column blocks of o. */
int st_cov_draw_heads(struct st_cov_layer_keys *k, const struct st_cov_draw *d, int layer, uint32_t **q, uint32_t **kv,
                      struct st_err *e) ST_MUST_CHECK;
/* Keys of v and o: per key/value head U on v and its inverse on the columns of o. */
int st_cov_draw_values(struct st_cov_layer_keys *k, const struct st_cov_draw *d, int layer, const uint32_t *q_order,
                       const uint32_t *kv_order, struct st_err *e) ST_MUST_CHECK;
/* Orders, scales and their inverses of n_block blocks of n neurons each, as units of the three roles. */
int st_cov_draw_neurons(struct st_cov_layer_keys *k, struct st_stream *s, uint32_t n_block, uint32_t n,
                        enum st_role gate, enum st_role up, enum st_role down, struct st_err *e) ST_MUST_CHECK;

#endif
