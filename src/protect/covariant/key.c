#include "protect/covariant/key.h"
#include "base/hooks.h"
#include "crypto/digest.h"
#include "protect/covariant/key_wrap.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { AT_VERSION = 8, AT_ID = 12, AT_WRAP = 28, AT_CREATED = 48, AT_BLOB_LEN = ST_COV_KEY_HEAD };
#define BLOB_AT (ST_COV_KEY_HEAD + 4)
#define SUM_LEN 32
#define FILE_MAX (BLOB_AT + ST_COV_KEY_BLOB_MAX + SUM_LEN)
#define V1_LEN (ST_COV_KEY_HEAD + ST_COV_KEY_SEED + SUM_LEN)
static const char magic[8] = {'S', 'O', 'T', 'T', 'O', 'K', 'E', 'Y'};

static const struct st_cov_wrap_kind *const kinds[ST_COV_WRAP_COUNT] = {
    [ST_COV_WRAP_NONE] = &st_cov_wrap_none,
    [ST_COV_WRAP_PASSPHRASE] = &st_cov_wrap_passphrase,
    [ST_COV_WRAP_TPM] = &st_cov_wrap_tpm,
};

/* ---- reading ---- */

/* Where the blob is, by version and length alone. */
static int find_blob(const uint8_t *p, size_t len, const char *where, const uint8_t **blob, size_t *blob_len,
                     struct st_err *e)
{
    if (len < sizeof magic || memcmp(p, magic, sizeof magic) != 0)
        return st_fail(e, ST_INPUT, "%s: not a sotto key file", where);
    if (len < AT_ID)
        return st_fail(e, ST_INPUT, "%s: truncated at %zu bytes", where, len);
    uint64_t version = st_get_le(p + AT_VERSION, 4);
    if (version != 1 && version != 2)
        return st_fail(e, ST_UNSUPPORTED, "%s: version: want 1 or 2, got %llu", where, (unsigned long long)version);
    if (version == 1) {
        *blob = p + ST_COV_KEY_HEAD;
        *blob_len = ST_COV_KEY_SEED;
        return len == V1_LEN ? 0 : st_fail(e, ST_INPUT, "%s: want %d bytes, got %zu", where, V1_LEN, len);
    }
    if (len < BLOB_AT + SUM_LEN)
        return st_fail(e, ST_INPUT, "%s: truncated at %zu bytes", where, len);
    *blob = p + BLOB_AT;
    *blob_len = (size_t)st_get_le(p + AT_BLOB_LEN, 4);
    if (*blob_len > ST_COV_KEY_BLOB_MAX)
        return st_fail(e, ST_INPUT, "%s: wrapped seed: want at most %d bytes, got %zu", where, ST_COV_KEY_BLOB_MAX,
                       *blob_len);
    if (len != BLOB_AT + *blob_len + SUM_LEN)
        return st_fail(e, ST_INPUT, "%s: want %zu bytes, got %zu", where, BLOB_AT + *blob_len + SUM_LEN, len);
    return 0;
}

static int read_file(const uint8_t *p, size_t len, const char *where, struct st_cov_key_info *info,
                     const uint8_t **blob, size_t *blob_len, struct st_err *e)
{
    uint8_t sum[SUM_LEN];
    *info = (struct st_cov_key_info){0};
    int rc = find_blob(p, len, where, blob, blob_len, e);
    if (rc)
        return rc;
    st_sha256(p, len - SUM_LEN, sum);
    if (CRYPTO_memcmp(sum, p + len - SUM_LEN, sizeof sum) != 0)
        return st_fail(e, ST_INPUT, "%s: damaged: its checksum does not fit", where);
    uint64_t wrap = st_get_le(p + AT_WRAP, 4);
    info->version = (uint32_t)st_get_le(p + AT_VERSION, 4);
    if (wrap >= (info->version == 1 ? ST_COV_WRAP_PASSPHRASE : ST_COV_WRAP_COUNT))
        return st_fail(e, ST_UNSUPPORTED, "%s: wrap: %llu is not known in version %u", where, (unsigned long long)wrap,
                       info->version);
    info->wrap = (enum st_cov_wrap)wrap;
    info->created = (int64_t)st_get_le(p + AT_CREATED, 8);
    memcpy(info->id, p + AT_ID, sizeof info->id);
    return kinds[info->wrap]->read(*blob, *blob_len, where, info, e);
}

