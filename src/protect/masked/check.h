/* The integrity check of every exchange group (field/freivalds.h), made here from the weights: one pass over them for
 * each secret vector, on all threads; or by an attested preparer, who then sees the secret. One secret serves all
 * groups; after a reject it is drawn anew before the next exchange. */
#ifndef ST_PROTECT_MASKED_CHECK_H
#define ST_PROTECT_MASKED_CHECK_H

#include "protect/masked/groups.h"

struct st_mask_checks {
    struct st_freivalds_secret secret;
    struct st_freivalds *of; /* [n] as groups; they point to secret: the struct stays where it is */
    int n;
};

/* preparer NULL: the groups' weights must be on this side. MEMORY; errors of the preparer. */
int st_mask_checks_init(struct st_mask_checks *c, const struct st_mask_groups *g, const struct st_preparer *preparer,
                        struct st_pool *pool, bool progress, struct st_err *e) ST_MUST_CHECK;
void st_mask_checks_wipe(struct st_mask_checks *c);

#endif
