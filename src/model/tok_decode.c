/* Decoding: the decoder section of tokenizer.json, every token's piece, and the streaming decoder, through which whole
 * texts are decoded too, so that both always agree. */
#include "model/tok.h"
#include "text/utf8.h"

#include <stdlib.h>
#include <string.h>

#define MAX_PIECES (4u * ST_TOK_MAX_FILE)

int st_tok_byte_token(const char *text, size_t len)
{
    if (len != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>')
        return -1;
    int v = 0;
    for (int i = 3; i < 5; i++) {
        int c = text[i], d = c >= '0' && c <= '9'                 ? c - '0'
                             : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10
                                                                  : -1;
        if (d < 0)
            return -1;
        v = v * 16 + d;
    }
    return v;
}

/* Bytes of a token written in the byte alphabet; false when some character is none of its letters. */
static bool letters_to_bytes(const char *text, size_t len, struct st_buf *out)
{
    size_t before = out->len;
    for (size_t i = 0; i < len;) {
        uint32_t cp;
        size_t n = st_utf8_next((const uint8_t *)text + i, len - i, &cp);
        int b = n ? st_tok_letter_byte(cp) : -1;
        if (b < 0) {
            out->len = before;
            return false;
        }
        uint8_t c = (uint8_t)b;
        st_buf_add(out, &c, 1);
        i += n;
    }
    return true;
}

static void replace_all(const struct st_tok_step *s, const char *text, size_t len, const char *by, size_t by_len,
                        struct st_buf *out)
{
    while (len && !out->failed) {
        out->failed = out->len > MAX_PIECES; /* a hostile file: each character replaced by a million, step after step */
        const char *hit = s->pattern.len ? memmem(text, len, s->pattern.text, s->pattern.len) : NULL;
        size_t n = hit ? (size_t)(hit - text) : len;
        st_buf_add(out, text, n);
        if (hit)
            st_buf_add(out, by, by_len);
        n += hit ? s->pattern.len : 0;
        text += n;
        len -= n;
    }
}

/* One token through the steps. `first`: nothing was decoded before it. Appends to out. */
static void apply_steps(const struct st_tokenizer *t, const char *text, size_t len, bool first, struct st_buf *out)
{
    struct st_buf a = {0}, b = {0};
    st_buf_add(&a, text, len);
    for (int i = 0; i < t->n_step; i++) {
        const struct st_tok_step *s = &t->step[i];
        bool drop = s->kind == ST_TOK_STEP_META && first && s->scheme != ST_TOK_NEVER;
        st_buf_clear(&b);
        replace_all(s, a.p ? a.p : "", a.len, s->kind == ST_TOK_STEP_META ? " " : s->content,
                    s->kind == ST_TOK_STEP_META ? !drop : s->content_len, &b);
        struct st_buf swap = a;
        a = b;
        b = swap;
        a.failed |= b.failed;
    }
    st_buf_add(out, a.p ? a.p : "", a.len);
    out->failed |= a.failed;
    st_buf_free(&a);
    st_buf_free(&b);
}

static void add_piece(struct st_tokenizer *t, struct st_tok_entry *w)
{
    struct st_buf *out = &t->vocab.piece;
    const char *text = t->vocab.text.p + w->text;
    int byte = t->decode_fallback ? st_tok_byte_token(text, w->text_len) : -1;
    w->piece = (uint32_t)out->len;
    if (byte >= 0) {
        uint8_t b = (uint8_t)byte;
        w->flags |= ST_TOK_BYTE;
        st_buf_add(out, &b, 1);
    } else if (t->n_step)
        apply_steps(t, text, w->text_len, false, out);
    else if (!t->decode_mapped || !letters_to_bytes(text, w->text_len, out))
        st_buf_add(out, text, w->text_len);
    w->piece_len = (uint32_t)(out->len - w->piece);
}

int st_tok_decode_prepare(struct st_tokenizer *t, struct st_err *e)
{
    for (uint32_t i = 0; i < t->vocab.n_id; i++) {
        if (t->vocab.entry[i].flags)
            add_piece(t, &t->vocab.entry[i]);
        if (t->vocab.piece.failed || t->vocab.piece.len > MAX_PIECES)
            return st_fail(e, ST_INPUT, "the decoder makes the tokens longer than %u bytes together", MAX_PIECES);
    }
    return 0;
}

/* Streaming.
 * ------------------------------------------------------------------------------------------------------------- */

void st_detok_init(struct st_detok *d, const struct st_tokenizer *t, bool skip_special)
{
    *d = (struct st_detok){.t = t, .skip_special = skip_special, .strip = t->strip_n};
}

void st_detok_wipe(struct st_detok *d)
{
    st_buf_wipe(&d->held);
    *d = (struct st_detok){.t = d->t};
}

/* Text that is final; the leading characters that the decoder strips go here. */
static void emit(struct st_detok *d, const char *p, size_t len, struct st_buf *out)
{
    uint8_t c[4];
    size_t n = d->strip ? st_utf8_put(d->t->strip_cp, c) : 0;
    for (; d->strip && len; d->strip--) {
        if (len < n || memcmp(p, c, n) != 0) {
            d->strip = 0;
            break;
        }
        p += n;
        len -= n;
    }
    st_buf_add(out, p, len);
}

static void emit_unknown(struct st_detok *d, struct st_buf *out)
{
    emit(d, "\xef\xbf\xbd", 3, out);
}

/* Length of the part of p[len] that is replaced by one U+FFFD: the longest beginning of a character, else one byte
 * (Unicode 14, section 3.9, "substitution of maximal subparts"). */
static size_t subpart(const uint8_t *p, size_t len)
{
    size_t n = 1;
    while (n < len && n < 4 && st_utf8_complete(p, n + 1) == 0)
        n++;
    return st_utf8_complete(p, 1) == 0 ? n : 1;
}

static void emit_lossy(struct st_detok *d, const char *p, size_t len, struct st_buf *out)
{
    size_t good = 0;
    for (size_t i = 0; i < len;) {
        uint32_t cp;
        size_t n = st_utf8_next((const uint8_t *)p + i, len - i, &cp);
        if (n) {
            i += n;
            continue;
        }
        emit(d, p + good, i - good, out);
        emit_unknown(d, out);
        i += subpart((const uint8_t *)p + i, len - i);
        good = i;
    }
    emit(d, p + good, len - good, out);
}

/* A run of byte tokens has ended: its text, or one U+FFFD for each byte when any of it is no UTF-8. */
static void end_run(struct st_detok *d, struct st_buf *out)
{
    if (!d->held.len)
        return;
    if (st_utf8_valid(d->held.p, d->held.len))
        emit(d, d->held.p, d->held.len, out);
    else
        for (size_t i = 0; i < d->held.len; i++)
            emit_unknown(d, out);
    st_buf_clear(&d->held);
}

static void push_bytes(struct st_detok *d, const char *p, size_t len, struct st_buf *out)
{
    st_buf_add(&d->held, p, len);
    if (!d->held.len)
        return;
    size_t n = st_utf8_complete(d->held.p, d->held.len);
    emit_lossy(d, d->held.p, n, out);
    st_buf_drop(&d->held, n);
}

static void push_text(struct st_detok *d, const struct st_tok_entry *w, struct st_buf *out)
{
    const struct st_tokenizer *t = d->t;
    const char *piece = t->vocab.piece.p + w->piece;
    if (w->flags & ST_TOK_BYTE) {
        st_buf_add(&d->held, piece, w->piece_len);
    } else {
        end_run(d, out);
        if (!d->started && t->n_step) {
            struct st_buf b = {0};
            apply_steps(t, t->vocab.text.p + w->text, w->text_len, true, &b);
            emit(d, b.p ? b.p : "", b.len, out);
            out->failed |= b.failed;
            st_buf_free(&b);
        } else
            emit(d, piece, w->piece_len, out);
    }
}

void st_detok_push(struct st_detok *d, uint32_t id, struct st_buf *out)
{
    const struct st_tokenizer *t = d->t;
    if (id >= t->vocab.n_id || !t->vocab.entry[id].flags)
        return;
    const struct st_tok_entry *w = &t->vocab.entry[id];
    if (t->strip_after_bos) {
        d->strip = d->after_bos && !(w->flags & ST_TOK_SPECIAL);
        d->after_bos = (int64_t)id == t->bos;
    }
    if (d->skip_special && (w->flags & ST_TOK_SPECIAL))
        return;
    if (t->decoder == ST_TOK_DECODE_TEXT)
        push_text(d, w, out);
    else {
        if (t->decoder == ST_TOK_DECODE_NONE && d->started)
            push_bytes(d, " ", 1, out);
        push_bytes(d, t->vocab.piece.p + w->piece, w->piece_len, out);
    }
    d->started = true;
    out->failed |= d->held.failed;
}

void st_detok_end(struct st_detok *d, struct st_buf *out)
{
    if (d->t->decoder == ST_TOK_DECODE_TEXT)
        end_run(d, out);
    else if (d->held.len)
        emit_lossy(d, d->held.p, d->held.len, out);
    st_buf_clear(&d->held);
}

int st_tokenizer_decode(const struct st_tokenizer *t, const uint32_t *ids, size_t n, bool skip_special,
                        struct st_buf *out, struct st_err *e)
{
    struct st_detok d;
    st_detok_init(&d, t, skip_special);
    for (size_t i = 0; i < n; i++)
        st_detok_push(&d, ids[i], out);
    st_detok_end(&d, out);
    st_detok_wipe(&d);
    return out->failed ? st_fail(e, ST_MEMORY, "no memory to decode %zu tokens", n) : 0;
}

struct st_span st_tokenizer_piece(const struct st_tokenizer *t, uint32_t id)
{
    if (id >= t->vocab.n_id || !t->vocab.entry[id].flags)
        return (struct st_span){0};
    const struct st_tok_entry *w = &t->vocab.entry[id];
    return (struct st_span){(const uint8_t *)t->vocab.piece.p + w->piece, w->piece_len};
}

/* The decoder section.
 * --------------------------------------------------------------------------------------------------- */

static int add_step(const json_t *o, const char *where, enum st_tok_step_kind kind, struct st_tokenizer *t,
                    struct st_err *e)
{
    if (t->n_step == ST_TOK_MAX_STAGE)
        return st_fail(e, ST_INPUT, "%s: more than %d steps", where, ST_TOK_MAX_STAGE);
    struct st_tok_step *s = &t->step[t->n_step++];
    s->kind = kind;
    if (kind == ST_TOK_STEP_META)
        return st_tok_json_metaspace(o, where, &s->pattern, &s->scheme, NULL, e);
    int rc = st_tok_json_pattern(o, where, "pattern", &s->pattern, e);
    if (!rc && s->pattern.code)
        rc = st_fail(e, ST_UNSUPPORTED, "%s: decoder Replace with a regex is not supported", where);
    return rc ? rc : st_tok_json_dup(o, where, "content", &s->content, &s->content_len, e);
}

/* Strip: only leading characters of the whole text, which is what SentencePiece files ask for. */
static int add_strip(const json_t *o, const char *where, bool fused, struct st_tokenizer *t, struct st_err *e)
{
    const char *content = NULL;
    int64_t start = 0, stop = 0;
    uint32_t cp = 0;
    if (st_json_need(o, where, "content", e) || st_json_str(o, where, "content", &content, e) ||
        st_json_int(o, where, "start", 0, 1 << 20, &start, e) || st_json_int(o, where, "stop", 0, 1 << 20, &stop, e))
        return e->code;
    size_t len = strlen(content);
    if (!len || st_utf8_next((const uint8_t *)content, len, &cp) != len)
        return st_fail(e, ST_INPUT, "%s: Strip: content: want one character", where);
    if (stop || !fused || t->strip_n)
        return st_fail(e, ST_UNSUPPORTED, "%s: decoder Strip is supported once, after Fuse, with stop 0", where);
    t->strip_cp = cp;
    t->strip_n = (uint32_t)start;
    return 0;
}

struct decoder_state {
    bool bytes, fused; /* seen ByteLevel; Fuse */
};

static int read_decoder(const json_t *o, const char *where, int depth, struct decoder_state *d, struct st_tokenizer *t,
                        struct st_err *e)
{
    const char *type = NULL;
    if (!json_is_object(o))
        return st_fail(e, ST_INPUT, "%s: want an object", where);
    if (st_json_need(o, where, "type", e) || st_json_str(o, where, "type", &type, e))
        return e->code;
    if (strcmp(type, "Sequence") == 0) {
        const json_t *list = json_object_get(o, "decoders");
        if (!json_is_array(list) || depth > 4)
            return st_fail(e, ST_INPUT, "%s: decoders: want an array, at most 4 deep", where);
        for (size_t i = 0; i < json_array_size(list); i++)
            if (read_decoder(json_array_get(list, i), where, depth + 1, d, t, e))
                return e->code;
        return 0;
    }
    if (strcmp(type, "Fuse") == 0) {
        d->fused = true;
        return 0;
    }
    if (strcmp(type, "Strip") == 0)
        return add_strip(o, where, d->fused && !d->bytes, t, e);
    if (d->bytes || d->fused || t->decode_fallback)
        goto order;
    if (strcmp(type, "ByteFallback") == 0) {
        t->decode_fallback = true;
        return 0;
    }
    if (strcmp(type, "Replace") == 0)
        return add_step(o, where, ST_TOK_STEP_REPLACE, t, e);
    if (strcmp(type, "Metaspace") == 0)
        return add_step(o, where, ST_TOK_STEP_META, t, e);
    if (strcmp(type, "ByteLevel") == 0 && !t->n_step) {
        d->bytes = true;
        return 0;
    }
order:
    return st_fail(e, ST_UNSUPPORTED,
                   "%s: decoder '%.40s' is not supported here; supported: ByteLevel, or Replace and Metaspace, then "
                   "ByteFallback, then Fuse, then Strip",
                   where, type);
}

int st_tok_json_decoder(const json_t *v, const char *where, struct st_tokenizer *t, struct st_err *e)
{
    struct decoder_state d = {0};
    t->decoder = ST_TOK_DECODE_NONE;
    if (!v || json_is_null(v))
        return 0;
    t->decoder = ST_TOK_DECODE_TEXT;
    if (read_decoder(v, where, 0, &d, t, e))
        return e->code;
    t->decode_mapped = d.bytes;
    if (d.bytes)
        t->decoder = ST_TOK_DECODE_BYTES;
    return 0;
}
