#include "protect/covariant/out.h"
#include "base/log.h"
#include "crypto/digest.h"
#include "protect/covariant/out_split.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define JOURNAL "journal"
#define RESULT "result"
#define HASH_STEP ((size_t)1 << 20)

uint64_t st_cov_out_bytes(const struct st_cov_out_tensor *t, uint64_t n)
{
    return t->q8_0 ? n / 32 * 34 : n * st_dtype_size(t->dtype);
}

/* ---- the staging directory ---- */

/* Removes what is inside: files, and the files of directories. */
static void empty_dir(int parent, const char *name)
{
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) {
        if (fd >= 0)
            close(fd);
        return;
    }
    for (struct dirent *d; (d = readdir(dir));) {
        if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0)
            continue;
        if (unlinkat(fd, d->d_name, 0) != 0 && errno == EISDIR && strcmp(d->d_name, RESULT) == 0) {
            empty_dir(fd, d->d_name);
            unlinkat(fd, d->d_name, AT_REMOVEDIR);
        }
    }
    closedir(dir);
}

/* Whether the directory may be used: a journal is there (*begun), or nothing at all but remains of writing one. */
static bool is_ours(const char *stage, bool *begun)
{
    bool empty = true;
    DIR *dir = opendir(stage);
    *begun = false;
    for (struct dirent *d; dir && (d = readdir(dir));) {
        *begun = *begun || strcmp(d->d_name, JOURNAL) == 0;
        empty = empty && (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0 ||
                          strncmp(d->d_name, JOURNAL ".", strlen(JOURNAL ".")) == 0);
    }
    if (dir)
        closedir(dir);
    return dir && (*begun || empty);
}

/* A run that ends removes the directory; who opened it before must not believe that it still has a name. */
static bool still_there(int fd, const char *path)
{
    struct stat a, b;
    return fstat(fd, &a) == 0 && lstat(path, &b) == 0 && a.st_ino == b.st_ino && a.st_dev == b.st_dev;
}

/* In a directory that everybody may write to, somebody else could have made it, and then put links in our way. */
static bool is_private(int fd)
{
    struct stat sb;
    return fstat(fd, &sb) == 0 && sb.st_uid == geteuid() && !(sb.st_mode & (S_IWGRP | S_IWOTH));
}

static int lock_stage(struct st_cov_out *o, struct st_err *e)
{
    for (;;) {
        if (mkdir(o->stage, 0700) != 0 && errno != EEXIST)
            return st_fail(e, ST_IO, "%s: cannot create a directory: %s", o->stage, strerror(errno));
        int fd = open(o->stage, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0 && errno == ENOENT)
            continue;
        if (fd < 0)
            return st_fail(e, ST_IO, "%s: in the way, and not a directory: %s", o->stage, strerror(errno));
        if (!is_private(fd)) {
            close(fd);
            return st_fail(e, ST_IO, "%s: in the way: it is another user's, or others may write to it", o->stage);
        }
        if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
            int err = errno;
            close(fd);
            return err == EWOULDBLOCK ? st_fail(e, ST_IO, "%s: another run is writing here", o->stage)
                                      : st_fail(e, ST_IO, "%s: cannot lock: %s", o->stage, strerror(err));
        }
        if (still_there(fd, o->stage)) {
            o->lock = fd;
            return 0;
        }
        close(fd);
    }
}

int st_cov_out_open(struct st_cov_out *o, const char *dst, struct st_err *e)
{
    *o = (struct st_cov_out){0};
    size_t len = strlen(dst);
    while (len > 1 && dst[len - 1] == '/')
        len--;
    int n = snprintf(o->result, sizeof o->result, "%.*s.partial/" RESULT, (int)len, dst);
    if (len == 0 || n < 0 || (size_t)n >= sizeof o->result)
        return st_fail(e, ST_USAGE, "%s: path empty or too long", dst);
    snprintf(o->final, sizeof o->final, "%.*s", (int)len, dst);
    struct stat sb;
    if (lstat(o->final, &sb) == 0)
        return st_fail(e, ST_IO, "%s: exists already; not overwritten", o->final);
    snprintf(o->stage, sizeof o->stage, "%.*s.partial", (int)len, dst);
    int rc = lock_stage(o, e);
    if (!rc && !is_ours(o->stage, &o->keep)) {
        close(o->lock);
        rc = st_fail(e, ST_IO, "%s: in the way, and not begun by an obfuscation; move it", o->stage);
    }
    if (rc)
        o->stage[0] = 0;
    return rc;
}

