/* SHA-256 of bytes in memory or in pieces, and hexadecimal text. */
#ifndef ST_CRYPTO_DIGEST_H
#define ST_CRYPTO_DIGEST_H

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

void st_sha256(const void *p, size_t len, uint8_t out[32]);

/* SHA-256 of bytes that come in pieces. */
struct st_digest {
    void *ctx; /* EVP_MD_CTX */
};
int st_digest_init(struct st_digest *d, struct st_err *e) ST_MUST_CHECK;
void st_digest_add(struct st_digest *d, const void *p, size_t len);
/* Ends it; the struct must be initialised again, or wiped. */
void st_digest_end(struct st_digest *d, uint8_t out[32]);
/* A zeroed or ended one may be wiped. */
void st_digest_wipe(struct st_digest *d);

void st_hex(const uint8_t *p, size_t len, char *out /* 2 * len + 1 */);
/* Exactly 2 * len digits, upper or lower case -> out [len]. INPUT names `what`. */
int st_unhex(const char *hex, size_t hex_len, uint8_t *out, size_t len, const char *what,
             struct st_err *e) ST_MUST_CHECK;

#endif
