/* The ways to wrap the seed of a key file, one row each. `head` is the first ST_COV_KEY_HEAD bytes of the file, to
 * which every wrap but `none` binds the seed; the blobs are laid out in key.h. Only key.c uses this. */
#ifndef ST_PROTECT_COVARIANT_KEY_WRAP_H
#define ST_PROTECT_COVARIANT_KEY_WRAP_H

#include "protect/covariant/key.h"

#define ST_COV_KEY_HEAD 56
#define ST_COV_KEY_SALT 32 /* where the 16 bytes of salt are in the head */
#define ST_COV_KEY_SEED 32 /* bytes */
#define ST_COV_KEY_BLOB_MAX 2048

struct st_cov_wrap_kind {
    /* Reads the public part of a blob into *info and checks its shape. `where` names the file in errors. INPUT. */
    int (*read)(const uint8_t *blob, size_t len, const char *where, struct st_cov_key_info *info, struct st_err *e);
    /* blob has room for ST_COV_KEY_BLOB_MAX bytes; *len = how many were written. */
    int (*wrap)(const uint8_t *head, const struct st_cov_lock *lock, const struct st_secret *seed, uint8_t *blob,
                size_t *len, struct st_err *e);
    /* blob has passed read(), which gave *info. seed is untouched, or zero, on failure. */
    int (*unwrap)(const uint8_t *head, const struct st_cov_key_info *info, const uint8_t *blob, size_t len,
                  const char *where, const struct st_cov_lock *lock, struct st_secret *seed, struct st_err *e);
};

extern const struct st_cov_wrap_kind st_cov_wrap_none, st_cov_wrap_passphrase, st_cov_wrap_tpm;

static inline void st_put_le(uint8_t *p, uint64_t v, int n)
{
    for (int i = 0; i < n; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}

static inline uint64_t st_get_le(const uint8_t *p, int n)
{
    uint64_t v = 0;
    for (int i = n - 1; i >= 0; i--)
        v = v << 8 | p[i];
    return v;
}

#endif
