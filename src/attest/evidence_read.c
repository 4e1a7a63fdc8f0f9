#include "attest/bundle.h"
#include "attest/verifier.h"
#include "crypto/digest.h"
#include "text/base64.h"
#include "text/json.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <string.h>

/* ---- fields of JSON ---- */

static int only_fields(const json_t *o, const char *const *names, const char *where, struct st_err *e)
{
    const char *key;
    json_t *v;
    if (!json_is_object(o))
        return st_fail(e, ST_INPUT, "%s: want an object", where);
    json_object_foreach((json_t *)(uintptr_t)o, key, v)
    {
        bool known = strcmp(key, "comment") == 0;
        for (size_t i = 0; names[i] && !known; i++)
            known = strcmp(key, names[i]) == 0;
        if (!known)
            return st_fail(e, ST_INPUT, "%s: unknown field '%.40s'", where, key);
    }
    return 0;
}

static int get_base64(struct st_bundle *b, const json_t *o, const char *where, const char *key, struct st_span *out,
                      struct st_err *e)
{
    const char *s = NULL;
    struct st_buf bytes = {0};
    if (st_json_need(o, where, key, e) || st_json_str(o, where, key, &s, e))
        return e->code;
    int rc = 0;
    if (!st_base64_decode(s, json_string_length(json_object_get(o, key)), &bytes))
        rc = st_fail(e, ST_INPUT, "%s: %s: want base64", where, key);
    else if (bytes.failed)
        rc = st_fail(e, ST_MEMORY, "%s: %s: out of memory", where, key);
    else
        rc = st_bundle_keep(b, bytes.p, bytes.len, out, e);
    st_buf_free(&bytes);
    return rc;
}

/* min..max bytes in hexadecimal; an absent field leaves *len as it is. */
static int get_hex(const json_t *o, const char *where, const char *key, uint8_t *out, size_t min, size_t max,
                   size_t *len, struct st_err *e)
{
    const char *s = NULL;
    char what[160];
    if (st_json_str(o, where, key, &s, e))
        return e->code;
    if (!s)
        return 0;
    size_t n = strlen(s);
    snprintf(what, sizeof what, "%s: %s", where, key);
    if (n % 2 || n / 2 < min || n / 2 > max)
        return st_fail(e, ST_INPUT, "%s: want %zu..%zu bytes in hexadecimal, got %zu digits", what, min, max, n);
    *len = n / 2;
    return st_unhex(s, n, out, n / 2, what, e);
}

static int get_id(const json_t *o, const char *where, const char *key, uint16_t *out, struct st_err *e)
{
    int64_t v = 0;
    if (st_json_need(o, where, key, e) || st_json_int(o, where, key, 0, UINT16_MAX, &v, e))
        return e->code;
    *out = (uint16_t)v;
    return 0;
}

/* ---- the binding ---- */

static int read_binding(const json_t *o, const char *where, struct st_binding *out, struct st_err *e)
{
    static const char *const names[] = {"kem",   "kdf",    "aead",  "hpke_key", "receipt_key",
                                        "nonce", "engine", "model", NULL};
    size_t receipt = 0, engine = 0, model = 0;
    if (only_fields(o, names, where, e) || get_id(o, where, "kem", &out->suite.kem, e) ||
        get_id(o, where, "kdf", &out->suite.kdf, e) || get_id(o, where, "aead", &out->suite.aead, e))
        return e->code;
    if (st_hpke_suite_check(out->suite, e))
        return st_fail(e, ST_INPUT, "%s: suite %04x-%04x-%04x is not one of ours", where, out->suite.kem,
                       out->suite.kdf, out->suite.aead);
    size_t key_len = st_hpke_public_len(out->suite.kem);
    if (st_json_need(o, where, "hpke_key", e) || st_json_need(o, where, "receipt_key", e) ||
        st_json_need(o, where, "nonce", e) ||
        get_hex(o, where, "hpke_key", out->hpke_key, key_len, key_len, &out->hpke_key_len, e) ||
        get_hex(o, where, "receipt_key", out->receipt_key, 32, 32, &receipt, e) ||
        get_hex(o, where, "nonce", out->nonce, 16, ST_BINDING_MAX_NONCE, &out->nonce_len, e) ||
        get_hex(o, where, "engine", out->engine, 32, 32, &engine, e) ||
        get_hex(o, where, "model", out->model, 32, 32, &model, e))
        return e->code;
    out->has_engine = engine != 0;
    out->has_model = model != 0;
    return 0;
}

/* ---- items ---- */

