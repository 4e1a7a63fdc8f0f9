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

/* UNSUPPORTED: no prior, or ids that are those of another target: a point of a series that does not change ids. */
int st_heard_check(const struct st_audit *a, struct st_err *e) ST_MUST_CHECK;

/* What was read before, by how near it is to what is written. The literature's three priors: zero-knowledge, ordinary
 * English that has nothing to do with it; domain, a text of the same kind (--prior, or the base model's speech);
 * distribution, that and every second document of the victims' own, the others being heard. */
enum st_prior { ST_PRIOR_GENERAL, ST_PRIOR_OWN, ST_PRIOR_SAME, ST_PRIOR_COUNT };
const char *st_prior_name(enum st_prior p); /* "general text", "prior", "same text" */

/* What the audit's pair lets hear, and what was read. How many further ids each plain id has is public: with the
 * protection's own text (protect/covariant/homophones.h) the list is, else the observer goes by the prior's ranks. */
struct st_trial {
    struct st_heard heard;
    struct st_texts_ids prior;
    uint32_t *copies;               /* [n_plain]; NULL without homophones */
    struct st_text_made read, said; /* what the two are made of, where it is not the target's */
};
/* At most max_token tokens are heard. */
int st_trial_open(const struct st_audit *a, enum st_prior p, size_t max_token, struct st_trial *out,
                  struct st_err *e) ST_MUST_CHECK;
/* The text with ST_PRIOR_OWN, as it would be sent if the frequent tokens had n_copy homophones each: a point of a
 * series, x_name ST_HOMOPHONES. Nothing but the base is needed. */
#define ST_HOMOPHONES "homophones"
int st_trial_spread(const struct st_audit *a, uint32_t n_copy, struct st_trial *out, struct st_err *e) ST_MUST_CHECK;
/* Points of that series, 0 being the audit's pair itself: at most ST_SPREADS, none of a pair that has homophones. */
#define ST_SPREADS 5
size_t st_spreads(const struct st_audit *a, uint32_t n_copy[ST_SPREADS]);
void st_trial_close(struct st_trial *t);

/* Rows of a table guess [n_id] (n_plain = no guess): token types that were heard, the text's tokens, personal items. */
int st_heard_report(const struct st_heard *h, const char *variant, const uint32_t *guess, struct st_rows *rows,
                    struct st_err *e) ST_MUST_CHECK;
/* One point of a series over x: tokens of the text. */
int st_heard_point(const struct st_heard *h, const char *variant, const char *x_name, double x, const uint32_t *guess,
                   struct st_rows *rows, struct st_err *e) ST_MUST_CHECK;
/* got [tokens of the text] = guess of each id sent. */
void st_heard_read(const struct st_heard *h, const uint32_t *guess, uint32_t *got);

#endif
