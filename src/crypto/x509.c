#include "crypto/x509.h"

#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define MAX_BYTES ((size_t)1 << 20)

/* ---- sets ---- */

static bool is_pem(const uint8_t *p, size_t len)
{
    return memmem(p, len, "-----BEGIN ", 11) != NULL;
}

static bool is_padding(const uint8_t *p, size_t len)
{
    if (p[0] != 0 && p[0] != 0xff)
        return false;
    return len == 1 || memcmp(p, p + 1, len - 1) == 0;
}

/* What the two kinds of sets differ in. */
struct kind {
    const char *what, *pem_name;
    void *(*decode)(const uint8_t **p, long len);
    void (*free)(void *);
};
static void *decode_cert(const uint8_t **p, long len)
{
    return d2i_X509(NULL, p, len);
}
static void free_cert(void *x)
{
    X509_free(x);
}
static void *decode_crl(const uint8_t **p, long len)
{
    return d2i_X509_CRL(NULL, p, len);
}
static void free_crl(void *x)
{
    X509_CRL_free(x);
}
static const struct kind certs = {"certificate", PEM_STRING_X509, decode_cert, free_cert};
static const struct kind crls = {"revocation list", PEM_STRING_X509_CRL, decode_crl, free_crl};

static int add_one(const struct kind *k, const uint8_t **p, size_t len, void **set, size_t *n, const char *where,
                   struct st_err *e)
{
    if (*n == ST_X509_MAX)
        return st_fail(e, ST_INPUT, "%s: more than %d %ss", where, ST_X509_MAX, k->what);
    void *x = k->decode(p, (long)len);
    ERR_clear_error();
    if (!x)
        return st_fail(e, ST_INPUT, "%s: %s %zu cannot be read", where, k->what, *n + 1);
    set[(*n)++] = x;
    return 0;
}

static int add_pem(const struct kind *k, const uint8_t *p, size_t len, void **set, size_t *n, const char *where,
                   struct st_err *e)
{
    size_t before = *n;
    int rc = 0;
    BIO *bio = BIO_new_mem_buf(p, (int)len);
    if (!bio)
        return st_fail(e, ST_MEMORY, "%s: out of memory", where);
    for (;;) {
        char *name = NULL, *header = NULL;
        unsigned char *data = NULL;
        long data_len = 0;
        if (PEM_read_bio(bio, &name, &header, &data, &data_len) != 1) {
            bool end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
            ERR_clear_error();
            if (!end)
                rc = st_fail(e, ST_INPUT, "%s: damaged PEM text", where);
            break;
        }
        const uint8_t *at = data;
        if (strcmp(name, k->pem_name) == 0) {
            rc = add_one(k, &at, (size_t)data_len, set, n, where, e);
            if (!rc && at != data + data_len)
                rc = st_fail(e, ST_INPUT, "%s: bytes behind a %s", where, k->what);
        }
        OPENSSL_free(name);
        OPENSSL_free(header);
        OPENSSL_free(data);
        if (rc)
            break;
    }
    BIO_free(bio);
    if (!rc && *n == before)
        rc = st_fail(e, ST_INPUT, "%s: holds no %s", where, k->what);
    return rc;
}

static int add_all(const struct kind *k, const uint8_t *p, size_t len, void **set, size_t *n, const char *where,
                   struct st_err *e)
{
    if (len == 0 || len > MAX_BYTES)
        return st_fail(e, ST_INPUT, "%s: want 1..%zu bytes of %ss, got %zu", where, MAX_BYTES, k->what, len);
    if (is_pem(p, len))
        return add_pem(k, p, len, set, n, where, e);
    const uint8_t *at = p, *end = p + len;
    while (at < end && (at == p || !is_padding(at, (size_t)(end - at))))
        if (add_one(k, &at, (size_t)(end - at), set, n, where, e))
            return e->code;
    return 0;
}

int st_certs_add(struct st_certs *c, const void *p, size_t len, const char *where, struct st_err *e)
{
    return add_all(&certs, p, len, (void **)c->p, &c->n, where, e);
}

