#include "audit/made_tpm.h"
#include "attest/binding.h"
#include "crypto/aead.h"
#include "crypto/digest.h"

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/ecdsa.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <string.h>

#define DAY 86400
#define SHA1 0x0004
#define SHA256 0x000b
#define NO_ALG 0x0010
#define ECDSA 0x0018
#define ECC 0x0023
#define P256 0x0003

/* ---- certificates ---- */

static bool extension(X509 *x, int nid, const char *value)
{
    X509_EXTENSION *ext = X509V3_EXT_conf_nid(NULL, NULL, nid, value);
    bool good = ext && X509_add_ext(x, ext, -1) == 1;
    X509_EXTENSION_free(ext);
    return good;
}

static X509 *certificate(const char *cn, EVP_PKEY *key, EVP_PKEY *root, const char *root_cn, bool ca, int64_t now)
{
    static const char root_usage[] = "critical,keyCertSign,cRLSign", leaf_usage[] = "critical,digitalSignature";
    X509 *x = X509_new();
    X509_NAME *issuer = X509_NAME_new();
    bool good =
        x && issuer && X509_set_version(x, 2) == 1 && ASN1_INTEGER_set(X509_get_serialNumber(x), ca ? 1 : 2) == 1 &&
        ASN1_TIME_set(X509_getm_notBefore(x), (time_t)(now - 10 * DAY)) &&
        ASN1_TIME_set(X509_getm_notAfter(x), (time_t)(now + 10 * DAY)) && X509_set_pubkey(x, key) == 1 &&
        X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_ASC, (const unsigned char *)cn, -1, -1,
                                   0) == 1 &&
        X509_NAME_add_entry_by_txt(issuer, "CN", MBSTRING_ASC, (const unsigned char *)root_cn, -1, -1, 0) == 1 &&
        X509_set_issuer_name(x, issuer) == 1 &&
        extension(x, NID_basic_constraints, ca ? "critical,CA:TRUE" : "critical,CA:FALSE") &&
        extension(x, NID_key_usage, ca ? root_usage : leaf_usage) && X509_sign(x, root, EVP_sha256()) > 0;
    X509_NAME_free(issuer);
    if (!good) {
        X509_free(x);
        return NULL;
    }
    return x;
}

static bool add_pem(struct st_buf *out, X509 *x)
{
    BIO *bio = BIO_new(BIO_s_mem());
    char *p = NULL;
    bool good = bio && x && PEM_write_bio_X509(bio, x) == 1;
    long n = good ? BIO_get_mem_data(bio, &p) : 0;
    st_buf_add(out, p, (size_t)n);
    BIO_free(bio);
    return good && !out->failed;
}

int st_made_authority_new(struct st_made_authority *a, int64_t now, struct st_err *e)
{
    static const char cn[] = "Root of an audit";
    *a = (struct st_made_authority){
        .root = EVP_EC_gen("P-256"), .ak = EVP_EC_gen("P-256"), .other = EVP_EC_gen("P-256")};
    bool good = a->root && a->ak && a->other;
    X509 *root = good ? certificate(cn, a->root, a->root, cn, true, now) : NULL;
    X509 *leaf = good ? certificate("AK", a->ak, a->root, cn, false, now) : NULL;
    good = good && root && leaf && add_pem(&a->roots, root) && add_pem(&a->certs, leaf);
    X509_free(root);
    X509_free(leaf);
    if (good)
        return 0;
    st_made_authority_free(a);
    return st_fail(e, ST_INTERNAL, "made evidence: no certificates");
}

void st_made_authority_free(struct st_made_authority *a)
{
    EVP_PKEY_free(a->root);
    EVP_PKEY_free(a->ak);
    EVP_PKEY_free(a->other);
    st_buf_free(&a->roots);
    st_buf_free(&a->certs);
    *a = (struct st_made_authority){0};
}

/* ---- what a TPM says; numbers are big-endian ---- */

static void put(struct st_buf *b, uint64_t v, size_t len)
{
    for (size_t i = len; i > 0; i--) {
        uint8_t byte = (uint8_t)(v >> 8 * (i - 1));
        st_buf_add(b, &byte, 1);
    }
}

static void put_sized(struct st_buf *b, const void *p, size_t len)
{
    put(b, len, 2);
    st_buf_add(b, p, len);
}

void st_made_pcr(unsigned n, uint8_t out[32])
{
    memset(out, (int)(0x40 + n), 32);
}

static void value_of(const struct st_made_tpm *m, unsigned n, bool told, uint8_t out[32])
{
    st_made_pcr(n, out);
    if (n == ST_MADE_PCR_MODEL && m->other_model && !(told && m->edited))
        out[0] ^= 1;
}

static size_t value_len(const struct st_made_tpm *m)
{
    return m->sha1 ? 20 : 32;
}

static void put_quote(const struct st_made_tpm *m, const uint8_t *data, struct st_buf *b)
{
    static const uint8_t signer[34] = {0, SHA256};
    struct st_buf values = {0};
    uint8_t digest[32];
    put(b, 0xff544347, 4);
    put(b, 0x8018, 2);
    put_sized(b, signer, sizeof signer);
    put_sized(b, data, 32);
    put(b, 1000, 8); /* clock */
    put(b, 5, 4);
    put(b, 0, 4);
    put(b, 1, 1);
    put(b, 1, 8); /* firmware */
    put(b, 1, 4); /* one bank */
    put(b, m->sha1 ? SHA1 : SHA256, 2);
    put(b, 3, 1);
    for (int i = 0; i < 3; i++)
        put(b, m->selected >> 8 * i & 0xff, 1);
    for (unsigned n = 0; n < 24; n++) {
        uint8_t v[32];
        value_of(m, n, false, v);
        if (m->selected >> n & 1)
            st_buf_add(&values, v, value_len(m));
    }
    st_sha256(values.p ? values.p : "", values.len, digest);
    put_sized(b, digest, sizeof digest);
    b->failed = b->failed || values.failed;
    st_buf_free(&values);
}

