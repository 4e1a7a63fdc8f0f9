#include "attest/tpm_credential.h"

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <openssl/rsa.h>
#include <string.h>

#define SEED 32

/* KDFa(SHA-256, seed, label, context, "", bits), one block: HMAC(1 || label || 0 || context || bits). */
static bool kdf_a(const uint8_t seed[SEED], const char *label, const uint8_t *context, size_t len, unsigned bits,
                  uint8_t out[32])
{
    uint8_t in[128] = {0, 0, 0, 1};
    size_t n = 4 + strlen(label) + 1;
    memcpy(in + 4, label, strlen(label));
    if (len)
        memcpy(in + n, context, len);
    n += len;
    const uint8_t end[4] = {0, 0, (uint8_t)(bits >> 8), (uint8_t)bits};
    memcpy(in + n, end, sizeof end);
    return HMAC(EVP_sha256(), seed, SEED, in, n + sizeof end, out, NULL) != NULL;
}

static bool encrypt_seed(EVP_PKEY *ek, const uint8_t seed[SEED], struct st_tpm_credential *out)
{
    static const char label[] = "IDENTITY"; /* with its zero */
    EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new(ek, NULL);
    void *copy = OPENSSL_memdup(label, sizeof label);
    out->seed_len = sizeof out->seed;
    bool ok = ctx && copy && EVP_PKEY_encrypt_init(ctx) == 1 &&
              EVP_PKEY_CTX_set_rsa_padding(ctx, RSA_PKCS1_OAEP_PADDING) == 1 &&
              EVP_PKEY_CTX_set_rsa_oaep_md(ctx, EVP_sha256()) == 1 &&
              EVP_PKEY_CTX_set_rsa_mgf1_md(ctx, EVP_sha256()) == 1;
    if (ok && EVP_PKEY_CTX_set0_rsa_oaep_label(ctx, copy, sizeof label) == 1) {
        copy = NULL; /* the context's now */
        ok = EVP_PKEY_encrypt(ctx, out->seed, &out->seed_len, seed, SEED) == 1;
    } else
        ok = false;
    OPENSSL_free(copy);
    EVP_PKEY_CTX_free(ctx);
    ERR_clear_error();
    return ok;
}

static bool encrypt_identity(const uint8_t key[16], const uint8_t *secret, uint8_t *out)
{
    static const uint8_t iv[16];
    uint8_t in[2 + ST_TPM_CREDENTIAL_SECRET] = {0, ST_TPM_CREDENTIAL_SECRET};
    int n = 0;
    memcpy(in + 2, secret, ST_TPM_CREDENTIAL_SECRET);
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    bool ok = ctx && EVP_EncryptInit_ex(ctx, EVP_aes_128_cfb128(), NULL, key, iv) == 1 &&
              EVP_EncryptUpdate(ctx, out, &n, in, sizeof in) == 1 && n == (int)sizeof in;
    EVP_CIPHER_CTX_free(ctx);
    OPENSSL_cleanse(in, sizeof in);
    return ok;
}

int st_tpm_credential_make(EVP_PKEY *ek, const struct st_tpm_key *ak, const uint8_t secret[ST_TPM_CREDENTIAL_SECRET],
                           struct st_tpm_credential *out, struct st_err *e)
{
    uint8_t seed[SEED], key[32], mac_key[32], covered[2 + ST_TPM_CREDENTIAL_SECRET + sizeof ak->name];
    uint8_t *identity = out->blob + 2 + 32;
    size_t n = 2 + ST_TPM_CREDENTIAL_SECRET;
    if (!ak->has_name)
        return st_fail(e, ST_INPUT, "credential: want the attestation key as TPMT_PUBLIC, which has a name");
    if (EVP_PKEY_get_base_id(ek) != EVP_PKEY_RSA || EVP_PKEY_get_bits(ek) < 2048 || EVP_PKEY_get_bits(ek) > 4096)
        return st_fail(e, ST_INPUT, "credential: want an RSA endorsement key of 2048 to 4096 bits");
    bool ok = RAND_bytes(seed, sizeof seed) == 1 && encrypt_seed(ek, seed, out) &&
              kdf_a(seed, "STORAGE", ak->name, ak->name_len, 128, key) && encrypt_identity(key, secret, identity) &&
              kdf_a(seed, "INTEGRITY", NULL, 0, 256, mac_key);
    if (ok) {
        memcpy(covered, identity, n);
        memcpy(covered + n, ak->name, ak->name_len);
        out->blob[0] = 0;
        out->blob[1] = 32;
        ok = HMAC(EVP_sha256(), mac_key, 32, covered, n + ak->name_len, out->blob + 2, NULL) != NULL;
    }
    OPENSSL_cleanse(seed, sizeof seed);
    OPENSSL_cleanse(key, sizeof key);
    OPENSSL_cleanse(mac_key, sizeof mac_key);
    return ok ? 0 : st_fail(e, ST_INTERNAL, "credential: OpenSSL cannot encrypt it");
}
