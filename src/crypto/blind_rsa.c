#include "crypto/blind_rsa.h"
#include "base/hooks.h"

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define HASH 48 /* SHA-384 */
#define EXPONENT 65537

struct st_blind_rsa {
    EVP_PKEY *pkey;
    EVP_PKEY_CTX *pss; /* ready to verify; copied for each signature, so that threads may share the key */
    BIGNUM *n;
    size_t len; /* bytes of n */
    bool private;
};

/* ---- keys ---- */

/* A context that verifies PSS signatures over a digest: looking its algorithms up costs as much as verifying. */
static EVP_PKEY_CTX *make_pss(EVP_PKEY *pkey)
{
    EVP_PKEY_CTX *c = EVP_PKEY_CTX_new(pkey, NULL);
    if (c && EVP_PKEY_verify_init(c) == 1 && EVP_PKEY_CTX_set_rsa_padding(c, RSA_PKCS1_PSS_PADDING) == 1 &&
        EVP_PKEY_CTX_set_signature_md(c, EVP_sha384()) == 1 && EVP_PKEY_CTX_set_rsa_mgf1_md(c, EVP_sha384()) == 1 &&
        EVP_PKEY_CTX_set_rsa_pss_saltlen(c, ST_BLIND_RSA_SALT) == 1)
        return c;
    EVP_PKEY_CTX_free(c);
    return NULL;
}

/* Takes pkey over, also when it fails. */
static int adopt(EVP_PKEY *pkey, bool private, struct st_blind_rsa **out, struct st_err *e)
{
    BIGNUM *exponent = NULL;
    EVP_PKEY_CTX *ctx = pkey ? EVP_PKEY_CTX_new(pkey, NULL) : NULL;
    struct st_blind_rsa *k = calloc(1, sizeof *k);
    int rc = 0;
    *out = NULL;
    if (k)
        *k = (struct st_blind_rsa){.pkey = pkey, .private = private};
    if (!k || !ctx) {
        if (!k)
            EVP_PKEY_free(pkey);
        rc = st_fail(e, ST_MEMORY, "blind rsa: out of memory");
        goto out;
    }
    int bits = EVP_PKEY_get_bits(pkey);
    if (EVP_PKEY_get_bn_param(pkey, OSSL_PKEY_PARAM_RSA_N, &k->n) != 1 ||
        EVP_PKEY_get_bn_param(pkey, OSSL_PKEY_PARAM_RSA_E, &exponent) != 1)
        rc = st_fail(e, ST_INPUT, "blind rsa: key: want an RSA key");
    else if ((bits != 2048 && bits != 3072 && bits != 4096) || !BN_is_odd(k->n))
        rc = st_fail(e, ST_INPUT, "blind rsa: key: want an odd modulus of 2048, 3072 or 4096 bits, got %d", bits);
    else if (!BN_is_word(exponent, EXPONENT))
        rc = st_fail(e, ST_INPUT, "blind rsa: key: want the public exponent %d", EXPONENT);
    else if ((private ? EVP_PKEY_pairwise_check(ctx) : EVP_PKEY_public_check_quick(ctx)) != 1)
        rc = st_fail(e, ST_INPUT, "blind rsa: key: its parts do not belong together");
    if (!rc && !(k->pss = make_pss(pkey)))
        rc = st_fail(e, ST_MEMORY, "blind rsa: out of memory");
    if (!rc) {
        k->len = (size_t)bits / 8;
        *out = k;
        k = NULL;
    }
out:
    BN_free(exponent);
    EVP_PKEY_CTX_free(ctx);
    st_blind_rsa_free(k);
    return rc;
}

int st_blind_rsa_new(unsigned bits, struct st_blind_rsa **out, struct st_err *e)
{
    *out = NULL;
    if (bits != 2048 && bits != 3072 && bits != 4096)
        return st_fail(e, ST_USAGE, "blind rsa: want 2048, 3072 or 4096 bits, got %u", bits);
    EVP_PKEY *pkey = EVP_RSA_gen(bits);
    return pkey ? adopt(pkey, true, out, e) : st_fail(e, ST_INTERNAL, "blind rsa: OpenSSL cannot make a key");
}

