/* tokenizer.json of the `tokenizers` package: model BPE and the sections around it. The fields `truncation` and
 * `padding` are not read: they say how batches are cut for training, and no prompt is ever cut here. */
#include "model/tok.h"

#include <stdlib.h>
#include <string.h>

static int read_vocab(const json_t *model, const char *where, struct st_tokenizer *t, struct st_err *e)
{
    const json_t *v = json_object_get(model, "vocab"), *id;
    const char *text;
    if (!json_is_object(v))
        return st_fail(e, ST_INPUT, "%s: model.vocab: want an object of tokens and ids", where);
    json_object_foreach((json_t *)v, text, id)
    {
        json_int_t i = json_integer_value(id);
        if (!json_is_integer(id) || i < 0 || i >= ST_TOK_MAX_ID)
            return st_fail(e, ST_INPUT, "%s: model.vocab: want ids in 0..%u", where, ST_TOK_MAX_ID - 1);
        if (st_tok_vocab_add(&t->vocab, (uint32_t)i, text, strlen(text), ST_TOK_MODEL, where, e))
            return e->code;
    }
    return 0;
}

/* The two halves of a merge: ["a", "b"] or "a b". */
static bool merge_halves(const json_t *m, struct st_span *l, struct st_span *r)
{
    const char *a = json_string_value(m), *b;
    if (a) {
        const char *space = strchr(a, ' ');
        if (!space || strchr(space + 1, ' '))
            return false;
        *l = (struct st_span){(const uint8_t *)a, (size_t)(space - a)};
        b = space + 1;
    } else {
        a = json_string_value(json_array_get(m, 0));
        b = json_string_value(json_array_get(m, 1));
        if (!a || !b || json_array_size(m) != 2)
            return false;
        *l = (struct st_span){(const uint8_t *)a, strlen(a)};
    }
    *r = (struct st_span){(const uint8_t *)b, strlen(b)};
    return true;
}

static int read_merges(const json_t *model, const char *where, struct st_tokenizer *t, struct st_err *e)
{
    const json_t *list = json_object_get(model, "merges");
    struct st_buf whole = {0};
    uint32_t rank = 0;
    int rc = 0;
    if (!json_is_array(list))
        return st_fail(e, ST_INPUT, "%s: model.merges: want an array", where);
    for (size_t i = 0; !rc && i < json_array_size(list); i++) {
        const json_t *m = json_array_get(list, i);
        struct st_span l, r;
        if (json_is_string(m) && strncmp(json_string_value(m), "#version", 8) == 0)
            continue;
        if (!merge_halves(m, &l, &r)) {
            rc = st_fail(e, ST_INPUT, "%s: model.merges[%zu]: want two tokens", where, i);
            break;
        }
        st_buf_clear(&whole);
        st_buf_add(&whole, l.p, l.len);
        st_buf_add(&whole, r.p, r.len);
        uint32_t a = st_tok_vocab_find(&t->vocab, l.p, l.len, ST_TOK_MODEL);
        uint32_t b = st_tok_vocab_find(&t->vocab, r.p, r.len, ST_TOK_MODEL);
        uint32_t c = whole.failed ? ST_TOK_NONE : st_tok_vocab_find(&t->vocab, whole.p, whole.len, ST_TOK_MODEL);
        if (whole.failed)
            rc = st_fail(e, ST_MEMORY, "%s: no memory for merges", where);
        else if (a == ST_TOK_NONE || b == ST_TOK_NONE || c == ST_TOK_NONE)
            rc = st_fail(e, ST_INPUT, "%s: model.merges[%zu]: both tokens and their joint must be in the vocabulary",
                         where, i);
        else
            rc = st_tok_merge_put(t, a, b, rank++, c, e);
    }
    st_buf_free(&whole);
    return rc;
}

/* Affixes that make a token depend on its place in the word; empty ones are none. */
static int refuse_affix(const json_t *model, const char *where, const char *key, struct st_err *e)
{
    const char *s = NULL;
    if (st_json_str(model, where, key, &s, e))
        return e->code;
    return s && *s ? st_fail(e, ST_UNSUPPORTED, "%s: model.%s is not supported", where, key) : 0;
}

