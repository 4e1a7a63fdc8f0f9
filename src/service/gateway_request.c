#include "service/gateway_request.h"
#include "channel/confidential.h"
#include "channel/ohttp_config.h"
#include "crypto/digest.h"
#include "text/base64.h"
#include "text/json.h"

#include <ctype.h>
#include <openssl/crypto.h>
#include <string.h>

/* A token and a full list of change in base64, for the largest keys, and what else a head holds. */
#define MAX_HEAD (24u << 10)
#define MAX_FIELDS 8
#define MAX_PADDING ((uint64_t)4 << 20)

static void wrong(struct st_gateway_request *r, unsigned status, const char *word)
{
    if (r->wrong)
        return;
    r->wrong = status;
    r->word = word;
}

int st_gateway_request_init(struct st_gateway_request *r, struct st_err *e)
{
    static const struct st_bhttp_limits limits = {
        .head = MAX_HEAD, .n_fields = MAX_FIELDS, .content = ST_CONFIDENTIAL_MAX_REQUEST, .padding = MAX_PADDING};
    *r = (struct st_gateway_request){0};
    return st_bhttp_reader_init(&r->reader, ST_BHTTP_REQUEST, &limits, e);
}

void st_gateway_request_add(struct st_gateway_request *r, struct st_span text)
{
    struct st_err e;
    struct st_span content;
    while (!r->wrong && text.len) {
        if (st_bhttp_read(&r->reader, &text, &content, &e))
            wrong(r, 400, "bad_request");
        else if (content.len)
            st_buf_add(&r->content, content.p, content.len);
    }
}

/* ---- path ---- */

static bool is(struct st_span s, const char *z)
{
    return s.len == strlen(z) && memcmp(s.p, z, s.len) == 0;
}

/* The part before the first `at`, which is dropped with it. */
static struct st_span cut(struct st_span *s, char at)
{
    const uint8_t *end = s->len ? memchr(s->p, at, s->len) : NULL;
    struct st_span head = {s->p, end ? (size_t)(end - s->p) : s->len};
    size_t used = head.len + (end ? 1 : 0);
    *s = (struct st_span){s->p + used, s->len - used};
    return head;
}

/* Percent-decoding; printable ASCII without spaces, as tags are. */
static bool decode_tag(struct st_span in, char out[ST_NODE_MAX_TAG + 1])
{
    size_t n = 0;
    while (in.len) {
        uint8_t c = in.p[0];
        size_t used = c == '%' ? 3 : 1;
        struct st_err e;
        if (in.len < used || (c == '%' && st_unhex((const char *)in.p + 1, 2, &c, 1, "tag", &e)))
            return false;
        if (n == ST_NODE_MAX_TAG || !isgraph(c))
            return false;
        out[n++] = (char)c;
        in = (struct st_span){in.p + used, in.len - used};
    }
    out[n] = 0;
    return n > 0;
}

static bool read_tags(struct st_gateway_request *r, struct st_span query)
{
    while (query.len) {
        struct st_span value = cut(&query, '&'), key = cut(&value, '=');
        if (!is(key, "tag") || r->n_tag == ST_NODE_MAX_TAGS || !decode_tag(value, r->tags[r->n_tag]))
            return false;
        r->n_tag++;
    }
    return true;
}

static bool read_bundle(struct st_gateway_request *r, struct st_span query)
{
    struct st_err e;
    if (!query.len)
        return true;
    struct st_span key = cut(&query, '=');
    r->has_bundle = true;
    return is(key, "bundle") &&
           st_unhex((const char *)query.p, query.len, r->bundle, sizeof r->bundle, "bundle", &e) == 0;
}

/* Which of the four it is: false when none. */
static bool read_path(struct st_gateway_request *r, const struct st_bhttp_head *h)
{
    static const char below[] = ST_GATEWAY_PATH_NODES "/";
    struct st_err e;
    struct st_span query = h->path, path = cut(&query, '?');
    bool get = is(h->method, "GET"), has_query = path.len != h->path.len;
    if ((!get && !is(h->method, "POST")) || (!get && has_query))
        return false;
    if (is(path, ST_GATEWAY_PATH_NODES)) {
        r->what = ST_GATEWAY_LIST;
        return get && read_tags(r, query);
    }
    if (path.len < sizeof below - 1 || memcmp(path.p, below, sizeof below - 1) != 0)
        return false;
    struct st_span rest = {path.p + sizeof below - 1, path.len - (sizeof below - 1)}, id = cut(&rest, '/');
    bool attest = is(rest, "attest"), more = sizeof below - 1 + id.len != path.len;
    if (st_unhex((const char *)id.p, id.len, r->node, sizeof r->node, "node", &e) || (more && (get || !attest)))
        return false;
    r->what = get ? ST_GATEWAY_BUNDLE : attest ? ST_GATEWAY_ATTEST : ST_GATEWAY_INFER;
    return get ? read_bundle(r, query) : true;
}

