#include "audit/blocks.h"
#include "audit/deviates.h"
#include "audit/views.h"
#include "base/buf.h"
#include "base/hooks.h"

#include <cblas.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BETA1 .9
#define BETA2 .99
#define NEARLY .1 /* share of a layer's output weights that leaves the residual stream nearly as it is */

/* ---- weights ---- */

/* Parts of a layer's weights, or of their derivatives. */
struct layer {
    float *norm, *q, *k, *v, *o, *norm2, *gate, *up, *down;
};

static size_t layer_len(const struct st_blocks *b)
{
    size_t d = b->d, q = (size_t)b->n_head * b->head, k = (size_t)b->n_kv * b->head;
    return 2 * d + 2 * q * d + 2 * k * d + 3 * (size_t)b->n_ff * d;
}

static struct layer layer_of(const struct st_blocks *b, float *w, uint32_t i)
{
    size_t d = b->d, q = (size_t)b->n_head * b->head, k = (size_t)b->n_kv * b->head, ff = b->n_ff;
    struct layer l = {.norm = w + i * layer_len(b)};
    l.norm2 = l.norm + d;
    l.q = l.norm2 + d;
    l.k = l.q + q * d;
    l.v = l.k + k * d;
    l.o = l.v + k * d;
    l.gate = l.o + q * d;
    l.up = l.gate + ff * d;
    l.down = l.up + ff * d;
    return l;
}

int st_blocks_new(const struct st_blocks *shape, struct st_blocks *out, struct st_err *e)
{
    *out = *shape;
    out->inv_freq = out->w = NULL;
    out->n_w = shape->n_layer * layer_len(shape);
    out->gain = 1;
    out->scale = 1 / sqrtf((float)shape->head);
    if (st_alloc(&out->w, out->n_w, sizeof *out->w, "layers", e) ||
        st_alloc(&out->inv_freq, shape->head / 2, sizeof *out->inv_freq, "layers", e)) {
        st_blocks_free(out);
        return e->code;
    }
    for (uint32_t i = 0; i < shape->head / 2; i++)
        out->inv_freq[i] = powf(1e4F, -2.0F * (float)i / (float)shape->head);
    for (uint32_t i = 0; i < shape->n_layer; i++)
        for (size_t k = 0; k < 2 * (size_t)shape->d; k++)
            layer_of(out, out->w, i).norm[k] = 1;
    return 0;
}

void st_blocks_free(struct st_blocks *b)
{
    free(b->inv_freq);
    free(b->w);
    b->inv_freq = b->w = NULL;
}

void st_blocks_draw(struct st_blocks *b, uint64_t seed)
{
    struct st_rng rng;
    size_t d = b->d, q = (size_t)b->n_head * b->head, k = (size_t)b->n_kv * b->head, ff = b->n_ff;
    st_rng_seed(&rng, seed);
    for (uint32_t i = 0; i < b->n_layer; i++) {
        struct layer l = layer_of(b, b->w, i);
        st_deviates(&rng, 1 / sqrt((double)d), NULL, l.q, (q + 2 * k) * d);
        st_deviates(&rng, NEARLY / sqrt((double)q), NULL, l.o, q * d);
        st_deviates(&rng, 1 / sqrt((double)d), NULL, l.gate, 2 * ff * d);
        st_deviates(&rng, NEARLY / sqrt((double)ff), NULL, l.down, ff * d);
    }
}

/* One weight of a layer into its place. */
static int take(const struct st_model *m, enum st_role role, uint32_t layer, float *to, size_t n, struct st_err *e)
{
    for (int i = 0; i < m->plan.n_weight; i++) {
        const struct st_plan_weight *w = &m->plan.weights[i];
        struct st_dense d;
        if (w->role != role || w->layer != (int)layer || w->expert >= 0)
            continue;
        if ((size_t)w->n_out * w->n_in != n)
            break;
        if (w->n_in == 1) {
            memcpy(to, m->mats[i].data, n * sizeof *to);
            return 0;
        }
        if (st_view_weight(m, i, &d, e))
            return e->code;
        memcpy(to, d.p, n * sizeof *to);
        st_dense_free(&d);
        return 0;
    }
    return st_fail(e, ST_UNSUPPORTED, "%s: layer %u has no plain %s of %zu values", m->name, layer, st_role_name(role),
                   n);
}

