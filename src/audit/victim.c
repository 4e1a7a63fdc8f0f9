#include "audit/victim.h"
#include "base/hooks.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define START_S 30

int st_victim_fork(struct st_victim *v, int *says, struct st_err *e)
{
    int fds[2];
    *v = (struct st_victim){0};
    if (pipe2(fds, O_CLOEXEC))
        return st_fail(e, ST_IO, "no pipe to a child process: %s", strerror(errno));
    v->pid = fork();
    if (v->pid < 0) {
        close(fds[0]);
        close(fds[1]);
        *v = (struct st_victim){0};
        return st_fail(e, ST_IO, "cannot start a child process: %s", strerror(errno));
    }
    if (v->pid) {
        close(fds[1]);
        v->out = fds[0];
    } else
        *says = fds[1];
    return 0;
}

bool st_victim_become(const char *dir)
{
    struct rlimit core = {0, 0};
    pid_t parent = getppid();
    (void)getrlimit(RLIMIT_CORE, &core);
    core.rlim_cur = core.rlim_max;
    (void)setrlimit(RLIMIT_CORE, &core);
    if (geteuid() == 0 && (setgroups(0, NULL) || setresgid(ST_VICTIM_USER, ST_VICTIM_USER, ST_VICTIM_USER) ||
                           setresuid(ST_VICTIM_USER, ST_VICTIM_USER, ST_VICTIM_USER)))
        return false;
    return chdir(dir) == 0 && prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && getppid() == parent;
}

int st_victim_ready(const struct st_victim *v, const volatile sig_atomic_t *cancel, struct st_err *e)
{
    double end = st_now() + START_S;
    char c;
    while (st_now() < end) {
        struct pollfd p = {v->out, POLLIN, 0};
        if (cancel && *cancel)
            return st_fail(e, ST_IO, "cancelled");
        if (poll(&p, 1, 100) == 1)
            return read(v->out, &c, 1) == 1
                       ? 0
                       : st_fail(e, ST_UNSUPPORTED, "a process for the attack could not be started");
    }
    return st_fail(e, ST_UNSUPPORTED, "a process for the attack was not ready within %d s", START_S);
}

int st_victim_alive(struct st_victim *v, struct st_err *e)
{
    if (waitpid(v->pid, NULL, WNOHANG) == 0)
        return 0;
    close(v->out);
    *v = (struct st_victim){0};
    return st_fail(e, ST_UNSUPPORTED, "the process that was attacked ended by itself");
}

void st_victim_end(struct st_victim *v, int sig)
{
    if (v->pid > 0) {
        kill(v->pid, sig);
        while (waitpid(v->pid, NULL, 0) < 0 && errno == EINTR)
            ;
        close(v->out);
    }
    *v = (struct st_victim){0};
}
