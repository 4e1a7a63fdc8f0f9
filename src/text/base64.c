#include "text/base64.h"

static int value_of(int c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

bool st_base64_decode(const char *s, size_t len, struct st_buf *out)
{
    if (len == 0 || len % 4)
        return false;
    size_t pad = (s[len - 1] == '=') + (s[len - 2] == '=' && s[len - 1] == '=');
    uint32_t bits = 0;
    for (size_t i = 0; i < len; i++) {
        int v = i + pad >= len ? 0 : value_of(s[i]);
        if (v < 0)
            return false;
        bits = bits << 6 | (uint32_t)v;
        if (i % 4 == 3) {
            uint8_t b[3] = {(uint8_t)(bits >> 16), (uint8_t)(bits >> 8), (uint8_t)bits};
            size_t n = i + 1 == len ? 3 - pad : 3;
            if ((n < 3 && b[2]) || (n < 2 && b[1])) /* one text per value */
                return false;
            st_buf_add(out, b, n);
            bits = 0;
        }
    }
    return true;
}

void st_base64_encode(const void *p, size_t len, struct st_buf *out)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const uint8_t *b = p;
    for (size_t i = 0; i < len; i += 3) {
        size_t n = len - i < 3 ? len - i : 3;
        uint32_t bits = (uint32_t)b[i] << 16 | (n > 1 ? (uint32_t)b[i + 1] << 8 : 0) | (n > 2 ? b[i + 2] : 0);
        char text[4] = {digits[bits >> 18], digits[bits >> 12 & 63], n > 1 ? digits[bits >> 6 & 63] : '=',
                        n > 2 ? digits[bits & 63] : '='};
        st_buf_add(out, text, 4);
    }
}
