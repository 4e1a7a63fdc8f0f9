#include "model/ckpt.h"

#include <stdlib.h>
#include <string.h>

/* A plain name in the same directory: the index may come from anybody and must not reach other files. */
static bool plain_name(const char *s)
{
    return s[0] && s[0] != '.' && !strchr(s, '/') && !strchr(s, '\\') && !strstr(s, "..");
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int list_files(struct st_ckpt_index *x, const char *where, struct st_err *e)
{
    const char *name;
    json_t *v;
    size_t n = 0;
    int rc = st_alloc(&x->files, json_object_size(x->map), sizeof *x->files, where, e);
    if (rc)
        return rc;
    json_object_foreach((json_t *)x->map, name, v)
    {
        const char *file = json_string_value(v);
        if (!file || !plain_name(file))
            return st_fail(e, ST_INPUT, "%s: weight_map: %s: want the name of a file in the same directory", where,
                           name);
        x->files[n++] = file;
    }
    qsort(x->files, n, sizeof *x->files, by_text);
    for (size_t i = 0; i < n; i++)
        if (i == 0 || strcmp(x->files[i], x->files[x->n_file - 1]) != 0)
            x->files[x->n_file++] = x->files[i];
    if (x->n_file > ST_SHARDS_MAX)
        return st_fail(e, ST_INPUT, "%s: weight_map names %zu files; at most %u are accepted", where, x->n_file,
                       ST_SHARDS_MAX);
    return 0;
}

int st_ckpt_index_parse(const void *p, size_t len, const char *where, struct st_ckpt_index *out, struct st_err *e)
{
    *out = (struct st_ckpt_index){0};
    int rc = st_json_parse(p, len, where, &out->json, e);
    if (!rc) {
        out->map = json_object_get(out->json, "weight_map");
        if (!json_is_object(out->map) || json_object_size(out->map) == 0)
            rc = st_fail(e, ST_INPUT, "%s: weight_map: want an object of tensor names", where);
    }
    if (!rc)
        rc = list_files(out, where, e);
    if (rc)
        st_ckpt_index_free(out);
    return rc;
}

void st_ckpt_index_free(struct st_ckpt_index *x)
{
    free(x->files);
    json_decref(x->json);
    *x = (struct st_ckpt_index){0};
}

int st_ckpt_index_check(const struct st_ckpt_index *x, const struct st_tensors *l, size_t from, const char *file,
                        const char *where, struct st_err *e)
{
    size_t promised = 0;
    const char *name;
    json_t *v;
    for (size_t i = from; i < l->n; i++) {
        const char *at = json_string_value(json_object_get(x->map, l->at[i].name));
        if (!at || strcmp(at, file) != 0)
            return st_fail(e, ST_INPUT, "%s: weight_map: %s is in %s, %s", where, l->at[i].name, file,
                           at ? "but listed in another file" : "but not listed");
    }
    json_object_foreach((json_t *)x->map, name, v)
    {
        promised += strcmp(json_string_value(v), file) == 0;
    }
    /* Every tensor of the file is promised, so equal counts mean equal sets. */
    if (promised != l->n - from)
        return st_fail(e, ST_INPUT, "%s: weight_map: %zu tensors are listed in %s, which holds %zu", where, promised,
                       file, l->n - from);
    return 0;
}
