/* Text of an audit as token ids: what the victim's users wrote, and what the adversary has read. A file is split into
 * documents at `<|endoftext|>`, or at empty lines when it has none. Without a file the base model speaks by itself
 * (the best prior there is: the same distribution), and records with invented personal data (audit/records.h) are mixed
 * into the victim's part, so that recovering them can be counted. Documents begin with BOS where the tokenizer has one,
 * as an engine sees them. */
#ifndef ST_AUDIT_TEXT_H
#define ST_AUDIT_TEXT_H

#include "model/model.h"
#include "model/tokenizer.h"

#include <signal.h>

/* Ids lo..hi of a personal item: recovered when all of them are. */
struct st_text_item {
    size_t lo, hi;
};
struct st_texts_ids {
    const uint32_t *ids; /* documents one behind the other */
    const size_t *ends;  /* [n] */
    size_t n;
    const struct st_text_item *items; /* [n_item] of the invented personal data */
    size_t n_item;
};
static inline size_t st_texts_len(const struct st_texts_ids *t)
{
    return t->n ? t->ends[t->n - 1] : 0;
}

struct st_text_made {
    struct st_texts_ids view;
    struct st_ids ids;
    size_t *ends;
    struct st_text_item *items;
    size_t cap_end, cap_item;
};
void st_text_free(struct st_text_made *t);

/* INPUT: no UTF-8, no token, ids that the model does not have. Documents are cut to n_ctx. */
int st_text_read(const char *path, const struct st_model *m, const struct st_tokenizer *tok, size_t n_ctx,
                 struct st_text_made *out, struct st_err *e) ST_MUST_CHECK;
/* The same of a text in memory; `where` names it in errors. */
int st_text_parse(const char *p, size_t len, const char *where, const struct st_model *m,
                  const struct st_tokenizer *tok, size_t n_ctx, struct st_text_made *out,
                  struct st_err *e) ST_MUST_CHECK;

#define ST_TEXT_SPEAK_BYTES ((uint64_t)256 << 20) /* a model with more weights is not asked to speak */
struct st_text_speak {
    const struct st_model *model;
    const struct st_tokenizer *tok;
    size_t n_doc, n_token; /* documents, tokens of each at most */
    size_t n_record;       /* documents of records behind them */
    uint64_t seed;
    int n_threads;
    const volatile sig_atomic_t *cancel;
};
int st_text_make(const struct st_text_speak *s, struct st_text_made *out, struct st_err *e) ST_MUST_CHECK;

/* Nats per token of ids under a model; `to` [n_vocab of base] gives the ids that m reads and writes, NULL = the same.
 */
int st_text_nats(const struct st_model *m, const struct st_texts_ids *t, const uint32_t *to, size_t max_token,
                 int n_threads, double *out, struct st_err *e) ST_MUST_CHECK;

#endif
