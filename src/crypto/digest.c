#include "crypto/digest.h"

#include <openssl/evp.h>
#include <pthread.h>
#include <stdlib.h>

/* Looked up by name once, which costs more than hashing little. */
static EVP_MD *sha256;

static void look_up(void)
{
    sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
}

static const EVP_MD *algorithm(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, look_up);
    return sha256;
}

void st_sha256(const void *p, size_t len, uint8_t out[32])
{
    const EVP_MD *md = algorithm();
    if (!md || EVP_Digest(p, len, out, NULL, md, NULL) != 1)
        abort(); /* as in st_digest_add() */
}

int st_digest_init(struct st_digest *d, struct st_err *e)
{
    const EVP_MD *md = algorithm();
    d->ctx = EVP_MD_CTX_new();
    if (d->ctx && md && EVP_DigestInit_ex2(d->ctx, md, NULL) == 1)
        return 0;
    st_digest_wipe(d);
    return st_fail(e, ST_INTERNAL, "sha-256: OpenSSL cannot start it");
}

void st_digest_add(struct st_digest *d, const void *p, size_t len)
{
    /* Hashing memory cannot fail; going on with a wrong digest would be the worst outcome. */
    if (EVP_DigestUpdate(d->ctx, p, len) != 1)
        abort();
}

void st_digest_end(struct st_digest *d, uint8_t out[32])
{
    if (EVP_DigestFinal_ex(d->ctx, out, NULL) != 1)
        abort();
    st_digest_wipe(d);
}

void st_digest_wipe(struct st_digest *d)
{
    EVP_MD_CTX_free(d->ctx); /* overwrites its state */
    d->ctx = NULL;
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

static int digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int st_unhex(const char *hex, size_t hex_len, uint8_t *out, size_t len, const char *what, struct st_err *e)
{
    if (hex_len % 2 || hex_len / 2 != len)
        return st_fail(e, ST_INPUT, "%s: want %zu hexadecimal digits, got %zu characters", what, 2 * len, hex_len);
    for (size_t i = 0; i < len; i++) {
        int high = digit(hex[2 * i]), low = digit(hex[2 * i + 1]);
        if (high < 0 || low < 0)
            return st_fail(e, ST_INPUT, "%s: want hexadecimal digits", what);
        out[i] = (uint8_t)(high << 4 | low);
    }
    return 0;
}
