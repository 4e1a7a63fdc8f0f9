#include "base/locked.h"
#include "base/mem.h"
#include "base/secret.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

static atomic_bool any_unlocked;

/* The table has one line of headings, then a line for each area in use. A table that cannot be read may hide one. */
static bool system_swaps(const char *path)
{
    char line[512];
    bool headings = false, swaps = false;
    FILE *f = fopen(path, "re");
    if (!f)
        return true;
    if (fgets(line, sizeof line, f))
        headings = strncmp(line, "Filename", 8) == 0;
    if (fgets(line, sizeof line, f))
        swaps = true;
    fclose(f);
    return swaps || !headings;
}

static int refuse_unlocked(size_t len, const struct st_locked_opts *o, int error, struct st_err *e)
{
    char want[ST_MEM_TEXT], have[ST_MEM_TEXT] = "unknown";
    struct rlimit limit;
    if (!getrlimit(RLIMIT_MEMLOCK, &limit))
        st_mem_text((size_t)limit.rlim_cur, have);
    return st_fail(e, ST_POLICY,
                   "%s: cannot lock %s in memory (%s; the limit, `ulimit -l`, is %s)%s: raise the limit, %sor give "
                   "--allow-unlocked",
                   o->what, st_mem_text(len, want), strerror(error), have, o->secretmem ? "" : " and this system swaps",
                   o->secretmem ? "" : "turn swap off, ");
}

/* False: this kernel has none, or the limit on locked memory is too low. */
static bool from_secretmem(struct st_locked *a, size_t len)
{
    int fd = (int)syscall(SYS_memfd_secret, O_CLOEXEC);
    if (fd < 0)
        return false;
    void *p = ftruncate(fd, (off_t)len) ? MAP_FAILED : mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (p == MAP_FAILED)
        return false;
    if (madvise(p, len, MADV_DONTFORK)) {
        munmap(p, len);
        return false;
    }
    *a = (struct st_locked){.p = p, .len = len, .locked = true, .secretmem = true};
    return true;
}

int st_locked_new(struct st_locked *a, size_t len, const struct st_locked_opts *o, struct st_err *e)
{
    *a = (struct st_locked){0};
    if (o->secretmem && from_secretmem(a, len))
        return 0;
    void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        char text[ST_MEM_TEXT];
        return st_fail(e, ST_MEMORY, "%s: needs %s of memory: %s", o->what, st_mem_text(len, text), strerror(errno));
    }
    struct st_locked made = {.p = p, .len = len};
    int rc = 0;
    if (st_memory_refused(madvise(p, len, MADV_DONTDUMP)) || st_memory_refused(madvise(p, len, MADV_WIPEONFORK)))
        rc = st_fail(e, ST_UNSUPPORTED, "%s: this kernel cannot keep memory out of dumps and forked children: %s",
                     o->what, strerror(errno));
    else if (!st_memory_refused(mlock2(p, len, MLOCK_ONFAULT)))
        made.locked = true;
    else if (!o->allow_unlocked) {
        int error = errno;
        if (o->secretmem || system_swaps(o->swaps ? o->swaps : "/proc/swaps"))
            rc = refuse_unlocked(len, o, error, e);
    }
    if (rc) {
        munmap(p, len);
        return rc;
    }
    if (o->huge)
        (void)madvise(p, len, MADV_HUGEPAGE); /* a matter of speed alone */
    if (!made.locked)
        atomic_store(&any_unlocked, true);
    *a = made;
    return 0;
}

bool st_locked_all(void)
{
    return !atomic_load(&any_unlocked);
}

void st_locked_free(struct st_locked *a)
{
    if (a->p) {
        OPENSSL_cleanse(a->p, a->len);
        munmap(a->p, a->len);
    }
    *a = (struct st_locked){0};
}
