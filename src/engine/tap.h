/* A recorder of what flows through a plan: called on the engine's thread after every op. Nothing is recorded, and
 * nothing costs time, when none is set. It sees plaintext activations of the side it runs on; where they go is the
 * recorder's business. */
#ifndef ST_ENGINE_TAP_H
#define ST_ENGINE_TAP_H

#include "model/plan.h"

struct st_tap {
    /* in [n_row, width of op->in] and out [n_row, width of op->out] after the op (in place: in is out); in is NULL for
     * EMBED, GATHER and SCATTER. Valid for the call. Linear ops of a group are reported one by one, after the last one
     * has run; experts that no row wants are not reported. */
    void (*fn)(void *ctx, const struct st_plan_op *op, const float *in, const float *out, uint32_t n_row);
    void *ctx;
};

#endif