int st_cov_key_read(const uint8_t *p, size_t len, const char *where, struct st_cov_key_info *out, struct st_err *e)
{
    const uint8_t *blob;
    size_t blob_len;
    return read_file(p, len, where, out, &blob, &blob_len, e);
}

int st_cov_key_open(const uint8_t *p, size_t len, const char *where, const struct st_cov_lock *lock,
                    struct st_cov_key *out, struct st_err *e)
{
    static const struct st_cov_lock none;
    struct st_cov_key_info info;
    const uint8_t *blob;
    size_t blob_len;
    *out = (struct st_cov_key){0};
    if (!lock)
        lock = &none;
    int rc = read_file(p, len, where, &info, &blob, &blob_len, e);
    if (rc)
        return rc;
    /* Somebody may have put an open key in the place of a wrapped one. */
    if (lock->passphrase && info.wrap != ST_COV_WRAP_PASSPHRASE)
        return st_fail(e, ST_USAGE, "%s: a passphrase was given, but this key is not wrapped by one", where);
    rc = st_secret_init(&out->seed, ST_COV_KEY_SEED, e);
    if (!rc)
        rc = kinds[info.wrap]->unwrap(p, &info, blob, blob_len, where, lock, &out->seed, e);
    if (rc) {
        st_cov_key_wipe(out);
        return rc;
    }
    memcpy(out->id, info.id, sizeof out->id);
    out->created = info.created;
    return 0;
}

/* Reads up to cap bytes; more means the file is too long, which find_blob() reports by its length. */
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

/* The whole file into locked memory; *len <= FILE_MAX + 1. */
static int slurp(const char *path, struct st_secret *file, size_t *len, struct st_err *e)
{
    struct stat sb;
    *file = (struct st_secret){0};
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
        rc = st_secret_init(file, FILE_MAX + 1, e);
    if (!rc && read_some(fd, file->p, file->len, len) != 0)
        rc = st_fail(e, ST_IO, "%s: cannot read: %s", path, strerror(errno));
    close(fd);
    if (rc)
        st_secret_wipe(file);
    return rc;
}

int st_cov_key_load(const char *path, const struct st_cov_lock *lock, struct st_cov_key *out, struct st_err *e)
{
    struct st_secret file;
    size_t len = 0;
    *out = (struct st_cov_key){0};
    int rc = slurp(path, &file, &len, e);
    if (!rc)
        rc = st_cov_key_open(file.p, len, path, lock, out, e);
    st_secret_wipe(&file);
    return rc;
}

int st_cov_key_show(const char *path, struct st_cov_key_info *out, struct st_err *e)
{
    struct st_secret file;
    size_t len = 0;
    *out = (struct st_cov_key_info){0};
    int rc = slurp(path, &file, &len, e);
    if (!rc)
        rc = st_cov_key_read(file.p, len, path, out, e);
    st_secret_wipe(&file);
    return rc;
}

/* ---- writing ---- */

