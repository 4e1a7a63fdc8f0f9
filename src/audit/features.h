/* Features of a row that keys of a layer leave alone, computed row by row from a view: what the attacks on gates and on
 * rotary pairs compare. */
#ifndef ST_AUDIT_FEATURES_H
#define ST_AUDIT_FEATURES_H

#include "audit/fingerprint.h"

/* Mean over a layer's columns of the values of each row, and with `squares` of their squares as well: the order of the
 * columns drops out. out [n][n_layer or 2 n_layer]. The view is normalised already. */
int st_neuron_means(struct st_pool *pool, const struct st_view *v, const struct st_dense *rows, bool squares,
                    struct st_dense *out, struct st_err *e) ST_MUST_CHECK;

/* Rotary pairs of heads of `head` columns: columns (j, j + head / 2) of a head, or (2j, 2j + 1) when interleaved. The
 * leverage q (Q^T Q)^-1 q^T of a row q [2] of such a pair Q [n][2] stays under any invertible 2 x 2 map of the pair, so
 * under rotations and scales. out [n][n_column / 2]: log(leverage * n / 2 + a little), head by head. UNSUPPORTED: no
 * whole heads, or odd ones. */
int st_pair_leverages(struct st_pool *pool, const struct st_dense *rows, const struct st_dense *columns, uint32_t head,
                      bool interleaved, struct st_dense *out, struct st_err *e) ST_MUST_CHECK;

/* out = rows + noise: deviates of `deviation` from the table, by draw. */
int st_noisy_rows(const struct st_dense *rows, const struct st_noise_table *t, double deviation, uint64_t draw,
                  struct st_dense *out, struct st_err *e) ST_MUST_CHECK;

#endif
