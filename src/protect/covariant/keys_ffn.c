/* Neurons: h = W_down (silu(W_gate x) * W_up x); in one dense block, in the shared experts as one, or in each expert.
 * A secret order of the neurons, the same for the rows of gate and up and the columns of down: a sum does not depend on
 * its order. Up is scaled by +-s and down by its inverse, s log-uniform in [1/2, 2]: h is linear in up. Gate is only
 * reordered, because SiLU allows neither scale nor sign.
 * Visible: the rows of gate up to their order, the products of up and down. */
#include "protect/covariant/layer_parts.h"

int st_cov_draw_neurons(struct st_cov_layer_keys *k, struct st_stream *s, uint32_t n_block, uint32_t n,
                        enum st_role gate, enum st_role up, enum st_role down, struct st_err *e)
{
    uint32_t *order;
    double *by, *back;
    size_t all = (size_t)n_block * n;
    int rc = st_cov_keys_take(k, all, sizeof *order, &order, e);
    if (!rc)
        rc = st_cov_keys_take(k, all, sizeof *by, &by, e);
    if (!rc)
        rc = st_cov_keys_take(k, all, sizeof *back, &back, e);
    if (rc)
        return rc;
    for (uint32_t i = 0; i < n_block; i++)
        st_stream_permutation(s, order + (size_t)i * n, n);
    for (size_t i = 0; i < all; i++) {
        by[i] = st_cov_draw_scale(s) * (st_stream_below(s, 2) ? -1 : 1);
        back[i] = 1 / by[i];
    }
    k->units[gate] = (struct st_cov_units){.size = 1, .order = order};
    k->units[up] = (struct st_cov_units){.size = 1, .order = order, .scale = by};
    k->units[down] = (struct st_cov_units){.size = 1, .order = order, .scale = back};
    return 0;
}

/* One block whose gate has the given role, when the layer has it. */
static int draw_block(struct st_cov_layer_keys *k, const struct st_cov_draw *d, int layer, const char *what,
                      enum st_role gate, enum st_role up, enum st_role down, struct st_err *e)
{
    int at = st_cov_keys_find(d, layer, gate);
    struct st_stream *s;
    if (at < 0)
        return 0;
    int rc = st_cov_keys_stream(d, layer, what, &s, e);
    if (rc)
        return rc;
    rc = st_cov_draw_neurons(k, s, 1, d->model->plan.weights[at].n_out, gate, up, down, e);
    st_stream_free(s);
    return rc;
}

int st_cov_keys_ffn(struct st_cov_layer_keys *k, const struct st_cov_draw *d, int layer, struct st_err *e)
{
    int rc = draw_block(k, d, layer, "ffn", ST_ROLE_GATE, ST_ROLE_UP, ST_ROLE_DOWN, e);
    return rc ? rc : draw_block(k, d, layer, "shared", ST_ROLE_SHARED_GATE, ST_ROLE_SHARED_UP, ST_ROLE_SHARED_DOWN, e);
}
