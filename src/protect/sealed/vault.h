/* An opened container: its content key is here. Decrypts segments; everything that comes out is the caller's to keep in
 * locked memory (base/locked.h). Any thread. Limit: while a segment is decrypted, the cipher's expanded key lies in
 * OpenSSL's memory, which overwrites it but does not lock it. */
#ifndef ST_PROTECT_SEALED_VAULT_H
#define ST_PROTECT_SEALED_VAULT_H

#include "base/secret.h"
#include "model/container.h"
#include "model/weights.h"

struct st_vault;

/* Checks the header's mac: VERIFY when the key is not this container's. The key is copied (into memfd_secret, else
 * locked memory, else POLICY unless allow_unlocked); the container is borrowed until free. */
int st_vault_new(const struct st_container *c, const struct st_secret *content_key, bool allow_unlocked,
                 struct st_vault **out, struct st_err *e) ST_MUST_CHECK;
void st_vault_free(struct st_vault *v);
const struct st_container *st_vault_container(const struct st_vault *v);

/* Segment k of an entry to dst [st_container_segment_bytes()], decrypted, or checked when it lies outside. Speed: that
 * of AES-256-GCM. VERIFY names entry and segment, and leaves zeros. */
int st_vault_segment(struct st_vault *v, const struct st_container_entry *n, uint32_t k, void *dst,
                     struct st_err *e) ST_MUST_CHECK;
/* Another secret that only this container's key gives: HKDF of the content key, salt = id, under `info`. */
int st_vault_derive(const struct st_vault *v, const char *info, uint8_t out[32], struct st_err *e) ST_MUST_CHECK;
/* For st_model_opts.source: reads both kinds; lives as long as v. */
const struct st_source *st_vault_source(struct st_vault *v);

/* The key of the segments, [32], which follows from the content key: for the writer. */
int st_vault_segment_key(const struct st_secret *content_key, const uint8_t id[16], struct st_secret *out,
                         struct st_err *e) ST_MUST_CHECK;
/* How the content key of a container with this id follows from the publisher's seed [32]. */
int st_vault_content_key(const uint8_t seed[32], const uint8_t id[16], struct st_secret *out,
                         struct st_err *e) ST_MUST_CHECK;
/* The header's mac, for the writer and the reader alike. digest: st_container_about.digest. */
int st_vault_mac(const struct st_secret *content_key, const uint8_t id[16], const uint8_t digest[32], uint8_t out[32],
                 struct st_err *e) ST_MUST_CHECK;

#endif
