#include "attest/tpm_key.h"
#include "crypto/digest.h"

#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/param_build.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <string.h>

#define ALG_RSA 0x0001
#define ALG_NULL 0x0010
#define ALG_RSAES 0x0015
#define ALG_ECDAA 0x001a
#define ALG_ECC 0x0023
#define CURVE_P256 0x0003
#define CURVE_P384 0x0004

const char *st_tpm_hash_name(unsigned alg)
{
    switch (alg) {
    case ST_TPM_SHA1:
        return "SHA1";
    case ST_TPM_SHA256:
        return "SHA256";
    case ST_TPM_SHA384:
        return "SHA384";
    case ST_TPM_SHA512:
        return "SHA512";
    default:
        return NULL;
    }
}

struct st_span st_tpm_bytes(struct st_tpm_reader *r, size_t n)
{
    if (r->failed || n > (size_t)(r->end - r->p)) {
        r->failed = true;
        return (struct st_span){NULL, 0};
    }
    r->p += n;
    return (struct st_span){r->p - n, n};
}

uint64_t st_tpm_number(struct st_tpm_reader *r, size_t n)
{
    struct st_span s = st_tpm_bytes(r, n);
    uint64_t v = 0;
    for (size_t i = 0; i < s.len; i++)
        v = v << 8 | s.p[i];
    return v;
}

struct st_span st_tpm_sized(struct st_tpm_reader *r)
{
    size_t n = (size_t)st_tpm_number(r, 2);
    return st_tpm_bytes(r, n);
}

/* ---- OpenSSL keys ---- */

static int build(const char *type, OSSL_PARAM_BLD *b, EVP_PKEY **out, struct st_err *e)
{
    OSSL_PARAM *params = OSSL_PARAM_BLD_to_param(b);
    EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, type, NULL);
    *out = NULL;
    if (params && ctx && EVP_PKEY_fromdata_init(ctx) == 1 &&
        EVP_PKEY_fromdata(ctx, out, EVP_PKEY_PUBLIC_KEY, params) != 1)
        *out = NULL;
    EVP_PKEY_CTX_free(ctx);
    OSSL_PARAM_free(params);
    ERR_clear_error();
    return *out ? 0 : st_fail(e, ST_INPUT, "public key: no %s key", type);
}

int st_rsa_key(struct st_span n, struct st_span exponent, EVP_PKEY **out, struct st_err *e)
{
    if (n.len < 128 || n.len > 512 || exponent.len == 0 || exponent.len > 8)
        return st_fail(e, ST_INPUT, "public key: want an RSA modulus of 128..512 bytes and an exponent of 1..8");
    OSSL_PARAM_BLD *b = OSSL_PARAM_BLD_new();
    BIGNUM *bn = BN_bin2bn(n.p, (int)n.len, NULL), *be = BN_bin2bn(exponent.p, (int)exponent.len, NULL);
    int rc = st_fail(e, ST_MEMORY, "public key: out of memory");
    if (b && bn && be && OSSL_PARAM_BLD_push_BN(b, OSSL_PKEY_PARAM_RSA_N, bn) == 1 &&
        OSSL_PARAM_BLD_push_BN(b, OSSL_PKEY_PARAM_RSA_E, be) == 1)
        rc = build("RSA", b, out, e);
    OSSL_PARAM_BLD_free(b);
    BN_free(bn);
    BN_free(be);
    return rc;
}

static int ec_key(unsigned curve, struct st_span x, struct st_span y, EVP_PKEY **out, struct st_err *e)
{
    size_t half = curve == CURVE_P256 ? 32 : 48;
    uint8_t point[97] = {4};
    if (curve != CURVE_P256 && curve != CURVE_P384)
        return st_fail(e, ST_UNSUPPORTED, "public key: curve %04x, want P-256 or P-384", curve);
    if (x.len > half || y.len > half)
        return st_fail(e, ST_INPUT, "public key: coordinates longer than %zu bytes", half);
    memcpy(point + 1 + half - x.len, x.p, x.len);
    memcpy(point + 1 + 2 * half - y.len, y.p, y.len);
    OSSL_PARAM_BLD *b = OSSL_PARAM_BLD_new();
    int rc = st_fail(e, ST_MEMORY, "public key: out of memory");
    if (b &&
        OSSL_PARAM_BLD_push_utf8_string(b, OSSL_PKEY_PARAM_GROUP_NAME, half == 32 ? "prime256v1" : "secp384r1", 0) ==
            1 &&
        OSSL_PARAM_BLD_push_octet_string(b, OSSL_PKEY_PARAM_PUB_KEY, point, 1 + 2 * half) == 1)
        rc = build("EC", b, out, e);
    OSSL_PARAM_BLD_free(b);
    return rc;
}

int st_key_digest(EVP_PKEY *key, uint8_t out[32], struct st_err *e)
{
    unsigned char *der = NULL;
    int n = i2d_PUBKEY(key, &der);
    if (n <= 0)
        return st_fail(e, ST_MEMORY, "public key: out of memory");
    st_sha256(der, (size_t)n, out);
    OPENSSL_free(der);
    return 0;
}

/* ---- TPMT_PUBLIC ---- */

/* TPMT_SYM_DEF_OBJECT: an algorithm and, unless that is none, key bits and mode. */
static void skip_symmetric(struct st_tpm_reader *r)
{
    if (st_tpm_number(r, 2) != ALG_NULL)
        st_tpm_bytes(r, 4);
}

