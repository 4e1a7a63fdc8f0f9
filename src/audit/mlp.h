/* A small network that turns rows of one kind into rows of another: out = A x + C relu(B x + b). Trained towards the
 * right rows of a table by least squares, by Adam with decoupled weight decay. Cross-entropy
 * over the table's rows was tried: with pairs for a quarter of them it learns which rows are never right, and little
 * else. One thread: the sums, and so the result, depend on the seed alone. */
#ifndef ST_AUDIT_MLP_H
#define ST_AUDIT_MLP_H

#include "audit/blocks.h"
#include "audit/dense.h"

#include <signal.h>

struct st_mlp {
    uint32_t n_in, n_hidden, n_out;
    float *w; /* A [n_out][n_in], B [n_hidden][n_in], b [n_hidden], C [n_out][n_hidden] */
    float *grad;
    struct st_adam adam;
    size_t n;
};
/* Starts with A = 0 and random B and C. */
int st_mlp_new(struct st_mlp *m, uint32_t n_in, uint32_t n_hidden, uint32_t n_out, uint64_t seed,
               struct st_err *e) ST_MUST_CHECK;
void st_mlp_free(struct st_mlp *m);

struct st_mlp_lesson {
    const struct st_dense *rows, *table; /* [..][n_in]; [..][n_out] */
    const uint32_t *row, *label;         /* [n] row and which row of the table it is */
    size_t n;
    double noise;           /* deviation of what is added to each value of a row, anew each time */
    uint32_t n_step, batch; /* batch: 0 = 128 */
    double rate;            /* falls to 0; 0 = 3e-3 */
    uint64_t seed;
    const volatile sig_atomic_t *cancel; /* may be NULL */
};
/* INPUT: nothing to learn from; IO: cancelled; MEMORY. */
int st_mlp_train(struct st_mlp *m, const struct st_mlp_lesson *l, struct st_err *e) ST_MUST_CHECK;
/* out [rows.n_row][n_out] is the caller's. */
int st_mlp_apply(const struct st_mlp *m, const struct st_dense *rows, struct st_dense *out,
                 struct st_err *e) ST_MUST_CHECK;

#endif
