/* Tokenizer files that are no JSON: tiktoken rank files as Llama-3 ships them (lines of base64 token and rank), and
 * llama2.c's tokenizer.bin (u32 longest token; then per token f32 score, u32 length, bytes; little-endian). */
#include "model/tok.h"
#include "text/base64.h"
#include "text/utf8.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Rank files.
 * ------------------------------------------------------------------------------------------------------------ */

static int read_rank_line(const char *line, size_t len, size_t number, const char *where, struct st_buf *token,
                          struct st_tokenizer *t, struct st_err *e)
{
    const char *space = memchr(line, ' ', len);
    uint32_t rank = 0;
    st_buf_clear(token);
    bool ok = space && st_base64_decode(line, (size_t)(space - line), token) && space + 1 < line + len;
    for (const char *c = ok ? space + 1 : NULL; ok && c < line + len; c++) {
        ok = *c >= '0' && *c <= '9' && rank < ST_TOK_MAX_ID;
        rank = rank * 10 + (uint32_t)(*c - '0');
    }
    if (!ok)
        return st_fail(e, ST_INPUT, "%s: line %zu: want a token in base64 and its rank", where, number);
    if (token->failed)
        return st_fail(e, ST_MEMORY, "%s: no memory for the vocabulary", where);
    if (st_tok_vocab_find(&t->vocab, token->p, token->len, 0) != ST_TOK_NONE)
        return st_fail(e, ST_INPUT, "%s: line %zu: this token is given twice", where, number);
    return st_tok_vocab_add(&t->vocab, rank, token->p, token->len, ST_TOK_MODEL, where, e);
}

/* Llama-3's 256 control tokens, which follow the ranks (meta-llama/llama-models, models/llama3/tokenizer.py). */
static int add_llama3_special(const char *where, struct st_tokenizer *t, struct st_err *e)
{
    static const char *const names[] = {
        "begin_of_text",
        "end_of_text",
        "reserved_special_token_0",
        "reserved_special_token_1",
        "finetune_right_pad_id",
        "step_id",
        "start_header_id",
        "end_header_id",
        "eom_id",
        "eot_id",
        "python_tag",
        "image",
    };
    const uint32_t n_named = sizeof names / sizeof *names, base = t->vocab.n_id;
    for (uint32_t i = 0; i < 256; i++) {
        char text[64];
        if (i < n_named)
            snprintf(text, sizeof text, "<|%s|>", names[i]);
        else
            snprintf(text, sizeof text, "<|reserved_special_token_%u|>", i - n_named + 2);
        struct st_tok_added a = {.id = base + i, .special = true};
        if (st_tok_vocab_add(&t->vocab, a.id, text, strlen(text), ST_TOK_SPECIAL, where, e) ||
            st_tok_added_put(t, &t->raw, text, strlen(text), &a, e))
            return e->code;
    }
    t->bos = base;
    t->prefix[t->n_prefix++] = base;
    return 0;
}

int st_tok_read_ranks(struct st_span file, const char *where, struct st_tokenizer *t, struct st_err *e)
{
    struct st_buf token = {0};
    uint32_t *rank = NULL;
    size_t number = 1;
    const char *text = (const char *)file.p;
    int rc = 0;
    for (size_t i = 0, end; !rc && i < file.len; i = end + 1, number++) {
        const char *nl = memchr(text + i, '\n', file.len - i);
        end = nl ? (size_t)(nl - text) : file.len;
        size_t len = end - i - (end > i && text[end - 1] == '\r');
        if (len)
            rc = read_rank_line(text + i, len, number, where, &token, t, e);
    }
    for (int b = 0; !rc && b < 256; b++)
        if (st_tok_vocab_find(&t->vocab, &(char){(char)b}, 1, ST_TOK_MODEL) == ST_TOK_NONE)
            rc = st_fail(e, ST_INPUT, "%s: the byte %d has no rank", where, b);
    if (!rc)
        rc = st_alloc(&rank, t->vocab.n_id, sizeof *rank, "the ranks", e);
    for (uint32_t i = 0; !rc && i < t->vocab.n_id; i++)
        rank[i] = i;
    if (!rc)
        rc = st_tok_merge_all(t, rank, e);
    if (!rc)
        rc = st_tok_stage_regex(t, ST_TOK_REGEX_LLAMA3, ST_TOK_ISOLATED, where, e);
    if (!rc)
        rc = add_llama3_special(where, t, e);
    t->unk = ST_TOK_NONE;
    t->byte_level = t->ignore_merges = true;
    t->decoder = ST_TOK_DECODE_BYTES;
    free(rank);
    st_buf_free(&token);
    return rc;
}