int st_certs_share(struct st_certs *c, const struct st_certs *from, const char *where, struct st_err *e)
{
    if (from->n > ST_X509_MAX - c->n)
        return st_fail(e, ST_INPUT, "%s: more than %d certificates", where, ST_X509_MAX);
    for (size_t i = 0; i < from->n; i++) {
        if (X509_up_ref(from->p[i]) != 1)
            return st_fail(e, ST_INTERNAL, "%s: cannot be shared", where);
        c->p[c->n++] = from->p[i];
    }
    return 0;
}

void st_certs_free(struct st_certs *c)
{
    for (size_t i = 0; i < c->n; i++)
        X509_free(c->p[i]);
    c->n = 0;
}

int st_crls_add(struct st_crls *c, const void *p, size_t len, const char *where, struct st_err *e)
{
    return add_all(&crls, p, len, (void **)c->p, &c->n, where, e);
}

void st_crls_free(struct st_crls *c)
{
    for (size_t i = 0; i < c->n; i++)
        X509_CRL_free(c->p[i]);
    c->n = 0;
}

bool st_crls_by(const struct st_crls *c, const X509_NAME *issuer)
{
    for (size_t i = 0; i < c->n; i++)
        if (X509_NAME_cmp(X509_CRL_get_issuer(c->p[i]), issuer) == 0)
            return true;
    return false;
}

static bool issued_another(const struct st_certs *c, const X509 *x)
{
    for (size_t k = 0; k < c->n; k++)
        if (X509_cmp(x, c->p[k]) != 0 && X509_NAME_cmp(X509_get_subject_name(x), X509_get_issuer_name(c->p[k])) == 0)
            return true;
    return false;
}

X509 *st_certs_leaf(const struct st_certs *c)
{
    X509 *leaf = NULL, *plain = NULL; /* plain: no CA */
    bool several = false, several_plain = false;
    for (size_t i = 0; i < c->n; i++) {
        X509 *x = c->p[i];
        if (issued_another(c, x) || (leaf && X509_cmp(leaf, x) == 0) || (plain && X509_cmp(plain, x) == 0))
            continue;
        several = several || leaf;
        leaf = x;
        if (X509_get_extension_flags(x) & EXFLAG_CA)
            continue;
        several_plain = several_plain || plain;
        plain = x;
    }
    if (!several)
        return leaf;
    return several_plain ? NULL : plain;
}

/* ---- chains ---- */

