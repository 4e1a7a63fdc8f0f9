#include "protect/sealed/layout.h"
#include "crypto/digest.h"
#include "model/container_header.h"
#include "protect/sealed/vault.h"
#include "text/json.h"

#include <inttypes.h>
#include <string.h>

#define ROOM_STEP 4096u
#define ROOM_SPARE 1024u /* a list that is wrapped anew may be a little longer */

static int out_of_memory(struct st_err *e)
{
    return st_fail(e, ST_MEMORY, "container: out of memory");
}

/* ---- the header's text ---- */

static void add_entry(struct st_buf *b, const struct st_container_entry *n)
{
    const struct st_tensor *t = &n->tensor;
    st_buf_add_str(b, "{\"name\":");
    st_json_quote(b, t->name, strlen(t->name));
    st_buf_addf(b, ",\"place\":\"%s\",", n->place == ST_CONTAINER_INSIDE ? "inside" : "outside");
    if (n->is_file)
        st_buf_addf(b, "\"bytes\":%zu", t->bytes);
    else {
        st_buf_addf(b, "\"dtype\":\"%s\",\"shape\":[", t->stored);
        for (int i = 0; i < t->n_dim; i++)
            st_buf_addf(b, "%s%" PRIu64, i ? "," : "", t->dim[i]);
        st_buf_add_str(b, "]");
    }
    st_buf_addf(b, ",\"segment_bytes\":%" PRIu32 "}", n->segment_bytes);
}

int st_sealed_entries(const struct st_contents *c, struct st_buf *out, struct st_err *e)
{
    st_buf_add_str(out, "[");
    for (size_t i = 0; i < c->n; i++) {
        if (i)
            st_buf_add_str(out, ",");
        add_entry(out, &c->at[i]);
    }
    st_buf_add_str(out, "]");
    return out->failed ? out_of_memory(e) : 0;
}

int st_sealed_header(const struct st_container_about *a, const uint8_t digests[32], struct st_span entries,
                     struct st_buf *out, struct st_err *e)
{
    char publisher[65], id[33], hash[65];
    st_hex(a->publisher, sizeof a->publisher, publisher);
    st_hex(a->id, sizeof a->id, id);
    st_hex(digests, 32, hash);
    st_buf_addf(out,
                ST_CONTAINER_BEGIN "%s\",\"id\":\"%s\",\"version\":%" PRIu64 ",\"kind\":\"%s\",\"name\":", publisher,
                id, a->version, a->kind == ST_CONTAINER_MODEL ? "model" : "adapter");
    st_json_quote(out, a->name, strlen(a->name));
    st_buf_addf(out, ",\"created\":%" PRId64 ",\"policy\":", a->created);
    st_json_quote(out, a->policy, strlen(a->policy));
    st_buf_addf(out, ",\"digests\":\"%s\",\"entries\":", hash);
    st_buf_add(out, entries.p, entries.len);
    st_buf_add_str(out, "}");
    return out->failed ? out_of_memory(e) : 0;
}

/* ---- places ---- */

int st_sealed_lay_out(const struct st_contents *c, size_t header_len, uint32_t recipients_len,
                      struct st_sealed_layout *l, struct st_err *e)
{
    if (header_len > ST_CONTAINER_HEADER_MAX)
        return st_fail(e, ST_UNSUPPORTED, "container: a header of %zu bytes for %zu entries; at most %u are accepted",
                       header_len, c->n, ST_CONTAINER_HEADER_MAX);
    int rc = st_alloc(&l->at, c->n, sizeof *l->at, "container", e);
    if (rc)
        return rc;
    l->mac_at = ST_CONTAINER_FIXED + header_len;
    l->recipients_at = l->mac_at + ST_CONTAINER_MAC + ST_CONTAINER_SIGNATURE;
    l->digests_at = l->recipients_at + recipients_len + ST_CONTAINER_SIGNATURE;
    l->total = l->digests_at + (uint64_t)c->n_segment * ST_CONTAINER_HASH;
    for (size_t i = 0; i < c->n; i++) {
        const struct st_container_entry *n = &c->at[i];
        l->at[i] = l->total;
        l->total += n->tensor.bytes;
        l->total += n->place == ST_CONTAINER_INSIDE ? (uint64_t)n->n_segment * ST_CONTAINER_SEAL_BYTES : 0;
    }
    return 0;
}

