#include "crypto/hpke.h"
#include "base/hooks.h"
#include "crypto/hkdf.h"

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define SECRET 32 /* Nsk, Nsecret, Ndh and Nh are 32 for both KEMs and for SHA-256 */

static const struct kem {
    unsigned id;
    size_t public_len;
    const char *name;
} kems[] = {
    {ST_HPKE_KEM_P256, 65, "P-256"},
    {ST_HPKE_KEM_X25519, 32, "X25519"},
};

static const struct kem *find_kem(unsigned id)
{
    for (size_t i = 0; i < sizeof kems / sizeof *kems; i++)
        if (kems[i].id == id)
            return &kems[i];
    return NULL;
}

size_t st_hpke_public_len(unsigned kem)
{
    const struct kem *k = find_kem(kem);
    return k ? k->public_len : 0;
}

int st_hpke_suite_check(struct st_hpke_suite s, struct st_err *e)
{
    if (!find_kem(s.kem))
        return st_fail(e, ST_UNSUPPORTED, "hpke: kem 0x%04x: want DHKEM of X25519 or P-256", s.kem);
    if (s.kdf != ST_HPKE_KDF_SHA256)
        return st_fail(e, ST_UNSUPPORTED, "hpke: kdf 0x%04x: want HKDF-SHA256", s.kdf);
    if (!st_aead_key_len(s.aead))
        return st_fail(e, ST_UNSUPPORTED, "hpke: aead 0x%04x: want AES-GCM or ChaCha20-Poly1305", s.aead);
    return 0;
}

/* ---- labelled HKDF (section 4) ---- */

/* Collects the input of one labelled call; "HPKE-v1" || suite_id || label comes first. */
struct text {
    uint8_t p[16 + 32 + ST_HPKE_TEXT_MAX];
    size_t len;
};

static void add(struct text *t, const void *p, size_t len)
{
    if (len)
        memcpy(t->p + t->len, p, len); /* every caller's parts are bounded by ST_HPKE_TEXT_MAX */
    t->len += len;
}

static void add_u16(struct text *t, size_t v)
{
    uint8_t b[2] = {(uint8_t)(v >> 8), (uint8_t)v};
    add(t, b, 2);
}

/* suite_id: "KEM" || kem inside the KEM (section 4.1), "HPKE" || kem || kdf || aead elsewhere (section 5.1). */
static void add_head(struct text *t, unsigned kem, const struct st_hpke_suite *s, const char *label)
{
    add(t, "HPKE-v1", 7);
    add(t, s ? "HPKE" : "KEM", s ? 4 : 3);
    add_u16(t, kem);
    if (s) {
        add_u16(t, s->kdf);
        add_u16(t, s->aead);
    }
    add(t, label, strlen(label));
}

static int labeled_extract(unsigned kem, const struct st_hpke_suite *s, const uint8_t *salt, size_t salt_len,
                           const char *label, const void *ikm, size_t len, uint8_t prk[SECRET], struct st_err *e)
{
    struct text t;
    t.len = 0;
    add_head(&t, kem, s, label);
    add(&t, ikm, len);
    int rc = st_hkdf_extract(t.p, t.len, salt, salt_len, prk, e);
    OPENSSL_cleanse(t.p, t.len);
    return rc;
}

static int labeled_expand(unsigned kem, const struct st_hpke_suite *s, const uint8_t prk[SECRET], const char *label,
                          const void *info, size_t info_len, uint8_t *out, size_t len, struct st_err *e)
{
    struct text t;
    t.len = 0;
    add_u16(&t, len);
    add_head(&t, kem, s, label);
    add(&t, info, info_len);
    return st_hkdf_expand(prk, t.p, t.len, out, len, e);
}

/* ---- keys ---- */

/* A public key of X25519 that takes the bytes of one peer after the other: making one anew walks through all names that
 * OpenSSL knows, which takes as long as the agreement. */
struct peer {
    pthread_mutex_t lock;
    EVP_PKEY *pkey; /* NULL until the first */
};

struct st_hpke_key {
    const struct kem *kem;
    EVP_PKEY *pkey;
    EVP_PKEY_CTX *derive; /* ready; copied for each agreement, so that threads may share the key */
    struct peer *peer;    /* X25519 only */
    uint8_t public[ST_HPKE_PUBLIC_MAX];
};

