/* Learning a model's last layer from its replies, on plain arrays. Rows of logits span a space of the model's width,
 * and that space is the last layer's, up to a rotation of the hidden state; a student corrects the head of a public
 * base by ridge regression on that base's own hidden states. Sources: arXiv 2403.06634 (the space); the student is
 * ours. */
#ifndef ST_AUDIT_DISTILL_H
#define ST_AUDIT_DISTILL_H

#include "audit/dense.h"

/* ---- the space of logits ---- */

/* The d strongest directions basis [d][v] of logits [n][v], n > d, each row's mean taken away; singular [n], falling.
 * Values that were withheld (-infinity) count as one less than the row's least. MEMORY. */
int st_distill_span(const struct st_dense *logits, size_t d, double *basis, double *singular,
                    struct st_err *e) ST_MUST_CHECK;
/* Number of values before the largest step: the width, where the step stands out. */
size_t st_distill_width(const double *singular, size_t n);
/* Of each direction the share that lies in the space of the columns of head [v][d]: shares [d]. MEMORY. */
int st_distill_shares(const double *basis, const struct st_dense *head, double *shares, struct st_err *e) ST_MUST_CHECK;

/* ---- a student ---- */

/* What a reply [v] says of the base's own logits for the same context [v], in place: the difference where logits were
 * given, once their means agree; others lie no higher than the least that was given. A reply that gives one token only
 * says that it is the largest. */
void st_distill_residual(const float *base, float *reply, size_t v);

/* delta [v][d] that makes x delta^T nearest to residuals r [n][v] with ridge `lambda` times the mean square of x:
 * chosen among several, and nothing at all, by which agrees most with the replies' largest token on the last fifth of
 * the rows. own [n][v]: logits of the base; best [n]: largest token of each reply. Returns the ridge in *ridge,
 * INFINITY = nothing. MEMORY. */
struct st_distill_rows {
    const struct st_dense *x, *own, *r;
    const uint32_t *best;
};
int st_distill_fit(struct st_pool *pool, const struct st_distill_rows *rows, struct st_dense *delta, double *ridge,
                   struct st_err *e) ST_MUST_CHECK;
/* Largest token of own + x delta^T for every row: got [x.n_row]. delta NULL: of own alone. MEMORY. */
int st_distill_answers(struct st_pool *pool, const struct st_dense *x, const struct st_dense *own,
                       const struct st_dense *delta, uint32_t *got, struct st_err *e) ST_MUST_CHECK;

uint32_t st_distill_largest(const float *row, size_t v);

#endif
