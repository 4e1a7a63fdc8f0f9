#include "audit/views.h"
#include "base/buf.h"
#include "protect/covariant/noise.h"

#include <cblas.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PANEL 512 /* rows whose products are summed at a time */

/* The weights whose vectors are a view's columns, and the norm before them. */
struct kind {
    enum st_role roles[3], norm, rows;
    bool scaled;
};
static const struct kind kinds[] = {
    [ST_VIEW_GATE] = {{ST_ROLE_GATE, ST_ROLE_SHARED_GATE, ST_ROLE_EXPERT_GATE}, ST_ROLE_FFN_NORM, ST_ROLE_EMBED, false},
    [ST_VIEW_UP] = {{ST_ROLE_UP, ST_ROLE_SHARED_UP, ST_ROLE_EXPERT_UP}, ST_ROLE_FFN_NORM, ST_ROLE_EMBED, true},
    [ST_VIEW_DOWN] = {{ST_ROLE_DOWN, ST_ROLE_SHARED_DOWN, ST_ROLE_EXPERT_DOWN}, ST_ROLE_NONE, ST_ROLE_HEAD, true},
    [ST_VIEW_Q] = {{ST_ROLE_Q}, ST_ROLE_ATTN_NORM, ST_ROLE_EMBED, true},
    [ST_VIEW_K] = {{ST_ROLE_K}, ST_ROLE_ATTN_NORM, ST_ROLE_EMBED, true},
};

static int find(const struct st_model *m, enum st_role role, int layer)
{
    for (int i = 0; i < m->plan.n_weight; i++)
        if (m->plan.weights[i].role == role && m->plan.weights[i].layer == layer)
            return i;
    return -1;
}

static bool has_role(const struct kind *k, const struct st_plan_weight *w, int layer)
{
    bool found = false;
    for (size_t i = 0; i < 3; i++)
        found = found || (k->roles[i] != ST_ROLE_NONE && w->role == k->roles[i]);
    return found && w->layer == layer;
}

static int check_finite(const struct st_plan_weight *w, const float *p, size_t n, struct st_err *e)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(p[i]))
            return st_fail(e, ST_INPUT, "%s: value %zu is not finite", w->name, i);
    return 0;
}

/* out [n_out][n_in] */
static int read_matrix(const struct st_model *m, int i, float *out, struct st_err *e)
{
    const struct st_plan_weight *w = &m->plan.weights[i];
    const struct st_mat *t = &m->mats[i];
    if (!t->data)
        return st_fail(e, ST_UNSUPPORTED, "%s: its values are not here", w->name);
    if (t->dtype == ST_DTYPE_I8)
        return st_fail(e, ST_UNSUPPORTED, "%s: is int8; an audit needs the values that it was made of", w->name);
    st_convert(t->dtype, t->data, ST_DTYPE_F32, out, (size_t)w->n_out * w->n_in);
    return check_finite(w, out, (size_t)w->n_out * w->n_in, e);
}

/* Rows [n][d] of weight w times the norm's values, or as they are: norm < 0. */
static int scale_rows(const struct st_model *m, int norm, const struct st_plan_weight *w, float *rows, size_t n,
                      size_t d, struct st_err *e)
{
    const float *scale = norm < 0 ? NULL : m->mats[norm].data;
    if (!scale)
        return 0;
    if (check_finite(&m->plan.weights[norm], scale, d, e))
        return e->code;
    for (size_t i = 0; i < n * d; i++)
        rows[i] *= scale[i % d];
    return check_finite(w, rows, n * d, e);
}

int st_view_weight(const struct st_model *m, int i, struct st_dense *out, struct st_err *e)
{
    const struct st_plan_weight *w = &m->plan.weights[i];
    if (m->mats[i].dtype == ST_DTYPE_F32 && m->mats[i].data) {
        *out = (struct st_dense){.p = (float *)m->mats[i].data, .n_row = w->n_out, .n_col = w->n_in};
        return check_finite(w, out->p, (size_t)w->n_out * w->n_in, e);
    }
    if (st_dense_new(out, w->n_out, w->n_in, "view", e))
        return e->code;
    int rc = read_matrix(m, i, out->p, e);
    if (rc)
        st_dense_free(out);
    return rc;
}

int st_view_rows(const struct st_model *m, enum st_role role, struct st_dense *out, struct st_err *e)
{
    int i = find(m, role, -1), norm = role == ST_ROLE_HEAD ? find(m, ST_ROLE_FINAL_NORM, -1) : -1;
    if (i < 0)
        return st_fail(e, ST_UNSUPPORTED, "%s: the model has no %s", m->name, st_role_name(role));
    if (norm < 0)
        return st_view_weight(m, i, out, e);
    const struct st_plan_weight *w = &m->plan.weights[i];
    if (st_dense_new(out, w->n_out, w->n_in, "view", e))
        return e->code;
    int rc = read_matrix(m, i, out->p, e);
    if (!rc)
        rc = scale_rows(m, norm, w, out->p, out->n_row, out->n_col, e);
    if (rc)
        st_dense_free(out);
    return rc;
}