static int read_endorsement(struct st_bundle *b, struct st_evidence *ev, const struct st_verifier *v, const json_t *o,
                            const char *where, struct st_err *e)
{
    static const char *const fields[] = {"type", "data", NULL};
    const char *type = NULL;
    struct st_span data;
    if (only_fields(o, fields, where, e) || st_json_need(o, where, "type", e) ||
        st_json_str(o, where, "type", &type, e) || get_base64(b, o, where, "data", &data, e))
        return e->code;
    for (int t = 0; t < ST_ENDORSEMENT_COUNT; t++)
        if (v->endorsements & 1u << t && strcmp(type, st_endorsement_name((enum st_endorsement_type)t)) == 0)
            return st_bundle_attach(ev, (enum st_endorsement_type)t, data, where, e);
    return st_fail(e, ST_INPUT, "%s: type: evidence of kind %s has no use for '%.40s'", where, v->kind, type);
}

static int read_item(struct st_bundle *b, const json_t *o, const char *where, struct st_err *e)
{
    static const char *const fields[] = {"kind", "evidence", "endorsements", NULL};
    const char *kind = NULL;
    struct st_evidence *ev = &b->items[b->n_item];
    if (only_fields(o, fields, where, e) || st_json_need(o, where, "kind", e) ||
        st_json_str(o, where, "kind", &kind, e))
        return e->code;
    const struct st_verifier *v = st_verifier_find(kind);
    if (!v)
        return st_fail(e, ST_INPUT, "%s: kind: '%.40s' is not known here", where, kind);
    for (size_t i = 0; i < b->n_item; i++)
        if (strcmp(b->items[i].kind, kind) == 0)
            return st_fail(e, ST_INPUT, "%s: kind: '%s' comes twice", where, v->kind);
    ev->kind = v->kind;
    if (get_base64(b, o, where, "evidence", &ev->data, e))
        return e->code;
    const json_t *list = json_object_get(o, "endorsements");
    if (list && !json_is_array(list))
        return st_fail(e, ST_INPUT, "%s: endorsements: want an array", where);
    for (size_t i = 0; i < json_array_size(list); i++) {
        char inner[192];
        snprintf(inner, sizeof inner, "%.128s: endorsements[%zu]", where, i);
        if (read_endorsement(b, ev, v, json_array_get(list, i), inner, e))
            return e->code;
    }
    b->n_item++;
    return 0;
}

static int read_bundle(struct st_bundle *b, const json_t *o, const char *where, struct st_err *e)
{
    static const char *const fields[] = {"version", "items", "binding", NULL};
    int64_t version = 0;
    char inner[128];
    const json_t *items = json_object_get(o, "items"), *binding = json_object_get(o, "binding");
    if (only_fields(o, fields, where, e) || st_json_need(o, where, "version", e) ||
        st_json_int(o, where, "version", 0, INT32_MAX, &version, e))
        return e->code;
    if (version != 1)
        return st_fail(e, ST_UNSUPPORTED, "%s: version: want 1, got %d", where, (int)version);
    size_t n = json_array_size(items);
    if (!json_is_array(items) || n == 0 || n > ST_EVIDENCE_MAX_ITEMS)
        return st_fail(e, ST_INPUT, "%s: items: want an array of 1..%d items", where, ST_EVIDENCE_MAX_ITEMS);
    for (size_t i = 0; i < n; i++) {
        snprintf(inner, sizeof inner, "%.90s: items[%zu]", where, i);
        if (read_item(b, json_array_get(items, i), inner, e))
            return e->code;
    }
    snprintf(inner, sizeof inner, "%.90s: binding", where);
    b->has_binding = binding != NULL;
    return binding ? read_binding(binding, inner, &b->binding, e) : 0;
}

/* ---- raw items ---- */

static int digit(uint8_t c)
{
    return c >= '0' && c <= '9' ? c - '0' : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10 : -1;
}

/* Hexadecimal digits with white space between them -> bytes; false when the text is anything else. */
static bool read_hex_text(const uint8_t *p, size_t len, struct st_buf *out)
{
    int high = -1;
    for (size_t i = 0; i < len; i++) {
        if (p[i] == ' ' || p[i] == '\n' || p[i] == '\r' || p[i] == '\t')
            continue;
        int v = digit(p[i]);
        if (v < 0)
            return false;
        if (high < 0) {
            high = v;
            continue;
        }
        const uint8_t b = (uint8_t)(high << 4 | v);
        st_buf_add(out, &b, 1);
        high = -1;
    }
    return high < 0 && out->len > 0;
}

