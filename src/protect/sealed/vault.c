#include "protect/sealed/vault.h"
#include "base/locked.h"
#include "crypto/aead.h"
#include "crypto/hkdf.h"

#include <inttypes.h>
#include <openssl/crypto.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define KEY 32
#define SEGMENTS "sotto sealed 1 segments"

/* One for each thread that was at it at the same time. */
struct opener {
    struct opener *next;
    struct st_aead_reader reader;
};

struct st_vault {
    const struct st_container *c;
    struct st_container_about about;
    struct st_locked keys; /* the content key, then that of the segments */
    struct st_source source;
    pthread_mutex_t idle_lock;
    struct opener *idle;
    pthread_mutex_t lock;  /* of part */
    struct st_locked part; /* a segment of which a part is wanted; made when first needed */
    bool allow_unlocked;
};

int st_vault_content_key(const uint8_t seed[32], const uint8_t id[16], struct st_secret *out, struct st_err *e)
{
    static const char info[] = "sotto sealed 1 content key";
    if (st_secret_init(out, KEY, e))
        return e->code;
    int rc = st_hkdf_sha256(seed, 32, id, 16, (const uint8_t *)info, sizeof info - 1, out->p, KEY, e);
    if (rc)
        st_secret_wipe(out);
    return rc;
}

int st_vault_mac(const struct st_secret *content_key, const uint8_t id[16], const uint8_t digest[32], uint8_t out[32],
                 struct st_err *e)
{
    static const char label[] = "sotto sealed 1 header";
    uint8_t info[sizeof label - 1 + 32];
    memcpy(info, label, sizeof label - 1);
    memcpy(info + sizeof label - 1, digest, 32);
    return st_hkdf_sha256(content_key->p, content_key->len, id, 16, info, sizeof info, out, 32, e);
}

static int derive(const uint8_t content_key[KEY], const uint8_t id[16], const char *info, uint8_t out[KEY],
                  struct st_err *e)
{
    return st_hkdf_sha256(content_key, KEY, id, 16, (const uint8_t *)info, strlen(info), out, KEY, e);
}

int st_vault_segment_key(const struct st_secret *content_key, const uint8_t id[16], struct st_secret *out,
                         struct st_err *e)
{
    if (st_secret_init(out, KEY, e))
        return e->code;
    int rc = derive(content_key->p, id, SEGMENTS, out->p, e);
    if (rc)
        st_secret_wipe(out);
    return rc;
}

static int check_mac(const struct st_container *c, const struct st_container_about *a,
                     const struct st_secret *content_key, struct st_err *e)
{
    uint8_t mac[32];
    if (content_key->len != KEY)
        return st_fail(e, ST_INTERNAL, "content key: want %d bytes, got %zu", KEY, content_key->len);
    if (st_vault_mac(content_key, a->id, a->digest, mac, e))
        return e->code;
    bool good = CRYPTO_memcmp(mac, st_container_mac(c), sizeof mac) == 0;
    OPENSSL_cleanse(mac, sizeof mac);
    return good ? 0 : st_fail(e, ST_VERIFY, "%s: the key is not this container's", st_container_path(c));
}

/* As a source of weights.
 * ---------------------------------------------------------------------------------------------------------------- */

/* Bytes of a segment that is wanted in part only. */
static int read_part(struct st_vault *v, const struct st_container_entry *n, uint32_t k, size_t from, size_t len,
                     void *dst, struct st_err *e)
{
    const struct st_locked_opts o = {.what = "segment", .allow_unlocked = v->allow_unlocked, .secretmem = true};
    pthread_mutex_lock(&v->lock);
    int rc = v->part.p ? 0 : st_locked_new(&v->part, ST_CONTAINER_SEGMENT, &o, e);
    if (!rc)
        rc = st_vault_segment(v, n, k, v->part.p, e);
    if (!rc) {
        memcpy(dst, v->part.p + from, len);
        OPENSSL_cleanse(v->part.p, st_container_segment_bytes(n, k));
    }
    pthread_mutex_unlock(&v->lock);
    return rc;
}

static int read_inside(struct st_vault *v, const struct st_container_entry *n, uint64_t at, size_t len, uint8_t *dst,
                       struct st_err *e)
{
    int rc = 0;
    if (at > n->tensor.bytes || len > n->tensor.bytes - at)
        return st_fail(e, ST_INTERNAL, "%s: %s: read beyond its end", st_container_label(v->c), n->tensor.name);
    while (!rc && len) {
        uint32_t k = (uint32_t)(at / n->segment_bytes), from = (uint32_t)(at % n->segment_bytes);
        size_t whole = st_container_segment_bytes(n, k), take = whole - from < len ? whole - from : len;
        rc = take == whole ? st_vault_segment(v, n, k, dst, e) : read_part(v, n, k, from, take, dst, e);
        dst += take;
        at += take;
        len -= take;
    }
    return rc;
}

static int source_read(void *ctx, const struct st_tensor *t, uint64_t at, size_t len, void *dst, struct st_err *e)
{
    struct st_vault *v = ctx;
    const struct st_container_entry *n = st_container_find(v->c, t->name);
    if (!n)
        return st_fail(e, ST_INTERNAL, "%s: %s: not in this container", st_container_label(v->c), t->name);
    return n->place == ST_CONTAINER_INSIDE ? read_inside(v, n, at, len, dst, e)
                                           : st_container_read(v->c, n, at, len, dst, e);
}

