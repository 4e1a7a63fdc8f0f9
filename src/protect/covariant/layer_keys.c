#include "base/buf.h"
#include "protect/covariant/layer_parts.h"

#include <cblas.h>
#include <math.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>

int st_cov_keys_take(struct st_cov_layer_keys *k, size_t n, size_t size, void *out, struct st_err *e)
{
    void *p = NULL;
    if (k->n_owned == ST_COV_KEYS_OWNED)
        return st_fail(e, ST_INTERNAL, "layer keys: more than %d blocks", ST_COV_KEYS_OWNED);
    int rc = st_alloc(&p, n, size, "layer keys", e);
    if (rc)
        return rc;
    k->owned[k->n_owned].p = p;
    k->owned[k->n_owned++].len = n * size;
    *(void **)out = p;
    return 0;
}

int st_cov_keys_stream(const struct st_cov_draw *d, int layer, const char *what, struct st_stream **s, struct st_err *e)
{
    char label[48];
    snprintf(label, sizeof label, "layer.%d.%s", layer, what);
    return st_cov_key_stream(d->key, d->digest, label, s, e);
}

int st_cov_keys_find(const struct st_cov_draw *d, int layer, enum st_role role)
{
    const struct st_plan *p = &d->model->plan;
    for (int i = 0; i < p->n_weight; i++)
        if (p->weights[i].role == role && p->weights[i].layer == layer)
            return i;
    return -1;
}

double st_cov_draw_scale(struct st_stream *s)
{
    return exp2(2 * st_stream_unit(s) - 1);
}

/* M = A S B: a = B^T S A^T, b = B^T S^-1 A^T. */
int st_cov_draw_invertible(struct st_stream *s, uint32_t n, double *a, double *b, struct st_err *e)
{
    size_t size = (size_t)n * n;
    int dim = (int)n;
    double *work;
    int rc = st_cov_doubles(&work, 3 * size, "layer keys", e);
    if (rc)
        return rc;
    double *left = work, *right = work + size, *scaled = work + 2 * size;
    rc = st_cov_haar(s, n, left, e);
    if (!rc)
        rc = st_cov_haar(s, n, right, e);
    for (uint32_t i = 0; !rc && i < n; i++) {
        double scale = sqrt(st_cov_draw_scale(s));
        for (uint32_t j = 0; j < n; j++) {
            scaled[(size_t)i * n + j] = scale * right[(size_t)i * n + j];
            right[(size_t)i * n + j] /= scale;
        }
    }
    if (!rc) {
        cblas_dgemm(CblasRowMajor, CblasTrans, CblasTrans, dim, dim, dim, 1, scaled, dim, left, dim, 0, a, dim);
        cblas_dgemm(CblasRowMajor, CblasTrans, CblasTrans, dim, dim, dim, 1, right, dim, left, dim, 0, b, dim);
    }
    st_cov_doubles_free(work, 3 * size);
    return rc;
}

int st_cov_layer_keys_init(struct st_cov_layer_keys *k, const struct st_cov_draw *d, int layer, struct st_err *e)
{
    *k = (struct st_cov_layer_keys){0};
    int rc = 0;
    if (d->model->config.kv_lora_rank)
        rc = st_cov_keys_mla(k, d, layer, e);
    else if (d->model->config.qk_norm)
        rc = st_cov_keys_qk_norm(k, d, layer, e);
    else
        rc = st_cov_keys_attention(k, d, layer, e);
    if (!rc)
        rc = st_cov_keys_ffn(k, d, layer, e);
    if (!rc)
        rc = st_cov_keys_experts(k, d, layer, e);
    if (rc)
        st_cov_layer_keys_wipe(k);
    return rc;
}

struct st_cov_units st_cov_layer_units(const struct st_cov_layer_keys *k, enum st_role role, int expert)
{
    struct st_cov_units u = k->units[role];
    if (expert >= 0) {
        size_t skip = (size_t)expert * k->expert_width;
        u.order += skip;
        u.scale = u.scale ? u.scale + skip : NULL;
    }
    return u;
}

void st_cov_layer_keys_wipe(struct st_cov_layer_keys *k)
{
    for (int i = 0; i < k->n_owned; i++) {
        OPENSSL_cleanse(k->owned[i].p, k->owned[i].len);
        free(k->owned[i].p);
    }
    st_cov_frame_wipe(&k->q_latent);
    st_cov_frame_wipe(&k->kv_latent);
    *k = (struct st_cov_layer_keys){0};
}
