/* Invariants of the gates (A4, "Gate-IA"): the mean over a layer's neurons of what a token's embedding makes of them is
 * the same in any order of the neurons. One number per layer, whitened by the noise that is known to be in the
 * embedding; and with the mean of the squares two. Nearest neighbour.
 * Sources: arXiv 2603.01499, appendix F.1; Lin et al., EMNLP 2024, pp. 2100-2104. */
#include "audit/features.h"
#include "audit/match.h"
#include "base/buf.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Features of the base under draws of noise: [n * ST_MARK_SIMS][k], draws of a row side by side. */
static int simulate(const struct st_audit *a, const struct st_view *base, bool squares, struct st_dense *out,
                    struct st_err *e)
{
    struct st_noise_table table = {0};
    size_t n = base->rows.n_row, k = (squares ? 2 : 1) * (size_t)base->n_layer;
    double sigma;
    if (st_view_spread(a->pool, &base->rows, &sigma, e) || st_dense_new(out, n * ST_MARK_SIMS, k, "gates", e))
        return e->code;
    /* Without noise all features would count alike; a little tells what noise there could be. */
    sigma *= fmax(a->target->pair.noise.embed, 1e-3);
    int rc = st_noise_table_new(&table, base->rows.n_col, a->seed, e);
    for (size_t s = 0; !rc && s < ST_MARK_SIMS; s++) {
        struct st_dense rows = {0}, f = {0};
        rc = a->cancel && *a->cancel ? st_fail(e, ST_IO, "cancelled") : 0;
        if (!rc)
            rc = st_noisy_rows(&base->rows, &table, sigma, a->seed + s, &rows, e);
        if (!rc)
            rc = st_neuron_means(a->pool, base, &rows, squares, &f, e);
        for (size_t r = 0; !rc && r < n; r++)
            memcpy(st_dense_row(out, r * ST_MARK_SIMS + s), st_dense_row(&f, r), k * sizeof(float));
        st_dense_free(&rows);
        st_dense_free(&f);
    }
    st_noise_table_free(&table);
    if (rc)
        st_dense_free(out);
    return rc;
}

static int attack(const struct st_audit *a, const struct st_view *base, const struct st_view *seen, bool squares,
                  const char *variant, struct st_rows *rows, struct st_err *e)
{
    struct st_dense sims = {0}, mean = {0}, w = {0}, f = {0}, x = {0}, y = {0};
    uint32_t *guess = NULL;
    e->code = 0;
    if (simulate(a, base, squares, &sims, e) || st_whiten_draws(&sims, &mean, &w, e) ||
        st_neuron_means(a->pool, seen, &seen->rows, squares, &f, e) || st_dense_new(&x, f.n_row, f.n_col, "gates", e) ||
        st_dense_new(&y, mean.n_row, mean.n_col, "gates", e) || st_alloc(&guess, f.n_row, sizeof *guess, "gates", e))
        goto out;
    st_dense_product(a->pool, &f, &w, false, &x);
    st_dense_product(a->pool, &mean, &w, false, &y);
    if (st_match_points(a->pool, &x, &y, false, guess, e) || st_match_report(a, variant, guess, NULL, rows, e))
        goto out;
out:
    free(guess);
    struct st_dense *all[] = {&sims, &mean, &w, &f, &x, &y};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        st_dense_free(all[i]);
    return e->code;
}

/* Views of both, noisy rows and a block of products, draws of the features. */
static uint64_t takes(const struct st_audit *a)
{
    const struct st_config *b = &a->target->pair.base->config;
    struct st_view_size base = st_view_size(a->target->pair.base, ST_VIEW_GATE, UINT32_MAX);
    uint64_t n = a->target->pair.seen->config.n_vocab;
    uint64_t values = n * b->d_model + n * 2 * b->n_layer * (ST_MARK_SIMS + 6) + (uint64_t)256 * base.widest * 16;
    return base.bytes + st_view_size(a->target->pair.seen, ST_VIEW_GATE, UINT32_MAX).bytes + sizeof(float) * values;
}

static int run(const struct st_audit *a, struct st_rows *rows, struct st_err *e)
{
    const struct st_pair *p = &a->target->pair;
    struct st_view base = {0}, seen = {0};
    double sigma;
    e->code = 0;
    if (st_match_check(a, e) || st_match_fits(a, takes(a), e) ||
        st_view_of_model(p->base, ST_VIEW_GATE, UINT32_MAX, &base, e) ||
        st_view_of_model(p->seen, ST_VIEW_GATE, UINT32_MAX, &seen, e) ||
        st_view_spread(a->pool, &base.rows, &sigma, e) ||
        st_view_normalise(a->pool, &base, p->noise.embed * sigma, p->noise.all, e) ||
        st_view_normalise(a->pool, &seen, 0, 0, e))
        goto out;
    if (base.n_layer != seen.n_layer) {
        st_fail(e, ST_INPUT, "the base has %u layers with gates, the obfuscated model %u", base.n_layer, seen.n_layer);
        goto out;
    }
    if (attack(a, &base, &seen, false, "means", rows, e) || attack(a, &base, &seen, true, "means and squares", rows, e))
        goto out;
out:
    st_view_free(&base);
    st_view_free(&seen);
    return e->code;
}

const struct st_attack st_atk_gate_ia = {
    .name = "gate-ia",
    .title = "Invariants of the gates",
    .metric = "share of token types and of the text recovered",
    .source = "arXiv 2603.01499, app. F.1; Lin et al., EMNLP 2024",
    .adversary = ST_ADVERSARY_SERVER,
    .needs = ST_TARGET_PAIR,
    .run = run,
};
