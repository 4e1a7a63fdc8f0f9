#include "service/release_message.h"
#include "crypto/digest.h"

#include <inttypes.h>
#include <string.h>

#define LABEL "sotto release 1"
#define ENC 32
#define SEALED (ST_RELEASE_KEY + ST_SEQUENCE_TAG)

enum {
    AT_ID = sizeof LABEL - 1,
    AT_VERSION = AT_ID + 16,
    AT_DIGEST = AT_VERSION + 8,
    AT_NONCE = AT_DIGEST + 32,
    INFO_LEN = AT_NONCE + ST_RELEASE_NONCE
};

const struct st_hpke_suite st_release_suite = {ST_HPKE_KEM_X25519, ST_HPKE_KDF_SHA256, ST_AEAD_AES_256_GCM};

static void make_info(const struct st_release_for *what, const uint8_t nonce[ST_RELEASE_NONCE], uint8_t out[INFO_LEN])
{
    memcpy(out, LABEL, AT_ID);
    memcpy(out + AT_ID, what->id, sizeof what->id);
    for (int i = 0; i < 8; i++)
        out[AT_VERSION + i] = (uint8_t)(what->version >> (8 * i));
    memcpy(out + AT_DIGEST, what->digest, sizeof what->digest);
    memcpy(out + AT_NONCE, nonce, ST_RELEASE_NONCE);
}

/* ---- requests ---- */

static int read_hex(const json_t *o, const char *where, const char *key, uint8_t *out, size_t len, struct st_err *e)
{
    const char *text = NULL;
    if (st_json_need(o, where, key, e) || st_json_str(o, where, key, &text, e))
        return e->code;
    if (st_unhex(text, strlen(text), out, len, key, e))
        return st_fail(e, ST_INPUT, "%s: %s: want %zu hexadecimal digits", where, key, 2 * len);
    return 0;
}

static int read_container(const json_t *o, struct st_release_for *out, struct st_err *e)
{
    static const char where[] = "request: container", *const names[] = {"id", "version", "digest", NULL};
    int64_t version = 0;
    if (st_json_only(o, where, names, e) || read_hex(o, where, "id", out->id, sizeof out->id, e) ||
        st_json_need(o, where, "version", e) || st_json_int(o, where, "version", 1, INT64_MAX, &version, e) ||
        read_hex(o, where, "digest", out->digest, sizeof out->digest, e))
        return e->code;
    out->version = (uint64_t)version;
    return 0;
}

static int read_evidence(const json_t *o, struct st_bundle *out, struct st_err *e)
{
    struct st_buf text = {0};
    if (!json_is_object(o))
        return st_fail(e, ST_INPUT, "request: evidence: want an object");
    st_json_dump(o, &text);
    int rc = text.failed ? st_fail(e, ST_MEMORY, "request: out of memory")
                         : st_bundle_parse(text.p, text.len, "request: evidence", out, e);
    st_buf_free(&text);
    return rc;
}

int st_release_request_parse(struct st_span text, struct st_release_request *out, struct st_err *e)
{
    static const char *const names[] = {"container", "wrap", "evidence", NULL};
    *out = (struct st_release_request){0};
    if (text.len > ST_RELEASE_MAX_REQUEST)
        return st_fail(e, ST_INPUT, "request: longer than %zu bytes", ST_RELEASE_MAX_REQUEST);
    int rc = st_json_parse(text.p, text.len, "request", &out->body, e);
    if (!rc)
        rc = st_json_only(out->body, "request", names, e);
    if (!rc) {
        out->wrap = json_object_get(out->body, "wrap");
        rc = read_container(json_object_get(out->body, "container"), &out->what, e);
    }
    if (!rc && out->wrap && !json_is_object(out->wrap))
        rc = st_fail(e, ST_INPUT, "request: wrap: want an object");
    if (!rc)
        rc = read_evidence(json_object_get(out->body, "evidence"), &out->evidence, e);
    if (rc)
        st_release_request_free(out);
    return rc;
}

void st_release_request_free(struct st_release_request *r)
{
    st_bundle_free(&r->evidence);
    json_decref(r->body);
    *r = (struct st_release_request){0};
}

