#include "model/texts.h"

#include <stdio.h>

int st_texts_open(const char *path, const struct st_container *container, struct st_texts *out, struct st_err *e)
{
    *out = (struct st_texts){.path = path, .container = container};
    if (container || !st_container_is(path))
        return 0;
    int rc = st_container_open(path, &out->own, e);
    out->container = out->own;
    return rc;
}

void st_texts_close(struct st_texts *t)
{
    st_container_close(t->own);
    *t = (struct st_texts){0};
}

bool st_texts_has(const struct st_texts *t, const char *name)
{
    char path[ST_PATH_MAX];
    struct st_err ignored;
    if (t->container) {
        const struct st_container_entry *n = st_container_find(t->container, name);
        return n && n->is_file;
    }
    return !st_path_join(path, sizeof path, t->path, name, &ignored) && st_path_exists(path);
}

int st_texts_read(const struct st_texts *t, const char *name, size_t max, struct st_buf *out, char *where,
                  struct st_err *e)
{
    int rc = st_path_join(where, ST_PATH_MAX, t->path, name, e);
    if (rc)
        return rc;
    return t->container ? st_container_file(t->container, name, max, out, e) : st_file_read(where, max, out, e);
}
