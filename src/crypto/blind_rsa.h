/* Blind signatures (RFC 9474): RSABSSA-SHA384-PSS-Randomized. The issuer signs a token without seeing it, anybody can
 * verify it, and the issuer cannot tell which of its signatures it came from.
 *   client: prepare, blind -> issuer: sign -> client: finalize -> anybody: verify
 *
 * Keys: modulus of 2048, 3072 or 4096 bits, public exponent 65537. A smaller exponent saves nothing, and one that
 * shares a factor with the group's order would let a hostile issuer mark clients (RFC 9474 section 6.2); nobody without
 * the factors can rule that out for a hostile modulus, which is why messages are prepared with 32 random bytes: a token
 * is then never linked to what the client chose. The private operation is OpenSSL's: CRT, base blinding on, its result
 * checked against the public key before it leaves. EMSA-PSS encoding is ours, because OpenSSL offers it only together
 * with the private operation. Every length here is the modulus's, st_blind_rsa_len(). */
#ifndef ST_CRYPTO_BLIND_RSA_H
#define ST_CRYPTO_BLIND_RSA_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ST_BLIND_RSA_MAX 512   /* bytes of a modulus */
#define ST_BLIND_RSA_PREFIX 32 /* random bytes before a prepared message */
#define ST_BLIND_RSA_SALT 48
#define ST_BLIND_RSA_DER_MAX 4096

struct st_blind_rsa; /* a key: public, or with its private part */

/* A new private key of 2048, 3072 or 4096 bits (seconds). */
int st_blind_rsa_new(unsigned bits, struct st_blind_rsa **out, struct st_err *e) ST_MUST_CHECK;
/* DER: SubjectPublicKeyInfo of a public key, PKCS#8 of a private one, both of type rsaEncryption. INPUT for anything
 * else, for bytes behind it, and for a key outside the limits above. */
int st_blind_rsa_parse_public(const uint8_t *der, size_t len, struct st_blind_rsa **out,
                              struct st_err *e) ST_MUST_CHECK;
int st_blind_rsa_parse_private(const uint8_t *der, size_t len, struct st_blind_rsa **out,
                               struct st_err *e) ST_MUST_CHECK;
/* Back to DER: out [ST_BLIND_RSA_DER_MAX], *len. The private form is a secret: wipe it. */
int st_blind_rsa_write_public(const struct st_blind_rsa *k, uint8_t *out, size_t *len, struct st_err *e) ST_MUST_CHECK;
int st_blind_rsa_write_private(const struct st_blind_rsa *k, uint8_t *out, size_t *len, struct st_err *e) ST_MUST_CHECK;
void st_blind_rsa_free(struct st_blind_rsa *k);
size_t st_blind_rsa_len(const struct st_blind_rsa *k);

/* Client: PrepareRandomize (section 4.1): 32 random bytes || msg -> out [ST_BLIND_RSA_PREFIX + len]. */
int st_blind_rsa_prepare(const void *msg, size_t len, uint8_t *out, struct st_err *e) ST_MUST_CHECK;

/* What a client keeps between blind and finalize: as secret as the link between request and token. Wipe it. */
struct st_blind_rsa_state {
    uint8_t inverse[ST_BLIND_RSA_MAX]; /* of the blinding factor, big-endian */
};
void st_blind_rsa_state_wipe(struct st_blind_rsa_state *s);

/* Client: Blind (section 4.2). prepared [len] -> blinded [n]. */
int st_blind_rsa_blind(const struct st_blind_rsa *k, const void *prepared, size_t len, uint8_t *blinded,
                       struct st_blind_rsa_state *state, struct st_err *e) ST_MUST_CHECK;
/* The same for up to ST_BLIND_RSA_JOBS messages at once, at a fifth of the time for each. */
#define ST_BLIND_RSA_JOBS 16
struct st_blind_rsa_job {
    const void *prepared;
    size_t len;
    uint8_t *blinded;
    struct st_blind_rsa_state *state;
};
int st_blind_rsa_blind_many(const struct st_blind_rsa *k, const struct st_blind_rsa_job *jobs, size_t n,
                            struct st_err *e) ST_MUST_CHECK;
/* Of one, with salt and state of the caller's, for test vectors. INPUT when the inverse is not one. */
int st_blind_rsa_blind_from(const struct st_blind_rsa *k, const void *prepared, size_t len,
                            const uint8_t salt[ST_BLIND_RSA_SALT], const struct st_blind_rsa_state *state,
                            uint8_t *blinded, struct st_err *e) ST_MUST_CHECK;
/* Issuer: whether st_blind_rsa_sign() would take it: the modulus's length, and below the modulus. */
bool st_blind_rsa_fits(const struct st_blind_rsa *k, const uint8_t *blinded, size_t len);
/* Issuer: BlindSign (section 4.3). blinded [len] -> out [n]. INPUT for a wrong length or a value that is not below the
 * modulus. */
int st_blind_rsa_sign(const struct st_blind_rsa *k, const uint8_t *blinded, size_t len, uint8_t *out,
                      struct st_err *e) ST_MUST_CHECK;
/* Client: Finalize (section 4.4): unblinds and verifies. answer [len] -> signature [n]. VERIFY when the issuer's answer
 * is no signature; signature is then zeros. */
int st_blind_rsa_finalize(const struct st_blind_rsa *k, const void *prepared, size_t prepared_len,
                          const struct st_blind_rsa_state *state, const uint8_t *answer, size_t len, uint8_t *signature,
                          struct st_err *e) ST_MUST_CHECK;
/* Anybody: RSASSA-PSS, SHA-384, salt of 48 bytes, over the prepared message. VERIFY. */
int st_blind_rsa_verify(const struct st_blind_rsa *k, const void *prepared, size_t prepared_len,
                        const uint8_t *signature, size_t len, struct st_err *e) ST_MUST_CHECK;

#endif
