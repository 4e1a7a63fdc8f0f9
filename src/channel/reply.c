#include "channel/reply.h"

#include <openssl/crypto.h>
#include <string.h>

/* Drops n sealed bytes of the text and overwrites where they were. */
static void drop(struct st_buf *b, size_t n)
{
    size_t old = b->len;
    st_buf_drop(b, n);
    OPENSSL_cleanse(b->p + b->len, old - b->len);
}

/* Seals full chunks; `keep` of them stay for the end. */
static int seal_full(struct st_reply *r, size_t keep, struct st_buf *out, struct st_err *e)
{
    size_t at = 0;
    int rc = r->text.failed ? st_fail(e, ST_MEMORY, "reply: out of memory") : 0;
    while (!rc && r->text.len - at >= r->size * (keep + 1)) {
        rc = st_ohttp_seal(r->x, r->text.p + at, r->size, false, out, e);
        at += r->size;
    }
    if (at)
        drop(&r->text, at);
    return rc;
}

int st_reply_begin(struct st_reply *r, struct st_ohttp *x, size_t size, const struct st_bhttp_head *head,
                   struct st_buf *out, struct st_err *e)
{
    *r = (struct st_reply){.x = x, .size = size};
    if (x->form != ST_OHTTP_CHUNKED || size < 16 || size > ST_CHUNK_TEXT_MAX)
        return st_fail(e, ST_USAGE, "reply: want the chunked form and 16 to %d bytes a chunk, got %zu",
                       ST_CHUNK_TEXT_MAX, size);
    /* Enough for all that waits at any time but long heads and trailers: a buffer that grows leaves copies behind. */
    (void)st_buf_room(&r->text, 4 * size + 1024);
    st_buf_clear(&r->text);
    int rc = st_bhttp_begin(&r->text, ST_BHTTP_RESPONSE, head, e);
    if (!rc)
        rc = st_ohttp_reply(x, out, e);
    return rc ? rc : seal_full(r, 0, out, e);
}

int st_reply_content(struct st_reply *r, const void *p, size_t len, struct st_buf *out, struct st_err *e)
{
    const uint8_t *at = p;
    int rc = 0;
    while (!rc && len) {
        size_t n = len < r->size ? len : r->size;
        st_bhttp_add_content(&r->text, at, n);
        if (r->hash)
            st_digest_add(r->hash, at, n);
        rc = seal_full(r, 0, out, e);
        at += n;
        len -= n;
    }
    return rc;
}

static int fill(struct st_reply *r, struct st_buf *out, struct st_err *e)
{
    size_t at = r->text.len, lacks = r->size - at;
    /* A piece of filler has two bytes at least: where one is lacking it goes on through the next chunk. */
    st_bhttp_add_filler(&r->text, lacks < 2 ? lacks + r->size : lacks);
    if (r->hash && !r->text.failed) {
        const uint8_t *filler = (const uint8_t *)r->text.p + at;
        size_t width = st_varint_len(filler[0]);
        st_digest_add(r->hash, filler + width, r->text.len - at - width);
    }
    return seal_full(r, 0, out, e);
}

int st_reply_flush(struct st_reply *r, struct st_buf *out, struct st_err *e)
{
    return r->text.len ? fill(r, out, e) : 0;
}

int st_reply_tick(struct st_reply *r, struct st_buf *out, struct st_err *e)
{
    return fill(r, out, e);
}

int st_reply_end(struct st_reply *r, struct st_bhttp_fields trailers, struct st_buf *out, struct st_err *e)
{
    int rc = st_bhttp_end(&r->text, trailers, e);
    if (rc)
        return rc;
    st_bhttp_pad(&r->text, 0, (r->text.len + r->size - 1) / r->size * r->size);
    rc = seal_full(r, 1, out, e);
    return rc ? rc : st_ohttp_seal(r->x, r->text.p, r->size, true, out, e);
}

void st_reply_wipe(struct st_reply *r)
{
    st_buf_wipe(&r->text);
    *r = (struct st_reply){0};
}
