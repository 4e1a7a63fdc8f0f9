/* Certificates and revocation lists made for a test: ECDSA P-384 unless said otherwise. Include expect.h first. */
#ifndef ST_TESTS_MINT_H
#define ST_TESTS_MINT_H

#include "crypto/x509.h"

#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <string.h>

#define MINT_NOW 1750000000
#define MINT_YEAR (365 * 86400)

struct mint {
    X509 *cert;
    EVP_PKEY *key;
};

struct mint_spec {
    const char *name;
    const struct mint *issuer; /* NULL: itself */
    bool not_ca, sha1;
    int64_t from, to; /* 0: a year around MINT_NOW */
    long serial;      /* 0: 1 */
};

static inline void mint_name(X509_NAME *n, const char *cn)
{
    X509_NAME_add_entry_by_txt(n, "O", MBSTRING_ASC, (const unsigned char *)"Test", -1, -1, 0);
    X509_NAME_add_entry_by_txt(n, "CN", MBSTRING_ASC, (const unsigned char *)cn, -1, -1, 0);
}

static inline struct mint mint_new(struct mint_spec s)
{
    struct mint m = {X509_new(), EVP_EC_gen("P-384")};
    X509_set_version(m.cert, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(m.cert), s.serial ? s.serial : 1);
    ASN1_TIME_set(X509_getm_notBefore(m.cert), s.from ? s.from : MINT_NOW - MINT_YEAR);
    ASN1_TIME_set(X509_getm_notAfter(m.cert), s.to ? s.to : MINT_NOW + MINT_YEAR);
    X509_set_pubkey(m.cert, m.key);
    mint_name(X509_get_subject_name(m.cert), s.name);
    X509_set_issuer_name(m.cert, X509_get_subject_name(s.issuer ? s.issuer->cert : m.cert));
    X509_EXTENSION *ca =
        X509V3_EXT_conf_nid(NULL, NULL, NID_basic_constraints, s.not_ca ? "CA:FALSE" : "critical,CA:TRUE");
    X509_add_ext(m.cert, ca, -1);
    X509_EXTENSION_free(ca);
    assert_true(X509_sign(m.cert, s.issuer ? s.issuer->key : m.key, s.sha1 ? EVP_sha1() : EVP_sha384()) > 0);
    return m;
}

static inline void mint_free(struct mint *m)
{
    X509_free(m->cert);
    EVP_PKEY_free(m->key);
}

/* A list of the issuer's, with one serial number revoked (0: none). */
static inline X509_CRL *mint_crl(const struct mint *issuer, long revoked, int64_t from, int64_t to)
{
    X509_CRL *crl = X509_CRL_new();
    ASN1_TIME *t = ASN1_TIME_new();
    X509_CRL_set_version(crl, 1);
    X509_CRL_set_issuer_name(crl, X509_get_subject_name(issuer->cert));
    ASN1_TIME_set(t, from);
    X509_CRL_set1_lastUpdate(crl, t);
    if (revoked) {
        X509_REVOKED *r = X509_REVOKED_new();
        ASN1_INTEGER *serial = ASN1_INTEGER_new();
        ASN1_INTEGER_set(serial, revoked);
        X509_REVOKED_set_serialNumber(r, serial);
        X509_REVOKED_set_revocationDate(r, t);
        X509_CRL_add0_revoked(crl, r);
        ASN1_INTEGER_free(serial);
    }
    ASN1_TIME_set(t, to);
    X509_CRL_set1_nextUpdate(crl, t);
    ASN1_TIME_free(t);
    X509_CRL_sort(crl);
    assert_true(X509_CRL_sign(crl, issuer->key, EVP_sha384()) > 0);
    return crl;
}

#endif
