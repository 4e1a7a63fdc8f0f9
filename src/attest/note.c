#include "attest/note.h"
#include "crypto/digest.h"
#include "text/base64.h"
#include "text/utf8.h"

#include <string.h>

#define DASH "\xe2\x80\x94 " /* U+2014 and a space */

/* White_Space of Unicode, above the controls. */
static bool is_space(uint32_t c)
{
    return c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 ||
           c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

static int check_name(struct st_span name, struct st_err *e)
{
    uint32_t c;
    if (name.len == 0 || name.len > ST_NOTE_MAX_NAME)
        return st_fail(e, ST_INPUT, "key name: want 1 to %d bytes, got %zu", ST_NOTE_MAX_NAME, name.len);
    for (size_t i = 0, n; i < name.len; i += n) {
        n = st_utf8_next(name.p + i, name.len - i, &c);
        if (n == 0)
            return st_fail(e, ST_INPUT, "key name: want UTF-8");
        if (c < 0x20 || c == '+' || is_space(c))
            return st_fail(e, ST_INPUT, "key name: it holds a space, a plus or a control character");
    }
    return 0;
}

/* What a text and a whole note have in common. */
static int check_text(struct st_span text, struct st_err *e)
{
    if (text.len == 0 || text.p[text.len - 1] != '\n')
        return st_fail(e, ST_INPUT, "note: want text that ends in a newline");
    if (text.len > ST_NOTE_MAX_BYTES)
        return st_fail(e, ST_INPUT, "note: want at most %zu bytes, got %zu", ST_NOTE_MAX_BYTES, text.len);
    if (!st_utf8_valid(text.p, text.len))
        return st_fail(e, ST_INPUT, "note: want UTF-8");
    for (size_t i = 0; i < text.len; i++)
        if (text.p[i] < 0x20 && text.p[i] != '\n')
            return st_fail(e, ST_INPUT, "note: it holds the control character %u", text.p[i]);
    return 0;
}

int st_note_key_make(const char *name, uint8_t type, const uint8_t key[ST_ED25519_PUBLIC], struct st_note_key *out,
                     struct st_err *e)
{
    uint8_t preimage[ST_NOTE_MAX_NAME + 2 + ST_ED25519_PUBLIC], digest[32];
    size_t len = strlen(name);
    *out = (struct st_note_key){.type = type};
    int rc = check_name((struct st_span){(const uint8_t *)name, len}, e);
    if (rc)
        return rc;
    memcpy(out->name, name, len + 1);
    memcpy(out->key, key, ST_ED25519_PUBLIC);
    memcpy(preimage, name, len);
    preimage[len] = '\n';
    preimage[len + 1] = type;
    memcpy(preimage + len + 2, key, ST_ED25519_PUBLIC);
    st_sha256(preimage, len + 2 + ST_ED25519_PUBLIC, digest);
    memcpy(out->id, digest, sizeof out->id);
    return 0;
}

int st_note_key_parse(const char *s, size_t len, struct st_note_key *out, struct st_err *e)
{
    char name[ST_NOTE_MAX_NAME + 1];
    uint8_t id[4];
    struct st_buf raw = {0};
    *out = (struct st_note_key){0};
    /* Base64 may hold a plus, names and ids cannot. */
    const char *plus = memchr(s, '+', len);
    const char *second = plus ? memchr(plus + 1, '+', len - (size_t)(plus + 1 - s)) : NULL;
    if (!second)
        return st_fail(e, ST_INPUT, "verifier key: want name+id+key");
    size_t name_len = (size_t)(plus - s);
    int rc = check_name((struct st_span){(const uint8_t *)s, name_len}, e);
    if (!rc)
        rc = st_unhex(plus + 1, (size_t)(second - plus - 1), id, sizeof id, "key id", e);
    if (rc)
        return st_err_prefix(e, "verifier key");
    memcpy(name, s, name_len);
    name[name_len] = 0;
    bool decoded = st_base64_decode(second + 1, len - (size_t)(second + 1 - s), &raw);
    if (raw.failed)
        rc = st_fail(e, ST_MEMORY, "verifier key: out of memory");
    else if (!decoded || raw.len == 0)
        rc = st_fail(e, ST_INPUT, "verifier key of %s: want base64", name);
    else if (raw.p[0] != ST_NOTE_ED25519 && raw.p[0] != ST_NOTE_COSIGNATURE)
        rc = st_fail(e, ST_UNSUPPORTED, "verifier key of %s: signature type %u, this program knows %d and %d", name,
                     (uint8_t)raw.p[0], ST_NOTE_ED25519, ST_NOTE_COSIGNATURE);
    else if (raw.len != 1 + ST_ED25519_PUBLIC)
        rc = st_fail(e, ST_INPUT, "verifier key of %s: want a key of %d bytes, got %zu", name, ST_ED25519_PUBLIC,
                     raw.len - 1);
    else
        rc = st_note_key_make(name, (uint8_t)raw.p[0], (const uint8_t *)raw.p + 1, out, e);
    if (!rc && memcmp(out->id, id, sizeof id) != 0)
        rc = st_fail(e, ST_INPUT, "verifier key of %s: its id is not that of the key", name);
    if (rc)
        *out = (struct st_note_key){0};
    st_buf_free(&raw);
    return rc;
}

void st_note_key_write(const struct st_note_key *k, struct st_buf *out)
{
    char id[2 * sizeof k->id + 1];
    uint8_t raw[1 + ST_ED25519_PUBLIC];
    st_hex(k->id, sizeof k->id, id);
    raw[0] = k->type;
    memcpy(raw + 1, k->key, ST_ED25519_PUBLIC);
    st_buf_add_str(out, k->name);
    st_buf_add_str(out, "+");
    st_buf_add_str(out, id);
    st_buf_add_str(out, "+");
    st_base64_encode(raw, sizeof raw, out);
}

/* One signature line without its newline. */
static int parse_signature(struct st_note *n, struct st_span line, struct st_err *e)
{
    size_t dash = sizeof DASH - 1, at = n->n_signature + 1;
    if (n->n_signature == ST_NOTE_MAX_SIGNATURES)
        return st_fail(e, ST_INPUT, "note: more than %d signatures", ST_NOTE_MAX_SIGNATURES);
    if (line.len < dash || memcmp(line.p, DASH, dash) != 0)
        return st_fail(e, ST_INPUT, "note: signature line %zu does not begin with a dash and a space", at);
    struct st_span name = {line.p + dash, line.len - dash};
    const uint8_t *space = memchr(name.p, ' ', name.len);
    if (!space)
        return st_fail(e, ST_INPUT, "note: signature line %zu: want name and signature", at);
    const char *text = (const char *)space + 1;
    size_t text_len = name.len - (size_t)(space + 1 - name.p), begin = n->memory.len;
    name.len = (size_t)(space - name.p);
    int rc = check_name(name, e);
    if (rc)
        return st_err_prefix(e, "note: signature line %zu", at);
    bool decoded = st_base64_decode(text, text_len, &n->memory);
    if (n->memory.failed)
        return st_fail(e, ST_MEMORY, "note: out of memory");
    if (!decoded || n->memory.len - begin <= 4)
        return st_fail(e, ST_INPUT, "note: signature line %zu: want base64 of a key id and a signature", at);
    const uint8_t *raw = (const uint8_t *)n->memory.p + begin;
    n->signatures[n->n_signature++] = (struct st_note_signature){name, {raw, 4}, {raw + 4, n->memory.len - begin - 4}};
    return 0;
}

int st_note_parse(const void *p, size_t len, struct st_note *out, struct st_err *e)
{
    struct st_span all = {p, len};
    *out = (struct st_note){0};
    int rc = check_text(all, e);
    if (rc)
        return rc;
    size_t end = len - 1; /* of the text, with its newline; all.p[end] is the empty line's */
    while (end > 0 && (all.p[end] != '\n' || all.p[end - 1] != '\n'))
        end--;
    if (end == 0)
        return st_fail(e, ST_INPUT, "note: want an empty line before the signatures");
    if (end == len - 1)
        return st_fail(e, ST_INPUT, "note: no signature");
    /* Room for all that base64 can hold, so that the spans into it stay where they are. */
    if (!st_buf_room(&out->memory, len - end))
        return st_fail(e, ST_MEMORY, "note: out of memory");
    st_buf_clear(&out->memory);
    out->text = (struct st_span){all.p, end};
    for (size_t at = end + 1; at < len && !rc;) {
        const uint8_t *newline = memchr(all.p + at, '\n', len - at);
        size_t line = (size_t)(newline - (all.p + at)); /* the last byte is a newline */
        rc = parse_signature(out, (struct st_span){all.p + at, line}, e);
        at += line + 1;
    }
    if (rc)
        st_note_wipe(out);
    return rc;
}

void st_note_wipe(struct st_note *n)
{
    st_buf_free(&n->memory);
    *n = (struct st_note){0};
}

const struct st_note_signature *st_note_next(const struct st_note *n, const struct st_note_key *k, size_t *at)
{
    while (*at < n->n_signature) {
        const struct st_note_signature *s = &n->signatures[(*at)++];
        if (s->name.len == strlen(k->name) && memcmp(s->name.p, k->name, s->name.len) == 0 &&
            memcmp(s->id.p, k->id, sizeof k->id) == 0)
            return s;
    }
    return NULL;
}

int st_note_verify(const struct st_note *n, const struct st_note_key *k, struct st_err *e)
{
    const struct st_note_signature *s;
    size_t at = 0, good = 0;
    if (k->type != ST_NOTE_ED25519)
        return st_fail(e, ST_USAGE, "note: the key of %s is of signature type %u, want %d", k->name, k->type,
                       ST_NOTE_ED25519);
    while ((s = st_note_next(n, k, &at)) != NULL) {
        struct st_err why;
        if (s->bytes.len != ST_ED25519_SIGNATURE ||
            st_ed25519_verify(k->key, n->text.p, n->text.len, s->bytes.p, &why) != 0)
            return st_fail(e, ST_VERIFY, "note: a signature of %s is not the key's", k->name);
        good++;
    }
    return good ? 0 : st_fail(e, ST_VERIFY, "note: it is not signed by %s", k->name);
}

int st_note_begin(struct st_span text, struct st_buf *out, struct st_err *e)
{
    int rc = check_text(text, e);
    if (rc)
        return rc;
    st_buf_add(out, text.p, text.len);
    st_buf_add_str(out, "\n");
    return out->failed ? st_fail(e, ST_MEMORY, "note: out of memory") : 0;
}

void st_note_add(const struct st_note_key *k, struct st_span bytes, struct st_buf *out)
{
    struct st_buf raw = {0};
    st_buf_add(&raw, k->id, sizeof k->id);
    st_buf_add(&raw, bytes.p, bytes.len);
    if (raw.failed)
        out->failed = true;
    st_buf_add_str(out, DASH);
    st_buf_add_str(out, k->name);
    st_buf_add_str(out, " ");
    if (!raw.failed)
        st_base64_encode(raw.p, raw.len, out);
    st_buf_add_str(out, "\n");
    st_buf_free(&raw);
}

int st_note_sign(struct st_span text, const char *name, const struct st_ed25519 *k, struct st_buf *out,
                 struct st_err *e)
{
    uint8_t public[ST_ED25519_PUBLIC], signature[ST_ED25519_SIGNATURE];
    struct st_note_key key;
    st_ed25519_public(k, public);
    int rc = st_note_key_make(name, ST_NOTE_ED25519, public, &key, e);
    if (!rc)
        rc = st_ed25519_sign(k, text.p, text.len, signature, e);
    if (rc)
        return rc;
    st_note_add(&key, (struct st_span){signature, sizeof signature}, out);
    return out->failed ? st_fail(e, ST_MEMORY, "note: out of memory") : 0;
}