/* A P-256 key from its point (uncompressed), and its scalar unless NULL. OpenSSL refuses points off the curve. */
static EVP_PKEY *p256_key(const uint8_t point[65], const BIGNUM *scalar)
{
    EVP_PKEY *pkey = NULL;
    EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, "EC", NULL);
    OSSL_PARAM_BLD *b = OSSL_PARAM_BLD_new();
    OSSL_PARAM *params = NULL;
    if (ctx && b && OSSL_PARAM_BLD_push_utf8_string(b, OSSL_PKEY_PARAM_GROUP_NAME, "P-256", 0) == 1 &&
        OSSL_PARAM_BLD_push_octet_string(b, OSSL_PKEY_PARAM_PUB_KEY, point, 65) == 1 &&
        (!scalar || OSSL_PARAM_BLD_push_BN(b, OSSL_PKEY_PARAM_PRIV_KEY, scalar) == 1) &&
        (params = OSSL_PARAM_BLD_to_param(b)) != NULL && EVP_PKEY_fromdata_init(ctx) == 1 &&
        EVP_PKEY_fromdata(ctx, &pkey, scalar ? EVP_PKEY_KEYPAIR : EVP_PKEY_PUBLIC_KEY, params) != 1)
        pkey = NULL;
    OSSL_PARAM_free(params);
    OSSL_PARAM_BLD_free(b);
    EVP_PKEY_CTX_free(ctx);
    return pkey;
}

/* k->pkey and k->public of the scalar sk, which must be in 1..order-1; false otherwise. */
static bool p256_import(struct st_hpke_key *k, const uint8_t sk[SECRET])
{
    EC_GROUP *group = EC_GROUP_new_by_curve_name(NID_X9_62_prime256v1);
    EC_POINT *point = group ? EC_POINT_new(group) : NULL;
    BIGNUM *scalar = BN_secure_new();
    if (point && scalar && BN_bin2bn(sk, SECRET, scalar) && !BN_is_zero(scalar) &&
        BN_cmp(scalar, EC_GROUP_get0_order(group)) < 0) {
        BN_set_flags(scalar, BN_FLG_CONSTTIME);
        if (EC_POINT_mul(group, point, scalar, NULL, NULL, NULL) == 1 &&
            EC_POINT_point2oct(group, point, POINT_CONVERSION_UNCOMPRESSED, k->public, 65, NULL) == 65)
            k->pkey = p256_key(k->public, scalar);
    }
    BN_clear_free(scalar);
    EC_POINT_free(point);
    EC_GROUP_free(group);
    return k->pkey != NULL;
}

static bool x25519_import(struct st_hpke_key *k, const uint8_t sk[SECRET])
{
    size_t len = 32;
    k->pkey = EVP_PKEY_new_raw_private_key(EVP_PKEY_X25519, NULL, sk, SECRET);
    k->peer = calloc(1, sizeof *k->peer);
    if (!k->peer)
        return false;
    pthread_mutex_init(&k->peer->lock, NULL);
    return k->pkey && EVP_PKEY_get_raw_public_key(k->pkey, k->public, &len) == 1;
}

int st_hpke_key_import(unsigned kem, const uint8_t *sk, size_t len, struct st_hpke_key **out, struct st_err *e)
{
    const struct kem *m = find_kem(kem);
    *out = NULL;
    if (!m)
        return st_fail(e, ST_UNSUPPORTED, "hpke: kem 0x%04x: want DHKEM of X25519 or P-256", kem);
    if (len != SECRET)
        return st_fail(e, ST_INPUT, "hpke: private key: want %d bytes, got %zu", SECRET, len);
    struct st_hpke_key *k = calloc(1, sizeof *k);
    if (!k)
        return st_fail(e, ST_MEMORY, "hpke: out of memory");
    k->kem = m;
    bool ok = kem == ST_HPKE_KEM_P256 ? p256_import(k, sk) : x25519_import(k, sk);
    k->derive = ok ? EVP_PKEY_CTX_new(k->pkey, NULL) : NULL;
    if (!k->derive || EVP_PKEY_derive_init(k->derive) != 1) {
        st_hpke_key_free(k);
        return st_fail(e, ST_INPUT, "hpke: private key: not a %s scalar", m->name);
    }
    *out = k;
    return 0;
}

