#include "cli/demo_role.h"
#include "text/json.h"

#include <stdio.h>
#include <string.h>

enum { MAX_ARGS = 28 };

int st_demo_role_start(struct st_demo_role *r, const char *name, const char *program, const char *const *args, int port,
                       struct st_err *e)
{
    char where[32];
    snprintf(where, sizeof where, "--port=%d", port);
    const char *const more[] = {where, "--json", "--quiet", "--config=", NULL};
    const char *all[MAX_ARGS + sizeof more / sizeof *more];
    size_t n = 0;
    *r = (struct st_demo_role){.name = name};
    for (; n < MAX_ARGS && args[n]; n++)
        all[n] = args[n];
    memcpy(all + n, more, sizeof more);
    return st_child_start(program, all, &r->child, e) ? st_err_prefix(e, "%s", name) : 0;
}

int st_demo_role_ready(struct st_demo_role *r, double seconds, struct st_err *e)
{
    char line[4096];
    json_t *o = NULL;
    const char *url = NULL;
    int64_t port = 0;
    if (st_child_line(&r->child, seconds, line, sizeof line, e))
        return st_err_prefix(e, "%s", r->name);
    int rc = st_json_parse(line, strlen(line), r->name, &o, e);
    if (!rc)
        rc = st_json_need(o, r->name, "url", e);
    if (!rc)
        rc = st_json_str(o, r->name, "url", &url, e);
    if (!rc)
        rc = st_json_int(o, r->name, "port", 1, 65535, &port, e);
    if (!rc) {
        snprintf(r->url, sizeof r->url, "%s", url);
        r->port = (int)port;
    }
    json_decref(o);
    return rc;
}

void st_demo_role_stop(struct st_demo_role *r)
{
    st_child_stop(&r->child);
}

int st_demo_command(const char *const *args, char *line, size_t cap, struct st_err *e)
{
    struct st_child c;
    if (st_child_start(NULL, args, &c, e))
        return e->code;
    int rc = st_child_line(&c, 20, line, cap, e);
    if (!rc)
        rc = st_child_wait(&c, 20, e);
    if (rc)
        st_err_prefix(e, "sotto %s", args[0]);
    if (c.pid > 0)
        st_child_stop(&c);
    return rc;
}
