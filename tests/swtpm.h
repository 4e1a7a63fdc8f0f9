/* A software TPM (swtpm) of one's own, for tests: state in a new directory, ports that are free. Include expect.h
 * first. */
#ifndef ST_TESTS_SWTPM_H
#define ST_TESTS_SWTPM_H

#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

struct swtpm {
    char dir[64], tcti[64];
    unsigned port; /* and the next one, for control */
    pid_t pid;
};

static inline bool swtpm_port_is_free(unsigned port)
{
    struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool ok = bind(fd, (struct sockaddr *)&a, sizeof a) == 0;
    close(fd);
    return ok;
}

static inline bool swtpm_spawn(struct swtpm *t)
{
    extern char **environ;
    char state[96], server[64], ctrl[64];
    snprintf(state, sizeof state, "dir=%s", t->dir);
    snprintf(server, sizeof server, "type=tcp,port=%u", t->port);
    snprintf(ctrl, sizeof ctrl, "type=tcp,port=%u", t->port + 1);
    const char *const argv[] = {"swtpm",
                                "socket",
                                "--tpm2",
                                "--tpmstate",
                                state,
                                "--server",
                                server,
                                "--ctrl",
                                ctrl,
                                "--flags",
                                "not-need-init,startup-clear",
                                NULL};
    posix_spawn_file_actions_t io; /* left behind by a test that failed, it must not hold a pipe open */
    posix_spawn_file_actions_init(&io);
    for (int fd = 0; fd < 3; fd++)
        posix_spawn_file_actions_addopen(&io, fd, "/dev/null", O_RDWR, 0);
    int rc = posix_spawnp(&t->pid, argv[0], &io, NULL, (char *const *)argv, environ);
    posix_spawn_file_actions_destroy(&io);
    if (rc != 0)
        return false;
    for (int i = 0; swtpm_port_is_free(t->port) && i < 500; i++)
        usleep(10000);
    return true;
}

/* False, with a line that says so, when there is no swtpm. */
static inline bool swtpm_open(struct swtpm *t)
{
    static unsigned turn;
    *t = (struct swtpm){.dir = "/tmp/sotto_tpm_XXXXXX", .port = 31000 + (unsigned)getpid() * 8 % 10000 + 2 * turn++};
    assert_non_null(mkdtemp(t->dir));
    while (!swtpm_port_is_free(t->port) || !swtpm_port_is_free(t->port + 1))
        t->port += 2;
    snprintf(t->tcti, sizeof t->tcti, "swtpm:host=127.0.0.1,port=%u", t->port);
    if (swtpm_spawn(t))
        return true;
    rmdir(t->dir);
    print_message("skips: swtpm is not there\n");
    return false;
}

static inline void swtpm_stop(struct swtpm *t)
{
    kill(t->pid, SIGTERM);
    waitpid(t->pid, NULL, 0);
}

/* Off and on again: the next boot of the same TPM. */
static inline void swtpm_restart(struct swtpm *t)
{
    swtpm_stop(t);
    for (int i = 0; !swtpm_port_is_free(t->port) && i < 500; i++)
        usleep(10000);
    assert_true(swtpm_spawn(t));
}

/* CMD_INIT of its control channel: the TPM starts anew under whoever is connected. */
static inline void swtpm_reset(struct swtpm *t)
{
    static const uint8_t command[] = {0, 0, 0, 2, 0, 0, 0, 0};
    uint8_t reply[4] = {1};
    struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)(t->port + 1)), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(write(fd, command, sizeof command), sizeof command);
    assert_int_equal(read(fd, reply, sizeof reply), sizeof reply);
    assert_memory_equal(reply, "\0\0\0\0", sizeof reply);
    close(fd);
}

/* A command, which must succeed, while nobody else is connected. */
static inline void swtpm_command(const struct swtpm *t, const uint8_t *cmd, size_t len)
{
    uint8_t reply[64];
    struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)t->port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(write(fd, cmd, len), len);
    assert_true(read(fd, reply, sizeof reply) >= 10);
    assert_memory_equal(reply + 6, "\0\0\0\0", 4);
    close(fd);
}

/* TPM2_PCR_Extend of one PCR of the SHA-256 bank by a fixed value. */
static inline void swtpm_extend(const struct swtpm *t, unsigned pcr)
{
    uint8_t cmd[65] = {0x80, 2, 0, 0, 0, 65, 0, 0, 1, 0x82, 0, 0, 0, (uint8_t)pcr, 0, 0, 0, 9, 0x40, 0, 0, 9};
    cmd[30] = 1; /* one digest */
    cmd[32] = 0x0b;
    cmd[33] = 0x77;
    swtpm_command(t, cmd, sizeof cmd);
}

/* TPM2_Clear by the lockout hierarchy: its owner's keys and counters are gone. */
static inline void swtpm_clear(const struct swtpm *t)
{
    static const uint8_t cmd[] = {0x80, 2, 0, 0, 0,    27, 0, 0, 1, 0x26, 0x40, 0, 0, 0x0a,
                                  0,    0, 0, 9, 0x40, 0,  0, 9, 0, 0,    0,    0, 0};
    swtpm_command(t, cmd, sizeof cmd);
}

/* TPM2_NV_UndefineSpace by the owner. */
static inline void swtpm_undefine(const struct swtpm *t, uint32_t index)
{
    const uint8_t cmd[31] = {0x80,
                             2,
                             0,
                             0,
                             0,
                             31,
                             0,
                             0,
                             1,
                             0x22,
                             0x40,
                             0,
                             0,
                             1,
                             (uint8_t)(index >> 24),
                             (uint8_t)(index >> 16),
                             (uint8_t)(index >> 8),
                             (uint8_t)index,
                             0,
                             0,
                             0,
                             9,
                             0x40,
                             0,
                             0,
                             9};
    swtpm_command(t, cmd, sizeof cmd);
}

static inline void swtpm_close(struct swtpm *t)
{
    static const char *const files[] = {"tpm2-00.permall", "tpm2-00.volatilestate", ".lock"};
    char path[96];
    swtpm_stop(t);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(path, sizeof path, "%s/%s", t->dir, files[i]);
        unlink(path);
    }
    rmdir(t->dir);
}

#endif