/* The vectors of one weight behind those that are there. */
static int add_columns(const struct st_model *m, enum st_view_family kind, int i, struct st_dense *to, size_t *at,
                       struct st_err *e)
{
    const struct st_plan_weight *w = &m->plan.weights[i];
    int norm = kinds[kind].norm == ST_ROLE_NONE ? -1 : find(m, kinds[kind].norm, w->layer);
    struct st_dense t;
    if (kind != ST_VIEW_DOWN) {
        if (read_matrix(m, i, st_dense_row(to, *at), e) ||
            scale_rows(m, norm, w, st_dense_row(to, *at), w->n_out, to->n_col, e))
            return e->code;
        *at += w->n_out;
        return 0;
    }
    if (st_dense_new(&t, w->n_out, w->n_in, "view", e))
        return e->code;
    if (!read_matrix(m, i, t.p, e))
        for (size_t k = 0; k < w->n_out; k++)
            for (size_t r = 0; r < w->n_in; r++)
                st_dense_row(to, *at + r)[k] = st_dense_row(&t, k)[r];
    *at += w->n_in;
    st_dense_free(&t);
    return e->code;
}

static size_t layer_columns(const struct st_model *m, enum st_view_family kind, int layer)
{
    size_t n = 0;
    for (int i = 0; i < m->plan.n_weight; i++) {
        const struct st_plan_weight *w = &m->plan.weights[i];
        if (has_role(&kinds[kind], w, layer))
            n += kind == ST_VIEW_DOWN ? w->n_in : w->n_out;
    }
    return n;
}

struct st_view_size st_view_size(const struct st_model *m, enum st_view_family kind, uint32_t max_layer)
{
    struct st_view_size s = {0};
    uint32_t found = 0;
    for (uint32_t l = 0; l < m->config.n_layer && found < max_layer; l++) {
        size_t n = layer_columns(m, kind, (int)l);
        found += n > 0;
        s.columns += n;
        s.widest = n > s.widest ? n : s.widest;
    }
    s.bytes = sizeof(float) * m->config.d_model * ((uint64_t)m->config.n_vocab + s.columns);
    return s;
}

static int add_layer(const struct st_model *m, enum st_view_family kind, int layer, struct st_view *v, struct st_err *e)
{
    const struct st_plan *p = &m->plan;
    size_t n = layer_columns(m, kind, layer), at = 0;
    e->code = 0;
    if (!n)
        return 0;
    if (n > ST_VIEW_COLUMNS)
        return st_fail(e, ST_UNSUPPORTED, "%s: layer %d has %zu columns of %s; this audit takes at most %d", m->name,
                       layer, n, st_role_name(kinds[kind].roles[0]), ST_VIEW_COLUMNS);
    struct st_dense *to = &v->columns[v->n_layer];
    if (st_dense_new(to, n, v->rows.n_col, "view", e))
        return e->code;
    v->n_layer++;
    for (int i = 0; i < p->n_weight; i++)
        if (has_role(&kinds[kind], &p->weights[i], layer) && add_columns(m, kind, i, to, &at, e))
            return e->code;
    return 0;
}

int st_view_of_model(const struct st_model *m, enum st_view_family kind, uint32_t max_layer, struct st_view *out,
                     struct st_err *e)
{
    uint32_t n_layer = m->config.n_layer;
    *out = (struct st_view){.scaled = kinds[kind].scaled};
    if (st_view_rows(m, kinds[kind].rows, &out->rows, e) ||
        st_alloc(&out->columns, n_layer ? n_layer : 1, sizeof *out->columns, "view", e))
        goto out;
    for (uint32_t l = 0; l < n_layer && out->n_layer < max_layer; l++)
        if (add_layer(m, kind, (int)l, out, e))
            goto out;
    if (out->n_layer)
        return 0;
    st_fail(e, ST_UNSUPPORTED, "%s: no layer has %s", m->name, st_role_name(kinds[kind].roles[0]));
out:
    st_view_free(out);
    return e->code;
}

void st_view_free(struct st_view *v)
{
    for (uint32_t l = 0; l < v->n_layer; l++)
        st_dense_free(&v->columns[l]);
    free(v->columns);
    st_dense_free(&v->rows);
    *v = (struct st_view){0};
}

