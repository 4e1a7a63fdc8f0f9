#include "audit/mlp.h"
#include "audit/deviates.h"
#include "base/buf.h"

#include <cblas.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BATCH 128
#define RATE 3e-3
#define DECAY 1e-2

struct parts {
    float *a, *b, *bias, *c;
};

static struct parts parts_of(const struct st_mlp *m, float *w)
{
    struct parts p = {.a = w};
    p.b = p.a + (size_t)m->n_out * m->n_in;
    p.bias = p.b + (size_t)m->n_hidden * m->n_in;
    p.c = p.bias + m->n_hidden;
    return p;
}

int st_mlp_new(struct st_mlp *m, uint32_t n_in, uint32_t n_hidden, uint32_t n_out, uint64_t seed, struct st_err *e)
{
    struct st_rng rng;
    *m = (struct st_mlp){.n_in = n_in, .n_hidden = n_hidden, .n_out = n_out};
    m->n = (size_t)n_out * n_in + (size_t)n_hidden * n_in + n_hidden + (size_t)n_out * n_hidden;
    if (st_alloc(&m->w, m->n, sizeof *m->w, "network", e) || st_alloc(&m->grad, m->n, sizeof *m->grad, "network", e) ||
        st_adam_new(&m->adam, m->n, e)) {
        st_mlp_free(m);
        return e->code;
    }
    struct parts p = parts_of(m, m->w);
    st_rng_seed(&rng, seed);
    st_deviates(&rng, sqrt(2.0 / n_in), NULL, p.b, (size_t)n_hidden * n_in);
    st_deviates(&rng, .1 / sqrt(n_hidden), NULL, p.c, (size_t)n_out * n_hidden);
    return 0;
}

void st_mlp_free(struct st_mlp *m)
{
    free(m->w);
    free(m->grad);
    st_adam_free(&m->adam);
    *m = (struct st_mlp){0};
}

/* c [n][k] = by * a [n][m] b^T [m][k] + keep * c; b is [k][m]. */
static void times_rows(const float *a, const float *b, float *c, size_t n, size_t m, size_t k, float by, float keep)
{
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)n, (int)k, (int)m, by, a, (int)m, b, (int)m, keep, c,
                (int)k);
}

/* c [n][k] = a [n][m] b [m][k] */
static void times(const float *a, const float *b, float *c, size_t n, size_t m, size_t k)
{
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)n, (int)k, (int)m, 1, a, (int)m, b, (int)k, 0, c,
                (int)k);
}

/* c [m][k] = a^T b of a [n][m], b [n][k] */
static void sums(const float *a, const float *b, float *c, size_t n, size_t m, size_t k)
{
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)m, (int)k, (int)n, 1, a, (int)m, b, (int)k, 0, c, (int)k);
}

static void forward(const struct st_mlp *m, const float *x, size_t n, float *hidden, float *out)
{
    struct parts p = parts_of(m, m->w);
    times_rows(x, p.b, hidden, n, m->n_in, m->n_hidden, 1, 0);
    for (size_t r = 0; r < n; r++)
        for (size_t j = 0; j < m->n_hidden; j++) {
            float *h = &hidden[r * m->n_hidden + j];
            *h += p.bias[j];
            *h = *h > 0 ? *h : 0;
        }
    times_rows(x, p.a, out, n, m->n_in, m->n_out, 1, 0);
    times_rows(hidden, p.c, out, n, m->n_hidden, m->n_out, 1, 1);
}

/* d_out [n][n_out] -> gradients; d_hidden is space. */
static void backward(struct st_mlp *m, const float *x, const float *hidden, const float *d_out, size_t n,
                     float *d_hidden)
{
    struct parts p = parts_of(m, m->w), g = parts_of(m, m->grad);
    sums(d_out, x, g.a, n, m->n_out, m->n_in);
    sums(d_out, hidden, g.c, n, m->n_out, m->n_hidden);
    times(d_out, p.c, d_hidden, n, m->n_out, m->n_hidden);
    memset(g.bias, 0, m->n_hidden * sizeof *g.bias);
    for (size_t r = 0; r < n; r++)
        for (size_t j = 0; j < m->n_hidden; j++) {
            float *d = &d_hidden[r * m->n_hidden + j];
            *d = hidden[r * m->n_hidden + j] > 0 ? *d : 0;
            g.bias[j] += *d;
        }
    sums(d_hidden, x, g.b, n, m->n_hidden, m->n_in);
}

struct space {
    float *x, *want, *hidden, *out, *d_hidden;
    struct st_noise_table noise;
};

static void draw(const struct st_mlp_lesson *l, const struct st_mlp *m, size_t batch, struct st_rng *rng,
                 struct space *s)
{
    for (size_t r = 0; r < batch; r++) {
        size_t i = st_rng_next(rng) % l->n;
        const float *x = st_dense_row(l->rows, l->row[i]);
        const float *z = st_noise_pick(&s->noise, st_rng_next(rng), m->n_in);
        memcpy(s->want + r * m->n_out, st_dense_row(l->table, l->label[i]), m->n_out * sizeof *s->want);
        for (size_t k = 0; k < m->n_in; k++)
            s->x[r * m->n_in + k] = x[k] + (float)l->noise * z[k];
    }
}

int st_mlp_train(struct st_mlp *m, const struct st_mlp_lesson *l, struct st_err *e)
{
    size_t n = l->batch ? l->batch : BATCH;
    double rate = l->rate > 0 ? l->rate : RATE;
    struct space s = {0};
    struct st_rng rng;
    e->code = 0;
    if (!l->n)
        return st_fail(e, ST_INPUT, "network: no pairs to learn from");
    if (st_noise_table_new(&s.noise, m->n_in, l->seed, e) || st_alloc(&s.x, n * m->n_in, sizeof *s.x, "network", e) ||
        st_alloc(&s.want, n * m->n_out, sizeof *s.want, "network", e) ||
        st_alloc(&s.hidden, n * m->n_hidden, sizeof *s.hidden, "network", e) ||
        st_alloc(&s.d_hidden, n * m->n_hidden, sizeof *s.d_hidden, "network", e) ||
        st_alloc(&s.out, n * m->n_out, sizeof *s.out, "network", e))
        goto out;
    st_rng_seed(&rng, l->seed);
    for (uint32_t step = 0; step < l->n_step; step++) {
        if (l->cancel && *l->cancel) {
            st_fail(e, ST_IO, "cancelled");
            goto out;
        }
        draw(l, m, n, &rng, &s);
        forward(m, s.x, n, s.hidden, s.out);
        for (size_t i = 0; i < n * m->n_out; i++)
            s.out[i] = (s.out[i] - s.want[i]) / (float)n;
        backward(m, s.x, s.hidden, s.out, n, s.d_hidden);
        st_adam_step(&m->adam, m->grad, rate * (1 - (double)step / l->n_step), DECAY, m->w);
    }
out:
    st_noise_table_free(&s.noise);
    free(s.x);
    free(s.want);
    free(s.hidden);
    free(s.d_hidden);
    free(s.out);
    return e->code;
}

int st_mlp_apply(const struct st_mlp *m, const struct st_dense *rows, struct st_dense *out, struct st_err *e)
{
    float *hidden;
    if (st_alloc(&hidden, (size_t)BATCH * m->n_hidden, sizeof *hidden, "network", e))
        return e->code;
    for (size_t r = 0; r < rows->n_row; r += BATCH)
        forward(m, st_dense_row(rows, r), rows->n_row - r < BATCH ? rows->n_row - r : BATCH, hidden,
                st_dense_row(out, r));
    free(hidden);
    return 0;
}
