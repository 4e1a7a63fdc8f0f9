/* What tests of evidence share: files of the shared data, certificates below a root of one's own, and questions to an
 * appraisal. Include expect.h first. */
#ifndef ST_TESTS_EVIDENCE_MAKE_H
#define ST_TESTS_EVIDENCE_MAKE_H

#include "attest/verifier.h"

#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MADE_AT INT64_C(1750500000) /* 21 June 2025 */
#define DAY (24 * 3600)

/* The file `name` of the shared evidence; false, and a line that says so, when it is not here. */
static inline bool shared_file(const char *name, struct st_buf *out)
{
    char path[512];
    uint8_t part[4096];
    size_t n;
    const char *shared = getenv("SOTTO_SHARED");
    snprintf(path, sizeof path, "%s/data/evidence/%s", shared ? shared : "../shared", name);
    FILE *f = fopen(path, "rb");
    st_buf_clear(out);
    if (!f) {
        print_message("skipped: %s is not here (SOTTO_SHARED)\n", name);
        return false;
    }
    while ((n = fread(part, 1, sizeof part, f)) > 0)
        st_buf_add(out, part, n);
    fclose(f);
    return true;
}

/* The bytes of the PEM block named `block` behind the text `behind`. */
static inline void pem_block(const struct st_buf *text, const char *behind, struct st_buf *out)
{
    char *name, *header;
    unsigned char *data;
    long n;
    const char *at = strstr(text->p, behind);
    assert_non_null(at);
    BIO *bio = BIO_new_mem_buf(at, -1);
    assert_int_equal(PEM_read_bio(bio, &name, &header, &data, &n), 1);
    st_buf_clear(out);
    st_buf_add(out, data, (size_t)n);
    OPENSSL_free(name);
    OPENSSL_free(header);
    OPENSSL_free(data);
    BIO_free(bio);
}

static inline struct st_span span_of(const struct st_buf *b)
{
    return (struct st_span){(const uint8_t *)b->p, b->len};
}

static inline void endorse(struct st_evidence *ev, enum st_endorsement_type t, struct st_span data)
{
    assert_true(ev->n_endorsement < ST_EVIDENCE_MAX_ENDORSEMENTS);
    ev->endorsements[ev->n_endorsement++] = (struct st_endorsement){t, data};
}

static inline void appraise(const struct st_evidence *ev, struct st_span roots, int64_t time, struct st_appraisal *out)
{
    struct st_verify_env env = {.time = time, .roots = roots};
    struct st_err e = {0};
    *out = (struct st_appraisal){0};
    assert_ok(st_verifier_find(ev->kind)->verify(ev, &env, out, &e), &e);
    assert_false(out->failed);
}

static inline void assert_check(const struct st_appraisal *a, const char *name, enum st_check_result want,
                                const char *says)
{
    const struct st_check *c = st_appraisal_find_check(a, name);
    if (!c || c->result != want || !strstr(c->detail, says))
        fail_msg("%s: want %d '%s', got %d '%s'", name, want, says, c ? (int)c->result : -1, c ? c->detail : "");
}

static inline void assert_text(const struct st_appraisal *a, const char *name, const char *want)
{
    const struct st_claim *c = st_appraisal_find_claim(a, name);
    if (!c || !c->text || strcmp(c->text, want) != 0)
        fail_msg("%s: want %s, got %s", name, want, c && c->text ? c->text : "nothing");
}

static inline void assert_number(const struct st_appraisal *a, const char *name, uint64_t want)
{
    const struct st_claim *c = st_appraisal_find_claim(a, name);
    if (!c || c->text || c->number != want)
        fail_msg("%s: want %llu, got %lld", name, (unsigned long long)want, c ? (long long)c->number : -1);
}

/* The number of checks that did not pass; the name of the first goes to *first. */
static inline size_t count_bad(const struct st_appraisal *a, const char **first)
{
    size_t n = 0;
    for (size_t i = 0; i < a->n_check; i++)
        if (a->checks[i].result != ST_CHECK_PASS && n++ == 0 && first)
            *first = a->checks[i].name;
    return n;
}

/* True when a signature check failed, so that no policy lets it pass. */
static inline bool is_refused(const struct st_evidence *ev, struct st_span roots, int64_t time)
{
    struct st_verify_env env = {.time = time, .roots = roots};
    struct st_appraisal a = {0};
    struct st_err e;
    bool bad = st_verifier_find(ev->kind)->verify(ev, &env, &a, &e) != 0;
    for (size_t i = 0; i < a.n_check; i++)
        bad = bad || (a.checks[i].area == ST_AREA_SIGNATURE && a.checks[i].result == ST_CHECK_FAIL);
    st_appraisal_wipe(&a);
    return bad;
}

