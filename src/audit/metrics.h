/* What attacks are scored by, as in the literature: token-type top-1 and top-k, the same weighted by the text (TTRSR),
 * the share of personal items recovered whole (PIIRSR), cosine, BLEU-4. */
#ifndef ST_AUDIT_METRICS_H
#define ST_AUDIT_METRICS_H

#include "audit/rows.h"
#include "audit/text.h"

/* guess [n_seen]: plain id guessed for each cipher id; truth [n_seen], `none` where there is no truth: not counted.
 * used (n_plain entries, may be NULL): only plain ids that are in the text count. */
void st_score_types(struct st_row *row, const uint32_t *guess, const uint32_t *truth, size_t n_seen, uint32_t none,
                    const bool *used);
/* guess [n_seen][k], any of the k counts. */
void st_score_top_k(struct st_row *row, const uint32_t *guess, size_t k, const uint32_t *truth, size_t n_seen,
                    uint32_t none, const bool *used);
/* Which plain ids occur in the text; used [n_plain] is the caller's. */
void st_score_used(const struct st_texts_ids *text, bool *used, size_t n_plain);
/* How the ids of a text weigh, all or those in used [n_id] (may be NULL). Tokens of one id are right or wrong together
 * when a table of ids was guessed: as many independent ones would tell as much as (sum w)^2 / sum w^2 over the ids, w
 * how often each occurs (Kish, Survey Sampling, 1965). Who saw nothing names the commonest. */
struct st_score_weights {
    uint64_t n;
    double independent, commonest; /* number; share */
};
int st_score_weigh(const uint32_t *ids, size_t n, uint32_t n_id, const bool *used, struct st_score_weights *out,
                   struct st_err *e) ST_MUST_CHECK;
/* By table: right[id] says whether plain id was recovered. The text's tokens (of the ids in used; chance too), and its
 * items. */
int st_score_table_text(struct st_row *row, const bool *right, const struct st_texts_ids *text, const bool *used,
                        uint32_t n_plain, struct st_err *e) ST_MUST_CHECK;
void st_score_items(struct st_row *row, const bool *right, const struct st_texts_ids *text);
/* right [n_plain] of a guess table; an id with several cipher ids counts when all are right. */
void st_score_right(const uint32_t *guess, const uint32_t *truth, size_t n_seen, uint32_t none, bool *right,
                    size_t n_plain);
/* Items by position: ids recovered from rows. got [len of text]. */
void st_score_position_items(struct st_row *row, const uint32_t *got, const struct st_texts_ids *text);

double st_score_cosine(const float *a, const float *b, size_t n);

/* Corpus BLEU-4 of ids, 0 to 1, no smoothing, brevity penalty; documents side by side: the same number of them.
 * Papineni et al., ACL 2002. NAN without memory. */
double st_score_bleu4(const struct st_texts_ids *got, const struct st_texts_ids *want);

#endif
