#include "attest/tpm_protect.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <openssl/rsa.h>
#include <string.h>

#define SEED 32
#define HALF 32 /* bytes of a coordinate of P-256 */

/* With their zeros, which belong to them. */
static const struct {
    char text[10];
    size_t len;
} labels[] = {[ST_TPM_CREDENTIAL] = {"IDENTITY", 9}, [ST_TPM_DUPLICATE] = {"DUPLICATE", 10}};

/* KDFa(SHA-256, seed, label, context, "", bits), one block: HMAC(1 || label || 0 || context || bits). */
static bool kdf_a(const uint8_t seed[SEED], const char *label, struct st_span context, unsigned bits, uint8_t out[32])
{
    uint8_t in[128] = {0, 0, 0, 1};
    size_t n = 4 + strlen(label) + 1;
    memcpy(in + 4, label, strlen(label));
    if (context.len)
        memcpy(in + n, context.p, context.len);
    n += context.len;
    const uint8_t end[4] = {0, 0, (uint8_t)(bits >> 8), (uint8_t)bits};
    memcpy(in + n, end, sizeof end);
    return HMAC(EVP_sha256(), seed, SEED, in, n + sizeof end, out, NULL) != NULL;
}

/* KDFe(SHA-256, Z, label, x of ours, x of theirs, 256), one block. */
static bool kdf_e(const uint8_t z[HALF], enum st_tpm_protect_as as, const uint8_t *ours, const uint8_t *theirs,
                  uint8_t seed[SEED])
{
    uint8_t in[4 + 3 * HALF + sizeof labels->text] = {0, 0, 0, 1}, *p = in + 4;
    memcpy(p, z, HALF);
    memcpy(p += HALF, labels[as].text, labels[as].len);
    memcpy(p += labels[as].len, ours, HALF);
    memcpy(p += HALF, theirs, HALF);
    bool ok = EVP_Digest(in, (size_t)(p - in) + HALF, seed, NULL, EVP_sha256(), NULL) == 1;
    OPENSSL_cleanse(in, sizeof in);
    return ok;
}

static bool seed_to_rsa(EVP_PKEY *to, enum st_tpm_protect_as as, uint8_t seed[SEED], struct st_tpm_protected *out)
{
    EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new(to, NULL);
    void *copy = OPENSSL_memdup(labels[as].text, labels[as].len);
    out->seed_len = sizeof out->seed;
    bool ok = ctx && copy && RAND_bytes(seed, SEED) == 1 && EVP_PKEY_encrypt_init(ctx) == 1 &&
              EVP_PKEY_CTX_set_rsa_padding(ctx, RSA_PKCS1_OAEP_PADDING) == 1 &&
              EVP_PKEY_CTX_set_rsa_oaep_md(ctx, EVP_sha256()) == 1 &&
              EVP_PKEY_CTX_set_rsa_mgf1_md(ctx, EVP_sha256()) == 1;
    if (ok && EVP_PKEY_CTX_set0_rsa_oaep_label(ctx, copy, (int)labels[as].len) == 1) {
        copy = NULL; /* the context's now */
        ok = EVP_PKEY_encrypt(ctx, out->seed, &out->seed_len, seed, SEED) == 1;
    } else
        ok = false;
    OPENSSL_free(copy);
    EVP_PKEY_CTX_free(ctx);
    return ok;
}

/* 4 | x | y */
static bool point_of(EVP_PKEY *key, uint8_t point[1 + 2 * HALF])
{
    size_t n = 0;
    return EVP_PKEY_get_octet_string_param(key, OSSL_PKEY_PARAM_ENCODED_PUBLIC_KEY, point, 1 + 2 * HALF, &n) == 1 &&
           n == 1 + 2 * HALF && point[0] == 4;
}

