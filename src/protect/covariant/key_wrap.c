#include "protect/covariant/key_wrap.h"
#include "base/hooks.h"
#include "crypto/aead.h"

#include <string.h>

/* ---- none ---- */

static int none_read(const uint8_t *blob, size_t len, const char *where, struct st_cov_key_info *info, struct st_err *e)
{
    (void)blob;
    (void)info;
    return len == ST_COV_KEY_SEED
               ? 0
               : st_fail(e, ST_INPUT, "%s: seed: want %d bytes, got %zu", where, ST_COV_KEY_SEED, len);
}

static int none_wrap(const uint8_t *head, const struct st_cov_lock *lock, const struct st_secret *seed, uint8_t *blob,
                     size_t *len, struct st_err *e)
{
    (void)head;
    (void)lock;
    (void)e;
    memcpy(blob, seed->p, ST_COV_KEY_SEED);
    *len = ST_COV_KEY_SEED;
    return 0;
}

static int none_unwrap(const uint8_t *head, const struct st_cov_key_info *info, const uint8_t *blob, size_t len,
                       const char *where, const struct st_cov_lock *lock, struct st_secret *seed, struct st_err *e)
{
    (void)head;
    (void)info;
    (void)len;
    (void)where;
    (void)lock;
    (void)e;
    memcpy(seed->p, blob, ST_COV_KEY_SEED);
    return 0;
}

const struct st_cov_wrap_kind st_cov_wrap_none = {none_read, none_wrap, none_unwrap};

/* ---- passphrase ---- */

enum { AT_PASSES = 0, AT_MEMORY = 4, AT_LANES = 8, AT_NONCE = 12, AT_SEALED = 24 };
#define SEALED_LEN (ST_COV_KEY_SEED + ST_AEAD_TAG_LEN)
#define BLOB_LEN (AT_SEALED + SEALED_LEN)
/* What the tag covers besides the seed: the head and the cost, as they stand in the file. */
static void associated(const uint8_t *head, const uint8_t *blob, uint8_t ad[ST_COV_KEY_HEAD + AT_NONCE])
{
    memcpy(ad, head, ST_COV_KEY_HEAD);
    memcpy(ad + ST_COV_KEY_HEAD, blob, AT_NONCE);
}

static int passphrase_read(const uint8_t *blob, size_t len, const char *where, struct st_cov_key_info *info,
                           struct st_err *e)
{
    if (len != BLOB_LEN)
        return st_fail(e, ST_INPUT, "%s: wrapped seed: want %d bytes, got %zu", where, BLOB_LEN, len);
    info->cost = (struct st_argon2){(uint32_t)st_get_le(blob + AT_PASSES, 4), (uint32_t)st_get_le(blob + AT_MEMORY, 4),
                                    (uint32_t)st_get_le(blob + AT_LANES, 4)};
    return st_argon2_check(&info->cost, ST_INPUT, e) ? st_err_prefix(e, "%s", where) : 0;
}

static int passphrase_wrap(const uint8_t *head, const struct st_cov_lock *lock, const struct st_secret *seed,
                           uint8_t *blob, size_t *len, struct st_err *e)
{
    const struct st_argon2 cost = lock->cost.passes ? lock->cost : ST_ARGON2_DEFAULT;
    uint8_t ad[ST_COV_KEY_HEAD + AT_NONCE];
    struct st_secret key;
    if (st_passphrase_check(lock->passphrase, e) || st_argon2_check(&cost, ST_USAGE, e))
        return e->code;
    st_put_le(blob + AT_PASSES, cost.passes, 4);
    st_put_le(blob + AT_MEMORY, cost.memory_kib, 4);
    st_put_le(blob + AT_LANES, cost.lanes, 4);
    int rc = st_random(blob + AT_NONCE, ST_AEAD_NONCE_LEN, e);
    if (!rc)
        rc = st_passphrase_key(&cost, lock->passphrase, head + ST_COV_KEY_SALT, &key, e);
    if (rc)
        return rc;
    associated(head, blob, ad);
    rc = st_aead_seal(key.p, blob + AT_NONCE, ad, sizeof ad, seed->p, ST_COV_KEY_SEED, blob + AT_SEALED, e);
    st_secret_wipe(&key);
    *len = BLOB_LEN;
    return rc;
}

static int passphrase_unwrap(const uint8_t *head, const struct st_cov_key_info *info, const uint8_t *blob, size_t len,
                             const char *where, const struct st_cov_lock *lock, struct st_secret *seed,
                             struct st_err *e)
{
    uint8_t ad[ST_COV_KEY_HEAD + AT_NONCE];
    struct st_secret key;
    (void)len;
    if (!lock->passphrase)
        return st_fail(e, ST_USAGE,
                       "%s: wrapped by a passphrase, and none was given (--passphrase or --passphrase-file)", where);
    int rc = st_passphrase_key(&info->cost, lock->passphrase, head + ST_COV_KEY_SALT, &key, e);
    if (rc)
        return st_err_prefix(e, "%s", where);
    associated(head, blob, ad);
    rc = st_aead_open(key.p, blob + AT_NONCE, ad, sizeof ad, blob + AT_SEALED, SEALED_LEN, seed->p, e);
    st_secret_wipe(&key);
    return rc == ST_VERIFY ? st_fail(e, ST_VERIFY, "%s: wrong passphrase, or the file was changed", where) : rc;
}

const struct st_cov_wrap_kind st_cov_wrap_passphrase = {passphrase_read, passphrase_wrap, passphrase_unwrap};