/* ---- certificates ---- */

struct made_cert {
    const char *cn;
    bool ca;
    const char *key_usage; /* NULL: none stated */
    int64_t from, to;      /* 0: ten days around MADE_AT */
};

static inline void add_extension(X509 *x, int nid, const char *value)
{
    X509_EXTENSION *ext = X509V3_EXT_conf_nid(NULL, NULL, nid, value);
    assert_non_null(ext);
    assert_int_equal(X509_add_ext(x, ext, -1), 1);
    X509_EXTENSION_free(ext);
}

/* An extension of any name and bytes; call before made_sign(). */
static inline void add_bytes(X509 *x, const char *oid, const void *p, size_t len)
{
    ASN1_OBJECT *o = OBJ_txt2obj(oid, 1);
    ASN1_OCTET_STRING *data = ASN1_OCTET_STRING_new();
    ASN1_OCTET_STRING_set(data, p, (int)len);
    X509_EXTENSION *ext = X509_EXTENSION_create_by_OBJ(NULL, o, 0, data);
    assert_int_equal(X509_add_ext(x, ext, -1), 1);
    X509_EXTENSION_free(ext);
    ASN1_OCTET_STRING_free(data);
    ASN1_OBJECT_free(o);
}

static inline X509 *made_unsigned(const struct made_cert *c, EVP_PKEY *key, X509 *issuer)
{
    static long serial = 100;
    X509 *x = X509_new();
    X509_set_version(x, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(x), serial++);
    ASN1_TIME_set(X509_getm_notBefore(x), (time_t)(c->from ? c->from : MADE_AT - 10 * DAY));
    ASN1_TIME_set(X509_getm_notAfter(x), (time_t)(c->to ? c->to : MADE_AT + 10 * DAY));
    X509_set_pubkey(x, key);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_ASC, (const unsigned char *)c->cn, -1, -1, 0);
    X509_set_issuer_name(x, X509_get_subject_name(issuer ? issuer : x));
    add_extension(x, NID_basic_constraints, c->ca ? "critical,CA:TRUE" : "critical,CA:FALSE");
    if (c->key_usage)
        add_extension(x, NID_key_usage, c->key_usage);
    return x;
}

static inline X509 *made_sign(X509 *x, EVP_PKEY *key)
{
    assert_true(X509_sign(x, key, EVP_sha384()) > 0);
    return x;
}

static inline X509 *made_ca(const char *cn, EVP_PKEY *key, X509 *issuer, EVP_PKEY *issuer_key)
{
    return made_sign(made_unsigned(&(struct made_cert){.cn = cn, .ca = true}, key, issuer), issuer_key);
}

static inline void add_pem(struct st_buf *out, X509 *x)
{
    char *p = NULL;
    BIO *bio = BIO_new(BIO_s_mem());
    assert_int_equal(PEM_write_bio_X509(bio, x), 1);
    long n = BIO_get_mem_data(bio, &p);
    st_buf_add(out, p, (size_t)n);
    BIO_free(bio);
}

/* A revocation list of issuer's as DER, with one certificate on it, or none. */
static inline void made_crl(struct st_buf *out, X509 *issuer, EVP_PKEY *key, X509 *revoked, int64_t from, int64_t to)
{
    X509_CRL *crl = X509_CRL_new();
    ASN1_TIME *t = ASN1_TIME_set(NULL, (time_t)from);
    unsigned char *p = NULL;
    X509_CRL_set_version(crl, 1);
    X509_CRL_set_issuer_name(crl, X509_get_subject_name(issuer));
    X509_CRL_set1_lastUpdate(crl, t);
    if (revoked) {
        X509_REVOKED *r = X509_REVOKED_new();
        X509_REVOKED_set_serialNumber(r, X509_get_serialNumber(revoked));
        X509_REVOKED_set_revocationDate(r, t);
        X509_CRL_add0_revoked(crl, r);
    }
    ASN1_TIME_set(t, (time_t)to);
    X509_CRL_set1_nextUpdate(crl, t);
    assert_true(X509_CRL_sign(crl, key, EVP_sha384()) > 0);
    int len = i2d_X509_CRL(crl, &p);
    assert_true(len > 0);
    st_buf_clear(out);
    st_buf_add(out, p, (size_t)len);
    OPENSSL_free(p);
    X509_CRL_free(crl);
    ASN1_TIME_free(t);
}

#endif
