#include "crypto/aead.h"

#include <limits.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdbool.h>
#include <string.h>

#define PIECE ((size_t)4 << 10)

static bool begin(EVP_CIPHER_CTX *ctx, int seal, const uint8_t *key, const uint8_t *nonce, const void *ad,
                  size_t ad_len)
{
    int n;
    return ctx && EVP_CipherInit_ex(ctx, EVP_aes_256_gcm(), NULL, key, nonce, seal) == 1 &&
           (!ad_len || EVP_CipherUpdate(ctx, NULL, &n, ad, (int)ad_len) == 1);
}

int st_aead_seal(const uint8_t key[32], const uint8_t nonce[12], const void *ad, size_t ad_len, const void *text,
                 size_t len, uint8_t *out, struct st_err *e)
{
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    int n;
    bool ok = len <= INT_MAX && ad_len <= INT_MAX && begin(ctx, 1, key, nonce, ad, ad_len) &&
              (!len || EVP_CipherUpdate(ctx, out, &n, text, (int)len) == 1) &&
              EVP_CipherFinal_ex(ctx, out + len, &n) == 1 &&
              EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, ST_AEAD_TAG_LEN, out + len) == 1;
    EVP_CIPHER_CTX_free(ctx);
    return ok ? 0 : st_fail(e, ST_INTERNAL, "aes-256-gcm: OpenSSL cannot seal %zu bytes", len);
}

/* In pieces that are copied first: OpenSSL reads what it decrypts twice, once for the tag and once for the text, and
 * who can write to the memory meanwhile (a mapped file) would have unchecked text pass for checked. */
static bool open_text(EVP_CIPHER_CTX *ctx, const uint8_t *sealed, size_t len, uint8_t *out)
{
    int n = 0;
    for (size_t at = 0, take; at < len; at += take) {
        take = len - at < PIECE ? len - at : PIECE;
        memmove(out + at, sealed + at, take);
        if (EVP_CipherUpdate(ctx, out + at, &n, out + at, (int)take) != 1)
            return false;
    }
    return true;
}

int st_aead_open(const uint8_t key[32], const uint8_t nonce[12], const void *ad, size_t ad_len, const uint8_t *sealed,
                 size_t len, uint8_t *out, struct st_err *e)
{
    uint8_t none[1], tag[ST_AEAD_TAG_LEN];
    int n;
    if (len < ST_AEAD_TAG_LEN || len - ST_AEAD_TAG_LEN > INT_MAX || ad_len > INT_MAX)
        return st_fail(e, ST_VERIFY, "wrong key, or changed");
    size_t text = len - ST_AEAD_TAG_LEN;
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    bool good = false;
    memcpy(tag, sealed + text, sizeof tag);
    if (begin(ctx, 0, key, nonce, ad, ad_len) && open_text(ctx, sealed, text, out) &&
        EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, ST_AEAD_TAG_LEN, tag) == 1)
        good = EVP_CipherFinal_ex(ctx, none, &n) == 1;
    EVP_CIPHER_CTX_free(ctx);
    if (good)
        return 0;
    OPENSSL_cleanse(out, text);
    return st_fail(e, ST_VERIFY, "wrong key, or changed");
}
