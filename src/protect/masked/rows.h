/* Rows of activations to residues and back, with the bound that no sum can wrap.
 *
 *   X = round(alpha x),  y_j = centre(sum) scale_j / alpha,
 *   alpha = (q/2 / max_j ||W_j||_2 - slack - sqrt(d)/2) / ||x||_2
 *
 * |sum_j| <= (||X||_2 + slack) ||W_j||_2 <= q/2 by Cauchy and Schwarz, for every row and every column, also adversarial
 * ones: sqrt(d)/2 is the rounding, slack what a scheme's error takes. alpha never leaves the trusted side. */
#ifndef ST_PROTECT_MASKED_ROWS_H
#define ST_PROTECT_MASKED_ROWS_H

#include "base/err.h"

#include <stdint.h>

/* x NULL: of a one-hot row. VERIFY when the row holds a value that is not finite;
 * UNSUPPORTED when the bound leaves less than 2^8 steps (a matrix too large for the field). The caller puts layer and
 * site before the message. */
int st_rows_alpha(const float *x, uint32_t d, double norm, double slack, float *alpha, struct st_err *e) ST_MUST_CHECK;

#endif
