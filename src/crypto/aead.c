#include "crypto/aead.h"

#include <limits.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdbool.h>
#include <string.h>

/* Of whole runs of OpenSSL's loop, which takes six blocks at a time and leaves the rest to a slow one, and as much as
 * the nearest cache holds: with 4 KiB, where every piece ends in such a rest and the next page is fetched only when the
 * cipher is done with this one, a fifth of the speed is lost. */
#define PIECE ((size_t)336 * 6 * 16)

static bool begin(EVP_CIPHER_CTX *ctx, int seal, const uint8_t *key, const uint8_t *nonce, const void *ad,
                  size_t ad_len)
{
    int n;
    return EVP_CipherInit_ex(ctx, NULL, NULL, key, nonce, seal) == 1 &&
           (!ad_len || EVP_CipherUpdate(ctx, NULL, &n, ad, (int)ad_len) == 1);
}

/* The cipher is looked up here: once for a context, which takes locks and memory. */
static EVP_CIPHER_CTX *make(void)
{
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    if (ctx && EVP_CipherInit_ex(ctx, EVP_aes_256_gcm(), NULL, NULL, NULL, 0) == 1)
        return ctx;
    EVP_CIPHER_CTX_free(ctx);
    return NULL;
}

int st_aead_seal(const uint8_t key[32], const uint8_t nonce[12], const void *ad, size_t ad_len, const void *text,
                 size_t len, uint8_t *out, struct st_err *e)
{
    EVP_CIPHER_CTX *ctx = make();
    int n;
    bool ok = ctx && len <= INT_MAX && ad_len <= INT_MAX && begin(ctx, 1, key, nonce, ad, ad_len) &&
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

int st_aead_reader_new(struct st_aead_reader *r, struct st_err *e)
{
    r->ctx = make();
    return r->ctx ? 0 : st_fail(e, ST_MEMORY, "aes-256-gcm: no memory for OpenSSL");
}

void st_aead_reader_free(struct st_aead_reader *r)
{
    EVP_CIPHER_CTX_free(r->ctx);
    r->ctx = NULL;
}

int st_aead_read(struct st_aead_reader *r, const uint8_t key[32], const uint8_t nonce[12], const void *ad,
                 size_t ad_len, const uint8_t *sealed, size_t len, uint8_t *out, struct st_err *e)
{
    static const uint8_t no_key[ST_AEAD_KEY_LEN];
    uint8_t none[1], tag[ST_AEAD_TAG_LEN];
    int n;
    if (len < ST_AEAD_TAG_LEN || len - ST_AEAD_TAG_LEN > INT_MAX || ad_len > INT_MAX)
        return st_fail(e, ST_VERIFY, "wrong key, or changed");
    size_t text = len - ST_AEAD_TAG_LEN;
    bool good = false;
    memcpy(tag, sealed + text, sizeof tag);
    if (begin(r->ctx, 0, key, nonce, ad, ad_len) && open_text(r->ctx, sealed, text, out) &&
        EVP_CIPHER_CTX_ctrl(r->ctx, EVP_CTRL_AEAD_SET_TAG, ST_AEAD_TAG_LEN, tag) == 1)
        good = EVP_CipherFinal_ex(r->ctx, none, &n) == 1;
    /* Another key over the one that was expanded there: OpenSSL's memory is not locked, and the context stays. */
    bool forgotten = EVP_CipherInit_ex(r->ctx, NULL, NULL, no_key, no_key, 0) == 1;
    if (good && forgotten)
        return 0;
    OPENSSL_cleanse(out, text);
    return good ? st_fail(e, ST_INTERNAL, "aes-256-gcm: OpenSSL keeps a key")
                : st_fail(e, ST_VERIFY, "wrong key, or changed");
}

int st_aead_open(const uint8_t key[32], const uint8_t nonce[12], const void *ad, size_t ad_len, const uint8_t *sealed,
                 size_t len, uint8_t *out, struct st_err *e)
{
    struct st_aead_reader r;
    if (st_aead_reader_new(&r, e))
        return e->code;
    int rc = st_aead_read(&r, key, nonce, ad, ad_len, sealed, len, out, e);
    st_aead_reader_free(&r);
    return rc;
}
