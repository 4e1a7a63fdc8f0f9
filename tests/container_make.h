/* Sealed containers made by hand (docs/sealed.md), in memory and field by field, so that any of them can be wrong: what
 * the writer (protect/sealed/writer.h) would not make. */
#ifndef ST_TESTS_CONTAINER_MAKE_H
#define ST_TESTS_CONTAINER_MAKE_H

#include "base/buf.h"
#include "crypto/aead.h"
#include "crypto/digest.h"
#include "crypto/ed25519.h"
#include "expect.h"
#include "model/container.h"
#include "protect/sealed/vault.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct made_entry {
    const char *json; /* of a tensor: fields behind name and place; NULL = a file */
    const char *name;
    bool inside;
    const void *data;
    size_t bytes;
    uint32_t segment_bytes;
};

struct made {
    uint8_t seed[32], id[16];
    uint64_t version;
    const char *kind, *begin, *more; /* NULL: "model", the right one, "" */
    const struct made_entry *entries;
    size_t n;
    const char *recipients; /* NULL: "[{}]" */
    struct st_secret content_key;
};

static inline void put_u32(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}

/* The entry as the reader would describe it, for the associated data. */
static inline struct st_container_entry made_describe(const struct made_entry *m)
{
    struct st_container_entry n = {.place = m->inside ? ST_CONTAINER_INSIDE : ST_CONTAINER_OUTSIDE,
                                   .is_file = !m->json,
                                   .segment_bytes = m->segment_bytes,
                                   .n_segment = (uint32_t)((m->bytes + m->segment_bytes - 1) / m->segment_bytes),
                                   .tensor = {.name = m->name, .stored = "", .bytes = m->bytes}};
    unsigned long long dim[ST_MAX_DIMS];
    static char words[64][16];
    static int used;
    if (m->json) {
        char *word = words[used++ % 64];
        const char *shape = strchr(m->json, '[');
        sscanf(m->json, "\"dtype\":\"%15[^\"]\"", word);
        n.tensor.stored = word;
        n.tensor.n_dim = sscanf(shape, "[%llu,%llu,%llu", &dim[0], &dim[1], &dim[2]);
        for (int i = 0; i < n.tensor.n_dim; i++)
            n.tensor.dim[i] = dim[i];
    }
    return n;
}

static inline void made_segments(const struct made *m, struct st_buf *segments, struct st_buf *digests)
{
    struct st_err e;
    struct st_secret key;
    struct st_container_about a = {.version = m->version};
    memcpy(a.id, m->id, sizeof a.id);
    assert_ok(st_vault_segment_key(&m->content_key, m->id, &key, &e), &e);
    for (size_t i = 0; i < m->n; i++) {
        struct st_container_entry n = made_describe(&m->entries[i]);
        for (uint32_t k = 0; k < n.n_segment; k++) {
            uint32_t len = st_container_segment_bytes(&n, k), stored = len + (m->entries[i].inside ? 28 : 0);
            const uint8_t *text = (const uint8_t *)m->entries[i].data + (size_t)k * n.segment_bytes;
            uint8_t *to = st_buf_room(segments, stored), hash[32];
            if (m->entries[i].inside) {
                uint8_t ad[ST_CONTAINER_AD_MAX];
                size_t ad_len = st_container_segment_ad(&a, &n, k, ad);
                memset(to, 0, 12);
                put_u32(to, (uint32_t)i);
                put_u32(to + 4, k);
                assert_ok(st_aead_seal(key.p, to, ad, ad_len, text, len, to + 12, &e), &e);
            } else
                memcpy(to, text, len);
            st_sha256(to, stored, hash);
            st_buf_add(digests, hash, sizeof hash);
        }
    }
    st_secret_wipe(&key);
}

