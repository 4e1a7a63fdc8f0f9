/* Homophones in a checkpoint: further cipher ids of frequent tokens, whose embedding rows are that of the token under
 * other noise, and whose head rows are one row that is never said. Source: ours. */
#ifndef ST_AUDIT_HOMOPHONES_H
#define ST_AUDIT_HOMOPHONES_H

#include "audit/dense.h"

#define ST_HOMOPHONES_MAX 16384 /* ids: all distances of head rows are held */

/* copy [head.n_row]: the n_copy rows of the head that lie closest together (the cluster of that size around the row
 * whose farthest member is nearest); how many homophones there are shows in the size of the vocabulary. Rows are not
 * changed. UNSUPPORTED: too many. */
int st_homophones_find(struct st_pool *pool, const struct st_dense *head, size_t n_copy, bool *copy,
                       struct st_err *e) ST_MUST_CHECK;
/* original [rows.n_row]: of each copy the nearest row that is none; of others itself. */
int st_homophones_link(struct st_pool *pool, const struct st_dense *rows, const bool *copy, uint32_t *original,
                       struct st_err *e) ST_MUST_CHECK;

#endif
