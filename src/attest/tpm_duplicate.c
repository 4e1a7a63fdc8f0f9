#include "attest/tpm_duplicate.h"
#include "attest/tpm_protect.h"
#include "base/hooks.h"
#include "crypto/digest.h"

#include <string.h>

#define ALG_KEYEDHASH 0x0008
#define ALG_NULL 0x0010
#define NO_DA (1u << 10)
#define BLIND 32 /* seedValue, which makes `unique` say nothing about the secret */

static uint8_t *put16(uint8_t *p, unsigned v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
    return p + 2;
}

static uint8_t *put_sized(uint8_t *p, const void *bytes, size_t len)
{
    p = put16(p, (unsigned)len);
    memcpy(p, bytes, len);
    return p + len;
}

/* TPM2B_PUBLIC of a keyed hash without scheme; unique = SHA-256(seedValue | secret). */
static void write_public(const uint8_t policy[32], const uint8_t unique[32], struct st_tpm_duplicate *out)
{
    const uint32_t attributes = ST_TPMA_ADMIN_WITH_POLICY | NO_DA;
    uint8_t *p = put16(out->public_area + 2, ALG_KEYEDHASH);
    p = put16(p, ST_TPM_SHA256);
    p = put16(p, attributes >> 16);
    p = put16(p, attributes & 0xffff);
    p = put_sized(p, policy, 32);
    p = put16(p, ALG_NULL);
    p = put_sized(p, unique, 32);
    out->public_len = (size_t)(p - out->public_area);
    put16(out->public_area, (unsigned)out->public_len - 2);
}

/* TPM2B_SENSITIVE to room; how long it is. */
static size_t write_sensitive(uint8_t *room, const uint8_t blind[BLIND], const struct st_secret *secret)
{
    uint8_t *p = put16(room + 2, ALG_KEYEDHASH);
    p = put16(p, 0); /* no authValue */
    p = put_sized(p, blind, BLIND);
    p = put_sized(p, secret->p, secret->len);
    put16(room, (unsigned)(p - room) - 2);
    return (size_t)(p - room);
}

int st_tpm_key_check_storage(const struct st_tpm_key *k, struct st_err *e)
{
    const uint32_t want =
        ST_TPMA_FIXED_TPM | ST_TPMA_FIXED_PARENT | ST_TPMA_SENSITIVE_DATA_ORIGIN | ST_TPMA_RESTRICTED | ST_TPMA_DECRYPT;
    if (k->has_name && k->name[1] == ST_TPM_SHA256 && (k->attributes & want) == want && !(k->attributes & ST_TPMA_SIGN))
        return 0;
    return st_fail(e, ST_VERIFY,
                   "not a storage key of a TPM: want fixedTPM, fixedParent, sensitiveDataOrigin, restricted and "
                   "decrypt, not sign, and a SHA-256 name");
}

int st_tpm_duplicate_make(const struct st_tpm_key *storage, const uint8_t policy[32], const struct st_secret *secret,
                          struct st_tpm_duplicate *out, struct st_err *e)
{
    struct st_secret room = {0};
    struct st_tpm_protected made;
    uint8_t name[2 + 32], unique[32], blind[BLIND];
    if (secret->len > ST_TPM_DUPLICATE_SECRET)
        return st_fail(e, ST_INTERNAL, "sealed object: cannot hold %zu bytes", secret->len);
    int rc = st_tpm_key_check_storage(storage, e);
    if (!rc)
        rc = st_random(blind, sizeof blind, e);
    if (!rc)
        rc = st_secret_init(&room, 2 + sizeof out->private_area, e);
    if (rc)
        return rc;
    memcpy(room.p, blind, BLIND);
    memcpy(room.p + BLIND, secret->p, secret->len);
    st_sha256(room.p, BLIND + secret->len, unique);
    write_public(policy, unique, out);
    put16(name, ST_TPM_SHA256);
    st_sha256(out->public_area + 2, out->public_len - 2, name + 2);
    const struct st_span text = {room.p, write_sensitive(room.p, blind, secret)};
    rc = st_tpm_protect(storage->key, ST_TPM_DUPLICATE, (struct st_span){name, sizeof name}, text, &made, e);
    if (!rc) {
        out->private_len = (size_t)(put_sized(out->private_area, made.blob, made.blob_len) - out->private_area);
        out->seed_len = made.seed_len;
        memcpy(out->seed, made.seed, made.seed_len);
    }
    st_secret_wipe(&room);
    explicit_bzero(blind, sizeof blind);
    return rc;
}
