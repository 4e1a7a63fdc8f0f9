/* Inside of the tokenizer, shared by the tok_*.c files only; users include model/tokenizer.h.
 *
 * One pipeline serves every kind of file. A reader (tok_json.c, tok_files.c) fills struct st_tokenizer; encoding walks
 *   added tokens -> normalizer -> added tokens of the normalized text -> pre-tokenizer stages -> BPE -> ids
 * in the order of the `tokenizers` package (Rust, 0.13-0.23), whose ids are the reference. Decoding is tok_decode.c.
 *
 * Files are hostile: ids, counts and lengths are bounded below, hash tables are seeded from getrandom, and a regex that
 * backtracks without end is stopped by PCRE2's match limit. */
#ifndef ST_MODEL_TOK_H
#define ST_MODEL_TOK_H

#define PCRE2_CODE_UNIT_WIDTH 8

#include "model/tokenizer.h"
#include "text/json.h"

#include <pcre2.h>

#define ST_TOK_MAX_ID (1u << 22)    /* ids below this */
#define ST_TOK_MAX_FILE (64u << 20) /* bytes of a tokenizer file */
#define ST_TOK_MAX_STAGE 24         /* normalizers, pre-tokenizer stages, decoder steps */
#define ST_TOK_MAX_AFFIX 8          /* ids that the post-processor puts in front or behind */
#define ST_TOK_MAX_ADDED_LEN 1024   /* bytes of an added token's text: bounds a trie walk per position */
#define ST_TOK_MAX_REGEX 4096       /* bytes of a regex */
#define ST_TOK_NONE UINT32_MAX

/* Seeded map from u64 to u64 (merges, trie edges). Keys are never UINT64_MAX. ---------------------------------------
 */
struct st_tok_slot {
    uint64_t key, val;
};
struct st_tok_map {
    struct st_tok_slot *slot; /* NULL until the first put */
    size_t mask, n;
    uint64_t seed[2];
};

static inline uint64_t st_tok_mum(uint64_t a, uint64_t b)
{
    unsigned __int128 p = (unsigned __int128)a * b;
    return (uint64_t)p ^ (uint64_t)(p >> 64);
}
static inline uint64_t st_tok_map_get(const struct st_tok_map *m, uint64_t key, uint64_t absent)
{
    if (!m->slot)
        return absent;
    for (size_t i = st_tok_mum(key ^ m->seed[0], m->seed[1]) & m->mask;; i = (i + 1) & m->mask) {
        if (m->slot[i].key == key)
            return m->slot[i].val;
        if (m->slot[i].key == UINT64_MAX)
            return absent;
    }
}
/* Adds or replaces. MEMORY. */
int st_tok_map_put(struct st_tok_map *m, uint64_t key, uint64_t val, struct st_err *e) ST_MUST_CHECK;
void st_tok_map_free(struct st_tok_map *m);

/* Vocabulary: ids with their texts, and texts with their ids.
 * ---------------------------------------------------------- */
enum {
    ST_TOK_PRESENT = 1,
    ST_TOK_MODEL = 2,   /* known to BPE; tokens that were only added are not */
    ST_TOK_SPECIAL = 4, /* a control token: skipped by skip_special, never made by BPE from a text */
    ST_TOK_BYTE = 8,    /* "<0x41>" that decodes to one byte */
};
struct st_tok_entry {
    uint32_t text, text_len;   /* in vocab.text: as in the file */
    uint32_t piece, piece_len; /* in vocab.piece: as decoded in mid-text */
    uint32_t flags;
};
struct st_tok_vocab {
    struct st_buf text, piece;
    struct st_tok_entry *entry; /* [n_id] */
    uint32_t n_id, cap;
    struct st_tok_link {
        uint32_t id, hash; /* id ST_TOK_NONE = free */
    } * table;
    size_t mask, n;
    uint64_t seed[2];
};
/* INPUT when the id is out of range or has another text already. A text that is known under another id keeps it. */
int st_tok_vocab_add(struct st_tok_vocab *v, uint32_t id, const char *text, size_t len, uint32_t flags,
                     const char *where, struct st_err *e) ST_MUST_CHECK;
