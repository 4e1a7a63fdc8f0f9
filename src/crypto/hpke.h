/* Hybrid public key encryption, base mode (RFC 9180): KEMs DHKEM(X25519, HKDF-SHA256) and DHKEM(P-256, HKDF-SHA256),
 * KDF HKDF-SHA256, AEADs AES-128-GCM, AES-256-GCM, ChaCha20-Poly1305, and export. Anybody who has the public key can
 * seal: base mode says nothing about who did. All of it is over OpenSSL; 3.0 has no HPKE of its own.
 *
 * A public key from outside is checked when it is used: its length, that a P-256 point is on the curve (and not the one
 * at infinity), that the shared secret of X25519 is not zero (section 7.1.4).
 * Limits: ST_HPKE_TEXT_MAX bytes of info, exporter context or key material; 2^32 messages of one context
 * (crypto/sequence.h). Intermediate secrets are overwritten; private keys and AEAD keys live in OpenSSL's memory, which
 * overwrites them when freed and does not lock them: a program calls st_secret_process(). */
#ifndef ST_CRYPTO_HPKE_H
#define ST_CRYPTO_HPKE_H

#include "base/secret.h"
#include "crypto/sequence.h"

#define ST_HPKE_KEM_P256 0x0010
#define ST_HPKE_KEM_X25519 0x0020
#define ST_HPKE_KDF_SHA256 0x0001

#define ST_HPKE_PUBLIC_MAX 65 /* of an encoded public key and of an encapsulated key */
#define ST_HPKE_TEXT_MAX 512

struct st_hpke_suite {
    uint16_t kem, kdf;
    uint16_t aead; /* enum st_aead */
};

/* UNSUPPORTED names the part of the suite that is not one of the above. */
int st_hpke_suite_check(struct st_hpke_suite s, struct st_err *e) ST_MUST_CHECK;
/* Length of an encoded public key, which is that of an encapsulated key; 0 for a KEM that is not one of the above. */
size_t st_hpke_public_len(unsigned kem);

/* ---- private keys ---- */
struct st_hpke_key;

/* From getrandom(2). */
int st_hpke_key_new(unsigned kem, struct st_hpke_key **out, struct st_err *e) ST_MUST_CHECK;
/* DeriveKeyPair(ikm) of section 7.1.3: as secret as ikm is. 32 <= len <= ST_HPKE_TEXT_MAX. */
int st_hpke_key_derive(unsigned kem, const uint8_t *ikm, size_t len, struct st_hpke_key **out,
                       struct st_err *e) ST_MUST_CHECK;
/* DeserializePrivateKey (section 7.1.2): 32 bytes for both KEMs. */
int st_hpke_key_import(unsigned kem, const uint8_t *sk, size_t len, struct st_hpke_key **out,
                       struct st_err *e) ST_MUST_CHECK;
void st_hpke_key_free(struct st_hpke_key *k);
unsigned st_hpke_key_kem(const struct st_hpke_key *k);
/* The encoded public key, borrowed from k; its length is st_hpke_public_len(). */
const uint8_t *st_hpke_key_public(const struct st_hpke_key *k);

/* ---- contexts ---- */
struct st_hpke {
    struct st_hpke_suite suite;
    struct st_sequence sequence; /* of the context's messages */
    uint8_t exporter[32];
};

/* Sender for the public key pk [len]: writes the encapsulated key to enc [st_hpke_public_len()]. INPUT for a key that
 * is none; a zeroed context may be wiped. */
int st_hpke_send(struct st_hpke *h, struct st_hpke_suite suite, const uint8_t *pk, size_t len, const void *info,
                 size_t info_len, uint8_t *enc, struct st_err *e) ST_MUST_CHECK;
/* The same with an ephemeral key of the caller's: for test vectors. One that serves twice for a recipient reveals what
 * both contexts seal. */
int st_hpke_send_from(struct st_hpke *h, struct st_hpke_suite suite, const struct st_hpke_key *ephemeral,
                      const uint8_t *pk, size_t len, const void *info, size_t info_len, uint8_t *enc,
                      struct st_err *e) ST_MUST_CHECK;
/* Receiver with the private key k of the encapsulated key enc [len]. VERIFY for an encapsulated key that is none. */
int st_hpke_receive(struct st_hpke *h, struct st_hpke_suite suite, const struct st_hpke_key *k, const uint8_t *enc,
                    size_t len, const void *info, size_t info_len, struct st_err *e) ST_MUST_CHECK;
void st_hpke_wipe(struct st_hpke *h);

/* A sender seals and a receiver opens by h->sequence (crypto/sequence.h). Both can export: a secret of len bytes
 * (<= 255 * 32) bound to the context's label (section 5.3). */
int st_hpke_export(const struct st_hpke *h, const void *context, size_t context_len, uint8_t *out, size_t len,
                   struct st_err *e) ST_MUST_CHECK;

/* ---- one message (section 6.1) ---- */

/* A secret of len bytes to pk: enc [st_hpke_public_len()], sealed [len + ST_SEQUENCE_TAG]. INPUT as st_hpke_send(). */
int st_hpke_seal_secret(struct st_hpke_suite suite, const uint8_t *pk, size_t pk_len, const void *info, size_t info_len,
                        const struct st_secret *secret, uint8_t *enc, uint8_t *sealed, struct st_err *e) ST_MUST_CHECK;
/* What was sealed by it [len], the caller's to wipe; nothing is there after an error. VERIFY: not for this key and
 * info, or changed. */
int st_hpke_open_secret(struct st_hpke_suite suite, const struct st_hpke_key *k, const uint8_t *enc, size_t enc_len,
                        const void *info, size_t info_len, const uint8_t *sealed, size_t len, struct st_secret *out,
                        struct st_err *e) ST_MUST_CHECK;

#endif
