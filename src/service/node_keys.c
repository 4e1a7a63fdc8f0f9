#include "service/node_keys.h"
#include "base/hooks.h"
#include "crypto/aead.h"

#include <stdlib.h>
#include <string.h>

static const struct st_hpke_suite suite = {ST_HPKE_KEM_X25519, ST_HPKE_KDF_SHA256, ST_AEAD_AES_128_GCM};

/* Share of a pair's requests at which the next one is made: senders need time to learn of it. */
#define NEARLY_FULL 0.9

void st_node_signer_release(struct st_node_signer *s)
{
    if (!s || --s->n_held)
        return;
    st_ed25519_free(s->key);
    free(s);
}

static int signer_new(struct st_node_signer **out, struct st_err *e)
{
    if (st_alloc(out, 1, sizeof **out, "receipt key", e))
        return e->code;
    (*out)->n_held = 1;
    if (st_ed25519_new(&(*out)->key, e)) {
        free(*out);
        *out = NULL;
        return e->code;
    }
    return 0;
}

/* The ring's current key belongs to this signer from now on. */
static void set_current(struct st_node_keys *k, struct st_node_signer *s)
{
    const struct st_ohttp_config *c = st_keyring_current(k->ring);
    (void)st_keyring_find(k->ring, c->id, suite, &s->serial);
    k->current = s;
    k->rotate_at = st_now() + k->rotate_s;
}

int st_node_keys_init(struct st_node_keys *k, size_t max_requests, double rotate_s, double grace_s, struct st_err *e)
{
    const struct st_keyring_opts o = {
        .kem = suite.kem, .aeads = {suite.aead}, .n_aeads = 1, .max_requests = max_requests};
    struct st_node_signer *s;
    *k = (struct st_node_keys){.rotate_s = rotate_s, .grace_s = grace_s};
    if (signer_new(&s, e))
        return e->code;
    if (st_keyring_new(&o, &k->ring, e)) {
        st_node_signer_release(s);
        return e->code;
    }
    set_current(k, s);
    return 0;
}

static void forget(struct st_node_keys *k)
{
    st_keyring_forget(k->ring);
    st_node_signer_release(k->previous);
    k->previous = NULL;
}

void st_node_keys_wipe(struct st_node_keys *k)
{
    st_keyring_free(k->ring);
    st_node_signer_release(k->current);
    st_node_signer_release(k->previous);
    *k = (struct st_node_keys){0};
}

static int rotate(struct st_node_keys *k, struct st_err *e)
{
    struct st_node_signer *s;
    if (signer_new(&s, e))
        return e->code;
    if (st_keyring_rotate(k->ring, e)) {
        st_node_signer_release(s);
        return e->code;
    }
    st_node_signer_release(k->previous);
    k->previous = k->current;
    k->forget_at = st_now() + k->grace_s;
    set_current(k, s);
    k->n_rotations++;
    return 0;
}

int st_node_keys_tick(struct st_node_keys *k, bool *rotated, struct st_err *e)
{
    const double now = st_now();
    *rotated = now >= k->rotate_at || st_keyring_used(k->ring) >= NEARLY_FULL;
    if (*rotated)
        return rotate(k, e);
    if (k->previous && now >= k->forget_at)
        forget(k);
    return 0;
}

struct st_node_signer *st_node_keys_signer(struct st_node_keys *k, uint64_t serial)
{
    struct st_node_signer *s = k->current && k->current->serial == serial     ? k->current
                               : k->previous && k->previous->serial == serial ? k->previous
                                                                              : NULL;
    if (s)
        s->n_held++;
    return s;
}

void st_node_keys_bind(const struct st_node_keys *k, struct st_binding *b)
{
    b->suite = suite;
    b->hpke_key_len = st_hpke_public_len(suite.kem);
    memcpy(b->hpke_key, st_keyring_current(k->ring)->public, b->hpke_key_len);
    st_ed25519_public(k->current->key, b->receipt_key);
}
