#include "protect/covariant/key_wrap.h"
#include "base/hooks.h"
#include "crypto/aead.h"

#include <argon2.h>
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
#define PASSES_MAX 16
#define LANES_MAX 16
#define MEMORY_MAX_KIB (1u << 20)

static bool cost_ok(const struct st_cov_argon2 *c)
{
    return c->passes >= 1 && c->passes <= PASSES_MAX && c->lanes >= 1 && c->lanes <= LANES_MAX &&
           c->memory_kib >= 8 * c->lanes && c->memory_kib <= MEMORY_MAX_KIB;
}

/* What the tag covers besides the seed: the head and the cost, as they stand in the file. */
static void associated(const uint8_t *head, const uint8_t *blob, uint8_t ad[ST_COV_KEY_HEAD + AT_NONCE])
{
    memcpy(ad, head, ST_COV_KEY_HEAD);
    memcpy(ad + ST_COV_KEY_HEAD, blob, AT_NONCE);
}

/* The library clears its working memory (FLAG_clear_internal_memory, its default). */
static int stretch(const struct st_cov_argon2 *c, const struct st_secret *passphrase, const uint8_t *head,
                   struct st_secret *out, struct st_err *e)
{
    int rc = st_secret_init(out, ST_AEAD_KEY_LEN, e);
    if (rc)
        return rc;
    int bad = argon2id_hash_raw(c->passes, c->memory_kib, c->lanes, passphrase->p, passphrase->len,
                                head + ST_COV_KEY_SALT, 16, out->p, out->len);
    if (bad == ARGON2_OK)
        return 0;
    st_secret_wipe(out);
    if (bad == ARGON2_MEMORY_ALLOCATION_ERROR)
        return st_fail(e, ST_MEMORY, "Argon2id: cannot take %u KiB of memory", c->memory_kib);
    return st_fail(e, ST_INTERNAL, "Argon2id: %s", argon2_error_message(bad));
}

static int passphrase_read(const uint8_t *blob, size_t len, const char *where, struct st_cov_key_info *info,
                           struct st_err *e)
{
    if (len != BLOB_LEN)
        return st_fail(e, ST_INPUT, "%s: wrapped seed: want %d bytes, got %zu", where, BLOB_LEN, len);
    info->cost =
        (struct st_cov_argon2){(uint32_t)st_get_le(blob + AT_PASSES, 4), (uint32_t)st_get_le(blob + AT_MEMORY, 4),
                               (uint32_t)st_get_le(blob + AT_LANES, 4)};
    if (!cost_ok(&info->cost))
        return st_fail(
            e, ST_INPUT, "%s: Argon2id: want 1..%d passes, 1..%d lanes and at most %u KiB, got %u, %u and %u", where,
            PASSES_MAX, LANES_MAX, MEMORY_MAX_KIB, info->cost.passes, info->cost.lanes, info->cost.memory_kib);
    return 0;
}

static int passphrase_wrap(const uint8_t *head, const struct st_cov_lock *lock, const struct st_secret *seed,
                           uint8_t *blob, size_t *len, struct st_err *e)
{
    const struct st_cov_argon2 cost = lock->cost.passes ? lock->cost : ST_COV_ARGON2_DEFAULT;
    uint8_t ad[ST_COV_KEY_HEAD + AT_NONCE];
    struct st_secret key;
    if (!lock->passphrase || !lock->passphrase->len || lock->passphrase->len > ST_COV_PASSPHRASE_MAX)
        return st_fail(e, ST_USAGE, "passphrase: want 1..%d bytes", ST_COV_PASSPHRASE_MAX);
    if (!cost_ok(&cost))
        return st_fail(e, ST_USAGE, "Argon2id: want 1..%d passes, 1..%d lanes, 8 KiB per lane to %u KiB", PASSES_MAX,
                       LANES_MAX, MEMORY_MAX_KIB);
    st_put_le(blob + AT_PASSES, cost.passes, 4);
    st_put_le(blob + AT_MEMORY, cost.memory_kib, 4);
    st_put_le(blob + AT_LANES, cost.lanes, 4);
    int rc = st_random(blob + AT_NONCE, ST_AEAD_NONCE_LEN, e);
    if (!rc)
        rc = stretch(&cost, lock->passphrase, head, &key, e);
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
    int rc = stretch(&info->cost, lock->passphrase, head, &key, e);
    if (rc)
        return st_err_prefix(e, "%s", where);
    associated(head, blob, ad);
    rc = st_aead_open(key.p, blob + AT_NONCE, ad, sizeof ad, blob + AT_SEALED, SEALED_LEN, seed->p, e);
    st_secret_wipe(&key);
    return rc == ST_VERIFY ? st_fail(e, ST_VERIFY, "%s: wrong passphrase, or the file was changed", where) : rc;
}

const struct st_cov_wrap_kind st_cov_wrap_passphrase = {passphrase_read, passphrase_wrap, passphrase_unwrap};
