/* The one door between the trusted engine and an untrusted accelerator. Linear ops of a plan pass here: TRUSTED ones are
 * computed at once by the local kernels; UNTRUSTED ones go enter -> transport -> leave. Trusted and exposed rows are
 * different C types, and only this file and a protection's enter/leave turn one into the other.
 *
 * What the untrusted side sees: exposed rows, weight ids, shapes and times. Nothing else passes.
 * Asynchronous: submit() starts an exchange, complete() waits for that one; several may be outstanding. */
#ifndef ST_ENGINE_BOUNDARY_H
#define ST_ENGINE_BOUNDARY_H

#include "model/plan.h"
#include "tensor/compute.h"

struct st_trusted {
    float *p; /* [n_row, width], plaintext activations */
    uint32_t n_row, width;
};
struct st_exposed {
    void *p; /* as the protection and the transport agree: masked rows */
    size_t len;
};

/* One group of linear ops on the same rows. */
struct st_exchange {
    const struct st_plan *plan;
    const struct st_plan_op *ops; /* n_op consecutive records of one group */
    int n_op;
    uint64_t id; /* unique per boundary */
};

/* Supplied by a protection. Both return 0 or an error that ends the step (INTEGRITY problems are VERIFY). */
struct st_protection_hooks {
    int (*enter)(void *ctx, const struct st_exchange *x, const struct st_trusted *in, struct st_exposed *out,
                 struct st_err *e);
    int (*leave)(void *ctx, const struct st_exchange *x, const struct st_exposed *reply, struct st_trusted *outs /* [n_op] */,
                 struct st_err *e);
    void *ctx;
};

/* Supplied by a service: moves exposed bytes. reply is owned by the transport until the next complete of the same id. */
struct st_transport {
    int (*submit)(void *ctx, const struct st_exchange *x, const struct st_exposed *rows, struct st_err *e);
    int (*complete)(void *ctx, const struct st_exchange *x, struct st_exposed *reply, struct st_err *e);
    void *ctx;
};

struct st_boundary {
    const struct st_protection_hooks *hooks; /* both NULL: only TRUSTED ops can run */
    const struct st_transport *transport;
    uint64_t next_id;
};

/* Runs one exchange group: mats and biases are those of the ops. in [n_row, n_in]; outs[i] [n_row, n_out_i].
 * POLICY when an op is UNTRUSTED and no protection is attached: never a silent local run. */
int st_boundary_linear(struct st_boundary *b, struct st_compute *c, const struct st_plan *plan, const struct st_plan_op *ops,
                       int n_op, const struct st_mat *mats, const struct st_trusted *in, struct st_trusted *outs,
                       struct st_err *e) ST_MUST_CHECK;

#endif
