/* Deterministic secret random streams: ChaCha20 (RFC 8439, zero nonce, counter from 0) keyed by HKDF-SHA256(seed,
 * context, label), over OpenSSL.
 *
 * Bytes, integers, unit() and permutations are defined bit by bit: the same key gives the same result on every machine.
 * A normal goes through the C library's log, sin and cos, so between machines it may differ in its last bits.
 * Limit: one stream gives 256 GiB. State and buffered output are overwritten when it is freed. */
#ifndef ST_CRYPTO_STREAM_H
#define ST_CRYPTO_STREAM_H

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

struct st_stream;

/* info of HKDF = u32 length || context || u32 length || label, little-endian; its salt is "sotto stream 1". */
int st_stream_new(const uint8_t *seed, size_t seed_len, const uint8_t *context, size_t context_len, const char *label,
                  struct st_stream **out, struct st_err *e) ST_MUST_CHECK;
void st_stream_free(struct st_stream *s);

void st_stream_bytes(struct st_stream *s, void *out, size_t len);
/* The same cipher by random access: bytes of `row`, which has its own nonce (the row, little-endian), from 64-byte
 * block `block` on; up to 256 GiB of each of 2^64 rows. A stream is read in order or like this, not both. */
void st_stream_at(struct st_stream *s, uint64_t row, uint32_t block, void *out, size_t len);
/* Eight bytes, little-endian. */
uint64_t st_stream_u64(struct st_stream *s);
/* Uniform in [0, n), unbiased (rejection). n >= 1. */
uint64_t st_stream_below(struct st_stream *s, uint64_t n);
/* Uniform in [0, 1), 53 bits. */
double st_stream_unit(struct st_stream *s);
/* Standard normal (Box-Muller: two units give two normals). */
double st_stream_normal(struct st_stream *s);
/* Uniform permutation of 0..n-1 (Fisher-Yates). */
void st_stream_permutation(struct st_stream *s, uint32_t *p, uint32_t n);

#endif
