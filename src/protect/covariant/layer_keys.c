#include "protect/covariant/layer_keys.h"
#include "base/buf.h"
#include "protect/covariant/frame.h"

#include <cblas.h>
#include <math.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>

static int open_stream(const struct st_cov_key *key, const uint8_t digest[32], int layer, const char *what,
                       struct st_stream **s, struct st_err *e)
{
    char label[48];
    snprintf(label, sizeof label, "layer.%d.%s", layer, what);
    return st_cov_key_stream(key, digest, label, s, e);
}

static double log_uniform(struct st_stream *s)
{
    return exp2(2 * st_stream_unit(s) - 1);
}

/* Rotation and scale of each pair; row i of the result belongs to pair i % m. The columns follow the source's layout.
 */
static void draw_pairs(struct st_stream *s, uint32_t head_dim, bool interleaved, double *q, double *k)
{
    uint32_t m = head_dim / 2;
    for (uint32_t i = 0; i < m; i++) {
        double angle = 2 * M_PI * st_stream_unit(s), scale = log_uniform(s);
        double rot[2][2] = {{cos(angle), -sin(angle)}, {sin(angle), cos(angle)}};
        uint32_t in[2] = {interleaved ? 2 * i : i, interleaved ? 2 * i + 1 : i + m};
        for (uint32_t a = 0; a < 2; a++)
            for (uint32_t b = 0; b < 2; b++) {
                size_t at = (size_t)(i + a * m) * head_dim + in[b];
                q[at] = scale * rot[a][b];
                k[at] = rot[a][b] / scale;
            }
    }
}

/* v = (A S B)^T and o = (A S B)^-1 = B^T S^-1 A^T, for orthogonal A, B. work [3][n, n]. */
static int draw_value(struct st_stream *s, uint32_t n, double *v, double *o, double *work, struct st_err *e)
{
    size_t size = (size_t)n * n;
    double *a = work, *b = work + size, *sb = work + 2 * size;
    int dim = (int)n;
    int rc = st_cov_haar(s, n, a, e);
    if (!rc)
        rc = st_cov_haar(s, n, b, e);
    if (rc)
        return rc;
    for (uint32_t i = 0; i < n; i++) {
        double scale = log_uniform(s);
        for (uint32_t j = 0; j < n; j++) {
            sb[(size_t)i * n + j] = scale * b[(size_t)i * n + j];
            b[(size_t)i * n + j] /= scale;
        }
    }
    cblas_dgemm(CblasRowMajor, CblasTrans, CblasTrans, dim, dim, dim, 1, sb, dim, a, dim, 0, v, dim);
    cblas_dgemm(CblasRowMajor, CblasTrans, CblasTrans, dim, dim, dim, 1, b, dim, a, dim, 0, o, dim);
    return 0;
}

static int draw_values(struct st_cov_layer_keys *k, struct st_stream *s, struct st_err *e)
{
    double *work;
    size_t size = (size_t)k->head_dim * k->head_dim;
    int rc = st_cov_doubles(&work, 3 * size, "value keys", e);
    if (rc)
        return rc;
    for (uint32_t i = 0; !rc && i < k->n_kv_head; i++)
        rc = draw_value(s, k->head_dim, k->v_mix + i * size, k->o_mix + i * size, work, e);
    st_cov_doubles_free(work, 3 * size);
    return rc;
}

/* New query slot j * g + r takes head kv_order[j] * g + (a permutation of the group)[r]: one list for the rows of q and
 * for the column blocks of o. */
static int draw_heads(struct st_cov_layer_keys *k, struct st_stream *s, struct st_err *e)
{
    uint32_t *group;
    uint32_t g = k->n_head / k->n_kv_head;
    int rc = st_alloc(&group, g, sizeof *group, "head keys", e);
    if (rc)
        return rc;
    st_stream_permutation(s, k->kv_order, k->n_kv_head);
    for (uint32_t j = 0; j < k->n_kv_head; j++) {
        st_stream_permutation(s, group, g);
        for (uint32_t r = 0; r < g; r++)
            k->q_order[j * g + r] = k->kv_order[j] * g + group[r];
    }
    OPENSSL_cleanse(group, g * sizeof *group);
    free(group);
    return 0;
}