/* The first candidate in range (section 7.1.3). Another than the first is needed once in 2^32 times. */
static int p256_derive(const uint8_t prk[SECRET], struct st_hpke_key **out, struct st_err *e)
{
    uint8_t sk[SECRET];
    int rc = ST_INPUT;
    for (unsigned i = 0; i < 256 && rc == ST_INPUT; i++) {
        uint8_t counter = (uint8_t)i;
        rc = labeled_expand(ST_HPKE_KEM_P256, NULL, prk, "candidate", &counter, 1, sk, SECRET, e);
        if (!rc)
            rc = st_hpke_key_import(ST_HPKE_KEM_P256, sk, SECRET, out, e);
    }
    OPENSSL_cleanse(sk, sizeof sk);
    return rc;
}

int st_hpke_key_derive(unsigned kem, const uint8_t *ikm, size_t len, struct st_hpke_key **out, struct st_err *e)
{
    uint8_t prk[SECRET], sk[SECRET];
    *out = NULL;
    if (len < SECRET || len > ST_HPKE_TEXT_MAX)
        return st_fail(e, ST_INPUT, "hpke: key material: want %d to %d bytes, got %zu", SECRET, ST_HPKE_TEXT_MAX, len);
    int rc = labeled_extract(kem, NULL, NULL, 0, "dkp_prk", ikm, len, prk, e);
    if (!rc && kem == ST_HPKE_KEM_P256)
        rc = p256_derive(prk, out, e);
    else if (!rc && !(rc = labeled_expand(kem, NULL, prk, "sk", NULL, 0, sk, SECRET, e)))
        rc = st_hpke_key_import(kem, sk, SECRET, out, e);
    OPENSSL_cleanse(prk, sizeof prk);
    OPENSSL_cleanse(sk, sizeof sk);
    return rc;
}

int st_hpke_key_new(unsigned kem, struct st_hpke_key **out, struct st_err *e)
{
    uint8_t ikm[SECRET];
    *out = NULL;
    int rc = st_random(ikm, sizeof ikm, e);
    if (!rc)
        rc = st_hpke_key_derive(kem, ikm, sizeof ikm, out, e);
    OPENSSL_cleanse(ikm, sizeof ikm);
    return rc;
}

void st_hpke_key_free(struct st_hpke_key *k)
{
    if (k && k->peer) {
        EVP_PKEY_free(k->peer->pkey);
        pthread_mutex_destroy(&k->peer->lock);
        free(k->peer);
    }
    if (k) {
        EVP_PKEY_CTX_free(k->derive);
        EVP_PKEY_free(k->pkey);
    }
    free(k);
}

unsigned st_hpke_key_kem(const struct st_hpke_key *k)
{
    return k->kem->id;
}

const uint8_t *st_hpke_key_public(const struct st_hpke_key *k)
{
    return k->public;
}

/* ---- the KEM (section 4.1) ---- */

/* The public key of these bytes, until peer_done(); NULL when they are none. */
static EVP_PKEY *peer_key(const struct st_hpke_key *k, const uint8_t *bytes)
{
    if (!k->peer) /* the one encoding of section 7.1.1 */
        return bytes[0] == POINT_CONVERSION_UNCOMPRESSED ? p256_key(bytes, NULL) : NULL;
    if (pthread_mutex_trylock(&k->peer->lock) != 0) /* another thread's just now */
        return EVP_PKEY_new_raw_public_key(EVP_PKEY_X25519, NULL, bytes, 32);
    bool ok = k->peer->pkey ? EVP_PKEY_set1_encoded_public_key(k->peer->pkey, bytes, 32) == 1
                            : (k->peer->pkey = EVP_PKEY_new_raw_public_key(EVP_PKEY_X25519, NULL, bytes, 32)) != NULL;
    if (!ok)
        pthread_mutex_unlock(&k->peer->lock);
    return ok ? k->peer->pkey : NULL;
}

static void peer_done(const struct st_hpke_key *k, EVP_PKEY *pkey)
{
    if (pkey && k->peer && pkey == k->peer->pkey)
        pthread_mutex_unlock(&k->peer->lock);
    else
        EVP_PKEY_free(pkey);
}