int st_blind_rsa_parse_public(const uint8_t *der, size_t len, struct st_blind_rsa **out, struct st_err *e)
{
    const uint8_t *p = der;
    *out = NULL;
    EVP_PKEY *pkey = len <= ST_BLIND_RSA_DER_MAX ? d2i_PUBKEY(NULL, &p, (long)len) : NULL;
    if (pkey && p == der + len && EVP_PKEY_get_base_id(pkey) == EVP_PKEY_RSA)
        return adopt(pkey, false, out, e);
    EVP_PKEY_free(pkey);
    return st_fail(e, ST_INPUT, "blind rsa: public key: want the DER form of an RSA SubjectPublicKeyInfo");
}

int st_blind_rsa_parse_private(const uint8_t *der, size_t len, struct st_blind_rsa **out, struct st_err *e)
{
    const uint8_t *p = der;
    EVP_PKEY *pkey = NULL;
    *out = NULL;
    PKCS8_PRIV_KEY_INFO *info = len <= ST_BLIND_RSA_DER_MAX ? d2i_PKCS8_PRIV_KEY_INFO(NULL, &p, (long)len) : NULL;
    if (info && p == der + len)
        pkey = EVP_PKCS82PKEY(info);
    PKCS8_PRIV_KEY_INFO_free(info);
    if (pkey && EVP_PKEY_get_base_id(pkey) == EVP_PKEY_RSA)
        return adopt(pkey, true, out, e);
    EVP_PKEY_free(pkey);
    return st_fail(e, ST_INPUT, "blind rsa: private key: want the DER form of an RSA PKCS#8 key");
}

int st_blind_rsa_write_public(const struct st_blind_rsa *k, uint8_t *out, size_t *len, struct st_err *e)
{
    uint8_t *p = out;
    int n = i2d_PUBKEY(k->pkey, NULL);
    if (n <= 0 || n > ST_BLIND_RSA_DER_MAX || i2d_PUBKEY(k->pkey, &p) != n)
        return st_fail(e, ST_INTERNAL, "blind rsa: OpenSSL cannot write the public key");
    *len = (size_t)n;
    return 0;
}

int st_blind_rsa_write_private(const struct st_blind_rsa *k, uint8_t *out, size_t *len, struct st_err *e)
{
    uint8_t *p = out;
    PKCS8_PRIV_KEY_INFO *info = k->private ? EVP_PKEY2PKCS8(k->pkey) : NULL;
    int n = info ? i2d_PKCS8_PRIV_KEY_INFO(info, NULL) : 0;
    bool ok = n > 0 && n <= ST_BLIND_RSA_DER_MAX && i2d_PKCS8_PRIV_KEY_INFO(info, &p) == n;
    PKCS8_PRIV_KEY_INFO_free(info);
    if (!ok)
        return st_fail(e, ST_USAGE, "blind rsa: the key has no private part");
    *len = (size_t)n;
    return 0;
}

void st_blind_rsa_free(struct st_blind_rsa *k)
{
    if (k) {
        EVP_PKEY_CTX_free(k->pss);
        EVP_PKEY_free(k->pkey);
        BN_free(k->n);
    }
    free(k);
}

size_t st_blind_rsa_len(const struct st_blind_rsa *k)
{
    return k->len;
}

/* ---- EMSA-PSS-ENCODE (RFC 8017 section 9.1.1), SHA-384, MGF1 with SHA-384, salt of 48 bytes ---- */

static bool sha384(const void *a, size_t a_len, const void *b, size_t b_len, const void *c, size_t c_len,
                   uint8_t out[HASH])
{
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    bool ok = ctx && EVP_DigestInit_ex(ctx, EVP_sha384(), NULL) == 1 && EVP_DigestUpdate(ctx, a, a_len) == 1 &&
              EVP_DigestUpdate(ctx, b, b_len) == 1 && EVP_DigestUpdate(ctx, c, c_len) == 1 &&
              EVP_DigestFinal_ex(ctx, out, NULL) == 1;
    EVP_MD_CTX_free(ctx);
    return ok;
}

/* db [len] ^= MGF1(seed). */
static bool mask(const uint8_t seed[HASH], uint8_t *db, size_t len)
{
    uint8_t block[HASH];
    for (size_t at = 0; at < len; at += HASH) {
        uint32_t i = (uint32_t)(at / HASH);
        uint8_t counter[4] = {(uint8_t)(i >> 24), (uint8_t)(i >> 16), (uint8_t)(i >> 8), (uint8_t)i};
        if (!sha384(seed, HASH, counter, sizeof counter, NULL, 0, block))
            return false;
        for (size_t j = 0; j < HASH && at + j < len; j++)
            db[at + j] ^= block[j];
    }
    return true;
}

