#include "base/secret.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

bool st_memory_refused(int rc)
{
    return rc != 0 && errno != ENOSYS;
}

int st_secret_init(struct st_secret *s, size_t len, struct st_err *e)
{
    *s = (struct st_secret){0};
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t mapped = (len + page - 1) / page * page;
    void *p = mmap(NULL, mapped ? mapped : page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return st_fail(e, ST_MEMORY, "secret: cannot map %zu bytes", len);
    if (st_memory_refused(mlock(p, mapped)) || st_memory_refused(madvise(p, mapped, MADV_DONTDUMP)) ||
        st_memory_refused(madvise(p, mapped, MADV_WIPEONFORK))) {
        int err = errno;
        munmap(p, mapped);
        return st_fail(e, ST_MEMORY, "secret: cannot lock %zu bytes in memory: %s (raise `ulimit -l`)", len,
                       strerror(err));
    }
    *s = (struct st_secret){p, len, mapped};
    return 0;
}

void st_secret_wipe(struct st_secret *s)
{
    if (s->p) {
        OPENSSL_cleanse(s->p, s->mapped);
        munmap(s->p, s->mapped);
    }
    *s = (struct st_secret){0};
}

void st_secret_process(void)
{
    /* A core_pattern that is a pipe is fed in spite of the limit, but never with a process that is not dumpable. The
     * hard limit stays: it would outlast exec, and an audit lets what it attacks have all the core that it may. */
    struct rlimit core = {0, 0};
    (void)getrlimit(RLIMIT_CORE, &core);
    core.rlim_cur = 0;
    (void)setrlimit(RLIMIT_CORE, &core);
    (void)prctl(PR_SET_DUMPABLE, 0);
}

void st_secret_process_for_good(void)
{
    st_secret_process();
    (void)setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
}
