#include "service/submitters.h"
#include "base/file.h"
#include "crypto/digest.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

enum { MAX_FILE = 1 << 20, MIN_KEY = 16, MAX_KEY = 512 };

const char *st_submitter_kind_name(enum st_submitter_kind k)
{
    static const char *const names[ST_SUBMITTER_COUNT] = {"gateway", "issuer", "entries"};
    return names[k];
}

/* "KIND/NAME KEY"; the line is a string of its own. */
static int read_line(char *line, const char *where, struct st_submitter *out, struct st_err *e)
{
    char *slash = strchr(line, '/'), *blank = strpbrk(line, " \t");
    if (!slash || !blank || slash > blank)
        return st_fail(e, ST_INPUT, "%s: want KIND/NAME KEY", where);
    *slash = *blank = 0;
    const char *name = slash + 1, *key = blank + 1 + strspn(blank + 1, " \t");
    size_t len = strlen(key);
    int kind = 0;
    while (kind < ST_SUBMITTER_COUNT && strcmp(line, st_submitter_kind_name((enum st_submitter_kind)kind)) != 0)
        kind++;
    if (kind == ST_SUBMITTER_COUNT)
        return st_fail(e, ST_INPUT, "%s: want a kind: gateway, issuer or entries", where);
    if (!st_directory_name_good(name))
        return st_fail(e, ST_INPUT, "%s: want a name of 1 to %d letters, digits, '.', '-' and '_'", where,
                       ST_DIRECTORY_MAX_NAME);
    if (len < MIN_KEY || len > MAX_KEY || strpbrk(key, " \t"))
        return st_fail(e, ST_INPUT, "%s: want a key of %d to %d bytes without blanks", where, MIN_KEY, MAX_KEY);
    out->kind = (enum st_submitter_kind)kind;
    memcpy(out->name, name, strlen(name) + 1);
    st_sha256(key, len, out->digest);
    return 0;
}

static int add_line(char *line, const char *where, struct st_submitters *s, struct st_err *e)
{
    size_t n = strlen(line);
    while (n && strchr(" \t\r", line[n - 1]))
        line[--n] = 0;
    line += strspn(line, " \t");
    if (!*line || *line == '#')
        return 0;
    struct st_submitter *one = &s->of[s->n];
    if (s->n == ST_SUBMITTERS_MAX)
        return st_fail(e, ST_INPUT, "%s: want at most %d submitters", where, ST_SUBMITTERS_MAX);
    if (read_line(line, where, one, e))
        return e->code;
    for (size_t i = 0; i < s->n; i++)
        if ((s->of[i].kind == one->kind && strcmp(s->of[i].name, one->name) == 0) ||
            memcmp(s->of[i].digest, one->digest, sizeof one->digest) == 0)
            return st_fail(e, ST_INPUT, "%s: its name or its key comes twice", where);
    s->n++;
    return 0;
}

int st_submitters_load(const char *path, struct st_submitters *out, struct st_err *e)
{
    struct stat sb;
    struct st_buf b = {0};
    char where[512];
    int line = 0;
    *out = (struct st_submitters){0};
    if (stat(path, &sb) != 0)
        return st_fail(e, ST_IO, "%s: cannot open: %s", path, strerror(errno));
    if (sb.st_mode & 077)
        return st_fail(e, ST_POLICY, "%s: readable by others; want mode 0600", path);
    int rc = st_file_read(path, MAX_FILE, &b, e);
    if (!rc)
        rc = st_alloc(&out->of, ST_SUBMITTERS_MAX, sizeof *out->of, "submitters", e);
    for (char *at = b.p, *end; !rc && at && *at; at = end) {
        end = strchr(at, '\n');
        if (end)
            *end++ = 0;
        else
            end = at + strlen(at);
        snprintf(where, sizeof where, "%.400s: line %d", path, ++line);
        rc = add_line(at, where, out, e);
    }
    if (!rc && out->n == 0)
        rc = st_fail(e, ST_INPUT, "%s: want a line KIND/NAME KEY", path);
    st_buf_wipe(&b);
    if (rc)
        st_submitters_free(out);
    return rc;
}

void st_submitters_free(struct st_submitters *s)
{
    free(s->of);
    *s = (struct st_submitters){0};
}

const struct st_submitter *st_submitters_check(const struct st_submitters *s, const char *authorization)
{
    const struct st_submitter *found = NULL;
    uint8_t digest[32];
    if (!authorization || strncasecmp(authorization, "Bearer ", 7) != 0)
        return NULL;
    const char *key = authorization + 7 + strspn(authorization + 7, " ");
    st_sha256(key, strlen(key), digest);
    for (size_t i = 0; i < s->n; i++)
        if (CRYPTO_memcmp(digest, s->of[i].digest, sizeof digest) == 0)
            found = &s->of[i];
    return found;
}
