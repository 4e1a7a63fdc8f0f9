/* AES-256-GCM (NIST SP 800-38D), over OpenSSL: whole messages in memory. A nonce must never serve twice under one key.
 * Limit: 2^31 - 1 bytes of text or of associated data. */
#ifndef ST_CRYPTO_AEAD_H
#define ST_CRYPTO_AEAD_H

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

#define ST_AEAD_KEY_LEN 32
#define ST_AEAD_NONCE_LEN 12
#define ST_AEAD_TAG_LEN 16

/* text [len] -> out [len + ST_AEAD_TAG_LEN], the tag last. */
int st_aead_seal(const uint8_t key[32], const uint8_t nonce[12], const void *ad, size_t ad_len, const void *text,
                 size_t len, uint8_t *out, struct st_err *e) ST_MUST_CHECK;
/* sealed [len], tag included -> out [len - ST_AEAD_TAG_LEN]. VERIFY ("wrong key, or changed") leaves zeros in out.
 * Each byte of `sealed` is read once, so it may lie where others can change it. out may be where `sealed` is. */
int st_aead_open(const uint8_t key[32], const uint8_t nonce[12], const void *ad, size_t ad_len, const uint8_t *sealed,
                 size_t len, uint8_t *out, struct st_err *e) ST_MUST_CHECK;

/* The same for many messages: a context that stays, so that none of them takes memory. Between two messages there is no
 * key in it. For one thread at a time. */
struct st_aead_reader {
    struct evp_cipher_ctx_st *ctx;
};
int st_aead_reader_new(struct st_aead_reader *r, struct st_err *e) ST_MUST_CHECK;
void st_aead_reader_free(struct st_aead_reader *r);
int st_aead_read(struct st_aead_reader *r, const uint8_t key[32], const uint8_t nonce[12], const void *ad,
                 size_t ad_len, const uint8_t *sealed, size_t len, uint8_t *out, struct st_err *e) ST_MUST_CHECK;

#endif
