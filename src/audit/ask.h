/* Asking a model as a client does: rows of logits for texts that one hands in, and replies at temperature 0. Of a model
 * of one's own comes what its head reads as well. */
#ifndef ST_AUDIT_ASK_H
#define ST_AUDIT_ASK_H

#include "audit/attack.h"
#include "engine/engine.h"

struct st_ask_rows {
    size_t n;       /* rows wanted; afterwards, rows that there are */
    float *logits;  /* [n, n_vocab], or NULL */
    float *states;  /* [n, d_model] what the head reads, or NULL */
    uint32_t *best; /* [n] the largest of each row, or NULL */
};
/* The first q->n positions of a text, its documents cut to the model's context. filter: what replies go through, NULL =
 * as they are. Errors of the engine; IO: cancelled. */
int st_ask_text(const struct st_audit *a, const struct st_model *m, const struct st_filter *filter,
                const struct st_texts_ids *t, struct st_ask_rows *q, struct st_err *e) ST_MUST_CHECK;

/* To the first n_prompt tokens of each document that has so many, at most max_doc of them: n_reply tokens each, one
 * reply behind the other, into ids [max_doc * n_reply]; *n_doc of them. Errors as above. */
struct st_ask_replies {
    size_t n_prompt, n_reply, max_doc;
};
int st_ask_replies(const struct st_audit *a, const struct st_model *m, const struct st_texts_ids *t,
                   const struct st_ask_replies *o, uint32_t *ids, size_t *n_doc, struct st_err *e) ST_MUST_CHECK;

#endif
