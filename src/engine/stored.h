/* Linear layers and embeddings of the trusted side whose matrices are not in memory as a whole (model/weights.h):
 * blocks of rows are taken from the store, computed with, and given back. The results are those of the whole matrix to
 * the bit. Matrices of a group that are in memory take part as they are. Errors are the store's. */
#ifndef ST_ENGINE_STORED_H
#define ST_ENGINE_STORED_H

#include "engine/boundary.h"
#include "model/weights.h"

/* One group of linear ops, all TRUSTED: in [n_row, n_in], outs[i] [n_row, n_out_i], biases included. */
int st_stored_linear(const struct st_store *s, struct st_compute *c, const struct st_plan_op *ops, int n_op,
                     const struct st_mat *mats, const struct st_trusted *in, struct st_trusted *outs,
                     struct st_err *e) ST_MUST_CHECK;
/* in->ids [n_row]; every block is taken once. */
int st_stored_embed(const struct st_store *s, struct st_compute *c, const struct st_plan_op *op,
                    const struct st_trusted *in, struct st_trusted *out, struct st_err *e) ST_MUST_CHECK;

#endif
