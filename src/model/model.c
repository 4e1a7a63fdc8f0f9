#include "model/model.h"
#include "base/file.h"
#include "base/mem.h"
#include "model/arch.h"
#include "model/checkpoint.h"
#include "model/convert.h"
#include "model/fold.h"
#include "model/kit.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct st_model_priv {
    struct st_ckpt *ckpt;
    struct st_area copies; /* converted matrices and int8 scales */
    float *vectors;        /* all norms and biases, each on its own cache line */
    struct st_adapter_memory adapters[ST_ADAPTERS_MAX];
};

/* What loading needs beside the model itself. */
struct load {
    struct st_model *m;
    const struct st_model_opts *o;
    const struct st_tensor **src; /* [plan.n_weight]; NULL: not in the checkpoint */
    struct st_fold fold;          /* empty unless norms are folded */
    struct st_kit kit;            /* no_linear */
    struct st_convert_job *jobs;  /* [n_job] */
    size_t n_job;
};

/* The path without trailing slashes; the name is its last component, and of "." what that stands for. */
static int name_model(struct st_model *m, const char *path, struct st_err *e)
{
    char *real = NULL;
    size_t len = strlen(path);
    while (len > 1 && path[len - 1] == '/')
        len--;
    m->path = strndup(path, len);
    if (!m->path)
        return st_fail(e, ST_MEMORY, "%s: no memory for its name", path);
    const char *slash = strrchr(m->path, '/');
    const char *name = slash ? slash + 1 : m->path;
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0) {
        real = realpath(m->path, NULL);
        name = real ? strrchr(real, '/') + 1 : name;
    }
    snprintf(m->name, sizeof m->name, "%.*s", (int)sizeof m->name - 1, name);
    free(real);
    return 0;
}

/* A kit is a checkpoint with holes: it is opened as one on purpose or not at all. */
static int check_kit(struct load *l, struct st_err *e)
{
    const char *path = l->m->path;
    bool is_kit = st_kit_is(path);
    if (is_kit && !l->o->no_linear)
        return st_fail(e, ST_INPUT,
                       "%s: is the trusted side's part of a model (" ST_KIT_MANIFEST
                       "): it has no linear layers, so it runs with --protect masked only",
                       path);
    if (!is_kit && l->o->no_linear)
        return st_fail(e, ST_INPUT, "%s: no " ST_KIT_MANIFEST "; want a directory made by sotto-worker prepare --kit",
                       path);
    return is_kit ? st_kit_read(path, &l->kit, e) : 0;
}

static int open_files(struct load *l, struct st_err *e)
{
    struct st_model *m = l->m;
    if (check_kit(l, e))
        return e->code;
    if (!st_path_is_dir(m->path))
        return st_ckpt_open_llama2c(m->path, &m->priv->ckpt, &m->config, e);
    char config[ST_PATH_MAX];
    int rc = st_path_join(config, sizeof config, m->path, "config.json", e);
    if (!rc && !st_path_exists(config))
        rc = st_fail(e, ST_INPUT, "%s: no config.json; want a Hugging Face model directory or a llama2.c .bin file",
                     m->path);
    if (!rc)
        rc = st_config_read(m->path, &m->config, e);
    if (!rc)
        rc = st_ckpt_open(m->path, &m->priv->ckpt, e);
    return rc;
}

/* Names first: requests tell adapters, and the base, apart by them. */
static int name_adapters(const struct load *l, struct st_err *e)
{
    struct st_model *m = l->m;
    if (l->o->n_adapter > ST_ADAPTERS_MAX)
        return st_fail(e, ST_USAGE, "%s: %u adapters; at most %d at once", m->path, l->o->n_adapter, ST_ADAPTERS_MAX);
    if (l->o->n_adapter && m->config.rope_interleaved && strcmp(m->config.arch, "LlamaForCausalLM") == 0)
        return st_fail(e, ST_UNSUPPORTED,
                       "%s: adapters are for Hugging Face models; a llama2.c file orders the rows of q and k otherwise",
                       m->path);
    if (l->o->n_adapter && st_alloc(&m->adapters, l->o->n_adapter, sizeof *m->adapters, m->path, e))
        return e->code;
    for (uint32_t i = 0; i < l->o->n_adapter; i++) {
        snprintf(m->adapters[i], sizeof m->adapters[i], "%s", st_adapter_name(l->o->adapters[i]));
        for (uint32_t k = 0; k < i; k++)
            if (strcmp(m->adapters[i], m->adapters[k]) == 0)
                return st_fail(e, ST_USAGE, "adapter '%s': there are two of that name; want NAME=PATH", m->adapters[i]);
        m->n_adapter++;
    }
    return 0;
}

