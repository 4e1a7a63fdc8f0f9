/* A reply as a stream of chunks of one size: binary HTTP of indeterminate length, cut into pieces of `size` bytes that
 * are sealed as they fill (channel/ohttp.h, chunked form). What was produced so far leaves with st_reply_flush(), which
 * fills the last chunk up with line feeds: content that server-sent events and JSON ignore, where the caller's content
 * allows one (between events, around a value). So a relay sees when chunks come and how many, never how long an event
 * was.
 * The final chunk has that size as well; what it lacks is padding of binary HTTP. The text of one unfilled chunk is
 * held back here and overwritten when it leaves. */
#ifndef ST_CHANNEL_REPLY_H
#define ST_CHANNEL_REPLY_H

#include "channel/bhttp.h"
#include "channel/ohttp.h"
#include "crypto/digest.h"

struct st_reply {
    struct st_ohttp *x; /* kept until st_reply_wipe() */
    size_t size;        /* bytes of text of each chunk */
    struct st_buf text; /* not sealed yet; fewer than size bytes between calls */
    /* Set after st_reply_begin() by who signs a receipt (channel/receipt.h): takes all content, filler too; kept until
     * the end, which adds none. NULL = not asked for. */
    struct st_digest *hash;
};

/* Begins the reply to x: appends its nonce and the chunks that the head fills. 16 <= size <= ST_CHUNK_TEXT_MAX. */
int st_reply_begin(struct st_reply *r, struct st_ohttp *x, size_t size, const struct st_bhttp_head *head,
                   struct st_buf *out, struct st_err *e) ST_MUST_CHECK;
/* Appends the chunks that the content fills; the rest waits. */
int st_reply_content(struct st_reply *r, const void *p, size_t len, struct st_buf *out, struct st_err *e) ST_MUST_CHECK;
/* Everything so far leaves; appends nothing when nothing waits. */
int st_reply_flush(struct st_reply *r, struct st_buf *out, struct st_err *e) ST_MUST_CHECK;
/* One chunk of filler, or what waits: for a stream on a fixed cadence. */
int st_reply_tick(struct st_reply *r, struct st_buf *out, struct st_err *e) ST_MUST_CHECK;
int st_reply_end(struct st_reply *r, struct st_bhttp_fields trailers, struct st_buf *out,
                 struct st_err *e) ST_MUST_CHECK;
void st_reply_wipe(struct st_reply *r);

#endif