/* A scheme and, where it has one, its hash. */
static void skip_scheme(struct st_tpm_reader *r)
{
    uint64_t scheme = st_tpm_number(r, 2);
    if (scheme != ALG_NULL && scheme != ALG_RSAES)
        st_tpm_bytes(r, scheme == ALG_ECDAA ? 4 : 2);
}

static int read_rsa(struct st_tpm_reader *r, EVP_PKEY **out, struct st_err *e)
{
    static const uint8_t f4[] = {1, 0, 1};
    skip_symmetric(r);
    skip_scheme(r);
    uint64_t bits = st_tpm_number(r, 2);
    struct st_span exponent = st_tpm_bytes(r, 4), n = st_tpm_sized(r);
    if (r->failed || r->p != r->end || bits != 8 * n.len)
        return st_fail(e, ST_INPUT, "public key: TPMT_PUBLIC of an RSA key: cut off, too long or with a wrong size");
    if (memcmp(exponent.p, "\0\0\0\0", 4) == 0) /* zero stands for 65537 */
        exponent = (struct st_span){f4, sizeof f4};
    return st_rsa_key(n, exponent, out, e);
}

static int read_ecc(struct st_tpm_reader *r, EVP_PKEY **out, struct st_err *e)
{
    skip_symmetric(r);
    skip_scheme(r);
    unsigned curve = (unsigned)st_tpm_number(r, 2);
    skip_scheme(r); /* of key derivation */
    struct st_span x = st_tpm_sized(r), y = st_tpm_sized(r);
    if (r->failed || r->p != r->end)
        return st_fail(e, ST_INPUT, "public key: TPMT_PUBLIC of an ECC key: cut off or too long");
    return ec_key(curve, x, y, out, e);
}

static int parse_tpmt(const uint8_t *p, size_t len, struct st_tpm_key *out, struct st_err *e)
{
    struct st_tpm_reader r = {p, p + len, false};
    unsigned type = (unsigned)st_tpm_number(&r, 2), hash = (unsigned)st_tpm_number(&r, 2), n = 0;
    out->attributes = (uint32_t)st_tpm_number(&r, 4);
    st_tpm_sized(&r); /* authPolicy */
    if (hash < ST_TPM_SHA256 || hash > ST_TPM_SHA512)
        return st_fail(e, ST_UNSUPPORTED, "public key: name algorithm %04x, want SHA-256, SHA-384 or SHA-512", hash);
    if (type == ALG_RSA ? read_rsa(&r, &out->key, e) : read_ecc(&r, &out->key, e))
        return e->code;
    out->name[0] = (uint8_t)(hash >> 8);
    out->name[1] = (uint8_t)hash;
    if (EVP_Digest(p, len, out->name + 2, &n, EVP_get_digestbyname(st_tpm_hash_name(hash)), NULL) != 1)
        return st_fail(e, ST_INTERNAL, "public key: OpenSSL cannot hash");
    out->name_len = 2 + n;
    out->has_name = true;
    return 0;
}

static EVP_PKEY *parse_spki(const uint8_t *p, size_t len)
{
    EVP_PKEY *key = NULL;
    const uint8_t *at = p;
    if (len > 11 && memmem(p, len, "-----BEGIN ", 11)) {
        BIO *bio = BIO_new_mem_buf(p, (int)len);
        key = bio ? PEM_read_bio_PUBKEY(bio, NULL, NULL, NULL) : NULL;
        BIO_free(bio);
    } else {
        key = d2i_PUBKEY(NULL, &at, (long)len);
        if (key && at != p + len) {
            EVP_PKEY_free(key);
            key = NULL;
        }
    }
    ERR_clear_error();
    return key;
}

int st_tpm_key_parse(const uint8_t *p, size_t len, struct st_tpm_key *out, struct st_err *e)
{
    *out = (struct st_tpm_key){0};
    if (len > 4096)
        return st_fail(e, ST_INPUT, "public key: want at most 4096 bytes, got %zu", len);
    if (len > 4 && ((size_t)p[0] << 8 | p[1]) == len - 2) {
        p += 2;
        len -= 2;
    }
    unsigned type = len >= 2 ? (unsigned)p[0] << 8 | p[1] : 0;
    int rc = 0;
    if (type == ALG_RSA || type == ALG_ECC)
        rc = parse_tpmt(p, len, out, e);
    else if (!(out->key = parse_spki(p, len)))
        rc = st_fail(e, ST_INPUT, "public key: want TPMT_PUBLIC or SubjectPublicKeyInfo of an RSA or ECC key");
    if (rc)
        st_tpm_key_free(out);
    return rc;
}

int st_tpm_key_check_signing(const struct st_tpm_key *k, struct st_err *e)
{
    const uint32_t want =
        ST_TPMA_FIXED_TPM | ST_TPMA_FIXED_PARENT | ST_TPMA_SENSITIVE_DATA_ORIGIN | ST_TPMA_RESTRICTED | ST_TPMA_SIGN;
    if ((k->attributes & want) == want && !(k->attributes & ST_TPMA_DECRYPT))
        return 0;
    return st_fail(e, ST_VERIFY,
                   "%08x; want fixedTPM, fixedParent, sensitiveDataOrigin, restricted and sign, not decrypt",
                   k->attributes);
}

void st_tpm_key_free(struct st_tpm_key *k)
{
    EVP_PKEY_free(k->key);
    *k = (struct st_tpm_key){0};
}