static int read_options(const json_t *model, const char *where, struct st_tokenizer *t, struct st_err *e)
{
    double dropout = 0;
    const char *unk = NULL;
    if (st_json_real(model, where, "dropout", 0, 1, &dropout, e) || st_json_str(model, where, "unk_token", &unk, e) ||
        st_json_bool(model, where, "fuse_unk", &t->fuse_unk, e) ||
        st_json_bool(model, where, "byte_fallback", &t->byte_fallback, e) ||
        st_json_bool(model, where, "ignore_merges", &t->ignore_merges, e) ||
        refuse_affix(model, where, "continuing_subword_prefix", e) ||
        refuse_affix(model, where, "end_of_word_suffix", e))
        return e->code;
    if (dropout > 0)
        return st_fail(e, ST_UNSUPPORTED, "%s: model.dropout above 0 makes ids random and is not supported", where);
    t->unk = ST_TOK_NONE;
    if (unk) {
        t->unk = st_tok_vocab_find(&t->vocab, unk, strlen(unk), ST_TOK_MODEL);
        if (t->unk == ST_TOK_NONE)
            return st_fail(e, ST_INPUT, "%s: model.unk_token is not in the vocabulary", where);
    }
    return 0;
}

struct added_flags {
    struct st_tok_added a;
    bool normalized;
    const char *content;
};

static int read_added_token(const json_t *o, const char *where, struct added_flags *f, struct st_err *e)
{
    int64_t id = 0;
    *f = (struct added_flags){.content = ""};
    if (!json_is_object(o))
        return st_fail(e, ST_INPUT, "%s: added_tokens: want objects", where);
    if (st_json_need(o, where, "id", e) || st_json_int(o, where, "id", 0, ST_TOK_MAX_ID - 1, &id, e) ||
        st_json_need(o, where, "content", e) || st_json_str(o, where, "content", &f->content, e) ||
        st_json_bool(o, where, "special", &f->a.special, e) ||
        st_json_bool(o, where, "single_word", &f->a.single_word, e) ||
        st_json_bool(o, where, "lstrip", &f->a.lstrip, e) || st_json_bool(o, where, "rstrip", &f->a.rstrip, e))
        return e->code;
    f->normalized = !f->a.special;
    if (st_json_bool(o, where, "normalized", &f->normalized, e))
        return e->code;
    if (strlen(f->content) > ST_TOK_MAX_ADDED_LEN)
        return st_fail(e, ST_INPUT, "%s: added_tokens: a content of more than %d bytes", where, ST_TOK_MAX_ADDED_LEN);
    f->a.id = (uint32_t)id;
    return 0;
}

/* Ids and flags into the vocabulary; before the merges, which must not make special tokens. */
static int enter_added(const json_t *list, const char *where, struct st_tokenizer *t, struct st_err *e)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        struct added_flags f;
        if (read_added_token(json_array_get(list, i), where, &f, e))
            return e->code;
        size_t len = strlen(f.content);
        uint32_t known = st_tok_vocab_find(&t->vocab, f.content, len, 0);
        if (known == ST_TOK_NONE && st_tok_vocab_add(&t->vocab, f.a.id, f.content, len, 0, where, e))
            return e->code;
        if (known != ST_TOK_NONE && known != f.a.id)
            return st_fail(e, ST_INPUT, "%s: added_tokens[%zu]: id %u, but the vocabulary says %u", where, i, f.a.id,
                           known);
        if (f.a.special)
            t->vocab.entry[f.a.id].flags |= ST_TOK_SPECIAL;
    }
    return 0;
}

