/* Row sort: sorting a row of a product throws away which column a value stood in, which is what the keys of columns
 * hide, and leaves a mark of the row. Source: Lin et al., EMNLP 2024, pp. 2100-2104; arXiv 2505.18332. */
#ifndef ST_AUDIT_SORTED_H
#define ST_AUDIT_SORTED_H

#include "audit/views.h"

#define ST_SORTED_PLACES 192 /* values kept of a sorted row at most, evenly by rank */

/* out [rows.n_row][min(n_column, ST_SORTED_PLACES)]: sorted values of every row of rows * columns^T, or of their
 * absolute values. One block of rows is held at a time. */
int st_sorted_rows(struct st_pool *pool, const struct st_dense *rows, const struct st_dense *columns, bool absolute,
                   struct st_dense *out, struct st_err *e) ST_MUST_CHECK;
/* Root of the summed variance of columns: what points are divided by before families of them are put together. */
double st_sorted_spread(const struct st_dense *points);

#endif
