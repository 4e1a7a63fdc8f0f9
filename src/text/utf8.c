#include "text/utf8.h"

size_t st_utf8_next(const uint8_t *p, size_t len, uint32_t *cp)
{
    if (len == 0)
        return 0;
    if (p[0] < 0x80) {
        *cp = p[0];
        return 1;
    }
    size_t n = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
    if (p[0] < 0xc2 || p[0] > 0xf4 || len < n)
        return 0;
    uint32_t c = p[0] & (0xffu >> (n + 1));
    for (size_t i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
        c = c << 6 | (p[i] & 0x3f);
    }
    if ((n == 3 && (c < 0x800 || (c >= 0xd800 && c < 0xe000))) || (n == 4 && (c < 0x10000 || c > 0x10ffff)))
        return 0;
    *cp = c;
    return n;
}

size_t st_utf8_put(uint32_t cp, uint8_t *out)
{
    if (cp < 0x80) {
        out[0] = (uint8_t)cp;
        return 1;
    }
    size_t n = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    static const uint8_t lead[] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (size_t i = n - 1; i > 0; i--) {
        out[i] = (uint8_t)(0x80 | (cp & 0x3f));
        cp >>= 6;
    }
    out[0] = (uint8_t)(lead[n] | cp);
    return n;
}

bool st_utf8_valid(const void *p, size_t len)
{
    const uint8_t *c = p;
    uint32_t cp;
    while (len) {
        size_t n = st_utf8_next(c, len, &cp);
        if (!n)
            return false;
        c += n;
        len -= n;
    }
    return true;
}

/* Whether the n (1..3) bytes at p may be the beginning of a valid character of more bytes. */
static bool may_begin(const uint8_t *p, size_t n)
{
    size_t want = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
    if (p[0] < 0xc2 || p[0] > 0xf4 || n >= want)
        return false;
    if (n > 1) { /* the second byte decides overlong forms, surrogates and the upper end */
        uint8_t lo = p[0] == 0xe0 ? 0xa0 : p[0] == 0xf0 ? 0x90 : 0x80;
        uint8_t hi = p[0] == 0xed ? 0x9f : p[0] == 0xf4 ? 0x8f : 0xbf;
        if (p[1] < lo || p[1] > hi)
            return false;
    }
    return n < 3 || (p[2] & 0xc0) == 0x80;
}

size_t st_utf8_complete(const void *p, size_t len)
{
    const uint8_t *c = p;
    for (size_t back = 1; back <= 3 && back <= len; back++)
        if (c[len - back] >= 0xc0)
            return may_begin(c + len - back, back) ? len - back : len;
    return len;
}
