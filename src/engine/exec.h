/* Executes a plan for one step of rows: the body (embedding and layers) for all rows of the step, then the tail (final
 * norm and head, the ops marked last_row_only) for the rows whose logits are wanted, a chunk at a time, so that the
 * logits of a large vocabulary never need memory for the whole step.
 *
 * Owns the activations: one area per slot, [max_row, width], touched only as far as rows come in. Nothing is allocated
 * after st_exec_new(). Errors come from the boundary and the store only; after one, the executor is ready for the next
 * step. */
#ifndef ST_ENGINE_EXEC_H
#define ST_ENGINE_EXEC_H

#include "engine/boundary.h"
#include "engine/kv.h"
#include "engine/tap.h"
#include "model/model.h"
#include "model/weights.h"

struct st_exec;

struct st_exec_opts {
    int n_threads;
    const char *isa;
    uint32_t max_row;
    bool deterministic;
    const struct st_tap *tap;     /* NULL = none; kept */
    const struct st_store *store; /* has the matrices without data; NULL = there are none; kept */
    bool secret, allow_unlocked;  /* st_compute_opts */
};

/* Rows of one tail call: as many as keep the logits near 16 MiB, at least 8, at most max_row. */
uint32_t st_exec_tail_rows(const struct st_config *c, uint32_t max_row);
/* Bytes of all activations. */
size_t st_exec_bytes(const struct st_model *m, uint32_t max_row);

/* m, kv and b are kept until st_exec_free, not owned. INTERNAL, naming the op, when the plan is not one that can be
 * run. */
int st_exec_new(const struct st_model *m, const struct st_kv *kv, struct st_boundary *b, const struct st_exec_opts *o,
                struct st_exec **out, struct st_err *e) ST_MUST_CHECK;
void st_exec_free(struct st_exec *x);
const struct st_compute *st_exec_compute(const struct st_exec *x);

struct st_exec_step {
    const uint32_t *ids, *pos; /* [n_row] */
    uint32_t n_row;
    const struct st_attn_seq *seqs; /* [n_seq], which rows belong together; they cover all rows */
    uint32_t n_seq;
    /* [n_adapter + 2] rows of adapter a, 0 = none, are [adapter_row[a], adapter_row[a + 1]); NULL without adapters.
     * Kept until the step's tail has run. */
    const uint32_t *adapter_row;
};
int st_exec_body(struct st_exec *x, const struct st_exec_step *step, struct st_err *e) ST_MUST_CHECK;
/* Logits [n, n_vocab] of `rows` [n], ascending, of the last body, n <= st_exec_tail_rows(). They may be overwritten by
 * the caller. */
int st_exec_tail(struct st_exec *x, const uint32_t *rows, uint32_t n, float **logits, struct st_err *e) ST_MUST_CHECK;

#endif