/* ---- resuming ---- */

static int layout_digest(struct st_cov_out_tensor *const *t, int n, char hex[65], struct st_err *e)
{
    struct st_buf b = {0};
    uint8_t sum[32];
    for (int i = 0; i < n; i++)
        st_buf_addf(&b, "%s %s %d %u %u\n", t[i]->name, t[i]->q8_0 ? "q8_0" : st_dtype_name(t[i]->dtype), t[i]->n_dim,
                    t[i]->dim[0], t[i]->n_dim == 2 ? t[i]->dim[1] : 1);
    if (b.failed) {
        st_buf_free(&b);
        return st_fail(e, ST_MEMORY, "layout: out of memory");
    }
    st_sha256(b.p, b.len, sum);
    st_hex(sum, sizeof sum, hex);
    st_buf_free(&b);
    return 0;
}

int st_cov_out_bind(struct st_cov_out *o, struct st_cov_binding *b, struct st_cov_out_tensor *const *t, int n,
                    bool restart, struct st_err *e)
{
    char path[ST_PATH_MAX], cause[sizeof e->msg];
    int rc = layout_digest(t, n, b->layout, e);
    if (!rc)
        rc = st_path_join(path, sizeof path, o->stage, JOURNAL, e);
    if (!rc && restart) {
        empty_dir(AT_FDCWD, o->stage);
        o->keep = false;
    }
    if (!rc)
        rc = st_cov_journal_open(&o->journal, path, b, e);
    if (rc == ST_USAGE || rc == ST_INPUT) {
        memcpy(cause, e->msg, sizeof cause);
        return st_fail(e, rc, "%.380s; start over with --restart", cause);
    }
    if (!rc && o->journal.n_found)
        st_log(ST_LOG_INFO, "%s: goes on; %zu of %d tensors were finished before", o->final, o->journal.n_found, n);
    return rc;
}

static int hash_piece(const struct st_cov_out *o, int file, uint64_t at, uint64_t len, EVP_MD_CTX *ctx, void *buf)
{
    while (len) {
        size_t want = len < HASH_STEP ? (size_t)len : HASH_STEP;
        ssize_t n = pread(o->fd[file], buf, want, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0 || EVP_DigestUpdate(ctx, buf, (size_t)n) != 1)
            return -1;
        at += (uint64_t)n;
        len -= (uint64_t)n;
    }
    return 0;
}

/* SHA-256 of the tensor as it stands in its file. */
static int hash_tensor(const struct st_cov_out *o, const struct st_cov_out_tensor *t, uint8_t sum[32])
{
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    void *buf = malloc(HASH_STEP);
    int bad = !ctx || !buf || EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) != 1;
    if (!bad)
        bad = hash_piece(o, t->shard, t->at, t->bytes, ctx, buf);
    if (!bad && t->split)
        bad = hash_piece(o, t->shard, t->split->at, t->split->bytes, ctx, buf);
    bad = bad || EVP_DigestFinal_ex(ctx, sum, NULL) != 1;
    EVP_MD_CTX_free(ctx);
    free(buf);
    return bad;
}

bool st_cov_out_done(const struct st_cov_out *o, const struct st_cov_out_tensor *t)
{
    uint8_t sum[32];
    const uint8_t *want = st_cov_journal_find(&o->journal, t->name);
    return want && hash_tensor(o, t, sum) == 0 && memcmp(sum, want, sizeof sum) == 0;
}

int st_cov_out_finish(struct st_cov_out *o, const struct st_cov_out_tensor *t, struct st_err *e)
{
    uint8_t sum[32];
    int rc = t->split ? st_cov_split_flush(o, t, e) : 0;
    if (rc || !o->journal.open)
        return rc;
    if (hash_tensor(o, t, sum) != 0)
        return st_fail(e, ST_IO, "%s: %s: cannot read back: %s", o->stage, t->name, strerror(errno));
    return st_cov_journal_add(&o->journal, t->name, sum, e);
}

/* ---- files ---- */

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

