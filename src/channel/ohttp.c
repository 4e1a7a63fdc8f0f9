#include "channel/ohttp.h"
#include "base/hooks.h"
#include "crypto/hkdf.h"

#include <openssl/crypto.h>
#include <string.h>

#define ID_LEN 7 /* key id, kem, kdf, aead */

static const struct labels {
    const char *request, *reply, *request_type, *reply_type;
} labels[] = {
    [ST_OHTTP_WHOLE] = {"message/bhttp request", "message/bhttp response", "message/ohttp-req", "message/ohttp-res"},
    [ST_OHTTP_CHUNKED] = {"message/bhttp chunked request", "message/bhttp chunked response",
                          "message/ohttp-chunked-req", "message/ohttp-chunked-res"},
};

const char *st_ohttp_request_type(enum st_ohttp_form form)
{
    return labels[form].request_type;
}

const char *st_ohttp_reply_type(enum st_ohttp_form form)
{
    return labels[form].reply_type;
}

enum step {
    HEAD,     /* a server gathers the request's head */
    UNPROVEN, /* nothing of the request has opened yet */
    REQUEST,  /* a server has opened some of the request */
    NONCE,    /* a client gathers the reply's nonce */
    REPLY,    /* a client opens the reply */
    BAD,
};

static int refuse(struct st_ohttp *x, struct st_err *e)
{
    x->step = BAD;
    return st_fail(e, ST_VERIFY, "ohttp: the message does not open");
}

/* info = label || 0 || key id, kem, kdf, aead (RFC 9458 section 4.3). */
static size_t make_info(enum st_ohttp_form form, const uint8_t id[ID_LEN], uint8_t out[64])
{
    size_t len = strlen(labels[form].request);
    memcpy(out, labels[form].request, len + 1); /* with the zero */
    memcpy(out + len + 1, id, ID_LEN);
    return len + 1 + ID_LEN;
}

static size_t nonce_len(const struct st_ohttp *x)
{
    size_t key = st_aead_key_len(x->hpke.suite.aead);
    return key > ST_SEQUENCE_NONCE ? key : ST_SEQUENCE_NONCE;
}

/* The reply's key and base nonce (RFC 9458 section 4.4). */
static int start_reply(struct st_ohttp *x, const uint8_t *nonce, bool seals, struct st_err *e)
{
    uint8_t secret[ST_OHTTP_NONCE_MAX], salt[ST_HPKE_PUBLIC_MAX + ST_OHTTP_NONCE_MAX], prk[32];
    uint8_t key[ST_SEQUENCE_KEY_MAX], base[ST_SEQUENCE_NONCE];
    size_t n = nonce_len(x), enc_len = st_hpke_public_len(x->hpke.suite.kem);
    const char *label = labels[x->form].reply;
    memcpy(salt, x->enc, enc_len);
    memcpy(salt + enc_len, nonce, n);
    int rc = st_hpke_export(&x->hpke, label, strlen(label), secret, n, e);
    if (!rc)
        rc = st_hkdf_extract(secret, n, salt, enc_len + n, prk, e);
    if (!rc)
        rc = st_hkdf_expand(prk, (const uint8_t *)"key", 3, key, st_aead_key_len(x->hpke.suite.aead), e);
    if (!rc)
        rc = st_hkdf_expand(prk, (const uint8_t *)"nonce", 5, base, sizeof base, e);
    if (!rc)
        rc = st_sequence_init(&x->reply, x->hpke.suite.aead, key, base, seals, e);
    OPENSSL_cleanse(secret, sizeof secret);
    OPENSSL_cleanse(prk, sizeof prk);
    OPENSSL_cleanse(key, sizeof key);
    OPENSSL_cleanse(base, sizeof base);
    return rc;
}

/* ---- client ---- */