/* ---- the head ---- */

int st_sealed_recipients(const json_t *list, uint32_t room, struct st_buf *out, struct st_err *e)
{
    st_json_dump(list, out);
    if (out->failed)
        return out_of_memory(e);
    if (out->len > ST_CONTAINER_RECIPIENTS_MAX - ROOM_SPARE - ROOM_STEP)
        return st_fail(e, ST_USAGE, "recipients: %zu bytes are too many", out->len);
    if (!room)
        room = ((uint32_t)out->len + ROOM_SPARE + ROOM_STEP - 1) / ROOM_STEP * ROOM_STEP;
    if (out->len > room)
        return st_fail(e, ST_USAGE, "recipients: %zu bytes do not fit into the %" PRIu32 " that were left for them",
                       out->len, room);
    size_t pad = room - out->len;
    char *p = st_buf_room(out, pad);
    if (!p)
        return out_of_memory(e);
    memset(p, ' ', pad);
    return 0;
}

static void put_u32(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> (8 * i));
}

/* Appends the publisher's signature over a label, S's digest and what follows. */
static int add_signature(const struct st_sealed_head *h, const char *label, const uint8_t digest[32],
                         struct st_span more, struct st_buf *out, struct st_err *e)
{
    struct st_buf b = {0};
    uint8_t signature[ST_CONTAINER_SIGNATURE];
    st_buf_add_str(&b, label);
    st_buf_add(&b, digest, 32);
    st_buf_add(&b, more.p, more.len);
    int rc = b.failed ? out_of_memory(e) : st_ed25519_sign(h->publisher, b.p, b.len, signature, e);
    st_buf_free(&b);
    if (!rc)
        st_buf_add(out, signature, sizeof signature);
    return rc;
}

int st_sealed_write_head(const struct st_sealed_head *h, struct st_container_about *a, struct st_buf *out,
                         struct st_err *e)
{
    uint8_t fixed[ST_CONTAINER_FIXED] = "SOTTOSEA", mac[ST_CONTAINER_MAC];
    struct st_digest d;
    put_u32(fixed + 8, ST_CONTAINER_VERSION);
    put_u32(fixed + 12, (uint32_t)h->header.len);
    put_u32(fixed + 16, (uint32_t)h->recipients.len);
    put_u32(fixed + 20, h->n_segment);
    int rc = st_digest_init(&d, e);
    if (rc)
        return rc;
    st_digest_add(&d, fixed, 16); /* S: all but the recipients' length */
    st_digest_add(&d, fixed + 20, 4);
    st_digest_add(&d, h->header.p, h->header.len);
    st_digest_end(&d, a->digest);
    rc = st_vault_mac(h->content_key, a->id, a->digest, mac, e);
    if (rc)
        return rc;
    st_buf_add(out, fixed, sizeof fixed);
    st_buf_add(out, h->header.p, h->header.len);
    st_buf_add(out, mac, sizeof mac);
    rc = add_signature(h, "sotto sealed 1 header", a->digest, (struct st_span){mac, sizeof mac}, out, e);
    st_buf_add(out, h->recipients.p, h->recipients.len);
    if (!rc)
        rc = add_signature(h, "sotto sealed 1 recipients", a->digest, h->recipients, out, e);
    return !rc && out->failed ? out_of_memory(e) : rc;
}

int st_sealed_read_back(const char *path, const uint8_t digest[32], struct st_err *e)
{
    struct st_container *c;
    struct st_container_about is;
    int rc = st_container_open(path, &c, e);
    if (rc)
        return rc;
    st_container_about(c, &is);
    if (memcmp(is.digest, digest, sizeof is.digest) != 0)
        rc = st_fail(e, ST_VERIFY, "%s: changed while it was written", path);
    st_container_close(c);
    return rc;
}
