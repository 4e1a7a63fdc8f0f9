/* Variable-length integers of QUIC (RFC 9000 section 16): the two top bits of the first byte say 1, 2, 4 or 8 bytes.
 * Values stay below 2^62. Longer forms of a small value are valid; we write the shortest. */
#ifndef ST_CHANNEL_VARINT_H
#define ST_CHANNEL_VARINT_H

#include "base/buf.h"

#define ST_VARINT_MAX 8

/* Bytes of the integer that begins with this byte. */
static inline size_t st_varint_len(uint8_t first)
{
    return (size_t)1 << (first >> 6);
}

/* p [st_varint_len(p[0])]. */
static inline uint64_t st_varint_get(const uint8_t *p)
{
    uint64_t v = p[0] & 0x3f;
    for (size_t i = 1; i < st_varint_len(p[0]); i++)
        v = v << 8 | p[i];
    return v;
}

/* In exactly `width` bytes (1, 2, 4 or 8), which must hold v. */
static inline void st_varint_add_wide(struct st_buf *b, uint64_t v, size_t width)
{
    uint8_t p[ST_VARINT_MAX];
    for (size_t i = 0; i < width; i++)
        p[i] = (uint8_t)(v >> (8 * (width - 1 - i)));
    p[0] |= (uint8_t)(__builtin_ctzl(width) << 6);
    st_buf_add(b, p, width);
}

/* Bytes of the shortest form. */
static inline size_t st_varint_width(uint64_t v)
{
    return v < 1u << 6 ? 1 : v < 1u << 14 ? 2 : v < 1u << 30 ? 4 : 8;
}

static inline void st_varint_add(struct st_buf *b, uint64_t v)
{
    st_varint_add_wide(b, v, st_varint_width(v));
}

/* Gathers an integer byte by byte. */
struct st_varint {
    uint8_t p[ST_VARINT_MAX];
    size_t have;
};

/* True when this byte was the last one: *v is the value, and the struct is ready for the next. */
static inline bool st_varint_feed(struct st_varint *x, uint8_t byte, uint64_t *v)
{
    x->p[x->have++] = byte;
    if (x->have < st_varint_len(x->p[0]))
        return false;
    *v = st_varint_get(x->p);
    x->have = 0;
    return true;
}

#endif