int st_ohttp_client_from(struct st_ohttp *x, enum st_ohttp_form form, const struct st_ohttp_config *c,
                         const struct st_hpke_key *ephemeral, size_t max, struct st_buf *out, struct st_err *e)
{
    uint8_t info[64];
    struct st_hpke_suite s = {c->kem, c->suites[0].kdf, c->suites[0].aead};
    uint8_t id[ID_LEN] = {c->id,          (uint8_t)(s.kem >> 8),  (uint8_t)s.kem, (uint8_t)(s.kdf >> 8),
                          (uint8_t)s.kdf, (uint8_t)(s.aead >> 8), (uint8_t)s.aead};
    size_t len = st_hpke_public_len(c->kem), info_len = make_info(form, id, info);
    *x = (struct st_ohttp){.form = form, .max = max, .sealer.form = form, .step = NONCE};
    int rc = ephemeral ? st_hpke_send_from(&x->hpke, s, ephemeral, c->public, len, info, info_len, x->enc, e)
                       : st_hpke_send(&x->hpke, s, c->public, len, info, info_len, x->enc, e);
    if (rc) {
        st_ohttp_wipe(x);
        return rc;
    }
    st_buf_add(out, id, sizeof id);
    st_buf_add(out, x->enc, len);
    return 0;
}

int st_ohttp_client(struct st_ohttp *x, enum st_ohttp_form form, const struct st_ohttp_config *c, size_t max,
                    struct st_buf *out, struct st_err *e)
{
    return st_ohttp_client_from(x, form, c, NULL, max, out, e);
}

/* ---- server ---- */

void st_ohttp_server(struct st_ohttp *x, enum st_ohttp_form form, struct st_keyring *keys, size_t max)
{
    *x = (struct st_ohttp){.form = form, .max = max, .keys = keys, .sealer.form = form, .step = HEAD};
}

/* The head is complete up to its suite, then up to its encapsulated key. */
static int on_head(struct st_ohttp *x, struct st_err *e)
{
    uint8_t info[64];
    struct st_hpke_suite s = {(uint16_t)(x->head[1] << 8 | x->head[2]), (uint16_t)(x->head[3] << 8 | x->head[4]),
                              (uint16_t)(x->head[5] << 8 | x->head[6])};
    const struct st_hpke_key *key = st_keyring_find(x->keys, x->head[0], s, &x->serial);
    if (!key)
        return refuse(x, e);
    size_t len = st_hpke_public_len(s.kem);
    if (x->have < ID_LEN + len)
        return 0;
    memcpy(x->enc, x->head + ID_LEN, len);
    if (st_hpke_receive(&x->hpke, s, key, x->enc, len, info, make_info(x->form, x->head, info), e) != 0)
        return refuse(x, e);
    st_chunk_opener_init(&x->opener, x->form, x->max);
    x->step = UNPROVEN;
    return 0;
}

/* The first piece has opened: from now on nobody else may use this encapsulated key. */
static int on_proven(struct st_ohttp *x, struct st_err *e)
{
    int rc = st_keyring_claim(x->keys, x->serial, x->enc, st_hpke_public_len(x->hpke.suite.kem), e);
    x->step = rc ? BAD : REQUEST;
    return rc;
}

int st_ohttp_reply_from(struct st_ohttp *x, const uint8_t *nonce, struct st_buf *out, struct st_err *e)
{
    if (x->step != REQUEST || x->reply.cipher)
        return st_fail(e, ST_USAGE, "ohttp: a reply needs a request, and a request has one");
    int rc = start_reply(x, nonce, true, e);
    if (!rc)
        st_buf_add(out, nonce, nonce_len(x));
    return rc;
}

/* A nonce, and the keys that it makes. */
static int make_reply(struct st_ohttp *x, struct st_err *e)
{
    int rc = st_random(x->nonce, sizeof x->nonce, e);
    if (!rc)
        rc = start_reply(x, x->nonce, true, e);
    x->ahead = !rc;
    return rc;
}

void st_ohttp_reply_ahead(struct st_ohttp *x)
{
    struct st_err e;
    if (x->step == REQUEST && !x->reply.cipher)
        (void)make_reply(x, &e);
}

