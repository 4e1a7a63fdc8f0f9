/* Neurons: h = W_down (silu(W_gate x) * W_up x).
 * A secret order of the neurons, the same for the rows of gate and up and the columns of down: a sum does not depend on
 * its order. Up is scaled by +-s and down by its inverse, s log-uniform in [1/2, 2]: h is linear in up. Gate is only
 * reordered, because SiLU allows neither scale nor sign.
 * Visible: the rows of gate up to their order, the products of up and down. */
#include "protect/covariant/layer_parts.h"

int st_cov_keys_ffn(struct st_cov_layer_keys *k, const struct st_cov_draw *d, int layer, struct st_err *e)
{
    const struct st_plan_weight *gate = st_cov_keys_find(d, layer, ST_ROLE_GATE);
    uint32_t *order, n = gate ? gate->n_out : 0;
    double *up, *down;
    struct st_stream *s;
    if (!gate)
        return 0;
    int rc = st_cov_keys_take(k, n, sizeof *order, &order, e);
    if (!rc)
        rc = st_cov_keys_take(k, n, sizeof *up, &up, e);
    if (!rc)
        rc = st_cov_keys_take(k, n, sizeof *down, &down, e);
    if (!rc)
        rc = st_cov_keys_stream(d, layer, "ffn", &s, e);
    if (rc)
        return rc;
    st_stream_permutation(s, order, n);
    for (uint32_t i = 0; i < n; i++) {
        up[i] = st_cov_draw_scale(s) * (st_stream_below(s, 2) ? -1 : 1);
        down[i] = 1 / up[i];
    }
    st_stream_free(s);
    k->units[ST_ROLE_GATE] = (struct st_cov_units){.size = 1, .order = order};
    k->units[ST_ROLE_UP] = (struct st_cov_units){.size = 1, .order = order, .scale = up};
    k->units[ST_ROLE_DOWN] = (struct st_cov_units){.size = 1, .order = order, .scale = down};
    return 0;
}
