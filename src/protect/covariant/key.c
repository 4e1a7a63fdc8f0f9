#include "protect/covariant/key.h"
#include "base/file.h"
#include "base/hooks.h"
#include "crypto/digest.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <openssl/crypto.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_VERSION 1
#define KDF_NONE 0

enum { AT_VERSION = 8, AT_ID = 12, AT_KDF = 28, AT_SALT = 32, AT_CREATED = 48, AT_SEED = 56, AT_SUM = 88 };
static const char magic[8] = {'S', 'O', 'T', 'T', 'O', 'K', 'E', 'Y'};

static void put_le(uint8_t *p, uint64_t v, int n)
{
    for (int i = 0; i < n; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}

static uint64_t get_le(const uint8_t *p, int n)
{
    uint64_t v = 0;
    for (int i = n - 1; i >= 0; i--)
        v = v << 8 | p[i];
    return v;
}

/* The name of a new file is on disk only after its directory is. */
static int sync_dir_of(const char *path, struct st_err *e)
{
    char copy[ST_PATH_MAX];
    if (strlen(path) >= sizeof copy)
        return st_fail(e, ST_USAGE, "%s: path too long", path);
    strcpy(copy, path);
    int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int bad = fd < 0 || fsync(fd) != 0;
    int err = errno;
    if (fd >= 0)
        close(fd);
    return bad ? st_fail(e, ST_IO, "%s: cannot sync its directory: %s", path, strerror(err)) : 0;
}

int st_cov_key_create(const char *path, struct st_err *e)
{
    struct st_secret file;
    int rc = st_secret_init(&file, ST_COV_KEY_FILE_LEN, e);
    if (rc)
        return rc;
    uint8_t *p = file.p;
    memcpy(p, magic, sizeof magic);
    put_le(p + AT_VERSION, FILE_VERSION, 4);
    put_le(p + AT_KDF, KDF_NONE, 4);
    put_le(p + AT_CREATED, (uint64_t)st_unix_time(), 8);
    rc = st_random(p + AT_ID, 16, e);
    if (!rc)
        rc = st_random(p + AT_SALT, 16, e);
    if (!rc)
        rc = st_random(p + AT_SEED, 32, e);
    if (!rc) {
        st_sha256(p, AT_SUM, p + AT_SUM);
        rc = st_file_write(path, p, ST_COV_KEY_FILE_LEN, 0600, false, e);
    }
    if (!rc)
        rc = sync_dir_of(path, e);
    st_secret_wipe(&file);
    return rc;
}

int st_cov_key_parse(const uint8_t *p, size_t len, const char *where, struct st_cov_key *out, struct st_err *e)
{
    uint8_t sum[32];
    *out = (struct st_cov_key){0};
    if (len < sizeof magic || memcmp(p, magic, sizeof magic) != 0)
        return st_fail(e, ST_INPUT, "%s: not a sotto key file", where);
    if (len < AT_ID)
        return st_fail(e, ST_INPUT, "%s: truncated: want %d bytes, got %zu", where, ST_COV_KEY_FILE_LEN, len);
    uint64_t version = get_le(p + AT_VERSION, 4);
    if (version != FILE_VERSION)
        return st_fail(e, ST_UNSUPPORTED, "%s: version: want %d, got %llu", where, FILE_VERSION,
                       (unsigned long long)version);
    if (len != ST_COV_KEY_FILE_LEN)
        return st_fail(e, ST_INPUT, "%s: want %d bytes, got %zu", where, ST_COV_KEY_FILE_LEN, len);
    st_sha256(p, AT_SUM, sum);
    if (CRYPTO_memcmp(sum, p + AT_SUM, sizeof sum) != 0)
        return st_fail(e, ST_INPUT, "%s: damaged: its checksum does not fit", where);
    if (get_le(p + AT_KDF, 4) != KDF_NONE)
        return st_fail(e, ST_UNSUPPORTED, "%s: kdf: want %d (none), got %llu", where, KDF_NONE,
                       (unsigned long long)get_le(p + AT_KDF, 4));
    int rc = st_secret_init(&out->seed, 32, e);
    if (rc)
        return rc;
    memcpy(out->seed.p, p + AT_SEED, 32);
    memcpy(out->id, p + AT_ID, sizeof out->id);
    out->created = (int64_t)get_le(p + AT_CREATED, 8);
    return 0;
}

/* Reads up to cap bytes; more means the file is too long, which parse() reports by its length. */
static int read_some(int fd, uint8_t *p, size_t cap, size_t *len)
{
    *len = 0;
    while (*len < cap) {
        ssize_t n = read(fd, p + *len, cap - *len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        if (n == 0)
            break;
        *len += (size_t)n;
    }
    return 0;
}

int st_cov_key_load(const char *path, struct st_cov_key *out, struct st_err *e)
{
    struct stat sb;
    struct st_secret file = {0};
    size_t len;
    *out = (struct st_cov_key){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return st_fail(e, ST_IO, "%s: cannot open: %s", path, strerror(errno));
    int rc = 0;
    if (fstat(fd, &sb) != 0 || !S_ISREG(sb.st_mode))
        rc = st_fail(e, ST_IO, "%s: not a regular file", path);
    else if (sb.st_mode & 077)
        rc = st_fail(e, ST_POLICY, "%s: mode %04o: others can read this key; want 0600 (chmod 600)", path,
                     (unsigned)sb.st_mode & 07777);
    if (!rc)
        rc = st_secret_init(&file, ST_COV_KEY_FILE_LEN + 1, e);
    if (!rc && read_some(fd, file.p, file.len, &len) != 0)
        rc = st_fail(e, ST_IO, "%s: cannot read: %s", path, strerror(errno));
    if (!rc)
        rc = st_cov_key_parse(file.p, len, path, out, e);
    st_secret_wipe(&file);
    close(fd);
    return rc;
}

void st_cov_key_wipe(struct st_cov_key *k)
{
    st_secret_wipe(&k->seed);
    *k = (struct st_cov_key){0};
}

int st_cov_key_commit(const struct st_cov_key *k, const uint8_t model_digest[32], char hex[65], struct st_err *e)
{
    static const char label[] = "sotto covariant commitment 1";
    struct st_secret in;
    uint8_t hash[32];
    const struct {
        const void *p;
        size_t len;
    } field[] = {{label, sizeof label - 1}, {k->id, 16}, {k->seed.p, 32}, {model_digest, 32}};
    int rc = st_secret_init(&in, sizeof label + 16 + 32 + 32 + 4 * 4, e);
    if (rc)
        return rc;
    size_t at = 0;
    for (int i = 0; i < 4; i++) {
        put_le(in.p + at, field[i].len, 4);
        memcpy(in.p + at + 4, field[i].p, field[i].len);
        at += 4 + field[i].len;
    }
    st_sha256(in.p, at, hash);
    st_hex(hash, sizeof hash, hex);
    st_secret_wipe(&in);
    return 0;
}

int st_cov_key_stream(const struct st_cov_key *k, const uint8_t model_digest[32], const char *label,
                      struct st_stream **out, struct st_err *e)
{
    return st_stream_new(k->seed.p, k->seed.len, model_digest, 32, label, out, e);
}