int st_ohttp_reply(struct st_ohttp *x, struct st_buf *out, struct st_err *e)
{
    if (x->step != REQUEST || (x->reply.cipher && !x->ahead))
        return st_fail(e, ST_USAGE, "ohttp: a reply needs a request, and a request has one");
    int rc = x->ahead ? 0 : make_reply(x, e);
    x->ahead = false;
    if (!rc)
        st_buf_add(out, x->nonce, nonce_len(x));
    return rc;
}

/* ---- both ---- */

int st_ohttp_seal(struct st_ohttp *x, const void *text, size_t len, bool final, struct st_buf *out, struct st_err *e)
{
    struct st_sequence *s = x->keys ? &x->reply : &x->hpke.sequence;
    if (!s->cipher || x->ahead)
        return st_fail(e, ST_USAGE, "ohttp: nothing to seal with: the reply has not begun");
    return st_chunk_seal(&x->sealer, s, text, len, final, out, e);
}

int st_ohttp_seal_all(struct st_ohttp *x, const void *text, size_t len, struct st_buf *out, struct st_err *e)
{
    const uint8_t *p = text;
    int rc = 0;
    while (!rc && x->form == ST_OHTTP_CHUNKED && len > ST_CHUNK_TEXT_MAX) {
        rc = st_ohttp_seal(x, p, ST_CHUNK_TEXT_MAX, false, out, e);
        p += ST_CHUNK_TEXT_MAX;
        len -= ST_CHUNK_TEXT_MAX;
    }
    return rc ? rc : st_ohttp_seal(x, p, len, true, out, e);
}

/* Fills x->head up to `want` bytes; true when it is full. */
static bool gather(struct st_ohttp *x, struct st_span *in, size_t want)
{
    size_t n = want - x->have < in->len ? want - x->have : in->len;
    memcpy(x->head + x->have, in->p, n);
    x->have += n;
    *in = (struct st_span){in->p + n, in->len - n};
    return x->have == want;
}

static int read_head(struct st_ohttp *x, struct st_span *in, struct st_err *e)
{
    size_t want = ID_LEN;
    if (x->have >= ID_LEN)
        want += st_hpke_public_len((unsigned)(x->head[1] << 8 | x->head[2])); /* on_head() knew the kem */
    return gather(x, in, want) ? on_head(x, e) : 0;
}

static int read_nonce(struct st_ohttp *x, struct st_span *in, struct st_err *e)
{
    if (!gather(x, in, nonce_len(x)))
        return 0;
    st_chunk_opener_init(&x->opener, x->form, x->max);
    x->step = REPLY;
    return start_reply(x, x->head, false, e);
}

int st_ohttp_open(struct st_ohttp *x, struct st_span *in, struct st_span *text, struct st_err *e)
{
    int rc = 0;
    *text = (struct st_span){0};
    while (!rc && in->len && !text->len) {
        if (x->step == HEAD)
            rc = read_head(x, in, e);
        else if (x->step == NONCE)
            rc = read_nonce(x, in, e);
        else if (x->step == BAD)
            rc = refuse(x, e);
        else {
            rc = st_chunk_open(&x->opener, x->keys ? &x->hpke.sequence : &x->reply, in, text, e);
            if (!rc && text->len && x->step == UNPROVEN)
                rc = on_proven(x, e);
        }
    }
    if (rc) {
        x->step = BAD;
        *text = (struct st_span){0};
    }
    return rc;
}

int st_ohttp_open_end(struct st_ohttp *x, struct st_span *text, struct st_err *e)
{
    *text = (struct st_span){0};
    if (x->step != UNPROVEN && x->step != REQUEST && x->step != REPLY)
        return refuse(x, e);
    int rc = st_chunk_open_end(&x->opener, x->keys ? &x->hpke.sequence : &x->reply, text, e);
    if (!rc && x->step == UNPROVEN)
        rc = on_proven(x, e);
    if (rc) {
        x->step = BAD;
        *text = (struct st_span){0};
    }
    return rc;
}

void st_ohttp_wipe(struct st_ohttp *x)
{
    st_hpke_wipe(&x->hpke);
    st_sequence_wipe(&x->reply);
    st_chunk_opener_wipe(&x->opener);
    OPENSSL_cleanse(x, sizeof *x);
    x->step = BAD;
}
