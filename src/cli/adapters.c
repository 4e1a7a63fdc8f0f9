#include "cli/adapters.h"
#include "cli/open.h"

#include <stdlib.h>
#include <string.h>

/* "NAME=PATH" or "PATH"; a path with a slash before the sign is a path. NULL: no name. */
static const char *split(const char *arg, char name[ST_ADAPTER_NAME], const char **path, struct st_err *e)
{
    size_t n = strcspn(arg, "=/");
    *path = arg;
    if (arg[n] != '=' || n == 0)
        return NULL;
    *path = arg + n + 1;
    if (n < ST_ADAPTER_NAME) {
        memcpy(name, arg, n);
        name[n] = 0;
        return name;
    }
    st_fail(e, ST_USAGE, "--adapter: a name has at most %d bytes", ST_ADAPTER_NAME - 1);
    return NULL;
}

bool st_adapters_sealed(const struct st_cli *cli)
{
    for (int i = 0; i < cli->n_adapter; i++) {
        char name[ST_ADAPTER_NAME], path[ST_PATH_MAX];
        const char *given;
        struct st_err e = {0};
        split(cli->adapters[i], name, &given, &e);
        if (!e.code && !st_open_model_path(given, path, &e) && st_container_is(path))
            return true;
    }
    return false;
}

static int open_one(const struct st_cli *cli, const char *arg, struct st_adapters *a, struct st_err *e)
{
    char path[ST_PATH_MAX], name[ST_ADAPTER_NAME];
    const char *given;
    struct st_sealed_file *file = &a->files[a->n];
    struct st_adapter_opts o = {.name = split(arg, name, &given, e)};
    if (e->code || st_open_model_path(given, path, e))
        return e->code;
    if (st_container_is(path)) {
        if (st_sealed_unlock(cli, path, ST_CONTAINER_ADAPTER, file, e))
            return e->code;
        o.container = file->container;
        o.source = st_vault_source(file->vault);
    }
    int rc = st_adapter_open(path, &o, &a->list[a->n], e);
    a->paths[a->n] = strdup(path);
    a->n++;
    return rc || a->paths[a->n - 1] ? rc : st_fail(e, ST_MEMORY, "--adapter: no memory for its path");
}

int st_adapters_open(const struct st_cli *cli, struct st_adapters *out, struct st_err *e)
{
    *out = (struct st_adapters){0};
    e->code = 0;
    for (int i = 0; i < cli->n_adapter; i++)
        if (open_one(cli, cli->adapters[i], out, e)) {
            st_adapters_close(out);
            return e->code;
        }
    return 0;
}

void st_adapters_close(struct st_adapters *a)
{
    for (uint32_t i = 0; i < a->n; i++) {
        st_adapter_close(a->list[i]);
        st_sealed_file_close(&a->files[i]);
        free(a->paths[i]);
    }
    *a = (struct st_adapters){0};
}
