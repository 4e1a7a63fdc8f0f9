/* Opening, encoding, and the small questions. */
#include "base/file.h"
#include "model/locate.h"
#include "model/texts.h"
#include "model/tok.h"
#include "text/utf8.h"

#include <stdlib.h>
#include <string.h>

#define MAX_CONFIG (4u << 20) /* bytes of tokenizer_config.json */

void st_ids_add(struct st_ids *ids, uint32_t id)
{
    if (ids->failed)
        return;
    if (ids->len == ids->cap) {
        size_t cap = ids->cap ? ids->cap * 2 : 64;
        uint32_t *p = cap > SIZE_MAX / 2 / sizeof *p ? NULL : realloc(ids->p, cap * sizeof *p);
        if (!p) {
            ids->failed = true;
            return;
        }
        ids->p = p;
        ids->cap = cap;
    }
    ids->p[ids->len++] = id;
}

void st_ids_free(struct st_ids *ids)
{
    free(ids->p);
    *ids = (struct st_ids){0};
}

/* Opening.
 * --------------------------------------------------------------------------------------------------------------- */

static int read_bytes(struct st_span b, const char *where, struct st_tokenizer *t, struct st_err *e)
{
    const uint8_t *p = b.p;
    size_t i = 0;
    while (i < b.len && (p[i] == ' ' || (p[i] >= 9 && p[i] <= 13)))
        i++;
    if (i < b.len && p[i] == '{')
        return st_tok_read_json(b, where, t, e);
    /* llama2.c begins with a small number, a SentencePiece model with field 1 of its protobuf message. */
    if (b.len >= 4 && p[1] < 16 && p[2] == 0 && p[3] == 0)
        return st_tok_read_llama2c(b, where, t, e);
    if (b.len >= 2 && p[0] == 0x0a && p[1] < 0x80)
        return st_fail(e, ST_UNSUPPORTED, "%s: a SentencePiece model is not supported; want its tokenizer.json", where);
    if (b.len == 0)
        return st_fail(e, ST_INPUT, "%s: empty; want tokenizer.json, a rank file or llama2.c's tokenizer.bin", where);
    return st_tok_read_ranks(b, where, t, e);
}

/* bos_token and add_bos_token of tokenizer_config.json, for files whose post-processor is silent. */
static int read_config(struct st_span config, const char *where, struct st_tokenizer *t, struct st_err *e)
{
    json_t *root = NULL;
    bool add = false;
    int rc = st_json_parse(config.p, config.len, where, &root, e);
    if (rc)
        return rc;
    rc = st_json_bool(root, where, "add_bos_token", &add, e);
    const json_t *bos = json_object_get(root, "bos_token");
    const char *text = json_string_value(json_is_object(bos) ? json_object_get(bos, "content") : bos);
    if (!rc && add && text) {
        t->bos = st_tokenizer_id(t, text);
        if (t->bos < 0)
            rc = st_fail(e, ST_INPUT, "%s: bos_token is not in the vocabulary", where);
        else
            t->prefix[t->n_prefix++] = (uint32_t)t->bos;
    }
    json_decref(root);
    return rc;
}

/* beside: where tokenizer_config.json would be; NULL = nowhere. */
static int parse(struct st_span b, const char *where, const struct st_texts *beside, struct st_tokenizer **out,
                 struct st_err *e)
{
    static const char name[] = "tokenizer_config.json";
    char path[ST_PATH_MAX];
    struct st_buf config = {0};
    *out = NULL;
    struct st_tokenizer *t = calloc(1, sizeof *t);
    if (!t)
        return st_fail(e, ST_MEMORY, "%s: no memory for a tokenizer", where);
    t->bos = -1;
    t->unk = ST_TOK_NONE;
    int rc = read_bytes(b, where, t, e);
    if (!rc && beside && !t->n_prefix && st_texts_has(beside, name)) {
        rc = st_texts_read(beside, name, MAX_CONFIG, &config, path, e);
        if (!rc)
            rc = read_config((struct st_span){(const uint8_t *)config.p, config.len}, path, t, e);
    }
    st_buf_free(&config);
    if (!rc) {
        st_tok_bpe_prepare(t);
        rc = st_tok_decode_prepare(t, e);
    }
    if (rc)
        st_tokenizer_free(t);
    else
        *out = t;
    return rc;
}

