/* Files of Ed25519 signing keys: the seed in 64 hexadecimal digits, readable by the owner alone. */
#ifndef ST_CLI_SIGN_KEY_H
#define ST_CLI_SIGN_KEY_H

#include "attest/note.h"
#include "base/secret.h"

/* Makes a new file; one that is there is never overwritten. IO. */
int st_sign_key_create(const char *path, struct st_ed25519 **out, struct st_err *e) ST_MUST_CHECK;
/* IO; INPUT; POLICY (readable by others: mode & 077). */
int st_sign_key_open(const char *path, struct st_ed25519 **out, struct st_err *e) ST_MUST_CHECK;
/* The seed itself [ST_ED25519_SEED], where other keys follow from it. Errors as above. */
int st_sign_key_seed(const char *path, struct st_secret *out, struct st_err *e) ST_MUST_CHECK;
/* Appends the verifier key under a name, as others are told it. type: of attest/note.h. */
int st_sign_key_public(const struct st_ed25519 *k, const char *name, uint8_t type, struct st_buf *out,
                       struct st_err *e) ST_MUST_CHECK;

#endif