/* dh = DH(k, peer): the x-coordinate for P-256. False when peer is no public key, or dh is zero. */
static bool diffie_hellman(const struct st_hpke_key *k, const uint8_t *peer, uint8_t dh[SECRET])
{
    static const uint8_t zero[SECRET];
    size_t len = SECRET;
    /* Any 32 bytes are a key for X25519; whether a point is on its curve is to be checked. */
    bool check = k->kem->id != ST_HPKE_KEM_X25519;
    EVP_PKEY *pkey = peer_key(k, peer);
    EVP_PKEY_CTX *ctx = pkey ? EVP_PKEY_CTX_dup(k->derive) : NULL;
    bool ok = ctx && EVP_PKEY_derive_set_peer_ex(ctx, pkey, check) == 1 && EVP_PKEY_derive(ctx, dh, &len) == 1 &&
              len == SECRET && CRYPTO_memcmp(dh, zero, SECRET) != 0;
    EVP_PKEY_CTX_free(ctx);
    peer_done(k, pkey);
    return ok;
}

/* ExtractAndExpand(dh, enc || pk of the recipient). */
static int shared_secret(const struct kem *m, const uint8_t dh[SECRET], const uint8_t *enc, const uint8_t *pk,
                         uint8_t out[SECRET], struct st_err *e)
{
    uint8_t context[2 * ST_HPKE_PUBLIC_MAX], prk[SECRET];
    memcpy(context, enc, m->public_len);
    memcpy(context + m->public_len, pk, m->public_len);
    int rc = labeled_extract(m->id, NULL, NULL, 0, "eae_prk", dh, SECRET, prk, e);
    if (!rc)
        rc = labeled_expand(m->id, NULL, prk, "shared_secret", context, 2 * m->public_len, out, SECRET, e);
    OPENSSL_cleanse(prk, sizeof prk);
    return rc;
}

/* KeySchedule of section 5.1 for mode_base: no psk, an empty psk_id. */
static int schedule(struct st_hpke *h, const uint8_t shared[SECRET], const void *info, size_t info_len, bool seals,
                    struct st_err *e)
{
    const struct st_hpke_suite *s = &h->suite;
    uint8_t context[1 + 2 * SECRET] = {0}; /* mode, psk_id_hash, info_hash */
    uint8_t secret[SECRET], key[ST_SEQUENCE_KEY_MAX], nonce[ST_SEQUENCE_NONCE];
    int rc = labeled_extract(s->kem, s, NULL, 0, "psk_id_hash", NULL, 0, context + 1, e);
    if (!rc)
        rc = labeled_extract(s->kem, s, NULL, 0, "info_hash", info, info_len, context + 1 + SECRET, e);
    if (!rc)
        rc = labeled_extract(s->kem, s, shared, SECRET, "secret", NULL, 0, secret, e);
    if (!rc)
        rc = labeled_expand(s->kem, s, secret, "key", context, sizeof context, key, st_aead_key_len(s->aead), e);
    if (!rc)
        rc = labeled_expand(s->kem, s, secret, "base_nonce", context, sizeof context, nonce, sizeof nonce, e);
    if (!rc)
        rc = labeled_expand(s->kem, s, secret, "exp", context, sizeof context, h->exporter, SECRET, e);
    if (!rc)
        rc = st_sequence_init(&h->sequence, s->aead, key, nonce, seals, e);
    OPENSSL_cleanse(secret, sizeof secret);
    OPENSSL_cleanse(key, sizeof key);
    OPENSSL_cleanse(nonce, sizeof nonce);
    return rc;
}

/* ---- contexts ---- */

/* Both ends: own is the ephemeral key of a sender or the private key of a receiver, peer the other one's public key. */
static int setup(struct st_hpke *h, struct st_hpke_suite suite, const struct st_hpke_key *own, const uint8_t *peer,
                 size_t peer_len, const void *info, size_t info_len, bool seals, struct st_err *e)
{
    uint8_t dh[SECRET] = {0}, shared[SECRET] = {0};
    *h = (struct st_hpke){.suite = suite};
    int rc = st_hpke_suite_check(suite, e);
    if (rc)
        return rc;
    if (own->kem->id != suite.kem)
        return st_fail(e, ST_USAGE, "hpke: the private key is of another kem than the suite");
    if (info_len > ST_HPKE_TEXT_MAX)
        return st_fail(e, ST_USAGE, "hpke: info: want at most %d bytes, got %zu", ST_HPKE_TEXT_MAX, info_len);
    if (peer_len != own->kem->public_len || !diffie_hellman(own, peer, dh))
        rc = seals ? st_fail(e, ST_INPUT, "hpke: public key: want %zu bytes of a %s key", own->kem->public_len,
                             own->kem->name)
                   : st_fail(e, ST_VERIFY, "hpke: encapsulated key: want %zu bytes of a %s key", own->kem->public_len,
                             own->kem->name);
    if (!rc)
        rc = shared_secret(own->kem, dh, seals ? own->public : peer, seals ? peer : own->public, shared, e);
    if (!rc)
        rc = schedule(h, shared, info, info_len, seals, e);
    OPENSSL_cleanse(dh, sizeof dh);
    OPENSSL_cleanse(shared, sizeof shared);
    if (rc)
        st_hpke_wipe(h);
    return rc;
}