/* A fresh key as the bytes of a file. */
static int draw(const struct st_cov_lock *lock, struct st_secret *file, size_t *len, struct st_err *e)
{
    struct st_secret seed = {0};
    size_t n = 0;
    int rc = st_secret_init(file, FILE_MAX, e);
    if (!rc)
        rc = st_secret_init(&seed, ST_COV_KEY_SEED, e);
    if (rc)
        return rc;
    uint8_t *p = file->p;
    memcpy(p, magic, sizeof magic);
    st_put_le(p + AT_VERSION, 2, 4);
    st_put_le(p + AT_WRAP, lock->wrap, 4);
    st_put_le(p + AT_CREATED, (uint64_t)st_unix_time(), 8);
    rc = st_random(p + AT_ID, 16, e);
    if (!rc)
        rc = st_random(p + ST_COV_KEY_SALT, 16, e);
    if (!rc)
        rc = st_random(seed.p, ST_COV_KEY_SEED, e);
    if (!rc)
        rc = kinds[lock->wrap]->wrap(p, lock, &seed, p + BLOB_AT, &n, e);
    if (!rc) {
        st_put_le(p + AT_BLOB_LEN, n, 4);
        st_sha256(p, BLOB_AT + n, p + BLOB_AT + n);
        *len = BLOB_AT + n + SUM_LEN;
    }
    st_secret_wipe(&seed);
    return rc;
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

int st_cov_key_create(const char *path, const struct st_cov_lock *lock, struct st_err *e)
{
    static const struct st_cov_lock none;
    struct st_secret file = {0};
    size_t len = 0;
    /* Before a passphrase is stretched or a TPM is asked. */
    if (st_path_exists(path))
        return st_fail(e, ST_IO, "%s: exists already; not overwritten", path);
    int rc = draw(lock ? lock : &none, &file, &len, e);
    if (!rc)
        rc = st_file_write(path, file.p, len, 0600, false, e);
    if (!rc)
        rc = sync_dir_of(path, e);
    st_secret_wipe(&file);
    return rc;
}

/* The old file under its second name. One that an interrupted rotation left there is as good. */
static int keep_old(const char *old, const struct st_secret *file, size_t len, struct st_err *e)
{
    struct st_secret there = {0};
    size_t n = 0;
    if (!st_path_exists(old)) {
        int rc = st_file_write(old, file->p, len, 0600, false, e);
        return rc ? rc : sync_dir_of(old, e);
    }
    int rc = slurp(old, &there, &n, e);
    if (!rc && (n != len || CRYPTO_memcmp(there.p, file->p, len) != 0))
        rc = st_fail(e, ST_IO, "%s: exists already and is another file; not overwritten", old);
    st_secret_wipe(&there);
    return rc;
}

/* Two rotations at once would both say that they succeeded, and one fresh key would be nowhere. The lock is on the file
 * that is replaced, so its name may be another file's by the time it is got. Where there are no locks it is not kept.
 */
static int lock_file(const char *path, int *fd, struct st_err *e)
{
    for (;;) {
        struct stat a, b;
        *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        if (*fd < 0)
            return st_fail(e, ST_IO, "%s: cannot open: %s", path, strerror(errno));
        if (flock(*fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
            return st_fail(e, ST_IO, "%s: another rotation is under way", path);
        if (fstat(*fd, &a) == 0 && stat(path, &b) == 0 && a.st_ino == b.st_ino && a.st_dev == b.st_dev)
            return 0;
        close(*fd);
    }
}

int st_cov_key_rotate(const char *path, const struct st_cov_lock *lock, char old[ST_PATH_MAX], struct st_err *e)
{
    struct st_secret file = {0}, fresh = {0};
    struct st_cov_key key = {0};
    struct st_cov_key_info info = {0};
    struct st_cov_lock again = lock ? *lock : (struct st_cov_lock){0};
    size_t len = 0, fresh_len = 0;
    char id[33];
    int fd = -1, rc = lock_file(path, &fd, e);
    if (!rc)
        rc = slurp(path, &file, &len, e);
    if (!rc)
        rc = st_cov_key_read(file.p, len, path, &info, e);
    if (!rc) /* so that a mistyped passphrase does not wrap the new key */
        rc = st_cov_key_open(file.p, len, path, lock, &key, e);
    st_hex(info.id, sizeof info.id, id);
    if (!rc && (size_t)snprintf(old, ST_PATH_MAX, "%s.%s", path, id) >= ST_PATH_MAX)
        rc = st_fail(e, ST_USAGE, "%s: path too long", path);
    again.wrap = info.wrap;
    again.cost = info.cost;
    again.pcrs = info.pcrs;
    if (!rc)
        rc = draw(&again, &fresh, &fresh_len, e);
    if (!rc)
        rc = keep_old(old, &file, len, e);
    if (!rc)
        rc = st_file_write(path, fresh.p, fresh_len, 0600, true, e);
    if (!rc)
        rc = sync_dir_of(path, e);
    st_cov_key_wipe(&key);
    st_secret_wipe(&fresh);
    st_secret_wipe(&file);
    if (fd >= 0)
        close(fd);
    return rc;
}

void st_cov_key_wipe(struct st_cov_key *k)
{
    st_secret_wipe(&k->seed);
    *k = (struct st_cov_key){0};
}

int st_cov_key_commit(const struct st_cov_key *k, const uint8_t model_digest[32], const char *facts, char hex[65],
                      struct st_err *e)
{
    static const char label[] = "sotto covariant commitment 2";
    struct st_secret in;
    uint8_t hash[32];
    const struct {
        const void *p;
        size_t len;
    } field[] = {{label, sizeof label - 1}, {k->id, 16}, {k->seed.p, 32}, {model_digest, 32}, {facts, strlen(facts)}};
    const int n = sizeof field / sizeof *field;
    size_t at = 0, len = 0;
    for (int i = 0; i < n; i++)
        len += 4 + field[i].len;
    int rc = st_secret_init(&in, len, e);
    if (rc)
        return rc;
    for (int i = 0; i < n; i++) {
        st_put_le(in.p + at, field[i].len, 4);
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