void st_x509_name(const X509 *x, char *out, size_t cap)
{
    BIO *bio = BIO_new(BIO_s_mem());
    out[0] = 0;
    if (bio && X509_NAME_print_ex(bio, X509_get_subject_name(x), 0, XN_FLAG_ONELINE & ~XN_FLAG_SPC_EQ) > 0) {
        int n = BIO_read(bio, out, (int)cap - 1);
        out[n > 0 ? n : 0] = 0;
    }
    BIO_free(bio);
    for (char *c = out; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = '?';
}

/* A list that is missing is no error where none is demanded; one that is there must be good. */
static int allow_missing(int ok, X509_STORE_CTX *ctx)
{
    if (ok || X509_STORE_CTX_get_error(ctx) != X509_V_ERR_UNABLE_TO_GET_CRL)
        return ok;
    const struct st_x509_verify *v = X509_STORE_CTX_get_app_data(ctx);
    if (v->need_crl && !(v->leaf_unlisted && X509_STORE_CTX_get_error_depth(ctx) == 0))
        return 0;
    X509_STORE_CTX_set_error(ctx, X509_V_OK);
    return 1;
}

/* Behind OpenSSL's own rules: the end of the chain is one of the roots, byte for byte, and every issuer between says
 * that it is a CA. */
static int check_chain(const struct st_x509_verify *v, X509_STORE_CTX *ctx, struct st_err *e)
{
    STACK_OF(X509) *chain = X509_STORE_CTX_get0_chain(ctx);
    int n = sk_X509_num(chain);
    X509 *last = sk_X509_value(chain, n - 1);
    bool pinned = false;
    for (size_t i = 0; i < v->roots->n; i++)
        pinned = pinned || (last && X509_cmp(last, v->roots->p[i]) == 0);
    if (!pinned)
        return st_fail(e, ST_VERIFY, "certificates: the chain ends in no pinned root");
    for (int i = 1; i + 1 < n; i++)
        if (!(X509_get_extension_flags(sk_X509_value(chain, i)) & EXFLAG_CA))
            return st_fail(e, ST_VERIFY, "certificates: an issuer is not a CA");
    return 0;
}

static int explain(X509_STORE_CTX *ctx, struct st_err *e)
{
    char name[160] = "?";
    X509 *x = X509_STORE_CTX_get_current_cert(ctx);
    if (x)
        st_x509_name(x, name, sizeof name);
    return st_fail(e, ST_VERIFY, "certificate %s: %s", name,
                   X509_verify_cert_error_string(X509_STORE_CTX_get_error(ctx)));
}

static bool fill(const struct st_x509_verify *v, X509_STORE *store, STACK_OF(X509) * untrusted)
{
    bool ok = true;
    for (size_t i = 0; i < v->roots->n; i++)
        ok = ok && X509_STORE_add_cert(store, v->roots->p[i]) == 1;
    for (size_t i = 0; v->crls && i < v->crls->n; i++)
        ok = ok && X509_STORE_add_crl(store, v->crls->p[i]) == 1;
    for (size_t i = 0; v->chain && i < v->chain->n; i++)
        ok = ok && sk_X509_push(untrusted, v->chain->p[i]) > 0;
    return ok;
}

void st_x509_limit(int64_t *until, int64_t t)
{
    if (until && (*until == 0 || t < *until))
        *until = t;
}

static void limit_asn1(int64_t *until, const ASN1_TIME *t)
{
    struct tm tm;
    if (t && ASN1_TIME_to_tm(t, &tm) == 1)
        st_x509_limit(until, timegm(&tm));
}

/* The dates of the chain that was found, and of every list by one of its issuers: OpenSSL may have used any of them
 * that is still valid. */
static void limit(const struct st_x509_verify *v, X509_STORE_CTX *ctx)
{
    STACK_OF(X509) *chain = X509_STORE_CTX_get0_chain(ctx);
    for (int i = 0; i < sk_X509_num(chain); i++) {
        const X509 *x = sk_X509_value(chain, i);
        limit_asn1(v->until, X509_get0_notAfter(x));
        for (size_t k = 0; v->crls && k < v->crls->n; k++) {
            const ASN1_TIME *next = X509_CRL_get0_nextUpdate(v->crls->p[k]);
            time_t now = (time_t)v->time;
            if (next && X509_cmp_time(next, &now) > 0 &&
                X509_NAME_cmp(X509_CRL_get_issuer(v->crls->p[k]), X509_get_issuer_name(x)) == 0)
                limit_asn1(v->until, next);
        }
    }
}

int st_x509_verify(const struct st_x509_verify *v, struct st_err *e)
{
    int rc = st_fail(e, ST_MEMORY, "certificates: out of memory");
    X509_STORE *store = X509_STORE_new();
    X509_STORE_CTX *ctx = X509_STORE_CTX_new();
    STACK_OF(X509) *untrusted = sk_X509_new_null();
    if (!store || !ctx || !untrusted || !fill(v, store, untrusted) ||
        X509_STORE_CTX_init(ctx, store, v->leaf, untrusted) != 1)
        goto out;
    X509_VERIFY_PARAM *param = X509_STORE_CTX_get0_param(ctx);
    X509_VERIFY_PARAM_set_time(param, (time_t)v->time);
    X509_VERIFY_PARAM_set_auth_level(param, 2);
    X509_VERIFY_PARAM_set_depth(param, 10);
    if (v->need_crl || (v->crls && v->crls->n))
        X509_VERIFY_PARAM_set_flags(param, X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL);
    X509_STORE_CTX_set_app_data(ctx, (void *)(uintptr_t)v);
    X509_STORE_CTX_set_verify_cb(ctx, allow_missing);
    if (X509_verify_cert(ctx) != 1)
        rc = explain(ctx, e);
    else
        rc = check_chain(v, ctx, e);
    if (rc == 0 && v->until)
        limit(v, ctx);
out:
    sk_X509_free(untrusted);
    X509_STORE_CTX_free(ctx);
    X509_STORE_free(store);
    ERR_clear_error();
    return rc;
}

/* ---- signatures ---- */

static int verify_with(EVP_PKEY *key, const EVP_MD *md, bool pss, const void *p, size_t len, const uint8_t *signature,
                       size_t signature_len, struct st_err *e)
{
    int rc = st_fail(e, ST_VERIFY, "the signature is not this key's");
    EVP_PKEY_CTX *pctx;
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    if (ctx && EVP_DigestVerifyInit(ctx, &pctx, md, NULL, key) == 1 &&
        (!pss || EVP_PKEY_CTX_set_rsa_padding(pctx, RSA_PKCS1_PSS_PADDING) == 1) &&
        EVP_DigestVerify(ctx, signature, signature_len, p, len) == 1)
        rc = 0;
    EVP_MD_CTX_free(ctx);
    ERR_clear_error();
    return rc;
}

/* SEQUENCE { INTEGER r, INTEGER s } (RFC 3279, section 2.2.3). Returns its length, 0 when out of memory. */
static size_t ecdsa_der(const uint8_t *r, const uint8_t *s, size_t half, uint8_t out[128])
{
    uint8_t *p = out;
    int n = 0;
    ECDSA_SIG *sig = ECDSA_SIG_new();
    BIGNUM *br = BN_bin2bn(r, (int)half, NULL), *bs = BN_bin2bn(s, (int)half, NULL);
    if (sig && br && bs && ECDSA_SIG_set0(sig, br, bs) == 1) {
        br = bs = NULL;
        n = i2d_ECDSA_SIG(sig, &p);
    }
    BN_free(br);
    BN_free(bs);
    ECDSA_SIG_free(sig);
    return n > 0 ? (size_t)n : 0;
}

int st_ecdsa_verify(EVP_PKEY *key, const void *p, size_t len, const uint8_t *r, const uint8_t *s, size_t half,
                    struct st_err *e)
{
    uint8_t der[128]; /* two numbers of at most 48 bytes */
    char group[32] = "";
    bool p384 = half == 48;
    if (half != 32 && half != 48)
        return st_fail(e, ST_INTERNAL, "ecdsa: halves of %zu bytes", half);
    if (!key || EVP_PKEY_get_base_id(key) != EVP_PKEY_EC ||
        EVP_PKEY_get_group_name(key, group, sizeof group, NULL) != 1 ||
        strcmp(group, p384 ? "secp384r1" : "prime256v1") != 0)
        return st_fail(e, ST_VERIFY, "the key is not on %s", p384 ? "P-384" : "P-256");
    size_t n = ecdsa_der(r, s, half, der);
    if (!n)
        return st_fail(e, ST_MEMORY, "ecdsa: out of memory");
    return verify_with(key, p384 ? EVP_sha384() : EVP_sha256(), false, p, len, der, n, e);
}

int st_signature_verify(EVP_PKEY *key, const char *digest, bool pss, const void *p, size_t len,
                        struct st_span signature, struct st_err *e)
{
    const EVP_MD *md = EVP_get_digestbyname(digest);
    int id = key ? EVP_PKEY_get_base_id(key) : 0;
    if (!md || EVP_MD_get_size(md) < 32)
        return st_fail(e, ST_VERIFY, "signature over the digest %s, want SHA256, SHA384 or SHA512", digest);
    if (id != EVP_PKEY_EC && id != EVP_PKEY_RSA)
        return st_fail(e, ST_VERIFY, "the key is neither ECDSA nor RSA");
    if (id == EVP_PKEY_RSA && EVP_PKEY_get_bits(key) < 2048)
        return st_fail(e, ST_VERIFY, "RSA key of %d bits, want 2048 or more", EVP_PKEY_get_bits(key));
    return verify_with(key, md, pss && id == EVP_PKEY_RSA, p, len, signature.p, signature.len, e);
}
