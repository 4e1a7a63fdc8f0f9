/* Chunks under a key that the fuzzer has: the bytes say how a message is cut into chunks and which of its sealed bytes
 * are changed, dropped or sent twice. What opens is a beginning of the message, and it ends well only unchanged. */
#include "channel/chunks.h"

#include <stdlib.h>
#include <string.h>

static const uint8_t key[16] = {1}, nonce[ST_SEQUENCE_NONCE] = {2};

struct bytes {
    const uint8_t *p;
    size_t len;
};

static uint8_t take(struct bytes *b)
{
    if (!b->len)
        return 0;
    b->len--;
    return *b->p++;
}

/* Seals text [len] in pieces whose lengths the input says. */
static void seal(struct bytes *in, enum st_ohttp_form form, const uint8_t *text, size_t len, struct st_buf *out)
{
    struct st_err e;
    struct st_sequence s;
    struct st_chunk_sealer c = {.form = form};
    if (st_sequence_init(&s, ST_AEAD_AES_128_GCM, key, nonce, true, &e))
        abort();
    while (form == ST_OHTTP_CHUNKED && len) {
        size_t n = take(in) % (len + 1);
        if (n == 0)
            break;
        if (st_chunk_seal(&c, &s, text, n, false, out, &e))
            abort();
        text += n;
        len -= n;
    }
    if (st_chunk_seal(&c, &s, text, len, true, out, &e))
        abort();
    st_sequence_wipe(&s);
}

/* One change; false when the input asks for none, or for one that changes nothing. */
static bool damage(struct bytes *in, struct st_buf *b)
{
    uint8_t how = take(in);
    size_t at = ((size_t)take(in) << 8 | take(in)) % (b->len + 1);
    size_t n = 1 + take(in) % 64;
    switch (how & 3) {
    case 0:
        return false;
    case 1:
        if (at == b->len)
            return false;
        b->p[at] ^= (char)(how >> 2 ? how >> 2 : 1);
        return true;
    case 2:
        if (n > b->len - at)
            return false;
        memmove(b->p + at, b->p + at + n, b->len - at - n);
        b->len -= n;
        return true;
    default:
        st_buf_add(b, key, n % sizeof key + 1);
        return true;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t text[300];
    struct bytes in = {data, size};
    struct st_err e;
    struct st_sequence s;
    struct st_chunk_opener c;
    struct st_buf b = {0}, got = {0};
    struct st_span piece;
    enum st_ohttp_form form = take(&in) & 1;
    size_t len = take(&in), step = 1 + take(&in);
    for (size_t i = 0; i < sizeof text; i++)
        text[i] = (uint8_t)i;
    seal(&in, form, text, len, &b);
    struct st_buf clean = {0};
    st_buf_add(&clean, b.p, b.len);
    while (in.len)
        damage(&in, &b);
    bool damaged = b.len != clean.len || memcmp(b.p, clean.p, b.len) != 0;
    if (st_sequence_init(&s, ST_AEAD_AES_128_GCM, key, nonce, false, &e))
        abort();
    st_chunk_opener_init(&c, form, sizeof text);
    int rc = 0;
    for (size_t at = 0; !rc && at < b.len; at += step) {
        struct st_span bytes = {(uint8_t *)b.p + at, b.len - at < step ? b.len - at : step};
        while (!rc && bytes.len && !(rc = st_chunk_open(&c, &s, &bytes, &piece, &e)))
            st_buf_add(&got, piece.p, piece.len);
    }
    if (!rc && !(rc = st_chunk_open_end(&c, &s, &piece, &e)))
        st_buf_add(&got, piece.p, piece.len);
    if (got.len > len || (got.len && memcmp(got.p, text, got.len) != 0))
        abort();
    /* A length may be written in more bytes: the text is then the same, and nothing else ends well. */
    if (rc ? rc != ST_VERIFY || !damaged : got.len != len)
        abort();
    st_chunk_opener_wipe(&c);
    st_sequence_wipe(&s);
    st_buf_free(&b);
    st_buf_free(&clean);
    st_buf_free(&got);
    return 0;
}
