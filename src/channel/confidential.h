/* What proxy, relay, gateway, node, issuer and log say to each other: paths, fields and limits of docs/confidential.md,
 * which tells the whole. */
#ifndef ST_CHANNEL_CONFIDENTIAL_H
#define ST_CHANNEL_CONFIDENTIAL_H

/* Node. */
#define ST_NODE_PATH_INFER "/"          /* POST message/ohttp-chunked-req */
#define ST_NODE_PATH_ATTEST "/attest"   /* POST {"nonce": HEX of 32 bytes}: its evidence bundle, for its current key */
#define ST_NODE_FIELD_SALT "cache-salt" /* of the sealed request: what the engine's prefix cache is salted with */

/* Gateway, behind its own encapsulation: POST message/ohttp-chunked-req to "/"; inside, authority and paths: */
#define ST_GATEWAY_AUTHORITY "gateway"
#define ST_GATEWAY_PATH_NODES "/nodes"     /* GET; GET /nodes/ID; POST /nodes/ID; POST /nodes/ID/attest */
#define ST_GATEWAY_FIELD_TOKEN "token"     /* base64 of channel/token.h; of a POST */
#define ST_GATEWAY_FIELD_CHANGE "change"   /* base64 of an st_change_ask; and in the reply's trailer of the answer */
#define ST_GATEWAY_FIELD_CHARGED "charged" /* units; in the reply's trailer */
#define ST_GATEWAY_FIELD_ERROR "error"     /* of the trailer: the node's reply is cut, "deposit" or "node" */
#define ST_GATEWAY_FIELD_CHECKPOINT "checkpoint" /* base64 of the note whose digest is the nonce of that evidence */

/* Issuer. */
#define ST_ISSUER_PATH_KEYS "/keys"     /* GET: the part that it hands to the log */
#define ST_ISSUER_PATH_ISSUE "/issue"   /* POST, bearer: an account's key */
#define ST_ISSUER_PATH_REFUND "/refund" /* POST, bearer: a gateway's key */

/* Log. Beside checkpoint and tile/ of C2SP tlog-tiles. */
#define ST_LOG_PATH_DIRECTORY "/directory"    /* GET /directory?from=SIZE */
#define ST_LOG_PATH_PART "/parts/"            /* PUT-like POST /parts/gateway/NAME, bearer: a part of the directory */
#define ST_LOG_PATH_ADD "/entries"            /* POST, bearer: an entry */
#define ST_LOG_PATH_WITNESS "/add-checkpoint" /* of a witness: C2SP tlog-witness */

/* A relay forwards POST / to its gateway and GET /log/... to its log. */
#define ST_RELAY_PATH_LOG "/log"

#define ST_CONFIDENTIAL_MAX_REQUEST ((size_t)4 << 20) /* sealed bytes of one request */
#define ST_CONFIDENTIAL_CHUNK 512                     /* bytes of text of a reply's chunks, unless told otherwise */

#endif
