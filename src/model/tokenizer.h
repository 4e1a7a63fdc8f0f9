/* Text to token ids and back. Kinds: byte-level BPE, SentencePiece-style BPE with byte fallback and WordLevel (the
 * words of an obfuscated checkpoint) from tokenizer.json, tiktoken rank files (tokenizer.model), llama2.c
 * tokenizer.bin. Immutable after open: may be shared by threads (each encode call takes its own scratch). Ids equal
 * those of the `tokenizers` package (0.23), with one exception on purpose: a control token is never the result of
 * merges, so a text in which special tokens are not read can never become one. (An added token that the normalizer
 * would change decodes to the text in the file.) Limits: file 64 MiB, ids below 2^22; a regex that backtracks without
 * end is stopped. */
#ifndef ST_MODEL_TOKENIZER_H
#define ST_MODEL_TOKENIZER_H

#include "base/buf.h"

struct st_tokenizer;

struct st_ids {
    uint32_t *p;
    size_t len, cap;
    bool failed; /* an allocation failed */
};
void st_ids_add(struct st_ids *ids, uint32_t id);
void st_ids_free(struct st_ids *ids);

/* `path`: a model directory or sealed container (tokenizer.json, else tokenizer.model) or one such file, or a llama2.c
 * tokenizer.bin.
 * A rank file needs no companion: Llama-3's pre-tokenizer and special tokens are built in.
 * INPUT: names file and field; UNSUPPORTED: names the part (model type, pre-tokenizer, normalizer). */
int st_tokenizer_open(const char *path, struct st_tokenizer **out, struct st_err *e) ST_MUST_CHECK;
struct st_texts; /* model/texts.h */
int st_tokenizer_open_in(const struct st_texts *texts, struct st_tokenizer **out, struct st_err *e) ST_MUST_CHECK;
/* The same from the bytes of a file; `where` names them in errors. No tokenizer_config.json is read. */
int st_tokenizer_parse(const void *p, size_t len, const char *where, struct st_tokenizer **out,
                       struct st_err *e) ST_MUST_CHECK;
void st_tokenizer_free(struct st_tokenizer *t);

/* Part of a text in which nothing is read as a special token: what a user wrote. */
struct st_plain_range {
    size_t start, end;
};
struct st_encode_opts {
    bool add_special;                   /* what the tokenizer's post-processor adds (usually BOS in front) */
    bool parse_special;                 /* special tokens written out in the text become their ids */
    const struct st_plain_range *plain; /* exceptions to parse_special, ascending, disjoint */
    size_t n_plain;
};
/* Appends to *out; after an error *out is as before. Text must be UTF-8 (else INPUT). Input over 2^31 bytes: INPUT. */
int st_tokenizer_encode(const struct st_tokenizer *t, const char *text, size_t len, const struct st_encode_opts *o,
                        struct st_ids *out, struct st_err *e) ST_MUST_CHECK;

/* Whole-text decoding; bytes that are no UTF-8 become U+FFFD as in the `tokenizers` package. */
int st_tokenizer_decode(const struct st_tokenizer *t, const uint32_t *ids, size_t n, bool skip_special,
                        struct st_buf *out, struct st_err *e) ST_MUST_CHECK;

/* Streaming decode: appends only whole characters; the rest waits for the next id. The concatenation of all pushes and
 * the end equals st_tokenizer_decode with skip_special. (SentencePiece files say that a run of byte tokens is text only
 * when all of it is UTF-8, so such a run waits for the token after it.)
 * The first token of a text may lose its leading space (Llama-2, llama2.c). To continue a text whose beginning is
 * known, push its ids first and drop what they give. */
struct st_detok {
    const struct st_tokenizer *t; /* borrowed */
    struct st_buf held;
    uint32_t strip; /* leading characters that may still be dropped */
    bool started, after_bos;
    bool skip_special;
};
void st_detok_init(struct st_detok *d, const struct st_tokenizer *t, bool skip_special);
void st_detok_push(struct st_detok *d, uint32_t id, struct st_buf *out);
void st_detok_end(struct st_detok *d, struct st_buf *out);
void st_detok_wipe(struct st_detok *d);

size_t st_tokenizer_vocab(const struct st_tokenizer *t); /* largest id + 1, added tokens included */
/* Id of a token's exact text, or -1. */
int64_t st_tokenizer_id(const struct st_tokenizer *t, const char *token);
bool st_tokenizer_is_special(const struct st_tokenizer *t, uint32_t id);
/* Raw bytes of one token as it decodes in mid-text (for logprobs); NULL-safe for ids out of range (len 0). */
struct st_span st_tokenizer_piece(const struct st_tokenizer *t, uint32_t id);
/* BOS id that a text starts with, or -1: the post-processor's, else bos_token of tokenizer_config.json beside the file
 * when add_bos_token is true, else by the file's kind. add_special puts it in front. */
int64_t st_tokenizer_bos(const struct st_tokenizer *t);

#endif
