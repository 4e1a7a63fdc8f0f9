#include "service/gateway_split.h"
#include "channel/chunks.h"

enum { NONCE, LENGTH, CHUNK, FINAL };
#define CHUNK_MIN ST_SEQUENCE_TAG
#define CHUNK_MAX (ST_CHUNK_TEXT_MAX + ST_SEQUENCE_TAG)

void st_gateway_split_init(struct st_gateway_split *s, size_t nonce)
{
    *s = (struct st_gateway_split){.step = NONCE, .nonce = nonce, .left = nonce};
}

void st_gateway_split_wipe(struct st_gateway_split *s)
{
    st_buf_free(&s->piece);
}

/* Moves up to `left` bytes into the piece; true when they are all there. */
static bool gather(struct st_gateway_split *s, struct st_span *in)
{
    size_t n = s->left < in->len ? (size_t)s->left : in->len;
    st_buf_add(&s->piece, in->p, n);
    *in = (struct st_span){in->p + n, in->len - n};
    s->left -= n;
    return s->left == 0;
}

static int read_length(struct st_gateway_split *s, struct st_span *in, struct st_err *e)
{
    uint64_t len;
    uint8_t byte = in->p[0];
    *in = (struct st_span){in->p + 1, in->len - 1};
    st_buf_add(&s->piece, &byte, 1);
    if (!st_varint_feed(&s->number, byte, &len))
        return 0;
    if (len && (len < CHUNK_MIN || len > CHUNK_MAX))
        return st_fail(e, ST_INPUT, "the node's reply has a chunk of %llu bytes, want %d to %d",
                       (unsigned long long)len, CHUNK_MIN, CHUNK_MAX);
    s->step = len ? CHUNK : FINAL;
    s->left = len ? len : CHUNK_MAX;
    return 0;
}

int st_gateway_split_next(struct st_gateway_split *s, struct st_span *in, struct st_span *piece, struct st_err *e)
{
    int rc = 0;
    *piece = (struct st_span){0};
    if (s->step == CHUNK && s->left == 0) { /* that was the piece of the last call */
        st_buf_clear(&s->piece);
        s->step = LENGTH;
    }
    while (!rc && in->len && !piece->len) {
        if (s->step == NONCE && gather(s, in))
            s->step = LENGTH;
        else if (s->step == LENGTH)
            rc = read_length(s, in, e);
        else if (s->step == CHUNK && gather(s, in))
            *piece = (struct st_span){(uint8_t *)s->piece.p, s->piece.len};
        else if (s->step == FINAL && gather(s, in) && in->len)
            rc = st_fail(e, ST_INPUT, "the node's reply ends in more than %d bytes", CHUNK_MAX);
    }
    if (!rc && s->piece.failed)
        rc = st_fail(e, ST_MEMORY, "no memory for a chunk");
    return rc;
}

int st_gateway_split_end(struct st_gateway_split *s, struct st_span *piece, struct st_err *e)
{
    if (s->step != FINAL || s->left > CHUNK_MAX - CHUNK_MIN)
        return st_fail(e, ST_INPUT, "the node's reply was cut");
    *piece = (struct st_span){(uint8_t *)s->piece.p, s->piece.len};
    return s->piece.failed ? st_fail(e, ST_MEMORY, "no memory for a chunk") : 0;
}
