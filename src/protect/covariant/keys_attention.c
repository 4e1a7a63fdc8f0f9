/* Attention with rotary positions: score = rot_p(q)^T rot_p'(k), output = W_o (sum of scores v).
 *   q, k   per key/value head and rotary pair: a rotation by a random angle, and a scale s on q, 1/s on k (log-uniform
 *          in [1/2, 2]). Rotations of a pair commute with the rotary embedding, so q^T k stays. The query heads of one
 *          key/value head share its draw, because they share its keys.
 *          Under preset `paper` pairs also change places (keys_pairs.c), per key/value head.
 *   v, o   per key/value head: an invertible U on v, its inverse on the matching columns of o.
 *   heads  a secret order of the key/value heads, and of the query heads inside each group.
 * Biases are vectors of one value each and take the same mix as their rows.
 * Visible: per pair det(q) det(k) and the Gram ratio of q and k; with biases |b_q| |b_k| of each pair; the product
 * W_o W_v of each head; the position of a pair, which is its frequency.
 * Source: AloePri, arXiv 2603.01499, Algorithm 2. */
#include "protect/covariant/layer_parts.h"

#include <math.h>

void st_cov_draw_pairs(struct st_stream *s, const struct st_cov_draw *d, uint32_t head_dim, const uint32_t *old,
                       double *q, double *k)
{
    uint32_t m = head_dim / 2, to[2], from[2];
    for (uint32_t i = 0; i < m; i++) {
        double angle = 2 * M_PI * st_stream_unit(s), scale = st_cov_draw_scale(s);
        double rot[2][2] = {{cos(angle), -sin(angle)}, {sin(angle), cos(angle)}};
        st_cov_pair(d->interleaved, m, i, to);
        st_cov_pair(d->model->config.rope_interleaved, m, old[i], from);
        for (int a = 0; a < 2; a++)
            for (int b = 0; b < 2; b++) {
                size_t at = (size_t)to[a] * head_dim + from[b];
                q[at] = scale * rot[a][b];
                k[at] = rot[a][b] / scale;
            }
    }
}

int st_cov_draw_heads(struct st_cov_layer_keys *k, const struct st_cov_draw *d, int layer, uint32_t **q, uint32_t **kv,
                      struct st_err *e)
{
    uint32_t n_kv = d->model->config.n_kv_head, g = d->model->config.n_head / n_kv, *group;
    struct st_stream *s;
    int rc = st_cov_keys_take(k, (size_t)n_kv * g, sizeof **q, q, e);
    if (!rc)
        rc = st_cov_keys_take(k, n_kv, sizeof **kv, kv, e);
    if (!rc)
        rc = st_cov_keys_take(k, g, sizeof *group, &group, e);
    if (!rc)
        rc = st_cov_keys_stream(d, layer, "heads", &s, e);
    if (rc)
        return rc;
    st_stream_permutation(s, *kv, n_kv);
    for (uint32_t j = 0; j < n_kv; j++) {
        st_stream_permutation(s, group, g);
        for (uint32_t r = 0; r < g; r++)
            (*q)[j * g + r] = (*kv)[j] * g + group[r];
    }
    st_stream_free(s);
    return 0;
}

int st_cov_draw_values(struct st_cov_layer_keys *k, const struct st_cov_draw *d, int layer, const uint32_t *q_order,
                       const uint32_t *kv_order, struct st_err *e)
{
    const struct st_config *c = &d->model->config;
    size_t size = (size_t)c->head_dim * c->head_dim;
    double *v, *o;
    struct st_stream *s;
    int rc = st_cov_keys_take(k, c->n_kv_head * size, sizeof *v, &v, e);
    if (!rc)
        rc = st_cov_keys_take(k, c->n_kv_head * size, sizeof *o, &o, e);
    if (!rc)
        rc = st_cov_keys_stream(d, layer, "value", &s, e);
    if (rc)
        return rc;
    for (uint32_t i = 0; !rc && i < c->n_kv_head; i++)
        rc = st_cov_draw_invertible(s, c->head_dim, v + i * size, o + i * size, e);
    st_stream_free(s);
    k->units[ST_ROLE_V] = (struct st_cov_units){.size = c->head_dim, .order = kv_order, .mix = v, .share = 1};
    k->units[ST_ROLE_O] =
        (struct st_cov_units){.size = c->head_dim, .order = q_order, .mix = o, .share = c->n_head / c->n_kv_head};
    return rc;
}

int st_cov_keys_attention(struct st_cov_layer_keys *k, const struct st_cov_draw *d, int layer, struct st_err *e)
{
    const struct st_config *c = &d->model->config;
    size_t size = (size_t)c->head_dim * c->head_dim;
    uint32_t *q_order, *kv_order, *pairs, m = c->head_dim / 2;
    double *q, *key;
    struct st_stream *s;
    int rc = st_cov_draw_heads(k, d, layer, &q_order, &kv_order, e);
    if (!rc)
        rc = st_cov_draw_values(k, d, layer, q_order, kv_order, e);
    if (!rc)
        rc = st_cov_keys_take(k, c->n_kv_head * size, sizeof *q, &q, e);
    if (!rc)
        rc = st_cov_keys_take(k, c->n_kv_head * size, sizeof *key, &key, e);
    if (!rc)
        rc = st_cov_draw_pair_orders(k, d, layer, c->n_kv_head, m, &pairs, e);
    if (!rc)
        rc = st_cov_keys_stream(d, layer, "rope", &s, e);
    if (rc)
        return rc;
    for (uint32_t i = 0; i < c->n_kv_head; i++)
        st_cov_draw_pairs(s, d, c->head_dim, pairs + i * m, q + i * size, key + i * size);
    st_stream_free(s);
    k->units[ST_ROLE_Q] =
        (struct st_cov_units){.size = c->head_dim, .order = q_order, .mix = q, .share = c->n_head / c->n_kv_head};
    k->units[ST_ROLE_K] = (struct st_cov_units){.size = c->head_dim, .order = kv_order, .mix = key, .share = 1};
    return 0;
}
