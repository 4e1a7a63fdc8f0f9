#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Opens a regular file for reading and tells its size. */
static int open_regular(const char *path, int *fd, size_t *size, struct st_err *e)
{
    struct stat sb;
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (*fd < 0)
        return st_fail(e, ST_IO, "%s: cannot open: %s", path, strerror(errno));
    if (fstat(*fd, &sb) != 0 || !S_ISREG(sb.st_mode)) {
        close(*fd);
        return st_fail(e, ST_IO, "%s: not a regular file", path);
    }
    *size = (size_t)sb.st_size;
    return 0;
}

int st_map_open(const char *path, struct st_map *out, struct st_err *e)
{
    int fd;
    size_t size;
    *out = (struct st_map){0};
    int rc = open_regular(path, &fd, &size, e);
    if (rc)
        return rc;
    if (size) {
        void *p = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED)
            rc = st_fail(e, ST_IO, "%s: cannot map %zu bytes: %s", path, size, strerror(errno));
        else
            *out = (struct st_map){p, size};
    }
    close(fd);
    return rc;
}

void st_map_close(struct st_map *m)
{
    if (m->p)
        munmap((void *)m->p, m->len);
    *m = (struct st_map){0};
}

int st_file_read(const char *path, size_t max, struct st_buf *b, struct st_err *e)
{
    int fd;
    size_t size;
    st_buf_clear(b);
    int rc = open_regular(path, &fd, &size, e);
    if (rc)
        return rc;
    if (size > max) {
        rc = st_fail(e, ST_INPUT, "%s: %zu bytes; at most %zu are accepted", path, size, max);
        goto out;
    }
    char chunk[65536];
    for (;;) {
        ssize_t n = read(fd, chunk, sizeof chunk);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            rc = st_fail(e, ST_IO, "%s: cannot read: %s", path, strerror(errno));
            goto out;
        }
        if (n == 0)
            break;
        if (b->len + (size_t)n > max) {
            rc = st_fail(e, ST_INPUT, "%s: grew past %zu bytes while it was read", path, max);
            goto out;
        }
        st_buf_add(b, chunk, (size_t)n);
    }
    st_buf_add(b, "", 0);
    if (b->failed)
        rc = st_fail(e, ST_MEMORY, "%s: needs %zu bytes of memory", path, size);
out:
    close(fd);
    return rc;
}

static int write_all(int fd, const void *p, size_t len)
{
    const char *c = p;
    while (len) {
        ssize_t n = write(fd, c, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return -1;
        c += n;
        len -= (size_t)n;
    }
    return 0;
}

static int cannot_write(const struct st_file_out *f, struct st_err *e)
{
    return st_fail(e, ST_IO, "%s: cannot write: %s", f->path, strerror(errno));
}

int st_file_begin(struct st_file_out *f, const char *path, unsigned mode, struct st_err *e)
{
    *f = (struct st_file_out){.path = path, .fd = -1};
    int n = snprintf(f->tmp, sizeof f->tmp, "%s.XXXXXX", path);
    if (n < 0 || (size_t)n >= sizeof f->tmp)
        return st_fail(e, ST_USAGE, "%s: path too long", path);
    f->fd = mkstemp(f->tmp);
    if (f->fd < 0)
        return st_fail(e, ST_IO, "%s: cannot create: %s", path, strerror(errno));
    if (fchmod(f->fd, mode) == 0)
        return 0;
    int rc = cannot_write(f, e);
    st_file_abort(f);
    return rc;
}

int st_file_put(struct st_file_out *f, const void *p, size_t len, struct st_err *e)
{
    return write_all(f->fd, p, len) == 0 ? 0 : cannot_write(f, e);
}

int st_file_rewind(struct st_file_out *f, struct st_err *e)
{
    return lseek(f->fd, 0, SEEK_SET) == 0 ? 0 : cannot_write(f, e);
}

int st_file_commit(struct st_file_out *f, bool replace, struct st_err *e)
{
    int fd = f->fd, rc = fsync(fd) == 0 ? 0 : cannot_write(f, e);
    f->fd = -1;
    if (close(fd) != 0 && !rc)
        rc = cannot_write(f, e);
    if (!rc && (replace ? rename(f->tmp, f->path) : link(f->tmp, f->path)) != 0)
        rc = errno == EEXIST ? st_fail(e, ST_IO, "%s: exists already; not overwritten", f->path)
                             : st_fail(e, ST_IO, "%s: cannot create: %s", f->path, strerror(errno));
    if (rc || !replace)
        unlink(f->tmp);
    return rc;
}

void st_file_abort(struct st_file_out *f)
{
    if (f->fd < 0)
        return;
    close(f->fd);
    unlink(f->tmp);
    f->fd = -1;
}

int st_file_write(const char *path, const void *p, size_t len, unsigned mode, bool replace, struct st_err *e)
{
    struct st_file_out f;
    int rc = st_file_begin(&f, path, mode, e);
    if (rc)
        return rc;
    rc = st_file_put(&f, p, len, e);
    if (!rc)
        return st_file_commit(&f, replace, e);
    st_file_abort(&f);
    return rc;
}

int st_dir_make(char *path, struct st_err *e)
{
    for (char *at = path + 1;; at++) {
        char was = *at;
        if (was && was != '/')
            continue;
        *at = 0;
        int rc = mkdir(path, 0700) == 0 || errno == EEXIST ? 0 : st_fail(e, ST_IO, "%.400s: %s", path, strerror(errno));
        *at = was;
        if (rc || !was)
            return rc;
    }
}

int st_dir_sync(const char *path, struct st_err *e)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = fd >= 0 && fsync(fd) == 0 ? 0 : st_fail(e, ST_IO, "%s: cannot sync: %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
    return rc;
}

int st_path_join(char *out, size_t cap, const char *dir, const char *name, struct st_err *e)
{
    int n = snprintf(out, cap, "%s/%s", dir, name);
    if (n < 0 || (size_t)n >= cap)
        return st_fail(e, ST_USAGE, "%s: path too long", dir);
    return 0;
}

bool st_path_exists(const char *path)
{
    return access(path, F_OK) == 0;
}

bool st_path_is_dir(const char *path)
{
    struct stat sb;
    return stat(path, &sb) == 0 && S_ISDIR(sb.st_mode);
}
