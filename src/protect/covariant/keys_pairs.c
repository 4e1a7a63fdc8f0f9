/* BlockPerm: rotary pairs change places with pairs of nearly the same frequency (preset `paper`).
 * Pair j turns by p f_j at position p. A pair that stands in another's place turns with the other's frequency, so the
 * score changes by about |f_i - f_j| * distance: this is the one key that does not cancel. Windows are drawn so that
 * frequencies inside one are near: from pair t on, the next window has w pairs with probability softmax over w
 * = 1..beta of gamma (f_{t+w} - f_t); its pairs are shuffled. f are the true inverse frequencies, after any scaling.
 * The same order holds for q and k: the paper prints it transposed for one of them, which cancels for involutions only.
 * Rule: |f_i - f_j| * context below 0.3 costs little; gamma must be several times the context for it.
 * Source: AloePri, arXiv 2603.01499, Algorithm 2, second half, in the reading that works. */
#include "base/buf.h"
#include "protect/covariant/layer_parts.h"

#include <math.h>
#include <stdlib.h>

#define FAR_RADIANS 0.3

/* The width of the window at freq[0], 1..c. */
static uint32_t draw_width(struct st_stream *s, const float *freq, uint32_t c, double gamma)
{
    double sum = 0, top = (double)freq[1], u = st_stream_unit(s);
    for (uint32_t i = 2; i <= c; i++)
        top = fmax(top, (double)freq[i]);
    for (uint32_t i = 1; i <= c; i++)
        sum += exp(gamma * ((double)freq[i] - top));
    for (uint32_t i = 1; i < c; i++) {
        u -= exp(gamma * ((double)freq[i] - top)) / sum;
        if (u < 0)
            return i;
    }
    return c;
}

void st_cov_draw_blocks(struct st_stream *s, const float *freq, uint32_t m, uint32_t beta, double gamma, uint32_t *from)
{
    for (uint32_t i = 0; i < m; i++)
        from[i] = i;
    for (uint32_t t = 0; t + 1 < m;) {
        uint32_t w = draw_width(s, freq + t, beta < m - 1 - t ? beta : m - 1 - t, gamma);
        st_stream_permutation(s, from + t, w);
        for (uint32_t i = 0; i < w; i++)
            from[t + i] += t;
        t += w;
    }
}

int st_cov_draw_pair_orders(struct st_cov_layer_keys *k, const struct st_cov_draw *d, int layer, uint32_t n, uint32_t m,
                            uint32_t **from, struct st_err *e)
{
    const struct st_cov_opts *o = d->opts;
    struct st_stream *s = NULL;
    float *freq = NULL;
    int rc = st_cov_keys_take(k, (size_t)n * m, sizeof **from, from, e);
    if (!rc)
        rc = st_alloc(&freq, m, sizeof *freq, "rotary frequencies", e);
    if (!rc)
        rc = st_cov_keys_stream(d, layer, "blocks", &s, e);
    if (rc)
        goto out;
    st_config_inv_freq(&d->model->config, freq);
    for (uint32_t h = 0; h < n; h++) {
        uint32_t *order = *from + (size_t)h * m;
        st_cov_draw_blocks(s, freq, m, o->beta > 1 ? o->beta : 1, o->gamma, order);
        for (uint32_t i = 0; i < m; i++)
            k->n_far += fabs((double)freq[i] - (double)freq[order[i]]) * d->model->config.n_ctx > FAR_RADIANS;
    }
out:
    st_stream_free(s);
    free(freq);
    return rc;
}
