/* A seed sealed to this machine's TPM 2.0 (attest/tpm_storage.h). */
#include "attest/tpm_storage.h"
#include "crypto/digest.h"
#include "protect/covariant/key_wrap.h"

#include <openssl/crypto.h>
#include <string.h>

enum { AT_BANK = 0, AT_MASK = 4, AT_PUBLIC = 8 };
#define SEALED_LEN (ST_COV_KEY_SEED + 32)

static bool pcrs_ok(const struct st_tpm_pcrs *p)
{
    return p->bank ? st_tpm_pcrs_ok(p) : !p->mask;
}

/* Splits the TPM2B_PUBLIC and TPM2B_PRIVATE of a blob. */
static bool split(const uint8_t *blob, size_t len, struct st_tpm_object *out)
{
    struct st_tpm_reader r = {blob + AT_PUBLIC, blob + len, len < AT_PUBLIC};
    struct st_span a = st_tpm_sized(&r), b = st_tpm_sized(&r);
    if (r.failed || r.p != r.end || !a.len || !b.len)
        return false;
    *out = (struct st_tpm_object){.public_area = {a.p - 2, a.len + 2}, .private_area = {b.p - 2, b.len + 2}};
    return true;
}

static int tpm_read(const uint8_t *blob, size_t len, const char *where, struct st_cov_key_info *info, struct st_err *e)
{
    struct st_tpm_object object;
    if (!split(blob, len, &object))
        return st_fail(e, ST_INPUT, "%s: wrapped seed: want PCRs and a public and a private part", where);
    info->pcrs = (struct st_tpm_pcrs){(uint32_t)st_get_le(blob + AT_BANK, 4), (uint32_t)st_get_le(blob + AT_MASK, 4)};
    if (!pcrs_ok(&info->pcrs))
        return st_fail(e, ST_INPUT, "%s: PCRs: want a known bank and some of PCR 0..%d, got bank %u, mask %x", where,
                       ST_TPM_N_PCR - 1, info->pcrs.bank, info->pcrs.mask);
    return 0;
}

/* Ties the seed to what stands before it in the file. */
static void head_hash(const uint8_t *head, const uint8_t *blob, uint8_t out[32])
{
    uint8_t in[ST_COV_KEY_HEAD + AT_PUBLIC];
    memcpy(in, head, ST_COV_KEY_HEAD);
    memcpy(in + ST_COV_KEY_HEAD, blob, AT_PUBLIC);
    st_sha256(in, sizeof in, out);
}

static int seal(const struct st_cov_lock *lock, struct st_span secret, struct st_buf *out, struct st_err *e)
{
    struct st_tpm_storage *s;
    struct st_tpm_values now;
    int rc = st_tpm_storage_open(lock->tcti, ST_TPM_STORAGE_ECC, &s, e);
    if (!rc && lock->pcrs.bank)
        rc = st_tpm_storage_pcrs(s, &lock->pcrs, &now, e);
    if (!rc)
        rc = st_tpm_storage_seal(s, secret, lock->pcrs.bank ? &now : NULL, out, e);
    st_tpm_storage_close(s);
    return rc;
}

static int tpm_wrap(const uint8_t *head, const struct st_cov_lock *lock, const struct st_secret *seed, uint8_t *blob,
                    size_t *len, struct st_err *e)
{
    struct st_secret room = {0};
    struct st_buf object = {0};
    if (!pcrs_ok(&lock->pcrs))
        return st_fail(e, ST_USAGE, "PCRs: want sha1, sha256 or sha384 and some of PCR 0..%d", ST_TPM_N_PCR - 1);
    int rc = st_secret_init(&room, SEALED_LEN, e);
    if (rc)
        return rc;
    st_put_le(blob + AT_BANK, lock->pcrs.bank, 4);
    st_put_le(blob + AT_MASK, lock->pcrs.mask, 4);
    memcpy(room.p, seed->p, ST_COV_KEY_SEED);
    head_hash(head, blob, room.p + ST_COV_KEY_SEED);
    rc = seal(lock, (struct st_span){room.p, room.len}, &object, e);
    if (!rc && object.len > ST_COV_KEY_BLOB_MAX - AT_PUBLIC)
        rc = st_fail(e, ST_UNSUPPORTED, "TPM: its sealed objects are larger than %d bytes", ST_COV_KEY_BLOB_MAX);
    if (!rc) {
        memcpy(blob + AT_PUBLIC, object.p, object.len);
        *len = AT_PUBLIC + object.len;
    }
    st_buf_free(&object);
    st_secret_wipe(&room);
    return rc;
}

static int tpm_unwrap(const uint8_t *head, const struct st_cov_key_info *info, const uint8_t *blob, size_t len,
                      const char *where, const struct st_cov_lock *lock, struct st_secret *seed, struct st_err *e)
{
    const struct st_tpm_terms terms = {.pcrs = info->pcrs};
    struct st_tpm_storage *s;
    struct st_tpm_object object;
    struct st_secret data = {0};
    uint8_t want[32];
    if (!split(blob, len, &object))
        return st_fail(e, ST_INTERNAL, "%s: wrapped seed: was not read", where);
    int rc = st_tpm_storage_open(lock->tcti, ST_TPM_STORAGE_ECC, &s, e);
    if (!rc)
        rc = st_tpm_storage_unseal(s, &object, &terms, &data, e);
    st_tpm_storage_close(s);
    if (rc)
        return st_err_prefix(e, "%s", where);
    head_hash(head, blob, want);
    if (data.len == SEALED_LEN && CRYPTO_memcmp(data.p + ST_COV_KEY_SEED, want, sizeof want) == 0)
        memcpy(seed->p, data.p, ST_COV_KEY_SEED);
    else
        rc = st_fail(e, ST_VERIFY, "%s: the TPM's seed belongs to another file, or this one was changed", where);
    st_secret_wipe(&data);
    return rc;
}

const struct st_cov_wrap_kind st_cov_wrap_tpm = {tpm_read, tpm_wrap, tpm_unwrap};