/* em [len], len = bytes of the modulus: 0..0 1 salt (masked) || H || 0xbc; its top bit is clear, emBits = 8 len - 1. */
static bool pss_encode(const void *msg, size_t msg_len, const uint8_t salt[ST_BLIND_RSA_SALT], uint8_t *em, size_t len)
{
    static const uint8_t zeros[8];
    uint8_t hash[HASH];
    size_t db_len = len - HASH - 1; /* >= 207, so that 1 and the salt fit */
    memset(em, 0, len);
    em[db_len - ST_BLIND_RSA_SALT - 1] = 1;
    memcpy(em + db_len - ST_BLIND_RSA_SALT, salt, ST_BLIND_RSA_SALT);
    if (!sha384(msg, msg_len, NULL, 0, NULL, 0, hash) ||
        !sha384(zeros, sizeof zeros, hash, HASH, salt, ST_BLIND_RSA_SALT, em + db_len) ||
        !mask(em + db_len, em, db_len))
        return false;
    em[0] &= 0x7f;
    em[len - 1] = 0xbc;
    return true;
}

/* ---- the protocol ---- */

int st_blind_rsa_prepare(const void *msg, size_t len, uint8_t *out, struct st_err *e)
{
    memcpy(out + ST_BLIND_RSA_PREFIX, msg, len);
    return st_random(out, ST_BLIND_RSA_PREFIX, e);
}

void st_blind_rsa_state_wipe(struct st_blind_rsa_state *s)
{
    OPENSSL_cleanse(s, sizeof *s);
}

/* Uniform in 1..n-1: n's top bit is set, so at least every second draw is good. */
static int draw(const struct st_blind_rsa *k, uint8_t *out, struct st_err *e)
{
    uint8_t n[ST_BLIND_RSA_MAX];
    static const uint8_t zero[ST_BLIND_RSA_MAX];
    if (BN_bn2binpad(k->n, n, (int)k->len) != (int)k->len)
        return st_fail(e, ST_INTERNAL, "blind rsa: OpenSSL cannot write the modulus");
    for (int i = 0; i < 256; i++) {
        int rc = st_random(out, k->len, e);
        if (rc)
            return rc;
        if (memcmp(out, n, k->len) < 0 && memcmp(out, zero, k->len) != 0)
            return 0;
    }
    return st_fail(e, ST_INTERNAL, "blind rsa: the kernel's random numbers are not random");
}

/* Numbers of one job: the encoded message, the inverse, their product u, and t u_0 .. u_(i-1). */
struct numbers {
    BIGNUM *m, *inverse, *u, *before;
};

static bool read_job(const struct st_blind_rsa *k, const struct st_blind_rsa_job *job,
                     const uint8_t salt[ST_BLIND_RSA_SALT], struct numbers *x, BN_CTX *ctx)
{
    uint8_t em[ST_BLIND_RSA_MAX];
    *x = (struct numbers){BN_new(), BN_secure_new(), BN_secure_new(), BN_secure_new()};
    bool ok = x->m && x->inverse && x->u && x->before && pss_encode(job->prepared, job->len, salt, em, k->len) &&
              BN_bin2bn(em, (int)k->len, x->m) && BN_bin2bn(job->state->inverse, (int)k->len, x->inverse) &&
              BN_mod_mul(x->u, x->m, x->inverse, k->n, ctx);
    OPENSSL_cleanse(em, sizeof em);
    return ok;
}

/* blinded = m r^65537 with r = inverse^-1 = m u^-1; r comes as u^-1. */
static bool write_job(const struct st_blind_rsa *k, const struct st_blind_rsa_job *job, const struct numbers *x,
                      BIGNUM *r, const BIGNUM *exponent, BN_CTX *ctx)
{
    return BN_mod_mul(r, r, x->m, k->n, ctx) && BN_mod_exp(r, r, exponent, k->n, ctx) &&
           BN_mod_mul(r, r, x->m, k->n, ctx) && BN_bn2binpad(r, job->blinded, (int)k->len) == (int)k->len;
}

