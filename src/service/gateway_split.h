/* Finds the chunks of a sealed reply (draft-ietf-ohai-chunked-ohttp) without a key, so that a gateway can pass them on
 * one by one: nonce, then chunks behind their lengths, then a zero and the final chunk to the end. Bytes of a node:
 * hostile input. */
#ifndef ST_SERVICE_GATEWAY_SPLIT_H
#define ST_SERVICE_GATEWAY_SPLIT_H

#include "channel/varint.h"

struct st_gateway_split {
    int step;
    size_t nonce;
    uint64_t left; /* bytes of the part being read */
    struct st_varint number;
    struct st_buf piece; /* so far */
};

void st_gateway_split_init(struct st_gateway_split *s, size_t nonce);
/* Consumes the beginning of *in: up to the end of a chunk, which *piece then is with its length before it (and with the
 * nonce, when it is the first), borrowed until the next call; or all of it (*piece is then empty). INPUT for a chunk
 * longer than ST_CHUNK_TEXT_MAX allows. */
int st_gateway_split_next(struct st_gateway_split *s, struct st_span *in, struct st_span *piece,
                          struct st_err *e) ST_MUST_CHECK;
/* The final chunk. INPUT when the reply may not end here. */
int st_gateway_split_end(struct st_gateway_split *s, struct st_span *piece, struct st_err *e) ST_MUST_CHECK;
void st_gateway_split_wipe(struct st_gateway_split *s);

#endif
