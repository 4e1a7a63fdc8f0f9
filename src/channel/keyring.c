#include "channel/keyring.h"
#include "base/hooks.h"
#include "crypto/digest.h"

#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

#define DIGEST 16 /* bytes kept of each digest: 2^24 of them collide with probability 2^-80 */

struct entry {
    struct st_hpke_key *key; /* NULL: no such entry */
    struct st_ohttp_config config;
    uint64_t serial;
    uint8_t (*seen)[DIGEST]; /* open addressing, [n_slots]; all zeros = free */
    size_t n_seen;
};

struct st_keyring {
    struct st_keyring_opts opts;
    struct entry current, previous;
    uint64_t next_serial;
    size_t n_slots; /* a power of two, at least twice max_requests */
    uint8_t salt[32];
};

static void entry_wipe(struct entry *x)
{
    st_hpke_key_free(x->key);
    free(x->seen);
    *x = (struct entry){0};
}

/* Takes key over, also when it fails. */
static int entry_init(struct st_keyring *r, struct entry *x, struct st_hpke_key *key, uint8_t id, struct st_err *e)
{
    *x = (struct entry){.key = key, .serial = ++r->next_serial};
    x->config = (struct st_ohttp_config){.id = id, .kem = r->opts.kem, .n_suites = r->opts.n_aeads};
    memcpy(x->config.public, st_hpke_key_public(key), st_hpke_public_len(r->opts.kem));
    for (size_t i = 0; i < r->opts.n_aeads; i++) {
        x->config.suites[i].kdf = ST_HPKE_KDF_SHA256;
        x->config.suites[i].aead = r->opts.aeads[i];
    }
    int rc = st_alloc(&x->seen, r->n_slots, DIGEST, "keyring: set of encapsulated keys", e);
    if (rc)
        entry_wipe(x);
    return rc;
}

static int opts_check(const struct st_keyring_opts *o, struct st_err *e)
{
    if (o->n_aeads < 1 || o->n_aeads > 3 || o->max_requests < 1 || o->max_requests > 1u << 24)
        return st_fail(e, ST_USAGE, "keyring: want 1 to 3 aeads and 1 to 2^24 requests");
    for (size_t i = 0; i < o->n_aeads; i++) {
        int rc = st_hpke_suite_check((struct st_hpke_suite){o->kem, ST_HPKE_KDF_SHA256, o->aeads[i]}, e);
        if (rc)
            return rc;
    }
    return 0;
}

int st_keyring_new_from(const struct st_keyring_opts *o, struct st_hpke_key *key, uint8_t id, struct st_keyring **out,
                        struct st_err *e)
{
    *out = NULL;
    struct st_keyring *r = calloc(1, sizeof *r);
    int rc = opts_check(o, e);
    if (!rc && (!r || st_hpke_key_kem(key) != o->kem))
        rc = r ? st_fail(e, ST_USAGE, "keyring: the key is of another kem")
               : st_fail(e, ST_MEMORY, "keyring: no memory");
    if (!rc)
        rc = st_random(r->salt, sizeof r->salt, e);
    if (rc) {
        st_hpke_key_free(key);
        free(r);
        return rc;
    }
    r->opts = *o;
    for (r->n_slots = 2; r->n_slots < 2 * o->max_requests;)
        r->n_slots *= 2;
    rc = entry_init(r, &r->current, key, id, e);
    if (rc)
        st_keyring_free(r);
    else
        *out = r;
    return rc;
}

int st_keyring_new(const struct st_keyring_opts *o, struct st_keyring **out, struct st_err *e)
{
    struct st_hpke_key *key;
    *out = NULL;
    int rc = st_hpke_key_new(o->kem, &key, e);
    return rc ? rc : st_keyring_new_from(o, key, st_hpke_key_public(key)[0], out, e);
}

void st_keyring_free(struct st_keyring *r)
{
    if (!r)
        return;
    entry_wipe(&r->current);
    entry_wipe(&r->previous);
    OPENSSL_cleanse(r, sizeof *r);
    free(r);
}

/* Public keys are as good as random: another one is drawn where its id is taken. */
static int fresh_key(const struct st_keyring *r, struct st_hpke_key **out, struct st_err *e)
{
    int rc;
    while ((rc = st_hpke_key_new(r->opts.kem, out, e)) == 0 && st_hpke_key_public(*out)[0] == r->current.config.id)
        st_hpke_key_free(*out);
    return rc;
}

int st_keyring_rotate(struct st_keyring *r, struct st_err *e)
{
    struct st_hpke_key *key;
    struct entry fresh;
    int rc = fresh_key(r, &key, e);
    if (!rc)
        rc = entry_init(r, &fresh, key, st_hpke_key_public(key)[0], e);
    if (rc)
        return rc;
    entry_wipe(&r->previous);
    r->previous = r->current;
    r->current = fresh;
    return 0;
}

void st_keyring_forget(struct st_keyring *r)
{
    entry_wipe(&r->previous);
}

const struct st_ohttp_config *st_keyring_current(const struct st_keyring *r)
{
    return &r->current.config;
}

const struct st_ohttp_config *st_keyring_previous(const struct st_keyring *r)
{
    return r->previous.key ? &r->previous.config : NULL;
}

double st_keyring_used(const struct st_keyring *r)
{
    return (double)r->current.n_seen / (double)r->opts.max_requests;
}

static bool takes(const struct entry *x, uint8_t id, struct st_hpke_suite s)
{
    if (!x->key || x->config.id != id || x->config.kem != s.kem)
        return false;
    for (size_t i = 0; i < x->config.n_suites; i++)
        if (x->config.suites[i].kdf == s.kdf && x->config.suites[i].aead == s.aead)
            return true;
    return false;
}

const struct st_hpke_key *st_keyring_find(const struct st_keyring *r, uint8_t id, struct st_hpke_suite suite,
                                          uint64_t *serial)
{
    const struct entry *x = takes(&r->current, id, suite)    ? &r->current
                            : takes(&r->previous, id, suite) ? &r->previous
                                                             : NULL;
    *serial = x ? x->serial : 0;
    return x ? x->key : NULL;
}

int st_keyring_claim(struct st_keyring *r, uint64_t serial, const uint8_t *enc, size_t len, struct st_err *e)
{
    static const uint8_t free_slot[DIGEST];
    uint8_t text[32 + ST_HPKE_PUBLIC_MAX], digest[32];
    struct entry *x = r->current.serial == serial ? &r->current : &r->previous;
    if (!x->key || x->serial != serial || len > ST_HPKE_PUBLIC_MAX)
        return st_fail(e, ST_VERIFY, "ohttp: the message does not open"); /* its key was overwritten meanwhile */
    memcpy(text, r->salt, 32);
    memcpy(text + 32, enc, len);
    st_sha256(text, 32 + len, digest);
    digest[0] |= 1; /* never all zeros */
    size_t at;
    memcpy(&at, digest + DIGEST, sizeof at); /* another part of the digest than the one that is compared */
    for (at &= r->n_slots - 1; memcmp(x->seen[at], free_slot, DIGEST) != 0; at = (at + 1) & (r->n_slots - 1))
        if (memcmp(x->seen[at], digest, DIGEST) == 0)
            return st_fail(e, ST_VERIFY, "ohttp: the message does not open"); /* a replay */
    if (x->n_seen == r->opts.max_requests)
        return st_fail(e, ST_POLICY, "ohttp: the key has taken its %zu requests", r->opts.max_requests);
    memcpy(x->seen[at], digest, DIGEST);
    x->n_seen++;
    return 0;
}
