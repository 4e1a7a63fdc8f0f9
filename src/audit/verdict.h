/* What rows mean, in plain words: for each adversary and target, and for content and traffic apart, the row that says
 * most, how much it gives away, a sentence. An attack that ran counts; one that was not run says nothing, which the
 * report lists. Points of a series that is made with noise are not among them, but for the preset itself (x 0). */
#ifndef ST_AUDIT_VERDICT_H
#define ST_AUDIT_VERDICT_H

#include "audit/rows.h"

enum st_verdict_level {
    ST_VERDICT_NOTHING, /* the interval of every row reaches down to chance */
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
    bool traffic;
    size_t n_row;
};
#define ST_VERDICT_MAX 256
/* In the order of rows. Returns how many, at most ST_VERDICT_MAX. */
size_t st_verdicts(const struct st_rows *rows, struct st_verdict out[ST_VERDICT_MAX]);
/* "most: row-sort got 0.81 (0.79 to 0.83), chance 0.0005, without protection 1" */
void st_verdict_text(const struct st_verdict *v, struct st_buf *out);

#endif
