/* Where an exchange of n rows is cheaper: here, with this side's weights, or masked through the worker. Measured once,
 * when the masks are set up and before pads are made in the background, on the largest group of a layer:
 *   here:      its products for n rows, by as many threads as the engine has;
 *   elsewhere: n pads, shared among the threads that make them, and one exchange of n rows with the worker, which is
 *              sent random residues (exchanges numbered from 2^62, as all that belong to no text).
 * What masks and checks cost beside that is left out: less than a hundredth. So the choice is one number of rows for
 * the life of the process, and the same request is computed in the same places every time. One row always leaves: its
 * pads are made while nobody waits. The worker can push the number down or up by answering slowly; it sees the rows
 * that it gets either way. */
#ifndef ST_PROTECT_MASKED_PLANNER_H
#define ST_PROTECT_MASKED_PLANNER_H

#include "model/model.h"
#include "protect/masked/groups.h"

#define ST_MASK_COSTS 6 /* 1, 2, 4 .. 32 rows */

struct st_mask_costs {
    int group; /* that was measured */
    int n;     /* numbers of rows that were measured: 2^0 .. 2^(n-1) */
    double here_s[ST_MASK_COSTS], pads_s[ST_MASK_COSTS], exchange_s[ST_MASK_COSTS];
};

struct st_mask_costs_opts {
    const struct st_model *model;
    const struct st_mask_groups *groups; /* with their weights here */
    const struct st_scheme *scheme;      /* of domain FIELD */
    void *state;
    const struct st_transport *transport;
    int n_threads, n_pad_threads;
    uint32_t max_row; /* of one exchange */
};

/* IO and other errors of the transport, MEMORY. */
int st_mask_costs_measure(const struct st_mask_costs_opts *o, struct st_mask_costs *out,
                          struct st_err *e) ST_MUST_CHECK;
/* The fewest rows, at least 2, from which on here is cheaper for all numbers that were measured; UINT32_MAX = none. */
uint32_t st_mask_costs_keep(const struct st_mask_costs *c);

#endif