int st_tokenizer_parse(const void *p, size_t len, const char *where, struct st_tokenizer **out, struct st_err *e)
{
    *out = NULL;
    if (len > ST_TOK_MAX_FILE)
        return st_fail(e, ST_INPUT, "%s: %zu bytes; at most %u are accepted", where, len, ST_TOK_MAX_FILE);
    return parse((struct st_span){p, len}, where, NULL, out, e);
}

int st_tokenizer_open_in(const struct st_texts *texts, struct st_tokenizer **out, struct st_err *e)
{
    char where[ST_PATH_MAX];
    struct st_buf b = {0};
    *out = NULL;
    const char *name = st_locate_tokenizer_in(texts);
    if (!name)
        return st_fail(e, ST_IO, "%s: " ST_LOCATE_NONE, texts->path);
    int rc = st_texts_read(texts, name, ST_TOK_MAX_FILE, &b, where, e);
    if (!rc)
        rc = parse((struct st_span){(const uint8_t *)b.p, b.len}, where, texts, out, e);
    st_buf_free(&b);
    return rc;
}

static int open_file(const char *path, struct st_tokenizer **out, struct st_err *e)
{
    char dir[ST_PATH_MAX];
    struct st_buf b = {0};
    const char *slash = strrchr(path, '/');
    struct st_texts beside = {.path = slash ? dir : "."};
    snprintf(dir, sizeof dir, "%.*s", slash == path ? 1 : slash ? (int)(slash - path) : 0, path);
    int rc = st_file_read(path, ST_TOK_MAX_FILE, &b, e);
    if (!rc)
        rc = parse((struct st_span){(const uint8_t *)b.p, b.len}, path, &beside, out, e);
    st_buf_free(&b);
    return rc;
}

int st_tokenizer_open(const char *path, struct st_tokenizer **out, struct st_err *e)
{
    struct st_texts t;
    *out = NULL;
    if (!st_path_is_dir(path) && !st_container_is(path))
        return open_file(path, out, e);
    int rc = st_texts_open(path, NULL, &t, e);
    if (!rc)
        rc = st_tokenizer_open_in(&t, out, e);
    st_texts_close(&t);
    return rc;
}

void st_tokenizer_free(struct st_tokenizer *t)
{
    if (!t)
        return;
    for (int i = 0; i < ST_TOK_MAX_STAGE; i++) {
        st_tok_pattern_free(&t->norm[i].pattern);
        free(t->norm[i].content);
        st_tok_pattern_free(&t->stage[i].pattern);
        st_tok_pattern_free(&t->step[i].pattern);
        free(t->step[i].content);
    }
    st_tok_trie_free(&t->raw);
    st_tok_trie_free(&t->normalized);
    free(t->added);
    st_tok_map_free(&t->merge);
    st_tok_vocab_free(&t->vocab);
    free(t);
}

/* Encoding.
 * -------------------------------------------------------------------------------------------------------------- */

/* A piece between added tokens: normalized, searched for the normalized added tokens, split and encoded. */
static int encode_piece(struct st_tok_run *run, const char *text, size_t len, const char *plain, bool special,
                        bool at_start)
{
    const struct st_tokenizer *t = run->t;
    if (t->n_norm) {
        struct st_tok_text *n;
        int rc = st_tok_normalize(run, text, len, t->special_normalized ? plain : NULL, &n);
        if (rc)
            return rc;
        text = n->text.p ? n->text.p : "";
        len = n->text.len;
        plain = plain && t->special_normalized ? (n->plain.p ? n->plain.p : "") : NULL;
    }
    size_t from = 0, at = 0, start, end;
    uint32_t id;
    while (st_tok_added_next(t, &t->normalized, text, len, plain, special, from, &at, &start, &end, &id)) {
        int rc = st_tok_pre(run, 0, text + from, start - from, at_start && from == 0);
        if (rc)
            return rc;
        st_ids_add(run->out, id);
        from = end;
    }
    return st_tok_pre(run, 0, text + from, len - from, at_start && from == 0);
}