/* One inversion for all (P. Montgomery): it costs ten times the rest of a job. What is inverted is hidden by a random
 * factor t, so that the time it takes says nothing. A message or an inverse without an inverse of its own, which is a
 * multiple of a factor of the modulus, makes the common one fail. */
static int blind_all(const struct st_blind_rsa *k, const struct st_blind_rsa_job *jobs,
                     const uint8_t (*salts)[ST_BLIND_RSA_SALT], size_t n, struct st_err *e)
{
    struct numbers x[ST_BLIND_RSA_JOBS] = {{0}};
    uint8_t random[ST_BLIND_RSA_MAX];
    BN_CTX *ctx = BN_CTX_secure_new();
    BIGNUM *all = BN_secure_new(), *r = BN_secure_new(), *exponent = BN_new();
    int rc = draw(k, random, e);
    if (rc)
        goto out;
    rc = st_fail(e, ST_INTERNAL, "blind rsa: OpenSSL cannot blind");
    if (!ctx || !all || !r || !exponent || !BN_set_word(exponent, EXPONENT) || !BN_bin2bn(random, (int)k->len, all))
        goto out;
    for (size_t i = 0; i < n; i++)
        if (!read_job(k, &jobs[i], salts[i], &x[i], ctx) || !BN_copy(x[i].before, all) ||
            !BN_mod_mul(all, all, x[i].u, k->n, ctx))
            goto out;
    if (!BN_mod_inverse(all, all, k->n, ctx)) {
        rc = st_fail(e, ST_INPUT, "blind rsa: a blinding factor or a message has no inverse");
        goto out;
    }
    for (size_t i = n; i-- > 0;)
        if (!BN_mod_mul(r, all, x[i].before, k->n, ctx) || !BN_mod_mul(all, all, x[i].u, k->n, ctx) ||
            !write_job(k, &jobs[i], &x[i], r, exponent, ctx))
            goto out;
    rc = 0;
out:
    OPENSSL_cleanse(random, sizeof random);
    for (size_t i = 0; i < n; i++) {
        BN_clear_free(x[i].m);
        BN_clear_free(x[i].inverse);
        BN_clear_free(x[i].u);
        BN_clear_free(x[i].before);
    }
    BN_clear_free(all);
    BN_clear_free(r);
    BN_free(exponent);
    BN_CTX_free(ctx);
    return rc;
}

int st_blind_rsa_blind_from(const struct st_blind_rsa *k, const void *prepared, size_t len,
                            const uint8_t salt[ST_BLIND_RSA_SALT], const struct st_blind_rsa_state *state,
                            uint8_t *blinded, struct st_err *e)
{
    struct st_blind_rsa_state own = *state;
    uint8_t n[ST_BLIND_RSA_MAX], salts[1][ST_BLIND_RSA_SALT];
    const struct st_blind_rsa_job job = {prepared, len, blinded, &own};
    memcpy(salts[0], salt, ST_BLIND_RSA_SALT);
    int rc = st_fail(e, ST_INPUT, "blind rsa: the blinding factor is not below the modulus");
    if (BN_bn2binpad(k->n, n, (int)k->len) == (int)k->len && memcmp(own.inverse, n, k->len) < 0)
        rc = blind_all(k, &job, salts, 1, e);
    st_blind_rsa_state_wipe(&own);
    return rc;
}

int st_blind_rsa_blind_many(const struct st_blind_rsa *k, const struct st_blind_rsa_job *jobs, size_t n,
                            struct st_err *e)
{
    uint8_t salts[ST_BLIND_RSA_JOBS][ST_BLIND_RSA_SALT];
    if (n > ST_BLIND_RSA_JOBS)
        return st_fail(e, ST_USAGE, "blind rsa: want at most %d messages", ST_BLIND_RSA_JOBS);
    int rc = st_random(salts, sizeof salts, e);
    for (size_t i = 0; !rc && i < n; i++) {
        *jobs[i].state = (struct st_blind_rsa_state){{0}};
        rc = draw(k, jobs[i].state->inverse, e);
    }
    if (!rc)
        rc = blind_all(k, jobs, salts, n, e);
    OPENSSL_cleanse(salts, sizeof salts);
    return rc;
}

int st_blind_rsa_blind(const struct st_blind_rsa *k, const void *prepared, size_t len, uint8_t *blinded,
                       struct st_blind_rsa_state *state, struct st_err *e)
{
    const struct st_blind_rsa_job job = {prepared, len, blinded, state};
    return st_blind_rsa_blind_many(k, &job, 1, e);
}

