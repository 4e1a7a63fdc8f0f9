#include "model/model.h"
#include "base/file.h"
#include "model/arch.h"
#include "model/container.h"
#include "model/model_load.h"
#include "model/texts.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
static int check_kit(struct st_load *l, struct st_err *e)
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

/* Opened by the caller, who has its key, or here. */
static int open_container(struct st_load *l, struct st_err *e)
{
    struct st_model *m = l->m;
    struct st_container_about about;
    struct st_texts texts;
    l->source = l->o->source;
    if (!l->source) {
        if (st_container_open(m->path, &m->priv->container, e))
            return e->code;
        l->source = st_container_source(m->priv->container);
    }
    st_container_about(l->source->container, &about);
    if (about.kind != ST_CONTAINER_MODEL)
        return st_fail(e, ST_INPUT,
                       "%s: is a sealed adapter, not a model; adapters go with `sotto serve BASE --adapter`", m->path);
    snprintf(m->name, sizeof m->name, "%s", about.name);
    int rc = st_texts_open(m->path, l->source->container, &texts, e);
    if (!rc)
        rc = st_config_read_in(&texts, &m->config, e);
    if (!rc)
        rc = st_ckpt_open_container(l->source->container, &m->priv->ckpt, e);
    return rc;
}

static int open_files(struct st_load *l, struct st_err *e)
{
    struct st_model *m = l->m;
    if (check_kit(l, e))
        return e->code;
    if (l->o->source || st_container_is(m->path))
        return open_container(l, e);
    if (!st_path_is_dir(m->path))
        return st_ckpt_open_llama2c(m->path, &m->priv->ckpt, &m->config, e);
    char config[ST_PATH_MAX], adapter[ST_PATH_MAX];
    int rc = st_path_join(config, sizeof config, m->path, "config.json", e);
    if (!rc && !st_path_exists(config) &&
        !(rc = st_path_join(adapter, sizeof adapter, m->path, "adapter_config.json", e)))
        rc = st_path_exists(adapter)
                 ? st_fail(e, ST_INPUT, "%s: is a LoRA adapter, not a model; give it with --adapter beside its base",
                           m->path)
                 : st_fail(e, ST_INPUT,
                           "%s: no config.json; want a Hugging Face model directory, a llama2.c .bin file or a sealed "
                           "container",
                           m->path);
    if (!rc)
        rc = st_config_read(m->path, &m->config, e);
    if (!rc)
        rc = st_ckpt_open(m->path, &m->priv->ckpt, e);
    return rc;
}

/* Names first: requests tell adapters, and the base, apart by them. */
static int name_adapters(const struct st_load *l, struct st_err *e)
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

static int make_plan(const struct st_load *l, struct st_err *e)
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

/* A kit has no weights of norms for them, and its matrices have them already. */
static int load_adapters(struct st_load *l, struct st_err *e)
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

static int load_weights(struct st_load *l, struct st_err *e)
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
        rc = st_load_resolve(l, e);
    if (!rc)
        rc = st_load_vectors(l, e); /* before the matrices, which take norms in */
    if (!rc)
        rc = st_load_matrices(l, e);
    if (!rc)
        rc = load_adapters(l, e);
    if (!rc)
        st_load_unit_norms(l);
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
static void describe(const struct st_load *l)
{
    struct st_model *m = l->m;
    bool found = l->o->no_linear;
    if (found)
        m->config.dtype = l->kit.dtype;
    for (int i = 0; i < m->plan.n_weight; i++) {
        const struct st_plan_weight *w = &m->plan.weights[i];
        const struct st_mat *mat = &m->mats[i];
        if (st_load_is_vector(w) || st_load_is_adapter(w) || w->role == ST_ROLE_EMBED || !l->src[i])
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
    struct st_load l = {.o = o ? o : &keep};
    *out = NULL;
    if (l.o->fold_norms && l.o->dtype == ST_LOAD_KEEP)
        return st_fail(e, ST_INTERNAL, "%s: norms fold into converted matrices only", path);
    if (l.o->fold_norms && (l.o->source || st_container_is(path)))
        return st_fail(e, ST_INTERNAL, "%s: norms of a container are not folded", path);
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
        if (!m->priv->locked.p)
            free(m->priv->vectors);
        st_locked_free(&m->priv->locked);
        st_locked_free(&m->priv->secrets);
        st_container_close(m->priv->container);
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
