/* API keys of clients, from a file with one key per line ('#' comments, blank lines). Only SHA-256 digests stay in
 * memory; a comparison looks at every digest, whatever it finds, so that time says nothing about a near miss. */
#ifndef ST_SERVICE_API_KEYS_H
#define ST_SERVICE_API_KEYS_H

#include "base/buf.h"

struct st_api_keys {
    uint8_t (*digest)[32];
    size_t n;
};

/* IO; INPUT (no key in it, a line over 512 bytes, more than 4096 keys); POLICY (readable by others: mode & 077). */
int st_api_keys_load(const char *path, struct st_api_keys *out, struct st_err *e) ST_MUST_CHECK;
/* Index of the key in "Bearer KEY", or -1. authorization may be NULL. */
int st_api_keys_check(const struct st_api_keys *k, const char *authorization);
void st_api_keys_free(struct st_api_keys *k);
/* The first key of a file, for a client that must present one. Same errors. *out is to be wiped. */
int st_api_key_first(const char *path, struct st_buf *out, struct st_err *e) ST_MUST_CHECK;

#endif
