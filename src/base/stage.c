#include "base/stage.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define RESULT "result"

/* ---- the directory ---- */

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
        *begun = *begun || strcmp(d->d_name, ST_STAGE_JOURNAL) == 0;
        empty = empty && (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0 ||
                          strncmp(d->d_name, ST_STAGE_JOURNAL ".", strlen(ST_STAGE_JOURNAL ".")) == 0);
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

static int lock_stage(struct st_stage *s, struct st_err *e)
{
    for (;;) {
        if (mkdir(s->dir, 0700) != 0 && errno != EEXIST)
            return st_fail(e, ST_IO, "%s: cannot create a directory: %s", s->dir, strerror(errno));
        int fd = open(s->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0 && errno == ENOENT)
            continue;
        if (fd < 0)
            return st_fail(e, ST_IO, "%s: in the way, and not a directory: %s", s->dir, strerror(errno));
        if (!is_private(fd)) {
            close(fd);
            return st_fail(e, ST_IO, "%s: in the way: it is another user's, or others may write to it", s->dir);
        }
        if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
            int err = errno;
            close(fd);
            return err == EWOULDBLOCK ? st_fail(e, ST_IO, "%s: another run is writing here", s->dir)
                                      : st_fail(e, ST_IO, "%s: cannot lock: %s", s->dir, strerror(err));
        }
        if (still_there(fd, s->dir)) {
            s->lock = fd;
            return 0;
        }
        close(fd);
    }
}

int st_stage_open(struct st_stage *s, const char *dst, const char *suffix, const char *by, struct st_err *e)
{
    *s = (struct st_stage){0};
    size_t len = strlen(dst);
    while (len > 1 && dst[len - 1] == '/')
        len--;
    int n = snprintf(s->result, sizeof s->result, "%.*s%s/" RESULT, (int)len, dst, suffix);
    if (len == 0 || n < 0 || (size_t)n >= sizeof s->result)
        return st_fail(e, ST_USAGE, "%s: path empty or too long", dst);
    snprintf(s->final, sizeof s->final, "%.*s", (int)len, dst);
    struct stat sb;
    if (lstat(s->final, &sb) == 0)
        return st_fail(e, ST_IO, "%s: exists already; not overwritten", s->final);
    snprintf(s->dir, sizeof s->dir, "%.*s%s", (int)len, dst, suffix);
    int rc = lock_stage(s, e);
    if (!rc && !is_ours(s->dir, &s->keep)) {
        close(s->lock);
        rc = st_fail(e, ST_IO, "%s: in the way, and not begun by %s; move it", s->dir, by);
    }
    if (rc)
        s->dir[0] = 0;
    return rc;
}

void st_stage_restart(struct st_stage *s)
{
    empty_dir(AT_FDCWD, s->dir);
    s->keep = false;
}

/* ---- files ---- */

int st_stage_write(int fd, uint64_t at, const void *p, size_t len)
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

void st_stage_push(int fd, uint64_t at, uint64_t len)
{
    (void)!sync_file_range(fd, (off_t)at, (off_t)len, SYNC_FILE_RANGE_WRITE);
}

int st_stage_settle(int fd, uint64_t at, uint64_t len)
{
    const unsigned all = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
    if (sync_file_range(fd, (off_t)at, (off_t)len, all) != 0)
        return errno == EINVAL || errno == ESPIPE || errno == ENOSYS || errno == EOPNOTSUPP ? 0 : -1;
    (void)!posix_fadvise(fd, (off_t)at, (off_t)len, POSIX_FADV_DONTNEED);
    return 0;
}

int st_stage_journal(const struct st_stage *s, char out[ST_PATH_MAX], struct st_err *e)
{
    return st_path_join(out, ST_PATH_MAX, s->dir, ST_STAGE_JOURNAL, e);
}

int st_stage_file(const char *path, uint64_t total, int *fd, struct st_err *e)
{
    *fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (*fd < 0)
        return st_fail(e, ST_IO, "%s: cannot create: %s", path, strerror(errno));
    int err = posix_fallocate(*fd, 0, (off_t)total);
    if (!err && ftruncate(*fd, (off_t)total) == 0)
        return 0;
    close(*fd);
    *fd = -1;
    return st_fail(e, ST_IO, "%s: cannot reserve %" PRIu64 " bytes: %s", path, total, strerror(err ? err : errno));
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

static void remove_stage(const struct st_stage *s)
{
    empty_dir(AT_FDCWD, s->dir);
    rmdir(s->dir);
}

int st_stage_publish(struct st_stage *s, struct st_err *e)
{
    char parent[ST_PATH_MAX];
    if (sync_path(s->result) != 0)
        return st_fail(e, ST_IO, "%s: cannot sync: %s", s->dir, strerror(errno));
    if (move(s->result, s->final) != 0)
        return st_fail(e, ST_IO, "%s: cannot move the finished result here: %s", s->final, strerror(errno));
    remove_stage(s);
    s->keep = true;
    memcpy(parent, s->final, sizeof parent);
    if (sync_path(dirname(parent)) != 0)
        return st_fail(e, ST_IO, "%s: written, but its parent cannot be synced: %s", s->final, strerror(errno));
    return 0;
}

void st_stage_keep(struct st_stage *s, size_t n_finished, struct st_err *e)
{
    struct st_err cause = *e;
    if (n_finished == 0 || (e->code != ST_IO && e->code != ST_MEMORY))
        return;
    s->keep = true;
    st_fail(e, cause.code, "%.300s; finished tensors stay in %.120s, and the same command goes on from there",
            cause.msg, s->dir);
}

void st_stage_close(struct st_stage *s)
{
    if (s->dir[0]) {
        if (!s->keep)
            remove_stage(s);
        close(s->lock); /* last: until then nobody else takes it */
    }
    *s = (struct st_stage){0};
}
