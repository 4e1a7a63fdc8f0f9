#include "model/adapter.h"
#include "base/file.h"
#include "model/adapter_priv.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PREFIX "base_model.model."

/* What else such files hold, and why it is refused. */
static const struct {
    const char *part, *what;
} foreign[] = {
    {"lora_magnitude_vector", "belongs to DoRA, which is not supported"},
    {"lora_embedding_", "changes the embedding, which is not supported"},
    {"modules_to_save", "is a copy of a weight of the base (modules_to_save), which is not supported"},
    {"embed_tokens.", "is a weight of the base; save the adapter with save_embedding_layers=False"},
    {".base_layer.", "is a weight of the base; save the adapter with save_embedding_layers=False"},
    {".bias", "is a bias, which is not supported"},
};

static int refuse_tensor(const struct st_adapter *a, const char *name, struct st_err *e)
{
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++)
        if (strstr(name, foreign[i].part))
            return st_fail(e, ST_UNSUPPORTED, "%s: %.200s: %s", a->path, name, foreign[i].what);
    return st_fail(e, ST_INPUT, "%s: %.200s: want " PREFIX "MODULE.lora_A.weight or .lora_B.weight", a->path, name);
}

bool st_adapter_module(const char *name, char module[ST_PLAN_NAME], char *side)
{
    size_t prefix = sizeof PREFIX - 1;
    const char *at = strncmp(name, PREFIX, prefix) == 0 ? name + prefix : NULL, *end = NULL;
    for (const char *c = at; c && (c = strstr(c, ".lora_")) != NULL; c++)
        if ((c[6] == 'A' || c[6] == 'B') && c[7] == '.')
            end = c;
    if (!end || end == at || (size_t)(end - at) >= ST_PLAN_NAME)
        return false;
    const char *tail = end + 8, *dot = strchr(tail, '.');
    if (dot && dot > tail)
        tail = dot + 1;
    *side = end[6];
    memcpy(module, at, (size_t)(end - at));
    module[end - at] = 0;
    return strcmp(tail, "weight") == 0;
}

static int by_module(const void *a, const void *b)
{
    return strcmp(((const struct st_adapter_pair *)a)->module, ((const struct st_adapter_pair *)b)->module);
}

const struct st_adapter_pair *st_adapter_find(const struct st_adapter *a, const char *module)
{
    struct st_adapter_pair key = {.a = NULL};
    snprintf(key.module, sizeof key.module, "%s", module);
    return bsearch(&key, a->pairs, a->n_pair, sizeof key, by_module);
}

/* One more tensor, to be paired later: each stands alone at first. */
static int add_tensor(struct st_adapter *a, const struct st_tensor *t, struct st_err *e)
{
    struct st_adapter_pair *p = &a->pairs[a->n_pair];
    char side = 0;
    if (!st_adapter_module(t->name, p->module, &side))
        return refuse_tensor(a, t->name, e);
    if (t->dtype == ST_DTYPE_COUNT)
        return st_fail(e, ST_UNSUPPORTED, "%s: %.200s: dtype %s is not supported; supported: F32, F16, BF16", a->path,
                       t->name, t->stored);
    if (t->n_dim != 2)
        return st_fail(e, ST_INPUT, "%s: %.200s: want a matrix, got %d dimensions", a->path, t->name, t->n_dim);
    *(side == 'A' ? &p->a : &p->b) = t;
    a->n_pair++;
    return 0;
}

/* Brings A and B of each module together. */
static int pair(struct st_adapter *a, struct st_err *e)
{
    size_t n = 0;
    qsort(a->pairs, a->n_pair, sizeof *a->pairs, by_module);
    for (size_t i = 0; i < a->n_pair; i++) {
        const struct st_adapter_pair *one = &a->pairs[i];
        struct st_adapter_pair *p = n ? &a->pairs[n - 1] : NULL;
        const struct st_tensor *t = one->a ? one->a : one->b;
        if (!p || strcmp(p->module, one->module) != 0)
            a->pairs[n++] = *one;
        else if (one->a ? p->a != NULL : p->b != NULL)
            return st_fail(e, ST_INPUT, "%s: %.200s: there are two of them for one module", a->path, t->name);
        else if (one->a)
            p->a = t;
        else
            p->b = t;
    }
    a->n_pair = n;
    return 0;
}

static int check_pair(const struct st_adapter *a, const struct st_adapter_pair *p, struct st_err *e)
{
    const struct st_tensor *t = p->a ? p->a : p->b;
    if (!p->a || !p->b)
        return st_fail(e, ST_INPUT, "%s: %.200s: its lora_%c is missing", a->path, t->name, p->a ? 'B' : 'A');
    if (p->a->dim[0] != p->b->dim[1] || p->a->dim[0] == 0)
        return st_fail(e, ST_INPUT,
                       "%s: %.200s: want lora_A [rank,n_in] and lora_B [n_out,rank], got [%" PRIu64 ",%" PRIu64
                       "] and [%" PRIu64 ",%" PRIu64 "]",
                       a->path, p->a->name, p->a->dim[0], p->a->dim[1], p->b->dim[0], p->b->dim[1]);
    return 0;
}

