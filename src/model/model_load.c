/* Vectors and matrices of a model: views where the file allows it, else copies. */
#include "model/model_load.h"

#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static size_t round_line(size_t n)
{
    return (n + 63) & ~(size_t)63;
}

/* Bytes of all vectors, each on its own cache line, and of the longest as it is stored at most. */
static size_t vector_bytes(const struct st_model *m, size_t *longest)
{
    size_t total = 0;
    for (int i = 0; i < m->plan.n_weight; i++)
        if (st_load_is_vector(&m->plan.weights[i])) {
            size_t n = round_line(m->plan.weights[i].n_out * sizeof(float));
            total += n;
            *longest = n > *longest ? n : *longest;
        }
    return total;
}

/* Memory for them, with room for one as it is stored behind it; locked when they are secret. */
static int make_vectors(struct st_load *l, size_t bytes, struct st_err *e)
{
    struct st_model_priv *p = l->m->priv;
    const struct st_locked_opts lo = {
        .what = "norms and biases", .allow_unlocked = l->o->allow_unlocked, .secretmem = true};
    bool secret = false;
    for (int i = 0; i < l->m->plan.n_weight; i++)
        secret = secret || (st_load_is_vector(&l->m->plan.weights[i]) && l->src[i] && st_load_is_secret(l, i));
    if (!secret)
        return st_alloc(&p->vectors, bytes, 1, l->m->path, e);
    int rc = st_locked_new(&p->locked, bytes, &lo, e);
    p->vectors = (float *)(void *)p->locked.p;
    return rc;
}

/* One vector, by way of `stored`, which is aligned. */
static int read_vector(const struct st_load *l, const struct st_tensor *t, void *stored, float *to, struct st_err *e)
{
    if (!l->source)
        memcpy(stored, t->data, t->bytes);
    else if (l->source->read(l->source->ctx, t, 0, t->bytes, stored, e))
        return e->code;
    st_convert(t->dtype, stored, ST_DTYPE_F32, to, (size_t)t->dim[0]);
    /* One value brings in a whole run of pages. */
    st_ckpt_release(l->m->priv->ckpt, t);
    return 0;
}

/* Norms and biases as f32, in one allocation. They are small and read at every step. */
int st_load_vectors(struct st_load *l, struct st_err *e)
{
    struct st_model *m = l->m;
    size_t longest = 0, total = vector_bytes(m, &longest), at = 0;
    int rc = make_vectors(l, total + longest, e);
    for (int i = 0; !rc && i < m->plan.n_weight; i++) {
        uint32_t n = m->plan.weights[i].n_out;
        if (!st_load_is_vector(&m->plan.weights[i]))
            continue;
        float *to = m->priv->vectors + at;
        bool readable = !l->src[i] || st_load_is_readable(l, i);
        if (l->src[i] && readable)
            rc = read_vector(l, l->src[i], m->priv->vectors + total / sizeof(float), to, e);
        m->mats[i] = (struct st_mat){.data = readable ? to : NULL, .dtype = ST_DTYPE_F32, .n_out = n, .n_in = 1};
        at += round_line(n * sizeof(float)) / sizeof(float);
    }
    if (longest && m->priv->vectors)
        OPENSSL_cleanse(m->priv->vectors + total / sizeof(float), longest);
    return rc;
}

void st_load_unit_norms(struct st_load *l)
{
    struct st_model *m = l->m;
    size_t at = 0;
    for (int i = 0; i < m->plan.n_weight; i++) {
        uint32_t n = m->plan.weights[i].n_out;
        if (!st_load_is_vector(&m->plan.weights[i]))
            continue;
        for (uint32_t k = 0; l->fold.unit && l->fold.unit[i] && k < n; k++)
            m->priv->vectors[at + k] = 1;
        at += round_line(n * sizeof(float)) / sizeof(float);
    }
}

