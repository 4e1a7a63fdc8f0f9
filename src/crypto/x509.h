/* Certificates over OpenSSL: chains to a pinned root at a given time, revocation lists, and the signatures that
 * evidence carries in raw form. Hostile input, bounded. Nothing is fetched. */
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
/* All certificates in PEM text (other blocks and text around them are passed over), or one or several in DER (a tail of
 * equal bytes 0 or 0xff is padding), behind those that are there. INPUT names `where`: none, damaged, too many. */
int st_certs_add(struct st_certs *c, const void *p, size_t len, const char *where, struct st_err *e) ST_MUST_CHECK;
/* Those of `from`, shared, behind those that are there. INPUT: too many. */
int st_certs_share(struct st_certs *c, const struct st_certs *from, const char *where, struct st_err *e) ST_MUST_CHECK;
void st_certs_free(struct st_certs *c);
/* The one that issued no other of the set; where that are several, the only one of them that is no CA. Else NULL.
 * Borrowed. */
X509 *st_certs_leaf(const struct st_certs *c);

struct st_crls {
    X509_CRL *p[ST_X509_MAX];
    size_t n;
};
int st_crls_add(struct st_crls *c, const void *p, size_t len, const char *where, struct st_err *e) ST_MUST_CHECK;
void st_crls_free(struct st_crls *c);
/* Some list is by this issuer. */
bool st_crls_by(const struct st_crls *c, const X509_NAME *issuer);

struct st_x509_verify {
    X509 *leaf;
    const struct st_certs *chain; /* untrusted, any order; may be NULL */
    const struct st_certs *roots; /* trusted: compared as a whole, no name is enough */
    const struct st_crls *crls;   /* NULL or empty: revocation is not checked, unless need_crl */
    bool need_crl;                /* every certificate, the root too, must be covered by a list that is valid */
    bool leaf_unlisted;           /* with crls: but the leaf, whose issuer publishes no list (AMD's ASK) */
    int64_t time;
    int64_t *until; /* NULL, or narrowed by st_x509_limit() to when the first date used here passes */
};
/* *until: seconds since 1970 from which on something may no longer hold, 0 while nothing limits it. Becomes t where
 * that is earlier. until may be NULL. */
void st_x509_limit(int64_t *until, int64_t t);
/* VERIFY says why in one line: expired, revoked, issuer unknown, bad signature, not a CA, path length, algorithm. A
 * list that is there must be valid even without need_crl. RSA below 2048 bits, SHA-1 and MD5 are refused. */
int st_x509_verify(const struct st_x509_verify *v, struct st_err *e) ST_MUST_CHECK;

/* ECDSA over P-256 (half 32, SHA-256) or P-384 (half 48, SHA-384) with a raw r || s signature, both big-endian [half].
 * A key of another kind or curve is a VERIFY too. */
int st_ecdsa_verify(EVP_PKEY *key, const void *p, size_t len, const uint8_t *r, const uint8_t *s, size_t half,
                    struct st_err *e) ST_MUST_CHECK;
/* ECDSA as DER or RSA (PKCS #1 v1.5, or PSS with any salt), by the key's type; digest "SHA256", "SHA384" or "SHA512".
 * VERIFY. */
int st_signature_verify(EVP_PKEY *key, const char *digest, bool pss, const void *p, size_t len,
                        struct st_span signature, struct st_err *e) ST_MUST_CHECK;

/* "CN=..., O=..." of a certificate, cut to fit; for messages. */
void st_x509_name(const X509 *x, char *out, size_t cap);

#endif
