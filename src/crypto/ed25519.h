/* Ed25519 signatures (RFC 8032, the pure form), over OpenSSL. The private key lives in OpenSSL's memory, which
 * overwrites it when freed; it is not locked. */
#ifndef ST_CRYPTO_ED25519_H
#define ST_CRYPTO_ED25519_H

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

#define ST_ED25519_PUBLIC 32
#define ST_ED25519_SEED 32
#define ST_ED25519_SIGNATURE 64

struct st_ed25519; /* a private key */

/* From getrandom(2). */
int st_ed25519_new(struct st_ed25519 **out, struct st_err *e) ST_MUST_CHECK;
/* From the 32 bytes that RFC 8032 calls the private key. */
int st_ed25519_import(const uint8_t seed[ST_ED25519_SEED], struct st_ed25519 **out, struct st_err *e) ST_MUST_CHECK;
void st_ed25519_free(struct st_ed25519 *k);
void st_ed25519_public(const struct st_ed25519 *k, uint8_t out[ST_ED25519_PUBLIC]);

int st_ed25519_sign(const struct st_ed25519 *k, const void *msg, size_t len, uint8_t out[ST_ED25519_SIGNATURE],
                    struct st_err *e) ST_MUST_CHECK;
/* VERIFY ("the signature is not this key's") for everything that is no signature by this key of this message. */
int st_ed25519_verify(const uint8_t key[ST_ED25519_PUBLIC], const void *msg, size_t len,
                      const uint8_t signature[ST_ED25519_SIGNATURE], struct st_err *e) ST_MUST_CHECK;

#endif
