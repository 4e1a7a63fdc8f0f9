/* Certificates over OpenSSL: chains to a pinned root at a given time, revocation lists, names and keys. Hostile input,
 * bounded. Nothing is fetched. */
#ifndef ST_CRYPTO_X509_H
#define ST_CRYPTO_X509_H

#include "base/buf.h"

#include <stdbool.h>

#include <openssl/x509.h>

#define ST_X509_MAX 32 /* certificates of one set */

struct st_certs {
    X509 *p[ST_X509_MAX];
    size_t n;
};
/* All certificates in PEM text, or one or several in DER, behind those that are there. INPUT names `where`. */
int st_certs_add(struct st_certs *c, const void *p, size_t len, const char *where, struct st_err *e) ST_MUST_CHECK;
void st_certs_free(struct st_certs *c);

struct st_crls {
    X509_CRL *p[ST_X509_MAX];
    size_t n;
};
int st_crls_add(struct st_crls *c, const void *p, size_t len, const char *where, struct st_err *e) ST_MUST_CHECK;
void st_crls_free(struct st_crls *c);

struct st_x509_verify {
    X509 *leaf;
    const struct st_certs *chain; /* untrusted, any order */
    const struct st_certs *roots; /* trusted: compared as a whole, no name is enough */
    const struct st_crls *crls;   /* NULL or empty: revocation is not checked */
    bool need_crl;                /* every issuer below the root must have one that is valid */
    int64_t time;
};
/* VERIFY says why in one line: expired, revoked, issuer unknown, bad signature, not a CA, path length, algorithm. */
int st_x509_verify(const struct st_x509_verify *v, struct st_err *e) ST_MUST_CHECK;
/* ECDSA over P-256 or P-384 with a raw r || s signature (big-endian), hash of the curve's size. VERIFY. */
int st_ecdsa_verify(EVP_PKEY *key, const void *p, size_t len, const uint8_t *r, const uint8_t *s, size_t half,
                    struct st_err *e) ST_MUST_CHECK;

#endif
