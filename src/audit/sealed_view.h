/* What whoever has a sealed file reads in it without a key: weights that lie outside, and the ciphertext of the others
 * as if its bytes were values. */
#ifndef ST_AUDIT_SEALED_VIEW_H
#define ST_AUDIT_SEALED_VIEW_H

#include "audit/target.h"
#include "model/container.h"

/* The `count` values of an entry as they are stored, nothing verified; what is no finite number is 0. UNSUPPORTED: no
 * dtype of a matrix; INPUT: another number of values. */
int st_sealed_values(const struct st_container *c, const struct st_container_entry *n, size_t count, float *out,
                     struct st_err *e) ST_MUST_CHECK;

/* The entry of a weight of the base, of the same number of values; NULL when it shares another's. INPUT names it. */
int st_sealed_entry(const struct st_target *t, const struct st_plan_weight *w, const struct st_container_entry **out,
                    struct st_err *e) ST_MUST_CHECK;

#endif
