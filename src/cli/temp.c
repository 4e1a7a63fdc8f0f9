#include "cli/temp.h"
#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEPTH 8 /* of directories in it, more than any demo makes */
#define SUFFIX "-XXXXXX"

static const char *base_dir(void)
{
    const char *base = getenv("TMPDIR");
    return base && *base && strlen(base) <= 40 ? base : "/tmp";
}

/* What is in the directory behind fd, which is closed. By descriptors: what lies in it may belong to another user, who
 * must not lead this one elsewhere by a link. */
static void empty_dir(int fd, int depth)
{
    DIR *dir = fdopendir(fd);
    if (!dir) {
        close(fd);
        return;
    }
    for (struct dirent *f; (f = readdir(dir));) {
        if (!strcmp(f->d_name, ".") || !strcmp(f->d_name, ".."))
            continue;
        if (unlinkat(fd, f->d_name, 0) == 0 || depth == 0)
            continue;
        int in = openat(fd, f->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (in >= 0)
            empty_dir(in, depth - 1);
        (void)unlinkat(fd, f->d_name, AT_REMOVEDIR);
    }
    closedir(dir);
}

static void remove_dir(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd >= 0)
        empty_dir(fd, DEPTH);
    rmdir(path);
}

/* The lock of a directory of this user's that nobody else may write to and that is there by that name; -1: it belongs
 * to somebody, or is none of ours. */
static int lock_dir(const char *path)
{
    struct stat a, b;
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd >= 0 && fstat(fd, &a) == 0 && a.st_uid == geteuid() && !(a.st_mode & 022) &&
        flock(fd, LOCK_EX | LOCK_NB) == 0 && lstat(path, &b) == 0 && a.st_ino == b.st_ino && a.st_dev == b.st_dev)
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}

/* Whose process was killed before it could remove them. */
static void remove_left(const char *base, const char *prefix)
{
    struct st_err ignored;
    size_t len = strlen(prefix);
    DIR *dir = opendir(base);
    for (struct dirent *f; dir && (f = readdir(dir));) {
        char path[ST_PATH_MAX];
        if (strncmp(f->d_name, prefix, len) != 0 || strlen(f->d_name) != len + sizeof SUFFIX - 1 ||
            f->d_name[len] != '-' || st_path_join(path, sizeof path, base, f->d_name, &ignored))
            continue;
        int lock = lock_dir(path);
        if (lock < 0)
            continue;
        remove_dir(path);
        close(lock);
    }
    if (dir)
        closedir(dir);
}

int st_temp_make(const char *prefix, struct st_temp *out, struct st_err *e)
{
    const char *base = base_dir();
    remove_left(base, prefix);
    /* Another run may find it before it is locked, and remove it. */
    for (int i = 0; i < 100; i++) {
        snprintf(out->path, sizeof out->path, "%s/%s" SUFFIX, base, prefix);
        if (!mkdtemp(out->path))
            break;
        out->lock = lock_dir(out->path);
        if (out->lock >= 0)
            return 0;
        rmdir(out->path);
    }
    *out->path = 0;
    return st_fail(e, ST_IO, "%s: cannot make a temporary directory (TMPDIR): %s", base, strerror(errno));
}

void st_temp_remove(struct st_temp *t)
{
    if (!*t->path)
        return;
    remove_dir(t->path);
    close(t->lock);
    *t->path = 0;
}
