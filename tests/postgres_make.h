/* A PostgreSQL server of the test's own, in a directory below /tmp, on a Unix socket and a port of 127.0.0.1; as
 * another user when the test runs as root, whom initdb refuses. Include expect.h first. */
#ifndef ST_TESTS_POSTGRES_MAKE_H
#define ST_TESTS_POSTGRES_MAKE_H

#include <arpa/inet.h>
#include <fcntl.h>
#include <glob.h>
#include <grp.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

struct postgres {
    char dir[64], bin[256], url[160];
    int port;
    pid_t pid;
};

#define NOBODY 65534

static inline void as_nobody(void)
{
    if (getuid() == 0 && (setgroups(0, NULL) != 0 || setgid(NOBODY) != 0 || setuid(NOBODY) != 0))
        _exit(127);
}

/* Runs BIN/argv[0] as the server's user; its output goes to a file of the directory. */
static inline pid_t postgres_spawn(const struct postgres *p, const char *const argv[])
{
    char path[300], log[96];
    snprintf(path, sizeof path, "%s/%s", p->bin, argv[0]);
    snprintf(log, sizeof log, "%s/log", p->dir);
    pid_t pid = fork();
    if (pid == 0) {
        as_nobody();
        int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
        dup2(fd, 1);
        dup2(fd, 2);
        if (chdir(p->dir) == 0)
            execv(path, (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    return pid;
}

/* Debian does not have it on the path. */
static inline bool postgres_find(struct postgres *p)
{
    glob_t g;
    bool found = glob("/usr/lib/postgresql/*/bin", 0, NULL, &g) == 0 && g.gl_pathc > 0;
    if (found)
        snprintf(p->bin, sizeof p->bin, "%s", g.gl_pathv[g.gl_pathc - 1]);
    globfree(&g);
    char initdb[300];
    snprintf(initdb, sizeof initdb, "%s/initdb", p->bin);
    return found && access(initdb, X_OK) == 0;
}

static inline int free_port(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET};
    socklen_t len = sizeof a;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool ok = bind(fd, (struct sockaddr *)&a, sizeof a) == 0 && getsockname(fd, (struct sockaddr *)&a, &len) == 0;
    close(fd);
    return ok ? ntohs(a.sin_port) : 0;
}

static inline bool postgres_answers(const struct postgres *p)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)p->port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool ok = connect(fd, (struct sockaddr *)&a, sizeof a) == 0;
    close(fd);
    return ok;
}

static inline void postgres_run(struct postgres *p)
{
    char port[16];
    snprintf(port, sizeof port, "%d", p->port);
    const char *const argv[] = {
        "postgres", "-D", "data", "-k", p->dir, "-p", port, "-h", "127.0.0.1", "-c", "listen_addresses=127.0.0.1",
        NULL};
    p->pid = postgres_spawn(p, argv);
    for (int i = 0; i < 500 && !postgres_answers(p); i++)
        usleep(20 * 1000);
    assert_true(postgres_answers(p));
}

/* False, with a message, where there is none installed. */
static inline bool postgres_open(struct postgres *p)
{
    int status;
    *p = (struct postgres){.dir = "/tmp/sotto-pg-XXXXXX"};
    if (!postgres_find(p)) {
        print_message("skipped: no PostgreSQL server is installed\n");
        return false;
    }
    assert_non_null(mkdtemp(p->dir));
    if (getuid() == 0)
        assert_int_equal(chown(p->dir, NOBODY, NOBODY), 0);
    const char *const init[] = {"initdb", "-D", "data",       "-U", "sotto", "-A",
                                "trust",  "-N", "--locale=C", "-E", "UTF8",  NULL};
    assert_int_equal(waitpid(postgres_spawn(p, init), &status, 0) > 0 && status == 0, true);
    p->port = free_port();
    snprintf(p->url, sizeof p->url, "postgresql://sotto@127.0.0.1:%d/postgres", p->port);
    postgres_run(p);
    return true;
}

/* SIGINT ends it in order, SIGQUIT as a crash would. */
static inline void postgres_stop(struct postgres *p, int sig)
{
    int status;
    kill(p->pid, sig);
    waitpid(p->pid, &status, 0);
    p->pid = 0;
}

static inline void postgres_close(struct postgres *p)
{
    char cmd[128];
    if (p->pid)
        postgres_stop(p, SIGINT);
    snprintf(cmd, sizeof cmd, "rm -rf %s", p->dir);
    assert_int_equal(system(cmd), 0);
}

#endif
