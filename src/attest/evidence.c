/* Bundles in memory and how they are written. Reading them, which knows the verifiers, is evidence_read.c: a node links
 * this file alone. */
#include "attest/bundle.h"
#include "crypto/digest.h"
#include "text/base64.h"

#include <stdlib.h>
#include <string.h>

static const char *const names[] = {
#define X(id, name) [ST_ENDORSEMENT_##id] = name,
    ST_ENDORSEMENTS(X)
#undef X
};

const char *st_endorsement_name(enum st_endorsement_type t)
{
    return names[t];
}

/* ---- memory ---- */

struct block {
    struct block *next;
    uint8_t bytes[];
};

int st_bundle_keep(struct st_bundle *b, const void *p, size_t len, struct st_span *out, struct st_err *e)
{
    struct block *k = malloc(sizeof *k + len);
    if (!k)
        return st_fail(e, ST_MEMORY, "evidence: needs %zu bytes of memory, which the system refuses", len);
    k->next = b->memory;
    b->memory = k;
    memcpy(k->bytes, p, len);
    *out = (struct st_span){k->bytes, len};
    return 0;
}

void st_bundle_free(struct st_bundle *b)
{
    for (struct block *k = b->memory, *next; k; k = next) {
        next = k->next;
        free(k);
    }
    *b = (struct st_bundle){0};
}

int st_bundle_attach(struct st_evidence *ev, enum st_endorsement_type t, struct st_span data, const char *where,
                     struct st_err *e)
{
    if (ev->n_endorsement == ST_EVIDENCE_MAX_ENDORSEMENTS)
        return st_fail(e, ST_INPUT, "%s: more than %d endorsements of one item", where, ST_EVIDENCE_MAX_ENDORSEMENTS);
    ev->endorsements[ev->n_endorsement++] = (struct st_endorsement){t, data};
    return 0;
}

/* ---- writing, digest ---- */

static void write_hex(struct st_buf *out, const char *key, const uint8_t *p, size_t len)
{
    static const char digits[] = "0123456789abcdef";
    st_buf_addf(out, ", \"%s\": \"", key);
    for (size_t i = 0; i < len; i++)
        st_buf_add(out, (const char[]){digits[p[i] >> 4], digits[p[i] & 15]}, 2);
    st_buf_add_str(out, "\"");
}

static void write_binding(const struct st_binding *b, struct st_buf *out)
{
    st_buf_addf(out, ", \"binding\": {\"kem\": %u, \"kdf\": %u, \"aead\": %u", b->suite.kem, b->suite.kdf,
                b->suite.aead);
    write_hex(out, "hpke_key", b->hpke_key, b->hpke_key_len);
    write_hex(out, "receipt_key", b->receipt_key, sizeof b->receipt_key);
    write_hex(out, "nonce", b->nonce, b->nonce_len);
    if (b->has_engine)
        write_hex(out, "engine", b->engine, sizeof b->engine);
    if (b->has_model)
        write_hex(out, "model", b->model, sizeof b->model);
    st_buf_add_str(out, "}");
}

void st_bundle_write(const struct st_bundle *b, struct st_buf *out)
{
    st_buf_add_str(out, "{\"version\": 1, \"items\": [");
    for (size_t i = 0; i < b->n_item; i++) {
        const struct st_evidence *ev = &b->items[i];
        st_buf_addf(out, "%s{\"kind\": \"%s\", \"evidence\": \"", i ? ", " : "", ev->kind);
        st_base64_encode(ev->data.p, ev->data.len, out);
        st_buf_add_str(out, "\", \"endorsements\": [");
        for (size_t k = 0; k < ev->n_endorsement; k++) {
            st_buf_addf(out, "%s{\"type\": \"%s\", \"data\": \"", k ? ", " : "",
                        st_endorsement_name(ev->endorsements[k].type));
            st_base64_encode(ev->endorsements[k].data.p, ev->endorsements[k].data.len, out);
            st_buf_add_str(out, "\"}");
        }
        st_buf_add_str(out, "]}");
    }
    st_buf_add_str(out, "]");
    if (b->has_binding)
        write_binding(&b->binding, out);
    st_buf_add_str(out, "}\n");
}

static void digest_field(struct st_digest *d, const void *p, size_t len)
{
    uint8_t n[4] = {(uint8_t)len, (uint8_t)(len >> 8), (uint8_t)(len >> 16), (uint8_t)(len >> 24)};
    st_digest_add(d, n, sizeof n);
    st_digest_add(d, p, len);
}

int st_evidence_digest(const struct st_evidence *ev, uint8_t out[32], struct st_err *e)
{
    struct st_digest d;
    if (st_digest_init(&d, e))
        return e->code;
    digest_field(&d, ev->kind, strlen(ev->kind));
    digest_field(&d, ev->data.p, ev->data.len);
    st_digest_end(&d, out);
    return 0;
}

const struct st_endorsement *st_evidence_next(const struct st_evidence *e, enum st_endorsement_type t, size_t *at)
{
    while (*at < e->n_endorsement)
        if (e->endorsements[(*at)++].type == t)
            return &e->endorsements[*at - 1];
    return NULL;
}
