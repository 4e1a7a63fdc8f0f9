/* Latent attention (DeepSeek-V2, V3). Queries come from a compressed c_q = norm(W_qa x) (or from x itself), keys and
 * values of all heads from one c = norm(W_kva x), and one rotary key k_r, a part of W_kva x, serves all heads:
 *   score = q_n^T k_n + rot_p(q_r)^T rot_p'(k_r), with [q_n q_r] = W_qb c_q and [k_n v] = W_kvb c per head.
 * Row convention:
 *   latents  an orthogonal O each: c -> c O. What writes it (W_qa, the first rows of W_kva, their biases) takes O, what
 *            reads it (W_qb, W_kvb) takes its transpose. The weight of the norm between would not commute with O: it is
 *            folded into the reader and becomes ones, and a norm without weights commutes with rotations exactly.
 *   q_n k_n  per head an invertible A on q_n, its inverse transpose on k_n.
 *   q_r k_r  rotations and scales of the pairs as in keys_attention.c, but one draw for all heads, which share k_r.
 *            Under preset `paper` pairs change places as well, once for all heads.
 *   v, o     per head an invertible U on v, its inverse on the matching columns of o.
 *   heads    a secret order. No groups: every head has keys of its own.
 * Visible: the spectra of W_qb and W_kvb with their norms folded in, the product W_qb W_kvb^T of each head up to O and
 * O', and the pairs as in keys_attention.c.
 * Source: ours; AloePri names "another set of invertible transformations" without saying which. */
#include "protect/covariant/layer_parts.h"

#include <math.h>
#include <string.h>

/* The basis of a latent of n values: a frame without spare room, and the matrix that the rows of its writer take
 * (followed by `tail` more rows, left zero). */
static int draw_latent(struct st_cov_layer_keys *k, struct st_stream *s, struct st_cov_frame *latent, uint32_t n,
                       uint32_t tail, double **mix, struct st_err *e)
{
    uint32_t size = n + tail;
    int rc = st_cov_frame_init(latent, ST_COV_PRESET_TIGHT, n, 0, 0, s, e);
    if (!rc)
        rc = st_cov_keys_take(k, (size_t)size * size, sizeof **mix, mix, e);
    for (uint32_t i = 0; !rc && i < n; i++)
        for (uint32_t j = 0; j < n; j++)
            (*mix)[(size_t)i * size + j] = latent->writer[(size_t)j * n + i];
    return rc;
}

/* to [size, size] gets part [n, n] on its diagonal, from row `at` on. */
static void set_block(double *to, uint32_t size, uint32_t at, const double *part, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        memcpy(to + (size_t)(at + i) * size + at, part + (size_t)i * n, n * sizeof *part);
}

struct mixes {
    double *q_a, *kv_a;      /* one unit each */
    double *q, *kv_b, *o;    /* [n_head] */
    double *q_pair, *k_pair; /* [rope_dim, rope_dim] */
    double *a, *b;           /* an invertible matrix and its inverse */
};

static int take_mixes(struct st_cov_layer_keys *k, const struct st_config *c, struct mixes *m, struct st_err *e)
{
    uint32_t plain = c->head_dim - c->rope_dim, kv = plain + c->v_head_dim;
    uint32_t larger = plain > c->v_head_dim ? plain : c->v_head_dim;
    const struct {
        double **p;
        uint32_t n, size;
    } parts[] = {{&m->q, c->n_head, c->head_dim},
                 {&m->kv_b, c->n_head, kv},
                 {&m->o, c->n_head, c->v_head_dim},
                 {&m->q_pair, 1, c->rope_dim},
                 {&m->k_pair, 1, c->rope_dim},
                 {&m->a, 1, larger},
                 {&m->b, 1, larger}};
    int rc = 0;
    for (size_t i = 0; !rc && i < sizeof parts / sizeof *parts; i++)
        rc = st_cov_keys_take(k, (size_t)parts[i].n * parts[i].size * parts[i].size, sizeof(double), parts[i].p, e);
    return rc;
}

