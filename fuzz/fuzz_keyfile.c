/* Any bytes as a key file: refused, or a key. Once more with a right checksum, so that what lies behind it is reached,
 * and a seed wrapped by a passphrase is unwrapped where that is cheap. */
#include "crypto/digest.h"
#include "protect/covariant/key.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define WORD "fuzz"

static void open_key(const uint8_t *p, size_t len, const struct st_cov_key_info *info)
{
    static const uint8_t digest[32];
    struct st_err e = {0};
    struct st_secret word = {0};
    struct st_cov_lock lock = {0};
    struct st_cov_key k;
    char hex[65];
    if (info->wrap == ST_COV_WRAP_TPM || info->cost.memory_kib > 64 || info->cost.passes > 2)
        return;
    if (info->wrap == ST_COV_WRAP_PASSPHRASE) {
        if (st_secret_init(&word, strlen(WORD), &e))
            abort();
        memcpy(word.p, WORD, word.len);
        lock.passphrase = &word;
    }
    int rc = st_cov_key_open(p, len, "fuzz", &lock, &k, &e);
    if (rc && (rc != ST_VERIFY || info->wrap != ST_COV_WRAP_PASSPHRASE || k.seed.p))
        abort();
    if (!rc && st_cov_key_commit(&k, digest, "", hex, &e))
        abort();
    st_cov_key_wipe(&k);
    st_secret_wipe(&word);
}

static void parse(const uint8_t *p, size_t len)
{
    struct st_err e = {0};
    struct st_cov_key_info info;
    int rc = st_cov_key_read(p, len, "fuzz", &info, &e);
    if (rc && rc != ST_INPUT && rc != ST_UNSUPPORTED)
        abort();
    if (!rc)
        open_key(p, len, &info);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    parse(data, size);
    if (size >= 32) {
        uint8_t *copy = malloc(size);
        if (!copy)
            return 0;
        memcpy(copy, data, size);
        st_sha256(copy, size - 32, copy + size - 32);
        parse(copy, size);
        free(copy);
    }
    return 0;
}
