/* The body of an encapsulated message: one sealed piece to the end (RFC 9458), or sealed chunks, each behind its
 * length, and a final one behind a zero that runs to the end (draft-ietf-ohai-chunked-ohttp). Order is protected by the
 * nonces, the end by the associated data of the final chunk: a message is complete only when that has opened. Limits:
 * ST_CHUNK_TEXT_MAX bytes of text in a chunk when opening, ST_CHUNKS_MAX bytes of text in a message both ways (the
 * draft's section on size limits). Every failure to open is VERIFY with one text, for a cut, a changed, a too long or a
 * reordered message alike; after it nothing opens any more. */
#ifndef ST_CHANNEL_CHUNKS_H
#define ST_CHANNEL_CHUNKS_H

#include "channel/varint.h"
#include "crypto/sequence.h"

#define ST_CHUNK_TEXT_MAX 16384
#define ST_CHUNKS_MAX (1ull << 30)

enum st_ohttp_form { ST_OHTTP_WHOLE, ST_OHTTP_CHUNKED };

struct st_chunk_sealer {
    enum st_ohttp_form form;
    uint64_t total;
    bool ended;
};

/* Appends p [len], sealed by s. A whole message is one piece, which is final. USAGE after the final piece. */
int st_chunk_seal(struct st_chunk_sealer *c, struct st_sequence *s, const void *p, size_t len, bool final,
                  struct st_buf *out, struct st_err *e) ST_MUST_CHECK;

struct st_chunk_opener {
    enum st_ohttp_form form;
    int step;
    size_t max;    /* bytes of text of one piece */
    uint64_t want; /* sealed bytes of the chunk being read */
    struct st_varint number;
    uint64_t total;
    struct st_buf buf; /* sealed bytes, then the text */
};

/* max: bytes of text of a whole message; chunks have their own limit. */
void st_chunk_opener_init(struct st_chunk_opener *c, enum st_ohttp_form form, size_t max);
void st_chunk_opener_wipe(struct st_chunk_opener *c);
/* Consumes the beginning of *in: up to and including the next chunk, whose text *text then borrows from c until the
 * next call, or all of it (*text is then empty). Call until in->len is 0. */
int st_chunk_open(struct st_chunk_opener *c, struct st_sequence *s, struct st_span *in, struct st_span *text,
                  struct st_err *e) ST_MUST_CHECK;
/* No more bytes come: opens the final piece. 0 says that the message is complete and whole. */
int st_chunk_open_end(struct st_chunk_opener *c, struct st_sequence *s, struct st_span *text,
                      struct st_err *e) ST_MUST_CHECK;

#endif