static int make_plan(const struct load *l, struct st_err *e)
{
    struct st_model *m = l->m;
    const struct st_arch *arch;
    int rc = st_arch_find(m->config.arch, &arch, e);
    if (rc)
        return rc;
    arch->plan(&m->config, &m->plan);
    rc = st_plan_check(&m->plan, e);
    if (!rc)
        rc = name_adapters(l, e);
    for (uint32_t i = 0; !rc && i < m->n_adapter; i++)
        rc = st_adapter_plan(l->o->adapters[i], (int)i + 1, &m->plan, e);
    return rc || !m->n_adapter ? rc : st_plan_check(&m->plan, e);
}

static bool is_adapter(const struct st_plan_weight *w)
{
    return w->role == ST_ROLE_LORA_A || w->role == ST_ROLE_LORA_B;
}

static bool is_vector(const struct st_plan_weight *w)
{
    return w->n_in == 1 && !is_adapter(w);
}

/* "[4096,4096]" */
static const char *shape_text(char *out, size_t cap, const uint64_t *dim, int n)
{
    size_t len = (size_t)snprintf(out, cap, "[");
    for (int i = 0; i < n && len < cap; i++)
        len += (size_t)snprintf(out + len, cap - len, "%s%" PRIu64, i ? "," : "", dim[i]);
    if (len < cap)
        snprintf(out + len, cap - len, "]");
    return out;
}

static int check_tensor(const struct st_model *m, const struct st_plan_weight *w, const struct st_tensor *t,
                        struct st_err *e)
{
    uint64_t dim[2] = {w->n_out, w->n_in};
    int n = is_vector(w) ? 1 : 2;
    char want[64], got[200];
    if (t->n_dim != n || memcmp(t->dim, dim, sizeof dim[0] * (size_t)n) != 0)
        return st_fail(e, ST_INPUT, "%s: %s: want %s f32, f16 or bf16, got %s %s", m->path, w->name,
                       shape_text(want, sizeof want, dim, n), shape_text(got, sizeof got, t->dim, t->n_dim), t->stored);
    if (t->dtype == ST_DTYPE_COUNT)
        return st_fail(e, ST_UNSUPPORTED, "%s: %s: dtype %s is not supported; supported: F32, F16, BF16", m->path,
                       w->name, t->stored);
    return 0;
}

/* What is not the checkpoint's: matrices of adapters; and what a kit leaves out: matrices that are served, norms that
 * are ones, the embedding when its rows are fetched. */
static bool is_left_out(const struct load *l, int i)
{
    if (is_adapter(&l->m->plan.weights[i]))
        return true;
    if (!l->o->no_linear)
        return false;
    if (l->m->plan.weights[i].role == ST_ROLE_EMBED)
        return !l->kit.embedding;
    return l->fold.linear[i] || l->fold.unit[i];
}

/* The weight of the norm whose weights go into the columns of matrix i, or -1. Those of a kit have them already. */
static int folded_norm(const struct load *l, int i)
{
    return l->o->fold_norms && !l->o->no_linear ? l->fold.norm[i] : -1;
}

