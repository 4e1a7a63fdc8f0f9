#include "crypto/hkdf.h"
#include "base/buf.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <string.h>

enum { HASH = 32, BLOCK = 64 };

/* Looked up once: OpenSSL 3 finds algorithms by name, which costs more than hashing so little, and an HPKE message
 * derives ten times. (Its HMAC costs three times what it hashes; its own HKDF looks up two for every step.) */
static EVP_MD *sha256;

static void look_up(void)
{
    sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
}

static bool hash(EVP_MD_CTX *m, const uint8_t block[BLOCK], const struct st_span *parts, size_t n, uint8_t out[HASH])
{
    bool ok = EVP_DigestInit_ex2(m, sha256, NULL) == 1 && EVP_DigestUpdate(m, block, BLOCK) == 1;
    for (size_t i = 0; ok && i < n; i++)
        ok = EVP_DigestUpdate(m, parts[i].p, parts[i].len) == 1;
    return ok && EVP_DigestFinal_ex(m, out, NULL) == 1;
}

/* HMAC(key, a || b || c), RFC 2104. */
static bool hmac(struct st_span key, struct st_span a, struct st_span b, struct st_span c, uint8_t out[HASH])
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    const struct st_span text[] = {a, b, c};
    uint8_t block[BLOCK] = {0}, inner[HASH];
    pthread_once(&once, look_up);
    EVP_MD_CTX *m = sha256 ? EVP_MD_CTX_new() : NULL;
    bool ok = m != NULL;
    if (key.len <= BLOCK)
        memcpy(block, key.p, key.len);
    else
        ok = ok && EVP_Digest(key.p, key.len, block, NULL, sha256, NULL) == 1;
    for (size_t i = 0; i < BLOCK; i++)
        block[i] ^= 0x36;
    ok = ok && hash(m, block, text, 3, inner);
    for (size_t i = 0; i < BLOCK; i++)
        block[i] ^= 0x36 ^ 0x5c;
    ok = ok && hash(m, block, &(struct st_span){inner, HASH}, 1, out);
    EVP_MD_CTX_free(m); /* overwrites its state */
    OPENSSL_cleanse(block, sizeof block);
    OPENSSL_cleanse(inner, sizeof inner);
    return ok;
}

static int failed(size_t len, struct st_err *e)
{
    return st_fail(e, ST_INTERNAL, "hkdf: OpenSSL cannot derive %zu bytes", len);
}

/* RFC 5869 section 2.2. */
int st_hkdf_extract(const uint8_t *ikm, size_t ikm_len, const uint8_t *salt, size_t salt_len, uint8_t prk[32],
                    struct st_err *e)
{
    static const uint8_t zeros[HASH];
    const struct st_span key = salt_len ? (struct st_span){salt, salt_len} : (struct st_span){zeros, HASH};
    const struct st_span text = {ikm, ikm_len}, none = {zeros, 0};
    return hmac(key, text, none, none, prk) ? 0 : failed(HASH, e);
}

/* Section 2.3. */
int st_hkdf_expand(const uint8_t prk[32], const uint8_t *info, size_t info_len, uint8_t *out, size_t len,
                   struct st_err *e)
{
    uint8_t t[HASH] = {0};
    size_t before = 0; /* bytes of T(n - 1) */
    bool ok = len <= 255 * HASH;
    for (uint8_t i = 1; ok && len; i++) {
        size_t n = len < HASH ? len : HASH;
        ok = hmac((struct st_span){prk, HASH}, (struct st_span){t, before}, (struct st_span){info, info_len},
                  (struct st_span){&i, 1}, t);
        memcpy(out, t, ok ? n : 0);
        out += n;
        len -= n;
        before = HASH;
    }
    OPENSSL_cleanse(t, sizeof t);
    return ok ? 0 : failed(len, e);
}

int st_hkdf_sha256(const uint8_t *ikm, size_t ikm_len, const uint8_t *salt, size_t salt_len, const uint8_t *info,
                   size_t info_len, uint8_t *out, size_t len, struct st_err *e)
{
    uint8_t prk[HASH];
    int rc = st_hkdf_extract(ikm, ikm_len, salt, salt_len, prk, e);
    if (!rc)
        rc = st_hkdf_expand(prk, info, info_len, out, len, e);
    OPENSSL_cleanse(prk, sizeof prk);
    return rc;
}
