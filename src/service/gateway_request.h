/* What a client asks of a gateway, inside of its encapsulation (docs/confidential.md): binary HTTP from whoever has the
 * gateway's public key, hostile input. Bytes in, struct out; no token is verified here.
 *
 * Reading never stops early: a message that opens but is no request for a gateway is told so in a sealed reply, one
 * that does not open to its end gets the one refusal. `wrong` says which of the words below. */
#ifndef ST_SERVICE_GATEWAY_REQUEST_H
#define ST_SERVICE_GATEWAY_REQUEST_H

#include "attest/directory.h"
#include "channel/bhttp.h"
#include "channel/token.h"

enum st_gateway_what {
    ST_GATEWAY_LIST,   /* GET /nodes[?tag=TAG&..] */
    ST_GATEWAY_BUNDLE, /* GET /nodes/ID[?bundle=HEX] */
    ST_GATEWAY_INFER,  /* POST /nodes/ID */
    ST_GATEWAY_ATTEST, /* POST /nodes/ID/attest */
};

struct st_gateway_request {
    enum st_gateway_what what;
    uint8_t node[ST_NODE_ID];
    bool has_bundle;
    uint8_t bundle[32]; /* the digest that is asked for */
    char tags[ST_NODE_MAX_TAGS][ST_NODE_MAX_TAG + 1];
    size_t n_tag;
    struct st_token token;       /* of a POST */
    struct st_change_ask change; /* points into change_bytes; n 0 when none is asked for */
    struct st_buf change_bytes, content;
    size_t
        reply_nonce;  /* INFER: bytes before the first chunk of the node's reply, by the suite of the sealed request */
    unsigned wrong;   /* 0, or the status that it deserves */
    const char *word; /* and the code of the error */
    struct st_bhttp_reader reader;
};

/* MEMORY. A zeroed one may be wiped. */
int st_gateway_request_init(struct st_gateway_request *r, struct st_err *e) ST_MUST_CHECK;
/* The next piece of the opened text. */
void st_gateway_request_add(struct st_gateway_request *r, struct st_span text);
/* No more comes: fills the rest, or `wrong`; frees what only reading needed. */
void st_gateway_request_end(struct st_gateway_request *r);
void st_gateway_request_wipe(struct st_gateway_request *r);

#endif