/* The weight of the norm whose weights go into the columns of matrix i, or -1. Those of a kit have them already. */
static int folded_norm(const struct st_load *l, int i)
{
    return l->o->fold_norms && !l->o->no_linear ? l->fold.norm[i] : -1;
}

static enum st_dtype wanted(const struct st_load *l, int i)
{
    if (l->m->plan.weights[i].role == ST_ROLE_EMBED)
        return l->src[i]->dtype;
    if (l->m->plan.weights[i].role == ST_ROLE_ROUTER)
        return ST_DTYPE_F32;
    switch (l->o->dtype) {
    case ST_LOAD_INT8:
        return ST_DTYPE_I8;
    case ST_LOAD_BF16:
        return ST_DTYPE_BF16;
    case ST_LOAD_F32:
        return ST_DTYPE_F32;
    case ST_LOAD_KEEP:
        break;
    }
    return l->src[i]->dtype;
}

/* Stays without data: a store hands it out while the model runs, or nobody here can read it. */
static bool stays_inside(const struct st_load *l, int i)
{
    if (!l->src[i] || !l->source)
        return false;
    bool is_router = l->m->plan.weights[i].role == ST_ROLE_ROUTER;
    return is_router ? !st_load_is_readable(l, i) : st_load_is_secret(l, i);
}

/* A tied head that stays in the embedding's dtype, with no norm folded in, is the same matrix. */
static bool is_shared(const struct st_load *l, int i)
{
    int to = l->m->plan.weights[i].tied_to;
    return to >= 0 && l->src[i] && wanted(l, i) == wanted(l, to) && folded_norm(l, i) < 0;
}

/* Another dtype, a norm folded in, or a file offset at which the kernels could not read whole values; and what is not
 * mapped. */
static bool needs_copy(const struct st_load *l, int i)
{
    const struct st_tensor *t = l->src[i];
    return !t->data || wanted(l, i) != t->dtype || folded_norm(l, i) >= 0 ||
           (uintptr_t)t->data % st_dtype_size(t->dtype);
}

struct sizes {
    size_t copies, secrets, views, as_int8;
};

/* Memory for all copies is checked before any is taken. Views count too: each of them is read at every token, and a
 * model that has to come from disk every time is no use. The embedding is read by rows. */
static int check_memory(const struct st_load *l, const struct sizes *s, struct st_err *e)
{
    size_t have = st_mem_available(), need = s->copies + s->secrets + s->views;
    char a[ST_MEM_TEXT], b[ST_MEM_TEXT], c[ST_MEM_TEXT];
    if (need <= have)
        return 0;
    st_mem_text(need, a);
    st_mem_text(have, b);
    if (l->o->dtype == ST_LOAD_INT8)
        return st_fail(e, ST_MEMORY, "%s: the weights need %s of memory, %s are available", l->m->path, a, b);
    return st_fail(e, ST_MEMORY, "%s: the weights need %s of memory (%s as int8), %s are available", l->m->path, a,
                   st_mem_text(s->as_int8, c), b);
}

static struct sizes count_sizes(const struct st_load *l)
{
    struct sizes s = {0};
    const struct st_plan *p = &l->m->plan;
    for (int i = 0; i < p->n_weight; i++) {
        const struct st_plan_weight *w = &p->weights[i];
        size_t n = (size_t)w->n_out * w->n_in, scales = (size_t)w->n_out * sizeof(float);
        if (st_load_is_vector(w) || !l->src[i] || stays_inside(l, i))
            continue;
        if (w->role != ST_ROLE_EMBED)
            s.as_int8 += w->role == ST_ROLE_ROUTER ? n * sizeof(float) : n + scales;
        if (needs_copy(l, i) && !is_shared(l, i))
            *(st_load_is_secret(l, i) ? &s.secrets : &s.copies) +=
                round_line(n * st_dtype_size(wanted(l, i))) + (wanted(l, i) == ST_DTYPE_I8 ? round_line(scales) : 0);
        else if (w->role != ST_ROLE_EMBED && !needs_copy(l, i))
            s.views += l->src[i]->bytes;
    }
    return s;
}

