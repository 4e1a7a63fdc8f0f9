#include "attest/collect_tsm.h"
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define INBLOB 64
#define TRIES 5

/* One directory below configfs, ours as long as it lives. */
struct entry {
    char path[ST_PATH_MAX - 32]; /* so that a file's name fits behind it */
};

static int make_entry(const char *dir, struct entry *t, struct st_err *e)
{
    static unsigned turn;
    for (int i = 0; i < 1000; i++) {
        int n = snprintf(t->path, sizeof t->path, "%s/sotto-%d-%u", dir, (int)getpid(),
                         __atomic_fetch_add(&turn, 1, __ATOMIC_RELAXED));
        if (n < 0 || (size_t)n >= sizeof t->path)
            return st_fail(e, ST_USAGE, "%s: path is too long", dir);
        if (mkdir(t->path, 0700) == 0)
            return 0;
        if (errno != EEXIST) /* of a process before us that had the same number and was killed */
            break;
    }
    /* ENOENT: no configfs-tsm; ENXIO: no driver behind it. */
    return st_fail(e, errno == ENOENT || errno == ENXIO || errno == ENOTDIR ? ST_UNSUPPORTED : ST_IO,
                   "%s: no report can be asked for: %s", dir, strerror(errno));
}

static int read_attribute(const struct entry *t, const char *name, struct st_buf *out, struct st_err *e)
{
    char path[ST_PATH_MAX], part[4096];
    ssize_t n = 0;
    size_t total = 0;
    snprintf(path, sizeof path, "%s/%s", t->path, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    while (fd >= 0 && total <= ST_TSM_MAX && ((n = read(fd, part, sizeof part)) > 0 || (n < 0 && errno == EINTR)))
        if (n > 0) {
            st_buf_add(out, part, (size_t)n);
            total += (size_t)n;
        }
    int err = errno;
    if (fd >= 0)
        close(fd);
    if (fd < 0 || n < 0)
        return st_fail(e, ST_IO, "tsm: %s: %s", name, strerror(err));
    if (total > ST_TSM_MAX)
        return st_fail(e, ST_INPUT, "tsm: %s: want at most %zu bytes", name, ST_TSM_MAX);
    return out->failed ? st_fail(e, ST_MEMORY, "tsm: no memory") : 0;
}

static int write_attribute(const struct entry *t, const char *name, const void *p, size_t len, struct st_err *e)
{
    char path[ST_PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", t->path, name);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : write(fd, p, len);
    int err = errno;
    /* The kernel takes binary attributes when they are closed. */
    if (fd >= 0 && close(fd) != 0 && n >= 0) {
        err = errno;
        n = -1;
    }
    return n == (ssize_t)len ? 0 : st_fail(e, ST_IO, "tsm: %s: %s", name, n < 0 ? strerror(err) : "short write");
}

static int read_number(const struct entry *t, const char *name, uint64_t *out, struct st_err *e)
{
    struct st_buf text = {0};
    char *end = NULL;
    int rc = read_attribute(t, name, &text, e);
    if (!rc) {
        *out = text.len ? strtoull(text.p, &end, 10) : 0;
        if (!end || end == text.p || (*end && *end != '\n'))
            rc = st_fail(e, ST_INPUT, "tsm: %s: want a number", name);
    }
    st_buf_free(&text);
    return rc;
}

static int check_provider(const struct entry *t, const char *want, struct st_err *e)
{
    struct st_buf name = {0};
    int rc = read_attribute(t, "provider", &name, e);
    while (name.len && name.p[name.len - 1] == '\n')
        name.p[--name.len] = '\0';
    if (!rc && (!name.len || strcmp(name.p, want) != 0))
        rc = st_fail(e, ST_UNSUPPORTED, "tsm: provider: want %s, got '%.32s'", want, name.len ? name.p : "");
    st_buf_free(&name);
    return rc;
}

static bool is_there(const struct entry *t, const char *name)
{
    char path[ST_PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", t->path, name);
    return st_path_exists(path);
}

/* Under a paravisor a guest has no say at the most trusted level, but at its own. */
static int lower_privileges(const struct entry *t, uint64_t *writes, struct st_err *e)
{
    char text[24];
    uint64_t floor = 0;
    if (!is_there(t, "privlevel_floor"))
        return 0;
    if (read_number(t, "privlevel_floor", &floor, e))
        return e->code;
    if (floor == 0)
        return 0;
    if (floor > 3)
        return st_fail(e, ST_INPUT, "tsm: privlevel_floor: want 0..3");
    snprintf(text, sizeof text, "%u", (unsigned)floor);
    ++*writes;
    return write_attribute(t, "privlevel", text, strlen(text), e);
}

/* One try; *disturbed when somebody else wrote in between. */
static int ask(const struct entry *t, const uint8_t data[INBLOB], struct st_buf *report, struct st_buf *aux,
               bool *disturbed, struct st_err *e)
{
    uint64_t before = 0, after = 0, writes = 1;
    if (read_number(t, "generation", &before, e) || lower_privileges(t, &writes, e) ||
        write_attribute(t, "inblob", data, INBLOB, e) || read_attribute(t, "outblob", report, e) ||
        (aux && is_there(t, "auxblob") && read_attribute(t, "auxblob", aux, e)) ||
        read_number(t, "generation", &after, e))
        return e->code;
    *disturbed = after != before + writes;
    return 0;
}

int st_tsm_probe(const char *dir, const char *provider, struct st_err *e)
{
    struct entry t;
    if (make_entry(dir, &t, e))
        return e->code;
    int rc = check_provider(&t, provider, e);
    rmdir(t.path);
    return rc;
}

int st_tsm_report(const char *dir, const char *provider, const uint8_t *data, size_t len, struct st_buf *report,
                  struct st_buf *aux, struct st_err *e)
{
    uint8_t padded[INBLOB] = {0};
    bool disturbed = true;
    struct entry t;
    if (len > INBLOB)
        return st_fail(e, ST_INTERNAL, "tsm: %zu bytes of report data", len);
    memcpy(padded, data, len);
    if (make_entry(dir, &t, e))
        return e->code;
    int rc = check_provider(&t, provider, e);
    for (int i = 0; i < TRIES && disturbed && !rc; i++) {
        st_buf_clear(report);
        if (aux)
            st_buf_clear(aux);
        rc = ask(&t, padded, report, aux, &disturbed, e);
    }
    rmdir(t.path);
    if (!rc && disturbed)
        rc = st_fail(e, ST_IO, "tsm: somebody else writes to %s at the same time, %d times in a row", t.path, TRIES);
    if (!rc && !report->len)
        rc = st_fail(e, ST_IO, "tsm: outblob: empty");
    return rc;
}

/* ---- certificates of SNP ---- */

static uint32_t le32(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

int st_snp_cert_table(const uint8_t *p, size_t len,
                      int (*found)(void *ctx, const uint8_t *cert, size_t n, struct st_err *e), void *ctx,
                      struct st_err *e)
{
    static const uint8_t end[16];
    const size_t row = sizeof end + 8;
    for (size_t at = 0; len - at >= row; at += row) {
        const size_t offset = le32(p + at + 16), n = le32(p + at + 20);
        if (memcmp(p + at, end, sizeof end) == 0)
            return 0;
        if (at / row == 16)
            return st_fail(e, ST_INPUT, "snp: certificates of the host: more than 16 rows");
        if (offset > len || n > len - offset)
            return st_fail(e, ST_INPUT, "snp: certificates of the host: row %zu: %zu bytes at %zu of %zu", at / row, n,
                           offset, len);
        if (n && found(ctx, p + offset, n, e))
            return e->code;
    }
    return len == 0 ? 0 : st_fail(e, ST_INPUT, "snp: certificates of the host: the list of them has no end");
}
