#include "crypto/stream.h"
#include "base/buf.h"
#include "crypto/hkdf.h"

#include <limits.h>
#include <math.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK 4096

struct st_stream {
    EVP_CIPHER_CTX *cipher;
    uint8_t buf[CHUNK];
    size_t used;  /* bytes of buf already given out */
    double spare; /* second normal of a pair */
    bool has_spare;
};

static void add_field(struct st_buf *b, const void *p, size_t len)
{
    uint8_t n[4] = {(uint8_t)len, (uint8_t)(len >> 8), (uint8_t)(len >> 16), (uint8_t)(len >> 24)};
    st_buf_add(b, n, sizeof n);
    st_buf_add(b, p, len);
}

int st_stream_new(const uint8_t *seed, size_t seed_len, const uint8_t *context, size_t context_len, const char *label,
                  struct st_stream **out, struct st_err *e)
{
    static const char salt[] = "sotto stream 1";
    static const uint8_t start[16] = {0}; /* counter and nonce */
    uint8_t key[32] = {0};
    struct st_buf info = {0};
    *out = NULL;
    struct st_stream *s = calloc(1, sizeof *s);
    add_field(&info, context, context_len);
    add_field(&info, label, strlen(label));
    int rc = 0;
    if (!s || info.failed) {
        rc = st_fail(e, ST_MEMORY, "random stream: out of memory");
        goto out;
    }
    s->used = CHUNK;
    s->cipher = EVP_CIPHER_CTX_new();
    rc = st_hkdf_sha256(seed, seed_len, (const uint8_t *)salt, strlen(salt), (const uint8_t *)info.p, info.len, key,
                        sizeof key, e);
    if (!rc && (!s->cipher || EVP_EncryptInit_ex(s->cipher, EVP_chacha20(), NULL, key, start) != 1))
        rc = st_fail(e, ST_INTERNAL, "random stream: OpenSSL has no ChaCha20");
    if (!rc) {
        *out = s;
        s = NULL;
    }
out:
    OPENSSL_cleanse(key, sizeof key);
    st_buf_free(&info);
    st_stream_free(s);
    return rc;
}

void st_stream_free(struct st_stream *s)
{
    if (!s)
        return;
    EVP_CIPHER_CTX_free(s->cipher); /* OpenSSL overwrites the key schedule */
    OPENSSL_cleanse(s, sizeof *s);
    free(s);
}

static void refill(struct st_stream *s)
{
    int n = 0;
    memset(s->buf, 0, sizeof s->buf);
    /* A stream cipher on memory of our own cannot fail; going on with zeros as "random" bytes would be the worst
     * outcome. */
    if (EVP_EncryptUpdate(s->cipher, s->buf, &n, s->buf, CHUNK) != 1 || n != CHUNK)
        abort();
    s->used = 0;
}

void st_stream_bytes(struct st_stream *s, void *out, size_t len)
{
    uint8_t *p = out;
    while (len) {
        if (s->used == CHUNK)
            refill(s);
        size_t n = CHUNK - s->used < len ? CHUNK - s->used : len;
        memcpy(p, s->buf + s->used, n);
        s->used += n;
        p += n;
        len -= n;
    }
}

void st_stream_at(struct st_stream *s, uint64_t row, uint32_t block, void *out, size_t len)
{
    uint8_t iv[16] = {0}; /* counter, nonce */
    uint8_t *p = out;
    for (int i = 0; i < 4; i++)
        iv[i] = (uint8_t)(block >> (8 * i));
    for (int i = 0; i < 8; i++)
        iv[4 + i] = (uint8_t)(row >> (8 * i));
    memset(out, 0, len);
    if (EVP_EncryptInit_ex(s->cipher, NULL, NULL, NULL, iv) != 1)
        abort(); /* as in refill() */
    while (len) {
        int n = len < INT_MAX / 2 ? (int)len : INT_MAX / 2, got = 0;
        if (EVP_EncryptUpdate(s->cipher, p, &got, p, n) != 1 || got != n)
            abort();
        p += n;
        len -= (size_t)n;
    }
}

uint64_t st_stream_u64(struct st_stream *s)
{
    uint8_t b[8];
    uint64_t v = 0;
    st_stream_bytes(s, b, sizeof b);
    for (int i = 7; i >= 0; i--)
        v = v << 8 | b[i];
    return v;
}

uint64_t st_stream_below(struct st_stream *s, uint64_t n)
{
    uint64_t reject = -n % n; /* 2^64 mod n: the lowest values that would be over-represented */
    uint64_t v;
    do
        v = st_stream_u64(s);
    while (v < reject);
    return v % n;
}

double st_stream_unit(struct st_stream *s)
{
    return (double)(st_stream_u64(s) >> 11) * 0x1p-53;
}

double st_stream_normal(struct st_stream *s)
{
    if (s->has_spare) {
        s->has_spare = false;
        return s->spare;
    }
    double radius = sqrt(-2 * log(1 - st_stream_unit(s))); /* 1 - unit is in (0, 1] */
    double angle = 2 * M_PI * st_stream_unit(s);
    s->spare = radius * sin(angle);
    s->has_spare = true;
    return radius * cos(angle);
}

void st_stream_permutation(struct st_stream *s, uint32_t *p, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        p[i] = i;
    for (uint32_t i = n; i > 1; i--) {
        uint32_t j = (uint32_t)st_stream_below(s, i);
        uint32_t t = p[i - 1];
        p[i - 1] = p[j];
        p[j] = t;
    }
}
