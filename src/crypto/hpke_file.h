/* X25519 keys for HPKE in files, as OpenSSL writes them (PEM: PKCS #8, SubjectPublicKeyInfo), so that neither can be
 * taken for the other. A private key's text is overwritten after use; the key itself is in OpenSSL's memory
 * (crypto/hpke.h). */
#ifndef ST_CRYPTO_HPKE_FILE_H
#define ST_CRYPTO_HPKE_FILE_H

#include "crypto/hpke.h"

#define ST_HPKE_X25519_LEN 32

/* Makes a key: `path` (private, 0600) and `path`.pub. Files that are there are never overwritten. IO. */
int st_hpke_file_create(const char *path, uint8_t public[ST_HPKE_X25519_LEN], struct st_err *e) ST_MUST_CHECK;
/* IO; INPUT: not an X25519 private key, or one under a passphrase; POLICY: readable by others. */
int st_hpke_file_private(const char *path, struct st_hpke_key **out, struct st_err *e) ST_MUST_CHECK;
/* IO; INPUT: something else, or a private key. */
int st_hpke_file_public(const char *path, uint8_t out[ST_HPKE_X25519_LEN], struct st_err *e) ST_MUST_CHECK;

#endif
