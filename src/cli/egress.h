/* What left this machine, on standard error: a transport that stands before another one and prints a sample of the
 * first rows of every step, and how much went with it. Rows are masked when they come here. */
#ifndef ST_CLI_EGRESS_H
#define ST_CLI_EGRESS_H

#include "engine/boundary.h"

struct st_egress {
    struct st_transport outer; /* for the boundary */
    const struct st_transport *inner;
    const struct st_plan_op *first; /* of the first exchange ever: where a step begins */
    uint64_t n_exchange, n_bytes;   /* since the last head */
};

/* inner is borrowed as long as e is used. */
void st_egress_init(struct st_egress *e, const struct st_transport *inner);

#endif
