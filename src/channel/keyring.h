/* The keys of a gateway or a node: the current one and the one before it, and which encapsulated keys each has seen.
 * Requests for either open; rotation makes a new current key and overwrites the one before the last. When to rotate is
 * the caller's (an hour has passed, or st_keyring_used() says that the set fills up); keys are never written anywhere.
 *
 * An encapsulated key is accepted once in the life of its key, so that a recorded request cannot be sent again. The set
 * holds max_requests digests of 16 bytes (keyed by a random salt of the ring's, so that nobody can aim at one place of
 * the table) in memory that is allocated with the key; when it is full the key takes no more requests. Only requests
 * whose first piece has opened enter it. X25519 ignores one bit of an encapsulated key, but the key schedule does not:
 * what opens is exactly what was sent.
 * The id of a key is the first byte of its public key, so that whoever has the key (from evidence, which holds no id)
 * can seal for it; two keys of a ring never share one. Not for several threads at once. */
#ifndef ST_CHANNEL_KEYRING_H
#define ST_CHANNEL_KEYRING_H

#include "channel/ohttp_config.h"

struct st_keyring;

struct st_keyring_opts {
    uint16_t kem;
    uint16_t aeads[3]; /* in order of preference */
    size_t n_aeads;
    size_t max_requests; /* of one key; 1 to 2^24 */
};

/* With a fresh current key. */
int st_keyring_new(const struct st_keyring_opts *o, struct st_keyring **out, struct st_err *e) ST_MUST_CHECK;
/* The same with a current key of the caller's, which the ring takes over, and its id: for test vectors. */
int st_keyring_new_from(const struct st_keyring_opts *o, struct st_hpke_key *key, uint8_t id, struct st_keyring **out,
                        struct st_err *e) ST_MUST_CHECK;
void st_keyring_free(struct st_keyring *r);
/* A fresh key becomes current; on error nothing changes. */
int st_keyring_rotate(struct st_keyring *r, struct st_err *e) ST_MUST_CHECK;
/* Overwrites the previous key, if there is one. */
void st_keyring_forget(struct st_keyring *r);

/* The current key's configuration, borrowed until the ring changes; and that of the previous key, or NULL. */
const struct st_ohttp_config *st_keyring_current(const struct st_keyring *r);
const struct st_ohttp_config *st_keyring_previous(const struct st_keyring *r);
/* Share of the current key's set that is taken, 0 to 1. */
double st_keyring_used(const struct st_keyring *r);

/* ---- for channel/ohttp.c ---- */

/* The key of that id, if it takes the suite; *serial names it for st_keyring_claim(). NULL otherwise. */
const struct st_hpke_key *st_keyring_find(const struct st_keyring *r, uint8_t id, struct st_hpke_suite suite,
                                          uint64_t *serial);
/* Takes the encapsulated key: VERIFY when it was taken before or its key is gone, POLICY when the set is full. */
int st_keyring_claim(struct st_keyring *r, uint64_t serial, const uint8_t *enc, size_t len,
                     struct st_err *e) ST_MUST_CHECK;

#endif
