#include "service/node_child.h"
#include "base/file.h"
#include "base/hooks.h"
#include "crypto/digest.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define END_S 5.0

struct st_node_child {
    pid_t pid; /* 0 = none */
    int out;   /* reading end of what it prints */
    int fd;    /* pidfd: readable when it has ended */
    struct event *prints, *end;
    void (*ended)(void *arg, const struct st_err *why);
    void *arg;
    bool hushed;
    uint8_t digest[32];
};

/* ---- which one it is ---- */

/* As execvp() would find it. */
static int find(const char *word, char *path, size_t cap, struct st_err *e)
{
    const char *list = getenv("PATH");
    if (strchr(word, '/')) {
        snprintf(path, cap, "%s", word);
        return strlen(word) < cap && access(path, X_OK) == 0
                   ? 0
                   : st_fail(e, ST_IO, "%.300s: cannot be run: %s", word, strerror(errno));
    }
    for (const char *at = list ? list : "/usr/local/bin:/usr/bin:/bin"; *at;) {
        size_t n = strcspn(at, ":");
        int len = n ? snprintf(path, cap, "%.*s/%s", (int)n, at, word) : snprintf(path, cap, "./%s", word);
        if (len > 0 && (size_t)len < cap && access(path, X_OK) == 0 && !st_path_is_dir(path))
            return 0;
        at += n + (at[n] == ':');
    }
    return st_fail(e, ST_IO, "%.300s: no such program in PATH", word);
}

static void add(struct st_digest *d, const void *p, size_t len)
{
    const uint8_t n[4] = {(uint8_t)len, (uint8_t)(len >> 8), (uint8_t)(len >> 16), (uint8_t)(len >> 24)};
    st_digest_add(d, n, sizeof n);
    st_digest_add(d, p, len);
}

static int digest(const char *path, char *const *command, uint8_t out[32], struct st_err *e)
{
    struct st_map map;
    struct st_digest d;
    uint8_t file[32];
    if (st_map_open(path, &map, e))
        return e->code;
    st_sha256(map.p, map.len, file);
    st_map_close(&map);
    if (st_digest_init(&d, e))
        return e->code;
    add(&d, file, sizeof file);
    for (; *command; command++)
        add(&d, *command, strlen(*command));
    st_digest_end(&d, out);
    return 0;
}

/* ---- its life ---- */

static void on_prints(evutil_socket_t fd, short what, void *arg)
{
    struct st_node_child *c = arg;
    char buf[4096];
    (void)what;
    ssize_t n = read(fd, buf, sizeof buf);
    if (n > 0 && !c->hushed && write(STDERR_FILENO, buf, (size_t)n) < 0)
        c->hushed = true; /* nobody reads it */
    if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN))
        event_del(c->prints);
}

static void on_ended(evutil_socket_t fd, short what, void *arg)
{
    struct st_node_child *c = arg;
    struct st_err e;
    int status;
    (void)fd;
    (void)what;
    if (waitpid(c->pid, &status, WNOHANG) != c->pid)
        return;
    c->pid = 0;
    event_del(c->end);
    if (WIFEXITED(status))
        st_fail(&e, ST_IO, "the engine has ended with status %d", WEXITSTATUS(status));
    else
        st_fail(&e, ST_IO, "the engine was ended by signal %d", WTERMSIG(status));
    c->ended(c->arg, &e);
}

/* Of the variables, those of this program are not for the engine. */
static char **environment(void)
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

static int spawn(struct st_node_child *c, const char *path, char *const *command, struct st_err *e)
{
    int fds[2];
    char **env = environment();
    if (!env || pipe2(fds, O_CLOEXEC) != 0) {
        free(env);
        return st_fail(e, ST_IO, "%.300s: no pipe: %s", path, strerror(errno));
    }
    const pid_t parent = getpid();
    c->pid = fork();
    if (c->pid == 0) {
        /* Between fork and exec only calls that are safe there. */
        sigset_t none;
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        signal(SIGPIPE, SIG_DFL);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent || dup2(fds[1], STDOUT_FILENO) < 0 || dup2(fds[1], STDERR_FILENO) < 0)
            _exit(126);
        setpgid(0, 0); /* Ctrl-C goes to the node, which ends it */
        execve(path, command, env);
        _exit(127);
    }
    free(env);
    close(fds[1]);
    if (c->pid < 0) {
        c->pid = 0;
        close(fds[0]);
        return st_fail(e, ST_IO, "%.300s: cannot be started: %s", path, strerror(errno));
    }
    c->out = fds[0];
    evutil_make_socket_nonblocking(c->out);
    c->fd = (int)syscall(SYS_pidfd_open, c->pid, 0);
    return c->fd >= 0 ? 0 : st_fail(e, ST_IO, "%.300s: pidfd: %s", path, strerror(errno));
}

int st_node_child_start(struct event_base *base, char *const *command,
                        void (*ended)(void *arg, const struct st_err *why), void *arg, struct st_node_child **out,
                        struct st_err *e)
{
    char path[ST_PATH_MAX];
    struct st_node_child *c = NULL;
    *out = NULL;
    if (st_alloc(&c, 1, sizeof *c, "engine", e))
        return e->code;
    c->out = c->fd = -1;
    c->ended = ended;
    c->arg = arg;
    int rc = find(command[0], path, sizeof path, e);
    if (!rc)
        rc = digest(path, command, c->digest, e);
    if (!rc)
        rc = spawn(c, path, command, e);
    if (!rc) {
        c->prints = event_new(base, c->out, EV_READ | EV_PERSIST, on_prints, c);
        c->end = event_new(base, c->fd, EV_READ | EV_PERSIST, on_ended, c);
        if (!c->prints || !c->end || event_add(c->prints, NULL) != 0 || event_add(c->end, NULL) != 0)
            rc = st_fail(e, ST_MEMORY, "engine: no memory");
    }
    if (rc)
        st_node_child_free(c);
    else
        *out = c;
    return rc;
}

void st_node_child_digest(const struct st_node_child *c, uint8_t out[32])
{
    memcpy(out, c->digest, sizeof c->digest);
}

void st_node_child_hush(struct st_node_child *c)
{
    c->hushed = true;
}

/* A node in its sandbox may signal nobody (EPERM): then the engine dies when the node ends, a moment from now. */
static void end(struct st_node_child *c)
{
    const struct timespec tick = {0, 10 * 1000 * 1000};
    if (kill(c->pid, SIGTERM) != 0)
        return;
    for (double until = st_now() + END_S; waitpid(c->pid, NULL, WNOHANG) == 0;) {
        if (st_now() > until) {
            kill(c->pid, SIGKILL);
            waitpid(c->pid, NULL, 0);
            break;
        }
        nanosleep(&tick, NULL);
    }
}

void st_node_child_free(struct st_node_child *c)
{
    if (!c)
        return;
    if (c->pid)
        end(c);
    if (c->prints)
        event_free(c->prints);
    if (c->end)
        event_free(c->end);
    if (c->out >= 0)
        close(c->out);
    if (c->fd >= 0)
        close(c->fd);
    free(c);
}