int st_release_request_write(const struct st_release_request *r, struct st_buf *out, struct st_err *e)
{
    char id[33], digest[65];
    st_hex(r->what.id, sizeof r->what.id, id);
    st_hex(r->what.digest, sizeof r->what.digest, digest);
    st_buf_addf(out, "{\"container\":{\"id\":\"%s\",\"version\":%" PRIu64 ",\"digest\":\"%s\"}", id, r->what.version,
                digest);
    if (r->wrap) {
        st_buf_add_str(out, ",\"wrap\":");
        st_json_dump(r->wrap, out);
    }
    st_buf_add_str(out, ",\"evidence\":");
    st_bundle_write(&r->evidence, out);
    st_buf_add_str(out, "}");
    return out->failed ? st_fail(e, ST_MEMORY, "request: out of memory") : 0;
}

/* ---- challenges ---- */

void st_release_challenge_write(const uint8_t nonce[ST_RELEASE_NONCE], struct st_buf *out)
{
    char hex[2 * ST_RELEASE_NONCE + 1];
    st_hex(nonce, ST_RELEASE_NONCE, hex);
    st_buf_addf(out, "{\"nonce\":\"%s\"}", hex);
}

int st_release_challenge_parse(struct st_span text, uint8_t nonce[ST_RELEASE_NONCE], struct st_err *e)
{
    static const char *const names[] = {"nonce", NULL};
    json_t *o = NULL;
    int rc = st_json_parse(text.p, text.len, "challenge", &o, e);
    if (!rc)
        rc = st_json_only(o, "challenge", names, e);
    if (!rc)
        rc = read_hex(o, "challenge", "nonce", nonce, ST_RELEASE_NONCE, e);
    json_decref(o);
    return rc;
}

/* ---- replies ---- */

int st_release_seal(const struct st_binding *b, const struct st_release_for *what, const struct st_secret *content_key,
                    struct st_buf *out, struct st_err *e)
{
    uint8_t info[INFO_LEN], enc[ST_HPKE_PUBLIC_MAX], sealed[SEALED];
    if (content_key->len != ST_RELEASE_KEY || b->nonce_len != ST_RELEASE_NONCE)
        return st_fail(e, ST_INTERNAL, "reply: a key of %zu bytes, a nonce of %zu", content_key->len, b->nonce_len);
    make_info(what, b->nonce, info);
    if (st_hpke_seal_secret(st_release_suite, b->hpke_key, b->hpke_key_len, info, sizeof info, content_key, enc, sealed,
                            e))
        return e->code;
    json_t *o = json_pack("{s:o,s:o}", "enc", st_json_bytes(enc, ENC), "sealed", st_json_bytes(sealed, sizeof sealed));
    if (o)
        st_json_dump(o, out);
    json_decref(o);
    return o && !out->failed ? 0 : st_fail(e, ST_MEMORY, "reply: out of memory");
}

int st_release_open(const struct st_hpke_key *k, const uint8_t nonce[ST_RELEASE_NONCE],
                    const struct st_release_for *what, struct st_span text, struct st_secret *content_key,
                    struct st_err *e)
{
    static const char *const names[] = {"enc", "sealed", NULL};
    uint8_t info[INFO_LEN], enc[ENC], sealed[SEALED];
    json_t *o = NULL;
    *content_key = (struct st_secret){0};
    int rc = st_json_parse(text.p, text.len, "reply", &o, e);
    if (!rc)
        rc = st_json_only(o, "reply", names, e);
    if (!rc)
        rc = st_json_base64_exact(o, "reply", "enc", enc, sizeof enc, e);
    if (!rc)
        rc = st_json_base64_exact(o, "reply", "sealed", sealed, sizeof sealed, e);
    json_decref(o);
    if (rc)
        return rc;
    make_info(what, nonce, info);
    rc = st_hpke_open_secret(st_release_suite, k, enc, sizeof enc, info, sizeof info, sealed, sizeof sealed,
                             content_key, e);
    return rc == ST_VERIFY ? st_fail(e, ST_VERIFY, "reply: is not sealed to this key, for this container and nonce")
                           : rc;
}