int st_view_spread(struct st_pool *pool, const struct st_dense *rows, double *std, struct st_err *e)
{
    struct st_mat m = {
        .data = rows->p, .dtype = ST_DTYPE_F32, .n_out = (uint32_t)rows->n_row, .n_in = (uint32_t)rows->n_col};
    return st_cov_noise_std(&m, true, pool, std, e);
}

/* ---- second moments ---- */

struct moments {
    const double *panel; /* [n][d] */
    size_t n, d;
    double *out; /* [d][d] */
};

static void moment_rows(void *arg, size_t row, size_t n)
{
    const struct moments *m = arg;
    /* Up to the diagonal: the rest is its mirror image. */
    cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)n, (int)(row + n), (int)m->n, 1, m->panel + row,
                (int)m->d, m->panel, (int)m->d, 1, m->out + row * m->d, (int)m->d);
}

int st_view_moments(struct st_pool *pool, const struct st_dense *rows, double *out, struct st_err *e)
{
    size_t d = rows->n_col;
    double *panel;
    if (st_alloc(&panel, PANEL * d, sizeof *panel, "moments", e))
        return e->code;
    memset(out, 0, d * d * sizeof *out);
    for (size_t at = 0; at < rows->n_row; at += PANEL) {
        struct moments m = {.panel = panel, .d = d, .out = out};
        m.n = rows->n_row - at < PANEL ? rows->n_row - at : PANEL;
        for (size_t i = 0; i < m.n * d; i++)
            panel[i] = st_dense_row(rows, at)[i];
        st_dense_blocks(pool, d, 64, moment_rows, &m);
    }
    for (size_t i = 0; i < d; i++)
        for (size_t j = i + 1; j < d; j++)
            out[i * d + j] = out[j * d + i];
    free(panel);
    return st_pool_cancelled(pool) ? st_fail(e, ST_IO, "cancelled") : 0;
}

/* ---- scale ---- */

static double square(const float *p, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)p[i] * p[i];
    return sum;
}

/* Mean squares of a layer's columns of products [n_column]: those of w C w^T for every row w, C the rows' moments. */
static int mean_squares(struct st_pool *pool, const struct st_dense *columns, const struct st_dense *moments,
                        double noise, double share, double *out, struct st_err *e)
{
    size_t d = columns->n_col;
    struct st_dense t;
    double trace = 0, all = square(columns->p, columns->n_row * d) / (double)(columns->n_row * d);
    for (size_t k = 0; k < d; k++)
        trace += st_dense_row(moments, k)[k];
    if (st_dense_new(&t, columns->n_row, d, "scale", e))
        return e->code;
    st_dense_product(pool, columns, moments, true, &t);
    for (size_t j = 0; j < columns->n_row; j++) {
        const float *w = st_dense_row(columns, j);
        double sum = 0;
        for (size_t k = 0; k < d; k++)
            sum += (double)w[k] * st_dense_row(&t, j)[k];
        out[j] =
            fmax(sum, 0) + noise * noise * square(w, d) + share * share * all * (trace + (double)d * noise * noise);
    }
    st_dense_free(&t);
    return 0;
}

static int normalise_layer(struct st_pool *pool, struct st_dense *columns, bool scaled, const struct st_dense *moments,
                           double noise, double share, struct st_err *e)
{
    size_t n = columns->n_row, d = columns->n_col;
    double *squares, mean = 0;
    if (st_alloc(&squares, n, sizeof *squares, "scale", e))
        return e->code;
    if (!mean_squares(pool, columns, moments, noise, share, squares, e)) {
        for (size_t j = 0; j < n; j++)
            mean += squares[j] / (double)n;
        for (size_t j = 0; j < n; j++) {
            double s = scaled ? squares[j] : mean;
            float by = s > 0 ? (float)(1 / sqrt(s)) : 0;
            for (size_t k = 0; k < d; k++)
                st_dense_row(columns, j)[k] *= by;
        }
    }
    free(squares);
    return e->code;
}

int st_view_normalise(struct st_pool *pool, struct st_view *v, double noise, double share, struct st_err *e)
{
    size_t d = v->rows.n_col;
    double *sums = NULL;
    struct st_dense moments = {0};
    e->code = 0;
    if (st_dense_new(&moments, d, d, "scale", e) || st_alloc(&sums, d * d, sizeof *sums, "scale", e) ||
        st_view_moments(pool, &v->rows, sums, e))
        goto out;
    for (size_t i = 0; i < d * d; i++)
        moments.p[i] = (float)(sums[i] / (double)v->rows.n_row);
    for (uint32_t l = 0; l < v->n_layer; l++)
        if (normalise_layer(pool, &v->columns[l], v->scaled, &moments, noise, share, e))
            break;
out:
    free(sums);
    st_dense_free(&moments);
    return e->code;
}
