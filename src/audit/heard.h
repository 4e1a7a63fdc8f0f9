/* What an observer has who sees ids and no weights: documents as they were sent, and public text to compare them with.
 *
 * A token with homophones is sent as any of its ids, each as likely (protect/covariant, st_cov_cipher_any()). Noise and
 * keys of the weights do not touch ids, so a series over noise has one point here: st_heard_check() refuses the rest.
 * The truth stands beside the ids for scoring and for nothing else. */
#ifndef ST_AUDIT_HEARD_H
#define ST_AUDIT_HEARD_H

#include "audit/attack.h"

struct st_heard {
    struct st_texts_ids text; /* plain ids of the documents */
    struct st_texts_ids sent; /* as they were sent */
    uint32_t n_plain, n_id;   /* ids that there are: of the base, of those sent */
    uint32_t *truth;          /* [n_id] plain id; n_plain for ids that were not heard */
    uint32_t *ids;
    size_t *ends;
};
/* The first max_token tokens of a text; truth [n_id] gives the plain id of each id that may be sent, n_plain = none.
 * INPUT: a token that no id stands for. text's ids are borrowed. */
int st_heard_new(const struct st_texts_ids *text, const uint32_t *truth, uint32_t n_id, uint32_t n_plain,
                 size_t max_token, uint64_t seed, struct st_heard *out, struct st_err *e) ST_MUST_CHECK;
void st_heard_free(struct st_heard *h);

/* The same of the audit's pair. */
int st_heard_open(const struct st_audit *a, size_t max_token, struct st_heard *out, struct st_err *e) ST_MUST_CHECK;
/* UNSUPPORTED: no prior, or a point of a series that does not change ids. */
int st_heard_check(const struct st_audit *a, struct st_err *e) ST_MUST_CHECK;

/* Public texts by how near they are to what is written: ordinary English that has nothing to do with it, and the
 * adversary's own (--prior, or the base model's speech: the same distribution). */
enum st_prior { ST_PRIOR_GENERAL, ST_PRIOR_OWN, ST_PRIOR_COUNT };
const char *st_prior_name(enum st_prior p); /* "general text", "prior" */
/* *made is what must be freed by st_text_free(); *out is the text. */
int st_prior_open(const struct st_audit *a, enum st_prior p, struct st_text_made *made, struct st_texts_ids *out,
                  struct st_err *e) ST_MUST_CHECK;

/* Rows of a table guess [n_id] (n_plain = no guess): token types that were heard, the text's tokens, personal items. */
int st_heard_report(const struct st_heard *h, const char *variant, const uint32_t *guess, struct st_rows *rows,
                    struct st_err *e) ST_MUST_CHECK;
/* got [tokens of the text] = guess of each id sent. */
void st_heard_read(const struct st_heard *h, const uint32_t *guess, uint32_t *got);

#endif
