/* The one door between the trusted engine and an untrusted accelerator. Linear ops of a plan pass here: TRUSTED ones
 * are computed at once by the local kernels; UNTRUSTED ones go enter -> transport -> leave. Trusted and exposed rows
 * are different C types, and only this file and a protection's enter/leave turn one into the other.
 *
 * What the untrusted side sees: exposed rows, weight ids, shapes and times. Nothing else passes: biases are added on
 * the trusted side, after leave. Attention passes only where a plan places it UNTRUSTED and a protection takes it; then
 * its two products do, softmax and cache never. Asynchronous: st_boundary_submit() starts an exchange,
 * st_boundary_complete() waits for that one; several may be outstanding. st_boundary_linear() is one after the other,
 * and cuts its rows so that no exchange holds more than max_row of them or ST_EXCHANGE_BYTES. Limit: all ops of a group
 * have one place; a mixed group is refused (INTERNAL). */
#ifndef ST_ENGINE_BOUNDARY_H
#define ST_ENGINE_BOUNDARY_H

#include "model/plan.h"
#include "tensor/compute.h"

#define ST_MAX_GROUP 16                      /* ops of one exchange group */
#define ST_EXCHANGE_BYTES ((size_t)16 << 20) /* of outgoing rows in one exchange, unless one row alone is longer */

struct st_trusted {
    float *p; /* [n_row, width], plaintext activations; NULL when ids is not */
    uint32_t n_row, width;
    const uint32_t *ids; /* not NULL: row r is one at ids[r] < width and zero elsewhere (a fetch from the embedding) */
};
enum st_exposed_format { ST_EXPOSED_FIELD, ST_EXPOSED_F32 }; /* u32 residues mod q, or floats */
/* Rows on their way out [n_row, n_in], or a reply: for each op of the group [n_row, n_out], one behind the other. */
struct st_exposed {
    void *p;
    size_t len; /* bytes */
    enum st_exposed_format format;
};

/* What the untrusted side multiplies when both matrices come from here (attention): a b^T, a [n_a, n_inner] and
 * b [n_b, n_inner], one behind the other. n_inner 0: it is no such exchange. */
struct st_factors {
    const char *what; /* "attention_scores", "attention_values"; static */
    uint32_t n_a, n_b, n_inner;
};
#define ST_PAIR_ROWS 1024u  /* of each matrix, at most, before a protection adds to them */
#define ST_PAIR_INNER 1024u /* values of a row */

/* One group of linear ops on the same rows, or one EMBED: its matrix is then the transposed embedding, rows are ids,
 * and the output is the slot's width. The caller keeps it from submit to complete. */
struct st_exchange {
    const struct st_plan *plan;
    const struct st_plan_op *ops; /* n_op consecutive records of one group */
    int n_op;
    uint32_t n_row;
    uint64_t id; /* unique per boundary, set by st_boundary_submit() */
    /* Of st_boundary_pair(): ops is the one ATTEND, n_row counts both matrices. The shape is what leaves. */
    struct st_factors pair;
};

