/* A key from a passphrase: Argon2id (RFC 9106), version 0x13, over libargon2. Its cost stands in a file that may be
 * hostile, so it is bounded: opening one costs at most 1 GiB and 16 passes over it. The library overwrites its working
 * memory. A passphrase is as strong as it is hard to guess. */
#ifndef ST_CRYPTO_PASSPHRASE_H
#define ST_CRYPTO_PASSPHRASE_H

#include "base/secret.h"

/* Cost of one guess: passes 1..16, lanes 1..16, memory 8 KiB per lane up to 1 GiB. */
struct st_argon2 {
    uint32_t passes, memory_kib, lanes;
};
/* For new files: RFC 9106 section 4, second choice, with four times its memory. */
#define ST_ARGON2_DEFAULT ((struct st_argon2){3, 256 * 1024, 4})
#define ST_ARGON2_SALT 16
#define ST_PASSPHRASE_MAX 1024 /* bytes */

/* `code` (INPUT for what was read, USAGE for what was asked) when the cost is not within the bounds. */
int st_argon2_check(const struct st_argon2 *cost, int code, struct st_err *e) ST_MUST_CHECK;
/* USAGE: empty, or longer than ST_PASSPHRASE_MAX. NULL counts as empty. */
int st_passphrase_check(const struct st_secret *passphrase, struct st_err *e) ST_MUST_CHECK;
/* 32 bytes; both were checked. MEMORY. */
int st_passphrase_key(const struct st_argon2 *cost, const struct st_secret *passphrase,
                      const uint8_t salt[ST_ARGON2_SALT], struct st_secret *out, struct st_err *e) ST_MUST_CHECK;

#endif