/* ---- payment and content ---- */

static bool decode(struct st_span text, struct st_buf *out)
{
    return st_base64_decode((const char *)text.p, text.len, out) && !out->failed;
}

static void read_token(struct st_gateway_request *r, struct st_bhttp_fields f)
{
    struct st_span text;
    struct st_buf bytes = {0};
    struct st_err e;
    if (!st_bhttp_find(f, ST_GATEWAY_FIELD_TOKEN, &text) || !decode(text, &bytes) ||
        st_token_parse((struct st_span){(uint8_t *)bytes.p, bytes.len}, &r->token, &e))
        wrong(r, 402, "token_bad");
    st_buf_wipe(&bytes);
}

static void read_change(struct st_gateway_request *r, struct st_bhttp_fields f)
{
    struct st_span text;
    struct st_err e;
    if (!st_bhttp_find(f, ST_GATEWAY_FIELD_CHANGE, &text))
        return;
    if (!decode(text, &r->change_bytes) ||
        st_change_ask_parse((struct st_span){(uint8_t *)r->change_bytes.p, r->change_bytes.len}, &r->change, &e))
        wrong(r, 400, "bad_request");
}

/* The head of what is sealed for the node is in the open: key id, KEM, KDF, AEAD. */
static void read_sealed(struct st_gateway_request *r)
{
    const uint8_t *p = (const uint8_t *)r->content.p;
    size_t key = r->content.len > 7 ? st_aead_key_len((unsigned)p[5] << 8 | p[6]) : 0;
    if (!key)
        wrong(r, 400, "bad_request");
    r->reply_nonce = key > ST_SEQUENCE_NONCE ? key : ST_SEQUENCE_NONCE;
}

/* {"nonce": HEX of 32 bytes}, and as exactly that it goes on to the node. */
static void read_nonce(struct st_gateway_request *r)
{
    static const char *const names[] = {"nonce", NULL};
    json_t *o = NULL;
    const char *hex = NULL;
    uint8_t nonce[32];
    struct st_err e;
    if (st_json_parse(r->content.p, r->content.len, "nonce", &o, &e) || st_json_only(o, "nonce", names, &e) ||
        st_json_str(o, "nonce", "nonce", &hex, &e) || !hex ||
        st_unhex(hex, strlen(hex), nonce, sizeof nonce, "nonce", &e))
        wrong(r, 400, "bad_request");
    json_decref(o);
}

void st_gateway_request_end(struct st_gateway_request *r)
{
    struct st_err e;
    const struct st_bhttp_head *h = NULL;
    if (!r->wrong && (st_bhttp_read_end(&r->reader, &e) || !(h = st_bhttp_head(&r->reader))))
        wrong(r, 400, "bad_request");
    if (!r->wrong && r->content.failed)
        wrong(r, 503, "busy");
    if (!r->wrong && (!is(h->scheme, "https") || !is(h->authority, ST_GATEWAY_AUTHORITY) || !read_path(r, h)))
        wrong(r, 404, "not_found");
    bool paid = r->what == ST_GATEWAY_INFER || r->what == ST_GATEWAY_ATTEST;
    if (!r->wrong && paid) {
        read_token(r, h->fields);
        read_change(r, h->fields);
    }
    if (!r->wrong && r->what == ST_GATEWAY_INFER)
        read_sealed(r);
    if (!r->wrong && r->what == ST_GATEWAY_ATTEST)
        read_nonce(r);
    st_bhttp_reader_wipe(&r->reader);
}

void st_gateway_request_wipe(struct st_gateway_request *r)
{
    st_bhttp_reader_wipe(&r->reader);
    st_buf_wipe(&r->change_bytes);
    st_buf_wipe(&r->content);
    OPENSSL_cleanse(&r->token, sizeof r->token);
}