static void draw_neurons(struct st_cov_layer_keys *k, struct st_stream *s)
{
    st_stream_permutation(s, k->ffn_order, k->d_ff);
    for (uint32_t i = 0; i < k->d_ff; i++) {
        k->up_scale[i] = log_uniform(s) * (st_stream_below(s, 2) ? -1 : 1);
        k->down_scale[i] = 1 / k->up_scale[i];
    }
}

static int allocate(struct st_cov_layer_keys *k, struct st_err *e)
{
    size_t mix = (size_t)k->n_kv_head * k->head_dim * k->head_dim;
    double **const mixes[] = {&k->q_mix, &k->k_mix, &k->v_mix, &k->o_mix};
    int rc = 0;
    for (int i = 0; !rc && i < 4; i++)
        rc = st_cov_doubles(mixes[i], mix, "head keys", e);
    if (!rc)
        rc = st_cov_doubles(&k->up_scale, k->d_ff, "neuron keys", e);
    if (!rc)
        rc = st_cov_doubles(&k->down_scale, k->d_ff, "neuron keys", e);
    if (!rc)
        rc = st_alloc(&k->q_order, k->n_head, sizeof *k->q_order, "head keys", e);
    if (!rc)
        rc = st_alloc(&k->kv_order, k->n_kv_head, sizeof *k->kv_order, "head keys", e);
    if (!rc)
        rc = st_alloc(&k->ffn_order, k->d_ff, sizeof *k->ffn_order, "neuron keys", e);
    return rc;
}

int st_cov_layer_keys_init(struct st_cov_layer_keys *k, const struct st_config *config, int layer,
                           const struct st_cov_key *key, const uint8_t model_digest[32], struct st_err *e)
{
    struct st_stream *rope = NULL, *value = NULL, *heads = NULL, *ffn = NULL;
    *k = (struct st_cov_layer_keys){
        .n_kv_head = config->n_kv_head, .head_dim = config->head_dim, .n_head = config->n_head, .d_ff = config->d_ff};
    size_t size = (size_t)k->head_dim * k->head_dim;
    int rc = allocate(k, e);
    if (!rc)
        rc = open_stream(key, model_digest, layer, "rope", &rope, e);
    if (!rc)
        rc = open_stream(key, model_digest, layer, "value", &value, e);
    if (!rc)
        rc = open_stream(key, model_digest, layer, "heads", &heads, e);
    if (!rc)
        rc = open_stream(key, model_digest, layer, "ffn", &ffn, e);
    if (rc)
        goto out;
    for (uint32_t i = 0; i < k->n_kv_head; i++)
        draw_pairs(rope, k->head_dim, config->rope_interleaved, k->q_mix + i * size, k->k_mix + i * size);
    rc = draw_values(k, value, e);
    if (!rc)
        rc = draw_heads(k, heads, e);
    if (!rc)
        draw_neurons(k, ffn);
out:
    st_stream_free(rope);
    st_stream_free(value);
    st_stream_free(heads);
    st_stream_free(ffn);
    if (rc)
        st_cov_layer_keys_wipe(k);
    return rc;
}

static void free_order(uint32_t *p, size_t n)
{
    if (p)
        OPENSSL_cleanse(p, n * sizeof *p);
    free(p);
}

void st_cov_layer_keys_wipe(struct st_cov_layer_keys *k)
{
    size_t mix = (size_t)k->n_kv_head * k->head_dim * k->head_dim;
    st_cov_doubles_free(k->q_mix, mix);
    st_cov_doubles_free(k->k_mix, mix);
    st_cov_doubles_free(k->v_mix, mix);
    st_cov_doubles_free(k->o_mix, mix);
    st_cov_doubles_free(k->up_scale, k->d_ff);
    st_cov_doubles_free(k->down_scale, k->d_ff);
    free_order(k->q_order, k->n_head);
    free_order(k->kv_order, k->n_kv_head);
    free_order(k->ffn_order, k->d_ff);
    *k = (struct st_cov_layer_keys){0};
}
