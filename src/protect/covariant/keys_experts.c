/* Mixture of experts: the router's logits choose experts, whose outputs are summed.
 *   experts  a secret order, new slot -> old expert: the router's rows, its correction bias and the experts themselves
 *            (tensor names of slot s, contents of expert order[s]). The choice and the sum do not depend on the order.
 *            Where experts stand in groups of which only some are open (DeepSeek), groups change places as wholes, and
 *            experts inside their group.
 *   neurons  of each expert as in keys_ffn.c.
 * The router's rows are read by a softmax or sigmoid and a top-k, which allow no scale or sign. The paper brings them
 * all to one norm, which changes the routing: under preset `paper` only.
 * Visible: the router's rows up to their order, which experts a token takes, and each expert as a block of its own.
 * Source: AloePri, arXiv 2603.01499; groups and correction bias are ours. */
#include "base/buf.h"
#include "protect/covariant/layer_parts.h"

#include <math.h>
#include <openssl/crypto.h>
#include <stdlib.h>

static int draw_order(struct st_cov_layer_keys *k, const struct st_config *c, struct st_stream *s, struct st_err *e)
{
    uint32_t *order, *groups, *inside, n_group = c->n_group ? c->n_group : 1, size = c->n_expert / n_group;
    int rc = st_cov_keys_take(k, c->n_expert, sizeof *order, &order, e);
    if (!rc)
        rc = st_cov_keys_take(k, n_group, sizeof *groups, &groups, e);
    if (!rc)
        rc = st_cov_keys_take(k, size, sizeof *inside, &inside, e);
    if (rc)
        return rc;
    st_stream_permutation(s, groups, n_group);
    for (uint32_t g = 0; g < n_group; g++) {
        st_stream_permutation(s, inside, size);
        for (uint32_t i = 0; i < size; i++)
            order[g * size + i] = groups[g] * size + inside[i];
    }
    k->expert_order = order;
    k->units[ST_ROLE_ROUTER] = (struct st_cov_units){.size = 1, .order = order};
    k->units[ST_ROLE_ROUTER_BIAS] = k->units[ST_ROLE_ROUTER];
    return 0;
}

/* Scales that bring every row of the router, with the norm before it folded in, to the mean of their norms. */
static int level_router(struct st_cov_layer_keys *k, const struct st_cov_draw *d, int layer, struct st_err *e)
{
    const struct st_mat *m = &d->model->mats[st_cov_keys_find(d, layer, ST_ROLE_ROUTER)];
    const float *norm = d->model->mats[st_cov_keys_find(d, layer, ST_ROLE_FFN_NORM)].data;
    size_t row = m->n_in * st_dtype_size(m->dtype);
    double *scale, mean = 0;
    float *f = NULL;
    int rc = st_cov_keys_take(k, m->n_out, sizeof *scale, &scale, e);
    if (!rc)
        rc = st_alloc(&f, m->n_in, sizeof *f, "router", e);
    if (rc)
        return rc;
    for (uint32_t i = 0; i < m->n_out; i++) {
        double sum = 0;
        st_convert(m->dtype, (const uint8_t *)m->data + i * row, ST_DTYPE_F32, f, m->n_in);
        for (uint32_t j = 0; j < m->n_in; j++)
            sum += (double)f[j] * (double)norm[j] * (double)f[j] * (double)norm[j];
        scale[i] = sqrt(sum);
        mean += scale[i] / m->n_out;
    }
    for (uint32_t i = 0; i < m->n_out; i++)
        scale[i] = scale[i] > 0 ? mean / scale[i] : 1;
    OPENSSL_cleanse(f, m->n_in * sizeof *f);
    free(f);
    k->units[ST_ROLE_ROUTER].scale = scale;
    return 0;
}

int st_cov_keys_experts(struct st_cov_layer_keys *k, const struct st_cov_draw *d, int layer, struct st_err *e)
{
    const struct st_config *c = &d->model->config;
    struct st_stream *s;
    if (st_cov_keys_find(d, layer, ST_ROLE_ROUTER) < 0)
        return 0;
    int rc = st_cov_keys_stream(d, layer, "experts", &s, e);
    if (rc)
        return rc;
    rc = draw_order(k, c, s, e);
    if (!rc)
        rc = st_cov_draw_neurons(k, s, c->n_expert, c->moe_d_ff, ST_ROLE_EXPERT_GATE, ST_ROLE_EXPERT_UP,
                                 ST_ROLE_EXPERT_DOWN, e);
    st_stream_free(s);
    k->expert_width = c->moe_d_ff;
    if (!rc && d->opts->preset == ST_COV_PRESET_PAPER)
        rc = level_router(k, d, layer, e);
    return rc;
}