/* Makes the tokens findable in texts; after the normalizer, through which the normalized ones go. */
static int find_added(const json_t *list, const char *where, struct st_tokenizer *t, struct st_err *e)
{
    struct st_tok_run run = {.t = t, .e = e};
    int rc = st_tok_match_init(&run.match, e);
    for (size_t i = 0; !rc && i < json_array_size(list); i++) {
        struct added_flags f;
        struct st_tok_text *n = NULL;
        if ((rc = read_added_token(json_array_get(list, i), where, &f, e)))
            break;
        const char *text = f.content;
        size_t len = strlen(text);
        if (f.normalized && t->n_norm && len) {
            if ((rc = st_tok_normalize(&run, text, len, NULL, &n)))
                break;
            text = n->text.p;
            len = n->text.len;
            if (len > 4 * ST_TOK_MAX_ADDED_LEN)
                rc = st_fail(e, ST_INPUT, "%s: added_tokens[%zu]: too long once normalized", where, i);
        }
        if (!rc && len)
            rc = st_tok_added_put(t, f.normalized ? &t->normalized : &t->raw, text, len, &f.a, e);
        t->special_normalized |= f.normalized && f.a.special;
    }
    for (int i = 0; i < 2; i++) {
        st_buf_free(&run.norm[i].text);
        st_buf_free(&run.norm[i].plain);
    }
    st_tok_match_wipe(&run.match);
    return rc;
}

/* Whole words or nothing. An unknown token that the vocabulary has not makes unknown words an error. */
static int read_words(const json_t *model, const json_t *added, const char *where, struct st_tokenizer *t,
                      struct st_err *e)
{
    const char *unk = "<unk>";
    t->words = true;
    if (read_vocab(model, where, t, e) || st_json_str(model, where, "unk_token", &unk, e))
        return e->code;
    t->unk = st_tok_vocab_find(&t->vocab, unk, strlen(unk), ST_TOK_MODEL);
    return enter_added(added, where, t, e);
}

static int read_model(const json_t *root, const char *where, struct st_tokenizer *t, struct st_err *e)
{
    const json_t *model = json_object_get(root, "model");
    const json_t *added = json_object_get(root, "added_tokens");
    const char *type = NULL;
    if (!json_is_object(model))
        return st_fail(e, ST_INPUT, "%s: model: want an object", where);
    if (st_json_str(model, where, "type", &type, e))
        return e->code;
    if (!type) /* old files leave it out; only BPE has merges */
        type = json_object_get(model, "merges") ? "BPE" : "unknown";
    if (strcmp(type, "BPE") != 0 && strcmp(type, "WordLevel") != 0)
        return st_fail(e, ST_UNSUPPORTED, "%s: tokenizer model '%.40s' is not supported; supported: BPE, WordLevel",
                       where, type);
    if (added && !json_is_null(added) && !json_is_array(added))
        return st_fail(e, ST_INPUT, "%s: added_tokens: want an array", where);
    if (strcmp(type, "WordLevel") == 0)
        return read_words(model, added, where, t, e);
    if (read_vocab(model, where, t, e) || read_options(model, where, t, e) || enter_added(added, where, t, e) ||
        read_merges(model, where, t, e))
        return e->code;
    return 0;
}

int st_tok_read_json(struct st_span file, const char *where, struct st_tokenizer *t, struct st_err *e)
{
    json_t *root;
    int rc = st_json_parse(file.p, file.len, where, &root, e);
    if (rc)
        return rc;
    if (!json_is_object(root))
        rc = st_fail(e, ST_INPUT, "%s: want an object", where);
    if (!rc)
        rc = read_model(root, where, t, e);
    if (!rc)
        rc = st_tok_json_normalizer(json_object_get(root, "normalizer"), where, t, e);
    if (!rc)
        rc = find_added(json_object_get(root, "added_tokens"), where, t, e);
    if (!rc)
        rc = st_tok_json_pre(json_object_get(root, "pre_tokenizer"), where, t, e);
    if (!rc)
        rc = st_tok_json_post(json_object_get(root, "post_processor"), where, t, e);
    if (!rc)
        rc = st_tok_json_decoder(json_object_get(root, "decoder"), where, t, e);
    json_decref(root);
    if (!rc && t->n_prefix)
        t->bos = t->prefix[0];
    return rc;
}
