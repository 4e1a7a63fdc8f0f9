#include "model/container_parse.h"
#include "crypto/digest.h"
#include "crypto/ed25519.h"
#include "model/container_header.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char magic[8] = {'S', 'O', 'T', 'T', 'O', 'S', 'E', 'A'};

static uint32_t u32_at(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static int cut(const struct st_container *c, struct st_err *e)
{
    return st_fail(e, ST_VERIFY, "%s: cut: %" PRIu64 " bytes are too few", c->path, c->len);
}

/* Something else, or a container whose first bytes were changed? */
static int refuse_magic(const struct st_container *c, struct st_err *e)
{
    size_t n_same = 0;
    for (size_t i = 0; i < sizeof magic && i < c->len; i++)
        n_same += c->p[i] == (uint8_t)magic[i];
    if (st_container_named(c->path) || n_same >= sizeof magic / 2)
        return st_fail(e, ST_VERIFY, "%s: changed, cut, or not a sealed container", c->path);
    return st_fail(e, ST_INPUT, "%s: not a sealed container", c->path);
}

/* The lengths, checked against the file and the limits; everything before the digests is copied. */
static int copy_head(struct st_container *c, uint64_t *digests_at, struct st_err *e)
{
    const uint8_t *p = c->p;
    uint8_t fixed[ST_CONTAINER_FIXED];
    if (c->len < sizeof magic || memcmp(p, magic, sizeof magic) != 0)
        return refuse_magic(c, e);
    if (c->len < sizeof fixed)
        return cut(c, e);
    memcpy(fixed, p, sizeof fixed);
    uint32_t version = u32_at(fixed + 8), header = u32_at(fixed + 12), recipients = u32_at(fixed + 16);
    c->n_segment = u32_at(fixed + 20);
    if (version != ST_CONTAINER_VERSION)
        return st_fail(e, ST_UNSUPPORTED, "%s: container version %" PRIu32 "; supported: %d", c->path, version,
                       ST_CONTAINER_VERSION);
    if (header > ST_CONTAINER_HEADER_MAX || recipients > ST_CONTAINER_RECIPIENTS_MAX ||
        c->n_segment > ST_CONTAINER_SEGMENTS_MAX)
        return st_fail(e, ST_VERIFY, "%s: header, recipients or segments beyond the limits", c->path);
    if (header > ST_CONTAINER_HEADER_BASE + (uint64_t)c->n_segment * ST_CONTAINER_HEADER_ENTRY)
        return st_fail(e, ST_VERIFY, "%s: its header is longer than that of %" PRIu32 " segments", c->path,
                       c->n_segment);
    uint64_t len = sizeof fixed + (uint64_t)header + ST_CONTAINER_MAC + ST_CONTAINER_SIGNATURE + recipients +
                   ST_CONTAINER_SIGNATURE;
    if (len > c->len || (uint64_t)c->n_segment * ST_CONTAINER_HASH > c->len - len)
        return cut(c, e);
    int rc = st_alloc(&c->head, (size_t)len, 1, c->path, e);
    if (rc)
        return rc;
    memcpy(c->head, fixed, sizeof fixed);
    memcpy(c->head + sizeof fixed, p + sizeof fixed, (size_t)len - sizeof fixed);
    c->header = (struct st_span){(const uint8_t *)c->head + sizeof fixed, header};
    c->mac = c->header.p + header;
    c->recipients = (struct st_span){c->mac + ST_CONTAINER_MAC + ST_CONTAINER_SIGNATURE, recipients};
    *digests_at = len;
    return 0;
}

/* S of docs/sealed.md: the head without the recipients' length, so that recipients can change. */
static int digest_head(struct st_container *c, struct st_err *e)
{
    struct st_digest d;
    if (st_digest_init(&d, e))
        return e->code;
    st_digest_add(&d, c->head, 16);     /* magic, version, header_len */
    st_digest_add(&d, c->head + 20, 4); /* n_segment */
    st_digest_add(&d, c->header.p, c->header.len);
    st_digest_end(&d, c->about.digest);
    return 0;
}

static int verify(const struct st_container *c, const char *label, struct st_span more, const uint8_t *signature,
                  struct st_err *e)
{
    struct st_buf b = {0};
    struct st_err refusal; /* written in any case */
    st_buf_add_str(&b, label);
    st_buf_add(&b, c->about.digest, sizeof c->about.digest);
    st_buf_add(&b, more.p, more.len);
    int rc = b.failed ? st_fail(e, ST_MEMORY, "%s: out of memory", c->path) : 0;
    if (!rc && st_ed25519_verify(c->about.publisher, b.p, b.len, signature, &refusal))
        rc = st_fail(e, ST_VERIFY, "%s: changed, or not signed by the publisher that it names", c->path);
    st_buf_free(&b);
    return rc;
}

static int refuse_publisher(const struct st_container *c, struct st_err *e)
{
    char hex[2 * sizeof c->about.publisher + 1];
    st_hex(c->about.publisher, sizeof c->about.publisher, hex);
    return st_fail(e, ST_VERIFY, "%s: is signed by %s, which is not --publisher", c->path, hex);
}

static int verify_signatures(struct st_container *c, const uint8_t *publisher, struct st_err *e)
{
    const size_t begin = sizeof ST_CONTAINER_BEGIN - 1, hex = 2 * sizeof c->about.publisher;
    const char *text = (const char *)c->header.p;
    struct st_err ignored;
    if (c->header.len < begin + hex + 1 || memcmp(text, ST_CONTAINER_BEGIN, begin) != 0 || text[begin + hex] != '"' ||
        st_unhex(text + begin, hex, c->about.publisher, sizeof c->about.publisher, "publisher", &ignored))
        return st_fail(e, ST_VERIFY, "%s: want a header that begins with its publisher", c->path);
    if (publisher && memcmp(publisher, c->about.publisher, sizeof c->about.publisher) != 0)
        return refuse_publisher(c, e);
    int rc = digest_head(c, e);
    if (!rc)
        rc = verify(c, "sotto sealed 1 header", (struct st_span){c->mac, ST_CONTAINER_MAC}, c->mac + ST_CONTAINER_MAC,
                    e);
    if (!rc)
        rc = verify(c, "sotto sealed 1 recipients", c->recipients, c->recipients.p + c->recipients.len, e);
    return rc;
}

static int copy_digests(struct st_container *c, uint64_t at, struct st_err *e)
{
    uint8_t hash[32];
    size_t len = (size_t)c->n_segment * ST_CONTAINER_HASH;
    int rc = st_alloc(&c->digests, len, 1, c->path, e);
    if (rc)
        return rc;
    memcpy(c->digests, c->p + at, len);
    st_sha256(c->digests, len, hash);
    return memcmp(hash, c->digests_hash, sizeof hash) == 0
               ? 0
               : st_fail(e, ST_VERIFY, "%s: the digests of its segments are not those that were signed", c->path);
}

int st_container_parse(const void *p, uint64_t len, const char *where, const uint8_t *publisher,
                       struct st_container **out, struct st_err *e)
{
    struct st_container *c;
    uint64_t digests_at = 0;
    *out = NULL;
    int rc = st_alloc(&c, 1, sizeof *c, where, e);
    if (rc)
        return rc;
    c->p = p;
    c->len = len;
    c->source = st_container_outside;
    c->source.ctx = c;
    c->source.container = c;
    c->path = strdup(where);
    if (!c->path)
        rc = st_fail(e, ST_MEMORY, "%s: no memory for its name", where);
    if (!rc)
        rc = copy_head(c, &digests_at, e);
    if (!rc)
        rc = verify_signatures(c, publisher, e);
    if (!rc)
        rc = st_container_read_header(c, digests_at + (uint64_t)c->n_segment * ST_CONTAINER_HASH, e);
    if (!rc)
        rc = copy_digests(c, digests_at, e);
    if (rc)
        st_container_close(c);
    else
        *out = c;
    return rc;
}
