#include "crypto/digest.h"

#include <openssl/sha.h>

void st_sha256(const void *p, size_t len, uint8_t out[32])
{
    SHA256(p, len, out);
}

void st_hex(const uint8_t *p, size_t len, char *out)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < len; i++) {
        out[2 * i] = digits[p[i] >> 4];
        out[2 * i + 1] = digits[p[i] & 15];
    }
    out[2 * len] = 0;
}
