#include "audit/victim.h"
#include "base/hooks.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <pwd.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define START_S 30
#define DRAWS 20

/* Numbers that systems give to nobody (systemd, "Users, Groups, UIDs and GIDs"): above those of services, below those
 * of containers; and where a container has no more than 65,536 of them, between those of services. */
static const struct {
    uid_t first, n;
} nobodies[] = {{65536, 34464}, {60706, 478}};

static bool has_process(uid_t user)
{
    DIR *dir = opendir("/proc");
    struct stat sb;
    bool found = !dir; /* not to be seen: it may have one */
    for (struct dirent *d; !found && (d = readdir(dir));)
        found = *d->d_name >= '1' && *d->d_name <= '9' && !fstatat(dirfd(dir), d->d_name, &sb, 0) && sb.st_uid == user;
    if (dir)
        closedir(dir);
    return found;
}

/* By the name service, which knows of accounts elsewhere too. */
static bool has_account(uid_t user)
{
    struct passwd entry, *found = NULL;
    char text[4096];
    return getpwuid_r(user, &entry, text, sizeof text, &found) == ERANGE || found;
}

/* Whether this system lets a file belong to it: a container has not all numbers. */
static bool is_mapped(uid_t user)
{
    int fd = memfd_create("user", MFD_CLOEXEC);
    bool ok = fd >= 0 && fchown(fd, user, user) == 0;
    if (fd >= 0)
        close(fd);
    return ok;
}

int st_victim_user(uid_t *out, struct st_err *e)
{
    *out = 0;
    for (size_t i = 0; geteuid() == 0 && i < DRAWS; i++) {
        size_t k = i % 2;
        uint32_t drawn;
        if (st_random(&drawn, sizeof drawn, e))
            return e->code;
        uid_t user = nobodies[k].first + drawn % nobodies[k].n;
        if (is_mapped(user) && !has_account(user) && !has_process(user)) {
            *out = user;
            break;
        }
    }
    return *out || geteuid() != 0 ? 0 : st_fail(e, ST_UNSUPPORTED, "there is no unused user to become");
}

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

bool st_victim_become(const char *dir, uid_t user)
{
    struct rlimit core = {0, 0};
    pid_t parent = getppid();
    (void)getrlimit(RLIMIT_CORE, &core);
    core.rlim_cur = core.rlim_max;
    (void)setrlimit(RLIMIT_CORE, &core);
    if (user && (setgroups(0, NULL) || setresgid(user, user, user) || setresuid(user, user, user)))
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
