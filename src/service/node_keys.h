/* A node's keys: the one that requests are sealed for and the one that receipts are signed with, made together,
 * replaced together, never written. After a rotation the pair before it still opens requests for a grace, or until the
 * next rotation; a reply that is under way keeps its receipt key until it ends. Event thread only. */
#ifndef ST_SERVICE_NODE_KEYS_H
#define ST_SERVICE_NODE_KEYS_H

#include "attest/evidence.h"
#include "channel/keyring.h"
#include "crypto/ed25519.h"

/* The signing half of a pair; counted by who holds it. */
struct st_node_signer {
    struct st_ed25519 *key;
    uint64_t serial; /* of its other half, st_ohttp.serial */
    unsigned n_held;
};
void st_node_signer_release(struct st_node_signer *s); /* NULL is fine */

struct st_node_keys {
    struct st_keyring *ring;
    struct st_node_signer *current, *previous;
    double rotate_s, grace_s;    /* seconds */
    double rotate_at, forget_at; /* of st_now() */
    uint64_t n_rotations;
};

/* rotate_s: life of a pair; grace_s: of the one before it. max_requests: of one pair, channel/keyring.h. */
int st_node_keys_init(struct st_node_keys *k, size_t max_requests, double rotate_s, double grace_s,
                      struct st_err *e) ST_MUST_CHECK;
/* Overwrites all of them; signers that are held stay until they are released. */
void st_node_keys_wipe(struct st_node_keys *k);
/* Once a second: what is due. *rotated says whether the current pair is another one now. */
int st_node_keys_tick(struct st_node_keys *k, bool *rotated, struct st_err *e) ST_MUST_CHECK;
/* The signer of that pair, held for the caller; NULL when it is gone. */
struct st_node_signer *st_node_keys_signer(struct st_node_keys *k, uint64_t serial);
/* Suite and public keys of the current pair. */
void st_node_keys_bind(const struct st_node_keys *k, struct st_binding *b);

#endif
