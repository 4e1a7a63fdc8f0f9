#include "base/file.h"
#include "crypto/digest.h"
#include "model/digest.h"
#include "model/fold.h"
#include "model/kit.h"
#include "model/model.h"
#include "text/json.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define TEXT_MAX ((size_t)1 << 30)

struct maker {
    const struct st_model *m;
    const struct st_kit *kit;
    struct st_fold fold;
};

/* The next weight behind i that the trusted side needs, -1 at the end: f32 first and the embedding last, so that all
 * data are aligned; within that in the order of the plan. The loader (model.c) wants these and no others. */
static int next_weight(const struct maker *k, int i)
{
    const int n = k->m->plan.n_weight;
    for (i++; i < 2 * n; i++) {
        bool is_embedding = k->m->plan.weights[i % n].role == ST_ROLE_EMBED;
        bool needed = is_embedding ? k->kit->embedding : !k->fold.linear[i % n] && !k->fold.unit[i % n];
        if (needed && is_embedding == (i >= n))
            return i;
    }
    return -1;
}

static void add_tensor(struct st_buf *b, const struct st_plan_weight *w, const struct st_mat *mat, uint64_t *at)
{
    static const char *const words[] = {"F32", "F16", "BF16"};
    uint64_t end = *at + st_mat_bytes(mat);
    st_buf_add_str(b, ", ");
    st_json_quote(b, w->name, strlen(w->name));
    st_buf_addf(b, ": {\"dtype\": \"%s\", \"shape\": [%u", words[mat->dtype], w->n_out);
    if (w->n_in != 1)
        st_buf_addf(b, ", %u", w->n_in);
    st_buf_addf(b, "], \"data_offsets\": [%llu, %llu]}", (unsigned long long)*at, (unsigned long long)end);
    *at = end;
}

static int write_tensors(struct st_file_out *f, const struct maker *k, struct st_buf *head, struct st_err *e)
{
    const struct st_model *m = k->m;
    const int n = m->plan.n_weight;
    uint64_t len = 0, at = 0;
    st_buf_add(head, &len, sizeof len);
    st_buf_add_str(head, "{\"__metadata__\": {\"format\": \"pt\"}");
    for (int i = -1; (i = next_weight(k, i)) >= 0;)
        add_tensor(head, &m->plan.weights[i % n], &m->mats[i % n], &at);
    st_buf_add_str(head, "}");
    while (head->len % 64 && !head->failed)
        st_buf_add_str(head, " ");
    if (head->failed)
        return st_fail(e, ST_MEMORY, "%s: out of memory", f->path);
    len = head->len - sizeof len;
    memcpy(head->p, &len, sizeof len);
    int rc = st_file_put(f, head->p, head->len, e);
    for (int i = -1; !rc && (i = next_weight(k, i)) >= 0;)
        rc = st_file_put(f, m->mats[i % n].data, st_mat_bytes(&m->mats[i % n]), e);
    return rc;
}

static int make_tensors(const char *dir, const struct maker *k, struct st_err *e)
{
    char path[ST_PATH_MAX];
    struct st_file_out f;
    struct st_buf head = {0};
    int rc = st_path_join(path, sizeof path, dir, "model.safetensors", e);
    if (!rc)
        rc = st_file_begin(&f, path, 0644, e);
    if (rc)
        return rc;
    rc = write_tensors(&f, k, &head, e);
    if (!rc)
        rc = st_file_commit(&f, false, e);
    st_file_abort(&f);
    st_buf_free(&head);
    return rc;
}

static int copy_text(const char *from, const char *to, const char *name, struct st_err *e)
{
    char a[ST_PATH_MAX], b[ST_PATH_MAX];
    struct st_buf text = {0};
    int rc = st_path_join(a, sizeof a, from, name, e);
    if (!rc)
        rc = st_path_join(b, sizeof b, to, name, e);
    if (rc || !st_path_exists(a))
        return rc;
    rc = st_file_read(a, TEXT_MAX, &text, e);
    if (!rc)
        rc = st_file_write(b, text.len ? text.p : "", text.len, 0644, false, e);
    st_buf_free(&text);
    return rc;
}

static int make_manifest(const char *dir, const struct st_kit *kit, struct st_err *e)
{
    char path[ST_PATH_MAX], hex[65];
    struct st_buf b = {0};
    int rc = st_path_join(path, sizeof path, dir, ST_KIT_MANIFEST, e);
    if (rc)
        return rc;
    st_hex(kit->digest, sizeof kit->digest, hex);
    st_buf_addf(&b, "{\"version\": %d, \"model_digest\": \"%s\", \"params\": ", ST_KIT_VERSION, hex);
    st_json_quote(&b, kit->params, strlen(kit->params));
    st_buf_addf(&b, ", \"embedding\": \"%s\", \"dtype\": \"%s\"}\n", kit->embedding ? "local" : "remote",
                st_dtype_name(kit->dtype));
    rc = b.failed ? st_fail(e, ST_MEMORY, "%s: out of memory", path) : st_file_write(path, b.p, b.len, 0644, false, e);
    st_buf_free(&b);
    return rc;
}

static int fill(const char *dir, const struct maker *k, struct st_err *e)
{
    int rc = make_tensors(dir, k, e);
    for (size_t i = 0; !rc && st_model_texts[i]; i++)
        rc = copy_text(k->m->path, dir, st_model_texts[i], e);
    return rc ? rc : make_manifest(dir, k->kit, e);
}

static void discard(const char *dir)
{
    char path[ST_PATH_MAX];
    struct st_err e;
    DIR *d = opendir(dir);
    for (struct dirent *f; d && (f = readdir(d));)
        if (strcmp(f->d_name, ".") != 0 && strcmp(f->d_name, "..") != 0 &&
            !st_path_join(path, sizeof path, dir, f->d_name, &e))
            unlink(path);
    if (d)
        closedir(d);
    rmdir(dir);
}

int st_kit_make(const char *dir, const struct st_model *m, struct st_kit *kit, struct st_err *e)
{
    struct maker k = {.m = m, .kit = kit};
    char tmp[ST_PATH_MAX];
    size_t len = strlen(dir);
    kit->dtype = m->config.dtype;
    while (len > 1 && dir[len - 1] == '/')
        len--;
    if (!st_path_is_dir(m->path))
        return st_fail(e, ST_UNSUPPORTED, "%s: a kit is made of a Hugging Face directory", m->path);
    if (st_path_exists(dir))
        return st_fail(e, ST_IO, "%s: exists already; not overwritten", dir);
    if ((size_t)snprintf(tmp, sizeof tmp, "%.*s.XXXXXX", (int)len, dir) >= sizeof tmp)
        return st_fail(e, ST_USAGE, "%s: path too long", dir);
    if (st_fold_init(&k.fold, &m->plan, e))
        return e->code;
    int rc = mkdtemp(tmp) ? 0 : st_fail(e, ST_IO, "%s: cannot create: %s", dir, strerror(errno));
    bool made = !rc;
    if (!rc && chmod(tmp, 0755) != 0)
        rc = st_fail(e, ST_IO, "%s: cannot write: %s", dir, strerror(errno));
    if (!rc)
        rc = fill(tmp, &k, e);
    if (!rc && rename(tmp, dir) != 0)
        rc = st_fail(e, ST_IO, "%s: cannot create: %s", dir, strerror(errno));
    if (rc && made)
        discard(tmp);
    st_fold_free(&k.fold);
    return rc;
}
