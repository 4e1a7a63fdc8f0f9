#include "base/unchanged.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct st_unchanged_file {
    char *path;
    struct stat was;
};

static bool same_time(struct timespec a, struct timespec b)
{
    return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
}

/* As it is once everything that was written is written out. */
static int look(const char *path, struct stat *out, struct st_err *e)
{
    int rc = 0, fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, out) != 0)
        rc = st_fail(e, ST_IO, "%s: cannot open: %s", path, strerror(errno));
    else if (!S_ISREG(out->st_mode))
        rc = st_fail(e, ST_IO, "%s: not a regular file", path);
    else if ((fsync(fd) != 0 && errno != EINVAL && errno != EROFS) || fstat(fd, out) != 0)
        rc = st_fail(e, ST_IO, "%s: cannot sync: %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
    return rc;
}

int st_unchanged_add(struct st_unchanged *s, const char *path, struct st_err *e)
{
    struct st_unchanged_file f = {.path = NULL}, *at;
    if (look(path, &f.was, e))
        return e->code;
    at = reallocarray(s->at, s->n + 1, sizeof *at);
    if (at)
        s->at = at;
    f.path = strdup(path);
    if (!at || !f.path) {
        free(f.path);
        return st_fail(e, ST_MEMORY, "%s: out of memory", path);
    }
    s->at[s->n++] = f;
    return 0;
}

int st_unchanged_check(const struct st_unchanged *s, struct st_err *e)
{
    for (size_t i = 0; i < s->n; i++) {
        const struct st_unchanged_file *f = &s->at[i];
        struct stat is;
        if (stat(f->path, &is) != 0 || is.st_dev != f->was.st_dev || is.st_ino != f->was.st_ino ||
            is.st_size != f->was.st_size || !same_time(is.st_mtim, f->was.st_mtim) ||
            !same_time(is.st_ctim, f->was.st_ctim))
            return st_fail(e, ST_INPUT, "%s: was changed while it was read", f->path);
    }
    return 0;
}

void st_unchanged_free(struct st_unchanged *s)
{
    for (size_t i = 0; i < s->n; i++)
        free(s->at[i].path);
    free(s->at);
    *s = (struct st_unchanged){0};
}
