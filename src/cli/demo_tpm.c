#include "cli/demo_tpm.h"
#include "base/file.h"
#include "base/hooks.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static struct sockaddr_in loopback(int port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return a;
}

/* port 0 = any; returns the port, 0 when it is taken. */
static int free_port(int port)
{
    struct sockaddr_in a = loopback(port);
    socklen_t len = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), got = 0;
    if (fd >= 0 && bind(fd, (struct sockaddr *)&a, sizeof a) == 0 && getsockname(fd, (struct sockaddr *)&a, &len) == 0)
        got = ntohs(a.sin_port);
    if (fd >= 0)
        close(fd);
    return got;
}

/* swtpm's control channel must be the port behind its command channel. */
static int free_pair(void)
{
    for (int i = 0; i < 64; i++) {
        int port = free_port(0);
        if (port && port < 65535 && free_port(port + 1))
            return port;
    }
    return 0;
}

static int dial(int port)
{
    const struct sockaddr_in a = loopback(port);
    const struct timeval limit = {5, 0};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0 &&
        connect(fd, (const struct sockaddr *)&a, sizeof a) == 0)
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}

static bool wait_port(int port)
{
    const struct timespec tick = {0, 5 * 1000 * 1000};
    for (double end = st_now() + 5; st_now() < end; nanosleep(&tick, NULL)) {
        int fd = dial(port);
        if (fd >= 0)
            return close(fd) == 0;
    }
    return false;
}

int st_demo_tpm_start(const char *dir, struct st_demo_tpm *out, struct st_err *e)
{
    char program[ST_PATH_MAX], path[100], state[128], server[64], ctrl[64];
    *out = (struct st_demo_tpm){0};
    if (!st_child_on_path("swtpm", program, sizeof program))
        return st_fail(e, ST_UNSUPPORTED, "swtpm is not installed");
    out->port = free_pair();
    snprintf(path, sizeof path, "%s/tpm", dir);
    snprintf(state, sizeof state, "dir=%s", path);
    snprintf(server, sizeof server, "type=tcp,port=%d", out->port);
    snprintf(ctrl, sizeof ctrl, "type=tcp,port=%d", out->port + 1);
    snprintf(out->tcti, sizeof out->tcti, "swtpm:host=127.0.0.1,port=%d", out->port);
    const char *const args[] = {"socket", "--tpm2", "--tpmstate", state,     "--server",
                                server,   "--ctrl", ctrl,         "--flags", "not-need-init,startup-clear",
                                "--log",  "fd=1",   NULL};
    if (!out->port || mkdir(path, 0700) != 0)
        return st_fail(e, ST_IO, "no place for a TPM");
    if (st_child_start(program, args, &out->child, e))
        return e->code;
    return wait_port(out->port) ? 0 : st_fail(e, ST_IO, "swtpm does not start");
}

void st_demo_tpm_stop(struct st_demo_tpm *t)
{
    st_child_stop(&t->child);
}

/* TPM2_PCR_Extend with an empty password (TCG, TPM 2.0 Library, Part 3, section 22.2): the one command that this
 * program sends to a TPM itself. */
int st_demo_tpm_extend(const struct st_demo_tpm *t, uint8_t pcr, struct st_err *e)
{
    uint8_t cmd[65] = {0x80, 0x02, 0, 0, 0, sizeof cmd, 0, 0, 1, 0x82, 0, 0, 0, pcr, 0, 0,   0,
                       9,    0x40, 0, 0, 9, 0,          0, 0, 0, 0,    0, 0, 0, 1,   0, 0x0b};
    uint8_t reply[64] = {0};
    memset(cmd + 33, 0xab, 32);
    int fd = dial(t->port);
    bool ok = fd >= 0 && send(fd, cmd, sizeof cmd, MSG_NOSIGNAL) == sizeof cmd &&
              recv(fd, reply, sizeof reply, 0) >= 10 && !(reply[6] | reply[7] | reply[8] | reply[9]);
    if (fd >= 0)
        close(fd);
    return ok ? 0 : st_fail(e, ST_IO, "the TPM did not extend PCR %u", pcr);
}
