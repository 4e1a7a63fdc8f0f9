#include "crypto/ed25519.h"
#include "base/hooks.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

struct st_ed25519 {
    EVP_PKEY *pkey;
    uint8_t public[ST_ED25519_PUBLIC];
};

int st_ed25519_import(const uint8_t seed[ST_ED25519_SEED], struct st_ed25519 **out, struct st_err *e)
{
    size_t len = ST_ED25519_PUBLIC;
    struct st_ed25519 *k = calloc(1, sizeof *k);
    *out = k;
    if (!k)
        return st_fail(e, ST_MEMORY, "ed25519: out of memory");
    k->pkey = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, seed, ST_ED25519_SEED);
    if (k->pkey && EVP_PKEY_get_raw_public_key(k->pkey, k->public, &len) == 1)
        return 0;
    st_ed25519_free(k);
    *out = NULL;
    return st_fail(e, ST_INTERNAL, "ed25519: OpenSSL cannot make a key");
}

int st_ed25519_new(struct st_ed25519 **out, struct st_err *e)
{
    uint8_t seed[ST_ED25519_SEED];
    *out = NULL;
    int rc = st_random(seed, sizeof seed, e);
    if (!rc)
        rc = st_ed25519_import(seed, out, e);
    OPENSSL_cleanse(seed, sizeof seed);
    return rc;
}

void st_ed25519_free(struct st_ed25519 *k)
{
    if (k)
        EVP_PKEY_free(k->pkey);
    free(k);
}

void st_ed25519_public(const struct st_ed25519 *k, uint8_t out[ST_ED25519_PUBLIC])
{
    memcpy(out, k->public, ST_ED25519_PUBLIC);
}

int st_ed25519_sign(const struct st_ed25519 *k, const void *msg, size_t len, uint8_t out[ST_ED25519_SIGNATURE],
                    struct st_err *e)
{
    size_t n = ST_ED25519_SIGNATURE;
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    int ok = ctx && EVP_DigestSignInit(ctx, NULL, NULL, NULL, k->pkey) == 1 &&
             EVP_DigestSign(ctx, out, &n, msg, len) == 1 && n == ST_ED25519_SIGNATURE;
    EVP_MD_CTX_free(ctx);
    return ok ? 0 : st_fail(e, ST_INTERNAL, "ed25519: OpenSSL cannot sign");
}
