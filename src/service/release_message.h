/* What an enclave and the owner's release service say to each other (docs/sealed.md, "Key release"), JSON both ways:
 *
 *   POST /challenge  {}  ->  {"nonce": HEX}
 *   POST /release    {"container": {"id": HEX, "version": N, "digest": HEX}, "wrap": {..}, "evidence": {..}}
 *                    ->  {"enc": BASE64, "sealed": BASE64}
 *
 * wrap: the recipient of kind hpke as the container has it; absent when it has none. evidence: a bundle
 * (attest/evidence.h) whose binding holds the nonce, the enclave's fresh X25519 key and the container's digest as the
 * model's, and zeros as receipt key: no node's evidence looks like that. The reply is HPKE (base mode,
 * ST_RELEASE_SUITE) to that key, info = "sotto release 1" | id | version u64, little-endian | digest | nonce; inside is
 * the content key. Anybody can answer; whether it is the key, the container's mac says. Hostile input on both sides. */
#ifndef ST_SERVICE_RELEASE_MESSAGE_H
#define ST_SERVICE_RELEASE_MESSAGE_H

#include "attest/evidence.h"
#include "base/secret.h"
#include "text/json.h"

#define ST_RELEASE_NONCE 32
#define ST_RELEASE_KEY 32 /* bytes of a content key */
/* A bundle as it is, and what stands around it. */
#define ST_RELEASE_MAX_REQUEST (ST_EVIDENCE_MAX_BYTES + (16u << 10))
#define ST_RELEASE_MAX_REPLY 4096

extern const struct st_hpke_suite st_release_suite; /* X25519, HKDF-SHA256, AES-256-GCM */

/* Which container is asked for. */
struct st_release_for {
    uint8_t id[16], digest[32];
    uint64_t version;
};

struct st_release_request {
    struct st_release_for what;
    const json_t *wrap; /* NULL = none; borrowed from body */
    struct st_bundle evidence;
    json_t *body;
};
/* INPUT names the field. */
int st_release_request_parse(struct st_span text, struct st_release_request *out, struct st_err *e) ST_MUST_CHECK;
void st_release_request_free(struct st_release_request *r);
/* Appends the text of one; body and memory are not used. */
int st_release_request_write(const struct st_release_request *r, struct st_buf *out, struct st_err *e) ST_MUST_CHECK;

void st_release_challenge_write(const uint8_t nonce[ST_RELEASE_NONCE], struct st_buf *out);
int st_release_challenge_parse(struct st_span text, uint8_t nonce[ST_RELEASE_NONCE], struct st_err *e) ST_MUST_CHECK;

/* Seals the content key to the binding's key, under its nonce. */
int st_release_seal(const struct st_binding *b, const struct st_release_for *what, const struct st_secret *content_key,
                    struct st_buf *out, struct st_err *e) ST_MUST_CHECK;
/* INPUT: not a reply; VERIFY: not for this key, container or nonce. */
int st_release_open(const struct st_hpke_key *k, const uint8_t nonce[ST_RELEASE_NONCE],
                    const struct st_release_for *what, struct st_span text, struct st_secret *content_key,
                    struct st_err *e) ST_MUST_CHECK;

#endif
