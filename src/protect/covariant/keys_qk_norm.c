/* Attention whose heads of q and k have an RMS norm of their own before the rotary positions (Qwen3):
 * score = rot_p(w_q * q/rms(q))^T rot_p'(w_k * k/rms(k)). The norm weights w_q, w_k [head_dim] are shared by all heads
 * and stand between projection and rotation, so a free rotation or scale of a pair inside W_q or W_k is illegal: w_q
 * would meet rotated values. What does commute, with m = head_dim / 2 pairs:
 *   per layer and pair   a rotation by 90 degrees or none, the same for all heads; the two entries of w_q and of w_k
 *                        change places with it. A scale s into the norm weights: w_q * s, w_k / s.
 *                        Under preset `paper` pairs change places (keys_pairs.c), in the norm weights as well.
 *   per key/value head and pair   a sign (180 degrees), the same for its query heads: it commutes with any weight.
 *   per head             a positive scale of all its rows: the norm divides it away, up to its eps.
 * eps: the result's norm_eps is eps_ratio times the source's, so every head is scaled by sqrt(eps_ratio), which makes
 * the norm exact. A random factor c in [1, 4] on top changes the norm's eps to eps / c^2, a relative change of q below
 * eps / (2 mean(q^2)): taken where eps is at most 2e-6 (Qwen3: 1e-6), left out above.
 * Values and heads as in keys_attention.c. Visible: besides what is visible there, w_q * w_k up to the places in a
 * pair, and |W_q rows| of a pair up to one factor per head. */
#include "protect/covariant/layer_parts.h"

#include <math.h>

#define EPS_FREE 2e-6

static double head_scale(struct st_stream *s, const struct st_cov_draw *d)
{
    double c = exp2(2 * st_stream_unit(s));
    return sqrt(d->eps_ratio) * ((double)d->model->config.norm_eps <= EPS_FREE ? c : 1);
}

/* What all heads of the layer share: pairs [m] which old pair stands in a place, turn [m] 0 or 1 quarter turns, and the
 * mixes of w_q and w_k. */
static void draw_norms(struct st_stream *s, const struct st_cov_draw *d, uint32_t head_dim, const uint32_t *pairs,
                       uint8_t *turn, double *q, double *k)
{
    uint32_t m = head_dim / 2, to[2], from[2];
    for (uint32_t i = 0; i < m; i++) {
        double scale = st_cov_draw_scale(s);
        turn[i] = (uint8_t)st_stream_below(s, 2);
        st_cov_pair(d->interleaved, m, i, to);
        st_cov_pair(d->model->config.rope_interleaved, m, pairs[i], from);
        for (int a = 0; a < 2; a++) {
            size_t at = (size_t)to[a] * head_dim + from[a ^ turn[i]];
            q[at] = scale;
            k[at] = 1 / scale;
        }
    }
}

/* Signs and scales of one key/value head, q [g][head_dim, head_dim] for its query heads. */
static void draw_head(struct st_stream *s, const struct st_cov_draw *d, uint32_t head_dim, uint32_t g,
                      const uint32_t *pairs, const uint8_t *turn, double *q, double *k)
{
    uint32_t m = head_dim / 2, to[2], from[2];
    size_t size = (size_t)head_dim * head_dim;
    for (uint32_t i = 0; i < m; i++) {
        double sign = st_stream_below(s, 2) ? -1 : 1;
        st_cov_pair(d->interleaved, m, i, to);
        st_cov_pair(d->model->config.rope_interleaved, m, pairs[i], from);
        /* A quarter turn takes (x, y) to (-y, x). */
        k[(size_t)to[0] * head_dim + from[turn[i]]] = turn[i] ? -sign : sign;
        k[(size_t)to[1] * head_dim + from[1 ^ turn[i]]] = sign;
    }
    for (uint32_t r = 0; r < g; r++) {
        double scale = head_scale(s, d);
        for (size_t i = 0; i < size; i++)
            q[r * size + i] = scale * k[i];
    }
    double scale = head_scale(s, d);
    for (size_t i = 0; i < size; i++)
        k[i] *= scale;
}

int st_cov_keys_qk_norm(struct st_cov_layer_keys *k, const struct st_cov_draw *d, int layer, struct st_err *e)
{
    const struct st_config *c = &d->model->config;
    size_t size = (size_t)c->head_dim * c->head_dim;
    uint32_t *q_order, *kv_order, *pairs, g = c->n_head / c->n_kv_head;
    double *q, *key, *q_norm, *k_norm;
    uint8_t *turn;
    struct st_stream *s;
    int rc = st_cov_draw_heads(k, d, layer, &q_order, &kv_order, e);
    if (!rc)
        rc = st_cov_draw_values(k, d, layer, q_order, kv_order, e);
    if (!rc)
        rc = st_cov_keys_take(k, c->n_head * size, sizeof *q, &q, e);
    if (!rc)
        rc = st_cov_keys_take(k, c->n_kv_head * size, sizeof *key, &key, e);
    if (!rc)
        rc = st_cov_keys_take(k, size, sizeof *q_norm, &q_norm, e);
    if (!rc)
        rc = st_cov_keys_take(k, size, sizeof *k_norm, &k_norm, e);
    if (!rc)
        rc = st_cov_keys_take(k, c->head_dim, sizeof *turn, &turn, e);
    if (!rc)
        rc = st_cov_draw_pair_orders(k, d, layer, 1, c->head_dim / 2, &pairs, e);
    if (!rc)
        rc = st_cov_keys_stream(d, layer, "rope", &s, e);
    if (rc)
        return rc;
    draw_norms(s, d, c->head_dim, pairs, turn, q_norm, k_norm);
    for (uint32_t i = 0; i < c->n_kv_head; i++)
        draw_head(s, d, c->head_dim, g, pairs, turn, q + i * g * size, key + i * size);
    st_stream_free(s);
    k->units[ST_ROLE_Q] = (struct st_cov_units){.size = c->head_dim, .order = q_order, .mix = q, .share = 1};
    k->units[ST_ROLE_K] = (struct st_cov_units){.size = c->head_dim, .order = kv_order, .mix = key, .share = 1};
    k->units[ST_ROLE_Q_NORM] = (struct st_cov_units){.size = c->head_dim, .mix = q_norm, .share = 1};
    k->units[ST_ROLE_K_NORM] = (struct st_cov_units){.size = c->head_dim, .mix = k_norm, .share = 1};
    return 0;
}
