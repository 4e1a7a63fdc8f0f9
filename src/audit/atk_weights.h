/* Which vectors of weights somebody holds, on plain arrays. */
#ifndef ST_AUDIT_ATK_WEIGHTS_H
#define ST_AUDIT_ATK_WEIGHTS_H

#include <stddef.h>
#include <stdint.h>

#define ST_WEIGHTS_ERROR 0.01 /* relative error up to which a vector counts as recovered */

/* Adds to *hits the rows of got [n_row][n_col] that are those of want, and to *n all rows of want that are not zero. */
void st_weights_count(const float *got, const float *want, size_t n_row, size_t n_col, uint64_t *hits, uint64_t *n);

#endif
