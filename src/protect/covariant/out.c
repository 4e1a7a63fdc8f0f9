#include "protect/covariant/out.h"
#include "text/json.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int st_cov_out_open(struct st_cov_out *o, const char *dst, struct st_err *e)
{
    *o = (struct st_cov_out){0};
    size_t len = strlen(dst);
    while (len > 1 && dst[len - 1] == '/')
        len--;
    int n = snprintf(o->stage, sizeof o->stage, "%.*s.partial-XXXXXX", (int)len, dst);
    if (len == 0 || n < 0 || (size_t)n >= sizeof o->stage)
        return st_fail(e, ST_USAGE, "%s: path empty or too long", dst);
    snprintf(o->final, sizeof o->final, "%.*s", (int)len, dst);
    struct stat sb;
    if (lstat(o->final, &sb) == 0)
        return st_fail(e, ST_IO, "%s: exists already; not overwritten", o->final);
    if (!mkdtemp(o->stage)) {
        int rc = st_fail(e, ST_IO, "%s: cannot create a directory: %s", o->stage, strerror(errno));
        o->stage[0] = 0;
        return rc;
    }
    if (chmod(o->stage, 0755) != 0)
        return st_fail(e, ST_IO, "%s: chmod: %s", o->stage, strerror(errno));
    return 0;
}

static void shard_name(char *out, size_t cap, int i, int n)
{
    if (n == 1)
        snprintf(out, cap, "model.safetensors");
    else
        snprintf(out, cap, "model-%05d-of-%05d.safetensors", i + 1, n);
}

/* Wide types first: then every tensor of the file is aligned to its own type. */
static int by_width(const void *a, const void *b)
{
    const struct st_cov_out_tensor *x = *(struct st_cov_out_tensor *const *)a,
                                   *y = *(struct st_cov_out_tensor *const *)b;
    size_t wx = st_dtype_size(x->dtype), wy = st_dtype_size(y->dtype);
    return wx != wy ? (wx < wy ? 1 : -1) : x->shard - y->shard;
}

/* Greedy; `at` counts from the first data byte until the header's length is known. Returns the number of shards. */
static int assign(struct st_cov_out_tensor **t, int n, uint64_t shard_bytes)
{
    int shard = 0;
    uint64_t at = 0;
    for (int i = 0; i < n; i++)
        t[i]->shard = i; /* the order given, for the stable sort */
    qsort(t, (size_t)n, sizeof *t, by_width);
    for (int i = 0; i < n; i++) {
        t[i]->bytes = (uint64_t)t[i]->dim[0] * (t[i]->n_dim == 2 ? t[i]->dim[1] : 1) * st_dtype_size(t[i]->dtype);
        if (at && at + t[i]->bytes > shard_bytes) {
            shard++;
            at = 0;
        }
        t[i]->shard = shard;
        t[i]->at = at;
        at += t[i]->bytes;
    }
    return shard + 1;
}

static const char *dtype_word(enum st_dtype t)
{
    return t == ST_DTYPE_F32 ? "F32" : t == ST_DTYPE_F16 ? "F16" : "BF16";
}

/* u64 length, JSON, spaces up to a multiple of 64 so that data starts on a cache line. Adds its length to the tensors'
 * `at`. */