static int check_plain(const struct st_model *m, uint32_t n_layer, struct st_err *e)
{
    const struct st_config *c = &m->config;
    bool plain = !c->qkv_bias && !c->o_bias && !c->mlp_bias && !c->qk_norm && !c->kv_lora_rank && !c->sliding_window &&
                 c->rope_dim == c->head_dim && c->v_head_dim == c->head_dim;
    for (uint32_t i = 0; i < n_layer; i++)
        plain = plain && !st_config_is_moe(c, i);
    return plain ? 0
                 : st_fail(e, ST_UNSUPPORTED, "%s: %s is not the plain architecture that this attack differentiates",
                           m->name, c->arch);
}

int st_blocks_of_model(const struct st_model *m, uint32_t n_layer, struct st_blocks *out, struct st_err *e)
{
    const struct st_config *c = &m->config;
    const struct st_blocks shape = {.n_layer = n_layer,
                                    .d = c->d_model,
                                    .n_head = c->n_head,
                                    .n_kv = c->n_kv_head,
                                    .head = c->head_dim,
                                    .n_ff = c->d_ff,
                                    .interleaved = c->rope_interleaved,
                                    .eps = c->norm_eps};
    size_t d = c->d_model, q = (size_t)c->n_head * c->head_dim, k = (size_t)c->n_kv_head * c->head_dim, ff = c->d_ff;
    *out = (struct st_blocks){.n_layer = 0};
    if (check_plain(m, n_layer, e) || st_blocks_new(&shape, out, e))
        return e->code;
    st_config_inv_freq(c, out->inv_freq);
    out->gain = st_config_rope_gain(c);
    out->scale = st_config_attn_scale(c);
    for (uint32_t i = 0; i < n_layer; i++) {
        struct layer l = layer_of(out, out->w, i);
        if (take(m, ST_ROLE_ATTN_NORM, i, l.norm, d, e) || take(m, ST_ROLE_FFN_NORM, i, l.norm2, d, e) ||
            take(m, ST_ROLE_Q, i, l.q, q * d, e) || take(m, ST_ROLE_K, i, l.k, k * d, e) ||
            take(m, ST_ROLE_V, i, l.v, k * d, e) || take(m, ST_ROLE_O, i, l.o, q * d, e) ||
            take(m, ST_ROLE_GATE, i, l.gate, ff * d, e) || take(m, ST_ROLE_UP, i, l.up, ff * d, e) ||
            take(m, ST_ROLE_DOWN, i, l.down, ff * d, e)) {
            st_blocks_free(out);
            return e->code;
        }
    }
    return 0;
}

/* ---- a pass ---- */

/* What a layer computed; rows are n_text * len. */
struct kept {
    float *x, *xn, *q, *k, *v, *p, *s, *o, *x1, *yn, *gate, *up, *act;
    float *r1, *r2; /* [n] one over the root mean square */
};

struct st_pass {
    uint32_t n_text, len, n_layer;
    size_t n;
    struct kept *at; /* [n_layer] */
    float *out;
    float *d, *dn, *dq, *dk, *dv, *dox, *dgate, *dup, *dp; /* of backward */
    float *cosine, *sine;                                  /* [len][head / 2] */
    float *all;
};

/* Space is counted first and given out in a second round. */
static float *part(float **at, size_t *total, size_t n)
{
    float *p = *at;
    *total += n;
    if (p)
        *at += n;
    return p;
}

static size_t lay_out(struct st_pass *p, const struct st_blocks *b, float *from)
{
    size_t n = p->n, total = 0, q = n * b->n_head * b->head, k = n * b->n_kv * b->head, d = n * b->d, ff = n * b->n_ff,
           scores = n * b->n_head * p->len;
    float *at = from;
    for (uint32_t i = 0; i < p->n_layer; i++) {
        struct kept *l = &p->at[i];
        float **const rows[] = {&l->x, &l->xn, &l->x1, &l->yn};
        for (int m = 0; m < 4; m++)
            *rows[m] = part(&at, &total, d);
        l->q = part(&at, &total, q);
        l->o = part(&at, &total, q);
        l->k = part(&at, &total, k);
        l->v = part(&at, &total, k);
        l->s = part(&at, &total, scores);
        l->p = part(&at, &total, scores);
        l->gate = part(&at, &total, ff);
        l->up = part(&at, &total, ff);
        l->act = part(&at, &total, ff);
        l->r1 = part(&at, &total, n);
        l->r2 = part(&at, &total, n);
    }
    p->out = part(&at, &total, d);
    p->d = part(&at, &total, d);
    p->dn = part(&at, &total, d);
    p->dq = part(&at, &total, q);
    p->dox = part(&at, &total, q);
    p->dk = part(&at, &total, k);
    p->dv = part(&at, &total, k);
    p->dgate = part(&at, &total, ff);
    p->dup = part(&at, &total, ff);
    p->dp = part(&at, &total, (size_t)p->len * p->len);
    p->cosine = part(&at, &total, (size_t)p->len * b->head / 2);
    p->sine = part(&at, &total, (size_t)p->len * b->head / 2);
    return total;
}

