#include "service/prepare.h"
#include "base/file.h"
#include "base/hooks.h"
#include "base/mem.h"
#include "model/hints.h"
#include "model/kit.h"

#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>

/* All that can be known before hours of work. */
static int check(const struct st_prepare_opts *o, const struct st_lwe_params **params, struct st_err *e)
{
    const char *made[] = {o->hints, o->kit};
    if (!o->hints && !o->kit)
        return st_fail(e, ST_USAGE, "nothing to make: name a file for hints or a directory for a kit");
    for (int i = 0; i < 2; i++)
        if (made[i] && st_path_exists(made[i]))
            return st_fail(e, ST_IO, "%s: exists already; not overwritten", made[i]);
    return st_lwe_params_find(o->params, params, e);
}

/* On the disk of the file's directory. */
static int check_room(const char *file, uint64_t need, struct st_err *e)
{
    char dir[ST_PATH_MAX], a[ST_MEM_TEXT], b[ST_MEM_TEXT];
    struct statvfs v;
    const char *slash = strrchr(file, '/');
    snprintf(dir, sizeof dir, "%.*s", slash ? (int)(slash - file + 1) : 1, slash ? file : ".");
    if (statvfs(dir, &v) != 0 || (uint64_t)v.f_bavail * v.f_frsize >= need)
        return 0; /* what cannot be known shows when it is written */
    return st_fail(e, ST_IO, "%s: the hints need %s, the disk has %s", file, st_mem_text(need, a),
                   st_mem_text((uint64_t)v.f_bavail * v.f_frsize, b));
}

static int make_hints(const struct st_prepare_opts *o, const struct st_served *served, struct st_prepare_result *out,
                      const struct st_lwe_params *params, struct st_err *e)
{
    struct st_hints_make make = {
        .served = served, .params = params, .digest = out->digest, .n_threads = o->n_threads, .progress = o->progress};
    double start = st_now();
    int rc = st_hints_write(o->hints, &make, e);
    out->hint_bytes = st_hints_bytes(&make);
    out->seconds = st_now() - start;
    return rc;
}

static int make_kit(const struct st_prepare_opts *o, const struct st_model *m, const struct st_prepare_result *r,
                    struct st_err *e)
{
    struct st_kit kit = {.embedding = !o->embedding};
    memcpy(kit.digest, r->digest, sizeof kit.digest);
    snprintf(kit.params, sizeof kit.params, "%s", r->params);
    return st_kit_make(o->kit, m, &kit, e);
}

int st_prepare_run(const struct st_prepare_opts *o, struct st_prepare_result *out, struct st_err *e)
{
    struct st_model_opts how = st_served_model_opts(o->model);
    const struct st_lwe_params *params;
    struct st_model *m = NULL;
    struct st_served served = {0};
    *out = (struct st_prepare_result){0};
    how.n_threads = o->n_threads;
    how.progress = o->progress;
    int rc = check(o, &params, e);
    if (rc)
        return rc;
    out->params = params->name;
    out->note = params->note;
    out->bits_classical = params->bits_classical;
    out->bits_quantum = params->bits_quantum;
    rc = st_model_digest(o->model, o->progress, out->digest, e);
    if (!rc)
        rc = st_model_open(o->model, &how, &m, e);
    if (!rc)
        rc = st_served_init(&served, m, o->embedding, e);
    out->n_matrix = served.n;
    if (!rc && o->hints)
        rc = check_room(o->hints, st_hints_bytes(&(struct st_hints_make){.served = &served, .params = params}), e);
    if (!rc && o->kit)
        rc = make_kit(o, m, out, e); /* first: it takes seconds, and what it refuses should not cost hours */
    if (!rc && o->kit)
        rc = st_kit_measure(o->kit, out->kit_digest, e);
    if (!rc && o->hints)
        rc = make_hints(o, &served, out, params, e);
    st_served_free(&served);
    st_model_close(m);
    return rc;
}