static int encode_text(struct st_tok_run *run, const char *text, size_t len, const char *plain, bool special)
{
    const struct st_tokenizer *t = run->t;
    size_t from = 0, at = 0, start, end;
    uint32_t id;
    while (st_tok_added_next(t, &t->raw, text, len, plain, special, from, &at, &start, &end, &id)) {
        if (from < start) {
            int rc = encode_piece(run, text + from, start - from, plain ? plain + from : NULL, special, from == 0);
            if (rc)
                return rc;
        }
        st_ids_add(run->out, id);
        from = end;
    }
    return from < len ? encode_piece(run, text + from, len - from, plain ? plain + from : NULL, special, from == 0) : 0;
}

/* One byte per byte of the text: 1 inside a plain range. */
static int plain_bytes(size_t len, const struct st_encode_opts *o, char **out, struct st_err *e)
{
    *out = NULL;
    if (!o->parse_special || !o->n_plain || !len)
        return 0;
    int rc = st_alloc(out, len, 1, "the marks of a text", e);
    size_t last = 0;
    for (size_t i = 0; !rc && i < o->n_plain; i++) {
        const struct st_plain_range *r = &o->plain[i];
        if (r->start < last || r->end < r->start || r->end > len)
            rc = st_fail(e, ST_INTERNAL, "plain range %zu of a text is out of order", i);
        else
            memset(*out + r->start, 1, r->end - r->start);
        last = r->end;
    }
    return rc;
}

static void run_wipe(struct st_tok_run *r)
{
    for (int i = 0; i < 2; i++) {
        st_buf_wipe(&r->norm[i].text);
        st_buf_free(&r->norm[i].plain);
    }
    for (int i = 0; i < ST_TOK_MAX_STAGE; i++)
        st_buf_wipe(&r->stage[i]);
    st_buf_wipe(&r->mapped);
    free(r->symbol);
    free(r->heap);
    st_tok_match_wipe(&r->match);
}

int st_tokenizer_encode(const struct st_tokenizer *t, const char *text, size_t len, const struct st_encode_opts *o,
                        struct st_ids *out, struct st_err *e)
{
    struct st_tok_run run = {.t = t, .out = out, .e = e};
    size_t before = out->len;
    char *plain = NULL;
    if (len > INT32_MAX)
        return st_fail(e, ST_INPUT, "a text of %zu bytes is too long to encode; at most %d", len, INT32_MAX);
    if (!st_utf8_valid(text, len))
        return st_fail(e, ST_INPUT, "the text is not UTF-8");
    int rc = st_tok_match_init(&run.match, e);
    if (!rc)
        rc = plain_bytes(len, o, &plain, e);
    for (int i = 0; !rc && o->add_special && i < t->n_prefix; i++)
        st_ids_add(out, t->prefix[i]);
    if (!rc)
        rc = encode_text(&run, text, len, plain, o->parse_special);
    for (int i = 0; !rc && o->add_special && i < t->n_suffix; i++)
        st_ids_add(out, t->suffix[i]);
    if (!rc && out->failed)
        rc = st_fail(e, ST_MEMORY, "no memory for the ids of a text of %zu bytes", len);
    if (rc)
        out->len = before;
    free(plain);
    run_wipe(&run);
    return rc;
}

/* Questions.
 * ------------------------------------------------------------------------------------------------------------- */

size_t st_tokenizer_vocab(const struct st_tokenizer *t)
{
    return t->vocab.n_id;
}

int64_t st_tokenizer_id(const struct st_tokenizer *t, const char *token)
{
    uint32_t id = st_tok_vocab_find(&t->vocab, token, strlen(token), 0);
    return id == ST_TOK_NONE ? -1 : (int64_t)id;
}

bool st_tokenizer_is_special(const struct st_tokenizer *t, uint32_t id)
{
    return id < t->vocab.n_id && (t->vocab.entry[id].flags & ST_TOK_SPECIAL);
}

int64_t st_tokenizer_bos(const struct st_tokenizer *t)
{
    return t->bos;
}