int st_pass_new(const struct st_blocks *b, uint32_t n_text, uint32_t len, struct st_pass **out, struct st_err *e)
{
    struct st_pass *p;
    if (st_alloc(&p, 1, sizeof *p, "a pass", e))
        return e->code;
    *p = (struct st_pass){.n_text = n_text, .len = len, .n_layer = b->n_layer, .n = (size_t)n_text * len};
    if (st_alloc(&p->at, b->n_layer, sizeof *p->at, "a pass", e) ||
        st_alloc(&p->all, lay_out(p, b, NULL), sizeof *p->all, "a pass", e)) {
        st_pass_free(p);
        return e->code;
    }
    (void)lay_out(p, b, p->all);
    for (uint32_t t = 0; t < len; t++)
        for (uint32_t i = 0; i < b->head / 2; i++) {
            double angle = (double)t * b->inv_freq[i];
            p->cosine[t * (b->head / 2) + i] = (float)cos(angle) * b->gain;
            p->sine[t * (b->head / 2) + i] = (float)sin(angle) * b->gain;
        }
    openblas_set_num_threads(1);
    *out = p;
    return 0;
}

void st_pass_free(struct st_pass *p)
{
    if (!p)
        return;
    free(p->at);
    free(p->all);
    free(p);
}

/* ---- pieces of a layer ---- */

/* y [n][k] = keep * y + x [n][m] w^T [m][k] */
static void through(const float *x, const float *w, float *y, size_t n, size_t m, size_t k, float keep)
{
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)n, (int)k, (int)m, 1, x, (int)m, w, (int)m, keep, y,
                (int)k);
}

/* dx [n][m] = keep * dx + dy [n][k] w [k][m]; dw [k][m] = dy^T x where it is asked for. */
static void back(const float *x, const float *w, const float *dy, float *dx, float *dw, size_t n, size_t m, size_t k,
                 float keep)
{
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)n, (int)m, (int)k, 1, dy, (int)k, w, (int)m, keep, dx,
                (int)m);
    if (dw)
        cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)k, (int)m, (int)n, 1, dy, (int)k, x, (int)m, 0, dw,
                    (int)m);
}

static void norm(const float *x, const float *w, float eps, size_t n, size_t d, float *y, float *r)
{
    for (size_t i = 0; i < n; i++) {
        double square = 0;
        for (size_t k = 0; k < d; k++)
            square += (double)x[i * d + k] * x[i * d + k];
        r[i] = (float)(1 / sqrt(square / (double)d + eps));
        for (size_t k = 0; k < d; k++)
            y[i * d + k] = x[i * d + k] * r[i] * w[k];
    }
}

/* dx += what dy says of x. */
static void norm_back(const float *x, const float *w, const float *r, const float *dy, size_t n, size_t d, float *dx,
                      float *dw)
{
    if (dw)
        memset(dw, 0, d * sizeof *dw);
    for (size_t i = 0; i < n; i++) {
        double sum = 0;
        for (size_t k = 0; k < d; k++)
            sum += (double)dy[i * d + k] * w[k] * x[i * d + k];
        float by = (float)(sum / (double)d * r[i] * r[i] * r[i]);
        for (size_t k = 0; k < d; k++) {
            dx[i * d + k] += dy[i * d + k] * w[k] * r[i] - x[i * d + k] * by;
            if (dw)
                dw[k] += dy[i * d + k] * x[i * d + k] * r[i];
        }
    }
}

/* Pairs of each head turned by the place's angle, or back. */
static void turn(const struct st_pass *p, const struct st_blocks *b, float *x, uint32_t n_head, float way)
{
    uint32_t half = b->head / 2, near = b->interleaved ? 1 : half;
    for (size_t i = 0; i < p->n; i++)
        for (uint32_t h = 0; h < n_head; h++)
            for (uint32_t k = 0; k < half; k++) {
                float *at = x + (i * n_head + h) * b->head + (b->interleaved ? 2 * k : k);
                float c = p->cosine[i % p->len * half + k], s = way * p->sine[i % p->len * half + k];
                float u = at[0], v = at[near];
                at[0] = u * c - v * s;
                at[near] = v * c + u * s;
            }
}