static void put_pcrs(const struct st_made_tpm *m, struct st_buf *b)
{
    const char *comma = "";
    st_buf_addf(b, "{\"pcrs\": {\"%s\": {", m->sha1 ? "sha1" : "sha256");
    for (unsigned n = 0; n < 24; n++) {
        uint8_t v[32];
        char hex[65];
        if (!(m->told >> n & 1))
            continue;
        value_of(m, n, true, v);
        st_hex(v, value_len(m), hex);
        st_buf_addf(b, "%s\"%u\": \"%s\"", comma, n, hex);
        comma = ", ";
    }
    st_buf_add_str(b, "}}}");
}

static bool put_signature(EVP_PKEY *key, const struct st_buf *quote, struct st_buf *b)
{
    uint8_t der[128], half[32];
    const uint8_t *at = der;
    size_t len = sizeof der;
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    bool good = ctx && EVP_DigestSignInit(ctx, NULL, EVP_sha256(), NULL, key) == 1 &&
                EVP_DigestSign(ctx, der, &len, (const uint8_t *)quote->p, quote->len) == 1;
    ECDSA_SIG *s = good ? d2i_ECDSA_SIG(NULL, &at, (long)len) : NULL;
    EVP_MD_CTX_free(ctx);
    if (!s)
        return false;
    put(b, ECDSA, 2);
    put(b, SHA256, 2);
    BN_bn2binpad(ECDSA_SIG_get0_r(s), half, 32);
    put_sized(b, half, 32);
    BN_bn2binpad(ECDSA_SIG_get0_s(s), half, 32);
    put_sized(b, half, 32);
    ECDSA_SIG_free(s);
    return true;
}

/* TPMT_PUBLIC of the key that signs. */
static bool put_area(EVP_PKEY *key, uint32_t attributes, struct st_buf *b)
{
    static const char *const names[] = {OSSL_PKEY_PARAM_EC_PUB_X, OSSL_PKEY_PARAM_EC_PUB_Y};
    put(b, ECC, 2);
    put(b, SHA256, 2);
    put(b, attributes, 4);
    put(b, 0, 2); /* no policy */
    put(b, NO_ALG, 2);
    put(b, ECDSA, 2);
    put(b, SHA256, 2);
    put(b, P256, 2);
    put(b, NO_ALG, 2);
    for (int i = 0; i < 2; i++) {
        BIGNUM *v = NULL;
        uint8_t half[32];
        bool good = EVP_PKEY_get_bn_param(key, names[i], &v) == 1 && BN_bn2binpad(v, half, 32) == 32;
        BN_free(v);
        if (!good)
            return false;
        put_sized(b, half, 32);
    }
    return true;
}

static struct st_span span_of(const struct st_buf *b)
{
    return (struct st_span){(const uint8_t *)b->p, b->len};
}

static void state_keys(const struct st_made_tpm *m, struct st_bundle *b)
{
    b->has_binding = true;
    b->binding = (struct st_binding){
        .suite = {ST_HPKE_KEM_X25519, ST_HPKE_KDF_SHA256, ST_AEAD_AES_128_GCM}, .hpke_key_len = 32, .nonce_len = 32};
    memset(b->binding.hpke_key, 0x11, 32);
    memset(b->binding.receipt_key, 0x22, 32);
    memcpy(b->binding.nonce, m->nonce, 32);
}

int st_made_tpm(const struct st_made_authority *a, const struct st_made_tpm *m, struct st_made_evidence *out,
                struct st_err *e)
{
    EVP_PKEY *key = m->other_key ? a->other : a->ak;
    uint8_t report[ST_REPORT_DATA], data[32];
    *out = (struct st_made_evidence){.bundle = {.n_item = 1, .items = {{.kind = "tpm"}}}};
    struct st_bundle *b = &out->bundle;
    state_keys(m, b);
    if (st_binding_report_data(b, 0, report, e))
        return e->code;
    st_sha256(report, sizeof report, data);
    put_quote(m, data, &out->quote);
    put_pcrs(m, &out->pcrs);
    if (!put_signature(key, &out->quote, &out->signature) || !put_area(a->ak, m->attributes, &out->area) ||
        out->quote.failed || out->pcrs.failed || out->signature.failed || out->area.failed) {
        st_made_evidence_free(out);
        return st_fail(e, ST_INTERNAL, "made evidence: no quote");
    }
    b->binding.hpke_key[0] ^= m->key_exchanged;
    b->binding.nonce[0] ^= m->nonce_exchanged;
    b->items[0].data = span_of(&out->quote);
    b->items[0].n_endorsement = m->uncertified ? 3 : 4;
    b->items[0].endorsements[0] = (struct st_endorsement){ST_ENDORSEMENT_SIGNATURE, span_of(&out->signature)};
    b->items[0].endorsements[1] = (struct st_endorsement){ST_ENDORSEMENT_AK_PUBLIC, span_of(&out->area)};
    b->items[0].endorsements[2] = (struct st_endorsement){ST_ENDORSEMENT_PCRS, span_of(&out->pcrs)};
    b->items[0].endorsements[3] = (struct st_endorsement){ST_ENDORSEMENT_CERTS, span_of(&a->certs)};
    return 0;
}

void st_made_evidence_free(struct st_made_evidence *ev)
{
    st_buf_free(&ev->quote);
    st_buf_free(&ev->signature);
    st_buf_free(&ev->area);
    st_buf_free(&ev->pcrs);
    *ev = (struct st_made_evidence){0};
}
