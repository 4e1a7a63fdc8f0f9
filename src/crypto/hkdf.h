/* HKDF with SHA-256 (RFC 5869), over OpenSSL. */
#ifndef ST_CRYPTO_HKDF_H
#define ST_CRYPTO_HKDF_H

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

/* Extract and expand. salt may be empty (then 32 zero bytes, section 2.2); len <= 255 * 32. */
int st_hkdf_sha256(const uint8_t *ikm, size_t ikm_len, const uint8_t *salt, size_t salt_len, const uint8_t *info,
                   size_t info_len, uint8_t *out, size_t len, struct st_err *e) ST_MUST_CHECK;

/* Its two halves (sections 2.2 and 2.3). ikm must not be empty. */
int st_hkdf_extract(const uint8_t *ikm, size_t ikm_len, const uint8_t *salt, size_t salt_len, uint8_t prk[32],
                    struct st_err *e) ST_MUST_CHECK;
int st_hkdf_expand(const uint8_t prk[32], const uint8_t *info, size_t info_len, uint8_t *out, size_t len,
                   struct st_err *e) ST_MUST_CHECK;

#endif