/* Row t of probabilities [len] from scores. */
static void soften(const float *s, float scale, uint32_t n, uint32_t len, float *p)
{
    float max = s[0];
    double sum = 0;
    for (uint32_t j = 1; j < n; j++)
        max = s[j] > max ? s[j] : max;
    for (uint32_t j = 0; j < n; j++) {
        p[j] = expf((s[j] - max) * scale);
        sum += p[j];
    }
    for (uint32_t j = 0; j < len; j++)
        p[j] = j < n ? (float)(p[j] / sum) : 0;
}

/* c [n][k] = a [n][m] b [m][k] (or b^T, a^T), parts of rows of wider matrices. */
static void small(bool a_turned, bool b_turned, size_t n, size_t k, size_t m, const float *a, size_t lda,
                  const float *b, size_t ldb, float keep, float *c, size_t ldc)
{
    cblas_sgemm(CblasRowMajor, a_turned ? CblasTrans : CblasNoTrans, b_turned ? CblasTrans : CblasNoTrans, (int)n,
                (int)k, (int)m, 1, a, (int)lda, b, (int)ldb, keep, c, (int)ldc);
}

static void attend(struct st_pass *p, const struct st_blocks *b, struct kept *l)
{
    size_t len = p->len, head = b->head, wide = b->n_head * head, kv = b->n_kv * head;
    for (size_t i = 0; i < p->n_text * b->n_head; i++) {
        size_t text = i / b->n_head, h = i % b->n_head, g = h / (b->n_head / b->n_kv);
        const float *q = l->q + text * len * wide + h * head, *k = l->k + text * len * kv + g * head;
        float *s = l->s + i * len * len, *pr = l->p + i * len * len;
        small(false, true, len, len, head, q, wide, k, kv, 0, s, len);
        for (uint32_t t = 0; t < p->len; t++)
            soften(s + t * len, b->scale, b->both_ways ? p->len : t + 1, p->len, pr + t * len);
        small(false, false, len, head, len, pr, len, l->v + text * len * kv + g * head, kv, 0,
              l->o + text * len * wide + h * head, wide);
    }
}

/* From p->dox to dq, dk and dv; d_scores [..] or NULL joins. */
static void attend_back(struct st_pass *p, const struct st_blocks *b, const struct kept *l, const float *d_scores)
{
    size_t len = p->len, head = b->head, wide = b->n_head * head, kv = b->n_kv * head;
    memset(p->dk, 0, p->n * kv * sizeof *p->dk);
    memset(p->dv, 0, p->n * kv * sizeof *p->dv);
    for (size_t i = 0; i < p->n_text * b->n_head; i++) {
        size_t text = i / b->n_head, h = i % b->n_head, g = h / (b->n_head / b->n_kv);
        size_t at = text * len * wide + h * head, at_kv = text * len * kv + g * head;
        const float *pr = l->p + i * len * len;
        small(false, true, len, len, head, p->dox + at, wide, l->v + at_kv, kv, 0, p->dp, len);
        small(true, false, len, head, len, pr, len, p->dox + at, wide, 1, p->dv + at_kv, kv);
        for (size_t t = 0; t < len; t++) {
            float *d = p->dp + t * len, sum = 0;
            for (size_t j = 0; j < len; j++)
                sum += d[j] * pr[t * len + j];
            for (size_t j = 0; j < len; j++)
                d[j] = pr[t * len + j] * (d[j] - sum) * b->scale + (d_scores ? d_scores[(i * len + t) * len + j] : 0);
        }
        small(false, false, len, head, len, p->dp, len, l->k + at_kv, kv, 0, p->dq + at, wide);
        small(true, false, len, head, len, p->dp, len, l->q + at, wide, 1, p->dk + at_kv, kv);
    }
}

/* ---- forwards, backwards ---- */

const float *st_pass_forward(struct st_pass *p, const struct st_blocks *b, const float *x)
{
    size_t n = p->n, d = b->d, q = (size_t)b->n_head * b->head, k = (size_t)b->n_kv * b->head, ff = b->n_ff;
    for (uint32_t i = 0; i < b->n_layer; i++) {
        struct layer w = layer_of(b, b->w, i);
        struct kept *l = &p->at[i];
        float *next = i + 1 < b->n_layer ? p->at[i + 1].x : p->out;
        if (i == 0)
            memcpy(l->x, x, n * d * sizeof *x);
        norm(l->x, w.norm, b->eps, n, d, l->xn, l->r1);
        through(l->xn, w.q, l->q, n, d, q, 0);
        through(l->xn, w.k, l->k, n, d, k, 0);
        through(l->xn, w.v, l->v, n, d, k, 0);
        turn(p, b, l->q, b->n_head, 1);
        turn(p, b, l->k, b->n_kv, 1);
        attend(p, b, l);
        memcpy(l->x1, l->x, n * d * sizeof *x);
        through(l->o, w.o, l->x1, n, q, d, 1);
        norm(l->x1, w.norm2, b->eps, n, d, l->yn, l->r2);
        through(l->yn, w.gate, l->gate, n, d, ff, 0);
        through(l->yn, w.up, l->up, n, d, ff, 0);
        for (size_t j = 0; j < n * ff; j++)
            l->act[j] = l->gate[j] / (1 + expf(-l->gate[j])) * l->up[j];
        memcpy(next, l->x1, n * d * sizeof *x);
        through(l->act, w.down, next, n, ff, d, 1);
    }
    return p->out;
}

