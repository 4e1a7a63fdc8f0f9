/* Small tokenizer files for tests, written as text. */
#ifndef ST_TESTS_TOK_MAKE_H
#define ST_TESTS_TOK_MAKE_H

#include "model/tokenizer.h"
#include "text/json.h"
#include "text/utf8.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The byte alphabet of GPT-2, by its own definition: printable bytes are themselves, the others follow from U+0100 in
 * order. */
static inline void make_letter(struct st_buf *b, int byte)
{
    int free_letter = 0x100, i;
    for (i = 0; i < byte; i++)
        free_letter += !((i >= 33 && i <= 126) || (i >= 161 && i <= 172) || i >= 174);
    bool plain = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    uint8_t c[4];
    st_json_quote(b, (char *)c, st_utf8_put((uint32_t)(plain ? byte : free_letter), c));
}

/* tokenizer.json of a byte-level BPE: ids 0..255 are the bytes, then `words` (NULL-ended, as the file writes them; each
 * a JSON string without quotes). merges: the inside of the list. sections: more members, each with a comma before it.
 */
static inline void make_byte_level(struct st_buf *b, const char *const *words, const char *merges, const char *model,
                                   const char *sections)
{
    int id = 256;
    st_buf_add_str(b, "{\"version\":\"1.0\"");
    st_buf_add_str(b, sections);
    st_buf_addf(b, ",\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\"%s,\"vocab\":{", model);
    for (int i = 0; i < 256; i++) {
        make_letter(b, i);
        st_buf_addf(b, ":%d,", i);
    }
    for (; words && *words; words++)
        st_buf_addf(b, "\"%s\":%d,", *words, id++);
    b->len--;
    st_buf_addf(b, "},\"merges\":[%s]}}", merges);
}

/* The same of a SentencePiece-style BPE: <unk> <s> </s>, the bytes, then `words`; normalizer and decoder of Llama-2. */
static inline void make_sentencepiece(struct st_buf *b, const char *const *words, const char *merges, const char *model,
                                      const char *sections)
{
    int id = 3;
    st_buf_addf(
        b,
        "{\"version\":\"1.0\"%s,\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\","
        "\"pattern\":{\"String\":\"\u2581\"},\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},"
        "{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]},\"model\":{\"type\":\"BPE\","
        "\"unk_token\":\"<unk>\"%s,\"vocab\":{\"<unk>\":0,\"<s>\":1,\"</s>\":2",
        sections, model);
    for (int i = 0; i < 256; i++)
        st_buf_addf(b, ",\"<0x%02X>\":%d", i, id++);
    for (; words && *words; words++)
        st_buf_addf(b, ",\"%s\":%d", *words, id++);
    st_buf_addf(b, "},\"merges\":[%s]}}", merges);
}

static inline struct st_tokenizer *make_open(struct st_buf *b)
{
    struct st_tokenizer *t;
    struct st_err e = {0};
    if (b->failed || st_tokenizer_parse(b->p, b->len, "test", &t, &e)) {
        fprintf(stderr, "a tokenizer of the test does not open: %s\n", e.msg);
        abort();
    }
    st_buf_free(b);
    return t;
}

#endif
