#include "cli/child.h"
#include "base/file.h"
#include "base/hooks.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_ARGS 32

static char **clean_environment(void)
{
    size_t n = 0, k = 0;
    while (environ[n])
        n++;
    char **env = calloc(n + 1, sizeof *env);
    for (size_t i = 0; env && i < n; i++)
        if (strncmp(environ[i], "SOTTO_", 6) != 0)
            env[k++] = environ[i];
    return env;
}

/* Path of `program`: beside this one, this one itself, or as it is. */
static int find_program(const char *program, char *path, size_t cap, struct st_err *e)
{
    char dir[ST_PATH_MAX];
    if (!program) {
        snprintf(path, cap, "/proc/self/exe");
        return 0;
    }
    if (strchr(program, '/'))
        snprintf(path, cap, "%s", program);
    else if (st_child_program_dir(dir, sizeof dir, e) || st_path_join(path, cap, dir, program, e))
        return e->code;
    return access(path, X_OK) == 0 ? 0 : st_fail(e, ST_IO, "%s: %s", path, strerror(errno));
}

int st_child_start(const char *program, const char *const *args, struct st_child *out, struct st_err *e)
{
    char path[ST_PATH_MAX];
    char *argv[MAX_ARGS + 2] = {path};
    int fds[2], n = 1;
    *out = (struct st_child){0};
    if (find_program(program, path, sizeof path, e))
        return e->code;
    for (; args[n - 1] && n <= MAX_ARGS; n++)
        argv[n] = (char *)args[n - 1];
    char **env = clean_environment();
    if (!env)
        return st_fail(e, ST_MEMORY, "no memory for a child process");
    if (pipe2(fds, O_CLOEXEC) != 0) {
        free(env);
        return st_fail(e, ST_IO, "no pipe to a child process: %s", strerror(errno));
    }
    pid_t parent = getpid(), pid = fork();
    if (pid == 0) {
        /* Between fork and exec only calls that are safe there. */
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent || dup2(fds[1], STDOUT_FILENO) < 0)
            _exit(ST_IO);
        signal(SIGINT, SIG_IGN); /* Ctrl-C goes to the parent, which ends this process */
        execve(path, argv, env);
        _exit(ST_IO);
    }
    close(fds[1]);
    free(env);
    if (pid < 0) {
        close(fds[0]);
        return st_fail(e, ST_IO, "cannot start a child process: %s", strerror(errno));
    }
    *out = (struct st_child){pid, fds[0]};
    return 0;
}

int st_child_line(struct st_child *c, double seconds, char *line, size_t cap, struct st_err *e)
{
    double end = st_now() + seconds;
    size_t n = 0;
    while (n + 1 < cap) {
        struct pollfd p = {c->out, POLLIN, 0};
        double left = end - st_now();
        if (left <= 0)
            return st_fail(e, ST_IO, "the child process said nothing for %.0f s", seconds);
        int rc = poll(&p, 1, (int)(left * 1e3) + 1);
        if (rc == 0 || (rc < 0 && errno == EINTR))
            continue;
        ssize_t got = read(c->out, line + n, 1);
        if (got <= 0)
            return st_fail(e, ST_IO, "the child process ended at once");
        if (line[n] == '\n')
            break;
        n++;
    }
    line[n] = 0;
    return 0;
}

int st_child_wait(struct st_child *c, double seconds, struct st_err *e)
{
    const struct timespec tick = {0, 5 * 1000 * 1000};
    int status = 0;
    pid_t gone = 0;
    for (double end = st_now() + seconds; gone == 0 && st_now() < end;) {
        gone = waitpid(c->pid, &status, WNOHANG);
        if (gone == 0)
            nanosleep(&tick, NULL);
    }
    if (gone == 0)
        return st_fail(e, ST_IO, "the child process did not end within %.0f s", seconds);
    close(c->out);
    *c = (struct st_child){0};
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0
                                                         : st_fail(e, ST_IO, "the child process ended with status %d",
                                                                   WIFEXITED(status) ? WEXITSTATUS(status) : -1);
}

void st_child_stop(struct st_child *c)
{
    if (c->pid <= 0)
        return;
    kill(c->pid, SIGTERM);
    const struct timespec tick = {0, 10 * 1000 * 1000};
    for (int i = 0; i < 200 && waitpid(c->pid, NULL, WNOHANG) == 0; i++) {
        if (i == 199) {
            kill(c->pid, SIGKILL);
            waitpid(c->pid, NULL, 0);
        }
        nanosleep(&tick, NULL);
    }
    close(c->out);
    *c = (struct st_child){0};
}

bool st_child_on_path(const char *name, char *out, size_t cap)
{
    const char *path = getenv("PATH");
    for (const char *at = path ? path : "/usr/bin:/bin"; *at;) {
        int n = (int)strcspn(at, ":");
        if (n > 0 && snprintf(out, cap, "%.*s/%s", n, at, name) < (int)cap && access(out, X_OK) == 0)
            return true;
        at += n + (at[n] == ':');
    }
    return false;
}

int st_child_program_dir(char *out, size_t cap, struct st_err *e)
{
    ssize_t n = readlink("/proc/self/exe", out, cap - 1);
    if (n <= 0)
        return st_fail(e, ST_IO, "/proc/self/exe: %s", strerror(errno));
    out[n] = 0;
    char *slash = strrchr(out, '/');
    *(slash ? slash : out) = 0;
    return 0;
}
