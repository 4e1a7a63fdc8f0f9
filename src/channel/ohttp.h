/* Oblivious HTTP (RFC 9458) and its chunked form (draft-ietf-ohai-chunked-ohttp): one sealed request, one sealed reply.
 * Bytes in, bytes out; the HTTP around them is the caller's.
 *
 * A client begins with a key configuration, seals its request and opens the reply. A server is fed the request as it
 * comes, with a keyring (channel/keyring.h), and seals its reply. The two forms differ by their labels, so that one is
 * never taken for the other. What a relay sees: the lengths of messages and chunks, and when they come.
 *
 * Whatever is wrong with a message from a peer is VERIFY "ohttp: the message does not open": a wrong id, suite, key,
 * length or tag, a replay, a cut. Only POLICY (the key has taken its requests: rotate) and MEMORY are told apart, and
 * those never leave the server. A message is complete when _end() has returned 0; text that came before may be acted
 * upon only when a cut does no harm. Limits: those of channel/chunks.h. */
#ifndef ST_CHANNEL_OHTTP_H
#define ST_CHANNEL_OHTTP_H

#include "channel/chunks.h"
#include "channel/keyring.h"

#define ST_OHTTP_HEAD_MAX (7 + ST_HPKE_PUBLIC_MAX)
#define ST_OHTTP_NONCE_MAX 32

/* "message/ohttp-req" and the like. */
const char *st_ohttp_request_type(enum st_ohttp_form form);
const char *st_ohttp_reply_type(enum st_ohttp_form form);

/* One end of one exchange. */
struct st_ohttp {
    enum st_ohttp_form form;
    size_t max;              /* bytes of text of a whole message to open */
    struct st_keyring *keys; /* of a server */
    uint64_t serial;         /* of the key of the ring that the request is for */
    struct st_hpke hpke;
    struct st_sequence reply;
    struct st_chunk_sealer sealer;
    struct st_chunk_opener opener;
    uint8_t enc[ST_HPKE_PUBLIC_MAX];
    uint8_t head[ST_OHTTP_HEAD_MAX]; /* being gathered: of the request, or the reply's nonce */
    size_t have;
    int step;
    bool ahead; /* the reply's keys are there, and its nonce has not left */
    uint8_t nonce[ST_OHTTP_NONCE_MAX];
};

/* ---- client ---- */

/* Appends the request's head. The configuration's first suite is taken. max: bytes of the reply's text in the whole
 * form. A zeroed exchange may be wiped. */
int st_ohttp_client(struct st_ohttp *x, enum st_ohttp_form form, const struct st_ohttp_config *c, size_t max,
                    struct st_buf *out, struct st_err *e) ST_MUST_CHECK;
/* The same with an ephemeral key of the caller's, for test vectors (crypto/hpke.h says why only for those). */
int st_ohttp_client_from(struct st_ohttp *x, enum st_ohttp_form form, const struct st_ohttp_config *c,
                         const struct st_hpke_key *ephemeral, size_t max, struct st_buf *out,
                         struct st_err *e) ST_MUST_CHECK;

/* ---- server ---- */

/* keys is kept until st_ohttp_wipe(). max: bytes of the request's text in the whole form. */
void st_ohttp_server(struct st_ohttp *x, enum st_ohttp_form form, struct st_keyring *keys, size_t max);
/* Begins the reply: appends its nonce. USAGE before a piece of the request has opened. */
int st_ohttp_reply(struct st_ohttp *x, struct st_buf *out, struct st_err *e) ST_MUST_CHECK;
/* Makes what st_ohttp_reply() needs while there is nothing else to do. An error comes again there. */
void st_ohttp_reply_ahead(struct st_ohttp *x);
/* The same with a nonce of the caller's, for test vectors: one that serves twice in an exchange reveals both replies.
 */
int st_ohttp_reply_from(struct st_ohttp *x, const uint8_t *nonce, struct st_buf *out, struct st_err *e) ST_MUST_CHECK;

/* ---- both ---- */

/* Appends text [len] sealed: of the request at a client, of the reply at a server. The last piece is `final`; the whole
 * form has only that. Chunks of more than ST_CHUNK_TEXT_MAX bytes are POLICY. */
int st_ohttp_seal(struct st_ohttp *x, const void *text, size_t len, bool final, struct st_buf *out,
                  struct st_err *e) ST_MUST_CHECK;
/* A complete message in pieces of ST_CHUNK_TEXT_MAX, the last one final; in the whole form as one. */
int st_ohttp_seal_all(struct st_ohttp *x, const void *text, size_t len, struct st_buf *out,
                      struct st_err *e) ST_MUST_CHECK;
/* As st_chunk_open() and st_chunk_open_end(): consumes *in, and *text borrows from x until the next call. */
int st_ohttp_open(struct st_ohttp *x, struct st_span *in, struct st_span *text, struct st_err *e) ST_MUST_CHECK;
int st_ohttp_open_end(struct st_ohttp *x, struct st_span *text, struct st_err *e) ST_MUST_CHECK;
void st_ohttp_wipe(struct st_ohttp *x);

#endif
