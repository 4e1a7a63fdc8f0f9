/* Receipts: what a node signs over one exchange, with the Ed25519 key that its evidence certifies. A client that has
 * verified the evidence learns from it that this node, with this model, gave this answer to this request at this time
 * by its own clock. It says nothing about what the node did besides.
 *
 * Request and reply are named by the SHA-256 of the content of the HTTP messages inside (not of their heads), all of
 * it in order, as it was sealed: filler of channel/reply.h is content.
 * The signature is over u32-length-prefixed fields (lengths and numbers little-endian): "sotto receipt 1", public key,
 * request hash, reply hash, model digest, time in seconds since 1970 as 8 bytes.
 * Binary form, ST_RECEIPT_LEN bytes: magic "SOTTORCP", u32 version 1, key[32], request[32], reply[32], model[32],
 * i64 time, signature[64]. As text (a field of a trailer, a file) it is that in hexadecimal. */
#ifndef ST_CHANNEL_RECEIPT_H
#define ST_CHANNEL_RECEIPT_H

#include "base/buf.h"
#include "crypto/ed25519.h"

#define ST_RECEIPT_LEN 212
#define ST_RECEIPT_FIELD "sotto-receipt" /* of the trailer */

struct st_receipt {
    uint8_t key[ST_ED25519_PUBLIC];
    uint8_t request[32], reply[32], model[32];
    int64_t time;
};

/* r->key is set to the public key of k. */
int st_receipt_sign(struct st_receipt *r, const struct st_ed25519 *k, uint8_t out[ST_RECEIPT_LEN],
                    struct st_err *e) ST_MUST_CHECK;
/* What the bytes say, without any check of the signature: for showing. INPUT for bytes that are no receipt, UNSUPPORTED
 * for another version. */
int st_receipt_parse(struct st_span bytes, struct st_receipt *r, struct st_err *e) ST_MUST_CHECK;
/* VERIFY unless the bytes are a receipt signed by want->key (from verified evidence) for exactly want's request, reply
 * and model; it names which of them differs. want->time is not looked at; *time is what the node's clock said. */
int st_receipt_verify(struct st_span bytes, const struct st_receipt *want, int64_t *time,
                      struct st_err *e) ST_MUST_CHECK;

#endif