const float *st_pass_scores(const struct st_pass *p)
{
    return p->at[p->n_layer - 1].s;
}

/* From p->d of what the layer left to that of what it got. */
static void layer_back(struct st_pass *p, const struct st_blocks *b, uint32_t i, const float *d_scores, float *grad)
{
    size_t n = p->n, d = b->d, q = (size_t)b->n_head * b->head, k = (size_t)b->n_kv * b->head, ff = b->n_ff;
    struct layer w = layer_of(b, b->w, i), g = {0};
    const struct kept *l = &p->at[i];
    if (grad)
        g = layer_of(b, grad, i);
    back(l->act, w.down, p->d, p->dup, g.down, n, ff, d, 0);
    for (size_t j = 0; j < n * ff; j++) {
        float s = 1 / (1 + expf(-l->gate[j])), d_act = p->dup[j];
        p->dup[j] = d_act * l->gate[j] * s;
        p->dgate[j] = d_act * l->up[j] * s * (1 + l->gate[j] * (1 - s));
    }
    back(l->yn, w.gate, p->dgate, p->dn, g.gate, n, d, ff, 0);
    back(l->yn, w.up, p->dup, p->dn, g.up, n, d, ff, 1);
    norm_back(l->x1, w.norm2, l->r2, p->dn, n, d, p->d, g.norm2);
    back(l->o, w.o, p->d, p->dox, g.o, n, q, d, 0);
    attend_back(p, b, l, d_scores);
    turn(p, b, p->dq, b->n_head, -1);
    turn(p, b, p->dk, b->n_kv, -1);
    back(l->xn, w.q, p->dq, p->dn, g.q, n, d, q, 0);
    back(l->xn, w.k, p->dk, p->dn, g.k, n, d, k, 1);
    back(l->xn, w.v, p->dv, p->dn, g.v, n, d, k, 1);
    norm_back(l->x, w.norm, l->r1, p->dn, n, d, p->d, g.norm);
}

void st_pass_backward(struct st_pass *p, const struct st_blocks *b, const float *d_out, const float *d_scores,
                      float *d_x, float *grad)
{
    memcpy(p->d, d_out, p->n * b->d * sizeof *d_out);
    for (uint32_t i = b->n_layer; i-- > 0;)
        layer_back(p, b, i, i + 1 == b->n_layer ? d_scores : NULL, grad);
    memcpy(d_x, p->d, p->n * b->d * sizeof *d_x);
}

/* ---- Adam ---- */

int st_adam_new(struct st_adam *a, size_t n, struct st_err *e)
{
    *a = (struct st_adam){.n = n};
    if (st_alloc(&a->first, n, sizeof *a->first, "training", e) ||
        st_alloc(&a->second, n, sizeof *a->second, "training", e)) {
        st_adam_free(a);
        return e->code;
    }
    return 0;
}

void st_adam_free(struct st_adam *a)
{
    free(a->first);
    free(a->second);
    *a = (struct st_adam){.n = 0};
}

void st_adam_step(struct st_adam *a, const float *grad, double rate, double decay, float *w)
{
    a->step++;
    float *restrict first = a->first, *restrict second = a->second;
    const float keep1 = (float)BETA1, keep2 = (float)BETA2, keep = (float)(1 - rate * decay),
                step = (float)(rate / (1 - pow(BETA1, a->step))), over = (float)(1 / (1 - pow(BETA2, a->step)));
    /* In floats and without branches, so that compilers make vectors of it. */
    for (size_t i = 0; i < a->n; i++) {
        first[i] = keep1 * first[i] + (1 - keep1) * grad[i];
        second[i] = keep2 * second[i] + (1 - keep2) * grad[i] * grad[i];
        w[i] = keep * w[i] - step * first[i] / (sqrtf(second[i] * over) + 1e-8F);
    }
}
