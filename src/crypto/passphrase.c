#include "crypto/passphrase.h"

#include <argon2.h>

#define PASSES_MAX 16
#define LANES_MAX 16
#define MEMORY_MAX_KIB (1u << 20)
#define KEY_LEN 32

int st_argon2_check(const struct st_argon2 *c, int code, struct st_err *e)
{
    if (c->passes >= 1 && c->passes <= PASSES_MAX && c->lanes >= 1 && c->lanes <= LANES_MAX &&
        c->memory_kib >= 8 * c->lanes && c->memory_kib <= MEMORY_MAX_KIB)
        return 0;
    return st_fail(e, code, "Argon2id: want 1..%d passes, 1..%d lanes, and 8 KiB per lane to %u KiB, got %u, %u and %u",
                   PASSES_MAX, LANES_MAX, MEMORY_MAX_KIB, c->passes, c->lanes, c->memory_kib);
}

int st_passphrase_check(const struct st_secret *passphrase, struct st_err *e)
{
    if (passphrase && passphrase->len && passphrase->len <= ST_PASSPHRASE_MAX)
        return 0;
    return st_fail(e, ST_USAGE, "passphrase: want 1..%d bytes", ST_PASSPHRASE_MAX);
}

int st_passphrase_key(const struct st_argon2 *c, const struct st_secret *passphrase, const uint8_t salt[ST_ARGON2_SALT],
                      struct st_secret *out, struct st_err *e)
{
    int rc = st_secret_init(out, KEY_LEN, e);
    if (rc)
        return rc;
    int bad = argon2id_hash_raw(c->passes, c->memory_kib, c->lanes, passphrase->p, passphrase->len, salt,
                                ST_ARGON2_SALT, out->p, out->len);
    if (bad == ARGON2_OK)
        return 0;
    st_secret_wipe(out);
    if (bad == ARGON2_MEMORY_ALLOCATION_ERROR)
        return st_fail(e, ST_MEMORY, "Argon2id: cannot take %u KiB of memory", c->memory_kib);
    return st_fail(e, ST_INTERNAL, "Argon2id: %s", argon2_error_message(bad));
}
