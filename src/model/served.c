#include "model/served.h"
#include "base/buf.h"
#include "model/container.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Dimensions of the embedding that a thread takes at a time: each row of the table gives a whole cache line. */
#define DIMS 16

struct transpose {
    const struct st_mat *from; /* [n_vocab][d] */
    int8_t *w;                 /* [d][n_vocab] */
    float *scale;              /* [d] */
    float *columns;            /* per thread [DIMS][n_vocab] */
    atomic_uint taken;
};

static void transpose_dims(const struct transpose *t, uint32_t dim, uint32_t n, float *columns)
{
    const uint32_t n_vocab = t->from->n_out;
    const size_t size = st_dtype_size(t->from->dtype);
    for (uint32_t row = 0; row < n_vocab; row++) {
        float values[DIMS];
        const uint8_t *at = (const uint8_t *)t->from->data + ((size_t)row * t->from->n_in + dim) * size;
        st_convert(t->from->dtype, at, ST_DTYPE_F32, values, n);
        for (uint32_t i = 0; i < n; i++)
            columns[(size_t)i * n_vocab + row] = values[i];
    }
    for (uint32_t i = 0; i < n; i++)
        t->scale[dim + i] = st_quantize_row(columns + (size_t)i * n_vocab, n_vocab, t->w + (size_t)(dim + i) * n_vocab);
}

static void transpose_part(void *arg, int thread, int n_threads)
{
    struct transpose *t = arg;
    const uint32_t d = t->from->n_in;
    float *columns = t->columns + (size_t)thread * DIMS * t->from->n_out;
    (void)n_threads;
    for (uint32_t dim; (dim = atomic_fetch_add(&t->taken, DIMS)) < d;)
        transpose_dims(t, dim, d - dim < DIMS ? d - dim : DIMS, columns);
}

static int check_memory(size_t need, const char *name, struct st_err *e)
{
    size_t have = st_mem_available();
    char a[ST_MEM_TEXT], b[ST_MEM_TEXT];
    if (need <= have)
        return 0;
    return st_fail(e, ST_MEMORY, "%s: the transposed table needs %s of memory, %s are available", name,
                   st_mem_text(need, a), st_mem_text(have, b));
}

static int transpose_embedding(struct st_served *s, struct st_served_weight *w, const struct st_mat *from,
                               struct st_err *e)
{
    struct transpose t = {.from = from};
    struct st_pool *pool = NULL;
    size_t bytes = (size_t)w->n_out * w->n_in, scales = (w->n_out * sizeof(float) + 63) & ~(size_t)63;
    int rc = st_pool_new(0, &pool, e);
    if (!rc)
        rc = check_memory(bytes + scales + (size_t)st_pool_size(pool) * DIMS * from->n_out * sizeof(float), w->name, e);
    if (!rc)
        rc = st_area_new(&s->embedding, 1, scales + bytes, w->name, e);
    if (!rc)
        rc = st_alloc(&t.columns, (size_t)st_pool_size(pool) * DIMS, from->n_out * sizeof(float), w->name, e);
    if (!rc) {
        t.scale = s->embedding.p;
        t.w = (int8_t *)s->embedding.p + scales;
        st_pool_run(pool, transpose_part, &t);
        w->scale = t.scale;
        w->w = t.w;
    }
    free(t.columns);
    st_pool_free(pool);
    return rc;
}

static int compare(const void *a, const void *b, void *arg)
{
    const struct st_served_weight *w = arg;
    return strcmp(w[*(const uint32_t *)a].name, w[*(const uint32_t *)b].name);
}

/* A matrix that is sealed to this side; int8 without data is one that a kit leaves out. */
static bool is_sealed(const struct st_mat *m)
{
    return !m->data && m->dtype != ST_DTYPE_I8;
}

