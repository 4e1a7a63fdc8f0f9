#include "model/checkpoint.h"
#include "base/file.h"
#include "model/ckpt.h"
#include "model/container.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct st_ckpt {
    struct st_tensors tensors;
    struct st_map *maps; /* [n_map] one per file */
    size_t n_map;
};

struct st_tensor *st_tensors_add(struct st_tensors *l, const char *name, struct st_err *e)
{
    if (l->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 64;
        struct st_tensor *at = reallocarray(l->at, cap, sizeof *at);
        if (!at) {
            st_fail(e, ST_MEMORY, "%.64s: no memory for %zu tensors", name, cap);
            return NULL;
        }
        l->at = at;
        l->cap = cap;
    }
    char *copy = strdup(name);
    if (!copy) {
        st_fail(e, ST_MEMORY, "%.64s: no memory for its name", name);
        return NULL;
    }
    l->at[l->n] = (struct st_tensor){.name = copy, .dtype = ST_DTYPE_COUNT, .stored = ""};
    return &l->at[l->n++];
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct st_tensor *)a)->name, ((const struct st_tensor *)b)->name);
}

void st_tensors_sort(struct st_tensors *l)
{
    if (l->n)
        qsort(l->at, l->n, sizeof *l->at, by_name);
}

void st_tensors_free(struct st_tensors *l)
{
    for (size_t i = 0; i < l->n; i++)
        free((char *)l->at[i].name);
    free(l->at);
    *l = (struct st_tensors){0};
}

static int ckpt_new(size_t n_map, struct st_ckpt **out, struct st_err *e)
{
    struct st_ckpt *c = NULL;
    int rc = st_alloc(&c, 1, sizeof *c, "checkpoint", e);
    if (!rc)
        rc = st_alloc(&c->maps, n_map, sizeof *c->maps, "checkpoint", e);
    if (rc) {
        free(c);
        return rc;
    }
    *out = c;
    return 0;
}

void st_ckpt_close(struct st_ckpt *c)
{
    if (!c)
        return;
    st_tensors_free(&c->tensors);
    for (size_t i = 0; i < c->n_map; i++)
        st_map_close(&c->maps[i]);
    free(c->maps);
    free(c);
}

/* Maps one more safetensors file and appends its tensors. */
static int add_file(struct st_ckpt *c, const char *path, struct st_err *e)
{
    struct st_map *m = &c->maps[c->n_map];
    int rc = st_map_open(path, m, e);
    if (rc)
        return rc;
    c->n_map++;
    return st_safetensors_parse(m->p, m->len, path, &c->tensors, e);
}

static int open_single(const char *path, struct st_ckpt **out, struct st_err *e)
{
    int rc = ckpt_new(1, out, e);
    return rc ? rc : add_file(*out, path, e);
}

static int open_sharded(const char *dir, const char *index, struct st_ckpt **out, struct st_err *e)
{
    struct st_ckpt_index x = {0};
    struct st_buf b = {0};
    int rc = st_file_read(index, ST_SAFETENSORS_HEADER_MAX, &b, e);
    if (!rc)
        rc = st_ckpt_index_parse(b.p, b.len, index, &x, e);
    st_buf_free(&b);
    if (!rc)
        rc = ckpt_new(x.n_file, out, e);
    for (size_t i = 0; !rc && i < x.n_file; i++) {
        char path[ST_PATH_MAX];
        size_t from = (*out)->tensors.n;
        rc = st_path_join(path, sizeof path, dir, x.files[i], e);
        if (!rc)
            rc = add_file(*out, path, e);
        if (!rc)
            rc = st_ckpt_index_check(&x, &(*out)->tensors, from, x.files[i], index, e);
    }
    st_ckpt_index_free(&x);
    return rc;
}

