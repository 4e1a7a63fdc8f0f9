/* The content key under an X25519 public key, by HPKE (RFC 9180, base mode; X25519, HKDF-SHA256, AES-256-GCM), info =
 * "sotto sealed 1 hpke" | id[16] | version u64, little-endian. Fields: `key` [32], the public key that it is for; `enc`
 * [32]; `sealed` [48], in base64. Whoever has the private key opens it: meant for the owner's own release service
 * (service/release.h), which gives the content key to attested enclaves only. Anybody can wrap for a public key; whose
 * the wrap is, the publisher's signature over the recipients says. */
#ifndef ST_PROTECT_SEALED_RECIPIENT_HPKE_H
#define ST_PROTECT_SEALED_RECIPIENT_HPKE_H

#include "crypto/hpke_file.h"
#include "protect/sealed/recipient.h"

/* INPUT: damaged; VERIFY: for another key, or of another container or version. */
int st_recipient_hpke_unwrap(const struct st_hpke_key *k, const uint8_t id[16], uint64_t version, const json_t *entry,
                             struct st_secret *out, struct st_err *e) ST_MUST_CHECK;

#endif