/* Supplied by a protection. enter and leave return 0 or an error that ends the step (INTEGRITY problems are VERIFY). */
struct st_protection_hooks {
    /* out is the protection's and must stay until leave or drop of the same exchange. */
    int (*enter)(void *ctx, const struct st_exchange *x, const struct st_trusted *in, struct st_exposed *out,
                 struct st_err *e);
    /* The rows are on their way: what leave will need and can be had without the reply. NULL = nothing. */
    void (*meanwhile)(void *ctx, const struct st_exchange *x);
    /* outs[i] [n_row, n_out_i] = in W_i^T without bias; the memory is the caller's. */
    int (*leave)(void *ctx, const struct st_exchange *x, const struct st_exposed *reply,
                 struct st_trusted *outs /* [n_op] */, struct st_err *e);
    /* True: run this group here, with the weights of this side, as if it were TRUSTED. NULL = never. */
    bool (*keep)(void *ctx, const struct st_plan *plan, const struct st_plan_op *ops, int n_op, uint32_t n_row);
    /* Instead of leave when the exchange failed after enter: forget its secrets. NULL when there are none. */
    void (*drop)(void *ctx, const struct st_exchange *x);
    /* Products of two matrices of this side's, one outstanding at a time: enter_pair gets the shape of a and b in
     * x->pair and sets it to that of what leaves; out [n_a][n_b] of leave_pair has the former. drop ends one, too. Both
     * NULL: such products do not leave. */
    int (*enter_pair)(void *ctx, struct st_exchange *x, const float *a, const float *b, struct st_exposed *rows,
                      struct st_err *e);
    int (*leave_pair)(void *ctx, const struct st_exchange *x, const struct st_exposed *reply, float *out,
                      struct st_err *e);
    void *ctx;
};

/* Supplied by a service: moves exposed bytes. reply is owned by the transport until its next complete. After an error
 * the transport has forgotten the exchange. */
struct st_transport {
    int (*submit)(void *ctx, const struct st_exchange *x, const struct st_exposed *rows, struct st_err *e);
    int (*complete)(void *ctx, const struct st_exchange *x, struct st_exposed *reply, struct st_err *e);
    void *ctx;
};

struct st_boundary {
    const struct st_protection_hooks *hooks; /* both NULL: only TRUSTED ops can run */
    const struct st_transport *transport;
    uint32_t max_row; /* of one exchange; 0 = no limit but ST_EXCHANGE_BYTES */
    uint64_t next_id;
    uint64_t n_exchange; /* completed without error */
};

/* Rows of `width` values that one exchange takes, at least one. */
uint32_t st_boundary_rows(const struct st_boundary *b, uint32_t width);

/* POLICY, naming the weight: an UNTRUSTED op and no protection is attached; a layer of an expert leaves although only
 * the rows that take the expert would be in it, which tells the routing. */
int st_boundary_check(const struct st_boundary *b, const struct st_plan *plan, struct st_err *e) ST_MUST_CHECK;

/* Errors of the transport name the group's first weight; those that blame the worker's words are IO.
 * Sends the rows of one UNTRUSTED group on their way. x->plan, ops and n_op are the caller's; in [n_row, n_in]. */
int st_boundary_submit(struct st_boundary *b, struct st_exchange *x, const struct st_trusted *in,
                       struct st_err *e) ST_MUST_CHECK;
/* Waits for the reply and fills outs [n_op] of [n_row, n_out_i], biases included. */
int st_boundary_complete(struct st_boundary *b, const struct st_exchange *x, const struct st_mat *mats,
                         struct st_trusted *outs, struct st_err *e) ST_MUST_CHECK;

/* out [n_a, n_b] = a b^T of an UNTRUSTED attention op, by the protection's enter_pair and leave_pair. The shape is
 * within ST_PAIR_ROWS and ST_PAIR_INNER. Errors name the layer. */
int st_boundary_pair(struct st_boundary *b, const struct st_plan *plan, const struct st_plan_op *op,
                     const struct st_factors *shape, const float *a_rows, const float *b_rows, float *out,
                     struct st_err *e) ST_MUST_CHECK;

/* Runs one exchange group, or one EMBED: mats are the model's, indexed as plan->weights. in [n_row, n_in], of an EMBED
 * ids; outs[i] [n_row, n_out_i]. POLICY when an op is UNTRUSTED and no protection is attached: never a silent local
 * run. INTERNAL when the protection keeps a group whose weights are not here. */
int st_boundary_linear(struct st_boundary *b, struct st_compute *c, const struct st_plan *plan,
                       const struct st_plan_op *ops, int n_op, const struct st_mat *mats, const struct st_trusted *in,
                       struct st_trusted *outs, struct st_err *e) ST_MUST_CHECK;

#endif