int st_hpke_send_from(struct st_hpke *h, struct st_hpke_suite suite, const struct st_hpke_key *ephemeral,
                      const uint8_t *pk, size_t len, const void *info, size_t info_len, uint8_t *enc, struct st_err *e)
{
    int rc = setup(h, suite, ephemeral, pk, len, info, info_len, true, e);
    if (!rc)
        memcpy(enc, ephemeral->public, ephemeral->kem->public_len);
    return rc;
}

int st_hpke_send(struct st_hpke *h, struct st_hpke_suite suite, const uint8_t *pk, size_t len, const void *info,
                 size_t info_len, uint8_t *enc, struct st_err *e)
{
    struct st_hpke_key *ephemeral;
    *h = (struct st_hpke){.suite = suite};
    int rc = st_hpke_key_new(suite.kem, &ephemeral, e);
    if (!rc)
        rc = st_hpke_send_from(h, suite, ephemeral, pk, len, info, info_len, enc, e);
    st_hpke_key_free(ephemeral);
    return rc;
}

int st_hpke_receive(struct st_hpke *h, struct st_hpke_suite suite, const struct st_hpke_key *k, const uint8_t *enc,
                    size_t len, const void *info, size_t info_len, struct st_err *e)
{
    return setup(h, suite, k, enc, len, info, info_len, false, e);
}

void st_hpke_wipe(struct st_hpke *h)
{
    st_sequence_wipe(&h->sequence);
    OPENSSL_cleanse(h, sizeof *h);
}

int st_hpke_export(const struct st_hpke *h, const void *context, size_t context_len, uint8_t *out, size_t len,
                   struct st_err *e)
{
    if (context_len > ST_HPKE_TEXT_MAX || len > 255 * 32)
        return st_fail(e, ST_USAGE, "hpke: export: %zu bytes for a context of %zu are too many", len, context_len);
    return labeled_expand(h->suite.kem, &h->suite, h->exporter, "sec", context, context_len, out, len, e);
}

/* ---- one message ---- */

int st_hpke_seal_secret(struct st_hpke_suite suite, const uint8_t *pk, size_t pk_len, const void *info, size_t info_len,
                        const struct st_secret *secret, uint8_t *enc, uint8_t *sealed, struct st_err *e)
{
    struct st_hpke h = {0};
    int rc = st_hpke_send(&h, suite, pk, pk_len, info, info_len, enc, e);
    if (!rc)
        rc = st_sequence_seal(&h.sequence, NULL, 0, secret->p, secret->len, sealed, e);
    st_hpke_wipe(&h);
    return rc;
}

int st_hpke_open_secret(struct st_hpke_suite suite, const struct st_hpke_key *k, const uint8_t *enc, size_t enc_len,
                        const void *info, size_t info_len, const uint8_t *sealed, size_t len, struct st_secret *out,
                        struct st_err *e)
{
    struct st_hpke h = {0};
    *out = (struct st_secret){0};
    if (len <= ST_SEQUENCE_TAG)
        return st_fail(e, ST_VERIFY, "hpke: %zu bytes are too few", len);
    int rc = st_secret_init(out, len - ST_SEQUENCE_TAG, e);
    if (!rc)
        rc = st_hpke_receive(&h, suite, k, enc, enc_len, info, info_len, e);
    if (!rc)
        rc = st_sequence_open(&h.sequence, NULL, 0, sealed, len, out->p, e);
    st_hpke_wipe(&h);
    if (rc)
        st_secret_wipe(out);
    return rc;
}