/* ST_TOK_NONE if absent. `flags`: those that the entry must have. */
uint32_t st_tok_vocab_find(const struct st_tok_vocab *v, const void *text, size_t len, uint32_t flags);
void st_tok_vocab_free(struct st_tok_vocab *v);

/* Patterns: a literal string or a regex of the Oniguruma kind.
 * --------------------------------------------------------- */
struct st_tok_pattern {
    pcre2_code *code; /* NULL: literal */
    char *text;
    size_t len;
};
/* Regex scratch of one call. */
struct st_tok_match {
    pcre2_match_data *data;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
};
/* Matches of a pattern in one text, left to right, as Oniguruma's iterator gives them. */
struct st_tok_finder {
    const struct st_tok_pattern *p;
    const struct st_tok_match *m;
    const char *text;
    size_t len, at, last_end;
    bool any;
};
/* `where` names the part of the file. UNSUPPORTED: a construct that PCRE2 would read differently, or cannot read. */
int st_tok_pattern_regex(const char *regex, size_t len, const char *where, struct st_tok_pattern *out,
                         struct st_err *e) ST_MUST_CHECK;
int st_tok_pattern_literal(const char *text, size_t len, struct st_tok_pattern *out, struct st_err *e) ST_MUST_CHECK;
void st_tok_pattern_free(struct st_tok_pattern *p);
int st_tok_match_init(struct st_tok_match *m, struct st_err *e) ST_MUST_CHECK;
void st_tok_match_wipe(struct st_tok_match *m);
/* 1 and the match's bounds, 0 at the end, -1 when the regex gave up (INPUT). */
int st_tok_find(struct st_tok_finder *f, size_t *start, size_t *end, struct st_err *e) ST_MUST_CHECK;

/* Normalizers and pre-tokenizer stages.
 * --------------------------------------------------------------------------------- */
enum st_tok_norm_kind {
    ST_TOK_NORM_UNICODE, /* arg: utf8proc options */
    ST_TOK_NORM_PREPEND,
    ST_TOK_NORM_REPLACE,
    ST_TOK_NORM_STRIP, /* arg: 1 left, 2 right */
};
struct st_tok_norm {
    enum st_tok_norm_kind kind;
    int arg;
    struct st_tok_pattern pattern;
    char *content;
    size_t content_len;
};
/* Normalized text with, per byte, whether the user wrote it (plain ranges); `plain` stays empty when nobody asks. */
struct st_tok_text {
    struct st_buf text, plain;
};

enum st_tok_behavior {
    ST_TOK_REMOVED,
    ST_TOK_ISOLATED,
    ST_TOK_MERGED_PREVIOUS,
    ST_TOK_MERGED_NEXT,
    ST_TOK_CONTIGUOUS,
};
enum st_tok_stage_kind {
    ST_TOK_STAGE_SPLIT,
    ST_TOK_STAGE_SPACE, /* a leading space when there is none (ByteLevel add_prefix_space) */
    ST_TOK_STAGE_META,  /* Metaspace: spaces replaced, one put in front */
};
enum st_tok_scheme { ST_TOK_ALWAYS, ST_TOK_FIRST, ST_TOK_NEVER };
struct st_tok_stage {
    enum st_tok_stage_kind kind;
    struct st_tok_pattern pattern; /* SPLIT; META: the replacement */
    enum st_tok_behavior behavior;
    bool invert;
    enum st_tok_scheme scheme;
};

/* Decoder steps that work on one token. */
enum st_tok_step_kind { ST_TOK_STEP_REPLACE, ST_TOK_STEP_META };
struct st_tok_step {
    enum st_tok_step_kind kind;
    struct st_tok_pattern pattern;
    char *content;
    size_t content_len;
    enum st_tok_scheme scheme;
};
enum st_tok_decoder {
    ST_TOK_DECODE_NONE,  /* no decoder: tokens with spaces between them */
    ST_TOK_DECODE_BYTES, /* pieces are bytes; what is no UTF-8 becomes U+FFFD */
    ST_TOK_DECODE_TEXT,  /* pieces are text; runs of byte tokens are UTF-8 or all U+FFFD */
};