static int draw_head(struct st_stream *s, const struct st_config *c, uint32_t head, struct mixes *m, struct st_err *e)
{
    uint32_t plain = c->head_dim - c->rope_dim, value = c->v_head_dim, kv = plain + value;
    double *q = m->q + (size_t)head * c->head_dim * c->head_dim, *kv_b = m->kv_b + (size_t)head * kv * kv;
    int rc = st_cov_draw_invertible(s, plain, m->a, m->b, e);
    if (rc)
        return rc;
    set_block(q, c->head_dim, 0, m->a, plain);
    set_block(q, c->head_dim, plain, m->q_pair, c->rope_dim);
    set_block(kv_b, kv, 0, m->b, plain);
    rc = st_cov_draw_invertible(s, value, m->a, m->b, e);
    if (rc)
        return rc;
    set_block(kv_b, kv, plain, m->a, value);
    set_block(m->o + (size_t)head * value * value, value, 0, m->b, value);
    return 0;
}

static int draw(struct st_cov_layer_keys *k, const struct st_cov_draw *d, int layer, struct mixes *m, struct st_err *e)
{
    const struct st_config *c = &d->model->config;
    struct st_stream *latent = NULL, *rope = NULL, *heads = NULL;
    uint32_t *pairs;
    int rc = st_cov_keys_stream(d, layer, "latent", &latent, e);
    if (!rc)
        rc = st_cov_keys_stream(d, layer, "rope", &rope, e);
    if (!rc)
        rc = st_cov_keys_stream(d, layer, "value", &heads, e);
    if (!rc)
        rc = st_cov_draw_pair_orders(k, d, layer, 1, c->rope_dim / 2, &pairs, e);
    if (!rc)
        rc = draw_latent(k, latent, &k->kv_latent, c->kv_lora_rank, c->rope_dim, &m->kv_a, e);
    if (!rc && c->q_lora_rank)
        rc = draw_latent(k, latent, &k->q_latent, c->q_lora_rank, 0, &m->q_a, e);
    if (!rc) {
        st_cov_draw_pairs(rope, d, c->rope_dim, pairs, m->q_pair, m->k_pair);
        set_block(m->kv_a, c->kv_lora_rank + c->rope_dim, c->kv_lora_rank, m->k_pair, c->rope_dim);
    }
    for (uint32_t h = 0; !rc && h < c->n_head; h++)
        rc = draw_head(heads, c, h, m, e);
    st_stream_free(latent);
    st_stream_free(rope);
    st_stream_free(heads);
    return rc;
}

int st_cov_keys_mla(struct st_cov_layer_keys *k, const struct st_cov_draw *d, int layer, struct st_err *e)
{
    const struct st_config *c = &d->model->config;
    uint32_t *order, *same, kv = c->head_dim - c->rope_dim + c->v_head_dim;
    struct mixes m = {0};
    int rc = st_cov_draw_heads(k, d, layer, &order, &same, e);
    if (!rc)
        rc = take_mixes(k, c, &m, e);
    if (!rc)
        rc = draw(k, d, layer, &m, e);
    if (rc)
        return rc;
    const struct st_cov_units q = {.size = c->head_dim, .order = order, .mix = m.q, .share = 1};
    k->units[c->q_lora_rank ? ST_ROLE_Q_B : ST_ROLE_Q] = q;
    if (c->q_lora_rank)
        k->units[ST_ROLE_Q_A] = (struct st_cov_units){.size = c->q_lora_rank, .mix = m.q_a, .share = 1};
    k->units[ST_ROLE_KV_A] = (struct st_cov_units){.size = c->kv_lora_rank + c->rope_dim, .mix = m.kv_a, .share = 1};
    k->units[ST_ROLE_KV_B] = (struct st_cov_units){.size = kv, .order = order, .mix = m.kv_b, .share = 1};
    k->units[ST_ROLE_O] = (struct st_cov_units){.size = c->v_head_dim, .order = order, .mix = m.o, .share = 1};
    return 0;
}
