#include "cli/sign_key.h"
#include "base/file.h"
#include "base/hooks.h"
#include "crypto/digest.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

int st_sign_key_create(const char *path, struct st_ed25519 **out, struct st_err *e)
{
    uint8_t seed[ST_ED25519_SEED];
    char text[2 * sizeof seed + 2];
    *out = NULL;
    int rc = st_random(seed, sizeof seed, e);
    if (!rc) {
        st_hex(seed, sizeof seed, text);
        text[2 * sizeof seed] = '\n';
        rc = st_file_write(path, text, 2 * sizeof seed + 1, 0600, false, e);
    }
    if (!rc)
        rc = st_ed25519_import(seed, out, e);
    explicit_bzero(seed, sizeof seed);
    explicit_bzero(text, sizeof text);
    return rc;
}

int st_sign_key_seed(const char *path, struct st_secret *out, struct st_err *e)
{
    struct stat sb;
    struct st_buf text = {0};
    *out = (struct st_secret){0};
    if (stat(path, &sb) != 0)
        return st_fail(e, ST_IO, "%s: cannot open: %s", path, strerror(errno));
    if (sb.st_mode & 077)
        return st_fail(e, ST_POLICY, "%s: readable by others; want mode 0600", path);
    int rc = st_file_read(path, 2 * ST_ED25519_SEED + 2, &text, e);
    while (!rc && text.len && strchr("\r\n", text.p[text.len - 1]))
        text.len--;
    if (!rc)
        rc = st_secret_init(out, ST_ED25519_SEED, e);
    if (!rc && (text.len != 2 * out->len || st_unhex(text.p, text.len, out->p, out->len, path, e)))
        rc = st_fail(e, ST_INPUT, "%s: want an Ed25519 seed: %d hexadecimal digits", path, 2 * ST_ED25519_SEED);
    st_buf_wipe(&text);
    if (rc)
        st_secret_wipe(out);
    return rc;
}

int st_sign_key_open(const char *path, struct st_ed25519 **out, struct st_err *e)
{
    struct st_secret seed;
    *out = NULL;
    int rc = st_sign_key_seed(path, &seed, e);
    if (rc)
        return rc;
    rc = st_ed25519_import(seed.p, out, e);
    st_secret_wipe(&seed);
    return rc;
}

int st_sign_key_public(const struct st_ed25519 *k, const char *name, uint8_t type, struct st_buf *out, struct st_err *e)
{
    struct st_note_key key;
    uint8_t public[ST_ED25519_PUBLIC];
    st_ed25519_public(k, public);
    if (st_note_key_make(name, type, public, &key, e))
        return e->code;
    st_note_key_write(&key, out);
    return out->failed ? st_fail(e, ST_MEMORY, "out of memory") : 0;
}