/* Added tokens found in a text, leftmost and longest. */
struct st_tok_trie {
    struct st_tok_map edge; /* node << 8 | byte -> node */
    struct st_tok_map leaf; /* node -> index into st_tokenizer.added */
    uint32_t n_node;
    bool first[256];
    int only_first; /* the one byte that every token begins with, or -1 */
};
struct st_tok_added {
    uint32_t id;
    bool special, lstrip, rstrip, single_word;
    bool control; /* special, or written like one: never found in what a user wrote */
};

struct st_tokenizer {
    struct st_tok_vocab vocab;
    struct st_tok_map merge; /* left << 32 | right -> rank << 32 | new id */
    uint32_t byte_id[256];   /* byte-level: id of a byte's letter; else unused */
    uint32_t ascii_id[128];  /* ids of the one-byte characters, for speed */
    uint32_t fallback_id[256];
    bool byte_level, byte_mapped; /* words are cut into bytes; their tokens are written in GPT-2's byte alphabet */
    bool ignore_merges, byte_fallback, fuse_unk;
    bool words;     /* WordLevel: what the pre-tokenizer cuts is one token each */
    uint32_t unk;   /* or ST_TOK_NONE */
    size_t max_len; /* bytes of the longest token text */
    /* No merge crosses from another character into this one (the mark of a word's begin), so a text may be cut there.
     */
    char mark[4];
    size_t mark_len; /* 0 = no such mark */

    struct st_tok_added *added;
    size_t n_added, cap_added;
    struct st_tok_trie raw, normalized;
    bool special_normalized;

    struct st_tok_norm norm[ST_TOK_MAX_STAGE];
    int n_norm;
    struct st_tok_stage stage[ST_TOK_MAX_STAGE];
    int n_stage;

    enum st_tok_decoder decoder;
    struct st_tok_step step[ST_TOK_MAX_STAGE];
    int n_step;
    bool decode_fallback, decode_mapped; /* byte tokens; tokens written in the byte alphabet */
    uint32_t strip_cp, strip_n;          /* leading characters dropped from the whole decoded text */
    bool strip_after_bos;                /* llama2.c: one space after BOS */

    uint32_t prefix[ST_TOK_MAX_AFFIX], suffix[ST_TOK_MAX_AFFIX];
    int n_prefix, n_suffix;
    int64_t bos;
};

/* Scratch of one encode call. */
struct st_tok_symbol {
    uint32_t id; /* ST_TOK_NONE = merged away */
    int32_t prev, next;
};
struct st_tok_heap_item {
    uint32_t rank, pos, id;
};
struct st_tok_run {
    const struct st_tokenizer *t;
    struct st_ids *out;
    struct st_err *e;
    struct st_tok_match match;
    struct st_tok_text norm[2];
    struct st_buf stage[ST_TOK_MAX_STAGE];
    struct st_tok_symbol *symbol;
    size_t n_symbol, cap_symbol;
    struct st_tok_heap_item *heap;
    size_t n_heap, cap_heap;
    struct st_buf mapped;
};

/* Readers. `where` is the path for messages; *t is zeroed and owned by the caller, also after an error. */
int st_tok_read_json(struct st_span file, const char *where, struct st_tokenizer *t, struct st_err *e) ST_MUST_CHECK;
int st_tok_read_ranks(struct st_span file, const char *where, struct st_tokenizer *t, struct st_err *e) ST_MUST_CHECK;
int st_tok_read_llama2c(struct st_span file, const char *where, struct st_tokenizer *t, struct st_err *e) ST_MUST_CHECK;