static int open_dir(const char *dir, struct st_ckpt **out, struct st_err *e)
{
    char path[ST_PATH_MAX];
    int rc = st_path_join(path, sizeof path, dir, "model.safetensors", e);
    if (rc || st_path_exists(path))
        return rc ? rc : open_single(path, out, e);
    rc = st_path_join(path, sizeof path, dir, "model.safetensors.index.json", e);
    if (rc || st_path_exists(path))
        return rc ? rc : open_sharded(dir, path, out, e);
    rc = st_path_join(path, sizeof path, dir, "pytorch_model.bin", e);
    if (rc || st_path_exists(path))
        return rc ? rc
                  : st_fail(e, ST_UNSUPPORTED, "%s: pickled weights are not supported; supported: safetensors", path);
    return st_fail(e, ST_INPUT, "%s: neither model.safetensors nor model.safetensors.index.json is there", dir);
}

int st_ckpt_open(const char *path, struct st_ckpt **out, struct st_err *e)
{
    *out = NULL;
    int rc = st_path_is_dir(path) ? open_dir(path, out, e) : open_single(path, out, e);
    if (rc) {
        st_ckpt_close(*out);
        *out = NULL;
        return rc;
    }
    st_tensors_sort(&(*out)->tensors);
    return 0;
}

int st_ckpt_open_llama2c(const char *path, struct st_ckpt **out, struct st_config *config, struct st_err *e)
{
    *out = NULL;
    int rc = ckpt_new(1, out, e);
    if (!rc)
        rc = st_map_open(path, &(*out)->maps[0], e);
    if (!rc) {
        (*out)->n_map = 1;
        rc = st_llama2c_parse((*out)->maps[0].p, (*out)->maps[0].len, path, config, &(*out)->tensors, e);
    }
    if (rc) {
        st_ckpt_close(*out);
        *out = NULL;
        return rc;
    }
    st_tensors_sort(&(*out)->tensors);
    return 0;
}

int st_ckpt_open_container(const struct st_container *from, struct st_ckpt **out, struct st_err *e)
{
    *out = NULL;
    int rc = ckpt_new(1, out, e);
    for (size_t i = 0; !rc && i < st_container_count(from); i++) {
        const struct st_container_entry *n = st_container_at(from, i);
        struct st_tensor *t = n->is_file ? NULL : st_tensors_add(&(*out)->tensors, n->tensor.name, e);
        if (t) {
            const char *name = t->name;
            *t = n->tensor;
            t->name = name;
        } else if (!n->is_file)
            rc = e->code;
    }
    if (rc) {
        st_ckpt_close(*out);
        *out = NULL;
        return rc;
    }
    st_tensors_sort(&(*out)->tensors);
    return 0;
}

size_t st_ckpt_count(const struct st_ckpt *c)
{
    return c->tensors.n;
}

const struct st_tensor *st_ckpt_at(const struct st_ckpt *c, size_t i)
{
    return i < c->tensors.n ? &c->tensors.at[i] : NULL;
}

const struct st_tensor *st_ckpt_find(const struct st_ckpt *c, const char *name)
{
    struct st_tensor key = {.name = name};
    return c->tensors.n ? bsearch(&key, c->tensors.at, c->tensors.n, sizeof key, by_name) : NULL;
}

/* Advice on the whole pages that hold the tensor. A neighbour's bytes on the first and last page may be dropped with
 * them, which costs one more page fault and nothing else: the map is read-only. Advice that the kernel refuses is no
 * error. */
static void advise(const struct st_tensor *t, size_t at, size_t len, int advice)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t from = (uintptr_t)t->data + at, begin = from & ~(page - 1);
    if (len && t->data)
        (void)madvise((void *)begin, from + len - begin, advice);
}

void st_ckpt_prefetch(const struct st_ckpt *c, const struct st_tensor *t)
{
    (void)c;
    advise(t, 0, t->bytes, MADV_WILLNEED);
}

void st_ckpt_release(const struct st_ckpt *c, const struct st_tensor *t)
{
    (void)c;
    advise(t, 0, t->bytes, MADV_DONTNEED);
}

void st_ckpt_release_part(const struct st_ckpt *c, const struct st_tensor *t, size_t at, size_t len)
{
    (void)c;
    advise(t, at, len, MADV_DONTNEED);
}