/* llama2.c.
 * -------------------------------------------------------------------------------------------------------------- */

static uint32_t u32_at(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

struct scored {
    float score;
    uint32_t id;
};

static int by_score(const void *a, const void *b)
{
    const struct scored *x = a, *y = b;
    return (x->score < y->score) - (x->score > y->score);
}

/* Every token with its score, in the file's order. Ids 0, 1, 2 are unknown, begin and end; 3.. are the bytes. */
static int read_scored(struct st_span file, const char *where, struct st_tokenizer *t, struct scored *list,
                       struct st_err *e)
{
    const uint8_t *p = file.p;
    uint32_t id = 0;
    for (size_t at = 4; at < file.len; id++) {
        if (file.len - at < 8)
            return st_fail(e, ST_INPUT, "%s: token %u is cut", where, id);
        uint32_t bits = u32_at(p + at), len = u32_at(p + at + 4);
        at += 8;
        if (len > file.len - at)
            return st_fail(e, ST_INPUT, "%s: token %u: %u bytes, but only %zu are left", where, id, len, file.len - at);
        if (!st_utf8_valid(p + at, len))
            return st_fail(e, ST_INPUT, "%s: token %u is no UTF-8", where, id);
        memcpy(&list[id].score, &bits, 4);
        list[id].id = id;
        if (!isfinite(list[id].score))
            return st_fail(e, ST_INPUT, "%s: token %u: want a finite score", where, id);
        if (id >= 3 && id < 259 && st_tok_byte_token((const char *)p + at, len) != (int)id - 3)
            return st_fail(e, ST_INPUT, "%s: token %u: want \"<0x%02X>\"", where, id, id - 3);
        if (st_tok_vocab_add(&t->vocab, id, (const char *)p + at, len, ST_TOK_MODEL | (id < 3 ? ST_TOK_SPECIAL : 0),
                             where, e))
            return e->code;
        at += len;
    }
    if (id < 259)
        return st_fail(e, ST_INPUT, "%s: %u tokens; want at least 259 (3 control tokens and 256 bytes)", where, id);
    return 0;
}

int st_tok_read_llama2c(struct st_span file, const char *where, struct st_tokenizer *t, struct st_err *e)
{
    struct scored *list = NULL;
    uint32_t *rank = NULL, r = 0;
    int rc = st_alloc(&list, file.len / 8 + 1, sizeof *list, "the scores", e);
    if (!rc)
        rc = read_scored(file, where, t, list, e);
    if (!rc)
        rc = st_alloc(&rank, t->vocab.n_id, sizeof *rank, "the ranks", e);
    if (!rc) { /* the best score is joined first; equal scores from the left */
        qsort(list, t->vocab.n_id, sizeof *list, by_score);
        for (uint32_t i = 0; i < t->vocab.n_id; i++) {
            r += i > 0 && list[i].score != list[i - 1].score;
            rank[list[i].id] = r;
        }
        rc = st_tok_merge_all(t, rank, e);
    }
    if (!rc) {
        t->norm[0] = (struct st_tok_norm){.kind = ST_TOK_NORM_PREPEND, .content = strdup(" "), .content_len = 1};
        t->n_norm = 1;
        if (!t->norm[0].content)
            rc = st_fail(e, ST_MEMORY, "%s: no memory", where);
    }
    t->unk = ST_TOK_NONE;
    t->byte_fallback = t->decode_fallback = true;
    t->decoder = ST_TOK_DECODE_BYTES;
    t->strip_after_bos = true;
    t->strip_cp = ' ';
    t->bos = 1;
    t->prefix[0] = 1;
    t->n_prefix = 1;
    free(rank);
    free(list);
    return rc;
}