static uint32_t source_block(void *ctx, const struct st_tensor *t)
{
    const struct st_vault *v = ctx;
    const struct st_source *s = st_container_source(v->c);
    return s->block(s->ctx, t);
}

static bool source_secret(void *ctx, const struct st_tensor *t)
{
    const struct st_vault *v = ctx;
    const struct st_source *s = st_container_source(v->c);
    return s->secret(s->ctx, t);
}

static bool source_readable(void *ctx, const struct st_tensor *t)
{
    (void)ctx;
    (void)t;
    return true;
}

int st_vault_new(const struct st_container *c, const struct st_secret *content_key, bool allow_unlocked,
                 struct st_vault **out, struct st_err *e)
{
    struct st_container_about about;
    *out = NULL;
    st_container_about(c, &about);
    if (check_mac(c, &about, content_key, e))
        return e->code;
    struct st_vault *v = calloc(1, sizeof *v);
    if (!v)
        return st_fail(e, ST_MEMORY, "%s: out of memory", st_container_path(c));
    v->c = c;
    v->about = about;
    v->allow_unlocked = allow_unlocked;
    v->source = (struct st_source){.ctx = v,
                                   .container = c,
                                   .read = source_read,
                                   .block = source_block,
                                   .secret = source_secret,
                                   .readable = source_readable};
    pthread_mutex_init(&v->lock, NULL);
    pthread_mutex_init(&v->idle_lock, NULL);
    /* Where the weights lie too: whoever reads these keys out of memory needs to read nothing else. */
    const struct st_locked_opts lo = {
        .what = "keys of sealed weights", .allow_unlocked = allow_unlocked, .secretmem = true};
    int rc = st_locked_new(&v->keys, 2 * KEY, &lo, e);
    if (!rc) {
        memcpy(v->keys.p, content_key->p, KEY);
        rc = derive(v->keys.p, about.id, SEGMENTS, v->keys.p + KEY, e);
    }
    if (rc)
        st_vault_free(v);
    else
        *out = v;
    return rc;
}

void st_vault_free(struct st_vault *v)
{
    if (!v)
        return;
    st_locked_free(&v->keys);
    st_locked_free(&v->part);
    while (v->idle) {
        struct opener *o = v->idle;
        v->idle = o->next;
        st_aead_reader_free(&o->reader);
        free(o);
    }
    pthread_mutex_destroy(&v->lock);
    pthread_mutex_destroy(&v->idle_lock);
    free(v);
}

const struct st_container *st_vault_container(const struct st_vault *v)
{
    return v->c;
}

int st_vault_derive(const struct st_vault *v, const char *info, uint8_t out[32], struct st_err *e)
{
    return derive(v->keys.p, v->about.id, info, out, e);
}

const struct st_source *st_vault_source(struct st_vault *v)
{
    return &v->source;
}

/* One that no thread uses, made when there is none: segments of every token take no memory. */
static struct opener *take_opener(struct st_vault *v, struct st_err *e)
{
    pthread_mutex_lock(&v->idle_lock);
    struct opener *o = v->idle;
    if (o)
        v->idle = o->next;
    pthread_mutex_unlock(&v->idle_lock);
    if (o || st_alloc(&o, 1, sizeof *o, "segment", e))
        return o;
    if (st_aead_reader_new(&o->reader, e)) {
        free(o);
        o = NULL;
    }
    return o;
}

static void give_opener(struct st_vault *v, struct opener *o)
{
    pthread_mutex_lock(&v->idle_lock);
    o->next = v->idle;
    v->idle = o;
    pthread_mutex_unlock(&v->idle_lock);
}

static int open_segment(struct st_vault *v, const struct st_container_entry *n, uint32_t k, void *dst, struct st_err *e)
{
    struct st_span s = st_container_segment(v->c, n, k);
    uint8_t nonce[ST_AEAD_NONCE_LEN], ad[ST_CONTAINER_AD_MAX];
    size_t ad_len = st_container_segment_ad(&v->about, n, k, ad);
    struct opener *o = take_opener(v, e);
    if (!o)
        return e->code;
    memcpy(nonce, s.p, sizeof nonce);
    int rc =
        st_aead_read(&o->reader, v->keys.p + KEY, nonce, ad, ad_len, s.p + sizeof nonce, s.len - sizeof nonce, dst, e);
    give_opener(v, o);
    if (rc == ST_VERIFY)
        rc = st_fail(e, ST_VERIFY, "%s: %s: segment %" PRIu32 " is changed", st_container_label(v->c), n->tensor.name,
                     k);
    return rc;
}

int st_vault_segment(struct st_vault *v, const struct st_container_entry *n, uint32_t k, void *dst, struct st_err *e)
{
    size_t len = st_container_segment_bytes(n, k);
    int rc = n->place == ST_CONTAINER_INSIDE ? open_segment(v, n, k, dst, e)
                                             : st_container_read(v->c, n, (uint64_t)k * n->segment_bytes, len, dst, e);
    if (rc)
        OPENSSL_cleanse(dst, len);
    return rc;
}
