/* Short-lived memory for secrets while pads are made: left out of core dumps, emptied in a forked child, locked when
 * the limit allows it (the pool of pads refuses to run where it does not and the system swaps), wiped when it is freed.
 */
#ifndef ST_PROTECT_MASKED_SCRATCH_H
#define ST_PROTECT_MASKED_SCRATCH_H

#include "base/mem.h"

int st_scratch_new(struct st_area *a, size_t len, struct st_err *e) ST_MUST_CHECK;
void st_scratch_free(struct st_area *a);

#endif