static int read_pairs(struct st_adapter *a, struct st_err *e)
{
    const struct st_container *c = a->container;
    size_t n = c ? st_container_count(c) : st_ckpt_count(a->ckpt);
    if (st_alloc(&a->pairs, n, sizeof *a->pairs, a->path, e))
        return e->code;
    for (size_t i = 0; i < n; i++) {
        const struct st_container_entry *entry = c ? st_container_at(c, i) : NULL;
        if ((!entry || !entry->is_file) && add_tensor(a, c ? &entry->tensor : st_ckpt_at(a->ckpt, i), e))
            return e->code;
    }
    if (pair(a, e))
        return e->code;
    for (size_t i = 0; i < a->n_pair; i++)
        if (check_pair(a, &a->pairs[i], e))
            return e->code;
    return a->n_pair ? 0 : st_fail(e, ST_INPUT, "%s: has no tensors", a->path);
}

static int read_container(struct st_adapter *a, struct st_buf *config, struct st_err *e)
{
    struct st_container_about about;
    st_container_about(a->container, &about);
    if (about.kind != ST_CONTAINER_ADAPTER)
        return st_fail(e, ST_INPUT, "%s: is a sealed model, want an adapter", a->path);
    if (!*a->name)
        snprintf(a->name, sizeof a->name, "%s", about.name);
    return st_container_file(a->container, "adapter_config.json", ST_ADAPTER_CONFIG_MAX, config, e);
}

static int read_dir(struct st_adapter *a, struct st_buf *config, struct st_err *e)
{
    char path[ST_PATH_MAX];
    if (!st_path_is_dir(a->path))
        return st_fail(e, st_path_exists(a->path) ? ST_INPUT : ST_IO,
                       "%s: want a directory with adapter_config.json and adapter_model.safetensors%s", a->path,
                       st_path_exists(a->path) ? "" : ", but there is none");
    if (st_path_join(path, sizeof path, a->path, "adapter_config.json", e))
        return e->code;
    if (!st_path_exists(path))
        return st_fail(e, ST_INPUT,
                       "%s: no adapter_config.json; want a directory as peft saves it, or a sealed adapter", a->path);
    if (st_file_read(path, ST_ADAPTER_CONFIG_MAX, config, e) ||
        st_path_join(path, sizeof path, a->path, "adapter_model.safetensors", e))
        return e->code;
    if (!st_path_exists(path))
        return st_fail(e, ST_INPUT, "%s: is not there; adapters are read as safetensors only", path);
    return st_ckpt_open(path, &a->ckpt, e);
}

/* The last component of the path, unless the user or the container gave a name. */
static int name_adapter(struct st_adapter *a, struct st_err *e)
{
    size_t len = strlen(a->path);
    while (len > 1 && a->path[len - 1] == '/')
        len--;
    size_t from = len;
    while (from && a->path[from - 1] != '/')
        from--;
    if (!*a->name && len - from < sizeof a->name)
        snprintf(a->name, sizeof a->name, "%.*s", (int)(len - from), a->path + from);
    for (const char *c = a->name; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *a->name = 0;
    if (!*a->name || strcmp(a->name, ".") == 0 || strcmp(a->name, "..") == 0)
        return st_fail(e, ST_USAGE, "%s: cannot be called by that; give the adapter a name of at most %d bytes",
                       a->path, ST_ADAPTER_NAME - 1);
    return 0;
}

static int open_parts(struct st_adapter *a, const struct st_adapter_opts *o, struct st_err *e)
{
    struct st_buf config = {0};
    char where[ST_PATH_MAX];
    if (o->name && strlen(o->name) >= sizeof a->name)
        return st_fail(e, ST_USAGE, "adapter '%.32s...': a name has at most %d bytes", o->name, ST_ADAPTER_NAME - 1);
    if (o->name)
        snprintf(a->name, sizeof a->name, "%s", o->name);
    int rc = a->container ? read_container(a, &config, e) : read_dir(a, &config, e);
    if (!rc)
        rc = st_path_join(where, sizeof where, a->path, "adapter_config.json", e);
    if (!rc)
        rc = st_adapter_config_parse(config.p, config.len, where, &a->config, e);
    st_buf_free(&config);
    if (!rc)
        rc = name_adapter(a, e);
    return rc ? rc : read_pairs(a, e);
}

int st_adapter_open(const char *path, const struct st_adapter_opts *o, struct st_adapter **out, struct st_err *e)
{
    struct st_adapter *a;
    *out = NULL;
    if (st_alloc(&a, 1, sizeof *a, "adapter", e))
        return e->code;
    a->container = o->container;
    a->source = o->source;
    a->path = strdup(path);
    int rc = a->path ? open_parts(a, o, e) : st_fail(e, ST_MEMORY, "%s: no memory for its name", path);
    if (rc)
        st_adapter_close(a);
    else
        *out = a;
    return rc;
}

void st_adapter_close(struct st_adapter *a)
{
    if (!a)
        return;
    st_adapter_config_free(a->config);
    st_ckpt_close(a->ckpt);
    free(a->pairs);
    free(a->path);
    free(a);
}

const char *st_adapter_name(const struct st_adapter *a)
{
    return a->name;
}
