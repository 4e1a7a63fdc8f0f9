#include "crypto/hkdf.h"
#include "base/buf.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <pthread.h>
#include <string.h>

#define HASH 32

/* HMAC-SHA256, ready for a key. Made once: OpenSSL 3 looks algorithms up by name, which costs more than a short HMAC,
 * and an HPKE message derives ten times. (Its own HKDF looks up two for every step.) Only copies are used. */
static EVP_MAC_CTX *prototype;

static void make_prototype(void)
{
    static const uint8_t key[HASH];
    char digest[] = "SHA256";
    const OSSL_PARAM params[] = {OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
                                 OSSL_PARAM_construct_end()};
    EVP_MAC *mac = EVP_MAC_fetch(NULL, "HMAC", NULL);
    EVP_MAC_CTX *c = mac ? EVP_MAC_CTX_new(mac) : NULL;
    if (c && EVP_MAC_init(c, key, sizeof key, params) == 1)
        prototype = c;
    else
        EVP_MAC_CTX_free(c);
    EVP_MAC_free(mac);
}

/* HMAC(key, a || b || c) */
static bool hmac(struct st_span key, struct st_span a, struct st_span b, struct st_span c, uint8_t out[HASH])
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_prototype);
    EVP_MAC_CTX *m = prototype ? EVP_MAC_CTX_dup(prototype) : NULL;
    size_t len = 0;
    bool ok = m && EVP_MAC_init(m, key.p, key.len, NULL) == 1 && EVP_MAC_update(m, a.p, a.len) == 1 &&
              EVP_MAC_update(m, b.p, b.len) == 1 && EVP_MAC_update(m, c.p, c.len) == 1 &&
              EVP_MAC_final(m, out, &len, HASH) == 1 && len == HASH;
    EVP_MAC_CTX_free(m);
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
