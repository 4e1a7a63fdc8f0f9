/* Key configurations of Oblivious HTTP (RFC 9458 section 3): what a client needs to seal for a gateway or a node.
 * Reading is strict: one configuration exactly, no bytes behind it. Symmetric suites that are not ours are skipped; a
 * configuration with another KEM, or without a suite of ours, is UNSUPPORTED. The public key itself is checked when it
 * is used (crypto/hpke.h).
 * Limits: ST_OHTTP_SUITES_MAX suites of a configuration, ST_OHTTP_CONFIGS_MAX configurations of a list. */
#ifndef ST_CHANNEL_OHTTP_CONFIG_H
#define ST_CHANNEL_OHTTP_CONFIG_H

#include "base/buf.h"
#include "crypto/hpke.h"

#define ST_OHTTP_KEYS_TYPE "application/ohttp-keys"
#define ST_OHTTP_SUITES_MAX 16
#define ST_OHTTP_CONFIGS_MAX 16

struct st_ohttp_config {
    uint8_t id;
    uint16_t kem;
    uint8_t public[ST_HPKE_PUBLIC_MAX]; /* [st_hpke_public_len(kem)] */
    struct {
        uint16_t kdf, aead;
    } suites[ST_OHTTP_SUITES_MAX]; /* in the gateway's order of preference */
    size_t n_suites;               /* 1 or more */
};

void st_ohttp_config_add(struct st_buf *out, const struct st_ohttp_config *c);
/* INPUT for bytes that are no configuration. */
int st_ohttp_config_parse(struct st_span bytes, struct st_ohttp_config *c, struct st_err *e) ST_MUST_CHECK;

/* The form "application/ohttp-keys": each configuration behind its length in two bytes. */
void st_ohttp_config_add_list(struct st_buf *out, const struct st_ohttp_config *c, size_t n);
/* Those of the list that we can use, in its order; UNSUPPORTED when there is none. Two with one id are INPUT: a client
 * could not say which it means. */
int st_ohttp_config_parse_list(struct st_span bytes, struct st_ohttp_config c[ST_OHTTP_CONFIGS_MAX], size_t *n,
                               struct st_err *e) ST_MUST_CHECK;

#endif
