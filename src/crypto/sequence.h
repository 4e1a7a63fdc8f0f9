/* Messages in order under one AEAD key: the nonce of message i is a base nonce XOR i (RFC 9180 section 5.2, and the
 * chunks of draft-ietf-ohai-chunked-ohttp). The counter is never set from outside, so no nonce serves twice; a message
 * that does not open leaves it where it was.
 * Limits: 2^32 messages of one sequence, 2^31 - 1 bytes of one message or its associated data. The key lives in
 * OpenSSL's cipher context, which overwrites it when freed; it is not locked into memory. */
#ifndef ST_CRYPTO_SEQUENCE_H
#define ST_CRYPTO_SEQUENCE_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Identifiers of RFC 9180 section 7.3. */
enum st_aead {
    ST_AEAD_AES_128_GCM = 1,
    ST_AEAD_AES_256_GCM = 2,
    ST_AEAD_CHACHA20_POLY1305 = 3,
};

#define ST_SEQUENCE_KEY_MAX 32
#define ST_SEQUENCE_NONCE 12
#define ST_SEQUENCE_TAG 16
#define ST_SEQUENCE_LIMIT (1ull << 32) /* messages */

/* Length of an AEAD's key in bytes; 0 when it is not one of the three. */
size_t st_aead_key_len(unsigned aead);

struct st_sequence {
    void *cipher; /* EVP_CIPHER_CTX */
    uint8_t nonce[ST_SEQUENCE_NONCE];
    uint64_t next; /* number of the next message */
    bool seals;
};

/* A zeroed sequence may be wiped. seals: true seals, false opens. UNSUPPORTED for another AEAD. */
int st_sequence_init(struct st_sequence *s, unsigned aead, const uint8_t *key, const uint8_t nonce[ST_SEQUENCE_NONCE],
                     bool seals, struct st_err *e) ST_MUST_CHECK;
void st_sequence_wipe(struct st_sequence *s);

/* text [len] -> out [len + ST_SEQUENCE_TAG], the tag last. POLICY at the limit of messages. */
int st_sequence_seal(struct st_sequence *s, const void *ad, size_t ad_len, const void *text, size_t len, uint8_t *out,
                     struct st_err *e) ST_MUST_CHECK;
/* sealed [len], tag included -> out [len - ST_SEQUENCE_TAG]; out may be sealed itself. VERIFY ("wrong key, or
 * changed") leaves zeros in out. */
int st_sequence_open(struct st_sequence *s, const void *ad, size_t ad_len, const uint8_t *sealed, size_t len,
                     uint8_t *out, struct st_err *e) ST_MUST_CHECK;

#endif