/* Small files are written again, and what a killed run left of one must not be published. */
int st_cov_out_make_dir(struct st_cov_out *o, struct st_err *e)
{
    static const char weights[] = ".safetensors";
    if (mkdir(o->result, 0755) == 0)
        return 0;
    /* Not what a link points to: it is not ours to empty. */
    int fd = errno == EEXIST ? open(o->result, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW) : -1;
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) {
        int err = errno;
        if (fd >= 0)
            close(fd);
        return st_fail(e, ST_IO, "%s: cannot create a directory: %s", o->result, strerror(err));
    }
    for (struct dirent *d; (d = readdir(dir));) {
        size_t len = strlen(d->d_name), n = sizeof weights - 1;
        if (len < n || strcmp(d->d_name + len - n, weights) != 0)
            unlinkat(dirfd(dir), d->d_name, 0);
    }
    closedir(dir);
    return 0;
}

int st_cov_out_make_file(struct st_cov_out *o, const char *name, const struct st_buf *header, uint64_t total,
                         struct st_err *e)
{
    char path[ST_PATH_MAX];
    int rc = 0;
    if (name)
        rc = st_path_join(path, sizeof path, o->result, name, e);
    else
        memcpy(path, o->result, sizeof path);
    if (rc)
        return rc;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (fd < 0)
        return st_fail(e, ST_IO, "%s: cannot create: %s", path, strerror(errno));
    o->fd[o->n_shard++] = fd;
    int err = posix_fallocate(fd, 0, (off_t)total);
    if (err)
        return st_fail(e, ST_IO, "%s: cannot reserve %" PRIu64 " bytes: %s", path, total, strerror(err));
    if (ftruncate(fd, (off_t)total) != 0 || write_at(fd, 0, header->p, header->len) != 0)
        return st_fail(e, ST_IO, "%s: cannot write: %s", path, strerror(errno));
    return 0;
}

int st_cov_out_write(const struct st_cov_out *o, const struct st_cov_out_tensor *t, uint64_t at, const void *p,
                     size_t len, struct st_err *e)
{
    if (t->split)
        return st_cov_split_take(t, at, p, len, e);
    if (write_at(o->fd[t->shard], t->at + at, p, len) != 0)
        return st_fail(e, ST_IO, "%s: %s: cannot write: %s", o->stage, t->name, strerror(errno));
    return 0;
}

int st_cov_out_file(const struct st_cov_out *o, const char *name, const void *p, size_t len, struct st_err *e)
{
    char path[ST_PATH_MAX];
    int rc = st_path_join(path, sizeof path, o->result, name, e);
    return rc ? rc : st_file_write(path, p, len, 0644, true, e);
}

/* ---- the end ---- */

static int sync_path(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    int bad = fsync(fd);
    close(fd);
    return bad;
}

/* Some network file systems cannot rename without replacing. A link does not replace either; for a directory the plain
 * rename remains, which replaces nothing but an empty directory. */
static int move(const char *from, const char *to)
{
    int moved = renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE);
    if (moved == 0 || errno != EINVAL)
        return moved;
    if (st_path_is_dir(from))
        return rename(from, to);
    return link(from, to) == 0 ? unlink(from) : -1;
}

static void remove_stage(struct st_cov_out *o)
{
    empty_dir(AT_FDCWD, o->stage);
    rmdir(o->stage);
}

int st_cov_out_publish(struct st_cov_out *o, struct st_err *e)
{
    char parent[ST_PATH_MAX];
    bool bad = false;
    for (int i = 0; i < o->n_shard; i++)
        bad = fsync(o->fd[i]) != 0 || bad;
    if (bad || sync_path(o->result) != 0)
        return st_fail(e, ST_IO, "%s: cannot sync: %s", o->stage, strerror(errno));
    if (move(o->result, o->final) != 0)
        return st_fail(e, ST_IO, "%s: cannot move the finished result here: %s", o->final, strerror(errno));
    remove_stage(o);
    o->keep = true;
    memcpy(parent, o->final, sizeof parent);
    if (sync_path(dirname(parent)) != 0)
        return st_fail(e, ST_IO, "%s: written, but its parent cannot be synced: %s", o->final, strerror(errno));
    return 0;
}

void st_cov_out_close(struct st_cov_out *o)
{
    for (int i = 0; i < o->n_shard; i++)
        close(o->fd[i]);
    free(o->fd);
    st_cov_journal_close(&o->journal);
    if (o->stage[0]) {
        if (!o->keep)
            remove_stage(o);
        close(o->lock); /* last: until then nobody else takes it */
    }
    *o = (struct st_cov_out){0};
}
