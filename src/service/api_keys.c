#include "service/api_keys.h"
#include "base/file.h"
#include "crypto/digest.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

enum { MAX_KEYS = 4096, MAX_KEY_LEN = 512, MAX_FILE = 4 << 20 };

static int read_private(const char *path, struct st_buf *b, struct st_err *e)
{
    struct stat sb;
    if (stat(path, &sb) != 0)
        return st_fail(e, ST_IO, "%s: cannot open: %s", path, strerror(errno));
    if (S_ISREG(sb.st_mode) && (sb.st_mode & 077))
        return st_fail(e, ST_POLICY, "%s: readable by others; want mode 0600", path);
    return st_file_read(path, MAX_FILE, b, e);
}

/* The next key at *at, or false. Keys have no blanks around them. */
static bool next_key(const struct st_buf *b, size_t *at, struct st_span *key)
{
    while (*at < b->len) {
        const char *line = b->p + *at;
        const char *nl = memchr(line, '\n', b->len - *at);
        size_t len = nl ? (size_t)(nl - line) : b->len - *at;
        *at += len + 1;
        while (len && strchr(" \t\r", *line)) {
            line++;
            len--;
        }
        while (len && strchr(" \t\r", line[len - 1]))
            len--;
        if (len && *line != '#') {
            *key = (struct st_span){(const uint8_t *)line, len};
            return true;
        }
    }
    return false;
}

int st_api_keys_load(const char *path, struct st_api_keys *out, struct st_err *e)
{
    struct st_buf b = {0};
    struct st_span key;
    size_t n = 0, at = 0;
    bool fits = true;
    *out = (struct st_api_keys){0};
    int rc = read_private(path, &b, e);
    if (rc)
        goto out;
    for (; next_key(&b, &at, &key); n++)
        fits = fits && key.len <= MAX_KEY_LEN;
    if (!fits || n == 0 || n > MAX_KEYS) {
        rc = st_fail(e, ST_INPUT, "%s: want 1 to %d keys, one per line, of at most %d bytes", path, MAX_KEYS,
                     MAX_KEY_LEN);
        goto out;
    }
    rc = st_alloc(&out->digest, n, sizeof *out->digest, "API keys", e);
    for (at = 0; !rc && out->n < n && next_key(&b, &at, &key); out->n++)
        st_sha256(key.p, key.len, out->digest[out->n]);
out:
    st_buf_wipe(&b);
    return rc;
}

int st_api_keys_check(const struct st_api_keys *k, const char *authorization)
{
    int found = -1;
    if (!authorization || strncasecmp(authorization, "Bearer ", 7) != 0)
        return -1;
    const char *key = authorization + 7 + strspn(authorization + 7, " ");
    uint8_t d[32];
    st_sha256(key, strlen(key), d);
    for (size_t i = 0; i < k->n; i++)
        if (CRYPTO_memcmp(d, k->digest[i], sizeof d) == 0)
            found = (int)i;
    return found;
}

void st_api_keys_free(struct st_api_keys *k)
{
    free(k->digest);
    *k = (struct st_api_keys){0};
}

int st_api_key_first(const char *path, struct st_buf *out, struct st_err *e)
{
    struct st_buf b = {0};
    struct st_span key;
    size_t at = 0;
    int rc = read_private(path, &b, e);
    if (!rc && (!next_key(&b, &at, &key) || key.len > MAX_KEY_LEN))
        rc = st_fail(e, ST_INPUT, "%s: want a key of at most %d bytes", path, MAX_KEY_LEN);
    /* It becomes a header line: nothing in it may end one. */
    for (size_t i = 0; !rc && i < key.len; i++)
        if (key.p[i] < 0x21 || key.p[i] > 0x7e)
            rc = st_fail(e, ST_INPUT, "%s: want a key of printable ASCII", path);
    if (!rc)
        st_buf_add(out, key.p, key.len);
    st_buf_wipe(&b);
    return rc;
}