/* Sections of tokenizer.json (tok_parts.c, tok_decode.c). `v` may be NULL or null. */
int st_tok_json_normalizer(const json_t *v, const char *where, struct st_tokenizer *t, struct st_err *e) ST_MUST_CHECK;
int st_tok_json_pre(const json_t *v, const char *where, struct st_tokenizer *t, struct st_err *e) ST_MUST_CHECK;
int st_tok_json_decoder(const json_t *v, const char *where, struct st_tokenizer *t, struct st_err *e) ST_MUST_CHECK;
int st_tok_json_post(const json_t *v, const char *where, struct st_tokenizer *t, struct st_err *e) ST_MUST_CHECK;
/* {"String": s} or {"Regex": s} */
int st_tok_json_pattern(const json_t *o, const char *where, const char *key, struct st_tok_pattern *out,
                        struct st_err *e) ST_MUST_CHECK;

/* The fields of Metaspace, as pre-tokenizer (with split) and as decoder (split NULL). */
int st_tok_json_metaspace(const json_t *o, const char *where, struct st_tok_pattern *out, enum st_tok_scheme *scheme,
                          bool *split, struct st_err *e) ST_MUST_CHECK;
/* A string field that must be there, copied; free() it. */
int st_tok_json_dup(const json_t *o, const char *where, const char *key, char **out, size_t *len,
                    struct st_err *e) ST_MUST_CHECK;

/* A SPLIT stage on a regex of ours. */
int st_tok_stage_regex(struct st_tokenizer *t, const char *regex, enum st_tok_behavior b, const char *where,
                       struct st_err *e) ST_MUST_CHECK;
#define ST_TOK_REGEX_GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define ST_TOK_REGEX_LLAMA3                                                                                            \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"           \
    "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

/* Added tokens: all are entered, then found. `flags`: raw text or normalized text. */
int st_tok_added_put(struct st_tokenizer *t, struct st_tok_trie *trie, const char *text, size_t len,
                     const struct st_tok_added *a, struct st_err *e) ST_MUST_CHECK;
void st_tok_trie_free(struct st_tok_trie *t);
/* Next added token at or after *at: true and its bounds [*start, *end) after lstrip and rstrip, *at moved behind it.
 * `from` is where the previous one ended. A special one is found only if `special` and no byte of it is plain
 * (plain NULL = none is); one that is only written like a control token, if no byte of it is plain. */
bool st_tok_added_next(const struct st_tokenizer *t, const struct st_tok_trie *trie, const char *text, size_t len,
                       const char *plain, bool special, size_t from, size_t *at, size_t *start, size_t *end,
                       uint32_t *id);

/* Normalizes text [len] (plain [len] or NULL) with all of t->norm into run->norm[0 or 1]; *out is that one. */
int st_tok_normalize(struct st_tok_run *run, const char *text, size_t len, const char *plain, struct st_tok_text **out);
/* Splits by the stages from `k` on and encodes every piece. */
int st_tok_pre(struct st_tok_run *run, int k, const char *text, size_t len, bool at_start);

/* BPE of one piece; appends ids. */
int st_tok_bpe(struct st_tok_run *run, const char *text, size_t len);
/* After vocabulary and merges are complete: tables that BPE uses. */
void st_tok_bpe_prepare(struct st_tokenizer *t);
int st_tok_merge_put(struct st_tokenizer *t, uint32_t left, uint32_t right, uint32_t rank, uint32_t id,
                     struct st_err *e) ST_MUST_CHECK;
/* All pairs of tokens whose texts together are a token, ranked by rank[id]: what rank files and llama2.c mean. */
int st_tok_merge_all(struct st_tokenizer *t, const uint32_t *rank, struct st_err *e) ST_MUST_CHECK;

/* After the decoder is known: every token's piece. */
int st_tok_decode_prepare(struct st_tokenizer *t, struct st_err *e) ST_MUST_CHECK;

/* GPT-2's byte alphabet: printable bytes stand for themselves, the others for U+0100 and up. */
uint32_t st_tok_byte_letter(uint8_t b);
int st_tok_letter_byte(uint32_t cp); /* or -1 */
/* Unicode White_Space, and Alphabetic or Mark or Nd or Pc or Join_Control (\w of Rust's regex). */
bool st_tok_is_space(uint32_t cp);
bool st_tok_is_word(uint32_t cp);
/* Value of "<0xHH>", or -1. */
int st_tok_byte_token(const char *text, size_t len);

#endif
