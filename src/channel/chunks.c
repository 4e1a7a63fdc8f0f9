#include "channel/chunks.h"

#include <openssl/crypto.h>

static const char final_ad[] = "final";

int st_chunk_seal(struct st_chunk_sealer *c, struct st_sequence *s, const void *p, size_t len, bool final,
                  struct st_buf *out, struct st_err *e)
{
    bool chunked = c->form == ST_OHTTP_CHUNKED;
    if (c->ended || (!chunked && !final))
        return st_fail(e, ST_USAGE, "ohttp: a piece after the final one");
    if (len > ST_CHUNKS_MAX - c->total || (chunked && len > ST_CHUNK_TEXT_MAX))
        return st_fail(e, ST_POLICY, "ohttp: %zu bytes more are too many for one message or chunk", len);
    if (chunked)
        st_varint_add(out, final ? 0 : len + ST_SEQUENCE_TAG);
    uint8_t *sealed = st_buf_room(out, len + ST_SEQUENCE_TAG);
    if (!sealed)
        return st_fail(e, ST_MEMORY, "ohttp: out of memory");
    bool marked = chunked && final;
    int rc = st_sequence_seal(s, marked ? final_ad : NULL, marked ? sizeof final_ad - 1 : 0, p, len, sealed, e);
    if (rc) {
        OPENSSL_cleanse(sealed, len + ST_SEQUENCE_TAG); /* nothing leaves half done */
        return rc;
    }
    c->total += len;
    c->ended = final;
    return 0;
}

enum step { LENGTH, CHUNK, LAST, DONE, BAD };

void st_chunk_opener_init(struct st_chunk_opener *c, enum st_ohttp_form form, size_t max)
{
    bool chunked = form == ST_OHTTP_CHUNKED;
    *c = (struct st_chunk_opener){
        .form = form, .step = chunked ? LENGTH : LAST, .max = chunked ? ST_CHUNK_TEXT_MAX : max};
}

void st_chunk_opener_wipe(struct st_chunk_opener *c)
{
    st_buf_wipe(&c->buf);
    *c = (struct st_chunk_opener){.step = BAD};
}

static int refuse(struct st_chunk_opener *c, struct st_err *e)
{
    st_buf_wipe(&c->buf);
    c->step = BAD;
    return st_fail(e, ST_VERIFY, "ohttp: the message does not open");
}

/* Opens the sealed bytes that c->buf holds, where they are. */
static int open_piece(struct st_chunk_opener *c, struct st_sequence *s, bool marked, struct st_span *text,
                      struct st_err *e)
{
    uint8_t *p = (uint8_t *)c->buf.p;
    size_t len = c->buf.len;
    if (len < ST_SEQUENCE_TAG || len - ST_SEQUENCE_TAG > ST_CHUNKS_MAX - c->total ||
        st_sequence_open(s, marked ? final_ad : NULL, marked ? sizeof final_ad - 1 : 0, p, len, p, e) != 0)
        return refuse(c, e);
    *text = (struct st_span){p, len - ST_SEQUENCE_TAG};
    c->total += text->len;
    return 0;
}

static int on_length(struct st_chunk_opener *c, uint64_t v, struct st_err *e)
{
    if (v != 0 && (v < ST_SEQUENCE_TAG || v > c->max + ST_SEQUENCE_TAG))
        return refuse(c, e);
    c->want = v;
    c->step = v ? CHUNK : LAST;
    return 0;
}

/* Overwrites the text that was given out last: the buffer may move when it grows. */
static void forget(struct st_chunk_opener *c)
{
    if (c->buf.len)
        OPENSSL_cleanse(c->buf.p, c->buf.len);
    st_buf_clear(&c->buf);
}

/* Takes what of *in belongs to the piece being read. */
static int gather(struct st_chunk_opener *c, struct st_span *in, struct st_err *e)
{
    size_t room = (c->step == CHUNK ? (size_t)c->want : c->max + ST_SEQUENCE_TAG) - c->buf.len;
    size_t n = in->len < room ? in->len : room;
    if (n == 0)
        return refuse(c, e); /* a final piece above the limit */
    st_buf_add(&c->buf, in->p, n);
    *in = (struct st_span){in->p + n, in->len - n};
    return c->buf.failed ? st_fail(e, ST_MEMORY, "ohttp: out of memory") : 0;
}

int st_chunk_open(struct st_chunk_opener *c, struct st_sequence *s, struct st_span *in, struct st_span *text,
                  struct st_err *e)
{
    int rc = 0;
    uint64_t v;
    *text = (struct st_span){0};
    while (!rc && in->len && !text->len) {
        if (c->step == LENGTH) {
            uint8_t byte = *in->p++;
            in->len--;
            forget(c);
            if (st_varint_feed(&c->number, byte, &v))
                rc = on_length(c, v, e);
        } else if (c->step == CHUNK || c->step == LAST) {
            rc = gather(c, in, e);
            if (!rc && c->step == CHUNK && c->buf.len == c->want) {
                rc = open_piece(c, s, false, text, e);
                if (!rc)
                    c->step = LENGTH;
            }
        } else
            rc = refuse(c, e);
    }
    return rc;
}

int st_chunk_open_end(struct st_chunk_opener *c, struct st_sequence *s, struct st_span *text, struct st_err *e)
{
    *text = (struct st_span){0};
    if (c->step != LAST)
        return refuse(c, e);
    int rc = open_piece(c, s, c->form == ST_OHTTP_CHUNKED, text, e);
    if (!rc)
        c->step = DONE;
    return rc;
}