/* A matrix that is a copy: its job, and its place at *at. */
static void add_job(struct st_load *l, int i, uint8_t **at)
{
    struct st_mat *mat = &l->m->mats[i];
    struct st_convert_job *j = &l->jobs[l->n_job++];
    *j = (struct st_convert_job){.src = l->src[i], .dtype = mat->dtype, .n_out = mat->n_out, .n_in = mat->n_in};
    if (folded_norm(l, i) >= 0)
        j->columns = l->m->mats[folded_norm(l, i)].data;
    j->dst = *at;
    mat->data = *at;
    *at += round_line(st_mat_bytes(mat));
    if (mat->dtype == ST_DTYPE_I8) {
        j->scale = (float *)(void *)*at;
        mat->scale = j->scale;
        *at += round_line(mat->n_out * sizeof(float));
    }
}

/* Fills mats, and jobs for those that are copies. */
static void place_matrices(struct st_load *l)
{
    struct st_model *m = l->m;
    uint8_t *at = m->priv->copies.p, *secret = m->priv->secrets.p;
    for (int i = 0; i < m->plan.n_weight; i++) {
        const struct st_plan_weight *w = &m->plan.weights[i];
        struct st_mat *mat = &m->mats[i];
        if (st_load_is_vector(w))
            continue;
        if (!l->src[i]) /* for shapes and dtype alone */
            *mat = (struct st_mat){.dtype = ST_DTYPE_I8, .n_out = w->n_out, .n_in = w->n_in};
        else if (stays_inside(l, i))
            *mat = (struct st_mat){.dtype = l->src[i]->dtype, .n_out = w->n_out, .n_in = w->n_in};
        else if (is_shared(l, i))
            *mat = m->mats[w->tied_to];
        else {
            *mat = (struct st_mat){.data = l->src[i]->data, .dtype = wanted(l, i), .n_out = w->n_out, .n_in = w->n_in};
            if (needs_copy(l, i))
                add_job(l, i, st_load_is_secret(l, i) ? &secret : &at);
        }
    }
}

/* Starts reading the views from disk, so that the first token finds them in the page cache. */
static void prefetch_views(const struct st_load *l)
{
    for (int i = 0; !l->source && i < l->m->plan.n_weight; i++)
        if (l->src[i] && !st_load_is_vector(&l->m->plan.weights[i]) && l->m->plan.weights[i].role != ST_ROLE_EMBED &&
            !needs_copy(l, i))
            st_ckpt_prefetch(l->m->priv->ckpt, l->src[i]);
}

int st_load_matrices(struct st_load *l, struct st_err *e)
{
    struct st_model *m = l->m;
    struct sizes s = count_sizes(l);
    int rc = check_memory(l, &s, e);
    if (rc)
        return rc;
    if (s.copies) {
        rc = st_area_new(&m->priv->copies, 1, s.copies, m->path, e);
        if (rc)
            return rc;
        /* Decoding reads all of it for every token: large pages save most of the address translation. */
        (void)madvise(m->priv->copies.p, m->priv->copies.len, MADV_HUGEPAGE);
    }
    const struct st_locked_opts lo = {.what = "routers", .allow_unlocked = l->o->allow_unlocked, .secretmem = true};
    if (s.secrets && (rc = st_locked_new(&m->priv->secrets, s.secrets, &lo, e)) != 0)
        return rc;
    place_matrices(l);
    prefetch_views(l);
    const struct st_convert_opts how = {.n_threads = l->o->n_threads,
                                        .progress = l->o->progress,
                                        .source = l->source,
                                        .allow_unlocked = l->o->allow_unlocked};
    return l->n_job ? st_convert_all(m->priv->ckpt, l->jobs, l->n_job, &how, e) : 0;
}
