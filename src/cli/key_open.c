#include "cli/key_open.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

/* Room for the longest passphrase, its line end, and one byte that shows that it is too long. */
#define ROOM (ST_PASSPHRASE_MAX + 3)

/* Cuts the line end off; out->len becomes the passphrase's. */
static int take_line(struct st_secret *out, size_t len, const char *where, struct st_err *e)
{
    if (len && out->p[len - 1] == '\n')
        len--;
    if (len && out->p[len - 1] == '\r')
        len--;
    if (!len)
        return st_fail(e, ST_USAGE, "%s: the passphrase is empty", where);
    if (len > ST_PASSPHRASE_MAX)
        return st_fail(e, ST_USAGE, "%s: a passphrase has at most %d bytes", where, ST_PASSPHRASE_MAX);
    if (memchr(out->p, '\n', len) || memchr(out->p, 0, len))
        return st_fail(e, ST_INPUT, "%s: want one line of text", where);
    out->len = len;
    return 0;
}

/* Bytes until the end, a line end (when `line`), or until there is no more room. -1: errno; -2: Ctrl-C, Ctrl-D. */
static ssize_t read_secret(int fd, struct st_secret *out, bool line)
{
    size_t len = 0;
    while (len < ROOM) {
        ssize_t n = read(fd, out->p + len, line ? 1 : ROOM - len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        if (n == 0)
            return line && !len ? -2 : (ssize_t)len;
        len += (size_t)n;
        if (line && out->p[len - 1] == 3)
            return -2;
        if (line && out->p[len - 1] == '\n')
            break;
    }
    return (ssize_t)len;
}

/* As systemd hands a service its credentials: root's, read by means of an access list, whose mask shows as the bits of
 * root's group. */
static bool is_credential(const struct stat *sb)
{
    return (sb->st_mode & 0777) == 0440 && sb->st_uid == 0 && sb->st_gid == 0;
}

static int from_file(const char *path, struct st_secret *out, struct st_err *e)
{
    struct stat sb;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return st_fail(e, ST_IO, "%s: cannot open: %s", path, strerror(errno));
    int rc = 0;
    ssize_t len = -1;
    if (fstat(fd, &sb) != 0 || !S_ISREG(sb.st_mode))
        rc = st_fail(e, ST_IO, "%s: not a regular file", path);
    else if ((sb.st_mode & 077) && !is_credential(&sb))
        rc = st_fail(e, ST_POLICY, "%s: mode %04o: others can read this passphrase; want 0600 (chmod 600)", path,
                     (unsigned)sb.st_mode & 07777);
    else if ((len = read_secret(fd, out, false)) < 0)
        rc = st_fail(e, ST_IO, "%s: cannot read: %s", path, strerror(errno));
    close(fd);
    return rc ? rc : take_line(out, (size_t)len, path, e);
}

/* Signals of the keyboard are off while the echo is, so that Ctrl-C cannot leave the terminal mute. */
static int from_terminal(const char *prompt, struct st_secret *out, struct st_err *e)
{
    struct termios old, mute;
    int fd = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);
    if (fd < 0 || tcgetattr(fd, &old) != 0) {
        if (fd >= 0)
            close(fd);
        return st_fail(e, ST_USAGE, "--passphrase: there is no terminal to ask on; use --passphrase-file FILE");
    }
    mute = old;
    mute.c_lflag &= ~(tcflag_t)(ECHO | ISIG);
    mute.c_lflag |= ICANON;
    ssize_t len = -1;
    if (tcsetattr(fd, TCSAFLUSH, &mute) == 0) {
        dprintf(fd, "%s", prompt);
        len = read_secret(fd, out, true);
        dprintf(fd, "\n");
        (void)tcsetattr(fd, TCSAFLUSH, &old);
    }
    close(fd);
    if (len < 0)
        return st_fail(e, ST_IO, len == -2 ? "--passphrase: cancelled" : "--passphrase: cannot read the terminal");
    return take_line(out, (size_t)len, "--passphrase", e);
}

static int ask(bool twice, struct st_secret *out, struct st_err *e)
{
    struct st_secret again = {0};
    int rc = from_terminal("Passphrase: ", out, e);
    if (rc || !twice)
        return rc;
    rc = st_secret_init(&again, ROOM, e);
    if (!rc)
        rc = from_terminal("Once more: ", &again, e);
    if (!rc && (again.len != out->len || memcmp(again.p, out->p, out->len) != 0))
        rc = st_fail(e, ST_VERIFY, "--passphrase: the two are not the same");
    st_secret_wipe(&again);
    return rc;
}

int st_key_passphrase(const struct st_cli *cli, bool twice, struct st_secret *out, struct st_err *e)
{
    const struct st_cli_unlock *u = &cli->unlock;
    *out = (struct st_secret){0};
    if (u->passphrase && u->passphrase_file)
        return st_fail(e, ST_USAGE, "want --passphrase or --passphrase-file, not both");
    if (!u->passphrase && !u->passphrase_file)
        return 0;
    int rc = st_secret_init(out, ROOM, e);
    if (!rc)
        rc = u->passphrase ? ask(twice, out, e) : from_file(u->passphrase_file, out, e);
    if (rc)
        st_secret_wipe(out);
    return rc;
}

const char *st_key_tcti(const struct st_cli *cli)
{
    /* tpm2-tss writes to standard error by itself; the one line of an error is ours. */
    setenv("TSS2_LOG", "all+NONE", 0);
    const char *env = getenv("TSS2_TCTI");
    return cli->unlock.tcti ? cli->unlock.tcti : env && *env ? env : NULL;
}

int st_key_open(const struct st_cli *cli, const char *file, struct st_cov_key *out, struct st_err *e)
{
    struct st_secret passphrase;
    *out = (struct st_cov_key){0};
    int rc = st_key_passphrase(cli, false, &passphrase, e);
    if (rc)
        return rc;
    const struct st_cov_lock lock = {.passphrase = passphrase.p ? &passphrase : NULL, .tcti = st_key_tcti(cli)};
    rc = st_cov_key_load(file, &lock, out, e);
    st_secret_wipe(&passphrase);
    return rc;
}