/* The first PEM block, whatever it is called. */
static bool read_pem_block(const uint8_t *p, size_t len, struct st_buf *out)
{
    char *name = NULL, *header = NULL;
    unsigned char *data = NULL;
    long n = 0;
    BIO *bio = memmem(p, len, "-----BEGIN ", 11) ? BIO_new_mem_buf(p, (int)len) : NULL;
    bool ok = bio && PEM_read_bio(bio, &name, &header, &data, &n) == 1 && n > 0;
    if (ok)
        st_buf_add(out, data, (size_t)n);
    OPENSSL_free(name);
    OPENSSL_free(header);
    OPENSSL_free(data);
    BIO_free(bio);
    ERR_clear_error();
    return ok;
}

static int unknown(const char *where, struct st_err *e)
{
    char kinds[160] = "";
    for (int i = 0; st_verifier_at(i); i++) {
        size_t n = strlen(kinds);
        snprintf(kinds + n, sizeof kinds - n, "%s%s", n ? ", " : "", st_verifier_at(i)->kind);
    }
    return st_fail(
        e, ST_UNSUPPORTED,
        "%s: neither a bundle (JSON) nor raw evidence of a kind known here (%s), as bytes or hexadecimal text", where,
        kinds);
}

static int read_raw(struct st_bundle *b, const uint8_t *p, size_t len, const char *where, struct st_err *e)
{
    struct st_buf bytes = {0};
    const struct st_verifier *v = st_verifier_recognise(p, len);
    if (!v && (read_hex_text(p, len, &bytes) || (st_buf_clear(&bytes), read_pem_block(p, len, &bytes)))) {
        p = (const uint8_t *)bytes.p;
        len = bytes.len;
        v = bytes.failed ? NULL : st_verifier_recognise(p, len);
    }
    int rc = v ? st_bundle_keep(b, p, len, &b->items[0].data, e) : unknown(where, e);
    if (!rc) {
        b->items[0].kind = v->kind;
        b->n_item = 1;
    }
    st_buf_free(&bytes);
    return rc;
}

int st_bundle_parse(const void *p, size_t len, const char *where, struct st_bundle *out, struct st_err *e)
{
    const uint8_t *bytes = p;
    size_t i = 0;
    int rc;
    *out = (struct st_bundle){0};
    if (len == 0 || len > ST_EVIDENCE_MAX_BYTES)
        return st_fail(e, ST_INPUT, "%s: want 1..%zu bytes of evidence, got %zu", where, ST_EVIDENCE_MAX_BYTES, len);
    while (i < len && (bytes[i] == ' ' || bytes[i] == '\n' || bytes[i] == '\r' || bytes[i] == '\t'))
        i++;
    if (i < len && bytes[i] == '{') {
        json_t *o;
        rc = st_json_parse(p, len, where, &o, e);
        if (!rc)
            rc = read_bundle(out, o, where, e);
        json_decref(o);
    } else
        rc = read_raw(out, p, len, where, e);
    if (rc)
        st_bundle_free(out);
    return rc;
}

/* ---- endorsements that come later ---- */

static int add_types(struct st_bundle *b, unsigned types, struct st_span data, const char *where, bool *used,
                     struct st_err *e)
{
    for (size_t i = 0; i < b->n_item; i++) {
        const struct st_verifier *v = st_verifier_find(b->items[i].kind);
        for (int t = 0; t < ST_ENDORSEMENT_COUNT; t++) {
            if (!(types & v->endorsements & 1u << t))
                continue;
            if (st_bundle_attach(&b->items[i], (enum st_endorsement_type)t, data, where, e))
                return e->code;
            *used = true;
        }
    }
    return 0;
}

int st_bundle_endorse(struct st_bundle *b, const void *p, size_t len, const char *where, struct st_err *e)
{
    struct st_span data;
    bool used = false;
    unsigned types = len <= ST_EVIDENCE_MAX_BYTES ? st_endorsement_recognise(p, len) : 0;
    if (!types)
        return st_fail(e, ST_INPUT,
                       "%s: want certificates, a revocation list, Intel collateral, an event log, a TPM signature, "
                       "public key or PCR values, runtime data or a RIM, got something else",
                       where);
    if (st_bundle_keep(b, p, len, &data, e) || add_types(b, types, data, where, &used, e))
        return e->code;
    if (used)
        return 0;
    return st_fail(e, ST_INPUT, "%s: endorsements of this type say nothing about the evidence here", where);
}