/* The seed is agreed on with a key of the moment, whose point is what is sent (TPMS_ECC_POINT). */
static bool seed_to_ecc(EVP_PKEY *to, enum st_tpm_protect_as as, uint8_t seed[SEED], struct st_tpm_protected *out)
{
    uint8_t ours[1 + 2 * HALF], theirs[1 + 2 * HALF], z[HALF];
    size_t n = sizeof z;
    EVP_PKEY *moment = EVP_EC_gen("P-256");
    EVP_PKEY_CTX *ctx = moment ? EVP_PKEY_CTX_new(moment, NULL) : NULL;
    bool ok = ctx && point_of(to, theirs) && point_of(moment, ours) && EVP_PKEY_derive_init(ctx) == 1 &&
              EVP_PKEY_derive_set_peer(ctx, to) == 1 && EVP_PKEY_derive(ctx, z, &n) == 1 && n == sizeof z &&
              kdf_e(z, as, ours + 1, theirs + 1, seed);
    if (ok) {
        const uint8_t size[2] = {0, HALF};
        for (int i = 0; i < 2; i++) {
            memcpy(out->seed + i * (2 + HALF), size, 2);
            memcpy(out->seed + i * (2 + HALF) + 2, ours + 1 + i * HALF, HALF);
        }
        out->seed_len = 2 * (2 + HALF);
    }
    OPENSSL_cleanse(z, sizeof z);
    EVP_PKEY_CTX_free(ctx);
    EVP_PKEY_free(moment);
    return ok;
}

static bool encrypt(const uint8_t key[16], struct st_span text, uint8_t *out)
{
    static const uint8_t iv[16];
    int n = 0;
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    bool ok = ctx && EVP_EncryptInit_ex(ctx, EVP_aes_128_cfb128(), NULL, key, iv) == 1 &&
              EVP_EncryptUpdate(ctx, out, &n, text.p, (int)text.len) == 1 && n == (int)text.len;
    EVP_CIPHER_CTX_free(ctx);
    return ok;
}

static bool is_p256(EVP_PKEY *key)
{
    char group[16] = "";
    return EVP_PKEY_get_base_id(key) == EVP_PKEY_EC &&
           EVP_PKEY_get_utf8_string_param(key, OSSL_PKEY_PARAM_GROUP_NAME, group, sizeof group, NULL) == 1 &&
           strcmp(group, "prime256v1") == 0;
}

int st_tpm_protect(EVP_PKEY *to, enum st_tpm_protect_as as, struct st_span name, struct st_span text,
                   struct st_tpm_protected *out, struct st_err *e)
{
    uint8_t seed[SEED], key[32], mac_key[32], covered[ST_TPM_PROTECT_MAX + 66];
    uint8_t *secret = out->blob + ST_TPM_PROTECT_MORE;
    const bool rsa = EVP_PKEY_get_base_id(to) == EVP_PKEY_RSA;
    if (rsa ? EVP_PKEY_get_bits(to) < 2048 || EVP_PKEY_get_bits(to) > 4096 : !is_p256(to))
        return st_fail(e, ST_INPUT, "key of a TPM: want RSA of 2048 to 4096 bits, or ECC on P-256");
    if (text.len > ST_TPM_PROTECT_MAX || name.len > 66)
        return st_fail(e, ST_INTERNAL, "key of a TPM: cannot encrypt %zu bytes to it", text.len);
    bool ok = (rsa ? seed_to_rsa : seed_to_ecc)(to, as, seed, out) && kdf_a(seed, "STORAGE", name, 128, key) &&
              encrypt(key, text, secret) && kdf_a(seed, "INTEGRITY", (struct st_span){NULL, 0}, 256, mac_key);
    if (ok) {
        memcpy(covered, secret, text.len);
        memcpy(covered + text.len, name.p, name.len);
        out->blob[0] = 0;
        out->blob[1] = 32;
        out->blob_len = ST_TPM_PROTECT_MORE + text.len;
        ok = HMAC(EVP_sha256(), mac_key, 32, covered, text.len + name.len, out->blob + 2, NULL) != NULL;
    }
    OPENSSL_cleanse(seed, sizeof seed);
    OPENSSL_cleanse(key, sizeof key);
    OPENSSL_cleanse(mac_key, sizeof mac_key);
    ERR_clear_error();
    return ok ? 0 : st_fail(e, ST_INTERNAL, "key of a TPM: OpenSSL cannot encrypt to it");
}
