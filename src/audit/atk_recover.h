/* A sealed matrix, or a LoRA adapter beside a public one, from inputs and outputs of its layer: least squares. Shapes
 * are the caller's to get right. */
#ifndef ST_AUDIT_ATK_RECOVER_H
#define ST_AUDIT_ATK_RECOVER_H

#include "base/err.h"

#include <stddef.h>

/* The pseudo-inverse [d][n] of inputs x [n][d]. MEMORY; INPUT: values that are not finite. */
int st_recover_inverse(const double *x, size_t n, size_t d, double *inverse, struct st_err *e) ST_MUST_CHECK;
/* The smallest matrix out [d_out][d] that is nearest to y = x out^T; y [n][d_out]: outputs, or of an adapter what is
 * left of them when those of the public matrix are taken away. Exact when x has rank d. */
void st_recover(const double *inverse, const double *y, size_t n, size_t d, size_t d_out, double *out);
/* The nearest matrix of that rank, in place. MEMORY, INPUT. */
int st_recover_truncate(double *m, size_t d_out, size_t d, size_t rank, struct st_err *e) ST_MUST_CHECK;
/* Of each row the cosine with the true one: cosines [n_row]. */
void st_recover_cosines(const double *got, const double *want, size_t n_row, size_t n_col, double *cosines);

#endif
