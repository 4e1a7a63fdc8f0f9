#include "text/base64.h"

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/* The value of each digit, plus one. */
static const uint8_t values[256] = {
    ['A'] = 1,  ['B'] = 2,  ['C'] = 3,  ['D'] = 4,  ['E'] = 5,  ['F'] = 6,  ['G'] = 7,  ['H'] = 8,
    ['I'] = 9,  ['J'] = 10, ['K'] = 11, ['L'] = 12, ['M'] = 13, ['N'] = 14, ['O'] = 15, ['P'] = 16,
    ['Q'] = 17, ['R'] = 18, ['S'] = 19, ['T'] = 20, ['U'] = 21, ['V'] = 22, ['W'] = 23, ['X'] = 24,
    ['Y'] = 25, ['Z'] = 26, ['a'] = 27, ['b'] = 28, ['c'] = 29, ['d'] = 30, ['e'] = 31, ['f'] = 32,
    ['g'] = 33, ['h'] = 34, ['i'] = 35, ['j'] = 36, ['k'] = 37, ['l'] = 38, ['m'] = 39, ['n'] = 40,
    ['o'] = 41, ['p'] = 42, ['q'] = 43, ['r'] = 44, ['s'] = 45, ['t'] = 46, ['u'] = 47, ['v'] = 48,
    ['w'] = 49, ['x'] = 50, ['y'] = 51, ['z'] = 52, ['0'] = 53, ['1'] = 54, ['2'] = 55, ['3'] = 56,
    ['4'] = 57, ['5'] = 58, ['6'] = 59, ['7'] = 60, ['8'] = 61, ['9'] = 62, ['+'] = 63, ['/'] = 64,
};

/* Four characters, the last `pad` of which are not looked at, to 3 - pad bytes. */
static bool decode_group(const char *s, size_t pad, uint8_t *out)
{
    uint32_t bits = 0;
    for (size_t i = 0; i < 4; i++) {
        unsigned v = i + pad >= 4 ? 1 : values[(uint8_t)s[i]];
        if (!v)
            return false;
        bits = bits << 6 | (v - 1);
    }
    const uint8_t b[3] = {(uint8_t)(bits >> 16), (uint8_t)(bits >> 8), (uint8_t)bits};
    for (size_t i = 0; i < 3; i++) {
        if (i < 3 - pad)
            out[i] = b[i];
        else if (b[i]) /* one text per value */
            return false;
    }
    return true;
}

bool st_base64_decode(const char *s, size_t len, struct st_buf *out)
{
    if (len == 0 || len % 4)
        return false;
    size_t pad = (s[len - 1] == '=') + (s[len - 2] == '=' && s[len - 1] == '='), start = out->len;
    uint8_t *to = st_buf_room(out, len / 4 * 3 - pad);
    for (size_t i = 0; to && i < len; i += 4, to += 3)
        if (!decode_group(s + i, i + 4 == len ? pad : 0, to)) {
            out->len = start;
            out->p[start] = 0;
            return false;
        }
    return true; /* without memory, out->failed says so */
}

void st_base64_encode(const void *p, size_t len, struct st_buf *out)
{
    const uint8_t *b = p;
    char *to = st_buf_room(out, (len + 2) / 3 * 4);
    for (size_t i = 0; to && i < len; i += 3, to += 4) {
        size_t n = len - i < 3 ? len - i : 3;
        uint32_t bits = (uint32_t)b[i] << 16 | (n > 1 ? (uint32_t)b[i + 1] << 8 : 0) | (n > 2 ? b[i + 2] : 0);
        to[0] = digits[bits >> 18];
        to[1] = digits[bits >> 12 & 63];
        to[2] = n > 1 ? digits[bits >> 6 & 63] : '=';
        to[3] = n > 2 ? digits[bits & 63] : '=';
    }
}
