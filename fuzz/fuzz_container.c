/* Any bytes as a sealed container: refused, or every segment of every entry lies inside the bytes. The input is a byte
 * of how; 0: the file as it is. Else a u16, that many bytes of header behind the publisher's key, the number of
 * segments (a byte), and segments: keys, signatures and digests are put in here, since no fuzzer finds them. */
#include "crypto/digest.h"
#include "crypto/ed25519.h"
#include "model/container_header.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
    struct st_span header, segments;
    uint8_t n_segment;
};

static void read_all(const struct st_container *c, const uint8_t *p, size_t len, bool good)
{
    struct st_err e;
    for (size_t i = 0; i < st_container_count(c); i++) {
        const struct st_container_entry *n = st_container_at(c, i);
        struct st_buf file = {0};
        uint8_t ad[ST_CONTAINER_AD_MAX];
        uint64_t bytes = 0;
        if (st_container_find(c, n->tensor.name) != n || !n->n_segment)
            abort();
        for (uint32_t k = 0; k < n->n_segment; k++) {
            struct st_span s = st_container_segment(c, n, k);
            if (!s.len || s.p < p || s.len > len || s.p > p + len - s.len)
                abort();
            bytes += st_container_segment_bytes(n, k);
            if (st_container_segment_ad(&c->about, n, k, ad) > sizeof ad)
                abort();
        }
        if (bytes != n->tensor.bytes)
            abort();
        if (n->is_file && st_container_file(c, n->tensor.name, 1 << 20, &file, &e) != 0 && good)
            abort();
        st_buf_free(&file);
    }
    if (good && st_container_check(c, 1, false, &e))
        abort();
}

static void put_u32(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}

static void sign(const struct st_ed25519 *key, const char *label, const uint8_t digest[32], struct st_span more,
                 struct st_buf *out)
{
    struct st_buf b = {0};
    struct st_err e;
    uint8_t signature[ST_ED25519_SIGNATURE];
    st_buf_add_str(&b, label);
    st_buf_add(&b, digest, 32);
    st_buf_add(&b, more.p, more.len);
    if (st_ed25519_sign(key, b.p, b.len, signature, &e))
        abort();
    st_buf_add(out, signature, sizeof signature);
    st_buf_free(&b);
}

/* A container around the input, with these digests. */
static void frame(const struct input *in, const struct st_ed25519 *key, const uint8_t *digests, struct st_buf *out)
{
    static const uint8_t mac[32];
    uint8_t fixed[24] = "SOTTOSEA", hash[32], public[32];
    char hex[65];
    struct st_buf header = {0};
    struct st_digest d;
    struct st_err e;
    st_ed25519_public(key, public);
    st_hex(public, 32, hex);
    st_buf_addf(&header, "%s%s\"", ST_CONTAINER_BEGIN, hex);
    st_buf_add(&header, in->header.p, in->header.len);
    char *at = memmem(header.p, header.len, "\"digests\":\"", 11);
    if (at && header.p + header.len - at >= 11 + 64) {
        st_sha256(digests, (size_t)in->n_segment * 32, hash);
        st_hex(hash, 32, hex);
        memcpy(at + 11, hex, 64);
    }
    put_u32(fixed + 8, ST_CONTAINER_VERSION);
    put_u32(fixed + 12, (uint32_t)header.len);
    put_u32(fixed + 16, 2);
    put_u32(fixed + 20, in->n_segment);
    if (st_digest_init(&d, &e))
        abort();
    st_digest_add(&d, fixed, 16);
    st_digest_add(&d, fixed + 20, 4);
    st_digest_add(&d, header.p, header.len);
    st_digest_end(&d, hash);
    st_buf_add(out, fixed, sizeof fixed);
    st_buf_add(out, header.p, header.len);
    st_buf_add(out, mac, sizeof mac);
    sign(key, "sotto sealed 1 header", hash, (struct st_span){mac, sizeof mac}, out);
    st_buf_add_str(out, "[]");
    sign(key, "sotto sealed 1 recipients", hash, (struct st_span){(const uint8_t *)"[]", 2}, out);
    st_buf_add(out, digests, (size_t)in->n_segment * 32);
    st_buf_add(out, in->segments.p, in->segments.len);
    st_buf_free(&header);
}

/* Parsed once with no digests, to learn where the segments lie, and once with the right ones. */
static void signed_input(const struct input *in, const struct st_ed25519 *key)
{
    uint8_t digests[255 * 32] = {0};
    for (int pass = 0; pass < 2; pass++) {
        struct st_buf b = {0};
        struct st_container *c;
        struct st_err e;
        frame(in, key, digests, &b);
        uint8_t *exact = malloc(b.len);
        memcpy(exact, b.p, b.len);
        int rc = st_container_parse(exact, b.len, "fuzz", NULL, &c, &e);
        if (!rc) {
            read_all(c, exact, b.len, pass == 1);
            for (size_t i = 0; i < st_container_count(c); i++)
                for (uint32_t k = 0; k < st_container_at(c, i)->n_segment; k++) {
                    struct st_span s = st_container_segment(c, st_container_at(c, i), k);
                    st_sha256(s.p, s.len, digests + 32 * (st_container_at(c, i)->first_segment + (size_t)k));
                }
            st_container_close(c);
        }
        free(exact);
        st_buf_free(&b);
        if (rc)
            return;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t seed[32] = {1};
    static struct st_ed25519 *key;
    struct st_container *c;
    struct st_err e;
    if (!key && st_ed25519_import(seed, &key, &e))
        abort();
    if (size < 1)
        return 0;
    if (data[0] == 0) {
        if (!st_container_parse(data + 1, size - 1, "fuzz", NULL, &c, &e)) {
            read_all(c, data + 1, size - 1, false);
            st_container_close(c);
        }
        return 0;
    }
    size_t head = size < 4 ? 0 : data[1] | (size_t)data[2] << 8;
    if (size < 4 || head > size - 4)
        return 0;
    const struct input in = {
        .header = {data + 3, head}, .n_segment = data[3 + head], .segments = {data + 4 + head, size - 4 - head}};
    signed_input(&in, key);
    return 0;
}
