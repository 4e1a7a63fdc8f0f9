/* SHA-256 of bytes in memory, and hexadecimal text. */
#ifndef ST_CRYPTO_DIGEST_H
#define ST_CRYPTO_DIGEST_H

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

void st_sha256(const void *p, size_t len, uint8_t out[32]);
void st_hex(const uint8_t *p, size_t len, char *out /* 2 * len + 1 */);

#endif