bool st_blind_rsa_fits(const struct st_blind_rsa *k, const uint8_t *blinded, size_t len)
{
    uint8_t n[ST_BLIND_RSA_MAX];
    return len == k->len && BN_bn2binpad(k->n, n, (int)k->len) == (int)k->len && memcmp(blinded, n, len) < 0;
}

int st_blind_rsa_sign(const struct st_blind_rsa *k, const uint8_t *blinded, size_t len, uint8_t *out, struct st_err *e)
{
    uint8_t check[ST_BLIND_RSA_MAX];
    size_t n = k->len, check_len = k->len;
    if (!k->private)
        return st_fail(e, ST_USAGE, "blind rsa: the key has no private part");
    if (len != k->len)
        return st_fail(e, ST_INPUT, "blind rsa: blinded message: want %zu bytes, got %zu", k->len, len);
    EVP_PKEY_CTX *own = EVP_PKEY_CTX_new(k->pkey, NULL), *public = EVP_PKEY_CTX_new(k->pkey, NULL);
    /* Without padding, OpenSSL's decryption is RSASP1: it refuses values of the modulus and above. */
    int rc = st_fail(e, ST_INPUT, "blind rsa: blinded message: want a value below the modulus");
    if (own && public && EVP_PKEY_decrypt_init(own) == 1 && EVP_PKEY_CTX_set_rsa_padding(own, RSA_NO_PADDING) == 1 &&
        EVP_PKEY_decrypt(own, out, &n, blinded, len) == 1) {
        /* A fault in the CRT would give away a factor (section 4.3, step 4). */
        if (n == k->len && EVP_PKEY_encrypt_init(public) == 1 &&
            EVP_PKEY_CTX_set_rsa_padding(public, RSA_NO_PADDING) == 1 &&
            EVP_PKEY_encrypt(public, check, &check_len, out, n) == 1 && check_len == len &&
            CRYPTO_memcmp(check, blinded, len) == 0)
            rc = 0;
        else
            rc = st_fail(e, ST_INTERNAL, "blind rsa: the private operation went wrong");
    }
    if (rc)
        OPENSSL_cleanse(out, k->len);
    EVP_PKEY_CTX_free(own);
    EVP_PKEY_CTX_free(public);
    return rc;
}

int st_blind_rsa_finalize(const struct st_blind_rsa *k, const void *prepared, size_t prepared_len,
                          const struct st_blind_rsa_state *state, const uint8_t *answer, size_t len, uint8_t *signature,
                          struct st_err *e)
{
    if (len != k->len)
        return st_fail(e, ST_VERIFY, "blind rsa: answer: want %zu bytes, got %zu", k->len, len);
    BN_CTX *ctx = BN_CTX_secure_new();
    BIGNUM *z = BN_bin2bn(answer, (int)len, NULL), *inverse = BN_secure_new();
    int rc = st_fail(e, ST_INTERNAL, "blind rsa: OpenSSL cannot unblind");
    if (ctx && z && inverse && BN_bin2bn(state->inverse, (int)k->len, inverse) &&
        BN_mod_mul(z, z, inverse, k->n, ctx) && BN_bn2binpad(z, signature, (int)k->len) == (int)k->len)
        rc = st_blind_rsa_verify(k, prepared, prepared_len, signature, k->len, e);
    if (rc)
        OPENSSL_cleanse(signature, k->len);
    BN_clear_free(z);
    BN_clear_free(inverse);
    BN_CTX_free(ctx);
    return rc;
}

int st_blind_rsa_verify(const struct st_blind_rsa *k, const void *prepared, size_t prepared_len,
                        const uint8_t *signature, size_t len, struct st_err *e)
{
    uint8_t digest[HASH];
    EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_dup(k->pss);
    int rc = st_fail(e, ST_VERIFY, "blind rsa: the signature is not this key's");
    if (ctx && len == k->len && EVP_Digest(prepared, prepared_len, digest, NULL, EVP_sha384(), NULL) == 1 &&
        EVP_PKEY_verify(ctx, signature, len, digest, sizeof digest) == 1)
        rc = 0;
    EVP_PKEY_CTX_free(ctx);
    return rc;
}