static inline void made_header(const struct made *m, const struct st_buf *digests, const uint8_t publisher[32],
                               struct st_buf *out)
{
    char hex[65];
    uint8_t hash[32];
    st_hex(publisher, 32, hex);
    st_buf_addf(out, "%s%s\",\"id\":\"", m->begin ? m->begin : "{\"publisher\":\"", hex);
    st_hex(m->id, 16, hex);
    st_buf_addf(out, "%s\",\"version\":%llu,\"kind\":\"%s\",\"name\":\"made\",\"created\":1,\"policy\":\"custom\",",
                hex, (unsigned long long)m->version, m->kind ? m->kind : "model");
    st_sha256(digests->p, digests->len, hash);
    st_hex(hash, 32, hex);
    st_buf_addf(out, "%s\"digests\":\"%s\",\"entries\":[", m->more ? m->more : "", hex);
    for (size_t i = 0; i < m->n; i++) {
        const struct made_entry *n = &m->entries[i];
        st_buf_addf(out, "%s{\"name\":\"%s\",\"place\":\"%s\",\"segment_bytes\":%u,", i ? "," : "", n->name,
                    n->inside ? "inside" : "outside", n->segment_bytes);
        if (n->json)
            st_buf_addf(out, "%s}", n->json);
        else
            st_buf_addf(out, "\"bytes\":%zu}", n->bytes);
    }
    st_buf_add_str(out, "]}");
}

static inline void made_sign(const struct st_ed25519 *key, const char *label, const uint8_t digest[32],
                             const void *more, size_t len, uint8_t out[64])
{
    struct st_buf b = {0};
    struct st_err e;
    st_buf_add_str(&b, label);
    st_buf_add(&b, digest, 32);
    st_buf_add(&b, more, len);
    assert_ok(st_ed25519_sign(key, b.p, b.len, out, &e), &e);
    st_buf_free(&b);
}

/* A whole container around a header's text. */
static inline void made_frame(const struct made *m, const struct st_buf *header, const struct st_buf *digests,
                              const struct st_buf *segments, struct st_buf *out)
{
    struct st_err e;
    struct st_ed25519 *key;
    struct st_digest d;
    const char *recipients = m->recipients ? m->recipients : "[{}]";
    uint8_t fixed[24] = "SOTTOSEA", digest[32], mac[32], signature[64];
    put_u32(fixed + 8, 1);
    put_u32(fixed + 12, (uint32_t)header->len);
    put_u32(fixed + 16, (uint32_t)strlen(recipients));
    put_u32(fixed + 20, (uint32_t)(digests->len / 32));
    assert_ok(st_digest_init(&d, &e), &e);
    st_digest_add(&d, fixed, 16);
    st_digest_add(&d, fixed + 20, 4);
    st_digest_add(&d, header->p, header->len);
    st_digest_end(&d, digest);
    assert_ok(st_ed25519_import(m->seed, &key, &e), &e);
    assert_ok(st_vault_mac(&m->content_key, m->id, digest, mac, &e), &e);
    st_buf_add(out, fixed, sizeof fixed);
    st_buf_add(out, header->p, header->len);
    st_buf_add(out, mac, sizeof mac);
    made_sign(key, "sotto sealed 1 header", digest, mac, sizeof mac, signature);
    st_buf_add(out, signature, sizeof signature);
    st_buf_add_str(out, recipients);
    made_sign(key, "sotto sealed 1 recipients", digest, recipients, strlen(recipients), signature);
    st_buf_add(out, signature, sizeof signature);
    st_buf_add(out, digests->p, digests->len);
    st_buf_add(out, segments->p, segments->len);
    assert_false(out->failed);
    st_ed25519_free(key);
}

/* Also sets m->content_key, for the caller to wipe. */
static inline void made_container(struct made *m, struct st_buf *out)
{
    struct st_err e;
    struct st_ed25519 *key;
    uint8_t publisher[32];
    struct st_buf segments = {0}, digests = {0}, header = {0};
    assert_ok(st_vault_content_key(m->seed, m->id, &m->content_key, &e), &e);
    assert_ok(st_ed25519_import(m->seed, &key, &e), &e);
    st_ed25519_public(key, publisher);
    st_ed25519_free(key);
    made_segments(m, &segments, &digests);
    made_header(m, &digests, publisher, &header);
    made_frame(m, &header, &digests, &segments, out);
    st_buf_free(&segments);
    st_buf_free(&digests);
    st_buf_free(&header);
}

#endif