static int add_linear(struct st_served *s, const struct st_model *m, const struct st_plan_op *op, struct st_err *e)
{
    const struct st_plan_weight *p = &m->plan.weights[op->weight];
    const struct st_mat *mat = &m->mats[op->weight];
    struct st_served_weight *w = &s->weights[s->n++];
    *w = (struct st_served_weight){.weight = op->weight,
                                   .role = p->role,
                                   .expert = p->expert,
                                   .n_out = p->n_out,
                                   .n_in = p->n_in,
                                   .w = mat->data,
                                   .scale = mat->scale};
    memcpy(w->name, p->name, sizeof p->name);
    if (mat->dtype == ST_DTYPE_I8)
        return 0;
    return st_fail(e, ST_INTERNAL, "%s: want int8, got %s", w->name, st_dtype_name(mat->dtype));
}

static int add_embedding(struct st_served *s, const struct st_model *m, int weight, struct st_err *e)
{
    const struct st_plan_weight *p = &m->plan.weights[weight];
    struct st_served_weight *w = &s->weights[s->n++];
    *w = (struct st_served_weight){.weight = weight, .role = p->role, .expert = -1, .n_out = p->n_in, .n_in = p->n_out};
    snprintf(w->name, sizeof w->name, "%s^T", p->name);
    if (is_sealed(&m->mats[weight]))
        return st_fail(e, ST_INPUT, "%s: %s: is sealed, so it is not served", m->path, p->name);
    if (!m->mats[weight].data)
        return 0;
    int rc = transpose_embedding(s, w, &m->mats[weight], e);
    st_model_release(m, weight);
    return rc;
}

struct st_model_opts st_served_model_opts(const char *path)
{
    const bool sealed = st_container_is(path);
    return (struct st_model_opts){.dtype = ST_LOAD_INT8, .fold_norms = !sealed, .only_outside = sealed};
}

int st_served_init(struct st_served *s, const struct st_model *m, bool with_embedding, struct st_err *e)
{
    const struct st_plan *p = &m->plan;
    int embedding = -1;
    *s = (struct st_served){0};
    int rc = st_alloc(&s->weights, (size_t)p->n_op, sizeof *s->weights, "served matrices", e);
    if (!rc)
        rc = st_alloc(&s->by_name, (size_t)p->n_op, sizeof *s->by_name, "served matrices", e);
    for (int i = 0; !rc && i < p->n_op; i++) {
        if (p->ops[i].op == ST_OP_EMBED)
            embedding = p->ops[i].weight;
        if (p->ops[i].op == ST_OP_LINEAR && p->ops[i].role != ST_ROLE_ROUTER && !is_sealed(&m->mats[p->ops[i].weight]))
            rc = add_linear(s, m, &p->ops[i], e);
    }
    if (!rc && with_embedding && embedding >= 0)
        rc = add_embedding(s, m, embedding, e);
    for (uint32_t i = 0; !rc && i < s->n; i++)
        s->by_name[i] = i;
    if (rc)
        st_served_free(s);
    else
        qsort_r(s->by_name, s->n, sizeof *s->by_name, compare, s->weights);
    return rc;
}

void st_served_free(struct st_served *s)
{
    st_area_free(&s->embedding);
    free(s->weights);
    free(s->by_name);
    *s = (struct st_served){0};
}

int st_served_find(const struct st_served *s, const char *name)
{
    uint32_t lo = 0, hi = s->n;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        int order = strcmp(name, s->weights[s->by_name[mid]].name);
        if (order == 0)
            return (int)s->by_name[mid];
        *(order < 0 ? &hi : &lo) = order < 0 ? mid : mid + 1;
    }
    return -1;
}

uint64_t st_served_square(const int8_t *w, uint32_t n)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < n;) {
        uint32_t part = 0; /* 2^17 squares of at most 2^14 fit 32 bits */
        uint32_t end = n - i < 1u << 17 ? n : i + (1u << 17);
        for (; i < end; i++)
            part += (uint32_t)(w[i] * w[i]);
        sum += part;
    }
    return sum;
}

float st_served_norm(uint64_t square)
{
    double exact = sqrt((double)square);
    float norm = (float)exact;
    return norm < exact ? nextafterf(norm, INFINITY) : norm;
}