/* Finds the tensor of every weight that is in the checkpoint. */
static int resolve(struct load *l, struct st_err *e)
{
    struct st_model *m = l->m;
    for (int i = 0; i < m->plan.n_weight; i++) {
        const struct st_plan_weight *w = &m->plan.weights[i];
        if (is_left_out(l, i))
            continue;
        if (w->tied_to >= 0) {
            l->src[i] = l->src[w->tied_to];
            continue;
        }
        l->src[i] = st_ckpt_find(m->priv->ckpt, w->name);
        if (!l->src[i])
            return st_fail(e, ST_INPUT, "%s: %s: missing", m->path, w->name);
        int rc = check_tensor(m, w, l->src[i], e);
        if (rc)
            return rc;
    }
    return 0;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Old Llama checkpoints store their rotary frequencies, which follow from the config. */
static bool is_derived(const char *name)
{
    static const char tail[] = ".rotary_emb.inv_freq";
    size_t len = strlen(name);
    return len >= sizeof tail && strcmp(name + len - (sizeof tail - 1), tail) == 0;
}

/* Layers behind the last one guess further tokens (DeepSeek-V3) and take no part in the next one. */
static bool is_mtp(const struct st_config *c, const char *name)
{
    unsigned layer;
    int end = 0;
    return sscanf(name, "model.layers.%4u.%n", &layer, &end) == 1 && end && layer >= c->n_layer &&
           layer - c->n_layer < c->n_mtp_layer;
}

static int refuse_strays(const struct load *l, struct st_err *e)
{
    const struct st_model *m = l->m;
    size_t n = 0;
    const char **known = NULL;
    int rc = st_alloc(&known, (size_t)m->plan.n_weight, sizeof *known, m->path, e);
    if (rc)
        return rc;
    for (int i = 0; i < m->plan.n_weight; i++)
        if (!is_left_out(l, i))
            known[n++] = m->plan.weights[i].name;
    qsort(known, n, sizeof *known, by_text);
    for (size_t i = 0; !rc && i < st_ckpt_count(m->priv->ckpt); i++) {
        const char *name = st_ckpt_at(m->priv->ckpt, i)->name;
        if (!is_derived(name) && !is_mtp(&m->config, name) && !bsearch(&name, known, n, sizeof *known, by_text))
            rc = st_fail(e, ST_INPUT, "%s: %.200s: this tensor has no place in %s with this config", m->path, name,
                         m->config.arch);
    }
    free(known);
    return rc;
}

/* Norms and biases as f32, in one allocation. They are small and read at every step. */
static int load_vectors(struct load *l, struct st_err *e)
{
    struct st_model *m = l->m;
    size_t total = 0, at = 0, longest = 0;
    uint8_t *aligned = NULL;
    for (int i = 0; i < m->plan.n_weight; i++)
        if (is_vector(&m->plan.weights[i])) {
            size_t n = m->plan.weights[i].n_out;
            total += (n + 15) & ~(size_t)15;
            longest = n > longest ? n : longest;
        }
    int rc = st_alloc(&m->priv->vectors, total, sizeof(float), m->path, e);
    if (!rc)
        rc = st_alloc(&aligned, longest, sizeof(float), m->path, e);
    for (int i = 0; !rc && i < m->plan.n_weight; i++) {
        uint32_t n = m->plan.weights[i].n_out;
        if (!is_vector(&m->plan.weights[i]))
            continue;
        float *to = m->priv->vectors + at;
        if (l->src[i]) {
            memcpy(aligned, l->src[i]->data, l->src[i]->bytes);
            st_convert(l->src[i]->dtype, aligned, ST_DTYPE_F32, to, n);
            /* One value brings in a whole run of pages. */
            st_ckpt_release(m->priv->ckpt, l->src[i]);
        }
        m->mats[i] = (struct st_mat){.data = to, .dtype = ST_DTYPE_F32, .n_out = n, .n_in = 1};
        at += (n + 15u) & ~15u;
    }
    free(aligned);
    return rc;
}

/* Norms whose weights are in the matrices now. */
static void set_unit_norms(struct load *l)
{
    struct st_model *m = l->m;
    size_t at = 0;
    for (int i = 0; i < m->plan.n_weight; i++) {
        uint32_t n = m->plan.weights[i].n_out;
        if (!is_vector(&m->plan.weights[i]))
            continue;
        for (uint32_t k = 0; l->fold.unit && l->fold.unit[i] && k < n; k++)
            m->priv->vectors[at + k] = 1;
        at += (n + 15u) & ~15u;
    }
}

static enum st_dtype wanted(const struct load *l, int i)
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

static size_t round_line(size_t n)
{
    return (n + 63) & ~(size_t)63;
}

/* A tied head that stays in the embedding's dtype, with no norm folded in, is the same matrix. */
static bool is_shared(const struct load *l, int i)
{
    int to = l->m->plan.weights[i].tied_to;
    return to >= 0 && l->src[i] && wanted(l, i) == wanted(l, to) && folded_norm(l, i) < 0;
}

/* Another dtype, a norm folded in, or a file offset at which the kernels could not read whole values. */
static bool needs_copy(const struct load *l, int i)
{
    const struct st_tensor *t = l->src[i];
    return wanted(l, i) != t->dtype || folded_norm(l, i) >= 0 || (uintptr_t)t->data % st_dtype_size(t->dtype);
}

struct sizes {
    size_t copies, views, as_int8;
};

/* Memory for all copies is checked before any is taken. Views count too: each of them is read at every token, and a
 * model that has to come from disk every time is no use. The embedding is read by rows. */
static int check_memory(const struct load *l, const struct sizes *s, struct st_err *e)
{
    size_t have = st_mem_available(), need = s->copies + s->views;
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

static struct sizes count_sizes(const struct load *l)
{
    struct sizes s = {0};
    const struct st_plan *p = &l->m->plan;
    for (int i = 0; i < p->n_weight; i++) {
        const struct st_plan_weight *w = &p->weights[i];
        size_t n = (size_t)w->n_out * w->n_in, scales = (size_t)w->n_out * sizeof(float);
        if (is_vector(w) || !l->src[i])
            continue;
        if (w->role != ST_ROLE_EMBED)
            s.as_int8 += w->role == ST_ROLE_ROUTER ? n * sizeof(float) : n + scales;
        if (needs_copy(l, i) && !is_shared(l, i))
            s.copies +=
                round_line(n * st_dtype_size(wanted(l, i))) + (wanted(l, i) == ST_DTYPE_I8 ? round_line(scales) : 0);
        else if (w->role != ST_ROLE_EMBED && !needs_copy(l, i))
            s.views += l->src[i]->bytes;
    }
    return s;
}

/* Fills mats, and jobs for those that are copies. */
static void place_matrices(struct load *l)
{
    struct st_model *m = l->m;
    uint8_t *at = m->priv->copies.p;
    for (int i = 0; i < m->plan.n_weight; i++) {
        const struct st_plan_weight *w = &m->plan.weights[i];
        struct st_mat *mat = &m->mats[i];
        if (is_vector(w))
            continue;
        if (!l->src[i]) { /* for shapes and dtype alone */
            *mat = (struct st_mat){.dtype = ST_DTYPE_I8, .n_out = w->n_out, .n_in = w->n_in};
            continue;
        }
        if (is_shared(l, i)) {
            *mat = m->mats[w->tied_to];
            continue;
        }
        *mat = (struct st_mat){.data = l->src[i]->data, .dtype = wanted(l, i), .n_out = w->n_out, .n_in = w->n_in};
        if (!needs_copy(l, i))
            continue;
        struct st_convert_job *j = &l->jobs[l->n_job++];
        *j = (struct st_convert_job){.src = l->src[i], .dtype = mat->dtype, .n_out = w->n_out, .n_in = w->n_in};
        if (folded_norm(l, i) >= 0)
            j->columns = m->mats[folded_norm(l, i)].data;
        j->dst = at;
        mat->data = at;
        at += round_line(st_mat_bytes(mat));
        if (mat->dtype == ST_DTYPE_I8) {
            j->scale = (float *)(void *)at;
            mat->scale = j->scale;
            at += round_line(w->n_out * sizeof(float));
        }
    }
}

/* Starts reading the views from disk, so that the first token finds them in the page cache. */
static void prefetch_views(const struct load *l)
{
    for (int i = 0; i < l->m->plan.n_weight; i++)
        if (l->src[i] && !is_vector(&l->m->plan.weights[i]) && l->m->plan.weights[i].role != ST_ROLE_EMBED &&
            !needs_copy(l, i))
            st_ckpt_prefetch(l->m->priv->ckpt, l->src[i]);
}

static int load_matrices(struct load *l, struct st_err *e)
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
    place_matrices(l);
    prefetch_views(l);
    return l->n_job ? st_convert_all(m->priv->ckpt, l->jobs, l->n_job, l->o->n_threads, l->o->progress, e) : 0;
}

/* A kit has no weights of norms for them, and its matrices have them already. */
static int load_adapters(struct load *l, struct st_err *e)
{
    struct st_model *m = l->m;
    const struct st_fold *fold = l->o->fold_norms || l->o->no_linear ? &l->fold : NULL;
    for (int i = 0; l->o->no_linear && i < m->plan.n_weight; i++)
        if (m->plan.weights[i].role == ST_ROLE_LORA_A && fold->norm[i] >= 0)
            return st_fail(e, ST_UNSUPPORTED, "%s: %s: needs the weights of a norm, which a kit does not have", m->path,
                           m->plan.weights[i].name);
    for (uint32_t i = 0; i < m->n_adapter; i++)
        if (st_adapter_load(l->o->adapters[i], (int)i + 1, &m->plan, fold, l->o->allow_unlocked, m->mats,
                            &m->priv->adapters[i], e))
            return e->code;
    return 0;
}

static int load_weights(struct load *l, struct st_err *e)
{
    struct st_model *m = l->m;
    size_t n = (size_t)m->plan.n_weight;
    int rc = st_alloc(&m->mats, n, sizeof *m->mats, m->path, e);
    if (!rc)
        rc = st_alloc(&l->src, n, sizeof *l->src, m->path, e);
    if (!rc)
        rc = st_alloc(&l->jobs, n, sizeof *l->jobs, m->path, e);
    if (!rc && (l->o->fold_norms || l->o->no_linear))
        rc = st_fold_init(&l->fold, &m->plan, e);
    if (!rc)
        rc = resolve(l, e);
    if (!rc)
        rc = refuse_strays(l, e);
    if (!rc)
        rc = load_vectors(l, e); /* before the matrices, which take norms in */
    if (!rc)
        rc = load_matrices(l, e);
    if (!rc)
        rc = load_adapters(l, e);
    if (!rc)
        set_unit_norms(l);
    return rc;
}

uint64_t st_model_read_bytes(const struct st_model *m, uint32_t n_row)
{
    const struct st_config *c = &m->config;
    uint64_t bytes = m->matrix_bytes - m->expert_bytes;
    for (int i = 0; i < m->plan.n_weight; i++)
        if (m->plan.weights[i].role == ST_ROLE_EMBED)
            bytes += (uint64_t)n_row * m->mats[i].n_in * st_dtype_size(m->mats[i].dtype);
    if (m->expert_bytes) {
        double missed = pow(1 - (double)c->n_expert_used / c->n_expert, n_row);
        bytes += (uint64_t)llround((1 - missed) * (double)m->expert_bytes);
    }
    return bytes;
}

/* What follows from the loaded weights: the stored dtype and the bytes read per token. */
static void describe(const struct load *l)
{
    struct st_model *m = l->m;
    bool found = l->o->no_linear;
    if (found)
        m->config.dtype = l->kit.dtype;
    for (int i = 0; i < m->plan.n_weight; i++) {
        const struct st_plan_weight *w = &m->plan.weights[i];
        const struct st_mat *mat = &m->mats[i];
        if (is_vector(w) || is_adapter(w) || w->role == ST_ROLE_EMBED || !mat->data)
            continue;
        uint64_t bytes = st_mat_bytes(mat) + (mat->dtype == ST_DTYPE_I8 ? (uint64_t)mat->n_out * sizeof(float) : 0);
        m->matrix_bytes += bytes;
        m->expert_bytes += w->expert >= 0 ? bytes : 0;
        if (!found)
            m->config.dtype = l->src[i]->dtype;
        found = true;
    }
    m->weight_bytes = st_model_read_bytes(m, 1);
}

int st_model_open(const char *path, const struct st_model_opts *o, struct st_model **out, struct st_err *e)
{
    static const struct st_model_opts keep = {.dtype = ST_LOAD_KEEP};
    struct load l = {.o = o ? o : &keep};
    *out = NULL;
    if (l.o->fold_norms && l.o->dtype == ST_LOAD_KEEP)
        return st_fail(e, ST_INTERNAL, "%s: norms fold into converted matrices only", path);
    int rc = st_alloc(&l.m, 1, sizeof *l.m, path, e);
    if (rc)
        return rc;
    rc = st_alloc(&l.m->priv, 1, sizeof *l.m->priv, path, e);
    if (!rc)
        rc = name_model(l.m, path, e);
    if (rc)
        goto out;
    rc = open_files(&l, e);
    if (!rc)
        rc = make_plan(&l, e);
    if (!rc)
        rc = load_weights(&l, e);
    if (!rc)
        describe(&l);
out:
    free(l.src);
    free(l.jobs);
    st_fold_free(&l.fold);
    if (rc)
        st_model_close(l.m);
    else
        *out = l.m;
    return rc;
}

void st_model_close(struct st_model *m)
{
    if (!m)
        return;
    if (m->priv) {
        st_ckpt_close(m->priv->ckpt);
        st_area_free(&m->priv->copies);
        free(m->priv->vectors);
        for (uint32_t i = 0; i < m->n_adapter; i++)
            st_adapter_memory_free(&m->priv->adapters[i]);
        free(m->priv);
    }
    st_plan_free(&m->plan);
    free(m->mats);
    free(m->adapters);
    free(m->path);
    free(m);
}

static const struct st_tensor *stored(const struct st_model *m, int weight)
{
    int tied = m->plan.weights[weight].tied_to;
    const struct st_tensor *t = st_ckpt_find(m->priv->ckpt, m->plan.weights[weight].name);
    return t || tied < 0 ? t : st_ckpt_find(m->priv->ckpt, m->plan.weights[tied].name);
}

void st_model_release(const struct st_model *m, int weight)
{
    const struct st_tensor *t = stored(m, weight);
    if (t)
        st_ckpt_release(m->priv->ckpt, t);
}

void st_model_release_rows(const struct st_model *m, int weight, uint32_t lo, uint32_t n)
{
    const struct st_tensor *t = stored(m, weight);
    size_t rows = m->plan.weights[weight].n_out;
    if (t && rows)
        st_ckpt_release_part(m->priv->ckpt, t, t->bytes / rows * lo, t->bytes / rows * n);
}