static int shard_header(struct st_cov_out_tensor **t, int n, int shard, struct st_buf *b, uint64_t *total,
                        struct st_err *e)
{
    uint8_t len[8] = {0};
    *total = 0;
    st_buf_add(b, len, sizeof len);
    st_buf_add_str(b, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (int i = 0; i < n; i++) {
        if (t[i]->shard != shard)
            continue;
        st_buf_add_str(b, ",");
        st_json_quote(b, t[i]->name, strlen(t[i]->name));
        st_buf_addf(b, ":{\"dtype\":\"%s\",\"shape\":[%u", dtype_word(t[i]->dtype), t[i]->dim[0]);
        if (t[i]->n_dim == 2)
            st_buf_addf(b, ",%u", t[i]->dim[1]);
        st_buf_addf(b, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", t[i]->at, t[i]->at + t[i]->bytes);
        *total = t[i]->at + t[i]->bytes;
    }
    st_buf_add_str(b, "}");
    while (!b->failed && b->len % 64)
        st_buf_add_str(b, " ");
    if (b->failed)
        return st_fail(e, ST_MEMORY, "safetensors header: out of memory");
    for (int i = 0; i < 8; i++)
        b->p[i] = (char)((b->len - 8) >> (8 * i));
    for (int i = 0; i < n; i++)
        if (t[i]->shard == shard)
            t[i]->at += b->len;
    *total += b->len;
    return 0;
}

static int write_at(int fd, uint64_t at, const void *p, size_t len)
{
    const char *c = p;
    while (len) {
        ssize_t n = pwrite(fd, c, len, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return -1;
        c += n;
        at += (uint64_t)n;
        len -= (size_t)n;
    }
    return 0;
}

static int open_shard(struct st_cov_out *o, int shard, int n_shard, const struct st_buf *header, uint64_t total,
                      struct st_err *e)
{
    char name[64], path[ST_PATH_MAX];
    shard_name(name, sizeof name, shard, n_shard);
    int rc = st_path_join(path, sizeof path, o->stage, name, e);
    if (rc)
        return rc;
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd < 0)
        return st_fail(e, ST_IO, "%s: cannot create: %s", path, strerror(errno));
    o->fd[o->n_shard++] = fd;
    int err = posix_fallocate(fd, 0, (off_t)total);
    if (err)
        return st_fail(e, ST_IO, "%s: cannot reserve %" PRIu64 " bytes: %s", path, total, strerror(err));
    if (write_at(fd, 0, header->p, header->len) != 0)
        return st_fail(e, ST_IO, "%s: cannot write: %s", path, strerror(errno));
    return 0;
}

static int write_index(const struct st_cov_out *o, struct st_cov_out_tensor *const *t, int n, struct st_err *e)
{
    struct st_buf b = {0};
    uint64_t total = 0;
    for (int i = 0; i < n; i++)
        total += t[i]->bytes;
    st_buf_addf(&b, "{\"metadata\": {\"total_size\": %" PRIu64 "}, \"weight_map\": {", total);
    for (int i = 0; i < n; i++) {
        char name[64];
        shard_name(name, sizeof name, t[i]->shard, o->n_shard);
        st_buf_add_str(&b, i ? ",\n" : "\n");
        st_json_quote(&b, t[i]->name, strlen(t[i]->name));
        st_buf_addf(&b, ": \"%s\"", name);
    }
    st_buf_add_str(&b, "\n}}\n");
    int rc = b.failed ? st_fail(e, ST_MEMORY, "safetensors index: out of memory")
                      : st_cov_out_file(o, "model.safetensors.index.json", b.p, b.len, e);
    st_buf_free(&b);
    return rc;
}

int st_cov_out_plan(struct st_cov_out *o, struct st_cov_out_tensor **t, int n, uint64_t shard_bytes, struct st_err *e)
{
    int n_shard = assign(t, n, shard_bytes);
    int rc = st_alloc(&o->fd, (size_t)n_shard, sizeof *o->fd, "weight files", e);
    for (int s = 0; !rc && s < n_shard; s++) {
        struct st_buf header = {0};
        uint64_t total;
        rc = shard_header(t, n, s, &header, &total, e);
        if (!rc)
            rc = open_shard(o, s, n_shard, &header, total, e);
        st_buf_free(&header);
    }
    if (!rc && n_shard > 1)
        rc = write_index(o, t, n, e);
    return rc;
}

int st_cov_out_write(const struct st_cov_out *o, const struct st_cov_out_tensor *t, uint64_t at, const void *p,
                     size_t len, struct st_err *e)
{
    if (write_at(o->fd[t->shard], t->at + at, p, len) != 0)
        return st_fail(e, ST_IO, "%s: %s: cannot write: %s", o->stage, t->name, strerror(errno));
    return 0;
}

int st_cov_out_file(const struct st_cov_out *o, const char *name, const void *p, size_t len, struct st_err *e)
{
    char path[ST_PATH_MAX];
    int rc = st_path_join(path, sizeof path, o->stage, name, e);
    return rc ? rc : st_file_write(path, p, len, 0644, false, e);
}

static int sync_dir(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    int bad = fsync(fd);
    close(fd);
    return bad;
}

int st_cov_out_publish(struct st_cov_out *o, struct st_err *e)
{
    char parent[ST_PATH_MAX];
    bool bad = false;
    for (int i = 0; i < o->n_shard; i++)
        bad = fsync(o->fd[i]) != 0 || bad;
    if (bad || sync_dir(o->stage) != 0)
        return st_fail(e, ST_IO, "%s: cannot sync: %s", o->stage, strerror(errno));
    int moved = renameat2(AT_FDCWD, o->stage, AT_FDCWD, o->final, RENAME_NOREPLACE);
    if (moved != 0 &&
        errno == EINVAL) /* some network file systems; here an empty directory made meanwhile is replaced */
        moved = rename(o->stage, o->final);
    if (moved != 0)
        return st_fail(e, ST_IO, "%s: cannot move the finished directory here: %s", o->final, strerror(errno));
    o->stage[0] = 0;
    memcpy(parent, o->final, sizeof parent);
    if (sync_dir(dirname(parent)) != 0)
        return st_fail(e, ST_IO, "%s: written, but its parent cannot be synced: %s", o->final, strerror(errno));
    return 0;
}

static void remove_stage(const char *stage)
{
    DIR *dir = opendir(stage);
    if (!dir)
        return;
    for (struct dirent *d; (d = readdir(dir));)
        if (strcmp(d->d_name, ".") != 0 && strcmp(d->d_name, "..") != 0)
            unlinkat(dirfd(dir), d->d_name, 0);
    closedir(dir);
    rmdir(stage);
}

void st_cov_out_close(struct st_cov_out *o)
{
    for (int i = 0; i < o->n_shard; i++)
        close(o->fd[i]);
    free(o->fd);
    if (o->stage[0])
        remove_stage(o->stage);
    *o = (struct st_cov_out){0};
}
