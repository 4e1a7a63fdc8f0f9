/* What rows mean, in plain words: for each adversary and target, and for content and traffic apart, the row that says
 * most, how much it gives away, a sentence. Schemes of others stand apart. An attack that ran counts; one that was not
 * run says nothing, which the report lists. Points of a series that is made with noise are not among them, but for the
 * preset itself (x 0).
 *
 * The best of many tries looks better than chance by luck. So a row counts as above chance only when its interval,
 * widened for the number of rows that the verdict looks at (Bonferroni), does not reach down to it. */
#ifndef ST_AUDIT_VERDICT_H
#define ST_AUDIT_VERDICT_H

#include "audit/rows.h"

enum st_verdict_level {
    ST_VERDICT_NOTHING, /* no row is above chance */
    ST_VERDICT_LITTLE,  /* under a tenth of what there is above chance */
    ST_VERDICT_PART,
    ST_VERDICT_MOST, /* over a half */
    ST_VERDICT_ALL,  /* over nine tenths */
};
const char *st_verdict_word(enum st_verdict_level l); /* "nothing", "a little", ... */

struct st_verdict {
    const char *adversary, *target; /* of the row; target "" = none */
    const struct st_row *worst;
    enum st_verdict_level level;
    bool traffic, others;
    size_t n_row;
};
#define ST_VERDICT_MAX 256
/* In the order of rows. Returns how many, at most ST_VERDICT_MAX. */
size_t st_verdicts(const struct st_rows *rows, struct st_verdict out[ST_VERDICT_MAX]);
/* Of which target: its label; "any preset" for what needs none; "schemes of others". */
const char *st_verdict_target(const struct st_verdict *v);
/* "most: share of the tokens of the text recovered, 81 % (79 to 83); guessing gets 0.05 %, without protection 100 %;
 * by vma-row-sort (one layer: text)" */
void st_verdict_text(const struct st_verdict *v, struct st_buf *out);
/* The same without the first word. */
void st_verdict_evidence(const struct st_verdict *v, struct st_buf *out);
/* Who reads content, by how much, one line a level: "nearly everything: server (tight; paper), worker (remo)". */
void st_verdict_summary(const struct st_verdict *v, size_t n, enum st_verdict_level level, struct st_buf *out);

#endif
