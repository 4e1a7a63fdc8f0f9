/* Which of several known things was it, told by some figures of it: the nearest mean, each figure measured in the
 * spread that it has among repeats of one thing (linear discriminants without correlations). What is the same for all
 * and never varies tells nothing; what differs and never varies tells all. */
#ifndef ST_AUDIT_TELL_H
#define ST_AUDIT_TELL_H

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

struct st_tell {
    size_t n_class, n_figure;
    double *mean;  /* [n_class, n_figure] */
    double *scale; /* [n_figure] 1 / spread */
};
/* x [n, n_figure], class [n]: what the adversary asked for himself, each class at least once. INPUT, MEMORY. */
int st_tell_learn(const double *x, const uint32_t *class, size_t n, size_t n_class, size_t n_figure,
                  struct st_tell *out, struct st_err *e) ST_MUST_CHECK;
/* The chance to name the class right: 0, or 1 over how many are equally near. */
double st_tell_right(const struct st_tell *t, const double *figures, uint32_t class);
void st_tell_free(struct st_tell *t);

#endif
